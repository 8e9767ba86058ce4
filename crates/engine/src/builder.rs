//! The windows of one instrument in one feed: folded, published when the watermark passes, published again when something changed.
//!
//! Next: `schemas/avro/bar.v1.avsc`, then `services/sink/src/tables/bar.rs`.

use crate::feed::{FeedTrack, GapState};
use crate::ids::{SeenIds, TradeId};
use crate::minute::Minute;
use marketflow_model::{Bar, BarSource, Feed, Instrument, Interval, Quality, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const MINUTE_MICROS: i64 = Interval::ONE_MINUTE.micros();

/// Why a published bar is published again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Reason {
    LateRecords,
    GapFilled,
    GapAbandoned,
    GapFound,
}

impl Reason {
    fn text(self) -> &'static str {
        match self {
            Self::LateRecords => "late records",
            Self::GapFilled => "gap filled",
            Self::GapAbandoned => "gap abandoned",
            Self::GapFound => "gap found",
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
}

/// A kept minute: its fold, what was published of the windows that open at it, and the ids seen in it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Slot {
    pub(crate) minute: Option<Minute>,
    pub(crate) published: Vec<Published>,
    #[serde(skip)]
    pub(crate) ids: SeenIds,
    #[serde(skip)]
    pub(crate) touched: bool,
}

impl Slot {
    /// What was published of the window of this interval that opens here, about to change.
    fn publication(&mut self, interval: u8) -> &mut Published {
        self.touched = true;
        let place = self.published.iter().position(|p| p.interval == interval).unwrap_or_else(|| {
            self.published.push(Published { interval, revision: -1, quality: Quality::Unknown, dirty: None });
            self.published.len() - 1
        });
        &mut self.published[place]
    }
}

/// What outlives the windows: small, written with every touched commit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Windows that close at or before this have been published (if they hold anything).
    pub(crate) closed_to: Timestamp,
    /// Highest numeric venue id.
    pub(crate) highest_id: Option<i64>,
    /// Highest import row.
    pub(crate) highest_row: i64,
    /// Evidence for this instrument exists from here on, where it was declared for it alone.
    pub(crate) covered_from: Option<Timestamp>,
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
    pub(crate) head: Head,
    pub(crate) head_touched: bool,
    /// Whether anything changed since the last commit.
    pub(crate) touched: bool,
    pub(crate) slots: BTreeMap<Timestamp, Slot>,
    /// Slots dropped since the last commit, with the id runs they had in the changelog.
    pub(crate) dropped: Vec<(Timestamp, u32)>,
    /// Windows to publish again: (close, interval, open). Follows from the slots.
    dirty: BTreeSet<(Timestamp, u8, Timestamp)>,
}

impl Builder {
    pub(crate) fn new(source: BarSource, feed: Feed, instrument: Instrument) -> Self {
        let head = Head { closed_to: Timestamp::MIN, highest_id: None, highest_row: 0, covered_from: None };
        Self {
            source,
            feed,
            instrument,
            head,
            head_touched: false,
            touched: false,
            slots: BTreeMap::new(),
            dropped: Vec::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// Rebuilds what follows from restored slots.
    pub(crate) fn index_dirty(&mut self, intervals: &[Interval]) {
        self.dirty.clear();
        for (open, slot) in &self.slots {
            for published in slot.published.iter().filter(|p| p.dirty.is_some()) {
                let length = intervals[usize::from(published.interval)].micros();
                self.dirty.insert((open.plus_micros(length), published.interval, *open));
            }
        }
    }

    /// Whether the id was seen in the minute or its neighbours.
    pub(crate) fn is_duplicate(&self, id: &TradeId, event_time: Timestamp) -> bool {
        if let (TradeId::Number(number), Some(highest)) = (id, self.head.highest_id)
            && *number > highest
        {
            return false;
        }
        let minute = event_time.window_open(Interval::ONE_MINUTE);
        self.slots
            .range(minute.plus_micros(-MINUTE_MICROS)..=minute.plus_micros(MINUTE_MICROS))
            .any(|(_, slot)| slot.ids.contains(id))
    }

    /// Folds one record into its minute; marks published windows that hold it for a revision. Returns the minute's end when the slot is new.
    pub(crate) fn fold(
        &mut self,
        intervals: &[Interval],
        event_time: Timestamp,
        minute: Minute,
        id: Option<TradeId>,
        row: Option<i64>,
    ) -> (Fold, Option<Timestamp>) {
        let open = event_time.window_open(Interval::ONE_MINUTE);
        let new_slot = !self.slots.contains_key(&open);
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
        slot.touched = true;
        if let Some(id) = id {
            if let TradeId::Number(number) = id {
                self.head.highest_id = Some(self.head.highest_id.map_or(number, |h| h.max(number)));
            }
            slot.ids.insert(id);
        }
        if let Some(row) = row {
            self.head.highest_row = self.head.highest_row.max(row);
        }
        self.head_touched = true;
        let close = open.plus_micros(MINUTE_MICROS);
        if open < self.head.closed_to {
            for (index, interval) in (0u8..).zip(intervals) {
                let window_open = event_time.window_open(*interval);
                let window_close = window_open.plus_micros(interval.micros());
                if window_close <= self.head.closed_to {
                    self.mark(index, window_open, window_close, Reason::LateRecords);
                }
            }
        }
        let due = if close > self.head.closed_to && (new_slot || is_new_minute) { Some(close) } else { None };
        (Fold::Used, due)
    }

    fn mark(&mut self, interval: u8, open: Timestamp, close: Timestamp, reason: Reason) {
        let published = self.slots.entry(open).or_default().publication(interval);
        published.dirty.get_or_insert(reason);
        self.dirty.insert((close, interval, open));
    }

    /// Publishes every window that closes at or before the watermark for the first time. Returns when the next kept minute closes.
    pub(crate) fn close_through(
        &mut self,
        feed: &FeedTrack,
        intervals: &[Interval],
        watermark: Timestamp,
        out: &mut Vec<Bar>,
    ) -> Option<Timestamp> {
        let mut due: BTreeSet<(Timestamp, u8, Timestamp)> = BTreeSet::new();
        let longest = intervals.last().map_or(MINUTE_MICROS, |i| i.micros());
        for (open, slot) in self.slots.range(self.head.closed_to.plus_micros(-longest)..) {
            if slot.minute.is_none() {
                continue;
            }
            if *open >= watermark {
                break;
            }
            for (index, interval) in (0u8..).zip(intervals) {
                let window_open = open.window_open(*interval);
                let window_close = window_open.plus_micros(interval.micros());
                if window_close > self.head.closed_to && window_close <= watermark {
                    due.insert((window_close, index, window_open));
                }
            }
        }
        for (close, index, open) in due {
            self.publish(feed, intervals, index, open, close, None, out);
        }
        if watermark > self.head.closed_to {
            self.head.closed_to = watermark;
            self.head_touched = true;
        }
        self.next_due(intervals)
    }

    /// When the next window that is not yet published closes.
    pub(crate) fn next_due(&self, intervals: &[Interval]) -> Option<Timestamp> {
        let longest = intervals.last().map_or(MINUTE_MICROS, |i| i.micros());
        self.slots
            .range(self.head.closed_to.plus_micros(-longest)..)
            .filter(|(_, slot)| slot.minute.is_some())
            .flat_map(|(open, _)| intervals.iter().map(|i| open.window_open(*i).plus_micros(i.micros())))
            .filter(|close| *close > self.head.closed_to)
            .min()
    }

    /// Publishes revisions of the windows marked since the last control, those that an open gap pins excepted.
    pub(crate) fn publish_revisions(&mut self, feed: &FeedTrack, intervals: &[Interval], out: &mut Vec<Bar>) {
        if self.dirty.is_empty() {
            return;
        }
        for (close, index, open) in std::mem::take(&mut self.dirty) {
            if feed.pins(&self.instrument, open, close) {
                self.dirty.insert((close, index, open));
                continue;
            }
            let reason = self.published(index, open).and_then(|p| p.dirty);
            self.publish(feed, intervals, index, open, close, reason, out);
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
            for published in slot.published.iter().filter(|p| p.revision >= 0) {
                let close = open.plus_micros(intervals[usize::from(published.interval)].micros());
                if self.quality(feed, *open, close) != published.quality {
                    changed.push((published.interval, *open, close));
                }
            }
        }
        for (interval, open, close) in changed {
            self.mark(interval, open, close, reason);
        }
    }

    fn published(&self, interval: u8, open: Timestamp) -> Option<&Published> {
        self.slots.get(&open)?.published.iter().find(|p| p.interval == interval)
    }

    #[expect(clippy::too_many_arguments, reason = "one window is named by four of them")]
    fn publish(
        &mut self,
        feed: &FeedTrack,
        intervals: &[Interval],
        index: u8,
        open: Timestamp,
        close: Timestamp,
        reason: Option<Reason>,
        out: &mut Vec<Bar>,
    ) {
        let quality = self.quality(feed, open, close);
        let folded =
            self.slots.range(open..close).filter_map(|(_, slot)| slot.minute.as_ref()).fold(None::<Minute>, |sum, minute| {
                match sum {
                    None => Some(minute.clone()),
                    Some(sum) => Some(sum.followed_by(minute)),
                }
            });
        let published = self.slots.entry(open).or_default().publication(index);
        let changed = published.revision < 0 || published.quality != quality || reason == Some(Reason::LateRecords);
        published.dirty = None;
        let Some(bar) = folded else { return };
        if !changed {
            return;
        }
        published.revision += 1;
        published.quality = quality;
        out.push(Bar {
            instrument: self.instrument.clone(),
            interval: intervals[usize::from(index)],
            open_time: open,
            close_time: close,
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
            revision: published.revision,
            quality,
            feed: self.feed.clone(),
            source: self.source,
            revision_reason: if published.revision > 0 { reason.map(|r| r.text().to_owned()) } else { None },
        });
    }

    fn quality(&self, feed: &FeedTrack, open: Timestamp, close: Timestamp) -> Quality {
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
        } else if filled {
            Quality::Backfilled
        } else {
            Quality::Complete
        }
    }

    /// Drops the minutes whose longest window can no longer change. Pinned and unpublished ones stay.
    pub(crate) fn drop_before(&mut self, feed: &FeedTrack, intervals: &[Interval], horizon: Timestamp) {
        let longest = *intervals.last().expect("at least one interval is configured");
        let mut drop = Vec::new();
        for open in self.slots.keys() {
            let window_open = open.window_open(longest);
            let window_close = window_open.plus_micros(longest.micros());
            if window_close > horizon {
                break;
            }
            if !feed.pins(&self.instrument, window_open, window_close) {
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
    }

    fn drop_slot(&mut self, open: Timestamp) {
        if let Some(slot) = self.slots.remove(&open) {
            self.dropped.push((open, slot.ids.runs()));
            for published in slot.published.iter().filter(|p| p.dirty.is_some()) {
                self.dirty.retain(|(_, interval, at)| !(*interval == published.interval && *at == open));
            }
        }
    }
}
