//! The wire port: the venues' WebSocket and REST on one address, and the ways in which it refuses.
//!
//! `/bitstamp` is Bitstamp's WebSocket, `/bitstamp/api/v2/…` its REST; `/binance/ws[/<stream>…]` and `/binance/stream?streams=…` are Binance's
//! WebSockets, `/binance/api/v3/…` its REST; `/upbit/websocket/v1` and `/upbit/v1/…` are Upbit's;
//! `/kis`, `/kis/tryitout[/…]` and `/kis/oauth2/…` are KIS's, `/kiwoom/api/dostk/…` and `/kiwoom/oauth2/…` Kiwoom's; `/series/<source>/…` are the
//! sources of monthly series. Next: `connection.rs`.

use crate::connection::{self, Close};
use crate::faults::FaultBody;
use crate::market::Venue;
use crate::simulation::Simulation;
use crate::{binance, bitstamp, kis, kiwoom, series, upbit};
use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use hyper_util::rt::TokioIo;
use marketflow_runtime::Stop;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::{debug, info, warn};

type Shared = State<Arc<Simulation>>;

/// The bound wire port.
pub struct Wire {
    simulation: Arc<Simulation>,
    listener: WireListener,
}

impl Wire {
    /// Binds the configured address.
    ///
    /// # Errors
    /// The address and why it cannot be had.
    pub fn bind(simulation: Arc<Simulation>) -> anyhow::Result<Wire> {
        let address = simulation.config.wire.listen;
        let listener = listen(address, simulation.config.wire.send_buffer_bytes)
            .with_context(|| format!("cannot listen on {address}; choose another address with --set wire.listen=HOST:PORT"))?;
        let address = listener.local_addr()?;
        info!(%address, "playing on the wire");
        Ok(Wire { listener: WireListener { simulation: simulation.clone(), address, listener: Some(listener) }, simulation })
    }

    /// The address bound, with the port taken for port 0.
    pub fn address(&self) -> SocketAddr {
        self.listener.address
    }

    /// Serves until the stop is requested; then connections are closed.
    ///
    /// # Errors
    /// The server's own failure.
    pub async fn serve(self, stop: Stop) -> anyhow::Result<()> {
        let Wire { simulation, listener } = self;
        let serving = axum::serve(listener, routes(simulation.clone()));
        tokio::select! {
            result = serving => result.context("the wire port failed"),
            () = stop.wait() => {
                for connection in simulation.hub.connections() {
                    connection.close(Close::Frame(1001, "going away"));
                }
                Ok(())
            }
        }
    }
}

fn listen(address: SocketAddr, send_buffer_bytes: u32) -> anyhow::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if send_buffer_bytes > 0 {
        socket.set_send_buffer_size(send_buffer_bytes)?; // accepted sockets inherit it
    }
    socket.bind(address)?;
    Ok(socket.listen(1024)?)
}

/// Accepts connections, except while the fault `refuse_connect` keeps the port closed.
struct WireListener {
    simulation: Arc<Simulation>,
    address: SocketAddr,
    listener: Option<TcpListener>,
}

impl Listener for WireListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let simulation = self.simulation.clone();
            if let Some(until) = simulation.refusals.connect_refused_until() {
                self.listener = None; // closed: the kernel refuses
                tokio::time::sleep_until(until.into()).await;
                continue;
            }
            let Some(listener) = &self.listener else {
                match listen(self.address, simulation.config.wire.send_buffer_bytes) {
                    Ok(listener) => self.listener = Some(listener),
                    Err(problem) => {
                        warn!(error = %problem, "the wire port cannot be opened again yet");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
                continue;
            };
            tokio::select! {
                () = simulation.refusals.connect_changed.notified() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        if let Err(problem) = stream.set_nodelay(true) {
                            debug!(error = %problem, "no TCP_NODELAY");
                        }
                        return (stream, peer);
                    }
                    Err(problem) => {
                        warn!(error = %problem, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// All routes of the wire port.
fn routes(simulation: Arc<Simulation>) -> Router {
    let bitstamp = Router::new().merge(bitstamp::rest::routes()).layer(from_fn_with_state(simulation.clone(), bitstamp_rest));
    let binance = Router::new().merge(binance::rest::routes()).layer(from_fn_with_state(simulation.clone(), binance_rest));
    let upbit = Router::new().merge(upbit::rest::routes()).layer(from_fn_with_state(simulation.clone(), upbit_rest));
    let kis = Router::new().merge(kis::rest::routes()).layer(from_fn_with_state(simulation.clone(), kis_rest));
    let kiwoom = Router::new().merge(kiwoom::rest::routes()).layer(from_fn_with_state(simulation.clone(), kiwoom_rest));
    Router::new()
        .route("/bitstamp", get(bitstamp_socket))
        .route("/bitstamp/", get(bitstamp_socket))
        .route("/binance/ws", get(binance_socket))
        .route("/binance/ws/{*streams}", get(binance_socket))
        .route("/binance/stream", get(binance_socket))
        .route("/upbit/websocket/v1", get(upbit_socket))
        .nest("/bitstamp", bitstamp)
        .nest("/binance", binance)
        .nest("/upbit", upbit)
        .route("/kis", get(kis_socket))
        .route("/kis/tryitout", get(kis_socket))
        .route("/kis/tryitout/{*tr_id}", get(kis_socket))
        .nest("/kis", kis)
        .route("/kiwoom/api/dostk/websocket", get(kiwoom_socket))
        .nest("/kiwoom", kiwoom)
        .nest("/series", series::routes())
        .with_state(simulation)
}

async fn bitstamp_rest(State(simulation): Shared, request: Request, next: Next) -> Response {
    rest(&simulation, Venue::Bitstamp, async {
        match simulation.bitstamp_ledger.admit(&simulation) {
            Ok(()) => next.run(request).await,
            Err(refusal) => *refusal,
        }
    })
    .await
}

async fn binance_rest(State(simulation): Shared, request: Request, next: Next) -> Response {
    let weight = binance::rest::weight(request.uri().path(), request.uri().query().unwrap_or_default());
    rest(&simulation, Venue::Binance, async {
        match simulation.binance_ledger.admit(&simulation, weight) {
            Ok(used) => {
                let mut response = next.run(request).await;
                response.headers_mut().insert("x-mbx-used-weight-1m", HeaderValue::from(used));
                response
            }
            Err(refusal) => *refusal,
        }
    })
    .await
}

async fn upbit_rest(State(simulation): Shared, request: Request, next: Next) -> Response {
    let group = upbit::rest::group(request.uri().path());
    rest(&simulation, Venue::Upbit, async {
        match simulation.upbit_ledger.admit(&simulation, group) {
            Ok(remaining) => {
                let mut response = next.run(request).await;
                if let Ok(remaining) = HeaderValue::from_str(&remaining) {
                    response.headers_mut().insert("remaining-req", remaining);
                }
                response
            }
            Err(refusal) => *refusal,
        }
    })
    .await
}

async fn kis_rest(State(simulation): Shared, request: Request, next: Next) -> Response {
    rest(&simulation, Venue::Kis, async { next.run(request).await }).await
}

async fn kiwoom_rest(State(simulation): Shared, request: Request, next: Next) -> Response {
    rest(&simulation, Venue::Kiwoom, async { next.run(request).await }).await
}

/// A REST answer, or the failure that a fault puts in its place; dated with virtual time.
async fn rest(simulation: &Simulation, venue: Venue, answer: impl Future<Output = Response>) -> Response {
    let mut response = match refusal(simulation, venue) {
        Some(refusal) => refusal,
        None => answer.await,
    };
    if let Some(date) = http_date(simulation.clock.now_us()) {
        response.headers_mut().insert(header::DATE, date);
    }
    simulation.metrics.request(venue, response.status().as_u16());
    response
}

fn refusal(simulation: &Simulation, venue: Venue) -> Option<Response> {
    if simulation.refusals.region_refused(venue) {
        return Some(region_refused(venue));
    }
    let failure = simulation.refusals.next_failure(venue)?;
    let status = failure.status.unwrap_or(503);
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut response = match failure.body.unwrap_or_default() {
        FaultBody::Json => {
            let body = match venue {
                Venue::Bitstamp => bitstamp::rest::error_body(status),
                Venue::Binance => binance::rest::error_body(status),
                Venue::Upbit => upbit::rest::error_body(status),
                Venue::Kis => kis::rest::error_body(status),
                Venue::Kiwoom => kiwoom::rest::error_body(status),
            };
            (code, axum::Json(body)).into_response()
        }
        FaultBody::Html => {
            let page = format!(
                "<!DOCTYPE html><html><head><title>{code}</title></head><body><h1>{code}</h1><p>Request unsuccessful.</p></body></html>"
            );
            (code, Html(page)).into_response()
        }
        FaultBody::Empty => code.into_response(),
    };
    if let Some(retry_after) = failure.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after.as_secs()));
    }
    Some(response)
}

fn region_refused(venue: Venue) -> Response {
    let status = StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS;
    match venue {
        Venue::Bitstamp | Venue::Upbit | Venue::Kis | Venue::Kiwoom => {
            (status, Html("<html><body><h1>451 Unavailable For Legal Reasons</h1></body></html>")).into_response()
        }
        Venue::Binance => {
            let message = "Service unavailable from a restricted location according to 'b. Eligibility' in the terms of use.";
            (status, axum::Json(serde_json::json!({"code": 0, "msg": message}))).into_response()
        }
    }
}

/// An instant as an HTTP date.
fn http_date(time_us: i64) -> Option<HeaderValue> {
    let time = jiff::Timestamp::from_microsecond(time_us).ok()?;
    HeaderValue::from_str(&time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()).ok()
}

async fn bitstamp_socket(State(simulation): Shared, request: Request) -> Response {
    if simulation.refusals.region_refused(Venue::Bitstamp) {
        return region_refused(Venue::Bitstamp);
    }
    let ping_every = simulation.config.bitstamp.ping_every;
    upgrade(simulation, request, Venue::Bitstamp, (false, false), Vec::new(), ping_every)
}

async fn binance_socket(
    State(simulation): Shared,
    Query(parameters): Query<HashMap<String, String>>,
    request: Request,
) -> Response {
    if simulation.refusals.region_refused(Venue::Binance) {
        return region_refused(Venue::Binance);
    }
    if !simulation.binance_ledger.admit_connection(&simulation) {
        return (StatusCode::TOO_MANY_REQUESTS, "Too many connection attempts").into_response();
    }
    let path = request.uri().path();
    let combined = path.ends_with("/stream");
    let streams = if combined {
        parameters.get("streams").cloned().unwrap_or_default()
    } else {
        path.split_once("/ws/").map_or_else(String::new, |(_, streams)| streams.to_owned())
    };
    let streams: Vec<String> = streams.split('/').filter(|stream| !stream.is_empty()).map(str::to_owned).collect();
    if streams.len() > simulation.config.binance.streams {
        return (StatusCode::BAD_REQUEST, "Too many streams").into_response();
    }
    let microseconds = parameters.get("timeUnit").is_some_and(|unit| unit.eq_ignore_ascii_case("microsecond"));
    let ping_every = simulation.config.binance.ping_every;
    upgrade(simulation, request, Venue::Binance, (combined, microseconds), streams, ping_every)
}

async fn upbit_socket(State(simulation): Shared, request: Request) -> Response {
    if simulation.refusals.region_refused(Venue::Upbit) {
        return region_refused(Venue::Upbit);
    }
    if !simulation.upbit_ledger.admit_connection(&simulation) {
        return (StatusCode::TOO_MANY_REQUESTS, "Too many API requests.").into_response();
    }
    let ping_every = simulation.config.upbit.up_every;
    upgrade(simulation, request, Venue::Upbit, (false, false), Vec::new(), ping_every)
}

async fn kis_socket(State(simulation): Shared, request: Request) -> Response {
    if simulation.refusals.region_refused(Venue::Kis) {
        return region_refused(Venue::Kis);
    }
    let ping_every = simulation.config.kis.ping_every;
    upgrade(simulation, request, Venue::Kis, (false, false), Vec::new(), ping_every)
}

async fn kiwoom_socket(State(simulation): Shared, request: Request) -> Response {
    if simulation.refusals.region_refused(Venue::Kiwoom) {
        return region_refused(Venue::Kiwoom);
    }
    let ping_every = simulation.config.kiwoom.ping_every;
    upgrade(simulation, request, Venue::Kiwoom, (false, false), Vec::new(), ping_every)
}

/// Turns an HTTP request into a WebSocket connection.
fn upgrade(
    simulation: Arc<Simulation>,
    mut request: Request,
    venue: Venue,
    (combined, microseconds): (bool, bool),
    streams: Vec<String>,
    ping_every: Duration,
) -> Response {
    let headers = request.headers();
    let is_websocket = headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| is_websocket) else {
        return (StatusCode::BAD_REQUEST, "this path speaks WebSocket").into_response();
    };
    let accept = derive_accept_key(key.as_bytes());
    let Some(upgrading) = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>() else {
        return StatusCode::UPGRADE_REQUIRED.into_response();
    };
    tokio::spawn(async move {
        let upgraded = match upgrading.await {
            Ok(upgraded) => upgraded,
            Err(problem) => return debug!(error = %problem, "the client left during the handshake"),
        };
        let connection = simulation.hub.join(venue, simulation.clock.now_us(), combined, microseconds);
        info!(connection = connection.id, venue = venue.name(), "connected");
        simulation.metrics.connections.inc();
        if let Err(problem) = binance::socket::subscribe(&simulation, &connection, &streams) {
            warn!(problem, "streams of the address");
        }
        let on_message = |message| match venue {
            Venue::Bitstamp => bitstamp::socket::on_message(&simulation, &connection, message),
            Venue::Binance => binance::socket::on_message(&simulation, &connection, message),
            Venue::Upbit => upbit::socket::on_message(&simulation, &connection, message),
            Venue::Kis => kis::socket::on_message(&simulation, &connection, message),
            Venue::Kiwoom => kiwoom::socket::on_message(&simulation, &connection, message),
        };
        let on_ping_time = || match venue {
            Venue::Bitstamp => {
                connection.send_ping(b"");
            }
            Venue::Binance => binance::socket::on_ping_time(&simulation, &connection),
            Venue::Upbit => upbit::socket::on_ping_time(&simulation, &connection),
            Venue::Kis => kis::socket::on_ping_time(&simulation, &connection),
            Venue::Kiwoom => kiwoom::socket::on_ping_time(&connection),
        };
        connection::serve(TokioIo::new(upgraded), connection.clone(), ping_every, on_message, on_ping_time).await;
        simulation.hub.leave(&connection);
        simulation.metrics.connections.dec();
        info!(connection = connection.id, venue = venue.name(), "disconnected");
    });
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .body(Body::empty());
    answer.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}
