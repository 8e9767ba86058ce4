//! The loop of a stage whose inputs have one partition each: records in, sums out, exactly once; generic over what is kept.
//!
//! Such a stage has its own group, transactional id and changelog, so no other one waits for it. In each process stands one; the group gives the
//! inputs' only partitions to one of them. What differs between stages is an [`Aggregation`].
//!
//! Next: `flow_worker.rs` and `market_worker.rs`, the two there are.

use crate::assignment::{Stage, rebuild, slot_is_ours};
use crate::config::Config;
use crate::metrics::ProcessorMetrics;
use crate::outputs::{Output, OutputSchemas, encoded};
use crate::processor::{Failed, count_abort, transactions, with_exit};
use crate::state::envelope;
use crate::watchdog::{self, Progress};
use anyhow::{Context, anyhow, ensure};
use marketflow_contract::topics;
use marketflow_engine::{Change, RestoreError};
use marketflow_kafka::{
    Batch, Consumer, GroupSettings, Outgoing, Reader, Rebalance, Record, StartAt, TopicPartition, TransactionalProducer,
};
use marketflow_model::{EnvelopeClass, FlowAggregate};
use marketflow_runtime::{Exit, ExitContext, Stop, on_thread};
use prometheus::IntCounterVec;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The only partition of each input and of the changelog.
pub(crate) const PARTITION: i32 = 0;

/// What a stage does with its records.
pub(crate) trait Aggregation: Sized + 'static {
    /// What it reads, and where its state is.
    const STAGE: Stage;
    /// Its threads are named so.
    const NAME: &'static str;
    /// What it keeps.
    type State;

    /// Its consumer group.
    fn group(config: &Config) -> &str;

    /// State from its changelog.
    fn restore(&self, changes: Vec<Change>) -> Result<Self::State, RestoreError>;

    /// Feeds a record to the state and gathers what follows from it; returns what became of it.
    ///
    /// # Errors
    /// The record cannot be judged now; it stays unread.
    fn take(&mut self, record: &Record<'_>, state: &mut Self::State, pending: &mut Pending) -> Result<&'static str, Failed>;

    /// Gathers what follows from all records of a transaction together.
    fn finish(state: &mut Self::State, pending: &mut Pending);

    /// What changed since the last call.
    fn take_changes(state: &mut Self::State) -> Vec<Change>;

    /// Counts what became of its records.
    fn outcomes(metrics: &ProcessorMetrics) -> &IntCounterVec;
}

/// The record that says a flow.
pub(crate) fn published(flow: &FlowAggregate, schemas: OutputSchemas) -> Output {
    let key = format!("{}/{}", flow.scope, flow.name).into_bytes();
    Output { topic: topics::FLOW_AGGREGATES, partition: None, key, value: Some(encoded(flow, schemas.flow)) }
}

/// Runs a stage until the stop is requested. `aggregation` is made once Kafka answers.
///
/// # Errors
/// As the workers of bars.
pub(crate) async fn run<A: Aggregation>(
    config: Config,
    schemas: OutputSchemas,
    metrics: ProcessorMetrics,
    stop: Stop,
    aggregation: impl FnOnce(&Reader) -> anyhow::Result<A> + Send + 'static,
) -> anyhow::Result<()> {
    let progress = Arc::new(Progress::default());
    let (watched, seen, watched_stop) = (config.clone(), Arc::clone(&progress), stop.clone());
    let watchdog_name = format!("watchdog-{}", A::NAME);
    let watchdog = on_thread(&watchdog_name, move || {
        watchdog::watch(&watched.kafka, A::STAGE, &seen, watched.worker.stuck_after, &watched_stop)
    });
    let work = on_thread(A::NAME, move || {
        let reader = Reader::new(&config.kafka).map_err(with_exit)?;
        let aggregation = aggregation(&reader)?;
        StageWorker::connect(config, &reader, aggregation, schemas, metrics, progress)?.run(&stop)
    });
    tokio::select! {
        ended = work => ended,
        Err(stuck) = watchdog => Err(stuck),
    }
}

struct StageWorker<A: Aggregation> {
    consumer: Consumer,
    work: Work<A>,
}

struct Work<A: Aggregation> {
    slot_name: String,
    config: Config,
    aggregation: A,
    schemas: OutputSchemas,
    metrics: ProcessorMetrics,
    producer: TransactionalProducer,
    /// `None` while the partition is another process's.
    state: Option<A::State>,
    /// Written with the next commit.
    notes: Vec<Change>,
    progress: Arc<Progress>,
    aborts_in_a_row: u32,
}

impl<A: Aggregation> StageWorker<A> {
    fn connect(
        config: Config,
        reader: &Reader,
        aggregation: A,
        schemas: OutputSchemas,
        metrics: ProcessorMetrics,
        progress: Arc<Progress>,
    ) -> anyhow::Result<Self> {
        for topic in A::STAGE.inputs.iter().copied().chain([A::STAGE.changelog]) {
            let count = reader.partition_count(topic).map_err(with_exit)?;
            let cure = "delete the topic, let `marketflow up` create it again, and start once more";
            ensure!(count == 1, anyhow!("{topic} has {count} partitions; it must have one: {cure}").context(Exit::Usage));
        }
        let slot_name = format!("{}-{}", A::group(&config), config.worker.ordinal);
        let producer = transactions(&config, &slot_name)?;
        let mut group = GroupSettings::new(A::group(&config));
        // no static member: with one partition there is nothing to keep, and a broker that stood still may fence a static one by its own second
        // try to join; the transactional id keeps the slot
        group.pause_on_assign = true;
        group.start_at = StartAt::Seek;
        let consumer = Consumer::subscribe(&config.kafka, &group, A::STAGE.inputs).map_err(with_exit)?;
        let work = Work {
            slot_name,
            config,
            aggregation,
            schemas,
            metrics,
            producer,
            state: None,
            notes: Vec::new(),
            progress,
            aborts_in_a_row: 0,
        };
        Ok(Self { consumer, work })
    }

    fn run(&mut self, stop: &Stop) -> anyhow::Result<()> {
        let (interval, max_records) = (self.work.config.worker.commit_interval, self.work.config.worker.max_batch_records);
        while !stop.requested() {
            let started = Instant::now();
            let batch = self.consumer.poll_batch(interval, max_records).map_err(with_exit)?;
            self.work.follow_rebalances(&self.consumer, &batch.rebalances)?;
            match self.work.process(&self.consumer, &batch) {
                Ok(()) => {}
                Err(Failed::Abort(error)) => self.work.abort_and_rebuild(&self.consumer, &error)?,
                Err(Failed::Fatal(error)) => self.work.reconnect(&self.consumer, error)?,
            }
            std::thread::sleep(interval.saturating_sub(started.elapsed()));
        }
        Ok(())
    }
}

impl<A: Aggregation> Work<A> {
    fn follow_rebalances(&mut self, consumer: &Consumer, rebalances: &[Rebalance]) -> anyhow::Result<()> {
        let mut came = false;
        for rebalance in rebalances {
            match rebalance {
                Rebalance::Assigned(partitions) => came |= !partitions.is_empty(),
                Rebalance::Revoked(partitions) | Rebalance::Lost(partitions) => {
                    came = false;
                    self.state = None;
                    partitions.iter().for_each(|gone| self.progress.gone(gone));
                }
            }
        }
        if came { self.rebuild(consumer, "assigned") } else { Ok(()) }
    }

    fn rebuild(&mut self, consumer: &Consumer, reason: &str) -> anyhow::Result<()> {
        let restore = |changes| self.aggregation.restore(changes);
        let rebuilt = rebuild(&self.config, consumer, A::STAGE, PARTITION, restore, &self.progress, &self.metrics)
            .with_context(|| format!("cannot rebuild the state of {}", A::NAME))
            .exit(Exit::Fatal)?;
        (self.state, self.notes) = (Some(rebuilt.state), rebuilt.notes);
        self.metrics.restores.with_label_values(&[reason]).inc();
        Ok(())
    }

    fn process(&mut self, consumer: &Consumer, batch: &Batch<'_>) -> Result<(), Failed> {
        let mut pending = Pending::new(self.schemas);
        for record in batch.records() {
            let Some(state) = &mut self.state else {
                return Err(Failed::Abort(anyhow!("a record came before the state")));
            };
            let outcome = self.aggregation.take(&record, state, &mut pending)?;
            pending.taken(&record, outcome);
            if pending.bytes >= self.config.worker.max_output_bytes {
                self.commit(consumer, std::mem::replace(&mut pending, Pending::new(self.schemas)))?;
            }
        }
        if pending.next.is_empty() { Ok(()) } else { self.commit(consumer, pending) }
    }

    /// Sums, state and offsets in one transaction: all or nothing.
    fn commit(&mut self, consumer: &Consumer, mut pending: Pending) -> Result<(), Failed> {
        let started = Instant::now();
        let mut changes = std::mem::take(&mut self.notes);
        if let Some(state) = &mut self.state {
            A::finish(state, &mut pending);
            changes.extend(A::take_changes(state));
        }
        self.producer.begin()?;
        for output in &pending.records {
            self.producer.send(output.outgoing())?;
        }
        for change in &changes {
            let (key, value) = (Some(change.key.as_slice()), change.value.as_deref());
            self.producer.send(Outgoing { topic: A::STAGE.changelog, partition: Some(PARTITION), key, value, headers: &[] })?;
        }
        let next: Vec<_> = pending.next.iter().map(|(of, next)| (of.clone(), *next)).collect();
        self.producer.commit(&next, consumer)?;
        self.progress.committed(next);
        self.metrics.transactions.with_label_values(&["committed"]).observe(started.elapsed().as_secs_f64());
        pending.publish_counts(&self.metrics, A::outcomes(&self.metrics));
        self.aborts_in_a_row = 0;
        Ok(())
    }

    /// As in the workers of bars: a producer whose transaction outlived its time-out is replaced, one whose slot was taken ends.
    fn reconnect(&mut self, consumer: &Consumer, error: anyhow::Error) -> anyhow::Result<()> {
        let ours = self.state.is_some().then_some(PARTITION);
        if !self.producer.outlived() || !slot_is_ours(consumer, A::STAGE, ours.into_iter()) {
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
        if self.state.take().is_none() {
            return Ok(());
        }
        consumer.pause(&A::STAGE.inputs_of(PARTITION).collect::<Vec<_>>()).map_err(with_exit)?;
        self.rebuild(consumer, "aborted")
    }
}

/// What one transaction is to hold, and counts that become metrics once it is committed.
pub(crate) struct Pending {
    schemas: OutputSchemas,
    records: Vec<Output>,
    bytes: usize,
    next: BTreeMap<TopicPartition, i64>,
    consumed: BTreeMap<String, u64>,
    outcomes: BTreeMap<&'static str, u64>,
    aggregates: BTreeMap<(String, &'static str), u64>,
}

impl Pending {
    fn new(schemas: OutputSchemas) -> Self {
        Self {
            schemas,
            records: Vec::new(),
            bytes: 0,
            next: BTreeMap::new(),
            consumed: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            aggregates: BTreeMap::new(),
        }
    }

    fn taken(&mut self, record: &Record<'_>, outcome: &'static str) {
        self.next.insert(TopicPartition::new(record.topic(), record.partition()), record.offset() + 1);
        *self.consumed.entry(record.topic().to_owned()).or_default() += 1;
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    pub(crate) fn publish(&mut self, flow: &FlowAggregate) {
        let kind = if flow.revision == 0 { "final" } else { "revision" };
        *self.aggregates.entry((flow.scope.clone(), kind)).or_default() += 1;
        self.put(published(flow, self.schemas));
    }

    /// A record this stage cannot read.
    pub(crate) fn dead_letter(&mut self, record: &Record<'_>, reason: &str) {
        let envelope = envelope(record, EnvelopeClass::Undecodable, reason);
        let key = topics::origin_key(&envelope.origin_topic, envelope.origin_partition, envelope.origin_offset);
        let value = Some(encoded(&envelope, self.schemas.dead_letter));
        self.put(Output { topic: topics::DEAD_LETTERS, partition: None, key: key.into_bytes(), value });
    }

    fn put(&mut self, output: Output) {
        self.bytes += output.key.len() + output.value.as_ref().map_or(0, Vec::len);
        self.records.push(output);
    }

    fn publish_counts(&self, metrics: &ProcessorMetrics, outcomes: &IntCounterVec) {
        for (topic, count) in &self.consumed {
            metrics.consumed.with_label_values(&[topic.as_str()]).inc_by(*count);
        }
        for (outcome, count) in &self.outcomes {
            outcomes.with_label_values(&[*outcome]).inc_by(*count);
        }
        for ((scope, kind), count) in &self.aggregates {
            metrics.flow_aggregates.with_label_values(&[scope.as_str(), *kind]).inc_by(*count);
        }
        for record in &self.records {
            metrics.produced.with_label_values(&[record.topic]).inc();
        }
    }
}
