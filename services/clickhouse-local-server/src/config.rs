//! The settings, every key of which is in `default.toml`.
//!
//! Next: `ffi.rs`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use marketflow_runtime::{AdminConfig, LogConfig, Secret};
use serde::{Deserialize, Serialize};

/// The settings as embedded in the program.
pub const DEFAULTS: &str = include_str!("default.toml");

/// All settings.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where we listen, what we serve.
    pub server: ServerConfig,
    /// Bounds.
    pub limits: Limits,
    /// Who may connect.
    pub users: BTreeMap<String, UserConfig>,
    /// The admin port.
    pub admin: AdminConfig,
    /// The log.
    pub log: LogConfig,
}

/// Where we listen, what we serve.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Address of the HTTP interface.
    pub listen: SocketAddr,
    /// Folder of the data.
    pub data: String,
    /// The engine library; empty looks in the usual places.
    pub library: String,
}

/// Bounds of everything that could grow.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Queries running at once.
    pub concurrent_queries: usize,
    /// How long a further query waits for a place.
    #[serde(with = "humantime_serde")]
    pub queue_wait: Duration,
    /// Default of `max_execution_time`; zero means none.
    #[serde(with = "humantime_serde")]
    pub query_timeout: Duration,
    /// Silence after which a request body is given up.
    #[serde(with = "humantime_serde")]
    pub receive_timeout: Duration,
    /// Bytes of a statement.
    pub query_size_bytes: usize,
    /// Bytes of a result held back before it is sent.
    pub response_buffer_bytes: usize,
    /// Bytes of a result `wait_end_of_query=1` may hold.
    pub whole_response_bytes: usize,
    /// Share of the machine's memory for the engine.
    pub memory_ratio: f64,
    /// Bytes of the mark cache.
    pub mark_cache_bytes: u64,
    /// Sessions kept at once.
    pub sessions: usize,
    /// How long an idle session is kept.
    #[serde(with = "humantime_serde")]
    pub session_timeout: Duration,
    /// Time running queries get after SIGTERM.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

/// A user.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UserConfig {
    /// Empty: none is asked for.
    pub password: Secret,
    /// What the user may do.
    pub access: Access,
}

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Everything the engine can do.
    Write,
    /// Reading tables of this server.
    Read,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_settings_are_complete_and_hide_passwords() {
        let mut config: Config = toml::from_str(DEFAULTS).unwrap();
        assert_eq!(config.users["reader"].access, Access::Read);
        config.users.get_mut("reader").unwrap().password = Secret::new("hunter2");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
