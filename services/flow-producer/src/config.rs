//! The flow-producer's configuration; `default.toml` holds every key with its unit.

use anyhow::{Context, anyhow, bail, ensure};
use jiff::civil::Date;
use marketflow_access::config::max_calls_variable;
use marketflow_access::{BudgetConfig, ClockConfig, RequestConfig, Symbols};
use marketflow_kafka::{KafkaConfig, RegistryConfig};
use marketflow_metadata::MetadataConfig;
use marketflow_model::{Instrument, Month};
use marketflow_pacing::Limits;
use marketflow_providers::investors::{Investors, investors_of};
use marketflow_providers::series::{self, Market, Series, SeriesSet, Source};
use marketflow_providers::{Provider, Secret, by_id};
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
    /// Investors' net buying.
    pub investors: InvestorsConfig,
    /// Where the sources are, by id.
    pub sources: BTreeMap<String, SourceConfig>,
    /// How a source is asked.
    pub request: RequestConfig,
    /// What the broker's key may spend.
    pub budget: BudgetConfig,
    /// The broker's time.
    pub clock: ClockConfig,
    /// What survives a restart.
    pub state: StateConfig,
    /// Who asks the broker.
    pub metadata: MetadataConfig,
}

/// Section `[collect]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectConfig {
    /// Which of them; none = all.
    pub markets: Vec<Part>,
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

/// What can be collected by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Part {
    /// The series of a market.
    Of(Market),
    /// What investors bought of Korean shares.
    KoreanInvestors,
}

const KOREAN_INVESTORS: &str = "korean_investors";

impl TryFrom<String> for Part {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == KOREAN_INVESTORS {
            return Ok(Self::KoreanInvestors);
        }
        text.parse().map(Self::Of).map_err(|problem| format!("{problem}, {KOREAN_INVESTORS}"))
    }
}

impl From<Part> for &'static str {
    fn from(part: Part) -> Self {
        match part {
            Part::Of(market) => market.as_str(),
            Part::KoreanInvestors => KOREAN_INVESTORS,
        }
    }
}

/// Section `[investors]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvestorsConfig {
    /// Id of the broker that is asked; empty = none is.
    pub provider: String,
    /// Request endpoint; empty = the broker's own.
    pub rest_url: String,
    /// Codes, `VENUE:CODE`, `@SET`.
    pub symbols: Vec<String>,
    /// First day; `None` = ten years up to the last.
    #[serde(deserialize_with = "date_or_empty")]
    pub from: Option<Date>,
    /// Last day; `None` = yesterday in Korea.
    #[serde(deserialize_with = "date_or_empty")]
    pub to: Option<Date>,
    /// Days read again when new ones are looked for.
    pub update_days: i32,
    /// Symbols at once.
    pub parallel: usize,
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

/// An empty text is no day.
fn date_or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Date>, D::Error> {
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
    /// Of which investors are told, and by whom.
    pub investors: Option<CheckedInvestors>,
    /// Credentials by source.
    pub keys: BTreeMap<&'static str, Secret>,
    /// Where the service writes.
    pub files: Files,
}

/// What follows from `[investors]`.
#[derive(Clone)]
pub struct CheckedInvestors {
    /// The broker named.
    pub provider: &'static Provider,
    /// How it tells of investors.
    pub investors: &'static dyn Investors,
    /// Where its requests go, without trailing slash.
    pub rest_url: String,
    /// What the key may spend.
    pub limits: Limits,
    /// Of which shares.
    pub symbols: Vec<Instrument>,
    /// First day, where one is given.
    pub first: Option<Date>,
    /// Last day, where one is given.
    pub last: Option<Date>,
    /// Symbols at once.
    pub parallel: usize,
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
        self.request.validate()?;
        self.metadata.validate()?;
        for (id, source) in &self.sources {
            let known = || series::ALL.iter().map(|source| source.id()).collect::<Vec<_>>().join(", ");
            ensure!(series::by_id(id).is_some(), "sources.{id} is none of: {}", known());
            ensure!(source.per_second >= 0.0 && source.per_second.is_finite(), "sources.{id}.per_second is negative");
        }

        let (set, name): (SeriesSet, _) = file_or("collect.series", &collect.series, SeriesSet::BUILT_IN)?;
        let (mut chosen, mut keys, mut names) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        for series in set.series {
            let source = series.checked().map_err(|problem| anyhow!("{name}: {}: {problem}", series.endpoint()))?;
            ensure!(names.insert((series.source.clone(), series.code.clone())), "{name}: {} is there twice", series.endpoint());
            if !collect.markets.is_empty() && !collect.markets.contains(&Part::Of(series.market)) {
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
        let investors = self.checked_investors()?;
        ensure!(!chosen.is_empty() || investors.is_some(), "{name} holds no series of these markets");
        Ok(Checked { series: chosen, investors, keys, files: self.files()? })
    }

    fn checked_investors(&self) -> anyhow::Result<Option<CheckedInvestors>> {
        let (wanted, chosen) = (&self.investors, &self.collect.markets);
        let is_named = chosen.contains(&Part::KoreanInvestors);
        if wanted.provider.is_empty() {
            ensure!(!is_named, "collect.markets names korean_investors: set investors.provider to kis or kiwoom");
            return Ok(None);
        }
        if !chosen.is_empty() && !is_named {
            return Ok(None);
        }
        let both = by_id(&wanted.provider).zip(investors_of(&wanted.provider));
        let (provider, investors) =
            both.with_context(|| format!("investors.provider {:?} is none of: kis, kiwoom", wanted.provider))?;
        ensure!((1..=3660).contains(&wanted.update_days), "investors.update_days is not within 1–3660");
        ensure!(wanted.parallel > 0, "investors.parallel must be at least 1");
        if let (Some(from), Some(to)) = (wanted.from, wanted.to) {
            ensure!(from <= to, "investors.from {from} is after investors.to {to}");
        }
        let symbols = Symbols::read(&wanted.symbols, provider, &marketflow_access::home()).context("investors.symbols")?;
        let url = if wanted.rest_url.is_empty() { provider.rest_url } else { &wanted.rest_url };
        Ok(Some(CheckedInvestors {
            provider,
            investors,
            rest_url: url.trim_end_matches('/').to_owned(),
            limits: self.budget.limits(investors.limits(), &self.request, max_calls_variable().as_deref())?,
            symbols: symbols.all,
            first: wanted.from,
            last: wanted.to,
            parallel: wanted.parallel,
        }))
    }

    fn files(&self) -> anyhow::Result<Files> {
        let home = marketflow_access::home();
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
            assert!(series.checked().is_ok(), "{}", series.endpoint());
        }
    }

    #[test]
    fn markets_and_investors_are_spelled_in_one_way() {
        let read = |text: &str| Part::try_from(text.to_owned());
        for market in Market::ALL {
            assert_eq!(read(market.as_str()), Ok(Part::Of(market)));
            assert_eq!(<&str>::from(Part::Of(market)), market.as_str());
        }
        assert_eq!(read("korean_investors").map(<&str>::from), Ok("korean_investors"));
        let problem = read("bond").unwrap_err();
        assert!(problem.contains("\"bond\" is none of: stocks, bonds") && problem.ends_with("korean_investors"), "{problem}");
    }

    #[test]
    fn investors_are_asked_for_where_a_broker_is_named_and_by_themselves_where_only_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let checked = |change: &str| {
            let mut table: toml::Table = crate::DEFAULTS.parse().unwrap();
            let change = format!("{change}\n[state]\nfolder = '{0}'\nerror_log = '{0}/errors'", folder.path().display());
            for (section, keys) in change.parse::<toml::Table>().unwrap() {
                table[&section].as_table_mut().unwrap().extend(keys.as_table().unwrap().clone());
            }
            table.try_into::<Config>().unwrap().validate().map_err(|problem| problem.to_string())
        };
        assert!(checked("[collect]\nmarkets = ['forex']").unwrap().investors.is_none());
        let by_itself = |more: &str| checked(&format!("[collect]\nmarkets = ['korean_investors']\n[investors]\n{more}"));
        let alone = by_itself("provider = 'kiwoom'").unwrap();
        assert_eq!((alone.series.len(), alone.investors.unwrap().symbols.len()), (0, 97));
        let both =
            checked("[collect]\nmarkets = ['forex', 'korean_investors']\n[investors]\nprovider = 'kis'\nsymbols = ['005930']");
        assert_eq!(both.unwrap().investors.unwrap().symbols.len(), 1);
        assert!(checked("[collect]\nmarkets = ['forex']\n[investors]\nprovider = 'kis'").unwrap().investors.is_none());
        for (more, key) in [
            ("", "investors.provider"),
            ("provider = 'upbit'", "investors.provider"),
            ("provider = 'kis'\nparallel = 0", "investors.parallel"),
            ("provider = 'kis'\nsymbols = ['5930']", "investors.symbols"),
            ("provider = 'kis'\nfrom = '2026-11-02'\nto = '2026-11-01'", "investors.from"),
        ] {
            let problem = by_itself(more).err().unwrap();
            assert!(problem.contains(key), "{problem}");
        }
    }
}
