//! What of Kafka the transaction protocol rests on, in memory: transactions with their markers, fencing, a group with generations.
//!
//! Harsher than Kafka in two ways: a rebalance takes partitions at once, without waiting for members to give them up, and the markers of a decided
//! transaction are written one by one, each after any time.

use marketflow_engine::Change;
use marketflow_model::Bar;
use rand::seq::IteratorRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

/// A worker's name, and its transactional id.
pub(crate) type Slot = usize;

/// One log that a transaction writes to and that gets a marker of its own; with the partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Place {
    Bars,
    Changelog(usize),
    Offsets(usize),
}

/// Why a call did not do what it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// The same call again, later.
    Wait,
    /// The group goes on without this member: abort.
    NotAMember,
    /// Another producer has the transactional id, or the transaction was too old: end.
    Fenced,
}

/// As whom a worker stands in the group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Membership {
    pub(crate) id: u32,
    pub(crate) generation: u32,
}

#[derive(Default)]
struct Transaction {
    /// `None` while it is open.
    committed: Option<bool>,
    places: BTreeSet<Place>,
    /// Where the outcome is already to be seen.
    marked: BTreeSet<Place>,
}

#[derive(Default)]
struct Producer {
    epoch: u32,
    last: Option<usize>,
}

struct Entry<T> {
    /// `None`: written outside any transaction.
    by: Option<usize>,
    value: T,
}

/// A record as a reader meets it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Committed,
    Aborted,
    Undecided,
}

pub(crate) struct Cluster {
    transactions: Vec<Transaction>,
    /// Those that are open, or decided and not marked everywhere.
    unsettled: BTreeSet<usize>,
    producers: BTreeMap<Slot, Producer>,
    generation: u32,
    members: BTreeMap<Slot, u32>,
    joined: u32,
    bars: Vec<Entry<Bar>>,
    changelogs: Vec<Vec<Entry<Change>>>,
    offsets: Vec<usize>,
    /// Offsets added to transactions: transaction, partition, next to read.
    added: Vec<(usize, usize, usize)>,
}

impl Cluster {
    pub(crate) fn new(partitions: usize) -> Self {
        Self {
            transactions: Vec::new(),
            unsettled: BTreeSet::new(),
            producers: BTreeMap::new(),
            generation: 0,
            members: BTreeMap::new(),
            joined: 0,
            bars: Vec::new(),
            changelogs: (0..partitions).map(|_| Vec::new()).collect(),
            offsets: vec![0; partitions],
            added: Vec::new(),
        }
    }

    /// Writes one marker of a decided transaction, if there is one to write.
    pub(crate) fn tick(&mut self, random: &mut ChaCha8Rng) {
        let decided =
            self.unsettled.iter().map(|number| (*number, &self.transactions[*number])).filter(|(_, t)| t.committed.is_some());
        let unmarked = decided.flat_map(|(number, t)| t.places.difference(&t.marked).map(move |place| (number, *place)));
        let Some((number, place)) = unmarked.choose(random) else { return };
        self.transactions[number].marked.insert(place);
        self.settle(number);
        if let (Place::Offsets(partition), Some(true)) = (place, self.transactions[number].committed) {
            let added = self.added.iter().rfind(|(by, of, _)| (*by, *of) == (number, partition));
            self.offsets[partition] = added.expect("the place was added with its offset").2;
        }
    }

    fn decide(&mut self, number: usize, committed: bool) {
        self.transactions[number].committed = Some(committed);
        self.settle(number);
    }

    fn settle(&mut self, number: usize) {
        if self.transactions[number].places == self.transactions[number].marked {
            self.unsettled.remove(&number);
        }
    }

    // --- transactions

    /// Fences whoever held the transactional id and aborts what was left open.
    pub(crate) fn init(&mut self, slot: Slot) -> u32 {
        self.time_out(slot);
        let producer = self.producers.entry(slot).or_default();
        producer.epoch += 1;
        producer.epoch
    }

    /// The transaction was open for too long: aborted, and its producer fenced.
    pub(crate) fn time_out(&mut self, slot: Slot) {
        let producer = self.producers.entry(slot).or_default();
        if let Some(open) = producer.last.filter(|last| self.transactions[*last].committed.is_none()) {
            producer.epoch += 1;
            self.decide(open, false);
        }
    }

    /// Whether this producer was not fenced.
    pub(crate) fn is_current(&self, slot: Slot, epoch: u32) -> bool {
        self.check(slot, epoch).is_ok()
    }

    pub(crate) fn begin(&mut self, slot: Slot, epoch: u32) -> Result<(), Refusal> {
        self.check(slot, epoch)?;
        let producer = self.producers.entry(slot).or_default();
        if producer.last.is_some_and(|last| self.unsettled.contains(&last)) {
            return Err(Refusal::Wait);
        }
        producer.last = Some(self.transactions.len());
        self.unsettled.insert(self.transactions.len());
        self.transactions.push(Transaction::default());
        Ok(())
    }

    pub(crate) fn send_bars(&mut self, slot: Slot, epoch: u32, bars: Vec<Bar>) -> Result<(), Refusal> {
        let by = Some(self.open(slot, epoch, (!bars.is_empty()).then_some(Place::Bars))?);
        self.bars.extend(bars.into_iter().map(|value| Entry { by, value }));
        Ok(())
    }

    pub(crate) fn send_changes(&mut self, slot: Slot, epoch: u32, changes: Vec<(usize, Change)>) -> Result<(), Refusal> {
        for (partition, value) in changes {
            let by = Some(self.open(slot, epoch, Some(Place::Changelog(partition)))?);
            self.changelogs[partition].push(Entry { by, value });
        }
        Ok(())
    }

    /// Next-to-read offsets; with a membership they are refused when the group has gone on since.
    pub(crate) fn add_offsets(
        &mut self,
        slot: Slot,
        epoch: u32,
        member: Option<Membership>,
        next: &BTreeMap<usize, usize>,
    ) -> Result<(), Refusal> {
        self.check(slot, epoch)?;
        if member.is_some_and(|member| self.membership(slot) != Some(member)) {
            return Err(Refusal::NotAMember);
        }
        for (partition, next) in next {
            let by = self.open(slot, epoch, Some(Place::Offsets(*partition)))?;
            self.added.push((by, *partition, *next));
        }
        Ok(())
    }

    pub(crate) fn end(&mut self, slot: Slot, epoch: u32, commit: bool) -> Result<(), Refusal> {
        let open = self.open(slot, epoch, None)?;
        self.decide(open, commit);
        Ok(())
    }

    fn check(&self, slot: Slot, epoch: u32) -> Result<(), Refusal> {
        if self.producers.get(&slot).is_some_and(|producer| producer.epoch == epoch) { Ok(()) } else { Err(Refusal::Fenced) }
    }

    /// The slot's open transaction, which writes to this place from now on.
    fn open(&mut self, slot: Slot, epoch: u32, place: Option<Place>) -> Result<usize, Refusal> {
        self.check(slot, epoch)?;
        let open = self.producers[&slot].last.filter(|last| self.transactions[*last].committed.is_none());
        let open = open.ok_or(Refusal::Fenced)?;
        self.transactions[open].places.extend(place);
        Ok(open)
    }

    // --- what a correct worker never does

    pub(crate) fn send_bars_outside(&mut self, bars: Vec<Bar>) {
        self.bars.extend(bars.into_iter().map(|value| Entry { by: None, value }));
    }

    pub(crate) fn send_changes_outside(&mut self, changes: Vec<(usize, Change)>) {
        for (partition, value) in changes {
            self.changelogs[partition].push(Entry { by: None, value });
        }
    }

    pub(crate) fn commit_offsets_outside(&mut self, next: &BTreeMap<usize, usize>) {
        for (partition, next) in next {
            self.offsets[*partition] = *next;
        }
    }

    // --- reading

    /// The group's offset; waits for transactions that hold a later one, unless told not to.
    pub(crate) fn committed(&self, partition: usize, stable: bool) -> Result<usize, Refusal> {
        let waits = |(by, of, _): &(usize, usize, usize)| {
            *of == partition && self.seen(Some(*by), Place::Offsets(*of)) == Seen::Undecided
        };
        if stable && self.added.iter().any(waits) { Err(Refusal::Wait) } else { Ok(self.offsets[partition]) }
    }

    /// Number of records in the changelog, of whatever outcome.
    pub(crate) fn changelog_len(&self, partition: usize) -> usize {
        self.changelogs[partition].len()
    }

    /// What is committed from `from` on, and up to the end as it is now, for which undecided transactions are waited for.
    pub(crate) fn changelog(&self, partition: usize, from: usize) -> Result<Vec<Change>, Refusal> {
        let changes = self.last_stable(partition, from);
        let is_undecided = |entry: &Entry<Change>| self.seen(entry.by, Place::Changelog(partition)) == Seen::Undecided;
        if self.changelogs[partition].iter().any(is_undecided) { Err(Refusal::Wait) } else { Ok(changes) }
    }

    /// What is committed before the first undecided record.
    pub(crate) fn last_stable(&self, partition: usize, from: usize) -> Vec<Change> {
        let seen = |entry: &&Entry<Change>| self.seen(entry.by, Place::Changelog(partition));
        let entries = self.changelogs[partition].iter().take_while(|entry| seen(entry) != Seen::Undecided);
        entries.skip(from).filter(|entry| seen(entry) == Seen::Committed).map(|entry| entry.value.clone()).collect()
    }

    pub(crate) fn changelog_uncommitted(&self, partition: usize) -> Vec<Change> {
        self.changelogs[partition].iter().map(|entry| entry.value.clone()).collect()
    }

    /// What a `read_committed` reader sees of the bars.
    pub(crate) fn bars(&self) -> Vec<Bar> {
        let committed = self.bars.iter().filter(|entry| self.seen(entry.by, Place::Bars) == Seen::Committed);
        committed.map(|entry| entry.value.clone()).collect()
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.unsettled.is_empty()
    }

    fn seen(&self, by: Option<usize>, place: Place) -> Seen {
        let Some(transaction) = by.map(|by| &self.transactions[by]) else { return Seen::Committed };
        match transaction.committed {
            Some(committed) if transaction.marked.contains(&place) => {
                if committed {
                    Seen::Committed
                } else {
                    Seen::Aborted
                }
            }
            _ => Seen::Undecided,
        }
    }

    // --- the group

    /// A static member: who comes back in its slot takes its place without a rebalance.
    pub(crate) fn join(&mut self, slot: Slot) -> Membership {
        self.joined += 1;
        if self.members.insert(slot, self.joined).is_none() {
            self.generation += 1;
        }
        Membership { id: self.joined, generation: self.generation }
    }

    /// The session ended: the group goes on without the member.
    pub(crate) fn expire(&mut self, slot: Slot) {
        if self.members.remove(&slot).is_some() {
            self.generation += 1;
        }
    }

    pub(crate) fn membership(&self, slot: Slot) -> Option<Membership> {
        self.members.get(&slot).map(|id| Membership { id: *id, generation: self.generation })
    }

    pub(crate) fn assignment(&self, slot: Slot) -> BTreeSet<usize> {
        let slots: Vec<Slot> = self.members.keys().copied().collect();
        (0..self.offsets.len()).filter(|partition| slots.get(partition % slots.len().max(1)) == Some(&slot)).collect()
    }
}
