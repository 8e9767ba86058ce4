//! Bars that what was traded ends, recomputed: trades are dealt out in the order of their list until a bar is full.

use crate::{ExpectedBar, half_even};
use marketflow_model::{BarKind, Calendar, Instrument, Side, Timestamp, Trade};
use std::collections::{BTreeMap, BTreeSet};

/// Recomputes the full bars of a kind, in the order in which they fill up within each instrument; what counts is as for bars of time. A bar ends
/// early where the next trade belongs to a later session.
///
/// # Panics
/// Never: an average of prices is a price.
pub fn recompute_traded(trades: &[Trade], kind: BarKind) -> BTreeMap<Instrument, Vec<ExpectedBar>> {
    let mut seen_ids = BTreeSet::new();
    let mut seen_rows = BTreeSet::new();
    let mut open: BTreeMap<Instrument, (Timestamp, Vec<&Trade>)> = BTreeMap::new();
    let mut full: BTreeMap<Instrument, Vec<ExpectedBar>> = BTreeMap::new();
    for trade in trades.iter().filter(|trade| trade.size.is_none_or(|size| size.scaled() != 0)) {
        let repeats_id = trade.trade_id.as_ref().is_some_and(|id| !seen_ids.insert((trade.instrument.clone(), id.clone())));
        let repeats_row = trade.import_row.is_some_and(|row| !seen_rows.insert((trade.instrument.clone(), row)));
        if repeats_id || repeats_row {
            continue;
        }
        let calendar = Calendar::of_venue(trade.instrument.venue());
        let session = calendar.stretch_of(calendar.minute_of(trade.event_time)).from;
        let (of_session, held) = open.entry(trade.instrument.clone()).or_insert((session, Vec::new()));
        let bars = full.entry(trade.instrument.clone()).or_default();
        if session > *of_session {
            *of_session = session;
            if !held.is_empty() {
                bars.push(summed(&std::mem::take(held)));
            }
        }
        held.push(trade);
        let sum = summed(held);
        let is_full = match kind {
            BarKind::Time(_) => false,
            BarKind::Ticks(count) => sum.trade_count >= i64::from(count),
            BarKind::Volume(volume) => sum.volume >= volume.scaled(),
            BarKind::Turnover(amount) => exact_turnover(held) >= amount.scaled() * 100_000_000,
        };
        if is_full {
            bars.push(summed(&std::mem::take(held)));
        }
    }
    full
}

fn size(trade: &Trade) -> i128 {
    trade.size.map_or(0, |size| size.scaled())
}

fn exact_turnover(trades: &[&Trade]) -> i128 {
    trades.iter().map(|trade| i128::from(trade.price.scaled()) * size(trade)).sum()
}

fn summed(trades: &[&Trade]) -> ExpectedBar {
    let prices: Vec<i64> = trades.iter().map(|trade| trade.price.scaled()).collect();
    let volume_of = |side: Option<Side>| -> i128 {
        trades.iter().filter(|trade| side.is_none_or(|side| trade.side == side)).map(|trade| size(trade)).sum()
    };
    let (volume, turnover) = (volume_of(None), exact_turnover(trades));
    ExpectedBar {
        open: prices.first().copied().unwrap_or_default(),
        high: prices.iter().max().copied().unwrap_or_default(),
        low: prices.iter().min().copied().unwrap_or_default(),
        close: prices.last().copied().unwrap_or_default(),
        volume,
        turnover: half_even(turnover, 100_000_000),
        vwap: (volume > 0).then(|| i64::try_from(half_even(turnover, volume)).expect("an average lies between low and high")),
        trade_count: i64::try_from(trades.len()).unwrap_or(i64::MAX),
        buy_volume: volume_of(Some(Side::Buy)),
        sell_volume: volume_of(Some(Side::Sell)),
    }
}
