//! Where the tables lie: on one server, on every server of a cluster, or spread over its shards. `schemas/clickhouse` is written for one server;
//! its statements are said to a cluster in the cluster's words.
//!
//! - Everywhere: each table is a `ReplicatedMergeTree` of one group over all servers of all shards; every server answers everything by itself.
//! - Spread: the tables that grow with the market (`trades_log` …) hold the rows of their shard in `<name>_local`, and `<name>` is the
//!   `Distributed` table over them. The shard follows from Kafka's partition and nothing else: the rows of a topic partition lie in one shard,
//!   so an insert stays one block under one token, and the highest offset of a partition has no hole below it on any shard. All other tables
//!   lie everywhere, so a view that joins them asks no other server.
//!
//! Next: `migrations.rs`.

use crate::ClickHouseConfig;

/// Tables that are spread over shards: those with a row per trade, quote, candle or bar.
const SPREAD: [&str; 4] = ["trades_log", "quotes_log", "candles_log", "bars_log"];

/// Tokens are remembered for as long as a client may repeat an insert; seconds.
const TOKEN_SECONDS: u32 = 604_800;

/// Where the tables lie.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Layout {
    /// On one server.
    #[default]
    Server,
    /// On every server of this cluster.
    Everywhere {
        /// Its name in the servers' `remote_servers`.
        cluster: String,
    },
    /// Spread over the shards of this cluster.
    Spread {
        /// Its name in the servers' `remote_servers`.
        cluster: String,
        /// Our database, which `Distributed` tables name.
        database: String,
    },
}

impl Layout {
    /// What the configuration asks for.
    pub fn of(config: &ClickHouseConfig) -> Self {
        let cluster = config.cluster.replace('`', "");
        match (cluster.is_empty(), config.spread) {
            (true, _) => Self::Server,
            (false, false) => Self::Everywhere { cluster },
            (false, true) => Self::Spread { cluster, database: config.database.replace('`', "") },
        }
    }

    /// Whether some tables are spread over shards.
    pub fn is_spread(&self) -> bool {
        matches!(self, Self::Spread { .. })
    }

    /// The statements that say one of `schemas/clickhouse` here.
    pub fn statements(&self, statement: &str) -> Vec<String> {
        let Some(cluster) = self.cluster() else { return vec![statement.to_owned()] };
        let (comment, statement) = statement.split_at(beginning(statement));
        let words: Vec<&str> = statement.split([' ', '\n', '(']).collect();
        let on = format!(" ON CLUSTER `{cluster}`");
        let after = |beginning: &str, name: &str| {
            let rest = &statement[beginning.len() + name.len()..];
            format!("{comment}{beginning}{name}{on}{rest}")
        };
        match words.as_slice() {
            ["CREATE", "TABLE", "IF", "NOT", "EXISTS", name, ..] => {
                let rest = &statement["CREATE TABLE IF NOT EXISTS ".len() + name.len()..];
                let table = self.table(name);
                let create = format!("{comment}CREATE TABLE IF NOT EXISTS {table}{on}{}", self.replicated(name, rest));
                std::iter::once(create).chain(self.over_shards(name, "CREATE TABLE IF NOT EXISTS")).collect()
            }
            ["ALTER", "TABLE", name, ..] => {
                let rest = &statement["ALTER TABLE ".len() + name.len()..];
                let alter = format!("{comment}ALTER TABLE {}{on}{rest}", self.table(name));
                // what lies over the shards has the columns of what lies there
                let again = rest.contains("ADD COLUMN").then(|| self.over_shards(name, "CREATE OR REPLACE TABLE")).flatten();
                std::iter::once(alter).chain(again).collect()
            }
            ["CREATE", "OR", "REPLACE", "VIEW", name, ..] => vec![after("CREATE OR REPLACE VIEW ", name)],
            ["CREATE", "MATERIALIZED", "VIEW", "IF", "NOT", "EXISTS", name, ..] => {
                let view = after("CREATE MATERIALIZED VIEW IF NOT EXISTS ", name);
                // subqueries over shards are answered once and sent to all
                let global = if self.is_spread() { ", distributed_product_mode = 'global'" } else { "" };
                vec![view + global]
            }
            ["DROP", what @ ("TABLE" | "VIEW"), "IF", "EXISTS", name, ..] => {
                let drop = |name: &str| format!("DROP {what} IF EXISTS {name}{on} SYNC");
                let local = self.table(name);
                if *what == "TABLE" && local != *name { vec![drop(name), drop(&local)] } else { vec![drop(name)] }
            }
            ["CREATE", "DATABASE", ..] => vec![format!("{comment}{statement}{on}")],
            _ => vec![format!("{comment}{statement}")],
        }
    }

    fn cluster(&self) -> Option<&str> {
        match self {
            Self::Server => None,
            Self::Everywhere { cluster } | Self::Spread { cluster, .. } => Some(cluster),
        }
    }

    /// The table that holds the rows.
    pub(crate) fn table(&self, name: &str) -> String {
        if self.is_spread() && SPREAD.contains(&name) { format!("{name}_local") } else { name.to_owned() }
    }

    /// The engine with its place in Keeper, and the tokens' window under its other name.
    fn replicated(&self, name: &str, definition: &str) -> String {
        let table = self.table(name);
        // one group of replicas for each shard, or one of all servers
        let place = if table == name {
            format!("'/marketflow/{{database}}/{table}', '{{shard}}-{{replica}}'")
        } else {
            format!("'/marketflow/{{database}}/{table}/{{shard}}', '{{replica}}'")
        };
        let Some((before, engine)) = definition.split_once("ENGINE = ") else { return definition.to_owned() };
        let end = engine.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(engine.len());
        let (kind, rest) = engine.split_at(end);
        let (arguments, rest) = match rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            Some((arguments, rest)) => (format!(", {arguments}"), rest),
            None => (String::new(), rest),
        };
        let rest = rest.replace(
            "non_replicated_deduplication_window = 10000",
            &format!("replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = {TOKEN_SECONDS}"),
        );
        format!("{before}ENGINE = Replicated{kind}({place}{arguments}){rest}")
    }

    fn over_shards(&self, name: &str, verb: &str) -> Option<String> {
        match self {
            Self::Spread { cluster, database } if SPREAD.contains(&name) => Some(format!(
                "{verb} {name} ON CLUSTER `{cluster}` AS {name}_local ENGINE = Distributed('{cluster}', '{database}', '{name}_local', `partition`)"
            )),
            Self::Server | Self::Everywhere { .. } | Self::Spread { .. } => None,
        }
    }
}

/// Where a statement begins, after the comments before it.
fn beginning(statement: &str) -> usize {
    let mut at = 0;
    for line in statement.split_inclusive('\n') {
        if !(line.starts_with("--") || line.trim().is_empty()) {
            break;
        }
        at += line.len();
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(layout: &Layout, statement: &str, expected: &[&str]) {
        assert_eq!(layout.statements(statement), expected, "{layout:?}");
    }

    #[test]
    fn a_statement_is_said_in_the_words_of_the_cluster() {
        let everywhere = Layout::Everywhere { cluster: "c".to_owned() };
        let spread = Layout::Spread { cluster: "c".to_owned(), database: "d".to_owned() };
        let table = "-- Trades.\nCREATE TABLE IF NOT EXISTS trades_log\n(\n    offset Int64\n)\nENGINE = ReplacingMergeTree(offset)\nORDER BY \
                     offset\nSETTINGS non_replicated_deduplication_window = 10000";
        check(&Layout::Server, table, &[table]);
        check(
            &everywhere,
            table,
            &["-- Trades.\nCREATE TABLE IF NOT EXISTS trades_log ON CLUSTER `c`\n(\n    offset Int64\n)\nENGINE = \
               ReplicatedReplacingMergeTree('/marketflow/{database}/trades_log', '{shard}-{replica}', offset)\nORDER BY offset\nSETTINGS \
               replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800"],
        );
        check(
            &spread,
            table,
            &[
                "-- Trades.\nCREATE TABLE IF NOT EXISTS trades_log_local ON CLUSTER `c`\n(\n    offset Int64\n)\nENGINE = \
                 ReplicatedReplacingMergeTree('/marketflow/{database}/trades_log_local/{shard}', '{replica}', offset)\nORDER BY \
                 offset\nSETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800",
                "CREATE TABLE IF NOT EXISTS trades_log ON CLUSTER `c` AS trades_log_local ENGINE = Distributed('c', 'd', 'trades_log_local', \
                 `partition`)",
            ],
        );
        let alter = "ALTER TABLE bars_log\n    ADD COLUMN IF NOT EXISTS n Int32";
        check(
            &spread,
            alter,
            &[
                "ALTER TABLE bars_log_local ON CLUSTER `c`\n    ADD COLUMN IF NOT EXISTS n Int32",
                "CREATE OR REPLACE TABLE bars_log ON CLUSTER `c` AS bars_log_local ENGINE = Distributed('c', 'd', 'bars_log_local', `partition`)",
            ],
        );
        check(&everywhere, alter, &["ALTER TABLE bars_log ON CLUSTER `c`\n    ADD COLUMN IF NOT EXISTS n Int32"]);
        check(&spread, "ALTER TABLE streams MODIFY TTL t", &["ALTER TABLE streams ON CLUSTER `c` MODIFY TTL t"]);
        check(&everywhere, "CREATE OR REPLACE VIEW v AS\nSELECT 1", &["CREATE OR REPLACE VIEW v ON CLUSTER `c` AS\nSELECT 1"]);
        check(
            &spread,
            "CREATE MATERIALIZED VIEW IF NOT EXISTS v REFRESH EVERY 1 MINUTE APPEND TO t AS SELECT 1 SETTINGS a = 0",
            &[
                "CREATE MATERIALIZED VIEW IF NOT EXISTS v ON CLUSTER `c` REFRESH EVERY 1 MINUTE APPEND TO t AS SELECT 1 SETTINGS a = 0, \
               distributed_product_mode = 'global'",
            ],
        );
        check(
            &spread,
            "DROP TABLE IF EXISTS bars_log SYNC",
            &["DROP TABLE IF EXISTS bars_log ON CLUSTER `c` SYNC", "DROP TABLE IF EXISTS bars_log_local ON CLUSTER `c` SYNC"],
        );
    }
}
