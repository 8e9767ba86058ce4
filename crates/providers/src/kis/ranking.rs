//! KIS's most active instruments: `volume-rank` (FHPST01710000, 거래량순위), thirty rows at most, no further page.
//!
//! `FID_BLNG_CLS_CODE` says by what: `0` volume, `3` money. Funds and notes are among the rows where `FID_TRGT_EXLS_CLS_CODE` leaves none out; those
//! whose codes are no short codes are passed over.
//!
//! **Source**: public descriptions of the broker's portal page, read 2026-11; nothing of it was checked against the broker.
//!
//! Next: `services/producer/src/ranking.rs`, which asks.

use super::PROVIDER;
use super::rest::{PATH, envelope, request};
use crate::number::shown;
use crate::ranking::{ActiveBy, Ranking, RankingCall, instruments};
use crate::{CallError, CallLimits, CallRequest, Credentials, RestAnswer, Secret};
use marketflow_model::Instrument;
use serde::Deserialize;
use std::borrow::Cow;

/// KIS's side of [`Ranking`].
#[derive(Debug)]
pub struct KisRanking;

impl Ranking for KisRanking {
    fn limits(&self) -> CallLimits {
        super::CALLS
    }

    fn call(&self, _: ActiveBy) -> RankingCall {
        RankingCall { path: format!("{PATH}/volume-rank").into(), name: "FHPST01710000".into() }
    }

    fn request(&self, by: ActiveBy, call: &RankingCall, credentials: &Credentials, pass: &Secret) -> CallRequest {
        let belonging = match by {
            ActiveBy::Volume => 0,
            ActiveBy::Turnover => 3,
        };
        // All of the exchange (0000), shares of every kind and margin; spread over every price and volume.
        let query = format!(
            "FID_COND_MRKT_DIV_CODE=J&FID_COND_SCR_DIV_CODE=20171&FID_INPUT_ISCD=0000&FID_DIV_CLS_CODE=0&FID_BLNG_CLS_CODE={belonging}\
             &FID_TRGT_CLS_CODE=111111111&FID_TRGT_EXLS_CLS_CODE=0000000000&FID_INPUT_PRICE_1=&FID_INPUT_PRICE_2=&FID_VOL_CNT=&FID_INPUT_DATE_1="
        );
        request(format!("{}?{query}", call.path), &call.name, credentials, pass)
    }

    fn read(&self, _: ActiveBy, answer: RestAnswer<'_>) -> Result<Vec<Instrument>, CallError> {
        let Some(raw) = envelope(answer)?.output else { return Ok(Vec::new()) };
        let unreadable = |detail: String| CallError::Unreadable { detail };
        let rows: Vec<Row<'_>> = serde_json::from_str(raw.get()).map_err(|error| unreadable(error.to_string()))?;
        let place = |row: &Row<'_>| {
            let rank = row.data_rank.trim();
            rank.parse::<u32>().map_err(|_| unreadable(format!("data_rank: no place: {}", shown(rank))))
        };
        let mut placed = rows.iter().map(|row| Ok((place(row)?, &*row.mksc_shrn_iscd))).collect::<Result<Vec<_>, _>>()?;
        placed.sort_by_key(|(place, _)| *place);
        Ok(instruments(&PROVIDER, placed.into_iter().map(|(_, code)| code)))
    }
}

#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    mksc_shrn_iscd: Cow<'a, str>,
    #[serde(borrow)]
    data_rank: Cow<'a, str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kis::{APP_KEY, APP_SECRET};

    fn read(status: u16, body: &str) -> Result<Vec<String>, CallError> {
        let answer = RestAnswer { status, retry_after: None, body: body.as_bytes() };
        KisRanking.read(ActiveBy::Turnover, answer).map(|ranked| ranked.iter().map(ToString::to_string).collect())
    }

    fn rows(rows: &str) -> Result<Vec<String>, CallError> {
        read(200, &format!(r#"{{"output":{rows},"rt_cd":"0","msg_cd":"MCA00000","msg1":"ok"}}"#))
    }

    #[test]
    fn by_money_or_volume_is_asked_of_one_screen_and_the_call_may_be_another() {
        let key = Credentials::new([(APP_KEY, Secret::new("the-key")), (APP_SECRET, Secret::new("the-secret"))]);
        let asked = |by, call: &RankingCall| KisRanking.request(by, call, &key, &Secret::new("the-pass"));
        for (by, belonging) in [(ActiveBy::Volume, "0"), (ActiveBy::Turnover, "3")] {
            let asked = asked(by, &KisRanking.call(by));
            let (path, query) = asked.path_and_query.split_once('?').unwrap();
            assert_eq!(path, "/uapi/domestic-stock/v1/quotations/volume-rank");
            assert!(
                query.contains("FID_COND_SCR_DIV_CODE=20171&") && query.contains(&format!("FID_BLNG_CLS_CODE={belonging}&")),
                "{query}"
            );
            let tr_id = asked.headers.iter().find(|(name, _)| *name == "tr_id").map(|(_, value)| value.expose());
            assert_eq!((tr_id, asked.body), (Some("FHPST01710000"), None));
        }
        let moved = asked(ActiveBy::Volume, &RankingCall { path: "/elsewhere".into(), name: "OTHER".into() });
        let tr_id = moved.headers.iter().find(|(name, _)| *name == "tr_id").map(|(_, value)| value.expose());
        assert!(moved.path_and_query.starts_with("/elsewhere?") && tr_id == Some("OTHER"));
    }

    #[test]
    fn rows_stand_in_the_order_of_their_rank_and_what_is_no_share_is_passed_over() {
        let told = rows(
            r#"[{"hts_kor_isnm":"SK하이닉스","mksc_shrn_iscd":"000660","data_rank":"2","acml_vol":"3","acml_tr_pbmn":"9"},
                {"hts_kor_isnm":"삼성전자","mksc_shrn_iscd":"005930","data_rank":"1","acml_vol":"8958147","acml_tr_pbmn":"584861890300"},
                {"mksc_shrn_iscd":"Q500058","data_rank":"3"},{"mksc_shrn_iscd":"0080G0","data_rank":"5"},{"mksc_shrn_iscd":"005930","data_rank":"6"}]"#,
        );
        assert_eq!(told.unwrap(), ["KRX:005930", "KRX:000660", "KRX:0080G0"]);
        assert_eq!(rows("[]").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_the_documented_shape_is_an_error_and_so_is_an_error() {
        for odd in
            [r#"[{"mksc_shrn_iscd":"005930"}]"#, r#"[{"mksc_shrn_iscd":"005930","data_rank":"first"}]"#, r#"{"data_rank":"1"}"#]
        {
            assert_eq!(rows(odd).unwrap_err().outcome(), "unreadable", "{odd}");
        }
        let error =
            |status, code: &str| read(status, &format!(r#"{{"rt_cd":"1","msg_cd":"{code}","msg1":"x"}}"#)).unwrap_err().outcome();
        assert_eq!(
            (error(500, "EGW00201"), error(500, "EGW00123"), error(500, "EGW00213")),
            ("rate_limited", "pass_refused", "refused")
        );
        assert_eq!(read(502, "<html>").unwrap_err().outcome(), "unavailable");
    }
}
