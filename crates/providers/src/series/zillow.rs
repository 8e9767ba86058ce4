//! Zillow's research files: one CSV holds all months of all regions of a kind, re-estimated with every release. Source: the files' own layout.

use super::{Pace, Reach, Reading, Series, Source, VALUE, body, only, unreadable, value};
use crate::{RestAnswer, RestError, Secret};
use marketflow_model::Month;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(super) struct Zillow;

/// `zhvi/FILE.csv#102001` as file and `RegionID`.
fn parts(series: &Series) -> Option<(&str, &str)> {
    let (file, region) = series.code.split_once('#')?;
    let is_file = file.ends_with(".csv")
        && !file.contains("..")
        && file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
    (is_file && !region.is_empty() && region.bytes().all(|byte| byte.is_ascii_digit())).then_some((file, region))
}

impl Source for Zillow {
    fn id(&self) -> &'static str {
        "zillow"
    }

    fn url(&self) -> &'static str {
        "https://files.zillowstatic.com"
    }

    /// Static files of some megabytes that change once a month.
    fn pace(&self) -> Pace {
        Pace { per_second: 0.5, burst: 1.0, penalty: Duration::from_secs(60) }
    }

    fn reach(&self) -> Reach {
        Reach::Everything
    }

    fn check(&self, series: &Series) -> Result<(), String> {
        parts(series).ok_or_else(|| format!("code {:?} is no file and region such as zhvi/FILE.csv#102001", series.code))?;
        only(series, &[VALUE])
    }

    fn request(&self, series: &Series, _: Month, _: Month, _: Option<&Secret>) -> String {
        format!("/research/public_csvs/{}", parts(series).unwrap_or_default().0)
    }

    fn read(&self, series: &Series, first: Month, last: Month, answer: RestAnswer<'_>) -> Result<Vec<Reading>, RestError> {
        let text = body(answer, |_| None)?;
        let region = parts(series).unwrap_or_default().1;
        let mut rows = csv::ReaderBuilder::new().from_reader(text.as_bytes());
        let wrong = |error: csv::Error| unreadable(format!("CSV: {error}"));
        let header = rows.headers().map_err(wrong)?.clone();
        let id = header.iter().position(|name| name == "RegionID").ok_or_else(|| unreadable("no column RegionID"))?;
        let months: Vec<(usize, Month)> =
            header.iter().enumerate().filter_map(|(at, name)| Some((at, Month::of_date(name)?))).collect();
        // the last date says which release it is
        let vintage = months.last().map(|(at, _)| header[*at].to_owned()).ok_or_else(|| unreadable("no column of a month"))?;
        let row = loop {
            match rows.records().next() {
                Some(row) => {
                    let row = row.map_err(wrong)?;
                    if row.get(id) == Some(region) {
                        break row;
                    }
                }
                None => return Err(RestError::Refused { detail: format!("no region {region} in the file") }),
            }
        };
        let mut readings = Vec::new();
        let mut has_begun = false;
        for (at, month) in months {
            let cell = row.get(at).unwrap_or_default();
            // before its history begins there is nothing, and nothing is missing
            has_begun |= !cell.is_empty();
            if has_begun && (first..=last).contains(&month) {
                let number = if cell.is_empty() { None } else { Some(value(cell)?) };
                readings.push(Reading {
                    value_name: VALUE.to_owned(),
                    month,
                    value: number,
                    vintage: Some(vintage.clone()),
                    published_at: None,
                });
            }
        }
        Ok(readings)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ok, problem, readings, series};
    use super::*;

    const FILE: &str = "RegionID,SizeRank,RegionName,RegionType,StateName,2023-12-31,2024-01-31,2024-02-29,2024-03-31\n\
        102001,0,United States,country,,342684.59562983306,343000,,345000.25\n394913,1,\"New York, NY\",msa,NY,,,628950.905039041,1\n";

    #[test]
    fn a_region_is_a_row_and_a_month_a_column() {
        let states = series("zillow", "zhvi/Metro_zhvi_month.csv#102001", &["value"]);
        let read = readings(&states, "2024-01", "2024-03", ok(FILE));
        assert_eq!(read, ["value 2024-01 343000", "value 2024-02 .", "value 2024-03 345000.25"]);
        let new_york = series("zillow", "zhvi/Metro_zhvi_month.csv#394913", &["value"]);
        assert_eq!(
            readings(&new_york, "2023-12", "2024-02", ok(FILE)),
            ["value 2024-02 628950.905039041"],
            "its history begins there"
        );
        let nowhere = series("zillow", "zhvi/Metro_zhvi_month.csv#1", &["value"]);
        assert_eq!(problem(&nowhere, 200, None, FILE).outcome(), "refused");
        assert!(Zillow.check(&Series { code: "../passwd.csv#1".to_owned(), ..nowhere }).is_err());
        let month = "2024-01".parse().unwrap();
        let read = Zillow.read(&states, month, month, ok(FILE)).unwrap();
        assert_eq!(read[0].vintage.as_deref(), Some("2024-03-31"));
    }
}
