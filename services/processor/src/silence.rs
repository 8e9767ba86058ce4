//! Feeds that say nothing: the processor writes what it noticed into the log, as CLOCK controls, and acts when it reads them back.
//!
//! So no decision rests on a clock that a replay does not see. A CLOCK carries the time of the feed's own last control, made later by how long
//! nothing has come since, on our monotonic clock: it needs no wall clock and works in a simulator's time as well. Nothing is written while a
//! partition is behind or its broker does not answer, and nothing once a feed is down and all its windows are closed.
//!
//! Next: `crates/engine/src/partition.rs`, which acts on them.

use crate::config::Clock;
use crate::metrics::ProcessorMetrics;
use anyhow::Context;
use marketflow_contract::{Schema, encode_value, headers, topics};
use marketflow_engine::Partition;
use marketflow_kafka::{Consumer, KafkaConfig, Outgoing, Producer, ProducerSettings, SchemaIds, SendError, TopicPartition};
use marketflow_model::{BarSource, Control, ControlKind, Feed, FeedState, Timestamp};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tracing::warn;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A process that stood still itself has not listened: a longer time between two looks counts as this much silence.
const COUNTS_AT_MOST: Duration = Duration::from_secs(2);
/// How long a question to the broker may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Schema ids of controls on the topics they are written to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControlSchemas {
    trades: u32,
    candles: u32,
    feed_status: u32,
}

impl ControlSchemas {
    /// # Errors
    /// A topic that holds no controls.
    pub(crate) fn of(ids: &SchemaIds) -> anyhow::Result<Self> {
        let id = |topic| ids.id(topic, Schema::Control).with_context(|| format!("no schema id for controls on {topic}"));
        Ok(Self { trades: id(topics::TRADES)?, candles: id(topics::CANDLES)?, feed_status: id(topics::FEED_STATUS)? })
    }
}

/// How long each feed of each partition has said nothing.
pub(crate) struct Silence {
    producer: Producer,
    schemas: ControlSchemas,
    settings: Clock,
    metrics: ProcessorMetrics,
    quiet: BTreeMap<(i32, BarSource, Feed), Quiet>,
    looked_at: Instant,
}

struct Quiet {
    /// Of the feed's last control.
    clock: Timestamp,
    /// Controls it had sent by then: a clock may stand still.
    heard: u64,
    since_then: Duration,
    /// How long it was quiet when that was last written.
    written_at: Duration,
    said_down: bool,
}

impl Silence {
    /// # Errors
    /// A setting librdkafka does not take.
    pub(crate) fn new(
        kafka: &KafkaConfig,
        settings: &Clock,
        schemas: ControlSchemas,
        metrics: ProcessorMetrics,
        now: Instant,
    ) -> Result<Self, marketflow_kafka::Error> {
        let queue = ProducerSettings { queue_records: 10_000, queue_kib: 4_096, ..ProducerSettings::default() };
        let (producer, settings) = (Producer::new(kafka, &queue)?, settings.clone());
        Ok(Self { producer, schemas, settings, metrics, quiet: BTreeMap::new(), looked_at: now })
    }

    /// Between two transactions: counts silence, and writes where it has lasted.
    pub(crate) fn look(&mut self, partitions: &BTreeMap<i32, Partition>, consumer: &Consumer, now: Instant) {
        let elapsed = now.duration_since(self.looked_at);
        if elapsed < LOOK_EVERY {
            return;
        }
        self.looked_at = now;
        let mut still_there = BTreeMap::new();
        let mut ends = Ends { consumer, read_through: BTreeMap::new(), is_reachable: true };
        for (number, partition) in partitions {
            for (source, feed, clock, heard) in partition.listened_to() {
                let key = (*number, source, feed.clone());
                let mut quiet = self.quiet.remove(&key).filter(|quiet| quiet.heard == heard).unwrap_or(Quiet {
                    clock,
                    heard,
                    since_then: Duration::ZERO,
                    written_at: Duration::ZERO,
                    said_down: false,
                });
                quiet.since_then += elapsed.min(COUNTS_AT_MOST);
                if quiet.since_then - quiet.written_at >= self.settings.silent_after {
                    self.speak(&key, &mut quiet, &mut ends);
                }
                still_there.insert(key, quiet);
            }
        }
        self.quiet = still_there;
    }

    fn speak(&self, (number, source, feed): &(i32, BarSource, Feed), quiet: &mut Quiet, ends: &mut Ends<'_>) {
        let (topic, schema) = match source {
            BarSource::Candles => (topics::CANDLES, self.schemas.candles),
            BarSource::Trades | BarSource::Unknown => (topics::TRADES, self.schemas.trades),
        };
        if !ends.are_read_through(TopicPartition::new(topic, *number)) {
            // not having read is not silence
            (quiet.since_then, quiet.written_at) = (Duration::ZERO, Duration::ZERO);
            return;
        }
        let micros = i64::try_from(quiet.since_then.as_micros()).unwrap_or(i64::MAX);
        let is_down = quiet.since_then >= self.settings.down_after;
        let control = Control {
            state: if is_down { FeedState::Down } else { FeedState::Unknown },
            reason: Some(format!("no control in {topic}/{number} for {} s", quiet.since_then.as_secs())),
            ..Control::new(ControlKind::Clock, feed.clone(), quiet.clock.plus_micros(micros))
        };
        if self.write(topic, Some(*number), schema, &control) {
            quiet.written_at = quiet.since_then;
        }
        if is_down && !std::mem::replace(&mut quiet.said_down, true) {
            warn!(%feed, topic, partition = number, silent = ?quiet.since_then, "feed is down: it says nothing any more");
            self.write(topics::FEED_STATUS, None, self.schemas.feed_status, &control);
        }
    }

    fn write(&self, topic: &'static str, partition: Option<i32>, schema: u32, control: &Control) -> bool {
        let mut value = Vec::new();
        encode_value(control, schema, &mut value);
        let kind: [(&str, &[u8]); 1] = [(headers::KIND, headers::CONTROL.as_bytes())];
        let record = Outgoing { partition, headers: &kind, ..Outgoing::new(topic, control.feed.as_str().as_bytes(), &value) };
        match self.producer.try_send(record) {
            Ok(()) => {
                self.metrics.produced.with_label_values(&[topic]).inc();
                true
            }
            // at the next look again
            Err(SendError::Full) => false,
            Err(SendError::Other(error)) => {
                warn!(%error, topic, "clock control is not taken");
                false
            }
        }
    }
}

/// Whether everything there is was read; each partition is asked about once in a look, and nothing more after no answer came.
struct Ends<'c> {
    consumer: &'c Consumer,
    read_through: BTreeMap<TopicPartition, bool>,
    is_reachable: bool,
}

impl Ends<'_> {
    fn are_read_through(&mut self, of: TopicPartition) -> bool {
        if !self.is_reachable {
            return false;
        }
        if let Some(known) = self.read_through.get(&of) {
            return *known;
        }
        let answer = self.ask(&of);
        self.is_reachable = answer.is_some();
        *self.read_through.entry(of).or_insert(answer.unwrap_or(false))
    }

    fn ask(&self, of: &TopicPartition) -> Option<bool> {
        let (_, end) = self.consumer.watermarks(of, PATIENCE).ok()?;
        let positions = self.consumer.positions().ok()?;
        if let Some((_, position)) = positions.iter().find(|(at, _)| at == of) {
            return Some(*position >= end);
        }
        // nothing was delivered since the assignment: there is nothing, or not yet
        let committed = self.consumer.committed(std::slice::from_ref(of), PATIENCE).ok()?;
        Some(committed.iter().any(|(_, next)| *next >= end))
    }
}
