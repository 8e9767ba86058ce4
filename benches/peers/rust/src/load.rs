//! Writes the workload as a tick producer does: our schema, our keys, our controls in the same partitions and order.
//!
//! Next: `check.rs`.

use crate::Schemas;
use crate::workload::{Arrivals, DISORDER_MICROS, START, instruments};
use anyhow::{Context, ensure};
use marketflow_contract::{encode_value, headers, topics};
use marketflow_kafka::{KafkaConfig, Outgoing, Producer, ProducerSettings, partition_for};
use marketflow_model::{
    Conditions, Control, ControlKind, Feed, FeedState, Instrument, Price, Quantity, Side, Source, Timestamp, Trade,
};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);
const SECOND: i64 = 1_000_000;
/// The last control stands this much later: past the end of every window and of everyone's grace.
const END_AFTER_MICROS: i64 = 3_600 * SECOND;

/// Writes `count` trades, a heartbeat for each second of event time, and an end.
///
/// # Errors
/// Kafka's.
pub(crate) fn load(kafka: &KafkaConfig, schemas: Schemas, count: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    let producer = Producer::new(kafka, &ProducerSettings::default())?;
    let partitions = producer.partition_count(topics::TRADES, PATIENCE)?;
    let feed = Feed::new("bench");
    let mut controls = Controls { producer: &producer, schema: schemas.control_schema, partitions, written: 0 };

    controls.send(&Control {
        state: FeedState::Up,
        from: Some(START),
        ..Control::new(ControlKind::FeedState, feed.clone(), START)
    })?;
    let names: Vec<Instrument> = instruments().iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
    let places: Vec<i32> = names.iter().map(|name| partition_for(name.as_str().as_bytes(), partitions)).collect();
    let (mut value, mut value_bytes) = (Vec::new(), 0);
    let mut clock = START;
    for event in Arrivals::new(count) {
        while event.arrival >= clock.micros() + SECOND {
            clock = clock.plus_micros(SECOND);
            let complete_through = Some(clock.plus_micros(-DISORDER_MICROS));
            controls.send(&Control { complete_through, ..Control::new(ControlKind::Heartbeat, feed.clone(), clock) })?;
        }
        let trade = Trade {
            instrument: names[event.instrument].clone(),
            feed: feed.clone(),
            event_time: Timestamp::from_micros(event.event_time),
            receive_time: Timestamp::from_micros(event.arrival),
            price: Price::from_scaled(event.price).context("a price")?,
            size: Quantity::from_scaled(i128::from(event.size)),
            side: if event.is_buy { Side::Buy } else { Side::Sell },
            trade_id: Some(event.id.to_string()),
            sequence: Some(event.id),
            import_row: None,
            conditions: Conditions::NONE,
            source: Source::Websocket,
        };
        value.clear();
        encode_value(&trade, schemas.trade_schema, &mut value);
        value_bytes += value.len();
        let record = Outgoing::new(topics::TRADES, trade.instrument.as_str().as_bytes(), &value);
        producer.send(Outgoing { partition: Some(places[event.instrument]), ..record }, PATIENCE)?;
    }
    let end = clock.plus_micros(END_AFTER_MICROS);
    controls.send(&Control { complete_through: Some(end), ..Control::new(ControlKind::Heartbeat, feed.clone(), end) })?;
    controls.send(&Control::new(ControlKind::End, feed, end))?;
    let written = controls.written;
    producer.flush(PATIENCE)?;
    ensure!(producer.failed() == 0, "{} records were not delivered: {:?}", producer.failed(), producer.take_failed().first());
    println!(
        "loaded trades={count} controls={written} partitions={partitions} value_bytes={:.1} secs={:.1}",
        value_bytes as f64 / count.max(1) as f64,
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Sends a feed's controls to every partition.
struct Controls<'a> {
    producer: &'a Producer,
    schema: u32,
    partitions: i32,
    written: usize,
}

impl Controls<'_> {
    fn send(&mut self, control: &Control) -> anyhow::Result<()> {
        let kind = [(headers::KIND, headers::CONTROL.as_bytes())];
        let mut value = Vec::new();
        encode_value(control, self.schema, &mut value);
        for partition in 0..self.partitions {
            let record = Outgoing::new(topics::TRADES, control.feed.as_str().as_bytes(), &value);
            self.producer.send(Outgoing { partition: Some(partition), headers: &kind, ..record }, PATIENCE)?;
            self.written += 1;
        }
        Ok(())
    }
}
