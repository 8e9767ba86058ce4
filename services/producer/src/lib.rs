//! Tick-producer: a venue's public socket in, trades, quotes and in-band controls out, every known hole recorded and repaired.
//!
//! Topics: `schemas/topics.toml`. Guarantees and how they are tested: README.md. It lacks any venue's words (`crates/providers`) and computes
//! nothing from what it carries.
//!
//! Read in this order: `websocket.rs` → `intake.rs` → `feed.rs` → `ledger.rs` → `publish.rs`; beside the path `lines.rs`, `failover.rs`,
//! `backfill.rs`, `ranking.rs`,
//! `restart.rs`.
//! `candles` is the other service of this crate: minute candles by request.
//!
//! Next: `websocket.rs`.

pub mod admin;
pub mod backfill;
pub mod candles;
pub mod config;
pub mod controls;
pub mod failover;
pub mod feed;
pub mod intake;
pub mod ledger;
pub mod lines;
pub mod metrics;
pub mod publish;
pub mod ranking;
pub mod restart;
pub mod state;
pub mod websocket;

pub use config::Config;

use anyhow::Context;
use backfill::Backfill;
use controls::HeartbeatPace;
use failover::Teller;
use feed::Feed;
use intake::Intake;
use ledger::{Ledger, LedgerSettings};
use lines::Lines;
use marketflow_access::{self as access, Passes, SharedBudget, VenueClock};
use marketflow_kafka::{Decoder, Producer, Registry};
use marketflow_metadata::Store;
use marketflow_model::Calendar;
use marketflow_runtime::{Exit, ExitContext, Lifecycle, on_thread};
use metrics::Metrics;
use publish::Publisher;
use ranking::{Look, Rotation};
use state::StateFile;
use std::sync::Arc;
use tokio::sync::mpsc;
use tracing::info;
use websocket::Wire;

/// Every key with its default, commented.
pub const DEFAULTS: &str = include_str!("../default.toml");

/// Requests of people waiting for the feed.
const REQUESTS: usize = 16;
/// Answers of the venue waiting for the feed.
const ANSWERS: usize = 16;

/// Runs the service until it is told to stop.
///
/// # Errors
/// A configuration that cannot be, or a part that is not reachable; the message names the cure.
pub async fn run(config: Config, lifecycle: Lifecycle) -> anyhow::Result<()> {
    let checked = config.validate()?;
    let (provider, standby) = (checked.place.provider, checked.standby);
    let feeds: Vec<_> = std::iter::once(provider.feed()).chain(standby.iter().map(|(place, _)| place.provider.feed())).collect();
    let metrics = Arc::new(Metrics::new(lifecycle.metrics()));
    let clock = VenueClock::connect(&config.clock).await?;

    let registry = Registry::new(&config.registry)?;
    let ids = registry.ids().await.map_err(reachable)?;
    let producer = Arc::new(Producer::new(&config.kafka, &config.publish.settings())?);
    let publisher = {
        let (ids, metrics) = (ids.clone(), metrics.clone());
        let trace_every = config.trace.every;
        on_thread("topics", move || Publisher::new(producer, &ids, trace_every, metrics)).await.exit(Exit::Unreachable)?
    };

    let folder = marketflow_access::folder(&config.state.folder)?;
    let (websocket_url, rest_url) = (checked.place.websocket_url.clone(), checked.place.rest_url.clone());
    let (standby, failover) = standby.unzip();
    let mut places = Vec::new();
    for (place, teller) in std::iter::once(checked.place).chain(standby).zip(Teller::ALL) {
        let file = &config.provider.credentials_file;
        let passes = (1..=place.connections).map(|key| Passes::of_key(key, place.provider, &place.rest_url, &folder, file));
        places.push((passes.collect::<anyhow::Result<Vec<_>>>()?, place, teller));
    }
    // One feed of a key: a second instance waits here, not ready, and takes over. Where there are no keys anybody may listen.
    let named = |(passes, place, _): &(Vec<Option<Passes>>, config::Place, Teller)| {
        passes.iter().flatten().map(|passes| format!("{}-ticks-{}", place.provider.id, passes.owner())).collect::<Vec<_>>()
    };
    let names: Vec<String> = places.iter().flat_map(named).collect();
    let lease = if names.is_empty() {
        None
    } else {
        match Store::open(&config.metadata, &folder).await?.lease(names, &lifecycle.stop()).await? {
            Some(lease) => Some(lease),
            None => return Ok(()),
        }
    };
    let ranking = match checked.ranking {
        Some((ranking, limits)) => {
            let passes = places.first().and_then(|(passes, ..)| passes.first().cloned().flatten());
            let passes = passes.with_context(|| format!("{} issues no passes", provider.id))?;
            let file = folder.join(format!("{}-budget-{}.json", provider.id, passes.owner()));
            let budget = SharedBudget::new(&file, limits, metrics.access.clone())?;
            let (spared, counted) = (config.budget.spared_for_live, metrics.access.clone());
            let client =
                access::Client::new(provider, &rest_url, &config.request, spared, passes, budget, clock.clone(), counted)?;
            Some((Look::new(ranking, &config.ranking), client))
        }
        None => None,
    };
    let state_file = StateFile::new(&folder, provider.id);
    let state = state::merge(&checked.instruments, state_file.read()?);
    let log = {
        let (kafka, decoder) = (config.kafka.clone(), Decoder::new(registry, &ids));
        let instruments: Vec<_> = state.instruments.keys().cloned().collect();
        let (ids_max, records_max) = (config.repair.ids_per_instrument, config.repair.read_back_records);
        on_thread("read-back", move || restart::read_back(&kafka, decoder, provider, &feeds, &instruments, ids_max, records_max))
            .await
            .exit(Exit::Unreachable)?
    };
    let mut first_actions = Vec::new();
    let settings = LedgerSettings {
        disorder_micros: checked.disorder_micros,
        ids_per_instrument: config.repair.ids_per_instrument,
        sweep_interval_micros: checked.sweep_interval_micros,
        failover,
    };
    let ledger = Ledger::new(provider, settings, run_name(), state, log, clock.known(), &mut first_actions);
    let instruments = ledger.instruments();
    info!(
        provider = provider.id,
        instruments = instruments.len(),
        partitions = publisher.partitions(),
        urls = ?places.iter().map(|(_, place, _)| &place.websocket_url).collect::<Vec<_>>(),
        connections = places.iter().map(|(passes, ..)| passes.len()).sum::<usize>(),
        "feeding"
    );

    let intake = Arc::new(Intake::new(config.connection.queue_trades));
    let (jobs, job_queue) = backfill::jobs();
    let (answer_sender, answers) = mpsc::channel(ANSWERS);
    let (request_sender, requests) = mpsc::channel(REQUESTS);
    let asking = Backfill::new(provider, &rest_url, &config.repair, clock.clone(), metrics.clone())?;
    let (mut lines, mut wires) = (Lines::default(), Vec::new());
    for (passes, place, teller) in places {
        for ((line, instruments, commands), passes) in lines.open(teller, place.connections, &instruments).into_iter().zip(passes)
        {
            let wire = Wire {
                provider: place.provider,
                url: place.websocket_url.clone(),
                config: config.connection.clone(),
                first_number: line.first_number(),
                passes,
                clock: clock.clone(),
                intake: intake.clone(),
                metrics: metrics.clone(),
            };
            wires.push((wire, instruments, commands));
        }
    }
    let mut feed = Feed {
        provider,
        websocket_url,
        rest_url,
        clock: clock.clone(),
        ledger,
        publisher,
        intake,
        answers,
        requests,
        lines,
        instruments_max: checked.instruments_max,
        rotation: Rotation::new(checked.rotation),
        jobs,
        state: state_file,
        metrics,
        heartbeat: HeartbeatPace::new(),
    };
    feed.begin(first_actions).await?;
    lifecycle.routes(admin::routes(provider, request_sender.clone()));
    lifecycle.ready();

    // The feed ends last: it still writes what the sockets had read.
    let stop = lifecycle.stop();
    let keeping = wires
        .into_iter()
        .map(|(wire, instruments, commands)| websocket::keep_connected(wire, instruments, commands, stop.clone()));
    let sockets = futures_util::future::try_join_all(keeping);
    let feeding = {
        let (stop, flush_timeout) = (stop.clone(), config.publish.flush_timeout);
        tokio::spawn(async move {
            let fed = feed.run(stop.clone(), flush_timeout).await;
            // A feed that fails takes the service with it.
            stop.request();
            fed
        })
    };
    let ranking_task = ranking.map(|(look, client)| {
        let calendar = Calendar::of_venue(provider.venue);
        tokio::spawn(ranking::watch(look, config.ranking.every, calendar, client, clock.clone(), request_sender, stop.clone()))
    });
    let clock_task = tokio::spawn(clock.run());
    let asking_task = tokio::spawn(asking.run(job_queue, answer_sender));
    let work = async {
        let sockets_ended = sockets.await;
        stop.request();
        let fed = feeding.await.context("the feed's task ended badly")?;
        fed.and(sockets_ended.map(drop))
    };
    let ended = match lease {
        Some(lease) => lease.hold(work).await,
        None => work.await,
    };
    clock_task.abort();
    asking_task.abort();
    ranking_task.iter().for_each(tokio::task::JoinHandle::abort);
    ended
}

/// Unreachable parts end with their own exit code.
fn reachable(problem: marketflow_kafka::Error) -> anyhow::Error {
    let exit = if problem.is_unreachable() { Exit::Unreachable } else { Exit::Failed };
    anyhow::Error::from(problem).context(exit)
}

/// Tells this run's gap and connection ids from those of others.
fn run_name() -> String {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}", since_epoch.as_micros())
}
