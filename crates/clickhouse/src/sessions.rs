//! The table `sessions_log`: the calendars of `crates/model`, so that SQL can tell a missing minute from a closed market.
//!
//! Next: `schemas/clickhouse/011_bars.sql`.

use crate::{ClickHouse, Column, Columns, Error, Insert, RowWriter};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use marketflow_model::{Calendar, Session, SessionKind, Timestamp};
use sha2::{Digest, Sha256};
use std::time::Duration;

const INSERT_WITHIN: Duration = Duration::from_secs(60);

const COLUMNS: &[Column] = &[
    ("calendar", "LowCardinality(String)"),
    ("kind", "LowCardinality(String)"),
    ("date", "Date32"),
    ("last_date", "Date32"),
    ("open_time", "DateTime64(6, 'UTC')"),
    ("close_time", "DateTime64(6, 'UTC')"),
    ("auction_time", "Nullable(DateTime64(6, 'UTC'))"),
    ("expected_slots", "Int32"),
    ("checksum", "LowCardinality(String)"),
];

/// Loads the sessions of every calendar that closes, unless they are what was loaded last. Returns how many rows it wrote.
///
/// # Errors
/// ClickHouse's.
pub(crate) async fn load(clickhouse: &ClickHouse) -> Result<usize, Error> {
    let checksum = hex::encode(Sha256::digest(insert("", String::new()).body()));
    let last = "SELECT argMax(checksum, loaded_at) FROM sessions_log";
    if clickhouse.text("read which sessions were loaded", last, "TabSeparated").await?.trim() == checksum {
        return Ok(0);
    }
    let insert = insert(&checksum, format!("sessions|{checksum}"));
    clickhouse.insert(&insert, INSERT_WITHIN).await?;
    tracing::info!(sessions = insert.rows(), "loaded the trading sessions");
    Ok(insert.rows())
}

/// The sessions of every calendar; a market that never closes has none.
fn insert(checksum: &str, token: String) -> Insert {
    let mut columns = Columns::new(COLUMNS);
    for calendar in Calendar::all() {
        let Some((from, to)) = calendar.covers() else { continue };
        for session in calendar.sessions(from, to) {
            columns.append(|row| write(calendar, &session, checksum, row));
        }
    }
    let rows: Vec<u32> = (0..).take(columns.rows()).collect();
    Insert::new("sessions_log", token, &columns, &rows)
}

fn write(calendar: &Calendar, session: &Session, checksum: &str, row: &mut RowWriter<'_>) {
    row.string(calendar.name());
    row.string(kind(session.kind));
    row.int32(days(session.date));
    row.int32(days(local_date(session.close.plus_micros(-1), calendar.zone())));
    row.micros(session.open);
    row.micros(session.last_minute_close());
    row.nullable(session.auction, RowWriter::micros);
    row.int32(i32::try_from(session.expected_slots().count()).unwrap_or(i32::MAX));
    row.string(checksum);
}

const fn kind(kind: SessionKind) -> &'static str {
    match kind {
        SessionKind::Regular => "regular",
        SessionKind::PreOpen => "pre_open",
        SessionKind::ClosingPrice => "closing_price",
        SessionKind::AfterHours => "after_hours",
        SessionKind::AfterMarket => "after_market",
    }
}

fn local_date(at: Timestamp, zone: &TimeZone) -> Date {
    jiff::Timestamp::from_microsecond(at.micros()).map_or(Date::MAX, |at| at.to_zoned(zone.clone()).date())
}

/// Days since 1970-01-01, ClickHouse's `Date32`.
fn days(date: Date) -> i32 {
    (date - jiff::civil::date(1970, 1, 1)).get_days()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_a_row() {
        let krx = Calendar::of_venue("KRX");
        let date = jiff::civil::date(2026, 11, 20);
        let regular = krx.sessions(date, date).into_iter().find(|session| session.kind == SessionKind::Regular).unwrap();
        let mut columns = Columns::new(COLUMNS);
        columns.append(|row| write(krx, &regular, "c", row));
        let body = Insert::new("t", String::new(), &columns, &[0]).body();
        let at = |text: &str| Timestamp::parse(text).unwrap().micros().to_le_bytes();
        let mut of_auction = vec![0];
        of_auction.extend(at("2026-11-20T06:20:00Z"));
        let values: [(&str, &str, &[u8]); 5] = [
            ("date", "Date32", &20_777i32.to_le_bytes()),
            ("open_time", "DateTime64(6, 'UTC')", &at("2026-11-20T00:00:00Z")),
            ("close_time", "DateTime64(6, 'UTC')", &at("2026-11-20T06:31:00Z")),
            ("auction_time", "Nullable(DateTime64(6, 'UTC'))", &of_auction),
            ("expected_slots", "Int32", &381i32.to_le_bytes()),
        ];
        for (name, kind, value) in values {
            let expected = [name.as_bytes(), &[u8::try_from(kind.len()).unwrap()], kind.as_bytes(), value].concat();
            assert!(body.windows(expected.len()).any(|window| window == expected), "{name}");
        }
    }

    #[test]
    fn a_week_of_foreign_exchange_ends_on_its_friday() {
        let fx = Calendar::of_venue("FX");
        let week = fx.sessions(jiff::civil::date(2026, 11, 15), jiff::civil::date(2026, 11, 15));
        assert_eq!(local_date(week[0].close.plus_micros(-1), fx.zone()), jiff::civil::date(2026, 11, 20));
        assert!(Calendar::of_venue("BITSTAMP").covers().is_none());
    }
}
