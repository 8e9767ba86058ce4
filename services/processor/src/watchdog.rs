//! Ends a process whose worker stands still though records wait for it, or whose inputs are other topics now: a new one begins from what was
//! committed, or says what is to be done.
//!
//! Progress is what was committed, not what the loop does: a loop that turns without committing is as stuck as one that does not turn.
//! Operators: `docs/runbook/processor.md`.

use crate::assignment::Stage;
use crate::origins::Origins;
use anyhow::anyhow;
use marketflow_kafka::{Error, KafkaConfig, Reader, TopicPartition};
use marketflow_runtime::{Exit, Stop};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Looks per `stuck_after`. Looks are counted, not time: a process that was itself suspended has missed looks, not progress.
const LOOKS: u32 = 10;
/// How long the look at one record may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How far one worker has come; written by the worker, read by its watchdog.
#[derive(Default)]
pub(crate) struct Progress(Mutex<Seen>);

#[derive(Clone, Default, PartialEq, Eq)]
struct Seen {
    /// Next offset to read, as committed, of every partition that is ours.
    next: BTreeMap<TopicPartition, i64>,
    /// Partitions being rebuilt.
    restoring: usize,
    /// What the state was built from.
    origins: Option<Origins>,
}

impl Progress {
    /// A partition is being rebuilt: however long that takes, it is not a standstill.
    pub(crate) fn restoring(&self) {
        self.seen().restoring += 1;
    }

    /// A partition was rebuilt, and goes on at these offsets of these topics.
    pub(crate) fn restored(&self, next: Vec<(TopicPartition, i64)>, origins: Origins) {
        let mut seen = self.seen();
        seen.restoring -= 1;
        seen.origins = Some(origins);
        seen.next.extend(next);
    }

    /// A transaction was committed up to these offsets.
    pub(crate) fn committed(&self, next: Vec<(TopicPartition, i64)>) {
        self.seen().next.extend(next);
    }

    /// The partition is not ours any more.
    pub(crate) fn gone(&self, partition: &TopicPartition) {
        self.seen().next.remove(partition);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns when the stop is requested.
///
/// # Errors
/// The worker stands still ([`Exit::TryAgain`]), its inputs are not what its state was built from ([`Exit::Fatal`]), or a setting librdkafka
/// does not take.
pub(crate) fn watch(
    kafka: &KafkaConfig,
    stage: Stage,
    progress: &Progress,
    stuck_after: Duration,
    stop: &Stop,
) -> anyhow::Result<()> {
    let reader = Reader::new(kafka)?;
    let (mut standstill, mut has_changed) = (Standstill::default(), false);
    for look in 1_u64.. {
        std::thread::sleep(stuck_after / LOOKS);
        if stop.requested() {
            break;
        }
        let seen = progress.seen().clone();
        if look.is_multiple_of(LOOKS.into()) {
            // twice in a row: a worker that is rebuilding meanwhile says it better
            let changed = changed_origins(kafka, stage, seen.origins.as_ref());
            let had_changed = std::mem::replace(&mut has_changed, changed.is_some());
            if let Some(changed) = changed.filter(|_| had_changed) {
                return Err(changed.context(Exit::Fatal));
            }
        }
        if !standstill.look(&seen, |next| lag(&reader, next)) {
            continue;
        }
        if let Some(waiting) = waiting_record(&reader, &seen.next) {
            let error = anyhow!(
                "nothing was committed for {stuck_after:?} though {waiting} waits; ending, to begin from what was committed"
            );
            return Err(error.context(Exit::TryAgain));
        }
    }
    Ok(())
}

/// How the inputs differ from what the state was built from; a cluster that does not answer is waited for, as the worker does.
fn changed_origins(kafka: &KafkaConfig, stage: Stage, then: Option<&Origins>) -> Option<anyhow::Error> {
    match Origins::ask(kafka, stage) {
        Ok(now) if then.is_none_or(|then| now == *then) => None,
        Ok(_) => Some(anyhow!("inputs were created again, or partitions were added, while they were read")),
        Err(error) if error.is::<Error>() => None,
        Err(gone) => Some(gone),
    }
}

/// Counts the looks in a row that saw lag and no progress.
#[derive(Default)]
struct Standstill {
    last: Seen,
    looks: u32,
}

impl Standstill {
    /// Whether the worker has stood still for [`LOOKS`] looks; the count then begins anew. A lag that cannot be told, because the cluster does
    /// not answer, is no standstill of ours.
    fn look(&mut self, seen: &Seen, lag: impl FnOnce(&BTreeMap<TopicPartition, i64>) -> Option<i64>) -> bool {
        let still = seen.restoring == 0 && *seen == self.last && lag(&seen.next).is_some_and(|lag| lag > 0);
        self.looks = if still { self.looks + 1 } else { 0 };
        self.last = seen.clone();
        if self.looks < LOOKS {
            return false;
        }
        self.looks = 0;
        true
    }
}

/// Offsets between `next` and the ends of what is committed, over all partitions.
fn lag(reader: &Reader, next: &BTreeMap<TopicPartition, i64>) -> Option<i64> {
    next.iter().map(|(of, next)| Ok((reader.range(of)?.1 - next).max(0))).sum::<Result<i64, Error>>().ok()
}

/// Lag may be nothing but transaction markers, which take offsets and are never read: names a partition where a record waits.
fn waiting_record(reader: &Reader, next: &BTreeMap<TopicPartition, i64>) -> Option<String> {
    next.iter().find_map(|(of, next)| {
        let mut waits = None;
        let looked = reader.read_to_end(of, *next, PATIENCE, |record| {
            waits = Some(format!("{of} at {}", record.offset()));
            ControlFlow::Break(())
        });
        if let Err(error) = looked {
            tracing::debug!(%error, "cannot look whether a record waits");
        }
        waits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(next: i64, restoring: bool) -> Seen {
        Seen { next: [(TopicPartition::new("in", 0), next)].into(), restoring: usize::from(restoring), origins: None }
    }

    /// How many of `looks` equal looks report a standstill.
    fn reports(standstill: &mut Standstill, looks: u32, seen: &Seen, lag: Option<i64>) -> usize {
        (0..looks).filter(|_| standstill.look(seen, |_| lag)).count()
    }

    #[test]
    fn lag_without_progress_is_a_standstill() {
        let mut standstill = Standstill::default();
        assert_eq!(reports(&mut standstill, LOOKS, &seen(5, false), Some(1)), 0, "the first look only learns the position");
        assert_eq!(reports(&mut standstill, 1, &seen(5, false), Some(1)), 1);
        assert_eq!(reports(&mut standstill, LOOKS - 1, &seen(5, false), Some(1)), 0, "the count begins anew");
    }

    #[test]
    fn progress_no_lag_restoring_and_an_absent_cluster_are_none() {
        let mut standstill = Standstill::default();
        assert_eq!((0..100).filter(|n| standstill.look(&seen(*n, false), |_| Some(1))).count(), 0);
        assert_eq!(reports(&mut standstill, 100, &seen(5, false), Some(0)), 0);
        assert_eq!(reports(&mut standstill, 100, &seen(5, true), Some(1)), 0);
        assert_eq!(reports(&mut standstill, 100, &seen(5, false), None), 0);
    }
}
