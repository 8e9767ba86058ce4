//! Times as files write them: whole or fractional seconds to nanoseconds, and ISO text with or without a zone.
//!
//! Next: `import/row.rs`.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use marketflow_model::{DecimalError, Timestamp, parse_scaled};
use std::borrow::Cow;

/// What a number or text in a time column means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum TimeUnit {
    /// seconds since 1970, also fractional
    S,
    /// milliseconds since 1970
    Ms,
    /// microseconds since 1970
    Us,
    /// nanoseconds since 1970, cut to microseconds
    Ns,
    /// text such as 2013-11-25T00:00:00Z, 2013-11-25 09:00:00+09:00, 20131125T000000Z; without an offset it needs --time-zone
    Iso,
    /// Binance's dumps: milliseconds, from 1e15 on microseconds.
    #[value(skip)]
    MsOrUs,
}

/// Why a text is no time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum TimeError {
    /// ISO text without offset, and no zone was given: a fault of the command, not of the row.
    NoZone,
    /// The row is wrong.
    Bad(String),
}

/// Reads a time column.
#[derive(Clone, Debug)]
pub(crate) struct TimeReader {
    pub(crate) unit: TimeUnit,
    pub(crate) zone: Option<TimeZone>,
}

/// What the tables can hold: 1900 to 2299.
const EARLIEST_MICROS: i64 = -2_208_988_800_000_000;
const LATEST_MICROS: i64 = 10_413_792_000_000_000;
/// From here on a Binance time is in microseconds.
const MICROSECONDS_FROM: i128 = 1_000_000_000_000_000;

impl TimeReader {
    /// Reads one cell.
    pub(crate) fn read(&self, text: &str) -> Result<Timestamp, TimeError> {
        // decimals below one unit down to the nanosecond
        let nanos = match self.unit {
            TimeUnit::S => scaled(text, 9)?,
            TimeUnit::Ms => scaled(text, 6)?,
            TimeUnit::Us => scaled(text, 3)?,
            TimeUnit::Ns => scaled(text, 0)?,
            TimeUnit::MsOrUs => {
                let number = scaled(text, 0)?;
                number.saturating_mul(if number >= MICROSECONDS_FROM { 1_000 } else { 1_000_000 })
            }
            TimeUnit::Iso => iso_nanos(text, self.zone.as_ref())?,
        };
        match i64::try_from(nanos.div_euclid(1_000)) {
            Ok(micros) if (EARLIEST_MICROS..LATEST_MICROS).contains(&micros) => Ok(Timestamp::from_micros(micros)),
            Ok(_) | Err(_) => Err(TimeError::Bad(format!("time {text:?} is outside 1900 to 2299; is --time-unit right?"))),
        }
    }
}

/// Reads an instant a person typed: RFC 3339, or naive text in `zone`.
pub(crate) fn instant(text: &str, zone: Option<&TimeZone>) -> Result<Timestamp, TimeError> {
    TimeReader { unit: TimeUnit::Iso, zone: zone.cloned() }.read(text)
}

/// Reads an instant a person typed; UTC where it has no offset.
pub(crate) fn utc_instant(text: &str) -> Result<Timestamp, String> {
    match instant(text, Some(&TimeZone::UTC)) {
        Ok(instant) => Ok(instant),
        Err(TimeError::Bad(reason)) => Err(reason),
        Err(TimeError::NoZone) => Err("the time has no zone".to_owned()),
    }
}

fn scaled(text: &str, scale: u32) -> Result<i128, TimeError> {
    parse_scaled(text, scale).map_err(|error| {
        TimeError::Bad(match error {
            DecimalError::NotANumber => format!("time {text:?} is not a number"),
            DecimalError::TooPrecise => format!("time {text:?} is finer than a nanosecond"),
            DecimalError::OutOfRange => format!("time {text:?} is out of range"),
        })
    })
}

fn iso_nanos(text: &str, zone: Option<&TimeZone>) -> Result<i128, TimeError> {
    let usual = usual_form(text);
    if let Ok(instant) = usual.parse::<jiff::Timestamp>() {
        return Ok(instant.as_nanosecond());
    }
    let naive: DateTime = usual.parse().map_err(|_| TimeError::Bad(format!("time {text:?} is not an ISO date and time")))?;
    let zone = zone.ok_or(TimeError::NoZone)?;
    // a local time that came twice or never (clock change) is not guessed
    match zone.to_ambiguous_timestamp(naive).unambiguous() {
        Ok(instant) => Ok(instant.as_nanosecond()),
        Err(_) => {
            Err(TimeError::Bad(format!("time {text:?} came twice or never in {}", zone.iana_name().unwrap_or("this zone"))))
        }
    }
}

/// Brings spellings that tools really write to the one jiff reads: `2013/11/25 …`, `… UTC`, `… +0900`, `20131125 093000`.
fn usual_form(text: &str) -> Cow<'_, str> {
    let mut form = Cow::Borrowed(text);
    if let Some(stem) = text.strip_suffix(" UTC").or_else(|| text.strip_suffix(" GMT")).or_else(|| text.strip_suffix(" Z")) {
        form = Cow::Owned(format!("{stem}Z"));
    } else if let Some((stem, offset)) = text.rsplit_once(' ')
        && offset.starts_with(['+', '-'])
        && stem.contains(':')
    {
        form = Cow::Owned(format!("{stem}{offset}"));
    }
    let bytes = form.as_bytes();
    if bytes.len() >= 10 && bytes[4] == b'/' && bytes[7] == b'/' {
        form = Cow::Owned(form.replacen('/', "-", 2));
    }
    form
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(unit: TimeUnit, text: &str, expected: Result<&str, &str>) {
        let read = TimeReader { unit, zone: None }.read(text);
        match (read, expected) {
            (Ok(time), Ok(expected)) => assert_eq!(time.to_string(), expected, "{text}"),
            (Err(TimeError::Bad(reason)), Err(part)) => assert!(reason.contains(part), "{text}: {reason}"),
            (Err(TimeError::NoZone), Err("zone")) => {}
            (other, expected) => panic!("{text}: {other:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn numbers_are_read_in_their_unit() {
        check(TimeUnit::S, "1385337600", Ok("2013-11-25T00:00:00Z"));
        check(TimeUnit::S, "1385337600.25", Ok("2013-11-25T00:00:00.25Z"));
        check(TimeUnit::S, "1.3853376E9", Ok("2013-11-25T00:00:00Z"));
        check(TimeUnit::Ms, "1385337600123", Ok("2013-11-25T00:00:00.123Z"));
        check(TimeUnit::Us, "1385337600123456", Ok("2013-11-25T00:00:00.123456Z"));
        check(TimeUnit::Ns, "1385337600123456789", Ok("2013-11-25T00:00:00.123456Z"));
        check(TimeUnit::Ns, "-1", Ok("1969-12-31T23:59:59.999999Z"));
        check(TimeUnit::MsOrUs, "1723161255342", Ok("2024-08-08T23:54:15.342Z"));
        check(TimeUnit::MsOrUs, "1735689600010866", Ok("2025-01-01T00:00:00.010866Z"));
    }

    #[test]
    fn a_wrong_unit_or_text_is_said() {
        check(TimeUnit::S, "1385337600123", Err("--time-unit"));
        check(TimeUnit::Ms, "yesterday", Err("not a number"));
        check(TimeUnit::Ms, "", Err("not a number"));
        check(TimeUnit::Ms, "1.0000001", Err("finer than a nanosecond"));
        check(TimeUnit::Iso, "1385337600", Err("not an ISO"));
        check(TimeUnit::Iso, "2013-11-25T25:00:00Z", Err("not an ISO"));
    }

    #[test]
    fn iso_text_with_an_offset_is_an_instant() {
        for text in [
            "2013-11-25T00:00:00Z",
            "2013-11-25T00:00:00z",
            "2013-11-25T00:00Z",
            "2013-11-25 00:00:00Z",
            "2013-11-25T09:00:00+09:00",
            "2013-11-25T09:00:00+0900",
            "2013-11-25T09:00:00+09",
            "2013-11-25 09:00:00 +0900",
            "2013-11-24 19:00:00 -05:00",
            "2013-11-25 00:00:00 UTC",
            "2013/11/25 00:00:00 UTC",
            "20131125T000000Z",
            "2013-11-25T09:00:00+09:00[Asia/Seoul]",
        ] {
            check(TimeUnit::Iso, text, Ok("2013-11-25T00:00:00Z"));
        }
        check(TimeUnit::Iso, "2013-11-25T00:00:00.123456789Z", Ok("2013-11-25T00:00:00.123456Z"));
    }

    #[test]
    fn naive_text_needs_a_zone_and_takes_it_by_the_zone_database() {
        for text in ["2013-11-25T00:00:00", "2013-11-25 00:00", "2013-11-25", "20131125", "2013/11/25 00:00:00"] {
            check(TimeUnit::Iso, text, Err("zone"));
        }
        let read = |zone: &str, text: &str| instant(text, Some(&TimeZone::get(zone).unwrap())).map(|t| t.to_string());
        assert_eq!(read("Asia/Seoul", "2013-11-25 09:00:00").unwrap(), "2013-11-25T00:00:00Z");
        assert_eq!(read("America/New_York", "2013-10-07 09:30:00").unwrap(), "2013-10-07T13:30:00Z");
        assert_eq!(read("America/New_York", "2013-11-04 09:30:00").unwrap(), "2013-11-04T14:30:00Z");
        assert_eq!(read("Asia/Seoul", "2013-11-25").unwrap(), "2013-11-24T15:00:00Z");
        assert_eq!(read("Asia/Seoul", "2013-11-25T00:00:00Z").unwrap(), "2013-11-25T00:00:00Z", "an offset wins");
        for twice_or_never in ["2013-11-03 01:30:00", "2013-03-10 02:30:00"] {
            assert!(matches!(read("America/New_York", twice_or_never), Err(TimeError::Bad(r)) if r.contains("twice or never")));
        }
    }
}
