//! The current price at KIS: `inquire-price` (FHKST01010100), whose warnings `master.rs` reads. Also on paper hosts.
//!
//! **Source**: the broker's portal page, read 2026-11.
//!
//! Next: `services/producer/src/candles/prices.rs`, which asks.

use super::candles::amount;
use super::master::{price_query, read_output};
use super::rest::{envelope, request};
use crate::investors::unreadable;
use crate::number::{FieldError, integer, price};
use crate::prices::{CurrentPrice, Prices, price_or_none, volume};
use crate::{CallError, CallRequest, Credentials, RestAnswer, Secret};
use marketflow_model::Instrument;
use serde::Deserialize;
use std::borrow::Cow;

/// KIS's side of [`Prices`].
#[derive(Debug)]
pub struct KisPrices;

impl Prices for KisPrices {
    fn request(&self, instrument: &Instrument, credentials: &Credentials, pass: &Secret) -> CallRequest {
        let (path_and_query, tr_id) = price_query(instrument);
        request(path_and_query, tr_id, credentials, pass)
    }

    fn read(&self, answer: RestAnswer<'_>) -> Result<Option<CurrentPrice>, CallError> {
        let Some(raw) = envelope(answer)?.output else { return Ok(None) };
        read_output::<Told<'_>>(raw).and_then(Told::price).map_err(unreadable)
    }
}

#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    stck_prpr: Cow<'a, str>,
    #[serde(borrow, default)]
    stck_sdpr: Cow<'a, str>,
    #[serde(borrow, default)]
    stck_oprc: Cow<'a, str>,
    #[serde(borrow, default)]
    stck_hgpr: Cow<'a, str>,
    #[serde(borrow, default)]
    stck_lwpr: Cow<'a, str>,
    #[serde(borrow, default)]
    stck_mxpr: Cow<'a, str>,
    #[serde(borrow, default)]
    stck_llam: Cow<'a, str>,
    #[serde(borrow, default)]
    acml_vol: Cow<'a, str>,
    #[serde(borrow, default)]
    acml_tr_pbmn: Cow<'a, str>,
    #[serde(borrow, default)]
    temp_stop_yn: Cow<'a, str>,
}

impl Told<'_> {
    /// A code that is not known is answered with a price of zero.
    fn price(self) -> Result<Option<CurrentPrice>, FieldError> {
        let Some(last) = price_or_none("stck_prpr", &self.stck_prpr)? else { return Ok(None) };
        Ok(Some(CurrentPrice {
            last: Some(last),
            base: price("stck_sdpr", &self.stck_sdpr)?,
            open: price_or_none("stck_oprc", &self.stck_oprc)?,
            high: price_or_none("stck_hgpr", &self.stck_hgpr)?,
            low: price_or_none("stck_lwpr", &self.stck_lwpr)?,
            upper_limit: price_or_none("stck_mxpr", &self.stck_mxpr)?,
            lower_limit: price_or_none("stck_llam", &self.stck_llam)?,
            volume: volume("acml_vol", &self.acml_vol)?,
            turnover: match self.acml_tr_pbmn.as_ref() {
                "" => None,
                text => Some(amount(integer("acml_tr_pbmn", text)?)?),
            },
            halted: match self.temp_stop_yn.as_ref() {
                "Y" => Some(true),
                "N" => Some(false),
                _ => None,
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> Result<Option<CurrentPrice>, CallError> {
        let body = format!(r#"{{"output":{output},"rt_cd":"0","msg_cd":"MCA00000","msg1":"ok"}}"#);
        KisPrices.read(RestAnswer { status: 200, retry_after: None, body: body.as_bytes() })
    }

    #[test]
    fn the_day_so_far_is_read_and_an_unknown_code_is_none() {
        let told = r#"{"stck_prpr":"128500","prdy_vrss":"0","stck_sdpr":"127500","stck_oprc":"128000","stck_hgpr":"129000","stck_lwpr":"128000",
            "stck_mxpr":"165500","stck_llam":"89500","acml_vol":"3908418","acml_tr_pbmn":"501933000000","temp_stop_yn":"N"}"#;
        let price = read(told).unwrap().unwrap();
        let shown = [price.last, Some(price.base), price.open, price.high, price.low, price.upper_limit, price.lower_limit];
        let shown = shown.map(|price| price.unwrap().to_string());
        assert_eq!(shown, ["128500", "127500", "128000", "129000", "128000", "165500", "89500"]);
        assert_eq!((price.volume.to_string(), price.turnover.unwrap().to_string()), ("3908418".into(), "501933000000".into()));
        assert_eq!(price.halted, Some(false));
        let quiet = r#"{"stck_prpr":"127500","stck_sdpr":"127500","stck_oprc":"0","stck_hgpr":"0","stck_lwpr":"0","acml_vol":"0","temp_stop_yn":"Y"}"#;
        let quiet = read(quiet).unwrap().unwrap();
        assert_eq!((quiet.open, quiet.high, quiet.turnover, quiet.halted), (None, None, None, Some(true)));
        assert_eq!(read(r#"{"stck_prpr":"0","stck_shrn_iscd":""}"#).unwrap(), None);
        for wrong in [r#"{"stck_prpr":"many","stck_sdpr":"1"}"#, r#"{"stck_prpr":"1","stck_sdpr":""}"#, "7"] {
            assert_eq!(read(wrong).unwrap_err().outcome(), "unreadable", "{wrong}");
        }
    }
}
