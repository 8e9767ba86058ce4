//! Frames and rows exactly as Binance writes them.
//!
//! On `/stream` data frames are `{"stream":"btcusdt@trade","data":{…}}`, on `/ws` the bare payload; answers to requests are bare on both.
//! Times are milliseconds, or microseconds when asked for: told apart by size. Unknown keys are tolerated.
//! **Source**: github.com/binance/binance-spot-api-docs, `web-socket-streams.md` and `rest-api.md`, read 2026-11.
//!
//! Next: `parse.rs`.

use crate::number::Number;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// What tells the kinds of frames apart.
#[derive(Debug, Deserialize)]
pub(super) struct ServerFrame<'a> {
    #[serde(borrow, default)]
    pub(super) stream: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
    /// Of the request answered.
    #[serde(borrow, default)]
    pub(super) id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) code: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) msg: Option<Cow<'a, str>>,
    /// Older servers wrap the error.
    #[serde(borrow, default)]
    pub(super) error: Option<ErrorBody<'a>>,
    /// Event type of a bare payload.
    #[serde(borrow, default)]
    pub(super) e: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) s: Option<Cow<'a, str>>,
    /// Update id: only best-quote payloads have one and no event type.
    #[serde(borrow, default)]
    pub(super) u: Option<&'a RawValue>,
}

/// `{"code":2,"msg":"…"}`, bare or wrapped.
#[derive(Debug, Deserialize)]
pub(super) struct ErrorBody<'a> {
    #[serde(borrow, default)]
    pub(super) code: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) msg: Option<Cow<'a, str>>,
}

/// `<symbol>@trade`: `{"e":"trade","E":…,"s":"BNBBTC","t":12345,"p":"0.001","q":"100","T":…,"m":true,"M":true}`.
///
/// `t` rises by one per symbol. `m`: the buyer was the maker, so the seller was the aggressor.
#[derive(Debug, Deserialize)]
pub(super) struct TradePayload<'a> {
    #[serde(borrow)]
    pub(super) s: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) t: Number<'a>,
    #[serde(borrow)]
    pub(super) p: Number<'a>,
    #[serde(borrow)]
    pub(super) q: Number<'a>,
    #[serde(borrow, rename = "T")]
    pub(super) trade_time: Number<'a>,
    pub(super) m: bool,
}

/// `<symbol>@bookTicker`: `{"u":400900217,"s":"BNBUSDT","b":"25.35","B":"31.21","a":"25.36","A":"40.66"}`. It carries no time.
#[derive(Debug, Deserialize)]
pub(super) struct BookTickerPayload<'a> {
    #[serde(borrow)]
    pub(super) u: Number<'a>,
    #[serde(borrow)]
    pub(super) s: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) b: Number<'a>,
    #[serde(borrow, rename = "B")]
    pub(super) bid_quantity: Number<'a>,
    #[serde(borrow)]
    pub(super) a: Number<'a>,
    #[serde(borrow, rename = "A")]
    pub(super) ask_quantity: Number<'a>,
}

/// One row of `GET /api/v3/historicalTrades`.
#[derive(Debug, Deserialize)]
pub(super) struct HistoricalRow<'a> {
    #[serde(borrow)]
    pub(super) id: Number<'a>,
    #[serde(borrow)]
    pub(super) price: Number<'a>,
    #[serde(borrow)]
    pub(super) qty: Number<'a>,
    #[serde(borrow)]
    pub(super) time: Number<'a>,
    #[serde(rename = "isBuyerMaker")]
    pub(super) buyer_is_maker: bool,
}

/// One row of `GET /api/v3/aggTrades`, of which only the first trade's id is wanted.
#[derive(Debug, Deserialize)]
pub(super) struct AggregateRow<'a> {
    #[serde(borrow)]
    pub(super) f: Number<'a>,
}

/// What names a trade, in a payload or a row.
#[derive(Debug, Deserialize)]
pub(super) struct Identity<'a> {
    #[serde(borrow, default)]
    pub(super) t: Option<Number<'a>>,
    #[serde(borrow, default)]
    pub(super) id: Option<Number<'a>>,
    #[serde(borrow, rename = "T", default)]
    pub(super) trade_time: Option<Number<'a>>,
    #[serde(borrow, default)]
    pub(super) time: Option<Number<'a>>,
}
