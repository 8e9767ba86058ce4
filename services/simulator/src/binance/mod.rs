//! Binance Spot: market streams and REST v3 as they are on the wire.
//!
//! Played: `@trade`, `@aggTrade`, `@bookTicker`, `@kline_<interval>`. Not played: other streams are acknowledged and stay silent, also klines with a
//! time-zone suffix. Next: `socket.rs`, then `rest.rs`.

pub mod rest;
pub mod socket;

use std::str::FromStr;

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;
/// The epoch was a Thursday; weeks begin on Monday.
const FIRST_MONDAY_US: i64 = 4 * DAY_US;

/// A candle interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interval {
    /// A fixed number of seconds, from the epoch on.
    Seconds(i64, &'static str),
    /// Weeks from Monday on.
    Week,
    /// Calendar months.
    Month,
}

const FIXED: &[(&str, i64)] = &[
    ("1s", 1),
    ("1m", 60),
    ("3m", 180),
    ("5m", 300),
    ("15m", 900),
    ("30m", 1_800),
    ("1h", 3_600),
    ("2h", 7_200),
    ("4h", 14_400),
    ("6h", 21_600),
    ("8h", 28_800),
    ("12h", 43_200),
    ("1d", 86_400),
    ("3d", 259_200),
];

impl FromStr for Interval {
    type Err = ();

    fn from_str(text: &str) -> Result<Interval, ()> {
        match text {
            "1w" => Ok(Interval::Week),
            "1M" => Ok(Interval::Month),
            _ => FIXED.iter().find(|(name, _)| *name == text).map(|(name, seconds)| Interval::Seconds(*seconds, name)).ok_or(()),
        }
    }
}

impl Interval {
    /// As stream names spell it.
    pub fn name(self) -> &'static str {
        match self {
            Interval::Seconds(_, name) => name,
            Interval::Week => "1w",
            Interval::Month => "1M",
        }
    }

    /// Open time of the candle that holds this instant, UTC microseconds.
    pub fn open_us(self, time_us: i64) -> i64 {
        match self {
            Interval::Seconds(seconds, _) => time_us.div_euclid(seconds * SECOND_US) * seconds * SECOND_US,
            Interval::Week => (time_us - FIRST_MONDAY_US).div_euclid(7 * DAY_US) * 7 * DAY_US + FIRST_MONDAY_US,
            Interval::Month => month_us(time_us, 0),
        }
    }

    /// First instant after the candle that holds this instant.
    pub fn close_us(self, time_us: i64) -> i64 {
        match self {
            Interval::Seconds(seconds, _) => self.open_us(time_us) + seconds * SECOND_US,
            Interval::Week => self.open_us(time_us) + 7 * DAY_US,
            Interval::Month => month_us(time_us, 1),
        }
    }

    /// Least time between two frames of one candle.
    pub fn cadence_us(self) -> i64 {
        if self == Interval::Seconds(1, "1s") { SECOND_US } else { 2 * SECOND_US }
    }
}

/// The first instant of the month that holds this one, or of a later one.
fn month_us(time_us: i64, later: i64) -> i64 {
    let first = jiff::Timestamp::from_microsecond(time_us).ok().and_then(|time| {
        let month = time.to_zoned(jiff::tz::TimeZone::UTC).date().first_of_month();
        month.checked_add(jiff::Span::new().months(later)).ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()
    });
    first.map_or(time_us, |first| first.timestamp().as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candles_open_where_binance_opens_them() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_microsecond();
        for (interval, open, close) in [
            ("1m", "2024-08-08T23:54:00Z", "2024-08-08T23:55:00Z"),
            ("4h", "2024-08-08T20:00:00Z", "2024-08-09T00:00:00Z"),
            ("1w", "2024-08-05T00:00:00Z", "2024-08-12T00:00:00Z"),
            ("1M", "2024-08-01T00:00:00Z", "2024-09-01T00:00:00Z"),
        ] {
            let interval: Interval = interval.parse().unwrap();
            let time_us = at("2024-08-08T23:54:15Z");
            assert_eq!((interval.open_us(time_us), interval.close_us(time_us)), (at(open), at(close)), "{interval:?}");
        }
    }
}
