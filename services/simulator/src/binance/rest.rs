//! Binance's REST calls. What they show is what has happened by virtual now, trades that the socket missed included.
//! Next: `server.rs`.

use crate::binance::Interval;
use crate::binance::socket::{aggregate, aggregate_position, best, eight, update_id};
use crate::bitstamp::socket::book_side;
use crate::decimal::scaled_text;
use crate::market::{Market, Ohlc, Trade, Venue, within};
use crate::simulation::Simulation;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

type Parameters = Query<HashMap<String, String>>;
type Shared = State<Arc<Simulation>>;

/// The routes below `/binance`.
pub fn routes() -> Router<Arc<Simulation>> {
    Router::new()
        .route("/api/v3/ping", get(async || axum::Json(json!({}))))
        .route("/api/v3/time", get(time))
        .route("/api/v3/exchangeInfo", get(exchange_info))
        .route("/api/v3/depth", get(depth))
        .route("/api/v3/trades", get(recent_trades))
        .route("/api/v3/historicalTrades", get(historical_trades))
        .route("/api/v3/aggTrades", get(aggregate_trades))
        .route("/api/v3/klines", get(klines))
        .route("/api/v3/ticker/bookTicker", get(book_ticker))
        .fallback(async || StatusCode::NOT_FOUND)
}

/// Counts request weight per minute and connection attempts per five.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    minute: Option<Instant>,
    weight: u32,
    refused: u32,
    banned_until: Option<Instant>,
    connects: std::collections::VecDeque<Instant>,
}

impl Ledger {
    /// Counts one request and returns the weight used so far.
    ///
    /// # Errors
    /// The limit's answer.
    pub fn admit(&self, simulation: &Simulation, weight: u32) -> Result<u32, Box<Response>> {
        let config = &simulation.config.binance;
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(until) = counts.banned_until.filter(|until| now < *until) {
            return Err(Box::new(banned(simulation, until - now)));
        }
        if counts.minute.is_none_or(|minute| minute.elapsed() >= Duration::from_secs(60)) {
            (counts.minute, counts.weight, counts.refused, counts.banned_until) = (Some(now), 0, 0, None);
        }
        counts.weight = counts.weight.saturating_add(weight);
        if counts.weight <= config.weight_per_minute {
            return Ok(counts.weight);
        }
        counts.refused += 1;
        if counts.refused > config.ban_after {
            counts.banned_until = Some(now + config.ban);
            return Err(Box::new(banned(simulation, config.ban)));
        }
        let left = Duration::from_secs(60).saturating_sub(counts.minute.map_or(Duration::ZERO, |minute| minute.elapsed()));
        let message = format!(
            "Too much request weight used; current limit is {} request weight per 1 MINUTE. Please use WebSocket Streams for live updates to avoid polling the API.",
            config.weight_per_minute
        );
        Err(Box::new(limited(StatusCode::TOO_MANY_REQUESTS, left, counts.weight, &message)))
    }

    /// Counts one connection attempt; `false` when it is one too many.
    pub fn admit_connection(&self, simulation: &Simulation) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while counts.connects.front().is_some_and(|at| now - *at >= Duration::from_secs(300)) {
            counts.connects.pop_front();
        }
        counts.connects.push_back(now);
        counts.connects.len() <= usize::try_from(simulation.config.binance.connects_per_five_minutes).unwrap_or(usize::MAX)
    }
}

fn banned(simulation: &Simulation, left: Duration) -> Response {
    let until_ms = (simulation.clock.now_us() + crate::clock::micros(left)).div_euclid(1_000);
    let message = format!(
        "Way too much request weight used; IP banned until {until_ms}. Please use WebSocket Streams for live updates to avoid bans."
    );
    limited(StatusCode::IM_A_TEAPOT, left, 0, &message)
}

fn limited(status: StatusCode, left: Duration, weight: u32, message: &str) -> Response {
    let mut response = (status, axum::Json(json!({"code": -1003, "msg": message}))).into_response();
    response.headers_mut().insert("retry-after", HeaderValue::from(left.as_secs().max(1)));
    response.headers_mut().insert("x-mbx-used-weight-1m", HeaderValue::from(weight));
    response
}

/// The weight of a call.
pub fn weight(path: &str, query: &str) -> u32 {
    let one_symbol = query.contains("symbol=");
    match path.rsplit_once("/v3/").map_or("", |(_, call)| call) {
        "exchangeInfo" => 20,
        "trades" | "historicalTrades" => 25,
        "aggTrades" => 4,
        "klines" => 2,
        "ticker/bookTicker" if one_symbol => 2,
        "ticker/bookTicker" => 4,
        "depth" => match query
            .split('&')
            .find_map(|pair| pair.strip_prefix("limit="))
            .and_then(|limit| limit.parse().ok())
            .unwrap_or(100_u32)
        {
            0..=100 => 5,
            101..=500 => 25,
            501..=1_000 => 50,
            _ => 250,
        },
        _ => 1,
    }
}

/// The error object of a failing answer.
pub fn error_body(status: u16) -> Value {
    match status {
        429 => json!({"code": -1003, "msg": "Too much request weight used; please use WebSocket Streams for live updates."}),
        504 => {
            json!({"code": -1007, "msg": "Timeout waiting for response from backend server. Send status unknown; execution status unknown."})
        }
        _ => json!({"code": -1000, "msg": "An unknown error occurred while processing the request."}),
    }
}

/// An error answer: HTTP 400, code and message.
struct Refusal(i64, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, axum::Json(json!({"code": self.0, "msg": self.1}))).into_response()
    }
}

/// What a call was asked, understood step by step.
struct Call<'a> {
    simulation: &'a Simulation,
    parameters: &'a HashMap<String, String>,
    microseconds: bool,
}

impl<'a> Call<'a> {
    fn new(simulation: &'a Simulation, parameters: &'a HashMap<String, String>, headers: &HeaderMap) -> Call<'a> {
        let unit = headers.get("x-mbx-time-unit").and_then(|value| value.to_str().ok()).unwrap_or_default();
        Call { simulation, parameters, microseconds: unit.eq_ignore_ascii_case("MICROSECOND") }
    }

    fn market(&self) -> Result<&'a Market, Refusal> {
        let symbol = match self.parameters.get("symbol").map(String::as_str) {
            None => return Err(mandatory("symbol")),
            Some("") => return Err(Refusal(-1105, "Parameter 'symbol' was empty.".into())),
            Some(symbol) => symbol,
        };
        if !symbol.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            return Err(illegal("symbol"));
        }
        find(self.simulation, symbol).ok_or_else(|| Refusal(-1121, "Invalid symbol.".into()))
    }

    fn number(&self, name: &str) -> Result<Option<i64>, Refusal> {
        self.parameters.get(name).map(|text| text.parse().map_err(|_| illegal(name))).transpose()
    }

    fn limit(&self, default: usize) -> Result<usize, Refusal> {
        let most = self.simulation.config.binance.rest_limit;
        match self.number("limit")? {
            None => Ok(default.min(most)),
            Some(limit) => match usize::try_from(limit) {
                Ok(limit) if limit > 0 => Ok(limit.min(most)),
                _ => Err(Refusal(-1130, "Data sent for parameter 'limit' is not valid.".into())),
            },
        }
    }

    /// A time given in milliseconds or microseconds, as microseconds.
    fn time_us(&self, name: &str) -> Result<Option<i64>, Refusal> {
        const LEAST_MICROSECONDS: i64 = 100_000_000_000_000;
        Ok(self.number(name)?.map(|time| if time >= LEAST_MICROSECONDS { time } else { time.saturating_mul(1_000) }))
    }

    /// `startTime` and `endTime` (inclusive, to the end of its millisecond) as a half-open range.
    fn range_us(&self) -> Result<(Option<i64>, Option<i64>), Refusal> {
        let given_ms = self.number("endTime")?.is_some_and(|time| time < 100_000_000_000_000);
        let end_us = self.time_us("endTime")?.map(|end| end.saturating_add(if given_ms { 1_000 } else { 1 }));
        Ok((self.time_us("startTime")?, end_us))
    }

    fn time(&self, time_us: i64) -> i64 {
        if self.microseconds { time_us } else { time_us.div_euclid(1_000) }
    }
}

fn find<'a>(simulation: &'a Simulation, symbol: &str) -> Option<&'a Market> {
    let market = &simulation.hub.markets[simulation.hub.find(Venue::Binance, symbol)?];
    (market.upper == symbol).then_some(market)
}

fn mandatory(name: &str) -> Refusal {
    Refusal(-1102, format!("Mandatory parameter '{name}' was not sent, was empty/null, or malformed."))
}

fn illegal(name: &str) -> Refusal {
    Refusal(-1100, format!("Illegal characters found in parameter '{name}'; legal range is '^[A-Z0-9-_.]{{1,20}}$'."))
}

type Answer = Result<axum::Json<Value>, Refusal>;

async fn time(State(simulation): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Answer {
    let call = Call::new(&simulation, &parameters, &headers);
    Ok(axum::Json(json!({"serverTime": call.time(simulation.clock.now_us())})))
}

async fn recent_trades(State(simulation): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Answer {
    let call = Call::new(&simulation, &parameters, &headers);
    let (market, limit) = (call.market()?, call.limit(500)?);
    Ok(axum::Json(
        market.happened(|trades| {
            trades[trades.len().saturating_sub(limit)..].iter().map(|trade| trade_row(&call, trade)).collect()
        }),
    ))
}

async fn historical_trades(State(simulation): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Answer {
    let call = Call::new(&simulation, &parameters, &headers);
    let (market, limit) = (call.market()?, call.limit(500)?);
    let from_id = call.number("fromId")?;
    Ok(axum::Json(market.happened(|trades| {
        let from = from_id.map_or(trades.len().saturating_sub(limit), |id| trades.partition_point(|trade| trade.id < id));
        trades[from..].iter().take(limit).map(|trade| trade_row(&call, trade)).collect()
    })))
}

fn trade_row(call: &Call<'_>, trade: &Trade) -> Value {
    let turnover = trade.price().at_scale(8) * trade.size().at_scale(8) / 100_000_000;
    json!({"id": trade.id, "price": trade.price().text(8), "qty": trade.size().text(8), "quoteQty": scaled_text(turnover, 8),
        "time": call.time(trade.time_us), "isBuyerMaker": trade.taker_sells, "isBestMatch": true})
}

async fn aggregate_trades(State(simulation): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Answer {
    let call = Call::new(&simulation, &parameters, &headers);
    let (market, limit) = (call.market()?, call.limit(500)?);
    let (from_id, (start_us, end_us)) = (call.number("fromId")?, call.range_us()?);
    if from_id.is_some() && (start_us.is_some() || end_us.is_some()) {
        return Err(Refusal(-1128, "Combination of optional parameters invalid.".into()));
    }
    let starts = market.aggregates.read().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(axum::Json(market.happened(|trades| {
        let time_of = |nth: usize| trades.get(starts[nth]).map_or(i64::MAX, |trade| trade.time_us);
        let (mut from, mut to) = (0, starts.iter().take_while(|start| **start < trades.len()).count());
        if let Some(end_us) = end_us {
            to = to.min((0..to).collect::<Vec<_>>().partition_point(|nth| time_of(*nth) < end_us));
        }
        match (from_id, start_us) {
            (Some(id), _) => from = aggregate_position(id).min(to),
            (None, Some(start_us)) => from = (0..to).collect::<Vec<_>>().partition_point(|nth| time_of(*nth) < start_us),
            (None, None) => from = from.max(to.saturating_sub(limit)),
        }
        let rows = (from..to).take(limit).filter_map(|nth| {
            let end = starts.get(nth + 1).copied().unwrap_or(trades.len()).min(trades.len());
            let aggregate = aggregate(nth, &trades[starts[nth]..end])?;
            let trade = aggregate.first;
            Some(json!({"a": aggregate.id, "p": trade.price().text(8), "q": scaled_text(aggregate.size, 8), "f": trade.id,
                "l": aggregate.last_id, "T": call.time(trade.time_us), "m": trade.taker_sells, "M": true}))
        });
        rows.collect()
    })))
}

async fn klines(State(simulation): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Answer {
    let call = Call::new(&simulation, &parameters, &headers);
    let (market, limit) = (call.market()?, call.limit(500)?);
    let interval = parameters.get("interval").ok_or_else(|| mandatory("interval"))?;
    let interval: Interval = interval.parse().map_err(|()| Refusal(-1120, "Invalid interval.".into()))?;
    let shift_us = parameters.get("timeZone").map_or(Ok(0), |zone| zone_us(zone).ok_or_else(|| illegal("timeZone")))?;
    let (start_us, end_us) = call.range_us()?;
    let now_us = simulation.clock.now_us();
    let open_of = |time_us: i64| interval.open_us(time_us + shift_us) - shift_us;
    let close_of = |time_us: i64| interval.close_us(time_us + shift_us) - shift_us;
    Ok(axum::Json(market.happened(|trades| {
        let Some(first) = trades.first() else { return json!([]) };
        let earliest_us = open_of(first.time_us);
        let last_us = end_us.map_or(now_us, |end_us| (end_us - 1).min(now_us));
        let mut opens = Vec::new();
        match start_us {
            // Forwards from the first candle that opens at or after the start.
            Some(start_us) => {
                let mut open_us = open_of(start_us.max(earliest_us));
                if open_us < start_us {
                    open_us = close_of(open_us);
                }
                while open_us <= last_us && opens.len() < limit {
                    opens.push(open_us);
                    open_us = close_of(open_us);
                }
            }
            // Backwards from the end.
            None => {
                let mut open_us = open_of(last_us);
                while open_us >= earliest_us && opens.len() < limit {
                    opens.push(open_us);
                    open_us = open_of(open_us - 1);
                }
                opens.reverse();
            }
        }
        opens.into_iter().map(|open_us| kline_row(&call, trades, open_us, close_of(open_us))).collect()
    })))
}

/// One candle; without trades it is flat at the previous close.
fn kline_row(call: &Call<'_>, trades: &[Trade], open_us: i64, close_us: i64) -> Value {
    let last = call.time(close_us) - 1;
    match Ohlc::of(within(trades, open_us, close_us)) {
        Some(bar) => json!([
            call.time(open_us),
            bar.open.text(8),
            bar.high.text(8),
            bar.low.text(8),
            bar.close.text(8),
            scaled_text(bar.volume, 8),
            last,
            scaled_text(bar.turnover / 100_000_000, 8),
            bar.count,
            scaled_text(bar.buy_volume, 8),
            scaled_text(bar.buy_turnover / 100_000_000, 8),
            "0"
        ]),
        None => {
            let before = trades.partition_point(|trade| trade.time_us < open_us).saturating_sub(1);
            let flat = trades.get(before).map_or_else(|| "0.00000000".into(), |trade| trade.price().text(8));
            let zero = "0.00000000";
            json!([call.time(open_us), flat, flat, flat, flat, zero, last, zero, 0, zero, zero, "0"])
        }
    }
}

/// A time zone such as `8`, `-1:30`, `+05:45` as microseconds east of UTC.
fn zone_us(zone: &str) -> Option<i64> {
    let (sign, rest) = match zone.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, zone.strip_prefix('+').unwrap_or(zone)),
    };
    let (hours, minutes) = rest.split_once(':').unwrap_or((rest, "0"));
    let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
    (-12 * 60..=14 * 60).contains(&(sign * minutes)).then_some(sign * minutes * 60_000_000)
}

async fn depth(State(simulation): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Answer {
    let call = Call::new(&simulation, &parameters, &headers);
    let market = call.market()?;
    let limit = usize::try_from(call.number("limit")?.unwrap_or(100)).unwrap_or(100).min(5_000);
    Ok(axum::Json(market.happened(|trades| {
        let Some(trade) = trades.last() else { return json!({"lastUpdateId": 0, "bids": [], "asks": []}) };
        let side = |bids: bool| -> Vec<Value> {
            let levels = book_side(market, trade, bids, simulation.config.seed).take(limit);
            levels.map(|(price, size)| json!([eight(price, market.price_decimals), eight(size, market.size_decimals)])).collect()
        };
        json!({"lastUpdateId": update_id(trade), "bids": side(true), "asks": side(false)})
    })))
}

async fn book_ticker(State(simulation): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Answer {
    let call = Call::new(&simulation, &parameters, &headers);
    let row = |market: &Market| {
        market.happened(|trades| {
            let side = |bids: bool| {
                trades.last().map_or_else(
                    || ("0.00000000".into(), "0.00000000".into()),
                    |trade| best(market, trade, bids, simulation.config.seed),
                )
            };
            let ((bid, bid_size), (ask, ask_size)) = (side(true), side(false));
            json!({"symbol": market.upper, "bidPrice": bid, "bidQty": bid_size, "askPrice": ask, "askQty": ask_size})
        })
    };
    if parameters.contains_key("symbol") {
        return Ok(axum::Json(row(call.market()?)));
    }
    Ok(axum::Json(selected(&simulation, &parameters)?.into_iter().map(row).collect()))
}

/// The markets named by `symbols=["A","B"]`, else all.
fn selected<'a>(simulation: &'a Simulation, parameters: &HashMap<String, String>) -> Result<Vec<&'a Market>, Refusal> {
    let Some(symbols) = parameters.get("symbols") else {
        return Ok(simulation.hub.markets.iter().filter(|market| market.venue == Venue::Binance).collect());
    };
    let symbols: Vec<String> = serde_json::from_str(symbols).map_err(|_| illegal("symbols"))?;
    symbols.iter().map(|symbol| find(simulation, symbol).ok_or_else(|| Refusal(-1121, "Invalid symbol.".into()))).collect()
}

async fn exchange_info(State(simulation): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Answer {
    let call = Call::new(&simulation, &parameters, &headers);
    if parameters.contains_key("symbolStatus") && (parameters.contains_key("symbol") || parameters.contains_key("symbols")) {
        return Err(Refusal(-1128, "Combination of optional parameters invalid.".into()));
    }
    let markets = match parameters.get("symbolStatus").map(String::as_str) {
        None | Some("TRADING") if parameters.contains_key("symbol") => vec![call.market()?],
        None | Some("TRADING") => selected(&simulation, &parameters)?,
        Some("HALT" | "BREAK") => Vec::new(),
        Some(_) => return Err(Refusal(-1122, "Invalid symbolStatus.".into())),
    };
    Ok(axum::Json(json!({
        "timezone": "UTC",
        "serverTime": call.time(simulation.clock.now_us()),
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": simulation.config.binance.weight_per_minute},
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 100},
            {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": 200_000},
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 61_000},
        ],
        "exchangeFilters": [],
        "symbols": markets.into_iter().map(symbol_info).collect::<Vec<_>>(),
    })))
}

fn symbol_info(market: &Market) -> Value {
    let (tick, step) = (eight(1, market.price_decimals), eight(1, market.size_decimals));
    json!({
        "symbol": market.upper, "status": "TRADING", "baseAsset": market.base, "baseAssetPrecision": 8,
        "quoteAsset": market.quote, "quotePrecision": 8, "quoteAssetPrecision": 8, "baseCommissionPrecision": 8, "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"],
        "icebergAllowed": true, "ocoAllowed": true, "otoAllowed": true, "opoAllowed": true, "quoteOrderQtyMarketAllowed": true,
        "allowTrailingStop": true, "cancelReplaceAllowed": true, "amendAllowed": true, "pegInstructionsAllowed": true,
        "isSpotTradingAllowed": true, "isMarginTradingAllowed": false,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "9000.00000000", "stepSize": step},
        ],
        "permissions": [], "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER", "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_the_calls() {
        for (path, query, expected) in [
            ("/binance/api/v3/ping", "", 1),
            ("/binance/api/v3/depth", "symbol=A&limit=1000", 50),
            ("/binance/api/v3/depth", "symbol=A", 5),
            ("/binance/api/v3/ticker/bookTicker", "", 4),
            ("/binance/api/v3/historicalTrades", "symbol=A", 25),
        ] {
            assert_eq!(weight(path, query), expected, "{path}?{query}");
        }
    }

    #[test]
    fn time_zones_are_hours_and_minutes() {
        assert_eq!(zone_us("+05:45"), Some(20_700_000_000));
        assert_eq!(zone_us("-12"), Some(-43_200_000_000));
        assert_eq!(zone_us("15"), None);
    }
}
