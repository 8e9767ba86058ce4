//! `marketflow dlq` on real Kafka, registry, ClickHouse, processor and sink: what was set aside takes effect once when it is redriven, for the consumer
//! that set it aside and for no other; decisions are kept. And, on the same stack, `marketflow calendar`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use anyhow::{Context, ensure};
use marketflow_contract::{Schema, encode_value, topics};
use marketflow_kafka::{Outgoing, Producer, ProducerSettings};
use marketflow_model::{Control, ControlKind, Feed, FeedState, Side, Source, Timestamp, Trade};
use marketflow_testkit::{TestStack, eventually};
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(240);
const INSTRUMENT: &str = "BITSTAMP:BTCUSD";
/// The beginning of a minute.
const START: i64 = 1_709_251_200;

fn trade(id: i64, second: i64, size: &str) -> Trade {
    Trade {
        instrument: INSTRUMENT.parse().unwrap(),
        feed: Feed::new("bitstamp"),
        event_time: Timestamp::from_seconds(START + second),
        receive_time: Timestamp::from_seconds(START + second + 1),
        price: "100".parse().unwrap(),
        size: Some(size.parse().unwrap()),
        side: Side::Buy,
        trade_id: Some(id.to_string()),
        sequence: Some(id),
        import_row: None,
        conditions: marketflow_model::Conditions::NONE,
        source: Source::Websocket,
    }
}

fn command(stack: &TestStack, arguments: &[&str]) -> Command {
    let mut command = marketflow(stack);
    command.arg("dlq").args(arguments);
    command
}

fn marketflow(stack: &TestStack) -> Command {
    let addresses = stack.addresses();
    let mut command = Command::new(env!("CARGO_BIN_EXE_marketflow"));
    command
        .env("MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS", addresses.kafka)
        .env("MARKETFLOW__REGISTRY__URL", addresses.registry)
        .env("LANG", "C")
        .env("USER", "tester");
    command
}

fn run(stack: &TestStack, arguments: &[&str]) -> Output {
    command(stack, arguments).output().unwrap()
}

fn ok(stack: &TestStack, arguments: &[&str]) -> Value {
    let output = run(stack, &[arguments, &["--json"]].concat());
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?} ended with {}\n{out}\n{err}", output.status);
    serde_json::from_str(&out).unwrap()
}

fn refused(stack: &TestStack, arguments: &[&str], code: i32, part: &str) {
    let output = run(stack, arguments);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(code) && err.contains(part), "{arguments:?}: {} {err}", output.status);
}

/// Waits until so many letters fit, and returns them.
async fn listed(stack: &TestStack, filter: &[&str], count: usize) -> anyhow::Result<Vec<Value>> {
    eventually(PATIENCE, async || {
        let letters = ok(stack, &[&["list"], filter].concat());
        let letters = letters.as_array().context("a list")?.clone();
        ensure!(letters.len() == count, "{} letters, not {count}: {letters:?}", letters.len());
        Ok(letters)
    })
    .await
}

async fn until(stack: &TestStack, sql: &str, expected: &str) -> anyhow::Result<()> {
    eventually(PATIENCE, async || {
        let found = stack.query(sql).await?;
        ensure!(found.trim() == expected, "{sql}: {found}, not {expected}");
        Ok(())
    })
    .await
}

fn text<'a>(letter: &'a Value, field: &str) -> &'a str {
    letter[field].as_str().unwrap_or_else(|| panic!("{field} in {letter}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_aside_is_redriven_once_or_discarded() -> anyhow::Result<()> {
    let mut stack = TestStack::start().await?;
    stack.start_service("processor", &[]).await?;
    stack.start_service("sink", &[("batch.max_age", "100ms")]).await?;
    let start = Timestamp::from_seconds(START);
    let up = Control::new(ControlKind::FeedState, Feed::new("bitstamp"), start);
    stack.send_control(&Control { state: FeedState::Up, from: Some(start), ..up }).await?;
    stack.send_trades(vec![trade(1, 5, "1")]).await?;

    a_schema_that_was_unknown_is_registered(&mut stack).await?;
    what_is_set_aside_again_is_a_new_one(&stack).await?;
    two_at_once_redrive_once(&stack).await?;
    a_changed_day_is_told_to_every_partition_and_shown(&stack).await?;
    stack.stop().await;
    Ok(())
}

/// A writer was updated before its schema was registered: both consumers set the trade aside, and each gets it back.
async fn a_schema_that_was_unknown_is_registered(stack: &mut TestStack) -> anyhow::Result<()> {
    // the registry numbers schemas one by one
    let probe = r#"{"type":"record","name":"Probe","fields":[]}"#;
    let next_id = 1 + register(stack, "probe-value", probe).await?;
    let mut evolved: Value = serde_json::from_str(Schema::Trade.text())?;
    let note = serde_json::json!({ "name": "note", "type": ["null", "string"], "default": null });
    evolved["fields"].as_array_mut().context("fields")?.push(note);
    let mut value = Vec::new();
    encode_value(&trade(2, 10, "0.5"), next_id, &mut value);
    value.push(0); // the note: null
    let kafka = stack.kafka();
    tokio::task::spawn_blocking(move || {
        let producer = Producer::new(&kafka, &ProducerSettings::default())?;
        producer.send(Outgoing::new(topics::TRADES, INSTRUMENT.as_bytes(), &value), PATIENCE)?;
        producer.flush(PATIENCE)
    })
    .await??;

    let letters = listed(stack, &["--class", "undecodable"], 2).await?;
    let mut consumers: Vec<&str> = letters.iter().map(|letter| text(letter, "consumer")).collect();
    consumers.sort_unstable();
    assert_eq!(consumers, ["processor", "sink"]);
    assert!(letters.iter().all(|letter| letter["schema_id"] == next_id && letter["decision"].is_null()), "{letters:?}");
    let place = text(&letters[0], "place").to_owned();
    assert!(ok(stack, &["show", &place]).get("record").is_none(), "nobody can read it yet");

    let id = register(stack, &format!("{}-value", topics::TRADES), &evolved.to_string()).await?;
    ensure!(id == next_id, "the schema was numbered {id}, not {next_id}");
    // ids that were unknown are remembered as such
    for service in ["processor", "sink"] {
        stack.parts.stop_part(service).await?;
        stack.parts.restart(service).await?;
    }
    assert_eq!(text(&ok(stack, &["show", &place])["record"], "type"), "Trade");

    let all = ["redrive", "--all", "--class", "undecodable", "--reason", "registered now"];
    assert_eq!(ok(stack, &[&all[..], &["--dry-run"]].concat())["places"].as_array().map(Vec::len), Some(2));
    assert_eq!(ok(stack, &all)["places"].as_array().map(Vec::len), Some(2));
    assert_eq!(ok(stack, &all)["places"].as_array().map(Vec::len), Some(0), "decided");
    refused(stack, &["redrive", &place], 1, "was redriven at");
    refused(stack, &["discard", &place, "--reason", "no"], 1, "was redriven at");
    listed(stack, &[], 0).await?;
    let decided = listed(stack, &["--decided"], 2).await?;
    assert!(
        decided.iter().all(|letter| letter["decision"]["decision"] == "redriven"
            && letter["decision"]["reason"] == "registered now"
            && letter["decision"]["by"] == "tester"),
        "{decided:?}"
    );

    // the minute ends: both trades are in the bar, and in the view, once
    let later = Timestamp::from_seconds(START + 120);
    let end = Control::new(ControlKind::Heartbeat, Feed::new("bitstamp"), later);
    stack.send_control(&Control { complete_through: Some(later), ..end }).await?;
    until(stack, "SELECT trade_count, volume FROM bars_final WHERE interval = '1m'", "2\t1.5").await?;
    until(stack, "SELECT count(), sum(size), uniqExact(trade_id) FROM trades", "2\t1.5\t2").await?;
    until(stack, "SELECT count() FROM trades_log", "2").await?;
    until(
        stack,
        "SELECT count(), uniqExact(decision), any(decided_by) FROM set_aside WHERE decision = 'redriven'",
        "2\t1\ttester",
    )
    .await?;
    // each read the other's and passed it by
    let passed = stack.metrics("sink").await?.sum("marketflow_records_discarded_total", &[("reason", "not_selected")]);
    assert!((passed - 1.0).abs() < f64::EPSILON, "{passed}");
    let passed = stack.metrics("processor").await?.sum("marketflow_trades_total", &[("outcome", "not_selected")]);
    assert!((passed - 1.0).abs() < f64::EPSILON, "{passed}");
    Ok(())
}

async fn register(stack: &TestStack, subject: &str, schema: &str) -> anyhow::Result<u32> {
    let url = format!("{}/subjects/{subject}/versions", stack.addresses().registry);
    let body = serde_json::json!({ "schema": schema, "schemaType": "AVRO" });
    let answer = reqwest::Client::new().post(url).json(&body).send().await?.error_for_status()?.json::<Value>().await?;
    answer["id"].as_u64().and_then(|id| u32::try_from(id).ok()).with_context(|| format!("an id in {answer}"))
}

/// A size of zero is refused as often as it comes; the last word is to discard it.
async fn what_is_set_aside_again_is_a_new_one(stack: &TestStack) -> anyhow::Result<()> {
    stack.send_trades(vec![trade(3, 130, "0")]).await?;
    let first = listed(stack, &["--class", "quarantine", "--consumer", "processor"], 1).await?;
    let place = text(&first[0], "place").to_owned();
    let shown = run(stack, &["show", &place]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("size is zero"));
    ok(stack, &["redrive", &place]);
    let again = eventually(PATIENCE, async || {
        let letters = listed(stack, &["--class", "quarantine"], 1).await?;
        ensure!(text(&letters[0], "place") != place, "not read again yet");
        Ok(letters)
    })
    .await?;
    let headers = again[0]["headers"].to_string();
    assert!(headers.contains("redrive-of") && headers.contains(&place), "{headers}");
    refused(stack, &["discard", text(&again[0], "place")], 64, "--reason");
    refused(stack, &["discard", "market.late.v1/0/99", "--reason", "x"], 1, "nothing is set aside at");
    ok(stack, &["discard", text(&again[0], "place"), "--reason", "the venue says so"]);
    listed(stack, &[], 0).await?;
    until(
        stack,
        "SELECT groupArray(decision) FROM (SELECT decision FROM set_aside WHERE class = 'quarantine' ORDER BY append_time)",
        "['redriven','discarded']",
    )
    .await?;
    until(stack, "SELECT count() FROM trades", "2").await?;
    // still aside: it was set aside as often as it was said
    until(stack, "SELECT count() FROM not_in_bars", "1").await
}

async fn two_at_once_redrive_once(stack: &TestStack) -> anyhow::Result<()> {
    stack.send_trades(vec![trade(4, 131, "0")]).await?;
    let place = text(&listed(stack, &[], 1).await?[0], "place").to_owned();
    let spawn = || command(stack, &["redrive", &place]).output();
    let (one, two) = std::thread::scope(|scope| {
        let (one, two) = (scope.spawn(spawn), scope.spawn(spawn));
        (one.join().unwrap(), two.join().unwrap())
    });
    let done = [one?, two?].iter().filter(|output| output.status.success()).count();
    assert!(done <= 1, "one is ended by the other, or finds it decided");
    // a second one would be behind it: what comes later on its partition was read when this is
    stack.send_trades(vec![trade(5, 132, "0")]).await?;
    let letters = eventually(PATIENCE, async || {
        let letters = ok(stack, &["list", "--decided", "--class", "quarantine"]);
        let letters = letters.as_array().context("a list")?.clone();
        // trade_id "5" in Avro
        ensure!(letters.iter().any(|letter| text(letter, "value").contains("020235")), "the last is not there yet");
        Ok(letters)
    })
    .await?;
    let again = letters.iter().filter(|letter| letter["headers"].to_string().contains(&place)).count();
    assert_eq!(again, 1, "{letters:?}");
    Ok(())
}

async fn a_changed_day_is_told_to_every_partition_and_shown(stack: &TestStack) -> anyhow::Result<()> {
    let calendar = |arguments: &str| -> Value {
        let output = marketflow(stack).arg("calendar").args(arguments.split(' ')).arg("--json").output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "calendar {arguments} ended with {}\n{out}\n{err}", output.status);
        serde_json::from_str(&out).unwrap()
    };
    let shown = || calendar("show --venue KRX --from 2026-12-28 --to 2026-12-30");
    let regular = |day: &Value| {
        let sessions = day["sessions"].as_array().unwrap();
        let session = sessions.iter().find(|session| session["kind"] == "regular")?;
        Some(format!("{} {}", text(session, "open"), text(session, "close")))
    };
    let days = |shown: &Value| shown.as_array().unwrap().iter().map(&regular).collect::<Vec<_>>();
    let normal = || Some("09:00 15:30".to_owned());
    assert_eq!(days(&shown()), [normal(), normal(), normal()]);
    let early = calendar("early-close KRX 2026-12-30 --close 12:00");
    assert_eq!((regular(&early), &early["changed"]), (Some("09:00 12:00".to_owned()), &Value::from(true)));
    calendar("early-close KRX 2026-12-30 --close 12:00");
    calendar("add-holiday KRX 2026-12-28 --reason temporary");
    calendar("late-open KRX 2026-12-29 --open 10:00");
    let changed = shown();
    assert_eq!(days(&changed), [None, Some("10:00 15:30".to_owned()), Some("09:00 12:00".to_owned())]);
    assert_eq!(changed[0]["reason"], "temporary");
    for topic in [topics::TRADES, topics::CANDLES] {
        let controls = stack.read::<Control>(topic).await?.into_iter();
        let controls: Vec<_> = controls.filter(|located| located.record.kind == ControlKind::CalendarChange).collect();
        let partitions: BTreeSet<i32> = controls.iter().map(|located| located.partition).collect();
        assert_eq!(controls.len(), 4 * partitions.len(), "each of four to each partition of {topic}");
    }
    let day = "SELECT kind, formatDateTime(open_time, '%H:%i', 'Asia/Seoul'), formatDateTime(close_time, '%H:%i', 'Asia/Seoul'), \
               formatDateTime(auction_time, '%H:%i', 'Asia/Seoul'), expected_slots FROM sessions WHERE calendar = 'krx' AND date";
    until(stack, &format!("{day} = '2026-12-30'"), "regular\t09:00\t12:01\t11:50\t171").await?;
    until(stack, &format!("{day} = '2026-12-28'"), "").await?;
    calendar("remove-holiday KRX 2026-12-28");
    calendar("reset KRX 2026-12-29");
    calendar("reset KRX 2026-12-30");
    assert_eq!(days(&shown()), [normal(), normal(), normal()]);
    until(stack, &format!("{day} = '2026-12-30' AND kind = 'regular'"), "regular\t09:00\t15:31\t15:20\t381").await?;
    for (arguments, problem) in [
        ("late-open KRX 2026-12-29 --open 16:00", "does not fit into 2026-12-29"),
        ("add-holiday KRX 2031-01-01", "is outside of"),
        ("add-holiday UPBIT 2026-12-29", "no days that could be changed"),
    ] {
        let output = marketflow(stack).arg("calendar").args(arguments.split(' ')).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(64) && err.contains(problem), "{arguments}: {} {err}", output.status);
    }
    Ok(())
}
