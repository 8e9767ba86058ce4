//! `up`, `down`, `status`, `logs` and `doctor` as a person types them, against real Kafka, registry and ClickHouse.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which the lint's own exception does not reach")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Problems found, cause and cure by check.
type Problems = BTreeMap<String, (String, String)>;

#[test]
fn doctor_names_cause_and_cure_of_what_keeps_a_stack_from_starting() {
    let home = tempfile::tempdir().unwrap();
    let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = holder.local_addr().unwrap().port();
    std::fs::write(home.path().join("stack.toml"), format!("[ports]\nregistry = {port}\n[disk]\nfree_min = \"9999TB\"\n"))
        .unwrap();
    let data = home.path().join("clickhouse/chdb-20.1");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("uuid"), "x").unwrap();

    let output = marketflow(home.path()).args(["doctor", "--json"]).env("JAVA_HOME", "/nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let found = problems(&output);
    let expected = [
        ("java", "no Java 17", "make setup"),
        ("clickhouse engine", "written by chdb-20.1", "put chdb-20.1 back"),
        ("disk", "nearly full", "MARKETFLOW_HOME"),
        (&format!("port {port} (registry)"), &format!("pid {}", std::process::id()), "--registry-port"),
        ("stack", "no stack runs", "marketflow up"),
    ];
    for (check, cause, cure) in expected {
        let (found_cause, found_cure) = &found[check];
        assert!(found_cause.contains(cause) && found_cure.contains(cure), "{check}: {found_cause} / {found_cure}");
    }

    let korean = marketflow(home.path()).arg("doctor").env("LANG", "ko_KR.UTF-8").output().unwrap();
    let text = String::from_utf8(korean.stdout).unwrap();
    assert!(text.contains("디스크가 거의 찼습니다") && text.contains("해결: "), "{text}");

    // `up` refuses for the same reasons, in words, and leaves nothing running
    let refused = marketflow(home.path()).args(["up", "--services", "none"]).output().unwrap();
    let words = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(64), "{words}");
    assert!(words.contains(&port.to_string()) && words.contains("--registry-port"), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_goes_up_is_diagnosed_survives_kill_9_and_refuses_what_disagrees() {
    let home = tempfile::tempdir().unwrap();
    let _end = End(home.path());
    let up = ["up", "--services", "processor,sink", "--free-ports", "--json"];
    let state = json(&run(home.path(), &up));
    assert_eq!(state["phase"], "ready");
    let registry = state["addresses"]["registry"].as_str().unwrap();
    let http = reqwest::Client::new();
    let ids = schema_ids(&http, registry).await;
    assert!(ids.len() > 5, "{ids:?}");

    assert_eq!(doctor(home.path()), Problems::new());
    assert_eq!(run(home.path(), &["status"]).status.code(), Some(0));
    let logs = String::from_utf8(run(home.path(), &["logs", "kafka"]).stdout).unwrap();
    assert!(logs.contains("Kafka Server started"), "{logs}");

    let imported = import(home.path());
    assert_eq!((&imported["sent"], &imported["known_before"]), (&40.into(), &0.into()));
    let data = contents(home.path());
    assert_eq!(data.iter().map(|text| text.lines().count()).collect::<Vec<_>>(), [40, 21, 5, 3], "{data:#?}");

    let looks = String::from_utf8(run(home.path(), &["status", "--watch", "--count", "2", "--json"]).stdout).unwrap();
    let last: Value = serde_json::from_str(looks.lines().nth(1).unwrap()).unwrap();
    assert_eq!(
        (&last["processor"]["used"], &last["feed"], &last["not_ready"]),
        (&40.into(), &Value::Null, &serde_json::json!({}))
    );
    assert!(last["sink"]["rows"].as_u64() >= Some(40) && last["sink"]["rows_per_second"].is_number(), "{last:#}");
    let words = String::from_utf8(run(home.path(), &["status", "--watch", "--count", "1"]).stdout).unwrap();
    assert!(words.contains("used 40, late 0") && words.contains("does not run"), "{words}");

    for part in ["kafka", "registry", "clickhouse"] {
        let pid = pid_of(home.path(), part);
        signal(pid, "STOP");
        let found = doctor(home.path());
        signal(pid, "CONT");
        let (cause, cure) = &found[part];
        assert!(
            cause.contains(&format!("{part} is down")) && cure.contains(&format!("marketflow logs {part}")),
            "{cause} / {cure}"
        );
        eventually("it answers again", || doctor(home.path()).is_empty());
    }

    let supervisor = u32::try_from(status(home.path())["state"]["supervisor_pid"].as_u64().unwrap()).unwrap();
    let parts = ["kafka", "registry", "clickhouse", "processor", "sink"].map(|part| pid_of(home.path(), part));
    signal(supervisor, "KILL");
    eventually("the kernel ends what the supervisor started", || parts.iter().all(|&pid| !running(pid)));
    let state = json(&run(home.path(), &up));
    let registry = state["addresses"]["registry"].as_str().unwrap();
    assert_eq!(schema_ids(&http, registry).await, ids, "schema ids are the same after kill -9");
    assert_eq!(contents(home.path()), data, "trades and bars are the same after kill -9");
    let imported = import(home.path());
    assert_eq!(imported["known_before"], 40, "the log knows what it holds");
    assert_eq!(contents(home.path()), data);

    http.delete(format!("{registry}/subjects/market.bars.v1-value")).send().await.unwrap().error_for_status().unwrap();
    let (cause, _) = &doctor(home.path())["schemas"];
    assert!(cause.contains("market.bars.v1-value does not hold"), "{cause}");

    let clickhouse = state["addresses"]["clickhouse"].as_str().unwrap();
    let ask = async |sql: String| {
        http.post(clickhouse).body(sql).send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
    };
    let database = ask("SELECT database FROM system.tables WHERE name = 'schema_migrations'".to_owned()).await;
    ask(format!("INSERT INTO {}.schema_migrations (name, checksum) VALUES ('999_future.sql', 'x')", database.trim())).await;
    assert!(doctor(home.path())["schemas"].0.contains("999_future.sql was applied by a newer version"));
    assert_eq!(run(home.path(), &["down"]).status.code(), Some(0));
    let refused = run(home.path(), &up);
    let words = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{words}");
    assert!(words.contains("999_future.sql was applied by a newer version"), "{words}");
    assert_eq!(run(home.path(), &["status"]).status.code(), Some(69));

    assert_eq!(run(home.path(), &["down", "--purge"]).status.code(), Some(0));
    assert!(!home.path().join("kafka").exists());
}

/// Forty trades, half a minute apart.
fn import(home: &Path) -> Value {
    let file = home.join("trades.csv");
    let rows: Vec<String> = (0..40).map(|row| format!("{},{},1.5", 1_709_251_200 + 30 * row, 100 + row % 7)).collect();
    std::fs::write(&file, rows.join("\n")).unwrap();
    let file = file.to_str().unwrap();
    let columns = ["--time-column", "1", "--time-unit", "s", "--price-column", "2", "--size-column", "3"];
    let of = ["import", "trades", file, "--venue", "TEST", "--symbol", "KEPT", "--json"];
    json(&run(home, &[&of[..], &columns].concat()))
}

/// Every trade, then the bars of each interval with their header.
fn contents(home: &Path) -> Vec<String> {
    let text = |arguments: &[&str]| {
        let output = run(home, arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let trades = text(&["sql", "--format", "TabSeparated", "SELECT * EXCEPT receive_time FROM trades ORDER BY event_time"]);
    let bars = ["1m", "5m", "15m"]
        .map(|interval| text(&["bars", "--instrument", "TEST:KEPT", "--interval", interval, "--format", "csv"]));
    [vec![trades], bars.to_vec()].concat()
}

/// Ends the stack of a test that fails half way.
struct End<'a>(&'a Path);

impl Drop for End<'_> {
    fn drop(&mut self) {
        run(self.0, &["down"]);
    }
}

fn marketflow(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_marketflow"));
    command.env("MARKETFLOW_HOME", home).env("LANG", "C.UTF-8").env_remove("LC_ALL").env_remove("LC_MESSAGES");
    command
}

fn run(home: &Path, arguments: &[&str]) -> Output {
    marketflow(home).args(arguments).output().unwrap()
}

fn json(output: &Output) -> Value {
    let words = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {words}"))
}

fn status(home: &Path) -> Value {
    json(&run(home, &["status", "--json"]))
}

fn doctor(home: &Path) -> Problems {
    problems(&run(home, &["doctor", "--json"]))
}

fn problems(output: &Output) -> Problems {
    let checks = json(output);
    let bad = checks.as_array().unwrap().iter().filter(|check| check["ok"] == false);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    bad.map(|check| (text(&check["check"]), (text(&check["cause"]), text(&check["cure"])))).collect()
}

fn pid_of(home: &Path, part: &str) -> u32 {
    let state = status(home);
    let row = state["state"]["parts"].as_array().unwrap().iter().find(|row| row["name"] == part).unwrap();
    u32::try_from(row["pid"].as_u64().unwrap()).unwrap()
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap().success());
}

fn running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

async fn schema_ids(http: &reqwest::Client, registry: &str) -> BTreeMap<String, u64> {
    let get = async |path: String| http.get(format!("{registry}{path}")).send().await.unwrap().json::<Value>().await.unwrap();
    let mut ids = BTreeMap::new();
    for subject in get("/subjects".to_owned()).await.as_array().unwrap() {
        let subject = subject.as_str().unwrap();
        let latest = get(format!("/subjects/{subject}/versions/latest")).await;
        ids.insert(subject.to_owned(), latest["id"].as_u64().unwrap());
    }
    ids
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 180 s: {what}");
        sleep(Duration::from_millis(100));
    }
}
