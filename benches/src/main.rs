//! Throughput and cost of the whole path on a generated load: the processor alone, the sink alone, and everything at once. `processor`: its own
//! figures (`processor.rs`). `ingest`: the tick-producer's (`ingest.rs`). `sink`: the sink beside its floors (`sink.rs`).
//!
//! Each run has a stack of its own. Prints medians with machine and revision and appends them to `docs/benchmarks.md`. Figures of one run of this
//! program compare with each other; the machine is noisy, so figures of two runs hardly do.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

mod ingest;
mod load;
mod measure;
mod processor;
mod sink;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use load::{Ending, Load};
use marketflow_contract::topics;
use marketflow_kafka::{Reader, TopicPartition, committed};
use marketflow_testkit::{TestStack, eventually};
use measure::{Cost, Figures};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest time one run may take.
const RUN_WITHIN: Duration = Duration::from_secs(900);

/// Measures the processor alone, the sink alone and the whole path.
#[derive(Parser)]
struct Args {
    /// Something else instead.
    #[command(subcommand)]
    what: Option<What>,
    /// Trades of the load.
    #[arg(long, default_value_t = 5_000_000)]
    trades: usize,
    /// Instruments of the load.
    #[arg(long, default_value_t = 500)]
    instruments: usize,
    /// Runs of each, of which the median is printed.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Do not append to docs/benchmarks.md.
    #[arg(long, global = true)]
    dry_run: bool,
}

#[derive(Subcommand)]
enum What {
    /// The processor's memory, restore, processes and latency
    Processor(processor::Settings),
    /// The tick-producer with thousands of instruments, and in a burst
    Ingest(ingest::Settings),
    /// The sink beside its floors and ClickHouse's own Kafka engine
    Sink(sink::Settings),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match &args.what {
        Some(What::Processor(settings)) => return append(&args, &processor::measure(settings).await?),
        Some(What::Ingest(settings)) => return append(&args, &ingest::measure(settings).await?),
        Some(What::Sink(settings)) => return append(&args, &sink::measure(settings, args.dry_run).await?),
        None => {}
    }
    ensure!(args.runs > 0 && args.instruments > 0 && args.trades > 0, "nothing to measure");
    let mut figures = [Vec::new(), Vec::new(), Vec::new()];
    for run in 1..=args.runs {
        println!("run {run} of {}", args.runs);
        for (which, list) in figures.iter_mut().enumerate() {
            let figure = match which {
                0 => alone(&args, "processor", "marketflow-processor").await?,
                1 => alone(&args, "sink", "marketflow-sink").await?,
                _ => whole_path(&args).await?,
            };
            println!("  {figure}");
            list.push(figure);
        }
    }
    let mut table = format!(
        "\n## {}\n\n{} trades, {} instruments, {} partitions, median of {} runs; {}; revision {}\n\n\
         | part | trades/s | CPU-s per million (parts) | peak RSS MB | value bytes |\n|---|---|---|---|---|\n",
        jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"),
        args.trades,
        args.instruments,
        load::PARTITIONS,
        args.runs,
        measure::machine(),
        measure::revision(),
    );
    for list in &mut figures {
        list.sort_by(|a, b| a.trades_per_second.total_cmp(&b.trades_per_second));
        writeln!(table, "{}", list[list.len() / 2].row())?;
    }
    append(&args, &table)
}

fn append(args: &Args, table: &str) -> anyhow::Result<()> {
    println!("{table}");
    if !args.dry_run {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut f| f.write_all(table.as_bytes()))
            .context("cannot append")?;
    }
    Ok(())
}

/// One service on a topic that is already full: from its start until the group has committed everything.
async fn alone(args: &Args, service: &str, group: &'static str) -> anyhow::Result<Figures> {
    let mut stack =
        if service == "sink" { TestStack::start().await? } else { TestStack::start_with(&["kafka", "registry"]).await? };
    let load = Load::write(&stack, args.trades, args.instruments, Ending::Closed).await?;
    let before = Cost::of(&stack, &["clickhouse"])?;
    let started = Instant::now();
    stack.start_service(service, &[]).await?;
    caught_up(&stack, group, topics::TRADES).await?;
    let elapsed = started.elapsed();
    let parts: &[&str] = if service == "sink" { &["sink", "clickhouse"] } else { &["processor"] };
    let cost = Cost::of(&stack, parts)?.since(&before);
    stack.stop().await;
    Ok(Figures::new(service, load, elapsed, &cost))
}

/// Everything at once: from the first trade sent until the last bar is a row.
async fn whole_path(args: &Args) -> anyhow::Result<Figures> {
    let mut stack = TestStack::start().await?;
    for service in ["sink", "processor"] {
        stack.start_service(service, &[]).await?;
    }
    let parts = ["processor", "sink", "clickhouse", "kafka"];
    let before = Cost::of(&stack, &parts)?;
    let started = Instant::now();
    let load = Load::write(&stack, args.trades, args.instruments, Ending::Closed).await?;
    caught_up(&stack, "marketflow-processor", topics::TRADES).await?;
    caught_up(&stack, "marketflow-sink", topics::TRADES).await?;
    // committed offsets say little here: the last thing on the topic is a transaction's marker
    let published = stack.metrics("processor").await?.by("marketflow_bars_total", "kind").values().sum::<f64>().to_string();
    eventually(RUN_WITHIN, async || {
        let rows = stack.query("SELECT count() FROM bars_log").await?;
        ensure!(rows.trim() == published, "{} bars in ClickHouse, {published} published", rows.trim());
        Ok(())
    })
    .await?;
    let elapsed = started.elapsed();
    let rows = stack.query("SELECT count() FROM trades_log").await?;
    ensure!(rows.trim() == args.trades.to_string(), "{} rows for {} trades", rows.trim(), args.trades);
    let cost = Cost::of(&stack, &parts)?.since(&before);
    stack.stop().await;
    Ok(Figures::new("whole path", load, elapsed, &cost))
}

/// Waits until the group's committed offsets have reached the ends of the topic as they are now.
async fn caught_up(stack: &TestStack, group: &'static str, topic: &'static str) -> anyhow::Result<()> {
    let kafka = stack.kafka();
    tokio::task::spawn_blocking(move || {
        let reader = Reader::new(&kafka)?;
        let begun = Instant::now();
        let partitions: Vec<TopicPartition> =
            (0..reader.partition_count(topic)?).map(|p| TopicPartition::new(topic, p)).collect();
        let ends: Vec<i64> = partitions.iter().map(|p| reader.range(p).map(|(_, end)| end)).collect::<Result<_, _>>()?;
        loop {
            // a group that is only just there has no coordinator yet
            let known = committed(&kafka, group, &partitions, Duration::from_secs(10)).unwrap_or_default();
            let done =
                partitions.iter().zip(&ends).all(|(p, end)| known.iter().any(|(of, next)| of == p && next >= end) || *end == 0);
            if done {
                return Ok(());
            }
            ensure!(begun.elapsed() < RUN_WITHIN, "{group} did not finish {topic} within {RUN_WITHIN:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    })
    .await?
}
