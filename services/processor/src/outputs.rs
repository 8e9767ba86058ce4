//! What one batch produces: encoded records by topic, and counts that become metrics once the batch is committed.

use crate::metrics::ProcessorMetrics;
use crate::silence::ControlSchemas;
use marketflow_contract::{AvroRecord, encode_value, topics};
use marketflow_engine::{Change, Verdict};
use marketflow_kafka::Outgoing;
use marketflow_model::{Bar, BarSource, Envelope};
use std::collections::BTreeMap;

/// One record to produce. `partition: None` = by key.
pub(crate) struct Output {
    pub(crate) topic: &'static str,
    pub(crate) partition: Option<i32>,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
}

impl Output {
    /// As the producer takes it.
    pub(crate) fn outgoing(&self) -> Outgoing<'_> {
        let (key, value) = (Some(self.key.as_slice()), self.value.as_deref());
        Outgoing { topic: self.topic, partition: self.partition, key, value, headers: &[] }
    }
}

/// Schema ids of what the processor writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutputSchemas {
    pub(crate) bar: u32,
    pub(crate) late: u32,
    pub(crate) quarantine: u32,
    pub(crate) dead_letter: u32,
    pub(crate) flow: u32,
    pub(crate) live_bar: u32,
    pub(crate) controls: ControlSchemas,
}

/// Gathered over one batch.
pub(crate) struct Outputs {
    pub(crate) schemas: OutputSchemas,
    pub(crate) records: Vec<Output>,
    pub(crate) bytes: usize,
    changelog_bytes: usize,
    consumed_trades: u64,
    consumed_candles: u64,
    used: u64,
    /// What became of the other data records.
    verdicts: BTreeMap<Verdict, u64>,
    controls: BTreeMap<&'static str, u64>,
    bars: BTreeMap<(String, &'static str), u64>,
}

impl Outputs {
    pub(crate) fn new(schemas: OutputSchemas) -> Self {
        Self {
            schemas,
            records: Vec::new(),
            bytes: 0,
            changelog_bytes: 0,
            consumed_trades: 0,
            consumed_candles: 0,
            used: 0,
            verdicts: BTreeMap::new(),
            controls: BTreeMap::new(),
            bars: BTreeMap::new(),
        }
    }

    /// A record was read from the topic that feeds bars of this source.
    pub(crate) fn consumed(&mut self, source: BarSource) {
        match source {
            BarSource::Candles => self.consumed_candles += 1,
            BarSource::Trades | BarSource::Unknown => self.consumed_trades += 1,
        }
    }

    /// What became of a record; controls are counted by their kind.
    pub(crate) fn verdict(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Control => {}
            Verdict::Used => self.used += 1,
            Verdict::Late | Verdict::Duplicate | Verdict::Quarantined | Verdict::DeadLettered | Verdict::NotSelected => {
                *self.verdicts.entry(verdict).or_default() += 1;
            }
        }
    }

    pub(crate) fn control(&mut self, kind: &'static str) {
        *self.controls.entry(kind).or_default() += 1;
    }

    pub(crate) fn bar(&mut self, bar: &Bar) {
        let kind = if bar.revision == 0 { "final" } else { "revision" };
        *self.bars.entry((bar.interval.to_string(), kind)).or_default() += 1;
        self.put(topics::BARS, None, bar.instrument.as_str().as_bytes().to_vec(), Some(encoded(bar, self.schemas.bar)));
    }

    pub(crate) fn late(&mut self, envelope: &Envelope) {
        self.set_aside(topics::LATE, self.schemas.late, envelope);
    }

    pub(crate) fn quarantine(&mut self, envelope: &Envelope) {
        self.set_aside(topics::QUARANTINE, self.schemas.quarantine, envelope);
    }

    pub(crate) fn dead_letter(&mut self, envelope: &Envelope) {
        self.set_aside(topics::DEAD_LETTERS, self.schemas.dead_letter, envelope);
    }

    fn set_aside(&mut self, topic: &'static str, schema: u32, envelope: &Envelope) {
        let key = topics::origin_key(&envelope.origin_topic, envelope.origin_partition, envelope.origin_offset);
        self.put(topic, None, key.into_bytes(), Some(encoded(envelope, schema)));
    }

    pub(crate) fn change(&mut self, partition: i32, change: Change) {
        self.changelog_bytes += change.key.len() + change.value.as_ref().map_or(0, Vec::len);
        self.put(topics::CHANGELOG, Some(partition), change.key, change.value);
    }

    pub(crate) fn put(&mut self, topic: &'static str, partition: Option<i32>, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        self.records.push(Output { topic, partition, key, value });
    }

    /// The batch is committed: its counts become metrics.
    pub(crate) fn publish_counts(&self, metrics: &ProcessorMetrics) {
        for (topic, count) in [(topics::TRADES, self.consumed_trades), (topics::CANDLES, self.consumed_candles)] {
            metrics.consumed.with_label_values(&[topic]).inc_by(count);
        }
        metrics.trades.with_label_values(&[Verdict::Used.text()]).inc_by(self.used);
        for (verdict, count) in &self.verdicts {
            metrics.trades.with_label_values(&[verdict.text()]).inc_by(*count);
        }
        for (kind, count) in &self.controls {
            metrics.controls.with_label_values(&[*kind]).inc_by(*count);
        }
        for ((interval, kind), count) in &self.bars {
            metrics.bars.with_label_values(&[interval.as_str(), *kind]).inc_by(*count);
        }
        for record in &self.records {
            metrics.produced.with_label_values(&[record.topic]).inc();
        }
        metrics.changelog_bytes.with_label_values(&[topics::CHANGELOG]).inc_by(self.changelog_bytes as u64);
    }
}

pub(crate) fn encoded<R: AvroRecord>(record: &R, schema: u32) -> Vec<u8> {
    let mut value = Vec::with_capacity(160);
    encode_value(record, schema, &mut value);
    value
}
