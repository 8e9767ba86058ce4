//! Missing trades by request: `historicalTrades` from an id on, a thousand a page, oldest first. Where only a time is known, `aggTrades`
//! tells the first trade id at or after it.
//!
//! Next: `services/producer/src/backfill.rs`.

use super::frame::AggregateRow;
use super::parse;
use crate::number::{digits, integer};
use crate::{Cursor, MalformedRow, Page, Rest, RestAnswer, RestError, RestRequest, excerpt, status_error};
use marketflow_model::{Instrument, Timestamp};
use serde_json::value::RawValue;

/// Binance's side of [`Rest`].
#[derive(Debug)]
pub struct BinanceRest;

/// Rows of a page.
const LIMIT: usize = 1_000;
const HEADERS: &[(&str, &str)] = &[("X-MBX-TIME-UNIT", "MICROSECOND")];

impl Rest for BinanceRest {
    fn request(&self, instrument: &Instrument, cursor: &Cursor, _now: Timestamp) -> RestRequest {
        let symbol = instrument.symbol();
        match cursor.after {
            Some(after) => {
                let first = after.saturating_add(1).max(0);
                let hole = cursor.before.map_or(LIMIT, |before| usize::try_from(before.saturating_sub(first)).unwrap_or(LIMIT));
                let limit = hole.clamp(1, LIMIT);
                RestRequest {
                    path_and_query: format!("/api/v3/historicalTrades?symbol={symbol}&fromId={first}&limit={limit}"),
                    headers: HEADERS,
                    weight: 25,
                    reach: None,
                }
            }
            None => RestRequest {
                path_and_query: format!(
                    "/api/v3/aggTrades?symbol={symbol}&startTime={}&limit=1",
                    cursor.from.micros().div_euclid(1_000)
                ),
                headers: HEADERS,
                weight: 4,
                reach: None,
            },
        }
    }

    fn page(
        &self,
        instrument: &Instrument,
        cursor: &Cursor,
        _request: &RestRequest,
        answer: RestAnswer<'_>,
        received: Timestamp,
    ) -> Result<Page, RestError> {
        if let Some((code, detail)) = error_code(answer.body) {
            return Err(match code {
                -1003 => match status_error(answer) {
                    Some(limited @ RestError::RateLimited { .. }) => limited,
                    _ => RestError::RateLimited { retry_after: None, detail },
                },
                // Our fault or nobody's: bad symbol, bad parameter. Everything else may pass.
                -1299..=-1100 => RestError::Refused { detail },
                _ => status_error(answer)
                    .filter(|error| !matches!(error, RestError::Refused { .. }))
                    .unwrap_or(RestError::Unavailable { retry_after: None, detail }),
            });
        }
        if let Some(error) = status_error(answer) {
            return Err(error);
        }
        let unreadable = |error: String| RestError::Unreadable { detail: format!("{error}: {}", excerpt(answer.body)) };
        let rows: Vec<&RawValue> = serde_json::from_slice(answer.body).map_err(|error| unreadable(error.to_string()))?;
        let mut page = Page::default();
        let Some(after) = cursor.after else {
            if let Some(row) = rows.first() {
                let row: AggregateRow<'_> = serde_json::from_str(row.get()).map_err(|error| unreadable(error.to_string()))?;
                let first = integer("f", digits(row.f)).map_err(|(_, error)| unreadable(error))?;
                page.next = Some(Cursor { after: Some(first.saturating_sub(1)), ..cursor.clone() });
            }
            return Ok(page);
        };
        let full = rows.len() >= LIMIT;
        let mut highest = after;
        for row in rows {
            match parse::historical(row.get(), instrument, received) {
                Ok(trade) => {
                    let id = trade.sequence.unwrap_or_default();
                    highest = highest.max(id);
                    if id > after && cursor.before.is_none_or(|before| id < before) {
                        page.trades.push(trade);
                    }
                }
                Err((reason, detail)) => {
                    let (id, event_time) = parse::identity(row.get());
                    page.malformed.push(MalformedRow { reason, detail, raw: row.get().to_owned(), id, event_time });
                }
            }
        }
        page.trades.sort_by_key(|trade| trade.sequence);
        let wanted_more = cursor.before.is_none_or(|before| highest.saturating_add(1) < before);
        if full && wanted_more && highest > after {
            page.next = Some(Cursor { after: Some(highest), ..cursor.clone() });
        }
        Ok(page)
    }
}

/// `{"code":-1121,"msg":"Invalid symbol."}`.
fn error_code(body: &[u8]) -> Option<(i64, String)> {
    #[derive(serde::Deserialize)]
    struct ErrorBody {
        code: i64,
        #[serde(default)]
        msg: String,
    }
    if body.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let error: ErrorBody = serde_json::from_slice(body).ok()?;
    Some((error.code, format!("{} (code {})", error.msg.chars().take(160).collect::<String>(), error.code)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(1_700_000_000 + seconds)
    }

    fn cursor(after: Option<i64>, before: Option<i64>) -> Cursor {
        Cursor { after, before, from: at(0), widened: 0 }
    }

    fn instrument() -> Instrument {
        "BINANCE:BTCUSDT".parse().unwrap()
    }

    fn page(cursor: &Cursor, status: u16, body: &str) -> Result<Page, RestError> {
        let request = BinanceRest.request(&instrument(), cursor, at(1));
        let answer = RestAnswer { status, retry_after: Some("17"), body: body.as_bytes() };
        BinanceRest.page(&instrument(), cursor, &request, answer, at(1))
    }

    fn rows(ids: std::ops::Range<i64>) -> String {
        let row = |id| {
            format!(r#"{{"id":{id},"price":"4.00000100","qty":"12","quoteQty":"48","time":1700000000500,"isBuyerMaker":true}}"#)
        };
        format!("[{}]", ids.map(row).collect::<Vec<_>>().join(","))
    }

    #[test]
    fn a_hole_is_asked_for_by_id_and_no_further() {
        let ask = |cursor| BinanceRest.request(&instrument(), &cursor, at(1)).path_and_query;
        assert_eq!(ask(cursor(Some(6), Some(9))), "/api/v3/historicalTrades?symbol=BTCUSDT&fromId=7&limit=2");
        assert_eq!(ask(cursor(Some(6), None)), "/api/v3/historicalTrades?symbol=BTCUSDT&fromId=7&limit=1000");
        assert_eq!(ask(cursor(None, None)), "/api/v3/aggTrades?symbol=BTCUSDT&startTime=1700000000000&limit=1");
        let found = page(&cursor(Some(6), Some(9)), 200, &rows(7..12)).unwrap();
        assert_eq!(found.trades.iter().filter_map(|t| t.sequence).collect::<Vec<_>>(), [7, 8]);
        assert_eq!(found.next, None);
    }

    #[test]
    fn full_pages_lead_on_and_a_time_leads_to_an_id() {
        let found = page(&cursor(Some(6), None), 200, &rows(7..1_007)).unwrap();
        assert_eq!((found.trades.len(), found.next.and_then(|c| c.after)), (1_000, Some(1_006)));
        let found = page(&cursor(None, None), 200, r#"[{"a":1,"p":"1","q":"1","f":501,"l":503,"T":1,"m":true}]"#).unwrap();
        assert_eq!((found.trades.len(), found.next.and_then(|c| c.after)), (0, Some(500)));
        assert_eq!(page(&cursor(None, None), 200, "[]").unwrap(), Page::default());
    }

    #[test]
    fn errors_say_whether_to_ask_again() {
        let error = |status, body: &str| page(&cursor(Some(1), None), status, body).unwrap_err();
        let limited = error(429, r#"{"code":-1003,"msg":"Too much request weight used"}"#);
        assert!(matches!(limited, RestError::RateLimited { retry_after: Some(after), .. } if after == Duration::from_secs(17)));
        assert_eq!(error(418, r#"{"code":-1003,"msg":"banned"}"#).outcome(), "rate_limited");
        assert_eq!(error(400, r#"{"code":-1121,"msg":"Invalid symbol."}"#).outcome(), "refused");
        assert_eq!(error(504, r#"{"code":-1007,"msg":"Timeout"}"#).outcome(), "unavailable");
        assert_eq!(error(451, "{\"code\":0,\"msg\":\"restricted location\"}").outcome(), "region");
        assert_eq!(error(403, "<html>").outcome(), "unavailable");
        assert_eq!(error(200, "{\"x\":1}").outcome(), "unreadable");
    }
}
