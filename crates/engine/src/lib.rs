//! The stream processor's state machine: trades, candles and controls in, final bars and revisions out.
//!
//! One [`Partition`] holds everything known about one input partition. Same input, same output, byte for byte: it knows neither Kafka nor
//! time; every decision comes from a record of the log. Feeds never mix: windows are kept per (source, feed, instrument).
//!
//! Files in reading order: `partition.rs` (routing, watermarks, gaps), `builder.rs` (windows of one instrument), `minute.rs` (one minute's
//! fold), `ids.rs` (de-duplication), `feed.rs` (what is known of a feed), `changelog.rs` (state as key-value changes), `flows.rs` and
//! `flow_totals.rs` (turnover by aggressor, summed across instruments in two stages), `market_settings.rs`,
//! `market_flows.rs` and `between_markets.rs` (flows of markets, from series and reports), `forecast.rs` (their months to come), `traded.rs` (bars that what was traded ends), `tally.rs`
//! (what became of every record), `repartition.rs` (state moved when partitions are added).
//! Windows end with the session of the venue's calendar (`marketflow_model::Calendar`), which a control may change.
//! A cancel or correction folds its minute again from the trades kept one by one (`kept.rs`), where the venue's file says that it has them.
//!
//! Next: `schemas/avro/bar.v1.avsc`, then `services/sink/src/tables/bar.rs`.

mod between_markets;
mod builder;
mod changelog;
mod feed;
mod flow_totals;
mod flows;
mod forecast;
mod ids;
mod kept;
mod market_flows;
mod market_settings;
mod minute;
mod partition;
mod repartition;
mod tally;
mod traded;

pub use between_markets::{
    LeadLag, MAX_LAG_MONTHS, MonthFlow, MonthlyFlows, Ratios, Rotation, TRAILING_AT_LEAST, TRAILING_MONTHS,
};
pub use changelog::{Change, NOTE, RestoreError};
pub use flow_totals::{FlowTotals, PartialOutcome};
pub use flows::{FlowGroup, FlowScope, FlowSum, METHOD, PartialFlows};
pub use forecast::{Ahead, Forecast, MONTHS_AT_LEAST, Tested, forecast};
pub use market_flows::{FlowOutcome, MarketFlows};
pub use market_settings::{MarketSettings, MarketSize, Method, Rate, ReportedSeries, ReportedVenue, SignedTurnover, ValueChange};
pub use partition::{Config, Heard, Outcome, Partition, SourceChoice};
pub use repartition::repartition;
pub use tally::{Tally, Verdict};
