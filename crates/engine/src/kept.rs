//! The trades of a minute one by one, kept only where the venue takes trades back or corrects them: a high or a low cannot be taken out of a
//! fold, so the minute is folded again from what is left.
//!
//! Kept as long as the minute itself, and written to the changelog as runs of what changed between two commits.

use crate::ids::{RUN_AT_MOST, TradeId};
use crate::minute::{Minute, Place};
use marketflow_model::{Price, Quantity, Side};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A trade as far as bars need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptTrade {
    /// The venue's id; without one it can never be taken back, but it counts when its minute is folded again.
    id: Option<String>,
    place: Place,
    price: Price,
    size: Quantity,
    side: Side,
    /// Taken back or replaced: it counts no more.
    is_void: bool,
}

impl KeptTrade {
    /// What a fold of this one trade was made from.
    pub(crate) fn of(id: Option<TradeId<'_>>, trade: &Minute) -> Self {
        let side = match (trade.buy_volume.is_zero(), trade.sell_volume.is_zero()) {
            (false, _) => Side::Buy,
            (_, false) => Side::Sell,
            _ => Side::Unknown,
        };
        let id = id.map(|id| id.to_string());
        Self { id, place: trade.last_place(), price: trade.close, size: trade.volume, side, is_void: false }
    }

    /// See [`Place::precede`].
    pub(crate) fn precede(&mut self) {
        self.place.precede();
    }

    fn minute(&self) -> Minute {
        let minute = Minute::of_execution(self.price, self.size, self.side, self.place);
        minute.expect("it was folded once")
    }

    /// Whether a correction that says this changes nothing.
    fn says_the_same(&self, trade: &Minute) -> bool {
        let other = Self::of(None, trade);
        (self.price, self.size, self.side, self.place.event_time) == (other.price, other.size, other.side, other.place.event_time)
    }
}

/// The trades of one minute, by offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeptTrades {
    trades: BTreeMap<i64, KeptTrade>,
    /// Offsets changed since the last commit.
    fresh: Vec<i64>,
    runs: u32,
}

/// Trades as they stand, changed since the last commit: what the changelog gets.
pub(crate) type KeptRun = Vec<KeptTrade>;

impl KeptTrades {
    pub(crate) fn keep(&mut self, trade: KeptTrade) {
        self.fresh.push(trade.place.offset);
        self.trades.insert(trade.place.offset, trade);
    }

    /// The trade of this id that counts.
    fn find(&self, id: TradeId<'_>) -> Option<&KeptTrade> {
        let id = id.to_string();
        self.trades.values().find(|trade| !trade.is_void && trade.id.as_deref() == Some(&id))
    }

    pub(crate) fn holds(&self, id: TradeId<'_>) -> bool {
        self.find(id).is_some()
    }

    /// Whether a correction of this id says what is known already.
    pub(crate) fn says(&self, id: TradeId<'_>, trade: &Minute) -> bool {
        self.find(id).is_some_and(|kept| kept.says_the_same(trade))
    }

    /// How many trades count: all of the minute's, unless it began before they were kept.
    pub(crate) fn counting(&self) -> usize {
        self.trades.values().filter(|trade| !trade.is_void).count()
    }

    /// The trade of this id counts no more. Returns the minute without it; `None` where nothing is left.
    pub(crate) fn void(&mut self, id: TradeId<'_>) -> Option<Minute> {
        if let Some(offset) = self.find(id).map(|trade| trade.place.offset)
            && let Some(trade) = self.trades.get_mut(&offset)
        {
            trade.is_void = true;
            self.fresh.push(offset);
        }
        self.without(id)
    }

    /// The minute without the trade of this id; `None` where nothing is left.
    pub(crate) fn without(&self, id: TradeId<'_>) -> Option<Minute> {
        let without = self.find(id).map(|trade| trade.place.offset);
        let counts = |trade: &&KeptTrade| !trade.is_void && Some(trade.place.offset) != without;
        let mut left = self.trades.values().filter(counts).map(KeptTrade::minute);
        let mut minute = left.next()?;
        for trade in left {
            assert!(minute.add(&trade), "the fold of more trades did not overflow");
        }
        Some(minute)
    }

    /// The last price that was taken back.
    pub(crate) fn last_void(&self) -> Option<(Place, Price)> {
        let void = self.trades.values().filter(|trade| trade.is_void).map(|trade| (trade.place, trade.price));
        void.max_by(|(a, _), (b, _)| a.compare(b))
    }

    /// Takes what changed since the last call, as numbered runs of a bounded size.
    pub(crate) fn take_runs(&mut self) -> Vec<(u32, KeptRun)> {
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.sort_unstable();
        fresh.dedup();
        let runs = fresh.chunks(RUN_AT_MOST).map(|offsets| offsets.iter().map(|offset| self.trades[offset].clone()).collect());
        let numbered: Vec<(u32, KeptRun)> = (self.runs..).zip(runs).collect();
        self.runs += u32::try_from(numbered.len()).unwrap_or(u32::MAX);
        numbered
    }

    /// How many runs there are.
    pub(crate) fn runs(&self) -> u32 {
        self.runs
    }

    /// Puts back a run; they may come in any order.
    pub(crate) fn restore(&mut self, number: u32, run: KeptRun) {
        for trade in run {
            let known = self.trades.entry(trade.place.offset).or_insert_with(|| trade.clone());
            known.is_void |= trade.is_void;
        }
        self.runs = self.runs.max(number + 1);
    }
}
