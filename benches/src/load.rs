//! The generated load: random walks on many instruments, with the controls a producer writes.

use anyhow::Context;
use marketflow_contract::{Schema, encode_value, headers, topics};
use marketflow_kafka::{Outgoing, Producer, ProducerSettings};
use marketflow_model::{Control, ControlKind, Feed, FeedState, Timestamp};
use marketflow_testkit::{RandomWalk, TestStack};
use std::time::Duration;

/// Partitions of the trades topic, as `schemas/topics.toml` says.
pub(crate) const PARTITIONS: i32 = 4;
const PATIENCE: Duration = Duration::from_secs(120);
/// Three hours of event time, whatever the number of trades.
const LONG_SECONDS: usize = 10_800;
/// Ten minutes: shorter than a window is kept, so that every minute of every instrument is still there.
const SHORT_SECONDS: usize = 600;

/// What was written.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) trades: usize,
    pub(crate) value_bytes: usize,
}

/// How a load ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The last control passes every window.
    Closed,
    /// After a few minutes, with every window open.
    Open,
}

impl Load {
    /// Writes the load and waits until Kafka has it.
    pub(crate) async fn write(stack: &TestStack, trades: usize, instruments: usize, ending: Ending) -> anyhow::Result<Self> {
        let ids = stack.registry()?.ids().await?;
        let id = |schema| ids.id(topics::TRADES, schema).context("schemas are registered");
        let (trade_id, control_id) = (id(Schema::Trade)?, id(Schema::Control)?);
        let producer = Producer::new(&stack.kafka(), &ProducerSettings::default())?;
        tokio::task::spawn_blocking(move || {
            let feed = Feed::new("bench");
            let start = Timestamp::from_seconds(1_700_000_100);
            let kind = [(headers::KIND, headers::CONTROL.as_bytes())];
            let mut value = Vec::new();
            let mut control = |control: &Control| -> anyhow::Result<()> {
                value.clear();
                encode_value(control, control_id, &mut value);
                for partition in 0..PARTITIONS {
                    let outgoing = Outgoing::new(topics::TRADES, control.feed.as_str().as_bytes(), &value);
                    producer.send(Outgoing { partition: Some(partition), headers: &kind, ..outgoing }, PATIENCE)?;
                }
                Ok(())
            };
            let up =
                Control { state: FeedState::Up, from: Some(start), ..Control::new(ControlKind::FeedState, feed.clone(), start) };
            control(&up)?;
            let seconds = if ending == Ending::Open { SHORT_SECONDS } else { LONG_SECONDS };
            let per_second = u32::try_from((trades / seconds).max(1)).context("a rate")?;
            let (mut written, mut bytes, mut second) = (Vec::new(), 0, start);
            for trade in RandomWalk::new(1, feed.clone(), &RandomWalk::instruments(instruments), start, per_second).take(trades) {
                written.clear();
                encode_value(&trade, trade_id, &mut written);
                bytes += written.len();
                producer.send(Outgoing::new(topics::TRADES, trade.instrument.as_str().as_bytes(), &written), PATIENCE)?;
                if trade.event_time.micros_since(second) >= 1_000_000 {
                    second = trade.event_time;
                    let through = Some(second.plus_micros(-2_000_000));
                    control(&Control {
                        complete_through: through,
                        ..Control::new(ControlKind::Heartbeat, feed.clone(), second)
                    })?;
                }
            }
            if ending == Ending::Closed {
                let end = second.plus_micros(1_200_000_000);
                control(&Control { complete_through: Some(end), ..Control::new(ControlKind::Heartbeat, feed, end) })?;
            }
            producer.flush(PATIENCE)?;
            anyhow::ensure!(producer.failed() == 0, "{} records were not delivered", producer.failed());
            Ok(Self { trades, value_bytes: bytes / trades })
        })
        .await?
    }
}
