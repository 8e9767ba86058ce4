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

/// A customer with a token.
async fn token_of(simulator: &Running, app_key: &str) -> String {
    let body = json!({"grant_type": "client_credentials", "appkey": app_key, "appsecret": "s"});
    post(simulator, "/oauth2/tokenP", body).await.1["access_token"].as_str().unwrap().to_owned()
}

const PAST: (&str, &str) = ("inquire-time-dailychartprice", "FHKST03010230");
const TODAY: (&str, &str) = ("inquire-time-itemchartprice", "FHKST03010200");

async fn minutes(simulator: &Running, call: (&str, &str), token: &str, code: &str, date: &str, hour: &str) -> (u16, Value) {
    let url = format!(
        "http://{}/kis/uapi/domestic-stock/v1/quotations/{}?FID_COND_MRKT_DIV_CODE=J&FID_INPUT_ISCD={code}&FID_INPUT_HOUR_1={hour}\
         &FID_INPUT_DATE_1={date}&FID_PW_DATA_INCU_YN=N&FID_FAKE_TICK_INCU_YN=&FID_ETC_CLS_CODE=",
        simulator.wire, call.0
    );
    let request = reqwest::Client::new().get(url).header("authorization", format!("Bearer {token}"));
    let answer = request
        .header("appkey", "a")
        .header("appsecret", "s")
        .header("tr_id", call.1)
        .header("custtype", "P")
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn hours(answer: &Value) -> Vec<&str> {
    answer["output2"].as_array().unwrap().iter().map(|row| row["stck_cntg_hour"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn past_minutes_come_newest_first_120_at_most_and_closed_days_and_unknown_codes_have_none() {
    let simulator = simulator("[kis]\ncalls_per_second = 1000\n").await;
    let token = token_of(&simulator, "a").await;
    let (status, first) = minutes(&simulator, PAST, &token, "005930", "20261118", "105900").await;
    assert_eq!((status, &first["rt_cd"], &first["output2"][0]["stck_bsop_date"]), (200, &json!("0"), &json!("20261118")));
    let hours_first = hours(&first);
    assert!(hours_first.len() <= 120 && hours_first.is_sorted_by(|a, b| a > b) && hours_first.last() == Some(&"090000"));
    assert!(first["output2"].as_array().unwrap().iter().all(|row| row.as_object().unwrap().values().all(Value::is_string)));
    let (_, last) = minutes(&simulator, PAST, &token, "005930", "20261118", "153000").await;
    assert_eq!((hours(&last).len(), hours(&last)[0]), (120, "153000"), "the closing auction's print has its own minute");
    assert_eq!(hours(&last).iter().filter(|hour| ("152000".."153000").contains(*hour)).count(), 0);
    for (code, date) in [("005930", "20261121"), ("005930", "20261009"), ("999999", "20261118"), ("005930", "20261123")] {
        let (status, answer) = minutes(&simulator, PAST, &token, code, date, "153000").await;
        assert_eq!((status, &answer["rt_cd"], hours(&answer).len()), (200, &json!("0"), 0), "{code} {date}");
    }
    let (_, answer) = minutes(&simulator, PAST, &token, "999999", "20261118", "153000").await;
    assert_eq!(answer["output1"]["stck_prpr"], "0");
    let (_, filler) = minutes(&simulator, PAST, &token, "005930", "20261118", "200000").await;
    assert_eq!((hours(&filler)[0], &filler["output2"][0]["cntg_vol"]), ("155900", &json!("0")));
}

#[tokio::test]
async fn a_call_above_the_limit_and_a_token_that_is_not_good_have_their_codes() {
    let simulator = simulator("[kis]\ncalls_per_second = 3\npass_life = '1h'\n").await;
    let token = token_of(&simulator, "a").await;
    let code = |answer: (u16, Value)| (answer.0, answer.1["msg_cd"].as_str().unwrap().to_owned());
    let ask = async |call, token: &str| code(minutes(&simulator, call, token, "005930", "20261118", "153000").await);
    // Six at once: whatever the machine does, three of any second are let through.
    let codes = futures_util::future::join_all((0..6).map(|_| ask(PAST, &token))).await;
    let fine = codes.iter().filter(|code| **code == (200, "MCA00000".to_owned())).count();
    let excess = codes.iter().filter(|code| **code == (500, "EGW00201".to_owned())).count();
    assert!(fine >= 3 && fine + excess == 6, "{codes:?}");
    let status = simulator.admin("/status").await;
    assert_eq!(status["kis_calls"].as_u64().unwrap() + status["kis_excess"].as_u64().unwrap(), 6);
    assert_eq!(ask(PAST, "another").await, (500, "EGW00121".to_owned()));
}

#[tokio::test]
async fn a_paper_host_has_todays_minutes_only() {
    let simulator = simulator("[kis]\npaper = true\n").await;
    let token = token_of(&simulator, "a").await;
    assert_eq!(minutes(&simulator, PAST, &token, "000010", "20261118", "153000").await.1["msg_cd"], "EGW00213");
}

#[tokio::test]
async fn todays_minutes_are_those_of_the_trades_played() {
    let simulator = simulator("[kis]\nping_every = '1h'\ncalls_per_second = 1000\n").await;
    let token = token_of(&simulator, "a").await;
    let (_, before) = minutes(&simulator, TODAY, &token, "0080G0", "", "153000").await;
    assert_eq!(hours(&before).len(), 0, "nothing has happened yet");
    simulator.post("/start", json!({})).await;
    simulator.finished().await;
    let (_, answer) = minutes(&simulator, TODAY, &token, "0080G0", "", "153000").await;
    let rows = answer["output2"].as_array().unwrap();
    assert_eq!((rows.len(), hours(&answer)[0]), (30, "153000"));
    let number = |row: &Value, name: &str| row[name].as_str().unwrap().parse::<i64>().unwrap();
    let market = simulator.simulation.hub.markets.iter().find(|market| market.upper == "0080G0").unwrap();
    let trades = market.trades();
    let last = trades.last().unwrap();
    let price = i64::try_from(last.price().at_scale(0)).unwrap();
    assert_eq!((number(&rows[0], "stck_prpr"), number(&rows[0], "stck_oprc")), (price, price));
    assert_eq!(number(&rows[0], "cntg_vol"), i64::try_from(last.size().at_scale(0)).unwrap());
    let turnover: i128 = trades.iter().map(|trade| trade.price().at_scale(0) * trade.size().at_scale(0)).sum();
    assert_eq!(i128::from(number(&rows[0], "acml_tr_pbmn")), turnover);
    for pair in rows.windows(2) {
        let own = number(&pair[0], "acml_tr_pbmn") - number(&pair[1], "acml_tr_pbmn");
        let volume = number(&pair[0], "cntg_vol");
        assert!((number(&pair[0], "stck_lwpr") * volume..=number(&pair[0], "stck_hgpr") * volume).contains(&own), "{pair:?}");
    }
}

#[tokio::test]
async fn the_most_active_are_ranked_by_money_or_volume_of_what_has_happened() {
    let simulator = simulator("[kis]\ncalls_per_second = 1000\n").await;
    let token = token_of(&simulator, "a").await;
    let rank = async |belonging: &str, screen: &str| {
        let url = format!(
            "http://{}/kis/uapi/domestic-stock/v1/quotations/volume-rank?FID_COND_MRKT_DIV_CODE=J&FID_COND_SCR_DIV_CODE={screen}\
             &FID_INPUT_ISCD=0000&FID_DIV_CLS_CODE=0&FID_BLNG_CLS_CODE={belonging}&FID_TRGT_CLS_CODE=111111111",
            simulator.wire
        );
        let request = reqwest::Client::new().get(url).header("authorization", format!("Bearer {token}"));
        let request = request.header("appkey", "a").header("appsecret", "s").header("tr_id", "FHPST01710000");
        request.send().await.unwrap().json::<Value>().await.unwrap()
    };
    assert_eq!(rank("3", "20171").await["output"], json!([]), "nothing has happened");
    assert_eq!(
        (&rank("3", "20170").await["msg_cd"], &rank("7", "20171").await["msg_cd"]),
        (&json!("OPSQ2001"), &json!("OPSQ2001"))
    );
    simulator.post("/start", json!({})).await;
    while simulator.admin("/status").await["finished"] != json!(true) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for (belonging, field) in [("3", "acml_tr_pbmn"), ("0", "acml_vol")] {
        let answer = rank(belonging, "20171").await;
        let rows = answer["output"].as_array().unwrap();
        let values: Vec<i64> = rows.iter().map(|row| row[field].as_str().unwrap().parse().unwrap()).collect();
        assert!(rows.len() == 3 && values.is_sorted_by(|a, b| a >= b) && values[2] > 0, "{answer}");
        assert_eq!(rows.iter().map(|row| row["data_rank"].as_str().unwrap()).collect::<Vec<_>>(), ["1", "2", "3"]);
        assert!(rows.iter().all(|row| row.as_object().unwrap().values().all(Value::is_string)), "{answer}");
    }
}

#[tokio::test]
async fn days_are_told_page_by_page_and_a_further_holiday_is_closed() {
    let simulator = simulator("[kis]\ncalls_per_second = 1000\nholidays = ['2026-11-24']\n").await;
    let token = token_of(&simulator, "a").await;
    let ask = async |further: &str| {
        let url = format!(
            "http://{}/kis/uapi/domestic-stock/v1/quotations/chk-holiday?BASS_DT=20261123&CTX_AREA_NK={further}&CTX_AREA_FK={further}",
            simulator.wire
        );
        let request = reqwest::Client::new().get(url).header("authorization", format!("Bearer {token}"));
        let request = request.header("appkey", "a").header("appsecret", "s").header("tr_id", "CTCA0903R");
        request.send().await.unwrap().json::<Value>().await.unwrap()
    };
    let first = ask("").await;
    let rows = first["output"].as_array().unwrap();
    let day = |row: &Value| {
        ["bass_dt", "wday_dvsn_cd", "tr_day_yn", "opnd_yn"].map(|name| row[name].as_str().unwrap().to_owned()).join(" ")
    };
    let told = ["20261123 02 Y Y", "20261124 03 N N", "20261125 04 Y Y"].map(str::to_owned);
    assert_eq!((rows.len(), rows[..3].iter().map(day).collect::<Vec<_>>()), (24, told.to_vec()));
    assert_eq!(day(&rows[5]), "20261128 07 Y N", "a Saturday is a trading day that does not open");
    let next = first["ctx_area_nk"].as_str().unwrap();
    assert_eq!((next.len(), next.trim()), (20, "20261217"));
    assert_eq!(ask(&next.replace(' ', "%20")).await["output"][0]["bass_dt"], "20261217");
    assert_eq!(simulator.admin("/status").await["kis_days_asked"], 2);
}
