//! Instruments of KIS: `search-stock-info` (CTPF1002R) says what an instrument is, `inquire-price` (FHKST01010100) what warnings it has today.
//!
//! Each is asked about one code; so new listings are not found here, and a code that is not known has no name and no row. A paper key has no
//! `search-stock-info` (EGW00213).
//! **Source**: the broker's portal pages of both calls, read 2026-11. The bulk master files are fixed-width
//! texts whose columns those pages do not give.
//!
//! Next: `services/producer/src/candles/reference.rs`.

use super::rest::{PATH, envelope, request};
use crate::candles::malformed;
use crate::krx::{dashed, korean_day};
use crate::master::attribute;
use crate::number::FieldError;
use crate::{CallError, CallRequest, Credentials, Listing, Malformed, Master, MasterQuestion, MasterRows, RestAnswer, Secret};
use marketflow_model::Instrument;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// KIS's side of [`Master`].
#[derive(Debug)]
pub struct KisMaster;

impl Master for KisMaster {
    fn is_whole(&self) -> bool {
        false
    }

    fn questions(&self, instruments: &[Instrument]) -> Vec<MasterQuestion> {
        let both = |of: &Instrument| [MasterQuestion::Instrument(of.clone()), MasterQuestion::Warnings(of.clone())];
        instruments.iter().flat_map(both).collect()
    }

    fn request(&self, question: &MasterQuestion, _: Option<&str>, credentials: &Credentials, pass: &Secret) -> CallRequest {
        let (query, tr_id) = match question {
            MasterQuestion::Warnings(of) => price_query(of),
            MasterQuestion::Instrument(of) => info_query(of.symbol()),
            MasterQuestion::Market(market) => info_query(market),
        };
        request(query, tr_id, credentials, pass)
    }

    /// An answer is about one instrument.
    fn further<'a>(&self, _: &dyn Fn(&'static str) -> Option<&'a str>) -> Option<&'a str> {
        None
    }

    fn read(&self, question: &MasterQuestion, answer: RestAnswer<'_>) -> Result<MasterRows, CallError> {
        let Some(raw) = envelope(answer)?.output else { return Ok(MasterRows::default()) };
        let read = match question {
            MasterQuestion::Instrument(of) => instrument(of, raw),
            MasterQuestion::Warnings(of) => warnings(of, raw),
            MasterQuestion::Market(_) => Ok(None),
        };
        Ok(match read {
            Ok(listing) => MasterRows { listings: listing.into_iter().collect(), malformed: Vec::new() },
            Err(problem) => MasterRows { listings: Vec::new(), malformed: vec![malformed(problem, raw)] },
        })
    }
}

/// The call for an instrument's price and warnings, and its name.
pub(super) fn price_query(instrument: &Instrument) -> (String, &'static str) {
    let code = instrument.symbol();
    (format!("{PATH}/inquire-price?FID_COND_MRKT_DIV_CODE=J&FID_INPUT_ISCD={code}"), "FHKST01010100")
}

fn info_query(code: &str) -> (String, &'static str) {
    (format!("{PATH}/search-stock-info?PRDT_TYPE_CD=300&PDNO={code}"), "CTPF1002R")
}

#[derive(Deserialize)]
struct Info<'a> {
    #[serde(borrow, default)]
    prdt_name: Cow<'a, str>,
    #[serde(borrow, default)]
    mket_id_cd: Cow<'a, str>,
    #[serde(borrow, default)]
    scty_grp_id_cd: Cow<'a, str>,
    #[serde(borrow, default)]
    std_pdno: Cow<'a, str>,
    #[serde(borrow, default)]
    tr_stop_yn: Cow<'a, str>,
    #[serde(borrow, default)]
    admn_item_yn: Cow<'a, str>,
    #[serde(borrow, default)]
    lstg_abol_dt: Cow<'a, str>,
    #[serde(borrow, default)]
    scts_mket_lstg_dt: Cow<'a, str>,
    #[serde(borrow, default)]
    kosdaq_mket_lstg_dt: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Warnings<'a> {
    #[serde(borrow, default)]
    stck_shrn_iscd: Cow<'a, str>,
    #[serde(borrow, default)]
    temp_stop_yn: Cow<'a, str>,
    #[serde(borrow, default)]
    sltr_yn: Cow<'a, str>,
    #[serde(borrow, default)]
    mang_issu_cls_code: Cow<'a, str>,
    #[serde(borrow, default)]
    invt_caful_yn: Cow<'a, str>,
    #[serde(borrow, default)]
    short_over_yn: Cow<'a, str>,
    #[serde(borrow, default)]
    mrkt_warn_cls_code: Cow<'a, str>,
}

pub(super) fn read_output<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, FieldError> {
    serde_json::from_str(raw.get()).map_err(|error| (Malformed::BadField, error.to_string()))
}

fn instrument(instrument: &Instrument, raw: &RawValue) -> Result<Option<Listing>, FieldError> {
    let info: Info<'_> = read_output(raw)?;
    if info.prdt_name.trim().is_empty() {
        return Ok(None);
    }
    let mut listing = Listing::new(instrument.clone());
    listing.name = Some(info.prdt_name.trim().to_owned());
    listing.halted = info.tr_stop_yn == "Y";
    listing.flag(attribute::ADMINISTRATION, info.admn_item_yn == "Y");
    let (market, listed) = match &*info.mket_id_cd {
        "STK" => (Some("KOSPI"), &info.scts_mket_lstg_dt),
        "KSQ" => (Some("KOSDAQ"), &info.kosdaq_mket_lstg_dt),
        "KNX" => (Some("KONEX"), &info.scts_mket_lstg_dt),
        _ => (None, &info.scts_mket_lstg_dt),
    };
    listing.say(attribute::MARKET, market);
    let kind = match &*info.scty_grp_id_cd {
        "ST" => Some("stock"),
        "EF" => Some("etf"),
        "EN" => Some("etn"),
        _ => None,
    };
    listing.say(attribute::KIND, kind);
    listing.say(attribute::ISIN, Some(&*info.std_pdno).filter(|isin| !isin.is_empty()));
    listing.say(attribute::LISTED_ON, dashed(listed));
    listing.delisted_from = korean_day("lstg_abol_dt", &info.lstg_abol_dt)?;
    Ok(Some(listing))
}

fn warnings(instrument: &Instrument, raw: &RawValue) -> Result<Option<Listing>, FieldError> {
    let said: Warnings<'_> = read_output(raw)?;
    if said.stck_shrn_iscd.is_empty() {
        return Ok(None);
    }
    let mut listing = Listing::new(instrument.clone());
    listing.halted = said.temp_stop_yn == "Y";
    listing.flag(attribute::ADMINISTRATION, said.mang_issu_cls_code == "Y");
    listing.flag(attribute::LIQUIDATION, said.sltr_yn == "Y");
    listing.flag(attribute::ATTENTION, said.invt_caful_yn == "Y");
    listing.flag(attribute::OVERHEATED, said.short_over_yn == "Y");
    let warning = match &*said.mrkt_warn_cls_code {
        "01" => Some("caution"),
        "02" => Some("warning"),
        "03" => Some("risk"),
        _ => None,
    };
    listing.say(attribute::WARNING, warning);
    Ok(Some(listing))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(question: &MasterQuestion, output: &str) -> MasterRows {
        let body = format!(r#"{{"output":{output},"rt_cd":"0","msg_cd":"MCA00000","msg1":"ok"}}"#);
        KisMaster.read(question, RestAnswer { status: 200, retry_after: None, body: body.as_bytes() }).unwrap()
    }

    fn samsung() -> Instrument {
        "KRX:005930".parse().unwrap()
    }

    #[test]
    fn an_instrument_takes_two_calls() {
        let questions = KisMaster.questions(&[samsung()]);
        let asked = |question| KisMaster.request(question, None, &Credentials::default(), &Secret::new("t"));
        let told: Vec<_> = questions
            .iter()
            .map(|question| {
                let request = asked(question);
                let tr_id = request.headers.iter().find(|(name, _)| *name == "tr_id").map(|(_, value)| value.expose().to_owned());
                (request.path_and_query, tr_id.unwrap())
            })
            .collect();
        assert_eq!(
            told,
            [
                (format!("{PATH}/search-stock-info?PRDT_TYPE_CD=300&PDNO=005930"), "CTPF1002R".to_owned()),
                (format!("{PATH}/inquire-price?FID_COND_MRKT_DIV_CODE=J&FID_INPUT_ISCD=005930"), "FHKST01010100".to_owned()),
            ]
        );
    }

    #[test]
    fn what_it_is_and_when_it_ends() {
        let output = r#"{"pdno":"00000A005930","prdt_name":"삼성전자보통주","mket_id_cd":"STK","scty_grp_id_cd":"ST","std_pdno":"KR7005930003",
            "tr_stop_yn":"Y","admn_item_yn":"N","lstg_abol_dt":"20261123","scts_mket_lstg_dt":"19750611","kosdaq_mket_lstg_dt":""}"#;
        let rows = ask(&MasterQuestion::Instrument(samsung()), output);
        let listing = &rows.listings[0];
        assert_eq!((listing.name.as_deref(), listing.halted), (Some("삼성전자보통주"), true));
        assert_eq!(listing.delisted_from.unwrap().to_string(), "2026-11-22T15:00:00Z", "midnight in Korea");
        let told: Vec<_> = listing.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(told, ["isin=KR7005930003", "kind=stock", "listed_on=1975-06-11", "market=KOSPI"]);
        for nobody in [r#"{"pdno":"","prdt_name":""}"#, "null"] {
            assert_eq!(ask(&MasterQuestion::Instrument(samsung()), nobody), MasterRows::default());
        }
        let odd = r#"{"prdt_name":"A","lstg_abol_dt":"20261399"}"#;
        assert_eq!(ask(&MasterQuestion::Instrument(samsung()), odd).malformed.len(), 1);
        assert_eq!(ask(&MasterQuestion::Instrument(samsung()), r#"{"prdt_name":7}"#).malformed.len(), 1);
    }

    #[test]
    fn warnings_of_the_day() {
        let of = |output: &str| {
            let rows = ask(&MasterQuestion::Warnings(samsung()), output);
            let listing = rows.listings.first()?.clone();
            let flags: Vec<_> = listing.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
            Some((listing.halted, flags.join(" ")))
        };
        let liquidated = r#"{"stck_shrn_iscd":"005930","temp_stop_yn":"N","sltr_yn":"Y","mang_issu_cls_code":"Y","mrkt_warn_cls_code":"00","short_over_yn":"N"}"#;
        assert_eq!(of(liquidated), Some((false, "administration=yes liquidation=yes".into())));
        let warned =
            r#"{"stck_shrn_iscd":"005930","temp_stop_yn":"Y","mrkt_warn_cls_code":"02","short_over_yn":"Y","invt_caful_yn":"Y"}"#;
        assert_eq!(of(warned), Some((true, "attention=yes overheated=yes warning=warning".into())));
        assert_eq!(of(r#"{"stck_prpr":"0","stck_shrn_iscd":""}"#), None, "a code that is not known");
    }
}
