//! Candle-producer: a broker's minute candles, as history once and as they end, within what the broker allows one key.
//!
//! Topics: `schemas/topics.toml`. Only one-minute candles are asked for; 5 and 15 minutes are folded from them by the processor. It lacks the
//! broker's words (`crates/providers`) and any sum.
//!
//! Read in this order: `plan.rs` (what it costs) → `client.rs` (one page; calls are `crates/access`) → `reference.rs` (what is listed and halted) and `holidays.rs`
//! (when the exchange opens) → `check.rs` (what is
//! believable) → `publish.rs` (to Kafka) → `journal.rs` and `backfill.rs` (history) → `live.rs` (today); `days.rs` are daily candles.
//!
//! Next: `plan.rs`.

pub mod backfill;
pub mod check;
pub mod client;
pub mod config;
pub mod days;
pub mod holidays;
pub mod journal;
pub mod live;
pub mod metrics;
pub mod plan;
pub mod prices;
pub mod publish;
pub mod reference;

pub use config::{Config, Mode};

use crate::ranking::Look;
use anyhow::Context;
use client::Client;
use marketflow_access::{self as access, Passes, SharedBudget, Symbols, VenueClock};
use marketflow_kafka::{Decoder, Producer, Registry};
use marketflow_metadata::Store;
use marketflow_model::{Feed, Instrument};
use marketflow_providers::{ActiveBy, ranking_of};
use marketflow_runtime::{Exit, ExitContext, Lifecycle, on_thread};
use metrics::Metrics;
use plan::Plan;
use publish::Publisher;
use reference::Watch;
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use tracing::{info, warn};

/// Every key with its default, commented.
pub const DEFAULTS: &str = include_str!("../../candles.toml");

/// Runs the service: until its history is there, or until it is told to stop.
///
/// # Errors
/// A configuration that cannot be, or a part that is not reachable; the message names the cure.
pub async fn run(config: Config, lifecycle: Lifecycle) -> anyhow::Result<()> {
    let checked = config.validate()?;
    let symbols = Symbols::read(&config.provider.symbols, checked.provider, &access::home()).exit(Exit::Usage)?;
    let clock = VenueClock::connect(&config.clock).await?;
    let metrics = Arc::new(Metrics::new(lifecycle.metrics(), checked.provider.id));

    let folder = access::folder(&config.state.folder)?;
    let plan = |symbols: &_, known: &_| Plan::new(&checked, symbols, &config.backfill, known, clock.now()).exit(Exit::Usage);
    // Days reach back beyond what the calendar knows; nothing is planned by sessions then.
    if !matches!(config.mode, Mode::Days | Mode::Price) {
        let here = plan(&symbols, &reference::known_here(&folder, checked.provider.id)?)?;
        if config.mode == Mode::Plan {
            return say(&Said::Plan(&here.summary(&checked.limits)));
        }
    }

    let passes = Passes::new(checked.provider, &checked.rest_url, &folder, &config.provider.credentials_file)?
        .with_context(|| format!("{} issues no passes", checked.provider.id))?;
    let budget_file = folder.join(format!("{}-budget-{}.json", checked.provider.id, passes.owner()));
    let budget = SharedBudget::new(&budget_file, checked.limits.clone(), metrics.access.clone())?;
    let (url, spared) = (&checked.rest_url, config.budget.spared_for_live);
    let (clock_of_calls, counted) = (clock.clone(), metrics.access.clone());
    let calls =
        access::Client::new(checked.provider, url, &config.request, spared, passes.clone(), budget, clock_of_calls, counted)?;
    if config.mode == Mode::Price {
        return prices::run(&checked, &symbols, &calls, &lifecycle.stop()).await;
    }
    let client = Client::new(checked.candles, calls.clone());
    let ranked_by = config.backfill.active_by.ranking().filter(|_| matches!(config.mode, Mode::Backfill | Mode::Days));
    let ranking = ranked_by.map(|by| (by, calls.clone()));

    let registry = Registry::new(&config.registry)?;
    let ids = registry.ids().await.map_err(crate::reachable)?;
    let producer = Arc::new(Producer::new(&config.kafka, &config.publish.settings())?);
    let decoder = Decoder::new(registry, &ids);
    let publisher = {
        let (metrics, flush_timeout) = (metrics.clone(), config.publish.flush_timeout);
        // Not the name of the broker's trades: bars of both would stand in one another's place.
        let feed = Feed::new(&format!("{}-candles", checked.provider.id));
        on_thread("topics", move || Publisher::new(producer, feed, &ids, metrics, flush_timeout)).await.exit(Exit::Unreachable)?
    };
    info!(provider = checked.provider.id, symbols = symbols.all.len(), url = checked.rest_url, "asking for candles");
    let clock_task = tokio::spawn(clock.clone().run());
    let stop = lifecycle.stop();
    let store = Store::open(&config.metadata, &folder).await?;
    let name = format!("{}-candles-{}-{}", checked.provider.id, config.mode.as_str(), passes.owner());
    // Whoever holds the lease works; a second instance waits here, not ready, and takes over.
    let Some(lease) = store.lease([name], &stop).await? else { return Ok(()) };
    let work = async {
        let symbols = match ranking {
            Some((by, calls)) => symbols.most_active_first(&most_active(checked.provider.id, by, &calls).await),
            None => symbols,
        };
        // Daily candles rest on nothing that was said of the instruments.
        if config.mode == Mode::Days {
            lifecycle.ready();
            return days::run(&config, &checked, &symbols, &folder, &calls, &publisher, &clock, &stop).await;
        }
        let (of_clock, to_log, owner) = (clock.clone(), publisher.clone(), passes.owner());
        let mut watch =
            Watch::open(&config, &checked, &symbols.all, &folder, owner, store, calls, to_log, of_clock, decoder).await?;
        let known = watch.known();
        lifecycle.ready();
        match config.mode {
            Mode::Live => {
                let looking = config.reference.daily.then(|| tokio::spawn(watch.daily(stop.clone())));
                let ended =
                    live::run(&config, &checked, &symbols, &folder, client, publisher, clock.clone(), metrics, known, stop).await;
                looking.iter().for_each(tokio::task::JoinHandle::abort);
                ended
            }
            // Those behind the first have ended above.
            Mode::Backfill | Mode::Plan | Mode::Price | Mode::Days => {
                let plan = plan(&symbols, &known.borrow().clone())?;
                backfill::run(&config, &checked, plan, &folder, client, publisher, clock.clone(), metrics, stop).await
            }
            Mode::Reference => match watch.refresh(&stop).await? {
                Some(seen) => say(&Said::Reference(&seen)),
                None => Ok(()),
            },
            Mode::Holidays => match watch.compare(&stop).await? {
                Some(seen) => say(&Said::Holidays(&seen)),
                None => Ok(()),
            },
        }
    };
    let ended = lease.hold(work).await;
    clock_task.abort();
    ended
}

/// The broker's most active instruments; none where it does not tell them: the order is a wish, not a condition.
async fn most_active(provider: &str, by: ActiveBy, calls: &access::Client) -> Vec<Instrument> {
    let Some(ranking) = ranking_of(provider) else { return Vec::new() };
    let asked = calls.ask(&Look { ranking, by, call: ranking.call(by) }).await;
    asked.unwrap_or_else(|problem| {
        warn!(problem = format!("{problem:#}"), "no ranking of the most active instruments; they come as their set lists them");
        Vec::new()
    })
}

/// What a one-shot run says on standard output, a JSON object a line, for whoever started it.
#[derive(Serialize)]
#[serde(tag = "event", content = "of", rename_all = "snake_case")]
pub enum Said<'a> {
    /// What it is going to cost.
    Plan(&'a plan::Summary),
    /// How far it has come.
    Progress(&'a backfill::Progress),
    /// What came of it.
    Result(&'a backfill::RunResult),
    /// What an instrument costs now.
    Price(&'a prices::PriceSaid),
    /// What came of a run for daily candles.
    Days(&'a days::DaysResult),
    /// What came of a look at the broker's instruments.
    Reference(&'a reference::Refreshed),
    /// What came of a look at the exchange's days.
    Holidays(&'a holidays::Compared),
}

/// Keeps a file: written beside and renamed, so it is never half a file.
pub(crate) fn keep(path: &Path, what: &impl Serialize) -> anyhow::Result<()> {
    let doing = || format!("cannot write {}", path.display());
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, serde_json::to_vec(what)?).with_context(doing)?;
    std::fs::rename(&temporary, path).with_context(doing)
}

/// Says it. Whoever no longer listens ends the run.
///
/// # Errors
/// A reader that left.
pub fn say(what: &Said<'_>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, what)?;
    out.write_all(b"\n").and_then(|()| out.flush()).context("nobody reads the progress any more")
}

/// Days in files and results: `2026-11-20`.
pub(crate) mod as_text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::fmt::Display;
    use std::str::FromStr;

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
