//! Moving state when partitions were added to the inputs: one transaction over both changelogs, before any worker starts.
//!
//! Keys are dealt out by hash modulo the number of partitions, so nearly every instrument's records go elsewhere from then on. The state has to go
//! with them, and everything of before has to be worked through first: that is checked, and refused otherwise.
//! Operators: `docs/runbook/processor.md`, "Adding partitions".

use crate::assignment::{BARS, read_changelog};
use crate::config::Config;
use crate::flow_worker::{self, FLOWS};
use crate::origins::Origins;
use crate::outputs::Output;
use crate::processor::{transactions, with_exit};
use crate::stage_worker::PARTITION;
use anyhow::ensure;
use marketflow_contract::topics;
use marketflow_engine::{Change, FlowTotals, repartition};
use marketflow_kafka::{Consumer, GroupSettings, Reader, StartAt, TopicPartition, committed, members, partition_for};
use std::time::{Duration, Instant};
use tracing::{info, warn};

const PATIENCE: Duration = Duration::from_secs(30);

/// Moves the state to as many partitions as the inputs have; nothing to do when it is there already. `gap_limit_micros`: the engine's.
///
/// # Errors
/// Processors that still run, or the cluster's.
pub(crate) fn run(config: &Config, gap_limit_micros: i64) -> anyhow::Result<()> {
    let reader = Reader::new(&config.kafka)?;
    let origins = Origins::ask(&config.kafka, BARS)?;
    let count = origins.partitions();
    let asked = config.stream.accept_partitions;
    ensure!(count == asked, "stream.accept_partitions is {asked}, but {} has {count} partitions", topics::TRADES);
    let (_, noted) = read_changelog(&reader, BARS, 0)?;
    let old = match noted.as_deref().map(Origins::decode).transpose()? {
        Some(then) if then.partitions() != count => then.partitions(),
        _ => return Ok(()),
    };
    ensure!(old < count, "state was built from {old} partitions, and there are {count} now: topics cannot shrink");
    wait_until_nobody_works(config)?;
    let waiting = waiting(config, &reader, old)?;
    if waiting > 0 {
        warn!(
            waiting,
            "the partitions of before are worked through first; start once more when their lag is 0, and state is moved"
        );
        return Ok(());
    }

    let mut states = Vec::new();
    for partition in 0..old {
        states.push(read_changelog(&reader, BARS, partition)?.0);
    }
    let place = |instrument: &marketflow_model::Instrument| partition_for(instrument.as_str().as_bytes(), count);
    let mut records: Vec<Output> = Vec::new();
    let mut put =
        |topic, partition, Change { key, value }| records.push(Output { topic, partition: Some(partition), key, value });
    for (to, change) in repartition(states, count, place)? {
        put(BARS.changelog, to, change);
    }
    for partition in 0..count {
        put(BARS.changelog, partition, origins.note());
    }
    let (flows, _) = read_changelog(&reader, FLOWS, PARTITION)?;
    let mut totals = FlowTotals::restore(old, flow_worker::kept_micros(gap_limit_micros), flows)?;
    totals.add_partitions(count);
    for change in totals.take_changes().into_iter().chain([Origins::ask(&config.kafka, FLOWS)?.note()]) {
        put(FLOWS.changelog, PARTITION, change);
    }

    // a new partition is read from its start, and says so: state without an offset would be refused
    let new = (old..count).flat_map(|partition| BARS.inputs_of(partition));
    let next: Vec<(TopicPartition, i64)> = new.map(|of| Ok((of.clone(), reader.range(&of)?.0))).collect::<anyhow::Result<_>>()?;
    let group = GroupSettings { start_at: StartAt::Seek, ..GroupSettings::new(&config.worker.group) };
    let consumer = Consumer::subscribe(&config.kafka, &group, &[]).map_err(with_exit)?;
    let producer = transactions(config, &format!("{}-repartition", config.worker.group))?;
    producer.begin()?;
    for record in &records {
        producer.send(record.outgoing())?;
    }
    producer.commit(&next, &consumer)?;
    info!(from = old, to = count, records = records.len(), "state moved to the partitions added");
    Ok(())
}

/// A processor that was stopped just now is a member until its session ends.
fn wait_until_nobody_works(config: &Config) -> anyhow::Result<()> {
    let started = Instant::now();
    for group in [&config.worker.group, &config.flows.group] {
        while members(&config.kafka, group, PATIENCE)? > 0 {
            ensure!(started.elapsed() < PATIENCE, "group {group} has members: stop every processor first");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(())
}

/// Records of the partitions of before that are not worked through yet.
fn waiting(config: &Config, reader: &Reader, old: i32) -> anyhow::Result<i64> {
    let inputs: Vec<TopicPartition> = (0..old).flat_map(|partition| BARS.inputs_of(partition)).collect();
    let done = committed(&config.kafka, &config.worker.group, &inputs, PATIENCE)?;
    let mut waiting = 0;
    for input in &inputs {
        let (oldest, end) = reader.range(input)?;
        waiting += end - done.iter().find(|(of, _)| of == input).map_or(oldest, |(_, next)| *next);
    }
    Ok(waiting)
}
