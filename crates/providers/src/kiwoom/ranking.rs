//! Kiwoom's most active instruments: `ka10030` (당일거래량상위요청) by volume, `ka10032` (거래대금상위요청) by money, the first page of either.
//!
//! The manual's example of `ka10030` spells its end `returnCode` and `returnMsg`; both spellings are read. A code may carry the exchange behind `_`.
//!
//! **Source**: public copies of the broker's manual on both, read 2026-11; nothing of it was checked against the broker.
//!
//! Next: `services/producer/src/ranking.rs`, which asks.

use super::PROVIDER;
use super::rest::{Call, envelope};
use crate::ranking::{ActiveBy, Ranking, RankingCall, instruments};
use crate::{CallError, CallLimits, CallRequest, Credentials, RestAnswer, Secret, excerpt};
use marketflow_model::Instrument;
use serde::Deserialize;
use std::borrow::Cow;

/// Kiwoom's side of [`Ranking`].
#[derive(Debug)]
pub struct KiwoomRanking;

impl Ranking for KiwoomRanking {
    fn limits(&self) -> CallLimits {
        super::CALLS
    }

    fn call(&self, by: ActiveBy) -> RankingCall {
        let call = Call::most_active(by);
        RankingCall { path: call.path.into(), name: call.api_id.into() }
    }

    fn request(&self, by: ActiveBy, call: &RankingCall, _: &Credentials, pass: &Secret) -> CallRequest {
        let own = Call::most_active(by);
        let mut headers = own.headers(pass, None);
        headers.iter_mut().filter(|(name, _)| *name == "api-id").for_each(|(_, value)| *value = Secret::new(&*call.name));
        CallRequest { path_and_query: call.path.clone().into_owned(), headers, body: Some(own.body) }
    }

    fn read(&self, by: ActiveBy, answer: RestAnswer<'_>) -> Result<Vec<Instrument>, CallError> {
        let body = answer.body;
        let envelope = envelope(answer)?;
        let rows = match by {
            ActiveBy::Volume => envelope.tdy_trde_qty_upper,
            ActiveBy::Turnover => envelope.trde_prica_upper,
        };
        let Some(rows) = rows else {
            // That there is no data is said by the code; an answer that says all is well has rows.
            return if envelope.is_empty { Ok(Vec::new()) } else { Err(CallError::Unreadable { detail: excerpt(body) }) };
        };
        let row = |raw: &&'_ serde_json::value::RawValue| {
            let row: Row<'_> =
                serde_json::from_str(raw.get()).map_err(|error| CallError::Unreadable { detail: error.to_string() })?;
            Ok(row.stk_cd.split('_').next().unwrap_or_default().to_owned())
        };
        let codes = rows.iter().map(row).collect::<Result<Vec<_>, CallError>>()?;
        Ok(instruments(&PROVIDER, codes.iter().map(String::as_str)))
    }
}

#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    stk_cd: Cow<'a, str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(by: ActiveBy, status: u16, body: &str) -> Result<Vec<String>, CallError> {
        let answer = RestAnswer { status, retry_after: None, body: body.as_bytes() };
        KiwoomRanking.read(by, answer).map(|ranked| ranked.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn volume_and_money_are_two_calls_and_either_may_be_another() {
        let pass = Secret::new("the-pass");
        let asked = |by, call: &RankingCall| {
            let asked = KiwoomRanking.request(by, call, &Credentials::default(), &pass);
            let api_id =
                asked.headers.iter().find(|(name, _)| *name == "api-id").map(|(_, value)| value.expose().to_owned()).unwrap();
            (asked.path_and_query, api_id, asked.body.unwrap())
        };
        let own = |by| asked(by, &KiwoomRanking.call(by));
        let (path, api_id, body) = own(ActiveBy::Turnover);
        assert_eq!((path.as_str(), api_id.as_str()), ("/api/dostk/rkinfo", "ka10032"));
        assert_eq!(body, r#"{"mrkt_tp":"000","mang_stk_incls":"1","stex_tp":"1"}"#);
        let (_, api_id, body) = own(ActiveBy::Volume);
        assert!(api_id == "ka10030" && body.contains(r#""sort_tp":"1""#), "{body}");
        let moved = asked(ActiveBy::Volume, &RankingCall { path: "/elsewhere".into(), name: "ka99999".into() });
        assert_eq!((moved.0.as_str(), moved.1.as_str()), ("/elsewhere", "ka99999"));
    }

    #[test]
    fn rows_are_the_most_active_first_whichever_way_the_end_is_spelled() {
        let money = r#"{"trde_prica_upper":[{"stk_cd":"005930","now_rank":"1","pred_rank":"1","stk_nm":"삼성전자","trde_prica":"1018"},
            {"stk_cd":"000660_AL","now_rank":"2","stk_nm":"SK하이닉스","trde_prica":"900"},{"stk_cd":"005930"},{"stk_cd":"5800ABC"}],
            "return_code":0,"return_msg":"정상적으로 처리되었습니다"}"#;
        assert_eq!(read(ActiveBy::Turnover, 200, money).unwrap(), ["KRX:005930", "KRX:000660"]);
        let volume = r#"{"tdy_trde_qty_upper":[{"stk_cd":"0080G0","stk_nm":"펀드","cur_prc":"-152000","trde_qty":"34954641","trde_amt":"5308092"}],
            "returnCode":0,"returnMsg":"정상적으로 처리되었습니다"}"#;
        assert_eq!(read(ActiveBy::Volume, 200, volume).unwrap(), ["KRX:0080G0"]);
        assert_eq!(
            read(ActiveBy::Volume, 200, r#"{"return_code":20,"return_msg":"조회된 자료가 없습니다"}"#).unwrap(),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_is_not_the_documented_shape_is_an_error_and_so_is_an_error() {
        let outcome = |status, body: &str| read(ActiveBy::Volume, status, body).unwrap_err().outcome();
        for odd in [r#"{"tdy_trde_qty_upper":[{"code":"005930"}],"return_code":0}"#, r#"{"return_code":0,"return_msg":"ok"}"#] {
            assert_eq!(outcome(200, odd), "unreadable", "{odd}");
        }
        let limited = r#"{"return_code":5,"return_msg":"초과[1700:허용된 요청 개수를 초과하였습니다. API ID=ka10030]"}"#;
        let expired = r#"{"return_code":3,"return_msg":"인증에 실패했습니다[8005:Token이 유효하지 않습니다]"}"#;
        let missing = r#"{"return_code":2,"return_msg":"입력값이 올바르지 않습니다[1511:필수 입력 파라미터가 누락되었습니다]"}"#;
        assert_eq!(
            (outcome(429, limited), outcome(200, expired), outcome(200, missing)),
            ("rate_limited", "pass_refused", "refused")
        );
        assert_eq!(outcome(503, "<html>"), "unavailable");
    }
}
