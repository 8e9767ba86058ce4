//! Bitstamp as its page says, seen by a client that shares no code with the simulator.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

#[path = "common/mod.rs"]
mod common;

use common::{End, config, ids, parse, rows, start};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

const WAITING: &str = "[start]\nautomatic = false";

#[tokio::test]
async fn control_events_are_answered_word_for_word() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = start(config(&folder, &rows(3, 1), WAITING)).await;
    let mut client = simulator.connect("/bitstamp").await;
    let error = |message: &str| format!(r#"{{"event":"bts:error","channel":"","data":{{"code":null,"message":"{message}"}}}}"#);
    for (request, expected) in [
        (
            r#"{"event":"bts:subscribe","data":{"channel":"live_trades_btcusd"}}"#,
            r#"{"event":"bts:subscription_succeeded","channel":"live_trades_btcusd","data":{}}"#.to_owned(),
        ),
        (
            r#"{"event":"bts:unsubscribe","data":{"channel":"live_trades_btcusd"}}"#,
            r#"{"event":"bts:unsubscription_succeeded","channel":"live_trades_btcusd","data":{}}"#.to_owned(),
        ),
        // a trap of the venue: an unknown pair is acknowledged and stays silent
        (
            r#"{"event":"bts:subscribe","data":{"channel":"live_trades_fooxyz"}}"#,
            r#"{"event":"bts:subscription_succeeded","channel":"live_trades_fooxyz","data":{}}"#.to_owned(),
        ),
        (r#"{"event":"bts:heartbeat"}"#, r#"{"event":"bts:heartbeat","channel":"","data":{"status":"success"}}"#.to_owned()),
        ("not json", error("Incorrect JSON format.")),
        (r#"{"event":"bts:subscribe","data":{}}"#, error("Bad subscription string.")),
        (r#"{"event":"bts:ping"}"#, error("Bad subscription string.")),
        (r#"{"event":"bts:subscribe","data":{"channel":"live_trades_BTCUSD"}}"#, error("Invalid channel provided.")),
        (r#"{"event":"bts:subscribe","data":{"channel":"live_trades_btc/usd"}}"#, error("Invalid channel provided.")),
        (
            r#"{"event":"bts:subscribe","data":{"channel":"private-my_trades_btcusd"}}"#,
            r#"{"event":"bts:error","channel":"","data":{"code":4009,"message":"Connection is unauthorized."}}"#.to_owned(),
        ),
    ] {
        assert_eq!(client.ask(request).await, expected, "{request}");
    }
    client.socket.send(Message::Ping("echo".into())).await.unwrap();
    assert_eq!(client.socket.next().await.unwrap().unwrap(), Message::Pong("echo".into()));
    assert!(client.silent().await);
}

#[tokio::test]
async fn a_frame_above_512_bytes_is_answered_by_close_1009() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = start(config(&folder, &rows(3, 1), WAITING)).await;
    let mut client = simulator.connect("/bitstamp").await;
    client.send(&format!("{:512}", "{\"event\":\"bts:heartbeat\"}")).await;
    assert!(client.text().await.contains("bts:heartbeat"));
    client.send(&format!("{:513}", "{\"event\":\"bts:heartbeat\"}")).await;
    assert_eq!(client.next().await, Err(End::Close(1009, "read limited at 513 bytes".into())));
}

#[tokio::test]
async fn the_1025th_subscription_closes_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = start(config(&folder, &rows(3, 1), WAITING)).await;
    let mut client = simulator.connect("/bitstamp").await;
    for number in 0..1024 {
        let answer = client.ask(&format!(r#"{{"event":"bts:subscribe","data":{{"channel":"live_trades_x{number}"}}}}"#)).await;
        assert!(answer.contains("succeeded"));
    }
    client.send(r#"{"event":"bts:subscribe","data":{"channel":"live_trades_btcusd"}}"#).await;
    assert_eq!(client.next().await, Err(End::Abrupt));
}

#[tokio::test]
async fn the_server_pings() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = start(config(&folder, &rows(3, 1), "[start]\nautomatic = false\n[bitstamp]\nping_every = '50ms'")).await;
    let mut client = simulator.connect("/bitstamp").await;
    assert!(matches!(client.socket.next().await.unwrap().unwrap(), Message::Ping(_)));
}

#[tokio::test]
async fn the_tape_waits_for_its_client_and_then_arrives_whole() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = start(config(
        &folder,
        "1385337600,800.010000000000,0.100000000000\n1385337613,800.05,0\n1385337613,799.5,1.5\n",
        "[clock]\nspeed = 'max'",
    ))
    .await;
    let clock = simulator.admin("/clock").await;
    assert_eq!((clock["now_us"].as_i64(), clock["running"].as_bool()), (Some(1_385_337_580_000_000), Some(false)));

    let mut client = simulator.bitstamp(&["live_trades_btcusd"]).await;
    let frames = client.texts(3).await;
    for (frame, amount, price, kind, second) in [
        (&frames[0], ("0.1", "0.10000000"), ("800.01", "800.01"), 0, 1_385_337_600),
        (&frames[1], ("0", "0.00000000"), ("800.05", "800.05"), 0, 1_385_337_613),
        (&frames[2], ("1.5", "1.50000000"), ("799.5", "799.50"), 1, 1_385_337_613),
    ] {
        let trade = &parse(frame)["data"];
        let expected = format!(
            r#"{{"data":{{"id":{id},"id_str":"{id}","type":{kind},"sell_order_id":{sell},"buy_order_id":{buy},"amount":{},"amount_str":"{}","price":{},"price_str":"{}","microtimestamp":"{second}000000","timestamp":"{second}"}},"channel":"live_trades_btcusd","event":"trade"}}"#,
            amount.0,
            amount.1,
            price.0,
            price.1,
            id = trade["id_str"].as_str().unwrap(),
            sell = trade["sell_order_id"],
            buy = trade["buy_order_id"],
        );
        assert_eq!(*frame, expected);
        assert_eq!(trade["id_str"].as_str().unwrap().len(), 19);
        assert_eq!((trade["sell_order_id"].to_string().len(), trade["buy_order_id"].to_string().len()), (16, 16));
    }
    assert!(ids(&frames).is_sorted());
    simulator.finished().await;
    let clock = simulator.admin("/clock").await;
    assert!(clock["now_us"].as_i64().unwrap() >= 1_385_337_613_000_000 + 20 * 60_000_000, "{clock}");
}

#[tokio::test]
async fn same_seed_same_bytes() {
    let run = async |seed: u64| {
        let folder = tempfile::tempdir().unwrap();
        let change = format!(
            "seed = {seed}\nfaults = [{{kind = 'miss', probability = 0.05}}, {{kind = 'duplicate', probability = 0.05}}, {{kind = 'out_of_order', probability = 0.05}}, {{kind = 'malformed', probability = 0.02}}]\n[clock]\nspeed = 'max'"
        );
        let simulator = start(config(&folder, &rows(2_000, 3), &change)).await;
        let mut client = simulator.connect("/bitstamp").await;
        for channel in ["order_book_btcusd", "live_trades_btcusd"] {
            client.send(&format!(r#"{{"event":"bts:subscribe","data":{{"channel":"{channel}"}}}}"#)).await;
        }
        let mut bytes = String::new();
        while let Ok(Some(Ok(message))) = tokio::time::timeout(Duration::from_secs(2), client.socket.next()).await {
            bytes.push_str(message.to_text().unwrap());
        }
        simulator.finished().await;
        // the header names the tape's path, which differs
        (bytes, simulator.truth().await.split_off(1))
    };
    let first = run(1).await;
    assert!(first.0.len() > 1_000_000);
    assert!(first == run(1).await, "the same seed gives the same bytes and the same truth");
    assert!(first.0 != run(2).await.0);
}

#[tokio::test]
async fn the_order_book_is_a_rising_sampled_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = start(config(
        &folder,
        &format!("{}{}", rows(50, 1), "1385337649,801.00,1\n"),
        "[clock]\nspeed = 'max'\n[start]\nautomatic = false",
    ))
    .await;
    let mut client = simulator.bitstamp(&["order_book_btcusd"]).await;
    simulator.post("/start", json!({})).await;
    let frames = client.texts(50).await;
    assert!(client.silent().await, "two trades of one instant make one book frame");
    let times: Vec<_> = frames.iter().map(|frame| parse(frame)["data"]["microtimestamp"].as_str().unwrap().to_owned()).collect();
    assert!(times.is_sorted_by(|a, b| a < b));
    assert!(
        frames[0].starts_with(r#"{"data":{"timestamp":"1385337600","microtimestamp":"1385337600000000","bids":[[""#),
        "{}",
        frames[0]
    );
    assert!(frames[0].ends_with(r#"]]},"channel":"order_book_btcusd","event":"data"}"#));
}

#[tokio::test]
async fn transactions_show_what_has_happened_newest_first_also_what_the_socket_missed() {
    let folder = tempfile::tempdir().unwrap();
    let change = "faults = [{kind = 'miss', at_trade = 5, count = 3}]\n[clock]\nspeed = 'max'\ntail = '1s'\ntail_speed = 1.0";
    let simulator = start(config(&folder, &rows(100, 60), change)).await;
    assert_eq!(simulator.json("/bitstamp/api/v2/transactions/btcusd/").await, json!([]));
    let mut client = simulator.bitstamp(&["live_trades_btcusd"]).await;
    let socket = ids(&client.texts(97).await);
    simulator.finished().await;
    let day = simulator.json("/bitstamp/api/v2/transactions/BTCUSD/?time=day").await;
    let mut rest: Vec<String> = day.as_array().unwrap().iter().map(|row| row["tid"].as_str().unwrap().to_owned()).collect();
    assert_eq!(day[0], json!({"date": "1385343540", "tid": rest[0], "price": "801.99", "type": "0", "amount": "0.10000000"}));
    rest.reverse();
    assert_eq!(rest.len(), 100);
    let missed: Vec<_> = rest.iter().filter(|id| !socket.contains(id)).cloned().collect();
    assert_eq!(missed, rest[4..7]);

    let hour = simulator.json("/bitstamp/api/v2/transactions/btcusd/").await;
    assert_eq!(hour.as_array().unwrap().len(), 60, "the default reaches one hour back");
    assert_eq!(simulator.get("/bitstamp/api/v2/transactions/btcusd/?time=week").await.0, 400);
    let (status, body) = simulator.get("/bitstamp/api/v2/transactions/fooxyz/").await;
    assert!(status == 404 && body.starts_with("<!DOCTYPE html>"));
    assert_eq!(simulator.get("/bitstamp/api/v2/nothing/").await, (404, r#"{"message":"Not found."}"#.into()));
    let date = simulator.response("/bitstamp/api/v2/ticker/btcusd/").await.headers()["date"].to_str().unwrap().to_owned();
    assert!(date.starts_with("Mon, 25 Nov 2013 01:39:0"), "{date}");
}

#[tokio::test]
async fn candles_follow_the_recorded_rules() {
    let folder = tempfile::tempdir().unwrap();
    let tape = "1385337600,800,1\n1385337610,810,2\n1385337720,805,1\n1385337780,806,1\n";
    let simulator = start(config(&folder, tape, "[clock]\nspeed = 'max'\ntail = '1s'\ntail_speed = 1.0")).await;
    let _client = simulator.bitstamp(&["live_trades_btcusd"]).await;
    simulator.finished().await;
    let ohlc = async |query: &str| simulator.json(&format!("/bitstamp/api/v2/ohlc/btcusd/?{query}")).await["data"].clone();
    let opens = |data: &serde_json::Value| -> Vec<String> {
        data["ohlc"].as_array().unwrap().iter().map(|row| row["timestamp"].as_str().unwrap().to_owned()).collect()
    };
    let all = ohlc("step=60&limit=10").await;
    assert_eq!(opens(&all), ["1385337600", "1385337660", "1385337720", "1385337780"]);
    assert_eq!(
        all["ohlc"][0].to_string(),
        r#"{"timestamp":"1385337600","open":"800.00","high":"810.00","low":"800.00","close":"810.00","volume":"3.00000000"}"#
    );
    assert_eq!(
        (&all["ohlc"][1]["close"], &all["ohlc"][1]["volume"]),
        (&json!("805.00"), &json!("0.00000000")),
        "the next bar's close"
    );
    assert_eq!(all["pair"], "BTC/USD");
    assert_eq!(
        opens(&ohlc("step=60&limit=2&start=1385337600&end=1385337720").await),
        ["1385337660", "1385337720"],
        "start is ignored, end inclusive"
    );
    assert_eq!(opens(&ohlc("step=60&limit=2&start=1385337600").await), ["1385337600", "1385337660"]);
    assert_eq!(opens(&ohlc("step=60&limit=9&exclude_current_candle=true").await).len(), 3);
    assert_eq!(simulator.get("/bitstamp/api/v2/ohlc/btcusd/?step=61&limit=2").await.0, 400);
    assert_eq!(simulator.get("/bitstamp/api/v2/ohlc/btcusd/?step=60").await.0, 400);
}

#[tokio::test]
async fn books_tickers_and_markets_have_the_keys_of_the_venue() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = start(config(&folder, &rows(10, 1), "[clock]\nspeed = 'max'")).await;
    let _client = simulator.bitstamp(&["live_trades_btcusd"]).await;
    simulator.finished().await;
    let book = simulator.json("/bitstamp/api/v2/order_book/btcusd/").await;
    assert_eq!(book.as_object().unwrap().keys().collect::<Vec<_>>(), ["timestamp", "microtimestamp", "bids", "asks"]);
    assert_eq!(simulator.json("/bitstamp/api/v2/order_book/btcusd/?group=2").await["bids"][0].as_array().unwrap().len(), 3);
    assert_eq!(simulator.get("/bitstamp/api/v2/order_book/fooxyz/").await.0, 404);
    let ticker = simulator.json("/bitstamp/api/v2/ticker/btcusd/").await;
    assert_eq!((ticker["last"].as_str(), ticker["market"].as_str()), (Some("802.09"), Some("BTC/USD")));
    assert!(simulator.json("/bitstamp/api/v2/ticker/fooxyz/").await.is_array(), "an unknown pair is answered with all markets");
    let markets = simulator.json("/bitstamp/api/v2/markets/").await;
    assert_eq!((markets[0]["market_symbol"].as_str(), markets[0]["counter_decimals"].as_i64()), (Some("btcusd"), Some(2)));
    assert_eq!(simulator.json("/bitstamp/api/v2/trading-pairs-info/").await[0]["url_symbol"], "btcusd");
}

#[tokio::test]
async fn the_rate_ledger_answers_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let simulator =
        start(config(&folder, &rows(3, 1), "[start]\nautomatic = false\n[bitstamp]\nrequests_per_ten_minutes = 2")).await;
    for expected in [200, 200, 400] {
        assert_eq!(simulator.get("/bitstamp/api/v2/markets/").await.0, expected);
    }
    assert_eq!(simulator.json("/bitstamp/api/v2/markets/").await["response_code"], "400.002");
}
