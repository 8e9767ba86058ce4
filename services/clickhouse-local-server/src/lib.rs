//! ClickHouse's HTTP interface over the ClickHouse engine as a library (`libchdb.so`): the local default, so that a laptop needs no server.
//!
//! The same SQL runs on a ClickHouse server, which is what production uses. It lacks users beyond a list, replication, TLS, the native
//! protocol and external data; `README.md` says what else differs.
//!
//! Read `config.rs`, `ffi.rs`, `engine.rs`, then a request's way: `http.rs`, `execute.rs` (with `sql.rs`, `access.rs`, `session.rs`),
//! `native.rs`, `output.rs`, `codec.rs`.
//!
//! Next: `config.rs`.

mod access;
mod codec;
mod config;
mod engine;
mod execute;
mod fault;
mod ffi;
mod http;
mod metrics;
mod native;
mod output;
mod session;
mod sql;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use marketflow_runtime::{Exit, ExitContext, Lifecycle};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{info, warn};

pub use config::{Access, Config, DEFAULTS, Limits, ServerConfig, UserConfig};
pub use engine::OpenError;

/// Serves until a stop is requested, then drains and closes the data folder.
///
/// # Errors
/// When the port is taken, the engine is not there or does not start, or the data folder belongs to another version or process.
pub async fn serve(config: Config, lifecycle: Lifecycle) -> anyhow::Result<()> {
    let listen = config.server.listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}; choose another address with --set server.listen=HOST:PORT"))
        .exit(Exit::Usage)?;
    let listen = listener.local_addr()?;

    let for_engine = config.clone();
    let engine = marketflow_runtime::on_thread("engine", move || {
        engine::Engine::open(&for_engine).map_err(|error| match error {
            OpenError::Usage(_) => anyhow::Error::from(error).context(Exit::Usage),
            OpenError::Engine(_) => anyhow::Error::from(error).context(Exit::Failed),
        })
    })
    .await?;
    let version = engine.version.clone();

    let limits = config.limits.clone();
    let shared = Arc::new(execute::Shared {
        engine,
        sessions: session::Sessions::new(limits.sessions),
        limits: limits.clone(),
        metrics: metrics::Metrics::new(lifecycle.metrics()),
    });
    let places = Arc::new(Semaphore::new(limits.concurrent_queries));
    let app = Arc::new(http::App { shared: Arc::clone(&shared), config, places: Arc::clone(&places) });

    let stop = lifecycle.stop();
    let stopping = stop.clone();
    let server = axum::serve(listener, http::router(app)).with_graceful_shutdown(async move { stopping.wait().await });
    let mut server = tokio::spawn(server.into_future());
    let expiry = tokio::spawn(expire_sessions(Arc::clone(&shared)));
    info!(
        %listen,
        version,
        "the local default: the ClickHouse engine as a library behind ClickHouse's HTTP interface; production uses a ClickHouse server \
         by URL with the same SQL"
    );
    lifecycle.ready();

    // A server without open connections may end between the request to stop and our hearing of it.
    let serving = tokio::select! {
        ended = &mut server => {
            ended.context("the server's task ended early")?.context("the server ended early")?;
            None
        }
        () = stop.wait() => Some(server),
    };
    drain(&shared, &places, &limits, serving).await;
    expiry.abort();
    Ok(())
}

/// Running queries get their time, then they are cancelled; then the data folder is closed.
async fn drain(
    shared: &Arc<execute::Shared>,
    places: &Semaphore,
    limits: &Limits,
    serving: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
) {
    let all = u32::try_from(limits.concurrent_queries).unwrap_or(u32::MAX);
    let over = async {
        if let Some(server) = serving
            && let Err(error) = server.await
        {
            warn!(error = %error, "the server's task ended badly");
        }
        drop(places.acquire_many(all).await);
    };
    if tokio::time::timeout(limits.drain, over).await.is_err() {
        warn!("queries still run: cancelling them");
        let for_kill = Arc::clone(shared);
        drop(tokio::task::spawn_blocking(move || for_kill.engine.kill("")).await);
        if tokio::time::timeout(Duration::from_secs(5), places.acquire_many(all)).await.is_err() {
            warn!("queries do not end; leaving them: nothing unacknowledged is lost by that");
            return;
        }
    }
    let for_close = Arc::clone(shared);
    let close = tokio::task::spawn_blocking(move || {
        for_close.sessions.close_all();
        for_close.engine.close();
    });
    if close.await.is_ok() {
        info!("the data folder is closed");
    }
}

async fn expire_sessions(shared: Arc<execute::Shared>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    loop {
        ticks.tick().await;
        let shared = Arc::clone(&shared);
        // A session's connection may take a moment to close: not on a thread that serves sockets.
        drop(tokio::task::spawn_blocking(move || shared.sessions.expire()).await);
    }
}
