//! Everything known about one input partition: routes each record to its feed and instrument, moves watermarks, keeps gaps.
//!
//! Next: `builder.rs`.

use crate::builder::{Builder, Fold, Reason};
use crate::feed::{FeedTrack, Gap, GapState, Halt};
use crate::ids::TradeId;
use crate::minute::Minute;
use marketflow_model::{
    Bar, BarSource, Candle, Condition, Control, ControlKind, Feed, FeedState, Instrument, InstrumentRef, Interval, Price,
    Quantity, Source, Timestamp, TradeRef,
};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What the engine is told once. The same for every partition.
#[derive(Clone, Debug)]
pub struct Config {
    /// Intervals to build, shortest first, 1 minute included.
    pub intervals: Vec<Interval>,
    /// How long a closed window still takes corrections, in microseconds. Also how far data alone trails the watermark it moves.
    pub allowed_lateness_micros: i64,
    /// How far a live record's event time may lie ahead of its receive time, in microseconds.
    pub future_tolerance_micros: i64,
    /// How long a gap may stay open before it counts as abandoned, in microseconds of event time.
    pub gap_limit_micros: i64,
    /// Whether windows of an open market without a trade are published too, carrying the last close.
    pub emit_empty: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            intervals: Interval::STANDARD.to_vec(),
            allowed_lateness_micros: 5 * 60_000_000,
            future_tolerance_micros: 5_000_000,
            gap_limit_micros: 7 * 86_400_000_000,
            emit_empty: false,
        }
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

pub(crate) struct FeedEntry {
    pub(crate) source: BarSource,
    pub(crate) feed: Feed,
    pub(crate) track: FeedTrack,
    pub(crate) touched: bool,
    /// Builders of the feed, in the order results come out.
    pub(crate) builders: BTreeMap<Instrument, usize>,
    /// The same, for looking up.
    builder_index: HashMap<Instrument, usize>,
    /// Builders with windows to publish again.
    pub(crate) revisable: BTreeSet<Instrument>,
    /// When the next unpublished window closes.
    pub(crate) next_due: Timestamp,
}

impl FeedEntry {
    fn is(&self, source: BarSource, feed: &str) -> bool {
        self.source == source && self.feed.as_str() == feed
    }
}

/// Notes that a builder changed, once between two commits.
fn touch(touched: &mut Vec<usize>, builder: &mut Builder, at: usize) {
    if !std::mem::replace(&mut builder.touched, true) {
        touched.push(at);
    }
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
        }
    }

    /// Takes a trade that stands at `offset` of the partition. Bars that close by it are appended to `out`.
    pub fn on_trade<'a>(&mut self, trade: impl Into<TradeRef<'a>>, offset: i64, out: &mut Vec<Bar>) -> Outcome {
        let trade = trade.into();
        if let Some(reason) = self.not_believable(&trade) {
            return Outcome::Quarantined(reason.into());
        }
        let Some(minute) = Minute::of_trade(&trade, offset) else {
            return Outcome::Refused("price times size overflows".into());
        };
        let id = trade.trade_id.map(TradeId::of);
        self.fold(BarSource::Trades, trade.feed, trade.instrument, trade.event_time, minute, id, trade.import_row, out)
    }

    /// Takes a provider's candle. Only closed one-minute candles build bars; the others fold from them.
    pub fn on_candle(&mut self, candle: &Candle, offset: i64, out: &mut Vec<Bar>) -> Outcome {
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
        self.fold(
            BarSource::Candles,
            candle.feed.as_str(),
            (&candle.instrument).into(),
            candle.open_time,
            minute,
            None,
            candle.import_row,
            out,
        )
    }

    /// Takes a control of the trades topic ([`BarSource::Trades`]) or the candles topic. Closed bars and gathered revisions are appended to `out`.
    pub fn on_control(&mut self, source: BarSource, control: &Control, out: &mut Vec<Bar>) {
        if matches!(control.kind, ControlKind::Unknown | ControlKind::Clock | ControlKind::CalendarChange) {
            return;
        }
        let entry = self.feed_entry(source, control.feed.as_str());
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
        if trade.conditions.contains(Condition::Cancel) || trade.conditions.contains(Condition::Correction) {
            return Some("cancels and corrections are not folded");
        }
        let is_live = trade.source != Source::Import && !Feed::names_import(trade.feed);
        if is_live && trade.event_time.micros_since(trade.receive_time) > self.config.future_tolerance_micros {
            return Some("event time is ahead of receive time");
        }
        None
    }

    #[expect(clippy::too_many_arguments, reason = "a record's parts, taken apart once by its caller")]
    fn fold(
        &mut self,
        source: BarSource,
        feed: &str,
        instrument: InstrumentRef<'_>,
        event_time: Timestamp,
        minute: Minute,
        id: Option<TradeId<'_>>,
        row: Option<i64>,
        out: &mut Vec<Bar>,
    ) -> Outcome {
        let entry = self.feed_entry(source, feed);
        let at = self.builder(entry, instrument);
        let builder = &self.builders[at];
        if row.is_some_and(|row| row <= builder.head.highest_row) {
            return Outcome::Duplicate;
        }
        if let Some(id) = id
            && builder.is_duplicate(id, event_time)
        {
            return Outcome::Duplicate;
        }
        let track = &self.feeds[entry].track;
        if track.ended && Feed::names_import(feed) {
            return Outcome::Late("the import has ended".into());
        }
        let minute_close = event_time.window_open(Interval::ONE_MINUTE).plus_micros(Interval::ONE_MINUTE.micros());
        let is_closed = minute_close <= track.watermark;
        if is_closed
            && track.watermark.micros_since(event_time) > self.config.allowed_lateness_micros
            && !track.pins(&builder.instrument, event_time, event_time.plus_micros(1))
        {
            let seconds = track.watermark.micros_since(event_time) / 1_000_000;
            return Outcome::Late(format!("{seconds} s behind the watermark").into());
        }
        if self.feeds[entry].track.covered_from.is_none() {
            self.feeds[entry].track.covered_from = Some(event_time);
            self.feeds[entry].touched = true;
        }
        let (fold, due) = self.builders[at].fold(&self.feeds[entry].track, &self.config.intervals, event_time, minute, id, row);
        self.touch(at);
        if fold == Fold::Overflow {
            return Outcome::Refused("the minute's sums overflow".into());
        }
        if self.builders[at].has_revisions() {
            self.feeds[entry].revisable.insert(self.builders[at].instrument.clone());
        }
        if let Some(due) = due {
            let next_due = &mut self.feeds[entry].next_due;
            *next_due = (*next_due).min(due);
        }
        self.advance(entry, event_time.plus_micros(-self.config.allowed_lateness_micros), out);
        Outcome::Used
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
        if !feed.feed.is_import() {
            feed.track.ended = false;
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
        let due = feed.builders.values().filter_map(|at| self.builders[*at].next_due(&feed.track, &self.config));
        feed.next_due = due.min().unwrap_or(Timestamp::MAX);
        self.mark_quality(entry, control.instrument.as_ref(), Reason::Halt);
    }

    fn mark_quality(&mut self, entry: usize, instrument: Option<&Instrument>, reason: Reason) {
        let feed = &mut self.feeds[entry];
        for (name, at) in &feed.builders {
            if instrument.is_none_or(|i| i == name) {
                self.builders[*at].mark_quality(&feed.track, &self.config.intervals, reason);
                touch(&mut self.touched_builders, &mut self.builders[*at], *at);
                // also where nothing changed in quality: windows the gap pinned may wait for it to close
                feed.revisable.insert(name.clone());
            }
        }
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
        let intervals = &self.config.intervals;
        let feed = &mut self.feeds[entry];
        if to <= feed.track.watermark {
            return;
        }
        feed.track.watermark = to;
        feed.touched = true;
        if to < feed.next_due {
            return;
        }
        let horizon = to.plus_micros(-self.config.allowed_lateness_micros);
        let first = out.len();
        feed.next_due = Timestamp::MAX;
        for at in feed.builders.values() {
            let builder = &mut self.builders[*at];
            if let Some(due) = builder.close_through(&feed.track, &self.config, to, out) {
                feed.next_due = feed.next_due.min(due);
            }
            builder.drop_before(&feed.track, intervals, horizon);
            touch(&mut self.touched_builders, &mut self.builders[*at], *at);
        }
        let longest = intervals.last().map_or(0, |i| i.micros());
        let longest = feed.builders.values().map(|at| self.builders[*at].reach_micros(intervals)).fold(longest, i64::max);
        feed.track.gaps.retain(|g| g.state == GapState::Open || g.to.plus_micros(longest) > horizon);
        feed.track.halts.retain(|h| h.to.plus_micros(longest) > horizon);
        out[first..].sort_by(|a, b| (a.close_time, &a.instrument, a.interval).cmp(&(b.close_time, &b.instrument, b.interval)));
    }

    fn publish_revisions(&mut self, entry: usize, out: &mut Vec<Bar>) {
        let feed = &mut self.feeds[entry];
        for instrument in std::mem::take(&mut feed.revisable) {
            let at = feed.builders[&instrument];
            self.builders[at].publish_revisions(&feed.track, &self.config.intervals, out);
            touch(&mut self.touched_builders, &mut self.builders[at], at);
            if self.builders[at].has_revisions() {
                feed.revisable.insert(instrument);
            }
        }
    }

    fn end(&mut self, entry: usize, control: &Control, out: &mut Vec<Bar>) {
        let feed = &mut self.feeds[entry];
        if feed.track.ended {
            return;
        }
        feed.touched = true;
        feed.track.cut_at = control.to;
        let is_import = feed.feed.is_import();
        let last_due = feed.builders.values().filter_map(|at| {
            let builder = &self.builders[*at];
            Some(builder.slots.keys().next_back()?.plus_micros(builder.reach_micros(&self.config.intervals)))
        });
        if let Some(last) = last_due.max() {
            self.advance(entry, last, out);
        }
        self.publish_revisions(entry, out);
        if is_import {
            for at in self.feeds[entry].builders.values() {
                self.builders[*at].drop_all();
                touch(&mut self.touched_builders, &mut self.builders[*at], *at);
            }
            self.feeds[entry].revisable.clear();
        }
        self.feeds[entry].track.ended = true;
    }

    pub(crate) fn feed_entry(&mut self, source: BarSource, feed: &str) -> usize {
        if self.feeds.get(self.last_feed).is_some_and(|f| f.is(source, feed)) {
            return self.last_feed;
        }
        self.last_feed = self.known_feed(source, feed).unwrap_or_else(|| {
            let feed = Feed::new(feed);
            self.feed_index.entry(feed.clone()).or_default().push(self.feeds.len());
            self.feeds.push(FeedEntry {
                source,
                feed,
                track: FeedTrack::default(),
                touched: true,
                builders: BTreeMap::new(),
                builder_index: HashMap::new(),
                revisable: BTreeSet::new(),
                next_due: Timestamp::MAX,
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
        self.builders.push(Builder::new(feed.source, feed.feed.clone(), instrument.clone()));
        feed.builders.insert(instrument.clone(), at);
        feed.builder_index.insert(instrument, at);
        at
    }

    fn touch(&mut self, at: usize) {
        touch(&mut self.touched_builders, &mut self.builders[at], at);
    }
}
