//! Counts what arrives in Kafka while it arrives: trades without the controls between them, and bars; committed records only.

use marketflow_contract::headers::KIND;
use marketflow_contract::topics::{BARS, TRADES};
use marketflow_kafka::{Error, KafkaConfig, Reader, TopicPartition};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// How long a wait for records may last before the stop request is looked at.
const TICK: Duration = Duration::from_millis(50);
/// Between two tries while the broker is away.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The counters; dropping it ends the counting.
#[derive(Debug)]
pub(super) struct Tally(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    trades: AtomicU64,
    bars: AtomicU64,
    stop: AtomicBool,
}

impl Tally {
    /// Begins to count on a thread of its own.
    pub(super) fn begin(kafka: KafkaConfig) -> Self {
        let counters = Arc::new(Counters::default());
        let counting = Arc::clone(&counters);
        thread::spawn(move || {
            let mut next = BTreeMap::new();
            while !counting.stop.load(Ordering::Relaxed) {
                if let Err(error) = count(&kafka, &counting, &mut next) {
                    tracing::debug!(%error, "counting goes on in a moment");
                    thread::sleep(AGAIN_AFTER);
                }
            }
        });
        Self(counters)
    }

    /// Trades in Kafka.
    pub(super) fn trades(&self) -> u64 {
        self.0.trades.load(Ordering::Relaxed)
    }

    /// Bars in Kafka, revisions too.
    pub(super) fn bars(&self) -> u64 {
        self.0.bars.load(Ordering::Relaxed)
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Counts until stopped; `next` says where to go on after an error.
fn count(kafka: &KafkaConfig, counters: &Counters, next: &mut BTreeMap<TopicPartition, i64>) -> Result<(), Error> {
    let reader = Reader::new(kafka)?;
    for topic in [TRADES, BARS] {
        for partition in 0..reader.partition_count(topic)? {
            next.entry(TopicPartition::new(topic, partition)).or_insert(0);
        }
    }
    let from: Vec<(TopicPartition, i64)> = next.iter().map(|(place, offset)| (place.clone(), *offset)).collect();
    reader.follow(&from, TICK, |record| {
        if let Some(record) = record {
            let place = TopicPartition::new(record.topic(), record.partition());
            next.insert(place, record.offset() + 1);
            match record.topic() {
                BARS => _ = counters.bars.fetch_add(1, Ordering::Relaxed),
                _ if record.header(KIND).is_none() => _ = counters.trades.fetch_add(1, Ordering::Relaxed),
                _ => {}
            }
        }
        if counters.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}
