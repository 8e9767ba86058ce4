//! Flow-producer: monthly series of six markets in, observations out, resumable to the month.
//!
//! Each source is asked by a task of its own at the pace it allows; what is answered goes to Kafka, and only when Kafka has it does the cursor
//! in `resume_tracker.json` move on. What the log holds already is not said again, so a crash in between repeats a request and no record.
//! It lacks any source's words (`crates/providers/src/series`) and derives nothing: flows are the processor's.
//!
//! Read in this order: `config.rs` → `collect.rs` → `journal.rs`.
//!
//! Next: `collect.rs`.

pub mod collect;
pub mod config;
pub mod journal;
pub mod metrics;

pub use config::Config;

use anyhow::{Context, ensure};
use collect::{Collector, Endpoint};
use config::Checked;
use journal::Journal;
use marketflow_kafka::{Decoder, Producer, ProducerSettings, Registry};
use marketflow_model::{Month, Timestamp};
use marketflow_runtime::{Exit, ExitContext, Lifecycle, on_thread};
use metrics::Metrics;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::task::JoinSet;
use tracing::{info, warn};

/// Every key with its default, commented.
pub const DEFAULTS: &str = include_str!("../default.toml");

/// Runs until everything is collected, or, where it goes on with updates, until it is told to stop.
///
/// # Errors
/// A configuration that cannot be, a part that is not reachable, or endpoints that could not be collected, by name.
pub async fn run(config: Config, lifecycle: Lifecycle) -> anyhow::Result<()> {
    let checked = config.validate().exit(Exit::Usage)?;
    let metrics = Arc::new(Metrics::new(lifecycle.metrics()));
    let registry = Registry::new(&config.registry)?;
    let ids = registry.ids().await.map_err(reachable)?;
    let journal = {
        let (kafka, files, metrics) = (config.kafka.clone(), checked.files.clone(), metrics.clone());
        let decoder = Decoder::new(registry, &ids);
        let producer = Producer::new(&config.kafka, &ProducerSettings::default())?;
        on_thread("read-back", move || Journal::open(&kafka, producer, decoder, &ids, &files, metrics))
            .await
            .exit(Exit::Unreachable)?
    };
    let journal = Arc::new(journal);
    lifecycle.ready();

    let stop = lifecycle.stop();
    let mut again = None;
    loop {
        let last = config.collect.to.unwrap_or_else(last_ended);
        let failed = pass(&config, &checked, &journal, &metrics, &lifecycle, last, again).await?;
        if stop.requested() {
            return Ok(());
        }
        if config.collect.update_every.is_zero() {
            ensure!(
                failed.is_empty(),
                "not collected: {}; why stands in {}; start again to go on where they stopped",
                failed.join(", "),
                checked.files.error_log.display()
            );
            return Ok(());
        }
        again = Some(config.collect.update_months);
        info!(wait = ?config.collect.update_every, "all is collected; the next look for new and revised values comes then");
        tokio::select! {
            () = tokio::time::sleep(config.collect.update_every) => {}
            () = stop.wait() => return Ok(()),
        }
    }
}

/// Collects what is due up to `last`, all sources at once; `again`: so many months are read again. Returns the endpoints that failed.
async fn pass(
    config: &Config,
    checked: &Checked,
    journal: &Arc<Journal>,
    metrics: &Arc<Metrics>,
    lifecycle: &Lifecycle,
    last: Month,
    again: Option<i32>,
) -> anyhow::Result<Vec<String>> {
    const TEN_YEARS: i32 = 120;
    let first = config.collect.from.unwrap_or_else(|| last.plus(1 - TEN_YEARS));
    let mut sources: BTreeMap<&'static str, Vec<Endpoint>> = BTreeMap::new();
    let mut months_due = 0;
    for (source, series) in &checked.series {
        let endpoint = series.endpoint();
        let next = journal.collected_through(&endpoint).map_or(first, |month| month.plus(1)).max(first);
        let next = again.map_or(next, |months| next.min(last.plus(1 - months)));
        if next <= last {
            months_due += i64::from(last.months_since(next) + 1);
            sources.entry(source.id()).or_default().push(Endpoint { series: series.clone(), next });
        }
    }
    metrics.months_due.set(months_due);
    info!(endpoints = checked.series.len(), months = months_due, from = %first, to = %last, "collecting");
    let started = Instant::now();
    let mut running = JoinSet::new();
    for (id, endpoints) in sources {
        let collector = Collector::new(id, config, checked, journal.clone(), metrics.clone(), lifecycle.stop())?;
        running.spawn(collector.run(endpoints, last));
    }
    let (mut failed, mut least) = (Vec::new(), Duration::ZERO);
    while let Some(ended) = running.join_next().await {
        let collected = ended.context("a source's task ended badly")??;
        failed.extend(collected.failed);
        least = least.max(collected.least);
    }
    if failed.is_empty() {
        info!(took = ?started.elapsed(), limits_dictate = ?least, "everything is collected");
    } else {
        warn!(endpoints = ?failed, "not everything is collected");
    }
    Ok(failed)
}

/// Unreachable parts end with their own exit code.
fn reachable(problem: marketflow_kafka::Error) -> anyhow::Error {
    let exit = if problem.is_unreachable() { Exit::Unreachable } else { Exit::Failed };
    anyhow::Error::from(problem).context(exit)
}

/// Now, by the wall clock.
fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}

/// The last month that has ended everywhere: a day later than in UTC.
fn last_ended() -> Month {
    const DAY_MICROS: i64 = 86_400_000_000;
    Month::of(now().plus_micros(-DAY_MICROS)).expect("a present month").plus(-1)
}
