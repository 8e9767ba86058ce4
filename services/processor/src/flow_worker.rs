//! Flows across instruments. First stage: what a batch of one input partition adds leaves with its bars, in the same transaction. Second stage:
//! one thread reads what all partitions add, sums, and commits totals, state and offsets in one transaction of its own (`stage_worker.rs`).
//!
//! Next: `crates/engine/src/flow_totals.rs`.

use crate::assignment::Stage;
use crate::config::Config;
use crate::metrics::ProcessorMetrics;
use crate::outputs::{Output, OutputSchemas, Outputs};
use crate::processor::{Failed, with_exit};
use crate::stage_worker::{self, Aggregation, PARTITION, Pending, published};
use marketflow_contract::topics;
use marketflow_engine::{Change, FlowTotals, PartialFlows, PartialOutcome, Partition, RestoreError};
use marketflow_kafka::{Reader, Record};
use marketflow_runtime::Stop;
use prometheus::IntCounterVec;
use tracing::warn;

/// What the second stage reads, and where its state is.
pub(crate) const FLOWS: Stage = Stage {
    inputs: &[topics::FLOW_PARTIALS],
    changelog: topics::FLOW_CHANGELOG,
    // what was taken is known by the trades' offsets
    origins: &[topics::FLOW_PARTIALS, topics::TRADES],
};

/// How long totals are kept: no revision is older than a gap may be, and the day more is for feeds that are behind others of their group.
pub(crate) fn kept_micros(gap_limit_micros: i64) -> i64 {
    gap_limit_micros.saturating_add(86_400_000_000)
}

impl Outputs {
    /// What an input partition's records since the last commit add to the flows.
    pub(crate) fn flows(&mut self, number: i32, partition: &mut Partition) {
        let (partials, instruments) = partition.take_flows();
        for partial in partials {
            let key = number.to_string().into_bytes();
            self.put(topics::FLOW_PARTIALS, Some(PARTITION), key, Some(partial.encode(number)));
        }
        for flow in instruments {
            let Output { topic, partition, key, value } = published(&flow, self.schemas);
            self.put(topic, partition, key, value);
        }
    }
}

/// Runs the second stage until the stop is requested.
///
/// # Errors
/// As the workers of bars.
pub(crate) async fn run(
    config: Config,
    gap_limit_micros: i64,
    schemas: OutputSchemas,
    metrics: ProcessorMetrics,
    stop: Stop,
) -> anyhow::Result<()> {
    let totals = move |reader: &Reader| -> anyhow::Result<Totals> {
        let input_partitions = reader.partition_count(topics::TRADES).map_err(with_exit)?;
        Ok(Totals { input_partitions, kept_micros: kept_micros(gap_limit_micros) })
    };
    stage_worker::run(config, schemas, metrics, stop, totals).await
}

/// The second stage.
struct Totals {
    /// Of the input topics of bars.
    input_partitions: i32,
    kept_micros: i64,
}

impl Aggregation for Totals {
    const STAGE: Stage = FLOWS;
    const NAME: &'static str = "flows";
    type State = FlowTotals;

    fn group(config: &Config) -> &str {
        &config.flows.group
    }

    fn restore(&self, changes: Vec<Change>) -> Result<FlowTotals, RestoreError> {
        FlowTotals::restore(self.input_partitions, self.kept_micros, changes)
    }

    fn take(&mut self, record: &Record<'_>, totals: &mut FlowTotals, pending: &mut Pending) -> Result<&'static str, Failed> {
        let (partition, partial) = match PartialFlows::decode(record.value().unwrap_or_default()) {
            Ok(decoded) => decoded,
            Err(error) => {
                pending.dead_letter(record, &error.to_string());
                return Ok("dead_lettered");
            }
        };
        let mut flows = Vec::new();
        let outcome = totals.on_partial(partition, &partial, &mut flows);
        flows.iter().for_each(|flow| pending.publish(flow));
        Ok(match outcome {
            PartialOutcome::Used => "used",
            PartialOutcome::Repeated => "repeated",
            PartialOutcome::TooOld => {
                warn!(partition, offset = partial.offset, feed = %partial.feed, "flows of minutes that are not kept any more");
                "too_old"
            }
        })
    }

    /// What follows from a partial sum leaves with it.
    fn finish(_: &mut FlowTotals, _: &mut Pending) {}

    fn take_changes(totals: &mut FlowTotals) -> Vec<Change> {
        totals.take_changes()
    }

    fn outcomes(metrics: &ProcessorMetrics) -> &IntCounterVec {
        &metrics.flow_partials
    }
}
