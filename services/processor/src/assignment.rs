//! Rebuilding state from its changelog: at assignment, and after an abort. One way for both, and for both stages.
//!
//! State belongs to the topics it was built from, and to their number of partitions; `origins.rs` says which those are.

use crate::config::{self, Config};
use crate::metrics::ProcessorMetrics;
use crate::origins::{ORIGINS_KEY, Origins};
use crate::watchdog::Progress;
use anyhow::ensure;
use marketflow_contract::topics;
use marketflow_engine::{Change, RestoreError};
use marketflow_kafka::{Consumer, Disposition, Error, Reader, TopicPartition, fail_point};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// How long a question to the cluster may take, and how long a read may stand still.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a rebuild is begun again while the cluster does not answer.
const RETRY_FOR: Duration = Duration::from_secs(120);

/// Topics that are read together, and the one that holds what became of them.
#[derive(Clone, Copy)]
pub(crate) struct Stage {
    pub(crate) inputs: &'static [&'static str],
    pub(crate) changelog: &'static str,
    /// Topics whose offsets are part of the state.
    pub(crate) origins: &'static [&'static str],
}

impl Stage {
    /// Partition `number` of each input.
    pub(crate) fn inputs_of(self, number: i32) -> impl Iterator<Item = TopicPartition> {
        self.inputs.iter().map(move |topic| TopicPartition::new(*topic, number))
    }
}

/// Trades and candles to bars; partition N of both belongs to the same worker.
pub(crate) const BARS: Stage = Stage {
    inputs: &[topics::TRADES, topics::CANDLES],
    changelog: topics::CHANGELOG,
    origins: &[topics::TRADES, topics::CANDLES],
};

/// A partition's state as it was committed.
pub(crate) struct Rebuilt<S> {
    pub(crate) state: S,
    /// What the next commit writes to the changelog beside the state's own changes.
    pub(crate) notes: Vec<Change>,
}

/// Rebuilds the state of one partition and puts the consumer where it was committed; begun again while the cluster is away.
///
/// # Errors
/// The cluster's, a changelog this version cannot read, or inputs that are not what the state was built from, with the cure.
pub(crate) fn rebuild<S>(
    config: &Config,
    consumer: &Consumer,
    stage: Stage,
    number: i32,
    restore: impl Fn(Vec<Change>) -> Result<S, RestoreError>,
    progress: &Progress,
    metrics: &ProcessorMetrics,
) -> anyhow::Result<Rebuilt<S>> {
    progress.restoring();
    let started = Instant::now();
    loop {
        match rebuild_once(config, consumer, stage, number, &restore, progress) {
            Err(error) if is_outage(&error) && started.elapsed() < RETRY_FOR => {
                warn!(partition = number, error = format!("{error:#}"), "rebuild begins again");
                std::thread::sleep(Duration::from_millis(100));
            }
            result => {
                metrics.restore_duration.with_label_values(&[stage.changelog]).observe(started.elapsed().as_secs_f64());
                return result;
            }
        }
    }
}

fn is_outage(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Error>().is_some_and(|error| error.disposition() == Disposition::Retry)
}

/// Order matters: committed offsets are asked for first (the answer waits for an open transaction of a predecessor), the changelog's end is
/// taken after that, so the state read is at least as new as the offsets; both were committed together, so it is exactly as new.
fn rebuild_once<S>(
    config: &Config,
    consumer: &Consumer,
    stage: Stage,
    number: i32,
    restore: impl Fn(Vec<Change>) -> Result<S, RestoreError>,
    progress: &Progress,
) -> anyhow::Result<Rebuilt<S>> {
    let started = Instant::now();
    let inputs: Vec<TopicPartition> = stage.inputs_of(number).collect();
    let committed = consumer.committed(&inputs, PATIENCE)?;

    let reader = Reader::new(&config.kafka)?;
    let (mut changes, noted) = read_changelog(&reader, stage, number)?;
    fail_point("during-restore");
    let origins = Origins::ask(&config.kafka, stage)?;
    // a partition without state is one of a new group, or one that was added
    let noted = if noted.is_none() && number > 0 { read_changelog(&reader, stage, 0)?.1 } else { noted };
    let then = noted.as_deref().map(Origins::decode).transpose()?;
    let moves_from = then.as_ref().map(Origins::partitions).filter(|then| origins.is_accepted_growth_of(*then, &config.stream));
    let mut notes = Vec::new();
    if moves_from.is_none() {
        notes.push(origins.note());
    }
    let replaced = then.map_or(Ok(BTreeSet::new()), |then| origins.replaced_since(&then, &config.stream))?;
    if !replaced.is_empty() {
        warn!(partition = number, ?replaced, "topics were created again: state is dropped, and they are read from their start");
        let keys: BTreeSet<Vec<u8>> = std::mem::take(&mut changes).into_iter().map(|change| change.key).collect();
        notes.extend(keys.into_iter().map(|key| Change { key, value: None }));
    }
    let records = changes.len();
    let state = restore(changes)?;
    ensure!(
        !committed.is_empty() || records == 0,
        "partition {number} has state in {} but no committed offsets for its inputs: the group's offsets were deleted or expired; \
         reset both (delete the changelog topic's records and start again) or restore the offsets",
        stage.changelog
    );
    let mut next_to_read = Vec::new();
    for input in &inputs {
        let next = committed.iter().find(|(of, _)| of == input).map(|(_, next)| *next);
        let next = next.filter(|_| !replaced.contains(&input.topic));
        let next = existing(consumer, input, next, &config.stream)?;
        consumer.seek(input, next, PATIENCE)?;
        next_to_read.push((input.clone(), next));
    }
    if moves_from.is_some_and(|old| number >= old) {
        info!(partition = number, "waits until the partitions of before are worked through");
        next_to_read.clear();
    } else {
        consumer.resume(&inputs)?;
    }
    info!(changelog = stage.changelog, partition = number, records, elapsed = ?started.elapsed(), "partition rebuilt");
    progress.restored(next_to_read, origins);
    Ok(Rebuilt { state, notes })
}

/// What is committed of one changelog partition, in log order, and the last note of its origins.
pub(crate) fn read_changelog(reader: &Reader, stage: Stage, number: i32) -> anyhow::Result<(Vec<Change>, Option<Vec<u8>>)> {
    let (mut changes, mut noted) = (Vec::new(), None);
    reader.read_to_end(&TopicPartition::new(stage.changelog, number), 0, PATIENCE, |record| {
        match (record.key(), record.value()) {
            (Some(ORIGINS_KEY), value) => noted = value.map(<[u8]>::to_vec),
            (Some(key), value) => changes.push(Change { key: key.to_vec(), value: value.map(<[u8]>::to_vec) }),
            (None, _) => {}
        }
        ControlFlow::Continue(())
    })?;
    Ok((changes, noted))
}

/// Where to go on: at the committed offset, which has to exist still; without one at the oldest.
fn existing(
    consumer: &Consumer,
    input: &TopicPartition,
    committed: Option<i64>,
    accepted: &config::Stream,
) -> anyhow::Result<i64> {
    let (oldest, end) = consumer.watermarks(input, PATIENCE)?;
    let next = committed.unwrap_or(oldest);
    ensure!(
        next <= end,
        "{input} ends at {end} but was read up to {next}: the broker lost records; restore the topic from a copy"
    );
    if next >= oldest {
        return Ok(next);
    }
    ensure!(
        accepted.accept_loss,
        "records {next} to {oldest} of {input} expired before they were read: no bar can hold them any more. Start once with --set \
         stream.accept_loss=true to go on without them, and import the time they cover"
    );
    error!(%input, from = next, to = oldest, "records expired unread");
    Ok(oldest)
}

/// Whether no other process holds our slot: a commit of what is committed already is refused when one does.
pub(crate) fn slot_is_ours(consumer: &Consumer, stage: Stage, partitions: impl Iterator<Item = i32>) -> bool {
    let inputs: Vec<TopicPartition> = partitions.flat_map(|number| stage.inputs_of(number)).collect();
    match consumer.committed(&inputs, PATIENCE).and_then(|committed| consumer.commit(&committed)) {
        Ok(()) => true,
        // that the group went on without us is another matter: we join it again
        Err(error) => error.disposition() != Disposition::Fatal,
    }
}
