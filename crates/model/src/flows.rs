//! Observations of a series, reported fund flows, and flow aggregates. First written by the fund-flow work; the contract is settled here.

use crate::{Amount, Instrument, SeriesValue, Timestamp};
use serde::{Deserialize, Serialize};

/// One value of a series (close, volume, yield, rate, index) for a period, with its vintage. Key: `PROVIDER:SERIES`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Observation {
    /// Who publishes it.
    pub provider: String,
    /// What the provider calls the series.
    pub series: String,
    /// Start of the period (inclusive).
    pub period_start: Timestamp,
    /// End of the period (exclusive).
    pub period_end: Timestamp,
    /// The value; `None` = published as missing.
    pub value: Option<SeriesValue>,
    /// Unit in words (`percent a year`, `USD`, `index`).
    pub unit: String,
    /// When the provider published it, if said.
    pub published_at: Option<Timestamp>,
    /// Which revision of history it belongs to, as the provider names it.
    pub vintage: Option<String>,
    /// When it reached us.
    pub receive_time: Timestamp,
}

/// Who traded (외국인, 기관, 개인 …).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default, Hash, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum InvestorClass {
    /// Not said, or newer than this reader.
    #[default]
    Unknown,
    /// 외국인.
    Foreign,
    /// 기관.
    Institution,
    /// 개인.
    Individual,
    /// 기타법인.
    OtherCorporation,
    /// All of them.
    Total,
}

/// A reported flow: net buying by investor class or a fund statistic. + = into the instrument.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FundFlow {
    /// What was bought.
    pub instrument: Instrument,
    /// Who told us.
    pub provider: String,
    /// Who bought.
    pub investor_class: InvestorClass,
    /// Start of the period (inclusive).
    pub period_start: Timestamp,
    /// End of the period (exclusive).
    pub period_end: Timestamp,
    /// Net amount in `currency`; + = net buying.
    pub net_amount: Option<Amount>,
    /// Net units (shares); + = net buying.
    pub net_quantity: Option<crate::Quantity>,
    /// ISO 4217.
    pub currency: String,
    /// Which revision of history it belongs to.
    pub vintage: Option<String>,
    /// When it reached us.
    pub receive_time: Timestamp,
}

/// Flow of a market, class or instrument over a window, with the method that made the number.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowAggregate {
    /// What is aggregated: `instrument`, `venue`, `asset_class`, `market`, `investor_class`, `global`.
    pub scope: String,
    /// Which one of them.
    pub name: String,
    /// Start of the window (inclusive).
    pub open_time: Timestamp,
    /// End of the window (exclusive).
    pub close_time: Timestamp,
    /// `REPORTED`, `SIGNED_TURNOVER`, `VALUE_CHANGE`, `AGGRESSOR_TURNOVER` (docs/methodology).
    pub method: String,
    /// Amounts flowing in, in `currency`, ≥ 0.
    pub inflow: Amount,
    /// Amounts flowing out, in `currency`, ≥ 0.
    pub outflow: Amount,
    /// inflow − outflow.
    pub net: Amount,
    /// ISO 4217 or a coin's ticker; empty where it is not known. Amounts of different currencies are never added.
    pub currency: String,
    /// Number of inputs.
    pub input_count: i64,
    /// An input is older than its source's cadence allows, or has a hole.
    pub stale: bool,
    /// 0 for the first emission, +1 per correction.
    pub revision: i32,
}
