//! The simulator's own routes on the admin port; `/livez`, `/readyz` and `/metrics` are the runtime's. Next: `docs/simulator.md`.

use crate::clock::{ClockReading, Speed};
use crate::faults::FaultSpec;
use crate::simulation::{Simulation, Status};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

type Shared = State<Arc<Simulation>>;

/// The routes.
pub fn routes(simulation: Arc<Simulation>) -> Router {
    Router::new()
        .route("/clock", get(clock))
        .route("/status", get(status))
        .route("/start", post(start))
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/speed", post(speed))
        .route("/faults", get(faults).post(add_faults))
        .route("/truth", get(truth))
        .merge(crate::series::admin())
        .merge(crate::kis::investors::admin())
        .with_state(simulation)
}

async fn clock(State(simulation): Shared) -> Json<ClockReading> {
    Json(simulation.clock.reading())
}

async fn status(State(simulation): Shared) -> Json<Status> {
    Json(simulation.status())
}

async fn start(State(simulation): Shared) -> Json<ClockReading> {
    simulation.clock.start();
    changed(&simulation)
}

async fn pause(State(simulation): Shared) -> Json<ClockReading> {
    simulation.clock.pause(true);
    changed(&simulation)
}

async fn resume(State(simulation): Shared) -> Json<ClockReading> {
    simulation.clock.pause(false);
    changed(&simulation)
}

/// `{"speed": 60}` or `{"speed": "max"}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpeedRequest {
    speed: Value,
}

async fn speed(State(simulation): Shared, Json(request): Json<SpeedRequest>) -> Response {
    let text = request.speed.as_str().map_or_else(|| request.speed.to_string(), str::to_owned);
    match text.parse::<Speed>() {
        Ok(speed) => {
            simulation.clock.set_speed(speed);
            changed(&simulation).into_response()
        }
        Err(problem) => refuse(&problem),
    }
}

fn changed(simulation: &Simulation) -> Json<ClockReading> {
    simulation.control.notify_waiters();
    Json(simulation.clock.reading())
}

async fn faults(State(simulation): Shared) -> Json<Value> {
    let given: Vec<Value> =
        simulation.faults.list().into_iter().map(|(spec, left)| json!({"fault": spec, "left": left})).collect();
    Json(json!({"given": given, "struck": simulation.truth.faults()}))
}

/// Takes one fault or a list of them.
async fn add_faults(State(simulation): Shared, body: String) -> Response {
    let specs = serde_json::from_str::<Value>(&body).and_then(|value| {
        if value.is_array() {
            serde_json::from_value::<Vec<FaultSpec>>(value)
        } else {
            serde_json::from_value(value).map(|spec| vec![spec])
        }
    });
    let specs = match specs {
        Ok(specs) => specs,
        Err(problem) => return refuse(&problem),
    };
    let added: anyhow::Result<Vec<usize>> =
        specs.into_iter().map(|spec| simulation.faults.add(spec, &simulation.hub.markets)).collect();
    match added {
        Ok(numbers) => {
            simulation.control.notify_waiters();
            Json(json!({"faults": numbers})).into_response()
        }
        Err(problem) => refuse(&problem),
    }
}

fn refuse(problem: &dyn std::fmt::Display) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({"error": problem.to_string()}))).into_response()
}

async fn truth(State(simulation): Shared) -> Response {
    let written = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        simulation.write_truth_to(&mut text).map(|()| text)
    });
    match written.await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, "application/x-ndjson")], text).into_response(),
        Ok(Err(problem)) => (StatusCode::INTERNAL_SERVER_ERROR, problem.to_string()).into_response(),
        Err(problem) => (StatusCode::INTERNAL_SERVER_ERROR, problem.to_string()).into_response(),
    }
}
