//! Section `[clickhouse]`, shared by every service that reads or writes tables.

use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// Where ClickHouse is and who we are there.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ClickHouseConfig {
    /// Base URL of the HTTP interface, such as `http://127.0.0.1:8123`.
    pub url: String,
    /// Database of our tables.
    pub database: String,
    /// User name.
    pub user: String,
    /// Password; empty = none.
    #[serde(default, serialize_with = "hidden")]
    pub password: String,
    /// Whether requests and answers are compressed (LZ4): worth it over a network, not on one machine.
    #[serde(default)]
    pub compress: bool,
    /// Name of the cluster the tables lie on, as its servers' `remote_servers` have it; empty = one server.
    #[serde(default)]
    pub cluster: String,
    /// Whether the large tables are spread over the cluster's shards; otherwise every server holds everything.
    #[serde(default)]
    pub spread: bool,
    /// `insert_quorum`: how many replicas have a block before it counts as inserted (`auto` = most of them); empty = as the server has it.
    #[serde(default)]
    pub insert_quorum: String,
}

impl ClickHouseConfig {
    /// The default user and database, without a password.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            database: "default".to_owned(),
            user: "default".to_owned(),
            password: String::new(),
            compress: false,
            cluster: String::new(),
            spread: false,
            insert_quorum: String::new(),
        }
    }
}

impl fmt::Debug for ClickHouseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouseConfig")
            .field("url", &self.url)
            .field("database", &self.database)
            .field("user", &self.user)
            .field("password", &"***")
            .field("compress", &self.compress)
            .field("cluster", &self.cluster)
            .field("spread", &self.spread)
            .field("insert_quorum", &self.insert_quorum)
            .finish()
    }
}

fn hidden<S: Serializer>(password: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if password.is_empty() { "" } else { "***" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_not_printed() {
        let config = ClickHouseConfig { password: "canary".into(), ..ClickHouseConfig::new("http://127.0.0.1:8123") };
        let text = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(!text.contains("canary"), "{text}");
    }
}
