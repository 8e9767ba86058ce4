//! Bitstamp's REST calls. What they show is what has happened by virtual now, trades that the socket missed included.
//!
//! Not played: `/currencies/` and `/eur_usd/` (404). Next: `binance/socket.rs`.

use crate::bitstamp::socket::{book_side, write_levels};
use crate::clock::micros;
use crate::decimal::scaled_text;
use crate::market::{Market, Ohlc, Trade, Venue, within};
use crate::seed;
use crate::simulation::Simulation;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;
/// Candle lengths, seconds.
const STEPS: &[i64] = &[60, 180, 300, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 43_200, 86_400, 259_200];
/// Levels of a REST book.
const FULL_DEPTH: usize = 500;

type Parameters = Query<HashMap<String, String>>;
type Shared = State<Arc<Simulation>>;

/// The routes below `/bitstamp`.
pub fn routes() -> Router<Arc<Simulation>> {
    Router::new()
        .route("/api/v2/transactions/{pair}/", get(transactions))
        .route("/api/v2/ohlc/{pair}/", get(ohlc))
        .route("/api/v2/order_book/{pair}/", get(order_book))
        .route("/api/v2/ticker/", get(all_tickers))
        .route("/api/v2/ticker/{pair}/", get(ticker))
        .route("/api/v2/ticker_hour/{pair}/", get(ticker_hour))
        .route("/api/v2/markets/", get(markets))
        .route("/api/v2/trading-pairs-info/", get(trading_pairs_info))
        .fallback(async || (StatusCode::NOT_FOUND, axum::Json(json!({"message": "Not found."}))))
}

/// Counts requests: so many a second and in ten minutes, per client.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<[Window; 2]>);

#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    count: u32,
}

impl Window {
    fn take(&mut self, length: Duration, limit: u32) -> bool {
        if self.since.is_none_or(|since| since.elapsed() >= length) {
            *self = Window { since: Some(Instant::now()), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= limit
    }
}

impl Ledger {
    /// Counts one request.
    ///
    /// # Errors
    /// The limit's answer, when it is one too many.
    pub fn admit(&self, simulation: &Simulation) -> Result<(), Box<Response>> {
        let config = &simulation.config.bitstamp;
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let second = windows[0].take(Duration::from_secs(1), config.requests_per_second);
        let ten_minutes = windows[1].take(Duration::from_secs(600), config.requests_per_ten_minutes);
        if second && ten_minutes {
            return Ok(());
        }
        let status = StatusCode::from_u16(config.rate_limit_status).unwrap_or(StatusCode::BAD_REQUEST);
        let body = json!({"status": "error", "reason": "Request rate limit exceeded.", "response_code": "400.002"});
        Err(Box::new((status, axum::Json(body)).into_response()))
    }
}

/// The error object of a failing answer.
pub fn error_body(status: u16) -> Value {
    json!({"status": "error", "reason": "Service is not available at the moment.", "response_code": format!("{status}.001")})
}

fn refuse(reason: Value) -> Response {
    (StatusCode::BAD_REQUEST, axum::Json(json!({"status": "error", "reason": reason, "code": "API0004"}))).into_response()
}

fn unknown_pair() -> Response {
    (
        StatusCode::NOT_FOUND,
        Html("<!DOCTYPE html><html><head><title>404</title></head><body><h1>Page not found</h1></body></html>"),
    )
        .into_response()
}

fn find<'a>(simulation: &'a Simulation, pair: &str) -> Option<&'a Market> {
    simulation.hub.find(Venue::Bitstamp, pair).map(|index| &simulation.hub.markets[index])
}

async fn transactions(State(simulation): Shared, Path(pair): Path<String>, Query(parameters): Parameters) -> Response {
    let Some(market) = find(&simulation, &pair) else { return unknown_pair() };
    let config = &simulation.config.bitstamp;
    let reach = match parameters.get("time").map_or("hour", String::as_str) {
        "minute" => config.transactions_minute,
        "hour" => config.transactions_hour,
        "day" => config.transactions_day,
        _ => return refuse(json!({"time": ["Invalid time interval. Choices are minute, hour, day"]})),
    };
    let from_us = simulation.clock.now_us().saturating_sub(micros(reach));
    let rows = market.happened(|trades| {
        let mut rows = String::with_capacity(1024);
        rows.push('[');
        for trade in within(trades, from_us, i64::MAX).iter().rev() {
            if rows.len() > 1 {
                rows.push(',');
            }
            rows.push_str(&format!(
                r#"{{"date":"{}","tid":"{}","price":"{}","type":"{}","amount":"{}"}}"#,
                trade.time_us.div_euclid(SECOND_US),
                trade.id,
                trade.price().text(market.price_decimals),
                u8::from(trade.taker_sells),
                trade.size().text(market.size_decimals),
            ));
        }
        rows.push(']');
        rows
    });
    ([(header::CONTENT_TYPE, "application/json")], rows).into_response()
}

async fn ohlc(State(simulation): Shared, Path(pair): Path<String>, Query(parameters): Parameters) -> Response {
    let Some(market) = find(&simulation, &pair) else { return unknown_pair() };
    let number = |name: &str| parameters.get(name).map(|text| text.parse::<i64>());
    let Some(Ok(step)) = number("step").filter(|step| step.as_ref().is_ok_and(|step| STEPS.contains(step))) else {
        return refuse(json!({"step": ["Invalid or missing step."]}));
    };
    let Some(Ok(limit)) = number("limit").filter(|limit| limit.as_ref().is_ok_and(|limit| (1..=1_000).contains(limit))) else {
        return refuse(json!({"limit": ["Ensure this value is between 1 and 1000."]}));
    };
    let (start, end) = match (number("start").transpose(), number("end").transpose()) {
        (Ok(start), Ok(end)) => (start, end),
        _ => return refuse(json!({"__all__": ["start and end are Unix timestamps."]})),
    };
    let exclude_current = parameters.get("exclude_current_candle").is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let now = simulation.clock.now_us().div_euclid(SECOND_US);
    let mut last = end.unwrap_or(now).min(now).div_euclid(step) * step;
    let first = match (start, end) {
        // Both given: start is ignored.
        (_, Some(_)) | (None, None) => last - (limit - 1) * step,
        (Some(start), None) => {
            let first = start.div_euclid(step) * step + if start.rem_euclid(step) == 0 { 0 } else { step };
            last = last.min(first + (limit - 1) * step);
            first
        }
    };
    if exclude_current && last + step > now {
        last -= step;
    }
    let rows = market.happened(|trades| {
        ohlc_rows(market, trades, step, first, last, simulation.config.bitstamp.ohlc_oddities, simulation.config.seed)
    });
    axum::Json(json!({"data": {"pair": format!("{}/{}", market.base, market.quote), "ohlc": rows}})).into_response()
}

/// Bars from `first` to `last` (open times, seconds, both inclusive) of those since the market's first trade.
fn ohlc_rows(market: &Market, trades: &[Trade], step: i64, first: i64, last: i64, oddities: bool, seed: u64) -> Vec<Value> {
    let Some(earliest) = trades.first().map(|trade| trade.time_us.div_euclid(SECOND_US).div_euclid(step) * step) else {
        return Vec::new();
    };
    let first = first.max(earliest);
    if last < first {
        return Vec::new();
    }
    let bar = |open: i64| Ohlc::of(within(trades, open * SECOND_US, (open + step) * SECOND_US));
    let opens: Vec<i64> = (0..=(last - first) / step).map(|index| first + index * step).collect();
    let price = |price: crate::decimal::Decimal| price.text(market.price_decimals);
    let mut rows = Vec::with_capacity(opens.len());
    // From the back, because an empty bar shows the close of the bar that follows it.
    let mut following = None;
    for open in opens.into_iter().rev() {
        match bar(open) {
            Some(bar) => {
                let row = |volume: i128| {
                    json!({"timestamp": open.to_string(), "open": price(bar.open), "high": price(bar.high), "low": price(bar.low),
                        "close": price(bar.close), "volume": scaled_text(volume, 8)})
                };
                rows.push(row(bar.volume));
                if oddities && seed::pick(seed, &[seed::of_text(&market.lower), open.unsigned_abs()], 500) == 0 {
                    rows.push(row(bar.volume / 2));
                }
                following = Some(bar.close);
            }
            None => {
                let before = trades.partition_point(|trade| trade.time_us < open * SECOND_US);
                let previous = before.checked_sub(1).map(|index| trades[index].price());
                let Some(flat) = following.filter(|_| oddities).or(previous) else { continue };
                let flat = price(flat);
                rows.push(json!({"timestamp": open.to_string(), "open": flat, "high": flat, "low": flat, "close": flat, "volume": "0.00000000"}));
            }
        }
    }
    rows.reverse();
    rows
}

async fn order_book(State(simulation): Shared, Path(pair): Path<String>, Query(parameters): Parameters) -> Response {
    let Some(market) = find(&simulation, &pair) else { return unknown_pair() };
    let group = parameters.get("group").map_or("1", String::as_str);
    let now_us = simulation.clock.now_us();
    let body = market.happened(|trades| {
        let Some(trade) = trades.last() else {
            return format!(r#"{{"timestamp":"{}","microtimestamp":"{now_us}","bids":[],"asks":[]}}"#, now_us.div_euclid(SECOND_US));
        };
        if group != "2" {
            let mut body = Vec::new();
            write_levels(market, trade, now_us, FULL_DEPTH, simulation.config.seed, &mut body);
            return String::from_utf8_lossy(&body).into_owned();
        }
        let side = |bids: bool| -> Vec<Value> {
            let levels = book_side(market, trade, bids, simulation.config.seed).take(FULL_DEPTH).enumerate();
            let order_id = |level: usize| 2_000_000_000_000_000 + seed::mix(simulation.config.seed, &[level as u64, u64::from(bids)]) % 100_000_000_000_000;
            levels
                .map(|(level, (price, size))| {
                    json!([scaled_text(price, market.price_decimals), scaled_text(size, market.size_decimals), order_id(level).to_string()])
                })
                .collect()
        };
        json!({"timestamp": now_us.div_euclid(SECOND_US).to_string(), "microtimestamp": now_us.to_string(), "bids": side(true), "asks": side(false)})
            .to_string()
    });
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn all_tickers(State(simulation): Shared) -> Response {
    let mut tickers = Vec::new();
    for market in simulation.hub.markets.iter().filter(|market| market.venue == Venue::Bitstamp) {
        tickers.extend(ticker_of(&simulation, market, DAY_US));
    }
    axum::Json(tickers).into_response()
}

async fn ticker(State(simulation): Shared, Path(pair): Path<String>) -> Response {
    match find(&simulation, &pair).and_then(|market| ticker_of(&simulation, market, DAY_US)) {
        Some(ticker) => axum::Json(ticker).into_response(),
        None => all_tickers(State(simulation)).await, // an unknown pair is answered with all markets
    }
}

async fn ticker_hour(State(simulation): Shared, Path(pair): Path<String>) -> Response {
    match find(&simulation, &pair).and_then(|market| ticker_of(&simulation, market, 3_600 * SECOND_US)) {
        Some(ticker) => axum::Json(ticker).into_response(),
        None => unknown_pair(),
    }
}

fn ticker_of(simulation: &Simulation, market: &Market, reach_us: i64) -> Option<Value> {
    let now_us = simulation.clock.now_us();
    market.happened(|trades| {
        let last = trades.last()?;
        let recent = within(trades, now_us - reach_us, i64::MAX);
        let bar = Ohlc::of(if recent.is_empty() { &trades[trades.len() - 1..] } else { recent })?;
        let today = within(trades, now_us.div_euclid(DAY_US) * DAY_US, i64::MAX).first().unwrap_or(last);
        let price = |price: crate::decimal::Decimal| price.text(market.price_decimals);
        let best = |bids| book_side(market, last, bids, simulation.config.seed).next().map(|(price, _)| scaled_text(price, market.price_decimals));
        let vwap = if bar.volume == 0 { bar.close.at_scale(8) } else { bar.turnover / bar.volume };
        let (then, now) = (bar.open.at_scale(8), last.price().at_scale(8));
        let change = if then == 0 { 0 } else { (now - then) * 10_000 / then };
        Some(json!({
            "last": price(last.price()), "high": price(bar.high), "low": price(bar.low),
            "vwap": scaled_text(vwap / 10_i128.pow(u32::from(8 - market.price_decimals.min(8))), market.price_decimals.min(8)),
            "volume": scaled_text(bar.volume, 8), "bid": best(true), "ask": best(false),
            "timestamp": now_us.div_euclid(SECOND_US).to_string(), "open": price(today.price()), "open_24": price(bar.open),
            "percent_change_24": scaled_text(change, 2), "side": u8::from(last.taker_sells).to_string(),
            "market_type": market_type(market), "pair": format!("{}/{}", market.base, market.quote), "market": format!("{}/{}", market.base, market.quote),
        }))
    })
}

fn market_type(market: &Market) -> &'static str {
    if market.perpetual() { "PERPETUAL" } else { "SPOT" }
}

async fn markets(State(simulation): Shared) -> Response {
    let markets = simulation.hub.markets.iter().filter(|market| market.venue == Venue::Bitstamp);
    let rows = markets.map(|market| {
        json!({"name": format!("{}/{}", market.base, market.quote), "market_symbol": market.lower, "base_currency": market.base,
            "base_decimals": market.size_decimals, "counter_currency": market.quote, "counter_decimals": market.price_decimals,
            "trading": "Enabled", "market_type": market_type(market), "description": format!("{} / {}", market.base, market.quote)})
    });
    axum::Json(rows.collect::<Vec<_>>()).into_response()
}

async fn trading_pairs_info(State(simulation): Shared) -> Response {
    let markets = simulation.hub.markets.iter().filter(|market| market.venue == Venue::Bitstamp);
    let rows = markets.map(|market| {
        json!({"trading": "Enabled", "base_decimals": market.size_decimals, "url_symbol": market.lower,
            "name": format!("{}/{}", market.base, market.quote), "instant_and_market_orders": "Enabled",
            "minimum_order": format!("10.0 {}", market.quote), "counter_decimals": market.price_decimals,
            "description": format!("{} / {}", market.base, market.quote)})
    });
    axum::Json(rows.collect::<Vec<_>>()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decimal::Decimal;

    #[test]
    fn an_empty_minute_shows_the_close_of_the_next_one() {
        let market = Market::new(Venue::Bitstamp, "BTC", "USD", (2, 8), Vec::new());
        let trade =
            |second: i64, price: i64| Trade::new(second * SECOND_US, second, Decimal::new(price, 2), Decimal::new(1, 0), false);
        let trades = [trade(60, 700), trade(185, 710), trade(190, 720)];
        let rows = ohlc_rows(&market, &trades, 60, 0, 180, true, 1);
        let closes: Vec<_> = rows
            .iter()
            .map(|row| (row["timestamp"].as_str().unwrap(), row["close"].as_str().unwrap(), row["volume"].as_str().unwrap()))
            .collect();
        assert_eq!(closes, [("60", "7.00", "1.00000000"), ("120", "7.20", "0.00000000"), ("180", "7.20", "2.00000000")]);
    }
}
