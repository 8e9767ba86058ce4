//! Daily candles of Kiwoom: `ka10081`, newest first from the day asked for backwards.
//!
//! How many rows an answer has the broker does not say; about 600 are told of. Prices may carry the sign of their change, turnover (`trde_prica`) is
//! in millions of won (백만원). `upd_stkpc_tp` is 0 for prices as they were traded.
//!
//! **Source**: the broker's manual on ka10081, read 2026-11.
//!
//! Next: `services/producer/src/candles/days.rs`, which asks.

use super::parse::unsigned;
use super::rest::{Call, envelope};
use crate::candles::Traded;
use crate::days::{DayRow, DayRows, Days, Stretch};
use crate::investors::millions;
use crate::number::{FieldError, price, quantity};
use crate::{CallError, CallRequest, Credentials, RestAnswer, Secret};
use jiff::civil::Date;
use marketflow_model::{Instrument, Timestamp};
use serde::Deserialize;
use std::borrow::Cow;

/// Kiwoom's side of [`Days`].
#[derive(Debug)]
pub struct KiwoomDays;

impl Days for KiwoomDays {
    fn request(&self, instrument: &Instrument, _: Date, last: Date, _: &Credentials, pass: &Secret) -> CallRequest {
        let call = Call::days(instrument, &last.strftime("%Y%m%d").to_string());
        let headers = call.headers(pass, None);
        CallRequest { path_and_query: call.path.to_owned(), headers, body: Some(call.body) }
    }

    fn read(&self, stretch: &Stretch<'_>, answer: RestAnswer<'_>, received: Timestamp) -> Result<DayRows, CallError> {
        let rows = envelope(answer)?.stk_dt_pole_chart_qry.unwrap_or_default();
        Ok(DayRows::of::<Row<'_>>(rows, stretch, received))
    }
}

#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    dt: Cow<'a, str>,
    #[serde(borrow)]
    cur_prc: Cow<'a, str>,
    #[serde(borrow)]
    open_pric: Cow<'a, str>,
    #[serde(borrow)]
    high_pric: Cow<'a, str>,
    #[serde(borrow)]
    low_pric: Cow<'a, str>,
    #[serde(borrow)]
    trde_qty: Cow<'a, str>,
    #[serde(borrow, default)]
    trde_prica: Cow<'a, str>,
}

impl<'a> DayRow<'a> for Row<'a> {
    fn date(&self) -> Option<&str> {
        Some(&*self.dt).filter(|date| !date.is_empty())
    }

    fn traded(self) -> Result<Traded, FieldError> {
        let volume = quantity("trde_qty", &self.trde_qty)?;
        let close = price("cur_prc", unsigned(&self.cur_prc))?;
        let of = |name: &str, text: &str| if volume.is_zero() { Ok(close) } else { price(name, unsigned(text)) };
        Ok(Traded {
            open: of("open_pric", &self.open_pric)?,
            high: of("high_pric", &self.high_pric)?,
            low: of("low_pric", &self.low_pric)?,
            close,
            volume,
            day_turnover: millions("trde_prica", &self.trde_prica)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use marketflow_model::Feed;

    #[test]
    fn days_are_asked_for_by_the_last_and_read_without_signs() {
        let instrument: Instrument = "KRX:005930".parse().unwrap();
        let (first, last) = ("2026-11-16".parse().unwrap(), "2026-11-20".parse().unwrap());
        let asked = KiwoomDays.request(&instrument, first, last, &Credentials::new([]), &Secret::new("the-token"));
        assert_eq!(asked.body.as_deref(), Some(r#"{"stk_cd":"005930","base_dt":"20261120","upd_stkpc_tp":"0"}"#));
        assert!(asked.headers.iter().any(|(name, value)| *name == "api-id" && value.expose() == "ka10081"));
        assert!(!format!("{asked:?}").contains("the-token"), "secrets are not printed");

        let row = |date: &str, close: &str, volume: &str| {
            format!(
                r#"{{"cur_prc":"{close}","trde_qty":"{volume}","trde_prica":"648525","dt":"{date}","open_pric":"-69800","high_pric":"+70500","low_pric":"-69600","pred_pre":"+600","pred_pre_sig":"2","trde_tern_rt":"+0.16"}}"#
            )
        };
        let rows = [row("20261120", "+70100", "9263135"), row("20261119", "70100", "0"), row("20261113", "70100", "5")].join(",");
        let body = format!(r#"{{"stk_cd":"005930","stk_dt_pole_chart_qry":[{rows}],"return_code":0,"return_msg":"ok"}}"#);
        let (feed, answer) = (Feed::new("kiwoom-days"), RestAnswer { status: 200, retry_after: None, body: body.as_bytes() });
        let stretch = Stretch { instrument: &instrument, feed: &feed, first, last };
        let told = KiwoomDays.read(&stretch, answer, Timestamp::from_seconds(0)).unwrap();
        let candle = &told.candles[&last];
        let prices = [candle.open, candle.high, candle.low, candle.close].map(|price| price.to_string());
        assert_eq!(prices, ["69800", "70500", "69600", "70100"]);
        assert_eq!(candle.turnover.unwrap().to_string(), "648525000000");
        assert_eq!((told.candles.len(), told.quiet, told.malformed.len()), (1, 1, 0));
        assert_eq!(told.oldest, Some("2026-11-19".parse().unwrap()), "what is older was not asked for");
    }
}
