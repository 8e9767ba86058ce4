//! The loop: read, turn into rows, hand batches to landings, commit what has landed.
//!
//! Next: `assignment.rs`.

use crate::assignment::{Assignment, Epochs, Prepared, epochs};
use crate::audit::{Expected, History, audit};
use crate::batch::{Batch, Marks, Stream};
use crate::config::{BatchLimits, Config};
use crate::dead_letters::{CONSUMER, DeadLetters};
use crate::error::stop;
use crate::landing::Landing;
use crate::metrics::Metrics;
use crate::tables::{Place, Refused, Table, Taken, table_for};
use anyhow::{Context, bail};
use marketflow_clickhouse::{ClickHouse, migrations};
use marketflow_contract::{Schema, topics};
use marketflow_kafka::{
    Consumer, DecodeError, Decoder, Disposition, Ends, GroupSettings, KafkaConfig, Rebalance, Record, Registry, Run,
    TopicPartition, admin,
};
use marketflow_model::{EnvelopeClass, Timestamp};
use marketflow_runtime::Stop;
use std::collections::{BTreeMap, btree_map};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;

const POLL: Duration = Duration::from_millis(50);
const POLL_RECORDS: usize = 20_000;
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const LAG_EVERY: Duration = Duration::from_secs(5);
const EPOCHS_EVERY: Duration = Duration::from_secs(60);
/// A batch whose newest record was appended so long ago is behind: it may grow, if there is more to read.
const BEHIND: Duration = Duration::from_secs(2);
/// How long reading waits for a full batch before its partition is paused.
const PAUSE_AFTER: Duration = Duration::from_secs(1);
/// Pause before a value is decoded again whose schema the registry could not be asked for.
const DECODE_AGAIN: Duration = Duration::from_millis(500);

/// Everything checked, nothing read yet.
pub struct Sink {
    consumer: Consumer,
    work: Work,
}

/// What the loop knows of one assigned partition.
struct Lane {
    /// Told apart from an earlier assignment of the same partition.
    generation: u64,
    stream: Stream,
    marks: Marks,
    gathering: Option<Batch>,
    in_flight: bool,
    paused: bool,
    /// Next offset whose record has not landed yet.
    landed: Option<i64>,
    history: History,
}

/// What comes back from the tasks beside the loop.
enum News {
    Prepared { generation: u64, result: anyhow::Result<Vec<Prepared>> },
    Landed { generation: u64, of: TopicPartition, offsets: Range<i64>, result: anyhow::Result<u64> },
    Epochs(Epochs),
}

struct Work {
    runtime: Handle,
    kafka: KafkaConfig,
    limits: BatchLimits,
    accept_loss: bool,
    assignment: Assignment,
    landing: Landing,
    decoder: Decoder,
    metrics: Metrics,
    generation: u64,
    lanes: BTreeMap<TopicPartition, Lane>,
    to_commit: BTreeMap<TopicPartition, i64>,
    /// Since when a full batch waits for the one before it, and nothing is read.
    held_up: Option<Instant>,
    /// Whether the last poll took all there was.
    drained: bool,
    send: Sender<News>,
    receive: Receiver<News>,
    ends: Ends,
    lag_read: Instant,
    epochs_asked: Instant,
    audited: Instant,
    audit_every: Duration,
}

impl Sink {
    /// Connects to everything and checks it: topics, schemas, tables and their columns.
    ///
    /// # Errors
    /// What cannot be reached or does not agree, in words.
    pub async fn connect(config: Config, registry: &marketflow_runtime::Metrics) -> anyhow::Result<Self> {
        let metrics = Metrics::new(registry);
        let clickhouse = ClickHouse::new(&config.clickhouse);
        clickhouse.version().await.with_context(|| format!("ClickHouse at {}", config.clickhouse.url))?;
        migrations::check(&clickhouse).await?;
        admin::check(&config.kafka, ANSWER_WITHIN)
            .await
            .with_context(|| format!("Kafka at {}", config.kafka.bootstrap_servers))?;
        let schemas = Registry::new(&config.registry)?;
        let ids = schemas.ids().await.with_context(|| format!("schema registry at {}", config.registry.url))?;
        let tables = tables();
        for table in tables.values() {
            check_columns(&clickhouse, table).await?;
        }
        let dead_letters = Arc::new(DeadLetters::new(&config.kafka, &ids)?);

        let group = GroupSettings {
            instance_id: (!config.group.instance_id.is_empty()).then(|| config.group.instance_id.clone()),
            session_timeout: config.group.session_timeout,
            pause_on_assign: true,
            ..GroupSettings::new(&config.group.id)
        };
        let names: Vec<&str> = tables.keys().map(String::as_str).collect();
        let consumer = Consumer::subscribe(&config.kafka, &group, &names)?;
        let (send, receive) = channel();
        let ends = Ends::new(&config.kafka)?;
        let work = Work {
            runtime: Handle::current(),
            kafka: config.kafka.clone(),
            limits: config.batch,
            accept_loss: config.stream.accept_loss,
            assignment: Assignment {
                clickhouse: clickhouse.clone(),
                kafka: config.kafka.clone(),
                accepted: config.stream,
                tables: Arc::new(tables),
            },
            landing: Landing { clickhouse, kafka: config.kafka, dead_letters, tries: config.insert, metrics: metrics.clone() },
            decoder: Decoder::new(schemas, &ids),
            metrics,
            generation: 0,
            lanes: BTreeMap::new(),
            to_commit: BTreeMap::new(),
            held_up: None,
            drained: true,
            send,
            receive,
            ends,
            lag_read: Instant::now(),
            epochs_asked: Instant::now(),
            audited: Instant::now(),
            audit_every: config.audit.every,
        };
        Ok(Self { consumer, work })
    }

    /// Runs on a plain thread until the stop is requested and everything read has landed.
    ///
    /// # Errors
    /// What a person must look at; nothing was skipped.
    pub fn run(self, until: &Stop) -> anyhow::Result<()> {
        let Self { consumer, mut work } = self;
        while !until.requested() {
            let held_up = work.held_up.is_some();
            if !held_up {
                let batch = consumer.poll_batch(POLL, POLL_RECORDS)?;
                for event in &batch.rebalances {
                    work.on_rebalance(event);
                }
                for run in batch.runs() {
                    work.take(&run)?;
                }
                work.drained = batch.len() < POLL_RECORDS;
            }
            work.on_news(&consumer, if held_up { POLL } else { Duration::ZERO })?;
            work.start_landings(&consumer, false)?;
            work.commit(&consumer)?;
            work.look_around();
        }
        work.drain(&consumer)
    }
}

/// What became of a record.
enum Outcome {
    Taken,
    /// No row is made of it, for this reason.
    Passed(&'static str),
    Refused(Refused),
}

impl Lane {
    fn take(&mut self, decoder: &mut Decoder, record: &Record<'_>) -> anyhow::Result<Outcome> {
        let Self { stream, marks, gathering, .. } = self;
        let offset = record.offset();
        let batch = gathering.get_or_insert_with(|| Batch::new(stream.table, offset));
        batch.next_offset = offset + 1;
        if record.is_for_another(CONSUMER) {
            return Ok(Outcome::Passed("not_selected"));
        }
        let Some(value) = record.value() else { return Ok(Outcome::Passed("tombstone")) };
        let place = Place {
            epoch: &stream.epoch,
            topic: &stream.topic,
            partition: stream.partition,
            offset,
            append_time: record.timestamp().unwrap_or(Timestamp::from_micros(0)),
        };
        let refused = loop {
            match decoder.body(value) {
                Ok((schema, body)) if schema == stream.table.schema => {
                    break match stream.table.append(&body, &place, marks, batch) {
                        Ok(Taken::Row) => return Ok(Outcome::Taken),
                        Ok(Taken::Landed) => {
                            batch.landed += 1;
                            return Ok(Outcome::Passed("landed"));
                        }
                        Err(refused) => refused,
                    };
                }
                // controls beside data; their copies for tables are on a topic of their own
                Ok((Schema::Control, _)) => return Ok(Outcome::Passed("control")),
                Ok((found, _)) => {
                    let wanted = stream.table.schema.record_name();
                    break Refused::Decode(DecodeError::OtherRecord { found: found.record_name(), wanted });
                }
                Err(problem) if problem.is_retriable() => {
                    tracing::warn!(topic = &*stream.topic, offset, error = %problem, "waiting for the schema registry");
                    std::thread::sleep(DECODE_AGAIN);
                }
                Err(problem) => break Refused::Decode(problem),
            }
        };
        batch.set_aside += 1;
        Ok(Outcome::Refused(refused))
    }
}

/// Topic → table of its main record type.
fn tables() -> BTreeMap<String, &'static Table> {
    let ours = topics::all().into_iter().filter(|topic| topic.readers.iter().any(|reader| reader == "sink"));
    ours.filter_map(|topic| Some((topic.name, table_for(*topic.values.first()?)?))).collect()
}

async fn check_columns(clickhouse: &ClickHouse, table: &Table) -> anyhow::Result<()> {
    let actual = clickhouse.columns(table.name).await?;
    for (name, kind) in table.columns() {
        match actual.iter().find(|(actual, _)| actual == name) {
            None => {
                let what =
                    format!("table {} has no column {name} {kind}; apply schemas/clickhouse with `marketflow up`", table.name);
                return Err(stop(what));
            }
            Some((_, other)) if other != kind => {
                return Err(stop(format!("column {name} of table {} is {other}, should be {kind}", table.name)));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

impl Work {
    fn on_rebalance(&mut self, event: &Rebalance) {
        match event {
            Rebalance::Assigned(partitions) => {
                tracing::info!(partitions = partitions.len(), "assigned");
                self.generation += 1;
                let (generation, send) = (self.generation, self.send.clone());
                let (assignment, partitions) = (self.assignment.clone(), partitions.clone());
                self.runtime.spawn(async move {
                    let result = assignment.prepare(partitions).await;
                    tell(&send, News::Prepared { generation, result });
                });
            }
            Rebalance::Revoked(partitions) | Rebalance::Lost(partitions) => {
                tracing::info!(partitions = partitions.len(), "gone");
                for of in partitions {
                    // what was gathered is read again by the next owner; what is in flight is skipped there by its mark
                    self.lanes.remove(of);
                    self.to_commit.remove(of);
                }
            }
        }
    }

    /// The records of one partition → rows in the batch of its lane, or counted.
    fn take(&mut self, run: &Run<'_>) -> anyhow::Result<()> {
        let Self { lanes, decoder, landing, metrics, .. } = self;
        let of = TopicPartition::new(run.topic(), run.partition());
        let Some(lane) = lanes.get_mut(&of) else { bail!("records of {of} came before their partition was prepared") };
        let mut consumed = 0;
        let discarded = |reason: &str| metrics.discarded.with_label_values(&[&*of.topic, reason]).inc();
        for record in run.records() {
            consumed += 1;
            let (class, label, reason) = match lane.take(decoder, &record)? {
                Outcome::Taken => continue,
                Outcome::Passed(reason) => {
                    discarded(reason);
                    continue;
                }
                Outcome::Refused(Refused::Decode(problem)) => (EnvelopeClass::Undecodable, "undecodable", problem.to_string()),
                Outcome::Refused(Refused::OutOfRange(reason)) => (EnvelopeClass::Refused, "refused", reason),
            };
            discarded(label);
            tracing::warn!(%of, offset = record.offset(), reason, "set aside");
            landing.dead_letters.send(class, reason, &record)?;
        }
        metrics.consumed.with_label_values(&[&*of.topic]).inc_by(consumed);
        Ok(())
    }

    /// Acts on what the tasks say; waits for the first as long as it may.
    fn on_news(&mut self, consumer: &Consumer, mut wait: Duration) -> anyhow::Result<()> {
        while let Ok(news) = self.receive.recv_timeout(wait) {
            wait = Duration::ZERO;
            match news {
                News::Prepared { generation, result } => {
                    if generation == self.generation {
                        self.begin_lanes(consumer, generation, result?)?;
                    }
                }
                News::Landed { generation, of, offsets, result } => {
                    self.metrics.in_flight.dec();
                    let btree_map::Entry::Occupied(mut lane) = self.lanes.entry(of.clone()) else { continue };
                    if lane.get().generation == generation {
                        let rows = result.with_context(|| format!("landing {of} from {} to {}", offsets.start, offsets.end))?;
                        let lane = lane.get_mut();
                        lane.in_flight = false;
                        lane.landed = Some(offsets.end);
                        lane.history.push(offsets.start, offsets.end, rows);
                        self.to_commit.insert(of, offsets.end);
                    }
                }
                News::Epochs(now) => {
                    for (of, lane) in &self.lanes {
                        if now.get(&of.topic).is_none_or(|epoch| *epoch != lane.stream.epoch) {
                            return Err(stop(format!(
                                "topic {} was created again while it was read; start the sink anew and follow what it says",
                                of.topic
                            )));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Prepared partitions begin at the committed offset, or at the log's start where the tables do not know the stream yet.
    fn begin_lanes(&mut self, consumer: &Consumer, generation: u64, prepared: Vec<Prepared>) -> anyhow::Result<()> {
        let partitions: Vec<TopicPartition> =
            prepared.iter().map(|p| TopicPartition::new(&*p.stream.topic, p.stream.partition)).collect();
        let committed: BTreeMap<TopicPartition, i64> = consumer.committed(&partitions, ANSWER_WITHIN)?.into_iter().collect();
        for Prepared { stream, marks, low, new_here } in prepared {
            let of = TopicPartition::new(&*stream.topic, stream.partition);
            match committed.get(&of) {
                Some(next) if new_here && *next > low => {
                    tracing::warn!(%of, from = low, committed = next, "the tables know nothing of this stream: reading it from its start");
                    consumer.seek(&of, low, ANSWER_WITHIN)?;
                }
                Some(next) if *next < low => {
                    if !self.accept_loss {
                        return Err(stop(format!(
                            "records {next} to {low} of {of} expired before they were read; they can be landed no more. Start once with --set \
                             stream.accept_loss=true to go on without them"
                        )));
                    }
                    tracing::error!(%of, from = next, to = low, "records expired unread");
                }
                _ => {}
            }
            let lane = Lane {
                generation,
                stream,
                marks,
                gathering: None,
                in_flight: false,
                paused: false,
                landed: committed.get(&of).copied(),
                history: History::default(),
            };
            self.lanes.insert(of, lane);
        }
        consumer.resume(&partitions)?;
        tracing::info!(partitions = partitions.len(), "reading");
        Ok(())
    }

    /// Full or old batches begin to land, one per lane at a time. A lane whose next batch is full while one is in flight holds reading up for a
    /// moment, which costs nothing; after that it is paused, which throws away what was fetched ahead.
    fn start_landings(&mut self, consumer: &Consumer, all: bool) -> anyhow::Result<()> {
        let pause = self.held_up.is_some_and(|since| since.elapsed() >= PAUSE_AFTER);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut held_up = false;
        for (of, lane) in &mut self.lanes {
            let Some(batch) = &lane.gathering else { continue };
            let full = batch.rows >= self.limits.max_rows || batch.bytes >= self.limits.max_bytes;
            if lane.in_flight {
                if full && pause && !lane.paused {
                    consumer.pause(std::slice::from_ref(of))?;
                    lane.paused = true;
                }
                held_up |= full && !lane.paused;
                continue;
            }
            let appended = Duration::from_micros(u64::try_from(batch.last_append.micros()).unwrap_or(0));
            let behind = !self.drained && batch.rows > 0 && now.saturating_sub(appended) > BEHIND;
            let max_age = if behind { self.limits.max_age_behind } else { self.limits.max_age };
            if !(full || all || batch.begun.elapsed() >= max_age) {
                continue;
            }
            let Some(batch) = lane.gathering.take() else { continue };
            if lane.paused {
                consumer.resume(std::slice::from_ref(of))?;
                lane.paused = false;
            }
            lane.in_flight = true;
            self.metrics.in_flight.inc();
            let (landing, stream, send) = (self.landing.clone(), lane.stream.clone(), self.send.clone());
            let (generation, of, offsets) = (lane.generation, of.clone(), batch.first_offset..batch.next_offset);
            self.runtime.spawn(async move {
                let result = landing.land(&stream, batch).await;
                tell(&send, News::Landed { generation, of, offsets, result });
            });
        }
        self.held_up = if held_up { self.held_up.or_else(|| Some(Instant::now())) } else { None };
        Ok(())
    }

    /// Committed offsets are a hint for the next start; the rows decide. So a refusal is no failure.
    fn commit(&mut self, consumer: &Consumer) -> anyhow::Result<()> {
        if self.to_commit.is_empty() {
            return Ok(());
        }
        let next: Vec<(TopicPartition, i64)> = self.to_commit.iter().map(|(of, offset)| (of.clone(), *offset)).collect();
        match consumer.commit(&next) {
            Ok(()) => self.to_commit.clear(),
            Err(problem) => {
                let reason = match problem.disposition() {
                    Disposition::Retry => "retry",
                    Disposition::Abort => "group_moved_on",
                    Disposition::DeadLetter | Disposition::Fatal => return Err(problem.into()),
                };
                self.metrics.commit_failures.with_label_values(&[reason]).inc();
                tracing::warn!(error = %problem, "offsets were not committed; tried again");
            }
        }
        Ok(())
    }

    fn look_around(&mut self) {
        if self.lag_read.elapsed() >= LAG_EVERY {
            self.lag_read = Instant::now();
            self.ends.ask(self.lanes.keys().cloned().collect());
        }
        for (of, offsets) in self.ends.answer().into_iter().flatten() {
            let Some(lane) = self.lanes.get(&of) else { continue };
            let lag = offsets.end - lane.landed.unwrap_or(offsets.start).max(offsets.start);
            self.metrics.lag.with_label_values(&[of.topic.as_str(), &of.partition.to_string()]).set(lag.max(0));
        }
        if self.audited.elapsed() >= self.audit_every {
            self.audited = Instant::now();
            let expected: Vec<Expected> = self.lanes.values().filter_map(|lane| lane.history.expected(&lane.stream)).collect();
            let (clickhouse, metrics) = (self.landing.clickhouse.clone(), self.metrics.clone());
            self.runtime.spawn(async move {
                if let Err(problem) = audit(&clickhouse, &metrics, expected).await {
                    tracing::warn!(error = %problem, "the rows were not audited; asked again in a minute");
                }
            });
        }
        if self.epochs_asked.elapsed() >= EPOCHS_EVERY {
            self.epochs_asked = Instant::now();
            let (kafka, send) = (self.kafka.clone(), self.send.clone());
            self.runtime.spawn_blocking(move || {
                if let Ok(epochs) = epochs(&kafka) {
                    tell(&send, News::Epochs(epochs));
                }
            });
        }
    }

    /// Nothing more is read; what was read lands and is committed. The drain deadline is the runtime's.
    fn drain(mut self, consumer: &Consumer) -> anyhow::Result<()> {
        let all: Vec<TopicPartition> = self.lanes.keys().cloned().collect();
        consumer.pause(&all)?;
        loop {
            self.on_news(consumer, Duration::ZERO)?;
            self.start_landings(consumer, true)?;
            self.commit(consumer)?;
            if self.lanes.values().all(|lane| !lane.in_flight && lane.gathering.is_none()) && self.to_commit.is_empty() {
                return Ok(());
            }
            // the group expects polls; everything is paused, so only rebalances come
            for event in consumer.poll_batch(POLL, 1)?.rebalances {
                if !matches!(event, Rebalance::Assigned(_)) {
                    self.on_rebalance(&event);
                }
            }
        }
    }
}

/// The loop may be gone already when its last tasks end.
fn tell(send: &Sender<News>, news: News) {
    if send.send(news).is_err() {
        tracing::debug!("nobody waits for this any more");
    }
}
