//! Sources of monthly and quarterly series: a table of values, and each source's way of telling them, of limiting and of failing.
//!
//! Values are random walks from the seed, or those of a file. Limits count wall time, as the sources do. What each of them says is spelled in
//! `answers.rs`. Next: `answers.rs`.

mod answers;

use crate::config::SeriesConfig;
use crate::decimal::scaled_text;
use crate::seed;
use crate::simulation::Simulation;
use anyhow::{Context, bail, ensure};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use jiff::Span;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

type Shared = State<Arc<Simulation>>;
/// First day of a month; a quarter's is that of its first month.
type Month = Date;
/// A value as text; `None`: published as missing.
type Values = BTreeMap<Month, Option<String>>;

/// The sources, sorted.
const SOURCES: [&str; 8] = ["alphavantage", "binance", "bis", "frankfurter", "fred", "nasdaq", "yahoo", "zillow"];

/// The wire routes below `/series`.
pub fn routes() -> Router<Arc<Simulation>> {
    Router::new().route("/{source}/{*path}", get(answer))
}

/// The routes on the admin port.
pub(crate) fn admin() -> Router<Arc<Simulation>> {
    Router::new().route("/series", get(table).post(revise)).route("/series/requests", get(requests))
}

/// What is known and who asked.
#[derive(Debug)]
pub struct Sources(Mutex<Known>);

#[derive(Debug)]
struct Known {
    /// By source, code and name of the value.
    values: BTreeMap<(String, String, String), Values>,
    /// By source.
    requests: BTreeMap<String, Requests>,
    /// Values changed after they were published.
    revisions: i32,
}

/// Requests to one source.
#[derive(Debug, Default, Clone, Serialize)]
struct Requests {
    /// All of them.
    received: u64,
    /// Over the limit.
    refused: u64,
    /// Made to fail.
    failed: u64,
    /// Of those, answered with `Retry-After`.
    told_to_wait: u64,
    /// Before that time had passed.
    hasty: u64,
    #[serde(skip)]
    recent: VecDeque<Instant>,
    #[serde(skip)]
    not_before: Option<Instant>,
}

/// A value as `GET /series` shows and `POST /series` takes it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    source: String,
    code: String,
    value: String,
    month: String,
    /// `None`: published as missing.
    number: Option<String>,
}

impl Sources {
    /// Generates and reads the values.
    ///
    /// # Errors
    /// What in the configuration or the file cannot be, in words.
    pub fn new(config: &SeriesConfig, seed: u64) -> anyhow::Result<Self> {
        let (from, to) = (month(&config.from).context("series.from")?, month(&config.to).context("series.to")?);
        ensure!((0.0..=1.0).contains(&config.missing), "series.missing {} is not within 0–1", config.missing);
        ensure!(config.limits_times > 0.0, "series.limits_times {} is not above 0", config.limits_times);
        let mut values = BTreeMap::new();
        for known in &config.codes {
            let (source, code) = known.split_once(':').with_context(|| format!("series.codes: {known:?} is no source:code"))?;
            if !SOURCES.contains(&source) {
                bail!("series.codes: {source:?} is none of: {}", SOURCES.join(", "));
            }
            for walk in answers::walks(source, code) {
                let key = (source.to_owned(), code.to_owned(), walk.value.to_owned());
                values.insert(key, walk.play(seed, known, (from, to), config.missing));
            }
        }
        if !config.values.as_os_str().is_empty() {
            let doing = || format!("cannot read {} (series.values)", config.values.display());
            let mut given: BTreeMap<(String, String, String), Values> = BTreeMap::new();
            for line in csv::Reader::from_path(&config.values).with_context(doing)?.deserialize() {
                let line: Line = line.with_context(doing)?;
                let month = month(&line.month).with_context(doing)?;
                let number = line.number.filter(|text| !text.is_empty());
                given.entry((line.source, line.code, line.value)).or_default().insert(month, number);
            }
            values.append(&mut given);
        }
        Ok(Self(Mutex::new(Known { values, requests: BTreeMap::new(), revisions: 0 })))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A random walk: how a generated series begins and moves.
struct Walk {
    value: &'static str,
    /// First value, and decimals of all.
    start: f64,
    decimals: u8,
    /// Size of a month's relative move.
    step: f64,
    /// Whether periods can be missing.
    gaps: bool,
    /// Of each period: 1 or 3.
    months: i8,
}

impl Walk {
    fn play(&self, seed: u64, name: &str, (from, to): (Month, Month), missing: f64) -> Values {
        let series = seed::of_text(&format!("series {name} {}", self.value));
        let (mut level, mut month, mut values) = (self.start, self.period_of(from), Values::new());
        // the last one has ended
        while self.last_month_of(month) <= to {
            let at = [series, u64::try_from(values.len()).unwrap_or_default()];
            let step = self.step * (seed::pick_i64(seed, &at, 2_001) - 1_000) as f64 / 1_000.0;
            level = (level * (1.0 + step)).clamp(self.start / 1_000.0, self.start * 1_000.0);
            let is_missing = self.gaps && seed::happens(seed, &[at[0], at[1], 1], missing);
            let scaled = (level * 10_f64.powi(i32::from(self.decimals))).round();
            #[expect(clippy::cast_possible_truncation, reason = "clamped far below")]
            let number = scaled_text(scaled as i128, self.decimals);
            values.insert(month, (!is_missing).then_some(number));
            month = next(self.last_month_of(month));
        }
        values
    }

    /// The first month of its period.
    fn period_of(&self, month: Month) -> Month {
        month.saturating_sub(Span::new().months((month.month() - 1) % self.months))
    }

    fn last_month_of(&self, period: Month) -> Month {
        period.saturating_add(Span::new().months(self.months - 1))
    }
}

/// `2024-05` as its first day.
fn month(text: &str) -> anyhow::Result<Month> {
    format!("{text}-01").parse().with_context(|| format!("{text:?} is no month such as 2024-05"))
}

fn next(month: Month) -> Month {
    month.last_of_month().tomorrow().unwrap_or(Date::MAX)
}

async fn answer(
    State(simulation): Shared,
    Path((source, path)): Path<(String, String)>,
    Query(parameters): Query<HashMap<String, String>>,
) -> Response {
    let config = &simulation.config.series;
    let mut known = simulation.series.known();
    let Some(source) = SOURCES.iter().find(|known| **known == source) else {
        return (StatusCode::NOT_FOUND, format!("no source {source}; there are: {}", SOURCES.join(", "))).into_response();
    };
    let requests = known.requests.entry((*source).to_owned()).or_default();
    requests.received += 1;
    let now = Instant::now();
    if requests.not_before.is_some_and(|not_before| now < not_before) {
        requests.hasty += 1;
    }
    if let Some((limit, window)) = answers::limit(source, &parameters) {
        while requests.recent.front().is_some_and(|at| now - *at >= window) {
            requests.recent.pop_front();
        }
        if requests.recent.len() as f64 >= f64::from(limit) * config.limits_times {
            requests.refused += 1;
            return answers::too_many(source);
        }
        requests.recent.push_back(now);
    }
    if config.fail_every > 0 && requests.received % config.fail_every == 0 {
        requests.failed += 1;
        let response = failure(source, requests.failed);
        if response.headers().contains_key(header::RETRY_AFTER) {
            requests.told_to_wait += 1;
            requests.not_before = Some(now + RETRY_AFTER);
        }
        return response;
    }
    let asked = answers::Asked { path: &path, parameters: &parameters, fred_api_key: &config.fred_api_key };
    answers::answer(source, &asked, &known.values, known.revisions)
}

/// One of the ways in which sources fail.
fn failure(source: &str, count: u64) -> Response {
    match count % 4 {
        1 => {
            let mut response = answers::too_many(source);
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER.as_secs().into());
            response
        }
        2 => Html("<!DOCTYPE html><html><body><p>Will be right back...</p></body></html>").into_response(),
        3 => (StatusCode::INTERNAL_SERVER_ERROR, "{}").into_response(),
        _ => ([(header::CONTENT_TYPE, "application/json")], "").into_response(),
    }
}

/// Every value, a line of JSON each.
async fn table(State(simulation): Shared) -> String {
    let known = simulation.series.known();
    let mut text = String::new();
    for ((source, code, value), values) in &known.values {
        for (month, number) in values {
            let month = month.strftime("%Y-%m").to_string();
            let (source, code, value) = (source.clone(), code.clone(), value.clone());
            let line = serde_json::json!(Line { source, code, value, month, number: number.clone() });
            text.push_str(&format!("{line}\n"));
        }
    }
    text
}

/// Changes a value that was published; later answers are of a later vintage.
async fn revise(State(simulation): Shared, Json(line): Json<Line>) -> Result<(), (StatusCode, String)> {
    let wrong = |problem: String| (StatusCode::BAD_REQUEST, problem);
    let month = month(&line.month).map_err(|problem| wrong(problem.to_string()))?;
    let mut known = simulation.series.known();
    let values = known.values.get_mut(&(line.source, line.code, line.value)).ok_or_else(|| wrong("no such series".to_owned()))?;
    values.insert(month, line.number);
    known.revisions += 1;
    Ok(())
}

/// Requests by source.
async fn requests(State(simulation): Shared) -> Json<BTreeMap<String, Requests>> {
    Json(simulation.series.known().requests.clone())
}

/// What a refusal asks for.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Requests allowed within a window.
type Limit = (u32, Duration);
