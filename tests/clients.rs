//! Clients nobody here wrote read what we write, and the programs in `examples/` run as printed.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use marketflow_contract::topics;
use marketflow_model::{Bar, Control, ControlKind, Feed, Instrument, Timestamp, Trade};
use marketflow_testkit::{RandomWalk, TestStack};
use serde_json::Value as Json;
use std::path::Path;
use std::process::{Command, Stdio};

/// Confluent's own AvroDeserializer and SchemaRegistryClient, and the example programs, on a real Kafka and registry.
#[tokio::test(flavor = "multi_thread")]
async fn confluents_python_client_and_the_examples_read_our_topics() {
    let stack = TestStack::start_with(&["kafka", "registry"]).await.unwrap();

    let bars: Vec<Bar> = (0..50).map(bar).collect();
    stack.send(topics::BARS, bars.iter().map(|bar| (bar.instrument.to_string(), bar.clone())).collect()).await.unwrap();
    let instruments = RandomWalk::instruments(8);
    let feed = Feed::new("sim");
    let trades: Vec<Trade> =
        RandomWalk::new(7, feed.clone(), &instruments, Timestamp::from_seconds(1_700_000_000), 100).take(500).collect();
    stack.send_trades(trades.clone()).await.unwrap();
    let heartbeat = Control::new(ControlKind::Heartbeat, feed, Timestamp::from_seconds(1_700_000_010));
    stack.send_control(&heartbeat).await.unwrap();

    let seen = confluent(&stack, topics::BARS);
    let mut expected: Vec<Json> = bars.iter().map(|bar| upper_case_symbols(serde_json::to_value(bar).unwrap())).collect();
    let mut values: Vec<Json> = seen.iter().map(|record| record["value"].clone()).collect();
    for list in [&mut expected, &mut values] {
        list.sort_by_key(|bar| bar["open_time"].as_i64());
    }
    assert_eq!(values, expected);

    let seen = confluent(&stack, topics::TRADES);
    let (controls, data): (Vec<&Json>, Vec<&Json>) = seen.iter().partition(|record| record["kind"] == "control");
    assert_eq!(controls.len(), 4, "one heartbeat for each partition");
    assert!(controls.iter().all(|control| control["value"]["kind"] == "HEARTBEAT"));
    assert_eq!(data.len(), trades.len());
    let ours = stack.read::<Trade>(topics::TRADES).await.unwrap();
    assert_eq!(ours.len(), trades.len());
    for instrument in &instruments {
        let sent: Vec<&Trade> = trades.iter().filter(|trade| trade.instrument == *instrument).collect();
        let read: Vec<&Trade> = ours.iter().map(|found| &found.record).filter(|trade| trade.instrument == *instrument).collect();
        assert_eq!(read, sent, "order within an instrument is kept");
        let json: Vec<Json> = sent.iter().map(|trade| upper_case_symbols(serde_json::to_value(trade).unwrap())).collect();
        let theirs = data.iter().map(|record| &record["value"]).filter(|trade| trade["instrument"] == instrument.as_str());
        assert!(theirs.eq(&json), "{instrument}");
    }

    for (mut program, name) in
        [(python(&["examples/bars.py"]), "bars.py"), (Command::new(env!("CARGO_BIN_EXE_rust-consumer")), "rust-consumer")]
    {
        let printed = output(&stack, &mut program);
        assert_eq!(printed.lines().count(), bars.len(), "{name} prints one line per bar:\n{printed}");
        assert!(printed.contains("SIM:삼성"), "{name}:\n{printed}");
    }
    stack.stop().await;
}

/// The notebook on a real ClickHouse, through clickhouse-connect and pandas.
#[tokio::test(flavor = "multi_thread")]
async fn the_notebook_runs_from_its_first_cell_to_its_last() {
    let stack = TestStack::start().await.unwrap();
    let columns = "instrument, interval, open_time, close_time, open, high, low, close, volume, turnover, vwap, trade_count, \
        buy_volume, sell_volume, revision, quality, feed, source";
    let minutes = (0..30).map(|minute| {
        format!(
            "('SIM:A0001', '1m', '2013-11-25 00:{minute:02}:00', '2013-11-25 00:{:02}:00', \
             821.45, 823, 819.9, 822.1, 12.75000001, 10471.23456789, 821.2732988, 38, 8.25, 4.50000001, 1, 'backfilled', 'sim', 'trades')",
            minute + 1
        )
    });
    let rows = minutes.collect::<Vec<_>>().join(", ");
    let insert = format!("INSERT INTO bars_log ({columns}) VALUES {rows}");
    stack.clickhouse().execute("insert bars", &insert).await.unwrap();
    let instruments = RandomWalk::instruments(2);
    let walk = RandomWalk::new(3, Feed::new("sim"), &instruments, Timestamp::from_seconds(1_700_000_000), 100);
    stack.send_trades(walk.take(1200).collect()).await.unwrap();
    let end = Control::new(ControlKind::End, Feed::new("sim"), Timestamp::from_seconds(1_700_000_100));
    stack.send_control(&end).await.unwrap();

    let mut notebook = python(&["-m", "nbconvert", "--to", "notebook", "--execute", "--stdout", "examples/market-data.ipynb"]);
    let executed: Json = serde_json::from_str(&output(&stack, &mut notebook)).unwrap();
    let printed: Vec<String> = executed["cells"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|cell| cell["outputs"].as_array().cloned().unwrap_or_default())
        .map(|output| output["data"]["text/plain"].to_string())
        .collect();
    assert_eq!(printed.len(), 5, "{printed:?}");
    assert!(printed[2].contains("382.50000030"), "30 exact volumes: {}", printed[2]);
    assert!(printed[4].contains("SIM:A0001"), "{}", printed[4]);
    stack.stop().await;
}

fn bar(minute: i64) -> Bar {
    let example: Bar = serde_json::from_str(include_str!("../schemas/examples/bar.v1.json")).unwrap();
    let open_time = example.open_time.plus_micros(minute * 60_000_000);
    let instrument = Instrument::new("SIM", if minute % 3 == 0 { "삼성" } else { "BTCUSD" }).unwrap();
    Bar { instrument, open_time, revision_reason: (minute % 2 == 0).then(|| "late trades".to_owned()), ..example }
}

/// What the Python check prints for a topic.
fn confluent(stack: &TestStack, topic: &str) -> Vec<Json> {
    let printed = output(stack, &mut python(&["tests/python/confluent_check.py", topic]));
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Avro's symbols are upper case, those of our JSON lower case.
fn upper_case_symbols(mut record: Json) -> Json {
    for field in ["quality", "source", "side"] {
        if let Some(symbol) = record.get(field).and_then(Json::as_str).map(str::to_uppercase) {
            record[field] = symbol.into();
        }
    }
    record
}

fn python(arguments: &[&str]) -> Command {
    let interpreter = marketflow_stack::tools_folder().join("python/bin/python");
    assert!(interpreter.exists(), "{} is missing; run `make setup`", interpreter.display());
    let mut command = Command::new(interpreter);
    command.args(arguments);
    command
}

fn output(stack: &TestStack, program: &mut Command) -> String {
    let addresses = stack.addresses();
    program.env("KAFKA", addresses.kafka).env("REGISTRY", addresses.registry).env("CLICKHOUSE", addresses.clickhouse);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = program.current_dir(root).stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{program:?}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
