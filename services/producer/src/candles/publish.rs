//! Candles and their controls to Kafka, delivered before anything is noted as done.
//!
//! History goes as an import of one instrument, as `marketflow import candles` writes it: a feed `import:<id>` of its own, rows whose numbers are
//! their minutes, so that a row written twice counts once, and its end. Today goes as the broker's own feed, with heartbeats to every partition.
//!
//! Next: `journal.rs`.

use super::metrics::Metrics;
use anyhow::{Context, bail};
use marketflow_contract::{AvroRecord, Schema, encode_value, headers, topics};
use marketflow_kafka::calendar::write_change;
use marketflow_kafka::{Outgoing, Producer, SchemaIds, SendError, partition_for};
use marketflow_model::{Candle, Control, Envelope, EnvelopeClass, Feed, Instrument, Reference, Timestamp};
use marketflow_providers::MalformedRow;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait between two tries when the queue is full.
const FULL_WAIT: Duration = Duration::from_millis(1);
const AS_CONTROL: &[(&str, &[u8])] = &[(headers::KIND, headers::CONTROL.as_bytes())];

/// Writes the records; cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    producer: Arc<Producer>,
    schemas: Arc<SchemaIds>,
    /// The broker's own.
    feed: Feed,
    ids: Ids,
    partitions: i32,
    metrics: Arc<Metrics>,
    flush_timeout: Duration,
}

#[derive(Clone, Copy)]
struct Ids {
    candle: u32,
    control: u32,
    status: u32,
    reference: u32,
    quarantine: u32,
    dead_letter: u32,
}

impl Publisher {
    /// Checks topics and schemas.
    ///
    /// # Errors
    /// An unreachable cluster, a missing topic or schema.
    pub fn new(
        producer: Arc<Producer>,
        feed: Feed,
        ids: &SchemaIds,
        metrics: Arc<Metrics>,
        flush_timeout: Duration,
    ) -> anyhow::Result<Self> {
        let schemas = Arc::new(ids.clone());
        let id = |topic: &str, schema| {
            ids.id(topic, schema).with_context(|| format!("{topic} has no schema {}", Schema::name(schema)))
        };
        let ids = Ids {
            candle: id(topics::CANDLES, Schema::Candle)?,
            control: id(topics::CANDLES, Schema::Control)?,
            status: id(topics::FEED_STATUS, Schema::Control)?,
            reference: id(topics::REFERENCE, Schema::Reference)?,
            quarantine: id(topics::QUARANTINE, Schema::Envelope)?,
            dead_letter: id(topics::DEAD_LETTERS, Schema::Envelope)?,
        };
        let partitions = producer.partition_count(topics::CANDLES, Duration::from_secs(10))?;
        Ok(Self { producer, schemas, feed, ids, partitions, metrics, flush_timeout })
    }

    /// The broker's own feed.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    fn partition(&self, instrument: &Instrument) -> i32 {
        partition_for(instrument.as_str().as_bytes(), self.partitions)
    }

    /// Writes a candle.
    ///
    /// # Errors
    /// Kafka refuses it for good.
    pub async fn candle(&self, candle: &Candle) -> anyhow::Result<()> {
        let value = encoded(candle, self.ids.candle);
        self.send(topics::CANDLES, Some(self.partition(&candle.instrument)), candle.instrument.as_str().as_bytes(), &value, &[])
            .await
    }

    /// Writes a control: to the partition of `instrument`, else of the one it names, else to every partition.
    ///
    /// # Errors
    /// Kafka refuses it for good.
    pub async fn control(&self, control: &Control, instrument: Option<&Instrument>) -> anyhow::Result<()> {
        let value = encoded(control, self.ids.control);
        let partitions = match instrument.or(control.instrument.as_ref()) {
            Some(instrument) => self.partition(instrument)..self.partition(instrument) + 1,
            None => 0..self.partitions,
        };
        for partition in partitions {
            self.send(topics::CANDLES, Some(partition), control.feed.as_str().as_bytes(), &value, AS_CONTROL).await?;
        }
        Ok(())
    }

    /// Writes a copy of a control for people.
    ///
    /// # Errors
    /// Kafka refuses it for good.
    pub async fn copy(&self, control: &Control) -> anyhow::Result<()> {
        let value = encoded(control, self.ids.status);
        self.send(topics::FEED_STATUS, None, control.feed.as_str().as_bytes(), &value, AS_CONTROL).await
    }

    /// Writes a change of a calendar to every partition of the processor's inputs; it is in Kafka when this returns.
    ///
    /// # Errors
    /// Kafka does not take it.
    pub async fn calendar_change(&self, control: Control) -> anyhow::Result<()> {
        let (producer, schemas, patience) = (self.producer.clone(), self.schemas.clone(), self.flush_timeout);
        tokio::task::spawn_blocking(move || write_change(&producer, &schemas, &control, patience)).await??;
        Ok(())
    }

    /// Counts a day of which the broker said something else than the calendar.
    pub fn count_difference(&self, broker: &str) {
        self.metrics.calendar_differences.with_label_values(&[broker]).inc();
    }

    /// Writes a fact about an instrument.
    ///
    /// # Errors
    /// Kafka refuses it for good.
    pub async fn reference(&self, fact: &Reference) -> anyhow::Result<()> {
        let value = encoded(fact, self.ids.reference);
        self.send(topics::REFERENCE, None, fact.instrument.as_str().as_bytes(), &value, &[]).await
    }

    /// Sets a candle aside that is not believed, as it would have been written.
    ///
    /// # Errors
    /// Kafka refuses it for good.
    pub async fn quarantine(&self, candle: &Candle, reason: String) -> anyhow::Result<()> {
        let envelope = Envelope {
            consumer: CONSUMER.to_owned(),
            class: EnvelopeClass::Quarantine,
            reason: format!("{} {}: {reason}", candle.instrument, candle.open_time),
            origin_topic: topics::CANDLES.to_owned(),
            origin_partition: self.partition(&candle.instrument),
            origin_offset: -1,
            receive_time: candle.receive_time,
            schema_id: i32::try_from(self.ids.candle).ok(),
            key: Some(candle.instrument.as_str().as_bytes().to_vec()),
            value: encoded(candle, self.ids.candle),
            headers: Vec::new(),
        };
        let key = topics::origin_key(topics::CANDLES, envelope.origin_partition, candle.open_time.micros());
        self.send(topics::QUARANTINE, None, key.as_bytes(), &encoded(&envelope, self.ids.quarantine), &[]).await
    }

    /// Sets a row aside that cannot be read; `instrument`, where that is known.
    ///
    /// # Errors
    /// Kafka refuses it for good.
    pub async fn set_aside(
        &self,
        instrument: Option<&Instrument>,
        row: MalformedRow,
        endpoint: &str,
        received: Timestamp,
    ) -> anyhow::Result<()> {
        let whose = instrument.map_or_else(String::new, |instrument| format!("{instrument}: "));
        let envelope = Envelope {
            consumer: CONSUMER.to_owned(),
            class: EnvelopeClass::Undecodable,
            reason: format!("{whose}{}: {}", row.reason.as_str(), row.detail),
            origin_topic: endpoint.to_owned(),
            origin_partition: -1,
            origin_offset: -1,
            receive_time: received,
            schema_id: None,
            key: instrument.map(|instrument| instrument.as_str().as_bytes().to_vec()),
            value: row.raw.into_bytes(),
            headers: Vec::new(),
        };
        let key = topics::origin_key(endpoint, -1, -1);
        self.send(topics::DEAD_LETTERS, None, key.as_bytes(), &encoded(&envelope, self.ids.dead_letter), &[]).await
    }

    /// Waits until everything written so far is in Kafka.
    ///
    /// # Errors
    /// Records that Kafka did not take: nothing may be noted as done.
    pub async fn delivered(&self) -> anyhow::Result<()> {
        let (producer, timeout) = (self.producer.clone(), self.flush_timeout);
        tokio::task::spawn_blocking(move || producer.flush(timeout)).await?.context("Kafka takes no candles")?;
        // One failure is everybody's: none of the tasks goes on.
        if self.producer.failed() > 0 {
            let failed = self.producer.take_failed();
            let words = failed.first().map_or_else(String::new, |f| format!("{}/{}: {}", f.topic, f.partition, f.reason));
            bail!(
                "Kafka did not take {} records; what they were of is asked for again at the next start: {words}",
                self.producer.failed()
            );
        }
        Ok(())
    }

    async fn send(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: &[u8],
        value: &[u8],
        headers: &[(&str, &[u8])],
    ) -> anyhow::Result<()> {
        let record = Outgoing { topic, partition, key: Some(key), value: Some(value), headers };
        loop {
            match self.producer.try_send(record) {
                Ok(()) => break,
                Err(SendError::Other(problem)) => return Err(problem.into()),
                Err(SendError::Full) => tokio::time::sleep(FULL_WAIT).await,
            }
        }
        self.metrics.produced.with_label_values(&[topic]).inc();
        Ok(())
    }
}

const CONSUMER: &str = "candle-producer";

fn encoded<R: AvroRecord>(record: &R, id: u32) -> Vec<u8> {
    let mut value = Vec::new();
    encode_value(record, id, &mut value);
    value
}
