//! What was collected: observations and reported flows to Kafka, said once; the cursors behind them; what went wrong, for people.
//!
//! Next: `crates/contract/src/records.rs`, then `services/sink/src/tables/observation.rs` and
//! `services/sink/src/tables/fund_flow.rs`.

use crate::config::Files;
use crate::metrics::Metrics;
use anyhow::{Context, ensure};
use jiff::ToSpan;
use jiff::civil::Date;
use marketflow_contract::{AvroRecord, Schema, encode_value, topics};
use marketflow_kafka::{Decoder, KafkaConfig, Outgoing, Producer, Reader, Record, SchemaIds, TopicPartition};
use marketflow_model::{Amount, FundFlow, InvestorClass, Month, Observation, Quantity, SeriesValue, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A read that stands still for so long has failed.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// How long Kafka may take for what one answer held.
const DELIVERED_WITHIN: Duration = Duration::from_secs(130);

/// Provider, series and first instant of a period.
type Key = (String, String, Timestamp);

/// What a class of investors bought net, in money and units.
type Net = (Option<Amount>, Option<Quantity>);

/// Records in, cursors behind them.
pub struct Journal {
    producer: Producer,
    observation_id: u32,
    fund_flow_id: u32,
    /// So many days up to a cursor may be said otherwise.
    days_again: i32,
    files: Files,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

struct State {
    /// The last value said of each period.
    said: HashMap<Key, Option<SeriesValue>>,
    /// The last net buying said, by provider and instrument: of the days that may be said again, so that years of days need no memory.
    bought: HashMap<(String, String), BTreeMap<(Timestamp, InvestorClass), Net>>,
    tracker: Tracker,
}

/// `resume_tracker.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Tracker {
    /// By endpoint: the last month whose values are in Kafka.
    endpoints: BTreeMap<String, Month>,
    /// By endpoint of investors: the last day whose flows are in Kafka.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    days: BTreeMap<String, Date>,
    /// By source: until when it asked for silence.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    silent_until: BTreeMap<String, Timestamp>,
}

impl Journal {
    /// Reads back what was said and collected; `days_again`: so many days up to the last one collected will be asked for again.
    ///
    /// # Errors
    /// Kafka or the registry do not answer; a file that is damaged, with the cure.
    pub fn open(
        kafka: &KafkaConfig,
        producer: Producer,
        mut decoder: Decoder,
        ids: &SchemaIds,
        files: &Files,
        days_again: i32,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let id = |topic, schema| ids.id(topic, schema).with_context(|| format!("{topic} has no schema"));
        let observation_id = id(topics::OBSERVATIONS, Schema::Observation)?;
        let fund_flow_id = id(topics::FUND_FLOWS, Schema::FundFlow)?;
        let reader = Reader::new(kafka)?;
        let mut state = State { said: HashMap::new(), bought: HashMap::new(), tracker: Tracker::read(&files.tracker)? };
        read_back(&reader, topics::OBSERVATIONS, |record| {
            let observation: Observation = decoder.decode(record.value().unwrap_or_default())?;
            state.said.insert((observation.provider, observation.series, observation.period_start), observation.value);
            Ok(())
        })?;
        read_back(&reader, topics::FUND_FLOWS, |record| {
            let flow: FundFlow = decoder.decode(record.value().unwrap_or_default())?;
            let (whose, which, net) = parts(&flow);
            let forgotten = state
                .tracker
                .days
                .get(&endpoint_of_days(&flow.provider, flow.instrument.symbol()))
                .and_then(|cursor| before(*cursor, days_again));
            if forgotten.is_none_or(|forgotten| which.0 >= forgotten) {
                state.bought.entry(whose).or_default().insert(which, net);
            }
            Ok(())
        })?;
        let state = Mutex::new(state);
        Ok(Self { producer, observation_id, fund_flow_id, days_again, files: files.clone(), metrics, state })
    }

    /// The last month of an endpoint whose values are in Kafka.
    pub fn collected_through(&self, endpoint: &str) -> Option<Month> {
        self.state().tracker.endpoints.get(endpoint).copied()
    }

    /// The last day of an endpoint of investors whose flows are in Kafka.
    pub fn days_collected_through(&self, endpoint: &str) -> Option<Date> {
        self.state().tracker.days.get(endpoint).copied()
    }

    /// How long a source still wants silence: a restart does not end that.
    pub fn silence(&self, source: &str, now: Timestamp) -> Duration {
        let until = self.state().tracker.silent_until.get(source).copied();
        until.and_then(|until| u64::try_from(until.micros_since(now)).ok()).map_or(Duration::ZERO, Duration::from_micros)
    }

    /// Keeps that a source asked for silence.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn keep_silence(&self, source: &str, now: Timestamp, wait: Duration) -> anyhow::Result<()> {
        let mut state = self.state();
        let until = now.plus_micros(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX));
        state.tracker.silent_until.retain(|_, until| *until > now);
        state.tracker.silent_until.insert(source.to_owned(), until);
        state.tracker.write(&self.files.tracker)
    }

    /// Writes what is new or revised, waits until Kafka has it, and then moves the endpoint's cursor to `through`. Returns how many were written.
    ///
    /// # Errors
    /// Kafka does not take them, or the cursor cannot be kept; the cursor stays where it was then.
    pub fn keep(&self, endpoint: &str, observations: Vec<Observation>, through: Month) -> anyhow::Result<usize> {
        let mut state = self.state();
        let mut fresh = Vec::new();
        for observation in observations {
            let provider = observation.provider.to_lowercase();
            let key = (observation.provider.clone(), observation.series.clone(), observation.period_start);
            if state.said.get(&key) == Some(&observation.value) {
                self.metrics.known.with_label_values(&[provider.as_str()]).inc();
                continue;
            }
            let key_text = format!("{}:{}", observation.provider, observation.series);
            self.send(topics::OBSERVATIONS, &key_text, &observation, self.observation_id)?;
            if observation.value.is_none() {
                self.metrics.missing.with_label_values(&[provider.as_str()]).inc();
            }
            fresh.push((key, observation.value));
        }
        self.delivered(topics::OBSERVATIONS, fresh.len())?;
        let written = fresh.len();
        state.said.extend(fresh);
        let cursor = state.tracker.endpoints.entry(endpoint.to_owned()).or_insert(through);
        *cursor = through.max(*cursor);
        state.tracker.write(&self.files.tracker)?;
        Ok(written)
    }

    /// As [`Journal::keep`], of the net buying of one instrument by days.
    ///
    /// # Errors
    /// As there.
    pub fn keep_days(&self, endpoint: &str, flows: Vec<FundFlow>, through: Date) -> anyhow::Result<usize> {
        let mut state = self.state();
        let mut fresh = Vec::new();
        for flow in flows {
            let (whose, which, net) = parts(&flow);
            if state.bought.get(&whose).and_then(|said| said.get(&which)) == Some(&net) {
                self.metrics.known.with_label_values(&[flow.provider.as_str()]).inc();
                continue;
            }
            self.send(topics::FUND_FLOWS, flow.instrument.as_str(), &flow, self.fund_flow_id)?;
            fresh.push((whose, which, net));
        }
        self.delivered(topics::FUND_FLOWS, fresh.len())?;
        let written = fresh.len();
        let cursor = state.tracker.days.entry(endpoint.to_owned()).or_insert(through);
        *cursor = through.max(*cursor);
        let forgotten = before(*cursor, self.days_again);
        for (whose, which, net) in fresh {
            let said = state.bought.entry(whose).or_default();
            said.insert(which, net);
            if let Some(forgotten) = forgotten {
                *said = said.split_off(&(forgotten, InvestorClass::Unknown));
            }
        }
        state.tracker.write(&self.files.tracker)?;
        Ok(written)
    }

    fn send<R: AvroRecord>(&self, topic: &'static str, key: &str, record: &R, schema_id: u32) -> anyhow::Result<()> {
        let mut value = Vec::new();
        encode_value(record, schema_id, &mut value);
        Ok(self.producer.send(Outgoing::new(topic, key.as_bytes(), &value), DELIVERED_WITHIN)?)
    }

    /// Waits until Kafka has so many.
    fn delivered(&self, topic: &'static str, count: usize) -> anyhow::Result<()> {
        self.producer.flush(DELIVERED_WITHIN)?;
        let failed = self.producer.take_failed();
        ensure!(failed.is_empty(), "Kafka did not take {} records: {}", failed.len(), failed[0].reason);
        self.metrics.produced.with_label_values(&[topic]).inc_by(u64::try_from(count).unwrap_or_default());
        Ok(())
    }

    /// Adds a line for people to the error log.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn note_problem(&self, now: Timestamp, endpoint: &str, problem: &str) -> anyhow::Result<()> {
        let path = &self.files.error_log;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let line = format!("{now} {endpoint} {}\n", problem.replace('\n', " "));
        file.and_then(|mut file| file.write_all(line.as_bytes())).with_context(|| format!("cannot write {}", path.display()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_back(reader: &Reader, topic: &'static str, mut take: impl FnMut(Record<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for partition in 0..reader.partition_count(topic)? {
        let place = TopicPartition::new(topic, partition);
        let (oldest, _) = reader.range(&place)?;
        let take = |record: Record<'_>| take(record).map(ControlFlow::Continue);
        reader.try_read_to_end(&place, oldest, STALLED_AFTER, take)?.with_context(|| format!("cannot read {place} back"))?;
    }
    Ok(())
}

/// Whose net buying of what, of which day and class, and how much.
fn parts(flow: &FundFlow) -> ((String, String), (Timestamp, InvestorClass), Net) {
    let whose = (flow.provider.clone(), flow.instrument.as_str().to_owned());
    (whose, (flow.period_start, flow.investor_class), (flow.net_amount, flow.net_quantity))
}

/// What a cursor of days is kept for.
pub fn endpoint_of_days(provider: &str, symbol: &str) -> String {
    format!("korean_investors/{provider}:{symbol}")
}

/// The instant from which flows may still be said otherwise: so many days before a cursor's day, and one more for the difference of clocks.
fn before(cursor: Date, days: i32) -> Option<Timestamp> {
    let date = cursor.checked_sub((days + 1).days()).ok()?;
    Timestamp::parse(&format!("{date}T00:00:00Z")).ok()
}

impl Tracker {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(problem) if problem.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(problem) => return Err(problem).with_context(|| format!("cannot read {}", path.display())),
        };
        serde_json::from_slice(&text).with_context(|| {
            format!("{} is damaged; remove it: everything is asked for again then, and nothing is written twice", path.display())
        })
    }

    /// Beside and renamed, so it is never half a file.
    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let temporary: PathBuf = path.with_extension("tmp");
        let doing = || format!("cannot write {}", path.display());
        let mut file = std::fs::File::create(&temporary).with_context(doing)?;
        file.write_all(&serde_json::to_vec_pretty(self)?).and_then(|()| file.sync_all()).with_context(doing)?;
        std::fs::rename(&temporary, path).with_context(doing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_survive_and_a_damaged_file_names_the_cure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resume_tracker.json");
        assert!(Tracker::read(&path).unwrap().endpoints.is_empty());
        let month: Month = "2024-05".parse().unwrap();
        let day: Date = "2026-11-20".parse().unwrap();
        let endpoints = BTreeMap::from([("bonds/fred:DGS10".to_owned(), month)]);
        let days = BTreeMap::from([(endpoint_of_days("kis", "005930"), day)]);
        let silent_until = BTreeMap::from([("yahoo".to_owned(), Timestamp::parse("2026-11-22T00:01:00Z").unwrap())]);
        let tracker = Tracker { endpoints, days, silent_until };
        tracker.write(&path).unwrap();
        let read = Tracker::read(&path).unwrap();
        assert_eq!((read.endpoints, read.days, read.silent_until), (tracker.endpoints, tracker.days, tracker.silent_until));
        std::fs::write(&path, r#"{"endpoints": {}}"#).unwrap();
        assert!(Tracker::read(&path).unwrap().days.is_empty(), "a file of before there were days");
        std::fs::write(&path, "{\"endpoints\": {\"x\"").unwrap();
        assert!(Tracker::read(&path).unwrap_err().to_string().contains("remove it"));
    }
}
