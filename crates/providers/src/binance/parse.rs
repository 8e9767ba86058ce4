//! Payload → record: units, side and exact decimals are settled here, once.
//!
//! Next: `connection.rs`.

use super::PROVIDER;
use super::frame::{BookTickerPayload, HistoricalRow, Identity, TradePayload};
use crate::Malformed;
use crate::number::{FieldError, digits, integer, price, quantity, shape_error, shown, time};
use marketflow_model::{Conditions, Instrument, Price, Quantity, Quote, Side, Source, Timestamp, Trade};

/// A trade from an `@trade` payload.
pub(super) fn trade(payload: &str, instrument: &Instrument, received: Timestamp) -> Result<Trade, FieldError> {
    let row: TradePayload<'_> = serde_json::from_str(payload).map_err(|e| shape_error(payload, &e))?;
    same_symbol(&row.s, instrument)?;
    let id = integer("t", digits(row.t))?;
    Ok(Trade {
        instrument: instrument.clone(),
        feed: PROVIDER.feed(),
        event_time: either_unit("T", digits(row.trade_time))?,
        receive_time: received,
        price: price("p", digits(row.p))?,
        size: Some(quantity("q", digits(row.q))?),
        side: side(row.m),
        trade_id: Some(id.to_string()),
        sequence: Some(id),
        import_row: None,
        conditions: Conditions::NONE,
        source: Source::Websocket,
    })
}

/// The best bid and ask of a `@bookTicker` payload, stamped with our time for want of the venue's.
pub(super) fn quote(payload: &str, instrument: &Instrument, received: Timestamp) -> Result<Quote, FieldError> {
    let row: BookTickerPayload<'_> = serde_json::from_str(payload).map_err(|e| shape_error(payload, &e))?;
    same_symbol(&row.s, instrument)?;
    let (bid_price, bid_size) = level(price("b", digits(row.b))?, quantity("B", digits(row.bid_quantity))?);
    let (ask_price, ask_size) = level(price("a", digits(row.a))?, quantity("A", digits(row.ask_quantity))?);
    Ok(Quote {
        instrument: instrument.clone(),
        feed: PROVIDER.feed(),
        event_time: received,
        receive_time: received,
        bid_price,
        bid_size,
        ask_price,
        ask_size,
        sequence: Some(integer("u", digits(row.u))?),
    })
}

/// A trade from a row of `historicalTrades`.
pub(super) fn historical(text: &str, instrument: &Instrument, received: Timestamp) -> Result<Trade, FieldError> {
    let row: HistoricalRow<'_> = serde_json::from_str(text).map_err(|e| shape_error(text, &e))?;
    let id = integer("id", digits(row.id))?;
    Ok(Trade {
        instrument: instrument.clone(),
        feed: PROVIDER.feed(),
        event_time: either_unit("time", digits(row.time))?,
        receive_time: received,
        price: price("price", digits(row.price))?,
        size: Some(quantity("qty", digits(row.qty))?),
        side: side(row.buyer_is_maker),
        trade_id: Some(id.to_string()),
        sequence: Some(id),
        import_row: None,
        conditions: Conditions::NONE,
        source: Source::Rest,
    })
}

/// Id and event time of a trade that cannot be kept otherwise, from a payload or a row, as far as they can be read.
pub(super) fn identity(text: &str) -> (Option<i64>, Option<Timestamp>) {
    let Ok(parts) = serde_json::from_str::<Identity<'_>>(text) else { return (None, None) };
    let id = parts.t.or(parts.id).and_then(|number| integer("id", digits(number)).ok());
    (id, parts.trade_time.or(parts.time).and_then(|number| either_unit("time", digits(number)).ok()))
}

/// A side without orders is written as zeros.
fn level(price: Price, size: Quantity) -> (Option<Price>, Option<Quantity>) {
    if price.is_zero() && size.is_zero() { (None, None) } else { (Some(price), Some(size)) }
}

const fn side(buyer_is_maker: bool) -> Side {
    if buyer_is_maker { Side::Sell } else { Side::Buy }
}

/// Milliseconds, or microseconds from 10^15 on.
fn either_unit(field: &str, text: &str) -> Result<Timestamp, FieldError> {
    let count = integer(field, text)?;
    time(field, count, if count >= 1_000_000_000_000_000 { 1 } else { 1_000 })
}

fn same_symbol(symbol: &str, instrument: &Instrument) -> Result<(), FieldError> {
    if symbol == instrument.symbol() {
        return Ok(());
    }
    Err((Malformed::BadField, format!("symbol {} on the stream of {instrument}", shown(symbol))))
}
