//! The archiver's configuration; `default.toml` holds every key with its unit.

use anyhow::{Context, ensure};
use marketflow_archive::{Layout, layout_of};
use marketflow_contract::topics;
use marketflow_kafka::{KafkaConfig, RegistryConfig};
use marketflow_providers::series::{Market, SeriesSet};
use marketflow_runtime::{AdminConfig, LogConfig, file_or};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

/// Everything the archiver is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Admin port.
    pub admin: AdminConfig,
    /// Logging.
    pub log: LogConfig,
    /// Where Kafka is.
    pub kafka: KafkaConfig,
    /// Where the schema registry is.
    pub registry: RegistryConfig,
    /// What is written, where and when.
    pub archive: ArchiveConfig,
}

/// Section `[archive]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveConfig {
    /// Folder or `s3://bucket/prefix`; empty = `MARKETFLOW_HOME`.
    pub to: String,
    /// File of series; empty = the built-in one.
    pub series: PathBuf,
    /// Topics kept record by record.
    pub topics: Vec<String>,
    /// Rows of a file at most.
    pub rows_per_file: u64,
    /// Whether records that Kafka dropped unarchived are accepted.
    pub accept_loss: bool,
    /// Time between two passes; 0 = end after the first.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
}

/// Which market a series belongs to, by provider and name.
pub type Markets = HashMap<(String, String), Market>;

impl ArchiveConfig {
    /// Where files go.
    pub fn place(&self) -> String {
        if self.to.is_empty() {
            std::env::var("MARKETFLOW_HOME").unwrap_or_else(|_| ".marketflow".to_owned())
        } else {
            self.to.clone()
        }
    }

    /// The topics and how their records become files.
    ///
    /// # Errors
    /// A topic that is not archived, or files without rows.
    pub fn layouts(&self) -> anyhow::Result<Vec<(String, &'static Layout)>> {
        ensure!(self.rows_per_file > 0, "archive.rows_per_file must be at least 1");
        let known = topics::all();
        let layout = |name: &String| {
            let topic = known.iter().find(|topic| topic.name == *name);
            let layout = topic.and_then(|topic| layout_of(*topic.values.first()?));
            Ok((name.clone(), layout.with_context(|| format!("archive.topics: {name} holds nothing that is archived"))?))
        };
        self.topics.iter().map(layout).collect()
    }

    /// Reads which series belongs to which market.
    ///
    /// # Errors
    /// A file that is not there or no set of series.
    pub fn markets(&self) -> anyhow::Result<Markets> {
        let (set, name): (SeriesSet, _) = file_or("archive.series", &self.series, SeriesSet::BUILT_IN)?;
        let mut markets = Markets::new();
        for series in &set.series {
            for value in series.values.keys() {
                let key = (series.source.to_uppercase(), series.name_of(value));
                let other = markets.insert(key, series.market).filter(|other| *other != series.market);
                ensure!(other.is_none(), "{name}: {} belongs to two markets", series.endpoint());
            }
        }
        Ok(markets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_every_key_and_each_built_in_series_has_its_market() {
        let config: Config = toml::from_str(crate::DEFAULTS).unwrap();
        assert_eq!(config.archive.layouts().unwrap().len(), config.archive.topics.len());
        let mut other = config.archive.clone();
        other.topics.push("market.quotes.v1".to_owned());
        assert!(other.layouts().err().unwrap().to_string().contains("market.quotes.v1"));
        let markets = config.archive.markets().unwrap();
        let of = |provider: &str, series: &str| markets.get(&(provider.to_owned(), series.to_owned())).copied();
        assert_eq!(of("YAHOO", "SPY/close"), Some(Market::Stocks));
        assert_eq!(of("FRED", "DGS10"), Some(Market::Bonds));
        assert_eq!(of("FRED", "SPY/close"), None);
        for market in Market::ALL {
            assert!(markets.values().any(|one| *one == market), "{market}");
        }
    }
}
