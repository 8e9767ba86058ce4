//! Binance as its page says, seen by a client that shares no code with the simulator.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

#[path = "common/mod.rs"]
mod common;

use common::{Client, End, Running, config, parse, start};
use serde_json::{Value, json};
use std::time::Duration;

/// Two markets, generated.
const TAPE: &str = "tapes = [{kind = 'generated', venue = 'binance', symbols = 2, trades = 400, trades_per_second = 5.0, start = '2026-01-05T00:00:10Z'}]\n";

async fn simulator(change: &str) -> Running {
    let folder = tempfile::tempdir().unwrap();
    start(config(&folder, "", &format!("{TAPE}{change}"))).await
}

async fn frames(client: &mut Client, count: usize) -> Vec<Value> {
    client.texts(count).await.iter().map(|text| parse(text)).collect()
}

#[tokio::test]
async fn control_messages_are_answered_unwrapped() {
    let simulator = simulator("[start]\nautomatic = false\n[binance]\nmessages_per_second = 100").await;
    for path in ["/binance/ws", "/binance/stream"] {
        let mut client = simulator.connect(path).await;
        let combined = path.ends_with("stream");
        for (request, expected) in [
            (
                r#"{"method":"SUBSCRIBE","params":["s001usdt@trade","nosuchusdt@trade"],"id":1}"#,
                r#"{"result":null,"id":1}"#.to_owned(),
            ),
            (
                r#"{"method":"LIST_SUBSCRIPTIONS","id":"a-3"}"#,
                r#"{"result":["s001usdt@trade","nosuchusdt@trade"],"id":"a-3"}"#.to_owned(),
            ),
            (r#"{"method":"UNSUBSCRIBE","params":["s001usdt@trade"],"id":null}"#, r#"{"result":null,"id":null}"#.to_owned()),
            (r#"{"method":"GET_PROPERTY","params":["combined"],"id":2}"#, format!(r#"{{"result":{combined},"id":2}}"#)),
            (r#"{"method":"SET_PROPERTY","params":["combined",false],"id":5}"#, r#"{"result":null,"id":5}"#.to_owned()),
        ] {
            assert_eq!(client.ask(request).await, expected);
        }
        for (request, code) in [
            (r#"{"method":"SET_PROPERTY","params":["colour",true],"id":5}"#, 0),
            (r#"{"method":"SET_PROPERTY","params":["combined",1],"id":5}"#, 1),
            (r#"{"method":"SHOUT","params":[],"id":5}"#, 2),
            (r#"{"params":[],"id":5}"#, 2),
            (r#"{"method":"LIST_SUBSCRIPTIONS"}"#, 2),
            (r#"{"method":"LIST_SUBSCRIPTIONS","id":{}}"#, 2),
            ("hello", 3),
        ] {
            assert_eq!(parse(&client.ask(request).await)["code"], code, "{request}");
        }
        assert_eq!(parse(&client.ask("hello").await)["msg"], "Invalid JSON: expected value at line 1 column 1");
    }
}

#[tokio::test]
async fn the_sixth_message_within_a_second_closes() {
    let simulator = simulator("[start]\nautomatic = false").await;
    let mut client = simulator.connect("/binance/ws").await;
    for id in 0..6 {
        client.send(&format!(r#"{{"method":"LIST_SUBSCRIPTIONS","id":{id}}}"#)).await;
    }
    for _ in 0..5 {
        client.text().await;
    }
    assert!(matches!(client.next().await, Err(End::Close(1008, _))));
}

#[tokio::test]
async fn more_than_1024_streams_are_refused() {
    let simulator = simulator("[start]\nautomatic = false").await;
    let mut client = simulator.connect("/binance/ws").await;
    let subscribe = |from: usize, to: usize| {
        json!({"method": "SUBSCRIBE", "params": (from..to).map(|n| format!("x{n}@trade")).collect::<Vec<_>>(), "id": 1})
            .to_string()
    };
    assert_eq!(client.ask(&subscribe(0, 1024)).await, r#"{"result":null,"id":1}"#);
    assert_eq!(parse(&client.ask(&subscribe(1024, 1025)).await)["code"], 2);
}

#[tokio::test]
async fn payloads_are_bare_on_ws_and_wrapped_on_stream() {
    let simulator = simulator("[clock]\nspeed = 'max'\n[start]\nautomatic = false").await;
    let mut bare = simulator.connect("/binance/ws/s001usdt@trade").await;
    let mut wrapped = simulator.connect("/binance/stream?streams=s001usdt@trade/s001usdt@bookTicker&timeUnit=MICROSECOND").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    simulator.post("/start", json!({})).await;
    let trade = bare.text().await;
    let keys: Vec<String> = parse(&trade).as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["e", "E", "s", "t", "p", "q", "T", "m", "M"]);
    let (first, second) = (parse(&wrapped.text().await), parse(&wrapped.text().await));
    assert_eq!((&first["stream"], &second["stream"]), (&json!("s001usdt@trade"), &json!("s001usdt@bookTicker")));
    assert_eq!(first["data"]["T"].as_i64().unwrap(), parse(&trade)["T"].as_i64().unwrap() * 1_000);
    assert_eq!(second["data"].as_object().unwrap().keys().collect::<Vec<_>>(), ["u", "s", "b", "B", "a", "A"]);
}

#[tokio::test]
async fn trades_aggregates_candles_and_rest_agree() {
    let simulator = simulator("[clock]\nspeed = 'max'\n[start]\nautomatic = false\n[binance]\nmessages_per_second = 100").await;
    let mut trades = simulator.connect("/binance/ws/s001usdt@trade").await;
    let mut aggregates = simulator.connect("/binance/ws/s001usdt@aggTrade").await;
    let mut candles = simulator.connect("/binance/ws/s001usdt@kline_1m").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    simulator.post("/start", json!({})).await;
    simulator.finished().await;
    let total = simulator.simulation.hub.markets[0].count();

    let trades = frames(&mut trades, total).await;
    let ids: Vec<i64> = trades.iter().map(|trade| trade["t"].as_i64().unwrap()).collect();
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "ids are consecutive");
    let history = simulator.json(&format!("/binance/api/v3/historicalTrades?symbol=S001USDT&fromId={}&limit=1000", ids[0])).await;
    assert_eq!(history.as_array().unwrap().len(), total);
    for (row, trade) in history.as_array().unwrap().iter().zip(&trades) {
        assert_eq!(
            (&row["id"], &row["price"], &row["qty"], &row["time"], &row["isBuyerMaker"]),
            (&trade["t"], &trade["p"], &trade["q"], &trade["T"], &trade["m"])
        );
    }

    let rows = simulator.json("/binance/api/v3/aggTrades?symbol=S001USDT&startTime=0&limit=1000").await;
    let rows = rows.as_array().unwrap();
    let aggregates = frames(&mut aggregates, rows.len()).await;
    assert_eq!(
        (aggregates[0]["f"].as_i64(), aggregates.last().unwrap()["l"].as_i64()),
        (ids.first().copied(), ids.last().copied())
    );
    assert!(aggregates.windows(2).all(|pair| pair[1]["f"].as_i64().unwrap() == pair[0]["l"].as_i64().unwrap() + 1));
    assert!(
        rows.iter()
            .zip(&aggregates)
            .all(|(row, frame)| row["a"] == frame["a"] && row["q"] == frame["q"] && row["l"] == frame["l"])
    );

    let klines = simulator.json("/binance/api/v3/klines?symbol=S001USDT&interval=1m&startTime=0").await;
    let mut closed = Vec::new();
    while closed.is_empty() || closed.last().is_some_and(|last: &Value| last["L"].as_i64() != ids.last().copied()) {
        let frame = parse(&candles.text().await);
        if frame["k"]["x"] == true {
            closed.push(frame["k"].clone());
        }
    }
    for candle in &closed {
        let row = klines.as_array().unwrap().iter().find(|row| row[0] == candle["t"]).unwrap();
        assert_eq!(
            [&row[1], &row[2], &row[3], &row[4], &row[5], &row[6], &row[7], &row[8]],
            ["o", "h", "l", "c", "v", "T", "q", "n"].map(|key| &candle[key])
        );
        assert_eq!(candle["n"].as_i64().unwrap(), candle["L"].as_i64().unwrap() - candle["f"].as_i64().unwrap() + 1);
    }
}

#[tokio::test]
async fn rest_errors_limits_and_weights() {
    let simulator = simulator("[start]\nautomatic = false\n[binance]\nweight_per_minute = 60\nban_after = 1").await;
    assert_eq!(simulator.json("/binance/api/v3/time").await["serverTime"], 1_767_571_180_000_i64);
    for (path, code) in [
        ("klines?symbol=NOPEUSDT&interval=1m", -1121),
        ("klines?symbol=S001USDT&interval=7m", -1120),
        ("klines?symbol=S001USDT", -1102),
        ("klines", -1102),
        ("aggTrades?symbol=S001USDT&fromId=1&startTime=2", -1128),
        ("aggTrades?symbol=S001USDT&limit=x", -1100),
    ] {
        let (status, body) = simulator.get(&format!("/binance/api/v3/{path}")).await;
        assert_eq!((status, parse(&body)["code"].as_i64()), (400, Some(code)), "{path}: {body}");
    }
    let response = simulator.response("/binance/api/v3/exchangeInfo").await;
    assert_eq!(response.headers()["x-mbx-used-weight-1m"], "37");
    let info: Value = response.json().await.unwrap();
    assert_eq!(info["symbols"].as_array().unwrap().len(), 2);
    assert_eq!(info["symbols"][0]["filters"][0]["tickSize"], "0.01000000");
    let limited = simulator.response("/binance/api/v3/historicalTrades?symbol=S001USDT").await;
    assert_eq!(limited.status(), 429);
    assert!(limited.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(limited.json::<Value>().await.unwrap()["code"], -1003);
    assert_eq!(simulator.get("/binance/api/v3/time").await.0, 418);
}

#[tokio::test]
async fn a_connection_ends_after_24_virtual_hours_with_notice() {
    let simulator = simulator("[clock]\nspeed = '100000'\ntail = '30h'").await;
    let mut client = simulator.connect("/binance/ws/s001usdt@trade/s002usdt@trade").await;
    let mut last = String::new();
    let end = loop {
        match client.next().await {
            Ok(text) => last = text,
            Err(end) => break end,
        }
    };
    assert!(last.starts_with(r#"{"e":"serverShutdown","E":"#), "{last}");
    assert_eq!(end, End::Close(1001, String::new()));
}

#[tokio::test]
async fn a_client_that_does_not_pong_is_cut() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let simulator = simulator("[start]\nautomatic = false\n[binance]\nping_every = '50ms'\npong_timeout = '150ms'").await;
    let mut raw = tokio::net::TcpStream::connect(simulator.wire).await.unwrap();
    let request = "GET /binance/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    raw.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    tokio::time::timeout(common::PATIENCE, raw.read_to_end(&mut seen)).await.expect("cut in time").unwrap();
    let head_ends = seen.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(seen[head_ends], 0x89, "a ping first");
    assert!(seen.ends_with(b"Pong timeout"));
}
