//! What flows between markets are derived from: series, market sizes, durations and exchange rates, as a versioned file states them.
//!
//! Next: `market_flows.rs`.

use marketflow_model::{Amount, InvestorClass, Month, SeriesValue};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How a flow is derived (docs/methodology/fund-flows.md).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Method {
    /// As a venue or a fund statistic reports it.
    Reported,
    /// Price × volume, with the sign of the price's change.
    SignedTurnover,
    /// Return on a level, or a yield's change times duration, × a stated market size: an estimate.
    ValueChange,
    /// Over sources of different methods: each market by the one method that speaks for it.
    Combined,
}

impl Method {
    /// As [`marketflow_model::FlowAggregate::method`] spells it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Reported => "REPORTED",
            Self::SignedTurnover => "SIGNED_TURNOVER",
            Self::ValueChange => "VALUE_CHANGE",
            Self::Combined => "COMBINED",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The file: `schemas/market_flows.toml`, or one in its shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarketSettings {
    /// Rises with each change of a number in it.
    pub version: u32,
    /// ISO 4217: the currency in which markets are compared.
    pub base_currency: String,
    /// A rate whose period ended more than so many days before the flow's makes the flow stale.
    pub rate_stale_after_days: i64,
    /// By market: the method that speaks for it where markets are compared and summed.
    pub markets: BTreeMap<String, Method>,
    /// Where the rates of other currencies come from.
    #[serde(default)]
    pub rate: Vec<Rate>,
    /// Series that are flows themselves.
    #[serde(default)]
    pub reported: Vec<ReportedSeries>,
    /// Venues whose investors' net buying is reported.
    #[serde(default)]
    pub reported_venue: Vec<ReportedVenue>,
    /// Series with price and volume.
    #[serde(default)]
    pub signed_turnover: Vec<SignedTurnover>,
    /// Series with a level only.
    #[serde(default)]
    pub value_change: Vec<ValueChange>,
}

/// What one unit of a currency is worth in the base currency; a series or a stated number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// ISO 4217 or a coin's ticker.
    pub currency: String,
    /// `PROVIDER:SERIES`.
    pub series: Option<String>,
    /// The series says units of the currency for one of the base currency.
    #[serde(default)]
    pub inverse: bool,
    /// A rate that is taken as given, such as a stablecoin's peg.
    pub fixed: Option<SeriesValue>,
}

/// A series that is a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportedSeries {
    /// Its market.
    pub market: String,
    /// Its asset class.
    pub asset_class: String,
    /// Whose net buying it is, where it is one class's.
    pub investor_class: Option<InvestorClass>,
    /// Of the amounts.
    pub currency: String,
    /// `PROVIDER:SERIES`; + = into the market.
    pub value: String,
    /// Units of currency for 1 in the series.
    #[serde(default = "one")]
    pub factor: SeriesValue,
}

/// A venue for whose instruments `FundFlow` records come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportedVenue {
    /// Such as `KRX`.
    pub venue: String,
    /// Its market.
    pub market: String,
    /// Its asset class.
    pub asset_class: String,
}

/// A series with price and volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedTurnover {
    /// Its market.
    pub market: String,
    /// Its asset class.
    pub asset_class: String,
    /// Prices are in it.
    pub currency: String,
    /// `PROVIDER:SERIES` of the closing price: its change decides the sign.
    pub price: String,
    /// With `low`: the typical price is (high + low + close) ÷ 3, else the close.
    pub high: Option<String>,
    /// See `high`.
    pub low: Option<String>,
    /// `PROVIDER:SERIES` of the volume; either this or `turnover`.
    pub volume: Option<String>,
    /// `PROVIDER:SERIES` of the turnover, where the source publishes it.
    pub turnover: Option<String>,
    /// Units priced for 1 of volume (100 ounces for a gold contract), or units of currency for 1 of turnover.
    #[serde(default = "one")]
    pub factor: SeriesValue,
}

/// A series with a level only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueChange {
    /// Its market.
    pub market: String,
    /// Its asset class.
    pub asset_class: String,
    /// Of the sizes.
    pub currency: String,
    /// `PROVIDER:SERIES`.
    pub level: String,
    /// The return is taken on 1 ÷ level: the foreign currency's side of a rate that is said per unit of the base currency.
    #[serde(default)]
    pub inverse: bool,
    /// Modified duration in years: the level is a yield or spread in percent a year.
    pub duration: Option<SeriesValue>,
    /// Size of the market, oldest first; one holds from its month on, the first also before.
    pub size: Vec<MarketSize>,
}

/// How large a market was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarketSize {
    /// From this month on.
    pub from: Month,
    /// In the source's currency.
    pub amount: Amount,
    /// Who says so.
    pub source: String,
}

fn one() -> SeriesValue {
    SeriesValue::from_scaled(1_000_000_000_000).expect("1 is in range")
}

/// What a source's or record's flows belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) market: String,
    pub(crate) asset_class: String,
    pub(crate) investor_class: Option<InvestorClass>,
    pub(crate) currency: String,
    pub(crate) method: Method,
}

/// One configured source.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) member: Member,
    pub(crate) rule: Rule,
}

#[derive(Clone, Debug)]
pub(crate) enum Rule {
    Reported(ReportedSeries),
    SignedTurnover(SignedTurnover),
    ValueChange(ValueChange),
}

impl MarketSettings {
    /// Checks what spans keys.
    ///
    /// # Errors
    /// The first thing that cannot be, in words.
    pub fn validate(&self) -> Result<(), String> {
        if self.rate_stale_after_days < 0 {
            return Err("rate_stale_after_days is negative".to_owned());
        }
        if let Some((market, _)) = self.markets.iter().find(|(_, method)| **method == Method::Combined) {
            return Err(format!("markets.{market}: COMBINED is what is made of the others' methods"));
        }
        let mut rates = BTreeSet::from([self.base_currency.as_str()]);
        for rate in &self.rate {
            if rate.series.is_some() == rate.fixed.is_some() {
                return Err(format!("rate {}: name either series or fixed", rate.currency));
            }
            if rate.fixed.is_some_and(|fixed| fixed <= SeriesValue::ZERO) {
                return Err(format!("rate {}: fixed is not positive", rate.currency));
            }
            if !rates.insert(&rate.currency) {
                return Err(format!("rate {}: it is there twice, or the base currency", rate.currency));
            }
        }
        for Source { member, rule } in self.sources() {
            let what = format!("{} {}", member.method, rule.inputs().first().copied().unwrap_or_default());
            if !self.markets.contains_key(&member.market) {
                return Err(format!("{what}: market {:?} is none of markets", member.market));
            }
            if !rates.contains(member.currency.as_str()) {
                return Err(format!("{what}: no rate says what a {} is worth", member.currency));
            }
            rule.validate().map_err(|problem| format!("{what}: {problem}"))?;
        }
        let unknown = self.reported_venue.iter().find(|venue| !self.markets.contains_key(&venue.market));
        unknown
            .map_or(Ok(()), |venue| Err(format!("reported_venue {}: market {:?} is none of markets", venue.venue, venue.market)))
    }

    pub(crate) fn sources(&self) -> Vec<Source> {
        let member = |market: &String, asset_class: &String, currency: &String, investor_class, method| Member {
            market: market.clone(),
            asset_class: asset_class.clone(),
            investor_class,
            currency: currency.clone(),
            method,
        };
        let reported = self.reported.iter().map(|s| Source {
            member: member(&s.market, &s.asset_class, &s.currency, s.investor_class, Method::Reported),
            rule: Rule::Reported(s.clone()),
        });
        let turnover = self.signed_turnover.iter().map(|s| Source {
            member: member(&s.market, &s.asset_class, &s.currency, None, Method::SignedTurnover),
            rule: Rule::SignedTurnover(s.clone()),
        });
        let level = self.value_change.iter().map(|s| Source {
            member: member(&s.market, &s.asset_class, &s.currency, None, Method::ValueChange),
            rule: Rule::ValueChange(s.clone()),
        });
        reported.chain(turnover).chain(level).collect()
    }
}

impl Rule {
    /// The series it is computed from; the first names it.
    pub(crate) fn inputs(&self) -> Vec<&str> {
        match self {
            Self::Reported(s) => vec![&s.value],
            Self::SignedTurnover(s) => {
                let others = [&s.high, &s.low, &s.volume, &s.turnover];
                [s.price.as_str()].into_iter().chain(others.into_iter().filter_map(|name| name.as_deref())).collect()
            }
            Self::ValueChange(s) => vec![&s.level],
        }
    }

    fn validate(&self) -> Result<(), &'static str> {
        match self {
            Self::SignedTurnover(s) if s.volume.is_some() == s.turnover.is_some() => Err("name either volume or turnover"),
            Self::SignedTurnover(s) if s.high.is_some() != s.low.is_some() => Err("high and low come together"),
            Self::ValueChange(s) if s.size.is_empty() => Err("no size of the market is stated"),
            Self::ValueChange(s) if s.size.windows(2).any(|w| w[0].from >= w[1].from) => Err("sizes are not in order of months"),
            Self::ValueChange(s) if s.inverse && s.duration.is_some() => Err("a yield is not inverse"),
            Self::Reported(_) | Self::SignedTurnover(_) | Self::ValueChange(_) => Ok(()),
        }
    }
}
