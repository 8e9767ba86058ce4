//! Lengths of bars.

use std::fmt;
use std::str::FromStr;

/// The length of a bar's window: a whole number of minutes that divides a day.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Interval {
    minutes: u16,
}

/// Why a text is not an interval.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an interval: {0:?}; write minutes that divide a day, such as 1m, 5m, 15m")]
pub struct IntervalError(String);

impl Interval {
    /// 1 minute: what all others fold from.
    pub const ONE_MINUTE: Self = Self { minutes: 1 };
    /// 5 minutes.
    pub const FIVE_MINUTES: Self = Self { minutes: 5 };
    /// 15 minutes.
    pub const FIFTEEN_MINUTES: Self = Self { minutes: 15 };
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
        write!(f, "{}m", self.minutes)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_divide_a_day() {
        for good in ["1m", "5m", "15m", "1440m"] {
            assert_eq!(good.parse::<Interval>().unwrap().to_string(), good);
        }
        assert_eq!("1h".parse::<Interval>().unwrap().minutes(), 60);
        for bad in ["", "m", "0m", "7m", "15", "1d", "9999h", "분"] {
            assert!(bad.parse::<Interval>().is_err(), "{bad}");
        }
    }
}
