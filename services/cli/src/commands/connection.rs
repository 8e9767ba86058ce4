//! Where Kafka, the registry and ClickHouse answer: the environment, else the stack that runs in this home.
//!
//! The variables are those of the services, so that one environment serves all: `MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS`,
//! `MARKETFLOW__KAFKA__PROPERTIES__<PROPERTY>`, `MARKETFLOW__REGISTRY__URL`, `MARKETFLOW__CLICKHOUSE__URL`,
//! `MARKETFLOW__CLICKHOUSE__DATABASE`, `…__USER`, `…__PASSWORD`, and for a cluster `…__CLUSTER`, `…__SPREAD`.

use crate::console::problem;
use anyhow::Context;
use marketflow_clickhouse::{ClickHouseConfig, Retention};
use marketflow_kafka::{KafkaConfig, RegistryConfig};
use marketflow_runtime::{Exit, ExitContext};
use marketflow_stack::{Addresses, Error, Snapshot, home_folder, supervisor};
use std::env;
use std::time::Duration;

/// A partition that gives nothing for so long, though it holds more, is an error.
pub(crate) const STALLED_AFTER: Duration = Duration::from_secs(30);

const PROPERTIES: &str = "MARKETFLOW__KAFKA__PROPERTIES__";

/// Kafka, with properties such as `MARKETFLOW__KAFKA__PROPERTIES__SASL_PASSWORD`.
///
/// # Errors
/// 69 when the environment does not say and no stack runs.
pub(crate) fn kafka() -> anyhow::Result<KafkaConfig> {
    let mut config = KafkaConfig::new(address("MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS", |addresses| addresses.kafka)?);
    let properties = env::vars().filter_map(|(name, value)| Some((name.strip_prefix(PROPERTIES)?.to_lowercase(), value)));
    config.properties.extend(properties);
    Ok(config)
}

/// The schema registry.
///
/// # Errors
/// As [`kafka`].
pub(crate) fn registry() -> anyhow::Result<RegistryConfig> {
    Ok(RegistryConfig { url: address("MARKETFLOW__REGISTRY__URL", |addresses| addresses.registry)? })
}

/// ClickHouse.
///
/// # Errors
/// As [`kafka`].
pub(crate) fn clickhouse() -> anyhow::Result<ClickHouseConfig> {
    let mut config = ClickHouseConfig::new(address("MARKETFLOW__CLICKHOUSE__URL", |addresses| addresses.clickhouse)?);
    let parts = [
        ("DATABASE", &mut config.database),
        ("USER", &mut config.user),
        ("PASSWORD", &mut config.password),
        ("CLUSTER", &mut config.cluster),
    ];
    for (name, part) in parts {
        if let Ok(value) = env::var(format!("MARKETFLOW__CLICKHOUSE__{name}")) {
            *part = value;
        }
    }
    if let Ok(spread) = env::var("MARKETFLOW__CLICKHOUSE__SPREAD") {
        config.spread = spread.parse().context("MARKETFLOW__CLICKHOUSE__SPREAD is true or false").exit(Exit::Usage)?;
    }
    Ok(config)
}

/// How many days the tables keep their rows: `MARKETFLOW__RETENTION__TRADES=365` and its like; a class without a variable stays as it is.
///
/// # Errors
/// 64 for a class there is not, or what is no number of days.
pub(crate) fn retention() -> anyhow::Result<Retention> {
    let variables =
        env::vars().filter_map(|(name, value)| Some((name.strip_prefix("MARKETFLOW__RETENTION__")?.to_lowercase(), value)));
    retention_of(variables)
}

fn retention_of(variables: impl Iterator<Item = (String, String)>) -> anyhow::Result<Retention> {
    let mut retention = Retention::default();
    for (class, days) in variables {
        let days = days
            .parse()
            .with_context(|| format!("how long {class} are kept is a number of days, not {days}"))
            .exit(Exit::Usage)?;
        retention.keep(&class, days).map_err(anyhow::Error::msg).exit(Exit::Usage)?;
    }
    Ok(retention)
}

fn address(variable: &str, of_stack: impl FnOnce(Addresses) -> String) -> anyhow::Result<String> {
    if let Ok(address) = env::var(variable) {
        return Ok(address);
    }
    let home = home_folder();
    match supervisor(&home).and_then(|_| Snapshot::read(&home)) {
        Some(stack) => Ok(of_stack(stack.addresses)),
        None => Err(problem(&Error::NotRunning { home })),
    }
}

/// Whether the stack of this home may grow; a Kafka that the environment names is somebody else's to watch.
///
/// # Errors
/// 75 when its disk cap or the end of the disk is reached: what fills it must stop there.
pub(crate) fn room() -> anyhow::Result<()> {
    let home = home_folder();
    let is_elsewhere = env::var_os("MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS").is_some();
    match Snapshot::read(&home).filter(|_| !is_elsewhere && supervisor(&home).is_some()).map(|stack| stack.disk) {
        Some(disk) if disk.nearly_full() => Err(problem(&Error::DiskNearlyFull { disk })),
        Some(disk) if disk.at_cap() => Err(problem(&Error::DiskCap { disk })),
        _ => Ok(()),
    }
}

/// Gives an error of Kafka or the registry its exit code.
///
/// # Errors
/// The error that was given.
pub(crate) fn with_exit<T>(result: Result<T, marketflow_kafka::Error>) -> anyhow::Result<T> {
    let unreachable = result.as_ref().is_err_and(marketflow_kafka::Error::is_unreachable);
    result.exit(if unreachable { Exit::Unreachable } else { Exit::Failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_days_by_class() {
        let of = |class: &str, days: &str| retention_of(std::iter::once((class.to_owned(), days.to_owned())));
        let mut trades = Retention::default();
        trades.keep("trades", 365).unwrap();
        assert_eq!(of("trades", "365").unwrap(), trades);
        for (class, days) in [("trades", "a year"), ("trades", "-1"), ("trade", "1"), ("bars", "7")] {
            assert_eq!(Exit::of(&of(class, days).unwrap_err()), Exit::Usage, "{class} {days}");
        }
    }
}
