//! OHLCV as a provider sent it (분봉).

use crate::{Amount, Feed, Instrument, Interval, Price, Quantity, Source, Timestamp};
use serde::{Deserialize, Serialize};

/// A provider's candle over `[open_time, open_time + interval)`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Candle {
    /// What was traded.
    pub instrument: Instrument,
    /// Who told us, or which import.
    pub feed: Feed,
    /// Length of the window.
    pub interval: Interval,
    /// Start of the window.
    pub open_time: Timestamp,
    /// When it reached us.
    pub receive_time: Timestamp,
    /// First price.
    pub open: Price,
    /// Highest price.
    pub high: Price,
    /// Lowest price.
    pub low: Price,
    /// Last price.
    pub close: Price,
    /// Volume in units of the instrument; `None` = not reported.
    pub volume: Option<Quantity>,
    /// Turnover in the quote currency; `None` = not reported.
    pub turnover: Option<Amount>,
    /// Number of trades; `None` = not reported.
    pub trade_count: Option<i64>,
    /// Volume bought by aggressors; `None` = not reported.
    pub buy_volume: Option<Quantity>,
    /// Row of an import, counted from 1; `None` for live records.
    pub import_row: Option<i64>,
    /// Whether the provider says the window is over.
    pub closed: bool,
    /// By which way it came.
    pub source: Source,
}
