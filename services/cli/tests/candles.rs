//! `marketflow plan`, `backfill` and `reconcile` against the simulated broker: bars built from a day's trades equal the broker's own candles,
//! but where our feed had a hole and says so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use anyhow::ensure;
use marketflow_testkit::{TestStack, eventually};
use serde_json::Value;
use std::process::{Command, Output};
use std::time::Duration;

/// A loaded machine may need so long for what takes a second.
const PATIENCE: Duration = Duration::from_secs(180);

struct Cli {
    home: String,
    kafka: String,
    registry: String,
    clickhouse: String,
    rest: String,
    clock: String,
}

impl Cli {
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let Output { status, stdout, stderr } = self.output(arguments, &self.rest);
        let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(!out.contains("the-secret") && !err.contains("the-secret"), "a secret was printed");
        assert!(status.success() || status.code() == Some(2), "{arguments:?} ended with {status}\n{out}\n{err}");
        (status.code(), out.into_owned())
    }

    /// Of the broker at `rest`; where it is empty the verb asks none.
    fn output(&self, arguments: &[&str], rest: &str) -> Output {
        let broker = ["--rest-url", rest, "--clock", &self.clock];
        Command::new(env!("CARGO_BIN_EXE_marketflow"))
            .args(arguments)
            .args(if rest.is_empty() { &[][..] } else { &broker[..] })
            .env("MARKETFLOW_HOME", &self.home)
            .env("MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS", &self.kafka)
            .env("MARKETFLOW__REGISTRY__URL", &self.registry)
            .env("MARKETFLOW__CLICKHOUSE__URL", &self.clickhouse)
            .env("KIS_APP_KEY", "the-key")
            .env("KIS_APP_SECRET", "the-secret")
            .env("KIWOOM_APP_KEY", "the-key")
            .env("KIWOOM_SECRET_KEY", "the-secret")
            .env("LANG", "C")
            .output()
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bars_of_a_day_of_trades_are_the_brokers_candles_but_where_a_hole_is_told() {
    let mut stack = TestStack::start().await.unwrap();
    stack.start_service("processor", &[]).await.unwrap();
    stack.start_service("sink", &[]).await.unwrap();
    let tapes = r#"[{kind="krx-day",date="2026-11-20",symbols=2,trades=4000}]"#;
    let faults = r#"[{kind="miss",at_trade=800,count=1}]"#;
    let limits = [("kis.issue_interval", "0s"), ("kis.calls_per_second", "100")];
    let settings = [("tapes", tapes), ("faults", faults), ("clock.speed", "600x"), ("kis.ping_every", "1h")];
    stack.start_service("simulator", &[&settings[..], &limits].concat()).await.unwrap();
    let (ports, addresses) = (stack.parts.config().ports, stack.addresses());
    let cli = Cli {
        home: stack.home().display().to_string(),
        kafka: addresses.kafka,
        registry: addresses.registry,
        clickhouse: addresses.clickhouse,
        rest: format!("http://127.0.0.1:{}/kis", ports.simulator),
        clock: format!("http://127.0.0.1:{}/clock", ports.simulator_admin),
    };
    let ask = |arguments: Vec<String>| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (code, out) = cli.run(&arguments);
        (code, serde_json::from_str::<Value>(&out).unwrap())
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (code, plan) = ask(words("plan --symbols @krx97 --days 30 --until 2026-11-19 --json"));
    assert_eq!((code, &plan["calls"], &plan["sessions"]), (Some(0), &Value::from(97 * 22 * 4), &Value::from(22)));

    let keys = stack.home().join("keys.env");
    std::fs::write(&keys, "KIS_APP_KEY=the-key\nKIS_APP_SECRET=the-secret\n").unwrap();
    let socket = format!("ws://127.0.0.1:{}/kis/tryitout", ports.simulator);
    let producer = [
        ("provider.name", "kis"),
        ("provider.instruments", r#"["KRX:000010","KRX:000020"]"#),
        ("provider.websocket_url", &socket),
        ("provider.rest_url", &cli.rest),
        ("provider.credentials_file", keys.to_str().unwrap()),
        ("clock.source", &cli.clock),
    ];
    stack.start_service("tick-producer", &producer).await.unwrap();
    // The day plays in 40 s; its last bar is that of the closing print.
    eventually(PATIENCE, async || {
        let closing =
            "SELECT count() FROM bars WHERE interval = '1m' AND source = 'trades' AND open_time = '2026-11-20 06:30:00'";
        ensure!(stack.query(closing).await?.trim() == "2", "the day is not over");
        Ok(())
    })
    .await
    .unwrap();

    let wanted =
        "reconcile --day 2026-11-20 --against kis --symbols 000010,000020 --timeout 120 --json --set budget.calls_per_second=100";
    let (code, report) = ask(words(wanted));
    let by_class = report["by_class"].as_object().unwrap();
    assert_eq!((code, &report["instruments"]), (Some(0), &Value::from(2)), "{report}");
    assert!(report["equal"].as_u64().unwrap() > 700, "{report}");
    assert!(by_class.keys().eq(["gap_here"]), "one trade was kept from us, and its minute says so: {report}");
    let minutes = report["minutes"].as_u64().unwrap();
    assert_eq!(minutes, report["equal"].as_u64().unwrap() + report["differences"].as_array().unwrap().len() as u64);

    // What is there is not fetched again.
    let (code, again) = ask(words("reconcile --day 2026-11-20 --no-fetch --json"));
    assert_eq!((code, &again["minutes"]), (Some(0), &Value::from(minutes)));

    // The other broker's candles are other candles: there are none before they are fetched, and these are not taken for them.
    let kiwoom = cli.rest.replace("/kis", "/kiwoom");
    let none = cli.output(&["reconcile", "--day", "2026-11-20", "--no-fetch", "--against", "kiwoom"], &kiwoom);
    let problem = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(none.status.code() == Some(1) && problem.contains("nothing to compare"), "{problem}");
    let wanted = words("reconcile --day 2026-11-20 --against kiwoom --symbols 000010,000020 --timeout 120 --json");
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let there = cli.output(&wanted, &kiwoom);
    let problem = String::from_utf8_lossy(&there.stderr).into_owned();
    let report: Value = serde_json::from_slice(&there.stdout).unwrap_or_else(|_| panic!("{problem}"));
    assert_eq!((there.status.code(), &report["minutes"]), (Some(0), &Value::from(minutes)), "{report}");

    // What the broker says of the two, and what stands on the topic then.
    let (code, seen) = ask(words("reference refresh --symbols 000010,000020 --json"));
    assert_eq!((code, &seen["new"], &seen["published"]), (Some(0), &Value::from(2), &Value::from(2)), "{seen}");
    let (_, seen) = ask(words("reference refresh --symbols 000010,000020 --json"));
    assert_eq!(seen["published"], 0, "{seen}");
    let list = |arguments: &[&str]| serde_json::from_slice::<Value>(&cli.output(arguments, "").stdout).unwrap();
    let rows = list(&["reference", "list", "000010", "--json"]);
    assert_eq!((rows.as_array().unwrap().len(), &rows[0]["attributes"]["market"]), (1, &Value::from("KOSPI")), "{rows}");
    assert_eq!(list(&["reference", "list", "--flagged", "--json"]), Value::Array(Vec::new()));
    stack.stop().await;
}
