//! Reading without a group: a changelog to its end, a topic's last records, a topic as it grows.

use crate::config::Quiet;
use crate::consumer::{Record, recovered};
use crate::{Error, KafkaConfig, TopicPartition};
use marketflow_model::Timestamp;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

impl ConsumerContext for Quiet {}

/// How long one question to the cluster may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Reads chosen partitions from chosen offsets, `read_committed`; commits nothing.
pub struct Reader {
    inner: BaseConsumer<Quiet>,
    /// Asked for ends that count open transactions too.
    uncommitted: BaseConsumer<Quiet>,
}

impl Reader {
    /// Creates the reader.
    ///
    /// # Errors
    /// A setting librdkafka does not take.
    pub fn new(kafka: &KafkaConfig) -> Result<Self, Error> {
        let inner = kafka.client(
            &[("fetch.queue.backoff.ms", "10"), ("fetch.wait.max.ms", "50")],
            &[
                ("group.id", "marketflow-reader"),
                ("isolation.level", "read_committed"),
                ("enable.auto.commit", "false"),
                ("enable.partition.eof", "true"),
                ("auto.offset.reset", "error"),
            ],
            Quiet,
        )?;
        let uncommitted =
            kafka.client(&[], &[("group.id", "marketflow-reader"), ("isolation.level", "read_uncommitted")], Quiet)?;
        Ok(Self { inner, uncommitted })
    }

    /// Number of partitions of a topic.
    ///
    /// # Errors
    /// An unknown topic or an unreachable cluster.
    pub fn partition_count(&self, topic: &str) -> Result<i32, Error> {
        crate::admin::partition_count(self.inner.client(), topic, ANSWER_WITHIN)
    }

    /// Oldest offset, and end of what is committed.
    ///
    /// # Errors
    /// No answer.
    pub fn range(&self, of: &TopicPartition) -> Result<(i64, i64), Error> {
        self.inner
            .fetch_watermarks(&of.topic, of.partition, ANSWER_WITHIN)
            .map_err(Error::kafka(format!("read the ends of {of}")))
    }

    /// The first offset whose record timestamp is at or after `time`; the end when there is none.
    ///
    /// # Errors
    /// No answer.
    pub fn offset_at(&self, of: &TopicPartition, time: Timestamp) -> Result<i64, Error> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&of.topic, of.partition, Offset::Offset(time.micros().div_euclid(1_000)))
            .map_err(Error::kafka(format!("name a time on {of}")))?;
        let answer = self.inner.offsets_for_times(list, ANSWER_WITHIN).map_err(Error::kafka(format!("find a time on {of}")))?;
        match answer.elements().first().map(|e| e.offset()) {
            Some(Offset::Offset(offset)) => Ok(offset),
            _ => self.range(of).map(|(_, end)| end),
        }
    }

    /// Reads `[from, end)` of one partition in order, where `end` is what was appended at the time of the call, and returns the offset to go on
    /// from. A commit is acknowledged before its markers are written, so this waits first until the transactions up to `end` are decided. Stops
    /// early when `take` breaks.
    ///
    /// # Errors
    /// The cluster's, or no progress for `stalled_after`.
    pub fn read_to_end(
        &self,
        of: &TopicPartition,
        from: i64,
        stalled_after: Duration,
        mut take: impl FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<i64, Error> {
        let (low, end) = self
            .uncommitted
            .fetch_watermarks(&of.topic, of.partition, ANSWER_WITHIN)
            .map_err(Error::kafka(format!("read the ends of {of}")))?;
        let mut next = from.max(low);
        if next >= end {
            return Ok(next);
        }
        let mut progress = Instant::now();
        while self.range(of)?.1 < end {
            if progress.elapsed() >= stalled_after {
                let doing = format!("read {of}: a transaction is open before {end}");
                return Err(Error::Timeout { doing, seconds: stalled_after.as_secs() });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.assign(&[(of.clone(), next)])?;
        progress = Instant::now();
        while next < end {
            match self.inner.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let record = Record::new(&message);
                    if record.offset() >= end {
                        break;
                    }
                    next = record.offset() + 1;
                    progress = Instant::now();
                    if take(record).is_break() {
                        break;
                    }
                }
                // what is left before the end are transaction markers, which take offsets
                Some(Err(KafkaError::PartitionEOF(_))) => next = next.max(end),
                Some(Err(problem)) if recovered(&problem) => tracing::warn!(error = %problem, "kafka reader goes on"),
                Some(Err(problem)) => return Err(Error::kafka(format!("read {of} at {next}"))(problem)),
                None if progress.elapsed() >= stalled_after => {
                    return Err(Error::Timeout { doing: format!("read {of} at {next}"), seconds: stalled_after.as_secs() });
                }
                None => {}
            }
        }
        self.assign(&[])?;
        Ok(next)
    }

    /// As [`Reader::read_to_end`]; the first error of `take` ends it and is returned within.
    ///
    /// # Errors
    /// As [`Reader::read_to_end`].
    pub fn try_read_to_end<E>(
        &self,
        of: &TopicPartition,
        from: i64,
        stalled_after: Duration,
        mut take: impl FnMut(Record<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<Result<i64, E>, Error> {
        let mut failed = None;
        let next = self.read_to_end(of, from, stalled_after, |record| {
            take(record).unwrap_or_else(|error| {
                failed = Some(error);
                ControlFlow::Break(())
            })
        })?;
        Ok(failed.map_or(Ok(next), Err))
    }

    /// Reads these partitions from these offsets and goes on as they grow, until `take` breaks; `take` gets `None` about every `tick` without
    /// a record.
    ///
    /// # Errors
    /// The cluster's.
    pub fn follow(
        &self,
        from: &[(TopicPartition, i64)],
        tick: Duration,
        mut take: impl FnMut(Option<Record<'_>>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.assign(from)?;
        loop {
            let flow = match self.inner.poll(tick) {
                Some(Ok(message)) => take(Some(Record::new(&message))),
                Some(Err(KafkaError::PartitionEOF(_))) => ControlFlow::Continue(()),
                Some(Err(problem)) if recovered(&problem) => take(None),
                Some(Err(problem)) => return Err(Error::kafka("read")(problem)),
                None => take(None),
            };
            if flow.is_break() {
                return self.assign(&[]);
            }
        }
    }

    fn assign(&self, partitions: &[(TopicPartition, i64)]) -> Result<(), Error> {
        self.inner.assign(&crate::consumer::list_of(partitions)?).map_err(Error::kafka("assign partitions"))
    }
}
