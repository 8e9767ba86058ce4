//! Instruments of Kiwoom: the lists (`ka10099`) of KOSPI, KOSDAQ and funds hold every one that may be traded.
//!
//! **Source**: the broker's manual on ka10099, read 2026-11. The real rows' `state` may join several words by `|` (unverified), so words are looked for
//! in it.
//!
//! Next: `services/producer/src/candles/reference.rs`.

use super::PROVIDER;
use super::rest::{Call, envelope, further};
use crate::candles::malformed;
use crate::krx::dashed;
use crate::master::attribute;
use crate::number::{FieldError, shown};
use crate::{CallError, CallRequest, Credentials, Listing, Malformed, Master, MasterQuestion, MasterRows, RestAnswer, Secret};
use marketflow_model::Instrument;
use serde::Deserialize;
use std::borrow::Cow;

/// Kiwoom's side of [`Master`].
#[derive(Debug)]
pub struct KiwoomMaster;

/// KOSPI, KOSDAQ, ETF.
const MARKETS: [&str; 3] = ["0", "10", "8"];

impl Master for KiwoomMaster {
    fn is_whole(&self) -> bool {
        true
    }

    fn questions(&self, _: &[Instrument]) -> Vec<MasterQuestion> {
        MARKETS.map(MasterQuestion::Market).to_vec()
    }

    fn request(&self, question: &MasterQuestion, further: Option<&str>, _: &Credentials, pass: &Secret) -> CallRequest {
        let market = match question {
            MasterQuestion::Market(market) => market,
            MasterQuestion::Instrument(_) | MasterQuestion::Warnings(_) => MARKETS[0],
        };
        let call = Call::listings(market);
        CallRequest { path_and_query: call.path.to_owned(), headers: call.headers(pass, further), body: Some(call.body) }
    }

    fn further<'a>(&self, header: &dyn Fn(&'static str) -> Option<&'a str>) -> Option<&'a str> {
        further(header)
    }

    fn read(&self, _: &MasterQuestion, answer: RestAnswer<'_>) -> Result<MasterRows, CallError> {
        let mut rows = MasterRows::default();
        for raw in envelope(answer)?.list.unwrap_or_default() {
            match listing(raw.get()) {
                Ok(listing) => rows.listings.push(listing),
                Err(problem) => rows.malformed.push(malformed(problem, raw)),
            }
        }
        Ok(rows)
    }
}

#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, rename = "auditInfo", default)]
    audit: Cow<'a, str>,
    #[serde(borrow, default)]
    state: Cow<'a, str>,
    #[serde(borrow, rename = "orderWarning", default)]
    warning: Cow<'a, str>,
    #[serde(borrow, rename = "marketCode", default)]
    market: Cow<'a, str>,
    #[serde(borrow, rename = "regDay", default)]
    listed: Cow<'a, str>,
}

fn listing(row: &str) -> Result<Listing, FieldError> {
    let row: Row<'_> = serde_json::from_str(row).map_err(|error| (Malformed::BadField, error.to_string()))?;
    let instrument = Instrument::new(PROVIDER.venue, &row.code).ok().filter(|instrument| (PROVIDER.accepts)(instrument));
    let instrument = instrument.ok_or_else(|| (Malformed::BadField, format!("code: no short code: {}", shown(&row.code))))?;
    let mut listing = Listing::new(instrument);
    listing.name = Some(row.name.trim().to_owned());
    listing.halted = row.state.contains("거래정지") || row.audit.contains("거래정지");
    listing.flag(attribute::ADMINISTRATION, row.state.contains("관리종목") || row.audit.contains("관리종목"));
    listing.flag(attribute::ATTENTION, row.audit.contains("투자주의환기"));
    listing.flag(attribute::LIQUIDATION, row.warning == "2");
    listing.flag(attribute::OVERHEATED, row.warning == "3");
    let warning = match &*row.warning {
        "1" => Some("caution"),
        "4" => Some("risk"),
        "5" => Some("warning"),
        _ => None,
    };
    listing.say(attribute::WARNING, warning);
    let (market, kind) = match &*row.market {
        "0" => (Some("KOSPI"), Some("stock")),
        "10" => (Some("KOSDAQ"), Some("stock")),
        "50" => (Some("KONEX"), Some("stock")),
        "8" => (Some("KOSPI"), Some("etf")),
        "60" => (Some("KOSPI"), Some("etn")),
        "3" => (Some("KOSPI"), Some("elw")),
        "6" => (Some("KOSPI"), Some("reit")),
        "4" => (Some("KOSPI"), Some("fund")),
        _ => (None, None),
    };
    listing.say(attribute::MARKET, market);
    listing.say(attribute::KIND, kind);
    listing.say(attribute::LISTED_ON, dashed(&row.listed));
    Ok(listing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_what_is_there_and_what_may_not_be_traded() {
        let body = r#"{"list":[
            {"code":"005930","name":"삼성전자","auditInfo":"정상","regDay":"19750611","marketCode":"0","state":"증거금20%|담보대출","orderWarning":"0"},
            {"code":"123456","name":"정지 ","auditInfo":"거래정지","marketCode":"10","state":"관리종목|증거금100%","orderWarning":"2"},
            {"code":"0080G0","name":"펀드","auditInfo":"투자주의환기종목","regDay":"","marketCode":"8","state":"","orderWarning":"1"},
            {"code":"1234","name":"너무 짧음"}
        ],"return_code":0,"return_msg":""}"#;
        let answer = RestAnswer { status: 200, retry_after: None, body: body.as_bytes() };
        let rows = KiwoomMaster.read(&MasterQuestion::Market("0"), answer).unwrap();
        let told: Vec<_> = rows
            .listings
            .iter()
            .map(|of| {
                let attributes: Vec<_> = of.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
                (of.instrument.symbol(), of.name.as_deref().unwrap_or_default(), of.halted, attributes.join(" "))
            })
            .collect();
        assert_eq!(
            told,
            [
                ("005930", "삼성전자", false, "kind=stock listed_on=1975-06-11 market=KOSPI".to_owned()),
                ("123456", "정지", true, "administration=yes kind=stock liquidation=yes market=KOSDAQ".to_owned()),
                ("0080G0", "펀드", false, "attention=yes kind=etf market=KOSPI warning=caution".to_owned()),
            ]
        );
        assert_eq!(rows.malformed.len(), 1);
    }

    #[test]
    fn three_lists_hold_every_instrument() {
        let questions = KiwoomMaster.questions(&[]);
        let bodies: Vec<_> = questions
            .iter()
            .map(|question| KiwoomMaster.request(question, None, &Credentials::default(), &Secret::new("t")).body.unwrap())
            .collect();
        assert_eq!(bodies, [r#"{"mrkt_tp":"0"}"#, r#"{"mrkt_tp":"10"}"#, r#"{"mrkt_tp":"8"}"#]);
        assert!(KiwoomMaster.is_whole());
    }
}
