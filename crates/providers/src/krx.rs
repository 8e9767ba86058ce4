//! What brokers of the Korea Exchange have in common: Korean time, short codes, and ids made of the day's volume.
//!
//! No broker gives a trade an id. What each gives is the day's volume after it, which rises by each trade's size: so a share of the day is an id, a
//! trade stands for as many of them as it has shares, and a hole in them is a hole in the trades ([`crate::Repair::CumulativeVolume`]). The
//! exchange counts the volume, not the broker: two brokers give a trade the same id.
//!
//! Next: `crates/providers/src/kis/parse.rs`, `crates/providers/src/kiwoom/parse.rs`.

use crate::number::{FieldError, integer, shown};
use crate::{Event, Malformed, Provider, Repair};
use jiff::civil::Date;
use marketflow_model::{Instrument, Quote, Timestamp, Trade};
use std::collections::BTreeMap;
use std::time::Duration;

/// Venue part of its instruments.
pub(crate) const VENUE: &str = "KRX";

/// No instrument trades so many shares a day: the number of a share within the day is written behind the date, `YYYYMMDD` and eleven digits.
const SHARES_PER_DAY_MAX: i64 = 100_000_000_000;

/// Times are whole seconds.
pub(crate) const REPAIR: Repair =
    Repair::CumulativeVolume { shares_per_day_max: SHARES_PER_DAY_MAX, resolution: Duration::from_secs(1) };

/// Short codes have six characters, today also letters (`0080G0`).
pub(crate) fn accepts(instrument: &Instrument) -> bool {
    let symbol = instrument.symbol();
    let code = symbol.len() == 6 && symbol.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    instrument.venue() == VENUE && code
}

/// A trade's place: its date (`YYYYMMDD`) and the day's volume after it.
pub(crate) fn sequence(date: &str, field: &str, day_volume: &str) -> Result<i64, FieldError> {
    let volume = integer(field, day_volume)?;
    if !(0..SHARES_PER_DAY_MAX).contains(&volume) {
        return Err((Malformed::BadNumber, format!("{field}: {volume} shares in a day")));
    }
    Ok(integer("date", date)? * SHARES_PER_DAY_MAX + volume)
}

/// `YYYYMMDD` and `HHMMSS` in Korea, which is nine hours ahead of UTC all year (since 1988).
pub(crate) fn korean_time(field: &str, date: &str, time: &str) -> Result<Timestamp, FieldError> {
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

/// A date of `YYYYMMDD`: all eight digits, or one that was cut would be another day.
pub(crate) fn date(text: &str) -> Option<Date> {
    Some(text).filter(|text| text.len() == 8).and_then(|text| Date::strptime("%Y%m%d", text).ok())
}

/// The instant a day begins in Korea.
pub(crate) fn midnight(date: Date) -> Option<Timestamp> {
    korean_time("date", &date.strftime("%Y%m%d").to_string(), "000000").ok()
}

/// `YYYYMMDD` as `YYYY-MM-DD`, where it is a date.
pub(crate) fn dashed(text: &str) -> Option<String> {
    date(text).map(|date| date.to_string())
}

/// The start of a day in Korea, `YYYYMMDD`; `None` where nothing or zeros stand.
pub(crate) fn korean_day(field: &str, date: &str) -> Result<Option<Timestamp>, FieldError> {
    if date.bytes().all(|digit| matches!(digit, b'0' | b' ')) {
        return Ok(None);
    }
    let bad = || (Malformed::BadTime, format!("{field}: no day: {}", shown(date)));
    let day = dashed(date).ok_or_else(bad)?;
    Timestamp::parse(&format!("{day}T00:00:00+09:00")).map(Some).map_err(|_| bad())
}

/// The date in Korea, `YYYYMMDD`.
pub(crate) fn korean_date(at: Timestamp) -> String {
    korean_date_and_time(at).0
}

/// `YYYYMMDD` and `HHMMSS` in Korea.
pub(crate) fn korean_date_and_time(at: Timestamp) -> (String, String) {
    const NINE_HOURS_MICROS: i64 = 9 * 3_600_000_000;
    let text: String = at.plus_micros(NINE_HOURS_MICROS).to_string().chars().filter(char::is_ascii_digit).take(14).collect();
    let (date, time) = text.split_at(8);
    (date.to_owned(), time.to_owned())
}

/// What one connection has seen of each instrument: its last share of the day, and its last book.
#[derive(Debug, Default)]
pub(crate) struct LastSeen {
    shares: BTreeMap<Instrument, i64>,
    books: BTreeMap<Instrument, Timestamp>,
}

impl LastSeen {
    /// A trade, and before it the hole it shows.
    pub(crate) fn trade(&mut self, provider: &Provider, trade: Trade, out: &mut Vec<Event>) {
        if let Some((first, last)) = provider.ids(&trade) {
            match self.shares.get_mut(&trade.instrument) {
                Some(before) => {
                    if let Some(after) = provider.missing_after(*before, first) {
                        out.push(Event::Missing { instrument: trade.instrument.clone(), after, before: first });
                    }
                    *before = last.max(*before);
                }
                None => _ = self.shares.insert(trade.instrument.clone(), last),
            }
        }
        out.push(Event::Trade(trade));
    }

    /// A book that is no older than the last, and what its time proves.
    pub(crate) fn quote(&mut self, quote: Quote, out: &mut Vec<Event>) {
        let last = self.books.entry(quote.instrument.clone()).or_insert(Timestamp::MIN);
        if quote.event_time < *last {
            out.push(Event::Ignored);
            return;
        }
        *last = quote.event_time;
        let through = quote.event_time;
        out.push(Event::Quote(quote));
        out.push(Event::Evidence { through });
    }

    /// Nothing more is asked of the instrument.
    pub(crate) fn forget(&mut self, instrument: &Instrument) {
        self.shares.remove(instrument);
    }
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

    #[test]
    fn instruments_are_the_exchanges_short_codes() {
        let check = |text: &str, expected: bool| assert_eq!(accepts(&text.parse().unwrap()), expected, "{text}");
        check("KRX:005930", true);
        check("KRX:0080G0", true);
        check("KRX:5930", false);
        check("KRX:0080g0", false);
        check("UPBIT:005930", false);
    }
}
