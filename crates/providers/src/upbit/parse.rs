//! Frame → record: units, side and exact decimals are settled here, once.
//!
//! Next: `connection.rs`.

use super::PROVIDER;
use super::frame::{BookFrame, BookUnit, Identity, TickRow, TradeFrame};
use crate::number::{FieldError, Number, digits, integer, price, quantity, shape_error, time};
use marketflow_model::{Conditions, Instrument, Price, Quantity, Quote, Side, Source, Timestamp, Trade};

/// A trade from a `trade` frame.
pub(super) fn trade(text: &str, instrument: &Instrument, received: Timestamp) -> Result<Trade, FieldError> {
    let row: TradeFrame<'_> = serde_json::from_str(text).map_err(|e| shape_error(text, &e))?;
    let executed = Executed {
        at: ("trade_timestamp", row.trade_timestamp),
        price: row.trade_price,
        volume: row.trade_volume,
        side: side(row.ask_bid.as_deref()),
        id: row.sequential_id,
    };
    executed.into_trade(instrument, received, Source::Websocket)
}

/// A trade from a row of the list of trades.
pub(super) fn tick(text: &str, instrument: &Instrument, received: Timestamp) -> Result<Trade, FieldError> {
    let row: TickRow<'_> = serde_json::from_str(text).map_err(|e| shape_error(text, &e))?;
    let executed = Executed {
        at: ("timestamp", row.timestamp),
        price: row.trade_price,
        volume: row.trade_volume,
        side: side(row.ask_bid.as_deref()),
        id: row.sequential_id,
    };
    executed.into_trade(instrument, received, Source::Rest)
}

/// What frame and row have in common.
struct Executed<'a> {
    at: (&'static str, Number<'a>),
    price: Number<'a>,
    volume: Number<'a>,
    side: Side,
    id: Number<'a>,
}

impl Executed<'_> {
    fn into_trade(self, instrument: &Instrument, received: Timestamp, source: Source) -> Result<Trade, FieldError> {
        let id = integer("sequential_id", digits(self.id))?;
        Ok(Trade {
            instrument: instrument.clone(),
            feed: PROVIDER.feed(),
            event_time: instant(self.at.0, self.at.1)?,
            receive_time: received,
            price: price("trade_price", digits(self.price))?,
            size: Some(quantity("trade_volume", digits(self.volume))?),
            side: self.side,
            trade_id: Some(id.to_string()),
            sequence: Some(id),
            import_row: None,
            conditions: Conditions::NONE,
            source,
        })
    }
}

/// The best bid and ask of an `orderbook` frame.
pub(super) fn quote(text: &str, instrument: &Instrument, received: Timestamp) -> Result<Quote, FieldError> {
    let book: BookFrame<'_> = serde_json::from_str(text).map_err(|e| shape_error(text, &e))?;
    let best = book.orderbook_units.first();
    let (bid_price, bid_size) = level(best.map(|unit: &BookUnit<'_>| (unit.bid_price, unit.bid_size)))?;
    let (ask_price, ask_size) = level(best.map(|unit| (unit.ask_price, unit.ask_size)))?;
    Ok(Quote {
        instrument: instrument.clone(),
        feed: PROVIDER.feed(),
        event_time: instant("timestamp", book.timestamp)?,
        receive_time: received,
        bid_price,
        bid_size,
        ask_price,
        ask_size,
        sequence: None,
    })
}

/// Id and event time of a trade that cannot be kept otherwise, from a frame or a row, as far as they can be read.
pub(super) fn identity(text: &str) -> (Option<i64>, Option<Timestamp>) {
    let Ok(parts) = serde_json::from_str::<Identity<'_>>(text) else { return (None, None) };
    let id = parts.sequential_id.and_then(|number| integer("sequential_id", digits(number)).ok());
    (id, parts.trade_timestamp.or(parts.timestamp).and_then(|number| instant("timestamp", number).ok()))
}

type Level = (Option<Price>, Option<Quantity>);

/// A side without orders is written as zeros.
fn level(best: Option<(Number<'_>, Number<'_>)>) -> Result<Level, FieldError> {
    let Some((at, size)) = best else { return Ok((None, None)) };
    let (at, size) = (price("orderbook_units", digits(at))?, quantity("orderbook_units", digits(size))?);
    Ok(if at.is_zero() && size.is_zero() { (None, None) } else { (Some(at), Some(size)) })
}

/// Anything but the two documented values is a side the venue did not tell.
fn side(ask_bid: Option<&str>) -> Side {
    match ask_bid {
        Some("BID") => Side::Buy,
        Some("ASK") => Side::Sell,
        _ => Side::Unknown,
    }
}

/// Milliseconds; on some market of 2023 microseconds, told apart by size.
fn instant(field: &str, number: Number<'_>) -> Result<Timestamp, FieldError> {
    let count = integer(field, digits(number))?;
    time(field, count, if count >= 1_000_000_000_000_000 { 1 } else { 1_000 })
}
