//! The current price at Kiwoom: `ka10001`, an instrument's basic facts. Prices carry the sign of their change; there is no turnover.
//!
//! **Source**: the broker's manual on ka10001, read 2026-11; in its example the values stand against other names, so only the list of fields counts.
//!
//! Next: `services/producer/src/candles/prices.rs`, which asks.

use super::parse::unsigned;
use super::rest::{Call, envelope};
use crate::investors::unreadable;
use crate::number::{FieldError, price};
use crate::prices::{CurrentPrice, Prices, price_or_none, volume};
use crate::{CallError, CallRequest, Credentials, RestAnswer, Secret, excerpt};
use marketflow_model::Instrument;
use serde::Deserialize;
use std::borrow::Cow;

/// Kiwoom's side of [`Prices`].
#[derive(Debug)]
pub struct KiwoomPrices;

impl Prices for KiwoomPrices {
    fn request(&self, instrument: &Instrument, _: &Credentials, pass: &Secret) -> CallRequest {
        let call = Call::basics(instrument);
        let headers = call.headers(pass, None);
        CallRequest { path_and_query: call.path.to_owned(), headers, body: Some(call.body) }
    }

    fn read(&self, answer: RestAnswer<'_>) -> Result<Option<CurrentPrice>, CallError> {
        let body = answer.body;
        // An unknown code is refused (1902).
        envelope(answer)?;
        let told: Told<'_> = serde_json::from_slice(body)
            .map_err(|error| CallError::Unreadable { detail: format!("{error}: {}", excerpt(body)) })?;
        told.price().map_err(unreadable)
    }
}

#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow, default)]
    cur_prc: Cow<'a, str>,
    #[serde(borrow, default)]
    base_pric: Cow<'a, str>,
    #[serde(borrow, default)]
    open_pric: Cow<'a, str>,
    #[serde(borrow, default)]
    high_pric: Cow<'a, str>,
    #[serde(borrow, default)]
    low_pric: Cow<'a, str>,
    #[serde(borrow, default)]
    upl_pric: Cow<'a, str>,
    #[serde(borrow, default)]
    lst_pric: Cow<'a, str>,
    #[serde(borrow, default)]
    trde_qty: Cow<'a, str>,
}

impl Told<'_> {
    fn price(self) -> Result<Option<CurrentPrice>, FieldError> {
        Ok(Some(CurrentPrice {
            last: price_or_none("cur_prc", &self.cur_prc)?,
            base: price("base_pric", unsigned(&self.base_pric))?,
            open: price_or_none("open_pric", &self.open_pric)?,
            high: price_or_none("high_pric", &self.high_pric)?,
            low: price_or_none("low_pric", &self.low_pric)?,
            upper_limit: price_or_none("upl_pric", &self.upl_pric)?,
            lower_limit: price_or_none("lst_pric", &self.lst_pric)?,
            volume: volume("trde_qty", &self.trde_qty)?,
            turnover: None,
            halted: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Option<CurrentPrice>, CallError> {
        KiwoomPrices.read(RestAnswer { status: 200, retry_after: None, body: body.as_bytes() })
    }

    #[test]
    fn the_day_so_far_is_read_without_signs_and_an_unknown_code_is_refused() {
        let told = r#"{"stk_cd":"005930","stk_nm":"삼성전자","base_pric":"70600","upl_pric":"+91700","lst_pric":"-49500","open_pric":"-70500",
            "high_pric":"+70900","low_pric":"-69900","cur_prc":"-70000","trde_qty":"13456789","return_code":0,"return_msg":"ok"}"#;
        let price = read(told).unwrap().unwrap();
        let shown = [price.last, Some(price.base), price.open, price.high, price.low, price.upper_limit, price.lower_limit];
        assert_eq!(
            shown.map(|price| price.unwrap().to_string()),
            ["70000", "70600", "70500", "70900", "69900", "91700", "49500"]
        );
        assert_eq!((price.volume.to_string(), price.turnover), ("13456789".into(), None));
        let early =
            read(r#"{"stk_cd":"005930","base_pric":"70600","cur_prc":"","trde_qty":"0","return_code":0}"#).unwrap().unwrap();
        assert_eq!((early.last, early.open, early.volume.is_zero()), (None, None, true));
        assert_eq!(read(r#"{"return_code":2,"return_msg":"[1902:종목 정보가 없습니다]"}"#).unwrap_err().outcome(), "refused");
        assert_eq!(read(r#"{"return_code":0,"base_pric":""}"#).unwrap_err().outcome(), "unreadable");
    }
}
