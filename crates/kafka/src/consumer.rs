//! The group consumer of a plain thread: explicit offsets, `read_committed`, and rebalances as events between batches.

use crate::config::log;
use crate::native::{self, Messages, NativeConsumer, TransactionProblem, Watcher};
use crate::{Error, KafkaConfig};
use marketflow_contract::headers;
use marketflow_model::Timestamp;
use rdkafka::bindings::rd_kafka_message_t;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
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
    /// Where the loop seeks before it resumes (with [`GroupSettings::pause_on_assign`]). Offsets that do not exist, or do not any more, are an
    /// error of [`Consumer::poll_batch`], so that what was lost is seen.
    Seek,
}

/// Longest wait of one call into librdkafka.
const WAIT_SLICE: Duration = Duration::from_millis(50);

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
    /// KiB of values fetched ahead over all partitions; a record costs librdkafka half a kilobyte beside its value.
    pub fetch_queue_kib: u32,
    /// More is fetched while fewer records than these wait.
    pub fetch_queue_records: u32,
    /// KiB of a partition in one answer, as compressed in the log.
    pub fetch_partition_kib: u32,
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
            fetch_queue_records: 100_000,
            fetch_partition_kib: 1_024,
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

/// Name and value of a header.
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

/// One record read.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    message: &'a rd_kafka_message_t,
}

impl<'a> Record<'a> {
    pub(crate) fn new(message: &'a BorrowedMessage<'a>) -> Self {
        Self { message: native::of_borrowed(message) }
    }

    /// The topic.
    pub fn topic(&self) -> &'a str {
        native::topic_of(self.message)
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.message.partition
    }

    /// The offset.
    pub fn offset(&self) -> i64 {
        self.message.offset
    }

    /// The log's append time, or the producer's clock where the topic is configured so.
    pub fn timestamp(&self) -> Option<Timestamp> {
        native::timestamp_of(self.message).map(Timestamp::from_millis)
    }

    /// Key bytes.
    pub fn key(&self) -> Option<&'a [u8]> {
        native::key_of(self.message)
    }

    /// Value bytes; `None` for a tombstone.
    pub fn value(&self) -> Option<&'a [u8]> {
        native::value_of(self.message)
    }

    /// Headers, in order.
    pub fn headers(&self) -> impl Iterator<Item = Header<'a>> {
        native::headers_of(self.message)
    }

    /// Whether it was redriven for another consumer than this one, which passes it by.
    pub fn is_for_another(&self, consumer: &str) -> bool {
        self.header(headers::REDRIVE_FOR).is_some_and(|wanted| wanted != consumer.as_bytes())
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
    messages: Messages<'c>,
}

impl Batch<'_> {
    /// The records, in log order per partition.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.messages.iter().map(|message| Record { message })
    }

    /// The records in stretches of one topic and partition, in the order they were read.
    pub fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        self.messages.runs().map(|messages| Run { messages })
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.messages.len() == 0
    }
}

/// Neighbouring records of one topic and partition; at least one.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    messages: &'a [native::Owned],
}

impl<'a> Run<'a> {
    /// The topic of all.
    pub fn topic(&self) -> &'a str {
        self.messages.first().map_or("", |message| native::topic_of(message.get()))
    }

    /// The partition of all.
    pub fn partition(&self) -> i32 {
        self.messages.first().map_or(-1, |message| message.get().partition)
    }

    /// The records, offsets rising.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        self.messages.iter().map(|message| Record { message: message.get() })
    }
}

/// Only records what happened; the loop acts on it between batches.
struct GroupEvents {
    events: Mutex<Vec<Rebalance>>,
    is_sought: bool,
}

impl Watcher for GroupEvents {
    fn is_sought(&self) -> bool {
        self.is_sought
    }

    fn assigned(&self, partitions: Vec<(String, i32)>) {
        self.push(Rebalance::Assigned(partitions_of(partitions)));
    }

    fn revoked(&self, partitions: Vec<(String, i32)>, lost: bool) {
        let partitions = partitions_of(partitions);
        self.push(if lost { Rebalance::Lost(partitions) } else { Rebalance::Revoked(partitions) });
    }

    fn log(&self, level: i32, facility: &str, text: &str) {
        let level = match level {
            ..=4 => RDKafkaLogLevel::Warning,
            5 | 6 => RDKafkaLogLevel::Info,
            _ => RDKafkaLogLevel::Debug,
        };
        log(level, facility, text);
    }

    fn error(&self, code: RDKafkaErrorCode, reason: &str) {
        tracing::warn!(error = %code, reason, "kafka consumer");
    }
}

impl GroupEvents {
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
    inner: NativeConsumer<GroupEvents>,
    pause_on_assign: bool,
}

impl Consumer {
    /// Joins the group for these topics; the join happens in later polls. Without topics it stays outside, and its offsets are taken as long as
    /// the group has no member.
    ///
    /// # Errors
    /// A setting or topic name librdkafka does not take.
    pub fn subscribe(kafka: &KafkaConfig, group: &GroupSettings, topics: &[&str]) -> Result<Self, Error> {
        let session_timeout_ms = group.session_timeout.as_millis().to_string();
        let heartbeat_ms = (group.session_timeout / 4).as_millis().to_string();
        let max_poll_interval_ms = group.max_poll_interval.as_millis().to_string();
        let (queue_kib, queue_records) = (group.fetch_queue_kib.to_string(), group.fetch_queue_records.to_string());
        let partition_bytes = (u64::from(group.fetch_partition_kib) << 10).to_string();
        let defaults = [
            ("session.timeout.ms", session_timeout_ms.as_str()),
            ("heartbeat.interval.ms", &heartbeat_ms),
            ("max.poll.interval.ms", &max_poll_interval_ms),
            ("queued.max.messages.kbytes", &queue_kib),
            ("queued.min.messages", &queue_records),
            ("fetch.message.max.bytes", &partition_bytes),
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
                    StartAt::Seek => "error",
                },
            ),
        ];
        if let Some(instance) = &group.instance_id {
            fixed.push(("group.instance.id", instance));
        }
        let config = kafka.settings(&defaults, &fixed);
        let config = config.create_native_config().map_err(|problem| Error::Config(problem.to_string()))?;
        let inner =
            NativeConsumer::new(&config, GroupEvents { events: Mutex::default(), is_sought: group.start_at == StartAt::Seek })
                .map_err(Error::Config)?;
        if !topics.is_empty() {
            inner.subscribe(topics).map_err(Error::kafka(format!("subscribe to {}", topics.join(", "))))?;
        }
        Ok(Self { inner, pause_on_assign: group.pause_on_assign })
    }

    /// Waits up to `max_wait` for the first record, then takes what is there, up to `max_records`. Ends early at a rebalance, after which it
    /// holds no record of a partition that is not ours any more. Keep calling it, also while everything is paused.
    ///
    /// # Errors
    /// What the consumer cannot recover from by itself.
    pub fn poll_batch(&self, max_wait: Duration, max_records: usize) -> Result<Batch<'_>, Error> {
        let start = Instant::now();
        let mut messages = Messages::new();
        loop {
            // in slices, so that a rebalance is handled soon and not after the longest wait
            let wait = max_wait.saturating_sub(start.elapsed()).min(WAIT_SLICE);
            self.inner.take(wait, max_records, &mut messages);
            if messages.len() > 0 || !self.inner.watcher().is_empty() || start.elapsed() >= max_wait {
                break;
            }
        }
        let mut problem = None;
        messages.retain(|message| match native::problem_of(message) {
            None => true,
            Some(found) if recovered(&found) => {
                tracing::warn!(error = %found, "kafka consumer goes on");
                false
            }
            Some(found) => {
                problem = Some(found);
                false
            }
        });
        if let Some(problem) = problem {
            return Err(Error::kafka("read")(problem));
        }
        // Partitions begin paused, so no record of this batch was read under an assignment that began within it.
        let rebalances = self.inner.watcher().take();
        for event in &rebalances {
            match event {
                Rebalance::Revoked(gone) | Rebalance::Lost(gone) => {
                    messages.retain(|m| !gone.iter().any(|g| g.partition == m.partition && g.topic == native::topic_of(m)));
                }
                Rebalance::Assigned(came) if !self.pause_on_assign => self.resume(came)?,
                Rebalance::Assigned(_) => {}
            }
        }
        Ok(Batch { rebalances, messages })
    }

    /// Commits next-to-read offsets and waits for the answer. Not for transactions.
    ///
    /// # Errors
    /// The group refused (it moved on without us) or did not answer.
    pub fn commit(&self, next: &[(TopicPartition, i64)]) -> Result<(), Error> {
        self.inner.commit(&list_of(next)?).map_err(Error::kafka("commit offsets"))
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
            match self.inner.seek(&to.topic, to.partition, offset, Duration::from_secs(1)) {
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
        let list = plain_list(&self.assignment()?);
        self.inner.position(&list).map_err(Error::kafka("read positions"))?;
        Ok(known_offsets(&list))
    }

    /// The offsets the group committed for these partitions; those without one are left out.
    ///
    /// # Errors
    /// No answer within `timeout`.
    pub fn committed(&self, partitions: &[TopicPartition], timeout: Duration) -> Result<Vec<(TopicPartition, i64)>, Error> {
        let list = plain_list(partitions);
        self.inner.committed(&list, timeout).map_err(Error::kafka("read committed offsets"))?;
        Ok(known_offsets(&list))
    }

    /// Oldest offset, and end of what `read_committed` sees.
    ///
    /// # Errors
    /// No answer within `timeout`.
    pub fn watermarks(&self, of: &TopicPartition, timeout: Duration) -> Result<(i64, i64), Error> {
        self.inner.watermarks(&of.topic, of.partition, timeout).map_err(Error::kafka(format!("read the ends of {of}")))
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
        Ok(partitions_of(self.inner.assignment().map_err(Error::kafka("read the assignment"))?))
    }

    /// Adds next-to-read offsets to the open transaction of a producer, under the group's metadata of this moment.
    pub(crate) fn send_offsets_to<C: rdkafka::ClientContext>(
        &self,
        producer: &rdkafka::client::Client<C>,
        offsets: &TopicPartitionList,
        timeout: Duration,
    ) -> Result<(), TransactionProblem> {
        self.inner.send_offsets_to(producer.native_ptr(), offsets, timeout)
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

fn partitions_of(names: Vec<(String, i32)>) -> Vec<TopicPartition> {
    names.into_iter().map(|(topic, partition)| TopicPartition { topic, partition }).collect()
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
