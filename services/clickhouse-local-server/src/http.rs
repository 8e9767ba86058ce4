//! ClickHouse's HTTP interface: what a request's URL and headers mean, and how an answer is dressed.
//!
//! Lacks external data in forms, roles, progress headers and TLS (see README.md).
//!
//! Next: `metrics.rs`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use uuid::Uuid;

use crate::access::{self, Credentials};
use crate::codec::Coding;
use crate::config::Config;
use crate::execute::{self, BodyReader, Job, Shared};
use crate::fault::{Fault, code};
use crate::output::{Delivery, Head, Part};
use crate::session::SessionRequest;

/// A statement is parsed by recursion; ClickHouse gives its threads as much.
const QUERY_STACK_BYTES: usize = 8 << 20;
/// A form holds a query and its parameters, no data.
const FORM_BYTES: u64 = 4 << 20;
/// What is read and thrown away of a body nobody wants, so that the client gets to reading the answer.
const UNWANTED_BODY_BYTES: usize = 64 << 20;

/// Time the last piece of a failed result gets to reach the socket before the connection is cut.
const BEFORE_CUT: Duration = Duration::from_millis(100);

/// What the handlers share.
pub(crate) struct App {
    pub(crate) shared: Arc<Shared>,
    pub(crate) config: Config,
    pub(crate) places: Arc<Semaphore>,
}

pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/ping", get(ok))
        .route("/replicas_status", get(ok))
        .route("/", get(clickhouse).post(clickhouse).put(clickhouse))
        .route("/query", get(clickhouse).post(clickhouse).put(clickhouse))
        .fallback(unknown_path)
        .with_state(app)
}

async fn ok() -> &'static str {
    "Ok.\n"
}

async fn unknown_path(request: Request) -> Response {
    let text =
        format!("There is no handle {}\n\nUse / or /ping for health checks, and POST a query to /.\n", request.uri().path());
    (StatusCode::NOT_FOUND, text).into_response()
}

async fn clickhouse(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let is_get = !matches!(parts.method, Method::POST | Method::PUT);
    let (form, body) = match form(&parts.headers, body, app.config.limits.receive_timeout).await {
        Ok(read) => read,
        Err(fault) => return failure(&app, &fault, ""),
    };
    // Also a refused request's body is read, within bounds: a client that still writes would not see the answer.
    let (body_pieces, pieces) = mpsc::channel(4);
    tokio::spawn(forward_body(body, body_pieces, app.config.limits.receive_timeout));
    let query_id = Uuid::new_v4().to_string();
    let arguments = match Arguments::read(&parts, form, query_id) {
        Ok(arguments) => arguments,
        Err(fault) => return failure(&app, &fault, ""),
    };
    if is_get && arguments.query.is_empty() {
        return "Ok.\n".into_response();
    }
    let query_id = arguments.query_id.clone();
    match answer(&app, is_get, arguments, BodyReader::new(pieces)).await {
        Ok(response) => response,
        Err(fault) => failure(&app, &fault, &query_id),
    }
}

/// Starts the query on a thread of its own and waits for the first it has to say.
async fn answer(app: &Arc<App>, is_get: bool, arguments: Arguments, body: BodyReader) -> Result<Response, Fault> {
    let user = access::authenticate(&app.config.users, &arguments.credentials)?;
    let limits = &app.config.limits;
    let session = match arguments.session_id {
        None => None,
        Some(id) => {
            let timeout = execute::session_timeout(arguments.session_timeout.as_deref(), limits.session_timeout)?;
            Some(SessionRequest { id, timeout, must_exist: arguments.session_check })
        }
    };
    let Ok(Ok(place)) = timeout(limits.queue_wait, Arc::clone(&app.places).acquire_owned()).await else {
        app.shared.metrics.refused.inc();
        let what = format!("Too many simultaneous queries. Maximum: {} (limits.concurrent_queries)", limits.concurrent_queries);
        return Err(Fault::new(code::TOO_MANY_SIMULTANEOUS_QUERIES, what));
    };

    let key = Uuid::new_v4().to_string();
    let guard = CancelOnDrop::new(Arc::clone(&app.shared), key.clone());
    let buffer = arguments.buffer.unwrap_or(limits.response_buffer_bytes).min(limits.whole_response_bytes);
    let job = Job {
        user,
        get: is_get,
        query_id: arguments.query_id.clone(),
        tag: Uuid::new_v4().simple().to_string()[..16].to_owned(),
        key,
        query: arguments.query,
        body,
        body_coding: arguments.body_coding,
        body_blocks: arguments.decompress,
        database: arguments.database,
        format: arguments.format,
        settings: arguments.settings,
        parameters: arguments.parameters,
        session,
        protocol_version: arguments.protocol_version,
        delivery: Delivery {
            coding: arguments.coding,
            blocks: arguments.compress,
            whole: arguments.wait_end,
            buffer,
            whole_limit: limits.whole_response_bytes,
        },
        cancelled: Arc::clone(&guard.cancelled),
    };
    let (sender, mut parts) = mpsc::channel(4);
    let shared = Arc::clone(&app.shared);
    let work = move || {
        shared.metrics.running.inc();
        execute::run(&shared, job, &sender);
        shared.metrics.running.dec();
        drop(place);
    };
    std::thread::Builder::new()
        .name("query".to_owned())
        .stack_size(QUERY_STACK_BYTES)
        .spawn(work)
        .map_err(|error| Fault::internal(format!("no thread for the query: {error}")))?;

    match parts.recv().await {
        Some(Part::Whole(head, bytes)) => {
            guard.disarm();
            Ok(dressed(app, &arguments.query_id, &head, Body::from(bytes)))
        }
        Some(Part::Head(head)) => Ok(dressed(app, &arguments.query_id, &head, Body::from_stream(rest(parts, guard)))),
        Some(Part::Failed(fault)) => {
            guard.disarm();
            Err(fault)
        }
        Some(Part::Body(_) | Part::End | Part::Cut) | None => Err(Fault::internal("the query ended without an answer")),
    }
}

/// The pieces of a body; an error cuts the connection, so that the client sees the body is not whole.
fn rest(parts: mpsc::Receiver<Part>, guard: CancelOnDrop) -> impl Stream<Item = io::Result<Bytes>> {
    stream::unfold(Some((parts, guard)), async |state| {
        let (mut parts, guard) = state?;
        match parts.recv().await {
            Some(Part::Body(bytes)) => Some((Ok(bytes), Some((parts, guard)))),
            Some(Part::End) => {
                guard.disarm();
                None
            }
            _ => {
                guard.disarm();
                // An error drops what was not written to the socket yet; while we wait, the exception frame gets out.
                tokio::time::sleep(BEFORE_CUT).await;
                Some((Err(io::Error::other("the query failed while its result was sent")), None))
            }
        }
    })
}

/// Cancels a query whose client went away: the request's future or its response's body is dropped then.
struct CancelOnDrop {
    shared: Arc<Shared>,
    key: String,
    cancelled: Arc<AtomicBool>,
    armed: AtomicBool,
}

impl CancelOnDrop {
    fn new(shared: Arc<Shared>, key: String) -> Self {
        Self { shared, key, cancelled: Arc::new(AtomicBool::new(false)), armed: AtomicBool::new(true) }
    }

    fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if !self.armed.load(Ordering::Relaxed) {
            return;
        }
        self.cancelled.store(true, Ordering::Relaxed);
        let (shared, key) = (Arc::clone(&self.shared), std::mem::take(&mut self.key));
        let kill = move || match shared.engine.kill(&key) {
            Ok(()) => tracing::debug!(key, "cancelled: the client is gone"),
            Err(fault) => tracing::warn!(key, error = %fault, "a query whose client is gone is not cancelled"),
        };
        if let Err(error) = std::thread::Builder::new().name("kill".to_owned()).spawn(kill) {
            tracing::warn!(error = %error, "no thread to cancel a query");
        }
    }
}

/// The fields of a form, which mean what parameters of the URL mean, and what is left of the body: nothing then. Any other body is untouched.
async fn form(headers: &HeaderMap, body: Body, silence: Duration) -> Result<(Vec<(String, String)>, Body), Fault> {
    let kind =
        headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).filter(|kind| kind.starts_with("multipart/"));
    let Some(kind) = kind else { return Ok((Vec::new(), body)) };
    let unreadable = |error: multer::Error| Fault::new(code::BAD_ARGUMENTS, format!("the form cannot be read: {error}"));
    let limits = multer::SizeLimit::new().whole_stream(FORM_BYTES);
    let constraints = multer::Constraints::new().size_limit(limits);
    let boundary = multer::parse_boundary(kind).map_err(unreadable)?;
    let mut form = multer::Multipart::with_constraints(body.into_data_stream(), boundary, constraints);
    let read = async {
        let mut fields = Vec::new();
        while let Some(field) = form.next_field().await.map_err(unreadable)? {
            let name = field.name().unwrap_or_default().to_owned();
            if name.is_empty() || field.file_name().is_some_and(|file| !file.is_empty() && file != name) {
                drop(field);
                // read to its end, within its bounds: a client that still writes would not see the answer
                while let Ok(Some(mut unwanted)) = form.next_field().await {
                    while let Ok(Some(_)) = unwanted.chunk().await {}
                }
                let what = "external data in a form is not supported by the local server: insert it into a table first";
                return Err(Fault::new(code::NOT_IMPLEMENTED, what));
            }
            fields.push((name, field.text().await.map_err(unreadable)?));
        }
        Ok((fields, Body::empty()))
    };
    let late = || Fault::new(code::SOCKET_TIMEOUT, format!("the form did not come within {silence:?} (limits.receive_timeout)"));
    timeout(silence, read).await.unwrap_or_else(|_| Err(late()))
}

/// Hands the body to the query's thread; what the thread no longer wants is read and dropped, within bounds.
async fn forward_body(body: Body, pieces: mpsc::Sender<io::Result<Option<Bytes>>>, silence: Duration) {
    let mut body = body.into_data_stream();
    let mut unwanted = 0;
    loop {
        let piece = match timeout(silence, body.next()).await {
            Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
            Ok(Some(Err(error))) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)),
            Ok(None) => Ok(None),
            Err(_) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing came for {silence:?} (limits.receive_timeout)")))
            }
        };
        let length = match &piece {
            Ok(Some(bytes)) => bytes.len(),
            Ok(None) | Err(_) => usize::MAX,
        };
        if pieces.send(piece).await.is_err() {
            unwanted += length.min(UNWANTED_BODY_BYTES);
        }
        if length == usize::MAX || unwanted >= UNWANTED_BODY_BYTES {
            return;
        }
    }
}

fn dressed(app: &App, query_id: &str, head: &Head, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    common_headers(app, headers, query_id);
    let content_type = head.format.as_deref().map_or("text/plain; charset=UTF-8", content_type);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    set(headers, "x-clickhouse-format", head.format.as_deref().unwrap_or_default());
    set(headers, "x-clickhouse-exception-tag", &head.tag);
    if let Some(summary) = &head.summary {
        set(headers, "x-clickhouse-summary", summary);
    }
    if let Some(coding) = head.coding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    }
    response
}

fn failure(app: &App, fault: &Fault, query_id: &str) -> Response {
    let text = if fault.message.contains("(version ") {
        format!("{}\n", fault.message)
    } else {
        format!("{} (version {})\n", fault.message, app.shared.engine.version)
    };
    tracing::debug!(query_id, code = fault.code, error = %fault, "refused or failed");
    let mut response = (fault.status(), text).into_response();
    let headers = response.headers_mut();
    common_headers(app, headers, query_id);
    set(headers, "x-clickhouse-exception-code", &fault.code.to_string());
    if fault.status() == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"ClickHouse server HTTP API\""));
    }
    response
}

fn common_headers(app: &App, headers: &mut HeaderMap, query_id: &str) {
    set(headers, "x-clickhouse-server-display-name", "clickhouse-local-server");
    set(headers, "x-clickhouse-timezone", &app.shared.engine.timezone);
    set(headers, "x-clickhouse-query-id", query_id);
}

/// Sets a header if there is something to say in characters a header can hold.
fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value)
        && !value.is_empty()
    {
        headers.insert(name, value);
    }
}

fn content_type(format: &str) -> &'static str {
    match format.to_ascii_lowercase().as_str() {
        "json"
        | "jsoncompact"
        | "jsonstrings"
        | "jsoncompactstrings"
        | "jsoncolumns"
        | "jsoncompactcolumns"
        | "jsoncolumnswithmetadata"
        | "jsonobjecteachrow" => "application/json; charset=UTF-8",
        name if name.starts_with("json") || name == "ndjson" => "application/x-ndjson; charset=UTF-8",
        name if name.starts_with("csv") => "text/csv; charset=UTF-8; header=absent",
        name if name.starts_with("tabseparated") || name.starts_with("tsv") => "text/tab-separated-values; charset=UTF-8",
        name if name.starts_with("pretty") || name == "vertical" || name == "values" || name == "markdown" => {
            "text/plain; charset=UTF-8"
        }
        "xml" => "application/xml; charset=UTF-8",
        _ => "application/octet-stream",
    }
}

/// What a request says in its URL and headers.
struct Arguments {
    query: String,
    query_id: String,
    credentials: Credentials,
    database: Option<String>,
    format: Option<String>,
    session_id: Option<String>,
    session_timeout: Option<String>,
    session_check: bool,
    settings: Vec<(String, String)>,
    parameters: Vec<(String, String)>,
    protocol_version: u32,
    wait_end: bool,
    buffer: Option<usize>,
    compress: bool,
    decompress: bool,
    coding: Option<Coding>,
    body_coding: Option<Coding>,
}

impl Arguments {
    fn read(parts: &Parts, form: Vec<(String, String)>, query_id: String) -> Result<Self, Fault> {
        let headers = &parts.headers;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty());
        let body_coding = match text("content-encoding").filter(|name| !name.eq_ignore_ascii_case("identity")) {
            None => None,
            Some(name) => Some(Coding::named(name).ok_or_else(|| {
                Fault::new(code::NOT_IMPLEMENTED, format!("Unknown compression method: {name}; use gzip, deflate, zstd or lz4"))
            })?),
        };
        let mut arguments = Self {
            query: String::new(),
            query_id,
            credentials: credentials(headers)?,
            database: text("x-clickhouse-database").map(str::to_owned),
            format: text("x-clickhouse-format").map(str::to_owned),
            session_id: None,
            session_timeout: None,
            session_check: false,
            settings: Vec::new(),
            parameters: Vec::new(),
            protocol_version: 0,
            wait_end: false,
            buffer: None,
            compress: false,
            decompress: false,
            coding: text("accept-encoding").and_then(Coding::accepted),
            body_coding,
        };
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|error| Fault::new(code::BAD_ARGUMENTS, format!("the URL's parameters cannot be read: {error}")))?;
        for (name, value) in pairs.into_iter().chain(form) {
            arguments.take(name, value)?;
        }
        if HeaderValue::from_str(&arguments.query_id).is_err() {
            return Err(Fault::new(code::BAD_ARGUMENTS, "the query id has characters a header cannot hold"));
        }
        Ok(arguments)
    }

    fn take(&mut self, name: String, value: String) -> Result<(), Fault> {
        let on = value == "1" || value.eq_ignore_ascii_case("true");
        match name.as_str() {
            "query" => self.query.push_str(&value),
            "database" => self.database = Some(value),
            "default_format" => self.format = Some(value).filter(|format| !format.is_empty()).or(self.format.take()),
            "user" => self.credentials.user = Some(value),
            "password" => self.credentials.password = Some(value),
            "query_id" if !value.is_empty() => self.query_id = value,
            "session_id" => self.session_id = Some(value).filter(|id| !id.is_empty()),
            "session_timeout" => self.session_timeout = Some(value),
            "session_check" => self.session_check = on,
            "compress" => self.compress = on,
            "decompress" => self.decompress = on,
            // Said explicitly, 0 asks for each piece as soon as it is there.
            "wait_end_of_query" if !on => self.buffer = self.buffer.or(Some(1)),
            "wait_end_of_query" => self.wait_end = true,
            "buffer_size" => self.buffer = value.parse().ok().filter(|&bytes| bytes > 0),
            "client_protocol_version" => self.protocol_version = value.parse().unwrap_or(0),
            "query_id" | "quota_key" | "stacktrace" => {}
            "role" => return Err(Fault::new(code::NOT_IMPLEMENTED, "roles are not supported by the local server")),
            _ => match name.strip_prefix("param_") {
                Some(parameter) => self.parameters.push((parameter.to_owned(), value)),
                None => {
                    match name.as_str() {
                        "http_wait_end_of_query" => self.wait_end |= on,
                        "enable_http_compression" if !on => self.coding = None,
                        _ => {}
                    }
                    self.settings.push((name, value));
                }
            },
        }
        Ok(())
    }
}

/// Credentials from `X-ClickHouse-User`/`-Key` or Basic authorization; the URL's, read later, win.
fn credentials(headers: &HeaderMap) -> Result<Credentials, Fault> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (user, password) = (text("x-clickhouse-user"), text("x-clickhouse-key"));
    if user.is_some() || password.is_some() {
        return Ok(Credentials { user, password });
    }
    let Some(authorization) = text("authorization") else { return Ok(Credentials::default()) };
    let refused = || Fault::new(code::AUTHENTICATION_FAILED, "the Authorization header is not Basic with user:password");
    let encoded = authorization.strip_prefix("Basic ").ok_or_else(refused)?;
    let decoded = STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(refused)?;
    let (user, password) = decoded.split_once(':').ok_or_else(refused)?;
    Ok(Credentials { user: Some(user.to_owned()), password: Some(password.to_owned()) })
}
