//! Records to Kafka: Avro, keyed by instrument, controls to explicit partitions, nothing lost without being named.
//!
//! Only the feed waits here when the queue to Kafka is full; the sockets go on reading into the intake.
//!
//! Next: `crates/contract/src/records.rs`, then `services/processor/src/processor.rs`, which reads them.

use crate::controls::kind_label;
use crate::metrics::Metrics;
use anyhow::Context;
use marketflow_contract::{AvroRecord, Schema, TraceId, encode_value, headers, split_value, topics};
use marketflow_kafka::{FailedDelivery, Outgoing, Producer, SchemaIds, SendError, partition_for};
use marketflow_model::{Control, ControlKind, Envelope, EnvelopeClass, Feed, Quote, Timestamp, Trade};
use marketflow_providers::Malformed;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tracing::{debug, error, warn};

/// Writes the feed's records.
pub struct Publisher {
    producer: Arc<Producer>,
    ids: Ids,
    partitions: i32,
    metrics: Arc<Metrics>,
    value: Vec<u8>,
    last_copy: BTreeMap<Feed, Instant>,
    trace_every: Duration,
    last_traced: Option<Instant>,
}

/// Schema ids, looked up once.
struct Ids {
    trade: u32,
    control: u32,
    quote: u32,
    status: u32,
    dead_letter: u32,
    quarantine: u32,
}

/// Heartbeats are copied for people no more often than this.
const COPY_EVERY: Duration = Duration::from_secs(1);
/// How long to wait between two tries when the queue is full.
const FULL_WAIT: Duration = Duration::from_millis(1);

const AS_CONTROL: &[(&str, &[u8])] = &[(headers::KIND, headers::CONTROL.as_bytes())];

impl Publisher {
    /// Checks topics and schemas.
    ///
    /// # Errors
    /// An unreachable cluster, a missing topic or schema.
    pub fn new(producer: Arc<Producer>, ids: &SchemaIds, trace_every: Duration, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let id = |topic: &str, schema| {
            ids.id(topic, schema).with_context(|| format!("{topic} has no schema {}", Schema::name(schema)))
        };
        let ids = Ids {
            trade: id(topics::TRADES, Schema::Trade)?,
            control: id(topics::TRADES, Schema::Control)?,
            quote: id(topics::QUOTES, Schema::Quote)?,
            status: id(topics::FEED_STATUS, Schema::Control)?,
            dead_letter: id(topics::DEAD_LETTERS, Schema::Envelope)?,
            quarantine: id(topics::QUARANTINE, Schema::Envelope)?,
        };
        let partitions = producer.partition_count(topics::TRADES, Duration::from_secs(10))?;
        Ok(Self {
            producer,
            ids,
            partitions,
            metrics,
            value: Vec::new(),
            last_copy: BTreeMap::new(),
            trace_every,
            last_traced: None,
        })
    }

    /// Partitions of the trades topic.
    pub fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Writes a trade.
    ///
    /// # Errors
    /// Kafka refuses it for good.
    pub async fn trade(&mut self, trade: &Trade) -> anyhow::Result<()> {
        let key = trade.instrument.as_str().as_bytes();
        let partition = partition_for(key, self.partitions);
        self.encode(trade, self.ids.trade);
        match self.trace_id() {
            None => self.send(topics::TRADES, Some(partition), key, &[]).await,
            Some(id) => {
                debug!(trace_id = %id, instrument = %trade.instrument, receive_time = %trade.receive_time, partition, "traced");
                self.send(topics::TRADES, Some(partition), key, &[(headers::TRACEPARENT, id.traceparent().as_bytes())]).await
            }
        }
    }

    /// Of the next trade, when one is due.
    fn trace_id(&mut self) -> Option<TraceId> {
        if self.last_traced.is_some_and(|at| at.elapsed() < self.trace_every) {
            return None;
        }
        self.last_traced = Some(Instant::now());
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(TraceId::new(u64::try_from(since_1970.as_millis()).ok()?, rand::random()))
    }

    /// Writes a quote; under pressure the next one will do.
    ///
    /// # Errors
    /// Kafka refuses it for good.
    pub fn quote(&mut self, quote: &Quote) -> anyhow::Result<()> {
        self.encode(quote, self.ids.quote);
        match self.producer.try_send(Outgoing::new(topics::QUOTES, quote.instrument.as_str().as_bytes(), &self.value)) {
            Ok(()) => self.metrics.produced.with_label_values(&[topics::QUOTES]).inc(),
            Err(SendError::Full) => self.metrics.conflated.inc(),
            Err(SendError::Other(problem)) => return Err(problem.into()),
        }
        Ok(())
    }

    /// Writes a control: the feed's to every partition, an instrument's to its own; and one copy for people.
    ///
    /// # Errors
    /// Kafka refuses it for good.
    pub async fn control(&mut self, control: &Control) -> anyhow::Result<()> {
        let key = control.feed.as_str().as_bytes();
        self.encode(control, self.ids.control);
        let to = match &control.instrument {
            Some(instrument) => {
                let partition = partition_for(instrument.as_str().as_bytes(), self.partitions);
                partition..partition + 1
            }
            None => 0..self.partitions,
        };
        for partition in to {
            self.send(topics::TRADES, Some(partition), key, AS_CONTROL).await?;
        }
        self.metrics.controls.with_label_values(&[kind_label(control.kind)]).inc();
        let heartbeat = control.kind == ControlKind::Heartbeat;
        if heartbeat && self.last_copy.get(&control.feed).is_some_and(|at| at.elapsed() < COPY_EVERY) {
            return Ok(());
        }
        if heartbeat {
            self.last_copy.insert(control.feed.clone(), Instant::now());
        }
        self.encode(control, self.ids.status);
        self.send(topics::FEED_STATUS, None, key, AS_CONTROL).await
    }

    /// Sets bytes aside that are no record: too many decimals are quarantined, the rest is undecodable.
    ///
    /// # Errors
    /// Kafka refuses it for good.
    pub async fn set_aside(
        &mut self,
        reason: Malformed,
        detail: String,
        raw: Vec<u8>,
        endpoint: &str,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let (class, topic, id) = match reason {
            Malformed::TooPrecise => (EnvelopeClass::Quarantine, topics::QUARANTINE, self.ids.quarantine),
            Malformed::NotJson
            | Malformed::UnknownShape
            | Malformed::BadField
            | Malformed::BadNumber
            | Malformed::BadTime
            | Malformed::Binary
            | Malformed::Oversized => (EnvelopeClass::Undecodable, topics::DEAD_LETTERS, self.ids.dead_letter),
        };
        let envelope = Envelope {
            consumer: "tick-producer".to_owned(),
            class,
            reason: format!("{}: {detail}", reason.as_str()),
            origin_topic: endpoint.to_owned(),
            origin_partition: -1,
            origin_offset: -1,
            receive_time: now,
            schema_id: None,
            key: None,
            value: raw,
            headers: Vec::new(),
        };
        self.encode(&envelope, id);
        self.send(topic, None, topics::origin_key(endpoint, -1, -1).as_bytes(), &[]).await
    }

    /// What Kafka did not take since the last call. Trades are returned for the ledger; what has to be said is said again; the rest is counted.
    ///
    /// # Errors
    /// Kafka refuses a repeat for good.
    pub async fn undelivered(&mut self) -> anyhow::Result<Vec<Trade>> {
        let mut trades = Vec::new();
        for failed in self.producer.take_failed() {
            self.metrics.undelivered.with_label_values(&[failed.topic.as_str()]).inc();
            if failed.topic == topics::TRADES {
                match failed.value.as_deref().and_then(|value| split_value(value).ok()) {
                    Some((id, body)) if id == self.ids.trade => match Trade::decode(body) {
                        Ok(trade) => trades.push(trade),
                        Err(problem) => error!(%problem, "our own trade cannot be read back"),
                    },
                    Some((_, body)) if Control::decode(body).is_ok_and(|control| control.kind != ControlKind::Heartbeat) => {
                        self.again(failed, AS_CONTROL).await?;
                    }
                    _ => {}
                }
            } else if failed.topic == topics::DEAD_LETTERS || failed.topic == topics::QUARANTINE {
                self.again(failed, &[]).await?;
            } else {
                warn!(topic = failed.topic, reason = failed.reason, "record not delivered");
            }
        }
        Ok(trades)
    }

    /// Waits until everything sent was delivered or failed.
    ///
    /// # Errors
    /// Records still on their way at the deadline.
    pub async fn flush(&self, deadline: Duration) -> anyhow::Result<()> {
        let producer = self.producer.clone();
        tokio::task::spawn_blocking(move || producer.flush(deadline))
            .await?
            .context("what was not delivered is taken up at the next start")
    }

    fn encode<R: AvroRecord>(&mut self, record: &R, id: u32) {
        self.value.clear();
        encode_value(record, id, &mut self.value);
    }

    async fn again(&mut self, failed: FailedDelivery, headers: &[(&str, &[u8])]) -> anyhow::Result<()> {
        warn!(
            topic = failed.topic,
            partition = failed.partition,
            reason = failed.reason,
            "record not delivered; sending it again"
        );
        self.value = failed.value.unwrap_or_default();
        let partition = (failed.partition >= 0).then_some(failed.partition);
        self.send(&failed.topic, partition, &failed.key.unwrap_or_default(), headers).await
    }

    /// Hands `self.value` over, waiting while the queue is full.
    async fn send(&self, topic: &str, partition: Option<i32>, key: &[u8], headers: &[(&str, &[u8])]) -> anyhow::Result<()> {
        let record = Outgoing { topic, partition, key: Some(key), value: Some(&self.value), headers };
        let mut full_since: Option<Instant> = None;
        loop {
            match self.producer.try_send(record) {
                Ok(()) => break,
                Err(SendError::Other(problem)) => return Err(problem.into()),
                Err(SendError::Full) => {
                    let since = *full_since.get_or_insert_with(|| {
                        warn!(topic, "the queue to Kafka is full; the feed waits, the sockets do not");
                        Instant::now()
                    });
                    if since.elapsed() > Duration::from_secs(10) {
                        full_since = None;
                    }
                    tokio::time::sleep(FULL_WAIT).await;
                }
            }
        }
        self.metrics.produced.with_label_values(&[topic]).inc();
        Ok(())
    }
}
