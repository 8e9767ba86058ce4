//! Kiwoom's WebSocket: LOGIN, registrations answered without a name, PING, and REAL frames of fields by number.
//! Next: `rest.rs`.

use super::{change, signed};
use crate::connection::{Close, Connection, Message};
use crate::hub::Channel;
use crate::kis::day::Status;
use crate::kis::socket::{korean, percent, whole};
use crate::kis::tick;
use crate::market::{Market, Origin, Trade, Venue};
use crate::seed;
use crate::simulation::Simulation;
use serde_json::{Map, Value, json};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

const TRADES: &str = "0B";
const BOOK: &str = "0D";
const INTERRUPTIONS: &str = "1h";
/// Levels of a book.
const LEVELS: usize = 10;
/// What stands among a connection's channels once it has logged in.
const LOGGED_IN: &str = "LOGIN";

/// Answers one client message.
pub fn on_message(simulation: &Simulation, connection: &Arc<Connection>, message: Message) {
    let Message::Text(text) = message else { return };
    let Ok(request) = serde_json::from_slice::<Value>(&text) else {
        send(connection, &json!({"trnm": "SYSTEM", "code": "R10004", "message": "요청 형식이 잘못되었습니다"}));
        return;
    };
    let logged_in = || lock(&connection.channels).iter().any(|name| name == LOGGED_IN);
    match request["trnm"].as_str() {
        // Echoed word for word, or it does not count.
        Some("PING") => {
            let mut pinged = lock(&connection.pinged);
            if pinged.as_ref().is_some_and(|(_, sent)| *sent == text) {
                *pinged = None;
            }
        }
        Some("LOGIN") => login(simulation, connection, request["token"].as_str().unwrap_or_default()),
        Some(name @ ("REG" | "REMOVE")) if !logged_in() => {
            send(
                connection,
                &json!({"trnm": name, "return_code": 1, "return_msg": "로그인 인증이 들어오기 전에 다른 전문이 들어왔습니다"}),
            );
            connection.close(Close::Frame(1000, "Bye"));
        }
        Some("REG") => register(simulation, connection, &request),
        Some("REMOVE") => remove(simulation, connection, &request),
        _ => send(connection, &json!({"trnm": "SYSTEM", "code": "R10003", "message": "알 수 없는 전문입니다"})),
    }
}

fn login(simulation: &Simulation, connection: &Arc<Connection>, token: &str) {
    match simulation.kiwoom_ledger.enters(token, &simulation.config.kiwoom) {
        None => {
            let message = "토큰 인증에 실패했습니다. 접속을 종료합니다 [CODE=8005, MESSAGE=Token이 유효하지 않습니다]";
            send(connection, &json!({"trnm": "LOGIN", "return_code": 805_004, "return_msg": message}));
            connection.close(Close::Frame(1000, "Bye"));
        }
        // Back too soon: closed before a word.
        Some(false) => connection.close(Close::Frame(1000, "Bye")),
        Some(true) => {
            lock(&connection.channels).push(LOGGED_IN.to_owned());
            send(connection, &json!({"trnm": "LOGIN", "return_code": 0, "return_msg": "", "sor_yn": "Y"}));
        }
    }
}

/// Every item with every type of each element.
fn named(request: &Value) -> Vec<(String, String)> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let elements = request["data"].as_array().into_iter().flatten();
    elements
        .flat_map(|element| {
            let (items, kinds) = (texts(&element["item"]), texts(&element["type"]));
            items.into_iter().flat_map(move |item| kinds.clone().into_iter().map(move |kind| (kind, item.clone())))
        })
        .collect()
}

fn register(simulation: &Simulation, connection: &Arc<Connection>, request: &Value) {
    let refuse = |words: &str| send(connection, &json!({"trnm": "REG", "return_code": 1, "return_msg": words}));
    let wanted = named(request);
    let group = request["grp_no"].as_str().unwrap_or_default();
    if wanted.is_empty() || group.is_empty() || group.len() > 4 {
        return refuse("입력값이 올바르지 않습니다[1511:필수 입력 파라미터가 누락되었습니다]");
    }
    if request["refresh"] == "0" {
        let mut channels = lock(&connection.channels);
        channels.retain(|name| name == LOGGED_IN);
        drop(channels);
        simulation.hub.unsubscribe_all(connection);
    }
    let mut channels = lock(&connection.channels);
    let known = |item: &str| channels.iter().any(|name| name.split_once(':').is_some_and(|(_, of)| of == item));
    let mut items: Vec<&str> = wanted.iter().map(|(_, item)| item.as_str()).filter(|item| !known(item)).collect();
    items.sort_unstable();
    items.dedup();
    let mut held: Vec<&str> = channels.iter().filter_map(|name| Some(name.split_once(':')?.1)).collect();
    held.sort_unstable();
    held.dedup();
    if held.len() + items.len() > simulation.config.kiwoom.items {
        drop(channels);
        simulation.kiwoom_ledger.count_excess();
        return refuse("실시간 등록 가능한 종목 수를 초과하였습니다");
    }
    let fresh: Vec<(String, String)> =
        wanted.into_iter().filter(|(kind, item)| !channels.contains(&format!("{kind}:{item}"))).collect();
    channels.extend(fresh.iter().map(|(kind, item)| format!("{kind}:{item}")));
    drop(channels);
    send(connection, &json!({"trnm": "REG", "return_code": 0, "return_msg": ""}));
    for (kind, item) in fresh {
        for (market, channel) in data_channels(simulation, &kind, &item) {
            simulation.hub.subscribe(market, connection, channel);
        }
    }
}

fn remove(simulation: &Simulation, connection: &Arc<Connection>, request: &Value) {
    for (kind, item) in named(request) {
        let name = format!("{kind}:{item}");
        lock(&connection.channels).retain(|other| *other != name);
        for (market, channel) in data_channels(simulation, &kind, &item) {
            simulation.hub.unsubscribe(market, connection, channel);
        }
    }
    send(connection, &json!({"trnm": "REMOVE", "return_code": 0, "return_msg": ""}));
}

/// Interruptions may be registered for all at once, under no code.
fn data_channels(simulation: &Simulation, kind: &str, item: &str) -> Vec<(usize, Channel)> {
    let channel = match kind {
        TRADES => Channel::Trades,
        BOOK => Channel::Book,
        INTERRUPTIONS => Channel::Status,
        _ => return Vec::new(),
    };
    if channel == Channel::Status && item.is_empty() {
        let markets = simulation.hub.markets.iter().enumerate();
        return markets.filter(|(_, market)| market.venue == Venue::Kis).map(|(index, _)| (index, channel)).collect();
    }
    simulation.hub.find(Venue::Kis, item).map(|market| (market, channel)).into_iter().collect()
}

/// Sends the server's ping, or cuts a connection that did not echo the last one.
pub fn on_ping_time(connection: &Connection) {
    let mut pinged = lock(&connection.pinged);
    if pinged.is_some() {
        drop(pinged);
        return connection.close(Close::Cut);
    }
    let ping = br#"{"trnm":"PING"}"#.to_vec();
    connection.send_message(&ping);
    *pinged = Some((Instant::now(), ping));
}

/// Writes a frame with these trades of one market, in their order.
pub fn write_trades(market: &Market, trades: &[Trade], out: &mut Vec<u8>) {
    let data: Vec<Value> = trades.iter().map(|trade| entry(market, (TRADES, "주식체결"), trade_values(market, trade))).collect();
    write(data, out);
}

/// Writes an order book around a trade.
pub fn write_book(market: &Market, trade: &Trade, seed: u64, out: &mut Vec<u8>) {
    write(vec![entry(market, (BOOK, "주식호가잔량"), book_values(market, trade, seed))], out);
}

/// Writes what the broker tells of an interruption; `false`: of a halt it tells nothing here.
pub fn write_status(market: &Market, status: Status, out: &mut Vec<u8>) -> bool {
    let statuses = &market.day.statuses;
    let at = statuses.partition_point(|other| other.time_us < status.time_us);
    let before = at.checked_sub(1).and_then(|before| statuses.get(before));
    let (triggered_us, released) = match before {
        _ if status.interrupted => (status.time_us, None),
        Some(before) if before.interrupted => (before.time_us, Some(status.time_us)),
        _ => return false,
    };
    let (price, volume) = before_time(market, status.time_us).unwrap_or_default();
    let mut values = Map::new();
    let release = released.map_or_else(|| "000000".to_owned(), |at| korean(at, "%H%M%S"));
    for (field, text) in [
        ("9001", market.upper.clone()),
        ("302", market.day.name.clone()),
        ("13", volume.to_string()),
        ("14", String::new()),
        ("9068", if released.is_some() { "2" } else { "1" }.to_owned()),
        ("9008", "001".to_owned()),
        ("9075", "0".to_owned()),
        ("1221", price.to_string()),
        ("1223", korean(triggered_us, "%H%M%S")),
        ("1224", release),
        ("1225", "정적".to_owned()),
        ("1490", "1".to_owned()),
    ] {
        values.insert(field.to_owned(), text.into());
    }
    write(vec![entry(market, (INTERRUPTIONS, "VI발동/해제"), values)], out);
    true
}

/// Price and volume of the day before an instant.
fn before_time(market: &Market, time_us: i64) -> Option<(i64, i64)> {
    let trades = market.trades();
    let at = trades.partition_point(|trade| trade.time_us <= time_us).checked_sub(1)?;
    Some((whole(trades[at].price()), market.day.after(at)?.volume))
}

fn entry(market: &Market, (kind, name): (&str, &str), values: Map<String, Value>) -> Value {
    json!({"values": values, "type": kind, "name": name, "item": market.upper})
}

fn write(data: Vec<Value>, out: &mut Vec<u8>) {
    // `data` stands before `trnm`, as at the broker.
    out.extend_from_slice(b"{\"data\":");
    out.extend_from_slice(Value::Array(data).to_string().as_bytes());
    out.extend_from_slice(b",\"trnm\":\"REAL\"}");
}

/// The 43 fields of a trade.
fn trade_values(market: &Market, trade: &Trade) -> Map<String, Value> {
    let position = market.trades().partition_point(|other| other.id < trade.id);
    let Some(totals) = market.day.after(position).copied() else { return Map::new() };
    let (price, base) = (whole(trade.price()), market.day.base);
    let (sign, change) = change(price, base);
    let step = tick(price);
    let (ask, bid) = if trade.taker_sells { (price + step, price) } else { (price, price - step) };
    let size = whole(trade.size());
    let size = match trade.origin {
        Origin::Auction => size.to_string(),
        Origin::Tape | Origin::ZeroSize | Origin::TooPrecise if trade.taker_sells => format!("-{size}"),
        Origin::Tape | Origin::ZeroSize | Origin::TooPrecise => format!("+{size}"),
    };
    let mut values = Map::new();
    for (field, text) in [
        ("20", korean(trade.time_us, "%H%M%S")),
        ("10", signed(price, base)),
        ("11", change),
        ("12", percent(price - base, base)),
        ("27", signed(ask, base)),
        ("28", signed(bid, base)),
        ("15", size),
        ("13", totals.volume.to_string()),
        ("14", (totals.turnover / 1_000_000).to_string()),
        ("16", signed(totals.open.0, base)),
        ("17", signed(totals.high.0, base)),
        ("18", signed(totals.low.0, base)),
        ("25", sign.to_owned()),
        ("228", percent(totals.buys.1, totals.sells.1)),
        ("290", "2".to_owned()),
        ("691", "0".to_owned()),
        ("567", "000000".to_owned()),
        ("568", "000000".to_owned()),
        ("1890", korean(totals.open.1, "%H%M%S")),
        ("1891", korean(totals.high.1, "%H%M%S")),
        ("1892", korean(totals.low.1, "%H%M%S")),
        ("1030", totals.sells.1.to_string()),
        ("1031", totals.buys.1.to_string()),
        ("1032", percent(totals.buys.1, totals.volume)),
        ("1071", totals.sells.0.to_string()),
        ("1072", totals.buys.0.to_string()),
        ("9081", "1".to_owned()),
    ] {
        values.insert(field.to_owned(), text.into());
    }
    for empty in ["26", "30", "29", "31", "32", "311", "851", "1313", "1315", "1316", "1314", "1497", "1498", "620", "732", "852"]
    {
        values.insert(empty.to_owned(), "".into());
    }
    values
}

fn book_values(market: &Market, trade: &Trade, seed: u64) -> Map<String, Value> {
    let place = [seed::of_text(&market.lower), trade.id.unsigned_abs()];
    let (price, base) = (whole(trade.price()), market.day.base);
    let step = tick(price);
    let (ask, bid) = if trade.taker_sells { (price + step, price) } else { (price, price - step) };
    let level = |number: usize| i64::try_from(number).unwrap_or(0) * step;
    let size = |side: u64, number: usize| 1 + seed::pick_i64(seed, &[place[0], place[1], side, number as u64], 100_000);
    let mut values = Map::new();
    let mut put = |field: usize, text: String| values.insert(field.to_string(), text.into());
    put(21, korean(trade.time_us, "%H%M%S"));
    let (mut asks, mut bids) = (0, 0);
    for number in 0..LEVELS {
        let (ask_size, bid_size) = (size(0, number), size(1, number));
        put(41 + number, signed(ask + level(number), base));
        put(51 + number, signed((bid - level(number)).max(0), base));
        put(61 + number, ask_size.to_string());
        put(71 + number, bid_size.to_string());
        put(81 + number, "0".to_owned());
        put(91 + number, "0".to_owned());
        (asks, bids) = (asks + ask_size, bids + bid_size);
    }
    put(121, asks.to_string());
    put(122, "0".to_owned());
    put(125, bids.to_string());
    put(126, "0".to_owned());
    put(128, format!("{:+}", bids - asks));
    put(129, percent(bids, asks));
    put(215, "3".to_owned());
    values
}

fn send(connection: &Connection, message: &Value) {
    connection.send_message(message.to_string().as_bytes());
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
