//! The floor: librdkafka's batch call, a decoder that checks everything it reads, the bars, and an idempotent producer. No state on disk, no
//! commits, no recovery, no de-duplication: a ceiling for processors, not one of them.
//!
//! Next: `stack.rs`.

use crate::Schemas;
use crate::stack::ends;
use anyhow::{Context, ensure};
use marketflow_model::Interval;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// How far the watermark trails the newest event of a partition; the workload's disorder is under 2 s.
const GRACE_MICROS: i64 = 5_000_000;
const SCALE: f64 = 1e8;

/// Builds and produces the bars of the whole topic, its partitions shared among `threads`.
///
/// # Errors
/// Kafka's, or a value that is no record of the schemas.
pub(crate) fn run(bootstrap: &str, schemas: Schemas, threads: usize, out: &str) -> anyhow::Result<()> {
    let ends = ends(&consumer(bootstrap)?)?;
    let workers: Vec<_> = (0..threads)
        .map(|me| {
            let mine: Vec<(i32, i64)> = ends.iter().copied().filter(|(p, _)| *p as usize % threads == me).collect();
            let (bootstrap, out) = (bootstrap.to_owned(), out.to_owned());
            std::thread::spawn(move || Worker::new(&bootstrap, schemas, out)?.run(&bootstrap, &mine))
        })
        .collect();
    let (mut records, mut bars) = (0, 0);
    for worker in workers {
        let done = worker.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        records += done.0;
        bars += done.1;
    }
    println!("records={records} bars={bars}");
    Ok(())
}

fn consumer(bootstrap: &str) -> anyhow::Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("group.id", "floor").set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false").set("isolation.level", "read_committed");
    // the default of a second stops the fetcher for so long whenever the local queue is full
    config.set("fetch.queue.backoff.ms", "10");
    config.set("fetch.wait.max.ms", "50").set("queued.min.messages", "200000").set("fetch.message.max.bytes", "4194304");
    Ok(config.create()?)
}

/// A bar being built; prices and volume at scale 8.
struct Bar {
    open: i64,
    high: i64,
    low: i64,
    close: i64,
    volume: i64,
    turnover: f64,
    trade_count: i64,
    /// Event time and sequence of the trades that made open and close: the order of arrival must not change them.
    first: (i64, i64),
    last: (i64, i64),
}

impl Bar {
    fn new(trade: &Trade<'_>) -> Self {
        let Trade { price, size, place, .. } = *trade;
        let turnover = price as f64 * size as f64;
        Self {
            open: price,
            high: price,
            low: price,
            close: price,
            volume: size,
            turnover,
            trade_count: 1,
            first: place,
            last: place,
        }
    }

    fn add(&mut self, trade: &Trade<'_>) {
        if trade.place < self.first {
            (self.first, self.open) = (trade.place, trade.price);
        }
        if trade.place > self.last {
            (self.last, self.close) = (trade.place, trade.price);
        }
        self.high = self.high.max(trade.price);
        self.low = self.low.min(trade.price);
        self.volume += trade.size;
        self.turnover += trade.price as f64 * trade.size as f64;
        self.trade_count += 1;
    }

    /// `bar.avsc` behind a Confluent header; it is in no registry, so its id is 0.
    fn encode(&self, instrument: &str, interval: Interval, open_time: i64, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0; 5]);
        put_long(instrument.len() as i64, out);
        out.extend_from_slice(instrument.as_bytes());
        put_long(interval.micros() / 1_000_000, out);
        put_long(open_time, out);
        for value in [self.open, self.high, self.low, self.close, self.volume] {
            out.extend_from_slice(&(value as f64 / SCALE).to_le_bytes());
        }
        out.extend_from_slice(&(self.turnover / self.volume as f64 / SCALE).to_le_bytes());
        put_long(self.trade_count, out);
    }
}

/// Partition, interval, instrument, open time.
type Window = (i32, usize, u32, i64);

/// One thread's windows and producer.
struct Worker {
    schemas: Schemas,
    out: String,
    producer: BaseProducer,
    ids: HashMap<Box<str>, u32>,
    names: Vec<Box<str>>,
    open: HashMap<Window, Bar>,
    /// Open windows by partition and end.
    due: BTreeMap<(i32, i64), Vec<Window>>,
    /// Newest event time of each partition.
    newest: HashMap<i32, i64>,
    bars: u64,
    buffer: Vec<u8>,
}

impl Worker {
    fn new(bootstrap: &str, schemas: Schemas, out: String) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap).set("compression.type", "lz4").set("linger.ms", "50");
        config.set("enable.idempotence", "true").set("partitioner", "murmur2").set("queue.buffering.max.messages", "500000");
        Ok(Self {
            schemas,
            out,
            producer: config.create()?,
            ids: HashMap::new(),
            names: Vec::new(),
            open: HashMap::new(),
            due: BTreeMap::new(),
            newest: HashMap::new(),
            bars: 0,
            buffer: Vec::new(),
        })
    }

    /// Records read and bars produced.
    fn run(mut self, bootstrap: &str, mine: &[(i32, i64)]) -> anyhow::Result<(u64, u64)> {
        let records = if mine.is_empty() { 0 } else { batches::read(&consumer(bootstrap)?, mine, |p, v| self.take(p, v))? };
        self.producer.flush(Duration::from_secs(60))?;
        ensure!(self.producer.in_flight_count() == 0, "bars were not delivered");
        Ok((records, self.bars))
    }

    fn take(&mut self, partition: i32, value: &[u8]) -> anyhow::Result<()> {
        let [0, a, b, c, d, body @ ..] = value else { anyhow::bail!("no schema header") };
        let schema = u32::from_be_bytes([*a, *b, *c, *d]);
        let event_time = if schema == self.schemas.trade_schema {
            let trade = Trade::decode(body).context("no trade")?;
            self.fold(partition, &trade);
            trade.place.0
        } else if schema == self.schemas.control_schema {
            // the end closes what is open; the other controls say nothing to a program that knows no gaps
            match end_of_feed(body) {
                Some(clock) => clock,
                None => return Ok(()),
            }
        } else {
            anyhow::bail!("schema {schema} is unknown")
        };
        let newest = self.newest.entry(partition).or_insert(i64::MIN);
        if event_time > *newest {
            *newest = event_time;
            self.close(partition, event_time - GRACE_MICROS)?;
        }
        Ok(())
    }

    fn fold(&mut self, partition: i32, trade: &Trade<'_>) {
        let id = match self.ids.get(trade.instrument) {
            Some(id) => *id,
            None => {
                let id = self.names.len() as u32;
                self.ids.insert(trade.instrument.into(), id);
                self.names.push(trade.instrument.into());
                id
            }
        };
        for (index, interval) in Interval::STANDARD.iter().enumerate() {
            let micros = interval.micros();
            let open_time = trade.place.0 / micros * micros;
            let window = (partition, index, id, open_time);
            match self.open.get_mut(&window) {
                Some(bar) => bar.add(trade),
                None => {
                    self.open.insert(window, Bar::new(trade));
                    self.due.entry((partition, open_time + micros)).or_default().push(window);
                }
            }
        }
    }

    fn close(&mut self, partition: i32, watermark: i64) -> anyhow::Result<()> {
        while let Some((end, _)) = self.due.range((partition, i64::MIN)..=(partition, watermark)).next() {
            let end = *end;
            for window in self.due.remove(&end).unwrap_or_default() {
                let bar = self.open.remove(&window).context("a window that is due is open")?;
                let (_, interval, id, open_time) = window;
                let name = &self.names[id as usize];
                self.buffer.clear();
                bar.encode(name, Interval::STANDARD[interval], open_time, &mut self.buffer);
                let mut record = BaseRecord::to(&self.out).key(name.as_bytes()).payload(&self.buffer[..]);
                while let Err((_, back)) = self.producer.send(record) {
                    record = back;
                    self.producer.poll(Duration::from_millis(10));
                }
                self.bars += 1;
            }
            self.producer.poll(Duration::ZERO);
        }
        Ok(())
    }
}

/// What bars need of a trade; price and size at scale 8.
struct Trade<'a> {
    instrument: &'a str,
    /// Event time and sequence.
    place: (i64, i64),
    price: i64,
    size: i64,
}

impl<'a> Trade<'a> {
    /// `trade.v1.avsc`, by position. Bounds, texts and branches are checked to the last byte: a decoder that could be shipped, not a cast.
    fn decode(body: &'a [u8]) -> Option<Self> {
        let mut r = Fields(body);
        let instrument = r.text()?;
        let _feed = r.text()?;
        let event_time = r.long()?;
        let _receive_time = r.long()?;
        let price = r.decimal()?;
        let size = if r.is_set()? { r.decimal()? } else { 0 };
        let side = r.long()?;
        let _trade_id = if r.is_set()? { Some(r.text()?) } else { None };
        let sequence = if r.is_set()? { r.long()? } else { 0 };
        let _import_row = if r.is_set()? { Some(r.long()?) } else { None };
        loop {
            match r.long()? {
                0 => break,
                count @ 1.. => {
                    for _ in 0..count {
                        r.long()?;
                    }
                }
                _ => return None,
            }
        }
        let source = r.long()?;
        let known = (0..=2).contains(&side) && (0..=4).contains(&source) && r.0.is_empty();
        known.then_some(Self { instrument, place: (event_time, sequence), price, size })
    }
}

/// The clock of a control that ends its feed.
fn end_of_feed(body: &[u8]) -> Option<i64> {
    const END: i64 = 8;
    let mut r = Fields(body);
    if r.long()? != END {
        return None;
    }
    r.text()?;
    if r.is_set()? {
        r.text()?;
    }
    r.long()
}

/// Takes Avro primitives off the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    #[inline]
    fn long(&mut self) -> Option<i64> {
        let mut value = 0u64;
        for (index, byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.0 = &self.0[index + 1..];
                return Some((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        None
    }

    #[inline]
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.long()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    #[inline]
    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    #[inline]
    fn decimal(&mut self) -> Option<i64> {
        let bytes = self.bytes()?;
        if bytes.is_empty() || bytes.len() > 8 {
            return None;
        }
        let sign = if bytes[0] < 0x80 { 0 } else { -1 };
        Some(bytes.iter().fold(sign, |value, byte| value << 8 | i64::from(*byte)))
    }

    #[inline]
    fn is_set(&mut self) -> Option<bool> {
        match self.long()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

fn put_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[expect(unsafe_code, reason = "the rdkafka crate does not wrap librdkafka's batch call")]
mod batches {
    use anyhow::ensure;
    use marketflow_contract::topics;
    use rdkafka::bindings as native;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
    use std::time::{Duration, Instant};

    const BATCH: usize = 10_000;
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Hands every value of these partitions up to their ends to `take`; returns how many.
    pub(super) fn read(
        consumer: &BaseConsumer,
        ends: &[(i32, i64)],
        mut take: impl FnMut(i32, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<u64> {
        let mut places = TopicPartitionList::new();
        for (partition, _) in ends {
            places.add_partition_offset(topics::TRADES, *partition, Offset::Beginning)?;
        }
        consumer.assign(&places)?;
        let mut left = ends.len();
        let (mut records, mut outcome) = (0, Ok(()));
        let mut progress = Instant::now();
        let mut messages: Vec<*mut native::rd_kafka_message_t> = vec![std::ptr::null_mut(); BATCH];
        // SAFETY: the client outlives the queue; each message is valid until it is destroyed, once, and not used after that
        unsafe {
            let queue = native::rd_kafka_queue_get_consumer(consumer.client().native_ptr());
            while left > 0 && outcome.is_ok() {
                let count = native::rd_kafka_consume_batch_queue(queue, 100, messages.as_mut_ptr(), messages.len());
                if count > 0 {
                    progress = Instant::now();
                } else if progress.elapsed() > PATIENCE {
                    outcome = Err(anyhow::anyhow!("nothing came for {PATIENCE:?}"));
                }
                for message in messages.iter().take(usize::try_from(count).unwrap_or(0)) {
                    let record = &**message;
                    if record.err == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && outcome.is_ok() {
                        records += 1;
                        let value = std::slice::from_raw_parts(record.payload.cast::<u8>(), record.len);
                        outcome = take(record.partition, value);
                        if ends.contains(&(record.partition, record.offset + 1)) {
                            left -= 1;
                        }
                    }
                    native::rd_kafka_message_destroy(*message);
                }
            }
            native::rd_kafka_queue_destroy(queue);
        }
        outcome?;
        ensure!(left == 0, "partitions were not read to their ends");
        Ok(records)
    }
}
