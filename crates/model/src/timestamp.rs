//! UTC microseconds. Local time exists only in `calendar.rs` and in formatting.

use crate::Interval;
use std::fmt;

/// An instant: microseconds since 1970-01-01T00:00:00Z (Avro `timestamp-micros`, ClickHouse `DateTime64(6, 'UTC')`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

/// Why a text is not an instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 instant: {0}")]
pub struct TimestampError(String);

impl Timestamp {
    /// Before everything.
    pub const MIN: Self = Self(i64::MIN);
    /// After everything.
    pub const MAX: Self = Self(i64::MAX);

    /// From microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From milliseconds since the epoch (saturating).
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// From seconds since the epoch (saturating).
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Later by `micros` (negative: earlier), saturating, so that [`Timestamp::MIN`] and [`Timestamp::MAX`] stay what they are.
    #[must_use]
    pub const fn plus_micros(self, micros: i64) -> Self {
        if self.0 == i64::MIN || self.0 == i64::MAX { self } else { Self(self.0.saturating_add(micros)) }
    }

    /// Microseconds from `earlier` to `self`, saturating.
    pub const fn micros_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Start of the half-open window `[open, open + interval)` that holds this instant; windows are aligned to the epoch.
    #[must_use]
    pub const fn window_open(self, interval: Interval) -> Self {
        let micros = interval.micros();
        Self(self.0.div_euclid(micros).saturating_mul(micros))
    }

    /// Parses RFC 3339 with a zone (`2013-11-25T00:00:00Z`).
    ///
    /// # Errors
    /// A text without a zone or that is no instant.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        text.parse::<jiff::Timestamp>().map(|t| Self(t.as_microsecond())).map_err(|e| TimestampError(format!("{text}: {e}")))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 UTC with the shortest exact fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(instant) => fmt::Display::fmt(&instant, f),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_half_open_and_aligned_also_before_the_epoch() {
        let minute = Interval::ONE_MINUTE;
        let check = |micros: i64, open: i64| assert_eq!(Timestamp::from_micros(micros).window_open(minute).micros(), open);
        check(0, 0);
        check(59_999_999, 0);
        check(60_000_000, 60_000_000);
        check(-1, -60_000_000);
    }

    #[test]
    fn instants_print_and_parse_as_rfc_3339() {
        let instant = Timestamp::from_micros(1_385_337_600_000_000);
        assert_eq!(instant.to_string(), "2013-11-25T00:00:00Z");
        assert_eq!(Timestamp::parse("2013-11-25T09:00:00+09:00"), Ok(instant));
        assert!(Timestamp::parse("2013-11-25 00:00:00").is_err());
    }
}
