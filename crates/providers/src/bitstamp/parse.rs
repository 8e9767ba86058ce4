//! Frame → record: units, side and exact decimals are settled here, once.
//!
//! Next: `connection.rs`.

use super::PROVIDER;
use super::frame::{BookData, Identity, TradeData, TransactionRow};
use crate::Malformed;
use crate::number::{FieldError, Number, digits, integer, price, quantity, shape_error, time};
use marketflow_model::{Conditions, Instrument, Price, Quantity, Quote, Side, Source, Timestamp, Trade};

/// A trade from the `data` of a `trade` event.
pub(super) fn trade(data: &str, instrument: &Instrument, received: Timestamp) -> Result<Trade, FieldError> {
    let row: TradeData<'_> = serde_json::from_str(data).map_err(|e| shape_error(data, &e))?;
    let amount = row.amount_str.or(row.amount).ok_or_else(|| missing("amount_str"))?;
    let price_text = row.price_str.or(row.price).ok_or_else(|| missing("price_str"))?;
    let id = integer("id", digits(row.id))?;
    Ok(Trade {
        instrument: instrument.clone(),
        feed: PROVIDER.feed(),
        event_time: time("microtimestamp", integer("microtimestamp", digits(row.microtimestamp))?, 1)?,
        receive_time: received,
        price: price("price_str", digits(price_text))?,
        size: Some(quantity("amount_str", digits(amount))?),
        side: side(row.side),
        trade_id: Some(id.to_string()),
        sequence: Some(id),
        import_row: None,
        conditions: Conditions::NONE,
        source: Source::Websocket,
    })
}

/// The best bid and ask of a book snapshot.
pub(super) fn quote(data: &str, instrument: &Instrument, received: Timestamp) -> Result<Quote, FieldError> {
    let book: BookData<'_> = serde_json::from_str(data).map_err(|e| shape_error(data, &e))?;
    let (bid_price, bid_size) = level("bids", book.bids.0)?;
    let (ask_price, ask_size) = level("asks", book.asks.0)?;
    Ok(Quote {
        instrument: instrument.clone(),
        feed: PROVIDER.feed(),
        event_time: time("microtimestamp", integer("microtimestamp", digits(book.microtimestamp))?, 1)?,
        receive_time: received,
        bid_price,
        bid_size,
        ask_price,
        ask_size,
        sequence: None,
    })
}

/// A trade from a row of the transactions page. The time is that of the second the trade fell into.
pub(super) fn transaction(text: &str, instrument: &Instrument, received: Timestamp) -> Result<Trade, FieldError> {
    let row: TransactionRow<'_> = serde_json::from_str(text).map_err(|e| shape_error(text, &e))?;
    let id = integer("tid", digits(row.tid))?;
    Ok(Trade {
        instrument: instrument.clone(),
        feed: PROVIDER.feed(),
        event_time: time("date", integer("date", digits(row.date))?, 1_000_000)?,
        receive_time: received,
        price: price("price", digits(row.price))?,
        size: Some(quantity("amount", digits(row.amount))?),
        side: side(row.side),
        trade_id: Some(id.to_string()),
        sequence: Some(id),
        import_row: None,
        conditions: Conditions::NONE,
        source: Source::Rest,
    })
}

/// Id and event time of a trade that cannot be kept otherwise, from a frame's `data` or a row, as far as they can be read.
pub(super) fn identity(text: &str) -> (Option<i64>, Option<Timestamp>) {
    let Ok(parts) = serde_json::from_str::<Identity<'_>>(text) else { return (None, None) };
    let number = |field: Option<Number<'_>>| field.and_then(|number| integer("id", digits(number)).ok());
    let micros = number(parts.microtimestamp).and_then(|count| time("microtimestamp", count, 1).ok());
    let seconds = number(parts.date).and_then(|count| time("date", count, 1_000_000).ok());
    (number(parts.id.or(parts.tid)), micros.or(seconds))
}

type Level = (Option<Price>, Option<Quantity>);

fn level(side: &str, first: Option<(Number<'_>, Number<'_>)>) -> Result<Level, FieldError> {
    let Some((at, amount)) = first else { return Ok((None, None)) };
    Ok((Some(price(side, digits(at))?), Some(quantity(side, digits(amount))?)))
}

/// Anything but the two documented values is a side the venue did not tell.
fn side(code: Option<Number<'_>>) -> Side {
    match code.map(digits) {
        Some("0") => Side::Buy,
        Some("1") => Side::Sell,
        _ => Side::Unknown,
    }
}

fn missing(field: &str) -> FieldError {
    (Malformed::BadField, format!("missing field `{field}`"))
}
