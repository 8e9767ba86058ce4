//! One execution (체결).

use crate::{Feed, Instrument, InstrumentRef, Price, Quantity, Timestamp};
use serde::{Deserialize, Serialize};

/// Who crossed the spread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default, Hash, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The provider does not say.
    #[default]
    Unknown,
    /// The buyer was the aggressor.
    Buy,
    /// The seller was the aggressor.
    Sell,
}

/// By which way a record reached us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default, Hash, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Written by something newer than this reader.
    #[default]
    Unknown,
    /// The provider's live socket.
    Websocket,
    /// The provider's request interface (back-fill, sweep).
    Rest,
    /// A replayed range.
    Replay,
    /// A file.
    Import,
}

/// A venue's remark on a trade.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Hash, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Printed by an auction.
    Auction,
    /// Replaces the earlier trade of the same id; carries that trade's event time.
    Correction,
    /// Takes the earlier trade of the same id back; carries that trade's event time.
    Cancel,
    /// Below the round lot.
    OddLot,
}

impl Condition {
    /// Every condition, in wire order.
    pub const ALL: [Self; 4] = [Self::Auction, Self::Correction, Self::Cancel, Self::OddLot];
}

/// A set of [`Condition`]s.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Vec<Condition>", into = "Vec<Condition>")]
pub struct Conditions(u8);

impl Conditions {
    /// No remark.
    pub const NONE: Self = Self(0);

    /// With one more.
    #[must_use]
    pub const fn with(self, condition: Condition) -> Self {
        Self(self.0 | (1 << condition as u8))
    }

    /// Whether it is in the set.
    pub const fn contains(self, condition: Condition) -> bool {
        self.0 & (1 << condition as u8) != 0
    }

    /// Whether the record speaks of an earlier trade: takes it back or replaces it.
    pub const fn amends(self) -> bool {
        self.contains(Condition::Cancel) || self.contains(Condition::Correction)
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members in wire order.
    pub fn iter(self) -> impl Iterator<Item = Condition> {
        Condition::ALL.into_iter().filter(move |c| self.contains(*c))
    }
}

impl From<Vec<Condition>> for Conditions {
    fn from(list: Vec<Condition>) -> Self {
        list.into_iter().fold(Self::NONE, Self::with)
    }
}

impl From<Conditions> for Vec<Condition> {
    fn from(set: Conditions) -> Self {
        set.iter().collect()
    }
}

/// One execution. Lean: it is the hot path; what venue and symbol imply (currency, provider) is not repeated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Trade {
    /// What was traded.
    pub instrument: Instrument,
    /// Who told us, or which import.
    pub feed: Feed,
    /// The venue's clock.
    pub event_time: Timestamp,
    /// Our socket's clock.
    pub receive_time: Timestamp,
    /// Price in the quote currency.
    pub price: Price,
    /// Size in units of the instrument; `None` = not reported. A reported zero is quarantined.
    pub size: Option<Quantity>,
    /// Aggressor.
    pub side: Side,
    /// The venue's id; unique within instrument and session where present.
    pub trade_id: Option<String>,
    /// Order within a feed session: the numeric venue id, or an import's row or order column.
    pub sequence: Option<i64>,
    /// Row of an import, counted from 1 in emission order; `None` for live records. A repeated or resumed import is recognised by it.
    pub import_row: Option<i64>,
    /// The venue's remarks.
    pub conditions: Conditions,
    /// By which way it came.
    pub source: Source,
}

/// A [`Trade`] whose texts stand in the value it was read from: the hot path allocates nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "fields as in Trade")]
pub struct TradeRef<'a> {
    pub instrument: InstrumentRef<'a>,
    pub feed: &'a str,
    pub event_time: Timestamp,
    pub receive_time: Timestamp,
    pub price: Price,
    pub size: Option<Quantity>,
    pub side: Side,
    pub trade_id: Option<&'a str>,
    pub sequence: Option<i64>,
    pub import_row: Option<i64>,
    pub conditions: Conditions,
    pub source: Source,
}

impl TradeRef<'_> {
    /// One that stands by itself.
    pub fn to_owned(self) -> Trade {
        Trade {
            instrument: self.instrument.to_owned(),
            feed: Feed::new(self.feed),
            event_time: self.event_time,
            receive_time: self.receive_time,
            price: self.price,
            size: self.size,
            side: self.side,
            trade_id: self.trade_id.map(str::to_owned),
            sequence: self.sequence,
            import_row: self.import_row,
            conditions: self.conditions,
            source: self.source,
        }
    }
}

impl<'a> From<&'a Trade> for TradeRef<'a> {
    fn from(trade: &'a Trade) -> Self {
        Self {
            instrument: (&trade.instrument).into(),
            feed: trade.feed.as_str(),
            event_time: trade.event_time,
            receive_time: trade.receive_time,
            price: trade.price,
            size: trade.size,
            side: trade.side,
            trade_id: trade.trade_id.as_deref(),
            sequence: trade.sequence,
            import_row: trade.import_row,
            conditions: trade.conditions,
            source: trade.source,
        }
    }
}
