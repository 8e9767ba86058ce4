//! Where the feed stood: the last records of each partition read back, so that a new process takes up where the old one was cut.
//!
//! Read from the end backwards in growing steps until each partition shows a heartbeat of the feed, or the log is exhausted.
//!
//! Next: `ledger.rs`, whose first gaps open from here.

use crate::ledger::{LogEnd, Past};
use anyhow::Context;
use marketflow_contract::{Schema, topics};
use marketflow_kafka::{Decoder, KafkaConfig, Reader, Record, TopicPartition, partition_for};
use marketflow_model::{Control, Feed, Instrument, Timestamp, Trade};
use marketflow_providers::Provider;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;
use tracing::{info, warn};

/// First step backwards, in records.
const STEP: i64 = 20_000;
/// A partition that gives nothing for so long is an error.
const STALLED_AFTER: Duration = Duration::from_secs(20);

/// What one partition says about the feed.
#[derive(Debug)]
struct Tail {
    provider: &'static Provider,
    feeds: Vec<Feed>,
    ids_max: usize,
    complete_through: Option<Timestamp>,
    instruments: BTreeMap<Instrument, Past>,
}

/// Reads the ends of all partitions and says what is known of the feed and of each of `instruments`; two feeds whose trades have the same ids
/// are one here.
///
/// # Errors
/// An unreachable cluster.
pub fn read_back(
    kafka: &KafkaConfig,
    mut decoder: Decoder,
    provider: &'static Provider,
    feeds: &[Feed],
    instruments: &[Instrument],
    ids_max: usize,
    records_max: i64,
) -> anyhow::Result<LogEnd> {
    let reader = Reader::new(kafka)?;
    let partitions = reader.partition_count(topics::TRADES)?;
    let mut log = LogEnd::default();
    for partition in 0..partitions {
        let of = TopicPartition::new(topics::TRADES, partition);
        let (low, end) = reader.range(&of)?;
        let mut back = STEP;
        let mut tail = loop {
            let from = (end - back).max(low);
            let mut tail =
                Tail { provider, feeds: feeds.to_vec(), ids_max, complete_through: None, instruments: BTreeMap::new() };
            reader
                .read_to_end(&of, from, STALLED_AFTER, |record| {
                    tail.take(&mut decoder, &record);
                    ControlFlow::Continue(())
                })
                .with_context(|| format!("read back {of}"))?;
            if tail.complete_through.is_some() || from <= low || back >= records_max {
                break tail;
            }
            back = (back * 4).min(records_max);
        };
        if let Some(complete_through) = tail.complete_through {
            info!(partition, %complete_through, "the feed was written before; what is missing since will be fetched");
        }
        log.complete_through = log.complete_through.max(tail.complete_through);
        for instrument in instruments.iter().filter(|i| partition_for(i.as_str().as_bytes(), partitions) == partition) {
            let mut known = tail.instruments.remove(instrument).unwrap_or_else(|| Past::new(ids_max));
            known.complete_through = tail.complete_through;
            log.instruments.insert(instrument.clone(), known);
        }
    }
    Ok(log)
}

impl Tail {
    fn take(&mut self, decoder: &mut Decoder, record: &Record<'_>) {
        let Some(value) = record.value() else { return };
        match decoder.schema_of(value) {
            Ok(Schema::Trade) => match decoder.decode::<Trade>(value) {
                Ok(trade) if self.feeds.contains(&trade.feed) => {
                    let provider = self.provider;
                    self.past(&trade.instrument).trade(provider, &trade);
                }
                Ok(_) => {}
                Err(problem) => {
                    warn!(partition = record.partition(), offset = record.offset(), %problem, "trade cannot be read back")
                }
            },
            Ok(Schema::Control) => match decoder.decode::<Control>(value) {
                Ok(control) if self.feeds.contains(&control.feed) => self.take_control(&control),
                Ok(_) => {}
                Err(problem) => {
                    warn!(partition = record.partition(), offset = record.offset(), %problem, "control cannot be read back")
                }
            },
            Ok(_) => {}
            Err(problem) => {
                warn!(partition = record.partition(), offset = record.offset(), %problem, "record cannot be read back")
            }
        }
    }

    fn take_control(&mut self, control: &Control) {
        self.complete_through = self.complete_through.max(control.complete_through);
        if let Some(instrument) = &control.instrument {
            let provider = self.provider;
            self.past(instrument).control(provider, control);
        }
    }

    fn past(&mut self, instrument: &Instrument) -> &mut Past {
        let ids_max = self.ids_max;
        self.instruments.entry(instrument.clone()).or_insert_with(|| Past::new(ids_max))
    }
}
