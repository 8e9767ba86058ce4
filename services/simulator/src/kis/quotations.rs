//! KIS's chart calls and what it says of instruments, with the limits and errors that stand before every quotation.
//!
//! Played: `inquire-time-dailychartprice` (FHKST03010230, 120 rows, not on paper hosts) and `inquire-time-itemchartprice` (FHKST03010200, 30
//! rows, today), `inquire-daily-itemchartprice` (FHKST03010100, 100 rows), newest first; `search-stock-info` (CTPF1002R, not on paper hosts) and `inquire-price` (FHKST01010100); all scalars as text. Before them, in this order: key, token, calls per second and day, `tr_id`.
//! Next: `server.rs`.

use super::history::{self, DayRow, Hours, MinuteRow};
use super::{limits, master, tick};
use crate::simulation::Simulation;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::civil::Date;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
const PAST_ROWS: usize = 120;
const TODAYS_ROWS: usize = 30;
const DAYS: usize = 100;

/// Calls of one key.
#[derive(Debug, Default)]
pub struct Calls {
    within_a_second: VecDeque<Instant>,
    /// Of the run: the simulator lives no longer than a day.
    count: u64,
    /// Calls above a limit.
    excess: u64,
}

impl Calls {
    /// Counts a call, unless one of the limits is reached.
    pub fn admit(&mut self, now: Instant, per_second: usize, per_day: u64) -> bool {
        while self.within_a_second.front().is_some_and(|at| now.duration_since(*at) >= SECOND) {
            self.within_a_second.pop_front();
        }
        if self.within_a_second.len() >= per_second || self.count >= per_day {
            self.excess += 1;
            return false;
        }
        self.within_a_second.push_back(now);
        self.count += 1;
        true
    }

    /// Calls answered, and calls above a limit.
    pub fn counts(&self) -> (u64, u64) {
        (self.count, self.excess)
    }
}

pub(super) struct Refusal(u16, &'static str, &'static str);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, axum::Json(json!({"rt_cd": "1", "msg_cd": self.1, "msg1": self.2}))).into_response()
    }
}

pub(super) type Shared = State<Arc<Simulation>>;
pub(super) type Parameters = Query<HashMap<String, String>>;

/// Past days.
pub async fn past_minutes(State(simulation): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Response {
    answer(&simulation, &headers, "FHKST03010230", parameters, PAST_ROWS).await
}

/// Today.
pub async fn todays_minutes(State(simulation): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Response {
    answer(&simulation, &headers, "FHKST03010200", parameters, TODAYS_ROWS).await
}

/// Days, between two dates; prices as they were traded whatever `FID_ORG_ADJ_PRC` asks for: nothing is ever split here.
pub async fn days(State(simulation): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Response {
    let parameters = match admitted(&simulation, &headers, "FHKST03010100", parameters).await {
        Ok(parameters) => parameters,
        Err(refused) => return refused,
    };
    let of = |name: &str| of(&parameters, name);
    let (Ok(first), Ok(last)) = (of("FID_INPUT_DATE_1").parse(), of("FID_INPUT_DATE_2").parse()) else { return wrong_date() };
    if of("FID_PERIOD_DIV_CODE") != "D" {
        return Refusal(500, "OPSQ2001", "ERROR INPUT FIELD NOT FOUND [FID_PERIOD_DIV_CODE]").into_response();
    }
    let rows = history::days(&simulation, of("FID_INPUT_ISCD"), first, last, DAYS);
    let mut shown: Vec<Value> = rows.iter().map(day_shown).collect();
    if rows.len() < DAYS {
        shown.push(json!({}));
    }
    let body = json!({"output1": {}, "output2": shown, "rt_cd": "0", "msg_cd": "MCA00000", "msg1": "정상처리 되었습니다."});
    axum::Json(body).into_response()
}

fn day_shown(row: &DayRow) -> Value {
    let [open, high, low, close] = row.prices.map(|price| price.to_string());
    json!({
        "stck_bsop_date": row.date.strftime("%Y%m%d").to_string(), "stck_clpr": close, "stck_oprc": open, "stck_hgpr": high,
        "stck_lwpr": low, "acml_vol": row.volume.to_string(), "acml_tr_pbmn": row.turnover.to_string(), "flng_cls_code": "00",
        "prtt_rate": "0.00", "mod_yn": if row.volume == 0 { "Y" } else { "N" }, "prdy_vrss_sign": "3", "prdy_vrss": "0", "revl_issu_reas": "",
    })
}

/// What an instrument is.
pub async fn instrument(State(simulation): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Response {
    let code = match asked(&simulation, &headers, "CTPF1002R", &parameters, "PDNO").await {
        Ok(code) => code,
        Err(refusal) => return refusal.into_response(),
    };
    let today = history::date_of(simulation.clock.now_us());
    let Some(listed) = master::one(&simulation.config, &simulation.hub.markets, &code, today) else {
        return said(
            json!({"pdno": "", "prdt_type_cd": "300", "prdt_name": "", "mket_id_cd": "", "std_pdno": "", "tr_stop_yn": ""}),
        );
    };
    let date = |date: Option<Date>| date.map(|date| date.strftime("%Y%m%d").to_string()).unwrap_or_default();
    let of = |market: bool| date(Some(listed.listed_on).filter(|_| market));
    said(json!({
        "pdno": format!("00000A{code}"), "prdt_type_cd": "300", "mket_id_cd": if listed.kosdaq { "KSQ" } else { "STK" },
        "scty_grp_id_cd": "ST", "excg_dvsn_cd": "02", "papr": "100", "lstg_stqt": "5919638", "cpta": "0",
        "scts_mket_lstg_dt": of(!listed.kosdaq), "scts_mket_lstg_abol_dt": "", "kosdaq_mket_lstg_dt": of(listed.kosdaq),
        "kosdaq_mket_lstg_abol_dt": "", "lstg_abol_dt": date(listed.delisted_from), "prdt_name": listed.name, "std_pdno": format!("KR7{code}003"),
        "tr_stop_yn": yes(listed.halted), "admn_item_yn": yes(listed.administration), "nxt_tr_stop_yn": "N", "cptt_trad_tr_psbl_yn": "Y",
    }))
}

/// An instrument's price and warnings.
pub async fn price(State(simulation): Shared, headers: HeaderMap, Query(parameters): Parameters) -> Response {
    let code = match asked(&simulation, &headers, "FHKST01010100", &parameters, "FID_INPUT_ISCD").await {
        Ok(code) => code,
        Err(refusal) => return refusal.into_response(),
    };
    let (config, markets, now_us) = (&simulation.config, &simulation.hub.markets, simulation.clock.now_us());
    let today = history::date_of(now_us);
    let Some(listed) = master::one(config, markets, &code, today).filter(|listed| listed.delisted_from.is_none()) else {
        return said(json!({"stck_prpr": "0", "stck_shrn_iscd": ""}));
    };
    let market = markets.iter().find(|market| market.upper == code);
    let base = history::base(&config.kis, config.seed, market, &code, today);
    let day = history::minutes(config, markets, &code, today, now_us);
    let last = day.last().map_or(base, |row| row.prices[3]);
    let of = |pick: fn(&MinuteRow) -> i64| text(day.first().map(pick));
    let (highest, lowest) = limits(base);
    let state = if listed.halted {
        "58"
    } else if listed.administration {
        "51"
    } else if listed.warned {
        "53"
    } else {
        "55"
    };
    said(json!({
        "iscd_stat_cls_code": state, "temp_stop_yn": yes(listed.halted), "sltr_yn": "N", "mang_issu_cls_code": yes(listed.administration),
        "invt_caful_yn": "N", "short_over_yn": "N", "mrkt_warn_cls_code": if listed.warned { "02" } else { "00" }, "vi_cls_code": "N",
        "stck_prpr": last.to_string(), "prdy_vrss": (last - base).to_string(), "stck_oprc": of(|row| row.prices[0]),
        "stck_hgpr": text(day.iter().map(|row| row.prices[1]).max()), "stck_lwpr": text(day.iter().map(|row| row.prices[2]).min()),
        "stck_mxpr": highest.to_string(), "stck_llam": lowest.to_string(), "stck_sdpr": base.to_string(), "aspr_unit": tick(last).to_string(),
        "acml_vol": text(Some(day.iter().map(|row| row.volume).sum())), "acml_tr_pbmn": text(day.last().map(|row| row.day_turnover)),
        "rprs_mrkt_kor_name": if listed.kosdaq { "KOSDAQ" } else { "KOSPI" }, "stck_shrn_iscd": code,
    }))
}

const fn yes(flag: bool) -> &'static str {
    if flag { "Y" } else { "N" }
}

fn said(output: Value) -> Response {
    axum::Json(json!({"output": output, "rt_cd": "0", "msg_cd": "MCA00000", "msg1": "정상처리 되었습니다."})).into_response()
}

/// Whom a call is about, once it is let through.
pub(super) async fn asked(
    simulation: &Simulation,
    headers: &HeaderMap,
    tr_id: &str,
    parameters: &HashMap<String, String>,
    name: &str,
) -> Result<String, Refusal> {
    admit(simulation, headers, tr_id)?;
    tokio::time::sleep(simulation.config.kis.answer_after).await;
    let code = parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, code)| code.clone());
    code.filter(|code| !code.is_empty()).ok_or(Refusal(200, "OPSQ2001", "ERROR : INPUT FIELD NOT FOUND"))
}

async fn answer(
    simulation: &Simulation,
    headers: &HeaderMap,
    tr_id: &str,
    parameters: HashMap<String, String>,
    rows: usize,
) -> Response {
    let config = &simulation.config.kis;
    let parameters = match admitted(simulation, headers, tr_id, parameters).await {
        Ok(parameters) => parameters,
        Err(refused) => return refused,
    };
    let of = |name: &str| of(&parameters, name);
    let now_us = simulation.clock.now_us();
    let today = history::date_of(now_us);
    let date = if rows == PAST_ROWS { of("FID_INPUT_DATE_1").parse::<Date>().ok() } else { Some(today) };
    let (Some(date), Some(newest)) = (date, second_of(of("FID_INPUT_HOUR_1"))) else {
        return wrong_date();
    };
    let code = of("FID_INPUT_ISCD");
    let known = code.len() == 6 && !config.unlisted.iter().any(|unlisted| unlisted == code);
    let day = if known && date <= today { whole_day(simulation, code, date, now_us) } else { Vec::new() };
    let day: Vec<MinuteRow> = day.into_iter().filter(|row| row.second <= newest).collect();
    let last = day.last();
    let shown: Vec<Value> = day.iter().rev().take(rows).map(|row| shown(date, row)).collect();
    let name = if known { format!("종목{code}") } else { String::new() };
    let summary = json!({
        "prdy_vrss": "0", "prdy_vrss_sign": "3", "prdy_ctrt": "0.00", "stck_prdy_clpr": text(last.map(|row| row.prices[0])),
        "acml_vol": text(Some(day.iter().map(|row| row.volume).sum())), "acml_tr_pbmn": text(last.map(|row| row.day_turnover)),
        "hts_kor_isnm": name, "stck_prpr": text(last.map(|row| row.prices[3])),
    });
    let body = json!({"output1": summary, "output2": shown, "rt_cd": "0", "msg_cd": "MCA00000", "msg1": "정상처리 되었습니다."});
    axum::Json(body).into_response()
}

/// The parameters of a call that is let through, by their names in capitals; else the answer.
pub(super) async fn admitted(
    simulation: &Simulation,
    headers: &HeaderMap,
    tr_id: &str,
    parameters: HashMap<String, String>,
) -> Result<HashMap<String, String>, Response> {
    admit(simulation, headers, tr_id).map_err(Refusal::into_response)?;
    tokio::time::sleep(simulation.config.kis.answer_after).await;
    // Names are accepted in either case.
    let parameters: HashMap<String, String> = parameters.into_iter().map(|(name, value)| (name.to_uppercase(), value)).collect();
    if !matches!(of(&parameters, "FID_COND_MRKT_DIV_CODE"), "J" | "NX" | "UN") {
        return Err(Refusal(200, "OPSQ2001", "ERROR : INPUT INVALID_CHECK_MRKT_DIV_CODE").into_response());
    }
    Ok(parameters)
}

pub(super) fn of<'a>(parameters: &'a HashMap<String, String>, name: &str) -> &'a str {
    parameters.get(name).map(String::as_str).unwrap_or_default()
}

pub(super) fn wrong_input() -> Response {
    Refusal(200, "OPSQ2001", "ERROR : INPUT FIELD NOT FOUND").into_response()
}

pub(super) fn wrong_date() -> Response {
    Refusal(200, "OPSQ2001", "ERROR : INPUT INVALID_CHECK_DATE").into_response()
}

fn admit(simulation: &Simulation, headers: &HeaderMap, tr_id: &str) -> Result<(), Refusal> {
    let config = &simulation.config.kis;
    let of = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (app_key, secret) = (of("appkey"), of("appsecret"));
    if app_key.is_empty() || !(config.app_key.is_empty() || config.app_key == app_key) {
        return Err(Refusal(403, "EGW00103", "유효하지 않은 AppKey입니다."));
    }
    if secret.is_empty() || !(config.app_secret.is_empty() || config.app_secret == secret) {
        return Err(Refusal(403, "EGW00105", "유효하지 않은 AppSecret입니다."));
    }
    let Some(token) = of("authorization").strip_prefix("Bearer ") else {
        return Err(Refusal(500, "EGW00205", "credentials_type이 유효하지 않습니다.(Bearer)"));
    };
    match simulation.kis_ledger.token_age(app_key, token) {
        None => return Err(Refusal(500, "EGW00121", "유효하지 않은 token 입니다.")),
        Some(age) if age >= config.pass_life => return Err(Refusal(500, "EGW00123", "기간이 만료된 token 입니다.")),
        Some(_) => {}
    }
    let (per_second, per_day) =
        if config.paper { (1, config.calls_per_day) } else { (config.calls_per_second, config.calls_per_day) };
    if !simulation.kis_ledger.admit_call(app_key, per_second, per_day) {
        return Err(Refusal(config.excess_status, "EGW00201", "초당 거래건수를 초과하였습니다."));
    }
    if of("tr_id") != tr_id {
        return Err(Refusal(500, "OPSQ0002", "없는 서비스 코드 입니다"));
    }
    if config.paper && ["FHKST03010230", "FHPTJ04160001", "CTPF1002R", "FHPST01710000", "CTCA0903R"].contains(&tr_id) {
        return Err(Refusal(500, "EGW00213", "모의투자 TR 이 아닙니다."));
    }
    Ok(())
}

/// The day's minutes as the call shows them: with the running minute, which repeats the volume before it until something trades, and after the
/// session with minutes that hold nothing.
fn whole_day(simulation: &Simulation, code: &str, date: Date, now_us: i64) -> Vec<MinuteRow> {
    let config = &simulation.config.kis;
    let mut day = history::minutes(&simulation.config, &simulation.hub.markets, code, date, now_us);
    let (Some(hours), Some(last)) = (Hours::of(config, date), day.last().copied()) else { return day };
    let midnight = now_us - (now_us + 9 * 3_600_000_000).rem_euclid(86_400_000_000);
    let now = if history::date_of(now_us) == date { (now_us - midnight) / 1_000_000 } else { i64::MAX };
    let flat =
        |second: i64, volume: i64| MinuteRow { second, prices: [last.prices[3]; 4], volume, day_turnover: last.day_turnover };
    let running = now - now.rem_euclid(60);
    if running > last.second && running < hours.continuous_to {
        day.push(flat(running, last.volume));
    }
    let after = (hours.close + 600..hours.close + 1_800).step_by(60);
    day.extend(after.take_while(|second| *second <= now).map(|second| flat(second, 0)));
    day
}

fn second_of(text: &str) -> Option<i64> {
    let number: i64 = text.parse().ok().filter(|_| text.len() == 6)?;
    Some(number / 10_000 * 3_600 + number / 100 % 100 * 60 + number % 100)
}

fn text(number: Option<i64>) -> String {
    number.unwrap_or(0).to_string()
}

fn shown(date: Date, row: &MinuteRow) -> Value {
    let [open, high, low, close] = row.prices.map(|price| price.to_string());
    json!({
        "stck_bsop_date": date.strftime("%Y%m%d").to_string(),
        "stck_cntg_hour": format!("{:02}{:02}00", row.second / 3_600, row.second / 60 % 60),
        "stck_prpr": close, "stck_oprc": open, "stck_hgpr": high, "stck_lwpr": low,
        "cntg_vol": row.volume.to_string(), "acml_tr_pbmn": row.day_turnover.to_string(),
    })
}
