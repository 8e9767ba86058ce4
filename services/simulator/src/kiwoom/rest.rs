//! Kiwoom's requests: one POST per call, chosen by the header `api-id`, paged by `cont-yn` and `next-key`, with its limits and error texts.
//! Next: `server.rs`.

use super::{change, signed};
use crate::config::KiwoomConfig;
use crate::kis::history::{self, MinuteRow};
use crate::kis::investors;
use crate::kis::master::{self, Listed};
use crate::kis::ranking;
use crate::kis::socket::{korean, percent, whole};
use crate::market::{Market, Venue};
use crate::seed;
use crate::simulation::Simulation;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use jiff::Span;
use jiff::civil::Date;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

type Shared = State<Arc<Simulation>>;

const DONE: &str = "정상적으로 처리되었습니다";
/// Calls and the paths they belong to.
const CALLS: &[(&str, &str)] = &[
    ("ka10080", "/api/dostk/chart"),
    ("ka10081", "/api/dostk/chart"),
    ("ka10030", "/api/dostk/rkinfo"),
    ("ka10032", "/api/dostk/rkinfo"),
    ("ka10001", "/api/dostk/stkinfo"),
    ("ka10059", "/api/dostk/stkinfo"),
    ("ka10099", "/api/dostk/stkinfo"),
    ("ka10100", "/api/dostk/stkinfo"),
];

/// Rows of one ranking.
const RANKING_ROWS: usize = 100;

/// The routes below `/kiwoom`.
pub fn routes() -> Router<Arc<Simulation>> {
    Router::new()
        .route("/oauth2/token", post(token))
        .route("/oauth2/revoke", post(revoke))
        .route("/api/dostk/{group}", post(call))
        .fallback(async || refusal(StatusCode::NOT_FOUND, 2, "[1504:해당 URI에서는 지원하는 API ID가 아닙니다]"))
}

/// Who was given what, and who asks how often.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Tokens: whose they are and when they end.
    tokens: Mutex<HashMap<String, (String, Instant)>>,
    customers: Mutex<HashMap<String, Customer>>,
    issued: AtomicU64,
    calls: AtomicU64,
    excess: AtomicU64,
}

#[derive(Debug, Default)]
struct Customer {
    /// The times of the last calls, all and by name.
    calls: VecDeque<Instant>,
    calls_by_name: HashMap<String, VecDeque<Instant>>,
    refused: u32,
    banned_until: Option<Instant>,
    entered: Option<Instant>,
}

impl Ledger {
    /// Whether a token may enter the WebSocket now; `None`: it is not good.
    pub fn enters(&self, token: &str, config: &KiwoomConfig) -> Option<bool> {
        let app_key = self.customer(token)?;
        let mut customers = lock(&self.customers);
        let customer = customers.entry(app_key).or_default();
        let soon = customer.entered.is_some_and(|at| at.elapsed() < config.login_interval);
        customer.entered = Some(Instant::now());
        Some(!soon)
    }

    /// One registration more than a connection may hold was asked for.
    pub fn count_excess(&self) {
        self.excess.fetch_add(1, Ordering::Relaxed);
    }

    /// How many registrations and calls were refused as too many.
    pub fn excess(&self) -> u64 {
        self.excess.load(Ordering::Relaxed)
    }

    /// How many calls were let through.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn customer(&self, token: &str) -> Option<String> {
        lock(&self.tokens).get(token).filter(|(_, ends)| Instant::now() < *ends).map(|(app_key, _)| app_key.clone())
    }

    /// Counts a call; the limit's answer when it is one too many.
    fn admit(&self, app_key: &str, api_id: &str, config: &KiwoomConfig) -> Result<(), Refusal> {
        let now = Instant::now();
        let mut customers = lock(&self.customers);
        let customer = customers.entry(app_key.to_owned()).or_default();
        let banned = customer.banned_until.is_some_and(|until| now < until);
        let within = |calls: &mut VecDeque<Instant>, window: Duration, most: usize| {
            calls.retain(|at| now - *at < window);
            let fits = calls.len() < most;
            if fits {
                calls.push_back(now);
            }
            fits
        };
        let own = customer.calls_by_name.entry(api_id.to_owned()).or_default();
        let fits = !banned
            && within(&mut customer.calls, Duration::from_secs(1), config.calls_per_second)
            && within(own, config.calls_of_one_within, config.calls_of_one);
        if fits {
            self.calls.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        self.count_excess();
        customer.refused += 1;
        if config.ban_after > 0 && customer.refused > config.ban_after && !banned {
            (customer.refused, customer.banned_until) = (0, Some(now + config.ban));
        }
        let words = format!("허용된 요청 개수를 초과하였습니다[1700:허용된 요청 개수를 초과하였습니다. API ID={api_id}]");
        let status = StatusCode::from_u16(config.limit_status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
        Err(refusal(status, 5, &words))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error object of a failing answer.
pub fn error_body(_status: u16) -> Value {
    json!({"return_code": 9, "return_msg": "예기치 못한 에러가 발생하였습니다[1999:예기치 못한 에러가 발생하였습니다]"})
}

/// An error answer: status, number, words with the code in brackets.
struct Refusal(StatusCode, i32, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, axum::Json(json!({"return_code": self.1, "return_msg": self.2}))).into_response()
    }
}

fn refusal(status: StatusCode, code: i32, words: &str) -> Refusal {
    Refusal(status, code, words.to_owned())
}

fn token_refused() -> Refusal {
    refusal(StatusCode::OK, 3, "인증에 실패했습니다[8005:Token이 유효하지 않습니다]")
}

/// The customer of a token call.
fn customer_of(simulation: &Simulation, request: &Value) -> Result<String, Refusal> {
    let text = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
    let config = &simulation.config.kiwoom;
    let (app_key, secret) = (text("appkey"), text("secretkey"));
    let wrong = |words: &str| Err(refusal(StatusCode::OK, 3, &format!("인증에 실패했습니다{words}")));
    if app_key.is_empty() || secret.is_empty() {
        return wrong("[8020:입력파라미터로 appkey 또는 secretkey가 들어오지 않았습니다]");
    }
    if !(config.app_key.is_empty() || config.app_key == app_key) {
        return wrong("[8001:App Key와 Secret Key 검증에 실패했습니다]");
    }
    if !(config.secret_key.is_empty() || config.secret_key == secret) {
        return wrong("[8002:App Key와 Secret Key 검증에 실패했습니다]");
    }
    Ok(app_key)
}

async fn token(State(simulation): Shared, body: Bytes) -> Result<Response, Refusal> {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    if request["grant_type"] != "client_credentials" {
        return Err(refusal(StatusCode::OK, 3, "인증에 실패했습니다[8012:grant_type의 값이 맞지 않습니다]"));
    }
    let app_key = customer_of(&simulation, &request)?;
    let (config, ledger) = (&simulation.config.kiwoom, &simulation.kiwoom_ledger);
    let number = ledger.issued.fetch_add(1, Ordering::Relaxed);
    let name = |part: u64| seed::mix(seed::of_text(&app_key), &[number, part]);
    let token = format!("{:016X}{:016X}", name(1), name(2));
    lock(&ledger.tokens).insert(token.clone(), (app_key, Instant::now() + config.token_life));
    // Tokens live in real time, whatever is played.
    let ends = jiff::Timestamp::now() + config.token_life;
    let expires = korean(ends.as_microsecond(), "%Y%m%d%H%M%S");
    Ok(axum::Json(json!({
        "expires_dt": expires, "token_type": "bearer", "token": token, "return_code": 0, "return_msg": DONE,
    }))
    .into_response())
}

async fn revoke(State(simulation): Shared, body: Bytes) -> Result<Response, Refusal> {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let app_key = customer_of(&simulation, &request)?;
    let mut tokens = lock(&simulation.kiwoom_ledger.tokens);
    let token = request["token"].as_str().unwrap_or_default();
    if tokens.get(token).is_none_or(|(owner, _)| *owner != app_key) {
        return Err(refusal(StatusCode::OK, 3, "인증에 실패했습니다[8015:Token 폐기에 실패했습니다]"));
    }
    tokens.remove(token);
    Ok(axum::Json(json!({"return_code": 0, "return_msg": DONE})).into_response())
}

/// One page of an answer.
struct Page {
    body: Value,
    /// The name of the next page.
    next: Option<String>,
}

async fn call(
    State(simulation): Shared,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let api_id = header("api-id").to_owned();
    if api_id.is_empty() {
        return Err(wrong("API ID가 없습니다[1501:API ID가 Null이거나 값이 없습니다]"));
    }
    let Some((_, path)) = CALLS.iter().find(|(known, _)| *known == api_id) else {
        return Err(wrong("지원하지 않는 API ID입니다[1505:해당 API ID는 존재하지 않습니다]"));
    };
    if !uri.path().ends_with(path) {
        return Err(wrong("URI가 다릅니다[1504:해당 URI에서는 지원하는 API ID가 아닙니다]"));
    }
    let Some(token) = header("authorization").strip_prefix("Bearer ") else {
        return Err(wrong("인증 정보가 없습니다[1513:Http Header에 authorization 필드가 설정되어 있지 않습니다]"));
    };
    let ledger = &simulation.kiwoom_ledger;
    let app_key = ledger.customer(token).ok_or_else(token_refused)?;
    ledger.admit(&app_key, &api_id, &simulation.config.kiwoom)?;
    let request: Value =
        serde_json::from_slice(&body).map_err(|_| wrong("입력값이 올바르지 않습니다[1517:입력 값 형식이 올바르지 않습니다]"))?;
    let from = if header("cont-yn") == "Y" { header("next-key") } else { "" };
    let page = match api_id.as_str() {
        "ka10080" => minutes(&simulation, &request, from),
        "ka10081" => days(&simulation, &request, from),
        "ka10030" => most_active(&simulation, &request, from, true),
        "ka10032" => most_active(&simulation, &request, from, false),
        "ka10001" => basic(&simulation, &request),
        "ka10059" => investors(&simulation, &request, from),
        "ka10100" => find(&simulation, &request).map(|market| Page { body: named(&simulation, market), next: None }),
        _ => Ok(listings(&simulation, &request, from)),
    }?;
    let mut answer = page.body;
    answer["return_code"] = 0.into();
    answer["return_msg"] = DONE.into();
    let mut response = axum::Json(answer).into_response();
    let headers = response.headers_mut();
    let text = |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    headers.insert("api-id", text(&api_id));
    headers.insert("cont-yn", HeaderValue::from_static(if page.next.is_some() { "Y" } else { "N" }));
    headers.insert("next-key", text(page.next.as_deref().unwrap_or_default()));
    Ok(response)
}

/// The code asked for, by itself or with a suffix for the exchange.
fn code(request: &Value) -> Result<&str, Refusal> {
    let code = request["stk_cd"].as_str().filter(|code| !code.is_empty());
    let code = code.ok_or_else(|| wrong("입력값이 올바르지 않습니다[1511:필수 입력 파라미터가 누락되었습니다. stk_cd]"))?;
    Ok(code.strip_suffix("_AL").unwrap_or(code))
}

fn wrong(words: &str) -> Refusal {
    refusal(StatusCode::OK, 2, words)
}

fn unknown() -> Refusal {
    wrong("종목정보가 없습니다[1902:종목 정보가 없습니다]")
}

/// The market of the code asked for.
fn find<'a>(simulation: &'a Simulation, request: &Value) -> Result<&'a Market, Refusal> {
    let index = simulation.hub.find(Venue::Kis, code(request)?).ok_or_else(unknown)?;
    Ok(&simulation.hub.markets[index])
}

/// `ka10080`: minutes, newest first, over days; the running one too. Of any code: what no tape plays is made up as KIS tells it
/// (`../kis/history.rs`), for both tell one exchange.
fn minutes(simulation: &Simulation, request: &Value, from: &str) -> Result<Page, Refusal> {
    let (code, config) = (code(request)?, &simulation.config);
    if code.len() != 6 || config.kis.unlisted.iter().any(|unlisted| unlisted == code) {
        return Err(unknown());
    }
    let scope: i64 = request["tic_scope"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    if ![1, 3, 5, 10, 15, 30, 45, 60].contains(&scope) {
        return Err(wrong("입력값이 올바르지 않습니다[1511:필수 입력 파라미터가 누락되었습니다. tic_scope]"));
    }
    let today = history::date_of(simulation.clock.now_us());
    let date_in = |text: &str| Date::strptime("%Y%m%d", text).ok();
    let mut date = match request["base_dt"].as_str().filter(|text| !text.is_empty()) {
        Some(text) => {
            date_in(text).ok_or_else(|| wrong("입력값이 올바르지 않습니다[1517:입력 값 형식이 올바르지 않습니다]"))?.min(today)
        }
        None => today,
    };
    // The name of a page is the last minute shown before it.
    if let Some(shown) = from.get(..8).and_then(date_in) {
        date = date.min(shown);
    }
    let size = config.kiwoom.chart_rows;
    let oldest = today.saturating_sub(Span::new().days(config.kiwoom.chart_days));
    let mut rows: Vec<Row> = Vec::new();
    while rows.len() <= size && date >= oldest {
        let older = |row: &Row| from.is_empty() || row.label.as_str() < from;
        rows.extend(day(simulation, code, date, scope).into_iter().rev().filter(older));
        date = date.saturating_sub(Span::new().days(1));
    }
    let next = (rows.len() > size).then(|| rows[size - 1].label.clone());
    let shown: Vec<Value> = rows.iter().take(size).map(Row::told).collect();
    Ok(Page { body: json!({"stk_cd": code, "stk_min_pole_chart_qry": shown}), next })
}

/// `ka10081`: days, newest first from the day asked for; turnover in millions of won.
fn days(simulation: &Simulation, request: &Value, from: &str) -> Result<Page, Refusal> {
    let code = code(request)?;
    if request["upd_stkpc_tp"].as_str().is_none() {
        return Err(wrong("입력값이 올바르지 않습니다[1511:필수 입력 파라미터가 누락되었습니다. upd_stkpc_tp]"));
    }
    let asked = if from.is_empty() { request["base_dt"].as_str().unwrap_or_default() } else { from };
    let last = Date::strptime("%Y%m%d", asked)
        .map_err(|_| wrong("입력값이 올바르지 않습니다[1517:입력 값 형식이 올바르지 않습니다]"))?;
    let mut days = history::days(simulation, code, history::FIRST, last, simulation.config.kiwoom.day_rows + 1);
    if days.is_empty() {
        return Err(unknown());
    }
    // The name of a page is its first day.
    let more = days.split_off(days.len().min(simulation.config.kiwoom.day_rows));
    let next = more.first().map(|day| day.date.strftime("%Y%m%d").to_string());
    let shown = days.iter().map(|day| {
        let [open, high, low, close] = day.prices.map(|price| price.to_string());
        let millions = (day.turnover + 500_000) / 1_000_000;
        json!({
            "cur_prc": close, "trde_qty": day.volume.to_string(), "trde_prica": millions.to_string(),
            "dt": day.date.strftime("%Y%m%d").to_string(), "open_pric": open, "high_pric": high, "low_pric": low, "pred_pre": "0",
            "pred_pre_sig": "3", "trde_tern_rt": "+0.00",
        })
    });
    Ok(Page { body: json!({"stk_cd": code, "stk_dt_pole_chart_qry": shown.collect::<Vec<_>>()}), next })
}

/// `ka10059`: what investors bought net by day, newest first, up to the day asked for.
fn investors(simulation: &Simulation, request: &Value, from: &str) -> Result<Page, Refusal> {
    let code = code(request)?;
    let of = |name: &str| request[name].as_str().unwrap_or_default();
    let missing = |name: &str| wrong(&format!("입력값이 올바르지 않습니다[1511:필수 입력 파라미터가 누락되었습니다. {name}]"));
    let is_shares = match of("amt_qty_tp") {
        "1" => false,
        "2" => true,
        _ => return Err(missing("amt_qty_tp")),
    };
    if of("trde_tp") != "0" || of("unit_tp") != "1" {
        return Err(missing("trde_tp, unit_tp"));
    }
    let asked = if from.is_empty() { of("dt") } else { from };
    let last = Date::strptime("%Y%m%d", asked).map_err(|_| missing("dt"))?;
    let mut days = investors::days(simulation, code, last, simulation.config.kiwoom.investor_rows + 1);
    if days.is_empty() {
        return Err(unknown());
    }
    // The name of a page is its first day.
    let more = days.split_off(days.len().min(simulation.config.kiwoom.investor_rows));
    let next = more.first().map(|day| day.date.strftime("%Y%m%d").to_string());
    let rows: Vec<Value> = days.iter().map(|day| investors::kiwoom_row(day, is_shares)).collect();
    Ok(Page { body: json!({"stk_invsr_orgn": rows}), next })
}

/// `ka10030` by volume, `ka10032` by money; the name of a page is the place of its first.
fn most_active(simulation: &Simulation, request: &Value, from: &str, by_volume: bool) -> Result<Page, Refusal> {
    let required: &[&str] = if by_volume {
        &["mrkt_tp", "sort_tp", "mang_stk_incls", "crd_tp", "trde_qty_tp", "pric_tp", "trde_prica_tp", "mrkt_open_tp", "stex_tp"]
    } else {
        &["mrkt_tp", "mang_stk_incls", "stex_tp"]
    };
    if let Some(name) = required.iter().find(|name| request[**name].as_str().is_none_or(str::is_empty)) {
        return Err(wrong(&format!("입력값이 올바르지 않습니다[1511:필수 입력 파라미터가 누락되었습니다. {name}]")));
    }
    let (size, first) = (RANKING_ROWS, from.parse().unwrap_or(0));
    let active = ranking::most_active(simulation, by_volume);
    let next = (active.len() > first + size).then(|| (first + size).to_string());
    let shown = active.iter().enumerate().skip(first).take(size);
    let rows: Vec<Value> = shown.map(|(place, of)| ranking::kiwoom_row(place + 1, of, by_volume)).collect();
    Ok(Page { body: json!({if by_volume { "tdy_trde_qty_upper" } else { "trde_prica_upper" }: rows}), next })
}

/// A day's rows of so many minutes each, oldest first.
fn day(simulation: &Simulation, code: &str, date: Date, scope: i64) -> Vec<Row> {
    let (config, markets) = (&simulation.config, &simulation.hub.markets);
    let market = simulation.hub.find(Venue::Kis, code).map(|index| &markets[index]);
    let base = history::base(&config.kis, config.seed, market, code, date);
    // A tape that begins in the middle of the day keeps the day's sums.
    let is_played = |market: &&Market| market.trades().first().is_some_and(|trade| history::date_of(trade.time_us) == date);
    let mut day_volume = market.filter(is_played).map_or(0, |market| {
        let first = market.trades().first().map_or(0, |trade| whole(trade.size()));
        market.day.after(0).map_or(0, |totals| totals.volume - first)
    });
    let mut rows: Vec<Row> = Vec::new();
    for minute in history::minutes(config, markets, code, date, simulation.clock.now_us()) {
        let second = minute.second.div_euclid(scope * 60) * scope * 60;
        let label = format!("{}{:02}{:02}00", date.strftime("%Y%m%d"), second / 3_600, second / 60 % 60);
        day_volume += minute.volume;
        if rows.last().is_none_or(|row| row.label != label) {
            let [open, high, low, close] = minute.prices;
            rows.push(Row { label, base, open, high, low, close, volume: 0, day_volume });
        }
        if let Some(row) = rows.last_mut() {
            row.take(&minute, day_volume);
        }
    }
    rows
}

struct Row {
    /// `YYYYMMDDHHMMSS`, its first minute.
    label: String,
    /// The close of the session before.
    base: i64,
    open: i64,
    high: i64,
    low: i64,
    close: i64,
    volume: i64,
    day_volume: i64,
}

impl Row {
    fn take(&mut self, minute: &MinuteRow, day_volume: i64) {
        let [_, high, low, close] = minute.prices;
        (self.high, self.low, self.close) = (self.high.max(high), self.low.min(low), close);
        self.volume += minute.volume;
        self.day_volume = day_volume;
    }

    fn told(&self) -> Value {
        let Row { label, base, .. } = self;
        let (sign, change) = change(self.close, *base);
        let price = |price: i64| signed(price, *base);
        json!({
            "cur_prc": price(self.close), "trde_qty": self.volume.to_string(), "cntr_tm": label,
            "open_pric": price(self.open), "high_pric": price(self.high), "low_pric": price(self.low),
            "acc_trde_qty": self.day_volume.to_string(), "pred_pre": change, "pred_pre_sig": sign,
        })
    }
}

/// `ka10001`: one instrument and its day so far.
fn basic(simulation: &Simulation, request: &Value) -> Result<Page, Refusal> {
    let market = find(simulation, request)?;
    let base = market.day.base;
    let last = market.happened(|trades| Some((whole(trades.last()?.price()), trades.len() - 1)));
    let totals = last.and_then(|(_, at)| market.day.after(at).copied());
    let (sign, changed) = change(last.map_or(base, |(price, _)| price), base);
    let price = |price: Option<i64>| price.map(|price| signed(price, base)).unwrap_or_default();
    Ok(Page {
        body: json!({
            "stk_cd": market.upper, "stk_nm": market.day.name, "base_pric": base.to_string(),
            "upl_pric": signed(crate::kis::limits(base).0, base), "lst_pric": signed(crate::kis::limits(base).1, base),
            "open_pric": price(totals.map(|totals| totals.open.0)), "high_pric": price(totals.map(|totals| totals.high.0)),
            "low_pric": price(totals.map(|totals| totals.low.0)), "cur_prc": price(last.map(|(price, _)| price)),
            "pre_sig": sign, "pred_pre": changed, "flu_rt": percent(last.map_or(0, |(price, _)| price - base), base),
            "trde_qty": totals.map_or(0, |totals| totals.volume).to_string(), "setl_mm": "12", "fav": "100",
        }),
        next: None,
    })
}

/// `ka10099`: the instruments of a market, so many a page; the name of a page is the place of its first.
fn listings(simulation: &Simulation, request: &Value, from: &str) -> Page {
    let today = history::date_of(simulation.clock.now_us());
    let all = master::all(&simulation.config, &simulation.hub.markets, today);
    let of_market = all.iter().filter(|listed| request["mrkt_tp"] == if listed.kosdaq { "10" } else { "0" });
    let (size, first) = (simulation.config.kiwoom.list_rows.max(1), from.parse().unwrap_or(0));
    let mut rows: Vec<Value> = of_market.skip(first).take(size + 1).map(|listed| listing(simulation, listed, today)).collect();
    let next = (rows.len() > size).then(|| (first + size).to_string());
    rows.truncate(size);
    Page { body: json!({"list": rows}), next }
}

/// `ka10100`: one instrument.
fn named(simulation: &Simulation, market: &Market) -> Value {
    let today = history::date_of(simulation.clock.now_us());
    let listed = master::one(&simulation.config, &simulation.hub.markets, &market.upper, today);
    listed.map_or(Value::Null, |listed| listing(simulation, &listed, today))
}

fn listing(simulation: &Simulation, listed: &Listed, today: Date) -> Value {
    let (config, markets) = (&simulation.config, &simulation.hub.markets);
    let market = markets.iter().find(|market| market.upper == listed.code);
    let base = history::base(&config.kis, config.seed, market, &listed.code, today);
    let states = [(listed.halted, "거래정지"), (listed.administration, "관리종목"), (true, "증거금20%"), (true, "담보대출")];
    let states: Vec<&str> = states.iter().filter(|(holds, _)| *holds).map(|(_, state)| *state).collect();
    json!({
        "code": listed.code, "name": listed.name, "listCount": "0000000005919638",
        "auditInfo": if listed.halted { "거래정지" } else { "정상" }, "regDay": listed.listed_on.strftime("%Y%m%d").to_string(),
        "lastPrice": format!("{base:08}"), "state": states.join("|"), "marketCode": if listed.kosdaq { "10" } else { "0" },
        "marketName": if listed.kosdaq { "코스닥" } else { "거래소" }, "upName": "", "upSizeName": if listed.kosdaq { "" } else { "대형주" },
        "companyClassName": "", "orderWarning": if listed.warned { "5" } else { "0" }, "nxtEnable": "Y",
    })
}
