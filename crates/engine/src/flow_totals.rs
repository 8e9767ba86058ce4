//! Buy and sell turnover across instruments, second stage: the partitions' partial sums added up, published when every feed that takes part is
//! complete in every partition, and again when one of them is revised.
//!
//! It takes each partial sum once, by input partition and offset. Time here is the partitions' word: the minimum over them of what each says a
//! feed is complete through. A minute waits for the feeds that have ever added to its group; a feed that ended is not waited for.
//!
//! Next: `schemas/avro/flow_aggregate.v1.avsc`, then `services/sink/src/tables/flow_aggregate.rs`.

use crate::changelog::{Change, RestoreError, encode, live};
use crate::flows::{FlowGroup, FlowSum, PartialFlows};
use marketflow_model::{Feed, FlowAggregate, Interval, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of keys and values; another one is refused.
const VERSION: u8 = 1;

/// What became of partial sums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartialOutcome {
    /// They are in the totals.
    Used,
    /// They were there already.
    Repeated,
    /// Some of them belong to minutes so old that their totals are not kept any more; they are in no total.
    TooOld,
}

/// A minute of a group.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Total {
    sum: FlowSum,
    /// Last revision published and what it said.
    published: Option<(i32, FlowSum)>,
}

/// What is known of a group as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Group {
    /// Feeds that ever added to it.
    feeds: BTreeSet<Feed>,
    /// Start of its newest minute.
    newest: Timestamp,
}

#[derive(Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Taken(i32),
    Mark(Feed, i32),
    Group(FlowGroup),
    Total(Timestamp, FlowGroup),
}

fn encode_key(key: &Key) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(encode(key));
    bytes
}

/// The totals of every group and kept minute.
pub struct FlowTotals {
    partitions: i32,
    kept_micros: i64,
    /// Offset and part of the last partial sums taken, by input partition.
    taken: BTreeMap<i32, (i64, u32)>,
    /// What each partition says a feed is complete through.
    marks: BTreeMap<Feed, BTreeMap<i32, Timestamp>>,
    groups: BTreeMap<FlowGroup, Group>,
    totals: BTreeMap<(Timestamp, FlowGroup), Total>,
    /// Those to publish: what they say has changed.
    waiting: BTreeSet<(Timestamp, FlowGroup)>,
    changed: BTreeSet<Vec<u8>>,
    changes: Vec<Change>,
}

impl FlowTotals {
    /// Empty totals over so many input partitions; a minute is kept until its group has one that is later by `kept_micros`.
    pub fn new(partitions: i32, kept_micros: i64) -> Self {
        Self {
            partitions,
            kept_micros,
            taken: BTreeMap::new(),
            marks: BTreeMap::new(),
            groups: BTreeMap::new(),
            totals: BTreeMap::new(),
            waiting: BTreeSet::new(),
            changed: BTreeSet::new(),
            changes: Vec::new(),
        }
    }

    /// Takes what a partition adds. What can be published after it is appended to `out`.
    pub fn on_partial(&mut self, partition: i32, partial: &PartialFlows, out: &mut Vec<FlowAggregate>) -> PartialOutcome {
        let place = (partial.offset, partial.part);
        if self.taken.get(&partition).is_some_and(|last| place <= *last) {
            return PartialOutcome::Repeated;
        }
        self.taken.insert(partition, place);
        self.put(&Key::Taken(partition), &place);
        let mut outcome = PartialOutcome::Used;
        for (open, group, sum) in &partial.sums {
            if !self.add(*open, group, sum, &partial.feed, out) {
                outcome = PartialOutcome::TooOld;
            }
        }
        if let Some(mark) = partial.complete_through {
            self.marks.entry(partial.feed.clone()).or_default().insert(partition, mark);
            self.put(&Key::Mark(partial.feed.clone(), partition), &mark);
        }
        self.publish_complete(out);
        outcome
    }

    /// Returns false when the minute is not kept any more.
    fn add(&mut self, open: Timestamp, group: &FlowGroup, sum: &FlowSum, feed: &Feed, out: &mut Vec<FlowAggregate>) -> bool {
        let known = self.groups.entry(group.clone()).or_insert_with(|| Group { feeds: BTreeSet::new(), newest: Timestamp::MIN });
        if open < known.newest.plus_micros(-self.kept_micros) {
            return false;
        }
        let is_new_feed = known.feeds.insert(feed.clone());
        let is_newest = open > known.newest;
        known.newest = known.newest.max(open);
        if is_new_feed || is_newest {
            let known = known.clone();
            self.put(&Key::Group(group.clone()), &known);
        }
        let key = (open, group.clone());
        let total = self.totals.entry(key.clone()).or_default();
        total.sum.add(sum, 1);
        let total = total.clone();
        self.put(&Key::Total(open, group.clone()), &total);
        self.waiting.insert(key);
        if is_newest {
            self.drop_old(group, open, out);
        }
        true
    }

    /// Totals that are older than what is kept go; one that still waited is published as it is.
    fn drop_old(&mut self, group: &FlowGroup, newest: Timestamp, out: &mut Vec<FlowAggregate>) {
        let horizon = newest.plus_micros(-self.kept_micros);
        let old: Vec<Timestamp> = self
            .totals
            .keys()
            .take_while(|(open, _)| *open < horizon)
            .filter(|(_, of)| of == group)
            .map(|(open, _)| *open)
            .collect();
        for open in old {
            let key = (open, group.clone());
            if self.waiting.remove(&key) {
                self.publish(&key, true, out);
            }
            self.totals.remove(&key);
            self.forget(&Key::Total(open, group.clone()));
        }
    }

    fn publish_complete(&mut self, out: &mut Vec<FlowAggregate>) {
        let complete_through: BTreeMap<&FlowGroup, Timestamp> =
            self.groups.keys().map(|group| (group, self.complete_through(group))).collect();
        let Some(last) = complete_through.values().max().copied() else { return };
        let close = |open: Timestamp| open.plus_micros(Interval::ONE_MINUTE.micros());
        let may_be_due = self.waiting.iter().take_while(|(open, _)| close(*open) <= last);
        let due: Vec<(Timestamp, FlowGroup)> =
            may_be_due.filter(|(open, group)| close(*open) <= complete_through[group]).cloned().collect();
        for key in due {
            self.waiting.remove(&key);
            self.publish(&key, false, out);
        }
    }

    /// Up to where every feed of the group is complete in every partition.
    fn complete_through(&self, group: &FlowGroup) -> Timestamp {
        let of_feed = |feed: &Feed| {
            let marks = self.marks.get(feed);
            (0..self.partitions).map(|p| marks.and_then(|m| m.get(&p)).copied().unwrap_or(Timestamp::MIN)).min()
        };
        let feeds = self.groups.get(group).map(|known| &known.feeds);
        feeds.into_iter().flatten().filter_map(of_feed).min().unwrap_or(Timestamp::MIN)
    }

    /// Publishes a total unless it says what it said before. `cut`: though not every feed has come so far.
    fn publish(&mut self, key: &(Timestamp, FlowGroup), cut: bool, out: &mut Vec<FlowAggregate>) {
        let (open, group) = key;
        let Some(total) = self.totals.get_mut(key) else { return };
        let revision = match &total.published {
            Some((_, said)) if *said == total.sum => return,
            Some((revision, _)) => revision + 1,
            None => 0,
        };
        total.published = Some((revision, total.sum));
        let mut aggregate = total.sum.aggregate(group.scope.text(), &group.name, &group.currency, *open, revision);
        aggregate.stale |= cut;
        out.push(aggregate);
        let total = total.clone();
        self.put(&Key::Total(*open, group.clone()), &total);
    }

    /// The input has so many partitions from now on. A new one has passed what all others have passed: nothing of before is in it.
    pub fn add_partitions(&mut self, partitions: i32) {
        let old = std::mem::replace(&mut self.partitions, partitions);
        for (feed, marks) in self.marks.clone() {
            let passed = (0..old).map(|p| marks.get(&p).copied().unwrap_or(Timestamp::MIN)).min().unwrap_or(Timestamp::MIN);
            for new in old..partitions {
                self.marks.entry(feed.clone()).or_default().insert(new, passed);
                self.put(&Key::Mark(feed.clone(), new), &passed);
            }
        }
    }

    fn put<V: Serialize>(&mut self, key: &Key, value: &V) {
        self.change(Change { key: encode_key(key), value: Some(encode(value)) });
    }

    fn forget(&mut self, key: &Key) {
        self.change(Change { key: encode_key(key), value: None });
    }

    fn change(&mut self, change: Change) {
        self.changed.insert(change.key.clone());
        self.changes.push(change);
    }

    /// Takes every change since the last call, the last of each key, to be written in the same transaction as the results they belong to.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let mut last: BTreeSet<Vec<u8>> = std::mem::take(&mut self.changed);
        let mut changes: Vec<Change> =
            std::mem::take(&mut self.changes).into_iter().rev().filter(|change| last.remove(&change.key)).collect();
        changes.reverse();
        changes
    }

    /// Rebuilds the totals from changelog records in log order.
    ///
    /// # Errors
    /// [`RestoreError`] when a record is not readable or was written by another version.
    pub fn restore(partitions: i32, kept_micros: i64, records: impl IntoIterator<Item = Change>) -> Result<Self, RestoreError> {
        let mut totals = Self::new(partitions, kept_micros);
        let records: Vec<Change> = records.into_iter().collect();
        for (key, value) in live(&records) {
            let (version, key) = key.split_first().ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
            if *version != VERSION {
                return Err(RestoreError::Version { found: *version, expected: VERSION });
            }
            match postcard::from_bytes(key)? {
                Key::Taken(partition) => {
                    totals.taken.insert(partition, postcard::from_bytes(value)?);
                }
                Key::Mark(feed, partition) => {
                    totals.marks.entry(feed).or_default().insert(partition, postcard::from_bytes(value)?);
                }
                Key::Group(group) => {
                    totals.groups.insert(group, postcard::from_bytes(value)?);
                }
                Key::Total(open, group) => {
                    let total: Total = postcard::from_bytes(value)?;
                    let key = (open, group);
                    if total.published.as_ref().is_none_or(|(_, said)| *said != total.sum) {
                        totals.waiting.insert(key.clone());
                    }
                    totals.totals.insert(key, total);
                }
            }
        }
        Ok(totals)
    }
}
