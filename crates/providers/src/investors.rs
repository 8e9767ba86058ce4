//! Investors' net buying by day (수급, 투자자별 매매동향): how a broker is asked for a stretch of days, and how its answers are read.
//!
//! Pure like the rest: requests out, answers in. The exchange counts every purchase and every sale for one class of investors, so what all classes
//! bought net of an instrument on a day is zero. Brokers tell shares, and money in millions of won (백만원), each rounded by itself.
//!
//! Next: `crates/providers/src/kis/investors.rs`, `crates/providers/src/kiwoom/investors.rs`.

use crate::krx::{self, midnight};
use crate::number::{FieldError, shown};
use crate::{CallError, CallLimits, CallRequest, Credentials, Malformed, RestAnswer, Secret};
use jiff::civil::Date;
use marketflow_model::{Amount, FundFlow, Instrument, InvestorClass, Quantity, Timestamp};
use std::collections::BTreeMap;

/// A broker's investors.
pub trait Investors: Sync {
    /// What one key may ask of the broker, whatever it asks.
    fn limits(&self) -> CallLimits;

    /// Calendar days that one question may span.
    fn days(&self) -> i32;

    /// What has to be asked about a stretch of days to have all of it.
    fn measures(&self) -> &'static [Measure];

    /// The question about the days up to `last`. Brokers cut their answers; what is older is asked for by an earlier `last`.
    fn request(
        &self,
        instrument: &Instrument,
        measure: Measure,
        last: Date,
        credentials: &Credentials,
        pass: &Secret,
    ) -> CallRequest;

    /// Reads the answer to it: the days it shows, whatever was asked for. A day that has not been told yet is left out.
    ///
    /// # Errors
    /// [`CallError`] for anything but the documented shape, whatever the status says.
    fn read(&self, measure: Measure, answer: RestAnswer<'_>) -> Result<InvestorDays, CallError>;
}

/// The investors of a provider's id, where it tells of any.
pub fn investors_of(id: &str) -> Option<&'static dyn Investors> {
    match id {
        "kis" => Some(&crate::kis::KisInvestors),
        "kiwoom" => Some(&crate::kiwoom::KiwoomInvestors),
        _ => None,
    }
}

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Money and shares.
    Both,
    /// Money.
    Amount,
    /// Shares.
    Quantity,
}

/// What a class bought less what it sold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Net {
    /// Won.
    pub amount: Option<Amount>,
    /// Shares.
    pub quantity: Option<Quantity>,
}

/// Net buying by day and class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InvestorDays(BTreeMap<Date, BTreeMap<InvestorClass, Net>>);

impl InvestorDays {
    /// The first day shown.
    pub fn oldest(&self) -> Option<Date> {
        self.0.keys().next().copied()
    }

    /// Adds what another answer tells of the same instrument.
    pub fn merge(&mut self, other: Self) {
        for (date, classes) in other.0 {
            let known = self.0.entry(date).or_default();
            for (class, net) in classes {
                let both = known.entry(class).or_default();
                *both = Net { amount: both.amount.or(net.amount), quantity: both.quantity.or(net.quantity) };
            }
        }
    }

    /// As flows of these days, oldest first.
    pub fn flows(&self, instrument: &Instrument, provider: &str, first: Date, last: Date, received: Timestamp) -> Vec<FundFlow> {
        let mut flows = Vec::new();
        for (date, classes) in self.0.range(first..=last) {
            let (Some(period_start), Some(period_end)) = (midnight(*date), date.tomorrow().ok().and_then(midnight)) else {
                continue;
            };
            flows.extend(classes.iter().map(|(class, net)| FundFlow {
                instrument: instrument.clone(),
                provider: provider.to_owned(),
                investor_class: *class,
                period_start,
                period_end,
                net_amount: net.amount,
                net_quantity: net.quantity,
                currency: "KRW".to_owned(),
                vintage: None,
                receive_time: received,
            }));
        }
        flows
    }

    /// Takes a row: `net` reads what a class bought. A row in which no class has a number has not been told yet.
    pub(crate) fn take(&mut self, date: &str, net: impl Fn(InvestorClass) -> Result<Net, FieldError>) -> Result<(), FieldError> {
        const CLASSES: [InvestorClass; 4] =
            [InvestorClass::Foreign, InvestorClass::Institution, InvestorClass::Individual, InvestorClass::OtherCorporation];
        let bad = || (Malformed::BadTime, format!("no date: {}", shown(date)));
        let date = krx::date(date).ok_or_else(bad)?;
        let mut classes = BTreeMap::new();
        for class in CLASSES {
            let net = net(class)?;
            if net != Net::default() {
                classes.insert(class, net);
            }
        }
        if !classes.is_empty() && self.0.insert(date, classes).is_some() {
            return Err((Malformed::BadField, format!("{date} is there twice")));
        }
        Ok(())
    }
}

/// A signed integer as brokers write it: with leading zeros, with a plus, or with a second minus (`--28837` = −28837). Empty: not told.
pub(crate) fn signed(field: &str, text: &str) -> Result<Option<i64>, FieldError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let number = text.strip_prefix("--").map_or_else(|| text.to_owned(), |digits| format!("-{digits}"));
    let bad = |_| (Malformed::BadNumber, format!("{field}: not an integer: {}", shown(text)));
    number.parse().map(Some).map_err(bad)
}

/// Millions of won, in won.
pub(crate) fn millions(field: &str, text: &str) -> Result<Option<Amount>, FieldError> {
    const MILLION: i128 = 1_000_000;
    let Some(count) = signed(field, text)? else { return Ok(None) };
    let amount = Amount::from_scaled(i128::from(count) * MILLION * 10_i128.pow(Amount::SCALE));
    amount.map(Some).ok_or_else(|| (Malformed::BadNumber, format!("{field}: {count} million won")))
}

/// Shares.
pub(crate) fn shares(field: &str, text: &str) -> Result<Option<Quantity>, FieldError> {
    let Some(count) = signed(field, text)? else { return Ok(None) };
    let quantity = Quantity::from_scaled(i128::from(count) * 10_i128.pow(Quantity::SCALE));
    quantity.map(Some).ok_or_else(|| (Malformed::BadNumber, format!("{field}: {count} shares")))
}

/// A row that cannot be used spoils its answer: what cannot be read is asked for again, and never passed over.
pub(crate) fn unreadable((_, detail): FieldError) -> CallError {
    CallError::Unreadable { detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_brokers_write_them() {
        for (text, number) in [
            ("-00000000000070203", Some(-70_203)),
            ("000000000000039367", Some(39_367)),
            ("+48", Some(48)),
            ("--28837", Some(-28_837)),
            ("0", Some(0)),
            (" ", None),
        ] {
            assert_eq!(signed("n", text), Ok(number), "{text}");
        }
        for bad in ["---1", "1.5", "+-3", "1e3", "9999999999999999999999"] {
            assert!(signed("n", bad).is_err(), "{bad}");
        }
        assert_eq!(millions("n", "-37176").unwrap().unwrap().to_string(), "-37176000000");
        assert_eq!(shares("n", "+797458").unwrap().unwrap().to_string(), "797458");
    }

    #[test]
    fn a_day_in_korea_becomes_flows_of_that_day_and_two_questions_one_row() {
        let day: Date = "2026-11-20".parse().unwrap();
        let net = |amount: Option<&str>, quantity: Option<&str>| Net {
            amount: amount.and_then(|text| millions("a", text).unwrap()),
            quantity: quantity.and_then(|text| shares("q", text).unwrap()),
        };
        let mut days = InvestorDays::default();
        days.take("20261120", |class| Ok(net((class == InvestorClass::Foreign).then_some("12"), None))).unwrap();
        let mut others = InvestorDays::default();
        others.take("20261120", |_| Ok(net(None, Some("-7")))).unwrap();
        others.take("20261119", |_| Ok(Net::default())).unwrap();
        days.merge(others);
        assert_eq!(days.oldest(), Some(day), "what has not been told is no day");
        let flows = days.flows(&"KRX:005930".parse().unwrap(), "kis", day, day, Timestamp::from_seconds(0));
        let told: Vec<_> = flows
            .iter()
            .map(|flow| (flow.investor_class, flow.net_amount.map(|n| n.to_string()), flow.net_quantity.map(|n| n.to_string())))
            .collect();
        assert_eq!(told[0], (InvestorClass::Foreign, Some("12000000".into()), Some("-7".into())));
        assert_eq!(told[1], (InvestorClass::Institution, None, Some("-7".into())));
        assert_eq!(flows.len(), 4);
        assert_eq!(flows[0].period_start, Timestamp::parse("2026-11-19T15:00:00Z").unwrap());
        assert_eq!(flows[0].period_end, Timestamp::parse("2026-11-20T15:00:00Z").unwrap());
        assert!(
            days.flows(
                &"KRX:005930".parse().unwrap(),
                "kis",
                day.tomorrow().unwrap(),
                day.tomorrow().unwrap(),
                Timestamp::from_seconds(0)
            )
            .is_empty()
        );
    }
}
