//! KIS as its pages say, seen by a client that shares no code with the simulator.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

#[path = "common/mod.rs"]
mod common;

use common::{Client, End, Running, config, parse, start};
use serde_json::{Value, json};

const TAPE: &str = "tapes = [{kind = 'krx-day', date = '2026-11-20', symbols = 3, trades = 3000}]\n[clock]\nspeed = 'max'\n[start]\nautomatic = false\n";
const SOCKET: &str = "/kis/tryitout";

async fn simulator(change: &str) -> Running {
    let folder = tempfile::tempdir().unwrap();
    start(config(&folder, "", &format!("{TAPE}{change}"))).await
}

async fn post(simulator: &Running, path: &str, body: Value) -> (u16, Value) {
    let answer = reqwest::Client::new().post(format!("http://{}/kis{path}", simulator.wire)).json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn approval(simulator: &Running, app_key: &str) -> String {
    let body = json!({"grant_type": "client_credentials", "appkey": app_key, "secretkey": "s"});
    let (status, answer) = post(simulator, "/oauth2/Approval", body).await;
    assert_eq!(status, 200);
    answer["approval_key"].as_str().unwrap().to_owned()
}

fn request(key: &str, tr_type: &str, tr_id: &str, tr_key: &str) -> String {
    json!({"header": {"approval_key": key, "custtype": "P", "tr_type": tr_type, "content-type": "utf-8"},
        "body": {"input": {"tr_id": tr_id, "tr_key": tr_key}}})
    .to_string()
}

async fn code(client: &mut Client, text: &str) -> String {
    parse(&client.ask(text).await)["body"]["msg_cd"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_token_is_issued_once_a_minute_and_errors_have_their_own_envelope() {
    let simulator = simulator("[kis]\napp_key = 'known'\n").await;
    let ask = |app_key: &str| json!({"grant_type": "client_credentials", "appkey": app_key, "appsecret": "s"});
    let (status, token) = post(&simulator, "/oauth2/tokenP", ask("known")).await;
    assert_eq!((status, &token["token_type"], &token["expires_in"]), (200, &json!("Bearer"), &json!(86_399)));
    let (status, error) = post(&simulator, "/oauth2/tokenP", ask("known")).await;
    assert_eq!((status, &error["error_code"], error.get("rt_cd")), (403, &json!("EGW00133"), None));
    let (status, error) = post(&simulator, "/oauth2/tokenP", ask("stranger")).await;
    assert_eq!((status, &error["error_code"]), (403, &json!("EGW00103")));
}

#[tokio::test]
async fn the_same_token_is_given_again_within_six_hours() {
    let simulator = simulator("[kis]\nissue_interval = '0s'\n").await;
    let ask = json!({"grant_type": "client_credentials", "appkey": "a", "appsecret": "s"});
    let first = post(&simulator, "/oauth2/tokenP", ask.clone()).await.1;
    let second = post(&simulator, "/oauth2/tokenP", ask).await.1;
    assert_eq!(first["access_token"], second["access_token"]);
}

#[tokio::test]
async fn registrations_are_answered_by_name_and_the_42nd_is_refused() {
    let simulator = simulator("").await;
    let key = approval(&simulator, "a").await;
    let mut client = simulator.connect(SOCKET).await;
    let answer = parse(&client.ask(&request(&key, "1", "H0STCNT0", "000010")).await);
    assert_eq!(answer["header"], json!({"tr_id": "H0STCNT0", "tr_key": "000010", "encrypt": "N"}));
    assert_eq!(answer["body"]["msg1"], "SUBSCRIBE SUCCESS");
    assert_eq!(answer["body"]["output"]["key"].as_str().unwrap().len(), 32);
    assert_eq!(code(&mut client, &request(&key, "1", "H0STCNT0", "000010")).await, "OPSP0002");
    for number in 0..40 {
        assert_eq!(code(&mut client, &request(&key, "1", "H0STASP0", &format!("9{number:05}"))).await, "OPSP0000");
    }
    assert_eq!(code(&mut client, &request(&key, "1", "H0STCNT0", "000020")).await, "OPSP0008");
    assert_eq!(code(&mut client, &request(&key, "2", "H0STASP0", "900000")).await, "OPSP0001");
    assert_eq!(code(&mut client, &request(&key, "2", "H0STASP0", "900000")).await, "OPSP0003");
    assert_eq!(code(&mut client, &request(&key, "1", "H0STCNT0", "000020")).await, "OPSP0000");
    assert_eq!(code(&mut client, "{").await, "OPSP9990");
    assert_eq!(code(&mut client, &request("stranger", "1", "H0STCNT0", "000020")).await, "OPSP0011");
    let mut second = simulator.connect(SOCKET).await;
    assert_eq!(code(&mut second, &request(&key, "1", "H0STCNT0", "000010")).await, "OPSP8996", "one session of a key");
}

#[tokio::test]
async fn a_client_that_does_not_answer_the_ping_is_cut() {
    let simulator = simulator("[kis]\nping_every = '100ms'\n").await;
    let mut client = simulator.connect(SOCKET).await;
    let ping = client.text().await;
    assert_eq!(parse(&ping)["header"]["tr_id"], "PINGPONG");
    client.send(&ping).await;
    client.text().await;
    loop {
        match client.next().await {
            Ok(text) => assert!(text.contains("PINGPONG")),
            Err(end) => break assert_eq!(end, End::Abrupt),
        }
    }
}

#[tokio::test]
async fn the_day_arrives_whole_and_its_volume_adds_up() {
    let simulator = simulator("[kis]\nping_every = '1h'\n").await;
    let key = approval(&simulator, "a").await;
    let mut client = simulator.connect("/kis/tryitout/H0STCNT0").await;
    assert_eq!(code(&mut client, &request(&key, "1", "H0STCNT0", "0080G0")).await, "OPSP0000");
    assert_eq!(code(&mut client, &request(&key, "1", "H0STASP0", "0080G0")).await, "OPSP0000");
    simulator.post("/start", json!({})).await;
    let index = simulator.simulation.hub.markets.iter().position(|market| market.upper == "0080G0").unwrap();
    let total = simulator.simulation.hub.markets[index].count();
    let (mut records, mut shared, mut books) = (Vec::new(), 0, 0);
    while records.len() < total {
        let text = client.text().await;
        let parts: Vec<&str> = text.split('|').collect();
        let fields: Vec<String> = parts[3].split('^').map(str::to_owned).collect();
        let count: usize = parts[2].parse().unwrap();
        if parts[1] == "H0STASP0" {
            assert_eq!((fields.len(), fields[0].as_str()), (62, "0080G0"));
            assert!(fields[3].parse::<i64>().unwrap() > fields[13].parse().unwrap());
            books += 1;
            continue;
        }
        assert_eq!((parts[0], parts[1], fields.len()), ("0", "H0STCNT0", 46 * count));
        shared += usize::from(count > 1);
        records.extend(fields.chunks(46).map(<[String]>::to_vec));
    }
    assert!(books > 0 && shared > 0, "{books} books, {shared} frames of several records");
    let mut volume = 0;
    for record in &records {
        volume += record[12].parse::<i64>().unwrap();
        assert_eq!(record[13].parse::<i64>().unwrap(), volume);
    }
    let first = &records[0];
    assert_eq!((first[33].as_str(), first[21].as_str()), ("20261120", "3"));
    assert!(("090000".."090031").contains(&first[1].as_str()), "{}", first[1]);
    let last = records.last().unwrap();
    assert!(("153000".."153031").contains(&last[1].as_str()) && last[34] == "21", "{last:?}");
}
