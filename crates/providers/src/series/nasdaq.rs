//! Nasdaq Data Link, formerly Quandl: time series by months, the last row of each. Source: its documentation and official client.
//!
//! Most of its free databases have ended; it stays for whoever has a subscription.

use super::{Pace, Reading, Series, Source, body, encoded, json, unreadable, value};
use crate::number::digits;
use crate::{RestAnswer, RestError, Secret};
use marketflow_model::Month;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(super) struct Nasdaq;

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    dataset_data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    column_names: Vec<String>,
    #[serde(borrow)]
    data: Vec<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct Refusal {
    quandl_error: Problem,
}

#[derive(Deserialize)]
struct Problem {
    code: String,
    message: String,
}

impl Source for Nasdaq {
    fn id(&self) -> &'static str {
        "nasdaq"
    }

    fn url(&self) -> &'static str {
        "https://data.nasdaq.com"
    }

    fn credential(&self) -> Option<(&'static str, bool)> {
        Some(("NASDAQ_DATA_LINK_API_KEY", true))
    }

    /// 2,000 in ten minutes with a key; without one 50 a day over everybody who has none.
    fn pace(&self) -> Pace {
        Pace { per_second: 3.0, burst: 1.0, penalty: Duration::from_secs(60) }
    }

    fn check(&self, series: &Series) -> Result<(), String> {
        if !series.code.split_once('/').is_some_and(|(database, code)| !database.is_empty() && !code.is_empty()) {
            return Err(format!("code {:?} is no dataset such as LBMA/GOLD", series.code));
        }
        if series.values.is_empty() { Err("values is empty; name a column of the dataset".to_owned()) } else { Ok(()) }
    }

    fn request(&self, series: &Series, first: Month, last: Month, key: Option<&Secret>) -> String {
        let (database, code) = series.code.split_once('/').unwrap_or_default();
        let key = key.map(|key| format!("&api_key={}", key.expose())).unwrap_or_default();
        format!(
            "/api/v3/datasets/{}/{}/data.json?start_date={}&end_date={}&collapse=monthly&order=asc{key}",
            encoded(database),
            encoded(code),
            first.first(),
            last.last()
        )
    }

    fn read(&self, series: &Series, first: Month, last: Month, answer: RestAnswer<'_>) -> Result<Vec<Reading>, RestError> {
        let refusal = |text: &str| serde_json::from_str::<Refusal>(text).ok().map(|refusal| refusal.quandl_error);
        // limits have codes of their own, whatever the status
        if let Some(Problem { code, message }) = std::str::from_utf8(answer.body).ok().and_then(refusal)
            && code.starts_with("QEL")
        {
            let retry_after = answer.retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
            return Err(RestError::RateLimited { retry_after, detail: format!("{code}: {message}") });
        }
        let text = body(answer, |text| refusal(text).map(|Problem { code, message }| format!("{code}: {message}")))?;
        if let Some(Problem { code, message }) = refusal(text) {
            return Err(RestError::Refused { detail: format!("{code}: {message}") });
        }
        let Data { column_names, data } = json::<Answer<'_>>(text)?.dataset_data;
        let mut readings = Vec::new();
        for name in series.values.keys() {
            let at = column_names.iter().position(|column| column == name);
            let at = at
                .ok_or_else(|| RestError::Refused { detail: format!("no column {name:?} among: {}", column_names.join(", ")) })?;
            for row in &data {
                let date = row.first().map(|cell| digits(cell)).unwrap_or_default();
                let month = Month::of_date(date).ok_or_else(|| unreadable(format!("date {date:?}")))?;
                let cell = row.get(at).ok_or_else(|| unreadable(format!("a row of {} columns", row.len())))?;
                if (first..=last).contains(&month) {
                    let number = if cell.get() == "null" { None } else { Some(value(digits(cell))?) };
                    readings.push(Reading { value_name: name.clone(), month, value: number, vintage: None, published_at: None });
                }
            }
        }
        readings.sort_by_key(|reading| reading.month);
        Ok(readings)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ok, problem, readings, series};

    #[test]
    fn columns_are_found_by_name() {
        let answer = r#"{"dataset_data":{"limit":null,"column_names":["Date","USD (AM)","USD (PM)"],"frequency":"daily",
            "data":[["2024-01-31",2030.1,null],["2024-02-29",2040.25,2048.05]],"collapse":"monthly","order":"asc"}}"#;
        let gold = series("nasdaq", "LBMA/GOLD", &["USD (PM)"]);
        assert_eq!(readings(&gold, "2024-01", "2024-02", ok(answer)), ["USD (PM) 2024-01 .", "USD (PM) 2024-02 2048.05"]);
        assert_eq!(problem(&series("nasdaq", "LBMA/GOLD", &["EUR"]), 200, None, answer).outcome(), "refused");
        let limit =
            r#"{"quandl_error":{"code":"QELx01","message":"You have exceeded the anonymous user limit of 50 calls per day."}}"#;
        assert_eq!(problem(&gold, 200, None, limit).outcome(), "rate_limited");
        let gone = r#"{"quandl_error":{"code":"QECx06","message":"This dataset is deprecated."}}"#;
        assert!(problem(&gold, 410, None, gone).to_string().contains("QECx06"));
    }
}
