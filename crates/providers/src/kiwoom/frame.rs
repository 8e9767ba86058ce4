//! Frames exactly as Kiwoom writes them: JSON texts, named by `trnm`; real-time values under the numbers of their fields (FID), all of them texts.
//!
//! `{"data":[{"values":{"20":"165208","10":"-20800","15":"+82", …},"type":"0B","name":"주식체결","item":"005930"}],"trnm":"REAL"}`: several
//! entries may share a frame, the order of the keys is not fixed, and a field without a value is an empty text. **Signs**: before a price they tell
//! how it stands to the close of the day before, before a trade's volume who was the aggressor; only changes are truly signed.
//! **Source**: the broker's manual on real-time items and public clients, read 2026-11.
//!
//! Next: `parse.rs`.

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Trades (주식체결).
pub(super) const TRADES: &str = "0B";
/// Order book (주식호가잔량).
pub(super) const BOOK: &str = "0D";
/// Volatility interruptions (VI발동/해제).
pub(super) const INTERRUPTIONS: &str = "1h";

/// Fields of a trade.
#[expect(dead_code, reason = "the documented fields as a whole; only what a record needs is read")]
#[derive(Clone, Copy, Debug)]
pub(super) enum TradeField {
    /// HHMMSS in Korea
    Time = 20,
    /// won, signed against the close of the day before
    Price = 10,
    /// won, truly signed
    Change = 11,
    /// decimal, %
    ChangePercent = 12,
    /// won, signed against the close of the day before
    AskPrice = 27,
    /// the same
    BidPrice = 28,
    /// shares; + the buyer was the aggressor, − the seller
    Size = 15,
    /// shares since the day began
    DayVolume = 13,
    /// million won since the day began
    DayTurnover = 14,
    /// won, signed against the close of the day before
    Open = 16,
    /// the same
    High = 17,
    /// the same
    Low = 18,
    /// 1 upper limit, 2 up, 3 flat, 4 lower limit, 5 down
    ChangeSign = 25,
    /// shares, against the day before
    VolumeChange = 26,
    /// won, against the day before
    TurnoverChange = 29,
    /// %, against the day before
    VolumePercent = 30,
    /// decimal, %
    Turnover = 31,
    /// trading cost
    Cost = 32,
    /// decimal: trade strength
    Strength = 228,
    /// hundred million won
    MarketValue = 311,
    /// 1 before, 2 in the regular session, 3 after
    Session = 290,
    /// how near a knock-out is
    KnockOut = 691,
    /// HHMMSS
    UpperLimitTime = 567,
    /// HHMMSS
    LowerLimitTime = 568,
    /// %, against the same time of the day before
    SameTimePercent = 851,
    /// HHMMSS
    OpenTime = 1890,
    /// HHMMSS
    HighTime = 1891,
    /// HHMMSS
    LowTime = 1892,
    /// shares
    SellVolume = 1030,
    /// shares
    BuyVolume = 1031,
    /// %
    BuyPercent = 1032,
    /// integer
    SellCount = 1071,
    /// integer
    BuyCount = 1072,
    /// won of this trade
    Amount = 1313,
    /// shares
    SingleNetBuy = 1314,
    /// shares
    SingleSell = 1315,
    /// shares
    SingleBuy = 1316,
    /// margin of contracts for difference
    CfdMargin = 1497,
    /// their maintenance margin
    CfdMaintenance = 1498,
    /// won
    AveragePrice = 620,
    /// cost of contracts for difference
    CfdCost = 732,
    /// cost of short sales
    ShortCost = 852,
    /// 1 KRX, 2 NXT
    Exchange = 9081,
}

/// Fields of an order book that are read; those of the other levels follow one by one, ten levels a side.
#[derive(Clone, Copy, Debug)]
pub(super) enum BookField {
    /// HHMMSS in Korea
    Time = 21,
    /// won, signed against the close of the day before; 42 to 50 follow
    AskPrice = 41,
    /// the same; 52 to 60 follow
    BidPrice = 51,
    /// shares; 62 to 70 follow
    AskSize = 61,
    /// shares; 72 to 80 follow
    BidSize = 71,
}

/// Fields of a volatility interruption.
#[expect(dead_code, reason = "the documented fields as a whole; only what a halt needs is read")]
#[derive(Clone, Copy, Debug)]
pub(super) enum InterruptionField {
    /// short code
    Code = 9001,
    /// in Korean
    Name = 302,
    /// shares since the day began
    DayVolume = 13,
    /// million won since the day began
    DayTurnover = 14,
    /// its values are not documented
    Kind = 9068,
    /// 001 KOSPI, 101 KOSDAQ
    Market = 9008,
    /// 1 before the open
    BeforeOpen = 9075,
    /// won
    TriggerPrice = 1221,
    /// HHMMSS in Korea
    TriggerTime = 1223,
    /// HHMMSS in Korea
    ReleaseTime = 1224,
    /// 정적 (static), 동적 (dynamic), 동적+정적
    Reference = 1225,
    /// won
    StaticReference = 1236,
    /// won
    DynamicReference = 1237,
    /// %
    StaticGap = 1238,
    /// %
    DynamicGap = 1239,
    /// %
    Rate = 1489,
    /// of the day, integer
    Count = 1490,
    /// which way the price went
    Direction = 9069,
}

/// A message, named by `trnm`: LOGIN, REG, REMOVE, PING, REAL, SYSTEM.
#[derive(Debug, Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    pub(super) trnm: Cow<'a, str>,
    /// 0 = done; a number, by some accounts as text.
    #[serde(borrow, default)]
    return_code: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) return_msg: Option<Cow<'a, str>>,
    /// SYSTEM: what it is about.
    #[serde(borrow, default)]
    pub(super) message: Option<Cow<'a, str>>,
    /// REAL: [`Entry`] after [`Entry`].
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
}

impl Message<'_> {
    /// Whether the broker did what it was asked; `None`: it does not say.
    pub(super) fn done(&self) -> Option<bool> {
        self.return_code.map(|code| code.get().trim_matches('"') == "0")
    }
}

/// One entry of a REAL message.
#[derive(Debug, Deserialize)]
pub(super) struct Entry<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) item: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) values: Values<'a>,
}

/// Values by the number of their field.
#[derive(Debug)]
pub(super) struct Values<'a>(Vec<(u16, Cow<'a, str>)>);

impl Values<'_> {
    pub(super) fn trade(&self, field: TradeField) -> &str {
        self.get(field as u16)
    }

    pub(super) fn book(&self, field: BookField) -> &str {
        self.get(field as u16)
    }

    pub(super) fn interruption(&self, field: InterruptionField) -> &str {
        self.get(field as u16)
    }

    /// The text of a field; empty where there is none.
    fn get(&self, number: u16) -> &str {
        self.0.iter().find(|(of, _)| *of == number).map_or("", |(_, text)| text)
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Values<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Vec<(u16, Cow<'de, str>)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("texts by field number")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(map.size_hint().unwrap_or(48));
                while let Some(Text(name)) = map.next_key()? {
                    match name.parse() {
                        Ok(number) => fields.push((number, map.next_value::<Text<'de>>()?.0)),
                        // Fields of tomorrow may have names.
                        Err(_) => _ = map.next_value::<IgnoredAny>()?,
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Fields).map(Values)
    }
}
