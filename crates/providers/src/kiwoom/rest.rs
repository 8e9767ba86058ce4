//! Minute candles (`ka10080`) and the list of instruments (`ka10099`): how they are asked for and read.
//!
//! Every call is a POST named by the header `api-id`; more pages are announced by the answer's header `cont-yn` and asked for with its `next-key`,
//! the body unchanged. Errors come with any status: the body is read first. Payload values are texts, prices carry the sign of their change.
//! **Source**: the broker's manual on ka10080 and ka10099, read 2026-11.
//!
//! Next: `README.md`.

use super::PROVIDER;
use super::login::code_in;
use super::parse::unsigned;
use crate::krx::korean_time;
use crate::number::{FieldError, price, quantity, shown};
use crate::{Malformed, MalformedRow, RestAnswer, RestError, Secret, excerpt, status_error};
use marketflow_model::{Candle, Instrument, Interval, Price, Quantity, Source, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::time::Duration;

/// What the broker asks for after one call too many: at least the second it counts in.
const AFTER_EXCESS: Duration = Duration::from_millis(1_100);

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

    /// The instruments of a market: `0` KOSPI, `10` KOSDAQ, `8` ETF.
    pub fn listings(market: &str) -> Self {
        Self { path: "/api/dostk/stkinfo", api_id: "ka10099", body: format!(r#"{{"mrkt_tp":"{market}"}}"#) }
    }

    /// Its headers; `page` is what [`next_page`] said of the answer before.
    pub fn headers(&self, token: &Secret, page: Option<&str>) -> Vec<(&'static str, Secret)> {
        let mut headers = vec![
            ("content-type", Secret::new("application/json;charset=UTF-8")),
            ("api-id", Secret::new(self.api_id)),
            ("authorization", Secret::new(format!("Bearer {}", token.expose()))),
        ];
        if let Some(page) = page {
            headers.extend([("cont-yn", Secret::new("Y")), ("next-key", Secret::new(page))]);
        }
        headers
    }
}

/// The name of the page behind an answer with these headers, if there is one.
pub fn next_page<'a>(cont_yn: Option<&str>, next_key: Option<&'a str>) -> Option<&'a str> {
    next_key.filter(|key| cont_yn == Some("Y") && !key.is_empty())
}

/// Why a call brought nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallProblem {
    /// The broker does not take the token any more: another one is needed.
    #[error("token refused: {0}")]
    Token(String),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] RestError),
}

/// Candles of one page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MinutePage {
    /// Oldest first; minutes without a trade are not told.
    pub candles: Vec<Candle>,
    /// Rows that cannot be used.
    pub malformed: Vec<MalformedRow>,
}

/// What the broker says of an instrument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Which.
    pub instrument: Instrument,
    /// In Korean.
    pub name: String,
    /// Trading is halted (거래정지).
    pub halted: bool,
    /// Under administration (관리종목).
    pub managed: bool,
    /// Traded for the last time before it is delisted (정리매매).
    pub delisting: bool,
}

/// Every answer's end.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    return_code: Option<&'a RawValue>,
    #[serde(borrow, default)]
    return_msg: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    stk_min_pole_chart_qry: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    list: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct MinuteRow<'a> {
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

#[derive(Deserialize)]
struct ListRow<'a> {
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
}

/// Reads an answer to [`Call::minutes`]; no data is a page without candles.
///
/// # Errors
/// [`CallProblem`] for anything but the documented shape.
pub fn minutes(instrument: &Instrument, answer: RestAnswer<'_>, received: Timestamp) -> Result<MinutePage, CallProblem> {
    let rows = envelope(answer)?.stk_min_pole_chart_qry.unwrap_or_default();
    let mut page = MinutePage::default();
    // Newest first on the wire.
    for raw in rows.into_iter().rev() {
        match candle(raw.get(), instrument, received) {
            Ok(Some(candle)) => page.candles.push(candle),
            Ok(None) => {}
            Err(problem) => page.malformed.push(malformed(problem, raw)),
        }
    }
    Ok(page)
}

/// Reads an answer to [`Call::listings`]; rows that cannot be used stand beside.
///
/// # Errors
/// [`CallProblem`] for anything but the documented shape.
pub fn listings(answer: RestAnswer<'_>) -> Result<(Vec<Listing>, Vec<MalformedRow>), CallProblem> {
    let (mut listings, mut broken) = (Vec::new(), Vec::new());
    for raw in envelope(answer)?.list.unwrap_or_default() {
        match listing(raw.get()) {
            Ok(listing) => listings.push(listing),
            Err(problem) => broken.push(malformed(problem, raw)),
        }
    }
    Ok((listings, broken))
}

fn envelope(answer: RestAnswer<'_>) -> Result<Envelope<'_>, CallProblem> {
    let unreadable = || RestError::Unreadable { detail: format!("HTTP {}: {}", answer.status, excerpt(answer.body)) };
    let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(answer.body) else {
        return Err(status_error(answer).unwrap_or_else(unreadable).into());
    };
    let words = envelope.return_msg.as_deref().unwrap_or_default();
    let detail = shown(words).into_owned();
    match (envelope.return_code.map(|code| code.get().trim_matches('"')), code_in(words)) {
        // 20: there is no data.
        (Some("0" | "20"), _) => Ok(envelope),
        (_, Some(1700)) => Err(RestError::RateLimited { retry_after: Some(AFTER_EXCESS), detail }.into()),
        (_, Some(8003 | 8005 | 8103)) => Err(CallProblem::Token(detail)),
        (_, Some(1999)) => Err(RestError::Unavailable { retry_after: None, detail }.into()),
        (Some(_), Some(_)) => Err(RestError::Refused { detail }.into()),
        _ => Err(status_error(answer).unwrap_or_else(unreadable).into()),
    }
}

fn candle(raw: &str, instrument: &Instrument, received: Timestamp) -> Result<Option<Candle>, FieldError> {
    let row: MinuteRow<'_> = serde_json::from_str(raw).map_err(|error| (Malformed::BadField, error.to_string()))?;
    let (date, time) = row.cntr_tm.split_at_checked(8).unwrap_or((&row.cntr_tm, ""));
    let open_time = korean_time("cntr_tm", date, time)?.window_open(Interval::ONE_MINUTE);
    let volume: Quantity = quantity("trde_qty", &row.trde_qty)?;
    let at = |name: &str, text: &str| -> Result<Price, FieldError> { price(name, unsigned(text)) };
    let candle = Candle {
        instrument: instrument.clone(),
        feed: PROVIDER.feed(),
        interval: Interval::ONE_MINUTE,
        open_time,
        receive_time: received,
        open: at("open_pric", &row.open_pric)?,
        high: at("high_pric", &row.high_pric)?,
        low: at("low_pric", &row.low_pric)?,
        close: at("cur_prc", &row.cur_prc)?,
        volume: Some(volume),
        turnover: None,
        trade_count: None,
        buy_volume: None,
        import_row: None,
        // The running minute is told too.
        closed: open_time.plus_micros(Interval::ONE_MINUTE.micros()) <= received,
        source: Source::Rest,
    };
    Ok((!volume.is_zero()).then_some(candle))
}

fn listing(raw: &str) -> Result<Listing, FieldError> {
    let row: ListRow<'_> = serde_json::from_str(raw).map_err(|error| (Malformed::BadField, error.to_string()))?;
    let named: Result<Instrument, _> = format!("{}:{}", PROVIDER.venue, row.code).parse();
    let Some(instrument) = named.ok().filter(PROVIDER.accepts) else {
        return Err((Malformed::BadField, format!("code: no short code: {}", shown(&row.code))));
    };
    let says = |words: &str| row.state.contains(words) || row.audit.contains(words);
    Ok(Listing {
        instrument,
        name: row.name.into_owned(),
        halted: says("거래정지"),
        managed: says("관리종목"),
        delisting: row.warning == "2",
    })
}

fn malformed((reason, detail): FieldError, raw: &RawValue) -> MalformedRow {
    MalformedRow { reason, detail, raw: raw.get().to_owned(), id: None, event_time: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> RestAnswer<'_> {
        RestAnswer { status, retry_after: None, body: body.as_bytes() }
    }

    fn read(status: u16, body: &str) -> Result<MinutePage, CallProblem> {
        let received = Timestamp::parse("2026-11-20T00:02:30Z").unwrap();
        minutes(&"KRX:005930".parse().unwrap(), answer(status, body), received)
    }

    #[test]
    fn minutes_are_asked_for_and_read_oldest_first() {
        let call = Call::minutes(&"KRX:005930".parse().unwrap(), "20261120");
        assert_eq!(call.body, r#"{"stk_cd":"005930","tic_scope":"1","upd_stkpc_tp":"0","base_dt":"20261120"}"#);
        let headers = call.headers(&Secret::new("t"), Some("k"));
        let text: Vec<String> = headers.iter().map(|(name, value)| format!("{name}={}", value.expose())).collect();
        assert_eq!(text[1..], ["api-id=ka10080", "authorization=Bearer t", "cont-yn=Y", "next-key=k"]);
        assert!(!format!("{headers:?}").contains("Bearer"));
        assert_eq!(
            (next_page(Some("Y"), Some("k")), next_page(Some("N"), Some("k")), next_page(Some("Y"), None)),
            (Some("k"), None, None)
        );

        let page = read(
            200,
            r#"{"stk_cd":"005930","stk_min_pole_chart_qry":[
                {"cur_prc":"-70900","trde_qty":"12","cntr_tm":"20261120090200","open_pric":"71000","high_pric":"+71100","low_pric":"-70900","acc_trde_qty":"162","pred_pre":"-100","pred_pre_sig":"5"},
                {"cur_prc":"-7x","trde_qty":"1","cntr_tm":"20261120090100","open_pric":"1","high_pric":"1","low_pric":"1"},
                {"cur_prc":"+71100","trde_qty":"0","cntr_tm":"20261120090100","open_pric":"1","high_pric":"1","low_pric":"1"},
                {"cur_prc":"+71100","trde_qty":"150","cntr_tm":"20261120090000","open_pric":"71000","high_pric":"+71200","low_pric":"71000"}
            ],"return_code":0,"return_msg":"정상적으로 처리되었습니다"}"#,
        )
        .unwrap();
        assert_eq!((page.candles.len(), page.malformed.len()), (2, 1));
        let (first, running) = (&page.candles[0], &page.candles[1]);
        assert_eq!(first.open_time.to_string(), "2026-11-20T00:00:00Z");
        let prices = [first.open, first.high, first.low, first.close].map(|price| price.to_string());
        assert_eq!(prices, ["71000", "71200", "71000", "71100"]);
        assert!(first.closed && !running.closed && running.low.to_string() == "70900");
        assert_eq!(read(200, r#"{"return_code":20,"return_msg":"조회 결과가 없습니다"}"#).unwrap(), MinutePage::default());
    }

    #[test]
    fn problems_are_told_apart_by_the_code_in_the_message_whatever_the_status() {
        let problem = |status, body: &str| read(status, body).unwrap_err();
        let limited = r#"{"return_code":5,"return_msg":"초과[1700:허용된 요청 개수를 초과하였습니다. API ID=ka10080]"}"#;
        for status in [200, 429] {
            assert!(matches!(problem(status, limited), CallProblem::Other(RestError::RateLimited { .. })));
        }
        let expired = r#"{"return_code":3,"return_msg":"인증에 실패했습니다[8005:Token이 유효하지 않습니다]"}"#;
        assert!(matches!(problem(200, expired), CallProblem::Token(_)));
        let unknown = r#"{"return_code":"2","return_msg":"[1902:종목 정보가 없습니다]"}"#;
        assert!(matches!(problem(200, unknown), CallProblem::Other(RestError::Refused { .. })));
        assert!(matches!(problem(502, "<html>"), CallProblem::Other(RestError::Unavailable { .. })));
        assert!(matches!(problem(200, "<html>"), CallProblem::Other(RestError::Unavailable { .. })));
        assert!(matches!(problem(200, "{}"), CallProblem::Other(RestError::Unreadable { .. })));
    }

    #[test]
    fn a_listing_says_what_may_not_be_traded() {
        let body = r#"{"list":[
            {"code":"005930","name":"삼성전자","auditInfo":"정상","state":"증거금20%|담보대출","orderWarning":"0"},
            {"code":"123456","name":"정지","auditInfo":"거래정지","state":"관리종목|증거금100%","orderWarning":"2"},
            {"code":"1234","name":"너무 짧음"}
        ],"return_code":0,"return_msg":""}"#;
        let (listings, broken) = listings(answer(200, body)).unwrap();
        let flags: Vec<_> = listings.iter().map(|listing| (listing.halted, listing.managed, listing.delisting)).collect();
        assert_eq!(flags, [(false, false, false), (true, true, true)]);
        assert_eq!((listings[0].name.as_str(), broken.len()), ("삼성전자", 1));
        assert_eq!(Call::listings("0").body, r#"{"mrkt_tp":"0"}"#);
    }
}
