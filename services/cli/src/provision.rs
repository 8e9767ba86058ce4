//! What `up` lays out between starting the infrastructure and starting the services: topics, schemas, tables.
//!
//! Next: `schemas/topics.toml`.

use std::time::Duration;

use crate::commands::connection;
use crate::console::problem;
use marketflow_clickhouse::{ClickHouse, ClickHouseConfig, Retention, migrations};
use marketflow_kafka::admin::{TopicOptions, create_topics, differences};
use marketflow_kafka::{KafkaConfig, Registry, RegistryConfig};
use marketflow_runtime::Exit;
use marketflow_stack::{Addresses, Error};

/// How long Kafka may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Creates the topics of `schemas/topics.toml`, registers the schemas and applies `schemas/clickhouse/*.sql`.
///
/// # Errors
/// When the registry, the topics or the database disagree with this version: `Error::SchemaMismatch` says the difference in words.
pub async fn lay_out(addresses: &Addresses) -> anyhow::Result<()> {
    let kafka = KafkaConfig::new(&addresses.kafka);
    let (registry, clickhouse) = (registry_config(addresses), ClickHouseConfig::new(&addresses.clickhouse));
    lay_out_at(&kafka, &TopicOptions::default(), &registry, &clickhouse, &connection::retention()?).await
}

/// As [`lay_out`], where the configurations say.
///
/// # Errors
/// As [`lay_out`].
pub async fn lay_out_at(
    kafka: &KafkaConfig,
    topics: &TopicOptions,
    registry: &RegistryConfig,
    clickhouse: &ClickHouseConfig,
    retention: &Retention,
) -> anyhow::Result<()> {
    let registry = Registry::new(registry).map_err(of_kafka)?;
    let clickhouse = ClickHouse::new(clickhouse);
    let (topics, schemas, tables) =
        tokio::join!(lay_out_topics(kafka, topics), registry.register_all(), migrations::apply(&clickhouse));
    topics?;
    schemas.map_err(of_kafka)?;
    tables.map_err(of_clickhouse)?;
    retention.apply(&clickhouse).await.map_err(of_clickhouse)?;
    Ok(())
}

async fn lay_out_topics(kafka: &KafkaConfig, options: &TopicOptions) -> anyhow::Result<()> {
    create_topics(kafka, options, ANSWER_WITHIN).await.map_err(of_kafka)?;
    match differences(kafka, ANSWER_WITHIN).await.map_err(of_kafka)? {
        differences if differences.is_empty() => Ok(()),
        differences => Err(mismatch(&differences)),
    }
}

/// Compares registry, topics and database with this version without changing them; nothing when all agree.
///
/// # Errors
/// When one of them does not answer.
pub async fn difference(addresses: &Addresses) -> anyhow::Result<Option<String>> {
    let mut lines = differences(&KafkaConfig::new(&addresses.kafka), ANSWER_WITHIN).await.map_err(of_kafka)?;
    match Registry::new(&registry_config(addresses)).map_err(of_kafka)?.ids().await {
        Ok(_) => {}
        Err(marketflow_kafka::Error::SchemasDisagree(more)) => lines.extend(more),
        Err(error) => return Err(of_kafka(error)),
    }
    let clickhouse = ClickHouse::new(&ClickHouseConfig::new(&addresses.clickhouse));
    lines.extend(migrations::differences(&clickhouse).await.map_err(of_clickhouse)?);
    Ok(if lines.is_empty() { None } else { Some(lines.join("; ")) })
}

fn registry_config(addresses: &Addresses) -> RegistryConfig {
    RegistryConfig { url: addresses.registry.clone() }
}

fn of_kafka(error: marketflow_kafka::Error) -> anyhow::Error {
    use marketflow_kafka::Error as E;
    if let E::TopicsDisagree(differences) | E::SchemasDisagree(differences) = &error {
        return mismatch(differences);
    }
    unreachable(error)
}

fn of_clickhouse(error: marketflow_clickhouse::Error) -> anyhow::Error {
    if let marketflow_clickhouse::Error::Disagrees(differences) = &error {
        return mismatch(differences);
    }
    unreachable(error)
}

fn mismatch(differences: &[String]) -> anyhow::Error {
    problem(&Error::SchemaMismatch { difference: differences.join("; ") })
}

fn unreachable(error: impl std::error::Error + Send + Sync + 'static) -> anyhow::Error {
    anyhow::Error::new(error).context(Exit::Unreachable)
}
