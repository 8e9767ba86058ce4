//! Sources of series by month or quarter: what to ask of each, and what its answers say. Pure, as the venues are.
//!
//! A source is one file here and one entry in [`ALL`]. An answer is never believed for its status alone: an HTML page, an empty body or an
//! error object under HTTP 200 is an error, and a value published as missing stays missing.
//!
//! Next: `services/flow-producer/src/collect.rs`, which asks.

mod alphavantage;
mod binance;
mod bis;
mod frankfurter;
mod fred;
mod nasdaq;
mod set;
mod yahoo;
mod zillow;

pub use set::SeriesSet;

use crate::{RestAnswer, RestError, Secret};
use marketflow_model::{Month, SeriesValue, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Every source, sorted by id.
pub const ALL: &[&dyn Source] = &[
    &alphavantage::AlphaVantage,
    &binance::Binance,
    &bis::Bis,
    &frankfurter::Frankfurter,
    &fred::Fred,
    &nasdaq::Nasdaq,
    &yahoo::Yahoo,
    &zillow::Zillow,
];

/// The source of an id, if there is one.
pub fn by_id(id: &str) -> Option<&'static dyn Source> {
    ALL.iter().copied().find(|source| source.id() == id)
}

/// One of the markets between which money flows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Market {
    /// Shares and their indices.
    Stocks,
    /// Yields and spreads.
    Bonds,
    /// Exchange rates.
    Forex,
    /// Crypto currencies.
    Crypto,
    /// Metals, energy, crops.
    Commodities,
    /// Houses.
    RealEstate,
}

impl Market {
    /// Every market, in the order people list them.
    pub const ALL: [Self; 6] = [Self::Stocks, Self::Bonds, Self::Forex, Self::Crypto, Self::Commodities, Self::RealEstate];

    /// As files and metrics spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stocks => "stocks",
            Self::Bonds => "bonds",
            Self::Forex => "forex",
            Self::Crypto => "crypto",
            Self::Commodities => "commodities",
            Self::RealEstate => "real_estate",
        }
    }
}

impl fmt::Display for Market {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Market {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|market| market.as_str() == text).ok_or_else(|| format!("{text:?} is none of: {}", known()))
    }
}

/// How long the periods are for which a source tells a series' values. What is told by the day is asked for by the month.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Every {
    /// Calendar months.
    #[default]
    Month,
    /// Calendar quarters.
    Quarter,
}

impl Every {
    /// Months of a period.
    pub const fn months(self) -> i32 {
        match self {
            Self::Month => 1,
            Self::Quarter => 3,
        }
    }

    /// The first month of the period that holds `month`.
    #[must_use]
    pub fn first_of(self, month: Month) -> Month {
        month.plus(-((i32::from(month.month()) - 1) % self.months()))
    }

    /// The last month of the period that holds `month`.
    #[must_use]
    pub fn last_of(self, month: Month) -> Month {
        self.first_of(month).plus(self.months() - 1)
    }

    /// The last month of the last period that is over at the end of `month`.
    #[must_use]
    pub fn last_ended(self, month: Month) -> Month {
        self.first_of(month.plus(1)).plus(-1)
    }
}

/// What is collected from one endpoint of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// Which market it speaks of.
    pub market: Market,
    /// Id of a source.
    pub source: String,
    /// What the source calls it: `^GSPC`, `DGS10`, `USD/KRW`, `BTCUSDT`, `LBMA/GOLD`, `zhvi/FILE.csv#102001`.
    pub code: String,
    /// How long its periods are.
    #[serde(default)]
    pub every: Every,
    /// The values taken and their units; the only value of a source that has one is called `value`.
    pub values: BTreeMap<String, String>,
}

impl Series {
    /// The source that tells it, once that is known to do so.
    ///
    /// # Errors
    /// What cannot be, in words.
    pub fn checked(&self) -> Result<&'static dyn Source, String> {
        let known = || ALL.iter().map(|source| source.id()).collect::<Vec<_>>().join(", ");
        let source = by_id(&self.source).ok_or_else(|| format!("source {:?} is none of: {}", self.source, known()))?;
        if !source.periods().contains(&self.every) {
            let periods = source.periods();
            return Err(format!("every = {:?} is none of what {} tells: {periods:?}", self.every, source.id()).to_lowercase());
        }
        source.check(self).map(|()| source)
    }

    /// Name of its endpoint: what a cursor is kept for.
    pub fn endpoint(&self) -> String {
        format!("{}/{}:{}", self.market, self.source, self.code)
    }

    /// Name of one of its values within the source.
    pub fn name_of(&self, value: &str) -> String {
        if value == VALUE { self.code.clone() } else { format!("{}/{value}", self.code) }
    }
}

/// Name of the only value of a source that has one.
pub const VALUE: &str = "value";

/// One value of one period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Which of the series' values.
    pub value_name: String,
    /// Of which month; of a longer period, its last one.
    pub month: Month,
    /// `None`: published as missing.
    pub value: Option<SeriesValue>,
    /// Which revision of history, where the source revises it.
    pub vintage: Option<String>,
    /// When it was published, where the source says so.
    pub published_at: Option<Timestamp>,
}

/// How far one request reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// As many months as are asked for.
    Months,
    /// Everything there is, whatever is asked for.
    Everything,
}

/// How often a source may be asked.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Pace {
    /// Requests a second, sustained.
    pub per_second: f64,
    /// Requests at once.
    pub burst: f64,
    /// Least wait after a refusal for asking too often.
    pub penalty: Duration,
}

/// A source of series.
pub trait Source: Sync + fmt::Debug {
    /// Its name, such as `fred`; in capitals the provider of its observations.
    fn id(&self) -> &'static str;
    /// Its endpoint, without trailing slash.
    fn url(&self) -> &'static str;
    /// Name of the credential it takes, and whether it answers without.
    fn credential(&self) -> Option<(&'static str, bool)> {
        None
    }
    /// What it allows.
    fn pace(&self) -> Pace;
    /// The periods for which it tells values.
    fn periods(&self) -> &'static [Every] {
        &[Every::Month]
    }
    /// What one request answers.
    fn reach(&self) -> Reach {
        Reach::Months
    }
    /// Checks a series before anything is asked.
    ///
    /// # Errors
    /// What cannot be, in words.
    fn check(&self, series: &Series) -> Result<(), String>;
    /// Path and query for these months, both included; with the credential, so never to be shown.
    fn request(&self, series: &Series, first: Month, last: Month, key: Option<&Secret>) -> String;
    /// The values of the periods that end with one of these months, rising.
    ///
    /// # Errors
    /// Why the answer holds none.
    fn read(&self, series: &Series, first: Month, last: Month, answer: RestAnswer<'_>) -> Result<Vec<Reading>, RestError>;
}

/// Checks that a series takes nothing but these values.
fn only(series: &Series, known: &[&str]) -> Result<(), String> {
    if series.values.is_empty() {
        return Err(format!("values is empty; known are: {}", known.join(", ")));
    }
    match series.values.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(format!("values.{name} is none of: {}", known.join(", "))),
        None => Ok(()),
    }
}

/// `USD/KRW` as base and quote.
fn pair(series: &Series) -> Option<(&str, &str)> {
    let is_code = |text: &str| text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
    series.code.split_once('/').filter(|(base, quote)| is_code(base) && is_code(quote) && base != quote)
}

/// A decimal number as text, exactly; digits beyond the twelfth decimal are rounded half to even (docs/methodology/fund-flows.md).
fn value(text: &str) -> Result<SeriesValue, RestError> {
    let wrong = || unreadable(format!("not a decimal number: {}", crate::number::shown(text)));
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    const DECIMALS: usize = 12;
    if fraction.len() <= DECIMALS || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| wrong());
    }
    let (kept, cut) = fraction.split_at(DECIMALS);
    let down: SeriesValue = format!("{sign}{whole}.{kept}").parse().map_err(|_| wrong())?;
    let is_odd = kept.ends_with(['1', '3', '5', '7', '9']);
    let up = match cut.as_bytes() {
        [b'5', rest @ ..] if rest.iter().all(|digit| *digit == b'0') => is_odd,
        [first, ..] => *first >= b'5',
        [] => false,
    };
    let step = if sign.is_empty() { 1 } else { -1 };
    if up { SeriesValue::from_scaled(down.scaled() + step).ok_or_else(wrong) } else { Ok(down) }
}

fn unreadable(detail: impl Into<String>) -> RestError {
    RestError::Unreadable { detail: detail.into() }
}

/// The body of an answer of status 200; other answers are errors, in the words that `words` finds in the body.
fn body<'a>(answer: RestAnswer<'a>, words: impl Fn(&str) -> Option<String>) -> Result<&'a str, RestError> {
    let text = std::str::from_utf8(answer.body).map_err(|_| unreadable("not UTF-8"))?;
    let detail = || words(text).unwrap_or_else(|| format!("HTTP {}: {}", answer.status, crate::number::shown(text.trim())));
    let retry_after = answer.retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    match answer.status {
        // a page for people where data are due: an outage
        200 if text.trim_start().starts_with('<') => {
            Err(RestError::Unavailable { retry_after, detail: format!("a page instead of data: {}", crate::number::shown(text)) })
        }
        200 if text.trim().is_empty() => Err(RestError::Unavailable { retry_after, detail: "an empty answer".to_owned() }),
        200 => Ok(text),
        418 | 429 => Err(RestError::RateLimited { retry_after, detail: detail() }),
        451 => Err(RestError::Region { detail: detail() }),
        // a wall against robots answers 403 with a page; it may open again
        403 if text.trim_start().starts_with('<') => Err(RestError::Unavailable { retry_after, detail: detail() }),
        400..=422 => Err(RestError::Refused { detail: detail() }),
        _ => Err(RestError::Unavailable { retry_after, detail: detail() }),
    }
}

fn json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, RestError> {
    serde_json::from_str(text).map_err(|error| unreadable(format!("{error}: {}", crate::number::shown(text))))
}

/// `text` as part of a query.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn series(source: &str, code: &str, values: &[&str]) -> Series {
        let values = values.iter().map(|name| ((*name).to_owned(), "unit".to_owned())).collect();
        let (market, every) = (Market::Stocks, *by_id(source).unwrap().periods().last().unwrap());
        let series = Series { market, source: source.to_owned(), code: code.to_owned(), every, values };
        assert_eq!(series.checked().map(Source::id), Ok(source));
        series
    }

    pub(super) fn ok(body: &str) -> RestAnswer<'_> {
        RestAnswer { status: 200, retry_after: None, body: body.as_bytes() }
    }

    /// What is read, as `value_name month value`.
    pub(super) fn readings(series: &Series, first: &str, last: &str, answer: RestAnswer<'_>) -> Vec<String> {
        let source = by_id(&series.source).unwrap();
        let read = source.read(series, first.parse().unwrap(), last.parse().unwrap(), answer).unwrap();
        let shown = |value: Option<SeriesValue>| value.map_or_else(|| ".".to_owned(), |value| value.to_string());
        read.into_iter().map(|r| format!("{} {} {}", r.value_name, r.month, shown(r.value))).collect()
    }

    pub(super) fn problem(series: &Series, status: u16, retry_after: Option<&str>, body: &str) -> RestError {
        let answer = RestAnswer { status, retry_after, body: body.as_bytes() };
        let month = "2024-01".parse().unwrap();
        by_id(&series.source).unwrap().read(series, month, month, answer).unwrap_err()
    }

    #[test]
    fn numbers_are_exact_up_to_twelve_decimals_and_rounded_half_to_even_beyond() {
        let read = |text: &str| value(text).map(|value| value.to_string());
        for (text, expected) in [
            ("118707.0674033589", "118707.0674033589"),
            ("-0.125", "-0.125"),
            ("1.2345678901234", "1.234567890123"),
            ("1.2345678901235", "1.234567890124"),
            ("1.2345678901225", "1.234567890122"),
            ("1.23456789012250001", "1.234567890123"),
            ("-1.2345678901235", "-1.234567890124"),
            ("0.9999999999999", "1"),
            ("1e3", "1000"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
        for wrong in ["", ".", "NaN", "1,5", "--1", "1.2345678901234x"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    /// Whatever comes instead of data is an error of the right kind, at every source.
    #[test]
    fn no_answer_is_believed_for_its_status() {
        let all = [
            series("alphavantage", "USD/KRW", &["close"]),
            series("binance", "BTCUSDT", &["close"]),
            series("bis", "Q.XW.N.628", &["value"]),
            series("frankfurter", "USD/KRW", &["value"]),
            series("fred", "DGS10", &["value"]),
            series("nasdaq", "LBMA/GOLD", &["USD (PM)"]),
            series("yahoo", "^GSPC", &["close", "volume"]),
            series("zillow", "zhvi/Metro.csv#102001", &["value"]),
        ];
        assert_eq!(
            all.iter().map(|series| series.source.as_str()).collect::<Vec<_>>(),
            ALL.iter().map(|s| s.id()).collect::<Vec<_>>()
        );
        for series in &all {
            let outcome = |status, retry_after, body| problem(series, status, retry_after, body).outcome();
            assert_eq!(outcome(200, None, "<!DOCTYPE html><p>Will be right back</p>"), "unavailable", "{series:?}");
            assert_eq!(outcome(200, None, "  "), "unavailable", "{series:?}");
            assert_eq!(outcome(503, None, "down"), "unavailable", "{series:?}");
            assert_eq!(outcome(403, None, "<html>robot?</html>"), "unavailable", "{series:?}");
            assert_eq!(outcome(451, None, "no"), "region", "{series:?}");
            assert_eq!(outcome(404, None, "not found"), "refused", "{series:?}");
            assert_eq!(outcome(200, None, "{\"what\": 1}"), "unreadable", "{series:?}");
            assert_eq!(outcome(200, None, "[[1]]"), "unreadable", "{series:?}");
            let RestError::RateLimited { retry_after, .. } = problem(series, 429, Some("7"), "Too Many Requests") else {
                panic!("{series:?}")
            };
            assert_eq!(retry_after, Some(Duration::from_secs(7)));
        }
    }

    #[test]
    fn periods_are_told_by_their_last_month() {
        let ends = |month: &str| {
            let month: Month = month.parse().unwrap();
            [Every::Quarter.first_of(month), Every::Quarter.last_of(month), Every::Quarter.last_ended(month)]
                .map(|m| m.to_string())
        };
        assert_eq!(ends("2026-10"), ["2026-10", "2026-12", "2026-09"]);
        assert_eq!(ends("2026-12"), ["2026-10", "2026-12", "2026-12"]);
        assert_eq!(ends("2027-01"), ["2027-01", "2027-03", "2026-12"]);
        let month: Month = "2026-11".parse().unwrap();
        assert_eq!([Every::Month.first_of(month), Every::Month.last_of(month), Every::Month.last_ended(month)], [month; 3]);
    }

    #[test]
    fn series_are_checked_and_named() {
        let gold =
            Series { values: BTreeMap::from([("price".to_owned(), "USD".to_owned())]), ..series("yahoo", "GC=F", &["close"]) };
        assert!(gold.checked().unwrap_err().contains("price"));
        assert!(Series { source: "quandl".to_owned(), ..gold }.checked().unwrap_err().contains("nasdaq, yahoo, zillow"));
        let gold = series("yahoo", "GC=F", &["close", "volume"]);
        assert_eq!((gold.endpoint().as_str(), gold.name_of("close").as_str()), ("stocks/yahoo:GC=F", "GC=F/close"));
        assert_eq!(series("fred", "DGS10", &["value"]).name_of("value"), "DGS10");
        assert_eq!(encoded("^GS/PC=x y"), "%5EGS%2FPC%3Dx%20y");
    }
}
