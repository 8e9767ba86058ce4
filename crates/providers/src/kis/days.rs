//! Daily candles of KIS: `inquire-daily-itemchartprice` (FHKST03010100), a hundred rows, newest first.
//!
//! `FID_ORG_ADJ_PRC` is 1 for prices as they were traded here, and 0 in the older `inquire-daily-price`. A day without a trade has volume 0 and no
//! open. Also on paper hosts.
//!
//! **Source**: the broker's portal page and its public samples, read 2026-11.
//!
//! Next: `services/producer/src/candles/days.rs`, which asks.

use super::candles::amount;
use super::rest::{PATH, envelope, request};
use crate::candles::Traded;
use crate::days::{DayRow, DayRows, Days, Stretch};
use crate::number::{FieldError, integer, price, quantity};
use crate::{CallError, CallRequest, Credentials, Malformed, RestAnswer, Secret};
use jiff::civil::Date;
use marketflow_model::{Instrument, Timestamp};
use serde::Deserialize;
use std::borrow::Cow;

/// KIS's side of [`Days`].
#[derive(Debug)]
pub struct KisDays;

impl Days for KisDays {
    fn request(&self, instrument: &Instrument, first: Date, last: Date, credentials: &Credentials, pass: &Secret) -> CallRequest {
        let (code, first, last) = (instrument.symbol(), first.strftime("%Y%m%d"), last.strftime("%Y%m%d"));
        let path_and_query = format!(
            "{PATH}/inquire-daily-itemchartprice?FID_COND_MRKT_DIV_CODE=J&FID_INPUT_ISCD={code}&FID_INPUT_DATE_1={first}&FID_INPUT_DATE_2={last}&FID_PERIOD_DIV_CODE=D&FID_ORG_ADJ_PRC=1"
        );
        request(path_and_query, "FHKST03010100", credentials, pass)
    }

    fn read(&self, stretch: &Stretch<'_>, answer: RestAnswer<'_>, received: Timestamp) -> Result<DayRows, CallError> {
        Ok(DayRows::of::<Row<'_>>(envelope(answer)?.output2, stretch, received))
    }
}

type Text<'a> = Option<Cow<'a, str>>;

/// A row of an answer; an empty object fills it up.
#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    stck_bsop_date: Text<'a>,
    stck_oprc: Text<'a>,
    stck_hgpr: Text<'a>,
    stck_lwpr: Text<'a>,
    stck_clpr: Text<'a>,
    acml_vol: Text<'a>,
    acml_tr_pbmn: Text<'a>,
}

impl<'a> DayRow<'a> for Row<'a> {
    fn date(&self) -> Option<&str> {
        self.stck_bsop_date.as_deref().filter(|date| !date.is_empty())
    }

    fn traded(self) -> Result<Traded, FieldError> {
        let field = |name: &'static str, text: Text<'_>| {
            text.map(Cow::into_owned).ok_or_else(|| (Malformed::BadField, format!("{name} is missing")))
        };
        let volume = quantity("acml_vol", &field("acml_vol", self.acml_vol)?)?;
        let close = price("stck_clpr", &field("stck_clpr", self.stck_clpr)?)?;
        // Without a trade there is no open, high or low to be read.
        let of = |name: &'static str, text| if volume.is_zero() { Ok(close) } else { price(name, &field(name, text)?) };
        Ok(Traded {
            open: of("stck_oprc", self.stck_oprc)?,
            high: of("stck_hgpr", self.stck_hgpr)?,
            low: of("stck_lwpr", self.stck_lwpr)?,
            close,
            volume,
            day_turnover: match self.acml_tr_pbmn.filter(|text| !text.is_empty()) {
                Some(text) => Some(amount(integer("acml_tr_pbmn", &text)?)?),
                None => None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kis::{APP_KEY, APP_SECRET};
    use marketflow_model::Feed;

    fn read(rows: &str) -> Result<DayRows, CallError> {
        let body = format!(r#"{{"output1":{{}},"output2":[{rows}],"rt_cd":"0","msg_cd":"MCA00000","msg1":"ok"}}"#);
        let (instrument, feed) = ("KRX:005930".parse().unwrap(), Feed::new("kis-days"));
        let (first, last) = ("2026-11-16".parse().unwrap(), "2026-11-20".parse().unwrap());
        let stretch = Stretch { instrument: &instrument, feed: &feed, first, last };
        KisDays.read(&stretch, RestAnswer { status: 200, retry_after: None, body: body.as_bytes() }, Timestamp::from_seconds(0))
    }

    fn row(date: &str, open: &str, volume: &str) -> String {
        format!(
            r#"{{"stck_bsop_date":"{date}","stck_clpr":"70100","stck_oprc":"{open}","stck_hgpr":"70500","stck_lwpr":"69600","acml_vol":"{volume}","acml_tr_pbmn":"648525310000","flng_cls_code":"00","prtt_rate":"0.00","mod_yn":"N"}}"#
        )
    }

    #[test]
    fn days_are_asked_for_as_they_were_traded() {
        let key = Credentials::new([(APP_KEY, Secret::new("the-key")), (APP_SECRET, Secret::new("the-secret"))]);
        let (first, last) = ("2026-06-01".parse().unwrap(), "2026-11-20".parse().unwrap());
        let asked = KisDays.request(&"KRX:0080G0".parse().unwrap(), first, last, &key, &Secret::new("the-pass"));
        assert_eq!(
            asked.path_and_query,
            "/uapi/domestic-stock/v1/quotations/inquire-daily-itemchartprice?FID_COND_MRKT_DIV_CODE=J&FID_INPUT_ISCD=0080G0\
             &FID_INPUT_DATE_1=20260601&FID_INPUT_DATE_2=20261120&FID_PERIOD_DIV_CODE=D&FID_ORG_ADJ_PRC=1"
        );
        assert!(asked.headers.iter().any(|(name, value)| *name == "tr_id" && value.expose() == "FHKST03010100"));
        assert!(!format!("{asked:?}").contains("the-"), "secrets are not printed");
    }

    #[test]
    fn rows_are_candles_of_a_day_that_begins_at_midnight_in_korea() {
        let told = read(&[row("20261120", "69800", "9263135"), row("20261119", "0", "0"), "{}".into()].join(",")).unwrap();
        let candle = &told.candles[&"2026-11-20".parse().unwrap()];
        assert_eq!((candle.interval.to_string(), candle.open_time.to_string()), ("1d".into(), "2026-11-19T15:00:00Z".into()));
        let prices = [candle.open, candle.high, candle.low, candle.close].map(|price| price.to_string());
        assert_eq!(prices, ["69800", "70500", "69600", "70100"]);
        assert_eq!(
            (candle.volume.unwrap().to_string(), candle.turnover.unwrap().to_string()),
            ("9263135".into(), "648525310000".into())
        );
        assert_eq!((told.candles.len(), told.quiet, told.malformed.len()), (1, 1, 0), "a halted day has no candle");
        assert_eq!(told.oldest, Some("2026-11-19".parse().unwrap()));
    }

    #[test]
    fn what_was_not_asked_for_is_left_and_what_cannot_be_used_is_kept() {
        let rows = [
            row("20261123", "69800", "1"),
            row("20261113", "69800", "1"),
            row("20261120", "70600", "1"),
            row("2026112", "69800", "1"),
            row("20261118", "69800", "many"),
            row("20261117", "69800", "1"),
            row("20261117", "69900", "1"),
        ];
        let told = read(&rows.join(",")).unwrap();
        assert_eq!(told.candles.keys().map(Date::to_string).collect::<Vec<_>>(), ["2026-11-17"]);
        let reasons: Vec<_> = told.malformed.iter().map(|row| row.reason).collect();
        assert_eq!(reasons, [Malformed::BadNumber, Malformed::BadTime, Malformed::BadNumber, Malformed::BadField]);
        assert_eq!(read("").unwrap(), DayRows::default(), "an unknown code has no rows");
    }
}
