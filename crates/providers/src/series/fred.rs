//! FRED, the St. Louis Fed's series, by months or quarters: the last observation of each. Source: the API's own pages and recorded answers.

use super::{Every, Pace, Reading, Series, Source, VALUE, body, encoded, json, only, unreadable, value};
use crate::{RestAnswer, RestError, Secret};
use marketflow_model::Month;
use serde::Deserialize;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(super) struct Fred;

#[derive(Deserialize)]
struct Answer {
    count: usize,
    observations: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    realtime_start: String,
    date: String,
    value: String,
}

#[derive(Deserialize)]
struct Problem {
    error_message: String,
}

impl Source for Fred {
    fn id(&self) -> &'static str {
        "fred"
    }

    fn url(&self) -> &'static str {
        "https://api.stlouisfed.org"
    }

    fn credential(&self) -> Option<(&'static str, bool)> {
        Some(("FRED_API_KEY", false))
    }

    /// 120 a minute, as clients measured it; a little less, so that jitter on the way makes no 121.
    fn pace(&self) -> Pace {
        Pace { per_second: 1.95, burst: 1.0, penalty: Duration::from_secs(20) }
    }

    /// It makes quarters of months and months of days, and never the other way round.
    fn periods(&self) -> &'static [Every] {
        &[Every::Quarter, Every::Month]
    }

    fn check(&self, series: &Series) -> Result<(), String> {
        only(series, &[VALUE])
    }

    fn request(&self, series: &Series, first: Month, last: Month, key: Option<&Secret>) -> String {
        let frequency = match series.every {
            Every::Month => "m",
            Every::Quarter => "q",
        };
        // periods are named by their first day
        format!(
            "/fred/series/observations?series_id={}&api_key={}&file_type=json&observation_start={}&observation_end={}&frequency={frequency}&aggregation_method=eop",
            encoded(&series.code),
            key.map(Secret::expose).unwrap_or_default(),
            series.every.first_of(first).first(),
            last.last()
        )
    }

    fn read(&self, series: &Series, first: Month, last: Month, answer: RestAnswer<'_>) -> Result<Vec<Reading>, RestError> {
        let text = body(answer, |text| {
            let said = serde_json::from_str::<Problem>(text).map(|problem| problem.error_message).ok();
            // the same as XML, when the format was not understood
            said.or_else(|| Some(text.split_once("message=\"")?.1.split_once('"')?.0.to_owned()))
        })?;
        let answer: Answer = json(text)?;
        if answer.count != answer.observations.len() {
            return Err(unreadable(format!("{} of {} observations", answer.observations.len(), answer.count)));
        }
        let mut readings = Vec::with_capacity(answer.count);
        for row in answer.observations {
            let begins = Month::of_date(&row.date).filter(|month| series.every.first_of(*month) == *month);
            let month = series.every.last_of(begins.ok_or_else(|| unreadable(format!("date {:?}", row.date)))?);
            if (first..=last).contains(&month) {
                let number = if row.value == "." { None } else { Some(value(&row.value)?) };
                let vintage = Some(row.realtime_start);
                readings.push(Reading { value_name: VALUE.to_owned(), month, value: number, vintage, published_at: None });
            }
        }
        Ok(readings)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ok, problem, readings, series};
    use super::*;

    #[test]
    fn values_are_text_and_a_dot_is_missing() {
        let answer = r#"{"realtime_start":"2026-11-20","realtime_end":"2026-11-20","count":3,"offset":0,"limit":100000,"observations":[
            {"realtime_start":"2026-11-20","realtime_end":"2026-11-20","date":"2023-12-01","value":"3.88"},
            {"realtime_start":"2026-11-20","realtime_end":"2026-11-20","date":"2024-01-01","value":"."},
            {"realtime_start":"2026-11-20","realtime_end":"2026-11-20","date":"2024-02-01","value":"4.25"}]}"#;
        let yield10 = series("fred", "DGS10", &["value"]);
        assert_eq!(readings(&yield10, "2024-01", "2024-02", ok(answer)), ["value 2024-01 .", "value 2024-02 4.25"]);
        let cut = answer.replace("\"count\":3", "\"count\":4");
        assert_eq!(problem(&yield10, 200, None, &cut).outcome(), "unreadable");
    }

    #[test]
    fn refusals_are_told_in_its_own_words() {
        let yield10 = series("fred", "DGS10", &["value"]);
        let json = r#"{"error_code":400,"error_message":"Bad Request.  The value for variable api_key is not registered."}"#;
        assert!(problem(&yield10, 400, None, json).to_string().contains("not registered"));
        let xml = r#"<error code="400" message="Bad Request.  Variable api_key has not been set."/>"#;
        assert!(problem(&yield10, 400, None, xml).to_string().contains("has not been set"));
    }

    #[test]
    fn a_quarter_is_named_by_its_first_day_and_belongs_to_its_last_month() {
        let row = |date: &str, value: &str| {
            format!(r#"{{"realtime_start":"2026-11-20","realtime_end":"2026-11-20","date":"{date}","value":"{value}"}}"#)
        };
        let rows = [row("2023-10-01", "142.8535"), row("2024-01-01", "."), row("2024-04-01", "141.5")].join(",");
        let answer = format!(r#"{{"count":3,"observations":[{rows}]}}"#);
        let korea = Series { every: Every::Quarter, ..series("fred", "QKRN628BIS", &["value"]) };
        assert_eq!(readings(&korea, "2023-12", "2024-05", ok(&answer)), ["value 2023-12 142.8535", "value 2024-03 ."]);
        assert_eq!(problem(&korea, 200, None, &answer.replace("2024-04-01", "2024-05-01")).outcome(), "unreadable");
        let path = Fred.request(&korea, "2023-12".parse().unwrap(), "2024-05".parse().unwrap(), None);
        assert!(path.contains("observation_start=2023-10-01&observation_end=2024-05-31&frequency=q&"), "{path}");
    }

    #[test]
    fn the_request_spans_whole_months() {
        let key = Secret::new("0123".to_owned());
        let path = Fred.request(
            &series("fred", "DGS10", &["value"]),
            "2024-01".parse().unwrap(),
            "2024-02".parse().unwrap(),
            Some(&key),
        );
        assert!(path.contains("series_id=DGS10&api_key=0123&"), "{path}");
        assert!(
            path.contains("observation_start=2024-01-01&observation_end=2024-02-29&frequency=m&aggregation_method=eop"),
            "{path}"
        );
    }
}
