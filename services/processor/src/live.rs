//! Unfinished bars for screens: what the open windows hold now, on a topic of their own, at most one update per instrument and `live.every`.
//!
//! Never a result (revision −1), never in a transaction, never waited for: its producer has a small queue of its own, and what does not fit is
//! dropped and counted. Only what is committed is shown. While a worker catches up nothing is sent: who looks at a screen looks at now.
//!
//! Next: `crates/engine/src/partition.rs`, where the open windows are.

use crate::config::Live;
use crate::metrics::ProcessorMetrics;
use marketflow_contract::{encode_value, topics};
use marketflow_engine::Partition;
use marketflow_kafka::{Error, KafkaConfig, Outgoing, Producer, ProducerSettings, SendError};
use marketflow_model::Bar;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tracing::warn;

/// Bounds of what waits for Kafka.
const QUEUE_RECORDS: u32 = 20_000;
const QUEUE_KIB: u32 = 8_192;

/// How often a producer that refuses is spoken of.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Sends the open windows of what changed.
pub(crate) struct LiveBars {
    producer: Producer,
    schema: u32,
    every: Duration,
    metrics: ProcessorMetrics,
    /// Instruments that changed since the last pass: partition, and position in it.
    changed: BTreeSet<(i32, usize)>,
    passed_at: Instant,
    said_at: Option<Instant>,
    /// Kept for their room.
    bars: Vec<Bar>,
    value: Vec<u8>,
}

impl LiveBars {
    /// `None` where it is switched off.
    ///
    /// # Errors
    /// A setting librdkafka does not take.
    pub(crate) fn connect(
        kafka: &KafkaConfig,
        live: &Live,
        schema: u32,
        metrics: ProcessorMetrics,
        now: Instant,
    ) -> Result<Option<Self>, Error> {
        if !live.enabled {
            return Ok(None);
        }
        let settings = ProducerSettings { queue_records: QUEUE_RECORDS, queue_kib: QUEUE_KIB, ..ProducerSettings::default() };
        Ok(Some(Self {
            producer: Producer::new(kafka, &settings)?,
            schema,
            every: live.every,
            metrics,
            changed: BTreeSet::new(),
            passed_at: now,
            said_at: None,
            bars: Vec::new(),
            value: Vec::new(),
        }))
    }

    /// Notes what a partition is about to commit.
    pub(crate) fn changed(&mut self, number: i32, partition: &Partition) {
        self.changed.extend(partition.touched().iter().map(|at| (number, *at)));
    }

    /// The partition's state was thrown away: positions in it mean nothing any more.
    pub(crate) fn forget(&mut self, number: i32) {
        self.changed.retain(|(of, _)| *of != number);
    }

    /// Between two transactions: sends what is due. `behind`: more records wait than one batch takes.
    pub(crate) fn pass(&mut self, partitions: &BTreeMap<i32, Partition>, behind: bool, now: Instant) {
        if now.duration_since(self.passed_at) < self.every {
            return;
        }
        self.passed_at = now;
        let changed = std::mem::take(&mut self.changed);
        if behind {
            return;
        }
        for (number, at) in changed {
            if let Some(partition) = partitions.get(&number) {
                partition.open_bars(at, &mut self.bars);
            }
        }
        let (mut sent, mut dropped) = (0, 0);
        let mut bars = std::mem::take(&mut self.bars);
        for bar in bars.drain(..) {
            self.value.clear();
            encode_value(&bar, self.schema, &mut self.value);
            match self.producer.try_send(Outgoing::new(topics::BARS_LIVE, bar.instrument.as_str().as_bytes(), &self.value)) {
                Ok(()) => sent += 1,
                Err(SendError::Full) => dropped += 1,
                Err(SendError::Other(error)) => {
                    dropped += 1;
                    if self.said_at.is_none_or(|said| now.duration_since(said) >= SAY_EVERY) {
                        self.said_at = Some(now);
                        warn!(%error, "unfinished bars are not taken");
                    }
                }
            }
        }
        self.bars = bars;
        self.metrics.live_bars.with_label_values(&["sent"]).inc_by(sent);
        self.metrics.live_bars.with_label_values(&["dropped"]).inc_by(dropped);
    }
}
