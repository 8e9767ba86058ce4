//! KIS's token and approval calls, with their limits and their own error envelope.
//! Next: `server.rs`.

use super::quotations::{self, Calls};
use super::{holidays, investors, ranking};
use crate::seed;
use crate::simulation::Simulation;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

type Shared = State<Arc<Simulation>>;

/// Asked again within so long, the same token is given.
const SAME_TOKEN: Duration = Duration::from_secs(6 * 3600);

/// The routes below `/kis`.
pub fn routes() -> Router<Arc<Simulation>> {
    Router::new()
        .route("/oauth2/tokenP", post(token))
        .route("/oauth2/Approval", post(approval))
        .route("/oauth2/revokeP", post(revoke))
        .route("/uapi/domestic-stock/v1/quotations/inquire-time-dailychartprice", get(quotations::past_minutes))
        .route("/uapi/domestic-stock/v1/quotations/inquire-time-itemchartprice", get(quotations::todays_minutes))
        .route("/uapi/domestic-stock/v1/quotations/inquire-daily-itemchartprice", get(quotations::days))
        .route("/uapi/domestic-stock/v1/quotations/search-stock-info", get(quotations::instrument))
        .route("/uapi/domestic-stock/v1/quotations/inquire-price", get(quotations::price))
        .route("/uapi/domestic-stock/v1/quotations/chk-holiday", get(holidays::holidays))
        .route("/uapi/domestic-stock/v1/quotations/volume-rank", get(ranking::volume_rank))
        .route("/uapi/domestic-stock/v1/quotations/investor-trade-by-stock-daily", get(investors::daily))
        .fallback(async || {
            (StatusCode::NOT_FOUND, axum::Json(json!({"rt_cd": "1", "msg_cd": "OPSQ0002", "msg1": "없는 서비스 코드 입니다"})))
        })
}

/// Who was given what: passes by customer, sessions by customer.
#[derive(Debug, Default)]
pub struct Ledger {
    customers: Mutex<HashMap<String, Customer>>,
    /// Approval keys and whose they are.
    approvals: Mutex<HashMap<String, (String, Instant)>>,
    issued: AtomicU64,
    excess: AtomicU64,
    days: AtomicU64,
}

#[derive(Debug, Default)]
struct Customer {
    token: Option<(String, Instant)>,
    token_asked: Option<Instant>,
    approval_asked: Option<Instant>,
    calls: Calls,
    /// The connection that holds the one session.
    session: Option<u64>,
}

impl Ledger {
    /// The customer an approval key was given to, while it is good.
    pub fn customer(&self, approval_key: &str) -> Option<String> {
        lock(&self.approvals).get(approval_key).filter(|(_, ends)| Instant::now() < *ends).map(|(app_key, _)| app_key.clone())
    }

    /// Takes the customer's one session for a connection, unless another that is still `connected` has it.
    pub fn takes_session(&self, app_key: &str, connection: u64, connected: &[u64]) -> bool {
        let mut customers = lock(&self.customers);
        let customer = customers.entry(app_key.to_owned()).or_default();
        let free = customer.session.is_none_or(|other| other == connection || !connected.contains(&other));
        if free {
            customer.session = Some(connection);
        }
        free
    }

    /// One registration more than a key may hold was asked for.
    pub fn count_excess(&self) {
        self.excess.fetch_add(1, Ordering::Relaxed);
    }

    /// The exchange's days were asked for.
    pub fn count_days(&self) {
        self.days.fetch_add(1, Ordering::Relaxed);
    }

    /// How often they were.
    pub fn days(&self) -> u64 {
        self.days.load(Ordering::Relaxed)
    }

    /// How many registrations were refused as too many.
    pub fn excess(&self) -> u64 {
        self.excess.load(Ordering::Relaxed)
    }

    /// Since when the customer's token is good; `None` when it is not the customer's.
    pub fn token_age(&self, app_key: &str, token: &str) -> Option<Duration> {
        let customers = lock(&self.customers);
        let (known, issued) = customers.get(app_key)?.token.as_ref()?;
        (known == token).then(|| issued.elapsed())
    }

    /// Counts a quotation call, unless one of the key's limits is reached.
    pub fn admit_call(&self, app_key: &str, per_second: usize, per_day: u64) -> bool {
        lock(&self.customers).entry(app_key.to_owned()).or_default().calls.admit(Instant::now(), per_second, per_day)
    }

    /// Quotation calls of all keys, and those above a limit.
    pub fn calls(&self) -> (u64, u64) {
        let customers = lock(&self.customers);
        customers.values().map(|customer| customer.calls.counts()).fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
    }

    fn name(&self, app_key: &str, kind: u64) -> u64 {
        seed::mix(seed::of_text(app_key), &[kind, self.issued.fetch_add(1, Ordering::Relaxed)])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error object of a failing answer.
pub fn error_body(_status: u16) -> Value {
    json!({"rt_cd": "1", "msg_cd": "EGW00300", "msg1": "Gateway 라우팅 오류가 발생했습니다."})
}

struct Refusal(StatusCode, &'static str, &'static str);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, axum::Json(json!({"error_description": self.2, "error_code": self.1}))).into_response()
    }
}

const TOO_SOON: Refusal = Refusal(StatusCode::FORBIDDEN, "EGW00133", "접근토큰 발급 잠시 후 다시 시도하세요(1분당 1회)");

/// The customer of a request, whose secret goes by another name in either call.
fn customer_of(simulation: &Simulation, body: &Bytes, secret_name: &str) -> Result<String, Refusal> {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
    let config = &simulation.config.kis;
    let (app_key, secret) = (text("appkey"), text(secret_name));
    if text("grant_type") != "client_credentials" {
        return Err(Refusal(StatusCode::FORBIDDEN, "EGW00205", "credentials_type이 유효하지 않습니다."));
    }
    if app_key.is_empty() || !(config.app_key.is_empty() || config.app_key == app_key) {
        return Err(Refusal(StatusCode::FORBIDDEN, "EGW00103", "유효하지 않은 AppKey입니다."));
    }
    if secret.is_empty() || !(config.app_secret.is_empty() || config.app_secret == secret) {
        return Err(Refusal(StatusCode::FORBIDDEN, "EGW00105", "유효하지 않은 AppSecret입니다."));
    }
    Ok(app_key)
}

fn too_soon(asked: &mut Option<Instant>, interval: Duration) -> bool {
    let soon = asked.is_some_and(|asked| asked.elapsed() < interval);
    if !soon {
        *asked = Some(Instant::now());
    }
    soon
}

async fn token(State(simulation): Shared, body: Bytes) -> Result<Response, Refusal> {
    let app_key = customer_of(&simulation, &body, "appsecret")?;
    let (config, ledger) = (&simulation.config.kis, &simulation.kis_ledger);
    let mut customers = lock(&ledger.customers);
    let customer = customers.entry(app_key.clone()).or_default();
    if too_soon(&mut customer.token_asked, config.issue_interval) {
        return Err(TOO_SOON);
    }
    let kept = customer.token.clone().filter(|(_, issued)| issued.elapsed() < SAME_TOKEN.min(config.pass_life));
    let (token, issued) = kept.unwrap_or_else(|| (format!("eyJ0eXAiOiJKV1Qi.{:016x}", ledger.name(&app_key, 1)), Instant::now()));
    customer.token = Some((token.clone(), issued));
    let left = config.pass_life.saturating_sub(issued.elapsed());
    let ends_us = simulation.clock.now_us() + crate::clock::micros(left) + 9 * 3_600_000_000;
    let ends =
        jiff::Timestamp::from_microsecond(ends_us).map(|t| t.strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default();
    Ok(axum::Json(
        json!({"access_token": token, "token_type": "Bearer", "expires_in": left.as_secs(), "access_token_token_expired": ends}),
    )
    .into_response())
}

async fn approval(State(simulation): Shared, body: Bytes) -> Result<Response, Refusal> {
    let app_key = customer_of(&simulation, &body, "secretkey")?;
    let (config, ledger) = (&simulation.config.kis, &simulation.kis_ledger);
    if too_soon(&mut lock(&ledger.customers).entry(app_key.clone()).or_default().approval_asked, config.approval_interval) {
        return Err(TOO_SOON);
    }
    let (a, b) = (ledger.name(&app_key, 2), ledger.name(&app_key, 3));
    let key =
        format!("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", a >> 32, (a >> 16) & 0xffff, a & 0xffff, b >> 48, b & 0xffff_ffff_ffff);
    lock(&ledger.approvals).insert(key.clone(), (app_key, Instant::now() + config.pass_life));
    Ok(axum::Json(json!({"approval_key": key})).into_response())
}

async fn revoke(State(simulation): Shared, body: Bytes) -> Result<Response, Refusal> {
    let app_key = customer_of_revoke(&simulation, &body)?;
    if let Some(customer) = lock(&simulation.kis_ledger.customers).get_mut(&app_key) {
        customer.token = None;
    }
    Ok(axum::Json(json!({"code": 200, "message": "접근토큰 폐기에 성공하였습니다"})).into_response())
}

fn customer_of_revoke(simulation: &Simulation, body: &Bytes) -> Result<String, Refusal> {
    let mut request: Value = serde_json::from_slice(body).unwrap_or_default();
    if let Some(fields) = request.as_object_mut() {
        fields.insert("grant_type".into(), "client_credentials".into());
    }
    customer_of(simulation, &Bytes::from(request.to_string()), "appsecret")
}
