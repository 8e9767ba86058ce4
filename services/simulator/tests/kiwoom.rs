//! Kiwoom as its manual says, seen by a client that shares no code with the simulator.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

#[path = "common/mod.rs"]
mod common;

use common::{Client, End, Running, config, parse, start};
use serde_json::{Value, json};

const TAPE: &str = "tapes = [{kind = 'krx-day', date = '2026-11-20', symbols = 3, trades = 3000}]\n[clock]\nspeed = 'max'\n[start]\nautomatic = false\n";
const SOCKET: &str = "/kiwoom/api/dostk/websocket";

async fn simulator(change: &str) -> Running {
    let folder = tempfile::tempdir().unwrap();
    start(config(&folder, "", &format!("{TAPE}{change}"))).await
}

struct Answer {
    status: u16,
    next_key: Option<String>,
    body: Value,
}

async fn post(simulator: &Running, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
    let mut call = reqwest::Client::new().post(format!("http://{}/kiwoom{path}", simulator.wire)).json(&body);
    for (name, value) in headers {
        call = call.header(*name, *value);
    }
    let answer = call.send().await.unwrap();
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let next_key = header("next-key").filter(|_| header("cont-yn").as_deref() == Some("Y"));
    Answer { status: answer.status().as_u16(), next_key, body: answer.json().await.unwrap() }
}

async fn token(simulator: &Running) -> String {
    let asked = json!({"grant_type": "client_credentials", "appkey": "a", "secretkey": "s"});
    let answer = post(simulator, "/oauth2/token", &[("api-id", "au10001")], asked).await;
    assert_eq!((answer.status, &answer.body["return_code"], &answer.body["token_type"]), (200, &json!(0), &json!("bearer")));
    assert_eq!(answer.body["expires_dt"].as_str().unwrap().len(), 14);
    answer.body["token"].as_str().unwrap().to_owned()
}

fn code(body: &Value) -> &str {
    let (_, code) = body["return_msg"].as_str().unwrap().split_once('[').unwrap();
    &code[..4]
}

async fn login(simulator: &Running, token: &str) -> Client {
    let mut client = simulator.connect(SOCKET).await;
    let answer = parse(&client.ask(&json!({"trnm": "LOGIN", "token": token}).to_string()).await);
    assert_eq!(answer, json!({"trnm": "LOGIN", "return_code": 0, "return_msg": "", "sor_yn": "Y"}));
    client
}

fn registration(items: &[&str], kinds: &[&str]) -> String {
    json!({"trnm": "REG", "grp_no": "1", "refresh": "1", "data": [{"item": items, "type": kinds}]}).to_string()
}

#[tokio::test]
async fn a_token_opens_calls_until_it_is_given_back_and_errors_name_their_code() {
    let simulator = simulator("[kiwoom]\ncalls_of_one = 1000\ncalls_per_second = 1000\n").await;
    let token = token(&simulator).await;
    let bearer = format!("Bearer {token}");
    let chart = "/api/dostk/chart";
    let ask = json!({"stk_cd": "000010", "tic_scope": "1", "upd_stkpc_tp": "1"});
    for (path, headers, body, expected) in [
        (chart, vec![("authorization", bearer.as_str())], ask.clone(), "1501"),
        (chart, vec![("api-id", "ka99999"), ("authorization", &bearer)], ask.clone(), "1505"),
        ("/api/dostk/stkinfo", vec![("api-id", "ka10080"), ("authorization", &bearer)], ask.clone(), "1504"),
        (chart, vec![("api-id", "ka10080"), ("authorization", "Bearer stranger")], ask.clone(), "8005"),
        (chart, vec![("api-id", "ka10080"), ("authorization", &bearer)], json!({"stk_cd": "000010"}), "1511"),
        (chart, vec![("api-id", "ka10080"), ("authorization", &bearer)], json!({"stk_cd": "999999", "tic_scope": "1"}), "1902"),
    ] {
        let answer = post(&simulator, path, &headers, body).await;
        assert_eq!((answer.status, code(&answer.body)), (200, expected));
    }
    let headers = [("api-id", "ka10080"), ("authorization", bearer.as_str())];
    assert_eq!(post(&simulator, chart, &headers, ask.clone()).await.body["return_code"], 0);
    let given_back = json!({"appkey": "a", "secretkey": "s", "token": token});
    assert_eq!(post(&simulator, "/oauth2/revoke", &[], given_back).await.body["return_code"], 0);
    assert_eq!(code(&post(&simulator, chart, &headers, ask).await.body), "8005");
}

#[tokio::test]
async fn calls_are_limited_in_all_and_by_name_and_breaches_are_banned() {
    let simulator = simulator("[kiwoom]\ncalls_of_one_within = '1h'\nban_after = 2\nban = '1h'\n").await;
    let bearer = format!("Bearer {}", token(&simulator).await);
    let list = async |api_id: &str| {
        let body = json!({"mrkt_tp": "0", "stk_cd": "000010"});
        post(&simulator, "/api/dostk/stkinfo", &[("api-id", api_id), ("authorization", &bearer)], body).await
    };
    assert_eq!(list("ka10099").await.body["list"].as_array().unwrap().len(), 3 + 20, "those of the tape, and half of the others");
    assert_eq!(list("ka10099").await.status, 200);
    let limited = list("ka10099").await;
    assert_eq!((limited.status, &limited.body["return_code"], code(&limited.body)), (429, &json!(5), "1700"));
    assert_eq!(list("ka10100").await.body["code"], "000010", "another name has its own count");
    list("ka10099").await;
    list("ka10099").await;
    assert_eq!(list("ka10001").await.status, 429, "banned");
}

#[tokio::test]
async fn minutes_come_newest_first_page_by_page_and_their_volumes_add_up() {
    let simulator = simulator("[kiwoom]\nchart_rows = 100\ncalls_of_one = 1000\ncalls_per_second = 1000\n").await;
    let token = token(&simulator).await;
    let mut client = login(&simulator, &token).await;
    client.ask(&registration(&["0080G0"], &["0B"])).await;
    simulator.post("/start", json!({})).await;
    let index = simulator.simulation.hub.markets.iter().position(|market| market.upper == "0080G0").unwrap();
    let total = simulator.simulation.hub.markets[index].count();
    let mut entries = 0;
    while entries < total {
        entries += parse(&client.text().await)["data"].as_array().map_or(0, Vec::len);
    }
    let bearer = format!("Bearer {token}");
    let (mut rows, mut next, mut pages) = (Vec::new(), None::<String>, 0);
    let ask = async |code: &str, until: &str, next: Option<&str>| {
        let mut headers = vec![("api-id", "ka10080"), ("authorization", bearer.as_str())];
        if let Some(next) = next {
            headers.extend([("cont-yn", "Y"), ("next-key", next)]);
        }
        let body = json!({"stk_cd": code, "tic_scope": "1", "upd_stkpc_tp": "1", "base_dt": until});
        let answer = post(&simulator, "/api/dostk/chart", &headers, body).await;
        (answer.body["stk_min_pole_chart_qry"].as_array().unwrap().clone(), answer.next_key)
    };
    let date = |row: &Value| row["cntr_tm"].as_str().unwrap()[..8].to_owned();
    // The day of the tape, and the whole day before it, which is made up.
    while rows.last().is_none_or(|row| date(row).as_str() >= "20261119") {
        let (more, further) = ask("0080G0", "20261120", next.as_deref()).await;
        assert!(more.len() == 100 && further.is_some(), "{} rows, then {further:?}", more.len());
        rows.extend(more);
        next = further;
        pages += 1;
    }
    assert!(pages > 5, "{pages}");
    let number = |row: &Value, name: &str| row[name].as_str().unwrap().parse::<i64>().unwrap();
    assert_eq!(rows[0]["cntr_tm"], "20261120153000");
    for pair in rows.windows(2) {
        assert!(pair[0]["cntr_tm"].as_str() > pair[1]["cntr_tm"].as_str());
        let before = number(&pair[0], "acc_trde_qty") - number(&pair[0], "trde_qty");
        assert_eq!(before, if date(&pair[0]) == date(&pair[1]) { number(&pair[1], "acc_trde_qty") } else { 0 });
    }
    // A code that no tape plays has its minutes too, and they end somewhere.
    let (of_another, _) = ask("005930", "20261118", None).await;
    assert_eq!(of_another[0]["cntr_tm"], "20261118153000");
    assert_eq!(ask("005930", "20261118", Some("20251120090000")).await, (Vec::new(), None));
}

#[tokio::test]
async fn the_socket_wants_a_login_first_and_its_ping_echoed() {
    let simulator = simulator("[kiwoom]\nping_every = '100ms'\nitems = 2\n").await;
    let mut stranger = simulator.connect(SOCKET).await;
    let refused = parse(&stranger.ask(&json!({"trnm": "LOGIN", "token": "x"}).to_string()).await);
    assert_eq!(refused["return_code"], 805_004);
    let token = token(&simulator).await;
    let mut early = simulator.connect(SOCKET).await;
    assert_ne!(parse(&early.ask(&registration(&["000010"], &["0B"])).await)["return_code"], 0);
    let mut client = login(&simulator, &token).await;
    let done = json!({"trnm": "REG", "return_code": 0, "return_msg": ""});
    assert_eq!(parse(&client.ask(&registration(&["000010", "000020"], &["0B", "0D"])).await), done);
    assert_eq!(parse(&client.ask(&registration(&["000010"], &["1h"])).await), done, "of a known item");
    assert_eq!(parse(&client.ask(&registration(&["0080G0"], &["0B"])).await)["return_code"], 1);
    let ping = loop {
        let text = client.text().await;
        if parse(&text)["trnm"] == "PING" {
            break text;
        }
    };
    client.send(&ping).await;
    client.text().await;
    loop {
        match client.next().await {
            Ok(text) => assert!(text.contains("PING")),
            Err(end) => break assert_eq!(end, End::Abrupt),
        }
    }
}

#[tokio::test]
async fn the_day_arrives_whole_with_signs_books_and_interruptions() {
    let simulator = simulator("[kiwoom]\nping_every = '1h'\n").await;
    let token = token(&simulator).await;
    let mut client = login(&simulator, &token).await;
    client.ask(&registration(&["0080G0"], &["0B", "0D", "1h"])).await;
    simulator.post("/start", json!({})).await;
    let index = simulator.simulation.hub.markets.iter().position(|market| market.upper == "0080G0").unwrap();
    let total = simulator.simulation.hub.markets[index].count();
    let (mut trades, mut books, mut shared, mut interruptions) = (Vec::new(), 0, 0, Vec::new());
    while trades.len() < total {
        let frame = parse(&client.text().await);
        assert_eq!(frame["trnm"], "REAL");
        let entries = frame["data"].as_array().unwrap();
        shared += usize::from(entries.len() > 1);
        for entry in entries {
            assert_eq!(entry["item"], "0080G0");
            let values = entry["values"].as_object().unwrap();
            assert!(values.values().all(Value::is_string));
            match entry["type"].as_str().unwrap() {
                "0B" => {
                    assert_eq!(values.len(), 43);
                    trades.push(values.clone());
                }
                "0D" => books += 1,
                _ => interruptions.push((values["1223"].clone(), values["1224"].clone())),
            }
        }
    }
    assert!(books > 0 && shared > 0, "{books} books, {shared} frames of several entries");
    let [(_, planned), (_, released)] = &interruptions[..] else { panic!("{interruptions:?}") };
    assert!(planned == "000000" && released.as_str() > Some("100000"));
    let mut volume = 0;
    for trade in &trades {
        volume += trade["15"].as_str().unwrap().trim_start_matches(['+', '-']).parse::<i64>().unwrap();
        assert_eq!(trade["13"].as_str().unwrap().parse::<i64>().unwrap(), volume);
    }
    let auctions = trades.iter().filter(|trade| !trade["15"].as_str().unwrap().starts_with(['+', '-'])).count();
    assert_eq!(auctions, 3, "opening, after the interruption, closing");
}

#[tokio::test]
async fn the_most_active_are_two_calls_one_by_volume_and_one_by_money() {
    let simulator = simulator("[kiwoom]\ncalls_of_one = 1000\ncalls_per_second = 1000\n").await;
    let token = token(&simulator).await;
    simulator.post("/start", json!({})).await;
    while simulator.admin("/status").await["finished"] != json!(true) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let bearer = format!("Bearer {token}");
    let ask = async |api_id: &str, body: Value| {
        post(&simulator, "/api/dostk/rkinfo", &[("api-id", api_id), ("authorization", bearer.as_str())], body).await.body
    };
    let by_money = json!({"mrkt_tp": "000", "mang_stk_incls": "1", "stex_tp": "1"});
    let answer = ask("ka10032", by_money.clone()).await;
    let rows = answer["trde_prica_upper"].as_array().unwrap();
    let money: Vec<i64> = rows.iter().map(|row| row["trde_prica"].as_str().unwrap().parse().unwrap()).collect();
    assert!(rows.len() == 3 && money.is_sorted_by(|a, b| a >= b) && rows[0]["now_rank"] == "1", "{answer}");
    assert_eq!(code(&ask("ka10030", by_money).await), "1511", "volume takes more parameters");
    let by_volume = json!({"mrkt_tp": "000", "sort_tp": "1", "mang_stk_incls": "0", "crd_tp": "0", "trde_qty_tp": "0", "pric_tp": "0",
        "trde_prica_tp": "0", "mrkt_open_tp": "0", "stex_tp": "1"});
    let answer = ask("ka10030", by_volume).await;
    let rows = answer["tdy_trde_qty_upper"].as_array().unwrap();
    let shares: Vec<i64> = rows.iter().map(|row| row["trde_qty"].as_str().unwrap().parse().unwrap()).collect();
    assert!(rows.len() == 3 && shares.is_sorted_by(|a, b| a >= b), "{answer}");
}
