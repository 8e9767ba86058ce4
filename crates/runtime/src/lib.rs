//! What every service's `main.rs` needs: arguments, layered configuration, tracing, the admin port, signals, a drain deadline, exit codes.
//!
//! ```no_run
//! # #[derive(serde::Serialize, serde::Deserialize)]
//! # struct Config { admin: marketflow_runtime::AdminConfig, log: marketflow_runtime::LogConfig }
//! # const DEFAULTS: &str = "";
//! fn main() -> std::process::ExitCode {
//!     marketflow_runtime::run::<Config, _>(marketflow_runtime::program!("example"), DEFAULTS, async |config, lifecycle| {
//!         // bind every port, check every topic and schema, then:
//!         lifecycle.ready();
//!         lifecycle.stop().wait().await;
//!         Ok(()) // drained
//!     })
//! }
//! ```
//! It knows nothing of markets, Kafka or ClickHouse.
//!
//! Next: `services/producer/src/lib.rs`, the first service on a trade's path.

mod admin;
mod config;
mod env_file;
mod exit;
mod lifecycle;
mod metrics;
mod secret;
mod telemetry;

pub use admin::AdminConfig;
pub use config::{LogConfig, file_or};
pub use env_file::setting;
pub use exit::{Exit, ExitContext};
pub use lifecycle::{Lifecycle, Stop, on_thread};
pub use metrics::Metrics;
pub use secret::Secret;

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

/// What a binary is: written by [`program!`] in its `main.rs`.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// As people start it.
    pub name: &'static str,
    /// What it was built from, where the build said so in `MARKETFLOW_COMMIT`, as `make` does.
    pub commit: Option<&'static str>,
    /// Arguments of its own.
    pub lists: &'static [List],
}

/// An argument that is short for a key that holds a list: `--stocks 005930 000660`.
#[derive(Clone, Copy, Debug)]
pub struct List {
    /// Without the dashes.
    pub name: &'static str,
    /// `section.key`.
    pub key: &'static str,
    /// What one entry is.
    pub entry: &'static str,
    /// In a line.
    pub help: &'static str,
}

impl Program {
    /// With these arguments of its own.
    pub const fn with_lists(self, lists: &'static [List]) -> Self {
        Self { lists, ..self }
    }

    /// Version and commit, as `--version` prints them.
    pub fn version(self) -> &'static str {
        static VERSION: OnceLock<String> = OnceLock::new();
        VERSION.get_or_init(|| format!("{} (commit {})", env!("CARGO_PKG_VERSION"), self.commit()))
    }

    fn commit(self) -> &'static str {
        self.commit.filter(|commit| !commit.is_empty()).unwrap_or("unrecorded")
    }
}

/// The [`Program`] of this name, with the commit of the crate that says so: a new commit rebuilds binaries, not libraries.
#[macro_export]
macro_rules! program {
    ($name:literal) => {
        $crate::Program { name: $name, commit: option_env!("MARKETFLOW_COMMIT"), lists: &[] }
    };
}

/// Runs one service from arguments to exit code.
///
/// In this order: arguments, configuration (`defaults` < `--config` < `MARKETFLOW__SECTION__KEY` < `--set`), `--print-config`, tracing, the admin
/// port, signals; then `work`. The first SIGINT or SIGTERM requests a stop, after which `work` has `admin.drain_deadline` to return; the second
/// ends the process at once. An error's exit code is the [`Exit`] in its chain (see [`ExitContext`]), else [`Exit::Failed`].
///
/// `defaults` must hold an `[admin]` ([`AdminConfig`]) and a `[log]` ([`LogConfig`]) section; both are fields of `C` too, so that `C` can deny
/// unknown keys.
pub fn run<C, W>(program: Program, defaults: &'static str, work: W) -> ExitCode
where
    C: DeserializeOwned + Serialize,
    W: AsyncFnOnce(C, Lifecycle) -> anyhow::Result<()>,
{
    let name = program.name;
    let loaded = match config::load::<C>(program, defaults) {
        Ok(config::Loaded::Run(loaded)) => loaded,
        Ok(config::Loaded::Printed(exit)) => return exit.into(),
        Err(problem) => {
            eprintln!("{name}: {problem:#}");
            return Exit::Usage.into();
        }
    };
    if let Err(problem) = telemetry::start(&loaded.log) {
        eprintln!("{name}: {problem:#}");
        return Exit::Usage.into();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(problem) => {
            error!(error = %problem, "no threads to run on");
            return Exit::Failed.into();
        }
    };
    let exit = match runtime.block_on(serve(program, loaded, work)) {
        Ok(()) => {
            info!(service = name, "stopped");
            Exit::Ok
        }
        Err(problem) => {
            let exit = Exit::of(&problem);
            error!(service = name, exit = exit.code(), "{problem:#}");
            exit
        }
    };
    runtime.shutdown_timeout(Duration::from_secs(1));
    exit.into()
}

async fn serve<C, W>(program: Program, loaded: config::Values<C>, work: W) -> anyhow::Result<()>
where
    W: AsyncFnOnce(C, Lifecycle) -> anyhow::Result<()>,
{
    let name = program.name;
    let metrics = Metrics::new(program);
    let lifecycle = Lifecycle::new(metrics);
    let listen = loaded.admin.listen;
    let listener = TcpListener::bind(listen).await.map_err(|problem| {
        anyhow::anyhow!("cannot listen on {listen}: {problem}; choose another address with --set admin.listen=HOST:PORT")
            .context(Exit::Usage)
    })?;
    info!(service = name, version = program.version(), admin = %listener.local_addr()?, "starting");
    let admin = tokio::spawn(admin::serve(listener, lifecycle.clone()));

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = lifecycle.stop();
    let mut work = std::pin::pin!(work(loaded.config, lifecycle.clone()));
    let result = tokio::select! {
        result = &mut work => result,
        () = stopped(&stop, &mut interrupt, &mut terminate) => {
            lifecycle.not_ready();
            info!(service = name, deadline = ?loaded.admin.drain_deadline, "draining");
            drain(work, loaded.admin.drain_deadline, &mut interrupt, &mut terminate).await
        }
    };
    lifecycle.not_ready();
    stop.request();
    admin.abort();
    result
}

/// Returns at the first signal, having requested the stop, or when the service itself requested one.
async fn stopped(stop: &Stop, interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = stop.wait() => {}
    }
    stop.request();
}

async fn drain(
    work: impl Future<Output = anyhow::Result<()>>,
    deadline: Duration,
    interrupt: &mut Signal,
    terminate: &mut Signal,
) -> anyhow::Result<()> {
    let second = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::select! {
        result = work => result,
        () = second => {
            warn!("second signal: ending at once");
            std::process::exit(Exit::Interrupted.code().into())
        }
        () = tokio::time::sleep(deadline) => {
            Err(anyhow::anyhow!("not drained within {deadline:?}; what was not acknowledged is taken up at the next start").context(Exit::Failed))
        }
    }
}
