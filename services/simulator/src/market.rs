//! A market and its trades: what happened at the venue (the truth), and how far the tape has been played.
//!
//! Trades are 40 bytes each and stay in memory, so five million of them take 200 MB. Next: `player.rs`.

use crate::clock::micros;
use crate::decimal::Decimal;
use crate::hub::Subscriber;
use crate::kis::day::Day;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

/// The venues that can be played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Venue {
    /// Bitstamp: WebSocket v2 and REST v2.
    Bitstamp,
    /// Binance Spot: market streams and REST v3.
    Binance,
    /// Upbit: WebSocket v1 and REST v1.
    Upbit,
    /// The Korea Exchange as KIS shows it: WebSocket, token and approval calls.
    Kis,
    /// The same exchange as Kiwoom shows it: WebSocket, token and chart calls. Its markets are those of [`Venue::Kis`].
    Kiwoom,
}

impl Venue {
    /// Every venue.
    pub const ALL: [Venue; 5] = [Venue::Bitstamp, Venue::Binance, Venue::Upbit, Venue::Kis, Venue::Kiwoom];

    /// Whose markets it shows.
    pub fn exchange(self) -> Venue {
        if self == Venue::Kiwoom { Venue::Kis } else { self }
    }

    /// The name in instruments; of a second broker of an exchange its own.
    pub fn name(self) -> &'static str {
        match self {
            Venue::Bitstamp => "BITSTAMP",
            Venue::Binance => "BINANCE",
            Venue::Upbit => "UPBIT",
            Venue::Kis => "KRX",
            Venue::Kiwoom => "KIWOOM",
        }
    }

    /// How the venue spells a market, upper case.
    fn symbol(self, base: &str, quote: &str) -> String {
        match self {
            Venue::Bitstamp | Venue::Binance => format!("{base}{quote}"),
            Venue::Upbit => format!("{quote}-{base}"),
            Venue::Kis | Venue::Kiwoom => base.to_owned(),
        }
    }
}

/// What became of a trade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Not played yet.
    Pending,
    /// Sent when it happened.
    Socket,
    /// Kept from the socket by a fault; REST has it.
    Missed,
    /// Kept back by a fault and sent later.
    Late,
    /// Sent after the trade that followed it.
    OutOfOrder,
    /// Nobody was subscribed; REST has it.
    RestOnly,
}

/// Where a trade came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The tape.
    Tape,
    /// The fault `zero_size`.
    ZeroSize,
    /// The fault `too_precise`.
    TooPrecise,
    /// An auction's one print: nobody is the aggressor.
    Auction,
}

/// One trade.
#[derive(Debug, Clone, Copy)]
pub struct Trade {
    /// UTC microseconds.
    pub time_us: i64,
    /// The venue's id.
    pub id: i64,
    price_mantissa: i64,
    size_mantissa: i64,
    price_scale: u8,
    size_scale: u8,
    /// Whether the seller was the aggressor.
    pub taker_sells: bool,
    /// What became of it.
    pub fate: Fate,
    /// Where it came from.
    pub origin: Origin,
    /// How many frames on all sockets carried it (stops at 255).
    pub frames: u8,
    /// How many of those were copies (stops at 255).
    pub copies: u8,
}

impl Trade {
    /// A trade of the tape, not played yet.
    pub fn new(time_us: i64, id: i64, price: Decimal, size: Decimal, taker_sells: bool) -> Trade {
        Trade {
            time_us,
            id,
            price_mantissa: price.mantissa,
            size_mantissa: size.mantissa,
            price_scale: price.scale,
            size_scale: size.scale,
            taker_sells,
            fate: Fate::Pending,
            origin: Origin::Tape,
            frames: 0,
            copies: 0,
        }
    }

    /// Whether both are fills of one taker order at one price, as Binance's aggregate trades take them together.
    pub fn aggregates_with(&self, next: &Trade) -> bool {
        self.time_us / 1_000 == next.time_us / 1_000 && self.taker_sells == next.taker_sells && self.price() == next.price()
    }

    /// The price.
    pub fn price(&self) -> Decimal {
        Decimal { mantissa: self.price_mantissa, scale: self.price_scale }
    }

    /// The size in base currency.
    pub fn size(&self) -> Decimal {
        Decimal { mantissa: self.size_mantissa, scale: self.size_scale }
    }
}

/// One market of one venue.
#[derive(Debug)]
pub struct Market {
    /// Whose.
    pub venue: Venue,
    /// Base currency, upper case.
    pub base: String,
    /// Quote currency, upper case; Bitstamp's perpetuals end in `-PERP`.
    pub quote: String,
    /// As stream and channel names spell it: `btcusd`.
    pub lower: String,
    /// As the venue's payloads spell it: `BTCUSDT`.
    pub upper: String,
    /// As the pipeline names it: `BITSTAMP:BTCUSD`.
    pub instrument: String,
    /// Decimals of prices on the wire.
    pub price_decimals: u8,
    /// Decimals of sizes on the wire.
    pub size_decimals: u8,
    /// Who listens.
    pub subscribers: RwLock<Vec<Subscriber>>,
    /// The last time a book frame carried, UTC microseconds; they never repeat.
    pub book_us: AtomicI64,
    /// KIS: what the exchange's day adds up to.
    pub day: Day,
    /// Binance: where each aggregate trade starts among those that have happened.
    pub aggregates: RwLock<Vec<usize>>,
    trades: RwLock<Vec<Trade>>,
    released: AtomicUsize,
}

impl Market {
    /// A market with its trades in the order they happened.
    pub fn new(venue: Venue, base: &str, quote: &str, decimals: (u8, u8), trades: Vec<Trade>) -> Market {
        let (base, quote) = (base.to_uppercase(), quote.to_uppercase());
        let upper = venue.symbol(&base, &quote);
        Market {
            venue,
            lower: upper.to_lowercase(),
            instrument: format!("{}:{upper}", venue.name()),
            base,
            quote,
            upper,
            price_decimals: decimals.0,
            size_decimals: decimals.1,
            subscribers: RwLock::default(),
            book_us: AtomicI64::new(i64::MIN),
            day: if venue == Venue::Kis { Day::of(&trades) } else { Day::default() },
            aggregates: RwLock::default(),
            trades: RwLock::new(trades),
            released: AtomicUsize::new(0),
        }
    }

    /// The time of the book frame that goes with this trade; `None` when the last one is too recent.
    pub fn book_due(&self, trade: &Trade, every: Duration) -> Option<i64> {
        let last_us = self.book_us.load(Ordering::Acquire);
        (trade.time_us >= last_us.saturating_add(micros(every).max(1))).then_some(trade.time_us)
    }

    /// Notes that the book frames of this trade, if there are any, are out: the next one must be later.
    pub fn note_book(&self, trade: &Trade, every: Duration) {
        if let Some(time_us) = self.book_due(trade, every) {
            self.book_us.store(time_us, Ordering::Release);
        }
    }

    /// Whether it is a perpetual.
    pub fn perpetual(&self) -> bool {
        self.quote.ends_with("-PERP")
    }

    /// How many trades have happened by now: the venue's own answers show exactly these.
    pub fn released(&self) -> usize {
        self.released.load(Ordering::Acquire)
    }

    /// One more has happened.
    pub(crate) fn release(&self) {
        self.released.fetch_add(1, Ordering::Release);
    }

    /// How many trades there are, played or not.
    pub fn count(&self) -> usize {
        self.trades().len()
    }

    /// All trades.
    pub fn trades(&self) -> RwLockReadGuard<'_, Vec<Trade>> {
        self.trades.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn trades_mut(&self) -> RwLockWriteGuard<'_, Vec<Trade>> {
        self.trades.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the trades that have happened by now.
    pub fn happened<T>(&self, look: impl FnOnce(&[Trade]) -> T) -> T {
        let released = self.released();
        look(&self.trades()[..released])
    }

    /// Puts an extra trade in at `index`, which has not been played yet. Where ids have a hole it takes that; where they are consecutive, those behind it move up.
    pub(crate) fn insert(&self, index: usize, mut trade: Trade) {
        let mut trades = self.trades_mut();
        let before = index.checked_sub(1).and_then(|before| trades.get(before)).map(|trade| trade.id);
        let after = trades.get(index).map(|trade| trade.id);
        trade.id = match (before, after) {
            (Some(before), _) => before + 1,
            (None, Some(after)) => after - 1,
            (None, None) => trade.id,
        };
        if after == Some(trade.id) {
            for later in &mut trades[index..] {
                later.id += 1;
            }
        }
        trades.insert(index, trade);
    }
}

/// Open, high, low, close and sums of a run of trades.
#[derive(Debug, Clone, Copy)]
pub struct Ohlc {
    /// First price.
    pub open: Decimal,
    /// Highest price.
    pub high: Decimal,
    /// Lowest price.
    pub low: Decimal,
    /// Last price.
    pub close: Decimal,
    /// Σ size, scale 8.
    pub volume: i128,
    /// Σ price · size, scale 16.
    pub turnover: i128,
    /// Σ size of trades whose buyer was the aggressor, scale 8.
    pub buy_volume: i128,
    /// Σ price · size of those, scale 16.
    pub buy_turnover: i128,
    /// How many.
    pub count: usize,
    /// Id of the first.
    pub first_id: i64,
    /// Id of the last.
    pub last_id: i64,
}

impl Ohlc {
    /// Folds trades; `None` when there are none.
    pub fn of(trades: &[Trade]) -> Option<Ohlc> {
        let first = trades.first()?;
        let mut bar = Ohlc {
            open: first.price(),
            high: first.price(),
            low: first.price(),
            close: first.price(),
            volume: 0,
            turnover: 0,
            buy_volume: 0,
            buy_turnover: 0,
            count: trades.len(),
            first_id: first.id,
            last_id: first.id,
        };
        for trade in trades {
            let (price, size) = (trade.price(), trade.size().at_scale(8));
            if price.at_scale(18) > bar.high.at_scale(18) {
                bar.high = price;
            }
            if price.at_scale(18) < bar.low.at_scale(18) {
                bar.low = price;
            }
            bar.close = price;
            bar.last_id = trade.id;
            let turnover = price.at_scale(8) * size;
            bar.volume += size;
            bar.turnover += turnover;
            if !trade.taker_sells {
                bar.buy_volume += size;
                bar.buy_turnover += turnover;
            }
        }
        Some(bar)
    }
}

/// The trades within `[from_us, to_us)`, of trades ordered by time.
pub fn within(trades: &[Trade], from_us: i64, to_us: i64) -> &[Trade] {
    let from = trades.partition_point(|trade| trade.time_us < from_us);
    let to = trades.partition_point(|trade| trade.time_us < to_us);
    &trades[from..to.max(from)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trade(id: i64, price: i64) -> Trade {
        Trade::new(id * 1_000_000, id, Decimal::new(price, 2), Decimal::new(1, 1), id % 2 == 0)
    }

    #[test]
    fn a_trade_is_small() {
        assert_eq!(size_of::<Trade>(), 40);
    }

    #[test]
    fn an_inserted_trade_takes_the_hole_or_moves_the_others_up() {
        let market = Market::new(Venue::Binance, "btc", "usdt", (2, 8), vec![trade(7, 1), trade(8, 2), trade(20, 3)]);
        market.insert(1, trade(0, 5));
        market.insert(3, trade(0, 5));
        let ids: Vec<i64> = market.trades().iter().map(|trade| trade.id).collect();
        assert_eq!(ids, [7, 8, 9, 10, 21]);
    }

    #[test]
    fn folding_sums_sizes_and_sides() {
        let bar = Ohlc::of(&[trade(1, 500), trade(2, 700), trade(3, 600)]).unwrap();
        assert_eq!(
            (bar.open.text(2), bar.high.text(2), bar.low.text(2), bar.close.text(2)),
            ("5.00".into(), "7.00".into(), "5.00".into(), "6.00".into())
        );
        assert_eq!((bar.count, bar.volume, bar.buy_volume), (3, 30_000_000, 20_000_000));
        assert_eq!(bar.turnover, 18_000_000_000_000_000);
    }
}
