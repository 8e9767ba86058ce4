//! Record → trade or quote: time zone, side, auctions and exact numbers are settled here, once. Ids: `crates/providers/src/krx.rs`.
//!
//! Next: `connection.rs`.

use super::PROVIDER;
use super::frame::{BookField, Record, TradeField};
pub(super) use crate::krx::korean_time;
use crate::krx::{korean_date, sequence};
use crate::number::{FieldError, price, quantity};
use marketflow_model::{Condition, Conditions, Instrument, Price, Quantity, Quote, Side, Source, Timestamp, Trade};

/// What a trade record says.
pub(super) enum Printed {
    Trade(Trade),
    /// A price an auction is expected to give: nobody traded.
    Expected,
}

pub(super) fn trade(record: Record<'_>, instrument: &Instrument, received: Timestamp) -> Result<Printed, FieldError> {
    let field = |field| record.trade(field);
    if !matches!(field(TradeField::Expected), "" | "0") {
        return Ok(Printed::Expected);
    }
    let date = field(TradeField::Date);
    let event_time = korean_time("STCK_CNTG_HOUR", date, field(TradeField::Time))?;
    let sequence = sequence(date, "ACML_VOL", field(TradeField::DayVolume))?;
    let phase = field(TradeField::MarketPhase).as_bytes();
    let side = field(TradeField::Side);
    // What an auction prints has no aggressor: the opening (3) and, by the phase's second digit, the closing price.
    let auction = side == "3" || phase.get(1) == Some(&b'1');
    let conditions = if auction { Conditions::NONE.with(Condition::Auction) } else { Conditions::NONE };
    Ok(Printed::Trade(Trade {
        instrument: instrument.clone(),
        feed: PROVIDER.feed(),
        event_time,
        receive_time: received,
        price: price("STCK_PRPR", field(TradeField::Price))?,
        size: Some(quantity("CNTG_VOL", field(TradeField::Size))?),
        side: match side {
            "1" if !auction => Side::Buy,
            "5" if !auction => Side::Sell,
            _ => Side::Unknown,
        },
        trade_id: Some(sequence.to_string()),
        sequence: Some(sequence),
        import_row: None,
        conditions,
        source: Source::Websocket,
    }))
}

/// The best level; the frame has no date, so it is that of its receipt in Korea.
pub(super) fn quote(record: Record<'_>, instrument: &Instrument, received: Timestamp) -> Result<Quote, FieldError> {
    let level = |at: BookField, size: BookField| -> Result<(Option<Price>, Option<Quantity>), FieldError> {
        let (at, size) = (price("ASKP1, BIDP1", record.book(at))?, quantity("ASKP_RSQN1, BIDP_RSQN1", record.book(size))?);
        Ok(if at.is_zero() { (None, None) } else { (Some(at), Some(size)) })
    };
    let (bid_price, bid_size) = level(BookField::BidPrice, BookField::BidSize)?;
    let (ask_price, ask_size) = level(BookField::AskPrice, BookField::AskSize)?;
    Ok(Quote {
        instrument: instrument.clone(),
        feed: PROVIDER.feed(),
        event_time: korean_time("BSOP_HOUR", &korean_date(received), record.book(BookField::Time))?,
        receive_time: received,
        bid_price,
        bid_size,
        ask_price,
        ask_size,
        sequence: None,
    })
}
