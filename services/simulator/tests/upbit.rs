//! Upbit as its pages say, seen by a client that shares no code with the simulator.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

#[path = "common/mod.rs"]
mod common;

use common::{Client, End, Running, config, parse, start};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tokio_tungstenite::tungstenite::Message;

/// Two markets, generated, over a midnight.
const TAPE: &str = "tapes = [{kind = 'generated', venue = 'upbit', symbols = 2, trades = 2000, trades_per_second = 2.0, start = '2026-01-05T23:50:00Z'}]\n[clock]\nspeed = 'max'\n";
const SOCKET: &str = "/upbit/websocket/v1";

async fn simulator(change: &str) -> Running {
    let folder = tempfile::tempdir().unwrap();
    start(config(&folder, "", &format!("{TAPE}{change}"))).await
}

/// The next message, which must come in a binary frame.
async fn binary(client: &mut Client) -> Value {
    loop {
        match tokio::time::timeout(common::PATIENCE, client.socket.next()).await.unwrap().unwrap().unwrap() {
            Message::Binary(bytes) => return serde_json::from_slice(&bytes).unwrap(),
            Message::Text(text) => panic!("text: {text}"),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            Message::Close(frame) => panic!("closed: {frame:?}"),
        }
    }
}

fn request(parts: Value) -> String {
    let mut all = vec![json!({"ticket": "t1"})];
    all.extend(parts.as_array().unwrap().iter().cloned());
    Value::Array(all).to_string()
}

#[tokio::test]
async fn mistakes_are_named_and_life_is_answered() {
    let simulator = simulator("[start]\nautomatic = false\n[upbit]\nmessages_per_second = 100").await;
    let mut client = simulator.connect(SOCKET).await;
    for (text, name) in [
        ("hello".to_owned(), "WRONG_FORMAT"),
        ("{}".to_owned(), "WRONG_FORMAT"),
        (r#"[{"type":"trade","codes":["KRW-S001"]}]"#.to_owned(), "NO_TICKET"),
        (request(json!([])), "NO_TYPE"),
        (request(json!([{"type": "trade"}])), "NO_CODES"),
        (request(json!([{"type": "gossip", "codes": ["KRW-S001"]}])), "INVALID_PARAM"),
    ] {
        client.send(&text).await;
        assert_eq!(binary(&mut client).await["error"]["name"], name, "{text}");
    }
    client.send("PING").await;
    assert_eq!(binary(&mut client).await, json!({"status": "UP"}));
    client
        .send(&request(
            json!([{"type": "trade", "codes": ["KRW-S001", "KRW-NONE"]}, {"type": "orderbook", "codes": ["KRW-S002.5"]}]),
        ))
        .await;
    client.send(&request(json!([{"method": "LIST_SUBSCRIPTIONS"}]))).await;
    let expected =
        json!([{"type": "trade", "codes": ["KRW-S001", "KRW-NONE"]}, {"type": "orderbook", "codes": ["KRW-S002.5"], "level": 0}]);
    let list = binary(&mut client).await;
    assert_eq!((&list["result"], &list["ticket"]), (&expected, &json!("t1")));
    client.send(&request(json!([{"type": "trade", "codes": ["KRW-S002"]}]))).await;
    client.send(&request(json!([{"method": "LIST_SUBSCRIPTIONS"}]))).await;
    assert_eq!(binary(&mut client).await["result"], json!([{"type": "trade", "codes": ["KRW-S002"]}]), "replaced, not added");
}

#[tokio::test]
async fn the_sixth_message_within_a_second_closes_and_so_does_the_hundred_and_first_within_a_minute() {
    for change in ["", "messages_per_second = 1000\nmessages_per_minute = 5"] {
        let simulator = simulator(&format!("[start]\nautomatic = false\n[upbit]\n{change}")).await;
        let mut client = simulator.connect(SOCKET).await;
        for _ in 0..6 {
            client.send(&request(json!([{"method": "LIST_SUBSCRIPTIONS"}]))).await;
        }
        assert!(matches!(client.next().await, Err(End::Close(1008, _))), "{change}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let simulator = simulator("[start]\nautomatic = false\n[upbit]\nidle_timeout = '300ms'\nup_every = '50ms'").await;
    let mut client = simulator.connect(SOCKET).await;
    assert!(matches!(client.next().await, Err(End::Close(1000, _))));
}

#[tokio::test]
async fn trades_books_and_rest_agree_over_a_midnight() {
    let simulator = simulator("[start]\nautomatic = false\n[upbit]\nrequests_per_second = 1000").await;
    let mut client = simulator.connect(SOCKET).await;
    let wanted = json!([{"type": "trade", "codes": ["KRW-S001"], "is_only_realtime": true}, {"type": "orderbook", "codes": ["KRW-S001.5"], "isOnlyRealtime": true}]);
    client.send(&request(wanted)).await;
    client.send(&request(json!([{"method": "LIST_SUBSCRIPTIONS"}]))).await;
    assert_eq!(binary(&mut client).await["method"], "LIST_SUBSCRIPTIONS");
    simulator.post("/start", json!({})).await;
    let total = simulator.simulation.hub.markets[0].count();
    let (mut trades, mut books) = (Vec::new(), 0);
    while trades.len() < total {
        let frame = binary(&mut client).await;
        if frame["type"] == "orderbook" {
            let units = frame["orderbook_units"].as_array().unwrap();
            assert_eq!(units.len(), 5);
            assert!(units[0]["ask_price"].as_f64() > units[0]["bid_price"].as_f64(), "{frame}");
            books += 1;
        } else {
            trades.push(frame);
        }
    }
    assert!(books > total / 2);
    assert!(trades.iter().any(|trade| trade.to_string().contains("e-")), "small volumes have exponents");
    let ids = |rows: &[Value]| rows.iter().map(|row| row["sequential_id"].as_i64().unwrap()).collect::<Vec<_>>();
    for trade in &trades {
        assert_eq!(trade["sequential_id"].as_i64().unwrap() / 10_000, trade["trade_timestamp"].as_i64().unwrap());
    }
    simulator.finished().await;

    // Today by cursor, then the day before.
    let mut paged: Vec<Value> = Vec::new();
    for day in ["", "&days_ago=1"] {
        let mut cursor = String::new();
        loop {
            let path = format!("/upbit/v1/trades/ticks?market=KRW-S001&count=500{cursor}{day}");
            let rows = simulator.json(&path).await.as_array().unwrap().clone();
            let Some(last) = rows.last() else { break };
            cursor = format!("&cursor={}", last["sequential_id"]);
            paged.extend(rows);
        }
    }
    paged.reverse();
    assert_eq!(ids(&paged), ids(&trades));
    let days: BTreeSet<&str> = paged.iter().map(|row| row["trade_date_utc"].as_str().unwrap()).collect();
    assert_eq!(days.into_iter().collect::<Vec<_>>(), ["2026-01-05", "2026-01-06"]);

    let candles = simulator.json("/upbit/v1/candles/minutes/1?market=KRW-S001&to=2026-01-06T00:02:00Z&count=1000").await;
    let candles = candles.as_array().unwrap();
    assert_eq!(candles[0]["candle_date_time_utc"], "2026-01-06T00:01:00");
    assert_eq!(candles[0]["candle_date_time_kst"], "2026-01-06T09:01:00");
    let first_minute: Vec<&Value> =
        paged.iter().filter(|row| row["trade_time_utc"].as_str().unwrap().starts_with("00:01")).collect();
    assert_eq!(candles[0]["opening_price"], first_minute[0]["trade_price"]);
    assert_eq!(candles[0]["trade_price"], first_minute.last().unwrap()["trade_price"]);
    let (status, body) = simulator.get("/upbit/v1/trades/ticks?market=KRW-NONE").await;
    assert_eq!((status, parse(&body)["error"]["name"].as_i64()), (404, Some(404)));
}

#[tokio::test]
async fn snapshots_come_first_and_formats_are_spelled() {
    let simulator = simulator("[start]\nautomatic = false").await;
    simulator.post("/start", json!({})).await;
    simulator.finished().await;
    let mut client = simulator.connect(SOCKET).await;
    for (format, snapshot) in
        [("DEFAULT", "/stream_type"), ("SIMPLE", "/st"), ("JSON_LIST", "/0/stream_type"), ("SIMPLE_LIST", "/0/st")]
    {
        client.send(&request(json!([{"type": "trade", "codes": ["KRW-S002"]}, {"format": format}]))).await;
        let frame = binary(&mut client).await;
        assert_eq!(frame.pointer(snapshot), Some(&json!("SNAPSHOT")), "{format}: {frame}");
    }
}

#[tokio::test]
async fn too_many_requests_are_refused_in_plain_words_and_then_blocked() {
    let simulator = simulator("[start]\nautomatic = false\n[upbit]\nrequests_per_second = 2\nban_after = 3\nban = '1h'").await;
    let mut statuses = Vec::new();
    for _ in 0..12 {
        let response = simulator.response("/upbit/v1/market/all").await;
        if response.status() == 200 {
            let remaining = response.headers()["remaining-req"].to_str().unwrap().to_owned();
            assert!(remaining.starts_with("group=market; min=120; sec="), "{remaining}");
        }
        statuses.push(response.status().as_u16());
    }
    assert_eq!(statuses[0], 200);
    assert!(statuses.contains(&429) && statuses.ends_with(&[418]), "{statuses:?}");
}
