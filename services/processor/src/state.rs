//! The engine's partitions in this worker: records in, outputs gathered.

use crate::outputs::Outputs;
use marketflow_contract::{AvroRecord, Schema, decode_trade, topics};
use marketflow_engine::{Heard, Outcome, Partition, Verdict};
use marketflow_kafka::{DecodeError, Decoder, Record};
use marketflow_model::{Bar, BarSource, Candle, Control, ControlKind, Envelope, EnvelopeClass};
use tracing::warn;

/// How this consumer signs what it sets aside, and which redriven records it takes.
pub(crate) const CONSUMER: &str = "processor";

/// What the records of an input topic are to the engine.
pub(crate) fn source_of(topic: &str) -> BarSource {
    if topic == topics::CANDLES { BarSource::Candles } else { BarSource::Trades }
}

/// Feeds one record to its partition and gathers what follows from it.
///
/// # Errors
/// Only when the registry cannot be asked about a schema id: the record stays unread. Everything else has an outcome.
pub(crate) fn apply(
    partition: &mut Partition,
    source: BarSource,
    record: &Record<'_>,
    decoder: &mut Decoder,
    bars: &mut Vec<Bar>,
    outputs: &mut Outputs,
) -> Result<(), DecodeError> {
    outputs.consumed(source);
    let verdict = if record.is_for_another(CONSUMER) {
        Verdict::NotSelected
    } else if let Some(value) = record.value() {
        match outcome(partition, source, value, record.offset(), decoder, bars) {
            Ok(Handled::Data(outcome)) => settle(record, outcome, outputs),
            Ok(Handled::Control(kind, heard)) => {
                outputs.control(control_name(kind));
                if let Heard::Refused(reason) = heard {
                    warn!(topic = record.topic(), partition = record.partition(), reason, "a change of the calendar is refused");
                    outputs.control("calendar_change_refused");
                }
                Verdict::Control
            }
            Err(error) if error.is_retriable() => return Err(error),
            Err(error) => set_aside(record, EnvelopeClass::Undecodable, &error.to_string(), outputs),
        }
    } else {
        set_aside(record, EnvelopeClass::Undecodable, "record has no value", outputs)
    };
    outputs.verdict(verdict);
    partition.count(source, record.offset(), verdict);
    for bar in bars.drain(..) {
        outputs.bar(&bar);
    }
    Ok(())
}

enum Handled {
    Data(Outcome),
    Control(ControlKind, Heard),
}

fn outcome(
    partition: &mut Partition,
    source: BarSource,
    value: &[u8],
    offset: i64,
    decoder: &mut Decoder,
    bars: &mut Vec<Bar>,
) -> Result<Handled, DecodeError> {
    let (schema, body) = decoder.body(value)?;
    match (schema, source) {
        (Schema::Trade, BarSource::Trades) => Ok(Handled::Data(partition.on_trade(decode_trade(&body)?, offset, bars))),
        (Schema::Candle, BarSource::Candles) => Ok(Handled::Data(partition.on_candle(&Candle::decode(&body)?, offset, bars))),
        (Schema::Control, _) => {
            let control = Control::decode(&body)?;
            let heard = partition.on_control(source, &control, offset, bars);
            Ok(Handled::Control(control.kind, heard))
        }
        (other, _) => {
            let wanted = if source == BarSource::Candles { Schema::Candle } else { Schema::Trade };
            Err(DecodeError::OtherRecord { found: other.record_name(), wanted: wanted.record_name() })
        }
    }
}

fn settle(record: &Record<'_>, outcome: Outcome, outputs: &mut Outputs) -> Verdict {
    match outcome {
        Outcome::Used => Verdict::Used,
        Outcome::Duplicate => Verdict::Duplicate,
        Outcome::NotSelected(_) => Verdict::NotSelected,
        Outcome::Late(reason) => set_aside(record, EnvelopeClass::Late, &reason, outputs),
        Outcome::Quarantined(reason) => set_aside(record, EnvelopeClass::Quarantine, &reason, outputs),
        Outcome::Refused(reason) => set_aside(record, EnvelopeClass::Refused, &reason, outputs),
    }
}

/// A record that is of no use, with its origin.
pub(crate) fn envelope(record: &Record<'_>, class: EnvelopeClass, reason: &str) -> Envelope {
    Envelope {
        consumer: CONSUMER.to_owned(),
        class,
        reason: reason.to_owned(),
        origin_topic: record.topic().to_owned(),
        origin_partition: record.partition(),
        origin_offset: record.offset(),
        receive_time: record.timestamp().unwrap_or_default(),
        schema_id: record
            .value()
            .and_then(|v| marketflow_contract::split_value(v).ok())
            .and_then(|(id, _)| i32::try_from(id).ok()),
        key: record.key().map(<[u8]>::to_vec),
        value: record.value().unwrap_or_default().to_vec(),
        headers: record.headers().map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_vec())).collect(),
    }
}

fn set_aside(record: &Record<'_>, class: EnvelopeClass, reason: &str, outputs: &mut Outputs) -> Verdict {
    let envelope = envelope(record, class, reason);
    match class {
        EnvelopeClass::Late => {
            outputs.late(&envelope);
            Verdict::Late
        }
        EnvelopeClass::Quarantine => {
            outputs.quarantine(&envelope);
            Verdict::Quarantined
        }
        EnvelopeClass::Unknown
        | EnvelopeClass::Undecodable
        | EnvelopeClass::Refused
        | EnvelopeClass::Redriven
        | EnvelopeClass::Discarded => {
            outputs.dead_letter(&envelope);
            Verdict::DeadLettered
        }
    }
}

fn control_name(kind: ControlKind) -> &'static str {
    match kind {
        ControlKind::Unknown => "unknown",
        ControlKind::Heartbeat => "heartbeat",
        ControlKind::FeedState => "feed_state",
        ControlKind::GapOpened => "gap_opened",
        ControlKind::GapFilled => "gap_filled",
        ControlKind::GapAbandoned => "gap_abandoned",
        ControlKind::Halt => "halt",
        ControlKind::CalendarChange => "calendar_change",
        ControlKind::End => "end",
        ControlKind::Clock => "clock",
    }
}
