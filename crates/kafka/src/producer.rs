//! The idempotent producer of feeds and tools: it never blocks its caller, and no record is lost without being named.

use crate::config::log;
use crate::{Error, KafkaConfig};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bounds of a [`Producer`]'s queue.
#[derive(Clone, Copy, Debug)]
pub struct ProducerSettings {
    /// Records held before [`SendError::Full`].
    pub queue_records: u32,
    /// KiB held before [`SendError::Full`].
    pub queue_kib: u32,
    /// How long a record waits for company before it is sent.
    pub linger: Duration,
    /// How long delivery is tried before a record is reported as failed; at least 120 s.
    pub delivery_timeout: Duration,
}

impl Default for ProducerSettings {
    fn default() -> Self {
        Self {
            queue_records: 200_000,
            queue_kib: 131_072,
            linger: Duration::from_millis(5),
            delivery_timeout: Duration::from_secs(120),
        }
    }
}

/// One record to send.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// To which topic.
    pub topic: &'a str,
    /// To which partition; `None` = by the key.
    pub partition: Option<i32>,
    /// Key bytes; `None` = no key.
    pub key: Option<&'a [u8]>,
    /// Value bytes; `None` = a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers, in order.
    pub headers: &'a [(&'a str, &'a [u8])],
}

impl<'a> Outgoing<'a> {
    /// With key and value, partitioned by the key, without headers.
    pub fn new(topic: &'a str, key: &'a [u8], value: &'a [u8]) -> Self {
        Self { topic, partition: None, key: Some(key), value: Some(value), headers: &[] }
    }

    pub(crate) fn record(&self) -> BaseRecord<'a, [u8], [u8], ()> {
        let mut record = BaseRecord::to(self.topic);
        record.partition = self.partition;
        record.key = self.key;
        record.payload = self.value;
        if !self.headers.is_empty() {
            let headers =
                self.headers.iter().fold(OwnedHeaders::new_with_capacity(self.headers.len()), |headers, (key, value)| {
                    headers.insert(rdkafka::message::Header { key, value: Some(*value) })
                });
            record.headers = Some(headers);
        }
        record
    }
}

/// Why a record was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The queue is full: wait, or shed what may be shed.
    #[error("the queue to Kafka is full")]
    Full,
    /// Anything else.
    #[error(transparent)]
    Other(#[from] Error),
}

/// A record that was taken but could not be delivered. It may nevertheless be in the log.
#[derive(Clone, Debug)]
pub struct FailedDelivery {
    /// To which topic.
    pub topic: String,
    /// To which partition.
    pub partition: i32,
    /// Key bytes.
    pub key: Option<Vec<u8>>,
    /// Value bytes.
    pub value: Option<Vec<u8>>,
    /// Why.
    pub reason: String,
}

/// What became of the records sent so far.
#[derive(Default)]
pub(crate) struct Deliveries {
    delivered: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<FailedDelivery>>,
}

pub(crate) struct DeliveryContext(pub(crate) Arc<Deliveries>);

impl ClientContext for DeliveryContext {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka producer");
    }
}

impl ProducerContext for DeliveryContext {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.0.delivered.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, message)) => {
                self.0.failed.fetch_add(1, Ordering::Relaxed);
                let failure = FailedDelivery {
                    topic: message.topic().to_owned(),
                    partition: message.partition(),
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                    reason: error.to_string(),
                };
                self.0.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
            }
        }
    }
}

/// An idempotent producer. Share it by reference or `Arc`.
pub struct Producer {
    inner: ThreadedProducer<DeliveryContext>,
    deliveries: Arc<Deliveries>,
}

impl Producer {
    /// Creates the producer; the first connection is made in the background.
    ///
    /// # Errors
    /// A setting librdkafka does not take.
    pub fn new(kafka: &KafkaConfig, settings: &ProducerSettings) -> Result<Self, Error> {
        let deliveries = Arc::new(Deliveries::default());
        let inner = kafka.client(
            &[
                ("queue.buffering.max.messages", &settings.queue_records.to_string()),
                ("queue.buffering.max.kbytes", &settings.queue_kib.to_string()),
                ("linger.ms", &settings.linger.as_millis().to_string()),
                ("compression.type", "lz4"),
            ],
            &[
                ("enable.idempotence", "true"),
                ("acks", "all"),
                ("partitioner", "murmur2_random"),
                ("message.timeout.ms", &settings.delivery_timeout.max(Duration::from_secs(120)).as_millis().to_string()),
            ],
            DeliveryContext(deliveries.clone()),
        )?;
        Ok(Self { inner, deliveries })
    }

    /// Hands a record over without waiting.
    ///
    /// # Errors
    /// [`SendError::Full`] when the queue is; the record was not taken.
    pub fn try_send(&self, record: Outgoing<'_>) -> Result<(), SendError> {
        self.inner.send(record.record()).map_err(|(problem, _)| match problem.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => SendError::Full,
            _ => SendError::Other(Error::kafka(format!("send to {}", record.topic))(problem)),
        })
    }

    /// Hands a record over, waiting while the queue is full. For plain threads.
    ///
    /// # Errors
    /// [`Error::Timeout`] when the queue stayed full until the deadline.
    pub fn send(&self, record: Outgoing<'_>, deadline: Duration) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            match self.try_send(record) {
                Ok(()) => return Ok(()),
                Err(SendError::Other(problem)) => return Err(problem),
                Err(SendError::Full) if start.elapsed() < deadline => std::thread::sleep(Duration::from_millis(1)),
                Err(SendError::Full) => {
                    return Err(Error::Timeout { doing: format!("send to {}", record.topic), seconds: deadline.as_secs() });
                }
            }
        }
    }

    /// Waits until every record sent so far was delivered or failed.
    ///
    /// # Errors
    /// [`Error::Timeout`] with records still on their way.
    pub fn flush(&self, deadline: Duration) -> Result<(), Error> {
        match self.inner.flush(deadline) {
            Ok(()) => Ok(()),
            Err(problem) if problem.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut) => {
                Err(Error::Timeout { doing: format!("flush {} records", self.in_flight()), seconds: deadline.as_secs() })
            }
            Err(problem) => Err(Error::kafka("flush")(problem)),
        }
    }

    /// Records taken and neither delivered nor failed yet.
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.inner.in_flight_count()).unwrap_or(0)
    }

    /// Records delivered so far.
    pub fn delivered(&self) -> u64 {
        self.deliveries.delivered.load(Ordering::Relaxed)
    }

    /// Records that failed so far.
    pub fn failed(&self) -> u64 {
        self.deliveries.failed.load(Ordering::Relaxed)
    }

    /// Takes the deliveries that failed since the last call. Bounded by the queue: what failed had been in it.
    pub fn take_failed(&self) -> Vec<FailedDelivery> {
        std::mem::take(&mut *self.deliveries.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Number of partitions of a topic.
    ///
    /// # Errors
    /// An unknown topic or an unreachable cluster.
    pub fn partition_count(&self, topic: &str, timeout: Duration) -> Result<i32, Error> {
        crate::admin::partition_count(self.inner.client(), topic, timeout)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // librdkafka forgets what is still queued when the producer goes
        if self.in_flight() > 0 && self.flush(Duration::from_secs(5)).is_err() {
            tracing::error!(records = self.in_flight(), "dropped with records not delivered");
        }
    }
}
