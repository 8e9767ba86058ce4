//! Net buying by class and day of KIS: `investor-trade-by-stock-daily` (FHPTJ04160001, 종목별 투자자매매동향(일별)).
//!
//! It answers newest first from the day asked for backwards, thirty sessions or so, shares and millions of won side by side; numbers may be padded
//! with zeros. Foreigners include those who are not registered (`frgn` = `frgn_reg` + `frgn_nreg`), institutions are the sum of theirs (`orgn`). The
//! shorter `inquire-investor` (FHKST01010900) tells only the last thirty sessions and no other corporations, so nothing would add up to zero. Not
//! on paper hosts.
//!
//! **Source**: the broker's portal page and its public samples, read 2026-11.
//!
//! Next: `services/flow-producer/src/investors.rs`, which asks.

use super::rest::{PATH, envelope, request};
use crate::investors::{InvestorDays, Investors, Measure, Net, millions, shares, unreadable};
use crate::number::FieldError;
use crate::{CallError, CallLimits, CallRequest, Credentials, RestAnswer, Secret};
use jiff::civil::Date;
use marketflow_model::{Instrument, InvestorClass};
use serde::Deserialize;
use std::borrow::Cow;

/// KIS's side of [`Investors`].
#[derive(Debug)]
pub struct KisInvestors;

/// As many weekdays as an answer has rows.
const DAYS: i32 = 42;

impl Investors for KisInvestors {
    fn limits(&self) -> CallLimits {
        super::CALLS
    }

    fn days(&self) -> i32 {
        DAYS
    }

    fn measures(&self) -> &'static [Measure] {
        &[Measure::Both]
    }

    fn request(&self, instrument: &Instrument, _: Measure, last: Date, credentials: &Credentials, pass: &Secret) -> CallRequest {
        let (code, date) = (instrument.symbol(), last.strftime("%Y%m%d"));
        let path_and_query = format!(
            "{PATH}/investor-trade-by-stock-daily?FID_COND_MRKT_DIV_CODE=J&FID_INPUT_ISCD={code}&FID_INPUT_DATE_1={date}&FID_ORG_ADJ_PRC=&FID_ETC_CLS_CODE="
        );
        request(path_and_query, "FHPTJ04160001", credentials, pass)
    }

    fn read(&self, _: Measure, answer: RestAnswer<'_>) -> Result<InvestorDays, CallError> {
        let mut days = InvestorDays::default();
        for raw in envelope(answer)?.output2 {
            let row: Row<'_> =
                serde_json::from_str(raw.get()).map_err(|error| CallError::Unreadable { detail: error.to_string() })?;
            // an empty object fills the answer up
            if let Some(date) = row.stck_bsop_date.as_deref().filter(|date| !date.is_empty()) {
                days.take(date, |class| row.net(class)).map_err(unreadable)?;
            }
        }
        Ok(days)
    }
}

type Text<'a> = Option<Cow<'a, str>>;

#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    stck_bsop_date: Text<'a>,
    frgn_ntby_tr_pbmn: Text<'a>,
    frgn_ntby_qty: Text<'a>,
    orgn_ntby_tr_pbmn: Text<'a>,
    orgn_ntby_qty: Text<'a>,
    prsn_ntby_tr_pbmn: Text<'a>,
    prsn_ntby_qty: Text<'a>,
    etc_corp_ntby_tr_pbmn: Text<'a>,
    /// Both spellings are in use.
    #[serde(alias = "etc_corp_ntby_qty")]
    etc_corp_ntby_vol: Text<'a>,
}

impl Row<'_> {
    fn net(&self, class: InvestorClass) -> Result<Net, FieldError> {
        let (name, amount, quantity) = match class {
            InvestorClass::Foreign => ("frgn", &self.frgn_ntby_tr_pbmn, &self.frgn_ntby_qty),
            InvestorClass::Institution => ("orgn", &self.orgn_ntby_tr_pbmn, &self.orgn_ntby_qty),
            InvestorClass::Individual => ("prsn", &self.prsn_ntby_tr_pbmn, &self.prsn_ntby_qty),
            InvestorClass::OtherCorporation => ("etc_corp", &self.etc_corp_ntby_tr_pbmn, &self.etc_corp_ntby_vol),
            InvestorClass::Unknown | InvestorClass::Total => return Ok(Net::default()),
        };
        Ok(Net {
            amount: millions(name, amount.as_deref().unwrap_or_default())?,
            quantity: shares(name, quantity.as_deref().unwrap_or_default())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kis::{APP_KEY, APP_SECRET};
    use marketflow_model::Timestamp;

    fn read(rows: &str) -> Result<InvestorDays, CallError> {
        let body = format!(r#"{{"output1":{{}},"output2":[{rows}],"rt_cd":"0","msg_cd":"MCA00000","msg1":"ok"}}"#);
        KisInvestors.read(Measure::Both, RestAnswer { status: 200, retry_after: None, body: body.as_bytes() })
    }

    #[test]
    fn a_stretch_is_asked_for_by_its_last_day() {
        let key = Credentials::new([(APP_KEY, Secret::new("the-key")), (APP_SECRET, Secret::new("the-secret"))]);
        let last = "2026-11-20".parse().unwrap();
        let asked = KisInvestors.request(&"KRX:0080G0".parse().unwrap(), Measure::Both, last, &key, &Secret::new("the-pass"));
        assert_eq!(
            asked.path_and_query,
            "/uapi/domestic-stock/v1/quotations/investor-trade-by-stock-daily?FID_COND_MRKT_DIV_CODE=J&FID_INPUT_ISCD=0080G0\
             &FID_INPUT_DATE_1=20261120&FID_ORG_ADJ_PRC=&FID_ETC_CLS_CODE="
        );
        let header = |name| asked.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.expose());
        assert_eq!((header("tr_id"), header("authorization")), (Some("FHPTJ04160001"), Some("Bearer the-pass")));
        assert!(!format!("{asked:?}").contains("the-"), "secrets are not printed");
    }

    #[test]
    fn rows_are_won_and_shares_by_class_and_a_day_not_told_yet_is_none() {
        let told = r#"{"stck_bsop_date":"20261119","stck_clpr":"71000","frgn_ntby_qty":"-00000000000070203","frgn_ntby_tr_pbmn":"-4985",
            "frgn_reg_ntby_qty":"-70000","orgn_ntby_qty":"000000000000039367","orgn_ntby_tr_pbmn":"2795","prsn_ntby_qty":"30836",
            "prsn_ntby_tr_pbmn":"2190","etc_corp_ntby_vol":"0","etc_corp_ntby_tr_pbmn":"0"}"#;
        let today =
            r#"{"stck_bsop_date":"20261120","frgn_ntby_qty":"","frgn_ntby_tr_pbmn":"","orgn_ntby_qty":"","prsn_ntby_qty":""}"#;
        let days = read(&format!("{today},{told},{{}}")).unwrap();
        let day: Date = "2026-11-19".parse().unwrap();
        let flows = days.flows(&"KRX:005930".parse().unwrap(), "kis", day, day.tomorrow().unwrap(), Timestamp::from_seconds(0));
        let told: Vec<_> =
            flows.iter().map(|f| (f.net_amount.unwrap().to_string(), f.net_quantity.unwrap().to_string())).collect();
        let expected = [("-4985000000", "-70203"), ("2795000000", "39367"), ("2190000000", "30836"), ("0", "0")];
        assert_eq!(told, expected.map(|(a, q)| (a.to_owned(), q.to_owned())));
        let quantities: i128 = flows.iter().map(|flow| flow.net_quantity.unwrap().scaled()).sum();
        assert_eq!(quantities, 0, "what is bought is sold");
    }

    #[test]
    fn a_row_that_cannot_be_used_spoils_the_answer() {
        let row = |qty: &str, date: &str| format!(r#"{{"stck_bsop_date":"{date}","frgn_ntby_qty":"{qty}"}}"#);
        for rows in [row("many", "20261119"), row("1", "2026111"), format!("{0},{0}", row("1", "20261119")), "7".to_owned()] {
            assert_eq!(read(&rows).unwrap_err().outcome(), "unreadable", "{rows}");
        }
        assert_eq!(read("").unwrap(), InvestorDays::default(), "an unknown code has no rows");
        let refused = br#"{"rt_cd":"1","msg_cd":"EGW00213","msg1":"paper"}"#;
        let answer = RestAnswer { status: 500, retry_after: None, body: refused };
        assert_eq!(KisInvestors.read(Measure::Both, answer).unwrap_err().outcome(), "refused");
    }
}
