//! What ends a bar: a length of time, or what was traded.

use crate::{Amount, Quantity};
use std::fmt;
use std::str::FromStr;

/// The length of a bar's window: a whole number of minutes that divides a day.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Interval {
    minutes: u16,
}

/// Why a text is not an interval.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an interval: {0:?}; write minutes that divide a day, such as 1m, 5m, 15m, 1h, 1d")]
pub struct IntervalError(String);

impl Interval {
    /// 1 minute: what all others fold from.
    pub const ONE_MINUTE: Self = Self { minutes: 1 };
    /// 5 minutes.
    pub const FIVE_MINUTES: Self = Self { minutes: 5 };
    /// 15 minutes.
    pub const FIFTEEN_MINUTES: Self = Self { minutes: 15 };
    /// A day: as brokers tell it, never built here.
    pub const ONE_DAY: Self = Self { minutes: 1440 };
    /// The three that are always built, shortest first.
    pub const STANDARD: [Self; 3] = [Self::ONE_MINUTE, Self::FIVE_MINUTES, Self::FIFTEEN_MINUTES];

    /// From minutes; `None` unless 1..=1440 and a divisor of a day.
    pub const fn from_minutes(minutes: u16) -> Option<Self> {
        if minutes > 0 && 1440 % minutes == 0 { Some(Self { minutes }) } else { None }
    }

    /// Length in minutes.
    pub const fn minutes(self) -> u16 {
        self.minutes
    }

    /// Length in microseconds.
    pub const fn micros(self) -> i64 {
        self.minutes as i64 * 60_000_000
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.minutes == 1440 { f.write_str("1d") } else { write!(f, "{}m", self.minutes) }
    }
}

impl FromStr for Interval {
    type Err = IntervalError;

    fn from_str(text: &str) -> Result<Self, IntervalError> {
        let parse = || {
            let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
            let number: u16 = number.parse().ok()?;
            let minutes = match unit {
                "m" => number,
                "h" => number.checked_mul(60)?,
                "d" => number.checked_mul(1440)?,
                _ => return None,
            };
            Self::from_minutes(minutes)
        };
        parse().ok_or_else(|| IntervalError(text.to_owned()))
    }
}

impl serde::Serialize for Interval {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Interval {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What ends a bar. As text, and so on the wire: `5m`, `t1000`, `v500`, `d1000000`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum BarKind {
    /// A window of time.
    Time(Interval),
    /// So many trades.
    Ticks(u32),
    /// So many units of the instrument.
    Volume(Quantity),
    /// So much turnover, in the currency prices are in.
    Turnover(Amount),
}

/// Why a text is not a kind of bar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a kind of bar: {0:?}; write a length such as 5m, or t1000 (trades), v500 (volume), d1000000 (turnover)")]
pub struct BarKindError(String);

impl From<Interval> for BarKind {
    fn from(interval: Interval) -> Self {
        Self::Time(interval)
    }
}

impl PartialEq<Interval> for BarKind {
    fn eq(&self, interval: &Interval) -> bool {
        *self == Self::Time(*interval)
    }
}

impl BarKind {
    /// The length of its window, where it has one.
    pub const fn interval(self) -> Option<Interval> {
        match self {
            Self::Time(interval) => Some(interval),
            Self::Ticks(_) | Self::Volume(_) | Self::Turnover(_) => None,
        }
    }
}

impl fmt::Display for BarKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(interval) => fmt::Display::fmt(interval, f),
            Self::Ticks(count) => write!(f, "t{count}"),
            Self::Volume(volume) => write!(f, "v{volume}"),
            Self::Turnover(amount) => write!(f, "d{amount}"),
        }
    }
}

impl FromStr for BarKind {
    type Err = BarKindError;

    fn from_str(text: &str) -> Result<Self, BarKindError> {
        let parse = || {
            let (kind, size) = text.split_at_checked(1)?;
            match kind {
                "t" => size.parse().ok().filter(|count| *count > 0).map(Self::Ticks),
                "v" => size.parse().ok().filter(|volume| *volume > Quantity::ZERO).map(Self::Volume),
                "d" => size.parse().ok().filter(|amount| *amount > Amount::ZERO).map(Self::Turnover),
                _ => text.parse().ok().map(Self::Time),
            }
        };
        parse().ok_or_else(|| BarKindError(text.chars().take(64).collect()))
    }
}

impl serde::Serialize for BarKind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for BarKind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_divide_a_day() {
        for good in ["1m", "5m", "15m", "30m", "1d"] {
            assert_eq!(good.parse::<Interval>().unwrap().to_string(), good);
        }
        assert_eq!("1440m".parse::<Interval>().unwrap().to_string(), "1d");
        assert_eq!("1h".parse::<Interval>().unwrap().minutes(), 60);
        for bad in ["", "m", "0m", "7m", "15", "2d", "9999h", "46d", "분"] {
            assert!(bad.parse::<Interval>().is_err(), "{bad}");
        }
    }

    #[test]
    fn kinds_of_bars_are_texts() {
        for good in ["5m", "1d", "t1", "t1000", "v500", "v0.5", "d1000000", "d0.00000001"] {
            assert_eq!(good.parse::<BarKind>().unwrap().to_string(), good);
        }
        for bad in ["", "t", "t0", "t-1", "t1.5", "v0", "v-1", "d0", "d", "x5", "v1e999", "틱", "7m"] {
            assert!(bad.parse::<BarKind>().is_err(), "{bad}");
        }
        assert!("5m".parse::<BarKind>().unwrap() == Interval::FIVE_MINUTES);
    }
}
