//! Groups seen from outside: how far they are, without joining them.

use crate::config::Quiet;
use crate::consumer::{list_of, plain_list};
use crate::{Error, KafkaConfig, TopicPartition};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::topic_partition_list::Offset;
use std::time::Duration;

/// How many members a group has; one that left without a word counts until its session ends.
///
/// # Errors
/// No answer within `timeout`.
pub fn members(kafka: &KafkaConfig, group: &str, timeout: Duration) -> Result<usize, Error> {
    let asker: BaseConsumer<Quiet> = kafka.client(&[], &[("group.id", group), ("enable.auto.commit", "false")], Quiet)?;
    let list = asker.fetch_group_list(Some(group), timeout).map_err(Error::kafka(format!("ask for the members of {group}")))?;
    Ok(list.groups().iter().map(|group| group.members().len()).sum())
}

/// The offsets `group` committed for these partitions; those without one are left out. Offsets of an open transaction are waited for.
///
/// # Errors
/// No answer within `timeout`.
pub fn committed(
    kafka: &KafkaConfig,
    group: &str,
    partitions: &[TopicPartition],
    timeout: Duration,
) -> Result<Vec<(TopicPartition, i64)>, Error> {
    let fixed = [("group.id", group), ("isolation.level", "read_committed"), ("enable.auto.commit", "false")];
    // never subscribes, so the group's members do not notice
    let asker: BaseConsumer<Quiet> = kafka.client(&[], &fixed, Quiet)?;
    let list = asker
        .committed_offsets(plain_list(partitions), timeout)
        .map_err(Error::kafka(format!("read the committed offsets of {group}")))?;
    let known = list.elements().into_iter().filter_map(|element| match element.offset() {
        Offset::Offset(offset) => Some((TopicPartition::new(element.topic(), element.partition()), offset)),
        Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => None,
    });
    Ok(known.collect())
}

/// Moves the offsets of `group` to these, the next records to read.
///
/// # Errors
/// A group that has members: only they may move them.
pub fn set_committed(kafka: &KafkaConfig, group: &str, next: &[(TopicPartition, i64)]) -> Result<(), Error> {
    let mover: BaseConsumer<Quiet> = kafka.client(&[], &[("group.id", group), ("enable.auto.commit", "false")], Quiet)?;
    mover.commit(&list_of(next)?, CommitMode::Sync).map_err(Error::kafka(format!("move the committed offsets of {group}")))
}
