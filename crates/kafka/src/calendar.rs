//! Changes of calendars on the log: in every partition of the processor's inputs, so that they take effect at a place of it and a replay sees them
//! there, and a copy on `market.feed-status.v1`, where the last word on each date is found again.
//!
//! Next: `crates/engine/src/partition.rs`, which acts on them.

use crate::{Decoder, Error, Outgoing, Producer, Reader, SchemaIds, TopicPartition};
use marketflow_contract::{Schema, encode_value, headers, topics};
use marketflow_model::{Calendar, CalendarChange, Control, ControlKind, DayHours, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

/// What a date became, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedDay {
    /// Its hours.
    pub hours: DayHours,
    /// For those who look later.
    pub reason: Option<String>,
}

/// The dates of a calendar that were changed and not reset, by the start of the date.
pub type ChangedDays = BTreeMap<Timestamp, ChangedDay>;

/// Writes a change to every partition of both inputs, and the copy last. Returns how many partitions each has. What failed half way is set right by
/// writing it again: it counts once.
///
/// # Errors
/// The cluster's, or a topic that takes no controls.
pub fn write_change(producer: &Producer, ids: &SchemaIds, control: &Control, patience: Duration) -> Result<i32, Error> {
    let kind: [(&str, &[u8]); 1] = [(headers::KIND, headers::CONTROL.as_bytes())];
    let send = |topic: &'static str, partition| {
        let missing = || Error::SchemasDisagree(vec![format!("{topic} takes no controls")]);
        let id = ids.id(topic, Schema::Control).ok_or_else(missing)?;
        let mut value = Vec::new();
        encode_value(control, id, &mut value);
        let record = Outgoing { partition, headers: &kind, ..Outgoing::new(topic, control.feed.as_str().as_bytes(), &value) };
        producer.send(record, patience)
    };
    let delivered = || {
        producer.flush(patience)?;
        match producer.take_failed().first() {
            Some(failed) => Err(Error::Refused {
                doing: format!("write the change to {}/{}", failed.topic, failed.partition),
                reason: failed.reason.to_string(),
            }),
            None => Ok(()),
        }
    };
    let mut partitions = 0;
    for topic in [topics::TRADES, topics::CANDLES] {
        partitions = producer.partition_count(topic, patience)?;
        for partition in 0..partitions {
            send(topic, Some(partition))?;
        }
    }
    delivered()?;
    send(topics::FEED_STATUS, None)?;
    delivered()?;
    Ok(partitions)
}

/// Reads what was said of a calendar since the offsets of `next`, which go on, and applies it to `days`.
///
/// # Errors
/// The cluster's.
pub fn read_changes(
    reader: &Reader,
    decoder: &mut Decoder,
    calendar: &Calendar,
    next: &mut BTreeMap<i32, i64>,
    days: &mut ChangedDays,
    patience: Duration,
) -> Result<(), Error> {
    let mut found = Vec::new();
    for partition in 0..reader.partition_count(topics::FEED_STATUS)? {
        let of = TopicPartition::new(topics::FEED_STATUS, partition);
        let from = match next.get(&partition) {
            Some(next) => *next,
            None => reader.range(&of)?.0,
        };
        let end = reader.read_to_end(&of, from, patience, |record| {
            let control = decoder.decode::<Control>(record.value().unwrap_or_default());
            if let Some(control) = control.ok().filter(|control| control.kind == ControlKind::CalendarChange)
                && let Ok(change) = CalendarChange::of_control(&control)
                && change.calendar.name() == calendar.name()
            {
                found.push((record.timestamp().unwrap_or_default(), change, control.reason));
            }
            ControlFlow::Continue(())
        })?;
        next.insert(partition, end);
    }
    found.sort_by_key(|(at, ..)| *at);
    for (_, change, reason) in found {
        let date = calendar.start_of(change.date);
        match change.hours {
            DayHours::AsPlanned => days.remove(&date),
            hours @ (DayHours::Closed | DayHours::Regular { .. }) => days.insert(date, ChangedDay { hours, reason }),
        };
    }
    Ok(())
}
