//! Flow-producer: monthly and quarterly series of six markets in, observations out, and investors' net buying of Korean shares by day; resumable to the month
//! and the day.
//!
//! Each source is asked by a task of its own at the pace it allows; what is answered goes to Kafka, and only when Kafka has it does the cursor
//! in `resume_tracker.json` move on. What the log holds already is not said again, so a crash in between repeats a request and no record.
//! It lacks any source's words (`crates/providers/src/series`, `…/investors.rs`) and derives nothing: flows are the processor's.
//!
//! Read in this order: `config.rs` → `collect.rs` and `investors.rs` → `journal.rs`.
//!
//! Next: `collect.rs`.

pub mod collect;
pub mod config;
pub mod investors;
pub mod journal;
pub mod metrics;

pub use config::Config;

use anyhow::{Context, ensure};
use collect::{Collector, Endpoint};
use config::Checked;
use investors::Desk;
use journal::Journal;
use marketflow_kafka::{Decoder, Producer, ProducerSettings, Registry};
use marketflow_model::{Month, Timestamp};
use marketflow_runtime::{Exit, ExitContext, Lifecycle, Stop, on_thread};
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
        let days_again = config.investors.update_days;
        let decoder = Decoder::new(registry, &ids);
        let producer = Producer::new(&config.kafka, &ProducerSettings::default())?;
        on_thread("read-back", move || Journal::open(&kafka, producer, decoder, &ids, &files, days_again, metrics))
            .await
            .exit(Exit::Unreachable)?
    };
    let journal = Arc::new(journal);
    let stop = lifecycle.stop();
    let desk = match checked.investors.clone() {
        Some(investors) => Some(Desk::open(&config, investors, journal.clone(), metrics.clone(), stop.clone()).await?),
        None => None,
    };
    lifecycle.ready();

    let mut is_again = false;
    loop {
        let last = config.collect.to.unwrap_or_else(last_ended);
        let work = Work { config: &config, checked: &checked, journal: &journal, metrics: &metrics, desk: desk.as_ref() };
        let failed = work.pass(&stop, last, is_again).await?;
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
        is_again = true;
        info!(wait = ?config.collect.update_every, "all is collected; the next look for new and revised values comes then");
        tokio::select! {
            () = tokio::time::sleep(config.collect.update_every) => {}
            () = stop.wait() => return Ok(()),
        }
    }
}

/// What a pass is made of.
struct Work<'a> {
    config: &'a Config,
    checked: &'a Checked,
    journal: &'a Arc<Journal>,
    metrics: &'a Arc<Metrics>,
    desk: Option<&'a Desk>,
}

impl Work<'_> {
    /// Collects what is due, series up to the month `last`, all sources and the broker at once; again: what was collected last is read once more.
    /// Returns the endpoints that failed.
    async fn pass(&self, stop: &Stop, last: Month, is_again: bool) -> anyhow::Result<Vec<String>> {
        const TEN_YEARS: i32 = 120;
        let collect = &self.config.collect;
        let first = collect.from.unwrap_or_else(|| last.plus(1 - TEN_YEARS));
        let mut sources: BTreeMap<&'static str, Vec<Endpoint>> = BTreeMap::new();
        let mut months_due = 0;
        for (source, series) in &self.checked.series {
            let (endpoint, last) = (series.endpoint(), series.every.last_ended(last));
            let next = self.journal.collected_through(&endpoint).map_or(first, |month| month.plus(1)).max(first);
            let next = if is_again { next.min(last.plus(1 - collect.update_months)) } else { next };
            if next <= last {
                months_due += i64::from(last.months_since(next) + 1);
                sources.entry(source.id()).or_default().push(Endpoint { series: series.clone(), next, last });
            }
        }
        self.metrics.months_due.set(months_due);
        info!(endpoints = self.checked.series.len(), months = months_due, from = %first, to = %last, "collecting");
        let started = Instant::now();
        let mut running = JoinSet::new();
        for (id, endpoints) in sources {
            let (journal, metrics) = (self.journal.clone(), self.metrics.clone());
            let collector = Collector::new(id, self.config, self.checked, journal, metrics, stop.clone())?;
            running.spawn(collector.run(endpoints));
        }
        if let Some(desk) = self.desk {
            running.spawn(desk.clone().collect(is_again.then_some(self.config.investors.update_days)));
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
