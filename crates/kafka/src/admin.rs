//! Topics: created as `schemas/topics.toml` says, compared with it, and described.

use crate::config::Quiet;
use crate::consumer::list_of;
use crate::{Error, KafkaConfig, TopicPartition, native};
use marketflow_contract::topics::{self, TopicSpec};
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::Client;
use rdkafka::error::RDKafkaErrorCode;
use std::collections::BTreeMap;
use std::time::Duration;

/// How topics are created.
#[derive(Clone, Copy, Debug)]
pub struct TopicOptions {
    /// Copies of each partition; 1 on a single broker.
    pub replication: i32,
    /// Partition count of every topic that has more than one in `schemas/topics.toml`; `None` = as there.
    pub partitions: Option<i32>,
}

impl Default for TopicOptions {
    fn default() -> Self {
        Self { replication: 1, partitions: None }
    }
}

impl TopicOptions {
    fn partitions(&self, topic: &TopicSpec) -> i32 {
        match self.partitions {
            Some(partitions) if topic.partitions > 1 => partitions,
            _ => topic.partitions,
        }
    }
}

/// What a cluster says about itself.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The cluster's id.
    pub id: String,
    /// Brokers up.
    pub brokers: usize,
    /// Topic → partition count and topic id, internal topics left out.
    pub topics: BTreeMap<String, Topic>,
}

/// One topic of a [`Cluster`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topic {
    /// Number of partitions.
    pub partitions: i32,
    /// Tells the topic from another one of the same name; empty when the broker does not say.
    pub id: String,
}

impl Cluster {
    /// Tells a topic from every other one, here and on other clusters; `None` when it does not exist.
    pub fn epoch(&self, topic: &str) -> Option<String> {
        self.topics.get(topic).map(|topic| format!("{}/{}", self.id, topic.id))
    }
}

/// Creates the topics that are missing, and returns their names.
///
/// # Errors
/// An unreachable cluster or a refusal.
pub async fn create_topics(kafka: &KafkaConfig, options: &TopicOptions, timeout: Duration) -> Result<Vec<String>, Error> {
    let admin = client(kafka)?;
    let wanted: Vec<(TopicSpec, Vec<(&str, String)>)> = topics::all().into_iter().map(|t| (t.clone(), settings(&t))).collect();
    let new: Vec<NewTopic<'_>> = wanted
        .iter()
        .map(|(topic, settings)| {
            let new = NewTopic::new(&topic.name, options.partitions(topic), TopicReplication::Fixed(options.replication));
            settings.iter().fold(new, |new, (key, value)| new.set(key, value))
        })
        .collect();
    let mut created = Vec::new();
    for answer in admin.create_topics(&new, &within(timeout)).await.map_err(Error::kafka("create topics"))? {
        match answer {
            Ok(name) => created.push(name),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => {
                return Err(Error::kafka(format!("create topic {name}"))(rdkafka::error::KafkaError::AdminOp(code)));
            }
        }
    }
    Ok(created)
}

/// Gives topics so many partitions; those that have as many already stay as they are.
///
/// # Errors
/// An unreachable cluster or a refusal.
pub async fn add_partitions(kafka: &KafkaConfig, topics: &[&str], count: i32, timeout: Duration) -> Result<(), Error> {
    let admin = client(kafka)?;
    let mut fewer = Vec::new();
    for topic in topics {
        if partition_count(admin.inner(), topic, timeout)? < count {
            fewer.push(NewPartitions::new(topic, usize::try_from(count).unwrap_or(0)));
        }
    }
    if fewer.is_empty() {
        return Ok(());
    }
    for answer in admin.create_partitions(&fewer, &within(timeout)).await.map_err(Error::kafka("add partitions"))? {
        answer.map_err(|(name, code)| {
            Error::kafka(format!("add partitions to {name}"))(rdkafka::error::KafkaError::AdminOp(code))
        })?;
    }
    Ok(())
}

/// Deletes the records before `offset`, as retention does.
///
/// # Errors
/// An unreachable cluster or a refusal.
pub async fn delete_records(kafka: &KafkaConfig, of: &TopicPartition, offset: i64, timeout: Duration) -> Result<(), Error> {
    let list = list_of(&[(of.clone(), offset)])?;
    client(kafka)?.delete_records(&list, &within(timeout)).await.map_err(Error::kafka(format!("delete records of {of}")))?;
    Ok(())
}

/// Deletes topics with all that is in them.
///
/// # Errors
/// An unreachable cluster or a refusal.
pub async fn delete_topics(kafka: &KafkaConfig, topics: &[&str], timeout: Duration) -> Result<(), Error> {
    for answer in client(kafka)?.delete_topics(topics, &within(timeout)).await.map_err(Error::kafka("delete topics"))? {
        answer.map_err(|(name, code)| Error::kafka(format!("delete topic {name}"))(rdkafka::error::KafkaError::AdminOp(code)))?;
    }
    Ok(())
}

/// Compares the cluster with `schemas/topics.toml`; one line per difference, empty when they agree. More partitions than the file says are no
/// difference as long as the topics that must match each other do.
///
/// # Errors
/// An unreachable cluster.
pub async fn differences(kafka: &KafkaConfig, timeout: Duration) -> Result<Vec<String>, Error> {
    let cluster = describe(kafka, timeout)?;
    let wanted = topics::all();
    let mut differences = Vec::new();
    for topic in wanted.iter().filter(|topic| !cluster.topics.contains_key(&topic.name)) {
        differences.push(format!("topic {} does not exist", topic.name));
    }
    let partitions = |name: &str| cluster.topics.get(name).map(|topic| topic.partitions);
    for matching in [topics::CANDLES, topics::CHANGELOG] {
        if let (Some(trades), Some(other)) = (partitions(topics::TRADES), partitions(matching))
            && trades != other
        {
            differences
                .push(format!("{} has {trades} partitions but {matching} has {other}; they must be equal", topics::TRADES));
        }
    }
    let existing: Vec<&TopicSpec> = wanted.iter().filter(|topic| cluster.topics.contains_key(&topic.name)).collect();
    let resources: Vec<ResourceSpecifier<'_>> = existing.iter().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
    if resources.is_empty() {
        return Ok(differences);
    }
    let answers =
        client(kafka)?.describe_configs(&resources, &within(timeout)).await.map_err(Error::kafka("read topic settings"))?;
    for (topic, answer) in existing.iter().zip(answers) {
        let config = answer.map_err(|code| {
            Error::kafka(format!("read the settings of {}", topic.name))(rdkafka::error::KafkaError::AdminOp(code))
        })?;
        for (key, wanted) in settings(topic) {
            let actual = config.get(key).and_then(|entry| entry.value.clone()).unwrap_or_default();
            if actual != wanted {
                differences.push(format!("topic {}: {key} is {actual:?}, should be {wanted:?}", topic.name));
            }
        }
    }
    Ok(differences)
}

/// Fails with [`Error::TopicsDisagree`] unless [`differences`] is empty.
///
/// # Errors
/// The differences, or an unreachable cluster.
pub async fn check(kafka: &KafkaConfig, timeout: Duration) -> Result<(), Error> {
    match differences(kafka, timeout).await? {
        differences if differences.is_empty() => Ok(()),
        differences => Err(Error::TopicsDisagree(differences)),
    }
}

/// Asks the cluster about itself. Blocks up to `timeout`.
///
/// # Errors
/// An unreachable cluster.
pub fn describe(kafka: &KafkaConfig, timeout: Duration) -> Result<Cluster, Error> {
    let admin = client(kafka)?;
    let client = admin.inner();
    let metadata = client.fetch_metadata(None, timeout).map_err(Error::kafka("read the cluster's metadata"))?;
    let id = client
        .fetch_cluster_id(timeout)
        .ok_or_else(|| Error::Timeout { doing: "read the cluster id".to_owned(), seconds: timeout.as_secs() })?;
    let names: Vec<&str> = metadata.topics().iter().map(|t| t.name()).filter(|name| !name.starts_with("__")).collect();
    let ids = if names.is_empty() { BTreeMap::new() } else { topic_ids(client, &names, timeout)? };
    let topics = metadata
        .topics()
        .iter()
        .filter(|topic| !topic.name().starts_with("__"))
        .map(|topic| {
            let partitions = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
            (topic.name().to_owned(), Topic { partitions, id: ids.get(topic.name()).cloned().unwrap_or_default() })
        })
        .collect();
    Ok(Cluster { id, brokers: metadata.brokers().len(), topics })
}

pub(crate) fn partition_count<C: ClientContext>(client: &Client<C>, topic: &str, timeout: Duration) -> Result<i32, Error> {
    let metadata = client.fetch_metadata(Some(topic), timeout).map_err(Error::kafka(format!("read the metadata of {topic}")))?;
    let count = metadata.topics().iter().find(|t| t.name() == topic).map_or(0, |t| t.partitions().len());
    match i32::try_from(count) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(Error::TopicsDisagree(vec![format!("topic {topic} does not exist")])),
    }
}

fn topic_ids<C: ClientContext>(client: &Client<C>, names: &[&str], timeout: Duration) -> Result<BTreeMap<String, String>, Error> {
    native::topic_ids(client, names, timeout).map_err(Error::kafka("read topic ids"))
}

fn client(kafka: &KafkaConfig) -> Result<AdminClient<Quiet>, Error> {
    kafka.client(&[], &[], Quiet)
}

fn within(timeout: Duration) -> AdminOptions {
    AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout))
}

fn settings(topic: &TopicSpec) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        ("cleanup.policy", topic.cleanup_policy.clone()),
        ("retention.ms", topic.retention_ms.to_string()),
    ];
    if topic.cleanup_policy == "compact" {
        // what is restored from: the segment that is written to is never compacted, and a deletion has to outlive a restore only
        settings.push(("segment.bytes", (4 << 20).to_string()));
        settings.push(("min.cleanable.dirty.ratio", "0.2".to_owned()));
        settings.push(("delete.retention.ms", "600000".to_owned()));
    }
    settings
}
