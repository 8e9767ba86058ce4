//! The demo as a person runs it, and as nobody should: with its parts killed one after the other while it plays.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which the lint's own exception does not reach")]

use serde_json::Value;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// One demo at a time: two that start together would both find the same ports free.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// All that runs; the exchange itself is killed too.
const PARTS: [&str; 7] = ["processor", "sink", "tick-producer", "clickhouse", "registry", "simulator", "kafka"];
/// A loaded machine may need so long for what takes a minute.
const WITHIN: Duration = Duration::from_secs(600);

#[test]
fn parts_killed_while_the_demo_plays_change_nothing_in_its_statement() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let mut demo = start(folder.path(), &["--days", "3", "--speed", "4000", "--json"]);
    let home = folder.path().join("demo");
    for part in PARTS {
        // the simulator is started last but one; some seconds of playing lie between two kills
        eventually(&mut demo, || home.join("run/tick-producer.process.json").exists());
        sleep(Duration::from_secs(5));
        kill(&home, part);
    }
    let status = end(&mut demo);
    let text = fs::read_to_string(folder.path().join("out")).unwrap();
    assert_eq!(status.code(), Some(0), "{text}\n{}", fs::read_to_string(folder.path().join("err")).unwrap());
    let statement: Value = serde_json::from_str(&text).unwrap();
    let ledger = &statement["findings"]["ledger"];
    assert_eq!(statement["ok"], true, "{statement:#}");
    assert_eq!(statement["findings"]["adds_up"], true, "{statement:#}");
    assert_eq!(statement["findings"]["sent"]["trades"], statement["findings"]["trades_in_kafka"]["compared"], "{statement:#}");
    assert!(ledger["used"].as_u64() > Some(30_000), "{statement:#}");
    let restarts = statement["restarts"].as_object().unwrap();
    assert!(PARTS.iter().all(|part| restarts.contains_key(*part)), "not all were killed: {statement:#}");
}

#[test]
fn an_interrupted_demo_leaves_nothing_running() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let mut demo = start(folder.path(), &["--days", "1", "--speed", "60", "--json"]);
    let run = folder.path().join("demo/run");
    eventually(&mut demo, || run.join("tick-producer.process.json").exists());
    let parts = PARTS.map(|part| pid(&folder.path().join("demo"), part).unwrap());
    signal("-INT", u64::from(demo.id()));
    assert_eq!(end(&mut demo).code(), Some(130));
    let left: Vec<u64> = parts.into_iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect();
    assert!(left.is_empty(), "still running: {left:?}");
}

/// The day as the broker shows it: what the outage cost is told in gaps, what could be had equals the recomputation.
#[test]
fn the_korean_day_ends_with_its_gaps_told_and_its_closing_auction_in_a_bar() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let mut demo = start(folder.path(), &["--market", "krx", "--speed", "150", "--json"]);
    let status = end(&mut demo);
    let text = fs::read_to_string(folder.path().join("out")).unwrap();
    assert_eq!(status.code(), Some(0), "{text}\n{}", fs::read_to_string(folder.path().join("err")).unwrap());
    let statement: Value = serde_json::from_str(&text).unwrap();
    let findings = &statement["findings"];
    assert_eq!((&statement["ok"], &findings["adds_up"]), (&Value::Bool(true), &Value::Bool(true)), "{statement:#}");
    for (what, place) in [
        ("missing trades", "/holes/missing"),
        ("abandoned gaps", "/holes/abandoned"),
        ("bars that say gap", "/qualities/gap"),
        ("bars that say halted", "/qualities/halted"),
        ("bars that are complete", "/qualities/complete"),
    ] {
        assert!(findings.pointer(place).and_then(Value::as_u64) > Some(0), "no {what}: {statement:#}");
    }
    let closing = findings["closing"].as_array().unwrap();
    assert_eq!(closing.len(), 3, "{statement:#}");
}

/// The collector is killed on the way; what the sources hold stands in Kafka, ClickHouse and Parquet at the end, and in the picture.
#[test]
fn ten_years_of_six_markets_end_in_a_checked_statement_and_a_picture() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let mut demo = start(folder.path(), &["--market", "flows", "--json"]);
    let status = end(&mut demo);
    let text = fs::read_to_string(folder.path().join("out")).unwrap();
    assert_eq!(status.code(), Some(0), "{text}\n{}", fs::read_to_string(folder.path().join("err")).unwrap());
    let statement: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(statement["ok"], true, "{statement:#}");
    let number = |place: &str| statement.pointer(place).and_then(Value::as_u64).unwrap_or_default();
    let months = number("/months");
    // two of them tell quarters, the last of which ended in September
    assert_eq!(months, 17 * 120 + 2 * 119, "{statement:#}");
    assert!((1..months).contains(&number("/killed_at")), "it was not killed on the way: {statement:#}");
    for check in ["in_kafka", "in_clickhouse", "in_parquet"] {
        assert_eq!(number(&format!("/findings/{check}/compared")), number("/findings/values"), "{check}: {statement:#}");
    }
    assert!(number("/findings/missing") > 0 && number("/findings/flows/compared") > months, "{statement:#}");
    for market in ["stocks", "bonds", "forex", "crypto", "commodities", "real_estate"] {
        assert!(folder.path().join(format!("demo/data/{market}.parquet")).exists(), "{market}");
    }
    let picture = fs::read_to_string(statement["picture"].as_str().unwrap()).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("real estate"), "{picture}");
}

fn start(folder: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_marketflow"));
    command.arg("demo").args(arguments).env("MARKETFLOW_HOME", folder);
    command.stdout(File::create(folder.join("out")).unwrap()).stderr(File::create(folder.join("err")).unwrap());
    command.spawn().unwrap()
}

fn eventually(demo: &mut Child, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(demo.try_wait().unwrap().is_none(), "the demo ended early");
        assert!(begun.elapsed() < WITHIN, "not within {WITHIN:?}");
        sleep(Duration::from_millis(100));
    }
}

fn end(demo: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = demo.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > WITHIN {
            demo.kill().unwrap();
            panic!("the demo did not end within {WITHIN:?}");
        }
        sleep(Duration::from_millis(100));
    }
}

/// SIGKILL to a part; one that is just being started again is waited for.
fn kill(home: &Path, part: &str) {
    let begun = Instant::now();
    let pid = loop {
        match pid(home, part) {
            Some(pid) => break pid,
            None => assert!(begun.elapsed() < WITHIN, "{part} does not run"),
        }
        sleep(Duration::from_millis(100));
    };
    signal("-KILL", pid);
}

fn signal(name: &str, pid: u64) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success(), "cannot signal {pid}");
}

fn pid(home: &Path, part: &str) -> Option<u64> {
    let text = fs::read(home.join(format!("run/{part}.process.json"))).ok()?;
    serde_json::from_slice::<Value>(&text).ok()?["pid"].as_u64()
}
