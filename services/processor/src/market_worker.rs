//! Flows of markets: observations and reported flows in, one thread that keeps the last word on each period, and aggregates out, exactly once
//! (`stage_worker.rs`). What the records of one transaction change is published together: one revision for each aggregate, however many of its
//! inputs came.
//!
//! Next: `crates/engine/src/market_flows.rs`.

use crate::assignment::Stage;
use crate::config::Config;
use crate::metrics::ProcessorMetrics;
use crate::outputs::OutputSchemas;
use crate::processor::Failed;
use crate::stage_worker::{self, Aggregation, Pending};
use crate::state::CONSUMER;
use marketflow_contract::{AvroRecord, Schema, topics};
use marketflow_engine::{Change, FlowOutcome, MarketFlows, MarketSettings, RestoreError};
use marketflow_kafka::{DecodeError, Decoder, Record};
use marketflow_model::{FundFlow, Observation};
use marketflow_runtime::Stop;
use prometheus::IntCounterVec;

/// What it reads, and where its state is.
const MARKET_FLOWS: Stage = Stage {
    inputs: &[topics::OBSERVATIONS, topics::FUND_FLOWS],
    changelog: topics::MARKET_FLOW_CHANGELOG,
    origins: &[topics::OBSERVATIONS, topics::FUND_FLOWS],
};

/// Runs until the stop is requested.
///
/// # Errors
/// As the workers of bars.
pub(crate) async fn run(
    config: Config,
    settings: MarketSettings,
    decoder: Decoder,
    schemas: OutputSchemas,
    metrics: ProcessorMetrics,
    stop: Stop,
) -> anyhow::Result<()> {
    stage_worker::run(config, schemas, metrics, stop, move |_| Ok(Markets { settings, decoder })).await
}

struct Markets {
    settings: MarketSettings,
    decoder: Decoder,
}

impl Aggregation for Markets {
    const STAGE: Stage = MARKET_FLOWS;
    const NAME: &'static str = "market-flows";
    type State = MarketFlows;

    fn group(config: &Config) -> &str {
        &config.market_flows.group
    }

    fn restore(&self, changes: Vec<Change>) -> Result<MarketFlows, RestoreError> {
        MarketFlows::restore(self.settings.clone(), changes)
    }

    fn take(&mut self, record: &Record<'_>, flows: &mut MarketFlows, pending: &mut Pending) -> Result<&'static str, Failed> {
        if record.is_for_another(CONSUMER) {
            return Ok("not_selected");
        }
        match self.heard(record.value().unwrap_or_default(), flows) {
            Ok(FlowOutcome::Used) => Ok("used"),
            Ok(FlowOutcome::Known) => Ok("known"),
            Ok(FlowOutcome::NotSelected) => Ok("not_selected"),
            Err(error) if error.is_retriable() => Err(Failed::Abort(error.into())),
            Err(error) => {
                pending.dead_letter(record, &error.to_string());
                Ok("dead_lettered")
            }
        }
    }

    fn finish(flows: &mut MarketFlows, pending: &mut Pending) {
        let mut out = Vec::new();
        flows.publish(&mut out);
        out.iter().for_each(|flow| pending.publish(flow));
    }

    fn take_changes(flows: &mut MarketFlows) -> Vec<Change> {
        flows.take_changes()
    }

    fn outcomes(metrics: &ProcessorMetrics) -> &IntCounterVec {
        &metrics.market_flow_inputs
    }
}

impl Markets {
    fn heard(&mut self, value: &[u8], flows: &mut MarketFlows) -> Result<FlowOutcome, DecodeError> {
        let (schema, body) = self.decoder.body(value)?;
        if schema == Schema::FundFlow {
            return Ok(flows.on_fund_flow(&FundFlow::decode(&body)?));
        }
        if schema != Schema::Observation {
            return Err(DecodeError::OtherRecord { found: schema.record_name(), wanted: Schema::Observation.record_name() });
        }
        Ok(flows.on_observation(&Observation::decode(&body)?))
    }
}
