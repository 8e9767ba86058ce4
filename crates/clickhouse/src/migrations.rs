//! The tables of `schemas/clickhouse`, applied in order and remembered with their checksums; and dropped, for a restore.

use crate::{ClickHouse, Error, Layout};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// One numbered file.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// File name, such as `001_trades.sql`; its number gives the order.
    pub name: &'static str,
    /// The statements, each ended by a semicolon at the end of a line.
    pub sql: &'static str,
}

macro_rules! migrations {
    ($($file:literal,)*) => {
        /// Every file, in order.
        pub const ALL: &[Migration] =
            &[$(Migration { name: $file, sql: include_str!(concat!("../../../schemas/clickhouse/", $file)) },)*];
    };
}

migrations! {
    "001_trades.sql",
    "002_quotes.sql",
    "003_bars.sql",
    "004_candles.sql",
    "005_feed_status.sql",
    "006_set_aside.sql",
    "007_flows.sql",
    "008_streams.sql",
    "009_sessions.sql",
    "010_storage.sql",
    "011_bars.sql",
    "012_views.sql",
    "013_signals_news_reference.sql",
    "014_shadow.sql",
    "015_audit_and_decisions.sql",
    "016_calendar_changes.sql",
    "017_flow_monthly.sql",
    "018_investors_and_lead_lag.sql",
    "019_reference.sql",
}

const HISTORY: &str = "CREATE TABLE IF NOT EXISTS schema_migrations \
    (name String, checksum String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3)) ENGINE = MergeTree ORDER BY name";

/// Entry of the history while rows are restored; nothing works with tables that are half there.
const RESTORE: &str = "a restore";

/// What a statement creates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A table.
    Table,
    /// A view.
    View,
    /// A view that runs by itself and fills a table.
    Refreshed,
}

impl Migration {
    /// SHA-256 of the file, in hexadecimal.
    pub fn checksum(&self) -> String {
        hex::encode(Sha256::digest(self.sql))
    }

    fn statements(&self) -> impl Iterator<Item = &'static str> {
        self.sql.split(";\n").map(str::trim).filter(|statement| !statement.is_empty())
    }
}

/// Applies what is missing, loads the trading sessions when they changed, and returns the names of the files applied.
///
/// # Errors
/// [`Error::Disagrees`] when a file was changed after it had been applied, or the database is ahead of this program; ClickHouse's otherwise.
pub async fn apply(clickhouse: &ClickHouse) -> Result<Vec<&'static str>, Error> {
    create_database(clickhouse).await?;
    clickhouse.lay_out("create the table schema_migrations", HISTORY).await?;
    let applied = applied(clickhouse).await?;
    let disagreements = disagreements(&applied);
    if !disagreements.is_empty() {
        return Err(Error::Disagrees(disagreements));
    }
    let mut new = Vec::new();
    for migration in ALL.iter().filter(|migration| !applied.contains_key(migration.name)) {
        for statement in migration.statements() {
            clickhouse.lay_out(&format!("apply {}", migration.name), statement).await?;
        }
        let done =
            format!("INSERT INTO schema_migrations (name, checksum) VALUES ('{}', '{}')", migration.name, migration.checksum());
        clickhouse.execute(&format!("note that {} was applied", migration.name), &done).await?;
        tracing::info!(file = migration.name, "applied");
        new.push(migration.name);
    }
    crate::sessions::load(clickhouse).await?;
    Ok(new)
}

/// The statements of a file, as they are said where the tables lie.
pub fn statements(layout: &Layout, file: &Migration) -> Vec<String> {
    file.statements().flat_map(|statement| layout.statements(statement)).collect()
}

/// Everything the files create, each once, in order.
pub fn objects() -> Vec<(Kind, &'static str)> {
    let mut objects: Vec<(Kind, &str)> = Vec::new();
    for created in ALL.iter().flat_map(Migration::statements).filter_map(created) {
        if !objects.contains(&created) {
            objects.push(created);
        }
    }
    objects
}

/// The files applied to this database, with their checksums; empty where there are no tables yet.
///
/// # Errors
/// ClickHouse's.
pub async fn history(clickhouse: &ClickHouse) -> Result<BTreeMap<String, String>, Error> {
    if clickhouse.columns("schema_migrations").await?.is_empty() {
        return Ok(BTreeMap::new());
    }
    applied(clickhouse).await
}

/// Drops every table and view of ours with its rows, and creates them empty. Until [`end_restore`] the database is no good to anyone but who
/// fills it: [`check`] and [`apply`] fail, and no view runs by itself.
///
/// # Errors
/// ClickHouse's.
pub async fn begin_restore(clickhouse: &ClickHouse, from: &str) -> Result<(), Error> {
    create_database(clickhouse).await?;
    for (kind, name) in objects().into_iter().rev() {
        let what = if kind == Kind::Table { "TABLE" } else { "VIEW" };
        clickhouse.lay_out(&format!("drop {name}"), &format!("DROP {what} IF EXISTS {name} SYNC")).await?;
    }
    clickhouse.lay_out("drop the table schema_migrations", "DROP TABLE IF EXISTS schema_migrations SYNC").await?;
    apply(clickhouse).await?;
    let from = from.replace('\\', "\\\\").replace('\'', "\\'");
    let note = format!("INSERT INTO schema_migrations (name, checksum) VALUES ('{RESTORE}', '{from}')");
    clickhouse.execute("note that rows are being restored", &note).await?;
    for (kind, name) in objects() {
        if kind == Kind::Refreshed {
            clickhouse.lay_out(&format!("drop {name}"), &format!("DROP VIEW IF EXISTS {name} SYNC")).await?;
        }
    }
    Ok(())
}

/// The rows are there: the database is as any other.
///
/// # Errors
/// ClickHouse's.
pub async fn end_restore(clickhouse: &ClickHouse) -> Result<(), Error> {
    for statement in ALL.iter().flat_map(Migration::statements) {
        if let Some((Kind::Refreshed, name)) = created(statement) {
            clickhouse.lay_out(&format!("create {name}"), statement).await?;
        }
    }
    let done = format!("ALTER TABLE schema_migrations DELETE WHERE name = '{RESTORE}' SETTINGS mutations_sync = 2");
    clickhouse.lay_out("note that the rows are restored", &done).await
}

/// Fails with [`Error::Disagrees`] unless the database is exactly as this program expects; changes nothing.
///
/// # Errors
/// The differences in words, or ClickHouse's.
pub async fn check(clickhouse: &ClickHouse) -> Result<(), Error> {
    let differences = differences(clickhouse).await?;
    if differences.is_empty() { Ok(()) } else { Err(Error::Disagrees(differences)) }
}

/// What [`check`] would complain about; one line per difference.
///
/// # Errors
/// ClickHouse's.
pub async fn differences(clickhouse: &ClickHouse) -> Result<Vec<String>, Error> {
    if clickhouse.columns("schema_migrations").await?.is_empty() {
        return Ok(vec![format!("database {} holds no tables of marketflow yet; run `marketflow up`", clickhouse.database())]);
    }
    let applied = applied(clickhouse).await?;
    let mut differences = disagreements(&applied);
    differences.extend(
        ALL.iter()
            .filter(|migration| !applied.contains_key(migration.name))
            .map(|migration| format!("{} was not applied yet; run `marketflow up`", migration.name)),
    );
    Ok(differences)
}

async fn create_database(clickhouse: &ClickHouse) -> Result<(), Error> {
    let database = clickhouse.database();
    if database == "default" {
        return Ok(());
    }
    clickhouse.create_database().await
}

async fn applied(clickhouse: &ClickHouse) -> Result<BTreeMap<String, String>, Error> {
    #[derive(clickhouse::Row, Deserialize)]
    struct Applied {
        name: String,
        checksum: String,
    }
    let query = clickhouse
        .query("SELECT name, argMax(checksum, applied_at) AS checksum FROM schema_migrations GROUP BY name ORDER BY name");
    let rows = clickhouse.rows::<Applied>("read schema_migrations", query).await?;
    Ok(rows.into_iter().map(|row| (row.name, row.checksum)).collect())
}

fn created(statement: &'static str) -> Option<(Kind, &'static str)> {
    const BEGINNINGS: [(Kind, &str); 3] = [
        (Kind::Table, "CREATE TABLE IF NOT EXISTS "),
        (Kind::View, "CREATE OR REPLACE VIEW "),
        (Kind::Refreshed, "CREATE MATERIALIZED VIEW IF NOT EXISTS "),
    ];
    let line = statement.lines().find(|line| !line.is_empty() && !line.starts_with("--"))?;
    let (kind, rest) = BEGINNINGS.iter().find_map(|(kind, beginning)| Some((*kind, line.strip_prefix(beginning)?)))?;
    rest.split([' ', '(']).next().map(|name| (kind, name))
}

fn disagreements(applied: &BTreeMap<String, String>) -> Vec<String> {
    applied
        .iter()
        .filter_map(|(name, checksum)| match ALL.iter().find(|migration| migration.name == name) {
            None if name == RESTORE => {
                Some(format!("the rows of {checksum} are being restored, or that broke off; repeat it with --replace"))
            }
            None => Some(format!("{name} was applied by a newer version of marketflow; use that version")),
            Some(migration) if migration.checksum() != *checksum => Some(format!(
                "{name} was applied with other content (checksum {}, here {}); an applied file must not be edited, add a new one",
                checksum.get(..12).unwrap_or(checksum),
                &migration.checksum()[..12],
            )),
            Some(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_listed_in_order() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/clickhouse");
        let mut files: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        assert_eq!(files, ALL.iter().map(|migration| migration.name).collect::<Vec<_>>());
    }

    #[test]
    fn edited_and_newer_files_are_told_apart() {
        let applied = BTreeMap::from([
            ("001_trades.sql".to_owned(), "0".repeat(64)),
            ("002_quotes.sql".to_owned(), ALL[1].checksum()),
            ("999_later.sql".to_owned(), String::new()),
        ]);
        let words = disagreements(&applied);
        assert_eq!(words.len(), 2, "{words:?}");
        assert!(words[0].contains("other content") && words[1].contains("newer version"), "{words:?}");
    }

    #[test]
    fn what_is_created_is_known() {
        let objects = objects();
        for known in
            [(Kind::Table, "trades_log"), (Kind::View, "trades"), (Kind::Refreshed, "bars_rollup"), (Kind::Table, "streams")]
        {
            assert_eq!(objects.iter().filter(|object| **object == known).count(), 1, "{known:?}");
        }
        for statement in ALL.iter().flat_map(Migration::statements) {
            assert_eq!(created(statement).is_some(), statement.contains("CREATE "), "{statement}");
        }
    }

    #[test]
    fn statements_are_whole() {
        for migration in ALL {
            for statement in migration.statements() {
                assert!(statement.contains("CREATE") || statement.contains("ALTER TABLE"), "{}: {statement}", migration.name);
            }
        }
    }
}
