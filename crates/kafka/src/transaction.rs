//! The transactional producer of a plain thread. The rules it keeps were measured: see docs/decisions on transactions.

use crate::consumer::list_of;
use crate::failpoint::fail_point;
use crate::producer::{Deliveries, DeliveryContext, Outgoing};
use crate::{Consumer, Disposition, Error, KafkaConfig, TopicPartition};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{Producer as _, ThreadedProducer};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one call to the cluster may block before it is made again: short, so that the first answer after an outage is not waited out.
const ONE_CALL: Duration = Duration::from_secs(5);

/// Bounds of a [`TransactionalProducer`].
#[derive(Clone, Copy, Debug)]
pub struct TransactionSettings {
    /// After how long the cluster aborts a transaction that its producer left open. A reader waits as long.
    pub transaction_timeout: Duration,
    /// How long retriable errors are retried before they are given up, per call: longer than a broker takes to come back, so that an outage
    /// ends with the broker's return and not with a restart of ours.
    pub retry_for: Duration,
    /// Records held before [`TransactionalProducer::send`] waits.
    pub queue_records: u32,
    /// How long a record waits for company.
    pub linger: Duration,
}

impl Default for TransactionSettings {
    fn default() -> Self {
        Self {
            transaction_timeout: Duration::from_secs(10),
            retry_for: Duration::from_secs(120),
            queue_records: 200_000,
            linger: Duration::from_millis(2),
        }
    }
}

/// One transaction after the other, each with its input offsets. Errors say by [`Error::disposition`] what is next: `Abort` → call
/// [`TransactionalProducer::abort`], forget what was computed, go back to the committed offsets; `Fatal` → end the process.
pub struct TransactionalProducer {
    inner: ThreadedProducer<DeliveryContext>,
    settings: TransactionSettings,
    open: std::cell::Cell<bool>,
    begun: std::cell::Cell<Instant>,
}

impl TransactionalProducer {
    /// Fences whoever held `transactional_id` before, and finishes or aborts what they left open.
    ///
    /// # Errors
    /// An unreachable cluster (retried for `retry_for`), or a setting librdkafka does not take.
    pub fn connect(kafka: &KafkaConfig, transactional_id: &str, settings: TransactionSettings) -> Result<Self, Error> {
        let timeout_ms = settings.transaction_timeout.as_millis().to_string();
        let inner: ThreadedProducer<DeliveryContext> = kafka.client(
            &[
                ("queue.buffering.max.messages", &settings.queue_records.to_string()),
                ("linger.ms", &settings.linger.as_millis().to_string()),
                ("compression.type", "lz4"),
                ("retry.backoff.ms", "5"),
            ],
            &[
                ("transactional.id", transactional_id),
                ("transaction.timeout.ms", &timeout_ms),
                ("enable.idempotence", "true"),
                ("acks", "all"),
                ("partitioner", "murmur2_random"),
                ("message.timeout.ms", &timeout_ms),
            ],
            DeliveryContext(Arc::new(Deliveries::default())),
        )?;
        let producer = Self { inner, settings, open: false.into(), begun: Instant::now().into() };
        producer.retrying("initialise transactions", Disposition::Fatal, || producer.inner.init_transactions(ONE_CALL))?;
        Ok(producer)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// A fenced or fatally failed producer.
    pub fn begin(&self) -> Result<(), Error> {
        self.inner.begin_transaction().map_err(Error::kafka("begin a transaction"))?;
        self.open.set(true);
        self.begun.set(Instant::now());
        fail_point("after-begin");
        Ok(())
    }

    /// Adds a record to the open transaction; waits while the queue is full.
    ///
    /// # Errors
    /// A transaction that must be aborted, or a fatally failed producer.
    pub fn send(&self, record: Outgoing<'_>) -> Result<(), Error> {
        let start = Instant::now();
        let mut next = record.record();
        loop {
            match self.inner.send(next) {
                Ok(()) => return Ok(()),
                Err((problem, given_back)) => match problem.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::QueueFull) if start.elapsed() < self.settings.transaction_timeout => {
                        next = given_back;
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    _ => return Err(Error::kafka(format!("send to {}", record.topic))(problem)),
                },
            }
        }
    }

    /// Waits for the records, adds the input offsets (next to read) under the group's metadata of this moment, commits. The transaction is
    /// over when this returns `Ok`; after an error see [`Error::disposition`], which is never `Retry` here.
    ///
    /// # Errors
    /// `Abort`: nothing of it is visible and it must be aborted. `Fatal`: fenced, or the outcome is unknown.
    pub fn commit(&self, next: &[(TopicPartition, i64)], consumer: &Consumer) -> Result<(), Error> {
        self.wait_for_deliveries();
        fail_point("before-offsets");
        if !next.is_empty() {
            let offsets = list_of(next)?;
            let doing = "add offsets to the transaction";
            self.retrying_as(Disposition::Abort, || {
                consumer
                    .send_offsets_to(self.inner.client(), &offsets, ONE_CALL)
                    .map_err(|source| Error::Transaction { doing: doing.to_owned(), source })
            })?;
        }
        self.commit_records()
    }

    /// As [`TransactionalProducer::commit`] for a transaction without input.
    ///
    /// # Errors
    /// As there.
    pub fn commit_records(&self) -> Result<(), Error> {
        self.wait_for_deliveries();
        fail_point("before-commit");
        self.retrying("commit the transaction", Disposition::Fatal, || self.inner.commit_transaction(ONE_CALL))?;
        self.open.set(false);
        fail_point("after-commit");
        Ok(())
    }

    /// Aborts the open transaction; retried until it is certain.
    ///
    /// # Errors
    /// A fenced or fatally failed producer.
    pub fn abort(&self) -> Result<(), Error> {
        self.retrying("abort the transaction", Disposition::Fatal, || self.inner.abort_transaction(ONE_CALL))?;
        self.open.set(false);
        Ok(())
    }

    /// Whether the cluster may have ended the open transaction because of its age. It then refuses this producer, as it refuses one whose
    /// transactional id was taken over.
    pub fn outlived(&self) -> bool {
        self.open.get() && self.begun.get().elapsed() >= self.settings.transaction_timeout
    }

    /// Whether a transaction is open.
    pub fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Number of partitions of a topic.
    ///
    /// # Errors
    /// An unknown topic or an unreachable cluster.
    pub fn partition_count(&self, topic: &str, timeout: Duration) -> Result<i32, Error> {
        crate::admin::partition_count(self.inner.client(), topic, timeout)
    }

    /// A commit that has to flush polls in steps of 100 ms; waiting for the deliveries here, in steps of 1 ms, leaves it nothing to flush.
    fn wait_for_deliveries(&self) {
        let start = Instant::now();
        while self.inner.in_flight_count() > 0 && start.elapsed() < self.settings.transaction_timeout {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A retriable error is answered by the same call with the same arguments, for a bounded time; `then` is what follows after that.
    fn retrying(&self, doing: &str, then: Disposition, call: impl Fn() -> rdkafka::error::KafkaResult<()>) -> Result<(), Error> {
        self.retrying_as(then, || call().map_err(Error::kafka(doing)))
    }

    fn retrying_as(&self, then: Disposition, call: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            let problem = match call() {
                Ok(()) => return Ok(()),
                Err(problem) => problem,
            };
            if problem.disposition() != Disposition::Retry {
                return Err(problem);
            }
            if start.elapsed() >= self.settings.retry_for {
                return Err(Error::GaveUp { seconds: self.settings.retry_for.as_secs(), problem: Box::new(problem), then });
            }
            tracing::debug!(error = %problem, "retrying");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for TransactionalProducer {
    fn drop(&mut self) {
        // a producer that goes with a transaction open makes its readers wait for the timeout
        if self.open.get()
            && let Err(error) = self.abort()
        {
            tracing::warn!(%error, "left a transaction open; the cluster aborts it after its timeout");
        }
    }
}
