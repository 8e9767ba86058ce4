//! The broker's calls: how they are asked for, and what their errors say.
//!
//! Every call is a POST named by the header `api-id`; more rows are announced by the answer's header `cont-yn` and asked for with its `next-key`,
//! the body unchanged. Errors come with any status: the body is read first. Payload values are texts.
//! **Source**: the broker's manual on ka10080 and ka10099, read 2026-11.
//!
//! Next: `candles.rs`, `master.rs`, `ranking.rs`.

use super::login::code_in;
use crate::number::shown;
use crate::{ActiveBy, CallError, RestAnswer, Secret, excerpt};
use marketflow_model::Instrument;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::time::Duration;

/// What the broker asks for after one call too many: at least the time it counts in.
const AFTER_EXCESS: Duration = Duration::from_millis(2_100);

/// A call, to be posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// To be appended to the request endpoint.
    pub path: &'static str,
    /// Header `api-id`.
    pub api_id: &'static str,
    /// Body.
    pub body: String,
}

impl Call {
    /// The one-minute candles of an instrument up to a date in Korea (`YYYYMMDD`), newest first; prices as they were traded.
    pub fn minutes(instrument: &Instrument, until: &str) -> Self {
        let code = instrument.symbol();
        let body = format!(r#"{{"stk_cd":"{code}","tic_scope":"1","upd_stkpc_tp":"0","base_dt":"{until}"}}"#);
        Self { path: "/api/dostk/chart", api_id: "ka10080", body }
    }

    /// An instrument's basic facts, its price among them.
    pub fn basics(instrument: &Instrument) -> Self {
        Self { path: "/api/dostk/stkinfo", api_id: "ka10001", body: format!(r#"{{"stk_cd":"{}"}}"#, instrument.symbol()) }
    }

    /// The daily candles of an instrument up to a date in Korea (`YYYYMMDD`), newest first; prices as they were traded.
    pub fn days(instrument: &Instrument, until: &str) -> Self {
        let code = instrument.symbol();
        let body = format!(r#"{{"stk_cd":"{code}","base_dt":"{until}","upd_stkpc_tp":"0"}}"#);
        Self { path: "/api/dostk/chart", api_id: "ka10081", body }
    }

    /// What investors bought net of an instrument by day, up to a date in Korea (`YYYYMMDD`), newest first: shares, or millions of won.
    pub fn investors(instrument: &Instrument, until: &str, shares: bool) -> Self {
        let (code, what) = (instrument.symbol(), if shares { 2 } else { 1 });
        let body = format!(r#"{{"dt":"{until}","stk_cd":"{code}","amt_qty_tp":"{what}","trde_tp":"0","unit_tp":"1"}}"#);
        Self { path: "/api/dostk/stkinfo", api_id: "ka10059", body }
    }

    /// The instruments of a market: `0` KOSPI, `10` KOSDAQ, `8` ETF.
    pub fn listings(market: &str) -> Self {
        Self { path: "/api/dostk/stkinfo", api_id: "ka10099", body: format!(r#"{{"mrkt_tp":"{market}"}}"#) }
    }

    /// The most active instruments of both markets at the Korea Exchange, those under administration too.
    pub fn most_active(by: ActiveBy) -> Self {
        let (api_id, body) = match by {
            ActiveBy::Turnover => ("ka10032", r#"{"mrkt_tp":"000","mang_stk_incls":"1","stex_tp":"1"}"#),
            ActiveBy::Volume => (
                "ka10030",
                r#"{"mrkt_tp":"000","sort_tp":"1","mang_stk_incls":"0","crd_tp":"0","trde_qty_tp":"0","pric_tp":"0","trde_prica_tp":"0","mrkt_open_tp":"0","stex_tp":"1"}"#,
            ),
        };
        Self { path: "/api/dostk/rkinfo", api_id, body: body.to_owned() }
    }

    /// Its headers; `further` is what [`further`] said of the answer before.
    pub fn headers(&self, token: &Secret, further: Option<&str>) -> Vec<(&'static str, Secret)> {
        let mut headers = vec![
            ("content-type", Secret::new("application/json;charset=UTF-8")),
            ("api-id", Secret::new(self.api_id)),
            ("authorization", Secret::new(format!("Bearer {}", token.expose()))),
        ];
        if let Some(key) = further {
            headers.extend([("cont-yn", Secret::new("Y")), ("next-key", Secret::new(key))]);
        }
        headers
    }
}

/// Names the rows behind an answer with these headers, if there are any.
pub fn further<'a>(header: &dyn Fn(&'static str) -> Option<&'a str>) -> Option<&'a str> {
    header("next-key").filter(|key| header("cont-yn") == Some("Y") && !key.is_empty())
}

/// Every answer's end, and the rows of those that are asked for here.
#[derive(Deserialize)]
pub(super) struct Envelope<'a> {
    #[serde(borrow, default, alias = "returnCode")]
    return_code: Option<&'a RawValue>,
    #[serde(borrow, default, alias = "returnMsg")]
    return_msg: Option<Cow<'a, str>>,
    /// Whether the broker says that there is no data.
    #[serde(skip)]
    pub(super) is_empty: bool,
    #[serde(borrow, default)]
    pub(super) stk_min_pole_chart_qry: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    pub(super) stk_dt_pole_chart_qry: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    pub(super) stk_invsr_orgn: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    pub(super) list: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    pub(super) tdy_trde_qty_upper: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    pub(super) trde_prica_upper: Option<Vec<&'a RawValue>>,
}

/// What an answer holds, whatever its status says; no data is an answer without rows.
pub(super) fn envelope(answer: RestAnswer<'_>) -> Result<Envelope<'_>, CallError> {
    let other = || {
        let detail = format!("HTTP {}: {}", answer.status, excerpt(answer.body));
        match answer.status {
            200 if answer.body.trim_ascii_start().first() == Some(&b'{') => CallError::Unreadable { detail },
            429 => CallError::Limited { wait: AFTER_EXCESS, detail },
            _ => CallError::Unavailable { detail },
        }
    };
    let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(answer.body) else { return Err(other()) };
    let words = envelope.return_msg.as_deref().unwrap_or_default();
    let detail = shown(words).into_owned();
    match (envelope.return_code.map(|code| code.get().trim_matches('"')), code_in(words)) {
        (Some("0"), _) => Ok(envelope),
        (Some("20"), _) => Ok(Envelope { is_empty: true, ..envelope }),
        (_, Some(1700)) => Err(CallError::Limited { wait: AFTER_EXCESS, detail }),
        (_, Some(8003 | 8005 | 8103)) => Err(CallError::Pass { detail }),
        (_, Some(1999)) => Err(CallError::Unavailable { detail }),
        (Some(_), Some(_)) => Err(CallError::Refused { detail }),
        _ => Err(other()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> RestAnswer<'_> {
        RestAnswer { status, retry_after: None, body: body.as_bytes() }
    }

    #[test]
    fn a_call_is_posted_and_goes_on_where_the_answer_says() {
        let call = Call::minutes(&"KRX:005930".parse().unwrap(), "20261120");
        assert_eq!(call.body, r#"{"stk_cd":"005930","tic_scope":"1","upd_stkpc_tp":"0","base_dt":"20261120"}"#);
        let headers = call.headers(&Secret::new("t"), Some("k"));
        let text: Vec<String> = headers.iter().map(|(name, value)| format!("{name}={}", value.expose())).collect();
        assert_eq!(text[1..], ["api-id=ka10080", "authorization=Bearer t", "cont-yn=Y", "next-key=k"]);
        assert!(!format!("{headers:?}").contains("Bearer"));
        let of = |cont_yn, next_key| further(&|name| if name == "cont-yn" { cont_yn } else { next_key });
        assert_eq!([of(Some("Y"), Some("k")), of(Some("N"), Some("k")), of(Some("Y"), None)], [Some("k"), None, None]);
    }

    #[test]
    fn problems_are_told_apart_by_the_code_in_the_message_whatever_the_status() {
        let problem = |status, body: &str| envelope(answer(status, body)).err().unwrap().outcome();
        let limited = r#"{"return_code":5,"return_msg":"초과[1700:허용된 요청 개수를 초과하였습니다. API ID=ka10080]"}"#;
        for status in [200, 429] {
            assert_eq!(problem(status, limited), "rate_limited");
        }
        let expired = r#"{"return_code":3,"return_msg":"인증에 실패했습니다[8005:Token이 유효하지 않습니다]"}"#;
        assert_eq!(problem(200, expired), "pass_refused");
        assert_eq!(problem(200, r#"{"return_code":"2","return_msg":"[1902:종목 정보가 없습니다]"}"#), "refused");
        assert_eq!(problem(200, r#"{"return_code":9,"return_msg":"[1999:예기치 못한 에러]"}"#), "unavailable");
        assert_eq!(
            (problem(502, "<html>"), problem(200, "<html>"), problem(503, "")),
            ("unavailable", "unavailable", "unavailable")
        );
        assert_eq!((problem(429, ""), problem(200, "{}")), ("rate_limited", "unreadable"));
    }
}
