//! Subscriptions at run time, on the admin port: `POST /subscribe` and `/unsubscribe` with `{"instruments":["VENUE:SYMBOL",…]}`,
//! `GET /subscriptions`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use marketflow_model::Instrument;
use marketflow_providers::Provider;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// What is asked of the feed: by a person, or by the ranking.
#[derive(Debug)]
pub enum Request {
    /// Add instruments; answers with those that are new.
    Subscribe(Vec<Instrument>, oneshot::Sender<Result<Vec<Instrument>, String>>),
    /// Take instruments away; answers with those that were there.
    Unsubscribe(Vec<Instrument>, oneshot::Sender<Result<Vec<Instrument>, String>>),
    /// The most active instruments first: those that are followed by rank may change.
    Ranked(Vec<Instrument>),
    /// What is subscribed.
    List(oneshot::Sender<Vec<Subscription>>),
}

/// One line of `GET /subscriptions`.
#[derive(Debug, Serialize)]
pub struct Subscription {
    /// What.
    pub instrument: Instrument,
    /// Whether the venue acknowledged it.
    pub acknowledged: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    instruments: Vec<Instrument>,
}

#[derive(Clone)]
struct Admin {
    provider: &'static Provider,
    requests: mpsc::Sender<Request>,
}

/// The routes.
pub fn routes(provider: &'static Provider, requests: mpsc::Sender<Request>) -> Router {
    Router::new()
        .route("/subscribe", post(subscribe))
        .route("/unsubscribe", post(unsubscribe))
        .route("/subscriptions", get(list))
        .with_state(Admin { provider, requests })
}

async fn subscribe(State(admin): State<Admin>, Json(body): Json<Body>) -> Response {
    admin.change(body.instruments, Request::Subscribe).await
}

async fn unsubscribe(State(admin): State<Admin>, Json(body): Json<Body>) -> Response {
    admin.change(body.instruments, Request::Unsubscribe).await
}

async fn list(State(admin): State<Admin>) -> Response {
    let (answer, answered) = oneshot::channel();
    match (admin.requests.send(Request::List(answer)).await, answered.await) {
        (Ok(()), Ok(subscriptions)) => Json(subscriptions).into_response(),
        _ => stopping(),
    }
}

impl Admin {
    async fn change(
        &self,
        instruments: Vec<Instrument>,
        request: impl FnOnce(Vec<Instrument>, oneshot::Sender<Result<Vec<Instrument>, String>>) -> Request,
    ) -> Response {
        if let Some(foreign) = instruments.iter().find(|instrument| !(self.provider.accepts)(instrument)) {
            let problem =
                format!("{foreign} is not an instrument of {}; write {}:SYMBOL\n", self.provider.id, self.provider.venue);
            return (StatusCode::BAD_REQUEST, problem).into_response();
        }
        let (answer, answered) = oneshot::channel();
        match (self.requests.send(request(instruments, answer)).await, answered.await) {
            (Ok(()), Ok(Ok(changed))) => Json(serde_json::json!({ "changed": changed })).into_response(),
            (Ok(()), Ok(Err(problem))) => (StatusCode::CONFLICT, format!("{problem}\n")).into_response(),
            _ => stopping(),
        }
    }
}

fn stopping() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response()
}
