//! The store and its tables. One set of statements serves both engines; times are the store's own clock, in UTC microseconds.
//!
//! Next: `lease.rs`.

use anyhow::{Context, bail, ensure};
use marketflow_runtime::{Exit, ExitContext, Secret};
use serde::{Deserialize, Serialize};
use sqlx::AnyPool;
use sqlx::any::{AnyPoolOptions, install_default_drivers};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// Wait for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Two services that make a table at the same time may disturb one another; once more then.
const ATTEMPTS: u32 = 3;
/// The store's own file, where no address is given.
const FILE: &str = "metadata.db";
/// A lease that is shorter is lost by any pause.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

const TABLES: &str =
    "CREATE TABLE IF NOT EXISTS leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, expires_at BIGINT NOT NULL)";

/// Section `[metadata]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetadataConfig {
    /// `postgres://USER:PASSWORD@HOST/DATABASE`; empty = SQLite, in `metadata.db` beside the other state. It may hold a password, so it is
    /// never printed.
    pub url: Secret,
    /// A holder that was not heard of for so long no longer has its lease. One that ended on this machine has lost it at once.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
}

impl MetadataConfig {
    /// Checks the section.
    ///
    /// # Errors
    /// The first key that cannot be.
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(self.lease >= SHORTEST_LEASE, "metadata.lease must be at least {SHORTEST_LEASE:?}");
        Engine::of(&self.url).map(|_| ())
    }
}

/// Which engine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    fn of(url: &Secret) -> anyhow::Result<Self> {
        match url.expose().split_once(':') {
            None if url.is_empty() => Ok(Self::Sqlite),
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres),
            _ => bail!("metadata.url is neither empty nor of the form postgres://USER:PASSWORD@HOST/DATABASE"),
        }
    }

    /// What the store's clock shows.
    const fn now(self) -> &'static str {
        match self {
            Self::Sqlite => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
            Self::Postgres => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)",
        }
    }
}

/// The store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) pool: AnyPool,
    engine: Engine,
    pub(crate) lease: Duration,
}

impl Store {
    /// Opens the store, with its tables; `folder` is where the services of this machine keep their state.
    ///
    /// # Errors
    /// A folder that cannot be written, a server that cannot be reached.
    pub async fn open(config: &MetadataConfig, folder: &Path) -> anyhow::Result<Self> {
        install_default_drivers();
        let engine = Engine::of(&config.url).exit(Exit::Usage)?;
        let (url, place) = match engine {
            Engine::Sqlite => {
                let file = std::path::absolute(folder.join(FILE))?;
                let place = file.display().to_string();
                // For the owner's eyes only, from the first moment.
                let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&file);
                made.with_context(|| format!("cannot write the metadata store {place}"))?;
                let address = ["%", "?", "#"]
                    .iter()
                    .fold(place.clone(), |text, mark| text.replace(mark, &format!("%{:X}", mark.as_bytes()[0])));
                (format!("sqlite://{address}"), place)
            }
            Engine::Postgres => (config.url.expose().to_owned(), "of metadata.url".to_owned()),
        };
        let doing = || format!("the metadata store {place} does not answer; is it there, and may this user make tables in it?");
        let options = AnyPoolOptions::new().max_connections(2).acquire_timeout(CONNECT_WITHIN);
        let pool = options.connect(&url).await.with_context(doing).exit(Exit::Unreachable)?;
        let mut attempt = 1;
        while let Err(problem) = sqlx::query(TABLES).execute(&pool).await {
            if attempt == ATTEMPTS {
                return Err(problem).with_context(doing).exit(Exit::Unreachable);
            }
            attempt += 1;
        }
        Ok(Self { pool, engine, lease: config.lease })
    }

    /// The statement, with `NOW` as this engine says it.
    pub(crate) fn statement(&self, text: &str) -> String {
        text.replace("NOW", self.engine.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_postgres_or_none() {
        let engine = |url: &str| Engine::of(&Secret::new(url));
        assert_eq!(engine("").unwrap(), Engine::Sqlite);
        assert_eq!(engine("postgres://flow:secret@127.0.0.1/flow").unwrap(), Engine::Postgres);
        assert_eq!(engine("postgresql://127.0.0.1/flow").unwrap(), Engine::Postgres);
        for wrong in ["mysql://flow:secret@127.0.0.1/flow", "flow:secret", "metadata.db"] {
            let told = format!("{:#}", engine(wrong).unwrap_err());
            assert!(!told.contains("secret"), "{told}");
        }
    }
}
