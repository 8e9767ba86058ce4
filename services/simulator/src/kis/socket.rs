//! KIS's WebSocket: registrations answered by name, `PINGPONG`, and data frames of texts between carets.
//! Next: `rest.rs`.

use super::day::Status;
use super::tick;
use crate::connection::{Close, Connection, Message};
use crate::decimal::write_integer;
use crate::hub::Channel;
use crate::market::{Market, Origin, Trade, Venue};
use crate::seed;
use crate::simulation::Simulation;
use serde_json::{Value, json};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

const TRADES: &str = "H0STCNT0";
const BOOK: &str = "H0STASP0";
const STATUS: &str = "H0STMKO0";
/// What may be registered; only the first three carry data here.
const TR_IDS: &[&str] =
    &[TRADES, BOOK, STATUS, "H0STCNI0", "H0STCNI9", "H0NXCNT0", "H0NXASP0", "H0UNCNT0", "H0UNASP0", "H0STANC0", "H0STNAV0"];
/// Levels of a book.
const LEVELS: usize = 10;

/// Answers one client message.
pub fn on_message(simulation: &Simulation, connection: &Arc<Connection>, message: Message) {
    let Message::Text(text) = message else { return };
    let Ok(request) = serde_json::from_slice::<Value>(&text) else {
        return answer(connection, ("(null)", ""), "9", ("OPSP9990", "JSON PARSING ERROR"));
    };
    if request["header"]["tr_id"] == "PINGPONG" {
        *connection.pinged.lock().unwrap_or_else(PoisonError::into_inner) = None;
        return;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (tr_id, tr_key) = (text(&request["body"]["input"]["tr_id"]), text(&request["body"]["input"]["tr_key"]));
    let about = (tr_id.as_str(), tr_key.as_str());
    let header = &request["header"];
    if !matches!(header["custtype"].as_str(), Some("P" | "B")) {
        return answer(connection, about, "9", ("OPSP8998", "invalid custtype"));
    }
    let Some(app_key) = simulation.kis_ledger.customer(header["approval_key"].as_str().unwrap_or_default()) else {
        return answer(connection, about, "9", ("OPSP0011", "invalid approval : NOT FOUND"));
    };
    let connected: Vec<u64> = simulation.hub.connections().iter().map(|connection| connection.id).collect();
    if !simulation.kis_ledger.takes_session(&app_key, connection.id, &connected) {
        return answer(connection, ("(null)", ""), "9", ("OPSP8996", "ALREADY IN USE appkey"));
    }
    if !TR_IDS.contains(&about.0) {
        return answer(connection, about, "9", ("OPSP8991", "invalid tr_id : NOT FOUND"));
    }
    if about.1.is_empty() {
        return answer(connection, about, "9", ("OPSP8992", "invalid tr_key : NOT FOUND"));
    }
    match header["tr_type"].as_str() {
        Some("1") => register(simulation, connection, about),
        Some("2") => leave(simulation, connection, about),
        _ => answer(connection, about, "9", ("OPSP8997", "invalid tr_type")),
    }
}

fn register(simulation: &Simulation, connection: &Arc<Connection>, about: (&str, &str)) {
    let name = format!("{}:{}", about.0, about.1);
    let mut channels = connection.channels.lock().unwrap_or_else(PoisonError::into_inner);
    if channels.contains(&name) {
        drop(channels);
        return answer(connection, about, "1", ("OPSP0002", "ALREADY IN SUBSCRIBE"));
    }
    if channels.len() >= simulation.config.kis.registrations {
        drop(channels);
        simulation.kis_ledger.count_excess();
        return answer(connection, about, "1", ("OPSP0008", "MAX SUBSCRIBE OVER"));
    }
    channels.push(name);
    drop(channels);
    answer(connection, about, "0", ("OPSP0000", "SUBSCRIBE SUCCESS"));
    if let Some((market, channel)) = data_channel(simulation, about) {
        simulation.hub.subscribe(market, connection, channel);
    }
}

fn leave(simulation: &Simulation, connection: &Arc<Connection>, about: (&str, &str)) {
    let name = format!("{}:{}", about.0, about.1);
    let mut channels = connection.channels.lock().unwrap_or_else(PoisonError::into_inner);
    let before = channels.len();
    channels.retain(|other| *other != name);
    let found = channels.len() < before;
    drop(channels);
    if let Some((market, channel)) = data_channel(simulation, about) {
        simulation.hub.unsubscribe(market, connection, channel);
    }
    if found {
        answer(connection, about, "0", ("OPSP0001", "UNSUBSCRIBE SUCCESS"));
    } else {
        answer(connection, about, "1", ("OPSP0003", "UNSUBSCRIBE ERROR(not found!)"));
    }
}

fn data_channel(simulation: &Simulation, (tr_id, code): (&str, &str)) -> Option<(usize, Channel)> {
    let channel = match tr_id {
        TRADES => Channel::Trades,
        BOOK => Channel::Book,
        STATUS => Channel::Status,
        _ => return None,
    };
    Some((simulation.hub.find(Venue::Kis, code)?, channel))
}

fn answer(connection: &Connection, (tr_id, tr_key): (&str, &str), rt_cd: &str, (code, message): (&str, &str)) {
    let mut body = json!({"rt_cd": rt_cd, "msg_cd": code, "msg1": message});
    if code == "OPSP0000" {
        // Key and vector for notices of one's own orders: 32 and 16 characters.
        let key = seed::mix(connection.id, &[seed::of_text(tr_id), seed::of_text(tr_key)]);
        body["output"] = json!({"iv": format!("{key:016x}"), "key": format!("{:016x}{key:016x}", key.rotate_left(32))});
    }
    let frame = json!({"header": {"tr_id": tr_id, "tr_key": tr_key, "encrypt": "N"}, "body": body});
    connection.send_message(frame.to_string().as_bytes());
}

/// Sends the server's ping, or cuts a connection that answered the last one not at all.
pub fn on_ping_time(simulation: &Simulation, connection: &Connection) {
    let mut pinged = connection.pinged.lock().unwrap_or_else(PoisonError::into_inner);
    if pinged.is_some() {
        drop(pinged);
        return connection.close(Close::Cut);
    }
    let datetime = korean(simulation.clock.now_us(), "%Y%m%d%H%M%S");
    connection.send_message(format!(r#"{{"header":{{"tr_id":"PINGPONG","datetime":"{datetime}"}}}}"#).as_bytes());
    *pinged = Some((Instant::now(), Vec::new()));
}

pub(crate) fn korean(time_us: i64, format: &str) -> String {
    const NINE_HOURS_US: i64 = 9 * 3_600_000_000;
    jiff::Timestamp::from_microsecond(time_us + NINE_HOURS_US).map(|time| time.strftime(format).to_string()).unwrap_or_default()
}

/// Writes a data frame with the market status from now on.
pub fn write_status(market: &Market, status: Status, out: &mut Vec<u8>) {
    let flag = |on| if on { "Y" } else { "N" };
    let (reason, class) = if status.halted { ("공시관련 매매거래정지", "58") } else { ("(null)", "55") };
    let (code, halted, interrupted) = (&market.upper, flag(status.halted), flag(status.interrupted));
    out.extend_from_slice(format!("0|{STATUS}|001|{code}^{halted}^{reason}^AB1^112^^^{class}^{interrupted}^").as_bytes());
}

/// Writes a data frame with these trades of one market, in their order.
pub fn write_trades(market: &Market, trades: &[Trade], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("0|{TRADES}|{:03}|", trades.len()).as_bytes());
    for (index, trade) in trades.iter().enumerate() {
        if index > 0 {
            out.push(b'^');
        }
        out.extend_from_slice(trade_record(market, trade).join("^").as_bytes());
    }
}

pub(crate) fn whole(number: crate::decimal::Decimal) -> i64 {
    i64::try_from(number.at_scale(0)).unwrap_or(i64::MAX)
}

/// How a price stands to another: the sign's code and the difference.
fn against(price: i64, other: i64) -> (&'static str, i64) {
    let sign = match price.cmp(&other) {
        std::cmp::Ordering::Greater => "2",
        std::cmp::Ordering::Equal => "3",
        std::cmp::Ordering::Less => "5",
    };
    (sign, price - other)
}

/// A ratio as text with two decimals; half towards zero.
pub(crate) fn percent(part: i64, whole: i64) -> String {
    let hundredths = if whole == 0 { 0 } else { i128::from(part) * 10_000 / i128::from(whole) };
    crate::decimal::scaled_text(hundredths, 2)
}

/// The 46 fields of a trade.
fn trade_record(market: &Market, trade: &Trade) -> Vec<String> {
    let position = market.trades().partition_point(|other| other.id < trade.id);
    let Some(totals) = market.day.after(position) else { return Vec::new() };
    let (price, base) = (whole(trade.price()), market.day.base);
    let ((sign, change), time) = (against(price, base), |time_us| korean(time_us, "%H%M%S"));
    let auction = trade.origin == Origin::Auction;
    let closing = auction && position + 1 == market.count();
    let step = tick(price);
    let (ask, bid) = if trade.taker_sells { (price + step, price) } else { (price, price - step) };
    let turned = |at: (i64, i64)| {
        let (sign, change) = against(price, at.0);
        [time(at.1), sign.to_owned(), change.to_string()]
    };
    let average = if totals.volume == 0 { 0 } else { i128::from(totals.turnover) * 100 / i128::from(totals.volume) };
    let size = |number: u64| (100 + seed::pick(trade.id.unsigned_abs(), &[number], 90_000)).to_string();
    let mut fields = vec![
        market.upper.clone(),
        time(trade.time_us),
        price.to_string(),
        sign.to_owned(),
        change.to_string(),
        percent(change, base),
        crate::decimal::scaled_text(average, 2),
        totals.open.0.to_string(),
        totals.high.0.to_string(),
        totals.low.0.to_string(),
        ask.to_string(),
        bid.to_string(),
        whole(trade.size()).to_string(),
        totals.volume.to_string(),
        totals.turnover.to_string(),
        totals.sells.0.to_string(),
        totals.buys.0.to_string(),
        (totals.buys.0 - totals.sells.0).to_string(),
        percent(totals.buys.1, totals.sells.1),
        totals.sells.1.to_string(),
        totals.buys.1.to_string(),
        if auction {
            "3"
        } else if trade.taker_sells {
            "5"
        } else {
            "1"
        }
        .to_owned(),
        percent(totals.buys.1, totals.volume),
        "100.00".to_owned(),
    ];
    for at in [totals.open, totals.high, totals.low] {
        fields.extend(turned(at));
    }
    fields.extend([
        korean(trade.time_us, "%Y%m%d"),
        if closing { "21" } else { "20" }.to_owned(),
        "N".to_owned(),
        size(1),
        size(2),
        size(3),
        size(4),
        percent(totals.volume, 5_000_000_000),
        size(5),
        "100.00".to_owned(),
        "0".to_owned(),
        String::new(),
        totals.reference.to_string(),
    ]);
    fields
}

/// Writes an order book of 62 fields around a trade.
pub fn write_book(market: &Market, trade: &Trade, seed: u64, out: &mut Vec<u8>) {
    let place = [seed::of_text(&market.lower), trade.id.unsigned_abs()];
    let price = whole(trade.price());
    let step = tick(price);
    let (ask, bid) = if trade.taker_sells { (price + step, price) } else { (price, price - step) };
    let level = |number: usize| i64::try_from(number).unwrap_or(0) * step;
    let sizes = |side: u64| -> Vec<i64> {
        (0..LEVELS).map(|number| 1 + seed::pick_i64(seed, &[place[0], place[1], side, number as u64], 100_000)).collect()
    };
    let (asks, bids) = (sizes(0), sizes(1));
    let volume = market.trades().partition_point(|other| other.id < trade.id);
    let volume = market.day.after(volume).map_or(0, |totals| totals.volume);
    let mut fields: Vec<i64> = (0..LEVELS).map(|number| ask + level(number)).collect();
    // A side ends where prices would.
    fields.extend((0..LEVELS).map(|number| (bid - level(number)).max(0)));
    fields.extend(&asks);
    fields.extend(&bids);
    fields.extend([asks.iter().sum(), bids.iter().sum(), 0, 0]);
    out.extend_from_slice(format!("0|{BOOK}|001|{}^{}^0", market.upper, korean(trade.time_us, "%H%M%S")).as_bytes());
    for field in fields {
        out.push(b'^');
        write_integer(field, out);
    }
    // Expected prices outside auctions, as odd as they are; then changes and the middle price.
    out.extend_from_slice(format!("^0^0^0^-{}^5^-100.00^{volume}^0^0^0^0^0^{}^0^0", market.day.base, (ask + bid) / 2).as_bytes());
}
