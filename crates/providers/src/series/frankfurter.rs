//! Frankfurter: the European Central Bank's daily fixings, no key; a month's value is its last fixing. Source: its OpenAPI pages, version 1.

use super::{Pace, Reading, Series, Source, VALUE, body, json, only, pair, unreadable, value};
use crate::number::digits;
use crate::{RestAnswer, RestError, Secret};
use marketflow_model::Month;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(super) struct Frankfurter;

#[derive(Deserialize)]
struct Answer<'a> {
    base: String,
    #[serde(borrow)]
    rates: BTreeMap<String, BTreeMap<String, &'a RawValue>>,
}

#[derive(Deserialize)]
struct Problem {
    message: String,
}

impl Source for Frankfurter {
    fn id(&self) -> &'static str {
        "frankfurter"
    }

    fn url(&self) -> &'static str {
        "https://api.frankfurter.dev"
    }

    /// No limit is published; it is a free service.
    fn pace(&self) -> Pace {
        Pace { per_second: 2.0, burst: 2.0, penalty: Duration::from_secs(30) }
    }

    fn check(&self, series: &Series) -> Result<(), String> {
        pair(series).ok_or_else(|| format!("code {:?} is no pair such as USD/KRW", series.code))?;
        only(series, &[VALUE])
    }

    fn request(&self, series: &Series, first: Month, last: Month, _: Option<&Secret>) -> String {
        let (base, quote) = pair(series).unwrap_or_default();
        format!("/v1/{}..{}?base={base}&symbols={quote}", first.first(), last.last())
    }

    fn read(&self, series: &Series, first: Month, last: Month, answer: RestAnswer<'_>) -> Result<Vec<Reading>, RestError> {
        let text = body(answer, |text| serde_json::from_str::<Problem>(text).ok().map(|problem| problem.message))?;
        let answer: Answer<'_> = json(text)?;
        let (base, quote) = pair(series).unwrap_or_default();
        if answer.base != base {
            return Err(unreadable(format!("base {:?} where {base} was asked for", answer.base)));
        }
        let mut months = BTreeMap::new();
        // dates rise, so the last fixing of a month is the one that stays
        for (date, rates) in &answer.rates {
            let month = Month::of_date(date).ok_or_else(|| unreadable(format!("date {date:?}")))?;
            if let Some(rate) = rates.get(quote).filter(|_| (first..=last).contains(&month)) {
                months.insert(month, value(digits(rate))?);
            }
        }
        let reading = |(month, value)| Reading {
            value_name: VALUE.to_owned(),
            month,
            value: Some(value),
            vintage: None,
            published_at: None,
        };
        Ok(months.into_iter().map(reading).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ok, problem, readings, series};
    use super::*;

    #[test]
    fn a_month_is_its_last_fixing() {
        let answer = r#"{"amount":1.0,"base":"USD","start_date":"2024-01-02","end_date":"2024-02-28","rates":{
            "2024-01-02":{"KRW":1305.4},"2024-01-31":{"KRW":1334.6},"2024-02-28":{"KRW":1335}}}"#;
        let won = series("frankfurter", "USD/KRW", &["value"]);
        assert_eq!(readings(&won, "2024-01", "2024-03", ok(answer)), ["value 2024-01 1334.6", "value 2024-02 1335"]);
        assert_eq!(problem(&won, 200, None, &answer.replace("USD", "EUR")).outcome(), "unreadable");
        assert!(problem(&won, 422, None, r#"{"message":"bad currency pair"}"#).to_string().contains("bad currency pair"));
        let path = Frankfurter.request(&won, "2024-01".parse().unwrap(), "2024-02".parse().unwrap(), None);
        assert_eq!(path, "/v1/2024-01-01..2024-02-29?base=USD&symbols=KRW");
        assert!(Frankfurter.check(&Series { code: "USDKRW".to_owned(), ..won }).is_err());
    }
}
