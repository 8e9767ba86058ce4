//! The transaction protocol, simulated: two worker slots over the real engine and a Kafka in memory (`cluster.rs`), in random turns, with crashes
//! at every step, pauses past every time-out, zombies, rebalances and unknown commits. Judged by the oracle, and by what a run without faults gives.
//!
//! The worker keeps the order of `services/processor/src/processor.rs` and `assignment.rs`. Each [`Defect`] breaks one rule of it, and has to be
//! found: that is how the simulation is tested itself. The seed of a failing run is in the message; `SEEDS=n` runs more.

mod cluster;

use super::{Record, SECOND, START, apply, by_instrument, clock, control, gap, run_as, trade};
use cluster::{Cluster, Membership, Refusal, Slot};
use marketflow_engine::{Change, Config, Partition};
use marketflow_model::{Bar, BarKind, ControlKind, Feed, FeedState, Interval, Side, Timestamp, Trade};
use rand::{Rng, SeedableRng, seq::IteratorRandom};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

const SLOTS: usize = 2;
const PARTITIONS: usize = 2;
/// Bars of so many trades, beside those of time.
const TRADED: BarKind = BarKind::Ticks(7);
/// A broken worker has to be found within so many seeds.
const FOUND_WITHIN: u64 = 100;
/// After so many steps nothing goes wrong any more, and after so many more everything has to be done.
const FAULTY_STEPS: usize = 1_500;
const QUIET_STEPS: usize = 3_000;

/// A rule broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Defect {
    /// Offsets are added under the membership of the first assignment, for ever.
    CachedGroupMetadata,
    /// Offsets are added without saying as which member, so that a zombie's are taken.
    NoGroupMetadata,
    /// What was worked through under an assignment that has ended is committed.
    WorkOutlivesRebalance,
    /// State of a partition that went is used again when it comes back.
    StateOutlivesRebalance,
    /// State is not rebuilt after an abort.
    StateOutlivesAbort,
    /// Offsets are committed before the transaction.
    OffsetsFirst,
    /// Offsets are committed after the transaction.
    OffsetsLast,
    /// Bars are written outside the transaction.
    BarsOutside,
    /// The changelog is written outside the transaction.
    ChangelogOutside,
    /// State is saved locally before the commit, and begun from.
    SnapshotBeforeCommit,
    /// Committed offsets are read while a later one is being decided.
    OffsetsNotAwaited,
    /// The changelog is read up to the first undecided transaction.
    MarkersNotAwaited,
    /// The changelog is read without regard to what became of its transactions.
    ReadUncommitted,
    /// A commit without an answer counts as an abort.
    UnknownCommitIsAbort,
    /// One kind of state is not written to the changelog.
    NotPersisted(Kind),
    /// Which revision was published last is not written when only a control came.
    RevisionsNotPersisted,
    /// One watermark for all feeds of a partition, moved by the data of any.
    OneWatermark,
    /// What the clock says of a silent feed is ignored.
    NoIdleRule,
}

/// Kinds of changelog keys, by their second byte; the first is the version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Kind {
    Feed = 0,
    Head = 1,
    Slot = 2,
    Ids = 3,
    Traded = 5,
}

impl Kind {
    fn is_of(self, change: &Change) -> bool {
        change.key.get(1) == Some(&(self as u8))
    }
}

fn config() -> Config {
    Config { kinds: vec![TRADED], ..Config::default() }
}

// --- the worker

enum Step {
    Join,
    Poll,
    /// Of a partition whose committed offset is known.
    ReadChangelog(usize, usize),
    Begin,
    SendBars,
    SendChanges,
    AddOffsets,
    Commit,
    Abort,
}

/// A partition that is ours; without state until it is rebuilt.
#[derive(Default)]
struct Owned {
    next: usize,
    state: Option<Partition>,
    /// All changes of the state, where a defect needs them.
    history: Vec<Change>,
}

#[derive(Default)]
struct Pending {
    next: BTreeMap<usize, usize>,
    bars: Vec<Bar>,
    changes: Vec<(usize, Change)>,
}

/// One process in a slot.
struct Worker {
    slot: Slot,
    defect: Option<Defect>,
    epoch: u32,
    member: Option<Membership>,
    first_member: Option<Membership>,
    step: Step,
    owned: BTreeMap<usize, Owned>,
    /// Of partitions that went, where a defect keeps it.
    kept: BTreeMap<usize, Partition>,
    pending: Pending,
    /// Steps it sleeps.
    paused: usize,
}

/// What a process leaves on its slot's disk, where a defect writes there: changes, and the changelog's length then.
type Disk = BTreeMap<(Slot, usize), (Vec<Change>, usize)>;

struct World<'l> {
    logs: &'l [Vec<Record>],
    cluster: Cluster,
    disk: Disk,
    random: ChaCha8Rng,
    is_faulty: bool,
}

impl Worker {
    fn start(slot: Slot, defect: Option<Defect>, world: &mut World<'_>) -> Self {
        Self {
            slot,
            defect,
            // the producer first: it fences a predecessor in this slot before anything is read
            epoch: world.cluster.init(slot),
            member: None,
            first_member: None,
            step: Step::Join,
            owned: BTreeMap::new(),
            kept: BTreeMap::new(),
            pending: Pending::default(),
            paused: 0,
        }
    }

    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    /// One step; false when the process ends.
    fn step(&mut self, world: &mut World<'_>) -> bool {
        match self.try_step(world) {
            Ok(next) => self.step = next,
            Err(Refusal::Wait) => {}
            Err(Refusal::NotAMember) => self.step = Step::Abort,
            Err(Refusal::Fenced) => return false,
        }
        true
    }

    fn try_step(&mut self, world: &mut World<'_>) -> Result<Step, Refusal> {
        let cluster = &mut world.cluster;
        let in_transaction = matches!(self.step, Step::SendBars | Step::SendChanges | Step::AddOffsets | Step::Commit);
        if in_transaction && world.is_faulty && world.random.random_bool(0.02) {
            return Ok(Step::Abort);
        }
        match self.step {
            Step::Join => {
                self.member = Some(cluster.join(self.slot));
                self.assign(cluster);
                Ok(Step::Poll)
            }
            Step::Poll => self.poll(world),
            Step::ReadChangelog(number, next) => {
                let state = self.restored(number, world)?;
                self.owned.insert(number, Owned { next, ..state });
                Ok(Step::Poll)
            }
            Step::Begin => {
                self.take_changes();
                if self.has(Defect::OffsetsFirst) {
                    cluster.commit_offsets_outside(&self.pending.next);
                }
                cluster.begin(self.slot, self.epoch)?;
                Ok(Step::SendBars)
            }
            Step::SendBars => {
                let bars = self.pending.bars.clone();
                if self.has(Defect::BarsOutside) {
                    cluster.send_bars_outside(bars);
                } else {
                    cluster.send_bars(self.slot, self.epoch, bars)?;
                }
                Ok(Step::SendChanges)
            }
            Step::SendChanges => {
                let changes = self.pending.changes.clone();
                if self.has(Defect::ChangelogOutside) {
                    cluster.send_changes_outside(changes);
                } else {
                    cluster.send_changes(self.slot, self.epoch, changes)?;
                }
                Ok(Step::AddOffsets)
            }
            Step::AddOffsets => {
                let member = match self.defect {
                    Some(Defect::NoGroupMetadata) => None,
                    Some(Defect::CachedGroupMetadata) => self.first_member,
                    _ => self.member,
                };
                if !matches!(self.defect, Some(Defect::OffsetsFirst | Defect::OffsetsLast)) {
                    cluster.add_offsets(self.slot, self.epoch, member, &self.pending.next)?;
                }
                if self.has(Defect::SnapshotBeforeCommit) {
                    for (number, owned) in &self.owned {
                        world.disk.insert((self.slot, *number), (owned.history.clone(), cluster.changelog_len(*number)));
                    }
                }
                Ok(Step::Commit)
            }
            Step::Commit => {
                if world.is_faulty && world.random.random_bool(0.03) {
                    return self.lose_the_answer(world);
                }
                cluster.end(self.slot, self.epoch, true)?;
                if self.has(Defect::OffsetsLast) && (!world.is_faulty || world.random.random_bool(0.9)) {
                    cluster.commit_offsets_outside(&self.pending.next);
                }
                self.pending = Pending::default();
                Ok(Step::Poll)
            }
            Step::Abort => {
                cluster.end(self.slot, self.epoch, false)?;
                self.start_over(cluster)?;
                Ok(Step::Poll)
            }
        }
    }

    /// The commit is carried out or not, and the process is not told: it ends, and whoever comes next reads what became of it.
    fn lose_the_answer(&mut self, world: &mut World<'_>) -> Result<Step, Refusal> {
        world.cluster.end(self.slot, self.epoch, world.random.random())?;
        if !self.has(Defect::UnknownCommitIsAbort) {
            return Err(Refusal::Fenced);
        }
        // goes on where this transaction began, and with the state of then
        for (number, owned) in &mut self.owned {
            owned.next = world.cluster.committed(*number, false)?;
            owned.state = Some(restore(world.cluster.last_stable(*number, 0)));
        }
        self.pending = Pending::default();
        Ok(Step::Poll)
    }

    /// State and read position go back to what was committed.
    fn start_over(&mut self, cluster: &Cluster) -> Result<(), Refusal> {
        self.pending = Pending::default();
        for (number, owned) in &mut self.owned {
            if self.defect == Some(Defect::StateOutlivesAbort) {
                owned.next = cluster.committed(*number, false)?;
            } else {
                *owned = Owned::default();
            }
        }
        Ok(())
    }

    /// Follows a rebalance, then reads: results and next offsets gather until the next transaction.
    fn poll(&mut self, world: &mut World<'_>) -> Result<Step, Refusal> {
        let is = world.cluster.membership(self.slot);
        if is != self.member {
            return self.follow_rebalance(is, &world.cluster);
        }
        if let Some(number) = self.owned.iter().find_map(|(number, owned)| owned.state.is_none().then_some(*number)) {
            let next = world.cluster.committed(number, !self.has(Defect::OffsetsNotAwaited))?;
            return Ok(Step::ReadChangelog(number, next));
        }
        let waiting = self.owned.iter().filter(|(number, owned)| owned.next < world.logs[**number].len());
        let Some(number) = waiting.map(|(number, _)| *number).choose(&mut world.random) else {
            return Ok(if self.pending.next.is_empty() { Step::Poll } else { Step::Begin });
        };
        for _ in 0..world.random.random_range(1..12) {
            self.read(number, &world.logs[number]);
        }
        Ok(if world.random.random_bool(0.5) { Step::Begin } else { Step::Poll })
    }

    fn follow_rebalance(&mut self, is: Option<Membership>, cluster: &Cluster) -> Result<Step, Refusal> {
        let (Some(was), Some(is)) = (self.member, is) else {
            // the group went on without us
            self.pending = Pending::default();
            self.owned.clear();
            return Ok(Step::Join);
        };
        if was.id != is.id {
            return Err(Refusal::Fenced);
        }
        self.member = Some(is);
        if self.has(Defect::WorkOutlivesRebalance) {
            self.take_changes();
        } else {
            self.pending = Pending::default();
        }
        // every rebalance takes everything and gives it anew: meanwhile somebody else may have had it
        for (number, owned) in std::mem::take(&mut self.owned) {
            if self.has(Defect::StateOutlivesRebalance) {
                self.kept.extend(owned.state.map(|state| (number, state)));
            }
        }
        self.assign(cluster);
        Ok(if self.pending.next.is_empty() { Step::Poll } else { Step::Begin })
    }

    fn assign(&mut self, cluster: &Cluster) {
        self.first_member = self.first_member.or(self.member);
        self.owned = cluster.assignment(self.slot).into_iter().map(|number| (number, Owned::default())).collect();
    }

    fn restored(&mut self, number: usize, world: &World<'_>) -> Result<Owned, Refusal> {
        let cluster = &world.cluster;
        if let Some(kept) = self.kept.remove(&number) {
            return Ok(Owned { state: Some(kept), ..Owned::default() });
        }
        let mut history = match (self.defect, world.disk.get(&(self.slot, number))) {
            (Some(Defect::MarkersNotAwaited), _) => cluster.last_stable(number, 0),
            (Some(Defect::ReadUncommitted), _) => cluster.changelog_uncommitted(number),
            (_, Some((changes, from))) => [changes.clone(), cluster.changelog(number, *from)?].concat(),
            (_, None) => cluster.changelog(number, 0)?,
        };
        let state = Some(restore(history.clone()));
        if !self.has(Defect::SnapshotBeforeCommit) {
            history.clear();
        }
        Ok(Owned { next: 0, state, history })
    }

    fn read(&mut self, number: usize, log: &[Record]) {
        let (defect, owned) = (self.defect, self.owned.get_mut(&number));
        let Some((owned, record)) = owned.and_then(|owned| log.get(owned.next).map(|record| (owned, record))) else { return };
        let offset = i64::try_from(owned.next).unwrap();
        owned.next += 1;
        self.pending.next.insert(number, owned.next);
        let Some(state) = &mut owned.state else { return };
        match (defect, record) {
            (Some(Defect::NoIdleRule), Record::Control(control)) if control.kind == ControlKind::Clock => {}
            (Some(Defect::OneWatermark), _) => {
                let mut record = record.clone();
                match &mut record {
                    Record::Trade(trade) => trade.feed = Feed::new("one"),
                    Record::Control(control) => control.feed = Feed::new("one"),
                }
                apply(state, offset, &record, &mut self.pending.bars);
            }
            _ => {
                apply(state, offset, record, &mut self.pending.bars);
            }
        }
        if let (Some(Defect::RevisionsNotPersisted), Record::Control(_)) = (defect, record) {
            let changes = state.take_changes().into_iter().filter(|change| !Kind::Slot.is_of(change) || change.value.is_none());
            self.pending.changes.extend(changes.map(|change| (number, change)));
        } else if defect == Some(Defect::RevisionsNotPersisted) {
            self.pending.changes.extend(state.take_changes().into_iter().map(|change| (number, change)));
        }
        // nobody reads them here
        state.take_flows();
    }

    fn take_changes(&mut self) {
        for (number, owned) in &mut self.owned {
            let mut changes = owned.state.as_mut().map(Partition::take_changes).unwrap_or_default();
            if let Some(Defect::NotPersisted(kind)) = self.defect {
                changes.retain(|change| !kind.is_of(change));
            }
            if self.defect == Some(Defect::SnapshotBeforeCommit) {
                owned.history.extend(changes.iter().cloned());
            }
            self.pending.changes.extend(changes.into_iter().map(|change| (*number, change)));
        }
    }
}

fn restore(changes: Vec<Change>) -> Partition {
    Partition::restore(config(), changes).unwrap()
}

// --- the input

/// One partition: a busy feed with duplicates, late trades and a hole that is filled; one half an hour behind it, whose trades have no ids; and one
/// that falls silent.
fn input(partition: usize, random: &mut ChaCha8Rng) -> Vec<Record> {
    let feed = |record: Record, name: &str| match record {
        Record::Trade(trade) => Record::Trade(Trade { feed: Feed::new(name), ..trade }),
        Record::Control(mut control) => {
            control.feed = Feed::new(name);
            Record::Control(control)
        }
    };
    let up = |name: &str, from: i64| {
        let mut c = control(ControlKind::FeedState, from);
        (c.state, c.from) = (FeedState::Up, Some(Timestamp::from_micros(from)));
        feed(Record::Control(c), name)
    };
    let behind = 1_800 * SECOND;
    let mut log = vec![up("busy", START), up("behind", START - behind), up("silent", START)];
    let (hole_from, hole_to) = (START + 150 * SECOND, START + 200 * SECOND);
    let mut arrivals: Vec<(i64, Record)> = Vec::new();
    let (mut now, mut id) = (START, 0);
    while now < START + 420 * SECOND {
        now += random.random_range(1..12 * SECOND);
        id += 1;
        let price = format!("{}.{:02}", random.random_range(90..110), random.random_range(0..100));
        let of = |symbol: &str, at: i64| {
            let side = if id % 3 == 0 { Side::Sell } else { Side::Buy };
            trade(&format!("{symbol}{partition}"), id, at, &price, "0.25", side)
        };
        let (busy, slow) = (of(if id % 2 == 0 { "BUSY" } else { "OTHER" }, now), of("BEHIND", now - behind));
        let arrival = match random.random_range(0..10) {
            _ if (hole_from..hole_to).contains(&now) => hole_to + 60 * SECOND,
            0 => now + random.random_range(60..200) * SECOND,
            _ => now + random.random_range(0..2 * SECOND),
        };
        if random.random_bool(0.25) {
            arrivals.push((arrival + random.random_range(0..150 * SECOND), feed(Record::Trade(busy.clone()), "busy")));
        }
        arrivals.push((arrival, feed(Record::Trade(busy), "busy")));
        if random.random_bool(0.3) {
            let without_id = Trade { trade_id: None, sequence: None, ..slow };
            arrivals.push((now, feed(Record::Trade(without_id), "behind")));
        }
        if now < START + 100 * SECOND {
            arrivals.push((now, feed(Record::Trade(of("SILENT", now)), "silent")));
            arrivals.push((now, feed(super::heartbeat(now - 2 * SECOND), "silent")));
        }
    }
    for beat in (START..now + 300 * SECOND).step_by(usize::try_from(9 * SECOND).unwrap()) {
        arrivals.push((beat, feed(super::heartbeat(beat - 2 * SECOND), "busy")));
        arrivals.push((beat, feed(super::heartbeat(beat - behind), "behind")));
    }
    arrivals.push((hole_from, feed(gap(ControlKind::GapOpened, "hole", hole_from, None), "busy")));
    arrivals.push((hole_to + 60 * SECOND + 1, feed(gap(ControlKind::GapFilled, "hole", hole_from, Some(hole_to)), "busy")));
    arrivals.push((START + 150 * SECOND, feed(clock(START + 150 * SECOND), "silent")));
    arrivals.sort_by_key(|(at, _)| *at);
    log.extend(arrivals.into_iter().map(|(_, record)| record));
    let end = now + 1_800 * SECOND;
    log.extend([feed(super::heartbeat(end), "busy"), feed(super::heartbeat(end), "behind"), feed(clock(end), "silent")]);
    log
}

// --- the run and its judge

/// What is wrong with what was published; `None`: nothing.
fn judge(logs: &[Vec<Record>], published: &[Bar]) -> Option<String> {
    let trades: Vec<Trade> = logs
        .iter()
        .flatten()
        .filter_map(|record| match record {
            Record::Trade(trade) => Some(trade.clone()),
            Record::Control(_) => None,
        })
        .collect();
    let (bars, traded): (Vec<Bar>, Vec<Bar>) = published.iter().cloned().partition(|bar| bar.interval.interval().is_some());
    let differences = marketflow_oracle::differences(&marketflow_oracle::recompute(&trades, &Interval::STANDARD), &bars, 3);
    if !differences.is_empty() {
        return Some(format!("{differences:?}"));
    }
    let mut revisions: BTreeMap<_, i32> = BTreeMap::new();
    for bar in &bars {
        let next = revisions.entry((&bar.instrument, bar.interval, bar.open_time)).or_insert(0);
        if bar.revision != *next {
            return Some(format!("published twice, or out of order: {bar:?}"));
        }
        *next += 1;
    }
    for (instrument, expected) in marketflow_oracle::recompute_traded(&trades, TRADED) {
        let of = traded.iter().filter(|bar| bar.instrument == instrument).map(marketflow_oracle::values);
        if !of.eq(expected) {
            return Some(format!("bars of trades of {instrument}"));
        }
    }
    None
}

/// Runs one seed; an error says what is wrong.
fn simulate(seed: u64, defect: Option<Defect>) -> Result<(), String> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let logs: Vec<Vec<Record>> = (0..PARTITIONS).map(|partition| input(partition, &mut random)).collect();
    let mut world = World { logs: &logs, cluster: Cluster::new(PARTITIONS), disk: Disk::new(), random, is_faulty: true };
    let mut workers: Vec<Worker> = Vec::new();
    for step in 0..FAULTY_STEPS + QUIET_STEPS {
        let is_read = |of: usize| world.cluster.committed(of, false) == Ok(logs[of].len());
        let all_read = (0..PARTITIONS).all(is_read);
        world.is_faulty = step < FAULTY_STEPS && !all_read;
        let is_idle = |worker: &Worker| matches!(worker.step, Step::Poll) && worker.pending.next.is_empty();
        if all_read && workers.iter().all(is_idle) && world.cluster.is_settled() {
            let bars = world.cluster.bars();
            return judge(&logs, &bars).map_or_else(|| same_as_without_faults(&logs, &bars), Err);
        }
        if world.random.random_bool(0.7) {
            world.cluster.tick(&mut world.random);
        }
        for slot in 0..SLOTS {
            if !workers.iter().any(|worker| worker.slot == slot && world.cluster.is_current(slot, worker.epoch))
                && world.random.random_bool(0.02)
            {
                world.cluster.time_out(slot);
            }
            if !workers.iter().any(|worker| worker.slot == slot) && world.random.random_bool(0.3) {
                let started = Worker::start(slot, defect, &mut world);
                workers.push(started);
            }
        }
        if world.is_faulty && world.random.random_bool(0.05) {
            fault(&mut workers, defect, &mut world);
        }
        for worker in &mut workers {
            worker.paused = if world.is_faulty { worker.paused.saturating_sub(1) } else { 0 };
        }
        let awake = (0..workers.len()).filter(|at| workers[*at].paused == 0).choose(&mut world.random);
        if let Some(at) = awake
            && !workers[at].step(&mut world)
        {
            workers.remove(at);
        }
    }
    Err("stands still".to_owned())
}

/// One thing goes wrong with one process.
fn fault(workers: &mut Vec<Worker>, defect: Option<Defect>, world: &mut World<'_>) {
    let Some(at) = (0..workers.len()).choose(&mut world.random) else { return };
    let slot = workers[at].slot;
    match world.random.random_range(0..10) {
        0..=3 => drop(workers.remove(at)),
        // a zombie: paused, the group goes on without it, and perhaps the cluster ends its transaction
        4..=7 => {
            workers[at].paused = world.random.random_range(5..120);
            world.cluster.expire(slot);
            if world.random.random_bool(0.3) {
                world.cluster.time_out(slot);
            }
        }
        8 => workers[at].paused = world.random.random_range(5..60),
        // a second process in the same slot
        _ => {
            let second = Worker::start(slot, defect, world);
            workers.push(second);
        }
    }
}

/// The same bars in the same order, instrument by instrument, and so byte by byte.
fn same_as_without_faults(logs: &[Vec<Record>], published: &[Bar]) -> Result<(), String> {
    let calm: Vec<Bar> = logs.iter().flat_map(|log| run_as(config(), log).0).collect();
    if by_instrument(&calm) == by_instrument(published) { Ok(()) } else { Err("other bars than without faults".to_owned()) }
}

#[test]
fn no_crash_zombie_or_rebalance_changes_what_is_published() {
    for seed in 0..super::seeds(2_000) {
        assert_eq!(simulate(seed, None), Ok(()), "seed {seed}");
    }
}

/// The seed that finds the defect, and what it says.
fn found(defect: Defect) -> (u64, String) {
    let found = (0..FOUND_WITHIN).find_map(|seed| simulate(seed, Some(defect)).err().map(|what| (seed, what)));
    found.unwrap_or_else(|| panic!("{defect:?} is not found within {FOUND_WITHIN} seeds"))
}

#[test]
fn a_worker_that_breaks_a_rule_of_the_transaction_is_found() {
    for defect in [
        Defect::NoGroupMetadata,
        Defect::WorkOutlivesRebalance,
        Defect::StateOutlivesRebalance,
        Defect::StateOutlivesAbort,
        Defect::OffsetsFirst,
        Defect::OffsetsLast,
        Defect::BarsOutside,
        Defect::ChangelogOutside,
        Defect::SnapshotBeforeCommit,
        Defect::OffsetsNotAwaited,
        Defect::MarkersNotAwaited,
        Defect::ReadUncommitted,
        Defect::UnknownCommitIsAbort,
    ] {
        let (seed, what) = found(defect);
        assert!(what != "stands still", "{defect:?} shows in what is published, seed {seed}");
    }
    let (_, what) = found(Defect::CachedGroupMetadata);
    assert_eq!(what, "stands still", "each of its commits is refused");
}

#[test]
fn a_worker_that_does_not_persist_a_kind_of_state_is_found() {
    for kind in [Kind::Feed, Kind::Head, Kind::Slot, Kind::Ids, Kind::Traded] {
        found(Defect::NotPersisted(kind));
    }
    found(Defect::RevisionsNotPersisted);
}

#[test]
fn a_worker_that_reads_time_wrongly_is_found() {
    found(Defect::OneWatermark);
    found(Defect::NoIdleRule);
}
