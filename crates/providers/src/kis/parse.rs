//! Record → trade or quote: time zone, side, auctions and exact numbers are settled here, once.
//!
//! KIS gives a trade no id. What it gives is the day's volume after it, which rises by each trade's size: so a share of the day is an id, a trade
//! stands for as many of them as it has shares, and a hole in them is a hole in the trades ([`crate::Repair::CumulativeVolume`]).
//!
//! Next: `connection.rs`.

use super::PROVIDER;
use super::frame::{BookField, Record, TradeField};
use crate::Malformed;
use crate::number::{FieldError, integer, price, quantity, shown};
use marketflow_model::{Condition, Conditions, Instrument, Price, Quantity, Quote, Side, Source, Timestamp, Trade};

/// No instrument trades so many shares a day: the number of a share within the day is written behind the date, `YYYYMMDD` and eleven digits.
pub(super) const SHARES_PER_DAY_MAX: i64 = 100_000_000_000;

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
    let day_volume = integer("ACML_VOL", field(TradeField::DayVolume))?;
    if !(0..SHARES_PER_DAY_MAX).contains(&day_volume) {
        return Err((Malformed::BadNumber, format!("ACML_VOL: {day_volume} shares in a day")));
    }
    let sequence = integer("BSOP_DATE", date)? * SHARES_PER_DAY_MAX + day_volume;
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

/// `YYYYMMDD` and `HHMMSS` in Korea, which is nine hours ahead of UTC all year (since 1988).
pub(super) fn korean_time(field: &str, date: &str, time: &str) -> Result<Timestamp, FieldError> {
    let bad = || (Malformed::BadTime, format!("{field}: no time in Korea: {} {}", shown(date), shown(time)));
    let digits = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(date, 8) || !digits(time, 6) {
        return Err(bad());
    }
    let (year, month, day) = (&date[..4], &date[4..6], &date[6..]);
    if !("2009".."2100").contains(&year) {
        return Err(bad());
    }
    let text = format!("{year}-{month}-{day}T{}:{}:{}+09:00", &time[..2], &time[2..4], &time[4..]);
    Timestamp::parse(&text).map_err(|_| bad())
}

/// The date in Korea, `YYYYMMDD`.
fn korean_date(at: Timestamp) -> String {
    const NINE_HOURS_MICROS: i64 = 9 * 3_600_000_000;
    let text = at.plus_micros(NINE_HOURS_MICROS).to_string();
    text.chars().take(10).filter(|c| *c != '-').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_koreas_and_must_be_times() {
        let text = |date, time| korean_time("t", date, time).map(|t| t.to_string());
        assert_eq!(text("20260724", "090000").unwrap(), "2026-07-24T00:00:00Z");
        for (date, time) in
            [("20260724", "250000"), ("20261324", "090000"), ("2026072", "090000"), ("20260724", "0900é"), ("", "")]
        {
            assert_eq!(text(date, time).unwrap_err().0, Malformed::BadTime, "{date} {time}");
        }
        let midnight_in_korea = Timestamp::parse("2026-07-23T15:00:00Z").unwrap();
        assert_eq!(
            (korean_date(midnight_in_korea), korean_date(midnight_in_korea.plus_micros(-1))),
            ("20260724".into(), "20260723".into())
        );
    }
}
