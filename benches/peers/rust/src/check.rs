//! Whether the bars on a topic are the answer: the peers' `bar.avsc` or our `Bar`, read committed.
//!
//! Next: `floor.rs`.

use crate::workload::{Key, answer};
use anyhow::{Context, ensure};
use marketflow_contract::{AvroRecord, split_value, topics};
use marketflow_kafka::{KafkaConfig, Reader, TopicPartition};
use marketflow_model::{Bar, Quality};
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const SCALE: f64 = 1e8;

/// A bar as it was read: open, high, low, close and volume at scale 8.
#[derive(Debug)]
struct Found {
    key: Key,
    values: [i64; 5],
    vwap: f64,
    trade_count: i64,
}

/// Compares every bar with the answer and prints the counts.
///
/// # Errors
/// Kafka's, or anything missing, wrong, twice, unexpected or unreadable.
pub(crate) fn check(kafka: &KafkaConfig, topic: &str, trades: usize) -> anyhow::Result<()> {
    let answer = answer(trades);
    let read = if topic == topics::BARS { read_ours } else { read_peers };
    let reader = Reader::new(kafka)?;
    let (mut records, mut right, mut wrong, mut twice, mut unexpected, mut unreadable) = (0, 0, 0, 0, 0, 0);
    let mut seen = HashSet::new();
    for partition in 0..reader.partition_count(topic)? {
        reader.read_to_end(&TopicPartition::new(topic, partition), 0, PATIENCE, |record| {
            records += 1;
            match record.value().and_then(read) {
                None => unreadable += 1,
                Some(found) if seen.contains(&found.key) => twice += 1,
                Some(found) => {
                    match answer.get(&found.key) {
                        None => unexpected += 1,
                        Some(bar) if is_equal(bar, &found) => right += 1,
                        Some(bar) => {
                            if wrong == 0 {
                                eprintln!("first wrong: {found:?}, should be {bar:?}");
                            }
                            wrong += 1;
                        }
                    }
                    seen.insert(found.key);
                }
            }
            ControlFlow::Continue(())
        })?;
    }
    let missing = answer.len() - right - wrong;
    println!(
        "records={records} expected={} right={right} wrong={wrong} missing={missing} twice={twice} unexpected={unexpected} unreadable={unreadable}",
        answer.len()
    );
    ensure!(right == answer.len() && records == right, "the bars are not the answer");
    Ok(())
}

fn is_equal(bar: &crate::workload::Bar, found: &Found) -> bool {
    let vwap = bar.turnover as f64 / bar.volume as f64 / SCALE;
    found.values == [bar.open, bar.high, bar.low, bar.close, bar.volume]
        && found.trade_count == bar.trade_count
        && (found.vwap - vwap).abs() <= 5e-9 + 1e-9 * vwap
}

/// Our schema; a first and complete bar is expected.
fn read_ours(value: &[u8]) -> Option<Found> {
    let (_, body) = split_value(value).ok()?;
    let bar = Bar::decode(body).ok()?;
    if bar.revision != 0 || bar.quality != Quality::Complete {
        return None;
    }
    let volume = i64::try_from(bar.volume.scaled()).ok()?;
    Some(Found {
        key: (bar.instrument.as_str().to_owned(), bar.interval.interval()?.micros() / 1_000_000, bar.open_time.micros()),
        values: [bar.open.scaled(), bar.high.scaled(), bar.low.scaled(), bar.close.scaled(), volume],
        vwap: bar.vwap?.scaled() as f64 / SCALE,
        trade_count: bar.trade_count,
    })
}

/// `bar.avsc`, or the same fields as JSON from peers that write that.
fn read_peers(value: &[u8]) -> Option<Found> {
    if value.first() == Some(&b'{') { read_json(value).ok() } else { read_avro(value).ok() }
}

fn read_avro(value: &[u8]) -> anyhow::Result<Found> {
    let (_, mut rest) = split_value(value)?;
    let length = usize::try_from(long(&mut rest)?)?;
    let (instrument, mut rest) = rest.split_at_checked(length).context("truncated")?;
    let key = (std::str::from_utf8(instrument)?.to_owned(), long(&mut rest)?, long(&mut rest)?);
    let mut doubles = [0.0; 6];
    for double in &mut doubles {
        let (bytes, after) = rest.split_first_chunk().context("truncated")?;
        *double = f64::from_le_bytes(*bytes);
        rest = after;
    }
    let trade_count = long(&mut rest)?;
    ensure!(rest.is_empty(), "bytes follow the last field");
    Ok(Found::new(key, doubles, trade_count))
}

/// One flat object without escapes.
fn read_json(value: &[u8]) -> anyhow::Result<Found> {
    let text = std::str::from_utf8(value)?;
    let field = |name: &str| -> anyhow::Result<&str> {
        let (_, after) = text.split_once(&format!("\"{name}\"")).with_context(|| format!("no {name}"))?;
        let value = after.trim_start_matches([':', ' ']).split([',', '}']).next().unwrap_or_default();
        Ok(value.trim().trim_matches('"'))
    };
    let double = |name: &str| Ok::<f64, anyhow::Error>(field(name)?.parse()?);
    let key = (field("instrument")?.to_owned(), field("interval_s")?.parse()?, field("open_time")?.parse()?);
    let doubles = [double("open")?, double("high")?, double("low")?, double("close")?, double("volume")?, double("vwap")?];
    Ok(Found::new(key, doubles, field("trade_count")?.parse()?))
}

impl Found {
    fn new(key: Key, [open, high, low, close, volume, vwap]: [f64; 6], trade_count: i64) -> Self {
        // whole cents and units: a double holds them exactly once it is rounded
        let values = [open, high, low, close, volume].map(|value| (value * SCALE).round() as i64);
        Self { key, values, vwap, trade_count }
    }
}

/// Takes Avro's zig-zag varint off the front.
fn long(rest: &mut &[u8]) -> anyhow::Result<i64> {
    let (mut value, mut shift) = (0u64, 0);
    loop {
        let (byte, after) = rest.split_first().context("truncated")?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
        shift += 7;
        ensure!(shift < 64, "a number is too long");
    }
}
