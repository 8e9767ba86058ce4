//! Every fault, and the truth about it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

#[path = "common/mod.rs"]
mod common;

use common::{Client, End, Running, config, ids, parse, rows, start};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

const MAX: &str = "[clock]\nspeed = 'max'\n";

async fn simulator(count: usize, change: &str) -> Running {
    let folder = tempfile::tempdir().unwrap();
    start(config(&folder, &rows(count, 1), change)).await
}

fn delivered<'a>(truth: &'a [Value], delivery: &str) -> Vec<&'a str> {
    truth.iter().filter(|line| line["delivery"] == delivery).map(|line| line["id"].as_str().unwrap()).collect()
}

/// Everything that arrives until nothing does any more.
async fn everything(client: &mut Client) -> Vec<String> {
    let mut frames = Vec::new();
    while let Ok(Some(Ok(message))) = tokio::time::timeout(Duration::from_secs(2), client.socket.next()).await {
        if let Message::Text(text) = message {
            frames.push(text.to_string());
        }
    }
    frames
}

#[tokio::test]
async fn the_truth_equals_what_arrived() {
    let change = format!(
        "faults = [{{kind = 'miss', probability = 0.03, count = 2}}, {{kind = 'duplicate', probability = 0.03, count = 2}}, {{kind = 'out_of_order', probability = 0.03}}, {{kind = 'late', probability = 0.02, delay = '4m'}}, {{kind = 'late', at_trade = 100, delay = '20m'}}, {{kind = 'silence', after = '30m', duration = '1m'}}, {{kind = 'zero_size', every = 500}}, {{kind = 'too_precise', every = 700}}]\n{MAX}"
    );
    let simulator = simulator(3_000, &change).await;
    let mut client = simulator.bitstamp(&["live_trades_btcusd"]).await;
    let frames = everything(&mut client).await;
    simulator.finished().await;
    let truth = simulator.truth_of("trade").await;
    assert_eq!(truth.len(), 3_000 + 6 + 4);

    let mut arrived: BTreeMap<String, u64> = BTreeMap::new();
    for frame in &frames {
        let trade = &parse(frame)["data"];
        let line = truth.iter().find(|line| line["id"] == trade["id_str"]).expect("what arrives is in the truth");
        assert_eq!(trade["microtimestamp"].as_str().unwrap(), line["event_time_us"].to_string());
        assert_eq!(trade["price_str"].as_str().unwrap().trim_end_matches('0').trim_end_matches('.'), line["price"]);
        assert_eq!(trade["type"], if line["side"] == "sell" { 1 } else { 0 });
        *arrived.entry(trade["id_str"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    for line in &truth {
        let frames = arrived.get(line["id"].as_str().unwrap()).copied().unwrap_or(0);
        assert_eq!(line["frames"].as_u64().unwrap(), frames, "{line}");
        assert_eq!(frames == 0, line["delivery"] == "missed", "{line}");
        assert_eq!(line["copies"].as_u64().unwrap(), frames.saturating_sub(1), "{line}");
    }
    for delivery in ["socket", "missed", "late", "out_of_order"] {
        assert!(!delivered(&truth, delivery).is_empty(), "{delivery}");
    }
    assert!(truth.iter().any(|line| line["late_by_us"] == 20 * 60 * 1_000_000_i64));
    let silent = truth
        .iter()
        .filter(|line| (1_385_339_400_000_000..1_385_339_460_000_000).contains(&line["event_time_us"].as_i64().unwrap()));
    assert!(silent.clone().count() >= 60 && silent.clone().all(|line| line["delivery"] == "missed"));
    for (origin, count) in [("zero_size", 6), ("too_precise", 4)] {
        let odd: Vec<_> = truth.iter().filter(|line| line["origin"] == origin).collect();
        assert_eq!(odd.len(), count);
    }
    assert!(truth.iter().filter(|line| line["origin"] == "zero_size").all(|line| line["size"] == "0"));
    assert!(
        truth.iter().filter(|line| line["origin"] == "too_precise").all(|line| line["price"]
            .as_str()
            .unwrap()
            .split_once('.')
            .unwrap()
            .1
            .len()
            == 10)
    );
    let totals = &simulator.truth_of("totals").await[0];
    assert_eq!(totals["trades"], truth.len());
    assert_eq!(totals["copies"].as_u64().unwrap(), arrived.values().map(|count| count - 1).sum::<u64>());
    assert_eq!(totals["faults"], simulator.truth_of("fault").await.len());
    let header = &simulator.truth_of("header").await[0];
    assert!(header["seed"] == 1 && header["mapping"]["side"].as_str().unwrap().contains("tick rule"));
}

#[tokio::test]
async fn out_of_order_and_late_trades_arrive_behind_others() {
    let change = format!(
        "faults = [{{kind = 'out_of_order', at_trade = 2}}, {{kind = 'late', at_trade = 4, delay = '3s'}}, {{kind = 'duplicate', at_trade = 1}}]\n{MAX}"
    );
    let simulator = simulator(9, &change).await;
    let mut client = simulator.bitstamp(&["live_trades_btcusd"]).await;
    let frames = ids(&client.texts(10).await);
    let truth = simulator.truth_of("trade").await;
    let order: Vec<usize> = frames.iter().map(|id| truth.iter().position(|line| line["id"] == *id).unwrap() + 1).collect();
    assert_eq!(order, [1, 1, 3, 2, 5, 6, 4, 7, 8, 9]);
}

#[tokio::test]
async fn broken_frames_come_beside_the_trades() {
    let change = format!(
        "faults = [{{kind = 'malformed', every = 2, count = 2}}, {{kind = 'oversized', at_trade = 3, bytes = 100000}}]\n{MAX}"
    );
    let simulator = simulator(40, &change).await;
    let mut client = simulator.bitstamp(&["live_trades_btcusd"]).await;
    let frames = client.texts(40 + 40 + 1).await;
    let good = frames.iter().filter(|frame| {
        frame.len() < 1_000
            && serde_json::from_str::<Value>(frame).is_ok_and(|value| {
                let text = |key: &str| value["data"][key].as_str().unwrap_or("none").to_owned();
                text("price_str").parse::<f64>().is_ok_and(f64::is_finite) && text("microtimestamp").parse::<i64>().is_ok()
            })
    });
    assert_eq!(good.count(), 40);
    assert_eq!(frames.iter().filter(|frame| frame.len() == 100_000).count(), 1);
    let malformed: u64 = simulator
        .truth_of("fault")
        .await
        .iter()
        .filter(|line| line["name"] == "malformed")
        .map(|line| line["effects"].as_u64().unwrap())
        .sum();
    assert_eq!(malformed, 40);
}

#[tokio::test]
async fn at_full_speed_the_tape_waits_for_a_cut_client_after_the_outage() {
    let change = "faults = [{kind = 'disconnect', at_trade = 10}, {kind = 'disconnect', at_trade = 50, code = 1012}]\n[clock]\nspeed = 'max'\noutage = '5s'\n";
    let simulator = simulator(100, change).await;
    let mut client = simulator.bitstamp(&["live_trades_btcusd"]).await;
    client.texts(10).await;
    assert_eq!(client.next().await, Err(End::Abrupt));
    let mut client = simulator.bitstamp(&["live_trades_btcusd"]).await;
    client.texts(50 - 10 - 5).await;
    assert_eq!(client.next().await, Err(End::Close(1012, String::new())));
    let mut client = simulator.bitstamp(&["live_trades_btcusd"]).await;
    client.texts(100 - 50 - 5).await;
    simulator.finished().await;
    assert_eq!(delivered(&simulator.truth_of("trade").await, "rest_only").len(), 10);
}

#[tokio::test]
async fn a_half_open_socket_stays_up_without_a_sound() {
    let simulator = simulator(3, "[start]\nautomatic = false").await;
    let mut client = simulator.bitstamp(&["live_trades_btcusd"]).await;
    simulator.post("/start", json!({})).await;
    simulator.post("/faults", json!({"kind": "half_open", "duration": "2s"})).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.socket.send(Message::Ping("anyone?".into())).await.unwrap();
    client.send(r#"{"event":"bts:heartbeat"}"#).await;
    assert!(client.silent().await);
    assert_eq!(client.next().await, Err(End::Abrupt), "until it ends");
}

#[tokio::test]
async fn planned_reconnects_are_announced() {
    let simulator = simulator(3, "[start]\nautomatic = false").await;
    let mut client = simulator.bitstamp(&["live_trades_btcusd"]).await;
    simulator.post("/start", json!({})).await;
    simulator.post("/faults", json!([{"kind": "request_reconnect", "duration": "300ms"}])).await;
    assert_eq!(client.text().await, r#"{"event":"bts:request_reconnect","channel":"","data":""}"#);
    assert_eq!(client.next().await, Err(End::Close(1001, String::new())));
}

#[tokio::test]
async fn rest_fails_as_told() {
    let simulator = simulator(3, "[start]\nautomatic = false").await;
    simulator.post("/start", json!({})).await;
    simulator
        .post(
            "/faults",
            json!([
                {"kind": "http_error", "venue": "bitstamp", "status": 429, "retry_after": "7s"},
                {"kind": "http_error", "venue": "bitstamp", "status": 403, "body": "html"},
                {"kind": "http_error", "venue": "bitstamp", "status": 500, "body": "empty"},
            ]),
        )
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let response = simulator.response("/bitstamp/api/v2/markets/").await;
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (429, "7"));
    let (status, body) = simulator.get("/bitstamp/api/v2/markets/").await;
    assert!(status == 403 && body.starts_with("<!DOCTYPE html>"));
    assert_eq!(simulator.get("/bitstamp/api/v2/markets/").await, (500, String::new()));
    assert_eq!(simulator.get("/bitstamp/api/v2/markets/").await.0, 200);
}

#[tokio::test]
async fn a_refused_region_is_451_and_a_refused_connection_is_refused() {
    let simulator = simulator(3, "[start]\nautomatic = false").await;
    simulator.post("/start", json!({})).await;
    simulator.post("/faults", json!({"kind": "refuse_region", "duration": "500ms"})).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(simulator.get("/bitstamp/api/v2/markets/").await.0, 451);
    let refused = tokio_tungstenite::connect_async(format!("ws://{}/bitstamp", simulator.wire)).await.unwrap_err();
    assert!(refused.to_string().contains("451"), "{refused}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(simulator.get("/bitstamp/api/v2/markets/").await.0, 200);

    let mut kept = simulator.bitstamp(&["live_trades_fooxyz"]).await;
    simulator.post("/faults", json!({"kind": "refuse_connect", "duration": "1s"})).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(std::net::TcpStream::connect(simulator.wire).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(kept.ask(r#"{"event":"bts:heartbeat"}"#).await.contains("success"), "connections that are up stay");
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(simulator.get("/bitstamp/api/v2/markets/").await.0, 200);
}

#[tokio::test]
async fn a_fault_that_cannot_be_is_refused_in_words() {
    let simulator = simulator(3, "[start]\nautomatic = false").await;
    let answer = simulator.post("/faults", json!({"kind": "late"})).await;
    assert!(answer["error"].as_str().unwrap().contains("needs delay"), "{answer}");
    let answer = simulator.post("/faults", json!({"kind": "explode"})).await;
    assert!(answer["error"].as_str().unwrap().contains("explode"), "{answer}");
}

#[tokio::test]
async fn pause_resume_and_speed_move_the_clock() {
    let simulator = simulator(3, "[start]\nautomatic = false").await;
    simulator.post("/start", json!({})).await;
    simulator.post("/speed", json!({"speed": 1000})).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    simulator.post("/pause", json!({})).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let paused = simulator.admin("/clock").await;
    assert!(paused["now_us"].as_i64().unwrap() > 1_385_337_600_000_000 && paused["running"] == false, "{paused}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(simulator.admin("/clock").await["now_us"], paused["now_us"]);
    simulator.post("/resume", json!({})).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(simulator.admin("/clock").await["now_us"].as_i64() > paused["now_us"].as_i64());
    let status = simulator.admin("/status").await;
    assert_eq!((status["progress"].as_f64(), status["trades_played"].as_u64()), (Some(1.0), Some(3)));
    assert_eq!(simulator.post("/speed", json!({"speed": "max"})).await["speed"], 0.0);
}

#[tokio::test]
async fn the_truth_file_is_written_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("below/truth.ndjson");
    let change = format!("truth = {{path = '{}'}}\n{MAX}", path.display());
    let simulator = start(config(&folder, &rows(20, 1), &change)).await;
    let mut client = simulator.bitstamp(&["live_trades_btcusd"]).await;
    client.texts(20).await;
    simulator.finished().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 1 + 20 + 1);
}
