//! State as key-value changes: what a commit writes to the changelog topic, and how a partition is rebuilt from it.
//!
//! Kinds of key: a feed's track, an instrument's head, a kept minute with the ids first seen in it, a run of later ids, a run of a minute's trades
//! one by one, a bar that trades close, and the dates of a calendar that are other than its file says. Runs are only ever added, so a commit costs what it changed; a dropped minute leaves tombstones.

use crate::builder::{Dropped, Head, Slot};
use crate::feed::FeedTrack;
use crate::ids::IdRun;
use crate::kept::KeptRun;
use crate::partition::{Config, Partition};
use marketflow_model::{BarKind, BarSource, Calendar, DayHours, InstrumentRef, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// One changed key; `value: None` deletes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Key bytes.
    pub key: Vec<u8>,
    /// Value bytes.
    pub value: Option<Vec<u8>>,
}

/// Why a changelog cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A key or value is not what this version writes.
    #[error("changelog record is not readable: {0}")]
    Unreadable(#[from] postcard::Error),
    /// The changelog was written by another version of the state.
    #[error("changelog has state version {found}, this processor reads {expected}")]
    Version {
        /// Written.
        found: u8,
        /// Readable.
        expected: u8,
    },
    /// The changelog was written with other intervals or kinds of bars.
    #[error("changelog was written for other intervals or kinds of bars than the configured ones")]
    Intervals,
    /// A calendar was changed that is no more, or no more covers the changed dates.
    #[error("changelog changes dates of the calendar {0} that it does not have")]
    Calendar(String),
}

/// Version of keys and values; another one is refused.
const VERSION: u8 = 6;

/// First byte of keys that who runs the engine writes to the changelog beside the engine's own, and does not give back to it.
pub const NOTE: u8 = 0;

/// What a value is of: source, feed, instrument, minute, number of the run.
#[derive(Serialize, Deserialize)]
pub(crate) enum Key<'a> {
    Feed(BarSource, &'a str),
    Head(BarSource, &'a str, &'a str),
    Slot(BarSource, &'a str, &'a str, Timestamp),
    Ids(BarSource, &'a str, &'a str, Timestamp, u32),
    Intervals,
    Traded(BarSource, &'a str, &'a str),
    Kept(BarSource, &'a str, &'a str, Timestamp, u32),
    Tally(BarSource),
    Calendar(BarSource, &'a str),
}

/// Source, feed and instrument, and the place of their builder.
type Named<'r> = ((BarSource, &'r str, &'r str), usize);

pub(crate) fn encode_key(key: &Key<'_>) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(encode(key));
    bytes
}

pub(crate) fn decode_key(key: &[u8]) -> Result<Key<'_>, RestoreError> {
    let (version, key) = key.split_first().ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
    if *version != VERSION {
        return Err(RestoreError::Version { found: *version, expected: VERSION });
    }
    Ok(postcard::from_bytes(key)?)
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain values serialize")
}

/// The records that are the last of their key and have a value, in log order: what was written together stands together.
pub(crate) fn live(records: &[Change]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut last = HashMap::with_capacity(records.len());
    for (place, record) in records.iter().enumerate() {
        last.insert(record.key.as_slice(), place);
    }
    let is_last = move |(place, record): &(usize, &Change)| last.get(record.key.as_slice()) == Some(place);
    records.iter().enumerate().filter(is_last).filter_map(|(_, record)| Some((record.key.as_slice(), record.value.as_deref()?)))
}

impl Partition {
    /// Takes every change since the last call, to be written in the same transaction as the results they belong to.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut put = |key: &Key<'_>, value: Option<Vec<u8>>| changes.push(Change { key: encode_key(key), value });
        for feed in &mut self.feeds {
            if !std::mem::take(&mut feed.touched) {
                continue;
            }
            put(&Key::Feed(feed.source, feed.feed.as_str()), Some(encode(&feed.track)));
        }
        let mut touched = std::mem::take(&mut self.touched_builders);
        touched.sort_unstable();
        for at in touched {
            let builder = &mut self.builders[at];
            builder.touched = false;
            let (source, feed, instrument) = (builder.source, builder.feed.clone(), builder.instrument.clone());
            let (feed, name) = (feed.as_str(), instrument.as_str());
            if std::mem::take(&mut builder.head_touched) {
                put(&Key::Head(source, feed, name), Some(encode(&builder.head)));
            }
            if std::mem::take(&mut builder.traded_touched) {
                let traded = (!builder.traded.is_empty()).then(|| encode(&builder.traded));
                put(&Key::Traded(source, feed, name), traded);
            }
            for Dropped { open, id_runs, kept_runs } in std::mem::take(&mut builder.dropped) {
                put(&Key::Slot(source, feed, name, open), None);
                for run in 0..id_runs {
                    put(&Key::Ids(source, feed, name, open, run), None);
                }
                for run in 0..kept_runs {
                    put(&Key::Kept(source, feed, name, open, run), None);
                }
            }
            for (open, slot) in builder.slots.iter_mut().filter(|(_, slot)| slot.touched) {
                slot.touched = false;
                for run in slot.ids.take_runs() {
                    if !std::mem::replace(&mut slot.written, true) {
                        slot.first_ids = run;
                        continue;
                    }
                    let number = slot.ids.number_run();
                    put(&Key::Ids(source, feed, name, *open, number), Some(encode(&run)));
                }
                slot.written = true;
                for (number, run) in slot.kept.iter_mut().flat_map(|kept| kept.take_runs()) {
                    put(&Key::Kept(source, feed, name, *open, number), Some(encode(&run)));
                }
                put(&Key::Slot(source, feed, name, *open), Some(encode(slot)));
            }
        }
        for (source, tally, touched) in &mut self.tallies {
            if std::mem::take(touched) {
                put(&Key::Tally(*source), Some(encode(tally)));
            }
        }
        for known in &mut self.calendars {
            if std::mem::take(&mut known.touched) {
                let changes = (!known.changes.is_empty()).then(|| encode(&known.changes));
                put(&Key::Calendar(known.source, known.calendar.name()), changes);
            }
        }
        if !changes.is_empty() && !std::mem::replace(&mut self.intervals_written, true) {
            changes.push(Change { key: encode_key(&Key::Intervals), value: Some(encode(&self.config.bar_kinds())) });
        }
        changes
    }

    /// Rebuilds a partition from changelog records in log order.
    ///
    /// # Errors
    /// [`RestoreError`] when a record is not readable or was written for another version or other intervals; nothing is guessed.
    pub fn restore(config: Config, records: impl IntoIterator<Item = Change>) -> Result<Self, RestoreError> {
        let mut partition = Self::new(config);
        let records: Vec<Change> = records.into_iter().collect();
        let mut last = None;
        for (key, value) in live(&records) {
            partition.put_back(decode_key(key)?, value, &mut last)?;
        }
        partition.index_restored();
        Ok(partition)
    }

    /// `last`: whose the record before was.
    fn put_back<'r>(&mut self, key: Key<'r>, value: &[u8], last: &mut Option<Named<'r>>) -> Result<(), RestoreError> {
        match key {
            Key::Feed(source, feed) => {
                let entry = self.feed_entry(source, feed);
                self.feeds[entry].track = postcard::from_bytes::<FeedTrack>(value)?;
            }
            Key::Head(source, feed, instrument) => {
                let at = self.named(source, feed, instrument, last)?;
                self.builders[at].head = postcard::from_bytes::<Head>(value)?;
            }
            Key::Slot(source, feed, instrument, open) => {
                let at = self.named(source, feed, instrument, last)?;
                let restored: Slot = postcard::from_bytes(value)?;
                let slot = self.builders[at].slots.entry(open).or_default();
                slot.written = true;
                slot.ids.restore(None, &restored.first_ids);
                (slot.minute, slot.published) = (restored.minute, restored.published);
                (slot.flow, slot.first_ids) = (restored.flow, restored.first_ids);
            }
            Key::Ids(source, feed, instrument, open, number) => {
                let at = self.named(source, feed, instrument, last)?;
                let run: IdRun = postcard::from_bytes(value)?;
                self.builders[at].slots.entry(open).or_default().ids.restore(Some(number), &run);
            }
            Key::Kept(source, feed, instrument, open, number) => {
                let at = self.named(source, feed, instrument, last)?;
                let run: KeptRun = postcard::from_bytes(value)?;
                self.builders[at].slots.entry(open).or_default().kept.get_or_insert_default().restore(number, run);
            }
            Key::Calendar(source, name) => {
                let changes: BTreeMap<Timestamp, DayHours> = postcard::from_bytes(value)?;
                let calendar = Calendar::all().iter().find(|calendar| calendar.name() == name);
                let changed = calendar.and_then(|calendar| calendar.changed(&changes).ok());
                let changed = changed.ok_or_else(|| RestoreError::Calendar(name.to_owned()))?;
                self.put_calendar(source, changes, Arc::new(changed));
            }
            Key::Tally(source) => self.tallies.push((source, postcard::from_bytes(value)?, false)),
            Key::Traded(source, feed, instrument) => {
                let at = self.named(source, feed, instrument, last)?;
                self.builders[at].traded = postcard::from_bytes(value)?;
            }
            Key::Intervals => {
                let kinds: Vec<BarKind> = postcard::from_bytes(value)?;
                if self.config.bar_kinds() != kinds {
                    return Err(RestoreError::Intervals);
                }
                self.intervals_written = true;
            }
        }
        Ok(())
    }

    /// The builder of a name; most records are of the same as the one before.
    fn named<'r>(
        &mut self,
        source: BarSource,
        feed: &'r str,
        instrument: &'r str,
        last: &mut Option<Named<'r>>,
    ) -> Result<usize, RestoreError> {
        let name = (source, feed, instrument);
        if let Some((_, at)) = last.filter(|(last, _)| *last == name) {
            return Ok(at);
        }
        let entry = self.feed_entry(source, feed);
        let instrument = InstrumentRef::new(instrument).map_err(|_| postcard::Error::SerdeDeCustom)?;
        let at = self.builder(entry, instrument);
        *last = Some((name, at));
        Ok(at)
    }

    fn index_restored(&mut self) {
        for feed in &mut self.feeds {
            feed.touched = false;
            for place in 0..feed.builders.len() {
                let at = feed.builders[place];
                let builder = &mut self.builders[at];
                builder.index_dirty(&self.config.intervals);
                if builder.has_revisions() {
                    feed.revisable.insert(builder.instrument.clone());
                }
                feed.reschedule(builder, at, &self.config);
            }
        }
        for at in std::mem::take(&mut self.touched_builders) {
            self.builders[at].touched = false;
        }
        self.calendars.iter_mut().for_each(|known| known.touched = false);
    }
}
