//! The group consumer of a plain thread: explicit offsets, `read_committed`, and rebalances as events between batches.

use crate::config::log;
use crate::{Error, KafkaConfig};
use marketflow_model::Timestamp;
use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance as RdRebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A topic and one of its partitions.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicPartition {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
}

impl TopicPartition {
    /// From its two parts.
    pub fn new(topic: impl Into<String>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Where a group starts on a partition without a committed offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartAt {
    /// At the oldest record.
    Earliest,
    /// At the end.
    Latest,
    /// Nowhere: an error, so that lost offsets are seen.
    Error,
}

/// How a [`Consumer`] takes part in its group.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// `group.id`.
    pub group_id: String,
    /// `group.instance.id`: a static member keeps its partitions over a restart.
    pub instance_id: Option<String>,
    /// Where to start without a committed offset.
    pub start_at: StartAt,
    /// After how long without a heartbeat the group goes on without us.
    pub session_timeout: Duration,
    /// After how long without a poll the group goes on without us.
    pub max_poll_interval: Duration,
    /// Whether newly assigned partitions begin paused, so that the loop restores their state first and then calls [`Consumer::resume`].
    pub pause_on_assign: bool,
    /// KiB fetched ahead over all partitions.
    pub fetch_queue_kib: u32,
}

impl GroupSettings {
    /// The settings of reliability's rules for a group.
    pub fn new(group_id: impl Into<String>) -> Self {
        Self {
            group_id: group_id.into(),
            instance_id: None,
            start_at: StartAt::Earliest,
            session_timeout: Duration::from_secs(6),
            max_poll_interval: Duration::from_secs(60),
            pause_on_assign: false,
            fetch_queue_kib: 65_536,
        }
    }
}

/// A change of the assignment, in the order it happened. The partitions were already assigned or unassigned; nothing was restored or dropped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rebalance {
    /// These are ours now (paused when [`GroupSettings::pause_on_assign`]).
    Assigned(Vec<TopicPartition>),
    /// These went in good order.
    Revoked(Vec<TopicPartition>),
    /// These were taken from us: somebody else may already be working on them.
    Lost(Vec<TopicPartition>),
}

/// One record of a [`Batch`].
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

/// One record read.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    message: &'a BorrowedMessage<'a>,
}

impl<'a> Record<'a> {
    pub(crate) fn new(message: &'a BorrowedMessage<'a>) -> Self {
        Self { message }
    }

    /// The topic.
    pub fn topic(&self) -> &'a str {
        self.message.topic()
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.message.partition()
    }

    /// The offset.
    pub fn offset(&self) -> i64 {
        self.message.offset()
    }

    /// The log's append time, or the producer's clock where the topic is configured so.
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.message.timestamp().to_millis().map(Timestamp::from_millis)
    }

    /// Key bytes.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.message.key()
    }

    /// Value bytes; `None` for a tombstone.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.message.payload()
    }

    /// Headers, in order.
    pub fn headers(&self) -> impl Iterator<Item = Header<'a>> {
        let message = self.message;
        let count = message.headers().map_or(0, Headers::count);
        (0..count)
            .filter_map(move |index| message.headers().map(|headers| headers.get(index)))
            .map(|header| (header.key, header.value))
    }

    /// The last value of a header.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().filter(|(key, _)| *key == name).filter_map(|(_, value)| value).last()
    }
}

/// What one [`Consumer::poll_batch`] gave: first the rebalances, to be handled first; then records of partitions that are still ours.
pub struct Batch<'c> {
    /// Changes of the assignment since the last batch.
    pub rebalances: Vec<Rebalance>,
    messages: Vec<BorrowedMessage<'c>>,
}

impl Batch<'_> {
    /// The records, in log order per partition.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.messages.iter().map(Record::new)
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

/// Only records what happened; the loop acts on it between batches.
pub(crate) struct GroupContext {
    events: Mutex<Vec<Rebalance>>,
    pause_on_assign: bool,
}

impl ClientContext for GroupContext {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka consumer");
    }
}

impl ConsumerContext for GroupContext {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &RdRebalance<'_>) {
        if let RdRebalance::Revoke(list) = rebalance {
            let partitions = partitions_of(list);
            self.push(if consumer.assignment_lost() { Rebalance::Lost(partitions) } else { Rebalance::Revoked(partitions) });
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &RdRebalance<'_>) {
        if let RdRebalance::Assign(list) = rebalance {
            if self.pause_on_assign
                && let Err(error) = consumer.pause(list)
            {
                tracing::error!(%error, "cannot pause newly assigned partitions");
            }
            self.push(Rebalance::Assigned(partitions_of(list)));
        }
    }
}

impl GroupContext {
    fn push(&self, event: Rebalance) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    fn take(&self) -> Vec<Rebalance> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_empty(&self) -> bool {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// A member of a consumer group.
pub struct Consumer {
    inner: BaseConsumer<GroupContext>,
}

impl Consumer {
    /// Joins the group for these topics; the join happens in later polls.
    ///
    /// # Errors
    /// A setting or topic name librdkafka does not take.
    pub fn subscribe(kafka: &KafkaConfig, group: &GroupSettings, topics: &[&str]) -> Result<Self, Error> {
        let session_timeout_ms = group.session_timeout.as_millis().to_string();
        let heartbeat_ms = (group.session_timeout / 4).as_millis().to_string();
        let max_poll_interval_ms = group.max_poll_interval.as_millis().to_string();
        let fetch_queue_kib = group.fetch_queue_kib.to_string();
        let defaults = [
            ("session.timeout.ms", session_timeout_ms.as_str()),
            ("heartbeat.interval.ms", &heartbeat_ms),
            ("max.poll.interval.ms", &max_poll_interval_ms),
            ("queued.max.messages.kbytes", &fetch_queue_kib),
            ("fetch.queue.backoff.ms", "10"),
            ("fetch.wait.max.ms", "50"),
            ("topic.metadata.refresh.interval.ms", "30000"),
        ];
        let mut fixed = vec![
            ("group.id", group.group_id.as_str()),
            ("isolation.level", "read_committed"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("partition.assignment.strategy", "range"),
            (
                "auto.offset.reset",
                match group.start_at {
                    StartAt::Earliest => "earliest",
                    StartAt::Latest => "latest",
                    StartAt::Error => "error",
                },
            ),
        ];
        if let Some(instance) = &group.instance_id {
            fixed.push(("group.instance.id", instance));
        }
        let context = GroupContext { events: Mutex::new(Vec::new()), pause_on_assign: group.pause_on_assign };
        let inner: BaseConsumer<GroupContext> = kafka.client(&defaults, &fixed, context)?;
        inner.subscribe(topics).map_err(Error::kafka(format!("subscribe to {}", topics.join(", "))))?;
        Ok(Self { inner })
    }

    /// Waits up to `max_wait` for the first record, then takes what is there, up to `max_records`. Ends early at a rebalance, after which it
    /// holds no record of a partition that is not ours any more. Keep calling it, also while everything is paused.
    ///
    /// # Errors
    /// What the consumer cannot recover from by itself.
    pub fn poll_batch(&self, max_wait: Duration, max_records: usize) -> Result<Batch<'_>, Error> {
        let start = Instant::now();
        let mut messages: Vec<BorrowedMessage<'_>> = Vec::new();
        while messages.len() < max_records {
            let wait = if messages.is_empty() { max_wait.saturating_sub(start.elapsed()) } else { Duration::ZERO };
            match self.inner.poll(wait) {
                Some(Ok(message)) => messages.push(message),
                Some(Err(problem)) => match recovered(&problem) {
                    true => tracing::warn!(error = %problem, "kafka consumer goes on"),
                    false => return Err(Error::kafka("read")(problem)),
                },
                None if !self.inner.context().is_empty() || !messages.is_empty() || start.elapsed() >= max_wait => break,
                None => {}
            }
        }
        let rebalances = self.inner.context().take();
        for event in &rebalances {
            if let Rebalance::Revoked(gone) | Rebalance::Lost(gone) = event {
                messages.retain(|m| !gone.iter().any(|g| g.partition == m.partition() && g.topic == m.topic()));
            }
        }
        Ok(Batch { rebalances, messages })
    }

    /// Commits next-to-read offsets and waits for the answer. Not for transactions.
    ///
    /// # Errors
    /// The group refused (it moved on without us) or did not answer.
    pub fn commit(&self, next: &[(TopicPartition, i64)]) -> Result<(), Error> {
        self.inner.commit(&list_of(next)?, CommitMode::Sync).map_err(Error::kafka("commit offsets"))
    }

    /// Stops delivery of these partitions; polling goes on.
    ///
    /// # Errors
    /// A partition that is not ours.
    pub fn pause(&self, partitions: &[TopicPartition]) -> Result<(), Error> {
        self.inner.pause(&plain_list(partitions)).map_err(Error::kafka("pause"))
    }

    /// Takes delivery of these partitions up again.
    ///
    /// # Errors
    /// A partition that is not ours.
    pub fn resume(&self, partitions: &[TopicPartition]) -> Result<(), Error> {
        self.inner.resume(&plain_list(partitions)).map_err(Error::kafka("resume"))
    }

    /// Goes to an offset; records read ahead of it are dropped. Waits while librdkafka is still starting the partition.
    ///
    /// # Errors
    /// A partition that is not ours, or no answer within `timeout`.
    pub fn seek(&self, to: &TopicPartition, offset: i64, timeout: Duration) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            match self.inner.seek(&to.topic, to.partition, Offset::Offset(offset), Duration::from_secs(1)) {
                Ok(()) => return Ok(()),
                Err(_) if start.elapsed() < timeout => std::thread::sleep(Duration::from_millis(5)),
                Err(problem) => return Err(Error::kafka(format!("seek {to} to {offset}"))(problem)),
            }
        }
    }

    /// The next offset this consumer would deliver, where it delivered anything since the assignment.
    ///
    /// # Errors
    /// librdkafka's.
    pub fn positions(&self) -> Result<Vec<(TopicPartition, i64)>, Error> {
        let list = self.inner.position().map_err(Error::kafka("read positions"))?;
        Ok(known_offsets(&list))
    }

    /// The offsets the group committed for these partitions; those without one are left out.
    ///
    /// # Errors
    /// No answer within `timeout`.
    pub fn committed(&self, partitions: &[TopicPartition], timeout: Duration) -> Result<Vec<(TopicPartition, i64)>, Error> {
        let list =
            self.inner.committed_offsets(plain_list(partitions), timeout).map_err(Error::kafka("read committed offsets"))?;
        Ok(known_offsets(&list))
    }

    /// Oldest offset, and end of what `read_committed` sees.
    ///
    /// # Errors
    /// No answer within `timeout`.
    pub fn watermarks(&self, of: &TopicPartition, timeout: Duration) -> Result<(i64, i64), Error> {
        self.inner.fetch_watermarks(&of.topic, of.partition, timeout).map_err(Error::kafka(format!("read the ends of {of}")))
    }

    /// Whether the group went on without us.
    pub fn assignment_lost(&self) -> bool {
        self.inner.assignment_lost()
    }

    /// What is ours now.
    ///
    /// # Errors
    /// librdkafka's.
    pub fn assignment(&self) -> Result<Vec<TopicPartition>, Error> {
        Ok(partitions_of(&self.inner.assignment().map_err(Error::kafka("read the assignment"))?))
    }

    pub(crate) fn inner(&self) -> &BaseConsumer<GroupContext> {
        &self.inner
    }
}

/// Errors that a poll reports though the client goes on by itself.
pub(crate) fn recovered(problem: &KafkaError) -> bool {
    matches!(
        problem.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::NotCoordinator
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::CoordinatorLoadInProgress
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::RebalanceInProgress
        )
    ) && !matches!(problem, KafkaError::MessageConsumptionFatal(_))
}

fn partitions_of(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements().iter().map(|e| TopicPartition::new(e.topic(), e.partition())).collect()
}

fn known_offsets(list: &TopicPartitionList) -> Vec<(TopicPartition, i64)> {
    list.elements()
        .iter()
        .filter_map(|e| {
            let Offset::Offset(offset) = e.offset() else { return None };
            Some((TopicPartition::new(e.topic(), e.partition()), offset))
        })
        .collect()
}

pub(crate) fn plain_list(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for p in partitions {
        list.add_partition(&p.topic, p.partition);
    }
    list
}

pub(crate) fn list_of(next: &[(TopicPartition, i64)]) -> Result<TopicPartitionList, Error> {
    let mut list = TopicPartitionList::with_capacity(next.len());
    for (p, offset) in next {
        list.add_partition_offset(&p.topic, p.partition, Offset::Offset(*offset))
            .map_err(Error::kafka(format!("name offset {offset}")))?;
    }
    Ok(list)
}
