//! Missing trades by request: `GET /api/v2/transactions/<pair>/?time=minute|hour|day`, newest first, no paging, one day at most.
//!
//! The window is chosen by how far back the hole lies and widened when the answer turns out not to reach it.
//!
//! Next: `services/producer/src/backfill.rs`.

use super::{pair, parse};
use crate::{Cursor, MalformedRow, Page, Rest, RestAnswer, RestError, RestRequest, excerpt, status_error};
use marketflow_model::{Instrument, Timestamp};
use serde_json::value::RawValue;
use std::time::Duration;

/// Bitstamp's side of [`Rest`].
#[derive(Debug)]
pub struct BitstampRest;

const SPANS: [(&str, u64); 3] = [("minute", 60), ("hour", 3_600), ("day", 86_400)];

/// Index into [`SPANS`]: the narrowest that reaches `from` with some room, then one wider for each answer that fell short.
fn span(cursor: &Cursor, now: Timestamp) -> usize {
    let age_seconds = u64::try_from(now.micros_since(cursor.from) / 1_000_000).unwrap_or(0);
    let fits = SPANS.iter().position(|(_, seconds)| age_seconds < seconds * 3 / 4).unwrap_or(SPANS.len() - 1);
    (fits + usize::from(cursor.widened)).min(SPANS.len() - 1)
}

/// Start of the second, as far as the venue's times resolve.
fn second(at: Timestamp) -> Timestamp {
    Timestamp::from_seconds(at.micros().div_euclid(1_000_000))
}

impl Rest for BitstampRest {
    fn request(&self, instrument: &Instrument, cursor: &Cursor, now: Timestamp) -> RestRequest {
        let (time, seconds) = SPANS[span(cursor, now)];
        RestRequest {
            path_and_query: format!("/api/v2/transactions/{}/?time={time}", pair(instrument)),
            headers: &[],
            weight: 1,
            reach: Some(Duration::from_secs(seconds)),
        }
    }

    fn page(
        &self,
        instrument: &Instrument,
        cursor: &Cursor,
        request: &RestRequest,
        answer: RestAnswer<'_>,
        received: Timestamp,
    ) -> Result<Page, RestError> {
        if let Some(code) = error_code(answer.body) {
            let detail = excerpt(answer.body);
            return Err(match &*code {
                "400.002" | "400.067" | "400.068" => RestError::RateLimited { retry_after: None, detail },
                _ => status_error(answer)
                    .filter(|e| !matches!(e, RestError::Refused { .. }))
                    .unwrap_or(RestError::Refused { detail }),
            });
        }
        if let Some(error) = status_error(answer) {
            return Err(error);
        }
        let rows: Vec<&RawValue> = serde_json::from_slice(answer.body)
            .map_err(|error| RestError::Unreadable { detail: format!("{error}: {}", excerpt(answer.body)) })?;
        let mut page = Page::default();
        let mut oldest: Option<Timestamp> = None;
        let mut lowest: Option<i64> = None;
        let wanted = |id: Option<i64>, time: Option<Timestamp>| {
            let after = cursor.after.zip(id).is_none_or(|(after, id)| id > after);
            let before = cursor.before.zip(id).is_none_or(|(before, id)| id < before);
            after && before && time.is_none_or(|time| time >= second(cursor.from))
        };
        for row in rows {
            match parse::transaction(row.get(), instrument, received) {
                Ok(trade) => {
                    let id = trade.sequence.unwrap_or_default();
                    oldest = Some(oldest.map_or(trade.event_time, |t| t.min(trade.event_time)));
                    lowest = Some(lowest.map_or(id, |l| l.min(id)));
                    if wanted(trade.sequence, Some(trade.event_time)) {
                        page.trades.push(trade);
                    }
                }
                Err((reason, detail)) => {
                    let (id, event_time) = parse::identity(row.get());
                    if wanted(id, event_time) {
                        page.malformed.push(MalformedRow { reason, detail, raw: row.get().to_owned(), id, event_time });
                    }
                }
            }
        }
        page.trades.sort_by_key(|trade| trade.sequence);

        // The answer reaches back far enough when it shows something older than wanted, or when its window does.
        let seen_older = oldest.is_some_and(|t| t < second(cursor.from))
            || lowest.zip(cursor.after).is_some_and(|(lowest, after)| lowest <= after);
        let reach = request.reach.unwrap_or_default();
        let window_start = received.plus_micros(-i64::try_from(reach.as_micros()).unwrap_or(i64::MAX));
        if !seen_older && window_start > cursor.from {
            if reach.as_secs() < SPANS[SPANS.len() - 1].1 {
                page.next = Some(Cursor { widened: cursor.widened.saturating_add(1), ..cursor.clone() });
                page.trades.clear();
                page.malformed.clear();
            } else {
                page.reaches_from = Some(window_start);
            }
        }
        Ok(page)
    }
}

/// The code of an error object: `{"status":"error","code":…}`, `{"status":"error","response_code":…}` or `{"error":…}`.
fn error_code(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct ErrorBody {
        status: Option<String>,
        code: Option<serde_json::Value>,
        response_code: Option<serde_json::Value>,
        error: Option<serde_json::Value>,
        message: Option<String>,
    }
    if body.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let error: ErrorBody = serde_json::from_slice(body).ok()?;
    let text = |value: serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let failed = error.status.as_deref() == Some("error") || error.error.is_some() || error.message.is_some();
    failed.then(|| error.response_code.or(error.code).map(text).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(1_700_000_000 + seconds)
    }

    fn cursor(after: Option<i64>, from: i64) -> Cursor {
        Cursor { after, before: None, from: at(from), widened: 0 }
    }

    fn instrument() -> Instrument {
        "BITSTAMP:BTCUSD".parse().unwrap()
    }

    /// Asks and answers in the same second.
    fn page(cursor: &Cursor, status: u16, body: &str, now: i64) -> Result<Page, RestError> {
        let request = BitstampRest.request(&instrument(), cursor, at(now));
        let answer = RestAnswer { status, retry_after: None, body: body.as_bytes() };
        BitstampRest.page(&instrument(), cursor, &request, answer, at(now))
    }

    fn row(second: i64, id: i64) -> String {
        format!(r#"{{"date":"{}","tid":"{id}","price":"700.01","type":"0","amount":"0.50000000"}}"#, 1_700_000_000 + second)
    }

    fn ids(page: &Page) -> Vec<i64> {
        page.trades.iter().filter_map(|t| t.sequence).collect()
    }

    #[test]
    fn the_window_asked_for_fits_the_age_of_the_hole() {
        let ask = |age: i64, widened| {
            BitstampRest.request(&instrument(), &Cursor { widened, ..cursor(None, 0) }, at(age)).path_and_query
        };
        assert_eq!(ask(5, 0), "/api/v2/transactions/btcusd/?time=minute");
        assert_eq!(ask(50, 0), "/api/v2/transactions/btcusd/?time=hour");
        assert_eq!(ask(5, 1), "/api/v2/transactions/btcusd/?time=hour");
        assert_eq!(ask(90_000, 3), "/api/v2/transactions/btcusd/?time=day");
    }

    #[test]
    fn exactly_the_missing_rows_come_back_oldest_first() {
        let body = format!("[{},{},{},{}]", row(9, 40), row(7, 30), row(5, 20), row(5, 10));
        let found = page(&Cursor { before: Some(40), ..cursor(Some(10), 5) }, 200, &body, 10).unwrap();
        assert_eq!(ids(&found), [20, 30]);
        assert_eq!((found.next, found.reaches_from), (None, None));
    }

    #[test]
    fn an_answer_that_came_too_late_to_reach_back_is_asked_for_wider() {
        let body = format!("[{}]", row(100, 40));
        let cursor = cursor(Some(10), 0);
        let request = BitstampRest.request(&instrument(), &cursor, at(10));
        let answer = RestAnswer { status: 200, retry_after: None, body: body.as_bytes() };
        let short = BitstampRest.page(&instrument(), &cursor, &request, answer, at(110)).unwrap();
        assert!(short.trades.is_empty(), "nothing is written before the whole range is known");
        assert_eq!(short.next.map(|c| c.widened), Some(1));
    }

    #[test]
    fn beyond_a_day_the_venue_does_not_answer_and_that_is_said() {
        let short = page(&cursor(Some(10), 0), 200, &format!("[{}]", row(3_700, 40)), 90_000).unwrap();
        assert_eq!(ids(&short), [40]);
        assert_eq!(short.reaches_from, Some(at(3_600)));
    }

    #[test]
    fn error_objects_are_errors_also_inside_a_200() {
        let outcome = |status, body: &str| page(&cursor(None, 0), status, body, 1).unwrap_err().outcome();
        assert_eq!(outcome(200, r#"{"status":"error","reason":"slow down","response_code":"400.002"}"#), "rate_limited");
        assert_eq!(outcome(400, r#"{"status":"error","reason":{"time":["bad"]},"code":"API0004"}"#), "refused");
        assert_eq!(outcome(404, r#"{"message":"Not found."}"#), "refused");
        assert_eq!(outcome(503, "<html>"), "unavailable");
        assert_eq!(outcome(200, "<html>"), "unavailable");
        assert_eq!(outcome(200, r#"[{"date":"1"#), "unreadable");
        assert_eq!(outcome(500, r#"{"error":"oops"}"#), "unavailable");
    }

    #[test]
    fn a_bad_row_is_set_aside_and_the_others_are_used() {
        let too_precise = |second, id| row(second, id).replace("700.01", "700.0123456789");
        let body = format!("[{},{},{}]", row(7, 30), too_precise(6, 20), too_precise(3, 10));
        let found = page(&cursor(None, 5), 200, &body, 10).unwrap();
        assert_eq!(ids(&found), [30]);
        assert_eq!(found.malformed.iter().map(|row| row.id).collect::<Vec<_>>(), [Some(20)], "what is older was not asked for");
    }
}
