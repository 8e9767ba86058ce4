//! Archiver: topics in, Parquet out, in a folder or a bucket; killed at any moment and started again it gives the same files.
//!
//! It commits nothing to Kafka: what the files say is where it goes on. It derives nothing: what a row says, a record said.
//!
//! Read in this order: `config.rs` → `partitions.rs` → `markets.rs`; the files themselves are `crates/archive`.
//!
//! Next: `partitions.rs`.

pub mod config;
mod markets;
mod metrics;
mod partitions;
mod said;

pub use config::Config;

use config::Markets;
use marketflow_archive::{Layout, Place};
use marketflow_kafka::{Decoder, KafkaConfig, Reader, Registry};
use marketflow_runtime::{Exit, ExitContext, Lifecycle, Stop, on_thread};
use metrics::Metrics;
use said::{PassResult, Progress, Said};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tracing::{info, warn};

/// Every key with its default, commented.
pub const DEFAULTS: &str = include_str!("../default.toml");

/// A read that stands still for so long has failed.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// Archives what there is, and, where it goes on, what comes, until it is told to stop.
///
/// # Errors
/// A configuration that cannot be, or a part that is not reachable.
pub async fn run(config: Config, lifecycle: Lifecycle) -> anyhow::Result<()> {
    let every = config.archive.every;
    let markets = config.archive.markets().exit(Exit::Usage)?;
    let layouts = config.archive.layouts().exit(Exit::Usage)?;
    let place = Place::open(&config.archive.place(), true)?;
    let registry = Registry::new(&config.registry)?;
    let decoder = registry.decoder().await.map_err(of_kafka)?;
    let stop = lifecycle.stop();
    let metrics = Arc::new(Metrics::new(lifecycle.metrics()));
    let mut archiver = Archiver {
        kafka: config.kafka,
        decoder,
        place,
        markets,
        layouts,
        rows_per_file: config.archive.rows_per_file,
        accept_loss: config.archive.accept_loss,
        handle: Handle::current(),
        stop: stop.clone(),
        metrics,
        is_heard: every.is_zero(),
    };
    lifecycle.ready();
    loop {
        let (after, result) = on_thread("archiver", move || {
            let result = archiver.pass()?;
            Ok((archiver, result))
        })
        .await?;
        archiver = after;
        if stop.requested() {
            return Ok(());
        }
        let files: Vec<&str> = result.markets.iter().filter(|market| market.written).map(|market| market.market).collect();
        info!(written = ?files, "everything up to now is archived");
        if !result.unassigned.is_empty() {
            warn!(series = ?result.unassigned, "these belong to no market; name the file of series they are collected by in archive.series");
        }
        if every.is_zero() {
            Said::Result(result).say();
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = stop.wait() => return Ok(()),
        }
    }
}

/// One that reads topics and writes files, on a plain thread.
struct Archiver {
    kafka: KafkaConfig,
    decoder: Decoder,
    place: Place,
    markets: Markets,
    /// Topics kept record by record.
    layouts: Vec<(String, &'static Layout)>,
    rows_per_file: u64,
    accept_loss: bool,
    /// For what the place is asked.
    handle: Handle,
    stop: Stop,
    metrics: Arc<Metrics>,
    /// Whether somebody reads what it says.
    is_heard: bool,
}

impl Archiver {
    /// Archives what there is.
    fn pass(&mut self) -> anyhow::Result<PassResult> {
        let reader = Reader::new(&self.kafka).map_err(of_kafka)?;
        let mut result = PassResult { partitions: self.archive_partitions(&reader)?, ..PassResult::default() };
        self.merge_markets(&reader, &mut result)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.metrics.last_pass.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        Ok(result)
    }

    fn progress(&self, place: &impl ToString, done: i64, all: i64) {
        if self.is_heard {
            Said::Progress(Progress { place: place.to_string(), done, all }).say();
        }
    }
}

/// Unreachable parts end with their own exit code.
fn of_kafka(problem: marketflow_kafka::Error) -> anyhow::Error {
    let exit = if problem.is_unreachable() { Exit::Unreachable } else { Exit::Failed };
    anyhow::Error::from(problem).context(exit)
}
