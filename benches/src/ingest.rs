//! Live trades of many instruments through one tick-producer that is held to one core: nothing lost, how long a frame takes to Kafka, and what a
//! burst costs in memory.
//!
//! The simulator plays Binance over several connections. Its virtual clock is set going at the moment it shows, so it is the wall's, and a frame's
//! time of receipt compares with the time at which the broker appended its trade, on the same machine's clock.

use crate::measure::{self, Cost, CpuLimit, cpu_seconds};
use anyhow::{Context, ensure};
use clap::Args;
use marketflow_contract::{headers, topics};
use marketflow_kafka::{Reader, TopicPartition};
use marketflow_model::{Control, ControlKind, Source, Timestamp, Trade};
use marketflow_testkit::{Simulator, TestStack, eventually};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(600);
/// Instruments that the venue takes on a connection, with two streams each.
const ON_A_CONNECTION: usize = 500;
/// Virtual time before the first trade.
const LEAD_IN: jiff::SignedDuration = jiff::SignedDuration::from_secs(3);
/// And after the last.
const TAIL: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);
/// For the simulator to make its tape, and for every subscription.
const PREPARE: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// Measures the tick-producer.
#[derive(Args)]
pub(crate) struct Settings {
    /// Instruments, traded as 1/n of the first.
    #[arg(long, default_value_t = 2_000)]
    instruments: usize,
    /// Trades a second.
    #[arg(long, default_value_t = 20_000)]
    rate: usize,
    /// Seconds of it.
    #[arg(long, default_value_t = 60)]
    seconds: usize,
    /// The burst: so many times faster ...
    #[arg(long, default_value_t = 10)]
    burst: usize,
    /// ... for so many seconds.
    #[arg(long, default_value_t = 5)]
    burst_seconds: usize,
    /// Cores that the tick-producer may use.
    #[arg(long, default_value_t = 1.0)]
    cores: f64,
}

/// Measures, and returns it as a table.
pub(crate) async fn measure(settings: &Settings) -> anyhow::Result<String> {
    let mut table = format!(
        "\n## Tick-producer, {}\n\n{} instruments over {} connections, the tick-producer held to {} of a core, simulator and broker beside it; {}; \
         revision {}; `make bench-ingest`\n\n| what | figure |\n|---|---|\n",
        jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"),
        settings.instruments,
        settings.instruments.div_ceil(ON_A_CONNECTION),
        settings.cores,
        measure::machine(),
        measure::revision(),
    );
    let steady = run(settings, 1).await?;
    println!("{steady}");
    writeln!(table, "| {} trades a second for {} s | {steady} |", settings.rate, settings.seconds)?;
    let burst = run(settings, settings.burst).await?;
    println!("{burst}");
    writeln!(table, "| {} times as many for {} s | {burst} |", settings.burst, settings.burst_seconds)?;
    Ok(table)
}

/// A line of the truth; those of trades alone have all of it.
#[derive(Deserialize)]
struct Told {
    line: String,
    #[serde(default)]
    instrument: String,
    #[serde(default)]
    id: String,
}

/// Plays a tape at so many times its rate, and judges what Kafka has.
async fn run(settings: &Settings, times: usize) -> anyhow::Result<String> {
    let seconds = if times == 1 { settings.seconds } else { settings.burst_seconds };
    let (rate, trades) = (settings.rate * times, settings.rate * times * seconds);
    let start = (jiff::Timestamp::now().checked_add(PREPARE)?.as_second().div_euclid(60) + 1) * 60;
    let start = jiff::Timestamp::from_second(start)?;
    let mut stack = TestStack::start_with(&["kafka", "registry"]).await?;
    let tape = format!(
        r#"[{{kind="generated",venue="binance",symbols={},trades={trades},trades_per_second={rate}.0,start="{start}"}}]"#,
        settings.instruments
    );
    let (lead_in, tail) = (format!("{}s", LEAD_IN.as_secs()), format!("{}s", TAIL.as_secs()));
    let played = [("tapes", tape.as_str()), ("start.automatic", "false"), ("clock.lead_in", &lead_in), ("clock.tail", &tail)];
    let simulator = Simulator::start_with(&mut stack, &played).await?;
    let names: Vec<String> = (1..=settings.instruments).map(|number| format!("\"BINANCE:S{number:03}USDT\"")).collect();
    let connections = settings.instruments.div_ceil(ON_A_CONNECTION).to_string();
    let (websocket, rest) = (format!("ws://{}/binance/stream", simulator.wire()), format!("http://{}/binance", simulator.wire()));
    let fed = [
        ("provider.name", "binance"),
        ("provider.websocket_url", &websocket),
        ("provider.rest_url", &rest),
        ("provider.instruments", &format!("[{}]", names.join(","))),
        ("provider.connections", &connections),
    ];
    stack.start_service("tick-producer", &fed).await?;
    let producer = stack.parts.status().into_iter().find(|part| part.name == "tick-producer").and_then(|part| part.pid);
    let producer = producer.context("the tick-producer runs")?;
    let limit = CpuLimit::of(producer, settings.cores)?;
    eventually(PATIENCE, async || {
        let metrics = stack.metrics("tick-producer").await?;
        let active = metrics.sum("marketflow_subscriptions", &[("state", "acknowledged")]);
        #[expect(clippy::cast_precision_loss, reason = "a count of instruments")]
        let all = settings.instruments as f64;
        ensure!(active >= all, "{active} of {all} are acknowledged");
        Ok(())
    })
    .await?;
    let wait = start.duration_since(jiff::Timestamp::now()) - LEAD_IN;
    tokio::time::sleep(Duration::try_from(wait).context("subscribing took longer than a minute")?).await;
    let (before, begun) = (cpu_seconds(producer)?, Instant::now());
    simulator.post("start", &serde_json::json!({})).await?;
    eventually(PATIENCE, async || {
        let status: serde_json::Value = serde_json::from_str(&simulator.get("status").await?)?;
        ensure!(status["finished"] == true, "still playing");
        Ok(())
    })
    .await?;
    let played_for = begun.elapsed();
    let metrics = eventually(PATIENCE, async || {
        let metrics = stack.metrics("tick-producer").await?;
        let open = metrics.sum("marketflow_gaps_open", &[]);
        ensure!(open < 0.5, "{open} gaps are open");
        Ok(metrics)
    })
    .await?;
    let used = cpu_seconds(producer)? - before;
    let cost = Cost::of(&stack, &["tick-producer"])?;

    let mut truth: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for line in simulator.get("truth").await?.lines() {
        let told: Told = serde_json::from_str(line)?;
        if told.line == "trade" {
            truth.entry(told.instrument).or_default().insert(told.id.parse()?);
        }
    }
    let read = Read::from(&stack).await?;
    stack.stop().await;
    drop(limit);
    ensure!(truth == read.ids, "Kafka has {} instruments other than the simulator told", differing(&truth, &read.ids));
    let at = |share: f64| read.waits.get(crate::processor::position(read.waits.len(), share)).copied().unwrap_or_default();
    Ok(format!(
        "{} trades in {:.1} s, all in Kafka, {} twice; gaps {}, dropped for want of room {}; from a frame's receipt to the broker's append p50 {} ms, \
         p99 {} ms, max {} ms; {:.2} of a core, peak {} MB",
        trades,
        played_for.saturating_sub(Duration::try_from(LEAD_IN + TAIL)?).as_secs_f64(),
        read.repeats,
        read.gaps,
        metrics.sum("marketflow_intake_overflow_total", &[]),
        at(0.5),
        at(0.99),
        at(1.0),
        used / (played_for.as_secs_f64()),
        cost.peak_mb(),
    ))
}

fn differing(truth: &BTreeMap<String, BTreeSet<i64>>, read: &BTreeMap<String, BTreeSet<i64>>) -> usize {
    truth.iter().filter(|(name, ids)| read.get(*name) != Some(*ids)).count()
}

/// What the topic of trades holds.
#[derive(Default)]
struct Read {
    ids: BTreeMap<String, BTreeSet<i64>>,
    repeats: usize,
    gaps: usize,
    /// From receipt to append of what came by a frame, milliseconds, sorted.
    waits: Vec<i64>,
}

impl Read {
    async fn from(stack: &TestStack) -> anyhow::Result<Self> {
        let (kafka, mut decoder) = (stack.kafka(), stack.registry()?.decoder().await?);
        tokio::task::spawn_blocking(move || {
            let reader = Reader::new(&kafka)?;
            let (mut read, mut problem) = (Self::default(), None);
            for partition in 0..reader.partition_count(topics::TRADES)? {
                reader.read_to_end(&TopicPartition::new(topics::TRADES, partition), 0, PATIENCE, |record| {
                    let Some(value) = record.value() else { return ControlFlow::Continue(()) };
                    let taken = if record.header(headers::KIND).is_some() {
                        decoder.decode::<Control>(value).map(|control| {
                            read.gaps += usize::from(control.kind == ControlKind::GapOpened);
                        })
                    } else {
                        decoder.decode::<Trade>(value).map(|trade| read.take(&trade, record.timestamp()))
                    };
                    match taken {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(error) => {
                            problem = Some(error);
                            ControlFlow::Break(())
                        }
                    }
                })?;
            }
            read.waits.sort_unstable();
            problem.map_or(Ok(read), |error| Err(error.into()))
        })
        .await?
    }

    fn take(&mut self, trade: &Trade, appended: Option<Timestamp>) {
        let id = trade.sequence.unwrap_or_default();
        if !self.ids.entry(trade.instrument.as_str().to_owned()).or_default().insert(id) {
            self.repeats += 1;
        }
        if let (Source::Websocket, Some(appended)) = (trade.source, appended) {
            // The broker's clock shows whole milliseconds.
            self.waits.push(appended.micros_since(trade.receive_time).div_euclid(1_000).max(0));
        }
    }
}
