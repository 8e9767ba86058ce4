//! Bitstamp's WebSocket: control events answered, trade and book frames spelled.
//!
//! Control frames have `event` first, data frames `data` first. A well-formed but unknown pair is acknowledged and stays silent, as there.
//! Next: `rest.rs`.

use crate::config::BitstampConfig;
use crate::connection::{Close, Connection, Message};
use crate::decimal::{write_integer, write_scaled};
use crate::hub::Channel;
use crate::market::{Market, Trade, Venue};
use crate::seed;
use crate::simulation::Simulation;
use serde_json::Value;
use std::sync::{Arc, PoisonError};

/// Channels that exist; only the first two carry data here.
const CHANNELS: &[&str] =
    &["live_trades_", "order_book_", "diff_order_book_", "detail_order_book_", "live_orders_", "funding_rate_"];

/// Answers one client message.
pub fn on_message(simulation: &Simulation, connection: &Arc<Connection>, message: Message) {
    let Message::Text(text) = message else { return };
    if text.len() > simulation.config.bitstamp.frame_bytes {
        connection.close(Close::Frame(1009, "read limited at 513 bytes"));
        return;
    }
    let Ok(request) = serde_json::from_slice::<Value>(&text) else {
        return send_error(connection, "null", "Incorrect JSON format.");
    };
    let channel = request["data"]["channel"].as_str();
    match (request["event"].as_str(), channel) {
        (Some("bts:heartbeat"), _) => {
            connection.send_message(br#"{"event":"bts:heartbeat","channel":"","data":{"status":"success"}}"#);
        }
        (Some("bts:subscribe"), Some(channel)) => subscribe(simulation, connection, channel),
        (Some("bts:unsubscribe"), Some(channel)) => unsubscribe(simulation, connection, channel),
        _ => send_error(connection, "null", "Bad subscription string."),
    }
}

fn subscribe(simulation: &Simulation, connection: &Arc<Connection>, channel: &str) {
    if channel.starts_with("private-") {
        return send_error(connection, "4009", "Connection is unauthorized.");
    }
    if !well_formed(channel) {
        return send_error(connection, "null", "Invalid channel provided.");
    }
    let mut channels = connection.channels.lock().unwrap_or_else(PoisonError::into_inner);
    if channels.iter().any(|other| other == channel) {
        drop(channels);
        return acknowledge(connection, "bts:subscription_succeeded", channel);
    }
    if channels.len() >= simulation.config.bitstamp.channels {
        drop(channels);
        return connection.close(Close::Cut);
    }
    channels.push(channel.to_owned());
    drop(channels);
    acknowledge(connection, "bts:subscription_succeeded", channel);
    if let Some((market, channel)) = data_channel(simulation, channel) {
        simulation.hub.subscribe(market, connection, channel);
    }
}

fn unsubscribe(simulation: &Simulation, connection: &Arc<Connection>, channel: &str) {
    if !well_formed(channel) {
        return send_error(connection, "null", "Invalid channel provided.");
    }
    connection.channels.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| other != channel);
    if let Some((market, channel)) = data_channel(simulation, channel) {
        simulation.hub.unsubscribe(market, connection, channel);
    }
    acknowledge(connection, "bts:unsubscription_succeeded", channel);
}

fn well_formed(channel: &str) -> bool {
    CHANNELS.iter().filter_map(|prefix| channel.strip_prefix(prefix)).any(|pair| {
        !pair.is_empty() && pair.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    })
}

fn data_channel(simulation: &Simulation, channel: &str) -> Option<(usize, Channel)> {
    let (pair, kind) = match channel.strip_prefix("live_trades_") {
        Some(pair) => (pair, Channel::Trades),
        None => (channel.strip_prefix("order_book_")?, Channel::Book),
    };
    Some((simulation.hub.find(Venue::Bitstamp, pair)?, kind))
}

fn acknowledge(connection: &Connection, event: &str, channel: &str) {
    // The channel is well-formed by now, so it needs no escaping.
    connection.send_message(format!(r#"{{"event":"{event}","channel":"{channel}","data":{{}}}}"#).as_bytes());
}

fn send_error(connection: &Connection, code: &str, message: &str) {
    connection.send_message(
        format!(r#"{{"event":"bts:error","channel":"","data":{{"code":{code},"message":"{message}"}}}}"#).as_bytes(),
    );
}

/// Asks the client to reconnect; `data` is spelled differently from time to time.
pub fn send_request_reconnect(connection: &Connection, number: usize) {
    let data = ["\"\"", "null", "{}"][number % 3];
    connection.send_message(format!(r#"{{"event":"bts:request_reconnect","channel":"","data":{data}}}"#).as_bytes());
}

/// Writes a `trade` frame.
pub fn write_trade(market: &Market, trade: &Trade, seed: u64, out: &mut Vec<u8>) {
    let (taker, maker) = order_ids(market, trade, seed);
    let (buyer, seller) = if trade.taker_sells { (maker, taker) } else { (taker, maker) };
    let (price, size) = (trade.price(), trade.size());
    out.extend_from_slice(b"{\"data\":{\"id\":");
    write_integer(trade.id, out);
    out.extend_from_slice(b",\"id_str\":\"");
    write_integer(trade.id, out);
    out.extend_from_slice(b"\",\"type\":");
    out.push(if trade.taker_sells { b'1' } else { b'0' });
    out.extend_from_slice(b",\"sell_order_id\":");
    write_integer(seller, out);
    out.extend_from_slice(b",\"buy_order_id\":");
    write_integer(buyer, out);
    out.extend_from_slice(b",\"amount\":");
    size.write(0, out);
    out.extend_from_slice(b",\"amount_str\":\"");
    size.write(market.size_decimals, out);
    out.extend_from_slice(b"\",\"price\":");
    price.write(0, out);
    out.extend_from_slice(b",\"price_str\":\"");
    price.write(market.price_decimals, out);
    out.extend_from_slice(b"\",\"microtimestamp\":\"");
    write_integer(trade.time_us, out);
    out.extend_from_slice(b"\",\"timestamp\":\"");
    // Perpetuals spell milliseconds here.
    write_integer(trade.time_us.div_euclid(if market.perpetual() { 1_000 } else { 1_000_000 }), out);
    out.extend_from_slice(b"\"},\"channel\":\"live_trades_");
    out.extend_from_slice(market.lower.as_bytes());
    out.extend_from_slice(b"\",\"event\":\"trade\"}");
}

/// Taker's and maker's order ids, 16 digits. The fills of one sweep (same time and side) share the taker's.
fn order_ids(market: &Market, trade: &Trade, seed: u64) -> (i64, i64) {
    const FIRST: i64 = 2_000_000_000_000_000;
    let market = seed::of_text(&market.lower);
    let id = |place: &[u64]| FIRST + i64::try_from(seed::pick(seed, place, 100_000_000_000_000)).expect("below 10^14");
    let taker = id(&[market, trade.time_us.unsigned_abs(), u64::from(trade.taker_sells)]);
    (taker, id(&[market, trade.id.unsigned_abs()]))
}

/// Writes an `order_book` frame around a trade; `false` when the last one is too recent.
pub fn write_book(market: &Market, trade: &Trade, config: &BitstampConfig, seed: u64, out: &mut Vec<u8>) -> bool {
    let Some(time_us) = market.book_due(trade, config.book_every) else { return false };
    out.extend_from_slice(b"{\"data\":");
    write_levels(market, trade, time_us, config.book_levels, seed, out);
    out.extend_from_slice(b",\"channel\":\"order_book_");
    out.extend_from_slice(market.lower.as_bytes());
    out.extend_from_slice(b"\",\"event\":\"data\"}");
    true
}

/// Writes `{timestamp, microtimestamp, bids, asks}`: the trade's price is the best of the side it was taken from.
pub(crate) fn write_levels(market: &Market, trade: &Trade, time_us: i64, levels: usize, seed: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"timestamp\":\"");
    write_integer(time_us.div_euclid(1_000_000), out);
    out.extend_from_slice(b"\",\"microtimestamp\":\"");
    write_integer(time_us, out);
    out.push(b'"');
    for (name, bids) in [("bids", true), ("asks", false)] {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":[");
        for (index, (price, size)) in book_side(market, trade, bids, seed).take(levels).enumerate() {
            out.extend_from_slice(if index == 0 { b"[\"" } else { b",[\"" });
            write_scaled(price, market.price_decimals, out);
            out.extend_from_slice(b"\",\"");
            write_scaled(size, market.size_decimals, out);
            out.extend_from_slice(b"\"]");
        }
        out.push(b']');
    }
    out.push(b'}');
}

/// One side of the book after a trade, best first: prices and sizes in units of the market's decimals. Prices stay above zero, so a cheap market's bids are few.
pub(crate) fn book_side(market: &Market, trade: &Trade, bids: bool, seed: u64) -> impl Iterator<Item = (i128, i128)> {
    let place = [seed::of_text(&market.lower), trade.id.unsigned_abs(), u64::from(bids)];
    // A buyer takes from the asks, a seller from the bids: that side's best is the price just paid.
    let touched = trade.taker_sells == bids;
    let away = if touched { 0 } else { 1 + i128::from(seed::pick(seed, &place, 5)) };
    let mut price = trade.price().at_scale(market.price_decimals) + if bids { -away } else { away };
    let unit = 10_i128.pow(u32::from(market.size_decimals));
    (0_u64..).map_while(move |level| {
        if level > 0 {
            let step = 1 + i128::from(seed::pick(seed, &[place[0], place[1], place[2], level], 9));
            price += if bids { -step } else { step };
        }
        let size = unit / 1_000 * i128::from(1 + seed::pick(seed, &[place[0], place[1], place[2], level, 1], 5_000)) + 1;
        (price > 0).then_some((price, size))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decimal::Decimal;

    fn market() -> Market {
        Market::new(Venue::Bitstamp, "BTC", "USD", (2, 8), Vec::new())
    }

    fn trade() -> Trade {
        let (price, size) = (Decimal::parse("800.01").unwrap(), Decimal::parse("0.1").unwrap());
        Trade::new(1_385_337_600_000_000, 1_900_000_000_000_000_123, price, size, true)
    }

    #[test]
    fn a_trade_frame_has_the_keys_in_their_order() {
        let mut frame = Vec::new();
        write_trade(&market(), &trade(), 1, &mut frame);
        let text = String::from_utf8(frame).unwrap();
        assert!(
            text.starts_with(r#"{"data":{"id":1900000000000000123,"id_str":"1900000000000000123","type":1,"sell_order_id":2"#),
            "{text}"
        );
        assert!(
            text.ends_with(
                r#","amount":0.1,"amount_str":"0.10000000","price":800.01,"price_str":"800.01","microtimestamp":"1385337600000000","timestamp":"1385337600"},"channel":"live_trades_btcusd","event":"trade"}"#
            ),
            "{text}"
        );
    }

    #[test]
    fn books_are_ordered_and_not_crossed() {
        for id in 0..200 {
            let mut trade = trade();
            (trade.id, trade.taker_sells) = (id, id % 2 == 0);
            let bids: Vec<_> = book_side(&market(), &trade, true, 1).take(100).collect();
            let asks: Vec<_> = book_side(&market(), &trade, false, 1).take(100).collect();
            assert!(bids.is_sorted_by(|a, b| a.0 > b.0) && asks.is_sorted_by(|a, b| a.0 < b.0));
            assert!(bids[0].0 < asks[0].0);
            assert_eq!(if trade.taker_sells { bids[0].0 } else { asks[0].0 }, 80_001);
        }
    }

    #[test]
    fn channels_are_lower_case_and_known() {
        for (channel, expected) in [
            ("live_trades_btcusd", true),
            ("order_book_btcusd-perp", true),
            ("live_trades_BTCUSD", false),
            ("live_trades_btc/usd", false),
            ("trades_btcusd", false),
            ("live_trades_", false),
        ] {
            assert_eq!(well_formed(channel), expected, "{channel}");
        }
    }
}
