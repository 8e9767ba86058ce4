//! Binance's monthly candles, with what the aggressors bought. Source: the exchange's public REST pages.

use super::{Pace, Reading, Series, Source, body, encoded, json, only, unreadable, value};
use crate::number::digits;
use crate::{RestAnswer, RestError, Secret};
use marketflow_model::{Month, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(super) struct Binance;

/// The values and where they stand in a row.
const VALUES: &[(&str, usize)] =
    &[("open", 1), ("high", 2), ("low", 3), ("close", 4), ("volume", 5), ("quote_volume", 7), ("taker_buy_quote_volume", 10)];
const COLUMNS: usize = 12;

#[derive(Deserialize)]
struct Problem {
    code: i64,
    msg: String,
}

impl Source for Binance {
    fn id(&self) -> &'static str {
        "binance"
    }

    fn url(&self) -> &'static str {
        "https://api.binance.com"
    }

    /// A request weighs 2 of 6,000 a minute; a tenth of that is enough.
    fn pace(&self) -> Pace {
        Pace { per_second: 5.0, burst: 5.0, penalty: Duration::from_secs(60) }
    }

    fn check(&self, series: &Series) -> Result<(), String> {
        only(series, &VALUES.iter().map(|(name, _)| *name).collect::<Vec<_>>())
    }

    fn request(&self, series: &Series, first: Month, last: Month, _: Option<&Secret>) -> String {
        let (from, to) = (first.start().micros() / 1_000, last.end().micros() / 1_000 - 1);
        format!("/api/v3/klines?symbol={}&interval=1M&startTime={from}&endTime={to}&limit=1000", encoded(&series.code))
    }

    fn read(&self, series: &Series, first: Month, last: Month, answer: RestAnswer<'_>) -> Result<Vec<Reading>, RestError> {
        let words =
            |text: &str| serde_json::from_str::<Problem>(text).ok().map(|problem| format!("{} ({})", problem.msg, problem.code));
        let rows: Vec<Vec<&RawValue>> = json(body(answer, words)?)?;
        let mut readings = Vec::new();
        for row in rows {
            if row.len() != COLUMNS {
                return Err(unreadable(format!("a row of {} columns", row.len())));
            }
            let millis = row[0].get().parse().map_err(|_| unreadable(format!("open time {}", row[0])))?;
            let month = Month::of(Timestamp::from_millis(millis)).ok_or_else(|| unreadable(format!("open time {millis}")))?;
            if !(first..=last).contains(&month) {
                continue;
            }
            for (name, at) in VALUES.iter().filter(|(name, _)| series.values.contains_key(*name)) {
                let number = Some(value(digits(row[*at]))?);
                readings.push(Reading {
                    value_name: (*name).to_owned(),
                    month,
                    value: number,
                    vintage: None,
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

    #[test]
    fn candles_are_read_by_position() {
        let answer = r#"[[1704067200000,"42283.58000000","48969.48000000","38555.00000000","42580.00000000","1403408.85744000",1706745599999,"60200000000.12345678",45000000,"690000.1","29700000000.5","0"]]"#;
        let bitcoin = series("binance", "BTCUSDT", &["close", "taker_buy_quote_volume", "volume"]);
        let read = readings(&bitcoin, "2024-01", "2024-01", ok(answer));
        assert_eq!(read, ["close 2024-01 42580", "volume 2024-01 1403408.85744", "taker_buy_quote_volume 2024-01 29700000000.5"]);
        assert!(readings(&bitcoin, "2024-02", "2024-02", ok(answer)).is_empty());
        assert!(
            problem(&bitcoin, 400, None, r#"{"code":-1121,"msg":"Invalid symbol."}"#)
                .to_string()
                .contains("Invalid symbol. (-1121)")
        );
    }
}
