//! Bars that what was traded ends: so many trades, so much volume, so much turnover.
//!
//! Trades are dealt out in the order of the log, so the log alone decides where a bar ends, and a bar that is out is never revised: a trade that
//! comes late, or fills a hole, counts in the bar that is open when it comes. The trade that fills a bar is its last and is not split. A bar
//! does not span two sessions: the first trade of a later one ends it as it is.
//!
//! Next: `schemas/avro/bar.v1.avsc`.

use crate::minute::Minute;
use marketflow_model::{BarKind, Price, Quantity, Timestamp, Turnover};
use serde::{Deserialize, Serialize};

/// A bar that is not full yet, or one that just was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct TradedBar {
    pub(crate) open_time: Timestamp,
    /// Latest event time in it.
    pub(crate) last_time: Timestamp,
    /// Start of the session it belongs to.
    session: Timestamp,
    pub(crate) open: Price,
    pub(crate) high: Price,
    pub(crate) low: Price,
    pub(crate) close: Price,
    pub(crate) volume: Quantity,
    pub(crate) turnover: Turnover,
    pub(crate) trade_count: i64,
    pub(crate) buy_volume: Quantity,
    pub(crate) sell_volume: Quantity,
}

/// The bars of one kind of one instrument.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct TradedBars {
    open: Option<TradedBar>,
    /// When the last bar opened: the next opens later, so that its open time identifies it.
    last_open: Timestamp,
}

impl Default for TradedBars {
    fn default() -> Self {
        Self { open: None, last_open: Timestamp::MIN }
    }
}

impl TradedBars {
    /// Takes a trade, as the minute it makes alone. Bars that end with it, or before it, are appended to `full`.
    pub(crate) fn take(
        &mut self,
        kind: BarKind,
        event_time: Timestamp,
        session: Timestamp,
        trade: &Minute,
        full: &mut Vec<TradedBar>,
    ) {
        if let Some(open) = self.open.take_if(|open| session > open.session || !open.add(event_time, trade)) {
            full.push(open);
        }
        let bar = self.open.get_or_insert_with(|| {
            let open_time = event_time.max(self.last_open.plus_micros(1));
            self.last_open = open_time;
            TradedBar {
                open_time,
                last_time: event_time.max(open_time),
                session,
                open: trade.open,
                high: trade.high,
                low: trade.low,
                close: trade.close,
                volume: trade.volume,
                turnover: trade.turnover,
                trade_count: trade.trade_count,
                buy_volume: trade.buy_volume,
                sell_volume: trade.sell_volume,
            }
        });
        if bar.is_full(kind) {
            full.extend(self.open.take());
        }
    }
}

impl TradedBar {
    /// Returns false, leaving the bar as it was, when a sum overflows.
    fn add(&mut self, event_time: Timestamp, trade: &Minute) -> bool {
        let sums = (|| {
            Some((
                self.volume.checked_add(trade.volume)?,
                self.turnover.checked_add(trade.turnover)?,
                self.trade_count.checked_add(trade.trade_count)?,
                self.buy_volume.checked_add(trade.buy_volume)?,
                self.sell_volume.checked_add(trade.sell_volume)?,
            ))
        })();
        let Some((volume, turnover, trade_count, buy_volume, sell_volume)) = sums else { return false };
        (self.volume, self.turnover, self.trade_count) = (volume, turnover, trade_count);
        (self.buy_volume, self.sell_volume) = (buy_volume, sell_volume);
        self.high = self.high.max(trade.high);
        self.low = self.low.min(trade.low);
        self.close = trade.close;
        self.last_time = self.last_time.max(event_time);
        true
    }

    fn is_full(&self, kind: BarKind) -> bool {
        match kind {
            BarKind::Time(_) => false,
            BarKind::Ticks(count) => self.trade_count >= i64::from(count),
            BarKind::Volume(volume) => self.volume >= volume,
            BarKind::Turnover(amount) => self.turnover.scaled() / 100_000_000 >= amount.scaled(),
        }
    }
}
