//! The Bank for International Settlements' prices of homes by quarter: some 60 economies and the world, no key. Source: its SDMX pages.
//!
//! A code is the series' key, `Q.KR.N.628`: quarterly, the economy (`XW` is the world), nominal or real, index with 2010 = 100. The whole
//! history is asked for each time: it is a few hundred rows, may be revised as a whole, and is some months late.

use super::{Every, Pace, Reach, Reading, Series, Source, VALUE, body, only, unreadable, value};
use crate::{RestAnswer, RestError, Secret};
use marketflow_model::Month;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(super) struct Bis;

/// The key's columns, in its order.
const KEY: [&str; 4] = ["FREQ", "REF_AREA", "VALUE", "UNIT_MEASURE"];

/// The last month of `2024-Q3`.
fn quarter(text: &str) -> Option<Month> {
    let (year, quarter) = text.split_once("-Q")?;
    let quarter = quarter.parse::<i8>().ok().filter(|quarter| (1..=4).contains(quarter))?;
    Month::new(year.parse().ok()?, quarter * 3)
}

impl Source for Bis {
    fn id(&self) -> &'static str {
        "bis"
    }

    fn url(&self) -> &'static str {
        "https://stats.bis.org"
    }

    /// No limit is published; it is a free service.
    fn pace(&self) -> Pace {
        Pace { per_second: 1.0, burst: 1.0, penalty: Duration::from_secs(60) }
    }

    fn periods(&self) -> &'static [Every] {
        &[Every::Quarter]
    }

    fn reach(&self) -> Reach {
        Reach::Everything
    }

    fn check(&self, series: &Series) -> Result<(), String> {
        let parts: Vec<&str> = series.code.split('.').collect();
        let is_part = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if parts.len() != KEY.len() || parts[0] != "Q" || !parts.iter().all(is_part) {
            return Err(format!("code {:?} is no key of prices of homes such as Q.KR.N.628", series.code));
        }
        only(series, &[VALUE])
    }

    fn request(&self, series: &Series, _: Month, _: Month, _: Option<&Secret>) -> String {
        format!("/api/v1/data/WS_SPP/{}/all?format=csv", series.code)
    }

    fn read(&self, series: &Series, first: Month, last: Month, answer: RestAnswer<'_>) -> Result<Vec<Reading>, RestError> {
        let text = body(answer, |_| None)?;
        let mut rows = csv::ReaderBuilder::new().from_reader(text.as_bytes());
        let wrong = |error: csv::Error| unreadable(format!("CSV: {error}"));
        let header = rows.headers().map_err(wrong)?.clone();
        let column =
            |name: &str| header.iter().position(|known| known == name).ok_or_else(|| unreadable(format!("no column {name}")));
        let (period, number) = (column("TIME_PERIOD")?, column("OBS_VALUE")?);
        let key = [column(KEY[0])?, column(KEY[1])?, column(KEY[2])?, column(KEY[3])?];
        let mut readings = Vec::new();
        for row in rows.records() {
            let row = row.map_err(wrong)?;
            let cell = |at: usize| row.get(at).unwrap_or_default();
            let code = key.map(cell).join(".");
            if code != series.code {
                return Err(unreadable(format!("{} where {} was asked for", crate::number::shown(&code), series.code)));
            }
            let month =
                quarter(cell(period)).ok_or_else(|| unreadable(format!("quarter {:?}", crate::number::shown(cell(period)))))?;
            if (first..=last).contains(&month) {
                let value = if matches!(cell(number), "" | "NaN") { None } else { Some(value(cell(number))?) };
                readings.push(Reading { value_name: VALUE.to_owned(), month, value, vintage: None, published_at: None });
            }
        }
        readings.sort_by_key(|reading| reading.month);
        Ok(readings)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ok, problem, readings, series};
    use super::*;

    const ANSWER: &str = "FREQ,REF_AREA,VALUE,UNIT_MEASURE,UNIT_MULT,BREAKS,COVERAGE,TITLE_TS,TIME_PERIOD,OBS_VALUE,OBS_STATUS,OBS_CONF,OBS_PRE_BREAK\n\
        Q,KR,N,628,0,,,,2023-Q2,146.6276,A,F,\nQ,KR,N,628,0,,,,2023-Q3,143.6185,A,F,\nQ,KR,N,628,0,,,,2023-Q4,NaN,M,F,\n";

    #[test]
    fn a_quarter_belongs_to_its_last_month() {
        let korea = series("bis", "Q.KR.N.628", &["value"]);
        let read = readings(&korea, "2023-06", "2023-12", ok(ANSWER));
        assert_eq!(read, ["value 2023-06 146.6276", "value 2023-09 143.6185", "value 2023-12 ."]);
        assert_eq!(readings(&korea, "2023-07", "2023-11", ok(ANSWER)), ["value 2023-09 143.6185"]);
        assert_eq!(quarter("2024-Q1").map(|month| month.to_string()).as_deref(), Some("2024-03"));
        assert_eq!(["2024-Q5", "2024-01", "Q1", "x-Q1"].map(quarter), [None; 4]);
    }

    #[test]
    fn another_series_or_shape_is_no_answer() {
        let world = series("bis", "Q.XW.N.628", &["value"]);
        assert_eq!(problem(&world, 200, None, ANSWER).outcome(), "unreadable");
        let korea = series("bis", "Q.KR.N.628", &["value"]);
        assert_eq!(problem(&korea, 200, None, &ANSWER.replace("TIME_PERIOD", "PERIOD")).outcome(), "unreadable");
        assert_eq!(problem(&korea, 200, None, &ANSWER.replace("2023-Q3", "2023-09")).outcome(), "unreadable");
        for code in ["Q.KR.N", "M.KR.N.628", "Q.KR+US.N.628", "Q..N.628"] {
            assert!(Series { code: code.to_owned(), ..korea.clone() }.checked().is_err(), "{code}");
        }
        let monthly = Series { every: Every::Month, ..korea };
        assert_eq!(monthly.checked().unwrap_err(), "every = month is none of what bis tells: [quarter]");
    }
}
