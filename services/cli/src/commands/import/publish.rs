//! Writes an import to Kafka, and waits until its bars are in ClickHouse.
//!
//! Everything goes to the instrument's partition by one idempotent producer, so that what is in the log is always a beginning of the
//! import: after any failure the same command goes on where it stopped, as rows that are there already count once.
//!
//! Next: `services/processor/src/processor.rs`.

use super::emission::{Emission, Record};
use super::layout::Columns;
use super::order::Items;
use super::row::Item;
use crate::commands::connection::{self, with_exit};
use crate::console::block_on;
use anyhow::{Context, bail};
use indicatif::ProgressBar;
use marketflow_contract::{AvroRecord, Schema, encode_value, headers, topics};
use marketflow_kafka::{
    KafkaConfig, Outgoing, Producer, ProducerSettings, Reader, Registry, SchemaIds, TopicPartition, committed, partition_for,
};
use marketflow_model::{Control, Envelope, Feed, Instrument};
use marketflow_runtime::{Exit, ExitContext};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

const PROCESSOR_GROUP: &str = "marketflow-processor";
const SINK_GROUP: &str = "marketflow-sink";
/// Rows between two looks at the disk.
const LOOK_AT_DISK_EVERY: u64 = 65_536;
/// How long Kafka may take nothing before the import gives up.
const STALLED_AFTER: Duration = Duration::from_secs(60);
/// A record that were given up while later ones are delivered would leave a hole that a repeated import takes for done: so none is.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const ASK_EVERY: Duration = Duration::from_millis(200);
/// A transaction's markers reach the offsets before they reach the last partition of its records; a few milliseconds in practice.
const MARKERS_ARRIVE_WITHIN: Duration = Duration::from_millis(500);

/// Where an import goes.
pub(crate) struct Target {
    kafka: KafkaConfig,
    producer: Producer,
    reader: Reader,
    ids: SchemaIds,
    instrument: Instrument,
    feed: Feed,
    place: TopicPartition,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) rows: u64,
    pub(crate) quarantined: u64,
    /// The partition's end right before and right after.
    pub(crate) begin: i64,
    pub(crate) end: i64,
}

impl Target {
    /// Connects, and checks that topics and schemas are there.
    ///
    /// # Errors
    /// 69 when Kafka or the registry does not answer.
    pub(crate) fn connect<C>(instrument: &Instrument, feed: &Feed, columns: &Columns<C>) -> anyhow::Result<Self> {
        let topic = match columns {
            Columns::Trades(_) => topics::TRADES,
            Columns::Candles(_) => topics::CANDLES,
        };
        let kafka = connection::kafka()?;
        let registry = with_exit(Registry::new(&connection::registry()?))?;
        let ids = block_on(async { with_exit(registry.ids().await) })?;
        let settings = ProducerSettings { delivery_timeout: DELIVERY_TIMEOUT, ..ProducerSettings::default() };
        let producer = with_exit(Producer::new(&kafka, &settings))?;
        let reader = with_exit(Reader::new(&kafka))?;
        let partitions = with_exit(reader.partition_count(topic))?;
        let place = TopicPartition::new(topic, partition_for(instrument.as_str().as_bytes(), partitions));
        Ok(Self { kafka, producer, reader, ids, instrument: instrument.clone(), feed: feed.clone(), place })
    }

    /// Writes everything. `hash` is that of the file as it was looked through: a file that changed since gets no end.
    ///
    /// # Errors
    /// 69 when Kafka takes nothing any more, 75 when the local stack's disk is full.
    pub(crate) fn write(
        &self,
        items: &mut Items,
        emission: &mut Emission,
        hash: [u8; 32],
        progress: &ProgressBar,
    ) -> anyhow::Result<Written> {
        connection::room()?;
        let (_, begin) = with_exit(self.reader.range(&self.place))?;
        let mut written = Written { rows: 0, quarantined: 0, begin, end: begin };
        let mut buffer = Vec::new();
        self.control_and_copy(&emission.up(), &mut buffer)?;
        while let Some(item) = items.next()? {
            match item {
                Item::Row(row) => {
                    match emission.record(row) {
                        Record::Trade(trade) => self.data(&trade, &mut buffer)?,
                        Record::Candle(candle) => self.data(&candle, &mut buffer)?,
                    }
                    written.rows += 1;
                    if let Some(heartbeat) = emission.heartbeat() {
                        self.control(&heartbeat, &mut buffer)?;
                    }
                }
                Item::Bad(bad) => {
                    let key = topics::origin_key(self.feed.as_str(), -1, i64::try_from(bad.line).unwrap_or(-1));
                    self.quarantine(&key, &emission.quarantine(bad), &mut buffer)?;
                    written.quarantined += 1;
                }
            }
            if (written.rows + written.quarantined).is_multiple_of(1_024) {
                progress.set_position(written.rows);
                self.no_failures()?;
            }
            if (written.rows + written.quarantined).is_multiple_of(LOOK_AT_DISK_EVERY) {
                connection::room().context("the import stops here; the same command goes on where it stopped")?;
            }
        }
        if let Items::File(rows) = items
            && rows.lines.hash() != hash
        {
            bail!(
                "the file changed while it was imported; {} rows of it are written without an end. Import it again when it is complete",
                written.rows
            );
        }
        self.control_and_copy(&emission.end(), &mut buffer)?;
        with_exit(self.producer.flush(STALLED_AFTER))?;
        self.no_failures()?;
        written.end = with_exit(self.reader.range(&self.place))?.1;
        Ok(written)
    }

    fn data<R: AvroRecord>(&self, record: &R, buffer: &mut Vec<u8>) -> anyhow::Result<()> {
        self.encode(&self.place.topic, record, buffer)?;
        self.send(&self.place.topic, Some(self.place.partition), self.instrument.as_str(), buffer, &[])
    }

    fn control(&self, control: &Control, buffer: &mut Vec<u8>) -> anyhow::Result<()> {
        self.encode(&self.place.topic, control, buffer)?;
        let kind: [(&str, &[u8]); 1] = [(headers::KIND, headers::CONTROL.as_bytes())];
        self.send(&self.place.topic, Some(self.place.partition), self.feed.as_str(), buffer, &kind)
    }

    /// For begin and end, which people look for in the table of feeds.
    fn control_and_copy(&self, control: &Control, buffer: &mut Vec<u8>) -> anyhow::Result<()> {
        self.control(control, buffer)?;
        self.encode(topics::FEED_STATUS, control, buffer)?;
        let kind: [(&str, &[u8]); 1] = [(headers::KIND, headers::CONTROL.as_bytes())];
        self.send(topics::FEED_STATUS, None, self.feed.as_str(), buffer, &kind)
    }

    fn quarantine(&self, key: &str, envelope: &Envelope, buffer: &mut Vec<u8>) -> anyhow::Result<()> {
        self.encode(topics::QUARANTINE, envelope, buffer)?;
        self.send(topics::QUARANTINE, None, key, buffer, &[])
    }

    fn encode<R: AvroRecord>(&self, topic: &str, record: &R, buffer: &mut Vec<u8>) -> anyhow::Result<()> {
        let id = self.schema_id(topic, R::SCHEMA)?;
        buffer.clear();
        encode_value(record, id, buffer);
        Ok(())
    }

    fn schema_id(&self, topic: &str, schema: Schema) -> anyhow::Result<u32> {
        self.ids.id(topic, schema).with_context(|| format!("{topic} takes no {}", schema.record_name()))
    }

    fn send(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: &str,
        value: &[u8],
        headers: &[(&str, &[u8])],
    ) -> anyhow::Result<()> {
        let record = Outgoing { topic, partition, key: Some(key.as_bytes()), value: Some(value), headers };
        with_exit(self.producer.send(record, STALLED_AFTER))
            .context("Kafka takes no rows; import again once it does, rows count once")
    }

    fn no_failures(&self) -> anyhow::Result<()> {
        match self.producer.take_failed().first() {
            Some(failed) => bail!("Kafka refused a record for {}/{}: {}", failed.topic, failed.partition, failed.reason),
            None => Ok(()),
        }
    }

    /// Where the rows go.
    pub(crate) fn place(&self) -> &TopicPartition {
        &self.place
    }

    /// Waits until the processor has read to the end of what was written, and the sink has stored the bars of it, the rows themselves, and
    /// what was set aside.
    ///
    /// # Errors
    /// 75 when one of them makes no progress for `patience`: the rows are safe in Kafka.
    pub(crate) fn wait_for_bars(&self, written: &Written, patience: Duration, progress: &ProgressBar) -> anyhow::Result<()> {
        self.wait("processor", PROCESSOR_GROUP, &self.place, written.end, patience, progress)?;
        std::thread::sleep(MARKERS_ARRIVE_WITHIN);
        let partitions = with_exit(self.reader.partition_count(topics::BARS))?;
        let bars = TopicPartition::new(topics::BARS, partition_for(self.instrument.as_str().as_bytes(), partitions));
        let mut wanted = vec![bars, self.place.clone()];
        for topic in [topics::QUARANTINE, topics::LATE, topics::DEAD_LETTERS] {
            let partitions = with_exit(self.reader.partition_count(topic))?;
            wanted.extend((0..partitions).map(|partition| TopicPartition::new(topic, partition)));
        }
        for of in wanted {
            let (_, end) = with_exit(self.reader.range(&of))?;
            self.wait("sink", SINK_GROUP, &of, end, patience, progress)?;
        }
        Ok(())
    }

    /// Whether anything but transaction markers stands between two offsets.
    fn holds_records(&self, of: &TopicPartition, from: i64, end: i64) -> anyhow::Result<bool> {
        let mut found = false;
        with_exit(self.reader.read_to_end(of, from, STALLED_AFTER, |record| {
            found = record.offset() < end;
            ControlFlow::Break(())
        }))?;
        Ok(found)
    }

    fn wait(
        &self,
        service: &str,
        group: &str,
        of: &TopicPartition,
        end: i64,
        patience: Duration,
        progress: &ProgressBar,
    ) -> anyhow::Result<()> {
        let mut last = None;
        let mut moved = Instant::now();
        loop {
            let offsets = with_exit(committed(&self.kafka, group, std::slice::from_ref(of), Duration::from_secs(10)))?;
            let committed = offsets.first().map(|(_, offset)| *offset);
            let at = committed.unwrap_or(0);
            if at >= end || !self.holds_records(of, at, end)? {
                return Ok(());
            }
            if committed != last {
                (last, moved) = (committed, Instant::now());
            }
            if moved.elapsed() >= patience {
                let at = committed.map_or("has not begun".to_owned(), |offset| format!("stands at offset {offset}"));
                return Err(anyhow::anyhow!(
                    "the rows are in Kafka, but their bars are not in ClickHouse yet: the {service} (group {group}) {at} on {of} and has not \
                     moved for {} s. `marketflow status` shows whether it runs; it goes on by itself",
                    patience.as_secs()
                ))
                .exit(Exit::TryAgain);
            }
            progress.set_message(format!("{service} at {}", last.unwrap_or_default()));
            progress.tick();
            std::thread::sleep(ASK_EVERY);
        }
    }
}
