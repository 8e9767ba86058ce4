//! Turnover by aggressor, recomputed: every trade that counts is added to its instrument, venue, asset class and the globe, minute by minute.

use crate::{by_minute, half_even};
use marketflow_model::{Calendar, FlowAggregate, Side, Timestamp, Trade, Venue};
use std::collections::BTreeMap;

/// A flow's identity: scope, name, currency, start of the minute.
pub type FlowKey = (String, String, String, Timestamp);

/// The value columns of one flow, as integers times 10^8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ExpectedFlow {
    /// Σ price × size of buying aggressors, rounded half-even to 8 decimals.
    pub inflow: i128,
    /// Σ price × size of selling aggressors, rounded half-even to 8 decimals.
    pub outflow: i128,
    /// Instruments that traded in the minute.
    pub input_count: i64,
}

/// Recomputes the flows of every minute and scope of the given trades, which are those of one feed; what counts is as for bars.
pub fn recompute_flows(trades: &[Trade]) -> BTreeMap<FlowKey, ExpectedFlow> {
    let mut flows: BTreeMap<FlowKey, ExpectedFlow> = BTreeMap::new();
    for ((instrument, minute), trades) in by_minute(trades, |venue| Calendar::of_venue(venue)) {
        let venue = Venue::named(instrument.venue());
        let exact = |side| -> i128 {
            let of_side = trades.iter().filter(|(_, trade)| trade.side == side);
            of_side.map(|(_, trade)| i128::from(trade.price.scaled()) * trade.size.map_or(0, |s| s.scaled())).sum()
        };
        let (bought, sold) = (exact(Side::Buy), exact(Side::Sell));
        for (scope, name) in [
            ("instrument", instrument.as_str()),
            ("venue", instrument.venue()),
            ("asset_class", venue.asset_class()),
            ("global", "all"),
        ] {
            let start = Timestamp::from_micros(minute * 60_000_000);
            let key = (scope.to_owned(), name.to_owned(), venue.currency_of(&instrument).to_owned(), start);
            let flow = flows.entry(key).or_default();
            flow.inflow += bought;
            flow.outflow += sold;
            flow.input_count += 1;
        }
    }
    for flow in flows.values_mut() {
        (flow.inflow, flow.outflow) = (half_even(flow.inflow, 100_000_000), half_even(flow.outflow, 100_000_000));
    }
    flows
}

/// Compares published flows (the last revision of each minute counts) with the expectation; returns what differs, in words, at most `limit`
/// lines.
pub fn flow_differences<'a>(
    expected: &BTreeMap<FlowKey, ExpectedFlow>,
    published: impl IntoIterator<Item = &'a FlowAggregate>,
    limit: usize,
) -> Vec<String> {
    let mut last: BTreeMap<FlowKey, &FlowAggregate> = BTreeMap::new();
    for flow in published {
        let key = (flow.scope.clone(), flow.name.clone(), flow.currency.clone(), flow.open_time);
        if last.get(&key).is_none_or(|known| known.revision < flow.revision) {
            last.insert(key, flow);
        }
    }
    let mut lines = Vec::new();
    for (key, wanted) in expected {
        let Some(flow) = last.get(key) else {
            lines.push(format!("missing {key:?}"));
            continue;
        };
        let found = ExpectedFlow { inflow: flow.inflow.scaled(), outflow: flow.outflow.scaled(), input_count: flow.input_count };
        if found != *wanted || flow.net.scaled() != wanted.inflow - wanted.outflow {
            lines.push(format!("{key:?}: expected {wanted:?}, published {found:?} net {}", flow.net));
        }
        if flow.method != "AGGRESSOR_TURNOVER" || flow.close_time != flow.open_time.plus_micros(60_000_000) {
            lines.push(format!("{key:?}: published {flow:?}"));
        }
    }
    lines.extend(last.keys().filter(|key| !expected.contains_key(*key)).map(|key| format!("unexpected {key:?}")));
    lines.truncate(limit);
    lines
}
