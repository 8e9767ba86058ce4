//! What the feed knows: which trades were seen, what every connection proves, which holes are open. Pure: items and answers in, actions out.
//!
//! Rules kept here, each with a test below:
//! - A trade goes out once, by id; what is new is decided in one place for socket, back-fill and sweep.
//! - `complete_through` follows the oldest settled connection's evidence less the disorder allowance, of several lines the one that is least
//!   far, never goes back, and is spoken only behind the trades it covers.
//! - A lost connection opens a gap per instrument from the last `complete_through`; it is filled once the venue has acknowledged the
//!   subscription again and then answered by request. While it is open `complete_through` may go on: the gap pins its windows. The feed is
//!   down only when no line is left.
//! - What cannot be fetched any more is abandoned, aloud.
//! - An instrument that only its rank brought in is let go without a hole: it is followed from its acknowledgement until then, and of its windows
//!   only those that it entered or left in the middle miss something.
//! - A halt lasts until the venue says that trading goes on, or a trade shows it.
//! - Where a second provider stands by, only one of the two tells an instrument's trades at a time; what the other says meanwhile is held, and
//!   fills what the one missed (`failover.rs`).
//!
//! Next: `controls.rs` for the records that say so, `backfill.rs` for the requests.

use crate::controls;
use crate::failover::{self, Teller, Told};
use crate::intake::{ConnectionNumber, Item};
use crate::lines::Line;
use marketflow_model::{Control, ControlKind, Feed, FeedState, Instrument, Interval, Source, Timestamp, Trade};
use marketflow_providers::{Cursor, Event, Malformed, Page, Provider, Repair};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map};
use std::time::Duration;

/// What to do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write a trade.
    Trade(Trade),
    /// Write a control, to its instrument's partition or to all.
    Control(Control),
    /// Ask the venue.
    Ask(Job),
    /// Leave and enter an instrument's channels again: the venue forgot them.
    Resubscribe(Instrument),
    /// Set bytes aside that are no record.
    SetAside {
        /// For counting.
        reason: Malformed,
        /// In words.
        detail: String,
        /// As they came.
        raw: Vec<u8>,
        /// Whether they came by request.
        by_request: bool,
    },
    /// A trade was dropped, and why.
    Discarded(&'static str),
}

/// Something to ask the venue by request.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Of which instrument.
    pub instrument: Instrument,
    /// What for.
    pub purpose: Purpose,
    /// What exactly.
    pub cursor: Cursor,
}

/// Why the venue is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Purpose {
    /// To fill the gaps of these ids.
    Fill(Vec<String>),
    /// To see whether the socket missed anything with an event time before this.
    Check(Timestamp),
}

/// A hole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// Its name.
    pub id: String,
    /// Inclusive.
    pub from: Timestamp,
    /// Exclusive; unknown while open.
    pub to: Option<Timestamp>,
    /// Last id before it, where ids tell.
    pub after: Option<i64>,
    /// First id after it, where ids tell.
    pub before: Option<i64>,
    /// Exclusive end that the log was told when it was opened: only up to there does it pin windows.
    #[serde(default)]
    announced_to: Option<Timestamp>,
    /// The last trade before it, where only volume tells: what is missing may be missing from there on.
    #[serde(default)]
    last_trade: Option<Timestamp>,
    /// The feeds that were told of it.
    #[serde(default)]
    feeds: Vec<Feed>,
    /// Whether its trades have been asked for.
    #[serde(skip)]
    asked: bool,
    /// Latest event time recovered.
    #[serde(skip)]
    recovered_to: Option<Timestamp>,
    /// Looks at the clock since it was bounded.
    #[serde(skip)]
    looks: u32,
}

/// What survives a restart beside the log itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Instruments subscribed, and since when there is evidence of them.
    pub instruments: BTreeMap<Instrument, Option<Timestamp>>,
    /// Instruments added at run time.
    pub added: BTreeSet<Instrument>,
    /// Instruments left at run time, and up to when there was evidence of them.
    pub left: BTreeMap<Instrument, Option<Timestamp>>,
    /// Of those added, the ones that only their rank brought in.
    #[serde(default)]
    pub ranked: BTreeSet<Instrument>,
    /// Instruments that their rank had brought in and that were let go since.
    #[serde(default)]
    pub let_go: BTreeSet<Instrument>,
    /// Open gaps.
    pub gaps: BTreeMap<Instrument, Vec<Gap>>,
    /// Up to when a sweep confirmed each instrument: what the socket missed since is not known yet.
    #[serde(default)]
    pub checked: BTreeMap<Instrument, Timestamp>,
    /// Instruments whose trading is halted, and since when.
    #[serde(default)]
    pub halted: BTreeMap<Instrument, Timestamp>,
    /// Who tells the trades of each instrument, where a second provider stands by.
    #[serde(default)]
    pub told: BTreeMap<Instrument, Told>,
}

/// What the log says about the feed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogEnd {
    /// Last `complete_through` said to any partition: a process killed between two partitions had told only some of them.
    pub complete_through: Option<Timestamp>,
    /// What it says about each instrument.
    pub instruments: BTreeMap<Instrument, Past>,
}

/// What the log says about an instrument: its records, taken in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Past {
    /// Last `complete_through` of its partition.
    pub complete_through: Option<Timestamp>,
    /// Ids written.
    seen: Seen,
    /// Latest event time written.
    last_time: Option<Timestamp>,
    /// Gaps opened and neither filled nor abandoned.
    gaps: Vec<Gap>,
    /// Gaps filled or abandoned, with the feeds that were told so.
    closed: BTreeMap<String, Vec<Feed>>,
}

impl Past {
    /// Nothing yet; remembers so many runs of ids.
    pub fn new(ids_max: usize) -> Self {
        Self { complete_through: None, seen: Seen::new(ids_max), last_time: None, gaps: Vec::new(), closed: BTreeMap::new() }
    }

    /// The next trade. The first that came by itself ends the gaps before it.
    pub fn trade(&mut self, provider: &Provider, trade: &Trade) {
        if let Some((first, last)) = provider.ids(trade) {
            if ids_tell(provider) && trade.source == Source::Websocket {
                let to = trade.event_time.plus_micros(tail_micros(provider));
                let Self { gaps, seen, .. } = self;
                gaps.iter_mut().filter(|gap| gap.to.is_none()).for_each(|gap| gap.end_before(first, to, seen));
            }
            self.seen.insert_run(first, last);
        }
        self.last_time = self.last_time.max(Some(trade.event_time));
    }

    /// The next control of the instrument. A record names no ids: they are those of the trades around it.
    pub fn control(&mut self, provider: &Provider, control: &Control) {
        let Some(id) = &control.gap_id else { return };
        if control.kind != ControlKind::GapOpened {
            self.closed.entry(id.clone()).or_default().push(control.feed.clone());
            let Self { gaps, closed, .. } = self;
            gaps.retain(|gap| !is_closed(closed, gap));
            return;
        }
        if let Some(gap) = self.gaps.iter_mut().find(|gap| gap.id == *id) {
            gap.feeds.push(control.feed.clone());
            return;
        }
        let mut gap = Gap::found(id.clone(), control.from.unwrap_or(control.clock), control.to);
        gap.feeds.push(control.feed.clone());
        if ids_tell(provider) && gap.to.is_none() {
            gap.after = self.seen.highest();
            gap.last_trade = last_trade(provider, self.last_time, gap.from);
        }
        self.gaps.push(gap);
    }

    /// Takes up the gaps of the state file: the log has gone on since it was written, but does not reach back as far.
    fn join(&mut self, kept: Vec<Gap>) {
        let Self { gaps, closed, .. } = self;
        for gap in kept.into_iter().filter(|gap| !is_closed(closed, gap)) {
            match gaps.iter_mut().find(|found| found.id == gap.id) {
                Some(found) => {
                    found.after = gap.after.or(found.after);
                    found.before = gap.before.or(found.before);
                    found.to = gap.to.or(found.to);
                    found.last_trade = gap.last_trade.or(found.last_trade);
                }
                None => gaps.push(gap),
            }
        }
    }
}

/// Whether every feed that was told of the gap was told that it is over.
fn is_closed(closed: &BTreeMap<String, Vec<Feed>>, gap: &Gap) -> bool {
    closed.get(&gap.id).is_some_and(|feeds| gap.feeds.iter().all(|feed| feeds.contains(feed)))
}

impl Gap {
    /// A gap of which only the times are known.
    fn found(id: String, from: Timestamp, to: Option<Timestamp>) -> Self {
        Self {
            id,
            from,
            to,
            after: None,
            before: None,
            announced_to: to,
            last_trade: None,
            feeds: Vec::new(),
            asked: false,
            recovered_to: None,
            looks: 0,
        }
    }
}

#[derive(Debug, Default)]
struct Entry {
    seen: Seen,
    /// Ids (or hashes) of trades that cannot be kept and were set aside.
    set_aside: Seen,
    last_id: Option<i64>,
    last_time: Option<Timestamp>,
    /// Evidence exists from here on.
    since: Option<Timestamp>,
    subscribed_on: BTreeSet<ConnectionNumber>,
    /// First trade by socket since the last acknowledgement or drop: from here on trades come by themselves.
    first_live: Option<(i64, Timestamp)>,
    /// When that acknowledgement or drop was.
    live_from: Option<Timestamp>,
    gaps: Vec<Gap>,
    /// A back-fill is under way; one at a time, so that holes found meanwhile are asked for together.
    filling: bool,
    /// Looks at the clock since the last acknowledgement without a trade.
    looks_without_trade: u32,
    /// A request confirmed everything before.
    checked_to: Option<Timestamp>,
    checking: bool,
    halted_since: Option<Timestamp>,
    /// Who tells its trades.
    told: Told,
    /// What the one that stands by said and the one that tells has not.
    held: VecDeque<Held>,
    /// Last id that the one that stands by said since the last change.
    held_to: Option<i64>,
    /// Since when the one that tells is lost; monotonic.
    lost_since: Option<Duration>,
    /// Since when the first is back while the other tells (monotonic), and the last id then.
    back_since: Option<(Duration, Option<i64>)>,
}

/// A trade from the provider that stands by.
#[derive(Debug)]
struct Held {
    /// Monotonic.
    at: Duration,
    number: ConnectionNumber,
    trade: Trade,
}

#[derive(Debug, Default)]
struct Connection {
    evidence: Option<Timestamp>,
    settled: bool,
}

/// Bounds.
#[derive(Debug, Clone)]
pub struct LedgerSettings {
    /// How far behind the newest event time a trade may still arrive, in microseconds.
    pub disorder_micros: i64,
    /// Ids (runs of neighbouring ids) remembered per instrument.
    pub ids_per_instrument: usize,
    /// Venue clock between two sweeps of an instrument, in microseconds, where the provider needs them.
    pub sweep_interval_micros: i64,
    /// The provider that stands by, if one does.
    pub failover: Option<failover::Settings>,
}

/// The feed's memory.
#[derive(Debug)]
pub struct Ledger {
    provider: &'static Provider,
    feed: Feed,
    settings: LedgerSettings,
    /// Names this run, so that gap and connection ids are unique.
    run: String,
    instruments: BTreeMap<Instrument, Entry>,
    added: BTreeSet<Instrument>,
    left: BTreeMap<Instrument, Option<Timestamp>>,
    ranked: BTreeSet<Instrument>,
    let_go: BTreeSet<Instrument>,
    connections: BTreeMap<ConnectionNumber, Connection>,
    /// The settled connection that counts on each line.
    active: BTreeMap<Line, ConnectionNumber>,
    complete_through: Option<Timestamp>,
    /// Who was ever up in this run.
    up: BTreeSet<Teller>,
    /// Instruments that the standby tells.
    told_by_standby: usize,
    /// As the timer last said.
    monotonic: Duration,
    gaps_made: u64,
    changed: bool,
}

impl Ledger {
    /// Takes up where the log and the state file left off: opens a gap for every instrument that had evidence before.
    pub fn new(
        provider: &'static Provider,
        settings: LedgerSettings,
        run: String,
        state: State,
        mut log: LogEnd,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) -> Self {
        let mut told = if settings.failover.is_some() { state.told } else { BTreeMap::new() };
        let (ids_per_instrument, sweep_interval_micros) = (settings.ids_per_instrument, settings.sweep_interval_micros);
        let mut ledger = Self {
            provider,
            feed: provider.feed(),
            settings,
            run,
            instruments: BTreeMap::new(),
            added: state.added,
            left: state.left,
            ranked: state.ranked,
            let_go: state.let_go,
            connections: BTreeMap::new(),
            active: BTreeMap::new(),
            // What any partition was promised before holds on: trades behind it need a gap, and it never goes back.
            complete_through: log.complete_through,
            up: BTreeSet::new(),
            told_by_standby: 0,
            monotonic: Duration::ZERO,
            gaps_made: 0,
            changed: true,
        };
        let mut kept = state.gaps;
        let sweep_lag_micros = sweep_interval_micros.saturating_mul(3);
        for (instrument, since) in state.instruments {
            let mut past = log.instruments.remove(&instrument).unwrap_or_else(|| Past::new(ids_per_instrument));
            past.join(kept.remove(&instrument).unwrap_or_default());
            let mut entry = Entry {
                last_id: past.seen.highest(),
                last_time: past.last_time,
                seen: past.seen,
                set_aside: Seen::new(SET_ASIDE_KEPT),
                since,
                halted_since: state.halted.get(&instrument).copied(),
                gaps: past.gaps,
                told: told.remove(&instrument).unwrap_or_default(),
                ..Entry::default()
            };
            ledger.told_by_standby += usize::from(entry.told.by == Teller::Standby);
            // Evidence of a stretch before: from state and log together. Without either the instrument is new.
            let known_to =
                past.complete_through.filter(|_| entry.since.is_some() || entry.last_time.is_some()).or(entry.last_time);
            if let Some(known_to) = known_to {
                entry.since = entry.since.or(Some(known_to));
                // Sweeps go on where they stood: complete_through ran ahead of them.
                let lagging = known_to.plus_micros(-sweep_lag_micros);
                entry.checked_to = Some(state.checked.get(&instrument).map_or(lagging, |checked| known_to.min(*checked)));
            }
            let left_open = entry.left_open(provider);
            ledger.instruments.insert(instrument.clone(), entry);
            ledger.close_gaps(&instrument, &left_open, ControlKind::GapAbandoned, LEFT_OPEN, now, out);
            if let Some(from) = known_to {
                ledger.open_gap(&instrument, from, "restart", now, out);
            }
        }
        ledger
    }

    /// The instruments wanted.
    pub fn instruments(&self) -> Vec<Instrument> {
        self.instruments.keys().cloned().collect()
    }

    /// Each instrument and whether the venue acknowledged it.
    pub fn subscriptions(&self) -> impl Iterator<Item = (&Instrument, bool)> {
        self.instruments.iter().map(|(instrument, entry)| (instrument, !entry.subscribed_on.is_empty()))
    }

    /// Everything before is complete, open gaps excepted.
    pub fn complete_through(&self) -> Option<Timestamp> {
        self.complete_through
    }

    /// Gaps not yet filled or abandoned.
    pub fn open_gaps(&self) -> usize {
        self.instruments.values().map(|entry| entry.gaps.len()).sum()
    }

    /// Whether the feed was ever up in this run, or had evidence in an earlier one: only then is there anything to say each second.
    pub fn is_announced(&self) -> bool {
        !self.up.is_empty()
    }

    /// Every feed whose name records carry.
    pub fn feeds(&self) -> Vec<Feed> {
        std::iter::once(&self.feed).chain(self.settings.failover.as_ref().map(|failover| &failover.standby)).cloned().collect()
    }

    /// Whether a feed tells the instrument now.
    pub fn is_told_by(&self, instrument: &Instrument, feed: &Feed) -> bool {
        self.instruments.get(instrument).is_some_and(|entry| self.feed_of(entry.told.by) == feed)
    }

    /// How many instruments each feed tells now.
    pub fn told(&self) -> Vec<(Feed, usize)> {
        let by_first = self.instruments.len() - self.told_by_standby;
        self.feeds().into_iter().zip([by_first, self.told_by_standby]).collect()
    }

    /// What to keep, when it changed since the last call.
    pub fn changed_state(&mut self) -> Option<State> {
        std::mem::take(&mut self.changed).then(|| State {
            instruments: self.instruments.iter().map(|(instrument, entry)| (instrument.clone(), entry.since)).collect(),
            added: self.added.clone(),
            left: self.left.clone(),
            ranked: self.ranked.clone(),
            let_go: self.let_go.clone(),
            gaps: self
                .instruments
                .iter()
                .filter(|(_, entry)| !entry.gaps.is_empty())
                .map(|(instrument, entry)| (instrument.clone(), entry.gaps.clone()))
                .collect(),
            checked: self
                .instruments
                .iter()
                .filter_map(|(instrument, entry)| entry.checked_to.map(|checked| (instrument.clone(), checked)))
                .collect(),
            halted: self
                .instruments
                .iter()
                .filter_map(|(instrument, entry)| entry.halted_since.map(|since| (instrument.clone(), since)))
                .collect(),
            told: self
                .instruments
                .iter()
                .filter(|(_, entry)| entry.told != Told::default())
                .map(|(instrument, entry)| (instrument.clone(), entry.told.clone()))
                .collect(),
        })
    }

    /// The instruments that only their rank brought in.
    pub fn ranked(&self) -> &BTreeSet<Instrument> {
        &self.ranked
    }

    /// Adds instruments that their rank brings in; returns those that are new.
    pub fn bring_in(&mut self, instruments: &[Instrument], now: Timestamp, out: &mut Vec<Action>) -> Vec<Instrument> {
        let new = |instrument: &&Instrument| !self.instruments.contains_key(*instrument);
        let new: Vec<Instrument> = instruments.iter().filter(new).cloned().collect();
        let added = self.add(&new, now, out);
        self.ranked.extend(added.iter().cloned());
        added
    }

    /// Lets instruments go that only their rank brought in; returns those that were there. Nothing is missing of what is not followed any more, but
    /// the windows that go on.
    pub fn let_go(&mut self, instruments: &[Instrument], now: Timestamp, out: &mut Vec<Action>) -> Vec<Instrument> {
        let here = |instrument: &&Instrument| self.ranked.contains(*instrument) && self.instruments.contains_key(*instrument);
        let going: Vec<Instrument> = instruments.iter().filter(here).cloned().collect();
        for instrument in &going {
            let since = self.instruments.get(instrument).and_then(|entry| entry.since);
            if let Some(from) = since.map(|since| self.complete_through.map_or(since, |complete| complete.max(since))) {
                self.cut_windows(instrument, from, window_edges(from).1, "no longer followed", now, out);
            }
        }
        let removed = self.remove(&going, now, out);
        for instrument in &removed {
            self.left.remove(instrument);
            self.let_go.insert(instrument.clone());
        }
        removed
    }

    /// What is missing from windows because an instrument is not followed all through them.
    fn cut_windows(
        &mut self,
        instrument: &Instrument,
        from: Timestamp,
        to: Timestamp,
        reason: &str,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        if from >= to {
            return;
        }
        let gap = Gap::found(self.next_gap_id(), from, Some(to));
        for kind in [ControlKind::GapOpened, ControlKind::GapAbandoned] {
            self.tell_gap(kind, instrument, &gap, gap.to, reason, now, out);
        }
    }

    /// Adds instruments at run time; returns those that are new.
    pub fn add(&mut self, instruments: &[Instrument], now: Timestamp, out: &mut Vec<Action>) -> Vec<Instrument> {
        let mut added = Vec::new();
        for instrument in instruments {
            // Whoever is asked for stays, whatever its rank.
            self.changed |= self.ranked.remove(instrument);
            if self.instruments.contains_key(instrument) {
                continue;
            }
            let left = self.left.remove(instrument).flatten();
            self.added.insert(instrument.clone());
            let entry = Entry {
                seen: Seen::new(self.settings.ids_per_instrument),
                set_aside: Seen::new(SET_ASIDE_KEPT),
                since: left,
                checked_to: left,
                ..Entry::default()
            };
            self.instruments.insert(instrument.clone(), entry);
            if let Some(from) = left {
                self.open_gap(instrument, from, "not subscribed", now, out);
            }
            added.push(instrument.clone());
        }
        self.changed |= !added.is_empty();
        added
    }

    /// Takes instruments away at run time; returns those that were there.
    pub fn remove(&mut self, instruments: &[Instrument], now: Timestamp, out: &mut Vec<Action>) -> Vec<Instrument> {
        let mut removed = Vec::new();
        for instrument in instruments {
            let Some(entry) = self.instruments.remove(instrument) else { continue };
            for gap in entry.gaps {
                let reason = "unsubscribed before it was filled";
                self.tell_gap(ControlKind::GapAbandoned, instrument, &gap, gap.to, reason, now, out);
            }
            self.told_by_standby -= usize::from(entry.told.by == Teller::Standby);
            self.added.remove(instrument);
            self.ranked.remove(instrument);
            self.left.insert(instrument.clone(), entry.since.map(|since| self.complete_through.map_or(since, |c| c.max(since))));
            for feed in self.feeds() {
                let (instrument, reason) = (Some(instrument.clone()), "unsubscribed");
                out.push(Action::Control(controls::feed_state(&feed, instrument, FeedState::Down, None, reason, now)));
            }
            removed.push(instrument.clone());
        }
        self.changed |= !removed.is_empty();
        removed
    }

    /// Takes what a connection handed over.
    pub fn on_item(&mut self, number: ConnectionNumber, item: Item, now: Timestamp, out: &mut Vec<Action>) {
        match item {
            Item::Event(Event::Trade(trade)) => self.on_live_trade(number, trade, now, out),
            Item::Event(Event::Evidence { through }) => self.on_evidence(number, through),
            Item::Event(Event::Subscribed { instrument }) => self.on_subscribed(number, &instrument, now, out),
            Item::Event(Event::Missing { instrument, after, before }) if self.tells(number, &instrument) => {
                self.on_missing(&instrument, after, before, now, out);
            }
            Item::Event(Event::Silent { instrument, .. }) => self.on_silent(&instrument, out),
            Item::Event(Event::Halt { instrument, halted, at, reason }) if self.tells(number, &instrument) => {
                self.on_halt(&instrument, halted, at, reason, now, out)
            }
            // Of one that stands by.
            Item::Event(Event::Missing { .. } | Event::Halt { .. }) => {}
            Item::Event(
                Event::Unsubscribed { .. }
                | Event::Refused { .. }
                | Event::Quote(_)
                | Event::Send { .. }
                | Event::Malformed { .. }
                | Event::Ignored
                | Event::Renew { .. }
                | Event::Reconnect { .. },
            ) => {}
            Item::Malformed { reason, detail, raw, trade } => {
                if let Some((instrument, id)) = trade
                    && let Some(entry) = self.instruments.get_mut(&instrument)
                {
                    entry.set_aside.insert(id);
                }
                out.push(Action::SetAside { reason, detail, raw, by_request: false });
            }
            Item::Dropped { instrument, from } if self.tells(number, &instrument) => self.on_dropped(&instrument, from, now, out),
            Item::Dropped { .. } => {}
            Item::Settled { at } => self.on_settled(number, at, now, out),
            Item::Closed { reason, planned } => self.on_closed(number, reason, planned, now, out),
        }
    }

    /// Takes a page of an answer; `last` when no further page follows.
    pub fn on_page(&mut self, job: &Job, page: Page, last: bool, now: Timestamp, out: &mut Vec<Action>) {
        let resolution = resolution_micros(self.provider);
        for row in &page.malformed {
            let may_still_come = match job.purpose {
                Purpose::Check(bound) => row.event_time.is_some_and(|time| time.plus_micros(resolution) > bound),
                Purpose::Fill(_) => false,
            };
            // Pages overlap, and the socket may have brought it too: each is set aside once.
            let name = row.id.unwrap_or_else(|| hash(&row.raw));
            let entry = self.instruments.get_mut(&job.instrument);
            if !may_still_come && entry.is_some_and(|entry| entry.set_aside.insert(name)) {
                let (reason, detail, raw) = (row.reason, row.detail.clone(), row.raw.clone().into_bytes());
                out.push(Action::SetAside { reason, detail, raw, by_request: true });
            }
        }
        match &job.purpose {
            Purpose::Fill(ids) => self.on_fill(job, ids, page, last, now, out),
            Purpose::Check(bound) => self.on_check(job, *bound, page, last, now, out),
        }
    }

    /// The venue will not answer a job.
    pub fn on_refused(&mut self, job: &Job, reason: &str, now: Timestamp, out: &mut Vec<Action>) {
        match &job.purpose {
            Purpose::Fill(ids) => self.close_gaps(&job.instrument, ids, ControlKind::GapAbandoned, reason, now, out),
            Purpose::Check(_) => {
                if let Some(entry) = self.instruments.get_mut(&job.instrument) {
                    entry.checking = false;
                    entry.checked_to = self.complete_through.max(entry.checked_to);
                }
            }
        }
    }

    /// Trades that Kafka did not take: a gap for exactly those, then the same trades again.
    pub fn on_undelivered(&mut self, trades: Vec<Trade>, now: Timestamp, out: &mut Vec<Action>) {
        let mut by_instrument: BTreeMap<Instrument, Vec<Trade>> = BTreeMap::new();
        for trade in trades {
            by_instrument.entry(trade.instrument.clone()).or_default().push(trade);
        }
        for (instrument, trades) in by_instrument {
            self.recorded_and_filled(&instrument, trades, "not delivered to Kafka", now, out);
        }
    }

    /// Asks for sweeps and holes that are due, and looks who is lost; called about a hundred times a second.
    pub fn on_timer(&mut self, now: Timestamp, monotonic: Duration, out: &mut Vec<Action>) {
        self.monotonic = monotonic;
        if let Some(failover) = self.settings.failover.clone() {
            self.compare(&failover, now, out);
        }
        match (self.provider.repair, self.complete_through) {
            (Repair::Sweep { .. }, Some(complete)) => self.sweep(complete, out),
            (Repair::Sweep { .. }, None) => {}
            (Repair::ContiguousIds | Repair::CumulativeVolume { .. }, _) => self.ask_for_holes(now, out),
        }
    }

    /// Holes in contiguous ids: those closed by late arrivals need no request, those close together share one.
    fn ask_for_holes(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let mut complete = Vec::new();
        let mut lost = Vec::new();
        let tail_micros = tail_micros(self.provider);
        for (instrument, entry) in &mut self.instruments {
            if !entry.is_on(entry.told.by) || entry.filling || entry.gaps.iter().all(|gap| gap.asked) {
                continue;
            }
            entry.looks_without_trade += 1;
            entry.bound_gaps(tail_micros);
            let none_missing = |gap: &Gap| {
                let from_the_days_first =
                    gap.after.is_none() && gap.before.is_some_and(|id| self.provider.missing_after(i64::MIN, id).is_none());
                entry.seen.covers(gap) || from_the_days_first
            };
            let closed: Vec<String> =
                entry.gaps.iter().filter(|gap| !gap.asked && none_missing(gap)).map(|gap| gap.id.clone()).collect();
            if self.provider.rest.is_none() {
                let given_up = entry.given_up(&closed);
                if !given_up.is_empty() {
                    lost.push((instrument.clone(), given_up));
                }
            } else if let Some(job) = entry.next_fill(instrument, &closed) {
                out.push(Action::Ask(job));
            }
            if !closed.is_empty() {
                complete.push((instrument.clone(), closed));
            }
        }
        for (instrument, ids) in complete {
            self.close_gaps(&instrument, &ids, ControlKind::GapFilled, "nothing is missing any more", now, out);
        }
        for (instrument, ids) in lost {
            self.doubt_before(&instrument, &ids, now, out);
            self.close_gaps(&instrument, &ids, ControlKind::GapAbandoned, "the venue tells no past trades", now, out);
        }
    }

    /// Volume tells that trades are missing, not when: a socket that was lost may have been silent before, though it looked well.
    fn doubt_before(&mut self, instrument: &Instrument, ids: &[String], now: Timestamp, out: &mut Vec<Action>) {
        let gaps = self.instruments.get(instrument).map(|entry| entry.gaps.as_slice()).unwrap_or_default();
        let doubted: Vec<(Timestamp, Timestamp)> =
            gaps.iter().filter(|gap| ids.contains(&gap.id)).filter_map(|gap| Some((gap.last_trade?, gap.from))).collect();
        for (from, to) in doubted {
            let gap = Gap::found(self.next_gap_id(), from, Some(to));
            for kind in [ControlKind::GapOpened, ControlKind::GapAbandoned] {
                self.tell_gap(kind, instrument, &gap, gap.to, MAYBE_BEFORE, now, out);
            }
        }
    }

    fn sweep(&mut self, complete: Timestamp, out: &mut Vec<Action>) {
        for (instrument, entry) in &mut self.instruments {
            let Some(checked) = entry.checked_to else { continue };
            if entry.checking
                || entry.subscribed_on.is_empty()
                || complete.micros_since(checked) < self.settings.sweep_interval_micros
            {
                continue;
            }
            entry.checking = true;
            let cursor = Cursor { after: None, before: None, from: checked, widened: 0 };
            out.push(Action::Ask(Job { instrument: instrument.clone(), purpose: Purpose::Check(complete), cursor }));
        }
    }

    /// The second's controls for every partition, one of each feed.
    pub fn heartbeats(&self, clock: Timestamp) -> Vec<Control> {
        let beat = |(feed, teller): (Feed, Teller)| {
            let mut control = Control::new(ControlKind::Heartbeat, feed, clock);
            control.complete_through = self.complete_through;
            control.connection_id = self.active_of(teller).map(|number| self.connection_id(number));
            control
        };
        self.feeds().into_iter().zip(Teller::ALL).map(beat).collect()
    }

    /// The feeds' last words before the process ends.
    pub fn shut_down(&self, now: Timestamp) -> Vec<Control> {
        let down = |feed| controls::feed_state(feed, None, FeedState::Down, None, "producer stops", now);
        self.feeds().iter().map(down).collect()
    }

    /// Whether a connection's word on an instrument counts now.
    fn tells(&self, number: ConnectionNumber, instrument: &Instrument) -> bool {
        let by = |entry: &Entry| entry.told.by == Teller::of(number);
        self.settings.failover.is_none() || self.instruments.get(instrument).is_none_or(by)
    }

    fn feed_of(&self, teller: Teller) -> &Feed {
        match (teller, &self.settings.failover) {
            (Teller::Standby, Some(failover)) => &failover.standby,
            (Teller::First, _) | (Teller::Standby, None) => &self.feed,
        }
    }

    /// The feeds whose names trades of the instrument within `[from, to)` carry.
    fn names(&self, instrument: &Instrument, from: Timestamp, to: Option<Timestamp>) -> Vec<Feed> {
        match self.instruments.get(instrument) {
            Some(entry) => entry.told.names(from, to).map(|teller| self.feed_of(teller).clone()).collect(),
            None => vec![self.feed.clone()],
        }
    }

    /// Gives a trade the name of the feed whose windows it belongs to.
    fn name(&self, trade: &mut Trade) {
        if self.settings.failover.is_some()
            && let Some(entry) = self.instruments.get(&trade.instrument)
        {
            trade.feed = self.feed_of(entry.told.name(trade.event_time)).clone();
        }
    }

    /// Keeps what the one that stands by says until the one that tells has said it too.
    fn hold(&mut self, number: ConnectionNumber, trade: Trade, out: &mut Vec<Action>) {
        let (ids, through) = (self.provider.ids(&trade), evidence_of(&trade));
        let Some(entry) = self.instruments.get_mut(&trade.instrument) else { return };
        match ids {
            Some((_, last)) if !entry.seen.contains(last) => {
                entry.held_to = entry.held_to.max(Some(last));
                entry.held.push_back(Held { at: self.monotonic, number, trade });
                if entry.held.len() > HELD_MAX {
                    entry.held.pop_front();
                    out.push(Action::Discarded("held_too_many"));
                }
            }
            Some((_, last)) => {
                entry.held_to = entry.held_to.max(Some(last));
                out.push(Action::Discarded("duplicate"));
            }
            None => out.push(Action::Discarded("no_id")),
        }
        self.on_evidence(number, through);
    }

    /// Compares what the two said of each instrument: fills what the one missed, and lets the other take over from one that says nothing.
    fn compare(&mut self, failover: &failover::Settings, now: Timestamp, out: &mut Vec<Action>) {
        let (mut missed, mut changes) = (Vec::new(), Vec::new());
        for (instrument, entry) in &mut self.instruments {
            entry.drop_known(self.provider, out);
            let trades = entry.take_missed(self.provider, self.monotonic, failover);
            if !trades.is_empty() {
                missed.push((instrument.clone(), trades));
            }
            if let Some(reason) = entry.change_due(self.provider, self.monotonic, failover) {
                changes.push((instrument.clone(), reason));
            }
        }
        for (instrument, trades) in missed {
            self.on_missed(&instrument, trades, now, out);
        }
        for (instrument, reason) in changes {
            self.change_teller(&instrument, reason, failover, now, out);
        }
    }

    /// What the one that tells missed, in the words of the other.
    fn on_missed(&mut self, instrument: &Instrument, trades: Vec<Trade>, now: Timestamp, out: &mut Vec<Action>) {
        let complete_through = self.complete_through.unwrap_or(Timestamp::MIN);
        let mut behind = Vec::new();
        for mut trade in trades {
            self.name(&mut trade);
            let ids = self.provider.ids(&trade);
            let (Some(entry), Some((first, last))) = (self.instruments.get_mut(instrument), ids) else { continue };
            if !entry.seen.insert_run(first, last) {
                out.push(Action::Discarded("duplicate"));
                continue;
            }
            for gap in entry.gaps.iter_mut().filter(|gap| gap.spans(first)) {
                gap.recovered_to = gap.recovered_to.max(Some(trade.event_time));
            }
            if trade.event_time >= complete_through || entry.gaps.iter().any(|gap| gap.pins(trade.event_time)) {
                out.push(Action::Trade(trade));
            } else {
                behind.push(trade);
            }
        }
        self.recorded_and_filled(instrument, behind, "missed by one provider, told by the other", now, out);
    }

    /// The other tells an instrument's trades from now on, beginning with what was held.
    fn change_teller(
        &mut self,
        instrument: &Instrument,
        reason: &str,
        failover: &failover::Settings,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let Some(entry) = self.instruments.get_mut(instrument) else { return };
        let before = entry.told.by;
        // The venue's clock may run ahead of ours: what was told already keeps its name.
        let reached = entry.last_time.map_or(now, |last| last.max(now));
        let edge = entry.told.change(reached, failover.window_micros).unwrap_or(now);
        let since = *entry.since.get_or_insert(now);
        (entry.first_live, entry.live_from, entry.looks_without_trade) = (None, Some(now), 0);
        (entry.held_to, entry.lost_since, entry.back_since) = (None, None, None);
        // What goes on from where the other ended comes first: a hole ends with it.
        let ahead = |held: &Held| self.provider.ids(&held.trade).zip(entry.last_id).is_none_or(|((first, _), last)| first > last);
        let (ahead, late): (Vec<Held>, Vec<Held>) = std::mem::take(&mut entry.held).into_iter().partition(ahead);
        self.changed = true;
        let (after, from) = match before {
            Teller::First => {
                self.told_by_standby += 1;
                (Teller::Standby, edge)
            }
            Teller::Standby => {
                self.told_by_standby -= 1;
                (Teller::First, since)
            }
        };
        let reason = format!(
            "{} tells its trades instead of {}, under its own name from {edge} on: {reason}",
            self.feed_of(after),
            self.feed_of(before)
        );
        for (teller, state, from) in [(before, FeedState::Down, edge), (after, FeedState::Up, from)] {
            let control = controls::feed_state(self.feed_of(teller), Some(instrument.clone()), state, Some(from), &reason, now);
            out.push(Action::Control(control));
        }
        // Nothing was said of a hole when the one that told was silent.
        let earliest = ahead.iter().chain(&late).map(|held| held.trade.event_time).min();
        if let Some(from) = earliest.filter(|earliest| self.complete_through.is_some_and(|complete| *earliest < complete)) {
            self.open_gap(instrument, from, "silent", now, out);
        }
        let goes_on = !ahead.is_empty();
        for held in ahead.into_iter().chain(late) {
            self.tell(held.number, held.trade, now, out);
        }
        if let Some(entry) = self.instruments.get_mut(instrument).filter(|_| !goes_on) {
            entry.first_live = None;
        }
        self.advance();
    }

    fn on_halt(
        &mut self,
        instrument: &Instrument,
        halted: bool,
        at: Timestamp,
        reason: String,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let Some(entry) = self.instruments.get_mut(instrument) else { return };
        if entry.halted_since.is_some() == halted {
            return;
        }
        entry.halted_since = halted.then_some(at);
        self.changed = true;
        let mut control = Control::new(ControlKind::Halt, self.feed.clone(), now);
        control.instrument = Some(instrument.clone());
        control.state = if halted { FeedState::Down } else { FeedState::Up };
        control.from = Some(at);
        control.reason = Some(reason);
        control.connection_id = self.on_air();
        for feed in self.feeds() {
            out.push(Action::Control(Control { feed, ..control.clone() }));
        }
    }

    fn on_live_trade(&mut self, number: ConnectionNumber, trade: Trade, now: Timestamp, out: &mut Vec<Action>) {
        if self.tells(number, &trade.instrument) {
            self.tell(number, trade, now, out);
        } else {
            self.hold(number, trade, out);
        }
    }

    fn tell(&mut self, number: ConnectionNumber, mut trade: Trade, now: Timestamp, out: &mut Vec<Action>) {
        self.name(&mut trade);
        if let Some((after, before)) = self.unexplained_hole(&trade) {
            self.on_missing(&trade.instrument, after, before, now, out);
        }
        // A trade of the second in which the halt began may stand before it.
        let before = trade.event_time.plus_micros(-resolution_micros(self.provider));
        if self.instruments.get(&trade.instrument).and_then(|entry| entry.halted_since).is_some_and(|since| since <= before) {
            self.on_halt(&trade.instrument, false, trade.event_time, "traded again".to_owned(), now, out);
        }
        let ids = self.provider.ids(&trade);
        let tail_micros = tail_micros(self.provider);
        let through = evidence_of(&trade);
        let Some(entry) = self.instruments.get_mut(&trade.instrument) else {
            out.push(Action::Discarded("not_subscribed"));
            return;
        };
        let Some((first, last)) = ids else {
            out.push(Action::Trade(trade));
            return;
        };
        entry.first_live.get_or_insert((first, trade.event_time));
        for gap in &mut entry.gaps {
            if gap.before == Some(first) {
                gap.to = Some(trade.event_time.plus_micros(tail_micros));
            }
        }
        if entry.seen.insert_run(first, last) {
            entry.last_id = entry.last_id.max(Some(last));
            entry.last_time = Some(trade.event_time);
            out.push(Action::Trade(trade));
        } else {
            out.push(Action::Discarded("duplicate"));
        }
        self.on_evidence(number, through);
    }

    /// The ids around what is missing before a live trade and no gap speaks of yet: whatever connection it was lost on.
    fn unexplained_hole(&self, trade: &Trade) -> Option<(i64, i64)> {
        let entry = self.instruments.get(&trade.instrument)?;
        let (first, _) = self.provider.ids(trade)?;
        let last = self.provider.missing_after(entry.last_id?, first)?;
        let ends_there = |gap: &Gap| gap.before.map_or(!gap.asked, |before| before >= first);
        let explained = |gap: &Gap| gap.after.is_none_or(|after| after <= last) && ends_there(gap);
        (!entry.gaps.iter().any(explained)).then_some((last, first))
    }

    fn on_evidence(&mut self, number: ConnectionNumber, through: Timestamp) {
        let connection = self.connections.entry(number).or_default();
        connection.evidence = connection.evidence.max(Some(through));
        self.advance();
    }

    /// `complete_through` follows the active connections; of several that tell trades, the one that is least far. One that has trades but is
    /// not settled yet holds it back too.
    fn advance(&mut self) {
        let tells = |line: Line| match line.teller() {
            Teller::First => self.told_by_standby < self.instruments.len() || self.instruments.is_empty(),
            Teller::Standby => self.told_by_standby > 0,
        };
        let active = self.active.iter().filter(|(line, _)| tells(**line)).filter_map(|(_, number)| self.connections.get(number));
        let Some(evidence) = active.map(|connection| connection.evidence).min().flatten() else { return };
        let coming = self.connections.iter().filter(|(number, _)| {
            let line = Line::of(**number);
            tells(line) && !self.active.contains_key(&line)
        });
        let evidence = coming.filter_map(|(_, connection)| connection.evidence).fold(evidence, Timestamp::min);
        self.complete_through = self.complete_through.max(Some(evidence.plus_micros(-self.settings.disorder_micros)));
    }

    /// A connection of the provider that counts, if any does.
    fn active_of(&self, teller: Teller) -> Option<ConnectionNumber> {
        self.active.iter().find(|(line, _)| line.teller() == teller).map(|(_, number)| *number)
    }

    fn on_subscribed(&mut self, number: ConnectionNumber, instrument: &Instrument, now: Timestamp, out: &mut Vec<Action>) {
        self.connections.entry(number).or_default();
        let up = self.up.contains(&Teller::of(number));
        let resolution = resolution_micros(self.provider);
        let mut returns = false;
        let Some(entry) = self.instruments.get_mut(instrument) else { return };
        entry.subscribed_on.insert(number);
        if entry.told.by != Teller::of(number) {
            return;
        }
        entry.first_live = None;
        entry.live_from = Some(now);
        entry.looks_without_trade = 0;
        if entry.since.is_none() {
            entry.since = Some(now);
            self.changed = true;
            if up {
                let reason = "subscribed at run time";
                let control = controls::feed_state(&self.feed, Some(instrument.clone()), FeedState::Up, Some(now), reason, now);
                out.push(Action::Control(control));
            }
            returns = self.let_go.remove(instrument);
        }
        // The second (millisecond) of the acknowledgement is not checked: part of it was before.
        entry.checked_to.get_or_insert(whole(now, resolution).plus_micros(resolution));
        ask_for_gaps(instrument, entry, self.provider, out);
        if returns {
            self.cut_windows(instrument, window_edges(now).0, now, "followed again", now, out);
        }
    }

    fn on_settled(&mut self, number: ConnectionNumber, at: Timestamp, now: Timestamp, out: &mut Vec<Action>) {
        self.connections.entry(number).or_default().settled = true;
        let line = Line::of(number);
        let was_up = self.active_of(line.teller()).is_some();
        if let btree_map::Entry::Vacant(vacant) = self.active.entry(line) {
            vacant.insert(number);
            self.up.insert(line.teller());
            if !was_up {
                let feed = self.feed_of(line.teller());
                let mut control = controls::feed_state(feed, None, FeedState::Up, Some(at), "subscribed", now);
                control.connection_id = Some(self.connection_id(number));
                out.push(Action::Control(control));
            }
            self.advance();
        }
    }

    fn on_missing(&mut self, instrument: &Instrument, after: i64, before: i64, now: Timestamp, out: &mut Vec<Action>) {
        let Some(entry) = self.instruments.get(instrument) else { return };
        let told = |gap: &Gap| gap.after == Some(after) && gap.before == Some(before);
        if entry.seen.covers_between(after, before) || entry.gaps.iter().any(told) {
            return;
        }
        let from = entry.last_time.or(entry.since).unwrap_or(now);
        let gap = Gap { after: Some(after), before: Some(before), ..Gap::found(self.next_gap_id(), from, None) };
        self.announce_gap(instrument, gap, "trade ids are not contiguous", now, out);
    }

    fn on_silent(&mut self, instrument: &Instrument, out: &mut Vec<Action>) {
        let (Repair::ContiguousIds, Some(complete)) = (self.provider.repair, self.complete_through) else { return };
        let Some(entry) = self.instruments.get_mut(instrument) else { return };
        if entry.checking {
            return;
        }
        entry.checking = true;
        let from = entry.last_time.or(entry.since).unwrap_or(complete);
        let cursor = Cursor { after: entry.last_id, before: None, from, widened: 0 };
        out.push(Action::Ask(Job { instrument: instrument.clone(), purpose: Purpose::Check(complete), cursor }));
    }

    fn on_dropped(&mut self, instrument: &Instrument, from: Timestamp, now: Timestamp, out: &mut Vec<Action>) {
        let Some(entry) = self.instruments.get_mut(instrument) else { return };
        entry.first_live = None;
        entry.live_from = Some(now);
        self.open_gap(instrument, from, "queue overflow", now, out);
    }

    fn on_closed(&mut self, number: ConnectionNumber, reason: &str, planned: bool, now: Timestamp, out: &mut Vec<Action>) {
        self.connections.remove(&number);
        let (line, teller) = (Line::of(number), Teller::of(number));
        let was_active = self.active.get(&line) == Some(&number);
        if was_active {
            self.active.remove(&line);
            let mut others = self.connections.iter().filter(|(other, _)| Line::of(**other) == line);
            if let Some((next, _)) = others.find(|(_, connection)| connection.settled) {
                self.active.insert(line, *next);
            }
        }
        let lost: Vec<Instrument> = self
            .instruments
            .iter_mut()
            .filter_map(|(instrument, entry)| {
                let was_on = entry.subscribed_on.remove(&number);
                let uncovered = !entry.is_on(teller) || (was_active && !planned);
                (was_on && uncovered && entry.told.by == teller).then(|| instrument.clone())
            })
            .collect();
        for instrument in lost {
            let since = self.instruments.get(&instrument).and_then(|entry| entry.since).unwrap_or(now);
            let from = self.complete_through.map_or(since, |complete| complete.max(since));
            self.open_gap(&instrument, from, reason, now, out);
        }
        if was_active && self.active_of(teller).is_none() {
            out.push(Action::Control(controls::feed_state(self.feed_of(teller), None, FeedState::Down, None, reason, now)));
        }
    }

    fn on_fill(&mut self, job: &Job, ids: &[String], page: Page, last: bool, now: Timestamp, out: &mut Vec<Action>) {
        let Some(entry) = self.instruments.get_mut(&job.instrument) else { return };
        // The first live trade may itself be a late one: what happened before the acknowledgement does not come by itself, whatever its id.
        let comes_by_itself = |id: i64, time: Timestamp| {
            job.cursor.before.is_none()
                && entry.first_live.is_some_and(|(first, _)| id >= first)
                && entry.live_from.is_none_or(|from| time >= from)
        };
        let complete_through = self.complete_through.unwrap_or(Timestamp::MIN);
        let mut behind = Vec::new();
        for trade in page.trades {
            let Some(trade_id) = trade.sequence else { continue };
            if comes_by_itself(trade_id, trade.event_time) || !entry.seen.insert(trade_id) {
                continue;
            }
            for gap in entry.gaps.iter_mut().filter(|gap| ids.contains(&gap.id) && gap.spans(trade_id)) {
                gap.recovered_to = gap.recovered_to.max(Some(trade.event_time));
            }
            entry.last_id = entry.last_id.max(Some(trade_id));
            let pinned = entry.gaps.iter().any(|gap| gap.pins(trade.event_time));
            if pinned || trade.event_time >= complete_through {
                out.push(Action::Trade(trade));
            } else {
                behind.push(trade);
            }
        }
        // The answer also tells what the socket had missed before the hole: nothing pins those windows yet.
        self.recorded_and_filled(&job.instrument, behind, "missed before the connection was lost", now, out);
        if !last {
            return;
        }
        let (kind, reason) = match page.reaches_from {
            None => (ControlKind::GapFilled, "filled by request".to_owned()),
            Some(reach) => {
                (ControlKind::GapAbandoned, format!("the venue answers no further back than {reach}; later trades were filled"))
            }
        };
        self.close_gaps(&job.instrument, ids, kind, &reason, now, out);
    }

    fn on_check(&mut self, job: &Job, bound: Timestamp, page: Page, last: bool, now: Timestamp, out: &mut Vec<Action>) {
        let resolution = resolution_micros(self.provider);
        let Some(entry) = self.instruments.get_mut(&job.instrument) else { return };
        let since = entry.since.unwrap_or(Timestamp::MIN);
        let missed: Vec<Trade> = page
            .trades
            .into_iter()
            .filter(|trade| trade.event_time >= since && trade.event_time.plus_micros(resolution) <= bound)
            .filter(|trade| trade.sequence.is_some_and(|id| !entry.seen.contains(id)))
            .collect();
        let checked_from = entry.checked_to;
        if last {
            entry.checking = false;
            entry.checked_to = entry.checked_to.max(Some(bound));
            self.changed = true;
        }
        if !missed.is_empty() {
            for trade in &missed {
                if let Some(id) = trade.sequence {
                    entry.seen.insert(id);
                    entry.last_id = entry.last_id.max(Some(id));
                }
            }
            self.recorded_and_filled(&job.instrument, missed, "missed by the socket", now, out);
            if self.provider.repair == Repair::ContiguousIds {
                out.push(Action::Resubscribe(job.instrument.clone()));
            }
        }
        if let (Some(reach), Some(from)) = (page.reaches_from, checked_from)
            && from < reach
        {
            let gap = Gap::found(self.next_gap_id(), from, Some(reach));
            for kind in [ControlKind::GapOpened, ControlKind::GapAbandoned] {
                let reason = "not checked: the venue answers no further back";
                self.tell_gap(kind, &job.instrument, &gap, gap.to, reason, now, out);
            }
        }
    }

    /// A hole whose trades are at hand: opened, written, filled.
    fn recorded_and_filled(
        &mut self,
        instrument: &Instrument,
        trades: Vec<Trade>,
        reason: &str,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let times = || trades.iter().map(|trade| trade.event_time);
        let (Some(from), Some(latest)) = (times().min(), times().max()) else { return };
        let gap = Gap::found(self.next_gap_id(), from, Some(latest.plus_micros(1)));
        self.tell_gap(ControlKind::GapOpened, instrument, &gap, gap.to, reason, now, out);
        out.extend(trades.into_iter().map(Action::Trade));
        self.tell_gap(ControlKind::GapFilled, instrument, &gap, gap.to, reason, now, out);
    }

    /// Opens a gap that ends with the next acknowledgement, unless one is open already.
    fn open_gap(&mut self, instrument: &Instrument, from: Timestamp, reason: &str, now: Timestamp, out: &mut Vec<Action>) {
        let Some(entry) = self.instruments.get(instrument) else { return };
        if entry.gaps.iter().any(|gap| !gap.asked && gap.before.is_none() && gap.to.is_none() && gap.from <= from) {
            return;
        }
        let (from, after) = match self.provider.repair {
            // Rows carry whole seconds (milliseconds): the hole begins with it.
            Repair::Sweep { .. } => (whole(from, resolution_micros(self.provider)), None),
            Repair::ContiguousIds | Repair::CumulativeVolume { .. } => (from, entry.last_id),
        };
        let last_trade = last_trade(self.provider, entry.last_time, from);
        let gap = Gap { after, last_trade, ..Gap::found(self.next_gap_id(), from, None) };
        self.announce_gap(instrument, gap, reason, now, out);
    }

    fn announce_gap(&mut self, instrument: &Instrument, mut gap: Gap, reason: &str, now: Timestamp, out: &mut Vec<Action>) {
        gap.feeds = self.names(instrument, gap.from, gap.to);
        self.tell_gap(ControlKind::GapOpened, instrument, &gap, gap.to, reason, now, out);
        self.changed = true;
        let Some(entry) = self.instruments.get_mut(instrument) else { return };
        entry.gaps.push(gap);
        if !entry.subscribed_on.is_empty() {
            ask_for_gaps(instrument, entry, self.provider, out);
        }
    }

    fn close_gaps(
        &mut self,
        instrument: &Instrument,
        ids: &[String],
        kind: ControlKind,
        reason: &str,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let Some(entry) = self.instruments.get_mut(instrument) else { return };
        if ids.iter().any(|id| entry.gaps.iter().any(|gap| gap.asked && gap.id == *id)) {
            entry.filling = false;
        }
        let first_live = entry.first_live.map(|(_, time)| time.max(entry.live_from.unwrap_or(time)));
        let closed: Vec<Gap> = entry.gaps.extract_if(.., |gap| ids.contains(&gap.id)).collect();
        self.changed |= !closed.is_empty();
        for gap in closed {
            // Where it ended: at the trade after it, else where trades came by themselves again, else now; behind all that was recovered.
            let resumed = gap.to.or(first_live).unwrap_or(now);
            let recovered = gap.recovered_to.map_or(Timestamp::MIN, |time| time.plus_micros(1));
            let to = resumed.max(recovered).max(gap.from.plus_micros(1));
            self.tell_gap(kind, instrument, &gap, Some(to), reason, now, out);
        }
    }

    /// Says it of every feed whose trades it concerns.
    #[expect(clippy::too_many_arguments, reason = "what a control says")]
    fn tell_gap(
        &self,
        kind: ControlKind,
        instrument: &Instrument,
        gap: &Gap,
        to: Option<Timestamp>,
        reason: &str,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let mut feeds = gap.feeds.clone();
        feeds.extend(self.names(instrument, gap.from, to).into_iter().filter(|feed| !gap.feeds.contains(feed)));
        for feed in feeds {
            let mut control = Control::new(kind, feed, now);
            control.instrument = Some(instrument.clone());
            control.gap_id = Some(gap.id.clone());
            control.from = Some(gap.from);
            control.to = to;
            control.reason = Some(reason.to_owned());
            control.connection_id = self.on_air();
            out.push(Action::Control(control));
        }
    }

    /// The connection that a control was learned on: the first's where there is one.
    fn on_air(&self) -> Option<String> {
        self.active.values().next().map(|number| self.connection_id(*number))
    }

    fn next_gap_id(&mut self) -> String {
        self.gaps_made += 1;
        format!("{}-{}-{}", self.feed, self.run, self.gaps_made)
    }

    fn connection_id(&self, number: ConnectionNumber) -> String {
        format!("{}-{}-{}", self.feed_of(Teller::of(number)), self.run, Line::name(number))
    }
}

/// The longest window that a time lies in.
fn window_edges(at: Timestamp) -> (Timestamp, Timestamp) {
    let longest = Interval::STANDARD.into_iter().max_by_key(|interval| interval.micros()).unwrap_or(Interval::ONE_MINUTE);
    let open = at.window_open(longest);
    (open, open.plus_micros(longest.micros()))
}

/// Why the stretch before a lost connection is a gap too.
const MAYBE_BEFORE: &str = "trades are missing, maybe from before the connection was lost";

/// A trade further ahead of its receipt than this proves nothing about the time before it.
const FUTURE_TOLERANCE_MICROS: i64 = 5_000_000;

/// Ids that one request answers at most; holes within so many share it.
const IDS_PER_REQUEST: i64 = 1_000;
/// Looks at the clock to wait for the first trade after an acknowledgement, which ends a hole exactly, before asking up to now.
const LOOKS_FOR_FIRST_TRADE: u32 = 200;
/// Looks at the clock to wait for trades that come late before a hole is given up, where the venue tells no past trades.
const LOOKS_FOR_LATE_TRADES: u32 = 200;

/// What a trade proves: up to when its connection has told all.
fn evidence_of(trade: &Trade) -> Timestamp {
    trade.event_time.min(trade.receive_time.plus_micros(FUTURE_TOLERANCE_MICROS))
}

/// Trades held of a provider that stands by, per instrument.
const HELD_MAX: usize = 50_000;

/// Why a gap with both ends that an earlier run left open is closed, where nobody can be asked.
const LEFT_OPEN: &str = "the producer ended before it closed this: trades are missing, maybe";

/// Whether ids tell what is missing.
const fn ids_tell(provider: &Provider) -> bool {
    matches!(provider.repair, Repair::ContiguousIds | Repair::CumulativeVolume { .. })
}

/// A row stands for the whole second (millisecond) it names where the venue gives no more.
fn resolution_micros(provider: &Provider) -> i64 {
    match provider.repair {
        Repair::Sweep { resolution, .. } | Repair::CumulativeVolume { resolution, .. } => {
            i64::try_from(resolution.as_micros()).unwrap_or(i64::MAX).max(1)
        }
        Repair::ContiguousIds => 1,
    }
}

/// How long after the time of the trade behind it a hole may reach: where times are coarse, what is missing may share that trade's.
fn tail_micros(provider: &Provider) -> i64 {
    if matches!(provider.repair, Repair::CumulativeVolume { .. }) { resolution_micros(provider) } else { 0 }
}

/// The trade from which on something may be missing before a gap, where only volume tells.
fn last_trade(provider: &Provider, last: Option<Timestamp>, from: Timestamp) -> Option<Timestamp> {
    last.filter(|last| matches!(provider.repair, Repair::CumulativeVolume { .. }) && *last < from)
}

/// Asks for every gap of an instrument at once, where ids tell nothing.
fn ask_for_gaps(instrument: &Instrument, entry: &mut Entry, provider: &Provider, out: &mut Vec<Action>) {
    if !matches!(provider.repair, Repair::Sweep { .. }) {
        return;
    }
    for gap in entry.gaps.iter_mut().filter(|gap| !gap.asked) {
        gap.asked = true;
        let cursor = Cursor { after: None, before: gap.before, from: gap.from, widened: 0 };
        out.push(Action::Ask(Job { instrument: instrument.clone(), purpose: Purpose::Fill(vec![gap.id.clone()]), cursor }));
    }
}

impl Entry {
    /// Whether a connection of this one has it.
    fn is_on(&self, teller: Teller) -> bool {
        self.subscribed_on.iter().any(|number| Teller::of(*number) == teller)
    }

    /// What was held and has been told is dropped.
    fn drop_known(&mut self, provider: &Provider, out: &mut Vec<Action>) {
        let Self { held, seen, .. } = self;
        held.retain(|held| {
            let new = provider.ids(&held.trade).is_some_and(|(_, last)| !seen.contains(last));
            if !new {
                out.push(Action::Discarded("duplicate"));
            }
            new
        });
    }

    /// What was held and lies in a hole with both ends, or was passed by some time ago.
    fn take_missed(&mut self, provider: &Provider, monotonic: Duration, failover: &failover::Settings) -> Vec<Trade> {
        if self.held.is_empty() {
            return Vec::new();
        }
        let (gaps, last_id) = (&self.gaps, self.last_id);
        let is_missed = |held: &Held| {
            let Some((first, last)) = provider.ids(&held.trade) else { return false };
            let passed = last_id.is_some_and(|known| last < known) && monotonic.saturating_sub(held.at) >= failover.after;
            passed || gaps.iter().any(|gap| gap.before.is_some() && gap.spans(first))
        };
        let (missed, held): (Vec<Held>, Vec<Held>) = std::mem::take(&mut self.held).into_iter().partition(is_missed);
        self.held = held.into();
        missed.into_iter().map(|held| held.trade).collect()
    }

    /// Why the other has to take over now, if it has to.
    fn change_due(&mut self, provider: &Provider, monotonic: Duration, failover: &failover::Settings) -> Option<&'static str> {
        let by = self.told.by;
        if self.is_on(by) {
            self.lost_since = None;
        } else {
            self.lost_since.get_or_insert(monotonic);
        }
        if !self.is_on(by.other()) {
            self.back_since = None;
            return None;
        }
        let is_due = |since: Duration, wait| monotonic.saturating_sub(since) >= wait;
        if self.lost_since.is_some_and(|since| is_due(since, failover.after)) {
            return Some("lost");
        }
        let ahead =
            |held: &&Held| provider.ids(&held.trade).is_some_and(|(first, _)| self.last_id.is_none_or(|last| first > last));
        if self.held.iter().find(ahead).is_some_and(|held| is_due(held.at, failover.after)) {
            return Some("silent");
        }
        if by == Teller::First {
            return None;
        }
        let (since, last_id) = *self.back_since.get_or_insert((monotonic, self.last_id));
        (is_due(since, failover.return_after) && self.held_to > last_id).then_some("it is back")
    }

    /// A gap without end ends with the first trade that came by itself.
    fn bound_gaps(&mut self, tail_micros: i64) {
        let Some((first, time)) = self.first_live else { return };
        for gap in self.gaps.iter_mut().filter(|gap| !gap.asked && gap.before.is_none()) {
            gap.end_before(first, time.plus_micros(tail_micros), &self.seen);
        }
    }

    /// Gaps with both ends that an earlier run left open, where nobody can be asked.
    fn left_open(&self, provider: &Provider) -> Vec<String> {
        let told = self.gaps.iter().filter(|gap| provider.rest.is_none() && gap.announced_to.is_some());
        told.map(|gap| gap.id.clone()).collect()
    }

    /// The holes that no late trade has closed for a while, where nothing can be asked for.
    fn given_up(&mut self, except: &[String]) -> Vec<String> {
        let mut ids = Vec::new();
        for gap in self.gaps.iter_mut().filter(|gap| gap.before.is_some() && !except.contains(&gap.id)) {
            gap.looks += 1;
            if gap.looks > LOOKS_FOR_LATE_TRADES {
                ids.push(gap.id.clone());
            }
        }
        ids
    }

    /// The next request for this instrument's holes, but for those in `except`: the lowest, and what the same answer covers.
    fn next_fill(&mut self, instrument: &Instrument, except: &[String]) -> Option<Job> {
        let patient = self.looks_without_trade < LOOKS_FOR_FIRST_TRADE;
        let ready = |gap: &Gap| !gap.asked && !except.contains(&gap.id) && (gap.before.is_some() || !patient);
        let lowest = self.gaps.iter().filter(|gap| ready(gap)).min_by_key(|gap| (gap.after, gap.from))?.clone();
        let mut before = lowest.before;
        let mut ids = Vec::new();
        for gap in self.gaps.iter_mut().filter(|gap| ready(gap)) {
            let within =
                lowest.after.zip(gap.before).is_some_and(|(after, end)| end.saturating_sub(after) <= IDS_PER_REQUEST + 1);
            if gap.id == lowest.id || (within && gap.after.is_some()) {
                gap.asked = true;
                ids.push(gap.id.clone());
                before = before.zip(gap.before).map(|(a, b)| a.max(b));
            }
        }
        self.filling = true;
        let cursor = Cursor { after: lowest.after, before, from: lowest.from, widened: 0 };
        Some(Job { instrument: instrument.clone(), purpose: Purpose::Fill(ids), cursor })
    }
}

impl Gap {
    /// Whether the log was told that trades of this time may still come.
    fn pins(&self, at: Timestamp) -> bool {
        self.from <= at && self.announced_to.is_none_or(|to| at < to)
    }

    /// Ends it with the first trade that came by itself, whose ids begin with this one.
    fn end_before(&mut self, first: i64, to: Timestamp, seen: &Seen) {
        self.before = Some(first);
        self.to.get_or_insert(to);
        if self.after.is_some_and(|after| after >= first) {
            self.after = seen.highest_below(first);
        }
    }

    /// Whether an id lies in it, as far as ids tell.
    fn spans(&self, id: i64) -> bool {
        self.after.is_none_or(|after| id > after) && self.before.is_none_or(|before| id < before)
    }
}

/// Trades set aside that are remembered per instrument.
const SET_ASIDE_KEPT: usize = 1_000;

/// Names a row that has no readable id.
fn hash(text: &str) -> i64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish().cast_signed()
}

/// Start of the stretch of this length that holds the instant.
fn whole(at: Timestamp, length_micros: i64) -> Timestamp {
    Timestamp::from_micros(at.micros().div_euclid(length_micros).saturating_mul(length_micros))
}

/// The last ids of an instrument, as runs of neighbours. An id beyond memory counts as new: the processor knows it by its own records.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    /// First id of a run → last id of it.
    runs: BTreeMap<i64, i64>,
    runs_max: usize,
}

impl Seen {
    fn new(runs_max: usize) -> Self {
        Self { runs_max, ..Self::default() }
    }

    fn contains(&self, id: i64) -> bool {
        self.run_at_or_below(id).is_some_and(|(_, last)| id <= last)
    }

    /// Whether it is new; then it is remembered.
    fn insert(&mut self, id: i64) -> bool {
        self.insert_run(id, id)
    }

    /// Whether the last of these neighbours is new; then all are remembered.
    fn insert_run(&mut self, first: i64, last: i64) -> bool {
        if self.contains(last) {
            return false;
        }
        let below = self.run_at_or_below(first).filter(|(_, end)| end.saturating_add(1) >= first);
        let (first, mut end) = (below.map_or(first, |(begin, _)| begin), last);
        // What it touches or holds becomes one run with it.
        while let Some((begin, other_end)) =
            self.runs.range(first.saturating_add(1)..=last.saturating_add(1)).next().map(|(a, b)| (*a, *b))
        {
            self.runs.remove(&begin);
            end = end.max(other_end);
        }
        self.runs.insert(first, end);
        if self.runs.len() > self.runs_max {
            self.runs.pop_first();
        }
        true
    }

    /// Whether every id strictly between the two was seen.
    fn covers_between(&self, after: i64, before: i64) -> bool {
        let (Some(first), Some(last)) = (after.checked_add(1), before.checked_sub(1)) else { return false };
        first > last || self.run_at_or_below(first).is_some_and(|(_, end)| end >= last)
    }

    /// Whether nothing of the gap is missing any more.
    fn covers(&self, gap: &Gap) -> bool {
        gap.after.zip(gap.before).is_some_and(|(after, before)| self.covers_between(after, before))
    }

    fn highest(&self) -> Option<i64> {
        self.runs.values().next_back().copied()
    }

    fn highest_below(&self, id: i64) -> Option<i64> {
        self.runs.range(..id).next_back().map(|(_, last)| (*last).min(id - 1))
    }

    fn run_at_or_below(&self, id: i64) -> Option<(i64, i64)> {
        self.runs.range(..=id).next_back().map(|(first, last)| (*first, *last))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use marketflow_model::{Conditions, Side};
    use marketflow_providers::{MalformedRow, binance, bitstamp, kis};

    const START: i64 = 1_700_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(START + seconds)
    }

    pub(crate) fn trade(instrument: &str, id: i64, seconds: i64) -> Trade {
        Trade {
            instrument: instrument.parse().unwrap(),
            feed: Feed::new("bitstamp"),
            event_time: at(seconds),
            receive_time: at(seconds),
            price: "100".parse().unwrap(),
            size: Some("1".parse().unwrap()),
            side: Side::Buy,
            trade_id: Some(id.to_string()),
            sequence: Some(id),
            import_row: None,
            conditions: Conditions::NONE,
            source: Source::Websocket,
        }
    }

    pub(crate) fn trade_event(instrument: &str, id: i64, seconds: i64) -> Item {
        Item::Event(Event::Trade(trade(instrument, id, seconds)))
    }

    const BTC: &str = "BITSTAMP:BTCUSD";
    const USDT: &str = "BINANCE:BTCUSDT";
    const SAMSUNG: &str = "KRX:005930";
    /// Before the first share of a day.
    const DAY: i64 = 20_231_115 * 100_000_000_000;

    /// A ledger, what it was told, and what it said in short: `trade 5`, `GapOpened 10..`, `ask fill after 4 from 10`.
    struct Scene {
        ledger: Ledger,
        instrument: Instrument,
        jobs: Vec<Job>,
        now: Timestamp,
        /// What was written.
        log: Vec<Action>,
    }

    /// What the log says of an instrument with these ids, the last at this second, and a heartbeat.
    fn past(instrument: &str, ids: &[i64], last: i64, complete_through: i64) -> Past {
        let mut past = Past::new(100);
        ids.iter().for_each(|id| past.trade(provider_of(instrument), &trade(instrument, *id, last)));
        past.complete_through = Some(at(complete_through));
        past
    }

    fn provider_of(instrument: &str) -> &'static Provider {
        match instrument {
            BTC => &bitstamp::PROVIDER,
            SAMSUNG => &kis::PROVIDER,
            _ => &binance::PROVIDER,
        }
    }

    impl Scene {
        fn new(instrument: &str) -> Self {
            Self::resumed(instrument, None, Past::new(100)).0
        }

        /// A process that takes up after this many records of the scene's, with a state file as old as you like.
        fn heir(&self, records: usize, state: State) -> (Self, Vec<String>) {
            let mut past = Past::new(100);
            for action in &self.log[..records] {
                if let Action::Trade(trade) = action {
                    past.trade(self.ledger.provider, trade);
                }
                if let Action::Control(control) = action {
                    past.control(self.ledger.provider, control);
                }
            }
            let log = LogEnd { complete_through: None, instruments: [(self.instrument.clone(), past)].into() };
            Self::with(self.instrument.as_str(), state, log)
        }

        fn resumed(instrument: &str, since: Option<Timestamp>, past: Past) -> (Self, Vec<String>) {
            let complete_through = past.complete_through;
            Self::after(instrument, since, LogEnd { complete_through, instruments: [(instrument.parse().unwrap(), past)].into() })
        }

        fn after(instrument: &str, since: Option<Timestamp>, log: LogEnd) -> (Self, Vec<String>) {
            let state = State { instruments: [(instrument.parse().unwrap(), since)].into(), ..State::default() };
            Self::with(instrument, state, log)
        }

        fn with(instrument: &str, state: State, log: LogEnd) -> (Self, Vec<String>) {
            Self::with_standby(instrument, state, log, false)
        }

        fn with_standby(instrument: &str, state: State, log: LogEnd, stands_by: bool) -> (Self, Vec<String>) {
            let provider = provider_of(instrument);
            let failover = (provider.id == "kis").then(|| failover::Settings {
                standby: Feed::new("kiwoom"),
                after: Duration::from_secs(3),
                return_after: Duration::from_secs(60),
                window_micros: 60_000_000,
            });
            let settings = LedgerSettings {
                disorder_micros: 2_000_000,
                ids_per_instrument: 100,
                sweep_interval_micros: 30_000_000,
                failover: failover.filter(|_| stands_by),
            };
            let instrument: Instrument = instrument.parse().unwrap();
            let mut out = Vec::new();
            // Gap ids name the process.
            let run = if log.instruments.values().all(|past| past.gaps.is_empty()) { "run" } else { "heir" };
            let ledger = Ledger::new(provider, settings, run.to_owned(), state, log, at(0), &mut out);
            let mut scene = Self { ledger, instrument, jobs: Vec::new(), now: at(0), log: Vec::new() };
            let said = scene.said(out);
            (scene, said)
        }

        /// One that is subscribed and settled at second 0.
        fn up(instrument: &str) -> Self {
            let mut scene = Self::new(instrument);
            scene.connect(1, 0);
            scene
        }

        fn connect(&mut self, number: ConnectionNumber, second: i64) -> Vec<String> {
            let subscribed = Item::Event(Event::Subscribed { instrument: self.instrument.clone() });
            let mut said = self.item(number, second, subscribed);
            said.extend(self.item(number, second, Item::Settled { at: at(second) }));
            said
        }

        fn item(&mut self, number: ConnectionNumber, second: i64, item: Item) -> Vec<String> {
            self.now = at(second);
            let mut out = Vec::new();
            self.ledger.on_item(number, item, self.now, &mut out);
            self.said(out)
        }

        fn trade(&mut self, number: ConnectionNumber, id: i64, second: i64) -> Vec<String> {
            let item = Item::Event(Event::Trade(trade(self.instrument.as_str(), id, second)));
            self.item(number, second, item)
        }

        /// A trade of so many shares, which the day's volume ends with.
        fn shares(&mut self, number: ConnectionNumber, last: i64, count: i64, second: i64) -> Vec<String> {
            let size = Some(count.to_string().parse().unwrap());
            let item = Item::Event(Event::Trade(Trade { size, ..trade(self.instrument.as_str(), last, second) }));
            self.item(number, second, item)
        }

        fn evidence(&mut self, number: ConnectionNumber, second: i64) -> Vec<String> {
            self.item(number, second, Item::Event(Event::Evidence { through: at(second) }))
        }

        fn lose(&mut self, number: ConnectionNumber, second: i64) -> Vec<String> {
            self.item(number, second, Item::Closed { reason: "cut", planned: false })
        }

        /// Answers the oldest job with these (id, second) rows.
        fn answer(&mut self, second: i64, rows: &[(i64, i64)]) -> Vec<String> {
            let job = self.jobs.remove(0);
            let trades = rows
                .iter()
                .map(|(id, second)| Trade { source: Source::Rest, ..trade(self.instrument.as_str(), *id, *second) })
                .collect();
            let mut out = Vec::new();
            self.ledger.on_page(&job, Page { trades, ..Page::default() }, true, at(second), &mut out);
            self.said(out)
        }

        fn timer(&mut self) -> Vec<String> {
            let mut out = Vec::new();
            self.ledger.on_timer(self.now, since_start(self.now), &mut out);
            self.said(out)
        }

        fn complete(&self) -> Option<i64> {
            self.ledger.complete_through().map(seconds)
        }

        fn said(&mut self, out: Vec<Action>) -> Vec<String> {
            self.log.extend(out.iter().cloned());
            out.into_iter()
                .map(|action| match action {
                    Action::Trade(trade) => format!("trade {}", trade.sequence.unwrap()),
                    Action::Control(control) => {
                        let of = if control.instrument.is_some() { "" } else { "feed " };
                        let end = |time: Option<Timestamp>| time.map(|t| seconds(t).to_string()).unwrap_or_default();
                        let state =
                            if control.state == FeedState::Unknown { String::new() } else { format!(" {:?}", control.state) };
                        format!("{of}{:?}{state} {}..{}", control.kind, end(control.from), end(control.to))
                    }
                    Action::Ask(job) => {
                        let text = match &job.purpose {
                            Purpose::Fill(_) => {
                                format!("ask fill after {:?} from {}", job.cursor.after, seconds(job.cursor.from))
                            }
                            Purpose::Check(bound) => format!("ask check {}..{}", seconds(job.cursor.from), seconds(*bound)),
                        };
                        self.jobs.push(job);
                        text
                    }
                    Action::Resubscribe(_) => "resubscribe".to_owned(),
                    Action::SetAside { reason, .. } => format!("set aside {}", reason.as_str()),
                    Action::Discarded(reason) => format!("discarded {reason}"),
                })
                .collect()
        }
    }

    fn since_start(now: Timestamp) -> Duration {
        Duration::from_micros(now.micros_since(at(0)).max(0).unsigned_abs())
    }

    /// Whole seconds since the scene's start.
    fn seconds(time: Timestamp) -> i64 {
        (time.micros() - START * 1_000_000).div_euclid(1_000_000)
    }

    #[test]
    fn where_only_volume_tells_a_hole_is_filled_by_what_comes_late_or_given_up() {
        let mut scene = Scene::up(SAMSUNG);
        assert_eq!(scene.shares(1, DAY + 100, 100, 1), [printed(100)]);
        assert_eq!(scene.shares(1, DAY + 150, 20, 5), ["GapOpened 1..".to_owned(), printed(150)]);
        assert_eq!(scene.shares(1, DAY + 150, 20, 5), ["discarded duplicate"]);
        assert_eq!(scene.shares(1, DAY + 130, 30, 4), [printed(130)]);
        assert_eq!(scene.timer(), ["GapFilled 1..6"], "all that was missing came late");

        assert_eq!(scene.shares(1, DAY + 200, 10, 9)[1..], [printed(200)]);
        let said: Vec<String> = (0..=LOOKS_FOR_LATE_TRADES).flat_map(|_| scene.timer()).collect();
        assert_eq!(said, ["GapAbandoned 4..10"], "nobody can be asked");
        assert!(scene.jobs.is_empty());
    }

    /// The standby's connection.
    fn other() -> ConnectionNumber {
        Line::new(Teller::Standby, 0).first_number() + 1
    }

    fn printed(volume: i64) -> String {
        format!("trade {}", DAY + volume)
    }

    /// Two providers, both subscribed and settled at second 0, forty seconds before a minute's edge.
    fn two() -> Scene {
        let state = State { instruments: [(scene_instrument(), None)].into(), ..State::default() };
        let (mut scene, _) = Scene::with_standby(SAMSUNG, state, LogEnd::default(), true);
        assert_eq!(scene.connect(1, 0), ["feed FeedState Up 0.."]);
        assert_eq!(scene.connect(other(), 0), ["feed FeedState Up 0.."]);
        scene
    }

    fn name_of_last(scene: &Scene) -> &str {
        let mut trades = scene.log.iter().filter_map(|action| if let Action::Trade(trade) = action { Some(trade) } else { None });
        trades.next_back().unwrap().feed.as_str()
    }

    #[test]
    fn the_standby_takes_over_from_a_lost_one_gives_its_name_from_an_edge_on_and_gives_back_what_is_well_again() {
        let mut scene = two();
        assert_eq!(scene.shares(1, DAY + 100, 100, 1), [printed(100)]);
        assert_eq!(scene.shares(other(), DAY + 100, 100, 1), ["discarded duplicate"]);
        assert!(scene.shares(other(), DAY + 110, 10, 2).is_empty(), "one of the two tells");
        assert_eq!(scene.shares(1, DAY + 110, 10, 2), [printed(110)]);
        assert_eq!(scene.timer(), ["discarded duplicate"]);
        assert_eq!(scene.lose(1, 5), ["GapOpened 0..", "feed FeedState Down .."]);
        assert!(scene.timer().is_empty());
        assert!(scene.shares(other(), DAY + 130, 20, 6).is_empty());
        assert!(scene.timer().is_empty(), "it may be back at once");
        scene.evidence(other(), 9);
        let over = ["FeedState Down 40..".to_owned(), "FeedState Up 40..".to_owned(), printed(130), "GapFilled 0..7".to_owned()];
        assert_eq!(scene.timer(), over);
        assert_eq!(scene.shares(other(), DAY + 140, 10, 39), [printed(140)]);
        assert_eq!((name_of_last(&scene), scene.complete()), ("kis", Some(37)), "it completes the window that the other began");
        scene.shares(other(), DAY + 145, 5, 40);
        assert_eq!(name_of_last(&scene), "kiwoom");
        assert_eq!(scene.ledger.changed_state().unwrap().told.len(), 1, "a restart does not forget it");
        assert_eq!(scene.ledger.told(), [(Feed::new("kis"), 0), (Feed::new("kiwoom"), 1)]);

        assert_eq!(scene.connect(2, 41), ["feed FeedState Up 41.."]);
        scene.shares(other(), DAY + 150, 5, 42);
        assert!(scene.timer().is_empty());
        scene.evidence(other(), 110);
        assert!(scene.timer().is_empty(), "connected for a minute, but it has not said anything");
        assert!(scene.shares(2, DAY + 160, 10, 111).is_empty());
        assert_eq!(scene.timer(), ["FeedState Down 160..".to_owned(), "FeedState Up 0..".to_owned(), printed(160)]);
        assert_eq!(scene.shares(other(), DAY + 160, 10, 111), ["discarded duplicate"]);
        assert_eq!(name_of_last(&scene), "kiwoom");
        scene.shares(2, DAY + 170, 10, 160);
        assert_eq!(name_of_last(&scene), "kis");
        assert!(scene.lose(other(), 161).iter().all(|said| said == "feed FeedState Down .."), "nobody listened to it");
    }

    #[test]
    fn a_window_of_which_something_was_told_ahead_of_the_clock_keeps_its_name() {
        let mut scene = two();
        scene.shares(1, DAY + 100, 100, 41);
        scene.lose(1, 34);
        scene.timer();
        scene.shares(other(), DAY + 110, 10, 42);
        scene.now = at(37);
        assert_eq!(scene.timer()[..2], ["FeedState Down 100..", "FeedState Up 100.."], "trades have passed the edge at 40");
        assert_eq!(name_of_last(&scene), "kis");
        scene.shares(other(), DAY + 120, 10, 100);
        assert_eq!(name_of_last(&scene), "kiwoom");
    }

    #[test]
    fn what_the_one_missed_is_filled_in_the_words_of_the_other() {
        let mut scene = two();
        scene.shares(1, DAY + 100, 100, 1);
        assert!(scene.shares(other(), DAY + 120, 20, 2).is_empty());
        assert_eq!(scene.shares(1, DAY + 130, 10, 3), ["GapOpened 1..".to_owned(), printed(130)]);
        assert_eq!(scene.timer(), [printed(120), "GapFilled 1..4".to_owned()]);
        assert_eq!(name_of_last(&scene), "kis");
    }

    #[test]
    fn the_standby_takes_over_from_one_that_is_connected_and_silent() {
        let mut scene = two();
        scene.shares(1, DAY + 100, 100, 1);
        scene.shares(other(), DAY + 120, 20, 2);
        scene.evidence(1, 30);
        let trade = printed(120);
        // Without an end it may reach windows of the other's name.
        let (opened, filled) = (["GapOpened 2.."; 2], ["GapFilled 2..3"; 2]);
        let over = [&["FeedState Down 40..", "FeedState Up 40.."], &opened[..], &[&*trade], &filled].concat();
        assert_eq!(scene.timer(), over, "what goes out behind complete_through stands in a gap");
    }

    #[test]
    fn where_both_are_lost_the_gap_is_told_to_every_feed_whose_windows_it_touches() {
        let mut scene = two();
        scene.shares(1, DAY + 100, 100, 1);
        scene.lose(1, 5);
        scene.timer();
        scene.shares(other(), DAY + 105, 5, 9);
        scene.timer();
        scene.evidence(other(), 12);
        assert_eq!(scene.lose(other(), 13), ["GapOpened 10..", "GapOpened 10..", "feed FeedState Down .."]);
        let records = scene.log.len();
        let state = scene.ledger.changed_state().unwrap();
        scene.connect(other() + 1, 70);
        scene.shares(other() + 1, DAY + 110, 5, 71);
        let closed = scene.timer();
        assert_eq!(closed.iter().filter(|said| **said == "GapFilled 10..72").count(), 2, "{closed:?}");

        let (heir, _) = scene.heir(records, state);
        let open: Vec<usize> =
            heir.ledger.instruments.values().flat_map(|entry| &entry.gaps).map(|gap| gap.feeds.len()).collect();
        assert!(open.contains(&2), "what both were told is taken up for both: {open:?}");
    }

    #[test]
    fn a_gap_that_was_open_when_the_producer_was_killed_has_its_ids_from_the_log() {
        let mut scene = Scene::up(SAMSUNG);
        scene.log.clear();
        let wanted = || State { instruments: [(scene_instrument(), Some(at(0)))].into(), ..State::default() };
        scene.shares(1, DAY + 100, 100, 1);
        assert_eq!(scene.shares(1, DAY + 150, 20, 5), ["GapOpened 1..".to_owned(), format!("trade {}", DAY + 150)]);
        scene.shares(1, DAY + 130, 30, 4);
        let old_state = State { gaps: scene.ledger.changed_state().unwrap().gaps, ..wanted() };
        assert_eq!(scene.timer(), ["GapFilled 1..6"]);

        for state in [wanted(), old_state.clone()] {
            let (mut heir, said) = scene.heir(4, state.clone());
            assert_eq!(said, ["GapOpened 5.."], "killed before it closed the gap that a late trade had filled");
            heir.connect(1, 8);
            heir.shares(1, DAY + 160, 10, 9);
            assert_eq!(heir.timer(), ["GapFilled 1..6", "GapFilled 5..10"]);

            let (mut heir, _) = scene.heir(3, state.clone());
            heir.connect(1, 8);
            heir.shares(1, DAY + 160, 10, 9);
            assert_eq!(heir.timer(), ["GapFilled 5..10"], "killed before the late trade was written");
            let said: Vec<String> = (0..=LOOKS_FOR_LATE_TRADES).flat_map(|_| heir.timer()).collect();
            assert_eq!(said, ["GapAbandoned 1..6"], "its range, and no more");

            let (mut heir, _) = scene.heir(5, state);
            heir.connect(1, 8);
            heir.shares(1, DAY + 160, 10, 9);
            assert_eq!(heir.timer(), ["GapFilled 5..10"], "killed after: the log closed the other");
        }
        let (mut heir, said) = scene.heir(2, wanted());
        assert!(said.is_empty(), "killed before the trade behind it was written: it stands for the restart too");
        heir.connect(1, 8);
        heir.shares(1, DAY + 150, 20, 9);
        heir.shares(1, DAY + 130, 30, 9);
        assert_eq!(heir.timer(), ["GapFilled 1..10"]);
    }

    fn scene_instrument() -> Instrument {
        SAMSUNG.parse().unwrap()
    }

    #[test]
    fn a_gap_with_both_ends_that_was_left_open_is_given_up_where_nobody_can_be_asked() {
        let mut scene = Scene::up(SAMSUNG);
        scene.log.clear();
        scene.shares(1, DAY + 100, 100, 1);
        let mut out = Vec::new();
        scene.ledger.on_undelivered(vec![trade(SAMSUNG, DAY + 100, 1)], at(130), &mut out);
        scene.said(out);
        let (_, said) = scene.heir(2, State { instruments: [(scene_instrument(), Some(at(0)))].into(), ..State::default() });
        assert_eq!(said, ["GapAbandoned 1..1", "GapOpened 1.."]);
    }

    #[test]
    fn a_halt_is_told_once_and_ends_with_the_venues_word_or_the_next_trade() {
        let mut scene = Scene::up(SAMSUNG);
        let halt = |halted, second| {
            let instrument = SAMSUNG.parse().unwrap();
            Item::Event(Event::Halt { instrument, halted, at: at(second), reason: "as told".to_owned() })
        };
        scene.shares(1, DAY + 100, 100, 1);
        assert!(scene.item(1, 2, halt(false, 2)).is_empty(), "it was not halted");
        assert_eq!(scene.item(1, 5, halt(true, 5)), ["Halt Down 5.."]);
        assert!(scene.item(1, 6, halt(true, 6)).is_empty(), "said before");
        assert_eq!(scene.shares(1, DAY + 110, 10, 5).len(), 1, "a trade of the second in which it began");
        let state = scene.ledger.changed_state().unwrap();
        assert_eq!(state.halted.len(), 1, "a restart does not forget it");
        assert_eq!(scene.shares(1, DAY + 120, 10, 60)[0], "Halt Up 60..");
        assert!(scene.item(1, 61, halt(false, 61)).is_empty());
        scene.item(1, 70, halt(true, 70));
        assert_eq!(scene.item(1, 80, halt(false, 80)), ["Halt Up 80.."]);
    }

    #[test]
    fn where_only_volume_tells_a_lost_connection_is_harmless_when_it_leaves_no_room_and_days_begin_anew() {
        let mut scene = Scene::up(SAMSUNG);
        scene.shares(1, DAY + 100, 100, 1);
        scene.lose(1, 5);
        scene.connect(2, 8);
        scene.shares(2, DAY + 110, 10, 9);
        assert!(scene.timer().iter().all(|said| said.starts_with("GapFilled")), "nothing was traded meanwhile");
        scene.evidence(2, 12);
        scene.lose(2, 12);
        scene.connect(3, 15);
        scene.shares(3, DAY + 130, 10, 16);
        let said: Vec<String> = (0..=LOOKS_FOR_LATE_TRADES).flat_map(|_| scene.timer()).collect();
        assert_eq!(said, ["GapOpened 9..10", "GapAbandoned 9..10", "GapAbandoned 10..17"], "whether before or after it was lost");
        let tomorrow = DAY + 100_000_000_000;
        assert_eq!(scene.shares(3, tomorrow + 7, 7, 20), [format!("trade {}", tomorrow + 7)]);
        assert_eq!(scene.shares(3, tomorrow + 20, 7, 21).len(), 2, "six shares of that day are missing");
    }

    #[test]
    fn the_feed_is_up_from_the_acknowledgement_and_complete_two_seconds_behind_its_evidence() {
        let mut scene = Scene::new(BTC);
        assert_eq!(scene.connect(1, 0), ["feed FeedState Up 0.."]);
        assert_eq!(scene.complete(), None);
        assert_eq!(scene.trade(1, 10, 5), ["trade 10"]);
        assert_eq!(scene.complete(), Some(3));
        scene.evidence(1, 9);
        assert_eq!(scene.complete(), Some(7));
        assert_eq!(scene.trade(1, 11, 6), ["trade 11"]);
        assert_eq!(scene.complete(), Some(7), "it never goes back");
    }

    #[test]
    fn a_trade_goes_out_once() {
        let mut scene = Scene::up(BTC);
        assert_eq!(scene.trade(1, 10, 5), ["trade 10"]);
        assert_eq!(scene.trade(1, 10, 5), ["discarded duplicate"]);
        assert_eq!(scene.trade(1, 8, 4), ["trade 8"], "late, but new");
    }

    #[test]
    fn a_trade_from_the_future_proves_nothing_about_the_present() {
        let mut scene = Scene::up(BTC);
        let early = Trade { receive_time: at(5), ..trade(BTC, 10, 500) };
        scene.item(1, 5, Item::Event(Event::Trade(early)));
        assert_eq!(scene.complete(), Some(8));
    }

    #[test]
    fn a_lost_connection_is_a_gap_filled_once_the_venue_answered_after_the_next_acknowledgement() {
        let mut scene = Scene::up(BTC);
        scene.trade(1, 10, 5);
        scene.evidence(1, 10);
        assert_eq!(scene.lose(1, 20), ["GapOpened 8..", "feed FeedState Down .."]);
        assert_eq!(scene.complete(), Some(8), "nothing is proved while nothing is connected");
        assert_eq!(scene.connect(2, 30), ["ask fill after None from 8", "feed FeedState Up 30.."]);
        assert_eq!(scene.trade(2, 16, 32), ["trade 16"]);
        assert_eq!(scene.complete(), Some(30), "the gap pins its windows; the rest goes on");
        assert_eq!(
            scene.answer(33, &[(10, 5), (12, 9), (14, 25), (16, 32), (17, 33)]),
            ["trade 12", "trade 14", "GapFilled 8..32"],
            "exactly what is missing: neither what was seen nor what comes by itself"
        );
        assert_eq!(scene.trade(2, 14, 25), ["discarded duplicate"]);
        assert_eq!(scene.ledger.open_gaps(), 0);
    }

    #[test]
    fn what_was_missed_before_the_connection_was_lost_is_a_gap_of_its_own() {
        let mut scene = Scene::up(USDT);
        scene.trade(1, 10, 5);
        scene.evidence(1, 60);
        assert_eq!(scene.lose(1, 61), ["GapOpened 58..", "feed FeedState Down .."]);
        scene.connect(2, 70);
        scene.trade(2, 14, 71);
        assert_eq!(scene.timer(), ["ask fill after Some(10) from 58"]);
        assert_eq!(
            scene.answer(72, &[(11, 20), (12, 30), (13, 65)]),
            ["trade 13", "GapOpened 20..30", "trade 11", "trade 12", "GapFilled 20..30", "GapFilled 58..71"],
            "trades behind complete_through stand in a gap opened before them"
        );
    }

    #[test]
    fn a_connection_lost_again_before_the_acknowledgement_is_still_one_gap() {
        let mut scene = Scene::up(BTC);
        scene.trade(1, 10, 5);
        assert_eq!(scene.lose(1, 6), ["GapOpened 3..", "feed FeedState Down .."]);
        assert_eq!(scene.lose(2, 7), Vec::<String>::new());
        assert_eq!(scene.connect(3, 8), ["ask fill after None from 3", "feed FeedState Up 8.."]);
    }

    /// Two instruments, each on a line of its own: the connections are 1 and the number returned.
    fn two_lines() -> (Scene, ConnectionNumber) {
        let instruments = [BTC, "BITSTAMP:ETHUSD"].map(|name| (name.parse().unwrap(), None));
        let state = State { instruments: instruments.into(), ..State::default() };
        (Scene::with(BTC, state, LogEnd::default()).0, Line::new(Teller::First, 1).first_number() + 1)
    }

    #[test]
    fn a_lost_line_is_a_gap_of_its_instruments_and_the_feed_stays_up() {
        let (mut scene, second) = two_lines();
        assert_eq!(scene.connect(1, 0), ["feed FeedState Up 0.."]);
        scene.instrument = "BITSTAMP:ETHUSD".parse().unwrap();
        assert_eq!(scene.connect(second, 1), ["FeedState Up 1.."], "the feed is up already; this instrument is from now on");
        scene.evidence(1, 10);
        scene.evidence(second, 11);
        assert_eq!(scene.lose(second, 12), ["GapOpened 8.."]);
        scene.evidence(1, 20);
        assert_eq!(scene.complete(), Some(18), "the gap pins its windows; the other line goes on");
        assert_eq!(scene.connect(second + 1, 30), ["ask fill after None from 8"]);
        scene.evidence(1, 40);
        assert_eq!(scene.complete(), Some(18), "nothing is proved of the line that is back until it says something");
        scene.evidence(second + 1, 35);
        assert_eq!(scene.complete(), Some(33));
        assert_eq!(scene.lose(1, 50), ["GapOpened 33.."]);
        assert_eq!(scene.lose(second + 1, 51).last().map(String::as_str), Some("feed FeedState Down .."));
    }

    #[test]
    fn of_two_lines_the_one_that_is_least_far_counts_also_before_it_is_settled() {
        let (mut scene, second) = two_lines();
        scene.connect(1, 0);
        scene.instrument = "BITSTAMP:ETHUSD".parse().unwrap();
        scene.item(second, 1, Item::Event(Event::Subscribed { instrument: scene.instrument.clone() }));
        scene.trade(second, 5, 4);
        scene.evidence(1, 10);
        assert_eq!(scene.complete(), Some(2));
        scene.item(second, 11, Item::Settled { at: at(11) });
        scene.evidence(second, 9);
        assert_eq!(scene.complete(), Some(7));
        scene.evidence(second, 30);
        assert_eq!(scene.complete(), Some(8));
    }

    #[test]
    fn a_planned_renewal_overlaps_and_is_no_gap() {
        let mut scene = Scene::up(BTC);
        scene.trade(1, 10, 5);
        assert_eq!(scene.connect(2, 6), Vec::<String>::new());
        scene.evidence(2, 20);
        assert_eq!(scene.complete(), Some(3), "the old connection still counts");
        assert_eq!(scene.trade(2, 11, 7), ["trade 11"]);
        assert_eq!(scene.trade(1, 11, 7), ["discarded duplicate"]);
        assert_eq!(scene.item(1, 8, Item::Closed { reason: "renewed", planned: true }), Vec::<String>::new());
        scene.evidence(2, 21);
        assert_eq!(scene.complete(), Some(19));
    }

    #[test]
    fn an_old_connection_cut_during_a_renewal_is_a_gap_filled_at_once() {
        let mut scene = Scene::up(BTC);
        scene.trade(1, 10, 5);
        scene.connect(2, 6);
        assert_eq!(scene.lose(1, 7), ["GapOpened 3..", "ask fill after None from 3"]);
        assert_eq!(scene.answer(8, &[(10, 5)]), ["GapFilled 3..8"]);
    }

    #[test]
    fn what_a_sweep_finds_is_a_recorded_and_filled_gap() {
        let mut scene = Scene::up(BTC);
        scene.trade(1, 10, 5);
        scene.evidence(1, 40);
        assert_eq!(scene.timer(), ["ask check 1..38"]);
        assert_eq!(scene.timer(), Vec::<String>::new(), "one at a time");
        assert_eq!(
            scene.answer(41, &[(10, 5), (12, 20), (13, 22), (19, 38)]),
            ["GapOpened 20..22", "trade 12", "trade 13", "GapFilled 20..22"],
            "what is as young as the evidence may still come by itself"
        );
        scene.evidence(1, 50);
        assert_eq!(scene.timer(), Vec::<String>::new());
        scene.evidence(1, 70);
        assert_eq!(scene.timer(), ["ask check 38..68"]);
    }

    fn missing(scene: &Scene, after: i64, before: i64) -> Item {
        Item::Event(Event::Missing { instrument: scene.instrument.clone(), after, before })
    }

    #[test]
    fn a_hole_in_contiguous_ids_is_asked_for_exactly() {
        let mut scene = Scene::up(USDT);
        scene.trade(1, 4, 5);
        let item = missing(&scene, 4, 8);
        assert_eq!(scene.item(1, 9, item), ["GapOpened 5.."]);
        scene.trade(1, 8, 9);
        assert_eq!(scene.timer(), ["ask fill after Some(4) from 5"]);
        assert_eq!(scene.jobs[0].cursor.before, Some(8));
        assert_eq!(scene.trade(1, 6, 8), ["trade 6"], "a late one is still new");
        assert_eq!(scene.answer(10, &[(5, 6), (6, 8), (7, 8)]), ["trade 5", "trade 7", "GapFilled 5..9"]);
        let item = missing(&scene, 4, 8);
        assert_eq!(scene.item(1, 11, item), Vec::<String>::new(), "nothing is missing any more");
    }

    #[test]
    fn a_hole_that_late_arrivals_fill_needs_no_request() {
        let mut scene = Scene::up(USDT);
        scene.trade(1, 4, 5);
        let item = missing(&scene, 4, 6);
        assert_eq!(scene.item(1, 9, item), ["GapOpened 5.."]);
        scene.trade(1, 6, 9);
        scene.trade(1, 5, 7);
        assert_eq!(scene.timer(), ["GapFilled 5..9"]);
    }

    #[test]
    fn holes_close_together_share_a_request() {
        let mut scene = Scene::up(USDT);
        scene.trade(1, 4, 5);
        for (id, second) in [(6, 6), (7, 6), (10, 8), (5_002, 9)] {
            scene.trade(1, id, second);
        }
        assert_eq!(scene.timer(), ["ask fill after Some(4) from 5"]);
        assert_eq!(scene.jobs[0].cursor.before, Some(10));
        assert_eq!(scene.timer(), Vec::<String>::new(), "one at a time");
        assert_eq!(
            scene.answer(10, &[(5, 5), (8, 7), (9, 7)]),
            ["trade 5", "trade 8", "trade 9", "GapFilled 5..6", "GapFilled 6..8"]
        );
        assert_eq!(scene.timer(), ["ask fill after Some(10) from 8"]);
    }

    #[test]
    fn where_ids_tell_a_lost_connection_is_asked_for_up_to_the_first_trade_that_came_by_itself() {
        let mut scene = Scene::up(USDT);
        scene.trade(1, 4, 5);
        scene.lose(1, 6);
        assert_eq!(scene.connect(2, 20), ["feed FeedState Up 20.."]);
        assert_eq!(scene.timer(), Vec::<String>::new(), "not known yet where it ends");
        scene.trade(2, 9, 21);
        assert_eq!(scene.timer(), ["ask fill after Some(4) from 3"]);
        assert_eq!(scene.jobs[0].cursor.before, Some(9));
        assert_eq!(scene.answer(22, &[(5, 6), (8, 19)]), ["trade 5", "trade 8", "GapFilled 3..21"]);

        scene.lose(2, 22);
        scene.connect(3, 30);
        scene.trade(3, 10, 31);
        assert_eq!(scene.timer(), ["GapFilled 19..31"], "the next id proves that nothing was missed");

        scene.lose(3, 40);
        scene.connect(4, 50);
        let said: Vec<String> = (0..300).flat_map(|_| scene.timer()).collect();
        assert_eq!(said, ["ask fill after Some(10) from 29"], "on a quiet market it is asked up to now");
    }

    #[test]
    fn a_hole_that_no_connection_saw_is_seen_here() {
        let mut scene = Scene::up(USDT);
        scene.trade(1, 4, 5);
        assert_eq!(scene.trade(1, 7, 9), ["GapOpened 5..", "trade 7"], "as after entering a channel again");
        assert_eq!(scene.timer(), ["ask fill after Some(4) from 5"]);
        let item = missing(&scene, 4, 7);
        assert_eq!(scene.item(1, 9, item), Vec::<String>::new(), "told once");
        assert_eq!(scene.trade(1, 8, 10), ["trade 8"]);
    }

    #[test]
    fn seen_ids_are_runs_and_the_lowest_are_forgotten() {
        let mut seen = Seen::new(2);
        for (id, new) in [(5, true), (6, true), (8, true), (7, true), (6, false), (20, true), (i64::MAX, true), (i64::MAX, false)]
        {
            assert_eq!(seen.insert(id), new, "{id}");
        }
        assert_eq!(seen.runs.clone().into_iter().collect::<Vec<_>>(), [(20, 20), (i64::MAX, i64::MAX)]);
        assert!(seen.insert(21) && seen.covers_between(19, 22) && !seen.covers_between(19, 23));
        assert_eq!((seen.highest_below(21), seen.highest_below(20)), (Some(20), None));
    }

    #[test]
    fn a_silent_symbol_with_trades_is_recorded_filled_and_subscribed_again() {
        let mut scene = Scene::up(USDT);
        scene.trade(1, 4, 5);
        scene.evidence(1, 100);
        let silent = Item::Event(Event::Silent { instrument: scene.instrument.clone(), since: at(5) });
        assert_eq!(scene.item(1, 100, silent), ["ask check 5..98"]);
        assert_eq!(scene.answer(101, &[(5, 50)]), ["GapOpened 50..50", "trade 5", "GapFilled 50..50", "resubscribe"]);
    }

    #[test]
    fn an_overflow_is_a_gap_filled_at_once() {
        let mut scene = Scene::up(BTC);
        scene.trade(1, 10, 5);
        let dropped = Item::Dropped { instrument: scene.instrument.clone(), from: at(6) };
        assert_eq!(scene.item(1, 9, dropped), ["GapOpened 6..", "ask fill after None from 6"]);
        scene.trade(1, 15, 9);
        assert_eq!(scene.answer(10, &[(10, 5), (12, 6), (15, 9)]), ["trade 12", "GapFilled 6..9"]);
    }

    #[test]
    fn a_restart_takes_up_from_the_log_and_ends_the_gaps_it_finds() {
        let old = vec![Gap::found("old".to_owned(), at(-60), None)];
        let past_of_btc = Past { gaps: old, ..past(BTC, &[9, 10], -20, -15) };
        let (mut scene, said) = Scene::resumed(BTC, Some(at(-100)), past_of_btc);
        assert_eq!(said, Vec::<String>::new(), "the gap still open covers it");
        assert_eq!(scene.connect(1, 1), ["ask fill after None from -60", "feed FeedState Up 1.."]);
        assert_eq!(scene.answer(2, &[(7, -50), (10, -20), (11, -10)]), ["trade 7", "trade 11", "GapFilled -60..2"]);

        let (mut scene, said) = Scene::resumed(USDT, None, past(USDT, &[9, 10], -20, -15));
        assert_eq!(said, ["GapOpened -15.."]);
        assert_eq!(scene.connect(1, 1), ["feed FeedState Up 1.."]);
        scene.trade(1, 14, 2);
        assert_eq!(scene.timer(), ["ask fill after Some(10) from -15"]);
    }

    #[test]
    fn after_a_restart_nothing_is_written_behind_what_the_log_promised_but_in_a_gap() {
        let (mut scene, said) = Scene::resumed(BTC, Some(at(-100)), past(BTC, &[9, 12], -20, -15));
        assert_eq!((said, scene.complete()), (vec!["GapOpened -15..".to_owned()], Some(-15)), "before any new evidence");
        scene.connect(1, 1);
        assert_eq!(
            scene.answer(2, &[(11, -30), (13, -10)]),
            ["trade 13", "GapOpened -30..-30", "trade 11", "GapFilled -30..-30", "GapFilled -15..2"]
        );
    }

    #[test]
    fn after_a_crash_between_two_partitions_none_hears_less_than_it_was_told() {
        let past = past(BTC, &[9, 12], -20, -15);
        let log = LogEnd { complete_through: Some(at(-14)), instruments: [(BTC.parse().unwrap(), past)].into() };
        let (mut scene, said) = Scene::after(BTC, Some(at(-100)), log);
        assert_eq!(said, ["GapOpened -15.."], "what its own partition was not told is still a hole");
        scene.connect(1, 1);
        assert_eq!(scene.complete(), Some(-14), "another partition was told more");
    }

    #[test]
    fn a_gap_whose_end_the_log_knows_pins_nothing_beyond_it() {
        let old = vec![Gap::found("old".to_owned(), at(-60), Some(at(-50)))];
        let (mut scene, _) = Scene::resumed(BTC, Some(at(-100)), Past { gaps: old, ..past(BTC, &[9, 12], -20, -15) });
        scene.connect(1, 1);
        let said = scene.answer(2, &[(10, -55), (11, -30)]);
        assert_eq!(said[..4], ["trade 10", "GapOpened -30..-30", "trade 11", "GapFilled -30..-30"], "{said:?}");
    }

    #[test]
    fn sweeps_go_on_after_a_restart_where_they_stood() {
        let (mut scene, _) = Scene::resumed(BTC, Some(at(-1_000)), past(BTC, &[9, 10], -20, -15));
        scene.connect(1, 0);
        scene.evidence(1, 10);
        assert_eq!(scene.timer(), ["ask check -105..8"], "without a state file: three sweeps back");
    }

    #[test]
    fn a_late_trade_first_after_the_acknowledgement_does_not_hide_the_hole() {
        let mut scene = Scene::up(BTC);
        scene.trade(1, 10, 5);
        scene.evidence(1, 10);
        scene.lose(1, 20);
        scene.connect(2, 30);
        scene.trade(2, 11, 9);
        assert_eq!(scene.answer(33, &[(11, 9), (12, 15), (13, 32)]), ["trade 12", "GapFilled 8..30"]);
    }

    #[test]
    fn a_new_instrument_has_no_past_and_an_old_feed_no_part_in_it() {
        let (_, said) = Scene::resumed(BTC, None, past(BTC, &[], 0, -15));
        assert_eq!(said, Vec::<String>::new());
    }

    #[test]
    fn an_instrument_added_at_run_time_declares_itself_and_one_that_returns_has_a_gap() {
        let mut scene = Scene::up(BTC);
        scene.trade(1, 10, 5);
        let other: Instrument = "BITSTAMP:ETHUSD".parse().unwrap();
        let mut out = Vec::new();
        assert_eq!(scene.ledger.add(&[other.clone(), scene.instrument.clone()], at(6), &mut out), *std::slice::from_ref(&other));
        let subscribed = Item::Event(Event::Subscribed { instrument: other.clone() });
        assert_eq!(scene.item(1, 7, subscribed), ["FeedState Up 7.."]);

        let mut out = Vec::new();
        assert_eq!(scene.ledger.remove(std::slice::from_ref(&other), at(20), &mut out), *std::slice::from_ref(&other));
        assert_eq!(scene.said(out), ["FeedState Down .."]);
        assert_eq!(scene.item(1, 21, trade_event(other.as_str(), 5, 21)), ["discarded not_subscribed"]);
        scene.evidence(1, 60);
        let mut out = Vec::new();
        scene.ledger.add(std::slice::from_ref(&other), at(60), &mut out);
        assert_eq!(scene.said(out), ["GapOpened 7.."]);
        let subscribed = Item::Event(Event::Subscribed { instrument: other });
        assert_eq!(scene.item(1, 61, subscribed), ["ask fill after None from 7"]);
    }

    #[test]
    fn what_its_rank_brought_in_is_let_go_without_a_hole_and_begins_anew_when_it_returns() {
        let mut scene = Scene::up(BTC);
        scene.evidence(1, 100);
        let other: Instrument = "BITSTAMP:ETHUSD".parse().unwrap();
        let only = std::slice::from_ref(&other);
        let mut out = Vec::new();
        let kept = [scene.instrument.clone(), other.clone()];
        assert_eq!(scene.ledger.bring_in(&kept, at(101), &mut out), *only);
        assert_eq!(scene.ledger.ranked().iter().collect::<Vec<_>>(), [&other], "what is followed anyway is not");
        let subscribed = || Item::Event(Event::Subscribed { instrument: other.clone() });
        assert_eq!(scene.item(1, 102, subscribed()), ["FeedState Up 102.."]);
        scene.evidence(1, 200);
        let mut out = Vec::new();
        assert_eq!(scene.ledger.let_go(&kept, at(200), &mut out), *only);
        // Only the windows that it leaves in the middle miss something; the longest ends with a quarter of an hour.
        assert_eq!(scene.said(out), ["GapOpened 198..1000", "GapAbandoned 198..1000", "FeedState Down .."]);
        assert!(scene.ledger.instruments().contains(&scene.instrument) && scene.ledger.ranked().is_empty());
        // A restart in between does not follow it, and it has no hole when it returns, but the windows that it enters in the middle.
        let state = scene.ledger.changed_state().unwrap();
        assert!(state.left.is_empty() && !state.added.contains(&other) && state.let_go.contains(&other));
        scene.evidence(1, 1_100);
        let mut out = Vec::new();
        scene.ledger.bring_in(only, at(1_100), &mut out);
        assert_eq!(scene.said(out), Vec::<String>::new());
        let again = scene.item(1, 1_101, subscribed());
        assert_eq!(again, ["FeedState Up 1101..", "GapOpened 1000..1101", "GapAbandoned 1000..1101"]);
        // Whoever is asked for stays.
        scene.ledger.add(only, at(1_102), &mut Vec::new());
        assert_eq!(scene.ledger.let_go(only, at(1_103), &mut Vec::new()), Vec::<Instrument>::new());
    }

    #[test]
    fn what_kafka_did_not_take_is_a_gap_for_exactly_those() {
        let mut scene = Scene::up(BTC);
        let mut out = Vec::new();
        scene.ledger.on_undelivered(vec![trade(BTC, 10, 5), trade(BTC, 11, 7)], at(130), &mut out);
        assert_eq!(scene.said(out), ["GapOpened 5..7", "trade 10", "trade 11", "GapFilled 5..7"]);
    }

    #[test]
    fn a_trade_that_cannot_be_kept_is_set_aside_once_however_often_it_is_seen() {
        let mut scene = Scene::up(BTC);
        scene.trade(1, 10, 5);
        let reason = Malformed::TooPrecise;
        let frame =
            Item::Malformed { reason, detail: String::new(), raw: Vec::new(), trade: Some((scene.instrument.clone(), 11)) };
        assert_eq!(scene.item(1, 6, frame), ["set aside too_precise"]);
        scene.evidence(1, 40);
        scene.timer();
        let job = scene.jobs.remove(0);
        let row = |id, second| MalformedRow {
            reason,
            detail: String::new(),
            raw: String::new(),
            id: Some(id),
            event_time: Some(at(second)),
        };
        let page = || Page { malformed: vec![row(11, 6), row(12, 7), row(13, 38)], ..Page::default() };
        let mut out = Vec::new();
        scene.ledger.on_page(&job, page(), false, at(41), &mut out);
        scene.ledger.on_page(&job, page(), true, at(41), &mut out);
        assert_eq!(scene.said(out), ["set aside too_precise"], "12 was missed; 11 was seen; 13 may still come by itself");
    }

    #[test]
    fn what_the_venue_no_longer_tells_is_abandoned_aloud() {
        let mut scene = Scene::up(BTC);
        scene.trade(1, 10, 5);
        scene.lose(1, 6);
        scene.connect(2, 200);
        let job = scene.jobs.remove(0);
        let page = Page { trades: vec![trade(BTC, 50, 150)], reaches_from: Some(at(100)), ..Page::default() };
        let mut out = Vec::new();
        scene.ledger.on_page(&job, page, true, at(201), &mut out);
        assert_eq!(scene.said(out), ["trade 50", "GapAbandoned 3..201"]);
    }
}
