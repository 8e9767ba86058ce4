//! Records in, Parquet out, killed on the way: pandas, polars and DuckDB read what was sent, to the last decimal.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use anyhow::{Context, ensure};
use marketflow_archive::{Manifest, MarketFile, Place};
use marketflow_contract::{AvroRecord, topics};
use marketflow_kafka::{Outgoing, Producer, ProducerSettings, Reader, TopicPartition, admin};
use marketflow_model::{
    Bar, Condition, Conditions, Control, ControlKind, Feed, FundFlow, Instrument, Month, Observation, Quantity, SeriesValue,
    Timestamp, Trade,
};
use marketflow_testkit::{RandomWalk, TestStack, eventually};
use serde::Serialize;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

/// A series of each market: provider, name, unit.
const SERIES: [(&str, &str, &str, &str); 8] = [
    ("stocks", "YAHOO", "SPY/close", "USD"),
    ("stocks", "YAHOO", "005930.KS/volume", "shares"),
    ("bonds", "FRED", "DGS10", "percent a year"),
    ("bonds", "FRED", "BAA10Y", "percentage points"),
    ("forex", "FRANKFURTER", "USD/KRW", "KRW per USD"),
    ("crypto", "BINANCE", "BTCUSDT/close", "USDT"),
    ("commodities", "YAHOO", "GC=F/close", "USD a troy ounce"),
    ("real_estate", "FRED", "CSUSHPINSA", "index"),
];
const MONTHS: i32 = 120;

#[tokio::test(flavor = "multi_thread")]
async fn six_markets_merge_into_their_files_whatever_kills_the_archiver() -> anyhow::Result<()> {
    let stack = TestStack::start_with(&["kafka", "registry"]).await?;
    let archiver = Archiver::new(&stack)?;

    let (first, expected) = observations();
    send(&stack, first).await?;
    // it dies when it has written a file, three times, with five, four and three of six to go
    for written in 1..=3 {
        archiver.fail_at("archiver.market-written")?;
        let killed = archiver.run()?;
        ensure!(killed.status.code().is_none(), "it was to be killed: {killed:?}");
        let there = archiver.files()?;
        ensure!(there.len() == written, "{there:?}");
        for path in &there {
            MarketFile::read(fs::read(archiver.folder.join(path))?.into()).with_context(|| format!("{path} is torn"))?;
        }
    }
    let result = archiver.result()?;
    let written: Vec<&Json> = result["markets"].as_array().context("markets")?.iter().filter(|m| m["written"] == true).collect();
    ensure!(written.len() == 3, "the three that were not there yet: {result}");
    ensure!(result["unassigned"] == json!(["FRED:OF_NO_MARKET"]), "{result}");
    archiver.check(&stack, &expected)?;

    // again: nothing changes, not even a file's bytes
    let before = archiver.contents()?;
    let again = archiver.result()?;
    ensure!(again["markets"].as_array().context("markets")?.iter().all(|market| market["written"] == false), "{again}");
    ensure!(archiver.contents()? == before, "a run without news changed a file");

    // what Kafka forgets stays; what comes is merged: one market changes, and only that one
    let of_bonds = expected["bonds"].values().next().unwrap().clone();
    let revised = Observation {
        value: Some("-0.000000000001".parse()?),
        vintage: Some("2027-01-01".to_owned()),
        receive_time: of_bonds.receive_time.plus_micros(1),
        ..of_bonds
    };
    forget(&stack, topics::OBSERVATIONS).await?;
    send(&stack, vec![revised.clone()]).await?;
    let mut expected = expected;
    expected.get_mut("bonds").unwrap().insert(key(&revised), revised);
    let result = archiver.result()?;
    let written: Vec<&Json> = result["markets"].as_array().context("markets")?.iter().filter(|m| m["written"] == true).collect();
    ensure!(written.len() == 1 && written[0]["market"] == "bonds", "{result}");
    archiver.check(&stack, &expected)?;
    stack.stop().await;
    Ok(())
}

/// What is archived of each topic, by partition and offset, is what stands in the log; killed or not, the files are the same.
#[tokio::test(flavor = "multi_thread")]
async fn trades_bars_and_flows_are_archived_once_whatever_kills_the_archiver() -> anyhow::Result<()> {
    let mut stack = TestStack::start().await?;
    stack.start_service("sink", &[("batch.max_age", "250ms")]).await?;
    let mut archiver = Archiver::new(&stack)?;
    archiver.rows_per_file = 100;

    let instruments = RandomWalk::instruments(8);
    let feed = Feed::new("sim");
    let mut walk = RandomWalk::new(11, feed.clone(), &instruments, Timestamp::from_seconds(1_700_000_000), 100);
    let heartbeat = Control::new(ControlKind::Heartbeat, feed, Timestamp::from_seconds(1_700_000_010));
    for _ in 0..3 {
        stack.send_trades(odd(walk.by_ref().take(400).collect())).await?;
        stack.send_control(&heartbeat).await?;
    }
    // what is no record stays where it is and is counted
    let junk = Producer::new(&stack.kafka(), &ProducerSettings::default())?;
    junk.send(Outgoing::new(topics::TRADES, b"SIM:JUNK", b"no Avro at all"), PATIENCE)?;
    junk.flush(PATIENCE)?;
    stack.send(topics::BARS, (0..500).map(bar).map(|bar| (bar.instrument.to_string(), bar)).collect()).await?;
    let flow: FundFlow = serde_json::from_str(include_str!("../../../schemas/examples/fund_flow.v1.json"))?;
    stack.send(topics::FUND_FLOWS, vec![(flow.instrument.to_string(), flow)]).await?;

    // after a file and before its manifest, or after both
    for point in ["archiver.file-written", "archiver.manifest-written"].into_iter().cycle().take(6) {
        archiver.fail_at(point)?;
        let killed = archiver.run()?;
        ensure!(killed.status.code().is_none(), "it was to be killed: {killed:?}");
    }
    let result = archiver.result()?;
    let whole = archiver.contents()?;
    let (rows, new) = totals(&result)?;
    ensure!(rows == 1_200 + 500 + 1, "{result}");
    ensure!(new < rows, "what the killed runs wrote was kept: {result}");
    archiver.check_log(&stack).await?;

    // one that was never killed writes the same, to the byte
    let mut undisturbed = Archiver::new(&stack)?;
    undisturbed.rows_per_file = 100;
    undisturbed.folder = stack.home().join("undisturbed");
    undisturbed.result()?;
    ensure!(undisturbed.contents()? == whole, "killed runs left other files");
    ensure!(totals(&archiver.result()?)?.1 == 0 && archiver.contents()? == whole, "a run without news changed a file");

    // what comes is added; what was there stays as it is
    stack.send_trades(walk.by_ref().take(300).collect()).await?;
    let result = archiver.result()?;
    ensure!(totals(&result)? == (rows + 300, 300), "{result}");
    let more = archiver.contents()?;
    ensure!(
        whole.iter().filter(|(path, _)| path.ends_with("parquet")).all(|(path, bytes)| more.get(path) == Some(bytes)),
        "changed"
    );
    archiver.check_log(&stack).await?;

    // ClickHouse has the same records in the same ranges
    eventually(PATIENCE, async || {
        let verified = archiver.marketflow(&stack, &["archive", "verify", "--from"])?;
        ensure!(verified.status.success(), "{verified:?}");
        Ok(())
    })
    .await?;
    let (path, bytes) = more.iter().find(|(path, _)| path.contains("trades") && path.ends_with("parquet")).context("a file")?;
    let mut damaged = bytes.clone();
    damaged[40] ^= 1;
    fs::write(archiver.folder.join(path), damaged)?;
    let verified = archiver.marketflow(&stack, &["archive", "verify", "--from"])?;
    let said = String::from_utf8(verified.stdout)?;
    ensure!(verified.status.code() == Some(2) && said.contains("SHA-256"), "{said}");
    fs::write(archiver.folder.join(path), bytes)?;
    stack
        .clickhouse()
        .execute("delete rows", "ALTER TABLE trades_log DELETE WHERE offset = 7 SETTINGS mutations_sync = 2")
        .await?;
    let verified = archiver.marketflow(&stack, &["archive", "verify", "--from"])?;
    let said = String::from_utf8(verified.stdout)?;
    ensure!(verified.status.code() == Some(2) && said.contains("not landed yet"), "{said}");

    // what Kafka drops unarchived is an error, or a loss that the manifest says
    stack.send_trades(walk.take(100).collect()).await?;
    forget(&stack, topics::TRADES).await?;
    let refused = archiver.run()?;
    ensure!(refused.status.code() == Some(2), "{refused:?}");
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("archive.accept_loss"), "{refused:?}");
    stack.stop().await;
    Ok(())
}

/// Drops everything a topic holds, as retention does.
async fn forget(stack: &TestStack, topic: &str) -> anyhow::Result<()> {
    for partition in 0..Reader::new(&stack.kafka())?.partition_count(topic)? {
        let of = TopicPartition::new(topic, partition);
        let end = Reader::new(&stack.kafka())?.range(&of)?.1;
        admin::delete_records(&stack.kafka(), &of, end, PATIENCE).await?;
    }
    Ok(())
}

/// Rows in all and new ones.
fn totals(result: &Json) -> anyhow::Result<(u64, u64)> {
    let partitions = result["partitions"].as_array().context("partitions")?;
    let sum = |name: &str| partitions.iter().filter_map(|one| one[name].as_u64()).sum();
    Ok((sum("rows"), sum("new_rows")))
}

/// Some without what may be missing, some with every remark.
fn odd(mut trades: Vec<Trade>) -> Vec<Trade> {
    for (number, trade) in trades.iter_mut().enumerate() {
        if number % 7 == 0 {
            (trade.size, trade.trade_id, trade.sequence) = (None, None, None);
        }
        if number % 11 == 0 {
            trade.conditions = Condition::ALL.into_iter().fold(Conditions::NONE, Conditions::with);
            trade.import_row = Some(i64::MAX - 1);
        }
    }
    trades
}

fn bar(minute: i64) -> Bar {
    let example: Bar = serde_json::from_str(include_str!("../../../schemas/examples/bar.v1.json")).unwrap();
    let open_time = example.open_time.plus_micros(minute * 60_000_000);
    let instrument = Instrument::new("SIM", if minute % 3 == 0 { "삼성" } else { "BTCUSD" }).unwrap();
    let volume = Quantity::from_scaled(10_i128.pow(37) + i128::from(minute)).unwrap();
    Bar {
        instrument,
        open_time,
        volume,
        vwap: None,
        revision_reason: (minute % 2 == 0).then(|| "late trades".to_owned()),
        ..example
    }
}

type Key = (String, String, i64);

fn key(of: &Observation) -> Key {
    (of.provider.clone(), of.series.clone(), of.period_start.micros())
}

/// What is sent, in order, and what each file has to hold.
fn observations() -> (Vec<Observation>, BTreeMap<&'static str, BTreeMap<Key, Observation>>) {
    let first: Month = "2016-11".parse().unwrap();
    let (mut sent, mut expected) = (Vec::new(), BTreeMap::<_, BTreeMap<_, _>>::new());
    for (number, (market, provider, series, unit)) in (0_i64..).zip(SERIES) {
        let of = expected.entry(market).or_default();
        for month in 0..MONTHS {
            let period = first.plus(month);
            // digits in every place, both signs; each 17th is missing
            let digits = i128::from(number + 1) * 1_000_000_007 * i128::from(month + 1) * 99_999_999_999_971;
            let value =
                (month % 17 != 3).then(|| SeriesValue::from_scaled(if month % 2 == 0 { digits } else { -digits }).unwrap());
            let said = Observation {
                provider: provider.to_owned(),
                series: series.to_owned(),
                period_start: period.start(),
                period_end: period.end(),
                value,
                unit: unit.to_owned(),
                published_at: (number == 2).then(|| period.end().plus_micros(1)),
                vintage: (provider == "FRED").then(|| "2026-11-02".to_owned()),
                receive_time: period.end().plus_micros(number),
            };
            of.insert(key(&said), said.clone());
            sent.push(said.clone());
            if month % 40 == 7 {
                // a later word on the same period; where there are vintages an older one, fetched last, changes nothing
                let later =
                    Observation { value: Some(SeriesValue::ZERO), receive_time: said.receive_time.plus_micros(1), ..said };
                if provider == "FRED" {
                    let older = Observation { vintage: Some("2020-01-01".to_owned()), ..later.clone() };
                    sent.push(later.clone());
                    sent.push(Observation { receive_time: later.receive_time.plus_micros(1), ..older });
                } else {
                    sent.push(later.clone());
                }
                of.insert(key(&later), later);
            }
        }
    }
    let stray = Observation { series: "OF_NO_MARKET".to_owned(), ..sent[2 * 120 + 20].clone() };
    sent.push(Observation { provider: "FRED".to_owned(), ..stray });
    (sent, expected)
}

async fn send(stack: &TestStack, observations: Vec<Observation>) -> anyhow::Result<()> {
    let records = observations.into_iter().map(|one| (format!("{}:{}", one.provider, one.series), one)).collect();
    stack.send(topics::OBSERVATIONS, records).await
}

struct Archiver {
    kafka: String,
    registry: String,
    folder: PathBuf,
    fail_at: PathBuf,
    rows_per_file: u64,
}

impl Archiver {
    fn new(stack: &TestStack) -> anyhow::Result<Self> {
        let (folder, fail_at) = (stack.home().join("archive"), stack.home().join("fail-at"));
        fs::create_dir_all(&folder)?;
        fs::create_dir_all(&fail_at)?;
        let addresses = stack.addresses();
        Ok(Self { kafka: addresses.kafka, registry: addresses.registry, folder, fail_at, rows_per_file: 1_000 })
    }

    fn fail_at(&self, point: &str) -> anyhow::Result<()> {
        Ok(fs::write(self.fail_at.join(point), "now")?)
    }

    /// Runs it to its end, or to its death.
    fn run(&self) -> anyhow::Result<Output> {
        Command::new(env!("CARGO_BIN_EXE_archiver"))
            .env("MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS", &self.kafka)
            .env("MARKETFLOW__REGISTRY__URL", &self.registry)
            .env("MARKETFLOW__ADMIN__LISTEN", "127.0.0.1:0")
            .env("MARKETFLOW__ARCHIVE__TO", &self.folder)
            .env("MARKETFLOW__ARCHIVE__ROWS_PER_FILE", self.rows_per_file.to_string())
            .env("FAIL_AT", &self.fail_at)
            .stdin(Stdio::null())
            .output()
            .context("archiver")
    }

    /// A verb of the command line on this archive.
    fn marketflow(&self, stack: &TestStack, arguments: &[&str]) -> anyhow::Result<Output> {
        let program = Path::new(env!("CARGO_BIN_EXE_archiver")).with_file_name("marketflow");
        let addresses = stack.addresses();
        let mut command = Command::new(program);
        command.args(arguments).arg(&self.folder).env("LANG", "C").env("MARKETFLOW_HOME", stack.home()).stdin(Stdio::null());
        command.env("MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS", addresses.kafka).env("MARKETFLOW__REGISTRY__URL", addresses.registry);
        command.env("MARKETFLOW__CLICKHOUSE__URL", addresses.clickhouse).output().context("marketflow is built by `make build`")
    }

    /// What a run that ended well said it did.
    fn result(&self) -> anyhow::Result<Json> {
        let ended = self.run()?;
        ensure!(ended.status.success(), "{ended:?}");
        let said = String::from_utf8(ended.stdout)?;
        let result =
            said.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok()).find(|line| line["event"] == "result");
        Ok(result.with_context(|| format!("no result in {said}"))?["of"].clone())
    }

    /// The files that a reader sees.
    fn files(&self) -> anyhow::Result<BTreeSet<String>> {
        Ok(self.contents()?.into_keys().filter(|path| path.starts_with("data/") && path.ends_with(".parquet")).collect())
    }

    /// Every file, whole ones and half ones alike.
    fn contents(&self) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let mut found = BTreeSet::new();
        let mut open = vec![self.folder.clone()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    found.insert(path.strip_prefix(&self.folder)?.to_str().context("a plain path")?.to_owned());
                }
            }
        }
        found.into_iter().map(|path| Ok((path.clone(), fs::read(self.folder.join(path))?))).collect()
    }

    /// Whether the archive holds exactly what stands in the log: by the manifests, and by pandas, polars and DuckDB.
    async fn check_log(&self, stack: &TestStack) -> anyhow::Result<()> {
        let mut files = Vec::new();
        self.expect::<Trade>(
            stack,
            topics::TRADES,
            &mut files,
            &[
                ("offset", "long"),
                ("instrument", "text"),
                ("feed", "text"),
                ("event_time", "micros"),
                ("receive_time", "micros"),
                ("price", "decimal(18,8)"),
                ("size", "decimal(38,8)"),
                ("side", "text"),
                ("trade_id", "text"),
                ("sequence", "long"),
                ("import_row", "long"),
                ("conditions", "texts"),
                ("source", "text"),
            ],
        )
        .await?;
        self.expect::<Bar>(
            stack,
            topics::BARS,
            &mut files,
            &[
                ("offset", "long"),
                ("instrument", "text"),
                ("interval", "text"),
                ("open_time", "micros"),
                ("close_time", "micros"),
                ("open", "decimal(18,8)"),
                ("high", "decimal(18,8)"),
                ("low", "decimal(18,8)"),
                ("close", "decimal(18,8)"),
                ("volume", "decimal(38,8)"),
                ("turnover", "decimal(38,8)"),
                ("vwap", "decimal(18,8)"),
                ("trade_count", "long"),
                ("buy_volume", "decimal(38,8)"),
                ("sell_volume", "decimal(38,8)"),
                ("revision", "int"),
                ("quality", "text"),
                ("feed", "text"),
                ("source", "text"),
                ("revision_reason", "text"),
            ],
        )
        .await?;
        python_reads(&self.folder, stack.home(), &Json::from(files))
    }

    async fn expect<R: AvroRecord + Serialize + Send + 'static>(
        &self,
        stack: &TestStack,
        topic: &str,
        files: &mut Vec<Json>,
        columns: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let place = Place::open(self.folder.to_str().context("a plain path")?, false)?;
        let kinds: Json =
            columns.iter().map(|(name, kind)| ((*name).to_owned(), json!(kind))).collect::<serde_json::Map<_, _>>().into();
        let mut rows: BTreeMap<i32, Vec<Json>> = BTreeMap::new();
        for ((partition, offset), record) in read::<R>(stack, topic).await? {
            let mut row = serde_json::to_value(&record)?;
            row["offset"] = json!(offset);
            rows.entry(partition).or_default().push(row);
        }
        for (partition, rows) in rows {
            let manifest = Manifest::read(&place, topic, partition).await?.context("a manifest")?;
            manifest.check()?;
            ensure!(manifest.strays(&place).await?.is_empty(), "{topic}/{partition}: files that no manifest names");
            ensure!(manifest.rows() == rows.len() as u64, "{topic}/{partition}: {} rows of {}", manifest.rows(), rows.len());
            ensure!(manifest.files.iter().all(|file| file.rows <= self.rows_per_file), "{manifest:?}");
            let path = format!("archive/{topic}/partition={partition}/**/*.parquet");
            files.push(json!({ "path": path, "columns": kinds, "order": ["offset"], "rows": rows }));
        }
        Ok(())
    }

    /// Whether the files hold exactly these rows: by our own reader, and by pandas, polars and DuckDB.
    fn check(&self, stack: &TestStack, expected: &BTreeMap<&'static str, BTreeMap<Key, Observation>>) -> anyhow::Result<()> {
        let columns = json!({
            "market": "text", "provider": "text", "series": "text", "period_start": "micros", "period_end": "micros",
            "value": "decimal(38,12)", "unit": "text", "published_at": "micros", "vintage": "text", "receive_time": "micros",
        });
        let mut files = Vec::new();
        for (market, observations) in expected {
            let path = format!("data/{market}.parquet");
            let mut ours = MarketFile::default();
            observations.values().for_each(|one| ours.take(one.clone()));
            ensure!(MarketFile::read(fs::read(self.folder.join(&path))?.into())? == ours, "{market} holds something else");
            let rows: Vec<Json> = observations
                .values()
                .map(|one| {
                    let mut row = serde_json::to_value(one).unwrap();
                    row["market"] = json!(market);
                    row
                })
                .collect();
            files
                .push(json!({ "path": path, "columns": columns, "order": ["provider", "series", "period_start"], "rows": rows }));
        }
        ensure!(self.files()?.len() == expected.len(), "{:?}", self.files()?);
        python_reads(&self.folder, stack.home(), &Json::from(files))
    }
}

/// What stands in a topic, by partition and offset; junk and other records left out.
async fn read<R: AvroRecord + Send + 'static>(stack: &TestStack, topic: &str) -> anyhow::Result<Vec<((i32, i64), R)>> {
    let mut decoder = stack.registry()?.decoder().await?;
    let (reader, topic) = (Reader::new(&stack.kafka())?, topic.to_owned());
    let read = move || {
        let mut found = Vec::new();
        for partition in 0..reader.partition_count(&topic)? {
            reader.read_to_end(&TopicPartition::new(&topic, partition), 0, PATIENCE, |record| {
                if let Ok(one) = decoder.decode::<R>(record.value().unwrap_or_default()) {
                    found.push(((partition, record.offset()), one));
                }
                std::ops::ControlFlow::Continue(())
            })?;
        }
        Ok(found)
    };
    tokio::task::spawn_blocking(read).await?
}

/// `tests/python/archive_check.py` on these files.
fn python_reads(folder: &Path, scratch: &Path, files: &Json) -> anyhow::Result<()> {
    let expected = scratch.join("expected.json");
    fs::write(&expected, serde_json::to_vec(files)?)?;
    let interpreter = marketflow_stack::tools_folder().join("python/bin/python");
    ensure!(interpreter.exists(), "{} is missing; run `make setup`", interpreter.display());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/archive_check.py");
    let output = Command::new(interpreter).arg(script).arg(folder).arg(&expected).stdin(Stdio::null()).output()?;
    let (said, problems) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}\n{said}\n{problems}", output.status);
    ensure!(said.lines().count() == files.as_array().map_or(0, Vec::len), "{said}");
    Ok(())
}
