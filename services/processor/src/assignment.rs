//! Rebuilding state from its changelog: at assignment, and after an abort. One way for both, and for both stages.

use crate::watchdog::Progress;
use marketflow_contract::topics;
use marketflow_engine::{Change, RestoreError};
use marketflow_kafka::{Consumer, Disposition, Error, KafkaConfig, Reader, TopicPartition, fail_point};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// How long a question to the cluster may take, and how long a read may stand still.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a rebuild is begun again while the cluster does not answer.
const RETRY_FOR: Duration = Duration::from_secs(120);

/// Topics that are read together, and the one that holds what became of them.
#[derive(Clone, Copy)]
pub(crate) struct Stage {
    pub(crate) inputs: &'static [&'static str],
    pub(crate) changelog: &'static str,
}

impl Stage {
    /// Partition `number` of each input.
    pub(crate) fn inputs_of(self, number: i32) -> impl Iterator<Item = TopicPartition> {
        self.inputs.iter().map(move |topic| TopicPartition::new(*topic, number))
    }
}

/// Trades and candles to bars; partition N of both belongs to the same worker.
pub(crate) const BARS: Stage = Stage { inputs: &[topics::TRADES, topics::CANDLES], changelog: topics::CHANGELOG };

/// Rebuilds the state of one partition and puts the consumer where it was committed; begun again while the cluster is away.
///
/// # Errors
/// The cluster's, or a changelog this version cannot read.
pub(crate) fn rebuild<S>(
    kafka: &KafkaConfig,
    consumer: &Consumer,
    stage: Stage,
    number: i32,
    restore: impl Fn(Vec<Change>) -> Result<S, RestoreError>,
    progress: &Progress,
) -> anyhow::Result<S> {
    progress.restoring();
    let started = Instant::now();
    loop {
        match rebuild_once(kafka, consumer, stage, number, &restore) {
            Err(error) if is_outage(&error) && started.elapsed() < RETRY_FOR => {
                warn!(partition = number, error = format!("{error:#}"), "rebuild begins again");
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(error) => return Err(error),
            Ok((state, next)) => {
                progress.restored(next);
                return Ok(state);
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
    kafka: &KafkaConfig,
    consumer: &Consumer,
    stage: Stage,
    number: i32,
    restore: impl Fn(Vec<Change>) -> Result<S, RestoreError>,
) -> anyhow::Result<(S, Vec<(TopicPartition, i64)>)> {
    let started = Instant::now();
    let inputs: Vec<TopicPartition> = stage.inputs_of(number).collect();
    let committed = consumer.committed(&inputs, PATIENCE)?;

    let mut changes = Vec::new();
    let changelog = TopicPartition::new(stage.changelog, number);
    Reader::new(kafka)?.read_to_end(&changelog, 0, PATIENCE, |record| {
        if let Some(key) = record.key() {
            changes.push(Change { key: key.to_vec(), value: record.value().map(<[u8]>::to_vec) });
        }
        ControlFlow::Continue(())
    })?;
    fail_point("during-restore");
    let records = changes.len();
    let state = restore(changes)?;
    if committed.is_empty() && records > 0 {
        anyhow::bail!(
            "partition {number} has state in {} but no committed offsets for its inputs: the group's offsets were deleted or expired; \
             reset both (delete the changelog topic's records and start again) or restore the offsets",
            stage.changelog
        );
    }
    let mut next_to_read = Vec::new();
    for input in &inputs {
        let next = match committed.iter().find(|(of, _)| of == input) {
            Some((_, next)) => *next,
            None => consumer.watermarks(input, PATIENCE)?.0,
        };
        consumer.seek(input, next, PATIENCE)?;
        next_to_read.push((input.clone(), next));
    }
    consumer.resume(&inputs)?;
    info!(changelog = stage.changelog, partition = number, records, elapsed = ?started.elapsed(), "partition rebuilt");
    Ok((state, next_to_read))
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
