//! Flows across instruments. First stage: what a batch of one input partition adds leaves with its bars, in the same transaction. Second stage:
//! one thread reads what all partitions add, sums, and commits totals, state and offsets in one transaction of its own.
//!
//! The second stage has its own group, transactional id and changelog, so neither stage waits for the other. In each process stands one; the
//! group gives the topic's only partition to one of them.
//!
//! Next: `crates/engine/src/flow_totals.rs`.

use crate::assignment::{Stage, rebuild, slot_is_ours};
use crate::config::Config;
use crate::metrics::ProcessorMetrics;
use crate::outputs::{Output, OutputSchemas, Outputs, encoded};
use crate::processor::{Failed, count_abort, transactions, with_exit};
use crate::state::envelope;
use crate::watchdog::{self, Progress};
use anyhow::{Context, anyhow, ensure};
use marketflow_contract::topics;
use marketflow_engine::{Change, FlowTotals, PartialFlows, PartialOutcome, Partition};
use marketflow_kafka::{
    Batch, Consumer, GroupSettings, Outgoing, Reader, Rebalance, Record, StartAt, TopicPartition, TransactionalProducer,
};
use marketflow_model::{EnvelopeClass, FlowAggregate};
use marketflow_runtime::{Exit, ExitContext, Stop, on_thread};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::warn;

/// What the second stage reads, and where its state is.
pub(crate) const FLOWS: Stage = Stage {
    inputs: &[topics::FLOW_PARTIALS],
    changelog: topics::FLOW_CHANGELOG,
    // what was taken is known by the trades' offsets
    origins: &[topics::FLOW_PARTIALS, topics::TRADES],
};
/// The topic's only partition.
pub(crate) const PARTITION: i32 = 0;

/// How long totals are kept: no revision is older than a gap may be, and the day more is for feeds that are behind others of their group.
pub(crate) fn kept_micros(gap_limit_micros: i64) -> i64 {
    gap_limit_micros.saturating_add(86_400_000_000)
}

impl Outputs {
    /// What an input partition's records since the last commit add to the flows.
    pub(crate) fn flows(&mut self, number: i32, partition: &mut Partition) {
        let (partials, instruments) = partition.take_flows();
        for partial in partials {
            let key = number.to_string().into_bytes();
            self.put(topics::FLOW_PARTIALS, Some(PARTITION), key, Some(partial.encode(number)));
        }
        for flow in instruments {
            let Output { topic, partition, key, value } = published(&flow, self.schemas);
            self.put(topic, partition, key, value);
        }
    }
}

fn published(flow: &FlowAggregate, schemas: OutputSchemas) -> Output {
    let key = format!("{}/{}", flow.scope, flow.name).into_bytes();
    Output { topic: topics::FLOW_AGGREGATES, partition: None, key, value: Some(encoded(flow, schemas.flow)) }
}

/// Runs the second stage until the stop is requested.
///
/// # Errors
/// As the workers of bars.
pub(crate) async fn run(
    config: Config,
    gap_limit_micros: i64,
    schemas: OutputSchemas,
    metrics: ProcessorMetrics,
    stop: Stop,
) -> anyhow::Result<()> {
    let progress = Arc::new(Progress::default());
    let (watched, seen, watched_stop) = (config.clone(), Arc::clone(&progress), stop.clone());
    let watchdog = on_thread("watchdog-flows", move || {
        watchdog::watch(&watched.kafka, FLOWS, &seen, watched.worker.stuck_after, &watched_stop)
    });
    let work = on_thread("flows", move || FlowWorker::connect(config, gap_limit_micros, schemas, metrics, progress)?.run(&stop));
    tokio::select! {
        ended = work => ended,
        Err(stuck) = watchdog => Err(stuck),
    }
}

struct FlowWorker {
    consumer: Consumer,
    work: Work,
}

struct Work {
    slot_name: String,
    config: Config,
    schemas: OutputSchemas,
    metrics: ProcessorMetrics,
    producer: TransactionalProducer,
    /// Of the input topics of bars.
    input_partitions: i32,
    kept_micros: i64,
    /// `None` while the partition is another process's.
    totals: Option<FlowTotals>,
    /// Written with the next commit.
    notes: Vec<Change>,
    progress: Arc<Progress>,
    aborts_in_a_row: u32,
}

impl FlowWorker {
    fn connect(
        config: Config,
        gap_limit_micros: i64,
        schemas: OutputSchemas,
        metrics: ProcessorMetrics,
        progress: Arc<Progress>,
    ) -> anyhow::Result<Self> {
        let reader = Reader::new(&config.kafka).map_err(with_exit)?;
        let input_partitions = reader.partition_count(topics::TRADES).map_err(with_exit)?;
        for topic in [topics::FLOW_PARTIALS, topics::FLOW_CHANGELOG] {
            let count = reader.partition_count(topic).map_err(with_exit)?;
            ensure!(count == 1, anyhow!("{topic} has {count} partitions; it must have one").context(Exit::Usage));
        }
        let slot_name = format!("{}-{}", config.flows.group, config.worker.ordinal);
        let producer = transactions(&config, &slot_name)?;
        let mut group = GroupSettings::new(&config.flows.group);
        // no static member: with one partition there is nothing to keep, and a broker that stood still may fence a static one by its own second
        // try to join; the transactional id keeps the slot
        group.pause_on_assign = true;
        group.start_at = StartAt::Seek;
        let consumer = Consumer::subscribe(&config.kafka, &group, FLOWS.inputs).map_err(with_exit)?;
        let work = Work {
            slot_name,
            config,
            schemas,
            metrics,
            producer,
            input_partitions,
            kept_micros: kept_micros(gap_limit_micros),
            totals: None,
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

impl Work {
    fn follow_rebalances(&mut self, consumer: &Consumer, rebalances: &[Rebalance]) -> anyhow::Result<()> {
        let mut came = false;
        for rebalance in rebalances {
            match rebalance {
                Rebalance::Assigned(partitions) => came |= !partitions.is_empty(),
                Rebalance::Revoked(partitions) | Rebalance::Lost(partitions) => {
                    came = false;
                    self.totals = None;
                    partitions.iter().for_each(|gone| self.progress.gone(gone));
                }
            }
        }
        if came { self.rebuild(consumer, "assigned") } else { Ok(()) }
    }

    fn rebuild(&mut self, consumer: &Consumer, reason: &str) -> anyhow::Result<()> {
        let restore = |changes| FlowTotals::restore(self.input_partitions, self.kept_micros, changes);
        let rebuilt = rebuild(&self.config, consumer, FLOWS, PARTITION, restore, &self.progress, &self.metrics)
            .context("cannot rebuild the totals of flows")
            .exit(Exit::Fatal)?;
        (self.totals, self.notes) = (Some(rebuilt.state), rebuilt.notes);
        self.metrics.restores.with_label_values(&[reason]).inc();
        Ok(())
    }

    fn process(&mut self, consumer: &Consumer, batch: &Batch<'_>) -> Result<(), Failed> {
        let mut pending = Pending::default();
        for record in batch.records() {
            let Some(totals) = &mut self.totals else {
                return Err(Failed::Abort(anyhow!("a partial sum came before its state")));
            };
            pending.take(&record, totals, self.schemas);
            if pending.bytes >= self.config.worker.max_output_bytes {
                self.commit(consumer, std::mem::take(&mut pending))?;
            }
        }
        if pending.next.is_some() { self.commit(consumer, pending) } else { Ok(()) }
    }

    /// Totals, state and offset in one transaction: all or nothing.
    fn commit(&mut self, consumer: &Consumer, pending: Pending) -> Result<(), Failed> {
        let started = Instant::now();
        let mut changes = std::mem::take(&mut self.notes);
        changes.extend(self.totals.as_mut().map(FlowTotals::take_changes).unwrap_or_default());
        self.producer.begin()?;
        for output in &pending.records {
            self.producer.send(output.outgoing())?;
        }
        for change in &changes {
            let (key, value) = (Some(change.key.as_slice()), change.value.as_deref());
            self.producer.send(Outgoing { topic: FLOWS.changelog, partition: Some(PARTITION), key, value, headers: &[] })?;
        }
        let next: Vec<_> =
            pending.next.map(|next| (TopicPartition::new(topics::FLOW_PARTIALS, PARTITION), next)).into_iter().collect();
        self.producer.commit(&next, consumer)?;
        self.progress.committed(next);
        self.metrics.transactions.with_label_values(&["committed"]).observe(started.elapsed().as_secs_f64());
        pending.publish_counts(&self.metrics);
        self.aborts_in_a_row = 0;
        Ok(())
    }

    /// As in the workers of bars: a producer whose transaction outlived its time-out is replaced, one whose slot was taken ends.
    fn reconnect(&mut self, consumer: &Consumer, error: anyhow::Error) -> anyhow::Result<()> {
        let ours = self.totals.is_some().then_some(PARTITION);
        if !self.producer.outlived() || !slot_is_ours(consumer, FLOWS, ours.into_iter()) {
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
        if self.totals.take().is_none() {
            return Ok(());
        }
        consumer.pause(&FLOWS.inputs_of(PARTITION).collect::<Vec<_>>()).map_err(with_exit)?;
        self.rebuild(consumer, "aborted")
    }
}

/// What one transaction is to hold, and counts that become metrics once it is committed.
#[derive(Default)]
struct Pending {
    records: Vec<Output>,
    bytes: usize,
    next: Option<i64>,
    partials: BTreeMap<&'static str, u64>,
    aggregates: BTreeMap<(String, &'static str), u64>,
}

impl Pending {
    fn take(&mut self, record: &Record<'_>, totals: &mut FlowTotals, schemas: OutputSchemas) {
        self.next = Some(record.offset() + 1);
        let mut flows = Vec::new();
        let outcome = match PartialFlows::decode(record.value().unwrap_or_default()) {
            Ok((partition, partial)) => match totals.on_partial(partition, &partial, &mut flows) {
                PartialOutcome::Used => "used",
                PartialOutcome::Repeated => "repeated",
                PartialOutcome::TooOld => {
                    warn!(partition, offset = partial.offset, feed = %partial.feed, "flows of minutes that are not kept any more");
                    "too_old"
                }
            },
            Err(error) => {
                let envelope = envelope(record, EnvelopeClass::Undecodable, &error.to_string());
                let key = topics::origin_key(&envelope.origin_topic, envelope.origin_partition, envelope.origin_offset);
                let value = Some(encoded(&envelope, schemas.dead_letter));
                self.put(Output { topic: topics::DEAD_LETTERS, partition: None, key: key.into_bytes(), value });
                "dead_lettered"
            }
        };
        *self.partials.entry(outcome).or_default() += 1;
        for flow in flows {
            let kind = if flow.revision == 0 { "final" } else { "revision" };
            *self.aggregates.entry((flow.scope.clone(), kind)).or_default() += 1;
            self.put(published(&flow, schemas));
        }
    }

    fn put(&mut self, output: Output) {
        self.bytes += output.key.len() + output.value.as_ref().map_or(0, Vec::len);
        self.records.push(output);
    }

    fn publish_counts(&self, metrics: &ProcessorMetrics) {
        for (outcome, count) in &self.partials {
            metrics.flow_partials.with_label_values(&[*outcome]).inc_by(*count);
            metrics.consumed.with_label_values(&[topics::FLOW_PARTIALS]).inc_by(*count);
        }
        for ((scope, kind), count) in &self.aggregates {
            metrics.flow_aggregates.with_label_values(&[scope.as_str(), *kind]).inc_by(*count);
        }
        for record in &self.records {
            metrics.produced.with_label_values(&[record.topic]).inc();
        }
    }
}
