//! Tracing to standard error: text for people on a terminal, JSON for machines.

use crate::LogConfig;
use crate::config::LogFormat;
use anyhow::Context;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// `RUST_LOG` wins over `log.level`.
pub(crate) fn start(config: &LogConfig) -> anyhow::Result<()> {
    let directives = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_else(|_| config.level.clone());
    let filter = EnvFilter::try_new(&directives).with_context(|| format!("log.level (or RUST_LOG) {directives:?}"))?;
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if json { builder.json().flatten_event(true).try_init() } else { builder.with_target(false).try_init() };
    started.map_err(|problem| anyhow::anyhow!("cannot start logging: {problem}"))
}
