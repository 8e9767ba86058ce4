//! The stack of a run, made of the product's own parts: Kafka and the registry on free ports; topics fresh for each run; the wait for a group.

use anyhow::{Context, ensure};
use marketflow_contract::{Schema, topics};
use marketflow_kafka::admin::{TopicOptions, create_topics, describe};
use marketflow_kafka::{KafkaConfig, Registry, RegistryConfig};
use marketflow_stack::{Ports, Stack, StackConfig};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

const PATIENCE: Duration = Duration::from_secs(60);
/// Partitions of the peers' output topics, as `market.bars.v1` has.
const PARTITIONS: i32 = 4;

/// Starts Kafka and the registry, lays out topics and schemas, prints one line, and stays until it is told to end.
///
/// # Errors
/// When a part does not start.
pub(crate) async fn run(home: PathBuf) -> anyhow::Result<()> {
    let mut end = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let config = StackConfig { ports: Ports::free()?, ..StackConfig::new(home) }.with_infrastructure(&["kafka", "registry"]);
    let stack = Stack::start(config).await?;
    let addresses = stack.addresses();
    create_topics(&KafkaConfig::new(&addresses.kafka), &TopicOptions::default(), PATIENCE).await?;
    let ids = Registry::new(&RegistryConfig { url: addresses.registry.clone() })?.register_all().await?;
    let id = |topic, schema| ids.id(topic, schema).context("registered just now");
    let pid = stack.status().into_iter().find(|part| part.name == "kafka").and_then(|part| part.pid).context("Kafka runs")?;
    println!(
        "kafka={} registry={} kafka_pid={pid} trade_schema={} control_schema={}",
        addresses.kafka,
        addresses.registry,
        id(topics::TRADES, Schema::Trade)?,
        id(topics::TRADES, Schema::Control)?
    );
    // the end of standard input: whoever started this is gone
    let mut rest = Vec::new();
    let mut input = tokio::io::stdin();
    tokio::select! {
        _ = end.recv() => {}
        _ = interrupt.recv() => {}
        _ = input.read_to_end(&mut rest) => {}
    }
    stack.stop().await;
    // the thread that reads standard input may still wait
    std::process::exit(0);
}

/// Drops these topics and makes them again: the product's as `schemas/topics.toml` says, others with four partitions.
///
/// # Errors
/// Kafka's.
pub(crate) async fn fresh(kafka: &KafkaConfig, names: &[String]) -> anyhow::Result<()> {
    delete(kafka, names).await?;
    let ours = topics::all();
    let (known, others): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| ours.iter().any(|t| t.name == **name));
    if !known.is_empty() {
        create_topics(kafka, &TopicOptions::default(), PATIENCE).await?;
    }
    let new: Vec<NewTopic<'_>> = others.iter().map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1))).collect();
    if !new.is_empty() {
        for created in admin(kafka)?.create_topics(&new, &options()).await? {
            created.map_err(|(name, code)| anyhow::anyhow!("cannot create {name}: {code}"))?;
        }
    }
    until(kafka, |there| names.iter().all(|name| there(name))).await
}

/// Drops a peer's group and its internal topics.
///
/// # Errors
/// Kafka's.
pub(crate) async fn forget(kafka: &KafkaConfig, group: &str) -> anyhow::Result<()> {
    let names: Vec<String> = describe(kafka, PATIENCE)?.topics.into_keys().filter(|name| name.contains(group)).collect();
    delete(kafka, &names).await?;
    // a peer without a committed offset has no group
    let _ = admin(kafka)?.delete_groups(&[group], &options()).await?;
    Ok(())
}

async fn delete(kafka: &KafkaConfig, names: &[String]) -> anyhow::Result<()> {
    let there = describe(kafka, PATIENCE)?.topics;
    let old: Vec<&str> = names.iter().map(String::as_str).filter(|name| there.contains_key(*name)).collect();
    if old.is_empty() {
        return Ok(());
    }
    for deleted in admin(kafka)?.delete_topics(&old, &options()).await? {
        deleted.map_err(|(name, code)| anyhow::anyhow!("cannot drop {name}: {code}"))?;
    }
    until(kafka, |there| !names.iter().any(|name| there(name))).await
}

/// Waits until the cluster's topics are as wanted; changes take effect in the background.
async fn until(kafka: &KafkaConfig, wanted: impl Fn(&dyn Fn(&str) -> bool) -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let topics = describe(kafka, PATIENCE)?.topics;
        if wanted(&|name| topics.contains_key(name)) {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "topics were not changed within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the group has committed everything that stands on `market.trades.v1` now. Looks twenty times a second, which costs nothing to
/// speak of.
///
/// # Errors
/// Kafka's, or no end within so many seconds.
pub(crate) fn wait(bootstrap: &str, group: &str, seconds: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    let asker: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .create()?;
    let ends = ends(&asker)?;
    let mut places = TopicPartitionList::new();
    for (partition, _) in &ends {
        places.add_partition(topics::TRADES, *partition);
    }
    loop {
        // a group that is not there yet, or a transaction that is not decided, is no reason to stop
        if let Ok(committed) = asker.committed_offsets(places.clone(), Duration::from_secs(10)) {
            let at = |partition| committed.find_partition(topics::TRADES, partition).map(|place| place.offset());
            if ends.iter().all(|(partition, end)| matches!(at(*partition), Some(Offset::Offset(next)) if next >= *end)) {
                return Ok(());
            }
        }
        ensure!(begun.elapsed() < Duration::from_secs(seconds), "{group} did not reach the end within {seconds} s");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Each partition of `market.trades.v1` that holds records, and its end.
pub(crate) fn ends(consumer: &BaseConsumer) -> anyhow::Result<Vec<(i32, i64)>> {
    let metadata = consumer.fetch_metadata(Some(topics::TRADES), PATIENCE)?;
    let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    let mut ends = Vec::new();
    for partition in 0..i32::try_from(partitions)? {
        let (_, end) = consumer.fetch_watermarks(topics::TRADES, partition, PATIENCE)?;
        if end > 0 {
            ends.push((partition, end));
        }
    }
    ensure!(!ends.is_empty(), "{} is empty", topics::TRADES);
    Ok(ends)
}

fn admin(kafka: &KafkaConfig) -> anyhow::Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new().set("bootstrap.servers", &kafka.bootstrap_servers).create()?)
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
}
