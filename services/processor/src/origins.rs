//! Which topics a partition's state was built from. Another topic of the same name has other offsets, and another number of partitions deals
//! instruments out anew: either would give wrong bars in silence, so it is noted in the changelog, compared, and refused with the cure.

use crate::assignment::Stage;
use crate::config;
use anyhow::{Context, bail, ensure};
use marketflow_contract::topics;
use marketflow_engine::{Change, NOTE};
use marketflow_kafka::{Error, KafkaConfig, admin};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Key of the note.
pub(crate) const ORIGINS_KEY: &[u8] = &[NOTE];

/// How long the cluster has to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Topics, told apart from others of the same name, and how many partitions those have that are dealt out by instrument; 0 where state does not
/// hang on that.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Origins {
    partitions: i32,
    epochs: BTreeMap<String, String>,
}

impl Origins {
    /// As they are now.
    ///
    /// # Errors
    /// No answer, or a topic that is gone.
    pub(crate) fn ask(kafka: &KafkaConfig, stage: Stage) -> anyhow::Result<Self> {
        let cluster = admin::describe(kafka, ANSWER_WITHIN)?;
        let dealt_out = stage.origins.contains(&topics::TRADES).then(|| cluster.topics.get(topics::TRADES)).flatten();
        let partitions = dealt_out.map_or(0, |topic| topic.partitions);
        let mut epochs = BTreeMap::new();
        for topic in stage.origins {
            let Some(epoch) = cluster.epoch(topic) else {
                bail!(
                    "topic {topic} does not exist; was it deleted? Create it again with `marketflow provision` and start once more"
                );
            };
            if epoch.ends_with('/') {
                // a broker that has just come back may not know it yet
                return Err(Error::Timeout { doing: format!("read the id of {topic}"), seconds: ANSWER_WITHIN.as_secs() }.into());
            }
            epochs.insert((*topic).to_owned(), epoch);
        }
        Ok(Self { partitions, epochs })
    }

    /// Of the topics that are dealt out by instrument.
    pub(crate) fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Whether partitions were added since there were so many, and the operator says so: state is about to move.
    pub(crate) fn is_accepted_growth_of(&self, then: i32, accepted: &config::Stream) -> bool {
        then < self.partitions && self.partitions == accepted.accept_partitions
    }

    /// The topics created again since then, all of which were accepted.
    ///
    /// # Errors
    /// What is not accepted, with the cure.
    pub(crate) fn replaced_since(&self, then: &Self, accepted: &config::Stream) -> anyhow::Result<BTreeSet<String>> {
        let mut replaced = BTreeSet::new();
        for (topic, epoch) in self.epochs.iter().filter(|(topic, epoch)| then.epochs.get(*topic) != Some(*epoch)) {
            ensure!(
                accepted.accept_epochs.contains(epoch),
                "topic {topic} has epoch {epoch}, but state was built from another one: it was created again, or this is another cluster. If \
                 that is meant, start once with --set 'stream.accept_epochs=[\"{epoch}\"]': state is dropped and the topic read from its \
                 start; else point the processor at the right cluster"
            );
            replaced.insert(topic.clone());
        }
        ensure!(
            self.partitions == then.partitions
                || replaced.contains(topics::TRADES)
                || self.is_accepted_growth_of(then.partitions, accepted),
            "{} has {} partitions, but state was built from {}: instruments are dealt out to others now, and their state is not there. \
             docs/runbook/processor.md says how partitions are added (stream.accept_partitions)",
            topics::TRADES,
            self.partitions,
            then.partitions
        );
        Ok(replaced)
    }

    /// As it goes to the changelog.
    pub(crate) fn note(&self) -> Change {
        let value = postcard::to_stdvec(self).expect("plain values serialize");
        Change { key: ORIGINS_KEY.to_vec(), value: Some(value) }
    }

    /// From the changelog.
    ///
    /// # Errors
    /// A note this version did not write.
    pub(crate) fn decode(note: &[u8]) -> anyhow::Result<Self> {
        postcard::from_bytes(note).context("the changelog's note of its origins is not readable")
    }
}
