//! Where a newly assigned partition begins: the rows in ClickHouse decide, the committed offset is a hint.

use crate::batch::{Marks, Stream};
use crate::config::Accepted;
use crate::error::stop;
use crate::tables::Table;
use anyhow::Context;
use clickhouse::Row;
use marketflow_clickhouse::{ClickHouse, Disposition};
use marketflow_kafka::{KafkaConfig, Reader, TopicPartition, admin};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What is known of a partition before its first record is taken.
pub(crate) struct Prepared {
    pub(crate) stream: Stream,
    pub(crate) marks: Marks,
    /// Oldest offset in the log.
    pub(crate) low: i64,
    /// Whether the tables hold nothing of this stream, not even the note that it was begun.
    pub(crate) new_here: bool,
}

/// What preparing needs.
#[derive(Clone)]
pub(crate) struct Assignment {
    pub(crate) clickhouse: ClickHouse,
    pub(crate) kafka: KafkaConfig,
    pub(crate) accepted: Accepted,
    pub(crate) tables: Arc<BTreeMap<String, &'static Table>>,
}

impl Assignment {
    /// Prepares partitions; waits while ClickHouse or Kafka does not answer.
    pub(crate) async fn prepare(&self, partitions: Vec<TopicPartition>) -> anyhow::Result<Vec<Prepared>> {
        loop {
            match self.try_prepare(&partitions).await {
                Err(problem) if is_passing(&problem) => {
                    tracing::warn!(error = format!("{problem:#}"), "cannot prepare the new partitions yet");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                answer => return answer,
            }
        }
    }

    async fn try_prepare(&self, partitions: &[TopicPartition]) -> anyhow::Result<Vec<Prepared>> {
        let (epochs, ranges) = self.ask_kafka(partitions.to_vec()).await?;
        let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for of in partitions {
            by_topic.entry(&of.topic).or_default().push(of.partition);
        }
        let mut prepared = Vec::new();
        for (topic, partitions) in by_topic {
            let epoch = epochs.get(topic).with_context(|| format!("topic {topic} is gone"))?;
            let table = *self.tables.get(topic).with_context(|| format!("no table for topic {topic}"))?;
            let new_here = self.begin(topic, epoch).await?;
            let mut marks = self.marks(table, topic, epoch, &partitions).await?;
            for partition in partitions {
                let of = TopicPartition::new(topic, partition);
                let (low, end) = ranges[&of];
                let marks = marks.remove(&partition).unwrap_or_default();
                if let Some(mark) = marks.values().max().filter(|mark| **mark >= end) {
                    return Err(stop(format!(
                        "{} holds offset {mark} of {of}, but the log ends at {end}: Kafka lost what ClickHouse has; restore Kafka, or create \
                         the topic again and accept its new epoch",
                        table.name
                    )));
                }
                let stream = Stream { epoch: epoch.clone(), topic: topic.into(), partition, table };
                prepared.push(Prepared { stream, marks, low, new_here });
            }
        }
        Ok(prepared)
    }

    /// The epoch of every topic, and both ends of these partitions.
    async fn ask_kafka(&self, partitions: Vec<TopicPartition>) -> anyhow::Result<(Epochs, BTreeMap<TopicPartition, (i64, i64)>)> {
        let kafka = self.kafka.clone();
        tokio::task::spawn_blocking(move || {
            let epochs = epochs(&kafka)?;
            let reader = Reader::new(&kafka)?;
            let mut ranges = BTreeMap::new();
            for of in partitions {
                let range = reader.range(&of)?;
                ranges.insert(of, range);
            }
            Ok((epochs, ranges))
        })
        .await?
    }

    /// Notes that a stream is landed here; `true` when neither note nor rows of it were there. An epoch that follows another one is refused
    /// until it is accepted: its offsets begin anew, and its rows would stand beside those of the earlier life.
    async fn begin(&self, topic: &str, epoch: &str) -> anyhow::Result<bool> {
        #[derive(Row, Deserialize)]
        struct Known {
            stream_epoch: String,
        }
        let query =
            self.clickhouse.query("SELECT DISTINCT stream_epoch FROM streams WHERE topic = ? ORDER BY stream_epoch").bind(topic);
        let known = self.clickhouse.rows::<Known>("read the known streams", query).await?;
        if known.iter().any(|known| known.stream_epoch == epoch) {
            return Ok(false);
        }
        if let Some(other) = known.first()
            && self.accepted.accept_epoch != epoch
        {
            return Err(stop(format!(
                "topic {topic} has epoch {epoch}, but the tables hold its epoch {}: it was created again, or this is another cluster; if that \
                 is meant, start once with --set stream.accept_epoch={epoch}, else point the sink at the right cluster or database",
                other.stream_epoch
            )));
        }
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
        let note = format!("INSERT INTO streams (topic, stream_epoch) VALUES ('{}', '{}')", escaped(topic), escaped(epoch));
        self.clickhouse.execute("note a new stream", &note).await?;
        Ok(true)
    }

    async fn marks(&self, table: &Table, topic: &str, epoch: &str, partitions: &[i32]) -> anyhow::Result<BTreeMap<i32, Marks>> {
        #[derive(Row, Deserialize)]
        struct Mark {
            partition: i32,
            table_partition: u32,
            offset: i64,
        }
        let table_partition = match table.month_of {
            Some(column) => format!("toYYYYMM({column})"),
            None => "toUInt32(0)".to_owned(),
        };
        let sql = format!(
            "SELECT partition, {table_partition} AS table_partition, max(offset) AS offset FROM {} \
             WHERE stream_epoch = ? AND topic = ? AND partition IN ? GROUP BY partition, table_partition ORDER BY partition",
            table.name
        );
        let query = self.clickhouse.query(&sql).bind(epoch).bind(topic).bind(partitions);
        let mut marks: BTreeMap<i32, Marks> = BTreeMap::new();
        for mark in self.clickhouse.rows::<Mark>(&format!("read the marks of {topic} in {}", table.name), query).await? {
            marks.entry(mark.partition).or_default().insert(mark.table_partition, mark.offset);
        }
        Ok(marks)
    }
}

pub(crate) type Epochs = BTreeMap<String, Arc<str>>;

/// `cluster id/topic id` of every topic.
pub(crate) fn epochs(kafka: &KafkaConfig) -> anyhow::Result<Epochs> {
    let cluster = admin::describe(kafka, ANSWER_WITHIN)?;
    Ok(cluster.topics.into_iter().map(|(name, topic)| (name, format!("{}/{}", cluster.id, topic.id).into())).collect())
}

fn is_passing(problem: &anyhow::Error) -> bool {
    if let Some(kafka) = problem.downcast_ref::<marketflow_kafka::Error>() {
        return kafka.disposition() == marketflow_kafka::Disposition::Retry;
    }
    problem.downcast_ref::<marketflow_clickhouse::Error>().is_some_and(|problem| problem.disposition() == Disposition::Retry)
}
