//! Days of the exchange as KIS tells them: `chk-holiday` (CTCA0903R, 국내휴장일조회), day after day from the one asked for on.
//!
//! `opnd_yn` says whether the market opens. The broker asks for one call a day at most; further days are named by the body's `ctx_area_nk` and
//! `ctx_area_fk`, which go back padded as they came, with `tr_cont: N`. `output` is an array on the wire and an object on the portal's page: both are
//! read. Not on paper hosts.
//!
//! **Source**: the broker's portal page and its public samples, read 2026-11.
//!
//! Next: `services/producer/src/candles/holidays.rs`, which asks.

use super::rest::{PATH, envelope, request};
use crate::holidays::{HolidayRows, Holidays, TradingDay};
use crate::krx;
use crate::number::shown;
use crate::{CallError, CallRequest, Credentials, RestAnswer, Secret};
use jiff::civil::Date;
use serde::Deserialize;
use std::borrow::Cow;

/// KIS's side of [`Holidays`].
#[derive(Debug)]
pub struct KisHolidays;

/// What stands between the two names of further days.
const BETWEEN: char = '\n';

impl Holidays for KisHolidays {
    fn request(&self, from: Date, further: Option<&str>, credentials: &Credentials, pass: &Secret) -> CallRequest {
        let (nk, fk) = further.and_then(|further| further.split_once(BETWEEN)).unwrap_or_default();
        let query = format!("BASS_DT={}&CTX_AREA_NK={}&CTX_AREA_FK={}", from.strftime("%Y%m%d"), encoded(nk), encoded(fk));
        let mut request = request(format!("{PATH}/chk-holiday?{query}"), "CTCA0903R", credentials, pass);
        if further.is_some() {
            request.headers.push(("tr_cont", Secret::new("N")));
        }
        request
    }

    fn read(&self, answer: RestAnswer<'_>) -> Result<HolidayRows, CallError> {
        let envelope = envelope(answer)?;
        let unreadable = |detail: String| CallError::Unreadable { detail };
        let rows = match envelope.output {
            None => Vec::new(),
            Some(raw) if raw.get().starts_with('[') => {
                serde_json::from_str::<Vec<Row<'_>>>(raw.get()).map_err(|error| unreadable(error.to_string()))?
            }
            Some(raw) => vec![serde_json::from_str(raw.get()).map_err(|error| unreadable(error.to_string()))?],
        };
        let day = |row: &Row<'_>| {
            let date =
                krx::date(row.bass_dt.trim()).ok_or_else(|| unreadable(format!("bass_dt: no day: {}", shown(&row.bass_dt))))?;
            match row.opnd_yn.trim() {
                "Y" => Ok(TradingDay { date, is_open: true }),
                "N" => Ok(TradingDay { date, is_open: false }),
                other => Err(unreadable(format!("opnd_yn: neither Y nor N: {}", shown(other)))),
            }
        };
        let days = rows.iter().map(day).collect::<Result<Vec<_>, CallError>>()?;
        let key = |name: Option<Cow<'_, str>>| name.unwrap_or_default().into_owned();
        let (nk, fk) = (key(envelope.ctx_area_nk), key(envelope.ctx_area_fk));
        let further = (!nk.trim().is_empty()).then(|| format!("{nk}{BETWEEN}{fk}"));
        Ok(HolidayRows { days, further })
    }
}

/// As a query takes it.
fn encoded(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    bass_dt: Cow<'a, str>,
    #[serde(borrow)]
    opnd_yn: Cow<'a, str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kis::{APP_KEY, APP_SECRET};

    const FIRST: &str = r#"{"ctx_area_nk":"20261214            ","ctx_area_fk":"20261123            ","output":[
        {"bass_dt":"20261123","wday_dvsn_cd":"02","bzdy_yn":"Y","tr_day_yn":"Y","opnd_yn":"Y","sttl_day_yn":"Y"},
        {"bass_dt":"20261128","wday_dvsn_cd":"07","bzdy_yn":"N","tr_day_yn":"Y","opnd_yn":"N","sttl_day_yn":"N"}],
        "rt_cd":"0","msg_cd":"MCA00000","msg1":"정상처리 되었습니다."}"#;

    fn read(status: u16, body: &str) -> Result<HolidayRows, CallError> {
        KisHolidays.read(RestAnswer { status, retry_after: None, body: body.as_bytes() })
    }

    fn one(output: &str) -> Result<Vec<(String, bool)>, CallError> {
        let rows = read(200, &format!(r#"{{"output":{output},"rt_cd":"0","msg_cd":"MCA00000","msg1":"ok"}}"#))?;
        assert_eq!(rows.further, None);
        Ok(rows.days.into_iter().map(|day| (day.date.to_string(), day.is_open)).collect())
    }

    #[test]
    fn days_are_told_from_one_on_and_further_ones_are_asked_for_by_both_names_as_they_came() {
        let rows = read(200, FIRST).unwrap();
        let told: Vec<_> = rows.days.iter().map(|day| (day.date.to_string(), day.is_open)).collect();
        assert_eq!(
            told,
            [("2026-11-23".to_owned(), true), ("2026-11-28".to_owned(), false)],
            "a Saturday is a trading day that does not open"
        );
        let key = Credentials::new([(APP_KEY, Secret::new("the-key")), (APP_SECRET, Secret::new("the-secret"))]);
        let asked = |further| KisHolidays.request("2026-11-23".parse().unwrap(), further, &key, &Secret::new("the-pass"));
        let header = |asked: &CallRequest, name| {
            asked.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.expose().to_owned())
        };
        let first = asked(None);
        assert_eq!(first.path_and_query, format!("{PATH}/chk-holiday?BASS_DT=20261123&CTX_AREA_NK=&CTX_AREA_FK="));
        assert_eq!((header(&first, "tr_id").as_deref(), header(&first, "tr_cont")), (Some("CTCA0903R"), None));
        let next = asked(rows.further.as_deref());
        let spaces = "%20".repeat(12);
        let query = format!("BASS_DT=20261123&CTX_AREA_NK=20261214{spaces}&CTX_AREA_FK=20261123{spaces}");
        assert!(next.path_and_query.ends_with(&query), "{}", next.path_and_query);
        assert_eq!(header(&next, "tr_cont").as_deref(), Some("N"));
    }

    #[test]
    fn one_day_may_be_an_object_and_none_is_none() {
        assert_eq!(one(r#"{"bass_dt":"20261225","opnd_yn":"N"}"#).unwrap(), [("2026-12-25".to_owned(), false)]);
        assert_eq!(one("[]").unwrap(), []);
    }

    #[test]
    fn a_row_that_cannot_be_used_spoils_the_answer_and_errors_have_their_envelope() {
        for odd in [
            r#"[{"bass_dt":"2026122","opnd_yn":"N"}]"#,
            r#"[{"bass_dt":"20261225","opnd_yn":""}]"#,
            r#"[{"bass_dt":"20261225"}]"#,
            "[7]",
        ] {
            assert_eq!(one(odd).unwrap_err().outcome(), "unreadable", "{odd}");
        }
        let error =
            |status, code: &str| read(status, &format!(r#"{{"rt_cd":"1","msg_cd":"{code}","msg1":"x"}}"#)).unwrap_err().outcome();
        assert_eq!(
            (error(500, "EGW00201"), error(500, "EGW00121"), error(500, "EGW00213")),
            ("rate_limited", "pass_refused", "refused")
        );
        assert_eq!(read(200, "<html>").unwrap_err().outcome(), "unavailable");
    }
}
