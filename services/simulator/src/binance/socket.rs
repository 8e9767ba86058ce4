//! Binance's market streams: control messages answered, payloads spelled.
//!
//! Acks and errors are never wrapped; payloads are, with their stream's name, on `/stream` or after `SET_PROPERTY combined`. Next: `rest.rs`.

use crate::bitstamp::socket::book_side;
use crate::connection::{Close, Connection, Message};
use crate::decimal::{scaled_text, write_integer, write_scaled};
use crate::hub::Channel;
use crate::market::{Market, Ohlc, Trade, Venue, within};
use crate::seed;
use crate::simulation::Simulation;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

const METHODS: &[&str] = &["SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY"];
/// The first aggregate trade's id.
const FIRST_AGGREGATE: usize = 500_000;

/// Answers one client message. Pings and pongs count against the message limit too.
pub fn on_message(simulation: &Simulation, connection: &Arc<Connection>, message: Message) {
    if over_limit(simulation, connection) {
        return connection.close(Close::Frame(1008, "Too many requests"));
    }
    match message {
        Message::Ping => {}
        Message::Pong(payload) => {
            let mut pinged = connection.pinged.lock().unwrap_or_else(PoisonError::into_inner);
            if pinged.as_ref().is_some_and(|(_, sent)| *sent == payload) {
                *pinged = None;
            }
        }
        Message::Text(text) => match serde_json::from_slice::<Value>(&text) {
            Ok(request) => on_request(simulation, connection, &request),
            Err(problem) => send(connection, &json!({"code": 3, "msg": format!("Invalid JSON: {problem}")})),
        },
    }
}

fn over_limit(simulation: &Simulation, connection: &Connection) -> bool {
    let mut arrivals = connection.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    while arrivals.front().is_some_and(|arrival| now - *arrival >= Duration::from_secs(1)) {
        arrivals.pop_front();
    }
    arrivals.push_back(now);
    arrivals.len() > usize::try_from(simulation.config.binance.messages_per_second).unwrap_or(usize::MAX)
}

/// Sends the server's ping, or cuts a connection that answered none for too long.
pub fn on_ping_time(simulation: &Simulation, connection: &Connection) {
    let mut pinged = connection.pinged.lock().unwrap_or_else(PoisonError::into_inner);
    let since = pinged.as_ref().map(|(since, _)| *since);
    if since.is_some_and(|since| since.elapsed() >= simulation.config.binance.pong_timeout) {
        drop(pinged);
        return connection.close(Close::Frame(1008, "Pong timeout"));
    }
    let payload = seed::mix(connection.id, &[simulation.clock.now_us().unsigned_abs()]).to_string().into_bytes();
    connection.send_ping(&payload);
    *pinged = Some((since.unwrap_or_else(Instant::now), payload));
}

fn on_request(simulation: &Simulation, connection: &Arc<Connection>, request: &Value) {
    let id = &request["id"];
    let valid_id = request.get("id").is_some() && (id.is_null() || id.is_i64() || id.as_str().is_some_and(valid_text_id));
    let Some(method) = request["method"].as_str() else {
        return send_error(connection, None, 2, "Invalid request: missing field `method`");
    };
    if !METHODS.contains(&method) {
        let known = METHODS.iter().map(|method| format!("`{method}`")).collect::<Vec<_>>().join(", ");
        return send_error(connection, None, 2, &format!("Invalid request: unknown variant `{method}`, expected one of {known}"));
    }
    if !valid_id {
        return send_error(connection, None, 2, "Invalid request: request ID must be an integer, an alphanumeric string or null");
    }
    let parameters = request["params"].as_array().cloned().unwrap_or_default();
    match method {
        "SUBSCRIBE" | "UNSUBSCRIBE" => {
            let Some(streams) = parameters.iter().map(|stream| stream.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
            else {
                return send_error(connection, Some(id), 2, "Invalid request: params must be an array of strings");
            };
            let done = if method == "SUBSCRIBE" {
                subscribe(simulation, connection, &streams)
            } else {
                unsubscribe(simulation, connection, &streams)
            };
            match done {
                Ok(()) => send(connection, &json!({"result": null, "id": id})),
                Err(problem) => send_error(connection, Some(id), 2, problem),
            }
        }
        "LIST_SUBSCRIPTIONS" => {
            let streams = connection.channels.lock().unwrap_or_else(PoisonError::into_inner).clone();
            send(connection, &json!({"result": streams, "id": id}));
        }
        "SET_PROPERTY" => match &parameters[..] {
            [name, _] if name != "combined" => send_error(connection, Some(id), 0, "Unknown property"),
            [_, Value::Bool(combined)] => {
                connection.combined.store(*combined, Ordering::Release);
                send(connection, &json!({"result": null, "id": id}));
            }
            [_, _] => send_error(connection, Some(id), 1, "Invalid value type: expected Boolean"),
            _ => send_error(connection, Some(id), 2, "Invalid request: wrong number of parameters"),
        },
        _ => match &parameters[..] {
            [name] if name == "combined" => {
                send(connection, &json!({"result": connection.combined.load(Ordering::Acquire), "id": id}))
            }
            [_] => send_error(connection, Some(id), 0, "Unknown property"),
            _ => send_error(connection, Some(id), 2, "Invalid request: too many parameters"),
        },
    }
}

fn valid_text_id(id: &str) -> bool {
    id.len() <= 36 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Subscribes streams, known or not; refused as a whole when there would be too many.
///
/// # Errors
/// The limit, in the venue's words.
pub fn subscribe(simulation: &Simulation, connection: &Arc<Connection>, streams: &[String]) -> Result<(), &'static str> {
    let mut channels = connection.channels.lock().unwrap_or_else(PoisonError::into_inner);
    let mut added = Vec::new();
    for stream in streams {
        if !channels.contains(stream) && !added.contains(stream) {
            added.push(stream.clone());
        }
    }
    if channels.len() + added.len() > simulation.config.binance.streams {
        return Err("Invalid request: too many streams on one connection");
    }
    channels.extend(added.iter().cloned());
    drop(channels);
    for (market, channel) in added.iter().filter_map(|stream| data_channel(simulation, stream)) {
        simulation.hub.subscribe(market, connection, channel);
    }
    Ok(())
}

fn unsubscribe(simulation: &Simulation, connection: &Arc<Connection>, streams: &[String]) -> Result<(), &'static str> {
    connection.channels.lock().unwrap_or_else(PoisonError::into_inner).retain(|stream| !streams.contains(stream));
    for (market, channel) in streams.iter().filter_map(|stream| data_channel(simulation, stream)) {
        simulation.hub.unsubscribe(market, connection, channel);
    }
    Ok(())
}

fn data_channel(simulation: &Simulation, stream: &str) -> Option<(usize, Channel)> {
    let (symbol, kind) = stream.split_once('@')?;
    let channel = match kind {
        "trade" => Channel::Trades,
        "aggTrade" => Channel::AggTrade,
        "bookTicker" => Channel::BookTicker,
        _ => Channel::Kline(kind.strip_prefix("kline_")?.parse().ok()?),
    };
    // Stream names are lower case; others are acknowledged and stay silent.
    let lower = symbol.bytes().all(|byte| !byte.is_ascii_uppercase());
    lower.then(|| simulation.hub.find(Venue::Binance, symbol)).flatten().map(|market| (market, channel))
}

fn send(connection: &Connection, answer: &Value) {
    connection.send_message(answer.to_string().as_bytes());
}

fn send_error(connection: &Connection, id: Option<&Value>, code: i64, message: &str) {
    let mut error = json!({"code": code, "msg": message});
    if let Some(id) = id {
        error["id"] = id.clone();
    }
    send(connection, &error);
}

/// Announces that the connection will be cut.
pub fn send_shutdown(connection: &Connection, now_us: i64) {
    let event_time = if connection.microseconds { now_us } else { now_us.div_euclid(1_000) };
    let payload = json!({"e": "serverShutdown", "E": event_time});
    if connection.combined.load(Ordering::Acquire) {
        send(connection, &json!({"stream": "!serverShutdown", "data": payload}));
    } else {
        send(connection, &payload);
    }
}

/// Writes a payload, wrapped with its stream's name where the connection wants that.
fn wrap(connection: &Connection, market: &Market, kind: &[&str], out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let combined = connection.combined.load(Ordering::Acquire);
    if combined {
        out.extend_from_slice(b"{\"stream\":\"");
        out.extend_from_slice(market.lower.as_bytes());
        out.push(b'@');
        kind.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        out.extend_from_slice(b"\",\"data\":");
    }
    write(out);
    if combined {
        out.push(b'}');
    }
}

fn write_time(connection: &Connection, time_us: i64, out: &mut Vec<u8>) {
    write_integer(if connection.microseconds { time_us } else { time_us.div_euclid(1_000) }, out);
}

/// The venue's event time: up to two milliseconds after the trade.
fn event_us(trade: &Trade) -> i64 {
    trade.time_us + trade.id.rem_euclid(3) * 1_000
}

/// Writes a `trade` payload.
pub fn write_trade(market: &Market, trade: &Trade, connection: &Connection, out: &mut Vec<u8>) {
    wrap(connection, market, &["trade"], out, |out| {
        out.extend_from_slice(b"{\"e\":\"trade\",\"E\":");
        write_time(connection, event_us(trade), out);
        out.extend_from_slice(b",\"s\":\"");
        out.extend_from_slice(market.upper.as_bytes());
        out.extend_from_slice(b"\",\"t\":");
        write_integer(trade.id, out);
        out.extend_from_slice(b",\"p\":\"");
        trade.price().write(8, out);
        out.extend_from_slice(b"\",\"q\":\"");
        trade.size().write(8, out);
        out.extend_from_slice(b"\",\"T\":");
        write_time(connection, trade.time_us, out);
        write_maker(trade, out);
        out.push(b'}');
    });
}

fn write_maker(trade: &Trade, out: &mut Vec<u8>) {
    out.extend_from_slice(if trade.taker_sells { b",\"m\":true,\"M\":true" } else { b",\"m\":false,\"M\":true" });
}

/// One aggregate trade: the fills of one taker order at one price.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aggregate {
    pub(crate) id: i64,
    pub(crate) first: Trade,
    pub(crate) last_id: i64,
    pub(crate) size: i128,
}

/// The aggregate trade whose fills are `trades[from..to]`, the n-th of its market.
pub(crate) fn aggregate(nth: usize, trades: &[Trade]) -> Option<Aggregate> {
    let (first, last) = (trades.first()?, trades.last()?);
    let size = trades.iter().map(|trade| trade.size().at_scale(8)).sum();
    Some(Aggregate { id: i64::try_from(FIRST_AGGREGATE + nth).unwrap_or(i64::MAX), first: *first, last_id: last.id, size })
}

/// The position of the aggregate trade with this id.
pub(crate) fn aggregate_position(id: i64) -> usize {
    usize::try_from(id).unwrap_or(0).saturating_sub(FIRST_AGGREGATE)
}

/// Writes the `aggTrade` payload that ends with the trade at this index; `false` when its group goes on.
pub fn write_aggregate(market: &Market, at: usize, connection: &Connection, out: &mut Vec<u8>) -> bool {
    let starts = market.aggregates.read().unwrap_or_else(PoisonError::into_inner);
    let trades = market.trades();
    if trades.get(at + 1).is_some_and(|next| trades[at].aggregates_with(next)) {
        return false;
    }
    let nth = starts.partition_point(|start| *start <= at).saturating_sub(1);
    let from = starts.get(nth).copied().unwrap_or(at);
    let Some(aggregate) = aggregate(nth, &trades[from..=at]) else { return false };
    let trade = aggregate.first;
    wrap(connection, market, &["aggTrade"], out, |out| {
        out.extend_from_slice(b"{\"e\":\"aggTrade\",\"E\":");
        write_time(connection, event_us(&trade), out);
        out.extend_from_slice(b",\"s\":\"");
        out.extend_from_slice(market.upper.as_bytes());
        out.extend_from_slice(b"\",\"a\":");
        write_integer(aggregate.id, out);
        out.extend_from_slice(b",\"p\":\"");
        trade.price().write(8, out);
        out.extend_from_slice(b"\",\"q\":\"");
        write_scaled(aggregate.size, 8, out);
        out.extend_from_slice(b"\",\"f\":");
        write_integer(trade.id, out);
        out.extend_from_slice(b",\"l\":");
        write_integer(aggregate.last_id, out);
        out.extend_from_slice(b",\"T\":");
        write_time(connection, trade.time_us, out);
        write_maker(&trade, out);
        out.push(b'}');
    });
    true
}

/// The update id of the book after a trade.
pub(crate) fn update_id(trade: &Trade) -> i64 {
    10_000_000_000 + trade.id.rem_euclid(1_000_000_000_000) * 4
}

/// Writes a `bookTicker` payload.
pub fn write_book_ticker(market: &Market, trade: &Trade, seed: u64, connection: &Connection, out: &mut Vec<u8>) {
    wrap(connection, market, &["bookTicker"], out, |out| {
        out.extend_from_slice(b"{\"u\":");
        write_integer(update_id(trade), out);
        out.extend_from_slice(b",\"s\":\"");
        out.extend_from_slice(market.upper.as_bytes());
        out.push(b'"');
        for (bids, price_key, size_key) in [(true, "b", "B"), (false, "a", "A")] {
            let (price, size) = best(market, trade, bids, seed);
            out.extend_from_slice(format!(",\"{price_key}\":\"{price}\",\"{size_key}\":\"{size}\"").as_bytes());
        }
        out.push(b'}');
    });
}

/// The best price and its size of one side, with eight decimals; zeros when the side is empty.
pub(crate) fn best(market: &Market, trade: &Trade, bids: bool, seed: u64) -> (String, String) {
    let (price, size) = book_side(market, trade, bids, seed).next().unwrap_or((0, 0));
    (eight(price, market.price_decimals), eight(size, market.size_decimals))
}

/// Units of `10^-decimals` with eight decimals.
pub(crate) fn eight(units: i128, decimals: u8) -> String {
    if decimals >= 8 { scaled_text(units, decimals) } else { scaled_text(units * 10_i128.pow(u32::from(8 - decimals)), 8) }
}

/// Writes the `kline` payload of the candle that holds an instant, as of the trades that have happened.
pub fn write_candle(
    market: &Market,
    interval: super::Interval,
    within_us: i64,
    closed: bool,
    event_us: i64,
    connection: &Connection,
    out: &mut Vec<u8>,
) {
    let (open_us, close_us) = (interval.open_us(within_us), interval.close_us(within_us));
    let Some(bar) = market.happened(|trades| Ohlc::of(within(trades, open_us, close_us))) else { return };
    let time = |time_us: i64| if connection.microseconds { time_us } else { time_us.div_euclid(1_000) };
    let last_us = close_us - if connection.microseconds { 1 } else { 1_000 };
    wrap(connection, market, &["kline_", interval.name()], out, |out| {
        out.extend_from_slice(
            format!(
                r#"{{"e":"kline","E":{},"s":"{symbol}","k":{{"t":{},"T":{},"s":"{symbol}","i":"{}","f":{},"L":{},"o":"{}","c":"{}","h":"{}","l":"{}","v":"{}","n":{},"x":{closed},"q":"{}","V":"{}","Q":"{}","B":"0"}}}}"#,
                time(event_us),
                time(open_us),
                time(last_us),
                interval.name(),
                bar.first_id,
                bar.last_id,
                bar.open.text(8),
                bar.close.text(8),
                bar.high.text(8),
                bar.low.text(8),
                scaled_text(bar.volume, 8),
                bar.count,
                scaled_text(bar.turnover / 100_000_000, 8),
                scaled_text(bar.buy_volume, 8),
                scaled_text(bar.buy_turnover / 100_000_000, 8),
                symbol = market.upper,
            )
            .as_bytes(),
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decimal::Decimal;

    fn market(trades: Vec<Trade>) -> Market {
        Market::new(Venue::Binance, "BTC", "USDT", (2, 5), trades)
    }

    fn trade(id: i64, time_ms: i64) -> Trade {
        Trade::new(time_ms * 1_000, id, Decimal::new(6_183_763, 2), Decimal::new(2, 2), true)
    }

    fn text(combined: bool, write: impl FnOnce(&Connection, &mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&Connection::new(1, Venue::Binance, 0, combined, false), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_trade_is_spelled_bare_and_wrapped() {
        let bare = r#"{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":100,"p":"61837.63000000","q":"0.02000000","T":1723161255342,"m":true,"M":true}"#;
        let write = |connection: &Connection, out: &mut Vec<u8>| {
            write_trade(&market(vec![]), &trade(100, 1_723_161_255_342), connection, out)
        };
        assert_eq!(text(false, write), bare);
        assert_eq!(text(true, write), format!(r#"{{"stream":"btcusdt@trade","data":{bare}}}"#));
    }

    #[test]
    fn fills_of_one_order_at_one_price_are_one_aggregate() {
        let market = market(vec![trade(7, 5), trade(8, 5), trade(9, 6)]);
        market.aggregates.write().unwrap().extend([0, 2]);
        let mut out = Vec::new();
        assert!(!write_aggregate(&market, 0, &Connection::new(1, Venue::Binance, 0, false, false), &mut out));
        let second = text(false, |connection, out| assert!(write_aggregate(&market, 1, connection, out)));
        assert!(second.contains(r#""a":500000,"p":"61837.63000000","q":"0.04000000","f":7,"l":8,"#), "{second}");
    }
}
