//! Missing trades by request: `GET /v1/trades/ticks`, newest first, 500 a page, one UTC day at a time and seven days back at most.
//!
//! A back-fill pages from now towards the past: within a day by `cursor` (an id; older ones follow), then the day before by `days_ago`. In our
//! [`Cursor`] `before` is the former and `widened` the latter. The next day begins without a cursor, so a midnight between two answers repeats
//! rows and loses none.
//!
//! Next: `services/producer/src/backfill.rs`.

use super::parse;
use crate::number::{digits, shown};
use crate::{Cursor, MalformedRow, Page, Rest, RestAnswer, RestError, RestRequest, excerpt, status_error};
use marketflow_model::{Instrument, Timestamp};
use serde_json::value::RawValue;
use std::time::Duration;

/// Upbit's side of [`Rest`].
#[derive(Debug)]
pub struct UpbitRest;

/// Rows of a page.
const LIMIT: usize = 500;
/// Days before today that are answered.
const DAYS: u8 = 7;
const DAY_SECONDS: i64 = 86_400;
/// What the venue asks for without saying so in a header: the next second; and after ignored warnings its block's length is in words.
const AFTER_429: Duration = Duration::from_secs(1);
const AFTER_418: Duration = Duration::from_secs(60);

impl Rest for UpbitRest {
    fn request(&self, instrument: &Instrument, cursor: &Cursor, _now: Timestamp) -> RestRequest {
        let mut path_and_query = format!("/v1/trades/ticks?market={}&count={LIMIT}", instrument.symbol());
        if let Some(before) = cursor.before {
            path_and_query.push_str(&format!("&cursor={before}"));
        }
        if cursor.widened > 0 {
            path_and_query.push_str(&format!("&days_ago={}", cursor.widened));
        }
        RestRequest { path_and_query, headers: &[], weight: 1, reach: None }
    }

    fn page(
        &self,
        instrument: &Instrument,
        cursor: &Cursor,
        _request: &RestRequest,
        answer: RestAnswer<'_>,
        received: Timestamp,
    ) -> Result<Page, RestError> {
        if let Some(error) = status_error(answer) {
            return Err(match error {
                RestError::RateLimited { retry_after: None, detail } => {
                    let wait = if answer.status == 418 { AFTER_418 } else { AFTER_429 };
                    RestError::RateLimited { retry_after: Some(wait), detail }
                }
                error @ (RestError::RateLimited { .. }
                | RestError::Unavailable { .. }
                | RestError::Refused { .. }
                | RestError::Region { .. }
                | RestError::Unreadable { .. }) => error,
            });
        }
        if let Some(detail) = error_object(answer.body) {
            return Err(RestError::Refused { detail });
        }
        let rows: Vec<&RawValue> = serde_json::from_slice(answer.body)
            .map_err(|error| RestError::Unreadable { detail: format!("{error}: {}", excerpt(answer.body)) })?;
        let full = rows.len() >= LIMIT;
        let mut page = Page::default();
        let (mut oldest, mut lowest): (Option<Timestamp>, Option<i64>) = (None, None);
        for row in rows {
            let read = parse::tick(row.get(), instrument, received);
            let (id, time) = match &read {
                Ok(trade) => (trade.sequence, Some(trade.event_time)),
                Err(_) => parse::identity(row.get()),
            };
            oldest = [oldest, time].into_iter().flatten().min();
            lowest = [lowest, id].into_iter().flatten().min();
            let wanted = cursor.after.zip(id).is_none_or(|(after, id)| id > after)
                && cursor.before.zip(id).is_none_or(|(before, id)| id < before)
                && time.is_none_or(|time| time >= cursor.from);
            match read {
                Ok(trade) if wanted => page.trades.push(trade),
                Err((reason, detail)) if wanted => {
                    page.malformed.push(MalformedRow { reason, detail, raw: row.get().to_owned(), id, event_time: time });
                }
                Ok(_) | Err(_) => {}
            }
        }
        page.trades.sort_by_key(|trade| trade.sequence);

        // The answer reaches back far enough when it shows something older than wanted, or when its day does.
        let seen_older = oldest.is_some_and(|time| time < cursor.from)
            || lowest.zip(cursor.after).is_some_and(|(lowest, after)| lowest <= after);
        let goes_on = lowest.is_some_and(|lowest| cursor.before.is_none_or(|before| lowest < before));
        let day = Timestamp::from_seconds(
            (received.micros().div_euclid(DAY_SECONDS * 1_000_000) - i64::from(cursor.widened)) * DAY_SECONDS,
        );
        if seen_older || (!full && day <= cursor.from) {
            return Ok(page);
        }
        if full && goes_on {
            page.next = Some(Cursor { before: lowest, ..cursor.clone() });
        } else if cursor.widened < DAYS {
            page.next = Some(Cursor { before: None, widened: cursor.widened + 1, ..cursor.clone() });
        } else {
            page.reaches_from = Some(day);
        }
        Ok(page)
    }
}

/// `{"error":{"name":404,"message":"Code not found"}}`; the name is a number or a text.
fn error_object(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct ErrorAnswer<'a> {
        #[serde(borrow)]
        error: super::frame::ErrorBody<'a>,
    }
    let answer: ErrorAnswer<'_> = serde_json::from_slice(body).ok()?;
    let name = answer.error.name.map_or("null", digits);
    Some(format!("{} ({})", shown(answer.error.message.as_deref().unwrap_or_default()), shown(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2023-11-14T22:13:20Z, so midnight is 6,400 s away.
    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(1_700_000_000 + seconds)
    }

    fn instrument() -> Instrument {
        "UPBIT:KRW-BTC".parse().unwrap()
    }

    fn cursor(from: i64) -> Cursor {
        Cursor { after: None, before: None, from: at(from), widened: 0 }
    }

    fn page(cursor: &Cursor, status: u16, body: &str, now: i64) -> Result<Page, RestError> {
        let request = UpbitRest.request(&instrument(), cursor, at(now));
        let answer = RestAnswer { status, retry_after: None, body: body.as_bytes() };
        UpbitRest.page(&instrument(), cursor, &request, answer, at(now))
    }

    /// A row a second, newest first; its id is its second.
    fn rows(seconds: std::ops::Range<i64>) -> String {
        let row = |second: i64| {
            let ms = (1_700_000_000 + second) * 1_000;
            format!(
                r#"{{"market":"KRW-BTC","timestamp":{ms},"trade_price":5.1E7,"trade_volume":0.5,"ask_bid":"BID","sequential_id":{second}}}"#
            )
        };
        format!("[{}]", seconds.rev().map(row).collect::<Vec<_>>().join(","))
    }

    fn ids(page: &Page) -> Vec<i64> {
        page.trades.iter().filter_map(|t| t.sequence).collect()
    }

    #[test]
    fn pages_go_back_by_id_until_something_older_shows() {
        let ask = |cursor: &Cursor| UpbitRest.request(&instrument(), cursor, at(0)).path_and_query;
        let first = cursor(100);
        assert_eq!(ask(&first), "/v1/trades/ticks?market=KRW-BTC&count=500");
        let found = page(&first, 200, &rows(300..800), 800).unwrap();
        assert_eq!((ids(&found).len(), ids(&found)[0]), (500, 300));
        let second = found.next.unwrap();
        assert_eq!(ask(&second), "/v1/trades/ticks?market=KRW-BTC&count=500&cursor=300");
        let found = page(&second, 200, &rows(50..300), 800).unwrap();
        assert_eq!((ids(&found)[0], ids(&found).len()), (100, 200), "what is older was not asked for");
        assert_eq!((found.next, found.reaches_from), (None, None));
    }

    #[test]
    fn the_day_before_is_asked_for_when_the_hole_began_there() {
        // 100 s after midnight, for a hole that began 200 s before it.
        let midnight = 6_400;
        let first = cursor(midnight - 200);
        let found = page(&first, 200, &rows(midnight + 1..midnight + 50), midnight + 100).unwrap();
        assert_eq!(ids(&found).len(), 49);
        let second = found.next.unwrap();
        let ask = UpbitRest.request(&instrument(), &second, at(midnight + 100)).path_and_query;
        assert_eq!(ask, "/v1/trades/ticks?market=KRW-BTC&count=500&days_ago=1");
        let found = page(&second, 200, &rows(midnight - 300..midnight), midnight + 100).unwrap();
        assert_eq!((ids(&found).len(), found.next, found.reaches_from), (200, None, None));
    }

    #[test]
    fn beyond_seven_days_the_venue_does_not_answer_and_that_is_said() {
        let last = Cursor { widened: 7, ..cursor(-30 * 86_400) };
        let found = page(&last, 200, "[]", 0).unwrap();
        assert_eq!(found.next, None);
        assert_eq!(found.reaches_from, Some(at(6_400 - 8 * 86_400)));
    }

    #[test]
    fn a_day_without_trades_that_holds_the_whole_range_is_an_answer() {
        let found = page(&cursor(0), 200, "[]", 60).unwrap();
        assert_eq!((found.next, found.reaches_from), (None, None));
    }

    #[test]
    fn a_full_page_of_repeats_does_not_ask_for_itself_again() {
        let stuck = Cursor { before: Some(300), ..cursor(0) };
        let found = page(&stuck, 200, &rows(300..800), 900).unwrap();
        assert_ne!(found.next.map(|next| (next.before, next.widened)), Some((Some(300), 0)));
    }

    #[test]
    fn errors_are_told_apart_by_status_and_object() {
        let error = |status, body: &str| page(&cursor(0), status, body, 1).unwrap_err();
        let wait = |status| {
            let RestError::RateLimited { retry_after, .. } = error(status, "Too many API requests.") else { panic!("{status}") };
            retry_after
        };
        assert_eq!((wait(429), wait(418)), (Some(AFTER_429), Some(AFTER_418)));
        assert_eq!(error(404, r#"{"error":{"name":404,"message":"Code not found"}}"#).outcome(), "refused");
        assert_eq!(error(200, r#"{"error":{"name":"invalid_parameter","message":"no"}}"#).outcome(), "refused");
        assert_eq!(error(503, "<html>").outcome(), "unavailable");
        assert_eq!(error(200, "<html>").outcome(), "unavailable");
        assert_eq!(error(200, r#"[{"market":"#).outcome(), "unreadable");
    }
}
