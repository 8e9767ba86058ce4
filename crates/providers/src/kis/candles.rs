//! One-minute candles of KIS: `inquire-time-dailychartprice` (FHKST03010230, past days, 120 rows) and `inquire-time-itemchartprice`
//! (FHKST03010200, today, 30 rows).
//!
//! Both answer newest first from the minute asked for backwards, so a session is asked for by the last minutes of stretches as long as an answer:
//! four calls for a past day. A row's price is its close, its turnover is the day's up to then, and everything is a text, numbers too. Errors come
//! with any HTTP status: the body is read first. A day without a session is answered by no rows, an unknown code as well.
//!
//! **Source**: the broker's portal pages of both calls and its public samples, read 2026-11.
//!
//! Next: `services/producer/src/candles/client.rs`, which asks.

use super::rest::{PATH, envelope, request};
use crate::candles::{CandleRow, Traded};
use crate::krx::{korean_date_and_time, korean_time};
use crate::number::{FieldError, integer, price, quantity};
use crate::{
    CallError, CallLimits, CallRequest, CandleCall, CandlePage, CandleRows, Candles, Credentials, Malformed, RestAnswer, Secret,
};
use marketflow_model::{Amount, Feed, Instrument, Session, Timestamp};
use serde::Deserialize;
use std::borrow::Cow;

/// KIS's side of [`Candles`].
#[derive(Debug)]
pub struct KisCandles;

/// Rows of an answer about a past day, and about today.
const PAST_MINUTES: u16 = 120;
const TODAYS_MINUTES: u16 = 30;

impl Candles for KisCandles {
    fn limits(&self) -> CallLimits {
        super::CALLS
    }

    fn pages(&self, session: &Session, from: Timestamp, to: Timestamp, is_today: bool) -> Vec<CandlePage> {
        let (call, minutes) = if is_today { (CandleCall::Today, TODAYS_MINUTES) } else { (CandleCall::Past, PAST_MINUTES) };
        CandlePage::cut(call, from.max(session.open), to.min(session.last_minute_close()), minutes)
    }

    fn request(
        &self,
        instrument: &Instrument,
        page: &CandlePage,
        _: Option<&str>,
        credentials: &Credentials,
        pass: &Secret,
    ) -> CallRequest {
        let (date, time) = korean_date_and_time(page.last());
        let code = instrument.symbol();
        let common = format!("FID_COND_MRKT_DIV_CODE=J&FID_INPUT_ISCD={code}&FID_INPUT_HOUR_1={time}&FID_PW_DATA_INCU_YN=N");
        let (path_and_query, tr_id) = match page.call {
            CandleCall::Past => (
                format!("{PATH}/inquire-time-dailychartprice?{common}&FID_INPUT_DATE_1={date}&FID_FAKE_TICK_INCU_YN="),
                "FHKST03010230",
            ),
            CandleCall::Today => (format!("{PATH}/inquire-time-itemchartprice?{common}&FID_ETC_CLS_CODE="), "FHKST03010200"),
        };
        request(path_and_query, tr_id, credentials, pass)
    }

    /// A page is no longer than an answer.
    fn further<'a>(&self, _: &dyn Fn(&'static str) -> Option<&'a str>) -> Option<&'a str> {
        None
    }

    fn read(
        &self,
        instrument: &Instrument,
        feed: &Feed,
        page: &CandlePage,
        before: Option<Amount>,
        answer: RestAnswer<'_>,
        received: Timestamp,
    ) -> Result<CandleRows, CallError> {
        Ok(CandleRows::of_page::<Row<'_>>(envelope(answer)?.output2, page, instrument, feed, before, received))
    }
}

/// A row of an answer; an empty object fills it up.
#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    stck_bsop_date: Option<Cow<'a, str>>,
    stck_cntg_hour: Option<Cow<'a, str>>,
    stck_oprc: Option<Cow<'a, str>>,
    stck_hgpr: Option<Cow<'a, str>>,
    stck_lwpr: Option<Cow<'a, str>>,
    stck_prpr: Option<Cow<'a, str>>,
    cntg_vol: Option<Cow<'a, str>>,
    acml_tr_pbmn: Option<Cow<'a, str>>,
}

impl<'a> CandleRow<'a> for Row<'a> {
    fn minute(&self) -> Result<Option<Timestamp>, FieldError> {
        let Some(date) = self.stck_bsop_date.as_deref().filter(|date| !date.is_empty()) else { return Ok(None) };
        korean_time("stck_cntg_hour", date, self.stck_cntg_hour.as_deref().unwrap_or_default()).map(Some)
    }

    fn traded(self) -> Result<Traded, FieldError> {
        let field = |name: &'static str, text: Option<Cow<'_, str>>| {
            text.map(Cow::into_owned).ok_or_else(|| (Malformed::BadField, format!("{name} is missing")))
        };
        let of = |name: &'static str, text| price(name, &field(name, text)?);
        Ok(Traded {
            open: of("stck_oprc", self.stck_oprc)?,
            high: of("stck_hgpr", self.stck_hgpr)?,
            low: of("stck_lwpr", self.stck_lwpr)?,
            close: of("stck_prpr", self.stck_prpr)?,
            volume: quantity("cntg_vol", &field("cntg_vol", self.cntg_vol)?)?,
            day_turnover: match self.acml_tr_pbmn.filter(|text| !text.is_empty()) {
                Some(text) => Some(amount(integer("acml_tr_pbmn", &text)?)?),
                None => None,
            },
        })
    }
}

/// Whole won.
pub(super) fn amount(won: i64) -> Result<Amount, FieldError> {
    let scaled = i128::from(won) * 10_i128.pow(Amount::SCALE);
    Amount::from_scaled(scaled).ok_or_else(|| (Malformed::BadNumber, format!("acml_tr_pbmn: {won} is out of range")))
}

#[cfg(test)]
mod tests {
    use super::super::{APP_KEY, APP_SECRET};
    use super::*;
    use marketflow_model::Calendar;
    use std::time::Duration;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(&format!("2026-11-20T{text}+09:00")).unwrap()
    }

    fn session() -> Session {
        Calendar::of_venue("KRX").session_of(at("10:00:00")).unwrap()
    }

    fn page(from: &str, to: &str) -> CandlePage {
        CandlePage { call: CandleCall::Past, from: at(from), to: at(to) }
    }

    fn instrument() -> Instrument {
        "KRX:005930".parse().unwrap()
    }

    fn read(page: &CandlePage, before: Option<i64>, status: u16, body: &str) -> Result<CandleRows, CallError> {
        let answer = RestAnswer { status, retry_after: None, body: body.as_bytes() };
        KisCandles.read(&instrument(), &Feed::new("kis"), page, before.map(|won| amount(won).unwrap()), answer, at("16:00:00"))
    }

    fn row(time: &str, close: i64, volume: i64, day_turnover: i64) -> String {
        format!(
            r#"{{"stck_bsop_date":"20261120","stck_cntg_hour":"{time}","stck_prpr":"{close}","stck_oprc":"70100","stck_hgpr":"70300","stck_lwpr":"70000","cntg_vol":"{volume}","acml_tr_pbmn":"{day_turnover}"}}"#
        )
    }

    fn body(rows: &[String]) -> String {
        format!(r#"{{"output1":{{}},"output2":[{}],"rt_cd":"0","msg_cd":"MCA00000","msg1":"ok"}}"#, rows.join(","))
    }

    #[test]
    fn a_past_day_takes_four_calls_each_asked_for_by_its_last_minute() {
        let session = session();
        let pages = KisCandles.pages(&session, session.open, session.last_minute_close(), false);
        let key = Credentials::new([(APP_KEY, Secret::new("the-key")), (APP_SECRET, Secret::new("the-secret"))]);
        let asked: Vec<_> =
            pages.iter().map(|page| KisCandles.request(&instrument(), page, None, &key, &Secret::new("t"))).collect();
        assert_eq!(
            asked[0].path_and_query,
            "/uapi/domestic-stock/v1/quotations/inquire-time-dailychartprice?FID_COND_MRKT_DIV_CODE=J&FID_INPUT_ISCD=005930\
             &FID_INPUT_HOUR_1=105900&FID_PW_DATA_INCU_YN=N&FID_INPUT_DATE_1=20261120&FID_FAKE_TICK_INCU_YN="
        );
        let hours: Vec<&str> =
            asked.iter().map(|a| a.path_and_query.split("HOUR_1=").nth(1).unwrap().split('&').next().unwrap()).collect();
        assert_eq!(hours, ["105900", "125900", "145900", "153000"]);
        let header = |name| asked[0].headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.expose().to_owned());
        assert_eq!(header("tr_id").as_deref(), Some("FHKST03010230"));
        assert_eq!(header("authorization").as_deref(), Some("Bearer t"));
        assert_eq!((header("appkey").as_deref(), header("appsecret").as_deref()), (Some("the-key"), Some("the-secret")));
        assert!(!format!("{asked:?}").contains("the-"), "secrets are not printed");
        let today = KisCandles.pages(&session, at("09:05:00"), at("10:00:00"), true);
        assert_eq!(
            today.iter().map(|page| (page.from, page.to)).collect::<Vec<_>>(),
            [(at("09:05:00"), at("09:35:00")), (at("09:35:00"), at("10:00:00"))]
        );
        let asked = KisCandles.request(&instrument(), &today[1], None, &key, &Secret::new("t")).path_and_query;
        assert!(
            asked.contains("/inquire-time-itemchartprice?")
                && asked.ends_with("&FID_INPUT_HOUR_1=095900&FID_PW_DATA_INCU_YN=N&FID_ETC_CLS_CODE="),
            "{asked}"
        );
    }

    #[test]
    fn rows_are_turned_oldest_first_with_their_own_turnover() {
        let answer = body(&[
            row("090400", 70_200, 7, 12_000_000),
            row("090300", 70_100, 0, 10_000_000),
            row("090200", 70_100, 3, 10_000_000),
            row("090100", 70_100, 2, 9_000_000),
            row("090000", 70_100, 2, 8_000_000),
            "{}".to_owned(),
        ]);
        let found = read(&page("09:01:00", "09:04:00"), None, 200, &answer).unwrap();
        let told: Vec<_> = found
            .candles
            .iter()
            .map(|c| (c.open_time, c.volume.unwrap().to_string(), c.turnover.map(|t| t.to_string())))
            .collect();
        assert_eq!(
            told,
            [(at("09:01:00"), "2".into(), Some("1000000".into())), (at("09:02:00"), "3".into(), Some("1000000".into()))]
        );
        assert_eq!((found.quiet, found.unasked), (1, 2), "09:03 without a trade, 09:00 and 09:04 not asked for");
        assert_eq!(found.turnover_after, Some(amount(10_000_000).unwrap()));
        let candle = &found.candles[0];
        let prices = [candle.open, candle.high, candle.low, candle.close].map(|p| p.to_string());
        assert_eq!(prices, ["70100", "70300", "70000", "70100"]);
        let first =
            |before| read(&page("09:00:00", "09:01:00"), before, 200, &body(&[row("090000", 70_100, 2, 8_000_000)])).unwrap();
        assert_eq!(first(Some(0)).candles[0].turnover, Some(amount(8_000_000).unwrap()));
        assert_eq!(first(None).candles[0].turnover, None, "a sum alone tells no minute's turnover");
        assert_eq!(first(Some(9_000_000)).candles[0].turnover, None, "nor does one that falls");
    }

    #[test]
    fn a_closed_day_and_an_unknown_code_have_no_rows() {
        assert_eq!(read(&page("09:00:00", "11:00:00"), Some(0), 200, &body(&[])).unwrap().candles, []);
        let bare = r#"{"output1":{"stck_prpr":"0"},"rt_cd":"0","msg_cd":"MCA00000","msg1":"ok"}"#;
        assert_eq!(read(&page("09:00:00", "11:00:00"), Some(0), 200, bare).unwrap().candles, []);
    }

    #[test]
    fn a_row_that_cannot_be_used_is_kept_and_the_others_count() {
        let bad = row("090100", 70_100, 2, 1).replace("\"70300\"", "\"7O300\"");
        let seconds = row("090130", 70_100, 2, 1);
        let negative = row("090300", 70_100, -2, 1);
        let answer = body(&[negative.clone(), row("090200", 70_100, 2, 1), bad.clone(), seconds]);
        let found = read(&page("09:00:00", "09:04:00"), Some(0), 200, &answer).unwrap();
        assert_eq!(found.candles.len(), 1);
        let reasons: Vec<_> = found.malformed.iter().map(|row| row.reason).collect();
        assert_eq!(reasons, [Malformed::BadNumber, Malformed::BadNumber, Malformed::BadTime]);
        assert_eq!((&found.malformed[0].raw, &found.malformed[1].raw), (&negative, &bad));
    }

    #[test]
    fn errors_are_read_from_the_body_whatever_the_status() {
        let error = |status, body: &str| read(&page("09:00:00", "11:00:00"), None, status, body).unwrap_err();
        let envelope = |code: &str| format!(r#"{{"rt_cd":"1","msg_cd":"{code}","msg1":" words "}}"#);
        for (code, outcome) in [
            ("EGW00201", "rate_limited"),
            ("EGW00121", "pass_refused"),
            ("EGW00123", "pass_refused"),
            ("EGW00213", "refused"),
            ("OPSQ0002", "refused"),
            ("OPSQ2001", "refused"),
            ("EGW00300", "unavailable"),
            ("EGW00316", "unavailable"),
            ("OPSQ1002", "unavailable"),
            ("EGW99999", "unavailable"),
        ] {
            for status in [200, 500] {
                assert_eq!(error(status, &envelope(code)).outcome(), outcome, "{code} {status}");
            }
        }
        assert!(matches!(error(500, &envelope("EGW00201")), CallError::Limited { wait, .. } if wait > Duration::from_secs(1)));
        assert_eq!(
            error(403, r#"{"error_code":"EGW00103","error_description":"no key"}"#).to_string(),
            "refused: no key (EGW00103)"
        );
        assert_eq!(error(200, "<html>maintenance</html>").outcome(), "unavailable");
        assert_eq!(error(503, "").outcome(), "unavailable");
        assert_eq!(error(200, r#"{"rt_cd":"0","output2":[{"#).outcome(), "unreadable");
    }
}
