//! Everything known about one input partition: routes each record to its feed and instrument, moves watermarks, keeps gaps.
//!
//! Next: `builder.rs`.

use crate::builder::{Builder, Cover, Fold, Incoming, Reason, Window};
use crate::feed::{FeedTrack, Gap, GapState, Halt, SILENCE};
use crate::flows::{FlowStage, PartialFlows};
use crate::ids::TradeId;
use crate::minute::Minute;
use crate::tally::{Tally, Verdict};
use marketflow_model::{
    Bar, BarKind, BarSource, Calendar, CalendarChange, Candle, Condition, Control, ControlKind, DayHours, Feed, FeedState,
    FlowAggregate, Instrument, InstrumentRef, Interval, Price, Quality, Quantity, Source, Timestamp, TradeRef,
};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;

/// Which source an instrument's bars are made from, where live feeds of both have it. Imports always make bars of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceChoice {
    /// Trades where a feed of trades covers the window, else the provider's candles.
    #[default]
    Auto,
    /// Trades alone: live candles are not selected.
    Trades,
    /// Candles alone: live trades are not selected.
    Candles,
    /// Each by itself.
    Both,
}

/// What the engine is told once. The same for every partition.
#[derive(Clone, Debug)]
pub struct Config {
    /// Intervals to build, shortest first, 1 minute included.
    pub intervals: Vec<Interval>,
    /// Kinds of bars that what was traded ends, not time.
    pub kinds: Vec<BarKind>,
    /// Which source bars are made from.
    pub source: SourceChoice,
    /// How long a closed window still takes corrections, in microseconds. Also how far data alone trails the watermark it moves.
    pub allowed_lateness_micros: i64,
    /// How far a live record's event time may lie ahead of its receive time, in microseconds.
    pub future_tolerance_micros: i64,
    /// How long a gap may stay open before it counts as abandoned, in microseconds of event time.
    pub gap_limit_micros: i64,
    /// Whether windows of an open market without a trade are published too, carrying the last close.
    pub emit_empty: bool,
    /// Whether turnover by aggressor is summed across instruments.
    pub flows: bool,
    /// How long a feed may say nothing before it counts as down, in microseconds.
    pub down_after_micros: i64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            intervals: Interval::STANDARD.to_vec(),
            kinds: Vec::new(),
            source: SourceChoice::Auto,
            allowed_lateness_micros: 5 * 60_000_000,
            future_tolerance_micros: 5_000_000,
            gap_limit_micros: 7 * 86_400_000_000,
            emit_empty: false,
            flows: true,
            down_after_micros: 30_000_000,
        }
    }
}

impl Config {
    /// Every kind of bar that is built: lengths of time first.
    pub(crate) fn bar_kinds(&self) -> Vec<BarKind> {
        self.intervals.iter().map(|interval| (*interval).into()).chain(self.kinds.iter().copied()).collect()
    }
}

/// What became of a data record. Nothing vanishes: every record has exactly one outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is in a bar, or will be when its window closes.
    Used,
    /// It was there already.
    Duplicate,
    /// It came after the allowed lateness.
    Late(Cow<'static, str>),
    /// It is not believable.
    Quarantined(Cow<'static, str>),
    /// It cannot be folded.
    Refused(Cow<'static, str>),
    /// It is of no use to the bars that are built.
    NotSelected(Cow<'static, str>),
}

/// What became of a control.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// It holds from its place in the log on, or held already.
    Followed,
    /// It changes nothing, and why.
    Refused(String),
}

const OVERFLOW: Outcome = Outcome::Refused(Cow::Borrowed("the minute's sums overflow"));

pub(crate) struct FeedEntry {
    pub(crate) source: BarSource,
    pub(crate) feed: Feed,
    pub(crate) track: FeedTrack,
    pub(crate) touched: bool,
    /// Builders of the feed.
    pub(crate) builders: Vec<usize>,
    /// The same by name.
    builder_index: HashMap<Instrument, usize>,
    /// Builders with windows to publish again.
    pub(crate) revisable: BTreeSet<Instrument>,
    /// Builders by the watermark at which they have something to do. One whose [`Builder::due`] is another by now is passed over.
    queue: BinaryHeap<Reverse<(Timestamp, usize)>>,
    /// The longest that a window of any of its instruments is due after a minute in it opens, in microseconds.
    reach_micros: i64,
    /// Controls of its own since this state was built; no part of the state.
    heard: u64,
}

impl FeedEntry {
    fn is(&self, source: BarSource, feed: &str) -> bool {
        self.source == source && self.feed.as_str() == feed
    }

    /// Whether its candles make way for trades.
    fn is_live_candles(&self) -> bool {
        self.source == BarSource::Candles && !self.feed.is_import()
    }

    /// Whether its minutes count in flows: candles do not know the aggressor, and imports come one instrument at a time, in any order.
    fn is_live_trades(&self) -> bool {
        self.source == BarSource::Trades && !self.feed.is_import()
    }
}

impl FeedEntry {
    /// Has a builder looked at when the watermark gets there, if that is earlier than known.
    fn expect(&mut self, builder: &mut Builder, at: usize, due: Timestamp) {
        if due < builder.due {
            builder.due = due;
            self.queue.push(Reverse((due, at)));
        }
    }

    /// Whether its own controls will yet say how far it is.
    fn is_alive(&self) -> bool {
        self.track.clock != Timestamp::MIN && !self.track.down && !self.track.ended
    }

    /// When the first window is due that the watermark has passed and that is still open: of candles, whether trades cover it.
    fn undecided(&self) -> Option<Timestamp> {
        self.queue.peek().map(|Reverse((due, _))| *due).filter(|due| *due <= self.track.watermark)
    }

    /// Looks up anew when a builder has something to do.
    pub(crate) fn reschedule(&mut self, builder: &mut Builder, at: usize, config: &Config) {
        let due = builder.next_due(&self.track, config).unwrap_or(Timestamp::MAX);
        if std::mem::replace(&mut builder.due, due) != due && due != Timestamp::MAX {
            self.queue.push(Reverse((due, at)));
        }
    }

    /// Takes the builders that have something to do at this watermark out of the queue, by name.
    fn take_due(&mut self, builders: &mut [Builder], watermark: Timestamp) -> Vec<usize> {
        let mut due = Vec::new();
        while let Some(Reverse((at_watermark, at))) = self.queue.peek().copied()
            && at_watermark <= watermark
        {
            self.queue.pop();
            if builders[at].due == at_watermark {
                builders[at].due = Timestamp::MAX;
                due.push(at);
            }
        }
        due.sort_unstable_by(|a, b| builders[*a].instrument.cmp(&builders[*b].instrument));
        due
    }
}

/// Notes that a builder changed, once between two commits.
fn touch(touched: &mut Vec<usize>, builder: &mut Builder, at: usize) {
    if !std::mem::replace(&mut builder.touched, true) {
        touched.push(at);
    }
}

/// A calendar some of whose dates are other than its file says. Kept per source, because each topic says it in its own order.
pub(crate) struct ChangedCalendar {
    pub(crate) source: BarSource,
    /// By the start of the date.
    pub(crate) changes: BTreeMap<Timestamp, DayHours>,
    pub(crate) calendar: Arc<Calendar>,
    pub(crate) touched: bool,
}

/// The state of one input partition.
pub struct Partition {
    pub(crate) config: Config,
    pub(crate) feeds: Vec<FeedEntry>,
    pub(crate) builders: Vec<Builder>,
    /// Builders changed since the last commit, each once.
    pub(crate) touched_builders: Vec<usize>,
    /// Whether the changelog already says for which intervals it was written.
    pub(crate) intervals_written: bool,
    /// Feeds of a name: one for each source.
    feed_index: HashMap<Feed, Vec<usize>>,
    /// The feed of the last record: the next is most often of the same.
    last_feed: usize,
    flows: FlowStage,
    pub(crate) calendars: Vec<ChangedCalendar>,
    /// What became of the records of each source's topic, and whether that changed since the last commit.
    pub(crate) tallies: Vec<(BarSource, Tally, bool)>,
}

impl Partition {
    /// An empty partition.
    ///
    /// # Panics
    /// When no interval is configured, the first is not one minute, or they do not rise.
    pub fn new(config: Config) -> Self {
        assert!(config.intervals.first() == Some(&Interval::ONE_MINUTE), "one minute is what everything folds from");
        assert!(config.intervals.is_sorted(), "intervals rise");
        Self {
            config,
            feeds: Vec::new(),
            builders: Vec::new(),
            touched_builders: Vec::new(),
            intervals_written: false,
            feed_index: HashMap::new(),
            last_feed: 0,
            flows: FlowStage::default(),
            calendars: Vec::new(),
            tallies: Vec::new(),
        }
    }

    /// Counts what became of the record at `offset` of a source's topic; the caller knows of those that never reach the engine too.
    pub fn count(&mut self, source: BarSource, offset: i64, verdict: Verdict) {
        let place = self.tallies.iter().position(|(of, ..)| *of == source).unwrap_or_else(|| {
            self.tallies.push((source, Tally::default(), true));
            self.tallies.len() - 1
        });
        let (_, tally, touched) = &mut self.tallies[place];
        tally.count(offset, verdict);
        *touched = true;
    }

    /// Takes a trade that stands at `offset` of the partition. Bars that close by it are appended to `out`.
    pub fn on_trade<'a>(&mut self, trade: impl Into<TradeRef<'a>>, offset: i64, out: &mut Vec<Bar>) -> Outcome {
        let trade = trade.into();
        if self.config.source == SourceChoice::Candles && !Feed::names_import(trade.feed) {
            return Outcome::NotSelected("bars are made from candles".into());
        }
        if let Some(reason) = self.not_believable(&trade) {
            return Outcome::Quarantined(reason.into());
        }
        let Some(minute) = Minute::of_trade(&trade, offset) else {
            return Outcome::Refused("price times size overflows".into());
        };
        let id = trade.trade_id.map(TradeId::of);
        let incoming = Incoming { event_time: trade.event_time, minute, id, row: trade.import_row };
        let outcome = if trade.conditions.amends() {
            self.amend(&trade, incoming, out)
        } else {
            self.fold(BarSource::Trades, trade.feed, trade.instrument, incoming, out)
        };
        self.flows.finish(trade.feed, offset);
        outcome
    }

    /// Takes a provider's candle. Only closed one-minute candles build bars; the others fold from them.
    pub fn on_candle(&mut self, candle: &Candle, offset: i64, out: &mut Vec<Bar>) -> Outcome {
        if self.config.source == SourceChoice::Trades && !candle.feed.is_import() {
            return Outcome::NotSelected("bars are made from trades".into());
        }
        if candle.interval != Interval::ONE_MINUTE {
            return Outcome::NotSelected("longer bars fold from one-minute candles".into());
        }
        if !candle.closed {
            return Outcome::NotSelected("candle is not closed".into());
        }
        if candle.volume.is_some_and(Quantity::is_zero) {
            return Outcome::NotSelected("candle without trades".into());
        }
        let inside = |price: Price| candle.low <= price && price <= candle.high;
        if !inside(candle.open) || !inside(candle.close) {
            return Outcome::Quarantined("open or close outside low and high".into());
        }
        if candle.open_time.window_open(Interval::ONE_MINUTE) != candle.open_time {
            return Outcome::Quarantined("open time is not on a minute".into());
        }
        let Some(minute) = Minute::of_candle(candle, offset) else {
            return Outcome::Refused("candle exceeds the range of a minute".into());
        };
        let incoming = Incoming { event_time: candle.open_time, minute, id: None, row: candle.import_row };
        self.fold(BarSource::Candles, candle.feed.as_str(), (&candle.instrument).into(), incoming, out)
    }

    /// Takes a control that stands at `offset` of the trades topic ([`BarSource::Trades`]) or the candles topic. Closed bars and gathered
    /// revisions are appended to `out`.
    pub fn on_control(&mut self, source: BarSource, control: &Control, offset: i64, out: &mut Vec<Bar>) -> Heard {
        if control.kind == ControlKind::CalendarChange {
            return self.change_calendar(source, control);
        }
        self.apply(source, control, out);
        self.settle_ended_candles(source, out);
        self.flows.finish(control.feed.as_str(), offset);
        Heard::Followed
    }

    /// From here in the log on, one date of a calendar is another one. Refused once anything at or after the first instant that would change was
    /// taken or published: what is out stays as it is, and a window is not cut in two.
    fn change_calendar(&mut self, source: BarSource, control: &Control) -> Heard {
        let change = match CalendarChange::of_control(control) {
            Ok(change) => change,
            Err(error) => return Heard::Refused(error.to_string()),
        };
        let known = self.calendars.iter().find(|c| c.source == source && c.calendar.name() == change.calendar.name());
        let (current, mut changes) =
            known.map_or((change.calendar, BTreeMap::new()), |known| (&known.calendar, known.changes.clone()));
        let date = change.calendar.start_of(change.date);
        if change.hours == DayHours::AsPlanned {
            changes.remove(&date);
        } else {
            changes.insert(date, change.hours);
        }
        let changed = match change.calendar.changed(&changes) {
            Ok(changed) => changed,
            Err(error) => return Heard::Refused(error.to_string()),
        };
        let Some(first) = current.first_difference(&changed) else { return Heard::Followed };
        let has_reached = |feed: &FeedEntry| {
            let follow = |at: &&usize| self.builders[**at].follows(current);
            let has_taken = |at: &usize| self.builders[*at].slots.last_key_value().is_some_and(|(newest, _)| *newest >= first);
            let mut builders = feed.builders.iter().filter(follow).peekable();
            (feed.track.watermark > first && builders.peek().is_some()) || builders.any(has_taken)
        };
        let is_over = |feed: &FeedEntry| feed.track.ended && feed.feed.is_import();
        if let Some(feed) = self.feeds.iter().find(|feed| feed.source == source && !is_over(feed) && has_reached(feed)) {
            return Heard::Refused(format!("{} has reached {first}, from when on the calendar would be another one", feed.feed));
        }
        self.put_calendar(source, changes, Arc::new(changed));
        for entry in 0..self.feeds.len() {
            if self.feeds[entry].source == source {
                self.reschedule_all(entry);
            }
        }
        Heard::Followed
    }

    /// Lays another version of a calendar under every instrument that follows it.
    pub(crate) fn put_calendar(&mut self, source: BarSource, changes: BTreeMap<Timestamp, DayHours>, calendar: Arc<Calendar>) {
        for builder in self.builders.iter_mut().filter(|builder| builder.source == source && builder.follows(&calendar)) {
            builder.follow(&calendar);
        }
        let changed = ChangedCalendar { source, changes, calendar, touched: true };
        let is_same = |known: &&mut ChangedCalendar| known.source == source && known.calendar.name() == changed.calendar.name();
        match self.calendars.iter_mut().find(is_same) {
            Some(known) => *known = changed,
            None => self.calendars.push(changed),
        }
    }

    /// What the records since the last call add to flows across instruments: partial sums for `crate::FlowTotals`, and the flows of single
    /// instruments, whose revisions are those of their one-minute bars.
    pub fn take_flows(&mut self) -> (Vec<PartialFlows>, Vec<FlowAggregate>) {
        self.flows.take()
    }

    fn apply(&mut self, source: BarSource, control: &Control, out: &mut Vec<Bar>) {
        if control.kind == ControlKind::Unknown {
            return;
        }
        let entry = self.feed_entry(source, control.feed.as_str());
        if control.kind == ControlKind::Clock {
            return self.hear_silence(entry, control.clock, out);
        }
        let feed = &mut self.feeds[entry];
        feed.heard += 1;
        feed.touched |= control.clock > feed.track.clock;
        feed.track.clock = feed.track.clock.max(control.clock);
        self.end_silence(entry, control.complete_through);
        match control.kind {
            ControlKind::FeedState if control.state == FeedState::Up => self.declare_coverage(entry, control),
            ControlKind::GapOpened => self.set_gap(entry, control, GapState::Open, Reason::GapFound),
            ControlKind::GapFilled => self.set_gap(entry, control, GapState::Filled, Reason::GapFilled),
            ControlKind::GapAbandoned => self.set_gap(entry, control, GapState::Abandoned, Reason::GapAbandoned),
            ControlKind::Halt => self.set_halt(entry, control),
            ControlKind::End => return self.end(entry, control, out),
            ControlKind::Heartbeat
            | ControlKind::FeedState
            | ControlKind::Unknown
            | ControlKind::Clock
            | ControlKind::CalendarChange => {}
        }
        // first: the watermark may jump past everything these revisions need
        self.publish_revisions(entry, out);
        if let Some(complete_through) = control.complete_through {
            self.advance(entry, complete_through, out);
        }
        self.abandon_old_gaps(entry);
        self.publish_revisions(entry, out);
        if !matches!(control.kind, ControlKind::Heartbeat | ControlKind::End) {
            self.uncover(entry, control.instrument.as_ref());
        }
    }

    /// Live feeds whose silence would be news: those that are not down, or have windows to close. With the clock of their last control, and how
    /// many controls they have sent since this state was built.
    pub fn listened_to(&self) -> impl Iterator<Item = (BarSource, &Feed, Timestamp, u64)> {
        let has_windows = |feed: &FeedEntry| {
            let mut builders = feed.builders.iter().map(|at| &self.builders[*at]);
            builders.any(|builder| builder.next_due_with_trades(&feed.track, &self.config.intervals).is_some())
        };
        let is_live = |feed: &&FeedEntry| !feed.feed.is_import() && !feed.track.ended && feed.track.clock != Timestamp::MIN;
        let listened = self.feeds.iter().filter(is_live).filter(move |feed| !feed.track.down || has_windows(feed));
        listened.map(|feed| (feed.source, &feed.feed, feed.track.clock, feed.heard))
    }

    /// Positions of the instruments that changed since the last [`Partition::take_changes`], for [`Partition::open_bars`]; each once.
    pub fn touched(&self) -> &[usize] {
        &self.touched_builders
    }

    /// Appends the open windows around an instrument's newest trade as they stand: no results ([`Bar::UNFINISHED`]), nothing for imports.
    pub fn open_bars(&self, at: usize, out: &mut Vec<Bar>) {
        let Some(builder) = self.builders.get(at).filter(|builder| !builder.feed.is_import()) else { return };
        if builder.source == BarSource::Candles && self.covering(&builder.instrument).any(|(feed, _)| feed.is_alive()) {
            return;
        }
        if let Some(feed) = self.feeds.iter().find(|feed| feed.is(builder.source, builder.feed.as_str())) {
            builder.open_bars(&feed.track, &self.config.intervals, out);
        }
    }

    /// The feed's watermark in this partition; `None` before its first record.
    pub fn watermark(&self, source: BarSource, feed: &Feed) -> Option<Timestamp> {
        self.known_feed(source, feed.as_str()).map(|entry| self.feeds[entry].track.watermark)
    }

    /// Every feed with its watermark.
    pub fn watermarks(&self) -> impl Iterator<Item = (BarSource, &Feed, Timestamp)> {
        self.feeds.iter().map(|f| (f.source, &f.feed, f.track.watermark))
    }

    fn not_believable(&self, trade: &TradeRef<'_>) -> Option<&'static str> {
        if trade.size.is_some_and(Quantity::is_zero) {
            return Some("size is zero");
        }
        if trade.size.is_some_and(|s| s < Quantity::ZERO) {
            return Some("size is negative");
        }
        if trade.price < Price::ZERO {
            return Some("price is negative");
        }
        if trade.conditions.amends() && trade.trade_id.is_none() {
            return Some("a cancel or correction without the id of its trade");
        }
        let is_live = trade.source != Source::Import && !Feed::names_import(trade.feed);
        if is_live && trade.event_time.micros_since(trade.receive_time) > self.config.future_tolerance_micros {
            return Some("event time is ahead of receive time");
        }
        None
    }

    fn fold(
        &mut self,
        source: BarSource,
        feed: &str,
        instrument: InstrumentRef<'_>,
        incoming: Incoming<'_>,
        out: &mut Vec<Bar>,
    ) -> Outcome {
        let entry = self.feed_entry(source, feed);
        let at = self.builder(entry, instrument);
        let builder = &self.builders[at];
        if incoming.row.is_some_and(|row| row <= builder.head.highest_row) {
            return Outcome::Duplicate;
        }
        if incoming.id.is_some_and(|id| builder.is_duplicate(id, incoming.event_time)) {
            return Outcome::Duplicate;
        }
        if let Some(why) = self.too_late(entry, at, incoming.event_time) {
            return Outcome::Late(why);
        }
        let dealt = (source == BarSource::Trades && !self.config.kinds.is_empty()).then(|| incoming.clone());
        if self.take(entry, at, incoming, out) == Fold::Overflow {
            return OVERFLOW;
        }
        self.deal(entry, at, dealt, out);
        Outcome::Used
    }

    /// Deals a trade out to the bars that what was traded ends.
    fn deal(&mut self, entry: usize, at: usize, trade: Option<Incoming<'_>>, out: &mut Vec<Bar>) {
        if let Some(Incoming { event_time, minute, .. }) = trade {
            self.builders[at].deal(&self.feeds[entry].track, &self.config.kinds, event_time, &minute, out);
        }
    }

    fn reschedule(&mut self, entry: usize, at: usize) {
        self.feeds[entry].reschedule(&mut self.builders[at], at, &self.config);
    }

    fn reschedule_all(&mut self, entry: usize) {
        for place in 0..self.feeds[entry].builders.len() {
            self.reschedule(entry, self.feeds[entry].builders[place]);
        }
    }

    /// A trade taken back, or said anew: its minute is folded again. Bars that what was traded ends stay as they were: they count prints as
    /// they came, so one whose cancel overtook it is not in them.
    fn amend(&mut self, trade: &TradeRef<'_>, incoming: Incoming<'_>, out: &mut Vec<Bar>) -> Outcome {
        let entry = self.feed_entry(BarSource::Trades, trade.feed);
        let at = self.builder(entry, trade.instrument);
        let builder = &self.builders[at];
        let (Some(id), event_time) = (incoming.id, incoming.event_time) else {
            return Outcome::Quarantined("a cancel or correction without the id of its trade".into());
        };
        if !builder.keeps_trades {
            return Outcome::Quarantined("the venue is not known to take trades back: venues.toml, cancels".into());
        }
        let is_cancel = trade.conditions.contains(Condition::Cancel);
        if !builder.is_kept_whole(id, event_time) {
            return Outcome::Quarantined("its minute began before cancels of the venue were expected".into());
        }
        let held = builder.holding(id, event_time);
        let is_known = match held {
            Some(open) => !is_cancel && builder.says(open, id, &incoming.minute),
            // it was taken back before
            None => builder.is_duplicate(id, event_time),
        };
        if is_known || incoming.row.is_some_and(|row| row <= builder.head.highest_row) {
            return Outcome::Duplicate;
        }
        if let Some(why) = self.too_late(entry, at, event_time) {
            return Outcome::Late(why);
        }
        if !is_cancel && held.is_some_and(|open| !self.builders[at].takes(open, id, &incoming)) {
            return OVERFLOW;
        }
        if let Some(open) = held {
            let reason = if is_cancel { Reason::Cancel } else { Reason::Correction };
            self.builders[at].void(&self.feeds[entry].track, &self.config.intervals, open, id, reason);
            // the minute may be empty now, and nothing due with it
            self.reschedule(entry, at);
        }
        if is_cancel {
            self.builders[at].forestall(event_time, id, incoming.row);
            self.reschedule(entry, at);
            self.touch(at);
            self.await_revisions(entry, at);
            return Outcome::Used;
        }
        let dealt = (held.is_none() && !self.config.kinds.is_empty()).then(|| incoming.clone());
        if self.take(entry, at, incoming, out) == Fold::Overflow {
            return OVERFLOW;
        }
        self.deal(entry, at, dealt, out);
        Outcome::Used
    }

    /// Why a record of this event time comes too late, if it does.
    fn too_late(&self, entry: usize, at: usize, event_time: Timestamp) -> Option<Cow<'static, str>> {
        let FeedEntry { track, feed, .. } = &self.feeds[entry];
        if track.ended && feed.is_import() {
            return Some("the import has ended".into());
        }
        let minute_close = event_time.window_open(Interval::ONE_MINUTE).plus_micros(Interval::ONE_MINUTE.micros());
        let behind_micros = track.watermark.micros_since(event_time);
        let is_late = minute_close <= track.watermark
            && behind_micros > self.config.allowed_lateness_micros
            && !track.pins(&self.builders[at].instrument, event_time, event_time.plus_micros(1));
        is_late.then(|| format!("{} s behind the watermark", behind_micros / 1_000_000).into())
    }

    /// Folds a record that counts.
    fn take(&mut self, entry: usize, at: usize, incoming: Incoming<'_>, out: &mut Vec<Bar>) -> Fold {
        let event_time = incoming.event_time;
        if self.feeds[entry].track.covered_from.is_none() {
            self.feeds[entry].track.covered_from = Some(event_time);
            self.feeds[entry].touched = true;
        }
        let (fold, due) = self.builders[at].fold(&self.feeds[entry].track, &self.config, incoming);
        self.touch(at);
        if fold == Fold::Overflow {
            return fold;
        }
        self.await_revisions(entry, at);
        if let Some(due) = due {
            self.feeds[entry].expect(&mut self.builders[at], at, due);
        }
        self.advance(entry, event_time.plus_micros(-self.config.allowed_lateness_micros), out);
        fold
    }

    fn await_revisions(&mut self, entry: usize, at: usize) {
        if self.builders[at].has_revisions() {
            self.feeds[entry].revisable.insert(self.builders[at].instrument.clone());
        }
    }

    fn declare_coverage(&mut self, entry: usize, control: &Control) {
        let from = control.from.unwrap_or(Timestamp::MIN);
        if let Some(instrument) = &control.instrument {
            let at = self.builder(entry, instrument.into());
            if self.builders[at].head.covered_from.is_none() {
                self.builders[at].head.covered_from = Some(from);
                self.builders[at].head_touched = true;
                self.touch(at);
            }
            return;
        }
        let feed = &mut self.feeds[entry];
        if !feed.feed.is_import() && std::mem::take(&mut feed.track.ended) {
            feed.track.marked = Timestamp::MIN;
        }
        if !feed.track.declared {
            feed.track.declared = true;
            feed.track.covered_from = Some(from);
        }
        feed.touched = true;
    }

    fn set_gap(&mut self, entry: usize, control: &Control, state: GapState, reason: Reason) {
        let feed = &mut self.feeds[entry];
        feed.touched = true;
        let id = control
            .gap_id
            .clone()
            .unwrap_or_else(|| format!("{}@{}", control.feed, control.from.unwrap_or(control.clock).micros()));
        let place = feed.track.gaps.iter().position(|g| g.id == id);
        let known = place.map(|p| feed.track.gaps.remove(p));
        let from = control.from.or(known.as_ref().map(|g| g.from)).unwrap_or(control.clock);
        let to = match (control.to, state) {
            (Some(to), _) => to,
            (None, GapState::Open) => Timestamp::MAX,
            (None, GapState::Filled | GapState::Abandoned) => known
                .as_ref()
                .map(|g| g.to)
                .filter(|to| *to != Timestamp::MAX)
                .or(control.complete_through)
                .unwrap_or(control.clock),
        };
        let instrument = control.instrument.clone().or_else(|| known.and_then(|g| g.instrument));
        feed.track.gaps.push(Gap { id, instrument, from, to, state });
        self.mark_quality(entry, control.instrument.as_ref(), reason);
    }

    fn set_halt(&mut self, entry: usize, control: &Control) {
        let feed = &mut self.feeds[entry];
        let halts = &mut feed.track.halts;
        let lasting = halts.iter_mut().find(|h| h.instrument == control.instrument && h.to == Timestamp::MAX);
        match (control.state, lasting) {
            (FeedState::Down, None) => {
                let (from, to) = (control.from.unwrap_or(control.clock), control.to.unwrap_or(Timestamp::MAX));
                halts.push(Halt { instrument: control.instrument.clone(), from, to });
            }
            (FeedState::Up, Some(halt)) => halt.to = control.to.or(control.from).unwrap_or(control.clock),
            (FeedState::Down, Some(_)) | (FeedState::Up, None) | (FeedState::Unknown, _) => return,
        }
        feed.touched = true;
        // a halt at the close moves the close's due time
        self.reschedule_all(entry);
        self.mark_quality(entry, control.instrument.as_ref(), Reason::Halt);
    }

    fn mark_quality(&mut self, entry: usize, instrument: Option<&Instrument>, reason: Reason) {
        for place in 0..self.feeds[entry].builders.len() {
            let at = self.feeds[entry].builders[place];
            let (feed, builder) = (&mut self.feeds[entry], &mut self.builders[at]);
            if instrument.is_none_or(|i| *i == builder.instrument) {
                builder.mark_quality(&feed.track, &self.config.intervals, reason);
                touch(&mut self.touched_builders, builder, at);
                // also where nothing changed in quality: windows the gap pinned may wait for it to close
                feed.revisable.insert(builder.instrument.clone());
                feed.reschedule(builder, at, &self.config);
            }
        }
    }

    /// The processor noticed that a feed has said nothing up to here. Its open windows close as they are, with a gap from where it was complete;
    /// whatever it still delivers is not late.
    fn hear_silence(&mut self, entry: usize, clock: Timestamp, out: &mut Vec<Bar>) {
        let feed = &mut self.feeds[entry];
        let track = &mut feed.track;
        let silent_micros = clock.micros_since(track.clock);
        if feed.feed.is_import() || track.ended || track.clock == Timestamp::MIN || silent_micros < self.config.down_after_micros
        {
            return;
        }
        if !std::mem::replace(&mut track.down, true) {
            let from = if track.watermark == Timestamp::MIN { track.clock } else { track.watermark };
            track.gaps.push(Gap { id: SILENCE.to_owned(), instrument: None, from, to: Timestamp::MAX, state: GapState::Open });
            feed.touched = true;
            if self.config.flows && feed.is_live_trades() {
                feed.track.marked = Timestamp::MAX;
                self.flows.mark(Timestamp::MAX);
            }
            self.mark_quality(entry, None, Reason::GapFound);
        }
        self.advance(entry, clock, out);
        self.publish_revisions(entry, out);
    }

    /// A feed that was down says up to where it is complete: once that reaches what was closed without it, the silence is over, and all that fell
    /// into it stands in the log, gaps that the feed itself declared excepted.
    fn end_silence(&mut self, entry: usize, complete_through: Option<Timestamp>) {
        let feed = &mut self.feeds[entry];
        let track = &mut feed.track;
        let Some(to) = complete_through.filter(|through| track.down && *through >= track.watermark) else { return };
        track.down = false;
        track.marked = Timestamp::MIN;
        for gap in track.gaps.iter_mut().filter(|gap| gap.id == SILENCE && gap.state == GapState::Open) {
            (gap.state, gap.to) = (GapState::Filled, to);
        }
        feed.touched = true;
        self.mark_quality(entry, None, Reason::GapFilled);
    }

    fn abandon_old_gaps(&mut self, entry: usize) {
        let limit = self.config.gap_limit_micros;
        let track = &mut self.feeds[entry].track;
        let watermark = track.watermark;
        let mut abandoned = false;
        for gap in track.gaps.iter_mut().filter(|g| g.state == GapState::Open && watermark.micros_since(g.from) > limit) {
            gap.state = GapState::Abandoned;
            gap.to = gap.to.min(watermark);
            abandoned = true;
        }
        if abandoned {
            self.feeds[entry].touched = true;
            self.mark_quality(entry, None, Reason::GapAbandoned);
        }
    }

    /// Moves the watermark, closes what it passes, and drops what can no longer change.
    fn advance(&mut self, entry: usize, to: Timestamp, out: &mut Vec<Bar>) {
        let feed = &mut self.feeds[entry];
        if to <= feed.track.watermark {
            return;
        }
        feed.track.watermark = to;
        feed.touched = true;
        let sums_flows = self.config.flows && feed.is_live_trades();
        if sums_flows && to.micros_since(feed.track.marked) >= Interval::ONE_MINUTE.micros() {
            feed.track.marked = to.window_open(Interval::ONE_MINUTE);
            self.flows.mark(feed.track.marked);
        }
        self.visit(entry, to, out);
    }

    /// Closes and drops what is due at the feed's watermark.
    fn visit(&mut self, entry: usize, to: Timestamp, out: &mut Vec<Bar>) {
        let horizon = self.horizon(entry, to);
        let first = out.len();
        let mut flowing = Vec::new();
        for at in self.feeds[entry].take_due(&mut self.builders, to) {
            let due = self.builders[at].due_windows(&self.feeds[entry].track, &self.config, to);
            let due = self.covers(entry, at, due);
            let (feed, builder) = (&mut self.feeds[entry], &mut self.builders[at]);
            builder.close(&feed.track, &self.config, due, to, out);
            builder.drop_before(&feed.track, &self.config.intervals, horizon);
            if !builder.minute_flows.is_empty() {
                flowing.push(at);
            }
            touch(&mut self.touched_builders, builder, at);
            feed.reschedule(builder, at, &self.config);
        }
        let feed = &mut self.feeds[entry];
        let reach_micros = feed.reach_micros;
        feed.track.gaps.retain(|g| g.state == GapState::Open || g.to.plus_micros(reach_micros) > horizon);
        feed.track.halts.retain(|h| h.to.plus_micros(reach_micros) > horizon);
        self.gather_flows(flowing);
        out[first..].sort_by(|a, b| (a.close_time, &a.instrument, a.interval).cmp(&(b.close_time, &b.instrument, b.interval)));
    }

    fn publish_revisions(&mut self, entry: usize, out: &mut Vec<Bar>) {
        let mut flowing = Vec::new();
        for instrument in std::mem::take(&mut self.feeds[entry].revisable) {
            let at = self.feeds[entry].builder_index[&instrument];
            let waiting = if self.feeds[entry].is_live_candles() {
                self.builders[at].waiting_windows(&self.feeds[entry].track, &self.config.intervals)
            } else {
                Vec::new()
            };
            let covers = self.covers(entry, at, waiting);
            let feed = &mut self.feeds[entry];
            self.builders[at].publish_revisions(&feed.track, &self.config.intervals, &covers, out);
            touch(&mut self.touched_builders, &mut self.builders[at], at);
            if !self.builders[at].minute_flows.is_empty() {
                flowing.push(at);
            }
            if self.builders[at].has_revisions() {
                feed.revisable.insert(instrument);
            }
            feed.reschedule(&mut self.builders[at], at, &self.config);
        }
        self.gather_flows(flowing);
    }

    /// Candles that ended ask no more whether trades cover what they left open: trades that have gone on since answer it.
    fn settle_ended_candles(&mut self, source: BarSource, out: &mut Vec<Bar>) {
        if source == BarSource::Candles || self.config.source != SourceChoice::Auto {
            return;
        }
        for entry in 0..self.feeds.len() {
            let feed = &self.feeds[entry];
            if feed.is_live_candles() && feed.track.ended && feed.undecided().is_some() {
                let watermark = feed.track.watermark;
                self.visit(entry, watermark, out);
                self.publish_revisions(entry, out);
            }
        }
    }

    /// What ended before this is dropped: the watermark less the lateness, and what candles that are behind still have to be compared with is kept.
    fn horizon(&self, entry: usize, watermark: Timestamp) -> Timestamp {
        let waits = self.config.source == SourceChoice::Auto && self.feeds[entry].is_live_trades();
        let candles = self.feeds.iter().filter(|feed| waits && feed.is_live_candles());
        let behind = candles.flat_map(|feed| feed.is_alive().then_some(feed.track.watermark).into_iter().chain(feed.undecided()));
        let least = behind.fold(watermark, Timestamp::min);
        least.plus_micros(-self.config.allowed_lateness_micros)
    }

    /// Live feeds of trades that have the instrument, each with its builder.
    fn covering(&self, instrument: &Instrument) -> impl Iterator<Item = (&FeedEntry, &Builder)> {
        let is_asked = self.config.source == SourceChoice::Auto;
        let feeds = self.feeds.iter().filter(move |feed| is_asked && feed.is_live_trades());
        feeds.filter_map(|feed| Some((feed, &self.builders[*feed.builder_index.get(instrument)?])))
    }

    /// Whether trades cover these windows of a builder: all of it is [`Cover::Alone`] where it is not live candles.
    fn covers(&self, entry: usize, at: usize, windows: impl IntoIterator<Item = Window>) -> Vec<(Window, Cover)> {
        let feed = &self.feeds[entry];
        let cover = |window| match feed.is_live_candles().then(|| self.cover(&self.builders[at].instrument, window)) {
            None => Cover::Alone,
            Some(cover) => cover,
        };
        windows.into_iter().map(|window| (window, cover(window))).collect()
    }

    fn cover(&self, instrument: &Instrument, window: Window) -> Cover {
        let mut cover = Cover::Alone;
        for (feed, builder) in self.covering(instrument) {
            let is_there = feed.track.watermark >= window.due;
            let published = builder.has_published(window);
            let is_trusted =
                |quality| matches!(quality, Quality::Complete | Quality::Backfilled | Quality::Halted | Quality::NoTrades);
            match (is_there, published) {
                (true, Some(quality)) if is_trusted(quality) => return Cover::Covered,
                (false, _) if feed.is_alive() => cover = Cover::Undecided,
                _ if cover == Cover::Alone => cover = Cover::NotCovered,
                _ => {}
            }
        }
        cover
    }

    /// Trades of these instruments may not be what they were: candles that made way for them are looked at again, at their feed's next control.
    fn uncover(&mut self, entry: usize, instrument: Option<&Instrument>) {
        if self.config.source != SourceChoice::Auto || !self.feeds[entry].is_live_trades() {
            return;
        }
        for candles in 0..self.feeds.len() {
            if !self.feeds[candles].is_live_candles() {
                continue;
            }
            for place in 0..self.feeds[candles].builders.len() {
                let at = self.feeds[candles].builders[place];
                if instrument.is_some_and(|i| *i != self.builders[at].instrument) {
                    continue;
                }
                let left = self.builders[at].left_windows(&self.feeds[candles].track, &self.config.intervals);
                let left = self.covers(candles, at, left);
                let lost: Vec<Window> = left.into_iter().filter(|(_, c)| *c == Cover::NotCovered).map(|(w, _)| w).collect();
                if !lost.is_empty() {
                    self.builders[at].take_back(&self.config.intervals, &lost);
                    self.touch(at);
                    self.await_revisions(candles, at);
                }
            }
        }
    }

    /// Minutes published just now go into the flows, those of one feed per instrument: the first that published any.
    fn gather_flows(&mut self, flowing: Vec<usize>) {
        for at in flowing {
            let serves = self.builders[at].head.serves_flows.unwrap_or_else(|| {
                let instrument = &self.builders[at].instrument;
                let mut others = self.feeds.iter().filter_map(|feed| feed.builder_index.get(instrument));
                !others.any(|other| self.builders[*other].head.serves_flows == Some(true))
            });
            let builder = &mut self.builders[at];
            builder.head_touched |= builder.head.serves_flows.replace(serves).is_none();
            self.flows.gather(builder, serves);
        }
    }

    fn end(&mut self, entry: usize, control: &Control, out: &mut Vec<Bar>) {
        let feed = &mut self.feeds[entry];
        if feed.track.ended {
            return;
        }
        feed.touched = true;
        feed.track.ended = true;
        feed.track.cut_at = control.to;
        feed.track.down = false;
        let is_import = feed.feed.is_import();
        let last_due = feed.builders.iter().filter_map(|at| {
            let builder = &self.builders[*at];
            Some(builder.slots.keys().next_back()?.plus_micros(builder.reach_micros(&self.config.intervals)))
        });
        let last = last_due.max();
        for gap in feed.track.gaps.iter_mut().filter(|gap| gap.id == SILENCE && gap.state == GapState::Open) {
            (gap.state, gap.to) = (GapState::Abandoned, feed.track.watermark);
        }
        self.reschedule_all(entry);
        if let Some(last) = last {
            self.advance(entry, last, out);
        }
        self.publish_revisions(entry, out);
        if is_import {
            for at in &self.feeds[entry].builders {
                self.builders[*at].drop_all();
                touch(&mut self.touched_builders, &mut self.builders[*at], *at);
            }
            self.feeds[entry].revisable.clear();
        }
        let feed = &mut self.feeds[entry];
        if self.config.flows && feed.is_live_trades() {
            feed.track.marked = Timestamp::MAX;
            self.flows.mark(Timestamp::MAX);
        }
    }

    pub(crate) fn feed_entry(&mut self, source: BarSource, feed: &str) -> usize {
        if self.feeds.get(self.last_feed).is_some_and(|f| f.is(source, feed)) {
            return self.last_feed;
        }
        self.last_feed = self.known_feed(source, feed).unwrap_or_else(|| {
            let feed = Feed::new(feed);
            let reach_micros = self.config.intervals.last().map_or(0, |longest| longest.micros());
            self.feed_index.entry(feed.clone()).or_default().push(self.feeds.len());
            self.feeds.push(FeedEntry {
                source,
                feed,
                track: FeedTrack::default(),
                touched: true,
                builders: Vec::new(),
                builder_index: HashMap::new(),
                revisable: BTreeSet::new(),
                queue: BinaryHeap::new(),
                reach_micros,
                heard: 0,
            });
            self.feeds.len() - 1
        });
        self.last_feed
    }

    fn known_feed(&self, source: BarSource, feed: &str) -> Option<usize> {
        self.feed_index.get(feed)?.iter().copied().find(|entry| self.feeds[*entry].source == source)
    }

    pub(crate) fn builder(&mut self, entry: usize, instrument: InstrumentRef<'_>) -> usize {
        if let Some(at) = self.feeds[entry].builder_index.get(instrument.as_str()) {
            return *at;
        }
        let at = self.builders.len();
        let feed = &mut self.feeds[entry];
        let instrument = instrument.to_owned();
        let sums_flows = self.config.flows && feed.is_live_trades();
        let planned = Calendar::of_venue(instrument.venue());
        let changed = self.calendars.iter().find(|c| c.source == feed.source && c.calendar.name() == planned.name());
        let calendar = changed.map_or(planned, |changed| &changed.calendar);
        let builder = Builder::new(feed.source, feed.feed.clone(), instrument.clone(), calendar, sums_flows);
        feed.reach_micros = feed.reach_micros.max(builder.reach_micros(&self.config.intervals));
        self.builders.push(builder);
        feed.builders.push(at);
        feed.builder_index.insert(instrument, at);
        at
    }

    fn touch(&mut self, at: usize) {
        touch(&mut self.touched_builders, &mut self.builders[at], at);
    }
}
