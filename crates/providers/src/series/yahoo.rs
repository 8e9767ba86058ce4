//! Yahoo Finance's chart of months. There is no contract: shapes as recorded by open clients.

use super::{Pace, Reading, Series, Source, body, encoded, json, only, unreadable, value};
use crate::{RestAnswer, RestError, Secret};
use jiff::tz::{Offset, TimeZone};
use marketflow_model::{Month, SeriesValue};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(super) struct Yahoo;

/// What a chart holds of each month.
const VALUES: &[&str] = &["open", "high", "low", "close", "volume"];

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    chart: Chart<'a>,
}

#[derive(Deserialize)]
struct Chart<'a> {
    #[serde(borrow)]
    result: Option<Vec<Found<'a>>>,
    error: Option<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    code: String,
    description: String,
}

#[derive(Deserialize)]
struct Found<'a> {
    meta: Meta,
    #[serde(default)]
    timestamp: Vec<i64>,
    #[serde(borrow)]
    indicators: Indicators<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    currency: Option<String>,
    #[serde(default)]
    gmtoffset: i32,
    #[serde(default)]
    exchange_timezone_name: String,
}

#[derive(Deserialize)]
struct Indicators<'a> {
    #[serde(borrow)]
    quote: Vec<BTreeMap<String, Vec<Option<&'a RawValue>>>>,
}

impl Source for Yahoo {
    fn id(&self) -> &'static str {
        "yahoo"
    }

    fn url(&self) -> &'static str {
        "https://query2.finance.yahoo.com"
    }

    /// Limits are unpublished; one a second is what open clients live with.
    fn pace(&self) -> Pace {
        Pace { per_second: 0.98, burst: 1.0, penalty: Duration::from_secs(60) }
    }

    fn check(&self, series: &Series) -> Result<(), String> {
        only(series, VALUES)
    }

    fn request(&self, series: &Series, first: Month, last: Month, _: Option<&Secret>) -> String {
        // months begin at local midnight, so a day more on both sides; rows outside are left out
        const DAY: i64 = 86_400;
        let (from, to) = (first.start().micros() / 1_000_000 - DAY, last.end().micros() / 1_000_000 + DAY);
        format!(
            "/v8/finance/chart/{}?interval=1mo&period1={from}&period2={to}&includePrePost=false&events=div%2Csplits",
            encoded(&series.code)
        )
    }

    fn read(&self, series: &Series, first: Month, last: Month, answer: RestAnswer<'_>) -> Result<Vec<Reading>, RestError> {
        let words = |text: &str| {
            let answer: Answer<'_> = serde_json::from_str(text).ok()?;
            answer.chart.error.map(|problem| format!("{}: {}", problem.code, problem.description))
        };
        let answer: Answer<'_> = json(body(answer, words)?)?;
        if let Some(Problem { code, description }) = answer.chart.error {
            return Err(RestError::Refused { detail: format!("{code}: {description}") });
        }
        let found = answer.chart.result.unwrap_or_default().into_iter().next().ok_or_else(|| unreadable("no result"))?;
        let zone = TimeZone::get(&found.meta.exchange_timezone_name)
            .or_else(|_| Offset::from_seconds(found.meta.gmtoffset).map(TimeZone::fixed));
        let zone = zone.map_err(|error| unreadable(format!("no time zone: {error}")))?;
        let is_minor = matches!(found.meta.currency.as_deref(), Some("GBp" | "ZAc" | "ILA"));
        let quote = found.indicators.quote.into_iter().next().ok_or_else(|| unreadable("no quote"))?;
        let mut months = Vec::with_capacity(found.timestamp.len());
        for seconds in &found.timestamp {
            let instant = jiff::Timestamp::from_second(*seconds).map_err(|error| unreadable(format!("timestamp: {error}")))?;
            let date = instant.to_zoned(zone.clone()).date();
            let month =
                Month::new(i32::from(date.year()), date.month()).ok_or_else(|| unreadable(format!("timestamp: {date}")))?;
            months.push(month);
        }
        let mut readings = Vec::new();
        for name in series.values.keys() {
            let cells = quote.get(name).map_or(&[][..], Vec::as_slice);
            if cells.len() != months.len() {
                return Err(unreadable(format!("{} of {name} for {} months", cells.len(), months.len())));
            }
            let mut before = None;
            for (month, cell) in months.iter().zip(cells) {
                // a second row of a month is the live one, off the grid
                if !(first..=last).contains(month) || before.replace(*month) == Some(*month) {
                    continue;
                }
                let number = match cell {
                    Some(cell) if cell.get() != "null" => Some(number(name, cell.get(), is_minor)?),
                    _ => None,
                };
                readings.push(Reading {
                    value_name: name.clone(),
                    month: *month,
                    value: number,
                    vintage: None,
                    published_at: None,
                });
            }
        }
        readings.sort_by_key(|reading| reading.month);
        Ok(readings)
    }
}

/// Prices are 32-bit floats shown with the noise of 64 bits: the shortest text that is the same 32-bit float is meant. Volumes are whole.
fn number(name: &str, text: &str, is_minor: bool) -> Result<SeriesValue, RestError> {
    if name == "volume" {
        return value(text);
    }
    let float: f32 = text.parse().map_err(|_| unreadable(format!("{name}: not a number: {}", crate::number::shown(text))))?;
    let exact = value(&float.to_string())?;
    if !is_minor {
        return Ok(exact);
    }
    // pence and the like
    let hundredth = SeriesValue::from_scaled(exact.scaled() / 100).ok_or_else(|| unreadable("out of range"));
    if exact.scaled() % 100 == 0 { hundredth } else { Err(unreadable(format!("{name}: too many decimals: {exact}"))) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ok, problem, readings, series};
    use super::*;

    const TWO_MONTHS: &str = r#"{"chart":{"result":[{"meta":{"currency":"USD","symbol":"SPY","gmtoffset":-18000,"exchangeTimezoneName":"America/New_York"},
        "timestamp":[1704085200,1706763600,1708000000,1709269200],
        "indicators":{"quote":[{"close":[482.8800048828125,508.0799865722656,null,1.5],"volume":[1696847400,null,3,4],"open":[1,2,3,4]}]}}],"error":null}}"#;

    #[test]
    fn months_are_local_floats_are_short_and_nulls_are_missing() {
        let spy = series("yahoo", "SPY", &["close", "volume"]);
        let read = readings(&spy, "2024-01", "2024-02", ok(TWO_MONTHS));
        assert_eq!(read, ["close 2024-01 482.88", "volume 2024-01 1696847400", "close 2024-02 508.08", "volume 2024-02 ."]);
        let seoul = TWO_MONTHS.replace("America/New_York", "Asia/Seoul").replace("1704085200,", "1704034800,");
        let read = readings(&spy, "2024-01", "2024-01", ok(&seoul));
        assert_eq!(read, ["close 2024-01 482.88", "volume 2024-01 1696847400"], "midnight in Seoul is the day before in UTC");
        let pence = TWO_MONTHS.replace("USD", "GBp");
        assert_eq!(readings(&spy, "2024-01", "2024-01", ok(&pence))[0], "close 2024-01 4.8288");
    }

    #[test]
    fn nothing_traded_is_no_reading_and_errors_under_200_are_errors() {
        let spy = series("yahoo", "SPY", &["close"]);
        let none = r#"{"chart":{"result":[{"meta":{"gmtoffset":0},"indicators":{"quote":[{}]}}],"error":null}}"#;
        assert!(readings(&spy, "2024-01", "2024-01", ok(none)).is_empty());
        let gone =
            r#"{"chart":{"result":null,"error":{"code":"Not Found","description":"No data found, symbol may be delisted"}}}"#;
        assert!(problem(&spy, 200, None, gone).to_string().contains("delisted"));
        assert!(problem(&spy, 404, None, gone).to_string().contains("delisted"));
    }

    #[test]
    fn the_request_names_the_months() {
        let path =
            Yahoo.request(&series("yahoo", "^GSPC", &["close"]), "2024-01".parse().unwrap(), "2024-02".parse().unwrap(), None);
        assert!(path.starts_with("/v8/finance/chart/%5EGSPC?interval=1mo&period1=1703980800&period2=1709337600&"), "{path}");
    }
}
