//! Net buying by class and day of Kiwoom: `ka10059` (종목별투자자기관별요청), asked once for money and once for shares.
//!
//! It answers newest first from the day asked for backwards; how many rows an answer has the broker does not say, what is
//! older is asked for by its date. Money is in millions of won. Foreigners are registered (`frgnr_invsr`) and resident ones (`natfor`, 내외국인), which the exchange adds up
//! as 외국인합계: only with both do all classes add up to zero. Institutions are the sum of theirs (`orgn`), with 국가.
//!
//! **Source**: the broker's manual on ka10059 and ka10061, read 2026-11.
//!
//! Next: `services/flow-producer/src/investors.rs`, which asks.

use super::rest::{Call, envelope};
use crate::investors::{InvestorDays, Investors, Measure, Net, millions, shares, unreadable};
use crate::number::FieldError;
use crate::{CallError, CallLimits, CallRequest, Credentials, Malformed, RestAnswer, Secret};
use jiff::civil::Date;
use marketflow_model::{Instrument, InvestorClass};
use serde::Deserialize;
use std::borrow::Cow;

/// Kiwoom's side of [`Investors`].
#[derive(Debug)]
pub struct KiwoomInvestors;

/// A quarter of a year.
const DAYS: i32 = 91;

impl Investors for KiwoomInvestors {
    fn limits(&self) -> CallLimits {
        super::CALLS
    }

    fn days(&self) -> i32 {
        DAYS
    }

    fn measures(&self) -> &'static [Measure] {
        &[Measure::Amount, Measure::Quantity]
    }

    fn request(&self, instrument: &Instrument, measure: Measure, last: Date, _: &Credentials, pass: &Secret) -> CallRequest {
        let call = Call::investors(instrument, &last.strftime("%Y%m%d").to_string(), measure == Measure::Quantity);
        let headers = call.headers(pass, None);
        CallRequest { path_and_query: call.path.to_owned(), headers, body: Some(call.body) }
    }

    fn read(&self, measure: Measure, answer: RestAnswer<'_>) -> Result<InvestorDays, CallError> {
        let mut days = InvestorDays::default();
        for raw in envelope(answer)?.stk_invsr_orgn.unwrap_or_default() {
            let row: Row<'_> =
                serde_json::from_str(raw.get()).map_err(|error| CallError::Unreadable { detail: error.to_string() })?;
            days.take(&row.dt, |class| row.net(class, measure)).map_err(unreadable)?;
        }
        Ok(days)
    }
}

#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    dt: Cow<'a, str>,
    #[serde(borrow)]
    ind_invsr: Cow<'a, str>,
    #[serde(borrow)]
    frgnr_invsr: Cow<'a, str>,
    #[serde(borrow)]
    orgn: Cow<'a, str>,
    #[serde(borrow)]
    etc_corp: Cow<'a, str>,
    #[serde(borrow, default)]
    natfor: Cow<'a, str>,
}

impl Row<'_> {
    fn net(&self, class: InvestorClass, measure: Measure) -> Result<Net, FieldError> {
        let net = |name: &str, text: &str| match measure {
            Measure::Quantity => Ok(Net { quantity: shares(name, text)?, ..Net::default() }),
            Measure::Both | Measure::Amount => Ok(Net { amount: millions(name, text)?, ..Net::default() }),
        };
        match class {
            InvestorClass::Foreign => sum(net("frgnr_invsr", &self.frgnr_invsr)?, net("natfor", &self.natfor)?),
            InvestorClass::Institution => net("orgn", &self.orgn),
            InvestorClass::Individual => net("ind_invsr", &self.ind_invsr),
            InvestorClass::OtherCorporation => net("etc_corp", &self.etc_corp),
            InvestorClass::Unknown | InvestorClass::Total => Ok(Net::default()),
        }
    }
}

/// Both together; what is not told adds nothing.
fn sum(a: Net, b: Net) -> Result<Net, FieldError> {
    let out_of_range = || (Malformed::BadNumber, "foreigners: out of range".to_owned());
    let amount = match (a.amount, b.amount) {
        (Some(a), Some(b)) => Some(a.checked_add(b).ok_or_else(out_of_range)?),
        (a, b) => a.or(b),
    };
    let quantity = match (a.quantity, b.quantity) {
        (Some(a), Some(b)) => Some(a.checked_add(b).ok_or_else(out_of_range)?),
        (a, b) => a.or(b),
    };
    Ok(Net { amount, quantity })
}

#[cfg(test)]
mod tests {
    use super::*;
    use marketflow_model::Timestamp;

    fn read(measure: Measure, rows: &str) -> Result<InvestorDays, CallError> {
        let body = format!(r#"{{"stk_invsr_orgn":[{rows}],"return_code":0,"return_msg":"ok"}}"#);
        KiwoomInvestors.read(measure, RestAnswer { status: 200, retry_after: None, body: body.as_bytes() })
    }

    const ROW: &str = r#"{"dt":"20261119","cur_prc":"+61300","flu_rt":"+698","ind_invsr":"1584","frgnr_invsr":"--61780","orgn":"60195",
        "fnnc_invt":"25514","etc_fnnc":"34681","etc_corp":"0","natfor":"1"}"#;

    #[test]
    fn money_and_shares_are_two_questions_and_classes_add_up_to_zero() {
        let instrument: Instrument = "KRX:005930".parse().unwrap();
        let last = "2026-11-20".parse().unwrap();
        let asked =
            |measure| KiwoomInvestors.request(&instrument, measure, last, &Credentials::default(), &Secret::new("the-pass"));
        let money = asked(Measure::Amount);
        assert_eq!(money.path_and_query, "/api/dostk/stkinfo");
        assert_eq!(
            money.body.as_deref(),
            Some(r#"{"dt":"20261120","stk_cd":"005930","amt_qty_tp":"1","trde_tp":"0","unit_tp":"1"}"#)
        );
        let shares = asked(Measure::Quantity);
        assert!(shares.body.as_deref().unwrap().contains(r#""amt_qty_tp":"2""#));
        let header = |name| shares.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.expose());
        assert_eq!((header("api-id"), header("authorization")), (Some("ka10059"), Some("Bearer the-pass")));

        let mut days = read(Measure::Amount, ROW).unwrap();
        days.merge(read(Measure::Quantity, ROW).unwrap());
        let day = "2026-11-19".parse().unwrap();
        let flows = days.flows(&instrument, "kiwoom", day, day, Timestamp::from_seconds(0));
        let told: Vec<_> =
            flows.iter().map(|f| (f.net_amount.unwrap().to_string(), f.net_quantity.unwrap().to_string())).collect();
        let expected = [("-61779000000", "-61779"), ("60195000000", "60195"), ("1584000000", "1584"), ("0", "0")];
        assert_eq!(told, expected.map(|(a, q)| (a.to_owned(), q.to_owned())));
        assert_eq!(flows.iter().map(|flow| flow.net_amount.unwrap().scaled()).sum::<i128>(), 0);
    }

    #[test]
    fn what_is_not_told_is_no_day_and_what_cannot_be_read_spoils_the_answer() {
        let untold = r#"{"dt":"20261120","ind_invsr":"","frgnr_invsr":"","orgn":"","etc_corp":"","natfor":""}"#;
        assert_eq!(read(Measure::Amount, untold).unwrap(), InvestorDays::default());
        for bad in [ROW.replace("1584", "1,584"), ROW.replace("\"orgn\"", "\"organ\""), format!("{ROW},{ROW}")] {
            assert_eq!(read(Measure::Amount, &bad).unwrap_err().outcome(), "unreadable", "{bad}");
        }
        let none = RestAnswer { status: 200, retry_after: None, body: br#"{"return_code":20,"return_msg":"none"}"# };
        assert_eq!(KiwoomInvestors.read(Measure::Amount, none).unwrap(), InvestorDays::default());
    }
}
