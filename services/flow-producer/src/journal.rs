//! What was collected: observations to Kafka, said once; the cursors behind them; what went wrong, for people.
//!
//! Next: `crates/contract/src/records.rs`, then `services/sink/src/tables/observation.rs`.

use crate::config::Files;
use crate::metrics::Metrics;
use anyhow::{Context, ensure};
use marketflow_contract::{Schema, encode_value, topics};
use marketflow_kafka::{Decoder, KafkaConfig, Outgoing, Producer, Reader, Record, SchemaIds, TopicPartition};
use marketflow_model::{Month, Observation, SeriesValue, Timestamp};
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

/// Observations in, cursors behind them.
pub struct Journal {
    producer: Producer,
    schema_id: u32,
    files: Files,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

struct State {
    /// The last value said of each period.
    said: HashMap<Key, Option<SeriesValue>>,
    tracker: Tracker,
}

/// `resume_tracker.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Tracker {
    /// By endpoint: the last month whose values are in Kafka.
    endpoints: BTreeMap<String, Month>,
}

impl Journal {
    /// Reads back what was said and collected.
    ///
    /// # Errors
    /// Kafka or the registry do not answer; a file that is damaged, with the cure.
    pub fn open(
        kafka: &KafkaConfig,
        producer: Producer,
        mut decoder: Decoder,
        ids: &SchemaIds,
        files: &Files,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let topic = topics::OBSERVATIONS;
        let schema_id = ids.id(topic, Schema::Observation).with_context(|| format!("{topic} has no schema"))?;
        let reader = Reader::new(kafka)?;
        let mut said = HashMap::new();
        for partition in 0..reader.partition_count(topic)? {
            let place = TopicPartition::new(topic, partition);
            let (oldest, _) = reader.range(&place)?;
            let take = |record: Record<'_>| {
                let observation: Observation = decoder.decode(record.value().unwrap_or_default())?;
                said.insert((observation.provider, observation.series, observation.period_start), observation.value);
                Ok::<_, anyhow::Error>(ControlFlow::Continue(()))
            };
            reader.try_read_to_end(&place, oldest, STALLED_AFTER, take)?.with_context(|| format!("cannot read {place} back"))?;
        }
        let state = Mutex::new(State { said, tracker: Tracker::read(&files.tracker)? });
        Ok(Self { producer, schema_id, files: files.clone(), metrics, state })
    }

    /// The last month of an endpoint whose values are in Kafka.
    pub fn collected_through(&self, endpoint: &str) -> Option<Month> {
        self.state().tracker.endpoints.get(endpoint).copied()
    }

    /// Writes what is new or revised, waits until Kafka has it, and then moves the endpoint's cursor to `through`. Returns how many were written.
    ///
    /// # Errors
    /// Kafka does not take them, or the cursor cannot be kept; the cursor stays where it was then.
    pub fn keep(&self, endpoint: &str, observations: Vec<Observation>, through: Month) -> anyhow::Result<usize> {
        let mut state = self.state();
        let mut value = Vec::new();
        let mut fresh = Vec::new();
        for observation in observations {
            let provider = observation.provider.to_lowercase();
            let key = (observation.provider.clone(), observation.series.clone(), observation.period_start);
            if state.said.get(&key) == Some(&observation.value) {
                self.metrics.known.with_label_values(&[provider.as_str()]).inc();
                continue;
            }
            value.clear();
            encode_value(&observation, self.schema_id, &mut value);
            let key_text = format!("{}:{}", observation.provider, observation.series);
            self.producer.send(Outgoing::new(topics::OBSERVATIONS, key_text.as_bytes(), &value), DELIVERED_WITHIN)?;
            if observation.value.is_none() {
                self.metrics.missing.with_label_values(&[provider.as_str()]).inc();
            }
            fresh.push((key, observation.value));
        }
        self.producer.flush(DELIVERED_WITHIN)?;
        let failed = self.producer.take_failed();
        ensure!(failed.is_empty(), "Kafka did not take {} observations: {}", failed.len(), failed[0].reason);
        let written = fresh.len();
        self.metrics.produced.with_label_values(&[topics::OBSERVATIONS]).inc_by(u64::try_from(written).unwrap_or_default());
        state.said.extend(fresh);
        let cursor = state.tracker.endpoints.entry(endpoint.to_owned()).or_insert(through);
        *cursor = through.max(*cursor);
        state.tracker.write(&self.files.tracker)?;
        Ok(written)
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
        let tracker = Tracker { endpoints: BTreeMap::from([("bonds/fred:DGS10".to_owned(), month)]) };
        tracker.write(&path).unwrap();
        assert_eq!(Tracker::read(&path).unwrap().endpoints, tracker.endpoints);
        std::fs::write(&path, "{\"endpoints\": {\"x\"").unwrap();
        assert!(Tracker::read(&path).unwrap_err().to_string().contains("remove it"));
    }
}
