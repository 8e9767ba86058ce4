//! The windows of one instrument in one feed: folded, published when the watermark passes, published again when something changed.
//!
//! Next: `schemas/avro/bar.v1.avsc`, then `services/sink/src/tables/bar.rs`.

use crate::feed::{FeedTrack, GapState};
use crate::flows::{FlowSum, MinuteFlow};
use crate::ids::{IdRun, SeenIds, TradeId};
use crate::kept::{KeptTrade, KeptTrades};
use crate::minute::Minute;
use crate::partition::Config;
use crate::traded::{TradedBar, TradedBars};
use marketflow_model::{Bar, BarKind, BarSource, Calendar, Feed, Instrument, Interval, Price, Quality, Timestamp, Venue};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const MINUTE_MICROS: i64 = Interval::ONE_MINUTE.micros();

/// How long a close is carried over windows without a trade.
const CARRY_LIMIT_MICROS: i64 = 7 * 86_400_000_000;

/// Why a published bar is published again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Reason {
    LateRecords,
    GapFilled,
    GapAbandoned,
    GapFound,
    Halt,
    Cancel,
    Correction,
    /// A provider's candles, where no trades feed covers the window.
    NotCovered,
}

impl Reason {
    /// Whether the bar's values are other ones, not only its quality.
    fn changes_values(self) -> bool {
        matches!(self, Self::LateRecords | Self::Cancel | Self::Correction)
    }

    fn text(self) -> &'static str {
        match self {
            Self::LateRecords => "late records",
            Self::GapFilled => "gap filled",
            Self::GapAbandoned => "gap abandoned",
            Self::GapFound => "gap found",
            Self::Halt => "halt",
            Self::Cancel => "cancel",
            Self::Correction => "correction",
            Self::NotCovered => "no trades feed covers the window",
        }
    }
}

/// What was published of one window.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Published {
    /// Position in the configured intervals.
    pub(crate) interval: u8,
    /// Last revision published; −1: none yet.
    pub(crate) revision: i32,
    pub(crate) quality: Quality,
    /// Set when the window must be published again.
    pub(crate) dirty: Option<Reason>,
    /// Whether records came since, or were taken back: whatever it is published again for, its values are other ones.
    pub(crate) has_new_records: bool,
    /// Of candles: not published, because trades cover the window.
    pub(crate) is_left: bool,
}

/// A kept minute: its fold, what was published of the windows that open at it, and the ids seen in it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Slot {
    pub(crate) minute: Option<Minute>,
    pub(crate) published: Vec<Published>,
    /// What the minute has added to the flows across instruments.
    pub(crate) flow: Option<FlowSum>,
    /// The ids that were seen when it was first written; later ones are written beside it, so that it stays small.
    pub(crate) first_ids: IdRun,
    #[serde(skip)]
    pub(crate) ids: SeenIds,
    /// Its trades one by one, where the venue takes trades back.
    #[serde(skip)]
    pub(crate) kept: Option<Box<KeptTrades>>,
    #[serde(skip)]
    pub(crate) touched: bool,
    /// Whether the changelog holds it.
    #[serde(skip)]
    pub(crate) written: bool,
}

impl Slot {
    /// Remembers the id and row of a record that counts in it, or takes one back.
    fn note(&mut self, head: &mut Head, id: Option<TradeId<'_>>, row: Option<i64>) {
        self.touched = true;
        if let Some(id) = id {
            if let TradeId::Number(number) = id {
                head.highest_id = Some(head.highest_id.map_or(number, |h| h.max(number)));
            }
            self.ids.insert(id);
        }
        if let Some(row) = row {
            head.highest_row = head.highest_row.max(row);
        }
    }

    /// What was published of the window of this interval that opens here, about to change.
    fn publication(&mut self, interval: u8) -> &mut Published {
        self.touched = true;
        let place = self.published.iter().position(|p| p.interval == interval).unwrap_or_else(|| {
            self.published.push(Published {
                interval,
                revision: -1,
                quality: Quality::Unknown,
                dirty: None,
                has_new_records: false,
                is_left: false,
            });
            self.published.len() - 1
        });
        &mut self.published[place]
    }
}

/// A window: its place on the interval's grid, cut at the edges of the session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Window {
    /// The watermark that publishes it.
    pub(crate) due: Timestamp,
    /// Position in the configured intervals.
    pub(crate) interval: u8,
    /// Its first minute.
    pub(crate) open: Timestamp,
    /// End of its minutes (exclusive).
    end: Timestamp,
    /// End of the event times that can still count in it (exclusive): later than `end` where a closing print may be delayed.
    until: Timestamp,
}

/// Whether trades cover a window of candles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cover {
    /// They do: their bar is the instrument's.
    Covered,
    /// There is a feed of trades, and it does not.
    NotCovered,
    /// A feed of trades is not as far yet.
    Undecided,
    /// There is no feed of trades.
    Alone,
}

/// What outlives the windows: small, written with every touched commit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Where windows without a trade are published too: those that close at or before this have been.
    pub(crate) closed_to: Timestamp,
    /// Highest numeric venue id.
    pub(crate) highest_id: Option<i64>,
    /// Highest import row.
    pub(crate) highest_row: i64,
    /// Evidence for this instrument exists from here on, where it was declared for it alone.
    pub(crate) covered_from: Option<Timestamp>,
    /// Open and close price of the last published minute; kept only where windows without a trade are published too.
    pub(crate) last_close: Option<(Timestamp, Price)>,
    /// Whether this feed's minutes are the ones that count for the instrument in flows; `None` before the first.
    pub(crate) serves_flows: Option<bool>,
}

/// A slot that is no more, with what it had in the changelog.
#[derive(Clone, Copy)]
pub(crate) struct Dropped {
    pub(crate) open: Timestamp,
    pub(crate) id_runs: u32,
    pub(crate) kept_runs: u32,
}

/// A record as its builder takes it.
#[derive(Clone)]
pub(crate) struct Incoming<'a> {
    pub(crate) event_time: Timestamp,
    pub(crate) minute: Minute,
    pub(crate) id: Option<TradeId<'a>>,
    pub(crate) row: Option<i64>,
}

/// What happened to a record that reached its window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fold {
    Used,
    Overflow,
}

pub(crate) struct Builder {
    pub(crate) source: BarSource,
    pub(crate) feed: Feed,
    pub(crate) instrument: Instrument,
    /// `None`: its market never closes.
    calendar: Option<Arc<Calendar>>,
    pub(crate) head: Head,
    pub(crate) head_touched: bool,
    /// Whether anything changed since the last commit.
    pub(crate) touched: bool,
    /// Boxed: most nodes of the map hold few.
    pub(crate) slots: BTreeMap<Timestamp, Box<Slot>>,
    /// Windows that are due at or before this and hold anything have been published, or wait for a revision. Follows from the slots:
    /// [`Timestamp::MIN`] is always right, and costs.
    published_to: Timestamp,
    /// The watermark at which it has something to publish or to drop, as its feed's queue has it; [`Timestamp::MAX`]: none.
    pub(crate) due: Timestamp,
    /// Slots dropped since the last commit.
    pub(crate) dropped: Vec<Dropped>,
    /// Windows to publish again: (close, interval, open). Follows from the slots.
    dirty: BTreeSet<(Timestamp, u8, Timestamp)>,
    /// Bars that what was traded ends, one entry for each configured kind once there was a trade.
    pub(crate) traded: Vec<TradedBars>,
    pub(crate) traded_touched: bool,
    /// Whether its minutes may count in flows.
    sums_flows: bool,
    /// Whether its venue takes trades back.
    pub(crate) keeps_trades: bool,
    /// Minutes published by the record at hand, where they may.
    pub(crate) minute_flows: Vec<MinuteFlow>,
}

impl Builder {
    pub(crate) fn new(source: BarSource, feed: Feed, instrument: Instrument, calendar: &Arc<Calendar>, sums_flows: bool) -> Self {
        let head = Head {
            closed_to: Timestamp::MIN,
            highest_id: None,
            highest_row: 0,
            covered_from: None,
            last_close: None,
            serves_flows: None,
        };
        let calendar = Some(Arc::clone(calendar)).filter(|c| !c.is_always_open());
        let keeps_trades = source == BarSource::Trades && Venue::named(instrument.venue()).has_cancels();
        Self {
            source,
            feed,
            instrument,
            calendar,
            head,
            head_touched: false,
            touched: false,
            slots: BTreeMap::new(),
            published_to: Timestamp::MIN,
            due: Timestamp::MAX,
            dropped: Vec::new(),
            dirty: BTreeSet::new(),
            traded: Vec::new(),
            traded_touched: false,
            sums_flows,
            keeps_trades,
            minute_flows: Vec::new(),
        }
    }

    /// Rebuilds what follows from restored slots.
    pub(crate) fn index_dirty(&mut self, intervals: &[Interval]) {
        self.dirty.clear();
        for (open, slot) in &self.slots {
            for published in slot.published.iter().filter(|p| p.dirty.is_some()) {
                let interval = published.interval;
                self.dirty.insert((grid_close(intervals, interval, *open), interval, *open));
            }
        }
    }

    /// Whether windows end by this calendar, in whichever version.
    pub(crate) fn follows(&self, calendar: &Calendar) -> bool {
        self.calendar.as_ref().is_some_and(|mine| mine.name() == calendar.name())
    }

    /// From here on by this version of its calendar. Nothing it differs in may have been reached.
    pub(crate) fn follow(&mut self, calendar: &Arc<Calendar>) {
        self.calendar = Some(Arc::clone(calendar));
    }

    /// The minute a record of this event time counts in.
    fn minute_of(&self, event_time: Timestamp) -> Timestamp {
        self.calendar.as_ref().map_or_else(|| event_time.window_open(Interval::ONE_MINUTE), |c| c.minute_of(event_time))
    }

    /// The window of an interval that holds a minute.
    fn window(&self, feed: &FeedTrack, intervals: &[Interval], interval: u8, minute: Timestamp) -> Window {
        let open = minute.window_open(intervals[usize::from(interval)]);
        let end = grid_close(intervals, interval, minute);
        let Some(calendar) = &self.calendar else { return Window { due: end, interval, open, end, until: end } };
        let stretch = calendar.stretch_of(minute);
        let (open, end) = (open.max(stretch.from), end.min(stretch.to));
        match stretch.session.filter(|s| s.auction.is_some() && open <= s.close && s.close < end) {
            None => Window { due: end, interval, open, end, until: end },
            Some(session) => {
                let close = session.close;
                let halted = feed.is_halted(&self.instrument, close, close.plus_micros(1));
                let grace = if halted { session.grace_halted_micros } else { session.grace_micros };
                let until = end.max(close.plus_micros(session.grace_halted_micros + 1));
                Window { due: close.plus_micros(grace), interval, open, end, until }
            }
        }
    }

    /// No window that holds a minute is due later than this after the minute's open, in microseconds.
    pub(crate) fn reach_micros(&self, intervals: &[Interval]) -> i64 {
        let longest = intervals.last().map_or(MINUTE_MICROS, |i| i.micros());
        longest + self.calendar.as_ref().map_or(0, |calendar| calendar.longest_grace_micros())
    }

    /// Opens of the minutes without a trade in an open market that a window published now may consist of.
    fn quiet_minutes(&self, intervals: &[Interval], watermark: Timestamp) -> Vec<Timestamp> {
        let is_open = |m| self.calendar.as_ref().is_none_or(|c| c.stretch_of(m).session.is_some_and(|s| s.expects(m)));
        let kept = self.slots.iter().filter(|(_, slot)| slot.minute.is_some()).map(|(open, _)| *open);
        let mut traded: Vec<Timestamp> = self.head.last_close.iter().map(|(open, _)| *open).chain(kept).collect();
        traded.sort_unstable();
        traded.dedup();
        let ends = traded.iter().skip(1).copied().chain([watermark]).collect::<Vec<_>>();
        let mut quiet = Vec::new();
        for (last, next) in traded.into_iter().zip(ends) {
            let known = self.head.closed_to.plus_micros(-self.reach_micros(intervals)).window_open(Interval::ONE_MINUTE);
            let mut minute = last.plus_micros(MINUTE_MICROS).max(known);
            while minute < next && minute.micros_since(last) <= CARRY_LIMIT_MICROS {
                if is_open(minute) {
                    quiet.push(minute);
                }
                minute = minute.plus_micros(MINUTE_MICROS);
            }
        }
        quiet
    }

    /// Whether the id was seen in the minute or its neighbours.
    pub(crate) fn is_duplicate(&self, id: TradeId<'_>, event_time: Timestamp) -> bool {
        if let (TradeId::Number(number), Some(highest)) = (id, self.head.highest_id)
            && number > highest
        {
            return false;
        }
        self.neighbours(event_time).any(|(_, slot)| slot.ids.contains(id))
    }

    /// The minute of an event time and those beside it: a request interface may round.
    fn neighbours(&self, event_time: Timestamp) -> impl Iterator<Item = (&Timestamp, &Slot)> {
        let minute = self.minute_of(event_time);
        let kept = self.slots.range(minute.plus_micros(-MINUTE_MICROS)..=minute.plus_micros(MINUTE_MICROS));
        kept.map(|(open, slot)| (open, &**slot))
    }

    /// Folds one record into its minute; marks published windows that hold it for a revision. Returns when there is something to do next where
    /// the minute is new.
    pub(crate) fn fold(
        &mut self,
        feed: &FeedTrack,
        config: &Config,
        Incoming { event_time, minute, id, row }: Incoming<'_>,
    ) -> (Fold, Option<Timestamp>) {
        let intervals = &config.intervals;
        let open = self.minute_of(event_time);
        let kept = self.keeps_trades.then(|| KeptTrade::of(id, &minute));
        let slot = self.slots.entry(open).or_default();
        let is_new_minute = slot.minute.is_none();
        match (&mut slot.minute, self.source) {
            (Some(kept), BarSource::Trades | BarSource::Unknown) => {
                if !kept.add(&minute) {
                    return (Fold::Overflow, None);
                }
            }
            // the provider's later word on a minute replaces its earlier one
            (kept, _) => *kept = Some(minute),
        }
        if let Some(kept) = kept {
            slot.kept.get_or_insert_default().keep(kept);
        }
        let close = slot.minute.as_ref().map(|minute| minute.close);
        slot.note(&mut self.head, id, row);
        self.head_touched = true;
        self.mark_published(feed, intervals, open, Reason::LateRecords);
        if open < self.head.closed_to && self.head.last_close.is_some_and(|(at, _)| at <= open) {
            self.head.last_close = close.map(|close| (open, close));
        }
        let due = || {
            let windows = indices(intervals).map(|i| self.window(feed, intervals, i, open).due);
            windows.filter(|due| *due > feed.watermark).min().unwrap_or_else(|| self.drops_at(feed, config, open))
        };
        (Fold::Used, is_new_minute.then(due))
    }

    /// When a minute is dropped, unless something holds it then.
    fn drops_at(&self, feed: &FeedTrack, config: &Config, minute: Timestamp) -> Timestamp {
        let longest = indices(&config.intervals).last().expect("at least one interval is configured");
        self.window(feed, &config.intervals, longest, minute).until.plus_micros(config.allowed_lateness_micros)
    }

    /// The minute that holds the trade of this id; a cancel or correction carries its event time.
    pub(crate) fn holding(&self, id: TradeId<'_>, event_time: Timestamp) -> Option<Timestamp> {
        let holds = |slot: &Slot| slot.kept.as_ref().is_some_and(|kept| kept.holds(id));
        self.neighbours(event_time).find(|(_, slot)| holds(slot)).map(|(open, _)| *open)
    }

    /// Whether each trade of the minute that has seen this id was kept, so that it can be folded again.
    pub(crate) fn is_kept_whole(&self, id: TradeId<'_>, event_time: Timestamp) -> bool {
        let seen = self.neighbours(event_time).find(|(_, slot)| slot.ids.contains(id)).map(|(_, slot)| slot);
        seen.is_none_or(|slot| {
            let kept = slot.kept.as_ref().map_or(0, |kept| kept.counting());
            i64::try_from(kept) == Ok(slot.minute.as_ref().map_or(0, |minute| minute.trade_count))
        })
    }

    /// Whether the minute of a correction can hold it in the place of the trade it replaces.
    pub(crate) fn takes(&self, held: Timestamp, id: TradeId<'_>, correction: &Incoming<'_>) -> bool {
        let open = self.minute_of(correction.event_time);
        let Some(slot) = self.slots.get(&open) else { return true };
        let others = if open == held { slot.kept.as_ref().and_then(|kept| kept.without(id)) } else { slot.minute.clone() };
        others.is_none_or(|mut others| others.add(&correction.minute))
    }

    /// Whether a correction of the trade that this minute holds says what is known already.
    pub(crate) fn says(&self, open: Timestamp, id: TradeId<'_>, trade: &Minute) -> bool {
        self.slots.get(&open).and_then(|slot| slot.kept.as_ref()).is_some_and(|kept| kept.says(id, trade))
    }

    /// The trade counts no more: its minute is folded again from the others.
    pub(crate) fn void(&mut self, feed: &FeedTrack, intervals: &[Interval], open: Timestamp, id: TradeId<'_>, reason: Reason) {
        let Some(slot) = self.slots.get_mut(&open) else { return };
        let Some(kept) = &mut slot.kept else { return };
        slot.minute = kept.void(id);
        slot.touched = true;
        if self.head.last_close.is_some_and(|(at, _)| at == open) {
            let mut kept =
                self.slots.range(..=open).filter_map(|(at, slot)| slot.minute.as_ref().map(|minute| (*at, minute.close)));
            // where none is kept any more, the price stays: none better is known
            self.head.last_close = kept.next_back().or(self.head.last_close);
            self.head_touched = true;
        }
        self.mark_published(feed, intervals, open, reason);
    }

    /// A cancel overtook its trade: once that comes, it is known already.
    pub(crate) fn forestall(&mut self, event_time: Timestamp, id: TradeId<'_>, row: Option<i64>) {
        let open = self.minute_of(event_time);
        self.slots.entry(open).or_default().note(&mut self.head, Some(id), row);
        self.head_touched = true;
    }

    /// Marks the published windows that hold a minute to be published again.
    fn mark_published(&mut self, feed: &FeedTrack, intervals: &[Interval], open: Timestamp, reason: Reason) {
        if open >= feed.watermark {
            return;
        }
        for interval in indices(intervals) {
            let window = self.window(feed, intervals, interval, open);
            let published = self.published(interval, window.open);
            if published.is_some_and(|p| p.is_left) {
                continue;
            }
            if window.due <= feed.watermark || published.is_some_and(|p| p.revision >= 0) {
                self.mark(intervals, interval, window.open, reason);
            }
        }
    }

    /// Deals a trade out to the bars that what was traded ends.
    pub(crate) fn deal(
        &mut self,
        feed: &FeedTrack,
        kinds: &[BarKind],
        event_time: Timestamp,
        trade: &Minute,
        out: &mut Vec<Bar>,
    ) {
        let session = self.calendar.as_ref().map_or(Timestamp::MIN, |c| c.stretch_of(c.minute_of(event_time)).from);
        self.traded_touched = true;
        self.traded.resize_with(kinds.len(), TradedBars::default);
        let mut full = Vec::new();
        for (place, kind) in kinds.iter().enumerate() {
            self.traded[place].take(*kind, event_time, session, trade, &mut full);
            for bar in full.drain(..) {
                out.push(self.traded_bar(feed, *kind, bar));
            }
        }
    }

    fn traded_bar(&self, feed: &FeedTrack, kind: BarKind, bar: TradedBar) -> Bar {
        let (open, end) = (bar.open_time, bar.last_time.plus_micros(1));
        let quality = self.quality(feed, Window { due: end, interval: 0, open, end, until: end });
        Bar {
            instrument: self.instrument.clone(),
            interval: kind,
            open_time: open,
            close_time: end,
            open: bar.open,
            high: bar.high,
            low: bar.low,
            close: bar.close,
            volume: bar.volume,
            turnover: bar.turnover.rounded(),
            vwap: bar.turnover.vwap(bar.volume),
            trade_count: bar.trade_count,
            buy_volume: bar.buy_volume,
            sell_volume: bar.sell_volume,
            revision: 0,
            quality,
            feed: self.feed.clone(),
            source: self.source,
            revision_reason: None,
        }
    }

    fn mark(&mut self, intervals: &[Interval], interval: u8, open: Timestamp, reason: Reason) {
        let published = self.slots.entry(open).or_default().publication(interval);
        published.dirty.get_or_insert(reason);
        published.has_new_records |= reason.changes_values();
        self.dirty.insert((grid_close(intervals, interval, open), interval, open));
    }

    /// Windows that are due at the watermark and not published yet, in the order they come out.
    pub(crate) fn due_windows(&self, feed: &FeedTrack, config: &Config, watermark: Timestamp) -> BTreeSet<Window> {
        let intervals = &config.intervals;
        let kept = self.slots.range(..watermark).filter(|(_, slot)| slot.minute.is_some());
        let quiet = if config.emit_empty { self.quiet_minutes(intervals, watermark) } else { Vec::new() };
        let minutes = kept.map(|(open, _)| *open).chain(quiet);
        minutes.flat_map(|minute| self.unpublished(feed, intervals, minute)).filter(|window| window.due <= watermark).collect()
    }

    /// Publishes windows for the first time.
    pub(crate) fn close(
        &mut self,
        feed: &FeedTrack,
        config: &Config,
        windows: impl IntoIterator<Item = (Window, Cover)>,
        watermark: Timestamp,
        out: &mut Vec<Bar>,
    ) {
        let mut closed_to = watermark;
        for (window, cover) in windows {
            if config.emit_empty
                && window.interval == 0
                && let Some(minute) = self.slots.get(&window.open).and_then(|slot| slot.minute.as_ref())
            {
                self.head.last_close = Some((window.open, minute.close));
            }
            match cover {
                Cover::Alone => self.publish(feed, &config.intervals, window, None, out),
                Cover::NotCovered => self.publish(feed, &config.intervals, window, Some(Reason::NotCovered), out),
                Cover::Covered => self.leave(window),
                Cover::Undecided => closed_to = closed_to.min(window.due.plus_micros(-1)),
            }
        }
        self.published_to = self.published_to.max(closed_to);
        if config.emit_empty && closed_to > self.head.closed_to {
            self.head.closed_to = closed_to;
            self.head_touched = true;
        }
    }

    /// Trades have this window.
    fn leave(&mut self, window: Window) {
        let published = self.slots.entry(window.open).or_default().publication(window.interval);
        (published.is_left, published.dirty) = (true, None);
        published.has_new_records = false;
    }

    /// The quality of what was published of this window last; `None`: nothing.
    pub(crate) fn has_published(&self, window: Window) -> Option<Quality> {
        self.published(window.interval, window.open).filter(|p| p.revision >= 0).map(|p| p.quality)
    }

    /// Windows of candles that wait to be published, though none of them ever was.
    pub(crate) fn waiting_windows(&self, feed: &FeedTrack, intervals: &[Interval]) -> Vec<Window> {
        let is_new = |window: &Window| self.published(window.interval, window.open).is_some_and(|p| p.revision < 0);
        self.dirty.iter().map(|(_, index, open)| self.window(feed, intervals, *index, *open)).filter(is_new).collect()
    }

    /// Marks the windows that were left to trades, where those do not cover them any more.
    pub(crate) fn take_back(&mut self, intervals: &[Interval], windows: &[Window]) {
        for window in windows {
            self.mark(intervals, window.interval, window.open, Reason::NotCovered);
            self.slots.entry(window.open).or_default().publication(window.interval).is_left = false;
        }
    }

    /// Windows that were left to trades.
    pub(crate) fn left_windows(&self, feed: &FeedTrack, intervals: &[Interval]) -> Vec<Window> {
        let left = |p: &&Published| p.is_left;
        let of_slot = self.slots.iter().flat_map(|(open, slot)| slot.published.iter().filter(left).map(|p| (p.interval, *open)));
        of_slot.map(|(index, open)| self.window(feed, intervals, index, open)).collect()
    }

    /// The windows that hold a minute and are still to be published for the first time.
    fn unpublished(&self, feed: &FeedTrack, intervals: &[Interval], minute: Timestamp) -> impl Iterator<Item = Window> {
        let published_to = self.published_to.max(self.head.closed_to);
        let window = move |interval| self.window(feed, intervals, interval, minute);
        let is_new = move |window: &Window| {
            window.due > published_to
                && self.published(window.interval, window.open).is_none_or(|p| p.revision < 0 && p.dirty.is_none() && !p.is_left)
        };
        indices(intervals).map(window).filter(is_new)
    }

    /// When the next window that holds a trade and is not yet published is due.
    pub(crate) fn next_due_with_trades(&self, feed: &FeedTrack, intervals: &[Interval]) -> Option<Timestamp> {
        let kept = self.slots.iter().filter(|(_, slot)| slot.minute.is_some());
        kept.flat_map(|(open, _)| self.unpublished(feed, intervals, *open)).map(|window| window.due).min()
    }

    /// The watermark at which there is something to publish or to drop; what a gap or a revision holds back is looked at when that is over.
    pub(crate) fn next_due(&self, feed: &FeedTrack, config: &Config) -> Option<Timestamp> {
        let closed_to = self.head.closed_to;
        let carries = self.head.last_close.is_some_and(|(open, _)| closed_to.micros_since(open) <= CARRY_LIMIT_MICROS);
        let quiet =
            (config.emit_empty && carries).then(|| closed_to.window_open(Interval::ONE_MINUTE).plus_micros(MINUTE_MICROS));
        let droppable = self.slots.keys().find(|open| !self.is_held(feed, &config.intervals, **open));
        // what may not be dropped yet, because candles are behind, is looked at again each minute
        let later = || feed.watermark.window_open(Interval::ONE_MINUTE).plus_micros(MINUTE_MICROS);
        let drop =
            droppable.map(|open| self.drops_at(feed, config, *open)).map(|at| if at > feed.watermark { at } else { later() });
        self.next_due_with_trades(feed, &config.intervals).into_iter().chain(quiet).chain(drop).min()
    }

    /// Whether an open gap, a revision to come, or trades that are behind hold a minute's longest window.
    fn is_held(&self, feed: &FeedTrack, intervals: &[Interval], minute: Timestamp) -> bool {
        let longest = indices(intervals).last().expect("at least one interval is configured");
        let window = self.window(feed, intervals, longest, minute);
        feed.pins(&self.instrument, window.open, window.until)
            || self.dirty.iter().any(|(_, _, at)| window.open <= *at && *at < window.end)
            || self.is_undecided(feed, intervals, minute)
    }

    /// Whether it is still open whether trades cover a window of candles that holds this minute.
    fn is_undecided(&self, feed: &FeedTrack, intervals: &[Interval], minute: Timestamp) -> bool {
        self.source == BarSource::Candles
            && self.slots.get(&minute).is_some_and(|slot| slot.minute.is_some())
            && self.unpublished(feed, intervals, minute).any(|window| window.due <= feed.watermark)
    }

    /// Publishes revisions of the windows marked since the last control, those that an open gap pins excepted. `covers`: of windows of candles
    /// that were never published, whether trades cover them.
    pub(crate) fn publish_revisions(
        &mut self,
        feed: &FeedTrack,
        intervals: &[Interval],
        covers: &[(Window, Cover)],
        out: &mut Vec<Bar>,
    ) {
        if self.dirty.is_empty() {
            return;
        }
        for (close, index, open) in std::mem::take(&mut self.dirty) {
            let window = self.window(feed, intervals, index, open);
            let cover = covers.iter().find(|(of, _)| *of == window).map_or(Cover::Alone, |(_, cover)| *cover);
            if feed.pins(&self.instrument, open, window.end) || cover == Cover::Undecided {
                self.dirty.insert((close, index, open));
                continue;
            }
            let reason = self.published(index, open).and_then(|p| p.dirty);
            match cover {
                Cover::Covered => self.leave(window),
                Cover::NotCovered => self.publish(feed, intervals, window, Some(Reason::NotCovered), out),
                Cover::Alone | Cover::Undecided => self.publish(feed, intervals, window, reason, out),
            }
        }
    }

    /// Whether windows wait to be published again.
    pub(crate) fn has_revisions(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Marks published windows whose quality a change of the feed's gaps altered.
    pub(crate) fn mark_quality(&mut self, feed: &FeedTrack, intervals: &[Interval], reason: Reason) {
        let mut changed = Vec::new();
        for (open, slot) in &self.slots {
            for published in slot.published.iter().filter(|p| p.revision >= 0 && p.quality != Quality::NoTrades) {
                let window = self.window(feed, intervals, published.interval, *open);
                if self.quality(feed, window) != published.quality {
                    changed.push((published.interval, *open));
                }
            }
        }
        for (interval, open) in changed {
            self.mark(intervals, interval, open, reason);
        }
    }

    fn published(&self, interval: u8, open: Timestamp) -> Option<&Published> {
        self.slots.get(&open)?.published.iter().find(|p| p.interval == interval)
    }

    fn publish(&mut self, feed: &FeedTrack, intervals: &[Interval], window: Window, reason: Option<Reason>, out: &mut Vec<Bar>) {
        let Window { interval: index, open, end, .. } = window;
        let mut quality = self.quality(feed, window);
        let carried = self.head.last_close.filter(|(last, _)| *last < open).map(|(_, price)| price);
        let folded = self.folded(open, end);
        let is_empty = folded.is_none();
        let last_void = if is_empty { self.last_void(open, end) } else { None };
        let published = self.slots.entry(open).or_default().publication(index);
        // every trade of a published bar was taken back: it is published once more, without any
        let emptied = last_void.filter(|_| published.revision >= 0 && published.has_new_records);
        if is_empty && quality != Quality::Halted {
            quality = if emptied.is_none() && matches!(quality, Quality::Gap | Quality::PartialOpen) {
                return published.dirty = None;
            } else {
                Quality::NoTrades
            };
        }
        let changed = published.revision < 0 || published.quality != quality || published.has_new_records;
        published.dirty = None;
        published.has_new_records = false;
        // without a trade: only at first, and only where a close is there to carry
        let is_first = matches!(reason, None | Some(Reason::NotCovered));
        let carried = carried.filter(|_| emptied.is_some() || (published.revision < 0 && is_first));
        let Some(bar) = folded.or(carried.or(emptied).map(Minute::carrying)) else { return };
        if !changed {
            return;
        }
        published.revision += 1;
        published.quality = quality;
        let revision = published.revision;
        if index == 0 && (!is_empty || emptied.is_some()) && self.sums_flows {
            let is = if is_empty { FlowSum::default() } else { FlowSum::of_minute(&bar, quality) };
            let was = self.slots.entry(open).or_default().flow.replace(is);
            self.minute_flows.push(MinuteFlow { open, was, is, revision });
        }
        let is_said = revision > 0 || reason == Some(Reason::NotCovered);
        let reason = reason.filter(|_| is_said).map(|reason| reason.text().to_owned());
        out.push(self.bar(intervals, window, &bar, revision, quality, reason));
    }

    /// The last price of a window that was taken back.
    fn last_void(&self, open: Timestamp, end: Timestamp) -> Option<Price> {
        let kept = self.slots.range(open..end).filter_map(|(_, slot)| slot.kept.as_ref());
        kept.filter_map(|kept| kept.last_void()).max_by(|(a, _), (b, _)| a.compare(b)).map(|(_, price)| price)
    }

    /// The minutes of a window as one; `None` without a trade.
    fn folded(&self, open: Timestamp, end: Timestamp) -> Option<Minute> {
        let minutes = self.slots.range(open..end).filter_map(|(_, slot)| slot.minute.as_ref());
        minutes.fold(None, |sum: Option<Minute>, minute| match sum {
            None => Some(minute.clone()),
            Some(sum) => Some(sum.followed_by(minute)),
        })
    }

    /// The windows around the newest trade as they stand, those that are published already left out.
    pub(crate) fn open_bars(&self, feed: &FeedTrack, intervals: &[Interval], out: &mut Vec<Bar>) {
        let Some((minute, _)) = self.slots.iter().rfind(|(_, slot)| slot.minute.is_some()) else { return };
        for interval in indices(intervals) {
            let window = self.window(feed, intervals, interval, *minute);
            if window.due <= feed.watermark {
                continue;
            }
            if let Some(folded) = self.folded(window.open, window.end) {
                out.push(self.bar(intervals, window, &folded, Bar::UNFINISHED, self.quality(feed, window), None));
            }
        }
    }

    fn bar(
        &self,
        intervals: &[Interval],
        window: Window,
        bar: &Minute,
        revision: i32,
        quality: Quality,
        revision_reason: Option<String>,
    ) -> Bar {
        Bar {
            instrument: self.instrument.clone(),
            interval: intervals[usize::from(window.interval)].into(),
            open_time: window.open,
            close_time: grid_close(intervals, window.interval, window.open),
            open: bar.open,
            high: bar.high,
            low: bar.low,
            close: bar.close,
            volume: bar.volume,
            turnover: bar.turnover.rounded(),
            vwap: if bar.turnover.is_zero() && self.source == BarSource::Candles { None } else { bar.turnover.vwap(bar.volume) },
            trade_count: bar.trade_count,
            buy_volume: bar.buy_volume,
            sell_volume: bar.sell_volume,
            revision,
            quality,
            feed: self.feed.clone(),
            source: self.source,
            revision_reason,
        }
    }

    fn quality(&self, feed: &FeedTrack, Window { open, end: close, .. }: Window) -> Quality {
        let mut filled = false;
        for gap in feed.gaps.iter().filter(|g| g.concerns(&self.instrument) && g.overlaps(open, close)) {
            match gap.state {
                GapState::Open | GapState::Abandoned => return Quality::Gap,
                GapState::Filled => filled = true,
            }
        }
        let covered_from = self.head.covered_from.or(feed.covered_from).unwrap_or(Timestamp::MIN);
        if open < covered_from || feed.cut_at.is_some_and(|cut| close > cut) {
            Quality::PartialOpen
        } else if feed.is_halted(&self.instrument, open, close) {
            Quality::Halted
        } else if filled {
            Quality::Backfilled
        } else {
            Quality::Complete
        }
    }

    /// Drops the minutes whose longest window can no longer change. Pinned ones and those that wait for a revision stay.
    pub(crate) fn drop_before(&mut self, feed: &FeedTrack, intervals: &[Interval], horizon: Timestamp) {
        let longest = indices(intervals).last().expect("at least one interval is configured");
        let mut drop = Vec::new();
        for open in self.slots.keys() {
            let window = self.window(feed, intervals, longest, *open);
            if window.until > horizon {
                break;
            }
            if !self.is_held(feed, intervals, *open) {
                drop.push(*open);
            }
        }
        for open in drop {
            self.drop_slot(open);
        }
    }

    /// Drops every minute.
    pub(crate) fn drop_all(&mut self) {
        let all: Vec<Timestamp> = self.slots.keys().copied().collect();
        for open in all {
            self.drop_slot(open);
        }
        self.dirty.clear();
        self.traded_touched = !self.traded.is_empty();
        self.traded.clear();
    }

    fn drop_slot(&mut self, open: Timestamp) {
        if let Some(slot) = self.slots.remove(&open) {
            // one that came and went between two commits was never written
            let kept_runs = slot.kept.as_ref().map_or(0, |kept| kept.runs());
            self.dropped.extend(slot.written.then(|| Dropped { open, id_runs: slot.ids.runs(), kept_runs }));
            for published in slot.published.iter().filter(|p| p.dirty.is_some()) {
                self.dirty.retain(|(_, interval, at)| !(*interval == published.interval && *at == open));
            }
        }
    }
}

/// Positions of the configured intervals.
fn indices(intervals: &[Interval]) -> impl Iterator<Item = u8> + use<> {
    (0u8..).take(intervals.len())
}

/// Where the interval's grid ends the window that holds a minute.
fn grid_close(intervals: &[Interval], interval: u8, minute: Timestamp) -> Timestamp {
    let interval = intervals[usize::from(interval)];
    minute.window_open(interval).plus_micros(interval.micros())
}
