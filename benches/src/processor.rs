//! The processor's own figures: memory by number of instruments, restore, cost of flows and unfinished bars, one process beside two, and how soon
//! a bar is seen after the watermark passes.

use crate::caught_up;
use crate::load::{self, Ending, Load};
use crate::measure::{self, Cost, CpuLimit, Figures};
use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use marketflow_contract::{Schema, encode_value, headers, topics};
use marketflow_kafka::{KafkaConfig, Outgoing, Producer, ProducerSettings, Reader, TopicPartition};
use marketflow_model::{Control, ControlKind, Feed, FeedState, Timestamp};
use marketflow_testkit::{RandomWalk, TestStack, eventually};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const GROUP: &str = "marketflow-processor";
const PATIENCE: Duration = Duration::from_secs(120);
/// The broker looks for segments to compact about as often.
const COMPACTION: Duration = Duration::from_secs(20);
/// Event time runs so much faster than the wall clock while latency is measured: more windows close.
const SPEED: u32 = 20;

/// Measures the processor's memory, restore, processes and latency.
#[derive(Args)]
pub(crate) struct Settings {
    /// Trades of each load.
    #[arg(long, default_value_t = 4_000_000)]
    trades: usize,
    /// Instruments of the large load.
    #[arg(long, default_value_t = 100_000)]
    instruments: usize,
    /// Trades a second while latency is measured.
    #[arg(long, default_value_t = 50_000)]
    rate: u32,
    /// Seconds of it.
    #[arg(long, default_value_t = 40)]
    seconds: u32,
    /// Only these
    #[arg(long, value_delimiter = ',', default_values = ["memory", "restore", "processes", "latency"])]
    only: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Memory,
    Restore,
    Processes,
    Latency,
}

/// Measures what is asked for, and returns it as a table.
pub(crate) async fn measure(settings: &Settings) -> anyhow::Result<String> {
    let mut table = format!(
        "\n## Processor, {}\n\n{} partitions, {}; revision {}; `make bench-processor`\n\n| what | figure |\n|---|---|\n",
        jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"),
        load::PARTITIONS,
        measure::machine(),
        measure::revision(),
    );
    let mut row = |what: String, figure: String| -> anyhow::Result<()> {
        println!("{what}: {figure}");
        Ok(writeln!(table, "| {what} | {figure} |")?)
    };
    let catching_up =
        |instruments: usize| format!("{} trades of {instruments} instruments in three hours, caught up with", settings.trades);
    if settings.only.contains(&Part::Memory) {
        let off = &[("flows.enabled", "false"), ("live.enabled", "false")][..];
        for (instruments, what, set) in [
            (500, ", flows and unfinished bars on", &[][..]),
            (500, ", both off", off),
            (settings.instruments, ", flows and unfinished bars on", &[]),
        ] {
            let mut stack = TestStack::start_with(&["kafka", "registry"]).await?;
            let load = Load::write(&stack, settings.trades, instruments, Ending::Closed).await?;
            row(catching_up(instruments) + what, catch_up(&mut stack, load, set).await?.to_string())?;
            stack.stop().await;
        }
    }
    if settings.only.contains(&Part::Restore) {
        let mut stack = TestStack::start_with(&["kafka", "registry"]).await?;
        let load = Load::write(&stack, 5 * settings.instruments, settings.instruments, Ending::Open).await?;
        catch_up(&mut stack, load, &[]).await?;
        let (took, records, figures) = restore(&mut stack).await?;
        row(
            format!(
                "restore of {} instruments, five open minutes each, from joining the group to reading on",
                settings.instruments
            ),
            format!("{:.1} s, {records} changelog records; {}", took.as_secs_f64(), figures.cost()),
        )?;
        stack.stop().await;
    }
    if settings.only.contains(&Part::Processes) {
        for (share, of_a_core) in [(None, ""), (Some(0.5), ", half a core each")] {
            for processes in [1, 2] {
                let what =
                    format!("{processes} process(es) of one worker{of_a_core}, {} trades of 500 instruments", settings.trades);
                row(what, processes_of(settings, processes, share).await?)?;
            }
        }
    }
    if settings.only.contains(&Part::Latency) {
        let latencies = latencies(settings).await?;
        let at = |share: f64| latencies.get(position(latencies.len(), share)).map_or(0, Duration::as_millis);
        row(
            format!(
                "from the control that passes a window's end to its bar, read committed, at {} trades/s, {} bars",
                settings.rate,
                latencies.len()
            ),
            format!("p50 {} ms, p90 {} ms, p99 {} ms, max {} ms", at(0.5), at(0.9), at(0.99), at(1.0)),
        )?;
    }
    Ok(table)
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
pub(crate) fn position(count: usize, share: f64) -> usize {
    ((count as f64 * share) as usize).min(count.saturating_sub(1))
}

async fn catch_up(stack: &mut TestStack, load: Load, settings: &[(&str, &str)]) -> anyhow::Result<Figures> {
    let started = Instant::now();
    stack.start_service("processor", settings).await?;
    caught_up(stack, GROUP, topics::TRADES).await?;
    let elapsed = started.elapsed();
    Ok(Figures::new("processor", load, elapsed, &Cost::of(stack, &["processor"])?))
}

/// Kills the processor once the broker has compacted, and measures how long the next one takes for all partitions.
async fn restore(stack: &mut TestStack) -> anyhow::Result<(Duration, i64, Figures)> {
    stack.parts.kill("processor").await?;
    let mut records = changelog_records(stack).await?;
    loop {
        tokio::time::sleep(COMPACTION).await;
        let fewer = changelog_records(stack).await?;
        if fewer * 100 >= records * 98 {
            break;
        }
        records = fewer;
    }
    stack.parts.restart("processor").await?;
    let ready = Instant::now();
    let of_bars = [("stage", topics::CHANGELOG)];
    // from ready, which comes before the group gives out partitions: the join is in it
    let took = eventually(PATIENCE, async || {
        let metrics = stack.metrics("processor").await?;
        let restored = metrics.sum("marketflow_restore_duration_seconds_count", &of_bars);
        ensure!(restored >= f64::from(load::PARTITIONS), "{restored} partitions are restored");
        Ok(ready.elapsed())
    })
    .await?;
    let load = Load { trades: 1_000_000, value_bytes: 0 };
    Ok((took, records, Figures::new("restore", load, took, &Cost::of(stack, &["processor"])?)))
}

async fn changelog_records(stack: &TestStack) -> anyhow::Result<i64> {
    let kafka = stack.kafka();
    tokio::task::spawn_blocking(move || {
        let reader = Reader::new(&kafka)?;
        let mut records = 0;
        for partition in 0..load::PARTITIONS {
            reader.read_to_end(&TopicPartition::new(topics::CHANGELOG, partition), 0, PATIENCE, |_| {
                records += 1;
                ControlFlow::Continue(())
            })?;
        }
        Ok(records)
    })
    .await?
}

/// So many processes, each with one worker and at most this share of a core, started at once on a topic that is full.
async fn processes_of(settings: &Settings, processes: u32, share: Option<f64>) -> anyhow::Result<String> {
    let stack = TestStack::start_with(&["kafka", "registry"]).await?;
    let load = Load::write(&stack, settings.trades, 500, Ending::Closed).await?;
    let (mut children, mut limits) = (Vec::new(), Vec::new());
    let started = Instant::now();
    for ordinal in 0..processes {
        let ordinal = ordinal.to_string();
        let spec = stack.service("processor", &[("worker.ordinal", ordinal.as_str()), ("admin.listen", "127.0.0.1:0")])?;
        let mut command = Command::new(&spec.program);
        command.args(&spec.args).envs(spec.env).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn()?;
        if let Some(share) = share {
            limits.push(CpuLimit::of(child.id(), share));
        }
        children.push(child);
    }
    let done = caught_up(&stack, GROUP, topics::TRADES).await;
    let elapsed = started.elapsed();
    let cost = Cost::of_processes(children.iter().map(|child| ("processor", child.id())));
    for child in &mut children {
        child.kill()?;
        child.wait()?;
    }
    limits.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    done?;
    stack.stop().await;
    Ok(Figures::new("all", load, elapsed, &cost?).to_string())
}

/// Sorted. From when the broker has the control to when the bar is read.
async fn latencies(settings: &Settings) -> anyhow::Result<Vec<Duration>> {
    let mut stack = TestStack::start_with(&["kafka", "registry"]).await?;
    stack.start_service("processor", &[]).await?;
    let ids = stack.registry()?.ids().await?;
    let id = |topic, schema| ids.id(topic, schema).context("schemas are registered");
    let (trade_id, control_id) = (id(topics::TRADES, Schema::Trade)?, id(topics::TRADES, Schema::Control)?);
    let (kafka, mut decoder) = (stack.kafka(), stack.registry()?.decoder().await?);
    let (tell, told) = mpsc::channel::<()>();
    let reading = {
        let kafka = kafka.clone();
        tokio::task::spawn_blocking(move || -> anyhow::Result<Vec<(Timestamp, Instant)>> {
            let reader = Reader::new(&kafka)?;
            let from: Vec<_> = (0..load::PARTITIONS).map(|p| (TopicPartition::new(topics::BARS, p), 0)).collect();
            let (mut seen, mut problem) = (Vec::new(), None);
            reader.follow(&from, Duration::from_millis(100), |record| {
                let at = Instant::now();
                if let Some(value) = record.and_then(|record| record.value().map(<[u8]>::to_vec)) {
                    match decoder.decode::<marketflow_model::Bar>(&value) {
                        Ok(bar) => seen.push((bar.close_time, at)),
                        Err(error) => problem = Some(error),
                    }
                }
                let is_over = problem.is_some() || matches!(told.try_recv(), Err(mpsc::TryRecvError::Disconnected));
                if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            problem.map_or(Ok(seen), |error| Err(error.into()))
        })
    };
    let (rate, seconds) = (settings.rate, settings.seconds);
    let sent = tokio::task::spawn_blocking(move || pace(&kafka, trade_id, control_id, rate, seconds)).await??;
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(tell);
    let seen = reading.await??;
    stack.stop().await;
    let mut latencies = Vec::new();
    for (close, at) in seen {
        // the first control that passed the window's end
        if let Some((_, passed)) = sent.range(close..).next() {
            latencies.push(at.saturating_duration_since(*passed));
        }
    }
    ensure!(!latencies.is_empty(), "no bar was seen");
    latencies.sort_unstable();
    Ok(latencies)
}

/// Sends trades at a rate and controls each second of event time; returns when the controls were sent, by what they are complete through.
fn pace(
    kafka: &KafkaConfig,
    trade_id: u32,
    control_id: u32,
    rate: u32,
    seconds: u32,
) -> anyhow::Result<BTreeMap<Timestamp, Instant>> {
    let producer = Producer::new(kafka, &ProducerSettings::default())?;
    let (feed, start) = (Feed::new("bench"), Timestamp::from_seconds(1_700_000_100));
    let kind = [(headers::KIND, headers::CONTROL.as_bytes())];
    let mut value = Vec::new();
    let mut control = |control: &Control| -> anyhow::Result<()> {
        value.clear();
        encode_value(control, control_id, &mut value);
        for partition in 0..load::PARTITIONS {
            let outgoing = Outgoing::new(topics::TRADES, control.feed.as_str().as_bytes(), &value);
            producer.send(Outgoing { partition: Some(partition), headers: &kind, ..outgoing }, PATIENCE)?;
        }
        Ok(())
    };
    control(&Control { state: FeedState::Up, from: Some(start), ..Control::new(ControlKind::FeedState, feed.clone(), start) })?;
    let per_event_second = rate / SPEED;
    let mut walk = RandomWalk::new(1, feed.clone(), &RandomWalk::instruments(500), start, per_event_second).peekable();
    let (mut sent, mut written, begun) = (BTreeMap::new(), Vec::new(), Instant::now());
    for second in 1..=i64::from(seconds * SPEED) {
        let through = start.plus_micros(second * 1_000_000);
        while let Some(trade) = walk.next_if(|trade| trade.event_time < through) {
            written.clear();
            encode_value(&trade, trade_id, &mut written);
            producer.send(Outgoing::new(topics::TRADES, trade.instrument.as_str().as_bytes(), &written), PATIENCE)?;
        }
        let due = begun + Duration::from_secs(1) * u32::try_from(second)? / SPEED;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        control(&Control { complete_through: Some(through), ..Control::new(ControlKind::Heartbeat, feed.clone(), through) })?;
        sent.insert(through, Instant::now());
    }
    producer.flush(PATIENCE)?;
    ensure!(producer.failed() == 0, "{} records were not delivered", producer.failed());
    Ok(sent)
}
