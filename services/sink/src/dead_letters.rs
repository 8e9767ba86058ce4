//! Records that cannot become rows, on their way to `market.dead-letters.v1`.

use anyhow::{Context, ensure};
use marketflow_contract::{Schema, encode_value, split_value, topics};
use marketflow_kafka::{KafkaConfig, Outgoing, Producer, ProducerSettings, Record, SchemaIds};
use marketflow_model::{Envelope, EnvelopeClass, Timestamp};
use std::time::Duration;

const DELIVER_WITHIN: Duration = Duration::from_secs(30);

/// Who the sink is in an envelope, and in a redriven record's header.
pub(crate) const CONSUMER: &str = "sink";

/// The way out for records; shared by the loop and the landings.
pub(crate) struct DeadLetters {
    producer: Producer,
    schema_id: u32,
}

impl DeadLetters {
    pub(crate) fn new(kafka: &KafkaConfig, ids: &SchemaIds) -> anyhow::Result<Self> {
        let schema_id = ids.id(topics::DEAD_LETTERS, Schema::Envelope).context("no schema for dead letters")?;
        Ok(Self { producer: Producer::new(kafka, &ProducerSettings::default())?, schema_id })
    }

    /// Hands an envelope over; it is safe after [`DeadLetters::confirm`]. Blocks only while the queue is full.
    pub(crate) fn send(&self, class: EnvelopeClass, reason: String, record: &Record<'_>) -> anyhow::Result<()> {
        let (topic, partition, offset) = (record.topic(), record.partition(), record.offset());
        let value = record.value().unwrap_or_default();
        let envelope = Envelope {
            consumer: CONSUMER.to_owned(),
            class,
            reason,
            origin_topic: topic.to_owned(),
            origin_partition: partition,
            origin_offset: offset,
            receive_time: record.timestamp().unwrap_or(Timestamp::from_micros(0)),
            schema_id: split_value(value).ok().and_then(|(id, _)| i32::try_from(id).ok()),
            key: record.key().map(<[u8]>::to_vec),
            value: value.to_vec(),
            headers: record.headers().map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_vec())).collect(),
        };
        let mut bytes = Vec::new();
        encode_value(&envelope, self.schema_id, &mut bytes);
        let key = topics::origin_key(topic, partition, offset);
        self.producer
            .send(Outgoing::new(topics::DEAD_LETTERS, key.as_bytes(), &bytes), DELIVER_WITHIN)
            .with_context(|| format!("cannot set {key} aside"))
    }

    /// Waits until everything sent so far is in the log.
    pub(crate) fn confirm(&self) -> anyhow::Result<()> {
        self.producer.flush(DELIVER_WITHIN)?;
        ensure!(self.producer.failed() == 0, "dead letters were not delivered: {:?}", self.producer.take_failed());
        Ok(())
    }
}
