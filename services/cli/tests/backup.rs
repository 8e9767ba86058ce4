//! Backup and restore on real Kafka, registry, ClickHouse and sink: the engine's folder is lost, and everything is there again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use anyhow::{Context, ensure};
use marketflow_contract::topics;
use marketflow_model::{Feed, Instrument, Side, Source, Timestamp, Trade};
use marketflow_testkit::{TestStack, eventually};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(240);
/// What the views show of the trades.
const SHOWN: &str = "SELECT instrument, count(), uniqExact(trade_id), sum(size), sum(price * size) FROM trades GROUP BY instrument ORDER BY instrument";

/// Around the end of a month: two table partitions.
fn trades(ids: std::ops::Range<i64>) -> Vec<Trade> {
    let instruments = ["BITSTAMP:BTCUSD", "BITSTAMP:ETHUSD", "KRX:005930", "UPBIT:BTCKRW", "SIM:삼성"];
    ids.map(|id| Trade {
        instrument: instruments[usize::try_from(id % 5).unwrap()].parse::<Instrument>().unwrap(),
        feed: Feed::new("sim"),
        event_time: Timestamp::from_seconds(1_385_855_000 + id % 2_000),
        receive_time: Timestamp::from_seconds(1_385_855_001 + id % 2_000),
        price: format!("{}.01", 1_000 + id % 50).parse().unwrap(),
        size: Some("0.5".parse().unwrap()),
        side: Side::Buy,
        trade_id: Some(id.to_string()),
        sequence: Some(id),
        import_row: None,
        conditions: marketflow_model::Conditions::NONE,
        source: Source::Websocket,
    })
    .collect()
}

fn marketflow(stack: &TestStack, arguments: &[&str]) -> Output {
    let addresses = stack.addresses();
    Command::new(env!("CARGO_BIN_EXE_marketflow"))
        .args(arguments)
        .env("MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS", addresses.kafka)
        .env("MARKETFLOW__CLICKHOUSE__URL", addresses.clickhouse)
        .env("LANG", "C")
        .output()
        .unwrap()
}

fn ok(stack: &TestStack, arguments: &[&str]) -> String {
    let output = marketflow(stack, arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?} ended with {}\n{out}\n{err}", output.status);
    out.into_owned()
}

fn refused(stack: &TestStack, arguments: &[&str], code: i32, part: &str) {
    let output = marketflow(stack, arguments);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(code) && err.contains(part), "{arguments:?}: {} {err}", output.status);
}

async fn landed(stack: &TestStack, trades: usize) -> anyhow::Result<()> {
    eventually(PATIENCE, async || {
        let found = stack.query("SELECT uniqExact(partition, offset) FROM trades_log").await?;
        ensure!(found.trim() == trades.to_string(), "{} of {trades} trades landed", found.trim());
        Ok(())
    })
    .await
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_lost_is_there_again_and_the_sink_goes_on() -> anyhow::Result<()> {
    let mut stack = TestStack::start().await?;
    stack.start_service("sink", &[("batch.max_rows", "700")]).await?;
    let folder = tempfile::tempdir()?;
    let place = folder.path().join("friday");
    let at = place.to_str().context("a plain path")?;

    // taken while the sink lands what comes
    stack.send_trades(trades(0..6_000)).await?;
    landed(&stack, 6_000).await?;
    stack.send_trades(trades(6_000..10_000)).await?;
    let said = ok(&stack, &["backup", at]);
    assert!(said.contains("trades_log"), "{said}");
    let left =
        stack.query("SELECT count() FROM system.tables WHERE database = currentDatabase() AND name LIKE 'backup_of_%'").await?;
    assert_eq!(left.trim(), "0", "nothing frozen is left");
    refused(&stack, &["backup", at], 64, "already");
    ok(&stack, &["backup", "--verify", at]);

    // and the sink is further when the engine's folder is lost
    stack.send_trades(trades(10_000..12_000)).await?;
    landed(&stack, 12_000).await?;
    let shown = stack.query(SHOWN).await?;
    refused(&stack, &["restore", "--replace", at], 64, "stop the sink first");
    stack.parts.stop_part("sink").await?;
    refused(&stack, &["restore", at], 64, "the tables hold rows");
    damaged_or_unfinished_backups_are_refused(&stack, folder.path(), &place);
    assert_eq!(stack.query(SHOWN).await?, shown, "nothing was touched");
    stack.parts.stop_part("clickhouse").await?;
    std::fs::remove_dir_all(stack.home().join("clickhouse"))?;
    stack.parts.restart("clickhouse").await?;

    ok(&stack, &["restore", at]);
    let restored: i64 = stack.query("SELECT count() FROM trades_log").await?.trim().parse()?;
    ensure!((6_000..=10_000).contains(&restored), "{restored} rows restored");
    ok(&stack, &["backup", "--rows-only", folder.path().join("again").to_str().context("a plain path")?]);
    stack.send_trades(trades(12_000..13_000)).await?;
    stack.parts.restart("sink").await?;
    landed(&stack, 13_000).await?;
    let sent = stack.read::<Trade>(topics::TRADES).await?;
    let views = stack.query("SELECT count(), uniqExact(trade_id), sum(size) FROM trades").await?;
    assert_eq!(views, "13000\t13000\t6500\n");
    let places =
        stack.query("SELECT partition, offset, assumeNotNull(trade_id) FROM trades_log ORDER BY partition, offset").await?;
    let expected: String =
        sent.iter().map(|t| format!("{}\t{}\t{}\n", t.partition, t.offset, t.record.trade_id.as_deref().unwrap_or(""))).collect();
    assert!(places == expected, "each record has one row, and physically so: the marks came back with the rows");
    assert_eq!(stack.query("SELECT uniqExact(_partition_id) FROM trades_log").await?.trim(), "2");

    a_restore_that_broke_off_is_not_worked_with(&stack, at).await?;
    stack.stop().await;
    Ok(())
}

fn damaged_or_unfinished_backups_are_refused(stack: &TestStack, folder: &Path, place: &Path) {
    let unfinished = folder.join("unfinished");
    copy(place, &unfinished);
    std::fs::remove_file(unfinished.join("manifest.json")).unwrap();
    let unfinished = unfinished.to_str().unwrap();
    refused(stack, &["backup", "--verify", unfinished], 2, "not finished");
    refused(stack, &["restore", "--replace", unfinished], 2, "not finished");
    // what an interrupted backup left is no obstacle to the next
    ok(stack, &["backup", unfinished]);
    ok(stack, &["backup", "--verify", unfinished]);

    let damaged = folder.join("damaged");
    copy(place, &damaged);
    let file = damaged.join("trades_log/201312.native.zst");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let damaged = damaged.to_str().unwrap();
    for arguments in [["backup", "--verify", damaged], ["restore", "--replace", damaged]] {
        refused(stack, &arguments, 2, "trades_log/201312.native.zst has SHA-256");
    }
    std::fs::remove_file(&file).unwrap();
    refused(stack, &["backup", "--verify", damaged], 2, "cannot read trades_log/201312.native.zst");
}

/// The sink refuses half a restore, and a repeated one makes it whole.
async fn a_restore_that_broke_off_is_not_worked_with(stack: &TestStack, at: &str) -> anyhow::Result<()> {
    stack.parts.stop_part("sink").await?;
    marketflow_clickhouse::migrations::begin_restore(&stack.clickhouse(), at).await?;
    let sink = stack.service("sink", &[])?;
    let output = tokio::process::Command::new(&sink.program).args(&sink.args).envs(sink.env.iter().cloned()).output();
    let output = tokio::time::timeout(PATIENCE, output).await.context("the sink went on")??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("being restored"), "{:?}: {said}", output.status);
    refused(stack, &["backup", &format!("{at}-half")], 1, "being restored");
    ok(stack, &["restore", "--replace", at]);
    stack.parts.restart("sink").await?;
    landed(stack, 13_000).await?;
    assert_eq!(stack.query("SELECT count() FROM system.view_refreshes WHERE view = 'bars_rollup'").await?.trim(), "1");
    Ok(())
}
