//! The table `sessions_log`: the calendars of `crates/model`, so that SQL can tell a missing minute from a closed market.
//!
//! Next: `schemas/clickhouse/011_bars.sql`.

use crate::{ClickHouse, Column, Error, Insert, RowWriter, header};
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
    let rows: Vec<Vec<u8>> = Calendar::all().iter().flat_map(rows_of).collect();
    let checksum = rows.iter().fold(Sha256::new(), |hash, row| hash.chain_update(row)).finalize();
    let checksum = hex::encode(checksum);
    let last = "SELECT argMax(checksum, loaded_at) FROM sessions_log";
    if clickhouse.text("read which sessions were loaded", last, "TabSeparated").await?.trim() == checksum {
        return Ok(0);
    }
    let mut body = Vec::new();
    for row in &rows {
        body.extend_from_slice(row);
        RowWriter(&mut body).string(&checksum);
    }
    let insert = Insert::new("sessions_log", format!("sessions|{checksum}"), header(COLUMNS), body.into(), rows.len());
    clickhouse.insert(&insert, INSERT_WITHIN).await?;
    tracing::info!(sessions = rows.len(), "loaded the trading sessions");
    Ok(rows.len())
}

/// A calendar's sessions as rows without the checksum; a market that never closes has none.
fn rows_of(calendar: &Calendar) -> Vec<Vec<u8>> {
    let Some((from, to)) = calendar.covers() else { return Vec::new() };
    calendar.sessions(from, to).iter().map(|session| row_of(calendar, session)).collect()
}

fn row_of(calendar: &Calendar, session: &Session) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut row = RowWriter(&mut bytes);
    row.string(calendar.name());
    row.string(kind(session.kind));
    row.int32(days(session.date));
    row.int32(days(local_date(session.close.plus_micros(-1), calendar.zone())));
    row.micros(session.open);
    row.micros(session.last_minute_close());
    row.nullable(session.auction, RowWriter::micros);
    row.int32(i32::try_from(session.expected_slots().count()).unwrap_or(i32::MAX));
    bytes
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
        let at = |text: &str| Timestamp::parse(text).unwrap().micros().to_le_bytes();
        let mut expected = Vec::new();
        expected.extend(b"\x03krx\x07regular");
        expected.extend(20_777i32.to_le_bytes());
        expected.extend(20_777i32.to_le_bytes());
        expected.extend(at("2026-11-20T00:00:00Z"));
        expected.extend(at("2026-11-20T06:31:00Z"));
        expected.push(0);
        expected.extend(at("2026-11-20T06:20:00Z"));
        expected.extend(381i32.to_le_bytes());
        assert_eq!(row_of(krx, &regular), expected);
    }

    #[test]
    fn a_week_of_foreign_exchange_ends_on_its_friday() {
        let fx = Calendar::of_venue("FX");
        let week = fx.sessions(jiff::civil::date(2026, 11, 15), jiff::civil::date(2026, 11, 15));
        assert_eq!(local_date(week[0].close.plus_micros(-1), fx.zone()), jiff::civil::date(2026, 11, 20));
        assert!(rows_of(Calendar::of_venue("BITSTAMP")).is_empty());
    }
}
