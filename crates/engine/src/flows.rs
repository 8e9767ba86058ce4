//! Buy and sell turnover across instruments, first stage: what one input partition adds to the sums of venue, asset class and globe.
//!
//! A published minute of an instrument adds its turnover by aggressor; a minute published again adds the difference. What one record of the
//! log brings about leaves as [`PartialFlows`], named by the record's offset: the log alone decides their content, so a partition computed
//! again gives the same ones, and whoever has taken them already can tell.
//!
//! Next: `flow_totals.rs`, where the partitions' partial sums meet.

use crate::builder::Builder;
use crate::changelog::encode;
use crate::minute::Minute;
use marketflow_model::{Amount, Feed, FlowAggregate, Instrument, Interval, Quality, Timestamp, Turnover, Venue};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How these numbers are made (docs/methodology/flows-intraday.md).
pub const METHOD: &str = "AGGRESSOR_TURNOVER";

/// Version of [`PartialFlows`] as bytes; another one is refused.
const VERSION: u8 = 1;

/// Sums in one [`PartialFlows`] at most, so that its bytes stay far below Kafka's limit for a record.
const SUMS_AT_MOST: usize = 2_000;

/// Turnover of one minute of one instrument that is still summed, times 10^16: beyond it (10^15 units of currency) it is left out and the sum
/// says that it is not complete. It lets ten million instruments be summed without overflow.
const TURNOVER_AT_MOST: i128 = i128::MAX / 10_000_000;

/// What is summed up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum FlowScope {
    /// Everything a venue trades.
    Venue,
    /// Everything of an asset class.
    AssetClass,
    /// Everything.
    Global,
}

impl FlowScope {
    /// As [`FlowAggregate::scope`] spells it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Venue => "venue",
            Self::AssetClass => "asset_class",
            Self::Global => "global",
        }
    }
}

/// Whose turnover is summed. Amounts of different currencies never meet in one sum.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct FlowGroup {
    /// Of what.
    pub scope: FlowScope,
    /// Of which one; `all` for the globe.
    pub name: String,
    /// Currency of the amounts; empty where it is not known.
    pub currency: String,
}

/// A change of a sum, or a sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FlowSum {
    /// Turnover of trades whose aggressor bought, unrounded.
    pub buy: Turnover,
    /// Turnover of trades whose aggressor sold, unrounded.
    pub sell: Turnover,
    /// Instruments in it.
    pub inputs: i64,
    /// Those of them whose minute has a hole.
    pub incomplete: i64,
}

impl FlowSum {
    pub(crate) fn add(&mut self, other: &Self, sign: i128) {
        let sum = |mine: Turnover, theirs: Turnover| {
            let sum = mine.scaled().saturating_add(theirs.scaled().saturating_mul(sign));
            Turnover::from_scaled(sum).unwrap_or(mine)
        };
        self.buy = sum(self.buy, other.buy);
        self.sell = sum(self.sell, other.sell);
        let sign = if sign < 0 { -1 } else { 1 };
        self.inputs = self.inputs.saturating_add(other.inputs.saturating_mul(sign));
        self.incomplete = self.incomplete.saturating_add(other.incomplete.saturating_mul(sign));
    }

    /// What one minute of one instrument adds.
    pub(crate) fn of_minute(minute: &Minute, quality: Quality) -> Self {
        let has_hole = !matches!(quality, Quality::Complete | Quality::Backfilled | Quality::Halted | Quality::NoTrades);
        let (buy, sell) = (minute.buy_turnover, minute.sell_turnover);
        if buy.scaled() > TURNOVER_AT_MOST || sell.scaled() > TURNOVER_AT_MOST {
            return Self { inputs: 1, incomplete: 1, ..Self::default() };
        }
        Self { buy, sell, inputs: 1, incomplete: i64::from(has_hole) }
    }

    /// The record that says it.
    pub(crate) fn aggregate(
        &self,
        scope: &str,
        name: &str,
        currency: &str,
        open_time: Timestamp,
        revision: i32,
    ) -> FlowAggregate {
        let (inflow, outflow) = (self.buy.rounded(), self.sell.rounded());
        let net = inflow.scaled() - outflow.scaled();
        FlowAggregate {
            scope: scope.to_owned(),
            name: name.to_owned(),
            open_time,
            close_time: open_time.plus_micros(Interval::ONE_MINUTE.micros()),
            method: METHOD.to_owned(),
            inflow,
            outflow,
            net: Amount::from_scaled(net).expect("rounded turnovers are far below 38 digits"),
            currency: currency.to_owned(),
            input_count: self.inputs,
            stale: self.incomplete > 0,
            revision,
        }
    }
}

/// What one record of an input partition adds to the sums.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartialFlows {
    /// Offset of that record in the partition of trades.
    pub offset: i64,
    /// Counts from 0 where it takes more than one of these.
    pub part: u32,
    /// The feed all of it came from.
    pub feed: Feed,
    /// Changes by start of minute and group.
    pub sums: Vec<(Timestamp, FlowGroup, FlowSum)>,
    /// Every minute of the feed that ends at or before this is in the partition's partial sums up to here; [`Timestamp::MAX`]: the feed is not
    /// waited for. `None` = as before.
    pub complete_through: Option<Timestamp>,
}

impl PartialFlows {
    /// As bytes, with the input partition it belongs to.
    pub fn encode(&self, partition: i32) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(encode(&(partition, self)));
        bytes
    }

    /// Reads [`PartialFlows::encode`]'s bytes.
    ///
    /// # Errors
    /// Bytes that this version does not write.
    pub fn decode(bytes: &[u8]) -> Result<(i32, Self), postcard::Error> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => postcard::from_bytes(rest),
            _ => Err(postcard::Error::DeserializeBadEncoding),
        }
    }
}

/// A minute of an instrument that was just published.
pub(crate) struct MinuteFlow {
    pub(crate) open: Timestamp,
    /// What it added before; `None` = nothing.
    pub(crate) was: Option<FlowSum>,
    pub(crate) is: FlowSum,
    /// Of the minute's bar.
    pub(crate) revision: i32,
}

/// What the record at hand brings about, and what earlier ones did since the last commit.
#[derive(Default)]
pub(crate) struct FlowStage {
    sums: BTreeMap<(Timestamp, FlowGroup), FlowSum>,
    mark: Option<Timestamp>,
    partials: Vec<PartialFlows>,
    instruments: Vec<FlowAggregate>,
}

impl FlowStage {
    /// Takes the minutes the builder has just published. `serves`: whether they are the ones that count for the instrument.
    pub(crate) fn gather(&mut self, builder: &mut Builder, serves: bool) {
        let minutes = builder.minute_flows.drain(..);
        if !serves {
            return;
        }
        let venue = Venue::named(builder.instrument.venue());
        let currency = venue.currency_of(&builder.instrument);
        for MinuteFlow { open, was, is, revision } in minutes {
            self.instruments.push(is.aggregate("instrument", builder.instrument.as_str(), currency, open, revision));
            let mut change = is;
            if let Some(was) = was {
                change.add(&was, -1);
            }
            if change == FlowSum::default() {
                continue;
            }
            for group in groups(&builder.instrument, venue, currency) {
                self.sums.entry((open, group)).or_default().add(&change, 1);
            }
        }
    }

    /// The feed's watermark passed the end of a minute.
    pub(crate) fn mark(&mut self, complete_through: Timestamp) {
        self.mark = Some(complete_through);
    }

    /// The record at this offset is done.
    #[inline]
    pub(crate) fn finish(&mut self, feed: &str, offset: i64) {
        if !self.sums.is_empty() || self.mark.is_some() {
            self.hand_on(&Feed::new(feed), offset);
        }
    }

    fn hand_on(&mut self, feed: &Feed, offset: i64) {
        let mut sums = std::mem::take(&mut self.sums).into_iter().map(|((open, group), sum)| (open, group, sum)).peekable();
        let mut mark = self.mark.take();
        for part in 0.. {
            let sums_of_part: Vec<_> = sums.by_ref().take(SUMS_AT_MOST).collect();
            let is_last = sums.peek().is_none();
            let complete_through = if is_last { mark.take() } else { None };
            self.partials.push(PartialFlows { offset, part, feed: feed.clone(), sums: sums_of_part, complete_through });
            if is_last {
                break;
            }
        }
    }

    /// Everything since the last call: partial sums, and the flows of single instruments, which need no second stage.
    pub(crate) fn take(&mut self) -> (Vec<PartialFlows>, Vec<FlowAggregate>) {
        (std::mem::take(&mut self.partials), std::mem::take(&mut self.instruments))
    }
}

fn groups(instrument: &Instrument, venue: &Venue, currency: &str) -> [FlowGroup; 3] {
    let group = |scope, name: &str| FlowGroup { scope, name: name.to_owned(), currency: currency.to_owned() };
    [
        group(FlowScope::Venue, instrument.venue()),
        group(FlowScope::AssetClass, venue.asset_class()),
        group(FlowScope::Global, "all"),
    ]
}
