//! The judge: bars recomputed in one batch from a list of trades, sharing no code with the engine.
//!
//! Slow, obvious, and right: sort, group, sum. It knows the rules of values only; quality and revision are judged by hand-written expectations.
//! `flows.rs` does the same for turnover by aggressor, `traded.rs` for bars that what was traded ends.

mod flows;
mod traded;

pub use flows::{ExpectedFlow, FlowKey, flow_differences, recompute_flows};
pub use traded::recompute_traded;

use marketflow_model::{Bar, BarSource, Calendar, Condition, Instrument, Interval, Quality, Timestamp, Trade, Venue};
use std::collections::{BTreeMap, BTreeSet};

/// The value columns of one bar, as integers: prices and quantities times 10^8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedBar {
    /// First price.
    pub open: i64,
    /// Highest price.
    pub high: i64,
    /// Lowest price.
    pub low: i64,
    /// Last price.
    pub close: i64,
    /// Σ size.
    pub volume: i128,
    /// Σ price × size, rounded half-even to 8 decimals.
    pub turnover: i128,
    /// Turnover ÷ volume, rounded half-even to 8 decimals.
    pub vwap: Option<i64>,
    /// Number of trades.
    pub trade_count: i64,
    /// Volume whose aggressor bought.
    pub buy_volume: i128,
    /// Volume whose aggressor sold.
    pub sell_volume: i128,
}

/// A bar's identity: instrument, interval in minutes, open time.
pub type BarKey = (Instrument, u16, Timestamp);

/// Recomputes every bar of the given trades. Repeats of (instrument, trade id) count once, and so do repeats of (instrument, import row);
/// trades with a reported size of zero count nowhere; a trade that was taken back counts nowhere, and of a corrected one the last correction
/// counts. The list's order stands for arrival.
///
/// # Panics
/// Never: an average of prices is a price.
pub fn recompute(trades: &[Trade], intervals: &[Interval]) -> BTreeMap<BarKey, ExpectedBar> {
    recompute_by(trades, intervals, |venue| Calendar::of_venue(venue))
}

/// The same where venues trade by other calendars than their files'.
///
/// # Panics
/// Never, as [`recompute`].
pub fn recompute_by<'c>(
    trades: &[Trade],
    intervals: &[Interval],
    calendar_of: impl Fn(&str) -> &'c Calendar,
) -> BTreeMap<BarKey, ExpectedBar> {
    let kept = by_minute(trades, &calendar_of);
    let mut bars: BTreeMap<BarKey, (ExpectedBar, i128)> = BTreeMap::new();
    for ((instrument, minute), mut trades) in kept {
        trades.sort_by(|(a_arrival, a), (b_arrival, b)| match (a.sequence, b.sequence) {
            (Some(x), Some(y)) if x != y => x.cmp(&y),
            _ => (a.event_time, a_arrival).cmp(&(b.event_time, b_arrival)),
        });
        let session_from = calendar_of(instrument.venue()).stretch_of(Timestamp::from_micros(minute * 60_000_000)).from;
        for interval in intervals {
            let length = i64::from(interval.minutes());
            let open_time = Timestamp::from_micros(minute.div_euclid(length) * length * 60_000_000).max(session_from);
            for (_, trade) in &trades {
                let price = trade.price.scaled();
                let size = trade.size.map_or(0, |s| s.scaled());
                let fresh = ExpectedBar {
                    open: price,
                    high: price,
                    low: price,
                    close: price,
                    volume: 0,
                    turnover: 0,
                    vwap: None,
                    trade_count: 0,
                    buy_volume: 0,
                    sell_volume: 0,
                };
                let (bar, exact) = bars.entry((instrument.clone(), interval.minutes(), open_time)).or_insert((fresh, 0));
                bar.high = bar.high.max(price);
                bar.low = bar.low.min(price);
                bar.close = price;
                bar.volume += size;
                bar.trade_count += 1;
                match trade.side {
                    marketflow_model::Side::Buy => bar.buy_volume += size,
                    marketflow_model::Side::Sell => bar.sell_volume += size,
                    marketflow_model::Side::Unknown => {}
                }
                *exact += i128::from(price) * size;
            }
        }
    }
    bars.into_iter()
        .map(|(key, (mut bar, exact))| {
            bar.turnover = half_even(exact, 100_000_000);
            bar.vwap = (bar.volume > 0)
                .then(|| i64::try_from(half_even(exact, bar.volume)).expect("an average lies between low and high"));
            (key, bar)
        })
        .collect()
}

/// Trades that count, with their place in the list, by instrument and minute.
fn by_minute<'t, 'c>(
    trades: &'t [Trade],
    calendar_of: impl Fn(&str) -> &'c Calendar,
) -> BTreeMap<(Instrument, i64), Vec<(usize, &'t Trade)>> {
    let named = |trade: &Trade| trade.trade_id.clone().map(|id| (trade.instrument.clone(), id));
    // a size of zero counts nowhere, and venues whose file does not say so have no cancels
    let is_believed = |trade: &Trade| {
        trade.size.is_none_or(|size| size.scaled() != 0)
            && (!trade.conditions.amends() || (trade.trade_id.is_some() && Venue::named(trade.instrument.venue()).has_cancels()))
    };
    let is = |trade: &Trade, condition| trade.conditions.contains(condition) && is_believed(trade);
    let cancelled: BTreeSet<_> = trades.iter().filter(|trade| is(trade, Condition::Cancel)).filter_map(named).collect();
    let corrections = trades.iter().enumerate().filter(|(_, trade)| is(trade, Condition::Correction));
    let corrected: BTreeMap<_, _> = corrections.filter_map(|(arrival, trade)| Some((named(trade)?, arrival))).collect();
    let mut seen_ids = BTreeSet::new();
    let mut seen_rows = BTreeSet::new();
    let mut kept: BTreeMap<(Instrument, i64), Vec<(usize, &'t Trade)>> = BTreeMap::new();
    for (arrival, trade) in trades.iter().enumerate() {
        if !is_believed(trade) {
            continue;
        }
        if let Some(name) = named(trade) {
            let replaced = corrected.get(&name).is_some_and(|last| *last != arrival);
            if replaced || cancelled.contains(&name) || !seen_ids.insert(name) {
                continue;
            }
        }
        if let Some(row) = trade.import_row
            && !seen_rows.insert((trade.instrument.clone(), row))
        {
            continue;
        }
        let minute = calendar_of(trade.instrument.venue()).minute_of(trade.event_time).micros().div_euclid(60_000_000);
        kept.entry((trade.instrument.clone(), minute)).or_default().push((arrival, trade));
    }
    kept
}

fn half_even(numerator: i128, denominator: i128) -> i128 {
    let (mut quotient, remainder) = (numerator / denominator, numerator % denominator);
    let twice = remainder.abs() * 2;
    if twice > denominator || (twice == denominator && quotient % 2 != 0) {
        quotient += numerator.signum();
    }
    quotient
}

/// Compares published bars (the last revision of each window counts, bars without trades do not) with the expectation; returns what differs, in words, at most `limit` lines.
pub fn differences<'a>(
    expected: &BTreeMap<BarKey, ExpectedBar>,
    published: impl IntoIterator<Item = &'a Bar>,
    limit: usize,
) -> Vec<String> {
    let mut last: BTreeMap<BarKey, &Bar> = BTreeMap::new();
    for bar in published {
        let Some(interval) = bar.interval.interval() else { continue };
        let key = (bar.instrument.clone(), interval.minutes(), bar.open_time);
        match last.get(&key) {
            Some(known) if known.revision > bar.revision => {}
            _ => {
                last.insert(key, bar);
            }
        }
    }
    // the last word on a window may be that it holds no trade, or none any more
    last.retain(|_, bar| bar.quality != Quality::NoTrades && bar.trade_count > 0);
    let mut lines = Vec::new();
    for (key, wanted) in expected {
        match last.get(key) {
            None => lines.push(format!("missing {} {}m {}", key.0, key.1, key.2)),
            Some(bar) if values(bar) != *wanted => {
                lines.push(format!("{} {}m {}: expected {wanted:?}, published {:?}", key.0, key.1, key.2, values(bar)));
            }
            Some(_) => {}
        }
    }
    for key in last.keys().filter(|key| !expected.contains_key(key)) {
        lines.push(format!("unexpected {} {}m {}", key.0, key.1, key.2));
    }
    lines.truncate(limit);
    lines
}

/// One bar for each window, where feeds of both sources published it: the last revision of each, then the better quality, then trades.
pub fn one_per_window(published: &[Bar]) -> Vec<&Bar> {
    let rank = |quality| match quality {
        Quality::Complete => 0,
        Quality::Backfilled => 1,
        Quality::Halted => 2,
        Quality::PartialOpen => 3,
        Quality::Gap => 4,
        Quality::NoTrades | Quality::Unknown => 5,
    };
    let mut last = BTreeMap::new();
    for bar in published {
        last.insert((&bar.instrument, bar.interval, bar.open_time, bar.source == BarSource::Candles, &bar.feed), bar);
    }
    let mut best: BTreeMap<_, &Bar> = BTreeMap::new();
    for ((instrument, interval, open, ..), bar) in last {
        let known = best.entry((instrument, interval, open)).or_insert(bar);
        if rank(bar.quality) < rank(known.quality) {
            *known = bar;
        }
    }
    best.into_values().collect()
}

/// The value columns of a published bar.
pub fn values(bar: &Bar) -> ExpectedBar {
    ExpectedBar {
        open: bar.open.scaled(),
        high: bar.high.scaled(),
        low: bar.low.scaled(),
        close: bar.close.scaled(),
        volume: bar.volume.scaled(),
        turnover: bar.turnover.scaled(),
        vwap: bar.vwap.map(marketflow_model::Price::scaled),
        trade_count: bar.trade_count,
        buy_volume: bar.buy_volume.scaled(),
        sell_volume: bar.sell_volume.scaled(),
    }
}
