//! Topics: names, partition counts, clean-up and value schemas, from the embedded `schemas/topics.toml`.

use crate::Schema;
use serde::Deserialize;

/// Trades and controls; key: instrument.
pub const TRADES: &str = "market.trades.v1";
/// Best bid and ask; key: instrument.
pub const QUOTES: &str = "market.quotes.v1";
/// Candles as the provider sent them, and controls; key: instrument.
pub const CANDLES: &str = "market.candles.v1";
/// Values of series; key: `PROVIDER:SERIES`.
pub const OBSERVATIONS: &str = "market.observations.v1";
/// Reported flows; key: instrument.
pub const FUND_FLOWS: &str = "market.fund-flows.v1";
/// Instruments, their flags and halts; key: instrument.
pub const REFERENCE: &str = "market.reference.v1";
/// A copy of controls for people and tables.
pub const FEED_STATUS: &str = "market.feed-status.v1";
/// Final bars and their revisions; key: instrument.
pub const BARS: &str = "market.bars.v1";
/// Unfinished bars for screens; key: instrument.
pub const BARS_LIVE: &str = "market.bars-live.v1";
/// Flow aggregates; key: scope/name.
pub const FLOW_AGGREGATES: &str = "market.flow-aggregates.v1";
/// Records later than the allowed lateness; key: origin.
pub const LATE: &str = "market.late.v1";
/// Records not believable; key: origin.
pub const QUARANTINE: &str = "market.quarantine.v1";
/// Records not usable; key: origin.
pub const DEAD_LETTERS: &str = "market.dead-letters.v1";
/// The processor's state.
pub const CHANGELOG: &str = "marketflow.processor.changelog.v1";
/// What each input partition adds to flows across instruments; key: input partition.
pub const FLOW_PARTIALS: &str = "marketflow.processor.flow-partials.v1";
/// The state of the stage that sums them.
pub const FLOW_CHANGELOG: &str = "marketflow.processor.flow-changelog.v1";
/// The state of the stage that derives flows of markets.
pub const MARKET_FLOW_CHANGELOG: &str = "marketflow.processor.market-flow-changelog.v1";

/// One topic as `schemas/topics.toml` describes it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TopicSpec {
    /// Name.
    pub name: String,
    /// What the record key is, in words.
    pub key: String,
    /// Partition count a local stack creates.
    pub partitions: i32,
    /// `delete` or `compact`.
    pub cleanup_policy: String,
    /// Retention from ingestion in milliseconds; −1 keeps everything.
    pub retention_ms: i64,
    /// Value schemas; the first is the topic's main one.
    pub values: Vec<Schema>,
    /// Who writes it.
    pub writers: Vec<String>,
    /// Who reads it.
    pub readers: Vec<String>,
}

impl TopicSpec {
    /// The registry subject of one of the topic's schemas: `<topic>-value` for the main one, `<topic>-<full record name>` for the others.
    pub fn subject(&self, schema: Schema) -> String {
        subject(&self.name, schema, self.values.first() == Some(&schema))
    }
}

fn subject(topic: &str, schema: Schema, main: bool) -> String {
    if main { format!("{topic}-value") } else { format!("{topic}-marketflow.{}", schema.record_name()) }
}

/// Every topic, in file order.
///
/// # Panics
/// Never: a unit test parses the embedded file.
pub fn all() -> Vec<TopicSpec> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        topic: Vec<TopicSpec>,
    }
    let file: File = toml::from_str(include_str!("../../../schemas/topics.toml")).expect("schemas/topics.toml is tested");
    file.topic
}

/// The key of an envelope: where the record it holds stood.
pub fn origin_key(topic: &str, partition: i32, offset: i64) -> String {
    format!("{topic}/{partition}/{offset}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_constant_is_in_the_file_and_the_reverse() {
        let constants = [
            TRADES,
            QUOTES,
            CANDLES,
            OBSERVATIONS,
            FUND_FLOWS,
            REFERENCE,
            FEED_STATUS,
            BARS,
            BARS_LIVE,
            FLOW_AGGREGATES,
            LATE,
            QUARANTINE,
            DEAD_LETTERS,
            CHANGELOG,
            FLOW_PARTIALS,
            FLOW_CHANGELOG,
            MARKET_FLOW_CHANGELOG,
        ];
        let names: Vec<String> = all().into_iter().map(|t| t.name).collect();
        assert_eq!(names.len(), constants.len());
        for name in constants {
            assert!(names.iter().any(|n| n == name), "{name}");
        }
    }

    #[test]
    fn trades_and_candles_are_co_partitioned_with_the_changelog() {
        let partitions = |name: &str| all().into_iter().find(|t| t.name == name).unwrap().partitions;
        assert_eq!(partitions(TRADES), partitions(CANDLES));
        assert_eq!(partitions(TRADES), partitions(CHANGELOG));
    }

    #[test]
    fn controls_have_a_subject_of_their_own() {
        let trades = all().into_iter().find(|t| t.name == TRADES).unwrap();
        assert_eq!(trades.subject(Schema::Trade), "market.trades.v1-value");
        assert_eq!(trades.subject(Schema::Control), "market.trades.v1-marketflow.Control");
    }
}
