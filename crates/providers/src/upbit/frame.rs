//! Frames and rows exactly as Upbit writes them.
//!
//! Server frames are binary and hold UTF-8 JSON. Numbers are bare, rendered as Java does: trailing zeros, `.0`, exponents (`6E-8`). The order of
//! keys is not fixed and unknown ones are tolerated.
//! **Source**: docs.upbit.com, pages on WebSocket connection, trade and orderbook, and on the list of pair trades, read 2026-11.
//!
//! Next: `parse.rs`.

use crate::number::Number;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// What tells the kinds of frames apart.
#[derive(Debug, Deserialize)]
pub(super) struct ServerFrame<'a> {
    /// `trade`, `orderbook`, …
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) code: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) error: Option<ErrorBody<'a>>,
    /// `UP`, sent every ten seconds to whoever once sent `PING`.
    #[serde(borrow, default)]
    pub(super) status: Option<&'a RawValue>,
    /// `LIST_SUBSCRIPTIONS`.
    #[serde(borrow, default)]
    pub(super) method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) result: Option<Vec<Carried<'a>>>,
}

/// `{"error":{"message":"…","name":"WRONG_FORMAT"}}`; by request the name may be a number.
#[derive(Debug, Deserialize)]
pub(super) struct ErrorBody<'a> {
    #[serde(borrow, default)]
    pub(super) name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) message: Option<Cow<'a, str>>,
}

/// What a connection carries: `{"type":"orderbook","codes":["KRW-BTC.1"],"level":0}`.
#[derive(Debug, Deserialize)]
pub(super) struct Carried<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) codes: Vec<Cow<'a, str>>,
}

/// `{"type":"trade","code":"KRW-BTC","trade_timestamp":1730336862047,"trade_price":100473000.0,"trade_volume":1.4E-4,"ask_bid":"BID",
/// "sequential_id":17303368620470000,…}`.
///
/// `ask_bid` is the taker's side. `sequential_id` names the trade; newer ones are the trade's milliseconds times 10,000 and a count.
#[derive(Debug, Deserialize)]
pub(super) struct TradeFrame<'a> {
    #[serde(borrow)]
    pub(super) trade_timestamp: Number<'a>,
    #[serde(borrow)]
    pub(super) trade_price: Number<'a>,
    #[serde(borrow)]
    pub(super) trade_volume: Number<'a>,
    #[serde(borrow, default)]
    pub(super) ask_bid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) sequential_id: Number<'a>,
}

/// `{"type":"orderbook","code":"KRW-BTC","timestamp":…,"orderbook_units":[{"ask_price":…,"bid_price":…,"ask_size":…,"bid_size":…}],…}`, best first.
#[derive(Debug, Deserialize)]
pub(super) struct BookFrame<'a> {
    #[serde(borrow)]
    pub(super) timestamp: Number<'a>,
    #[serde(borrow)]
    pub(super) orderbook_units: Vec<BookUnit<'a>>,
}

/// One level of both sides; zeros where a side is shorter.
#[derive(Debug, Deserialize)]
pub(super) struct BookUnit<'a> {
    #[serde(borrow)]
    pub(super) ask_price: Number<'a>,
    #[serde(borrow)]
    pub(super) bid_price: Number<'a>,
    #[serde(borrow)]
    pub(super) ask_size: Number<'a>,
    #[serde(borrow)]
    pub(super) bid_size: Number<'a>,
}

/// One row of `GET /v1/trades/ticks`.
#[derive(Debug, Deserialize)]
pub(super) struct TickRow<'a> {
    #[serde(borrow)]
    pub(super) timestamp: Number<'a>,
    #[serde(borrow)]
    pub(super) trade_price: Number<'a>,
    #[serde(borrow)]
    pub(super) trade_volume: Number<'a>,
    #[serde(borrow, default)]
    pub(super) ask_bid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) sequential_id: Number<'a>,
}

/// What names a trade, in a frame or a row.
#[derive(Debug, Deserialize)]
pub(super) struct Identity<'a> {
    #[serde(borrow, default)]
    pub(super) sequential_id: Option<Number<'a>>,
    #[serde(borrow, default)]
    pub(super) trade_timestamp: Option<Number<'a>>,
    #[serde(borrow, default)]
    pub(super) timestamp: Option<Number<'a>>,
}
