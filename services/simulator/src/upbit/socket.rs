//! Upbit's WebSocket: one request names everything and replaces the one before, nothing is acknowledged, data frames are binary.
//!
//! A market that does not exist is taken and stays silent. Next: `rest.rs`.

use super::{previous_close, tick, utc, write_java};
use crate::connection::{Close, Connection, Message};
use crate::decimal::{Decimal, write_integer, write_scaled};
use crate::hub::Channel;
use crate::market::{Market, Trade, Venue};
use crate::seed;
use crate::simulation::Simulation;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What may be asked for; only the first two carry data here.
const TYPES: &[&str] = &[
    "trade",
    "orderbook",
    "ticker",
    "candle.1s",
    "candle.1m",
    "candle.3m",
    "candle.5m",
    "candle.10m",
    "candle.15m",
    "candle.30m",
    "candle.60m",
    "candle.240m",
];
/// Depths an `orderbook` code may name; any other is the last.
const DEPTHS: &[usize] = &[1, 5, 15, 30];

/// What a connection has asked for beside its subscriptions, and when it was last alive.
#[derive(Debug, Default)]
pub struct Manners {
    /// Short key names.
    simple: bool,
    /// Each message inside an array.
    list: bool,
    /// Whether it ever said `PING`.
    pinged: bool,
    alive: Option<Instant>,
    frames_then: u64,
}

fn manners(connection: &Connection) -> MutexGuard<'_, Manners> {
    connection.upbit.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers one client message.
pub fn on_message(simulation: &Simulation, connection: &Arc<Connection>, message: Message) {
    manners(connection).alive = Some(Instant::now());
    let Message::Text(text) = message else { return };
    if over_limit(simulation, connection) {
        return connection.close(Close::Frame(1008, "Too many requests"));
    }
    if text == b"PING" {
        manners(connection).pinged = true;
        connection.send_message(UP);
        return;
    }
    if let Err((name, message)) = on_request(simulation, connection, &text) {
        connection.send_message(json!({"error": {"message": message, "name": name}}).to_string().as_bytes());
    }
}

const UP: &[u8] = br#"{"status":"UP"}"#;

fn over_limit(simulation: &Simulation, connection: &Connection) -> bool {
    let config = &simulation.config.upbit;
    let mut arrivals = connection.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    arrivals.retain(|arrival| now - *arrival < Duration::from_secs(60));
    arrivals.push_back(now);
    let within_a_second = arrivals.iter().filter(|arrival| now - **arrival < Duration::from_secs(1)).count();
    within_a_second > config.messages_per_second || arrivals.len() > config.messages_per_minute
}

/// Repeats `UP` to whoever said `PING`, and closes what was idle for too long.
pub fn on_ping_time(simulation: &Simulation, connection: &Connection) {
    let mut manners = manners(connection);
    let frames = connection.frames.load(Ordering::Relaxed);
    if manners.pinged {
        connection.send_message(UP);
    }
    if manners.pinged || frames != manners.frames_then || manners.alive.is_none() {
        manners.alive = Some(Instant::now());
        manners.frames_then = frames;
    }
    if manners.alive.is_some_and(|alive| alive.elapsed() >= simulation.config.upbit.idle_timeout) {
        connection.close(Close::Frame(1000, "idle"));
    }
}

type Refusal = (&'static str, &'static str);

fn on_request(simulation: &Simulation, connection: &Arc<Connection>, text: &[u8]) -> Result<(), Refusal> {
    let Ok(Value::Array(parts)) = serde_json::from_slice::<Value>(text) else {
        return Err(("WRONG_FORMAT", "Format 이 맞지 않습니다."));
    };
    let ticket = parts.iter().find_map(|part| part["ticket"].as_str()).filter(|ticket| !ticket.is_empty());
    let ticket = ticket.ok_or(("NO_TICKET", "티켓이 존재하지 않습니다."))?;
    if let Some(format) = parts.iter().find_map(|part| part["format"].as_str()) {
        if !["DEFAULT", "SIMPLE", "JSON_LIST", "SIMPLE_LIST"].contains(&format) {
            return Err(("INVALID_PARAM", "지원하지 않는 포맷입니다."));
        }
        let mut manners = manners(connection);
        (manners.simple, manners.list) = (format.starts_with("SIMPLE"), format.ends_with("LIST"));
    }
    if let Some(method) = parts.iter().find_map(|part| part["method"].as_str()) {
        if method != "LIST_SUBSCRIPTIONS" {
            return Err(("INVALID_PARAM", "지원하지 않는 method 입니다."));
        }
        connection.send_message(subscriptions(connection, ticket).to_string().as_bytes());
        return Ok(());
    }
    let types: Vec<&Value> = parts.iter().filter(|part| part.get("type").is_some()).collect();
    if types.is_empty() {
        return Err(("NO_TYPE", "타입이 존재하지 않습니다."));
    }
    let mut wanted = Vec::new();
    let mut snapshots = Vec::new();
    for part in types {
        let kind = part["type"].as_str().filter(|kind| TYPES.contains(kind));
        let kind = kind.ok_or(("INVALID_PARAM", "지원하지 않는 타입입니다."))?;
        let codes: Vec<&str> =
            part["codes"].as_array().map(|codes| codes.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
        if codes.is_empty() {
            return Err(("NO_CODES", "코드가 존재하지 않습니다."));
        }
        let flag = |names: [&str; 2]| names.iter().any(|name| part[*name] == true);
        let (only_snapshot, only_realtime) =
            (flag(["is_only_snapshot", "isOnlySnapshot"]), flag(["is_only_realtime", "isOnlyRealtime"]));
        for code in codes {
            let name = format!("{kind}:{code}");
            if !only_realtime {
                snapshots.push(name.clone());
            }
            if !only_snapshot && !wanted.contains(&name) {
                wanted.push(name);
            }
        }
    }
    replace(simulation, connection, wanted);
    snapshots.iter().for_each(|name| send_snapshot(simulation, connection, name));
    Ok(())
}

/// What is wanted now takes the place of what was; what is in both goes on without a break.
fn replace(simulation: &Simulation, connection: &Arc<Connection>, wanted: Vec<String>) {
    let before = std::mem::replace(&mut *connection.channels.lock().unwrap_or_else(PoisonError::into_inner), wanted.clone());
    let channels = |names: &[String]| names.iter().filter_map(|name| data_channel(simulation, name)).collect::<Vec<_>>();
    let (before, now) = (channels(&before), channels(&wanted));
    for (market, channel) in &before {
        if !now.contains(&(*market, *channel)) {
            simulation.hub.unsubscribe(*market, connection, *channel);
        }
    }
    for (index, entry) in now.iter().enumerate() {
        if !before.contains(entry) && !now[..index].contains(entry) {
            simulation.hub.subscribe(entry.0, connection, entry.1);
        }
    }
}

/// Codes are upper case; others are taken and stay silent.
fn data_channel(simulation: &Simulation, name: &str) -> Option<(usize, Channel)> {
    let (kind, code) = name.split_once(':')?;
    let (code, channel) = match kind {
        "trade" => (code, Channel::Trades),
        "orderbook" => (code.split('.').next()?, Channel::Book),
        _ => return None,
    };
    let market = simulation.hub.find(Venue::Upbit, code)?;
    (simulation.hub.markets[market].upper == code).then_some((market, channel))
}

fn subscriptions(connection: &Connection, ticket: &str) -> Value {
    let names = connection.channels.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut result: Vec<Value> = Vec::new();
    for (kind, code) in names.iter().filter_map(|name| name.split_once(':')) {
        match result.iter_mut().find(|entry| entry["type"] == kind) {
            Some(entry) => entry["codes"].as_array_mut().expect("built as one below").push(code.into()),
            None if kind == "orderbook" => result.push(json!({"type": kind, "codes": [code], "level": 0})),
            None => result.push(json!({"type": kind, "codes": [code]})),
        }
    }
    json!({"method": "LIST_SUBSCRIPTIONS", "result": result, "ticket": ticket})
}

fn send_snapshot(simulation: &Simulation, connection: &Connection, name: &str) {
    let Some((index, channel)) = data_channel(simulation, name) else { return };
    let market = &simulation.hub.markets[index];
    let Some(trade) = market.happened(|trades| trades.last().copied()) else { return };
    let mut out = Vec::new();
    if channel == Channel::Trades {
        write_trade(simulation, market, &trade, connection, "SNAPSHOT", &mut out);
    } else {
        write_book(simulation, market, &trade, connection, "SNAPSHOT", &mut out);
    }
    connection.send_message(&out);
}

/// A message being written: keys in long or short spelling, bare or inside an array.
struct Writer<'a> {
    simple: bool,
    list: bool,
    first: bool,
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    fn begin(connection: &Connection, out: &'a mut Vec<u8>) -> Writer<'a> {
        let manners = manners(connection);
        let (simple, list) = (manners.simple, manners.list);
        if list {
            out.push(b'[');
        }
        out.push(b'{');
        Writer { simple, list, first: true, out }
    }

    fn key(&mut self, long: &str, short: &str) -> &mut Vec<u8> {
        if !std::mem::replace(&mut self.first, false) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(if self.simple { short } else { long }.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    fn text(&mut self, long: &str, short: &str, text: &str) {
        let out = self.key(long, short);
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    }

    fn end(self) {
        self.out.push(b'}');
        if self.list {
            self.out.push(b']');
        }
    }
}

/// When a frame about a trade leaves the venue, milliseconds: a little later.
fn sent_ms(trade: &Trade) -> i64 {
    trade.time_us.div_euclid(1_000) + 1 + trade.id.rem_euclid(40)
}

/// Writes a `trade` frame.
pub fn write_trade(
    simulation: &Simulation,
    market: &Market,
    trade: &Trade,
    connection: &Connection,
    stream: &str,
    out: &mut Vec<u8>,
) {
    let previous = previous_close(&market.trades(), trade);
    let change = trade.price().at_scale(8) - previous.at_scale(8);
    let mut writer = Writer::begin(connection, out);
    writer.text("type", "ty", "trade");
    writer.text("code", "cd", &market.upper);
    write_integer(sent_ms(trade), writer.key("timestamp", "tms"));
    writer.text("trade_date", "td", &utc(trade.time_us, "%Y-%m-%d"));
    writer.text("trade_time", "ttm", &utc(trade.time_us, "%H:%M:%S"));
    write_integer(trade.time_us.div_euclid(1_000), writer.key("trade_timestamp", "ttms"));
    trade.price().write(8, writer.key("trade_price", "tp"));
    write_java(trade.size(), writer.key("trade_volume", "tv"));
    writer.text("ask_bid", "ab", if trade.taker_sells { "ASK" } else { "BID" });
    previous.write(8, writer.key("prev_closing_price", "pcp"));
    writer.text(
        "change",
        "c",
        if change > 0 {
            "RISE"
        } else if change < 0 {
            "FALL"
        } else {
            "EVEN"
        },
    );
    write_scaled(change.abs(), 8, writer.key("change_price", "cp"));
    write_integer(trade.id, writer.key("sequential_id", "sid"));
    let best = |bids| side(market, trade, bids, simulation.config.seed).next().unwrap_or((0, 0));
    for (bids, names) in [
        (false, [("best_ask_price", "bap"), ("best_ask_size", "bas")]),
        (true, [("best_bid_price", "bbp"), ("best_bid_size", "bbs")]),
    ] {
        let (price, size) = best(bids);
        write_scaled(price, market.price_decimals, writer.key(names[0].0, names[0].1));
        write_scaled(size, 8, writer.key(names[1].0, names[1].1));
    }
    writer.text("stream_type", "st", stream);
    writer.end();
}

/// Writes an `orderbook` frame around a trade, as deep as the connection asked.
pub fn write_book(
    simulation: &Simulation,
    market: &Market,
    trade: &Trade,
    connection: &Connection,
    stream: &str,
    out: &mut Vec<u8>,
) {
    let names = connection.channels.lock().unwrap_or_else(PoisonError::into_inner);
    let own = names.iter().filter_map(|name| name.strip_prefix("orderbook:")?.strip_prefix(market.upper.as_str()));
    let depth = own.filter_map(|rest| rest.strip_prefix('.')?.parse().ok()).find(|depth| DEPTHS.contains(depth));
    let depth = depth.unwrap_or(DEPTHS[DEPTHS.len() - 1]);
    drop(names);
    let levels = levels(market, trade, depth, simulation.config.seed);
    let mut writer = Writer::begin(connection, out);
    writer.text("type", "ty", "orderbook");
    writer.text("code", "cd", &market.upper);
    write_integer(sent_ms(trade), writer.key("timestamp", "tms"));
    write_scaled(levels.iter().map(|level| level[0].1).sum(), 8, writer.key("total_ask_size", "tas"));
    write_scaled(levels.iter().map(|level| level[1].1).sum(), 8, writer.key("total_bid_size", "tbs"));
    writer.key("orderbook_units", "obu").push(b'[');
    let names = if writer.simple { ["ap", "bp", "as", "bs"] } else { ["ask_price", "bid_price", "ask_size", "bid_size"] };
    for (index, [ask, bid]) in levels.iter().enumerate() {
        let numbers = [(ask.0, market.price_decimals), (bid.0, market.price_decimals), (ask.1, 8), (bid.1, 8)];
        for (place, (name, (number, decimals))) in names.iter().zip(numbers).enumerate() {
            let before: &[u8] = if place > 0 {
                b",\""
            } else if index > 0 {
                b",{\""
            } else {
                b"{\""
            };
            writer.out.extend_from_slice(before);
            writer.out.extend_from_slice(name.as_bytes());
            writer.out.extend_from_slice(b"\":");
            let number = Decimal::new(i64::try_from(number).unwrap_or(i64::MAX), decimals);
            if place < 2 { number.write(8, writer.out) } else { write_java(number, writer.out) }
        }
        writer.out.push(b'}');
    }
    writer.out.push(b']');
    writer.text("stream_type", "st", stream);
    write_integer(0, writer.key("level", "lv"));
    writer.end();
}

/// Price in units of the market's decimals, and size at scale 8.
type Level = (i128, i128);

/// So many levels of `[ask, bid]`, best first; zeros where a side is shorter.
pub(super) fn levels(market: &Market, trade: &Trade, depth: usize, seed: u64) -> Vec<[Level; 2]> {
    let mut sides = [side(market, trade, false, seed), side(market, trade, true, seed)];
    (0..depth).map(|_| sides.each_mut().map(|side| side.next().unwrap_or((0, 0)))).collect()
}

/// One side of the book after a trade, best first, on the tick table: the trade's price is the best of the side it was taken from.
fn side(market: &Market, trade: &Trade, bids: bool, seed: u64) -> impl Iterator<Item = Level> {
    let place = [seed::of_text(&market.lower), trade.id.unsigned_abs(), u64::from(bids)];
    let whole = market.price_decimals == 0;
    let step = move |price: i128| if whole { i128::from(tick(i64::try_from(price).unwrap_or(i64::MAX))) } else { 1 };
    let direction = if bids { -1 } else { 1 };
    let mut price = trade.price().at_scale(market.price_decimals);
    if trade.taker_sells != bids {
        price += direction * step(price);
    }
    (0_u64..).map_while(move |level| {
        if level > 0 {
            price += direction * step(price);
        }
        let size = 1_000_000 * i128::from(1 + seed::pick(seed, &[place[0], place[1], place[2], level], 500)) + 1;
        (price > 0).then_some((price, size))
    })
}
