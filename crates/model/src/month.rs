//! Calendar months in UTC: the period of monthly series.

use crate::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A calendar month of the years 1 to 9998, UTC; written `2024-05`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(i32);

/// Why a text is no month.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no month such as 2024-05")]
pub struct MonthError(String);

impl Month {
    /// Month 1–12 of a year 1–9998; `None` out of range.
    pub fn new(year: i32, month: i8) -> Option<Self> {
        let is_month = (1..=9998).contains(&year) && (1..=12).contains(&month);
        is_month.then(|| Self(year * 12 + i32::from(month) - 1))
    }

    /// The month that holds an instant.
    pub fn of(instant: Timestamp) -> Option<Self> {
        let date = jiff::Timestamp::from_microsecond(instant.micros()).ok()?.to_zoned(TimeZone::UTC).date();
        Self::new(i32::from(date.year()), date.month())
    }

    /// The month of a date `2024-05-31`, and whatever follows it.
    pub fn of_date(text: &str) -> Option<Self> {
        let (month, rest) = text.split_at_checked(7)?;
        (rest.is_empty() || rest.starts_with('-')).then(|| month.parse().ok())?
    }

    /// The year.
    pub const fn year(self) -> i32 {
        self.0.div_euclid(12)
    }

    /// 1–12.
    #[expect(clippy::cast_possible_truncation, reason = "1–12")]
    pub const fn month(self) -> i8 {
        self.0.rem_euclid(12) as i8 + 1
    }

    /// Its first instant.
    #[expect(clippy::missing_panics_doc, reason = "the year is in range by construction")]
    pub fn start(self) -> Timestamp {
        let first = self.first().to_zoned(TimeZone::UTC).expect("a month in range");
        Timestamp::from_micros(first.timestamp().as_microsecond())
    }

    /// The first instant after it.
    pub fn end(self) -> Timestamp {
        Self(self.0 + 1).start()
    }

    /// Its last day.
    pub fn last(self) -> Date {
        self.first().last_of_month()
    }

    /// Its first day.
    #[expect(clippy::missing_panics_doc, reason = "the year is in range by construction")]
    pub fn first(self) -> Date {
        let year = i16::try_from(self.year()).expect("a month in range");
        jiff::civil::date(year, self.month(), 1)
    }

    /// So many months later (negative: earlier), within the years 1 to 9998.
    #[must_use]
    pub fn plus(self, months: i32) -> Self {
        Self(self.0.saturating_add(months).clamp(12, 9998 * 12 + 11))
    }

    /// Months from `earlier` to `self`.
    pub const fn months_since(self, earlier: Self) -> i32 {
        self.0 - earlier.0
    }

    /// From this month to `last`, both included.
    pub fn through(self, last: Self) -> impl DoubleEndedIterator<Item = Self> {
        (self.0..=last.0).map(Self)
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year(), self.month())
    }
}

impl fmt::Debug for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Month {
    type Err = MonthError;

    fn from_str(text: &str) -> Result<Self, MonthError> {
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<i32>().ok())?;
        let month = text.split_once('-').and_then(|(year, month)| {
            (year.len() == 4 && month.len() == 2).then_some(())?;
            Self::new(digits(year)?, i8::try_from(digits(month)?).ok()?)
        });
        month.ok_or_else(|| MonthError(text.to_owned()))
    }
}

impl Serialize for Month {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Month {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str> as Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_where_the_calendar_says() {
        for text in ["0001-01", "1600-03", "1969-12", "1970-01", "2000-02", "2023-12", "2024-02", "2024-03", "9998-12"] {
            let month: Month = text.parse().unwrap();
            assert_eq!(month.start(), Timestamp::parse(&format!("{text}-01T00:00:00Z")).unwrap());
            assert_eq!((month.to_string().as_str(), Month::of(month.start())), (text, Some(month)));
            assert_eq!(Month::of(month.end().plus_micros(-1)), Some(month));
        }
        let february = |year| Month::new(year, 2).unwrap().last().to_string();
        assert_eq!([february(2023), february(2024)], ["2023-02-28", "2024-02-29"]);
    }

    #[test]
    fn months_count_over_years() {
        let december: Month = "2023-12".parse().unwrap();
        assert_eq!((december.plus(1).to_string(), december.plus(-12).to_string()), ("2024-01".to_owned(), "2022-12".to_owned()));
        assert_eq!(december.plus(25).months_since(december), 25);
        assert_eq!(december.through(december.plus(2)).map(|month| month.month()).collect::<Vec<_>>(), [12, 1, 2]);
        assert_eq!(december.plus(1).through(december).count(), 0);
        assert_eq!(Month::of_date("2024-05-31"), Month::new(2024, 5));
        assert_eq!((Month::of_date("2024-0531"), Month::of_date("2024")), (None, None));
        for wrong in ["2024-13", "2024-00", "24-01", "2024-1", "2024", "2024-+1", "0000-01"] {
            assert!(wrong.parse::<Month>().is_err(), "{wrong}");
        }
    }
}
