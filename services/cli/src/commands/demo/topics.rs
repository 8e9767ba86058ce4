//! What stands in Kafka, read back `read_committed` and decoded by the registry's ids.
//!
//! Next: `check.rs`.

use super::check::{Received, Topics};
use anyhow::{Context, anyhow};
use marketflow_contract::Schema;
use marketflow_contract::topics::{BARS, DEAD_LETTERS, LATE, QUARANTINE, TRADES};
use marketflow_kafka::{Decoder, KafkaConfig, Reader, TopicPartition};
use marketflow_model::{Control, ControlKind, Envelope, EnvelopeClass, Instrument, Timestamp, Trade};
use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::time::Duration;

/// A topic that gives nothing for so long, though it holds more, is an error.
const STALLED_AFTER: Duration = Duration::from_secs(20);
/// Who judges trades; what others set aside was no trade of `market.trades.v1`.
const JUDGE: &str = "processor";

/// Reads everything the check needs. Blocks.
///
/// # Errors
/// The cluster's, or a value that is none of ours.
pub(super) fn read(kafka: &KafkaConfig, decoder: &mut Decoder) -> anyhow::Result<Topics> {
    let reader = Reader::new(kafka)?;
    let mut topics = Topics::default();
    let set_aside = read_set_aside(&reader, decoder, &mut topics)?;
    read_trades(&reader, decoder, &set_aside, &mut topics)?;
    each(&reader, BARS, |_, _, value| {
        topics.bars.push(decoder.decode(value)?);
        Ok(())
    })?;
    Ok(topics)
}

/// Fills the counts of what was set aside, and returns the places on `market.trades.v1` it came from.
fn read_set_aside(reader: &Reader, decoder: &mut Decoder, topics: &mut Topics) -> anyhow::Result<HashSet<(i32, i64)>> {
    let mut places = HashSet::new();
    for topic in [LATE, QUARANTINE, DEAD_LETTERS] {
        each(reader, topic, |_, _, value| {
            let envelope: Envelope = decoder.decode(value)?;
            if envelope.class.is_decision() {
                return Ok(());
            }
            *topics.reasons.entry(envelope.reason.clone()).or_default() += 1;
            if envelope.origin_partition < 0 {
                topics.refused_frames += 1;
            } else if envelope.origin_topic == TRADES && envelope.consumer.starts_with(JUDGE) {
                places.insert((envelope.origin_partition, envelope.origin_offset));
                *match envelope.class {
                    EnvelopeClass::Late => &mut topics.late,
                    EnvelopeClass::Quarantine => &mut topics.quarantined,
                    EnvelopeClass::Undecodable
                    | EnvelopeClass::Refused
                    | EnvelopeClass::Unknown
                    | EnvelopeClass::Redriven
                    | EnvelopeClass::Discarded => &mut topics.dead_lettered,
                } += 1;
            }
            Ok(())
        })?;
    }
    Ok(places)
}

fn read_trades(
    reader: &Reader,
    decoder: &mut Decoder,
    set_aside: &HashSet<(i32, i64)>,
    topics: &mut Topics,
) -> anyhow::Result<()> {
    let mut complete_through: BTreeMap<i32, Timestamp> = BTreeMap::new();
    let mut partition_of: BTreeMap<Instrument, i32> = BTreeMap::new();
    each(reader, TRADES, |partition, offset, value| {
        if decoder.schema_of(value)? == Schema::Control {
            let control: Control = decoder.decode(value)?;
            if let Some(id) = &control.gap_id {
                let known = topics.gaps.entry(id.clone()).or_insert_with(|| control.clone());
                // What it became counts, not how it began.
                if control.kind != ControlKind::GapOpened {
                    *known = control.clone();
                }
            }
            if let Some(through) = control.complete_through {
                let known = complete_through.entry(partition).or_insert(through);
                *known = through.max(*known);
            }
            return Ok(());
        }
        let trade: Trade = decoder.decode(value)?;
        partition_of.entry(trade.instrument.clone()).or_insert(partition);
        topics.trades.push(Received { trade, set_aside: set_aside.contains(&(partition, offset)) });
        Ok(())
    })?;
    topics.complete_through = partition_of
        .into_iter()
        .filter_map(|(instrument, partition)| Some((instrument, *complete_through.get(&partition)?)))
        .collect();
    Ok(())
}

/// Hands every value of a topic on, partition by partition, in log order.
pub(super) fn each(
    reader: &Reader,
    topic: &str,
    mut take: impl FnMut(i32, i64, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for partition in 0..reader.partition_count(topic)? {
        reader.try_read_to_end(&TopicPartition::new(topic, partition), 0, STALLED_AFTER, |record| {
            let value = record.value().ok_or_else(|| anyhow!("no value"));
            let taken = value.and_then(|value| take(partition, record.offset(), value));
            taken.map(ControlFlow::Continue).with_context(|| format!("{topic}/{partition} at {}", record.offset()))
        })??;
    }
    Ok(())
}
