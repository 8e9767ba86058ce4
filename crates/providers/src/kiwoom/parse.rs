//! Entry → trade, quote or interruption: time zone, signs, side and exact numbers are settled here, once. Ids: `crates/providers/src/krx.rs`.
//!
//! Next: `connection.rs`.

use super::PROVIDER;
use super::frame::{BookField, InterruptionField, TradeField, Values};
use crate::krx::{korean_date, korean_time, sequence};
use crate::number::{FieldError, price, quantity};
use marketflow_model::{Condition, Conditions, Instrument, Price, Quantity, Quote, Side, Source, Timestamp, Trade};

/// The exchange whose trades are wanted.
const KRX: &str = "1";

/// A trade; `None`: it happened on another exchange. The frame has no date, so it is that of its receipt in Korea.
pub(super) fn trade(values: &Values<'_>, instrument: &Instrument, received: Timestamp) -> Result<Option<Trade>, FieldError> {
    let field = |field| values.trade(field);
    if !matches!(field(TradeField::Exchange), "" | KRX) {
        return Ok(None);
    }
    let date = korean_date(received);
    let event_time = korean_time("20", &date, field(TradeField::Time))?;
    let sequence = sequence(&date, "13", field(TradeField::DayVolume))?;
    let size = field(TradeField::Size);
    let side = match size.as_bytes().first() {
        Some(b'+') => Side::Buy,
        Some(b'-') => Side::Sell,
        _ => Side::Unknown,
    };
    // What nobody took an auction gave.
    let conditions = if side == Side::Unknown { Conditions::NONE.with(Condition::Auction) } else { Conditions::NONE };
    Ok(Some(Trade {
        instrument: instrument.clone(),
        feed: PROVIDER.feed(),
        event_time,
        receive_time: received,
        price: price("10", unsigned(field(TradeField::Price)))?,
        size: Some(quantity("15", unsigned(size))?),
        side,
        trade_id: Some(sequence.to_string()),
        sequence: Some(sequence),
        import_row: None,
        conditions,
        source: Source::Websocket,
    }))
}

/// The best level.
pub(super) fn quote(values: &Values<'_>, instrument: &Instrument, received: Timestamp) -> Result<Quote, FieldError> {
    let level = |at: BookField, size: BookField| -> Result<(Option<Price>, Option<Quantity>), FieldError> {
        let at = price("41, 51", unsigned(values.book(at)))?;
        let size = quantity("61, 71", unsigned(values.book(size)))?;
        Ok(if at.is_zero() { (None, None) } else { (Some(at), Some(size)) })
    };
    let (bid_price, bid_size) = level(BookField::BidPrice, BookField::BidSize)?;
    let (ask_price, ask_size) = level(BookField::AskPrice, BookField::AskSize)?;
    Ok(Quote {
        instrument: instrument.clone(),
        feed: PROVIDER.feed(),
        event_time: korean_time("21", &korean_date(received), values.book(BookField::Time))?,
        receive_time: received,
        bid_price,
        bid_size,
        ask_price,
        ask_size,
        sequence: None,
    })
}

/// Whether an interruption goes on, and since when it does or does not: a release in the future is a plan.
pub(super) fn interruption(values: &Values<'_>, received: Timestamp) -> Result<(bool, Timestamp), FieldError> {
    let date = korean_date(received);
    let triggered = korean_time("1223", &date, values.interruption(InterruptionField::TriggerTime))?;
    let release = values.interruption(InterruptionField::ReleaseTime);
    let released = if matches!(release, "" | "000000") { None } else { Some(korean_time("1224", &date, release)?) };
    Ok(match released.filter(|released| *released <= received && triggered <= *released) {
        Some(released) => (false, released),
        None => (true, triggered),
    })
}

/// Without the signs that tell a direction.
pub(super) fn unsigned(text: &str) -> &str {
    text.trim_start_matches(['+', '-'])
}
