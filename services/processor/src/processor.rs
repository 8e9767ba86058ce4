//! The loop: one plain thread per worker reads a batch, applies it, and commits results, state and offsets in one transaction.
//!
//! Between transactions, and only there, it looks at the stop request and at rebalances. An abort rolls back Kafka but neither memory nor read
//! position, so both are rebuilt from what was committed (`assignment.rs`).
//!
//! Next: `crates/engine/src/partition.rs`, where a trade meets its window.

use crate::assignment::{BARS, Rebuilt, rebuild, slot_is_ours};
use crate::config::{self, Config};
use crate::flow_worker;
use crate::live::LiveBars;
use crate::market_worker;
use crate::metrics::ProcessorMetrics;
use crate::outputs::{OutputSchemas, Outputs};
use crate::repartition;
use crate::silence::{ControlSchemas, Silence};
use crate::state::{apply, source_of};
use crate::watchdog::{self, Progress};
use anyhow::{Context, anyhow, ensure};
use marketflow_contract::{Schema, topics};
use marketflow_engine::{Change, Partition};
use marketflow_kafka::{
    Batch, Consumer, Decoder, Disposition, Ends, Error, GroupSettings, Reader, Rebalance, Registry, SchemaIds, StartAt,
    TopicPartition, TransactionSettings, TransactionalProducer,
};
use marketflow_model::Bar;
use marketflow_runtime::{Exit, ExitContext, Lifecycle, Stop, on_thread};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// How long records may gather before they are looked at again.
const GATHER: Duration = Duration::from_millis(10);

/// How often lag and watermarks are looked at.
const OBSERVE_EVERY: Duration = Duration::from_secs(2);

/// Connects, checks every topic and schema, and runs the workers until the stop is requested or one of them fails.
///
/// # Errors
/// Usage, an unreachable part, a fenced worker; the exit code is in the chain.
pub async fn run(config: Config, lifecycle: Lifecycle) -> anyhow::Result<()> {
    let engine = config.validate()?;
    let market_settings = config.market_flows.enabled.then(|| config.market_settings()).transpose()?;
    let registry = Registry::new(&config.registry).exit(Exit::Usage)?;
    let ids = registry.ids().await.map_err(with_exit)?;
    let schemas = output_schemas(&ids)?;
    check_partitions(&config)?;
    if config.stream.accept_partitions > 0 {
        let (config, gap_limit_micros) = (config.clone(), engine.gap_limit_micros);
        on_thread("repartition", move || repartition::run(&config, gap_limit_micros)).await.exit(Exit::Fatal)?;
    }
    let metrics = ProcessorMetrics::new(lifecycle.metrics());

    let mut workers = tokio::task::JoinSet::new();
    if engine.flows {
        workers.spawn(flow_worker::run(config.clone(), engine.gap_limit_micros, schemas, metrics.clone(), lifecycle.stop()));
    }
    if let Some(settings) = market_settings {
        let decoder = Decoder::new(registry.clone(), &ids);
        workers.spawn(market_worker::run(config.clone(), settings, decoder, schemas, metrics.clone(), lifecycle.stop()));
    }
    for number in 0..config.worker.count {
        let (config, engine, metrics) = (config.clone(), engine.clone(), metrics.clone());
        let (decoder, lifecycle) = (Decoder::new(registry.clone(), &ids), lifecycle.clone());
        workers.spawn(async move {
            let slot = config.slot(number);
            let (watched, stop) = (config.clone(), lifecycle.stop());
            let progress = Arc::new(Progress::default());
            let seen = Arc::clone(&progress);
            let (worker_name, watchdog_name) = (format!("worker-{slot}"), format!("watchdog-{slot}"));
            let watchdog = on_thread(&watchdog_name, move || {
                watchdog::watch(&watched.kafka, BARS, &seen, watched.worker.stuck_after, &stop)
            });
            let work = on_thread(&worker_name, move || {
                let mut worker = Worker::connect(config, engine, &slot, decoder, schemas, metrics, progress)?;
                lifecycle.ready();
                worker.run(&lifecycle.stop())
            });
            // a worker that stands still is left behind: the process ends
            tokio::select! {
                ended = work => ended,
                Err(stuck) = watchdog => Err(stuck),
            }
        });
    }
    let mut result = Ok(());
    while let Some(ended) = workers.join_next().await {
        let ended = ended.map_err(anyhow::Error::from).and_then(|worker| worker);
        if ended.is_err() {
            lifecycle.stop().request();
            result = result.and(ended);
        }
    }
    result
}

fn output_schemas(ids: &SchemaIds) -> anyhow::Result<OutputSchemas> {
    let id = |topic, schema| ids.id(topic, schema).with_context(|| format!("no schema id for {topic}"));
    Ok(OutputSchemas {
        bar: id(topics::BARS, Schema::Bar)?,
        late: id(topics::LATE, Schema::Envelope)?,
        quarantine: id(topics::QUARANTINE, Schema::Envelope)?,
        dead_letter: id(topics::DEAD_LETTERS, Schema::Envelope)?,
        flow: id(topics::FLOW_AGGREGATES, Schema::FlowAggregate)?,
        live_bar: id(topics::BARS_LIVE, Schema::Bar)?,
        controls: ControlSchemas::of(ids)?,
    })
}

/// State belongs to a partition number: inputs and changelog must have the same ones.
fn check_partitions(config: &Config) -> anyhow::Result<()> {
    let reader = Reader::new(&config.kafka).map_err(with_exit)?;
    let count = |topic| reader.partition_count(topic).map_err(with_exit);
    let (trades, candles, changelog) = (count(topics::TRADES)?, count(topics::CANDLES)?, count(topics::CHANGELOG)?);
    ensure!(
        trades == candles && trades == changelog,
        anyhow!(
            "{} has {trades} partitions, {} has {candles}, {} has {changelog}: they must be equal, because state stays with its partition; \
             docs/runbook/processor.md says how partitions are added",
            topics::TRADES,
            topics::CANDLES,
            topics::CHANGELOG
        )
        .context(Exit::Usage)
    );
    Ok(())
}

pub(crate) fn with_exit(error: Error) -> anyhow::Error {
    let exit = if error.is_unreachable() { Exit::Unreachable } else { Exit::Fatal };
    anyhow::Error::from(error).context(exit)
}

pub(crate) fn transactions(config: &Config, slot_name: &str) -> anyhow::Result<TransactionalProducer> {
    TransactionalProducer::connect(&config.kafka, slot_name, TransactionSettings::default()).map_err(with_exit)
}

/// Why a batch did not commit.
pub(crate) enum Failed {
    /// Nothing of it is visible: rebuild and go on.
    Abort(anyhow::Error),
    /// End the process.
    Fatal(anyhow::Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        match error.disposition() {
            Disposition::Retry | Disposition::Abort | Disposition::DeadLetter => Self::Abort(error.into()),
            Disposition::Fatal => Self::Fatal(anyhow::Error::from(error).context(Exit::Fatal)),
        }
    }
}

/// Notes an abort; too many without a commit between them are an error.
pub(crate) fn count_abort(
    in_a_row: &mut u32,
    slot: &str,
    config: &Config,
    metrics: &ProcessorMetrics,
    error: &anyhow::Error,
) -> anyhow::Result<()> {
    *in_a_row += 1;
    warn!(slot, error = format!("{error:#}"), in_a_row = *in_a_row, "transaction aborted; rebuilding from what was committed");
    metrics.transactions.with_label_values(&["aborted"]).observe(0.0);
    ensure!(
        *in_a_row <= config.worker.restart_attempts,
        anyhow!("{in_a_row} aborts without a commit between them; the last: {error:#}").context(Exit::TryAgain)
    );
    Ok(())
}

/// One thread: its consumer, and what it does with the records.
struct Worker {
    consumer: Consumer,
    work: Work,
}

struct Work {
    slot_name: String,
    config: Config,
    engine: marketflow_engine::Config,
    schemas: OutputSchemas,
    metrics: ProcessorMetrics,
    decoder: Decoder,
    producer: TransactionalProducer,
    partitions: BTreeMap<i32, Partition>,
    /// Written with the next commit of a partition.
    notes: BTreeMap<i32, Vec<Change>>,
    progress: Arc<Progress>,
    live: Option<LiveBars>,
    silence: Silence,
    /// Whether the last batch was full: more waits.
    is_behind: bool,
    /// Kept for its room.
    bars: Vec<Bar>,
    aborts_in_a_row: u32,
    ends: Ends,
    observed_at: Instant,
}

impl Worker {
    fn connect(
        config: Config,
        engine: marketflow_engine::Config,
        slot: &str,
        decoder: Decoder,
        schemas: OutputSchemas,
        metrics: ProcessorMetrics,
        progress: Arc<Progress>,
    ) -> anyhow::Result<Self> {
        // the producer first: it fences a predecessor in this slot before anything is read
        let slot_name = format!("{}-{slot}", config.worker.group);
        let producer = transactions(&config, &slot_name)?;
        let mut group = GroupSettings::new(&config.worker.group);
        group.instance_id = Some(slot_name.clone());
        group.pause_on_assign = true;
        group.start_at = StartAt::Seek;
        // what is fetched ahead is most of the memory at a few hundred instruments: a few batches are enough
        group.fetch_queue_records = u32::try_from(3 * config.worker.max_batch_records).unwrap_or(u32::MAX);
        group.fetch_partition_kib = 256;
        let consumer = Consumer::subscribe(&config.kafka, &group, BARS.inputs).map_err(with_exit)?;
        let live = LiveBars::connect(&config.kafka, &config.live, schemas.live_bar, metrics.clone(), Instant::now());
        let live = live.map_err(with_exit)?;
        let silence = Silence::new(&config.kafka, &config.clock, schemas.controls, metrics.clone(), Instant::now());
        let silence = silence.map_err(with_exit)?;
        let ends = Ends::new(&config.kafka).map_err(with_exit)?;
        info!(slot = slot_name, "worker connected");
        let work = Work {
            slot_name,
            config,
            engine,
            schemas,
            metrics,
            decoder,
            producer,
            partitions: BTreeMap::new(),
            notes: BTreeMap::new(),
            progress,
            live,
            silence,
            is_behind: false,
            bars: Vec::new(),
            aborts_in_a_row: 0,
            ends,
            observed_at: Instant::now(),
        };
        Ok(Self { consumer, work })
    }

    fn run(&mut self, stop: &Stop) -> anyhow::Result<()> {
        while !stop.requested() {
            match self.transact(stop)? {
                Ok(()) => {}
                Err(Failed::Abort(error)) => self.work.abort_and_rebuild(&self.consumer, &error)?,
                Err(Failed::Fatal(error)) => self.work.reconnect(&self.consumer, error)?,
            }
            if let Some(live) = &mut self.work.live {
                live.pass(&self.work.partitions, self.work.is_behind, Instant::now());
            }
            self.work.silence.look(&self.work.partitions, &self.consumer, Instant::now());
            self.work.observe(&self.consumer);
        }
        info!("worker drained");
        Ok(())
    }

    /// One transaction: reads for `commit_interval`, or for `catch_up_interval` while more waits, and commits. Batches are small enough to be
    /// worked through while they are still in the processor's cache.
    fn transact(&mut self, stop: &Stop) -> anyhow::Result<Result<(), Failed>> {
        let config::Worker { max_batch_records: max_records, commit_interval, catch_up_interval, .. } = self.work.config.worker;
        let begun = Instant::now();
        let mut interval = commit_interval;
        let mut pending = Pending::new(self.work.schemas);
        loop {
            let batch = self.consumer.poll_batch(interval.saturating_sub(begun.elapsed()), max_records).map_err(with_exit)?;
            if !batch.rebalances.is_empty() && !pending.next.is_empty() {
                // read under an assignment that has ended: not committed, so whoever has the partitions now reads it again
                self.work.start_over(&self.consumer, &batch.rebalances)?;
                return Ok(Ok(()));
            }
            self.work.follow_rebalances(&self.consumer, &batch.rebalances)?;
            if let Err(failed) = self.work.process(&self.consumer, &batch, &mut pending) {
                return Ok(Err(failed));
            }
            // a full batch means there is more
            let is_behind = batch.len() >= max_records;
            self.work.is_behind = is_behind;
            interval = if is_behind { catch_up_interval } else { commit_interval };
            let left = interval.saturating_sub(begun.elapsed());
            if left.is_zero() || stop.requested() {
                return Ok(self.work.commit(&self.consumer, &mut pending));
            }
            if !is_behind {
                // let records gather, so that one look serves many
                std::thread::sleep(left.min(GATHER));
            }
        }
    }
}

/// What was worked through and is not committed yet.
struct Pending {
    outputs: Outputs,
    next: BTreeMap<TopicPartition, i64>,
}

impl Pending {
    fn new(schemas: OutputSchemas) -> Self {
        Self { outputs: Outputs::new(schemas), next: BTreeMap::new() }
    }
}

impl Work {
    /// State of partitions that went is dropped; partitions that came are rebuilt and returned. The input topics are co-partitioned, so
    /// partition N of both comes and goes together.
    fn follow_rebalances(&mut self, consumer: &Consumer, rebalances: &[Rebalance]) -> anyhow::Result<BTreeSet<i32>> {
        let mut came = BTreeSet::new();
        for rebalance in rebalances {
            match rebalance {
                Rebalance::Assigned(partitions) => came.extend(partitions.iter().map(|p| p.partition)),
                Rebalance::Revoked(partitions) | Rebalance::Lost(partitions) => {
                    for gone in partitions {
                        came.remove(&gone.partition);
                        self.partitions.remove(&gone.partition);
                        self.progress.gone(gone);
                    }
                }
            }
        }
        self.rebuild(consumer, &came.iter().copied().collect::<Vec<_>>(), "assigned")?;
        Ok(came)
    }

    /// Follows rebalances while work is pending, which is thereby dropped: partitions that stay are rebuilt as well.
    fn start_over(&mut self, consumer: &Consumer, rebalances: &[Rebalance]) -> anyhow::Result<()> {
        let came = self.follow_rebalances(consumer, rebalances)?;
        let stayed: Vec<i32> = self.partitions.keys().copied().filter(|number| !came.contains(number)).collect();
        self.rebuild_in_place(consumer, stayed, "rebalanced")
    }

    /// As many partitions at a time as there are cores: a restore is bound by them.
    fn rebuild(&mut self, consumer: &Consumer, numbers: &[i32], reason: &str) -> anyhow::Result<()> {
        let at_a_time = std::thread::available_parallelism().map_or(1, NonZero::get);
        for numbers in numbers.chunks(at_a_time) {
            let (config, engine, progress, metrics) = (&self.config, &self.engine, &*self.progress, &self.metrics);
            let rebuild = |number| {
                let restore = |changes| Partition::restore(engine.clone(), changes);
                rebuild(config, consumer, BARS, number, restore, progress, metrics)
                    .with_context(|| format!("cannot rebuild partition {number}"))
                    .exit(Exit::Fatal)
            };
            let rebuilt: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = numbers.iter().map(|number| scope.spawn(|| rebuild(*number))).collect();
                let join = |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
                threads.into_iter().map(join).collect()
            });
            for (number, rebuilt) in numbers.iter().zip(rebuilt) {
                let Rebuilt { state, notes } = rebuilt?;
                self.partitions.insert(*number, state);
                self.notes.insert(*number, notes);
                if let Some(live) = &mut self.live {
                    live.forget(*number);
                }
                self.metrics.restores.with_label_values(&[reason]).inc();
            }
        }
        Ok(())
    }

    /// Works through a batch; what exceeds `max_output_bytes` is committed on the way.
    fn process(&mut self, consumer: &Consumer, batch: &Batch<'_>, pending: &mut Pending) -> Result<(), Failed> {
        for run in batch.runs() {
            let of = TopicPartition::new(run.topic(), run.partition());
            let source = source_of(run.topic());
            let mut records = run.records().peekable();
            while records.peek().is_some() {
                let Some(partition) = self.partitions.get_mut(&of.partition) else {
                    return Err(Failed::Abort(anyhow!("a record of {of} came before its state")));
                };
                let mut read_to = None;
                for record in records.by_ref() {
                    apply(partition, source, &record, &mut self.decoder, &mut self.bars, &mut pending.outputs)
                        .map_err(|error| Failed::Abort(error.into()))?;
                    read_to = Some(record.offset() + 1);
                    if pending.outputs.bytes >= self.config.worker.max_output_bytes {
                        break;
                    }
                }
                pending.next.extend(read_to.map(|offset| (of.clone(), offset)));
                if pending.outputs.bytes >= self.config.worker.max_output_bytes {
                    self.commit(consumer, pending)?;
                }
            }
        }
        Ok(())
    }

    /// Results, state and offsets in one transaction: all or nothing.
    fn commit(&mut self, consumer: &Consumer, pending: &mut Pending) -> Result<(), Failed> {
        let Pending { mut outputs, next } = std::mem::replace(pending, Pending::new(self.schemas));
        if next.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let touched: BTreeSet<i32> = next.keys().map(|of| of.partition).collect();
        for number in touched {
            if let Some(partition) = self.partitions.get_mut(&number) {
                if let Some(live) = &mut self.live {
                    live.changed(number, partition);
                }
                for change in self.notes.remove(&number).into_iter().flatten().chain(partition.take_changes()) {
                    outputs.change(number, change);
                }
                outputs.flows(number, partition);
            }
        }
        self.producer.begin()?;
        for output in &outputs.records {
            self.producer.send(output.outgoing())?;
        }
        let next: Vec<(TopicPartition, i64)> = next.into_iter().collect();
        self.producer.commit(&next, consumer)?;
        self.progress.committed(next);
        self.metrics.transactions.with_label_values(&["committed"]).observe(started.elapsed().as_secs_f64());
        outputs.publish_counts(&self.metrics);
        self.aborts_in_a_row = 0;
        Ok(())
    }

    /// A producer is refused for two reasons: another process took its slot, and then this one ends; or a transaction outlived its time-out,
    /// as when the broker or this process stood still, and then a new producer goes on from what was committed.
    fn reconnect(&mut self, consumer: &Consumer, error: anyhow::Error) -> anyhow::Result<()> {
        if !self.producer.outlived() || !slot_is_ours(consumer, BARS, self.partitions.keys().copied()) {
            return Err(error);
        }
        self.producer = transactions(&self.config, &self.slot_name)?;
        self.abort_and_rebuild(consumer, &error)
    }

    fn abort_and_rebuild(&mut self, consumer: &Consumer, error: &anyhow::Error) -> anyhow::Result<()> {
        count_abort(&mut self.aborts_in_a_row, &self.slot_name, &self.config, &self.metrics, error)?;
        if self.producer.is_open()
            && let Err(refused) = self.producer.abort()
        {
            return self.reconnect(consumer, with_exit(refused));
        }
        std::thread::sleep(Duration::from_millis(50) * self.aborts_in_a_row);
        self.rebuild_in_place(consumer, self.partitions.keys().copied().collect(), "aborted")
    }

    /// Puts partitions that are ours back to what was committed.
    fn rebuild_in_place(&mut self, consumer: &Consumer, numbers: Vec<i32>, reason: &str) -> anyhow::Result<()> {
        let inputs: Vec<TopicPartition> = numbers.iter().flat_map(|number| BARS.inputs_of(*number)).collect();
        consumer.pause(&inputs).map_err(with_exit)?;
        self.rebuild(consumer, &numbers, reason)
    }

    /// Lag and watermarks, every so often; a cluster that does not answer is no reason to stop.
    fn observe(&mut self, consumer: &Consumer) {
        if let Some(ends) = self.ends.answer()
            && let Ok(positions) = consumer.positions()
        {
            for (of, offsets) in ends {
                let Some((_, position)) = positions.iter().find(|(at, _)| *at == of) else { continue };
                let labels = [of.topic.as_str(), &of.partition.to_string()];
                self.metrics.lag.with_label_values(&labels).set((offsets.end - position).max(0));
            }
        }
        if self.observed_at.elapsed() < OBSERVE_EVERY {
            return;
        }
        self.observed_at = Instant::now();
        for (number, partition) in &self.partitions {
            let number = number.to_string();
            let newest = partition.watermarks().filter(|(_, feed, _)| !feed.is_import()).map(|(_, _, watermark)| watermark).max();
            if let Some(newest) = newest.filter(|w| *w > marketflow_model::Timestamp::MIN) {
                self.metrics.watermark.with_label_values(&[topics::TRADES, number.as_str()]).set(newest.micros() / 1_000_000);
            }
        }
        if let Ok(positions) = consumer.positions() {
            self.ends.ask(positions.into_iter().map(|(of, _)| of).collect());
        }
    }
}
