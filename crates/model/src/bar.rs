//! OHLCV as *we* built it.

use crate::{Amount, BarKind, Feed, Instrument, Price, Quantity, Timestamp};
use serde::{Deserialize, Serialize};

/// How far a bar can be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default, Hash, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// Written by something newer than this reader.
    #[default]
    Unknown,
    /// Everything the venue published is in it.
    Complete,
    /// There was a hole; it was filled.
    Backfilled,
    /// Trading was halted during the window.
    Halted,
    /// We joined (or a partial import was cut) mid-window.
    PartialOpen,
    /// An open or abandoned hole overlaps.
    Gap,
    /// Nothing traded in an open market; carries the last close (only with `emit_empty`).
    NoTrades,
}

/// What a bar was built from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default, Hash, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum BarSource {
    /// Written by something newer than this reader.
    #[default]
    Unknown,
    /// Trades.
    Trades,
    /// A provider's candles.
    Candles,
}

/// A final bar over `[open_time, close_time)` in event time, or a revision of one. Nothing of the run that built it is in it.
///
/// A bar that what was traded ended (not time) holds trades in the order of the log: `open` is the first of them, `close` the last, `open_time`
/// the first one's event time, moved on where a bar of its kind opened then already, so that it still identifies the bar.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bar {
    /// What was traded.
    pub instrument: Instrument,
    /// What ended it.
    pub interval: BarKind,
    /// Start of the window (inclusive); identifies the bar with instrument, interval and feed.
    pub open_time: Timestamp,
    /// End of the window (exclusive).
    pub close_time: Timestamp,
    /// First price by sequence where known, else event time, else arrival.
    pub open: Price,
    /// Highest price.
    pub high: Price,
    /// Lowest price.
    pub low: Price,
    /// Last price.
    pub close: Price,
    /// Σ size; trades without a reported size count 0.
    pub volume: Quantity,
    /// Σ price × size, rounded half-even to 8 decimals.
    pub turnover: Amount,
    /// Turnover ÷ volume, rounded half-even to 8 decimals; `None` when volume is 0.
    pub vwap: Option<Price>,
    /// Number of trades, cancels taken out.
    pub trade_count: i64,
    /// Volume of trades whose aggressor bought.
    pub buy_volume: Quantity,
    /// Volume of trades whose aggressor sold; buy + sell ≤ volume.
    pub sell_volume: Quantity,
    /// 0 for the first emission, +1 per correction; [`Bar::UNFINISHED`] where it is no result.
    pub revision: i32,
    /// How far it can be trusted.
    pub quality: Quality,
    /// The feed it was built from.
    pub feed: Feed,
    /// What it was built from.
    pub source: BarSource,
    /// Why there is a revision; `None` at revision 0.
    pub revision_reason: Option<String>,
}

impl Bar {
    /// The revision of a bar whose window is still open: it shows what the window holds so far and is no result.
    pub const UNFINISHED: i32 = -1;
}
