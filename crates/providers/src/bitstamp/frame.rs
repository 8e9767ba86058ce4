//! Frames and rows exactly as Bitstamp writes them.
//!
//! Every server frame is `{event, channel, data}`; key order differs between control and data frames. Numbers have a `_str` twin that is
//! exact; the plain twin may be a rounded float and is read only as text, and only where the twin is missing.
//! **Source**: bitstamp.net/websocket/v2 and bitstamp.net/api, read 2026-11.
//!
//! Next: `parse.rs`.

use crate::number::Number;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Any server frame.
#[derive(Debug, Deserialize)]
pub(super) struct ServerFrame<'a> {
    #[serde(borrow)]
    pub(super) event: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) channel: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
}

/// `data` of event `trade` on `live_trades_<pair>`:
/// `{"id":…,"id_str":"…","timestamp":"…","microtimestamp":"…","amount":…,"amount_str":"…","price":…,"price_str":"…","type":0|1,…}`.
///
/// `timestamp` is seconds on some markets and milliseconds on others, so it is not read. `type` is the taker's side: 0 buy, 1 sell.
#[derive(Debug, Deserialize)]
pub(super) struct TradeData<'a> {
    #[serde(borrow)]
    pub(super) id: Number<'a>,
    #[serde(borrow)]
    pub(super) microtimestamp: Number<'a>,
    #[serde(borrow, default)]
    pub(super) amount_str: Option<Number<'a>>,
    #[serde(borrow, default)]
    pub(super) amount: Option<Number<'a>>,
    #[serde(borrow, default)]
    pub(super) price_str: Option<Number<'a>>,
    #[serde(borrow, default)]
    pub(super) price: Option<Number<'a>>,
    #[serde(borrow, rename = "type", default)]
    pub(super) side: Option<Number<'a>>,
}

/// `data` of event `data` on `order_book_<pair>`: a snapshot of the best 100 levels a side, of which only the first is kept.
#[derive(Debug, Deserialize)]
pub(super) struct BookData<'a> {
    #[serde(borrow)]
    pub(super) microtimestamp: Number<'a>,
    #[serde(borrow)]
    pub(super) bids: Top<'a>,
    #[serde(borrow)]
    pub(super) asks: Top<'a>,
}

/// The first `[price, amount]` of a side; the others are skipped without being kept.
#[derive(Debug)]
pub(super) struct Top<'a>(pub(super) Option<(Number<'a>, Number<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Top<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct First;
        impl<'de> Visitor<'de> for First {
            type Value = Top<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("levels")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut levels: A) -> Result<Top<'de>, A::Error> {
                let first = levels.next_element::<(&'de RawValue, &'de RawValue)>()?;
                while levels.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Top(first))
            }
        }
        deserializer.deserialize_seq(First)
    }
}

/// `data` of `bts:error`.
#[derive(Debug, Deserialize)]
pub(super) struct ErrorData<'a> {
    #[serde(borrow, default)]
    pub(super) code: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) message: Option<Cow<'a, str>>,
}

/// One row of `GET /api/v2/transactions/<pair>/`: whole seconds only, everything a string.
#[derive(Debug, Deserialize)]
pub(super) struct TransactionRow<'a> {
    #[serde(borrow)]
    pub(super) date: Number<'a>,
    #[serde(borrow)]
    pub(super) tid: Number<'a>,
    #[serde(borrow)]
    pub(super) price: Number<'a>,
    #[serde(borrow)]
    pub(super) amount: Number<'a>,
    #[serde(borrow, rename = "type", default)]
    pub(super) side: Option<Number<'a>>,
}

/// What names a trade, in a frame or a row.
#[derive(Debug, Deserialize)]
pub(super) struct Identity<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<Number<'a>>,
    #[serde(borrow, default)]
    pub(super) tid: Option<Number<'a>>,
    #[serde(borrow, default)]
    pub(super) microtimestamp: Option<Number<'a>>,
    #[serde(borrow, default)]
    pub(super) date: Option<Number<'a>>,
}
