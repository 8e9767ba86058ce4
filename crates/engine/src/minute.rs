//! One minute of one instrument, folded; and the fold of minutes into longer windows.

use marketflow_model::{Candle, Price, Quantity, Side, Timestamp, TradeRef, Turnover};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Where a trade stands in its feed: by sequence when both have one, else by event time, then by partition offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) sequence: Option<i64>,
    pub(crate) event_time: Timestamp,
    pub(crate) offset: i64,
}

/// More than a partition will ever hold.
const OFFSETS: i64 = 1 << 48;

impl Place {
    /// Puts a record of another partition before all of the one its instrument is in from now on.
    pub(crate) fn precede(&mut self) {
        self.offset = self.offset.saturating_sub(OFFSETS);
    }

    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        let by_sequence = match (self.sequence, other.sequence) {
            (Some(mine), Some(theirs)) => mine.cmp(&theirs),
            _ => Ordering::Equal,
        };
        by_sequence.then(self.event_time.cmp(&other.event_time)).then(self.offset.cmp(&other.offset))
    }
}

/// OHLCV of one minute, unrounded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Minute {
    pub(crate) open: Price,
    pub(crate) high: Price,
    pub(crate) low: Price,
    pub(crate) close: Price,
    pub(crate) volume: Quantity,
    pub(crate) turnover: Turnover,
    pub(crate) trade_count: i64,
    pub(crate) buy_volume: Quantity,
    pub(crate) sell_volume: Quantity,
    pub(crate) buy_turnover: Turnover,
    pub(crate) sell_turnover: Turnover,
    first: Place,
    last: Place,
}

impl Minute {
    /// A minute that holds one trade; `None` when price × size overflows.
    pub(crate) fn of_trade(trade: &TradeRef<'_>, offset: i64) -> Option<Self> {
        let place = Place { sequence: trade.sequence, event_time: trade.event_time, offset };
        Self::of_execution(trade.price, trade.size.unwrap_or(Quantity::ZERO), trade.side, place)
    }

    /// The same from a trade's parts.
    pub(crate) fn of_execution(price: Price, size: Quantity, side: Side, place: Place) -> Option<Self> {
        let turnover = Turnover::of(price, size)?;
        let on = |aggressor| if side == aggressor { (size, turnover) } else { (Quantity::ZERO, Turnover::ZERO) };
        let ((buy_volume, buy_turnover), (sell_volume, sell_turnover)) = (on(Side::Buy), on(Side::Sell));
        let minute = Self {
            open: price,
            high: price,
            low: price,
            close: price,
            volume: size,
            turnover,
            trade_count: 1,
            buy_volume,
            sell_volume,
            buy_turnover,
            sell_turnover,
            first: place,
            last: place,
        };
        minute.is_within_share().then_some(minute)
    }

    /// Where its last trade stands.
    pub(crate) fn last_place(&self) -> Place {
        self.last
    }

    /// A minute as a provider's candle states it; what it does not report counts 0.
    pub(crate) fn of_candle(candle: &Candle, offset: i64) -> Option<Self> {
        let place = Place { sequence: None, event_time: candle.open_time, offset };
        let volume = candle.volume.unwrap_or(Quantity::ZERO);
        let buy_volume = candle.buy_volume.unwrap_or(Quantity::ZERO);
        let sell_volume = match candle.buy_volume {
            Some(buy) => Quantity::from_scaled(volume.scaled().checked_sub(buy.scaled())?)?,
            None => Quantity::ZERO,
        };
        let turnover = candle.turnover.map_or(Some(0), |amount| amount.scaled().checked_mul(100_000_000))?;
        let minute = Self {
            open: candle.open,
            high: candle.high,
            low: candle.low,
            close: candle.close,
            volume,
            turnover: Turnover::from_scaled(turnover)?,
            trade_count: candle.trade_count.unwrap_or(0),
            buy_volume,
            sell_volume,
            buy_turnover: Turnover::ZERO,
            sell_turnover: Turnover::ZERO,
            first: place,
            last: place,
        };
        minute.is_within_share().then_some(minute)
    }

    /// Minutes without a trade: nothing but the close before them.
    pub(crate) fn carrying(close: Price) -> Self {
        let place = Place { sequence: None, event_time: Timestamp::MIN, offset: 0 };
        Self {
            open: close,
            high: close,
            low: close,
            close,
            volume: Quantity::ZERO,
            turnover: Turnover::ZERO,
            trade_count: 0,
            buy_volume: Quantity::ZERO,
            sell_volume: Quantity::ZERO,
            buy_turnover: Turnover::ZERO,
            sell_turnover: Turnover::ZERO,
            first: place,
            last: place,
        }
    }

    /// Adds a trade of the same minute. Returns false, leaving the minute as it was, when a sum overflows.
    #[must_use]
    pub(crate) fn add(&mut self, other: &Self) -> bool {
        let sums = (|| {
            Some((
                self.volume.checked_add(other.volume)?,
                self.turnover.checked_add(other.turnover)?,
                self.trade_count.checked_add(other.trade_count)?,
                self.buy_volume.checked_add(other.buy_volume)?,
                self.sell_volume.checked_add(other.sell_volume)?,
                self.buy_turnover.checked_add(other.buy_turnover)?,
                self.sell_turnover.checked_add(other.sell_turnover)?,
            ))
        })();
        let Some((volume, turnover, trade_count, buy_volume, sell_volume, buy_turnover, sell_turnover)) = sums else {
            return false;
        };
        let sum = Self { volume, turnover, trade_count, buy_volume, sell_volume, ..self.clone() };
        if !sum.is_within_share() {
            return false;
        }
        if other.first.compare(&self.first) == Ordering::Less {
            self.first = other.first;
            self.open = other.open;
        }
        if other.last.compare(&self.last) != Ordering::Less {
            self.last = other.last;
            self.close = other.close;
        }
        self.high = self.high.max(other.high);
        self.low = self.low.min(other.low);
        (self.volume, self.turnover, self.trade_count) = (volume, turnover, trade_count);
        (self.buy_volume, self.sell_volume) = (buy_volume, sell_volume);
        (self.buy_turnover, self.sell_turnover) = (buy_turnover, sell_turnover);
        true
    }

    /// See [`Place::precede`].
    pub(crate) fn precede(&mut self) {
        self.first.precede();
        self.last.precede();
    }

    /// Appends a later minute: open stays, close is the later one's.
    pub(crate) fn followed_by(mut self, later: &Self) -> Self {
        const FITS: &str = "every minute is within its share of a day's range";
        self.volume = self.volume.checked_add(later.volume).expect(FITS);
        self.turnover = self.turnover.checked_add(later.turnover).expect(FITS);
        self.trade_count = self.trade_count.checked_add(later.trade_count).expect(FITS);
        self.buy_volume = self.buy_volume.checked_add(later.buy_volume).expect(FITS);
        self.sell_volume = self.sell_volume.checked_add(later.sell_volume).expect(FITS);
        self.buy_turnover = self.buy_turnover.checked_add(later.buy_turnover).expect(FITS);
        self.sell_turnover = self.sell_turnover.checked_add(later.sell_turnover).expect(FITS);
        self.high = self.high.max(later.high);
        self.low = self.low.min(later.low);
        self.close = later.close;
        self.last = later.last;
        self
    }

    /// Whether a day of such minutes still fits: what lets [`Minute::followed_by`] never overflow.
    fn is_within_share(&self) -> bool {
        const MINUTES: u128 = 1440;
        let share = |value: i128, limit: u128| value.unsigned_abs() <= limit / MINUTES;
        share(self.turnover.scaled(), i128::MAX.unsigned_abs())
            && [self.volume, self.buy_volume, self.sell_volume].iter().all(|q| share(q.scaled(), 10u128.pow(38)))
            && share(i128::from(self.trade_count), u128::from(i64::MAX.unsigned_abs()))
    }
}
