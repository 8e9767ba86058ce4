//! A customer's access to a venue by request: passes, one key's budget over all processes of the machine, one call, whose time, which symbols.
//!
//! Whoever asks a broker by a key asks through this crate, so that together they stay within what the broker allows the key. It lacks the venues'
//! words (`crates/providers`) and any record.
//!
//! Read in this order: `symbols.rs` (which) → `clock.rs` (whose time) → `passes.rs` (getting in) → `config.rs` and `budget.rs` (how often) →
//! `client.rs` (one call). `crates/metadata` keeps a second collector waiting.
//!
//! Next: `symbols.rs`.

pub mod budget;
pub mod client;
pub mod clock;
pub mod config;
pub mod metrics;
pub mod passes;
pub mod symbols;

pub use budget::SharedBudget;
pub use client::{Client, Question};
pub use clock::{ClockConfig, VenueClock, date_of};
pub use config::{BudgetConfig, RequestConfig};
pub use metrics::Metrics;
pub use passes::Passes;
pub use symbols::Symbols;

use anyhow::Context;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `MARKETFLOW_HOME`.
pub fn home() -> PathBuf {
    PathBuf::from(std::env::var_os("MARKETFLOW_HOME").unwrap_or_else(|| ".marketflow".into()))
}

/// The folder configured, or `run/` below `MARKETFLOW_HOME` when that is empty; made if it is not there.
///
/// # Errors
/// A folder that cannot be made.
pub fn folder(configured: &Path) -> anyhow::Result<PathBuf> {
    let folder = if configured.as_os_str().is_empty() { home().join("run") } else { configured.to_owned() };
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the state folder {}", folder.display()))?;
    Ok(folder)
}

/// The client for requests to this address; a simulator beside us is not reached through a proxy.
///
/// # Errors
/// TLS that cannot be set up.
pub fn http_client(url: &str, timeout: Duration) -> anyhow::Result<reqwest::Client> {
    let mut http = reqwest::Client::builder().timeout(timeout).user_agent(concat!("marketflow/", env!("CARGO_PKG_VERSION")));
    if ["http://127.0.0.1", "http://localhost", "http://[::1]"].iter().any(|start| url.starts_with(start)) {
        http = http.no_proxy();
    }
    http.build().context("the client for requests to the venue")
}
