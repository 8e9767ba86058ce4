//! The admin port: `/livez`, `/readyz`, `/metrics`, and whatever routes the service adds.

use crate::Lifecycle;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tower::ServiceExt;

/// Section `[admin]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// Address of the admin port; port 0 takes a free one and logs it.
    pub listen: SocketAddr,
    /// How long the service may take from the stop request to its end.
    #[serde(with = "humantime_serde", default = "default_drain_deadline")]
    pub drain_deadline: Duration,
}

fn default_drain_deadline() -> Duration {
    Duration::from_secs(30)
}

pub(crate) async fn serve(listener: TcpListener, lifecycle: Lifecycle) {
    if let Err(problem) = axum::serve(listener, router(lifecycle)).await {
        tracing::error!(error = %problem, "the admin port closed");
    }
}

fn router(lifecycle: Lifecycle) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(own_routes)
        .with_state(lifecycle)
}

async fn readyz(State(lifecycle): State<Lifecycle>) -> Response {
    if lifecycle.is_ready() {
        "ready\n".into_response()
    } else if lifecycle.stop().requested() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response()
    }
}

async fn metrics(State(lifecycle): State<Lifecycle>) -> Response {
    match lifecycle.metrics().text() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(problem) => (StatusCode::INTERNAL_SERVER_ERROR, problem.to_string()).into_response(),
    }
}

async fn own_routes(State(lifecycle): State<Lifecycle>, request: Request) -> Response {
    match lifecycle.own_routes() {
        Some(routes) => routes.oneshot(request).await.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    #[tokio::test]
    async fn the_port_answers_before_ready_after_and_for_routes_added_later() {
        let lifecycle = Lifecycle::new(Metrics::new(crate::program!("example")));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(serve(listener, lifecycle.clone()));
        let status = async |path: &str| reqwest::get(format!("{base}{path}")).await.unwrap().status().as_u16();

        assert_eq!((status("/livez").await, status("/readyz").await, status("/own").await), (200, 503, 404));
        lifecycle.ready();
        lifecycle.routes(Router::new().route("/own", get(async || "mine")));
        assert_eq!((status("/readyz").await, status("/own").await, status("/metrics").await), (200, 200, 200));
        lifecycle.stop().request();
        lifecycle.not_ready();
        assert_eq!(status("/readyz").await, 503);
        server.abort();
    }
}
