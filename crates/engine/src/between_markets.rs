//! Flows of markets beside each other: how unusual a month is, who follows whom, and from where to where money went.
//!
//! Everything here is computed from published months and nothing is kept: a revision of one month never revises another one's record. Money
//! stays exact; ratios and correlations are `f64`, entered by [`units`] alone.
//!
//! Formulas: `docs/methodology/fund-flows.md`. Next: `schemas/clickhouse/017_flow_monthly.sql`, the same in SQL.

use marketflow_model::{Amount, FlowAggregate, Month};
use num_bigint::BigInt;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};
use std::collections::{BTreeMap, BTreeSet};

/// Months before a month against which it is held.
pub const TRAILING_MONTHS: i32 = 36;
/// Of those, how many have to be known.
pub const TRAILING_AT_LEAST: usize = 24;
/// Months by which one market may lead another.
pub const MAX_LAG_MONTHS: i32 = 6;

/// A month of a market.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MonthFlow {
    /// ≥ 0.
    pub inflow: Amount,
    /// ≥ 0.
    pub outflow: Amount,
    /// An input is stale or absent.
    pub stale: bool,
}

impl MonthFlow {
    /// inflow − outflow, times 10^8.
    fn net(&self) -> i128 {
        self.inflow.scaled() - self.outflow.scaled()
    }

    /// inflow + outflow, times 10^8.
    fn gross(&self) -> i128 {
        self.inflow.scaled() + self.outflow.scaled()
    }
}

/// What a month is beside others.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Ratios {
    /// Net flow ÷ gross flow (inflow + outflow) of all markets in the month, −1 to 1; `None` where nothing flowed.
    pub share: Option<f64>,
    /// (net − mean) ÷ standard deviation (n − 1) of the net flows of the 36 months before; `None` where fewer than 24 are known, or all are equal.
    pub z_score: Option<f64>,
}

/// How one market's net flow goes with another's some months later.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LeadLag {
    /// The one whose months are earlier.
    pub leader: String,
    /// The one whose months are later by `lag_months`.
    pub follower: String,
    /// 0–6.
    pub lag_months: i32,
    /// Pairs of months.
    pub n: usize,
    /// Pearson's correlation, −1 to 1.
    pub correlation: f64,
    /// Least squares: units into the follower for one unit into the leader.
    pub slope: f64,
    /// Two-sided, of no correlation, by Student's t with n − 2 degrees of freedom. Of one pair and lag: nothing is corrected for looking at many.
    pub p_value: f64,
}

/// Money that left one market and is matched to what entered another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rotation {
    /// Left.
    pub from: String,
    /// Entered.
    pub to: String,
    /// > 0.
    pub amount: Amount,
    /// One of the two is stale.
    pub stale: bool,
}

/// The months of some markets, in one currency.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MonthlyFlows(BTreeMap<String, BTreeMap<Month, MonthFlow>>);

impl MonthlyFlows {
    /// The last revision of each month of this scope, method and currency.
    pub fn of<'a>(published: impl IntoIterator<Item = &'a FlowAggregate>, scope: &str, method: &str, currency: &str) -> Self {
        let mut last: BTreeMap<(&str, Month), &FlowAggregate> = BTreeMap::new();
        for flow in published.into_iter().filter(|flow| flow.scope == scope && flow.method == method && flow.currency == currency)
        {
            let month =
                Month::of(flow.open_time).filter(|month| month.start() == flow.open_time && month.end() == flow.close_time);
            let Some(month) = month else { continue };
            let known = last.entry((&flow.name, month)).or_insert(flow);
            if flow.revision >= known.revision {
                *known = flow;
            }
        }
        let mut flows = Self::default();
        for ((name, month), flow) in last {
            let of_month = MonthFlow { inflow: flow.inflow, outflow: flow.outflow, stale: flow.stale };
            flows.0.entry(name.to_owned()).or_default().insert(month, of_month);
        }
        flows
    }

    /// By market and month.
    pub fn ratios(&self) -> BTreeMap<(String, Month), Ratios> {
        let mut gross: BTreeMap<Month, i128> = BTreeMap::new();
        for (month, flow) in self.0.values().flatten() {
            *gross.entry(*month).or_default() += flow.gross();
        }
        let mut ratios = BTreeMap::new();
        for (name, months) in &self.0 {
            for (month, flow) in months {
                let all = gross[month];
                let share = (all != 0).then(|| units(flow.net()) / units(all));
                let before = months.range(month.plus(-TRAILING_MONTHS)..*month).map(|(_, flow)| units(flow.net()));
                let z_score = z_score(units(flow.net()), &before.collect::<Vec<f64>>());
                ratios.insert((name.clone(), *month), Ratios { share, z_score });
            }
        }
        ratios
    }

    /// Every pair of markets at every lag of 0 to 6 months at which both have three months and neither stands still. At lag 0 a pair is there once.
    pub fn lead_lags(&self) -> Vec<LeadLag> {
        let mut found = Vec::new();
        for leader in self.0.keys() {
            for follower in self.0.keys().filter(|name| *name != leader) {
                let first_lag = if leader < follower { 0 } else { 1 };
                found.extend((first_lag..=MAX_LAG_MONTHS).filter_map(|lag| self.lead_lag(leader, follower, lag)));
            }
        }
        found
    }

    fn lead_lag(&self, leader: &str, follower: &str, lag_months: i32) -> Option<LeadLag> {
        let (leading, following) = (self.0.get(leader)?, self.0.get(follower)?);
        let pairs = leading.iter().filter_map(|(month, flow)| {
            let later = following.get(&month.plus(lag_months))?;
            Some((units(flow.net()), units(later.net())))
        });
        let pairs: Vec<(f64, f64)> = pairs.collect();
        let (correlation, slope) = pearson(&pairs)?;
        Some(LeadLag {
            leader: leader.to_owned(),
            follower: follower.to_owned(),
            lag_months,
            n: pairs.len(),
            correlation,
            slope,
            p_value: p_value(correlation, pairs.len())?,
        })
    }

    /// Net outflows of a month matched to its net inflows in proportion: amount(from, to) = outflow(from) × inflow(to) ÷ the larger of both
    /// totals, rounded down, so that no more is matched than flowed. What is left over came from or went outside of what is measured.
    pub fn rotation(&self, month: Month) -> Vec<Rotation> {
        let of_month = || self.0.iter().filter_map(|(name, months)| Some((name, months.get(&month)?)));
        let gave = || of_month().filter(|(_, flow)| flow.net() < 0);
        let took = || of_month().filter(|(_, flow)| flow.net() > 0);
        let total_gave: i128 = gave().map(|(_, flow)| -flow.net()).sum();
        let total_took: i128 = took().map(|(_, flow)| flow.net()).sum();
        let larger = BigInt::from(total_gave.max(total_took));
        let mut rotations = Vec::new();
        for (from, giver) in gave() {
            for (to, taker) in took() {
                let amount =
                    i128::try_from(BigInt::from(-giver.net()) * taker.net() / &larger).ok().and_then(Amount::from_scaled);
                if let Some(amount) = amount.filter(|amount| *amount > Amount::ZERO) {
                    rotations.push(Rotation { from: from.clone(), to: to.clone(), amount, stale: giver.stale || taker.stale });
                }
            }
        }
        rotations
    }

    /// Every month that any market has.
    pub fn months(&self) -> BTreeSet<Month> {
        self.0.values().flat_map(BTreeMap::keys).copied().collect()
    }
}

/// An amount times 10^8 as `f64`, in units of currency: the one way from money to ratios. Relative error ≤ 2^-52.
fn units(scaled: i128) -> f64 {
    scaled as f64 / 1e8
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

fn z_score(value: f64, before: &[f64]) -> Option<f64> {
    if before.len() < TRAILING_AT_LEAST {
        return None;
    }
    let mean = mean(before.iter().copied());
    let squares: f64 = before.iter().map(|known| (known - mean).powi(2)).sum();
    let deviation = (squares / (before.len() - 1) as f64).sqrt();
    // equal values differ by rounding alone
    (deviation > 1e-12 * mean.abs()).then(|| (value - mean) / deviation)
}

/// Pearson's correlation and the least-squares slope of the second on the first; `None` below three pairs or where one stands still.
fn pearson(pairs: &[(f64, f64)]) -> Option<(f64, f64)> {
    if pairs.len() < 3 {
        return None;
    }
    let (mean_x, mean_y) = (mean(pairs.iter().map(|pair| pair.0)), mean(pairs.iter().map(|pair| pair.1)));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        let (x, y) = (x - mean_x, y - mean_y);
        (xx, yy, xy) = (xx + x * x, yy + y * y, xy + x * y);
    }
    let stands_still = |squares: f64, mean: f64| squares <= (1e-12 * mean).powi(2) * pairs.len() as f64;
    if stands_still(xx, mean_x) || stands_still(yy, mean_y) {
        return None;
    }
    Some(((xy / (xx.sqrt() * yy.sqrt())).clamp(-1.0, 1.0), xy / xx))
}

fn p_value(correlation: f64, n: usize) -> Option<f64> {
    let freedom = (n - 2) as f64;
    let rest = 1.0 - correlation * correlation;
    if rest <= 0.0 {
        return Some(0.0);
    }
    let t = correlation.abs() * (freedom / rest).sqrt();
    let students = StudentsT::new(0.0, 1.0, freedom).ok()?;
    Some(2.0 * students.sf(t))
}
