//! Ready, stopping, stopped.

use crate::Metrics;
use axum::Router;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// A request to stop. Cheap to clone; usable from tasks ([`Stop::wait`]) and from plain threads ([`Stop::requested`]).
#[derive(Clone, Debug, Default)]
pub struct Stop(CancellationToken);

impl Stop {
    /// One that nobody has requested yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the stop was requested.
    pub fn requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Returns once the stop is requested.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }

    /// Requests the stop.
    pub fn request(&self) {
        self.0.cancel();
    }
}

/// What a service tells the outside about itself, and is told. Cheap to clone.
#[derive(Clone)]
pub struct Lifecycle(Arc<State>);

struct State {
    ready: AtomicBool,
    stop: Stop,
    metrics: Metrics,
    routes: Mutex<Option<Router>>,
}

impl Lifecycle {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self(Arc::new(State { ready: AtomicBool::new(false), stop: Stop::new(), metrics, routes: Mutex::new(None) }))
    }

    /// Turns `/readyz` to 200. Call it when every port is bound and every dependency was checked.
    pub fn ready(&self) {
        if !self.0.stop.requested() {
            self.0.ready.store(true, Ordering::Release);
            tracing::info!("ready");
        }
    }

    /// Turns `/readyz` to 503, for as long as the service cannot do its work.
    pub fn not_ready(&self) {
        self.0.ready.store(false, Ordering::Release);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }

    /// The stop request.
    pub fn stop(&self) -> Stop {
        self.0.stop.clone()
    }

    /// Where metrics are registered; `/metrics` shows them.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Serves the service's own routes on the admin port, from now on, beside `/livez`, `/readyz` and `/metrics`.
    pub fn routes(&self, routes: Router) {
        *self.0.routes.lock().unwrap_or_else(PoisonError::into_inner) = Some(routes);
    }

    pub(crate) fn own_routes(&self) -> Option<Router> {
        self.0.routes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs `work` on a plain thread of that name and returns what it returned; its panic becomes an error.
///
/// # Errors
/// Whatever `work` returned, or that the thread could not start or panicked.
pub async fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (done, result) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let result = work();
        if done.send(result).is_err() {
            tracing::debug!("nobody waited for this thread");
        }
    })?;
    match result.await {
        Ok(result) => {
            if thread.join().is_err() {
                anyhow::bail!("thread {name} panicked after its work");
            }
            result
        }
        Err(_) => Err(anyhow::anyhow!("thread {name} panicked; its message is in the log")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_reaches_tasks_and_threads() {
        let stop = Stop::new();
        let seen = stop.clone();
        let thread = on_thread("reader", move || {
            while !seen.requested() {
                std::thread::yield_now();
            }
            Ok(7)
        });
        stop.request();
        stop.wait().await;
        assert_eq!(thread.await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_panicking_thread_is_an_error() {
        let result = on_thread::<()>("worker", || panic!("as the test wants")).await;
        assert!(result.unwrap_err().to_string().contains("worker"));
    }
}
