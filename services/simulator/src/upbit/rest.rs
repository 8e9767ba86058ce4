//! Upbit's REST calls, newest first. What they show is what has happened by virtual now, trades that the socket missed included.
//! Next: `server.rs`.

use super::socket::levels;
use super::{DAY_US, previous_close, utc, write_java};
use crate::decimal::{Decimal, scaled_text};
use crate::market::{Market, Ohlc, Trade, Venue, within};
use crate::simulation::Simulation;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

type Parameters = Query<HashMap<String, String>>;
type Shared = State<Arc<Simulation>>;

/// Most rows of one answer; more are cut without a word.
const TICKS: usize = 500;
const CANDLES: usize = 200;
const UNITS: &[i64] = &[1, 3, 5, 10, 15, 30, 60, 240];
const MINUTE_US: i64 = 60_000_000;

/// The routes below `/upbit`.
pub fn routes() -> Router<Arc<Simulation>> {
    Router::new()
        .route("/v1/market/all", get(markets))
        .route("/v1/trades/ticks", get(ticks))
        .route("/v1/candles/minutes/{unit}", get(minutes))
        .route("/v1/orderbook", get(order_book))
        .fallback(async || Refusal::not_found())
}

/// The group of calls whose limit a path counts against.
pub fn group(path: &str) -> &'static str {
    const GROUPS: &[&str] = &["market", "candles", "trades", "ticker", "orderbook"];
    let name = path.split("/v1/").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
    GROUPS.iter().find(|group| **group == name).copied().unwrap_or("default")
}

/// Counts requests per group and second, and connection attempts per second.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    seconds: HashMap<&'static str, (Option<Instant>, u32)>,
    refused: u32,
    bans: u32,
    banned_until: Option<Instant>,
    connects: VecDeque<Instant>,
}

impl Ledger {
    /// Counts one request and returns what `Remaining-Req` says.
    ///
    /// # Errors
    /// The limit's answer.
    pub fn admit(&self, simulation: &Simulation, group: &'static str) -> Result<String, Box<Response>> {
        let config = &simulation.config.upbit;
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(until) = counts.banned_until.filter(|until| now < *until) {
            return Err(Box::new(blocked(until - now)));
        }
        let (since, count) = counts.seconds.entry(group).or_default();
        if since.is_none_or(|since| since.elapsed() >= Duration::from_secs(1)) {
            (*since, *count) = (Some(now), 0);
        }
        *count += 1;
        let limit = config.requests_per_second;
        if *count <= limit {
            return Ok(format!("group={group}; min={}; sec={}", limit * 60, limit - *count));
        }
        counts.refused += 1;
        if counts.refused > config.ban_after {
            let ban = config.ban * 2_u32.saturating_pow(counts.bans);
            (counts.refused, counts.bans, counts.banned_until) = (0, counts.bans + 1, Some(now + ban));
            return Err(Box::new(blocked(ban)));
        }
        Err(Box::new((StatusCode::TOO_MANY_REQUESTS, "Too many API requests.").into_response()))
    }

    /// Counts one connection attempt; `false` when it is one too many.
    pub fn admit_connection(&self, simulation: &Simulation) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        counts.connects.retain(|at| now - *at < Duration::from_secs(1));
        counts.connects.push_back(now);
        counts.connects.len() <= usize::try_from(simulation.config.upbit.connects_per_second).unwrap_or(usize::MAX)
    }
}

fn blocked(left: Duration) -> Response {
    let message = format!("This key or address is blocked for {} seconds.", left.as_secs());
    (StatusCode::IM_A_TEAPOT, axum::Json(json!({"error": {"name": "too_many_requests", "message": message}}))).into_response()
}

/// The error object of a failing answer.
pub fn error_body(status: u16) -> Value {
    json!({"error": {"name": status, "message": "Service is not available at the moment."}})
}

/// An error answer; its name is a number or a text.
struct Refusal(StatusCode, Value, &'static str);

impl Refusal {
    fn not_found() -> Refusal {
        Refusal(StatusCode::NOT_FOUND, 404.into(), "Code not found")
    }

    fn invalid(what: &'static str) -> Refusal {
        Refusal(StatusCode::BAD_REQUEST, "invalid_parameter".into(), what)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, axum::Json(json!({"error": {"name": self.1, "message": self.2}}))).into_response()
    }
}

fn find<'a>(simulation: &'a Simulation, parameters: &HashMap<String, String>, name: &str) -> Result<&'a Market, Refusal> {
    let code = parameters.get(name).ok_or(Refusal::invalid("market does not have a valid value"))?;
    let index = simulation.hub.find(Venue::Upbit, code).ok_or_else(Refusal::not_found)?;
    let market = &simulation.hub.markets[index];
    if market.upper == *code { Ok(market) } else { Err(Refusal::not_found()) }
}

fn count(parameters: &HashMap<String, String>, most: usize) -> Result<usize, Refusal> {
    match parameters.get("count").map(|text| text.parse::<usize>()) {
        None => Ok(1),
        Some(Ok(count)) => Ok(count.min(most)),
        Some(Err(_)) => Err(Refusal::invalid("count does not have a valid value")),
    }
}

/// Rows are put together as text: their numbers are spelled as no JSON library would.
fn array(rows: Vec<String>) -> Response {
    ([(header::CONTENT_TYPE, "application/json;charset=UTF-8")], format!("[{}]", rows.join(","))).into_response()
}

fn java(number: Decimal) -> String {
    let mut out = Vec::new();
    write_java(number, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

async fn markets(State(simulation): Shared, Query(parameters): Parameters) -> Response {
    let details = ["is_details", "isDetails"].iter().any(|name| parameters.get(*name).is_some_and(|text| text == "true"));
    let rows = simulation.hub.markets.iter().filter(|market| market.venue == Venue::Upbit).map(|market| {
        let mut row = json!({"market": market.upper, "korean_name": market.base, "english_name": market.base});
        if details {
            row["market_event"] = json!({"warning": false, "caution": {"PRICE_FLUCTUATIONS": false, "TRADING_VOLUME_SOARING": false,
                "DEPOSIT_AMOUNT_SOARING": false, "GLOBAL_PRICE_DIFFERENCES": false, "CONCENTRATION_OF_SMALL_ACCOUNTS": false}});
        }
        row
    });
    axum::Json(rows.collect::<Vec<_>>()).into_response()
}

async fn ticks(State(simulation): Shared, Query(parameters): Parameters) -> Result<Response, Refusal> {
    let (market, count) = (find(&simulation, &parameters, "market")?, count(&parameters, TICKS)?);
    let days_ago = match parameters.get("days_ago").filter(|text| !text.is_empty()).map(|text| text.parse::<i64>()) {
        None => 0,
        Some(Ok(days @ 1..=7)) => days,
        Some(_) => return Err(Refusal::invalid("days_ago does not have a valid value")),
    };
    let day_us = (simulation.clock.now_us().div_euclid(DAY_US) - days_ago) * DAY_US;
    let to_us = match parameters.get("to").filter(|text| !text.is_empty()) {
        None => day_us + DAY_US,
        Some(text) => day_us + time_of_day_us(text).ok_or(Refusal::invalid("to does not have a valid value"))?,
    };
    let cursor = match parameters.get("cursor").filter(|text| !text.is_empty()).map(|text| text.parse::<i64>()) {
        None => i64::MAX,
        Some(Ok(cursor)) => cursor,
        Some(Err(_)) => return Err(Refusal::invalid("cursor does not have a valid value")),
    };
    Ok(array(market.happened(|trades| {
        let mut newest_first: Vec<&Trade> = within(trades, day_us, to_us).iter().filter(|trade| trade.id < cursor).collect();
        newest_first.reverse();
        newest_first.into_iter().take(count).map(|trade| tick_row(market, previous_close(trades, trade), trade)).collect()
    })))
}

fn tick_row(market: &Market, previous: Decimal, trade: &Trade) -> String {
    format!(
        r#"{{"market":"{}","trade_date_utc":"{}","trade_time_utc":"{}","timestamp":{},"trade_price":{},"trade_volume":{},"prev_closing_price":{},"change_price":{},"ask_bid":"{}","sequential_id":{}}}"#,
        market.upper,
        utc(trade.time_us, "%Y-%m-%d"),
        utc(trade.time_us, "%H:%M:%S"),
        trade.time_us.div_euclid(1_000),
        trade.price().text(1),
        java(trade.size()),
        previous.text(1),
        scaled_text(trade.price().at_scale(8) - previous.at_scale(8), 8),
        if trade.taker_sells { "ASK" } else { "BID" },
        trade.id
    )
}

/// `HHmmss` or `HH:mm:ss` as microseconds since midnight.
fn time_of_day_us(text: &str) -> Option<i64> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    if digits.len() != 6 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: i64 = digits.parse().ok()?;
    Some((number / 10_000 * 3_600 + number / 100 % 100 * 60 + number % 100) * 1_000_000)
}

async fn minutes(State(simulation): Shared, Path(unit): Path<i64>, Query(parameters): Parameters) -> Result<Response, Refusal> {
    if !UNITS.contains(&unit) {
        return Err(Refusal::invalid("unit does not have a valid value"));
    }
    let (market, count) = (find(&simulation, &parameters, "market")?, count(&parameters, CANDLES)?);
    let mut to_us = match parameters.get("to").filter(|text| !text.is_empty()) {
        None => i64::MAX,
        Some(text) => instant_us(text).ok_or(Refusal::invalid("to does not have a valid value"))?,
    };
    let length_us = unit * MINUTE_US;
    Ok(array(market.happened(|trades| {
        let mut rows = Vec::new();
        while rows.len() < count {
            // The newest bar that begins before `to`; minutes without trades have none.
            let Some(last) = trades.partition_point(|trade| trade.time_us < to_us).checked_sub(1) else { break };
            let open_us = trades[last].time_us.div_euclid(length_us) * length_us;
            let bar = within(trades, open_us, open_us + length_us);
            rows.extend(Ohlc::of(bar).map(|ohlc| candle_row(market, unit, open_us, bar, &ohlc)));
            to_us = open_us;
        }
        rows
    })))
}

fn candle_row(market: &Market, unit: i64, open_us: i64, bar: &[Trade], ohlc: &Ohlc) -> String {
    let kst_us = open_us + 9 * 3_600_000_000;
    format!(
        r#"{{"market":"{}","candle_date_time_utc":"{}","candle_date_time_kst":"{}","opening_price":{},"high_price":{},"low_price":{},"trade_price":{},"timestamp":{},"candle_acc_trade_price":{},"candle_acc_trade_volume":{},"unit":{unit}}}"#,
        market.upper,
        utc(open_us, "%Y-%m-%dT%H:%M:%S"),
        utc(kst_us, "%Y-%m-%dT%H:%M:%S"),
        ohlc.open.text(1),
        ohlc.high.text(1),
        ohlc.low.text(1),
        ohlc.close.text(1),
        bar.last().map_or(0, |trade| trade.time_us.div_euclid(1_000)),
        scaled_text(ohlc.turnover / 100_000_000, 8),
        scaled_text(ohlc.volume, 8)
    )
}

/// ISO 8601 with a zone, or without one in UTC.
fn instant_us(text: &str) -> Option<i64> {
    let with_zone = text.parse::<jiff::Timestamp>().ok();
    let time = with_zone.or_else(|| {
        let local: jiff::civil::DateTime = text.parse().ok()?;
        local.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    });
    time.map(|time| time.as_microsecond())
}

async fn order_book(State(simulation): Shared, Query(parameters): Parameters) -> Result<Response, Refusal> {
    let market = find(&simulation, &parameters, "markets")?;
    let Some(trade) = market.happened(|trades| trades.last().copied()) else { return Ok(array(Vec::new())) };
    let levels = levels(market, &trade, count(&parameters, 30)?.max(1), simulation.config.seed);
    let price = |price| scaled_text(price, market.price_decimals);
    let units = levels.iter().map(|[ask, bid]| {
        format!(
            r#"{{"ask_price":{},"bid_price":{},"ask_size":{},"bid_size":{}}}"#,
            price(ask.0),
            price(bid.0),
            scaled_text(ask.1, 8),
            scaled_text(bid.1, 8)
        )
    });
    let total = |side: usize| scaled_text(levels.iter().map(|level| level[side].1).sum(), 8);
    Ok(array(vec![format!(
        r#"{{"market":"{}","timestamp":{},"total_ask_size":{},"total_bid_size":{},"orderbook_units":[{}],"level":0}}"#,
        market.upper,
        simulation.clock.now_us().div_euclid(1_000),
        total(0),
        total(1),
        units.collect::<Vec<_>>().join(",")
    )]))
}
