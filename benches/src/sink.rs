//! The sink beside what no sink can do without, and beside ClickHouse's own Kafka engine: the trades topic into tables like `trades_log`, all in
//! one run, so that the rows of the table compare.
//!
//! - `consume + decode`: our batch consumer and decoder, every field read, nothing kept.
//! - `insert, Native` and `insert, RowBinary`: a bare client that inserts the same rows, encoded beforehand by ClickHouse itself.
//! - `sink`: the service, exactly-once design on, from its first record to its last commit.
//! - `Kafka engine`: ClickHouse reads the topic itself (AvroConfluent, a materialised view), at least once.
//! - `catch-up`: the sink after minutes of downtime, while the feed goes on.
//!
//! Next: `load.rs`.
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use crate::load::{Ending, Load, PARTITIONS};
use crate::{caught_up, measure};
use anyhow::{Context, ensure};
use marketflow_contract::{Schema, decode_trade, encode_value, topics};
use marketflow_kafka::{
    Consumer, GroupSettings, KafkaConfig, Outgoing, Producer, ProducerSettings, Reader, Registry, TopicPartition, committed,
};
use marketflow_model::{Feed, Timestamp};
use marketflow_testkit::{RandomWalk, TestStack, eventually};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WITHIN: Duration = Duration::from_secs(300);
/// Columns that a client fills; the table adds `insert_time`.
const COLUMNS: &str = "stream_epoch, topic, partition, offset, append_time, instrument, feed, event_time, receive_time, price, size, side, \
                       trade_id, sequence, import_row, conditions, source";
/// As many as the sink has: one per partition.
const INSERTS_AT_ONCE: usize = 4;

/// How much of it.
#[derive(clap::Args)]
pub(crate) struct Settings {
    /// Trades of the load.
    #[arg(long, default_value_t = 4_000_000)]
    trades: usize,
    /// Instruments of the load.
    #[arg(long, default_value_t = 500)]
    instruments: usize,
    /// Rows a block of the bare client.
    #[arg(long, default_value_t = 100_000)]
    block: usize,
    /// Trades a second of the feed that goes on while the sink catches up.
    #[arg(long, default_value_t = 10_000)]
    live: usize,
    /// Downtime caught up with, in seconds of that feed; 0 leaves it out.
    #[arg(long, default_value_t = 300)]
    downtime: usize,
    /// Runs, of which the medians are printed.
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

/// What one part cost in one run; CPU in seconds.
#[derive(Clone, Copy)]
struct Figure {
    rows: usize,
    seconds: f64,
    /// Our own process, or the sink's.
    client: f64,
    clickhouse: f64,
    /// ClickHouse until its merges had ended.
    merged: f64,
    disk_bytes: usize,
    /// Of sink and ClickHouse; nothing where it would be an earlier part's.
    peak: Option<(u64, u64)>,
}

/// Runs it and returns the table; every run's line is kept in `benches/results`.
pub(crate) async fn measure(args: &Settings, dry_run: bool) -> anyhow::Result<String> {
    ensure!(args.runs > 0 && args.trades > 0 && args.instruments > 0 && args.block > 0, "nothing to measure");
    let mut figures: BTreeMap<(usize, &'static str), Vec<Figure>> = BTreeMap::new();
    let mut raw = String::new();
    let mut value_bytes = 0;
    for run in 1..=args.runs {
        for (at, (name, bytes, figure)) in once(args).await?.into_iter().enumerate() {
            let line = figure.raw(run, name);
            println!("{line}");
            writeln!(raw, "{line}")?;
            value_bytes = bytes;
            figures.entry((at, name)).or_default().push(figure);
        }
    }
    let now = jiff::Timestamp::now();
    let table = table(args, value_bytes, &figures, now)?;
    if !dry_run {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(raw_name(now)), raw)?;
    }
    Ok(table)
}

fn raw_name(now: jiff::Timestamp) -> String {
    format!("sink-{}.txt", now.strftime("%Y-%m-%dT%H%M%SZ"))
}

/// Every part on a stack of its own, in the order of the table.
async fn once(args: &Settings) -> anyhow::Result<Vec<(&'static str, usize, Figure)>> {
    let mut stack = TestStack::start().await?;
    let load = Load::write(&stack, args.trades, args.instruments, Ending::Open).await?;
    let mut parts = vec![("consume + decode", consume(&stack, args.trades).await?)];
    let sink = through_the_sink(&mut stack, args.trades).await?;
    stack.parts.stop_part("sink").await?;
    let by_offset = "CREATE TABLE by_offset ENGINE = MergeTree ORDER BY (partition, offset) AS SELECT * FROM trades_log";
    stack.query(by_offset).await?;
    for (name, format) in [("insert, Native", "Native"), ("insert, RowBinary", "RowBinaryWithNamesAndTypes")] {
        parts.push((name, insert(&stack, format, args.block, args.trades).await?));
    }
    parts.push(("sink", sink));
    stack.query("DROP TABLE by_offset SYNC").await?;
    match kafka_engine(&stack, args.trades).await {
        Ok(figure) => parts.push(("Kafka engine", figure)),
        Err(problem) => println!("no Kafka engine here: {problem:#}"),
    }
    if args.downtime > 0 {
        parts.push(("catch-up", catch_up(&stack, args).await?));
    }
    stack.stop().await;
    Ok(parts.into_iter().map(|(name, figure)| (name, load.value_bytes, figure)).collect())
}

/// Floor A: everything a sink must do before it knows a row.
async fn consume(stack: &TestStack, trades: usize) -> anyhow::Result<Figure> {
    let kafka = stack.kafka();
    let mut decoder = stack.registry()?.decoder().await?;
    let (seconds, client) = tokio::task::spawn_blocking(move || -> anyhow::Result<(f64, f64)> {
        let consumer = Consumer::subscribe(&kafka, &GroupSettings::new("bench-floor"), &[topics::TRADES])?;
        let (mut first, mut rows, mut check) = (None, 0, 0);
        let before = cpu_of_ours()?;
        while rows < trades {
            let batch = consumer.poll_batch(Duration::from_millis(50), 20_000)?;
            if first.is_none() && !batch.is_empty() {
                first = Some(Instant::now());
            }
            for record in batch.records() {
                let (schema, body) = decoder.body(record.value().context("a value")?)?;
                if schema == Schema::Trade {
                    let trade = decode_trade(&body)?;
                    check ^= trade.price.scaled() ^ trade.event_time.micros();
                    rows += 1;
                }
            }
        }
        std::hint::black_box(check);
        Ok((first.map_or(0.0, |first| first.elapsed().as_secs_f64()), cpu_of_ours()? - before))
    })
    .await??;
    Ok(Figure { rows: trades, seconds, client, clickhouse: 0.0, merged: 0.0, disk_bytes: 0, peak: None })
}

/// The service on a full topic.
async fn through_the_sink(stack: &mut TestStack, trades: usize) -> anyhow::Result<Figure> {
    let clickhouse = pid(stack, "clickhouse")?;
    let before = measure::cpu_seconds(clickhouse)?;
    stack.start_service("sink", &[]).await?;
    eventually(WITHIN, async || {
        let read = stack.metrics("sink").await?.sum("marketflow_records_consumed_total", &[]);
        ensure!(read > 0.0, "nothing read yet");
        Ok(())
    })
    .await?;
    let begun = Instant::now();
    caught_up(stack, "marketflow-sink", topics::TRADES).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let sink = pid(stack, "sink")?;
    let (client, until_then) = (measure::cpu_seconds(sink)?, measure::cpu_seconds(clickhouse)? - before);
    let peak = Some((measure::peak_rss_bytes(sink)?, measure::peak_rss_bytes(clickhouse)?));
    merges_end(stack).await?;
    let merged = measure::cpu_seconds(clickhouse)? - before;
    let rows = number(stack, "SELECT count() FROM trades_log").await?;
    ensure!(rows == trades, "{rows} rows for {trades} trades");
    Ok(Figure {
        rows: trades,
        seconds,
        client,
        clickhouse: until_then,
        merged,
        disk_bytes: disk(stack, "trades_log").await?,
        peak,
    })
}

/// Floor B: the rows of `trades_log` into a table like it, block by block in offset order as they came from Kafka, encoded beforehand.
async fn insert(stack: &TestStack, format: &str, block: usize, trades: usize) -> anyhow::Result<Figure> {
    let (url, http) = (stack.addresses().clickhouse, reqwest::Client::new());
    stack.query("CREATE TABLE bare_log AS trades_log").await?;
    let mut blocks = Vec::new();
    for partition in 0..PARTITIONS {
        let rows = number(stack, &format!("SELECT count() FROM by_offset WHERE partition = {partition}")).await?;
        let mut taken = 0;
        while taken < rows {
            let sql = format!(
                "SELECT {COLUMNS} FROM by_offset WHERE partition = {partition} ORDER BY offset LIMIT {block} OFFSET {taken} \
                 SETTINGS max_block_size = {block}, max_threads = 1 FORMAT {format}"
            );
            let answer = http.post(&url).body(sql).send().await?.error_for_status()?;
            blocks.push(answer.bytes().await?);
            taken += block;
        }
    }
    merges_end(stack).await?;
    let clickhouse = pid(stack, "clickhouse")?;
    let (before, client) = (measure::cpu_seconds(clickhouse)?, cpu_of_ours()?);
    let begun = Instant::now();
    let blocks = Arc::new(std::sync::Mutex::new(blocks));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..INSERTS_AT_ONCE {
        let (http, url, blocks, format) = (http.clone(), url.clone(), blocks.clone(), format.to_owned());
        tasks.spawn(async move {
            let statement = format!("INSERT INTO bare_log ({COLUMNS}) FORMAT {format}");
            let settings = [("optimize_on_insert", "0"), ("async_insert", "0"), ("min_insert_block_size_rows", "1048576")];
            loop {
                let next = blocks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
                let Some(body) = next else { return anyhow::Ok(()) };
                let request = http.post(&url).query(&[("query", statement.as_str())]).query(&settings).body(body);
                request.send().await?.error_for_status()?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let (client, until_then) = (cpu_of_ours()? - client, measure::cpu_seconds(clickhouse)? - before);
    merges_end(stack).await?;
    let merged = measure::cpu_seconds(clickhouse)? - before;
    let rows = number(stack, "SELECT count() FROM bare_log").await?;
    ensure!(rows == trades, "{rows} rows for {trades} trades");
    let disk_bytes = disk(stack, "bare_log").await?;
    stack.query("DROP TABLE bare_log SYNC").await?;
    Ok(Figure { rows: trades, seconds, client, clickhouse: until_then, merged, disk_bytes, peak: None })
}

/// ClickHouse's own way: at least once, controls skipped as broken messages, no dead letters.
async fn kafka_engine(stack: &TestStack, trades: usize) -> anyhow::Result<Figure> {
    let addresses = stack.addresses();
    let (broker, registry) = (&addresses.kafka, &addresses.registry);
    stack.query("CREATE TABLE engine_log AS trades_log").await?;
    let source = format!(
        "CREATE TABLE engine_source (instrument String, feed String, event_time DateTime64(6, 'UTC'), receive_time DateTime64(6, 'UTC'), \
         price Decimal(18, 8), size Nullable(Decimal(38, 8)), side String, trade_id Nullable(String), sequence Nullable(Int64), \
         import_row Nullable(Int64), conditions Array(String), source String) \
         ENGINE = Kafka('{broker}', '{}', 'bench-engine', 'AvroConfluent') SETTINGS format_avro_schema_registry_url = '{registry}', \
         kafka_num_consumers = 1, kafka_max_block_size = 262144, kafka_poll_max_batch_size = 65536, kafka_flush_interval_ms = 1000, \
         kafka_handle_error_mode = 'stream'",
        topics::TRADES
    );
    stack.query(&source).await?;
    let clickhouse = pid(stack, "clickhouse")?;
    let before = measure::cpu_seconds(clickhouse)?;
    let begun = Instant::now();
    stack
        .query(
            "CREATE MATERIALIZED VIEW engine_view TO engine_log AS SELECT 'bench' AS stream_epoch, _topic AS topic, toInt32(_partition) AS partition, \
             toInt64(_offset) AS offset, _timestamp_ms AS append_time, instrument, feed, event_time, receive_time, price, size, side, trade_id, \
             sequence, import_row, conditions, source FROM engine_source WHERE _error = ''",
        )
        .await?;
    let mut moved = (0, Instant::now());
    loop {
        let rows = number(stack, "SELECT count() FROM engine_log").await?;
        if rows >= trades {
            break;
        }
        if rows > moved.0 {
            moved = (rows, Instant::now());
        }
        ensure!(moved.1.elapsed() < Duration::from_secs(20), "it stands still at {rows} of {trades} rows");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let until_then = measure::cpu_seconds(clickhouse)? - before;
    stack.query("DROP TABLE engine_view SYNC").await?;
    stack.query("DROP TABLE engine_source SYNC").await?;
    merges_end(stack).await?;
    let merged = measure::cpu_seconds(clickhouse)? - before;
    let disk_bytes = disk(stack, "engine_log").await?;
    stack.query("DROP TABLE engine_log SYNC").await?;
    Ok(Figure { rows: trades, seconds, client: 0.0, clickhouse: until_then, merged, disk_bytes, peak: None })
}

/// The sink was away for minutes, and the feed goes on: from its start until no more than two seconds of the feed are missing.
async fn catch_up(stack: &TestStack, args: &Settings) -> anyhow::Result<Figure> {
    let backlog = args.live * args.downtime;
    Load::write(stack, backlog, args.instruments, Ending::Open).await?;
    let clickhouse = pid(stack, "clickhouse")?;
    let before = measure::cpu_seconds(clickhouse)?;
    let over = Arc::new(AtomicBool::new(false));
    let feed = {
        let (over, live, instruments) = (over.clone(), args.live, args.instruments);
        let (kafka, registry) = (stack.kafka(), stack.registry()?);
        tokio::spawn(async move { trickle(&kafka, &registry, live, instruments, &over).await })
    };
    let begun = Instant::now();
    stack.parts.restart("sink").await?;
    lag_below(stack, i64::try_from(2 * args.live)?).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let sink = pid(stack, "sink")?;
    let (client, until_then) = (measure::cpu_seconds(sink)?, measure::cpu_seconds(clickhouse)? - before);
    let peak = Some((measure::peak_rss_bytes(sink)?, measure::peak_rss_bytes(clickhouse)?));
    over.store(true, Ordering::Relaxed);
    let rows = backlog + feed.await??;
    merges_end(stack).await?;
    let merged = measure::cpu_seconds(clickhouse)? - before;
    Ok(Figure { rows, seconds, client, clickhouse: until_then, merged, disk_bytes: 0, peak })
}

/// A feed at a steady rate until `over`; returns how many trades it sent.
async fn trickle(
    kafka: &KafkaConfig,
    registry: &Registry,
    per_second: usize,
    instruments: usize,
    over: &AtomicBool,
) -> anyhow::Result<usize> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let id = registry.ids().await?.id(topics::TRADES, Schema::Trade).context("schemas are registered")?;
    let producer = Producer::new(kafka, &ProducerSettings::default())?;
    let rate = u32::try_from(per_second.max(1)).context("a rate")?;
    let start = Timestamp::from_seconds(1_700_020_000);
    let mut walk = RandomWalk::new(2, Feed::new("bench"), &RandomWalk::instruments(instruments), start, rate);
    let (mut tick, mut sent, mut value) = (tokio::time::interval(Duration::from_millis(100)), 0, Vec::new());
    while !over.load(Ordering::Relaxed) {
        tick.tick().await;
        for trade in walk.by_ref().take(per_second / 10) {
            value.clear();
            encode_value(&trade, id, &mut value);
            producer.send(Outgoing::new(topics::TRADES, trade.instrument.as_str().as_bytes(), &value), PATIENCE)?;
            sent += 1;
        }
    }
    producer.flush(PATIENCE)?;
    Ok(sent)
}

async fn lag_below(stack: &TestStack, records: i64) -> anyhow::Result<()> {
    let kafka = stack.kafka();
    tokio::task::spawn_blocking(move || {
        let reader = Reader::new(&kafka)?;
        let partitions: Vec<TopicPartition> = (0..PARTITIONS).map(|p| TopicPartition::new(topics::TRADES, p)).collect();
        let begun = Instant::now();
        loop {
            let known = committed(&kafka, "marketflow-sink", &partitions, Duration::from_secs(10))?;
            let mut lag = 0;
            for of in &partitions {
                let (_, end) = reader.range(of)?;
                lag += end - known.iter().find(|(known, _)| known == of).map_or(0, |(_, next)| *next);
            }
            if lag <= records {
                return Ok(());
            }
            ensure!(begun.elapsed() < WITHIN, "still {lag} records behind after {WITHIN:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    })
    .await?
}

async fn number(stack: &TestStack, sql: &str) -> anyhow::Result<usize> {
    stack.query(sql).await?.trim().parse().with_context(|| format!("a number from {sql}"))
}

async fn disk(stack: &TestStack, table: &str) -> anyhow::Result<usize> {
    number(stack, &format!("SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND table = '{table}'")).await
}

/// Waits until no merge runs, and none begins for a second.
async fn merges_end(stack: &TestStack) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut quiet = 0;
    while quiet < 4 {
        ensure!(begun.elapsed() < WITHIN, "merges do not end");
        tokio::time::sleep(Duration::from_millis(250)).await;
        quiet = if number(stack, "SELECT count() FROM system.merges").await? == 0 { quiet + 1 } else { 0 };
    }
    Ok(())
}

fn pid(stack: &TestStack, part: &str) -> anyhow::Result<u32> {
    stack.parts.status().into_iter().find(|p| p.name == part).and_then(|p| p.pid).with_context(|| format!("{part} runs"))
}

fn cpu_of_ours() -> anyhow::Result<f64> {
    measure::cpu_seconds(std::process::id())
}

impl Figure {
    fn rate(&self) -> f64 {
        self.rows as f64 / self.seconds
    }

    fn per_million(&self, cpu: f64) -> f64 {
        cpu * 1e6 / self.rows as f64
    }

    fn raw(&self, run: usize, name: &str) -> String {
        let Self { rows, seconds, client, clickhouse, merged, disk_bytes, peak } = self;
        let (sink, server) = peak.unwrap_or_default();
        format!(
            "run={run} part={} rows={rows} secs={seconds:.2} rows_per_s={:.0} client_cpu_s={client:.2} clickhouse_cpu_s={clickhouse:.2} \
             clickhouse_cpu_s_with_merges={merged:.2} disk_bytes={disk_bytes} sink_rss_mb={} clickhouse_rss_mb={}",
            name.replace(' ', "-"),
            self.rate(),
            sink >> 20,
            server >> 20,
        )
    }
}

fn table(
    args: &Settings,
    value_bytes: usize,
    figures: &BTreeMap<(usize, &'static str), Vec<Figure>>,
    now: jiff::Timestamp,
) -> anyhow::Result<String> {
    let mut table = format!(
        "\n## Sink, {}\n\n`make bench-sink`: {} trades of {} instruments, {PARTITIONS} partitions, {value_bytes} bytes a value, {} rows a block of the bare client; median \
         of {} runs. {}, broker, ClickHouse and sink on the same cores; revision {}.\n\n\
         | part | rows/s | MB/s from Kafka | CPU-s per million: client or sink | ClickHouse | both | both, merges ended | bytes a row on disk | peak RSS MB |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---|\n",
        now.strftime("%Y-%m-%d %H:%M UTC"),
        args.trades,
        args.instruments,
        args.block,
        args.runs,
        measure::machine(),
        measure::revision(),
    );
    let mut both = BTreeMap::new();
    for ((_, name), list) in figures {
        let median = |of: &dyn Fn(&Figure) -> f64| {
            let mut values: Vec<f64> = list.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let rate = median(&Figure::rate);
        let (client, clickhouse) = (median(&|f| f.per_million(f.client)), median(&|f| f.per_million(f.clickhouse)));
        let merged = median(&|f| f.per_million(f.merged));
        both.insert(*name, (client + clickhouse, client + merged));
        let disk = median(&|f| f.disk_bytes as f64 / f.rows as f64);
        let disk = if disk > 0.0 { format!("{disk:.1}") } else { String::new() };
        let peak = list.iter().filter_map(|f| f.peak).max();
        let peak = peak.map_or_else(String::new, |(sink, server)| format!("sink {}, clickhouse {}", sink >> 20, server >> 20));
        writeln!(
            table,
            "| {name} | {rate:.0} | {:.0} | {client:.2} | {clickhouse:.2} | {:.2} | {:.2} | {disk} | {peak} |",
            rate * value_bytes as f64 / 1e6,
            client + clickhouse,
            client + merged,
        )?;
    }
    let of = |name: &str| both.get(name).copied().unwrap_or_default();
    let (a, b, sink) = (of("consume + decode"), of("insert, Native"), of("sink"));
    writeln!(
        table,
        "\nSink ÷ (consume + decode + insert, Native): {:.2} in CPU, {:.2} with merges. Every run: `benches/results/{}`",
        sink.0 / (a.0 + b.0),
        sink.1 / (a.1 + b.1),
        raw_name(now)
    )?;
    Ok(table)
}
