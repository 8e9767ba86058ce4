//! Flows of markets, derived from what was observed and reported: by day and month, per market, asset class and investor class, and over all.
//!
//! Values are kept by (series, period): of several vintages the newest counts, whatever order they come in, so the same records give the same
//! sums. There is no watermark and nothing is late; a value that changes what was published brings a revision of exactly those windows. Money
//! is exact: each flow is a fraction of integers, rounded once in its own currency and once in the base currency, and only then added.
//!
//! Formulas and units: `docs/methodology/fund-flows.md`. Next: `between_markets.rs`, where markets are compared.

use crate::changelog::{Change, RestoreError, encode, live};
use crate::market_settings::{MarketSettings, Member, Method, Rate, Rule, SignedTurnover, Source, ValueChange};
use marketflow_model::{Amount, FlowAggregate, FundFlow, InvestorClass, Month, Observation, Quantity, SeriesValue, Timestamp};
use num_bigint::BigInt;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of keys and values; another one is refused.
const VERSION: u8 = 1;

const HOUR_MICROS: i64 = 3_600_000_000;
const DAY_MICROS: i64 = 24 * HOUR_MICROS;

/// Days between two values of a daily series beyond which the change between them spans a hole.
const DAYS_WITHOUT_HOLE: i64 = 10;

/// A flow of 10^20 units of currency or more is left out, and its rows say that they are not complete: so 10^9 of them sum without overflow.
const FLOW_LIMIT: i128 = 10_i128.pow(28);

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowOutcome {
    /// It is the last word on its period now.
    Used,
    /// It says what was known, or a newer vintage is known already.
    Known,
    /// Its period is neither a day nor a month.
    NotSelected,
}

/// A day or a month.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
enum Window {
    /// Days since 1970-01-01.
    Day(i64),
    Month(Month),
}

impl Window {
    /// Of a period: the UTC date or month that holds its middle, so a day in Seoul is the day of that date.
    fn of(start: Timestamp, end: Timestamp) -> Option<Self> {
        let length = end.micros_since(start);
        let middle = start.plus_micros(length / 2);
        match length {
            length if (20 * HOUR_MICROS..=28 * HOUR_MICROS).contains(&length) => {
                Some(Self::Day(middle.micros().div_euclid(DAY_MICROS)))
            }
            length if (27 * DAY_MICROS..=32 * DAY_MICROS).contains(&length) => Month::of(middle).map(Self::Month),
            _ => None,
        }
    }

    fn open_time(self) -> Timestamp {
        match self {
            Self::Day(day) => Timestamp::from_micros(day.saturating_mul(DAY_MICROS)),
            Self::Month(month) => month.start(),
        }
    }

    fn close_time(self) -> Timestamp {
        match self {
            Self::Day(_) => self.open_time().plus_micros(DAY_MICROS),
            Self::Month(month) => month.end(),
        }
    }

    /// Whether values of these windows have no other between them.
    fn follows(self, earlier: Self) -> bool {
        match (earlier, self) {
            (Self::Day(earlier), Self::Day(day)) => day - earlier <= DAYS_WITHOUT_HOLE,
            (Self::Month(earlier), Self::Month(month)) => month.months_since(earlier) == 1,
            (Self::Day(_), Self::Month(_)) | (Self::Month(_), Self::Day(_)) => false,
        }
    }
}

/// Start and end.
type Period = (Timestamp, Timestamp);

/// A value and which word on its period it is: the greatest counts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
struct Said {
    vintage: Option<String>,
    published_at: Option<Timestamp>,
    receive_time: Timestamp,
    value: Option<SeriesValue>,
}

/// Whose reported flow, and of what.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
struct FundKey {
    start: Timestamp,
    end: Timestamp,
    instrument: String,
    provider: String,
    class: InvestorClass,
}

/// A reported flow; of several words on it the greatest counts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
struct FundSaid {
    vintage: Option<String>,
    receive_time: Timestamp,
    amount: Option<Amount>,
    quantity: Option<Quantity>,
    currency: String,
}

/// What is aggregated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
enum Scope {
    AssetClass,
    Global,
    InvestorClass,
    Market,
}

impl Scope {
    const fn text(self) -> &'static str {
        match self {
            Self::AssetClass => "asset_class",
            Self::Global => "global",
            Self::InvestorClass => "investor_class",
            Self::Market => "market",
        }
    }
}

/// Identity of an aggregate.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
struct RowKey {
    window: Window,
    scope: Scope,
    name: String,
    method: Method,
    currency: String,
}

/// What an aggregate adds up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Sum {
    inflow: i128,
    outflow: i128,
    inputs: i64,
    /// Inputs that are stale or have no amount.
    stale: i64,
}

/// What an aggregate says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Content {
    inflow: Amount,
    outflow: Amount,
    inputs: i64,
    stale: bool,
}

/// One flow in one window, in its own currency and in the base currency; `None` where it cannot be said.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Flow {
    window: Window,
    own: Option<Amount>,
    base: Option<Amount>,
    /// The change it is made of spans periods without a value.
    has_hole: bool,
    /// The rate is older than stated.
    is_rate_stale: bool,
}

/// A fraction of integers; the denominator is positive.
struct Exact {
    numerator: BigInt,
    denominator: BigInt,
}

#[derive(Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Series(String, Timestamp, Timestamp),
    Fund(FundKey),
    Published(RowKey),
}

/// Everything observed and reported, and the flows that follow from it.
pub struct MarketFlows {
    settings: MarketSettings,
    sources: Vec<Source>,
    series: BTreeMap<String, BTreeMap<Period, Said>>,
    funds: BTreeMap<FundKey, FundSaid>,
    /// What each configured source adds at present, in step with `sources`.
    of_sources: Vec<Vec<Flow>>,
    /// The months it is in, likewise.
    months_of_sources: Vec<BTreeSet<Window>>,
    /// What each reported flow adds at present.
    of_funds: BTreeMap<FundKey, (Member, Vec<Flow>)>,
    sums: BTreeMap<RowKey, Sum>,
    published: BTreeMap<RowKey, (i32, Content)>,
    /// To be computed again.
    touched_sources: BTreeSet<usize>,
    touched_funds: BTreeSet<FundKey>,
    touched_rows: BTreeSet<RowKey>,
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl MarketFlows {
    /// Nothing is known yet.
    pub fn new(settings: MarketSettings) -> Self {
        let sources = settings.sources();
        Self {
            of_sources: vec![Vec::new(); sources.len()],
            months_of_sources: vec![BTreeSet::new(); sources.len()],
            settings,
            sources,
            series: BTreeMap::new(),
            funds: BTreeMap::new(),
            of_funds: BTreeMap::new(),
            sums: BTreeMap::new(),
            published: BTreeMap::new(),
            touched_sources: BTreeSet::new(),
            touched_funds: BTreeSet::new(),
            touched_rows: BTreeSet::new(),
            changes: BTreeMap::new(),
        }
    }

    /// Takes a value of a series. What follows from it comes with [`MarketFlows::publish`].
    pub fn on_observation(&mut self, observation: &Observation) -> FlowOutcome {
        let period = (observation.period_start, observation.period_end);
        if Window::of(period.0, period.1).is_none() {
            return FlowOutcome::NotSelected;
        }
        let name = format!("{}:{}", observation.provider, observation.series);
        let said = Said {
            vintage: observation.vintage.clone(),
            published_at: observation.published_at,
            receive_time: observation.receive_time,
            value: observation.value,
        };
        let values = self.series.entry(name.clone()).or_default();
        let known = values.get(&period);
        if known.is_some_and(|known| *known >= said) {
            return FlowOutcome::Known;
        }
        let is_news = known.is_none_or(|known| known.value != said.value);
        self.changes.insert(encode_key(&Key::Series(name.clone(), period.0, period.1)), Some(encode(&said)));
        values.insert(period, said);
        if is_news {
            self.touch_series(&name, period.0);
        }
        FlowOutcome::Used
    }

    /// Takes a reported flow.
    pub fn on_fund_flow(&mut self, flow: &FundFlow) -> FlowOutcome {
        if Window::of(flow.period_start, flow.period_end).is_none() {
            return FlowOutcome::NotSelected;
        }
        let key = FundKey {
            start: flow.period_start,
            end: flow.period_end,
            instrument: flow.instrument.as_str().to_owned(),
            provider: flow.provider.clone(),
            class: flow.investor_class,
        };
        let said = FundSaid {
            vintage: flow.vintage.clone(),
            receive_time: flow.receive_time,
            amount: flow.net_amount,
            quantity: flow.net_quantity,
            currency: flow.currency.clone(),
        };
        if self.funds.get(&key).is_some_and(|known| *known >= said) {
            return FlowOutcome::Known;
        }
        self.changes.insert(encode_key(&Key::Fund(key.clone())), Some(encode(&said)));
        self.funds.insert(key.clone(), said);
        // another who reports the same may have to give way
        let touched: Vec<FundKey> = self.reporters(&key).cloned().collect();
        self.touched_funds.extend(touched);
        FlowOutcome::Used
    }

    /// Everybody who reports this flow, by name: the first counts.
    fn reporters(&self, key: &FundKey) -> impl Iterator<Item = &FundKey> {
        let first = FundKey { provider: String::new(), class: InvestorClass::Unknown, ..key.clone() };
        let of = |key: &FundKey| (key.start, key.end, key.instrument.clone());
        let (same, class) = (of(key), key.class);
        let known = self.funds.range(first..).map(|(known, _)| known).take_while(move |known| of(known) == same);
        known.filter(move |known| known.class == class)
    }

    /// Everything that a value of a series from this instant on may change.
    fn touch_series(&mut self, name: &str, from: Timestamp) {
        let currencies: Vec<&str> = self
            .settings
            .rate
            .iter()
            .filter(|rate| rate.series.as_deref() == Some(name))
            .map(|rate| rate.currency.as_str())
            .collect();
        for (at, source) in self.sources.iter().enumerate() {
            if source.rule.inputs().contains(&name) || currencies.contains(&source.member.currency.as_str()) {
                self.touched_sources.insert(at);
            }
        }
        if currencies.is_empty() {
            return;
        }
        // a flow takes the last rate that began before the flow's end: those from here to the next rate's start
        let values = &self.series[name];
        let is_next = |start: Timestamp, said: &Said| start > from && said.value.is_some_and(|value| value > SeriesValue::ZERO);
        let next = values.iter().find(|((start, _), said)| is_next(*start, said)).map(|((start, _), _)| *start);
        let first = FundKey {
            start: from.plus_micros(-32 * DAY_MICROS),
            end: Timestamp::MIN,
            instrument: String::new(),
            provider: String::new(),
            class: InvestorClass::Unknown,
        };
        let touched = self.funds.range(first..).take_while(|(key, _)| next.is_none_or(|next| key.start < next));
        let touched = touched.filter(|(_, said)| currencies.contains(&said.currency.as_str()));
        self.touched_funds.extend(touched.map(|(key, _)| key.clone()));
    }

    /// Appends what has changed since the last call: an aggregate that says something new, or a revision.
    pub fn publish(&mut self, out: &mut Vec<FlowAggregate>) {
        for at in std::mem::take(&mut self.touched_sources) {
            let member = self.sources[at].member.clone();
            let new = self.flows_of(&self.sources[at]);
            let months = new.iter().map(|flow| flow.window).filter(|window| matches!(window, Window::Month(_))).collect();
            let old_months: BTreeSet<Window> = std::mem::replace(&mut self.months_of_sources[at], months);
            if old_months.first() != self.months_of_sources[at].first() {
                // where it is absent has changed
                let is_touched = |key: &&RowKey| matches!(key.window, Window::Month(_)) && self.is_row_of(key, &member);
                let of_member: Vec<RowKey> = self.sums.keys().filter(is_touched).cloned().collect();
                self.touched_rows.extend(of_member);
            }
            let old = std::mem::take(&mut self.of_sources[at]);
            self.replace(&member, &old, &new);
            self.of_sources[at] = new;
        }
        for key in std::mem::take(&mut self.touched_funds) {
            let new = self.flow_of_fund(&key);
            let old = match &new {
                Some(new) => self.of_funds.insert(key, new.clone()),
                None => self.of_funds.remove(&key),
            };
            if let Some((member, flows)) = old {
                self.replace(&member, &flows, &[]);
            }
            if let Some((member, flows)) = new {
                self.replace(&member, &[], &flows);
            }
        }
        for key in std::mem::take(&mut self.touched_rows) {
            self.publish_row(key, out);
        }
    }

    fn publish_row(&mut self, key: RowKey, out: &mut Vec<FlowAggregate>) {
        let sum = self.sums.get(&key).copied().unwrap_or_default();
        if sum == Sum::default() {
            self.sums.remove(&key);
        }
        let amount = |scaled| Amount::from_scaled(scaled).expect("sums of limited flows are below 38 digits");
        let stale = sum.stale > 0 || sum.inputs == 0 || self.is_a_source_absent(&key);
        let content = Content { inflow: amount(sum.inflow), outflow: amount(sum.outflow), inputs: sum.inputs, stale };
        let revision = match self.published.get(&key) {
            Some((_, said)) if *said == content => return,
            Some((revision, _)) => revision + 1,
            None if sum == Sum::default() => return,
            None => 0,
        };
        out.push(FlowAggregate {
            scope: key.scope.text().to_owned(),
            name: key.name.clone(),
            open_time: key.window.open_time(),
            close_time: key.window.close_time(),
            method: key.method.text().to_owned(),
            inflow: content.inflow,
            outflow: content.outflow,
            net: amount(sum.inflow - sum.outflow),
            currency: key.currency.clone(),
            input_count: content.inputs,
            stale,
            revision,
        });
        self.changes.insert(encode_key(&Key::Published(key.clone())), Some(encode(&(revision, content))));
        self.published.insert(key, (revision, content));
    }

    /// Whether a month lacks a source that had begun by then. Days do not tell: not every market trades on each.
    fn is_a_source_absent(&self, key: &RowKey) -> bool {
        if matches!(key.window, Window::Day(_)) {
            return false;
        }
        let is_absent =
            |months: &BTreeSet<Window>| months.first().is_some_and(|first| *first < key.window) && !months.contains(&key.window);
        self.sources
            .iter()
            .zip(&self.months_of_sources)
            .any(|(source, months)| is_absent(months) && self.is_row_of(key, &source.member))
    }

    // ---- from flows to sums

    /// What has gone is taken out, what is new is added; what is the same is left alone.
    fn replace(&mut self, member: &Member, old: &[Flow], new: &[Flow]) {
        let mut times: BTreeMap<&Flow, i64> = BTreeMap::new();
        new.iter().for_each(|flow| *times.entry(flow).or_default() += 1);
        old.iter().for_each(|flow| *times.entry(flow).or_default() -= 1);
        for (flow, times) in times.into_iter().filter(|(_, times)| *times != 0) {
            self.add(member, flow, times);
        }
    }

    fn add(&mut self, member: &Member, flow: &Flow, times: i64) {
        for (key, amount, stale) in self.rows_of(member, flow) {
            let sum = self.sums.entry(key.clone()).or_default();
            let scaled = amount.map_or(0, Amount::scaled);
            sum.inflow += i128::from(times) * scaled.max(0);
            sum.outflow -= i128::from(times) * scaled.min(0);
            sum.inputs += times * i64::from(amount.is_some());
            sum.stale += times * i64::from(stale || amount.is_none());
            self.touched_rows.insert(key);
        }
    }

    /// The aggregates a flow is in, what it is there, and whether that is stale.
    fn rows_of(&self, member: &Member, flow: &Flow) -> Vec<(RowKey, Option<Amount>, bool)> {
        let base = &self.settings.base_currency;
        let key = |scope, name: &str, method, currency: &str| RowKey {
            window: flow.window,
            scope,
            name: name.to_owned(),
            method,
            currency: currency.to_owned(),
        };
        let mut rows = Vec::new();
        let class = member.investor_class.map(|class| format!("{}/{}", member.market, class_text(class)));
        let in_base = (base, flow.base, flow.has_hole || flow.is_rate_stale);
        let in_own = (member.currency != *base).then_some((&member.currency, flow.own, flow.has_hole));
        for (currency, amount, stale) in [in_base].into_iter().chain(in_own) {
            rows.push((key(Scope::Market, &member.market, member.method, currency), amount, stale));
            rows.push((key(Scope::AssetClass, &member.asset_class, member.method, currency), amount, stale));
            rows.extend(class.iter().map(|name| (key(Scope::InvestorClass, name, member.method, currency), amount, stale)));
        }
        if self.speaks(member) {
            let (_, amount, stale) = in_base;
            rows.push((key(Scope::Market, &member.market, Method::Combined, base), amount, stale));
            rows.push((key(Scope::Global, "all", Method::Combined, base), amount, stale));
        }
        rows
    }

    /// Whether flows of the member are in the aggregate; the same rule, asked from the other side.
    fn is_row_of(&self, key: &RowKey, member: &Member) -> bool {
        let probe = Flow { window: key.window, own: None, base: None, has_hole: false, is_rate_stale: false };
        self.rows_of(member, &probe).iter().any(|(row, ..)| row == key)
    }

    /// Whether the member's method is the one that speaks for its market.
    fn speaks(&self, member: &Member) -> bool {
        self.settings.markets.get(&member.market) == Some(&member.method)
    }

    // ---- from values to flows

    fn flow_of_fund(&self, key: &FundKey) -> Option<(Member, Vec<Flow>)> {
        let said = self.funds.get(key)?;
        if self.reporters(key).next() != Some(key) {
            return None;
        }
        let venue = key.instrument.split_once(':')?.0;
        let belongs = self.settings.reported_venue.iter().find(|known| known.venue == venue)?;
        let investor_class = match key.class {
            // the sum of the others
            InvestorClass::Total => return None,
            // a statistic over all
            InvestorClass::Unknown => None,
            InvestorClass::Foreign | InvestorClass::Institution | InvestorClass::Individual | InvestorClass::OtherCorporation => {
                Some(key.class)
            }
        };
        let member = Member {
            market: belongs.market.clone(),
            asset_class: belongs.asset_class.clone(),
            investor_class,
            currency: said.currency.clone(),
            method: Method::Reported,
        };
        let period = (key.start, key.end);
        let exact =
            said.amount.map(|amount| Exact { numerator: amount.scaled().into(), denominator: 10_u64.pow(Amount::SCALE).into() });
        let flow = self.flow(&member, period, exact, false)?;
        let month = month_of(flow.window);
        let in_month = month.map(|window| Flow { window, ..flow.clone() });
        Some((member, [flow].into_iter().chain(in_month).collect()))
    }

    /// Every flow of a source: its days and its months. A month for which the source has no value of its own is made of its days.
    fn flows_of(&self, source: &Source) -> Vec<Flow> {
        let member = &source.member;
        let mut flows: Vec<Flow> = match &source.rule {
            Rule::Reported(reported) => {
                let flow = |(period, value): (Period, SeriesValue)| {
                    let exact = Exact { numerator: product([value, reported.factor]), denominator: one().pow(2) };
                    self.flow(member, period, Some(exact), false)
                };
                self.known(&reported.value).filter_map(flow).collect()
            }
            Rule::SignedTurnover(rule) => {
                self.changes_of(&rule.price, member, |period, change| self.turnover(rule, period, change))
            }
            Rule::ValueChange(rule) => {
                self.changes_of(&rule.level, member, |period, change| Some(value_change(rule, period, change)))
            }
        };
        let own_months: BTreeSet<Window> = flows.iter().map(|flow| flow.window).collect();
        let of_days = flows.iter().filter_map(|flow| Some(Flow { window: month_of(flow.window)?, ..flow.clone() }));
        let of_days: Vec<Flow> = of_days.filter(|flow| !own_months.contains(&flow.window)).collect();
        flows.extend(of_days);
        flows
    }

    /// The values of a series that are not missing, by period.
    fn known(&self, name: &str) -> impl Iterator<Item = (Period, SeriesValue)> {
        let values = self.series.get(name).into_iter().flatten();
        values.filter_map(|(period, said)| Some((*period, said.value?)))
    }

    fn value_at(&self, name: &str, period: Period) -> Option<SeriesValue> {
        self.series.get(name)?.get(&period)?.value
    }

    /// A flow for each value of a series that has one before it; days and months are compared with their own kind. `exact` returns `None` where
    /// something else it needs is missing.
    fn changes_of(
        &self,
        level: &str,
        member: &Member,
        exact: impl Fn(Period, (SeriesValue, SeriesValue)) -> Option<Option<Exact>>,
    ) -> Vec<Flow> {
        let mut flows = Vec::new();
        let (mut last_day, mut last_month) = (None, None);
        for (period, value) in self.known(level) {
            let Some(window) = Window::of(period.0, period.1) else { continue };
            let last: &mut Option<(Window, SeriesValue)> = match window {
                Window::Day(_) => &mut last_day,
                Window::Month(_) => &mut last_month,
            };
            if let Some((earlier, before)) = last.replace((window, value)) {
                let has_hole = !window.follows(earlier);
                flows.extend(exact(period, (before, value)).and_then(|exact| self.flow(member, period, exact, has_hole)));
            }
        }
        flows
    }

    /// Typical price × volume × factor with the sign of the price's change; `None` without volume.
    fn turnover(
        &self,
        rule: &SignedTurnover,
        period: Period,
        (before, close): (SeriesValue, SeriesValue),
    ) -> Option<Option<Exact>> {
        let sign = match close.cmp(&before) {
            std::cmp::Ordering::Less => -1_i32,
            std::cmp::Ordering::Equal => 0,
            std::cmp::Ordering::Greater => 1,
        };
        if let Some(turnover) = &rule.turnover {
            let turnover = self.value_at(turnover, period)?;
            return Some(Some(Exact { numerator: product([turnover, rule.factor]) * sign, denominator: one().pow(2) }));
        }
        let volume = self.value_at(rule.volume.as_deref()?, period)?;
        let extremes = rule.high.as_deref().zip(rule.low.as_deref());
        let (typical, parts) = match extremes {
            Some((high, low)) => {
                let (high, low) = (self.value_at(high, period)?, self.value_at(low, period)?);
                (BigInt::from(high.scaled()) + low.scaled() + close.scaled(), 3_i32)
            }
            None => (BigInt::from(close.scaled()), 1),
        };
        Some(Some(Exact { numerator: typical * product([volume, rule.factor]) * sign, denominator: one().pow(3) * parts }))
    }

    /// A flow in its window, in both currencies; `None` where the period is no window.
    fn flow(&self, member: &Member, period: Period, exact: Option<Exact>, has_hole: bool) -> Option<Flow> {
        let window = Window::of(period.0, period.1)?;
        let own = exact.as_ref().and_then(Exact::rounded);
        let (base, is_rate_stale) = match (exact, self.rate(&member.currency, period)) {
            (Some(exact), Some((rate, stale))) => (exact.times(&rate).rounded(), stale),
            _ => (None, true),
        };
        Some(Flow { window, own, base, has_hole, is_rate_stale })
    }

    /// What a unit of the currency is worth in the base currency: the last rate whose period began before this one ended; and whether it is
    /// older than stated.
    fn rate(&self, currency: &str, period: Period) -> Option<(Exact, bool)> {
        if currency == self.settings.base_currency {
            return Some((Exact { numerator: 1.into(), denominator: 1.into() }, false));
        }
        let Rate { series, inverse, fixed, .. } = self.settings.rate.iter().find(|rate| rate.currency == currency)?;
        if let Some(fixed) = fixed {
            return Some((Exact { numerator: fixed.scaled().into(), denominator: one() }, false));
        }
        let values = self.series.get(series.as_ref()?)?.range(..(period.1, Timestamp::MIN));
        let mut usable =
            values.rev().filter_map(|((_, end), said)| Some((*end, said.value.filter(|value| *value > SeriesValue::ZERO)?)));
        let (end, value) = usable.next()?;
        let value = BigInt::from(value.scaled());
        let rate = if *inverse {
            Exact { numerator: one(), denominator: value }
        } else {
            Exact { numerator: value, denominator: one() }
        };
        let age = period.1.micros_since(end);
        Some((rate, age > self.settings.rate_stale_after_days.saturating_mul(DAY_MICROS)))
    }

    // ---- state

    /// Takes every change since the last call, to be written in the same transaction as the results they belong to.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes).into_iter().map(|(key, value)| Change { key, value }).collect()
    }

    /// Rebuilds the state from changelog records in log order. Flows are computed again, so other settings bring revisions of what they change.
    ///
    /// # Errors
    /// [`RestoreError`] when a record is not readable or was written by another version.
    pub fn restore(settings: MarketSettings, records: impl IntoIterator<Item = Change>) -> Result<Self, RestoreError> {
        let mut flows = Self::new(settings);
        let records: Vec<Change> = records.into_iter().collect();
        for (key, value) in live(&records) {
            let (version, key) = key.split_first().ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
            if *version != VERSION {
                return Err(RestoreError::Version { found: *version, expected: VERSION });
            }
            match postcard::from_bytes(key)? {
                Key::Series(name, start, end) => {
                    flows.series.entry(name).or_default().insert((start, end), postcard::from_bytes(value)?);
                }
                Key::Fund(key) => {
                    flows.touched_funds.insert(key.clone());
                    flows.funds.insert(key, postcard::from_bytes(value)?);
                }
                Key::Published(key) => {
                    flows.touched_rows.insert(key.clone());
                    flows.published.insert(key, postcard::from_bytes(value)?);
                }
            }
        }
        flows.touched_sources = (0..flows.sources.len()).collect();
        Ok(flows)
    }
}

fn encode_key(key: &Key) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(encode(key));
    bytes
}

fn month_of(window: Window) -> Option<Window> {
    match window {
        Window::Day(_) => Month::of(window.open_time()).map(Window::Month),
        Window::Month(_) => None,
    }
}

/// Return on the level × size, or −duration × the yield's change ÷ 100 × size; `None` where the level cannot have a return.
fn value_change(rule: &ValueChange, period: Period, (before, now): (SeriesValue, SeriesValue)) -> Option<Exact> {
    let month = Month::of(period.0.plus_micros(period.1.micros_since(period.0) / 2))?;
    let size = rule.size.iter().rev().find(|size| size.from <= month).or(rule.size.first())?;
    let change = BigInt::from(now.scaled()) - before.scaled();
    let size_unit = BigInt::from(10_u64.pow(Amount::SCALE));
    if let Some(duration) = rule.duration {
        let numerator = -change * duration.scaled() * size.amount.scaled();
        return Some(Exact { numerator, denominator: one().pow(2) * size_unit * 100_i32 });
    }
    let (change, of) = if rule.inverse { (-change, now) } else { (change, before) };
    (before > SeriesValue::ZERO && of > SeriesValue::ZERO)
        .then(|| Exact { numerator: change * size.amount.scaled(), denominator: BigInt::from(of.scaled()) * size_unit })
}

/// 10^12: the unit of [`SeriesValue`].
fn one() -> BigInt {
    BigInt::from(10_u64.pow(SeriesValue::SCALE))
}

fn product(values: [SeriesValue; 2]) -> BigInt {
    BigInt::from(values[0].scaled()) * values[1].scaled()
}

impl Exact {
    fn times(&self, other: &Self) -> Self {
        Self { numerator: &self.numerator * &other.numerator, denominator: &self.denominator * &other.denominator }
    }

    /// Half to even, 8 decimals; `None` beyond what is summed.
    fn rounded(&self) -> Option<Amount> {
        let amount = half_even(&(&self.numerator * 10_u64.pow(Amount::SCALE)), &self.denominator)?;
        (amount.scaled().abs() < FLOW_LIMIT).then_some(amount)
    }
}

/// A quotient of integers, half to even; the denominator is positive.
fn half_even(numerator: &BigInt, denominator: &BigInt) -> Option<Amount> {
    let zero = BigInt::from(0);
    let (mut quotient, mut rest) = (numerator / denominator, numerator % denominator);
    if rest < zero {
        (quotient, rest) = (quotient - 1_i32, rest + denominator);
    }
    let is_odd = &quotient % 2_i32 != zero;
    let up = match (rest * 2_i32).cmp(denominator) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => is_odd,
        std::cmp::Ordering::Greater => true,
    };
    Amount::from_scaled(i128::try_from(quotient + i32::from(up)).ok()?)
}

fn class_text(class: InvestorClass) -> &'static str {
    match class {
        InvestorClass::Unknown => "unknown",
        InvestorClass::Foreign => "foreign",
        InvestorClass::Institution => "institution",
        InvestorClass::Individual => "individual",
        InvestorClass::OtherCorporation => "other_corporation",
        InvestorClass::Total => "total",
    }
}
