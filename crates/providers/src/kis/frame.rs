//! Frames exactly as KIS writes them: JSON for control, `^`-separated texts for data.
//!
//! A data frame is `0|H0STCNT0|002|<fields>`: plain or encrypted (`1`, only notices of one's own orders), what, how many records, and the records
//! joined. How many fields a record has grew over the years (46, 47; 59, 62, 63), so the width is the number of fields over the number of
//! records; fields behind the documented ones are tolerated. All values are texts, prices whole won, times `HHMMSS` in Korea.
//! **Source**: the broker's public samples and portal pages on H0STCNT0, H0STASP0 and H0STMKO0, read 2026-11.
//!
//! Next: `parse.rs`.

use serde::Deserialize;
use std::borrow::Cow;

/// Real-time trades (실시간 체결가).
pub(super) const TRADES: &str = "H0STCNT0";
/// Real-time order book (실시간 호가).
pub(super) const BOOK: &str = "H0STASP0";

/// Fields of a trade, in their order; what is not typed in the comment is text.
#[expect(dead_code, reason = "the documented layout as a whole; only what a record needs is read")]
#[derive(Clone, Copy, Debug)]
pub(super) enum TradeField {
    /// MKSC_SHRN_ISCD
    Code,
    /// STCK_CNTG_HOUR, HHMMSS
    Time,
    /// STCK_PRPR, integer
    Price,
    /// PRDY_VRSS_SIGN: 1 upper limit, 2 up, 3 flat, 4 lower limit, 5 down
    ChangeSign,
    /// PRDY_VRSS, integer
    Change,
    /// PRDY_CTRT, decimal, %
    ChangePercent,
    /// WGHN_AVRG_STCK_PRC, decimal
    AveragePrice,
    /// STCK_OPRC, integer
    Open,
    /// STCK_HGPR, integer
    High,
    /// STCK_LWPR, integer
    Low,
    /// ASKP1, integer
    AskPrice,
    /// BIDP1, integer
    BidPrice,
    /// CNTG_VOL, integer, shares
    Size,
    /// ACML_VOL, integer, shares since the day began
    DayVolume,
    /// ACML_TR_PBMN, integer, won
    DayTurnover,
    /// SELN_CNTG_CSNU, integer
    SellCount,
    /// SHNU_CNTG_CSNU, integer
    BuyCount,
    /// NTBY_CNTG_CSNU, integer
    NetBuyCount,
    /// CTTR, decimal: trade strength
    Strength,
    /// SELN_CNTG_SMTN, integer
    SellVolume,
    /// SHNU_CNTG_SMTN, integer
    BuyVolume,
    /// CCLD_DVSN: 1 buy, 3 pre-open, 5 sell
    Side,
    /// SHNU_RATE, decimal
    BuyRate,
    /// PRDY_VOL_VRSS_ACML_VOL_RATE, decimal
    VolumeRate,
    /// OPRC_HOUR, HHMMSS
    OpenTime,
    /// OPRC_VRSS_PRPR_SIGN
    OpenSign,
    /// OPRC_VRSS_PRPR, integer
    OpenChange,
    /// HGPR_HOUR, HHMMSS
    HighTime,
    /// HGPR_VRSS_PRPR_SIGN
    HighSign,
    /// HGPR_VRSS_PRPR, integer
    HighChange,
    /// LWPR_HOUR, HHMMSS
    LowTime,
    /// LWPR_VRSS_PRPR_SIGN
    LowSign,
    /// LWPR_VRSS_PRPR, integer
    LowChange,
    /// BSOP_DATE, YYYYMMDD
    Date,
    /// NEW_MKOP_CLS_CODE: first digit 1 before open, 2 in session, 3 after close, 4 single price; second 0 normal, 1 closing price, …
    MarketPhase,
    /// TRHT_YN: halted
    Halted,
    /// ASKP_RSQN1, integer
    AskSize,
    /// BIDP_RSQN1, integer
    BidSize,
    /// TOTAL_ASKP_RSQN, integer
    AskTotal,
    /// TOTAL_BIDP_RSQN, integer
    BidTotal,
    /// VOL_TNRT, decimal
    Turnover,
    /// PRDY_SMNS_HOUR_ACML_VOL, integer
    YesterdayVolume,
    /// PRDY_SMNS_HOUR_ACML_VOL_RATE, decimal
    YesterdayRate,
    /// HOUR_CLS_CODE: 0 session; A, B, C, D: an expected price, no execution
    Expected,
    /// MRKT_TRTM_CLS_CODE, often empty
    Treatment,
    /// VI_STND_PRC, integer: reference of the volatility interruption
    ViReference,
    /// MARKET_CLS_CODE, since 2026-09-14: 1 pre, 2 regular, 3 after, 5 closing price
    Market,
}

/// Market status of an instrument (장운영정보): halts and volatility interruptions.
pub(super) const STATUS: &str = "H0STMKO0";

/// Fields of a market status; a value may be the text `(null)`, and the last field may be absent.
#[expect(dead_code, reason = "the documented layout as a whole; only what a halt needs is read")]
#[derive(Clone, Copy, Debug)]
pub(super) enum StatusField {
    /// MKSC_SHRN_ISCD
    Code,
    /// TRHT_YN: halted
    Halted,
    /// TR_SUSP_REAS_CNTT: why, in words
    Reason,
    /// MKOP_CLS_CODE
    Phase,
    /// ANTC_MKOP_CLS_CODE
    ExpectedPhase,
    /// MRKT_TRTM_CLS_CODE
    Treatment,
    /// DIVI_APP_CLS_CODE
    DividendClass,
    /// ISCD_STAT_CLS_CODE: 51 administration, 58 halted, …
    Class,
    /// VI_CLS_CODE: N none, else a volatility interruption
    Interrupted,
    /// OVTM_VI_CLS_CODE: the same after hours
    AfterHoursInterrupted,
    /// EXCH_CLS_CODE
    Exchange,
}

/// Fields of an order book that are read; a level's fields stand ten apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum BookField {
    /// MKSC_SHRN_ISCD
    Code = 0,
    /// BSOP_HOUR, HHMMSS
    Time = 1,
    /// ASKP1, integer; ASKP2 to ASKP10 follow
    AskPrice = 3,
    /// BIDP1, integer
    BidPrice = 13,
    /// ASKP_RSQN1, integer, shares
    AskSize = 23,
    /// BIDP_RSQN1, integer, shares
    BidSize = 33,
}

/// One record of a data frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a>(&'a [&'a str]);

impl<'a> Record<'a> {
    pub(super) fn trade(self, field: TradeField) -> &'a str {
        self.0.get(field as usize).copied().unwrap_or_default()
    }

    pub(super) fn status(self, field: StatusField) -> &'a str {
        self.0.get(field as usize).copied().filter(|text| *text != "(null)").unwrap_or_default()
    }

    pub(super) fn book(self, field: BookField) -> &'a str {
        self.0.get(field as usize).copied().unwrap_or_default()
    }
}

/// A data frame, taken apart.
#[derive(Debug)]
pub(super) struct DataFrame<'a> {
    pub(super) encrypted: bool,
    pub(super) tr_id: &'a str,
    width: usize,
    fields: Vec<&'a str>,
}

impl<'a> DataFrame<'a> {
    /// Takes the frame apart; the error is in words.
    pub(super) fn read(text: &'a str) -> Result<Self, String> {
        let mut parts = text.splitn(4, '|');
        let (Some(encrypted), Some(tr_id), Some(count), Some(payload)) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("fewer than four parts".to_owned());
        };
        if !matches!(encrypted, "0" | "1") {
            return Err("the first part is neither 0 nor 1".to_owned());
        }
        let encrypted = encrypted == "1";
        let count: usize = count.parse().ok().filter(|count| *count > 0).ok_or("the number of records is none")?;
        let fields: Vec<&str> = if encrypted { Vec::new() } else { payload.split('^').collect() };
        if !fields.len().is_multiple_of(count) {
            return Err(format!("{} fields for {count} records", fields.len()));
        }
        Ok(Self { encrypted, tr_id, width: fields.len() / count, fields })
    }

    pub(super) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.fields.chunks(self.width.max(1)).map(Record)
    }
}

/// A control message: `{"header":{"tr_id","tr_key","encrypt"},"body":{"rt_cd","msg_cd","msg1","output"}}`, or only a header for `PINGPONG`.
#[derive(Debug, Deserialize)]
pub(super) struct ControlFrame<'a> {
    #[serde(borrow)]
    pub(super) header: Header<'a>,
    #[serde(borrow, default)]
    pub(super) body: Option<Body<'a>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Header<'a> {
    #[serde(borrow)]
    pub(super) tr_id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) tr_key: Option<Cow<'a, str>>,
    /// `PINGPONG`: the server's clock, YYYYMMDDHHMMSS in Korea.
    #[serde(borrow, default)]
    pub(super) datetime: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Body<'a> {
    #[serde(borrow, default)]
    pub(super) msg_cd: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) msg1: Option<Cow<'a, str>>,
}
