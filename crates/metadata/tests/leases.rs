//! Leases in SQLite and in a real Postgres: one works, one waits; what ends or falls silent is taken over, and who lost it knows.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use marketflow_metadata::{MetadataConfig, Store};
use marketflow_runtime::{Exit, Secret, Stop};
use marketflow_testkit::{FaultProxy, Faults, Postgres};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const NAME: &str = "kis-candles-live-0123456789abcdef";
const ANOTHER: &str = "kiwoom-ticks-0123456789abcdef";

fn config(url: &str, lease: Duration) -> MetadataConfig {
    MetadataConfig { url: Secret::new(url), lease }
}

async fn store(url: &str, folder: &Path) -> Store {
    Store::open(&config(url, Duration::from_secs(30)), folder).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_file_of_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("a place of 100 %");
    std::fs::create_dir(&home).unwrap();
    one_works_and_the_next_takes_over("", &home).await;
    let file = home.join("metadata.db");
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);

    // While another process writes without an end, the lease cannot be renewed.
    let stop = Stop::new();
    let held = Store::open(&config("", Duration::from_secs(1)), &home)
        .await
        .unwrap()
        .lease([NAME.to_owned()], &stop)
        .await
        .unwrap()
        .unwrap();
    let python = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN EXCLUSIVE'); print(); sys.stdin.read()";
    let mut writer = std::process::Command::new("python3")
        .args(["-c", python, file.to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    tokio::time::timeout(PATIENCE, held.lost()).await.unwrap();
    writer.kill().unwrap();
    writer.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn in_postgres() {
    let postgres = Postgres::start().await.unwrap();
    let nowhere = Path::new("/nowhere");
    let url = |address: &str| format!("postgres://postgres:secret@{address}/postgres");
    one_works_and_the_next_takes_over(&url(&postgres.address()), nowhere).await;

    // A network that carries nothing: who holds the lease knows that it is lost, and its work ends; another takes over.
    let proxy = FaultProxy::start(&postgres.address()).await.unwrap();
    let cut_off = Store::open(&config(&url(&proxy.address().to_string()), Duration::from_secs(2)), nowhere).await.unwrap();
    let other = store(&url(&postgres.address()), nowhere).await;
    let stop = Stop::new();
    let held = cut_off.lease([NAME.to_owned()], &stop).await.unwrap().unwrap();
    let working = tokio::spawn(held.hold(async {
        std::future::pending::<()>().await;
        Ok(())
    }));
    proxy.set(Faults { black_hole: true, ..Faults::default() });
    let taken = tokio::time::timeout(PATIENCE, other.lease([NAME.to_owned()], &stop)).await.unwrap().unwrap().unwrap();
    // Asked only now: by then it had been told, or the other could not have taken it.
    assert!(working.is_finished(), "two work at once");
    let told = format!("{:#}", working.await.unwrap().unwrap_err());
    assert!(told.contains("lease of this key is lost"), "{told}");

    // Back again, the first one waits for the second.
    proxy.set(Faults::default());
    let waiting = tokio::spawn(async move { cut_off.lease([NAME.to_owned()], &Stop::new()).await.unwrap().is_some() });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    taken.release().await;
    assert!(tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap());

    drop(postgres);
    let gone = Store::open(&config(&url(&other_port()), Duration::from_secs(2)), nowhere).await.err().unwrap();
    assert_eq!(Exit::of(&gone), Exit::Unreachable);
    assert!(!format!("{gone:#}").contains("secret"), "{gone:#}");
}

async fn one_works_and_the_next_takes_over(url: &str, folder: &Path) {
    let (first, second, stop) = (store(url, folder).await, store(url, folder).await, Stop::new());
    let held = first.lease([NAME.to_owned()], &stop).await.unwrap().unwrap();
    let waiting = tokio::spawn({
        let (second, stop) = (second.clone(), stop.clone());
        async move { second.lease([NAME.to_owned()], &stop).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    assert_eq!(held.hold(async { Ok(5) }).await.unwrap(), 5);
    let taken = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();

    // Asked to end while it waits.
    let waiting = tokio::spawn({
        let (first, stop) = (first.clone(), stop.clone());
        async move { first.lease([NAME.to_owned()], &stop).await.unwrap().is_none() }
    });
    stop.request();
    assert!(tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap());
    drop(taken);
    let given_back = async {
        let stop = Stop::new();
        let both = || [NAME, ANOTHER].map(str::to_owned);
        let both_held = second.lease(both(), &stop).await.unwrap().unwrap();
        let waiting = tokio::spawn(async move { first.lease([ANOTHER.to_owned()], &stop).await.unwrap().is_some() });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        both_held.release().await;
        assert!(waiting.await.unwrap());
    };
    tokio::time::timeout(Duration::from_secs(20), given_back).await.unwrap();
}

/// Where nobody listens.
fn other_port() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
