//! What each source says, letter by letter: paths, parameters, spellings, refusals. Next: `crates/providers/src/series/mod.rs`, which reads it.

use super::{Limit, Month, Values, Walk, next};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// A request.
pub(super) struct Asked<'a> {
    pub(super) path: &'a str,
    pub(super) parameters: &'a HashMap<String, String>,
    pub(super) fred_api_key: &'a str,
}

impl Asked<'_> {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    fn date(&self, name: &str) -> Option<Date> {
        self.parameter(name)?.parse().ok()
    }
}

type Table = BTreeMap<(String, String, String), Values>;

/// The values of a source and code, by name; `None`: it is not known.
fn values_of<'a>(table: &'a Table, source: &str, code: &str) -> Option<BTreeMap<&'a str, &'a Values>> {
    let found: BTreeMap<_, _> = table
        .iter()
        .filter(|((s, c, _), _)| s == source && c == code)
        .map(|((.., name), values)| (name.as_str(), values))
        .collect();
    (!found.is_empty()).then_some(found)
}

/// Whether a code is told by the quarter alone.
pub(super) fn is_quarterly(source: &str, code: &str) -> bool {
    source == "bis" || (source == "fred" && code.ends_with("BIS"))
}

/// What is generated for a code.
pub(super) fn walks(source: &str, code: &str) -> Vec<Walk> {
    let months = if is_quarterly(source, code) { 3 } else { 1 };
    let walk = |value, start, decimals, step, gaps| Walk { value, start, decimals, step, gaps, months };
    match source {
        "alphavantage" if code.ends_with("/KRW") => vec![walk("close", 1_200.0, 5, 0.03, false)],
        "alphavantage" => vec![walk("close", 1.1, 5, 0.03, false)],
        "bis" => vec![walk("value", 130.0, 4, 0.02, true)],
        "yahoo" => vec![walk("close", 250.0, 2, 0.08, true), walk("volume", 90_000_000.0, 0, 0.3, true)],
        "fred" => vec![walk("value", if code.starts_with('D') { 3.0 } else { 150.0 }, 2, 0.05, true)],
        "frankfurter" if code.ends_with("/KRW") => vec![walk("value", 1_200.0, 1, 0.03, false)],
        "frankfurter" => vec![walk("value", 1.1, 4, 0.03, false)],
        "binance" => vec![
            walk("close", 9_000.0, 8, 0.2, false),
            walk("volume", 1_000_000.0, 8, 0.3, false),
            walk("quote_volume", 9_000_000_000.0, 8, 0.3, false),
            walk("taker_buy_quote_volume", 4_500_000_000.0, 8, 0.3, false),
        ],
        "nasdaq" => vec![walk("USD (AM)", 1_500.0, 2, 0.04, true), walk("USD (PM)", 1_500.0, 2, 0.04, true)],
        _ => vec![walk("value", 240_000.0, 10, 0.01, true)],
    }
}

/// What a source allows.
pub(super) fn limit(source: &str, parameters: &HashMap<String, String>) -> Option<Limit> {
    match source {
        "fred" => Some((120, Duration::from_secs(60))),
        "alphavantage" => Some((60, Duration::from_secs(60))),
        "yahoo" => Some((60, Duration::from_secs(60))),
        "nasdaq" if parameters.contains_key("api_key") => Some((300, Duration::from_secs(10))),
        "nasdaq" => Some((20, Duration::from_secs(600))),
        "binance" => Some((3_000, Duration::from_secs(60))),
        _ => None,
    }
}

fn refuse(status: u16, body: Value) -> Response {
    (StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), axum::Json(body)).into_response()
}

fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json; charset=UTF-8")], body).into_response()
}

/// The refusal of one request too many.
pub(super) fn too_many(source: &str) -> Response {
    match source {
        "fred" => refuse(429, json!({"error_code": 429, "error_message": "Too Many Requests.  Exceeded Rate Limit"})),
        "nasdaq" => refuse(
            429,
            json!({"quandl_error": {"code": "QELx04", "message": "You have exceeded the API speed limit of 300 calls per 10 seconds."}}),
        ),
        "alphavantage" => axum::Json(json!({"Information": "Thank you for using Alpha Vantage! Please consider spreading out your free API requests more sparingly (1 request per second)."}))
            .into_response(),
        "binance" => refuse(429, json!({"code": -1003, "msg": "Too much request weight used."})),
        _ => (StatusCode::TOO_MANY_REQUESTS, "Edge: Too Many Requests").into_response(),
    }
}

/// What a source answers.
pub(super) fn answer(source: &str, asked: &Asked<'_>, table: &Table, revisions: i32) -> Response {
    match source {
        "alphavantage" => alphavantage(asked, table),
        "bis" => bis(asked, table),
        "yahoo" => yahoo(asked, table),
        "fred" => fred(asked, table, revisions),
        "frankfurter" => frankfurter(asked, table),
        "binance" => binance(asked, table),
        "nasdaq" => nasdaq(asked, table),
        _ => zillow(asked, table),
    }
}

fn alphavantage(asked: &Asked<'_>, table: &Table) -> Response {
    let problem = |said: &str| axum::Json(json!({"Error Message": said})).into_response();
    if asked.path != "query" || asked.parameter("function") != Some("FX_MONTHLY") {
        return problem("This API function does not exist.");
    }
    if asked.parameter("apikey").is_none_or(str::is_empty) {
        return problem("the parameter apikey is invalid or missing.");
    }
    let code = asked.parameter("from_symbol").zip(asked.parameter("to_symbol")).map(|(from, to)| format!("{from}/{to}"));
    let Some((code, known)) = code.and_then(|code| values_of(table, "alphavantage", &code).map(|known| (code, known))) else {
        return problem(
            "Invalid API call. Please retry or visit the documentation (https://www.alphavantage.co/documentation/) for FX_MONTHLY.",
        );
    };
    // the newest first, each named by its last working day
    let rows = known["close"].iter().rev().filter_map(|(month, number)| Some((month, number.as_ref()?))).map(|(month, rate)| {
        let mut day = month.last_of_month();
        while matches!(day.weekday(), Weekday::Saturday | Weekday::Sunday) {
            day = day.yesterday().unwrap_or(*month);
        }
        format!(r#""{day}":{{"1. open":"{rate}","2. high":"{rate}","3. low":"{rate}","4. close":"{rate}"}}"#)
    });
    let rows = rows.collect::<Vec<_>>().join(",");
    text(format!(
        r#"{{"Meta Data":{{"1. Information":"Forex Monthly Prices (open, high, low, close)","2. Symbol":"{code}"}},"Time Series FX (Monthly)":{{{rows}}}}}"#
    ))
}

fn bis(asked: &Asked<'_>, table: &Table) -> Response {
    let key = asked.path.strip_prefix("api/v1/data/WS_SPP/").and_then(|path| path.strip_suffix("/all"));
    let Some((key, known)) = key.and_then(|key| Some((key, values_of(table, "bis", key)?))) else {
        return (StatusCode::NOT_FOUND, "No results found.").into_response();
    };
    if asked.parameter("format") != Some("csv") {
        return (StatusCode::NOT_ACCEPTABLE, "format is not supported here but csv").into_response();
    }
    let columns = key.replace('.', ",");
    let mut csv = "FREQ,REF_AREA,VALUE,UNIT_MEASURE,UNIT_MULT,BREAKS,COVERAGE,TITLE_TS,TIME_PERIOD,OBS_VALUE,OBS_STATUS,OBS_CONF,OBS_PRE_BREAK\n".to_owned();
    for (month, number) in known["value"] {
        let (number, status) = number.as_deref().map_or(("NaN", "M"), |number| (number, "A"));
        csv.push_str(&format!("{columns},0,,,,{}-Q{},{number},{status},F,\n", month.year(), (month.month() + 2) / 3));
    }
    ([(header::CONTENT_TYPE, "text/csv")], csv).into_response()
}

fn yahoo(asked: &Asked<'_>, table: &Table) -> Response {
    let problem = |status, code: &str, description: &str| {
        refuse(status, json!({"chart": {"result": null, "error": {"code": code, "description": description}}}))
    };
    let Some(symbol) = asked.path.strip_prefix("v8/finance/chart/") else { return problem(404, "Not Found", "no such path") };
    let Some(known) = values_of(table, "yahoo", symbol) else {
        return problem(404, "Not Found", "No data found, symbol may be delisted");
    };
    if asked.parameter("interval") != Some("1mo") {
        return problem(422, "Unprocessable Entity", "Invalid input - interval is not supported here. Valid intervals: [1mo]");
    }
    let bound = |name| asked.parameter(name).and_then(|text| text.parse::<i64>().ok());
    let (Some(from), Some(to)) = (bound("period1"), bound("period2")) else {
        return problem(400, "Bad Request", "Data doesn't exist for the dates given");
    };
    let (zone_name, currency) =
        if symbol.ends_with(".KS") || symbol == "^KS11" { ("Asia/Seoul", "KRW") } else { ("America/New_York", "USD") };
    let zone = TimeZone::get(zone_name).unwrap_or(TimeZone::UTC);
    let seconds = |month: &Month| month.to_zoned(zone.clone()).map_or(0, |midnight| midnight.timestamp().as_second());
    let months: Vec<Month> = known["close"].keys().copied().filter(|month| (from..to).contains(&seconds(month))).collect();
    let meta = json!({"currency": currency, "symbol": symbol, "gmtoffset": 0, "exchangeTimezoneName": zone_name, "priceHint": 2,
        "dataGranularity": "1mo", "range": ""});
    if months.is_empty() {
        let none = json!({"meta": meta, "indicators": {"quote": [{}]}});
        return axum::Json(json!({"chart": {"result": [none], "error": null}})).into_response();
    }
    let number = |name: &str, month: &Month| known.get(name).and_then(|values| values.get(month).cloned().flatten());
    // prices are 32-bit floats shown with 64 bits
    let wide = |text: String| text.parse::<f32>().map_or(Value::Null, |float| json!(f64::from(float)));
    let whole = |text: String| text.parse::<i64>().map_or(Value::Null, |number| json!(number));
    let mut stamps: Vec<i64> = months.iter().map(&seconds).collect();
    let mut closes: Vec<Value> = months.iter().map(|month| number("close", month).map_or(Value::Null, wide)).collect();
    let mut volumes: Vec<Value> = months.iter().map(|month| number("volume", month).map_or(Value::Null, whole)).collect();
    // the live row, off the grid, at the end of the last month there is
    if months.last() == known["close"].keys().last() {
        stamps.push(stamps.last().copied().unwrap_or_default() + 20 * 86_400);
        closes.push(json!(1.5));
        volumes.push(json!(1));
    }
    let quote = json!({"open": closes, "high": closes, "low": closes, "close": closes, "volume": volumes});
    let result = json!({"meta": meta, "timestamp": stamps, "indicators": {"quote": [quote], "adjclose": [{"adjclose": closes}]}});
    axum::Json(json!({"chart": {"result": [result], "error": null}})).into_response()
}

fn fred(asked: &Asked<'_>, table: &Table, revisions: i32) -> Response {
    let problem = |status: u16, message: &str| refuse(status, json!({"error_code": status, "error_message": message}));
    if asked.path != "fred/series/observations" {
        return problem(404, "Not Found");
    }
    let Some(key) = asked.parameter("api_key").filter(|key| !key.is_empty()) else {
        return problem(
            400,
            "Bad Request.  Variable api_key has not been set.  Read the API's page on keys for more information.",
        );
    };
    if !asked.fred_api_key.is_empty() && key != asked.fred_api_key {
        return problem(400, "Bad Request.  The value for variable api_key is not registered.");
    }
    if asked.parameter("file_type") != Some("json") {
        let xml = r#"<?xml version="1.0" encoding="utf-8" ?><observations count="0"></observations>"#;
        return ([(header::CONTENT_TYPE, "text/xml; charset=UTF-8")], xml).into_response();
    }
    let id = asked.parameter("series_id").unwrap_or_default();
    let Some(known) = values_of(table, "fred", id) else {
        return problem(400, "Bad Request.  The series does not exist.");
    };
    // it makes longer periods of shorter ones and never the other way round; months are not made quarters here
    let frequency = if is_quarterly("fred", id) { "q" } else { "m" };
    if asked.parameter("frequency").is_some_and(|asked| asked != frequency) {
        return problem(400, "Bad Request.  The value for variable frequency is not one that this series has.");
    }
    let from = asked.date("observation_start").unwrap_or(Date::MIN);
    let to = asked.date("observation_end").unwrap_or(Date::MAX);
    let today = jiff::civil::date(2026, 11, 1).saturating_add(jiff::Span::new().days(revisions)).to_string();
    let rows: Vec<Value> = known["value"]
        .range(from..=to)
        .map(|(month, number)| {
            let value = number.as_deref().unwrap_or(".");
            json!({"realtime_start": today, "realtime_end": today, "date": month.to_string(), "value": value})
        })
        .collect();
    let count = rows.len();
    axum::Json(json!({"realtime_start": today, "realtime_end": today, "observation_start": from.to_string(),
        "observation_end": to.to_string(), "units": "lin", "output_type": 1, "file_type": "json", "order_by": "observation_date",
        "sort_order": "asc", "count": count, "offset": 0, "limit": 100_000, "observations": rows}))
    .into_response()
}

fn frankfurter(asked: &Asked<'_>, table: &Table) -> Response {
    let span = asked.path.strip_prefix("v1/").and_then(|span| span.split_once(".."));
    let dates = span.and_then(|(from, to)| Some((from.parse::<Date>().ok()?, to.parse::<Date>().ok()?)));
    let Some((from, to)) = dates else { return refuse(404, json!({"message": "not found"})) };
    let (base, symbol) = (asked.parameter("base").unwrap_or("EUR"), asked.parameter("symbols").unwrap_or_default());
    let Some(known) = values_of(table, "frankfurter", &format!("{base}/{symbol}")) else {
        return refuse(422, json!({"message": "bad currency pair"}));
    };
    // fixings on working days; the month's value is fixed on its last one, some other on its first
    let mut rates = BTreeMap::new();
    for (month, number) in known["value"].iter().filter_map(|(month, number)| Some((month, number.as_ref()?))) {
        let days = month.series(jiff::Span::new().days(1)).take_while(|day| *day <= month.last_of_month());
        let working: Vec<Date> = days.filter(|day| !matches!(day.weekday(), Weekday::Saturday | Weekday::Sunday)).collect();
        if let (Some(first), Some(last)) = (working.first(), working.last()) {
            rates.insert(*first, "1.5".to_owned());
            rates.insert(*last, number.clone());
        }
    }
    let rows = rates.range(from..=to).map(|(day, rate)| format!(r#""{day}":{{"{symbol}":{rate}}}"#)).collect::<Vec<_>>();
    text(format!(r#"{{"amount":1.0,"base":"{base}","start_date":"{from}","end_date":"{to}","rates":{{{}}}}}"#, rows.join(",")))
}

fn binance(asked: &Asked<'_>, table: &Table) -> Response {
    let Some(known) = asked.parameter("symbol").and_then(|symbol| values_of(table, "binance", symbol)) else {
        return refuse(400, json!({"code": -1121, "msg": "Invalid symbol."}));
    };
    if asked.path != "api/v3/klines" || asked.parameter("interval") != Some("1M") {
        return refuse(400, json!({"code": -1120, "msg": "Invalid interval."}));
    }
    let bound = |name, otherwise| asked.parameter(name).and_then(|text| text.parse::<i64>().ok()).unwrap_or(otherwise);
    let (from, to) = (bound("startTime", 0), bound("endTime", i64::MAX));
    let millis = |month: Month| month.to_zoned(TimeZone::UTC).map_or(0, |midnight| midnight.timestamp().as_millisecond());
    let cell = |name: &str, month: &Month| {
        known.get(name).and_then(|values| values.get(month).cloned().flatten()).unwrap_or_else(|| "0".to_owned())
    };
    let rows = known["close"].keys().filter(|month| (from..=to).contains(&millis(**month))).map(|month| {
        let (close, end) = (cell("close", month), millis(next(*month)) - 1);
        json!([
            millis(*month),
            close,
            close,
            close,
            close,
            cell("volume", month),
            end,
            cell("quote_volume", month),
            1_000,
            "1.00000000",
            cell("taker_buy_quote_volume", month),
            "0"
        ])
    });
    axum::Json(rows.collect::<Vec<_>>()).into_response()
}

fn nasdaq(asked: &Asked<'_>, table: &Table) -> Response {
    let problem = |status, code: &str, message: &str| refuse(status, json!({"quandl_error": {"code": code, "message": message}}));
    let code = asked.path.strip_prefix("api/v3/datasets/").and_then(|path| path.strip_suffix("/data.json"));
    let Some(known) = code.and_then(|code| values_of(table, "nasdaq", code)) else {
        return problem(
            404,
            "QECx02",
            "You have submitted an incorrect Quandl code. Please check your Quandl codes and try again.",
        );
    };
    if asked.parameter("collapse") != Some("monthly") {
        return problem(422, "QESx04", "collapse is not supported here but monthly");
    }
    let (from, to) = (asked.date("start_date").unwrap_or(Date::MIN), asked.date("end_date").unwrap_or(Date::MAX));
    let names: Vec<&str> = known.keys().copied().collect();
    let months = known.values().next().map(|values| values.keys().copied().collect::<Vec<_>>()).unwrap_or_default();
    let mut rows: Vec<String> = months
        .iter()
        .filter(|month| (from..=to).contains(&month.last_of_month()))
        .map(|month| {
            let cells = known.values().map(|values| values.get(month).cloned().flatten().unwrap_or_else(|| "null".to_owned()));
            format!(r#"["{}",{}]"#, month.last_of_month(), cells.collect::<Vec<_>>().join(","))
        })
        .collect();
    if asked.parameter("order") != Some("asc") {
        rows.reverse();
    }
    let columns = serde_json::json!([vec!["Date"], names].concat());
    text(format!(
        r#"{{"dataset_data":{{"limit":null,"transform":null,"column_index":null,"column_names":{columns},"frequency":"daily","data":[{}],"collapse":"monthly","order":"asc"}}}}"#,
        rows.join(",")
    ))
}

fn zillow(asked: &Asked<'_>, table: &Table) -> Response {
    let file = asked.path.strip_prefix("research/public_csvs/").unwrap_or_default();
    let regions: Vec<(&str, &Values)> = table
        .iter()
        .filter_map(|((source, code, _), values)| {
            let (of, region) = code.split_once('#')?;
            (source == "zillow" && of == file).then_some((region, values))
        })
        .collect();
    let Some((_, first)) = regions.first() else { return (StatusCode::NOT_FOUND, "not found").into_response() };
    let months: Vec<Month> = first.keys().copied().collect();
    let header: Vec<String> = months.iter().map(|month| month.last_of_month().to_string()).collect();
    let mut csv = format!("RegionID,SizeRank,RegionName,RegionType,StateName,{}\n", header.join(","));
    for (rank, (region, values)) in regions.iter().enumerate() {
        let name = if *region == "102001" { "United States,country," } else { "\"New York, NY\",msa,NY" };
        let cells: Vec<String> = months.iter().map(|month| values.get(month).cloned().flatten().unwrap_or_default()).collect();
        csv.push_str(&format!("{region},{rank},{name},{}\n", cells.join(",")));
    }
    ([(header::CONTENT_TYPE, "text/csv")], csv).into_response()
}
