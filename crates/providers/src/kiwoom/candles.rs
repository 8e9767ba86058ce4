//! One-minute candles of Kiwoom: `ka10080`, today and past days alike.
//!
//! It answers newest first from the day asked for backwards, over days, with the running minute on top; so a session is one question, and as many
//! calls as it takes to reach back to its open. How many rows an answer has the broker does not say: about 900 are told of, more than two sessions,
//! so one call does. Prices carry the sign of their change, there is no turnover, and a minute without a trade has no row. An unknown code is
//! refused (1902), no data is `return_code` 20.
//!
//! **Source**: the broker's manual on ka10080, read 2026-11; the limit of a call's own (two within two seconds) is what its customers measured.
//!
//! Next: `services/producer/src/candles/client.rs`, which asks.

use super::parse::unsigned;
use super::rest::{self, Call, envelope};
use crate::candles::{CandleRow, Traded};
use crate::krx::{korean_date, korean_time};
use crate::number::{FieldError, price, quantity};
use crate::{CallError, CallLimits, CallRequest, CandleCall, CandlePage, CandleRows, Candles, Credentials, RestAnswer, Secret};
use marketflow_model::{Amount, Feed, Instrument, Session, Timestamp};
use serde::Deserialize;
use std::borrow::Cow;

/// Kiwoom's side of [`Candles`].
#[derive(Debug)]
pub struct KiwoomCandles;

impl Candles for KiwoomCandles {
    fn limits(&self) -> CallLimits {
        super::CALLS
    }

    fn pages(&self, session: &Session, from: Timestamp, to: Timestamp, is_today: bool) -> Vec<CandlePage> {
        let call = if is_today { CandleCall::Today } else { CandleCall::Past };
        let (from, to) = (from.max(session.open), to.min(session.last_minute_close()));
        CandlePage::cut(call, from, to, u16::MAX)
    }

    fn request(
        &self,
        instrument: &Instrument,
        page: &CandlePage,
        further: Option<&str>,
        _: &Credentials,
        pass: &Secret,
    ) -> CallRequest {
        let call = Call::minutes(instrument, &korean_date(page.last()));
        let headers = call.headers(pass, further);
        CallRequest { path_and_query: call.path.to_owned(), headers, body: Some(call.body) }
    }

    fn further<'a>(&self, header: &dyn Fn(&'static str) -> Option<&'a str>) -> Option<&'a str> {
        rest::further(header)
    }

    fn read(
        &self,
        instrument: &Instrument,
        feed: &Feed,
        page: &CandlePage,
        _: Option<Amount>,
        answer: RestAnswer<'_>,
        received: Timestamp,
    ) -> Result<CandleRows, CallError> {
        let rows = envelope(answer)?.stk_min_pole_chart_qry.unwrap_or_default();
        Ok(CandleRows::of_page::<Row<'_>>(rows, page, instrument, feed, None, received))
    }
}

#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    cur_prc: Cow<'a, str>,
    #[serde(borrow)]
    trde_qty: Cow<'a, str>,
    #[serde(borrow)]
    cntr_tm: Cow<'a, str>,
    #[serde(borrow)]
    open_pric: Cow<'a, str>,
    #[serde(borrow)]
    high_pric: Cow<'a, str>,
    #[serde(borrow)]
    low_pric: Cow<'a, str>,
}

impl<'a> CandleRow<'a> for Row<'a> {
    fn minute(&self) -> Result<Option<Timestamp>, FieldError> {
        let (date, time) = self.cntr_tm.split_at_checked(8).unwrap_or((&self.cntr_tm, ""));
        korean_time("cntr_tm", date, time).map(Some)
    }

    fn traded(self) -> Result<Traded, FieldError> {
        let of = |name: &str, text: &str| price(name, unsigned(text));
        Ok(Traded {
            open: of("open_pric", &self.open_pric)?,
            high: of("high_pric", &self.high_pric)?,
            low: of("low_pric", &self.low_pric)?,
            close: of("cur_prc", &self.cur_prc)?,
            volume: quantity("trde_qty", &self.trde_qty)?,
            day_turnover: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use marketflow_model::Calendar;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(&format!("2026-11-20T{text}+09:00")).unwrap()
    }

    fn instrument() -> Instrument {
        "KRX:005930".parse().unwrap()
    }

    fn read(body: &str) -> Result<CandleRows, CallError> {
        let page = CandlePage { call: CandleCall::Past, from: at("09:00:00"), to: at("09:03:00") };
        let answer = RestAnswer { status: 200, retry_after: None, body: body.as_bytes() };
        KiwoomCandles.read(&instrument(), &Feed::new("kiwoom-candles"), &page, None, answer, at("16:00:00"))
    }

    fn row(time: &str, close: &str, volume: &str) -> String {
        format!(
            r#"{{"cur_prc":"{close}","trde_qty":"{volume}","cntr_tm":"{time}","open_pric":"71000","high_pric":"+71200","low_pric":"-70900","acc_trde_qty":"162","pred_pre":"-100","pred_pre_sig":"5"}}"#
        )
    }

    fn body(rows: &[String]) -> String {
        format!(r#"{{"stk_cd":"005930","stk_min_pole_chart_qry":[{}],"return_code":0,"return_msg":"ok"}}"#, rows.join(","))
    }

    #[test]
    fn a_session_is_one_question_of_its_day_and_goes_on_where_the_answer_was_cut() {
        let session = Calendar::of_venue("KRX").session_of(at("10:00:00")).unwrap();
        let pages = KiwoomCandles.pages(&session, session.open, session.last_minute_close(), false);
        let [page] = pages[..] else { panic!("{pages:?}") };
        assert_eq!((page.from, page.to), (at("09:00:00"), at("15:31:00")));
        let asked =
            |further| KiwoomCandles.request(&instrument(), &page, further, &Credentials::new([]), &Secret::new("the-token"));
        let first = asked(None);
        assert_eq!(first.path_and_query, "/api/dostk/chart");
        assert!(first.body.as_deref().unwrap().contains(r#""base_dt":"20261120""#), "{first:?}");
        assert!(!format!("{first:?}").contains("the-token"), "secrets are not printed");
        let second = asked(Some("20261120110000"));
        assert_eq!((second.body, second.headers.len()), (first.body, first.headers.len() + 2));
        assert_eq!(KiwoomCandles.pages(&session, at("15:31:00"), session.last_minute_close(), true), []);
    }

    #[test]
    fn rows_are_turned_oldest_first_without_their_signs_and_other_days_are_not_asked_for() {
        let answer = body(&[
            row("20261120090300", "-70900", "1"),
            row("20261120090200", "-70900", "12"),
            row("20261120090100", "71000", "0"),
            row("20261120090000", "+71100", "150"),
            row("20261119153000", "-7x", "7"),
        ]);
        let found = read(&answer).unwrap();
        let told: Vec<_> =
            found.candles.iter().map(|c| (c.open_time, c.close.to_string(), c.volume.unwrap().to_string())).collect();
        assert_eq!(told, [(at("09:00:00"), "71100".into(), "150".into()), (at("09:02:00"), "70900".into(), "12".into())]);
        let first = &found.candles[0];
        assert_eq!([first.open, first.high, first.low].map(|price| price.to_string()), ["71000", "71200", "70900"]);
        assert_eq!((first.turnover, found.quiet, found.unasked, found.malformed.len()), (None, 1, 2, 0));
        assert_eq!(found.reaches, Some(Timestamp::parse("2026-11-19T15:30:00+09:00").unwrap()));
        assert_eq!(read(r#"{"return_code":20,"return_msg":"조회 결과가 없습니다"}"#).unwrap(), CandleRows::default());
    }

    #[test]
    fn a_row_that_cannot_be_used_is_kept_and_the_others_count() {
        let answer = body(&[
            row("20261120090200", "-7x", "1"),
            row("20261120090100", "71000", "2"),
            row("20261120090030", "71000", "2"),
            row("202611200", "71000", "2"),
            r#"{"cur_prc":"1"}"#.to_owned(),
        ]);
        let found = read(&answer).unwrap();
        assert_eq!((found.candles.len(), found.malformed.len()), (1, 4), "{found:?}");
    }

    #[test]
    fn further_answers_stand_in_front_and_must_go_back() {
        let answer = |rows: &[(&str, &str)]| {
            let rows: Vec<_> = rows.iter().map(|(time, volume)| row(&format!("20261120{time}"), "71000", volume)).collect();
            read(&body(&rows)).unwrap()
        };
        let newer = answer(&[("090200", "3"), ("090100", "2")]);
        let both = newer.clone().with_older(answer(&[("090100", "9"), ("090000", "1")])).unwrap();
        let volumes: Vec<_> = both.candles.iter().map(|candle| candle.volume.unwrap().to_string()).collect();
        assert_eq!(
            (volumes, both.unasked, both.reaches),
            (vec!["1".to_owned(), "2".into(), "3".into()], 1, Some(at("09:00:00")))
        );
        assert_eq!(newer.clone().with_older(newer.clone()).unwrap_err().outcome(), "unreadable");
        assert_eq!(newer.clone().with_older(CandleRows::default()).unwrap(), newer);
    }
}
