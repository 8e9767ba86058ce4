//! Passes against the simulated broker: however many producers want one at once, one is issued; and its file is for its owner only.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on fails its test")]

use marketflow_access::Passes;
use marketflow_providers::{PassKind, by_id};
use marketflow_testkit::TestStack;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A producer's own way to its pass: nothing but folder and broker is shared with the others, as between processes.
fn producer(url: &str, folder: &Path) -> Passes {
    customer_of("kis", url, folder)
}

fn customer_of(broker: &str, url: &str, folder: &Path) -> Passes {
    let keys = folder.join("keys.env");
    std::fs::write(&keys, "KIS_APP_KEY=key\nKIS_APP_SECRET=secret\nKIWOOM_APP_KEY=key\nKIWOOM_SECRET_KEY=secret\n").unwrap();
    Passes::new(by_id(broker).unwrap(), url, folder, &keys).unwrap().unwrap()
}

async fn requests(admin: &str) -> Vec<String> {
    let metrics = reqwest::get(format!("{admin}/metrics")).await.unwrap().text().await.unwrap();
    metrics.lines().filter(|line| line.starts_with("marketflow_simulator_requests_total{")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_producers_started_at_once_issue_one_token_and_one_key() {
    let mut stack = TestStack::start_with(&[]).await.unwrap();
    let tapes = r#"[{kind="krx-day",date="2026-11-20",symbols=1,trades=100}]"#;
    stack.start_service("simulator", &[("tapes", tapes), ("start.automatic", "false")]).await.unwrap();
    let ports = &stack.parts.config().ports;
    let (url, admin) =
        (format!("http://127.0.0.1:{}/kis", ports.simulator), format!("http://127.0.0.1:{}", ports.simulator_admin));
    let folder = stack.parts.config().home.clone();

    for (kind, so_far) in [(PassKind::AccessToken, 1), (PassKind::SocketKey, 2)] {
        let asking: Vec<_> = (0..5)
            .map(|_| {
                let passes = producer(&url, &folder);
                tokio::spawn(async move { passes.get(kind).await.unwrap().expose().to_owned() })
            })
            .collect();
        let mut got = Vec::new();
        for asked in asking {
            got.push(asked.await.unwrap());
        }
        got.dedup();
        assert_eq!(got.len(), 1, "all five have the same");
        assert_eq!(
            requests(&admin).await,
            [format!(r#"marketflow_simulator_requests_total{{status="200",venue="krx"}} {so_far}"#)]
        );
    }
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap()).collect();
    let kept: Vec<_> = files.iter().filter(|file| file.file_name().to_string_lossy().starts_with("kis-")).collect();
    assert_eq!(kept.len(), 4, "a file and a lock for each");
    assert!(kept.iter().all(|file| file.metadata().unwrap().permissions().mode() & 0o777 == 0o600));

    // A pass the broker no longer takes is asked for anew, but by one only, and not for those who have a newer one already.
    let passes = producer(&url, &folder);
    let old = passes.get(PassKind::SocketKey).await.unwrap();
    passes.refused(PassKind::SocketKey, &old).await.unwrap();
    passes.refused(PassKind::AccessToken, &old).await.unwrap();
    assert!(!passes.get(PassKind::AccessToken).await.unwrap().expose().is_empty(), "another's refusal leaves it alone");

    // A broker that is not there was not asked: nobody waits a minute for the next attempt.
    let closed = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let lonely = folder.join("lonely");
    std::fs::create_dir(&lonely).unwrap();
    assert!(producer(&format!("http://{closed}"), &lonely).get(PassKind::SocketKey).await.is_err());
    let files = std::fs::read_dir(&lonely).unwrap().map(|entry| entry.unwrap().path());
    let kept: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect();
    let [kept] = &kept[..] else { panic!("{kept:?}") };
    let kept = std::fs::read_to_string(kept).unwrap();
    assert!(kept.contains(r#""asked_at":0"#), "{kept}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_kiwoom_token_serves_all_and_is_no_longer_good_once_given_back() {
    let mut stack = TestStack::start_with(&[]).await.unwrap();
    let tapes = r#"[{kind="krx-day",date="2026-11-20",symbols=1,trades=100}]"#;
    stack.start_service("simulator", &[("tapes", tapes), ("start.automatic", "false")]).await.unwrap();
    let ports = &stack.parts.config().ports;
    let (url, admin) =
        (format!("http://127.0.0.1:{}/kiwoom", ports.simulator), format!("http://127.0.0.1:{}", ports.simulator_admin));
    let folder = stack.parts.config().home.clone();
    let asking: Vec<_> = (0..5)
        .map(|_| {
            let passes = customer_of("kiwoom", &url, &folder);
            tokio::spawn(async move { passes.get(passes.for_socket()).await.unwrap().expose().to_owned() })
        })
        .collect();
    let mut got = Vec::new();
    for asked in asking {
        got.push(asked.await.unwrap());
    }
    let passes = customer_of("kiwoom", &url, &folder);
    got.push(passes.get(PassKind::AccessToken).await.unwrap().expose().to_owned());
    got.dedup();
    assert_eq!(got.len(), 1, "requests and sockets have the same");
    assert_eq!(requests(&admin).await, [r#"marketflow_simulator_requests_total{status="200",venue="kiwoom"} 1"#]);

    let list = async || {
        let call = reqwest::Client::new().post(format!("{url}/api/dostk/stkinfo")).header("api-id", "ka10099");
        let call = call.header("authorization", format!("Bearer {}", got[0])).body(r#"{"mrkt_tp":"0"}"#);
        call.send().await.unwrap().text().await.unwrap()
    };
    assert!(list().await.contains("000010"));
    passes.revoke(PassKind::AccessToken).await.unwrap();
    assert!(list().await.contains("[8005:"));
    let kept = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let kept = kept
        .filter(|path| path.to_string_lossy().contains("kiwoom-access-token") && path.extension().is_some_and(|e| e == "json"));
    assert!(kept.map(|path| std::fs::read_to_string(path).unwrap()).all(|text| !text.contains(&got[0])), "it is forgotten");
    passes.revoke(PassKind::AccessToken).await.unwrap();
    stack.stop().await;
}
