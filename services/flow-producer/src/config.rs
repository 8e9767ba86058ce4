//! The flow-producer's configuration; `default.toml` holds every key with its unit.

use anyhow::{Context, bail, ensure};
use marketflow_kafka::{KafkaConfig, RegistryConfig};
use marketflow_model::Month;
use marketflow_providers::Secret;
use marketflow_providers::series::{self, Market, Series, SeriesSet, Source};
use marketflow_runtime::{AdminConfig, LogConfig, file_or, setting};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// Everything the flow-producer is told.
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
    /// What is collected.
    pub collect: CollectConfig,
    /// Where the sources are, by id.
    pub sources: BTreeMap<String, SourceConfig>,
    /// How a source is asked.
    pub request: RequestConfig,
    /// What survives a restart.
    pub state: StateConfig,
}

/// Section `[collect]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectConfig {
    /// Which markets; none = all.
    pub markets: Vec<Market>,
    /// File of series; empty = the built-in one.
    pub series: PathBuf,
    /// First month; `None` = ten years up to the last.
    #[serde(deserialize_with = "month_or_empty")]
    pub from: Option<Month>,
    /// Last month; `None` = the last that has ended.
    #[serde(deserialize_with = "month_or_empty")]
    pub to: Option<Month>,
    /// Months asked for at once.
    pub months_per_request: i32,
    /// Time between two looks for new and revised values; 0 = end when all is collected.
    #[serde(with = "humantime_serde")]
    pub update_every: Duration,
    /// Months read again then.
    pub update_months: i32,
    /// File of `NAME=value` lines with the credentials that are not in the environment.
    pub credentials_file: PathBuf,
}

/// Section `[sources.<id>]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Endpoint; empty = the source's own.
    pub url: String,
    /// Requests a second; 0 = as the source allows.
    pub per_second: f64,
}

/// Section `[request]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestConfig {
    /// Wait for an answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Least wait after a failed request.
    #[serde(with = "humantime_serde")]
    pub backoff_min: Duration,
    /// Longest wait after a failed request.
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    /// Failures in a row after which an endpoint is left for the next run.
    pub attempts: u32,
}

/// Section `[state]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateConfig {
    /// Folder of `resume_tracker.json`; empty = `run/` below `MARKETFLOW_HOME`.
    pub folder: PathBuf,
    /// What went wrong, a line each; empty = `logs/error_log.txt` below `MARKETFLOW_HOME`.
    pub error_log: PathBuf,
}

/// An empty text is no month.
fn month_or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Month>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

/// Where the service writes.
#[derive(Clone, Debug)]
pub struct Files {
    /// `resume_tracker.json`.
    pub tracker: PathBuf,
    /// `error_log.txt`.
    pub error_log: PathBuf,
}

/// What follows from the configuration.
pub struct Checked {
    /// What is collected, and from where.
    pub series: Vec<(&'static dyn Source, Series)>,
    /// Credentials by source.
    pub keys: BTreeMap<&'static str, Secret>,
    /// Where the service writes.
    pub files: Files,
}

impl Config {
    /// Checks what spans keys.
    ///
    /// # Errors
    /// The first key that cannot be, with the cure.
    pub fn validate(&self) -> anyhow::Result<Checked> {
        let collect = &self.collect;
        ensure!((1..=1200).contains(&collect.months_per_request), "collect.months_per_request is not within 1–1200");
        ensure!((1..=1200).contains(&collect.update_months), "collect.update_months is not within 1–1200");
        if let (Some(from), Some(to)) = (collect.from, collect.to) {
            ensure!(from <= to, "collect.from {from} is after collect.to {to}");
        }
        ensure!(self.request.attempts > 0, "request.attempts must be at least 1");
        ensure!(self.request.backoff_min <= self.request.backoff_max, "request.backoff_min exceeds request.backoff_max");
        let known = || series::ALL.iter().map(|source| source.id()).collect::<Vec<_>>().join(", ");
        for (id, source) in &self.sources {
            ensure!(series::by_id(id).is_some(), "sources.{id} is none of: {}", known());
            ensure!(source.per_second >= 0.0 && source.per_second.is_finite(), "sources.{id}.per_second is negative");
        }

        let (set, name): (SeriesSet, _) = file_or("collect.series", &collect.series, SeriesSet::BUILT_IN)?;
        let (mut chosen, mut keys, mut names) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        for series in set.series {
            let source = series::by_id(&series.source);
            let source = source.with_context(|| format!("{name}: source {:?} is none of: {}", series.source, known()))?;
            if let Err(problem) = source.check(&series) {
                bail!("{name}: {}: {problem}", series.endpoint());
            }
            ensure!(names.insert((series.source.clone(), series.code.clone())), "{name}: {} is there twice", series.endpoint());
            if !collect.markets.is_empty() && !collect.markets.contains(&series.market) {
                continue;
            }
            if let Some((variable, is_optional)) = source.credential()
                && !keys.contains_key(source.id())
            {
                match setting(variable, &collect.credentials_file)? {
                    Some(key) => {
                        keys.insert(source.id(), Secret::new(key.expose().to_owned()));
                    }
                    None if is_optional => {}
                    None => bail!(
                        "{} needs {variable}; set it in the environment or as a line {variable}=… in {} (collect.credentials_file), \
                         or leave its series out",
                        source.id(),
                        collect.credentials_file.display()
                    ),
                }
            }
            chosen.push((source, series));
        }
        ensure!(!chosen.is_empty(), "{name} holds no series of these markets");
        Ok(Checked { series: chosen, keys, files: self.files()? })
    }

    fn files(&self) -> anyhow::Result<Files> {
        let home = std::env::var_os("MARKETFLOW_HOME").map_or_else(|| PathBuf::from(".marketflow"), PathBuf::from);
        let or = |given: &PathBuf, own: PathBuf| if given.as_os_str().is_empty() { own } else { given.clone() };
        let tracker = or(&self.state.folder, home.join("run")).join("resume_tracker.json");
        let error_log = or(&self.state.error_log, home.join("logs/error_log.txt"));
        for folder in [&tracker, &error_log].into_iter().filter_map(|path| path.parent()) {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(Files { tracker, error_log })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_series_cover_six_markets_and_can_be_asked_for() {
        let set: SeriesSet = toml::from_str(SeriesSet::BUILT_IN).unwrap();
        let mut markets: Vec<Market> = set.series.iter().map(|series| series.market).collect();
        markets.dedup();
        assert_eq!(markets, Market::ALL);
        for series in &set.series {
            assert_eq!(series::by_id(&series.source).unwrap().check(series), Ok(()), "{}", series.endpoint());
        }
    }
}
