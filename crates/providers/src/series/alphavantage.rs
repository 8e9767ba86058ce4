//! Alpha Vantage's exchange rates by month: the whole history of a pair in one answer. Source: its documentation and recorded answers.
//!
//! Everything comes under HTTP 200, refusals too. A free key has 25 requests a day, which are enough: each pair needs one.

use super::{Pace, Reach, Reading, Series, Source, body, json, only, pair, unreadable, value};
use crate::{RestAnswer, RestError, Secret};
use marketflow_model::Month;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(super) struct AlphaVantage;

/// The values and what a month calls them.
const VALUES: &[(&str, &str)] = &[("open", "1. open"), ("high", "2. high"), ("low", "3. low"), ("close", "4. close")];

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Time Series FX (Monthly)")]
    months: Option<BTreeMap<String, BTreeMap<String, String>>>,
    #[serde(rename = "Error Message")]
    error: Option<String>,
    #[serde(rename = "Information", alias = "Note")]
    information: Option<String>,
}

impl Source for AlphaVantage {
    fn id(&self) -> &'static str {
        "alphavantage"
    }

    fn url(&self) -> &'static str {
        "https://www.alphavantage.co"
    }

    fn credential(&self) -> Option<(&'static str, bool)> {
        Some(("ALPHAVANTAGE_API_KEY", false))
    }

    /// One a second, and 25 a day of a free key.
    fn pace(&self) -> Pace {
        Pace { per_second: 0.95, burst: 1.0, penalty: Duration::from_secs(60) }
    }

    fn reach(&self) -> Reach {
        Reach::Everything
    }

    fn check(&self, series: &Series) -> Result<(), String> {
        pair(series).ok_or_else(|| format!("code {:?} is no pair such as USD/KRW", series.code))?;
        only(series, &VALUES.iter().map(|(name, _)| *name).collect::<Vec<_>>())
    }

    fn request(&self, series: &Series, _: Month, _: Month, key: Option<&Secret>) -> String {
        let (base, quote) = pair(series).unwrap_or_default();
        let key = key.map(Secret::expose).unwrap_or_default();
        format!("/query?function=FX_MONTHLY&from_symbol={base}&to_symbol={quote}&datatype=json&apikey={key}")
    }

    fn read(&self, series: &Series, first: Month, last: Month, answer: RestAnswer<'_>) -> Result<Vec<Reading>, RestError> {
        let words = |text: &str| serde_json::from_str::<Answer>(text).ok().and_then(|answer| answer.error.or(answer.information));
        let answer: Answer = json(body(answer, |text| words(text).map(|said| without_key(&said)))?)?;
        if let Some(detail) = answer.error {
            return Err(RestError::Refused { detail: without_key(&detail) });
        }
        if let Some(said) = answer.information {
            let detail = without_key(&said);
            // a day's requests do not come back while we wait: the next run has some
            let is_of_day = said.contains("per day");
            return Err(if is_of_day {
                RestError::Refused { detail }
            } else {
                RestError::RateLimited { retry_after: None, detail }
            });
        }
        let mut readings = Vec::new();
        for (date, cells) in answer.months.ok_or_else(|| unreadable("no months"))? {
            let month = Month::of_date(&date).ok_or_else(|| unreadable(format!("date {date:?}")))?;
            for (name, cell) in VALUES.iter().filter(|(name, _)| series.values.contains_key(*name)) {
                let number = cells.get(*cell).ok_or_else(|| unreadable(format!("{date} without {cell:?}")))?;
                if (first..=last).contains(&month) {
                    let value = Some(value(number)?);
                    readings.push(Reading { value_name: (*name).to_owned(), month, value, vintage: None, published_at: None });
                }
            }
        }
        Ok(readings)
    }
}

/// It tells everybody their key when it has had enough of them.
fn without_key(said: &str) -> String {
    match said.split_once("API key as ") {
        Some((before, after)) => {
            let rest = after.trim_start_matches(|c: char| !c.is_whitespace());
            format!("{before}API key as ***{rest}")
        }
        None => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ok, problem, readings, series};
    use super::*;

    #[test]
    fn a_month_is_named_by_its_last_day_and_the_newest_comes_first() {
        let answer = r#"{"Meta Data":{"1. Information":"Forex Monthly Prices (open, high, low, close)","2. From Symbol":"USD"},
            "Time Series FX (Monthly)":{"2024-02-29":{"1. open":"1334.1","2. high":"1346.2","3. low":"1320.3","4. close":"1331.41"},
            "2024-01-31":{"1. open":"1288.5","2. high":"1347.5","3. low":"1286.6","4. close":"1334.60"}}}"#;
        let won = series("alphavantage", "USD/KRW", &["close", "high"]);
        let read = readings(&won, "2024-01", "2024-02", ok(answer));
        assert_eq!(read, ["high 2024-01 1347.5", "close 2024-01 1334.6", "high 2024-02 1346.2", "close 2024-02 1331.41"]);
        assert_eq!(readings(&won, "2024-02", "2024-03", ok(answer)).len(), 2);
        assert_eq!(problem(&won, 200, None, &answer.replace("4. close", "close")).outcome(), "unreadable");
    }

    #[test]
    fn refusals_under_200_are_errors_and_no_key_is_repeated() {
        let won = series("alphavantage", "USD/KRW", &["close"]);
        let wrong = r#"{"Error Message":"Invalid API call. Please retry or visit the documentation for FX_MONTHLY."}"#;
        assert_eq!(problem(&won, 200, None, wrong).outcome(), "refused");
        let burst = r#"{"Information":"Thank you for using Alpha Vantage! Please consider spreading out your free API requests more sparingly (1 request per second)."}"#;
        assert_eq!(problem(&won, 200, None, burst).outcome(), "rate_limited");
        assert_eq!(problem(&won, 200, None, &burst.replace("Information", "Note")).outcome(), "rate_limited");
        let day = r#"{"Information":"We have detected your API key as CANARY99 and our standard API rate limit is 25 requests per day."}"#;
        for status in [200, 403, 429] {
            let problem = problem(&won, status, None, day);
            let said = problem.to_string();
            assert!(said.contains("API key as *** and our standard") && !said.contains("CANARY99"), "{said}");
            assert_eq!(problem.outcome(), if status == 429 { "rate_limited" } else { "refused" });
        }
    }

    #[test]
    fn the_request_names_the_pair() {
        let key = Secret::new("0123".to_owned());
        let month = "2024-01".parse().unwrap();
        let path = AlphaVantage.request(&series("alphavantage", "EUR/USD", &["close"]), month, month, Some(&key));
        assert_eq!(path, "/query?function=FX_MONTHLY&from_symbol=EUR&to_symbol=USD&datatype=json&apikey=0123");
    }
}
