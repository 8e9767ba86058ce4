//! When a venue trades: calendars as data (`crates/model/calendars/*.toml`), and the sessions that follow from them. No clock in here.
//!
//! A [`Session`] is a stretch of trading without a pause, such as KRX 09:00–15:30. A calendar knows sessions inside the dates its file covers;
//! outside of them it knows none and says so ([`Calendar::session_of`] gives `None`).
//!
//! Next: `crates/engine/src/builder.rs`, where a bar's window ends with the session.

use crate::{Interval, Timestamp};
use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::LazyLock;

const MINUTE_MICROS: i64 = Interval::ONE_MINUTE.micros();
const DAY_MICROS: i64 = 1440 * MINUTE_MICROS;

/// What kind of trading a session holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionKind {
    /// The main session; only its minutes are expected to hold trades.
    Regular,
    /// Before the open, at the previous close.
    PreOpen,
    /// After the close, at the closing price.
    ClosingPrice,
    /// After the close, in periodic auctions.
    AfterHours,
    /// After the close, continuous.
    AfterMarket,
}

/// A stretch of trading without a pause: `[open, close)`, and the closing print at `close` where there is a closing auction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    /// What is traded.
    pub kind: SessionKind,
    /// The local date it opens on.
    pub date: Date,
    /// First instant (inclusive).
    pub open: Timestamp,
    /// End of trading (exclusive, the closing print excepted).
    pub close: Timestamp,
    /// From here to the close orders gather and nothing prints; `None` = no closing auction.
    pub auction: Option<Timestamp>,
    /// How long after the close its last records may come, in microseconds.
    pub grace_micros: i64,
    /// The same while trading is halted at the close.
    pub grace_halted_micros: i64,
}

impl Session {
    /// Whether a record of this event time belongs to the session: inside of it, or the closing print.
    pub fn holds(&self, at: Timestamp) -> bool {
        self.open <= at && at < self.close || self.is_closing_print(at)
    }

    /// Whether a record of this event time is the closing auction's: at the close, or as much later as the longer grace allows.
    pub fn is_closing_print(&self, at: Timestamp) -> bool {
        self.auction.is_some() && self.close <= at && at <= self.close.plus_micros(self.grace_halted_micros)
    }

    /// End (exclusive) of the minutes of the session. The closing print has the minute at `close` for itself.
    pub fn last_minute_close(&self) -> Timestamp {
        if self.auction.is_some() { self.close.plus_micros(MINUTE_MICROS) } else { self.close }
    }

    /// Opens of the minutes in which an actively traded instrument is expected to trade; none outside the regular session.
    pub fn expected_slots(&self) -> impl Iterator<Item = Timestamp> + use<> {
        let continuous_to = if self.kind == SessionKind::Regular { self.auction.unwrap_or(self.close) } else { self.open };
        let print = self.auction.filter(|_| self.kind == SessionKind::Regular).map(|_| self.close);
        let open = self.open;
        let minutes = continuous_to.micros_since(open).div_euclid(MINUTE_MICROS);
        (0..minutes).map(move |m| open.plus_micros(m * MINUTE_MICROS)).chain(print)
    }

    /// Whether the minute is one of [`Session::expected_slots`].
    pub fn expects(&self, minute: Timestamp) -> bool {
        self.kind == SessionKind::Regular
            && match self.auction {
                Some(auction) => self.open <= minute && minute < auction || minute == self.close,
                None => self.open <= minute && minute < self.close,
            }
    }
}

/// A stretch of time that is either one session or the pause between two: what no bar may span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// Start (inclusive).
    pub from: Timestamp,
    /// End (exclusive).
    pub to: Timestamp,
    /// The session; `None` = a pause.
    pub session: Option<Session>,
}

/// When a venue trades.
#[derive(Debug)]
pub struct Calendar {
    name: String,
    zone: TimeZone,
    venues: Vec<String>,
    covers: Option<(Date, Date)>,
    longest_grace_micros: i64,
    /// In order of time, without overlap; empty for a market that never closes.
    sessions: Vec<Session>,
}

/// Why a calendar file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("calendar {name}: {problem}")]
pub struct CalendarError {
    name: String,
    problem: String,
}

static CALENDARS: LazyLock<Vec<Calendar>> = LazyLock::new(|| {
    [include_str!("../calendars/always.toml"), include_str!("../calendars/fx.toml"), include_str!("../calendars/krx.toml")]
        .into_iter()
        .map(|text| Calendar::parse(text).expect("the calendars in this crate are checked by its tests"))
        .collect()
});

impl Calendar {
    /// The calendar of a venue; a venue no calendar names never closes.
    pub fn of_venue(venue: &str) -> &'static Self {
        CALENDARS.iter().find(|c| c.venues.iter().any(|v| v == venue)).unwrap_or(&CALENDARS[0])
    }

    /// Every calendar there is.
    pub fn all() -> &'static [Self] {
        &CALENDARS
    }

    /// Reads a calendar file; `calendars/krx.toml` shows every key.
    ///
    /// # Errors
    /// The first thing in it that cannot be.
    pub fn parse(text: &str) -> Result<Self, CalendarError> {
        let file: File = toml::from_str(text).map_err(|e| CalendarError { name: "?".into(), problem: e.to_string() })?;
        let name = file.name.clone();
        file.build().map_err(|problem| CalendarError { name, problem })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The zone its local times are in.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Whether the market never closes.
    pub fn is_always_open(&self) -> bool {
        self.covers.is_none()
    }

    /// First and last date it knows; `None` = all.
    pub fn covers(&self) -> Option<(Date, Date)> {
        self.covers
    }

    /// The session a record of this event time belongs to, the closing print included.
    pub fn session_of(&self, at: Timestamp) -> Option<Session> {
        if self.is_always_open() {
            return Some(utc_day(at));
        }
        self.last_opened(at).filter(|s| s.holds(at))
    }

    /// Whether trading goes on at this instant.
    pub fn is_open(&self, at: Timestamp) -> bool {
        self.session_of(at).is_some_and(|s| s.open <= at && at < s.close)
    }

    /// The sessions that open on these local dates, both ends included.
    pub fn sessions(&self, from: Date, to: Date) -> Vec<Session> {
        if self.is_always_open() {
            return from
                .series(jiff::Span::new().days(1))
                .take_while(|d| *d <= to)
                .map(|d| utc_day(self.instant(d, Time::midnight())))
                .collect();
        }
        let start = self.sessions.partition_point(|s| s.date < from);
        self.sessions[start..].iter().take_while(|s| s.date <= to).copied().collect()
    }

    /// Opens of the minutes of a local date in which an actively traded instrument is expected to trade.
    pub fn expected_slots(&self, date: Date) -> Vec<Timestamp> {
        let start = self.instant(date, Time::midnight());
        let end = date.tomorrow().map_or(Timestamp::MAX, |d| self.instant(d, Time::midnight()));
        // a session may have opened days before: a week of foreign exchange is one
        let first = date.checked_sub(jiff::Span::new().days(7)).unwrap_or(date);
        let sessions = if self.is_always_open() { self.sessions(date, date) } else { self.sessions(first, date) };
        sessions.iter().flat_map(Session::expected_slots).filter(|slot| start <= *slot && *slot < end).collect()
    }

    /// The minute a record of this event time counts in: its own, or the one at the close for the closing print.
    pub fn minute_of(&self, at: Timestamp) -> Timestamp {
        self.last_opened(at).filter(|s| s.is_closing_print(at)).map_or(at, |s| s.close).window_open(Interval::ONE_MINUTE)
    }

    /// The session that holds a minute, or the pause between two that does.
    pub fn stretch_of(&self, minute: Timestamp) -> Stretch {
        let after = self.sessions.partition_point(|s| s.open <= minute);
        let next = self.sessions.get(after).map_or(Timestamp::MAX, |s| s.open);
        match after.checked_sub(1).map(|last| self.sessions[last]) {
            None => Stretch { from: Timestamp::MIN, to: next, session: None },
            Some(s) if minute < s.last_minute_close() => Stretch { from: s.open, to: s.last_minute_close(), session: Some(s) },
            Some(s) => Stretch { from: s.last_minute_close(), to: next, session: None },
        }
    }

    /// The longest time after a close that a record of its session may come, in microseconds.
    pub fn longest_grace_micros(&self) -> i64 {
        self.longest_grace_micros
    }

    fn last_opened(&self, at: Timestamp) -> Option<Session> {
        self.sessions.partition_point(|s| s.open <= at).checked_sub(1).map(|last| self.sessions[last])
    }

    fn instant(&self, date: Date, time: Time) -> Timestamp {
        instant(&self.zone, date, time)
    }
}

fn instant(zone: &TimeZone, date: Date, time: Time) -> Timestamp {
    zone.to_ambiguous_timestamp(date.to_datetime(time))
        .compatible()
        .map_or(Timestamp::MAX, |t| Timestamp::from_micros(t.as_microsecond()))
}

fn utc_day(at: Timestamp) -> Session {
    let days = at.micros().div_euclid(DAY_MICROS);
    let open = Timestamp::from_micros(days.saturating_mul(DAY_MICROS));
    let date = jiff::Timestamp::from_microsecond(open.micros()).map_or(Date::MIN, |t| t.to_zoned(TimeZone::UTC).date());
    Session {
        kind: SessionKind::Regular,
        date,
        open,
        close: open.plus_micros(DAY_MICROS),
        auction: None,
        grace_micros: 0,
        grace_halted_micros: 0,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    time_zone: String,
    /// POSIX rule, for machines without a zone database.
    time_zone_rule: Option<String>,
    venues: Vec<String>,
    #[serde(default)]
    always: bool,
    from: Option<String>,
    to: Option<String>,
    #[serde(default)]
    grace_seconds: i64,
    #[serde(default)]
    grace_halted_seconds: i64,
    week: Option<Week>,
    #[serde(default)]
    pattern: Vec<Pattern>,
    #[serde(default)]
    special: BTreeMap<String, String>,
    #[serde(default)]
    closed: BTreeMap<String, String>,
}

/// One session a week.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Week {
    /// On Sunday.
    open: String,
    /// On Friday.
    close: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pattern {
    name: String,
    /// The normal day from this date on; none: special days only.
    from: Option<String>,
    sessions: Vec<Hours>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hours {
    kind: SessionKind,
    open: String,
    auction: Option<String>,
    close: String,
}

fn read<T: std::str::FromStr<Err = jiff::Error>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e| format!("{text:?}: {e}"))
}

impl File {
    fn build(self) -> Result<Calendar, String> {
        let zone = match (TimeZone::get(&self.time_zone), &self.time_zone_rule) {
            (Ok(zone), _) => zone,
            (Err(_), Some(rule)) => TimeZone::posix(rule).map_err(|e| e.to_string())?,
            (Err(e), None) => return Err(e.to_string()),
        };
        let covers = match (self.always, &self.from, &self.to) {
            (true, None, None) => None,
            (false, Some(from), Some(to)) => Some((read::<Date>(from)?, read::<Date>(to)?)),
            _ => return Err("either `always` or `from` and `to`".into()),
        };
        let mut sessions = Vec::new();
        if let Some((from, to)) = covers {
            for date in from.series(jiff::Span::new().days(1)).take_while(|d| *d <= to) {
                self.add_sessions(&zone, date, &mut sessions)?;
            }
        }
        for pair in sessions.windows(2) {
            if pair[0].last_minute_close() > pair[1].open {
                return Err(format!("sessions overlap on {}", pair[1].date));
            }
        }
        let on_a_minute = |t: Timestamp| t.window_open(Interval::ONE_MINUTE) == t;
        if let Some(odd) = sessions.iter().find(|s| s.open >= s.close || !on_a_minute(s.open) || !on_a_minute(s.close)) {
            return Err(format!("a session on {} is empty or not on whole minutes", odd.date));
        }
        let longest_grace_micros = self.grace_seconds.max(self.grace_halted_seconds) * 1_000_000;
        Ok(Calendar { longest_grace_micros, name: self.name, zone, venues: self.venues, covers, sessions })
    }

    fn add_sessions(&self, zone: &TimeZone, date: Date, out: &mut Vec<Session>) -> Result<(), String> {
        let session = |kind, open, close, auction| Session {
            kind,
            date,
            open,
            close,
            auction,
            grace_micros: self.grace_seconds * 1_000_000,
            grace_halted_micros: self.grace_halted_seconds * 1_000_000,
        };
        if let Some(week) = &self.week {
            if date.weekday() == Weekday::Sunday {
                let friday = date.checked_add(jiff::Span::new().days(5)).map_err(|e| e.to_string())?;
                let (open, close) = (instant(zone, date, read(&week.open)?), instant(zone, friday, read(&week.close)?));
                out.push(session(SessionKind::Regular, open, close, None));
            }
            return Ok(());
        }
        let key = date.to_string();
        if matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday) || self.closed.contains_key(&key) {
            return Ok(());
        }
        let pattern = match self.special.get(&key) {
            Some(name) => self.pattern.iter().find(|p| p.name == *name),
            // dates are ISO 8601, so the order of texts is the order of dates
            None => self.pattern.iter().rfind(|p| p.from.as_ref().is_some_and(|from| *from <= key)),
        };
        let pattern = pattern.ok_or_else(|| format!("no pattern for {key}"))?;
        for hours in &pattern.sessions {
            let at = |text: &String| read(text).map(|time| instant(zone, date, time));
            let auction = hours.auction.as_ref().map(at).transpose()?;
            out.push(session(hours.kind, at(&hours.open)?, at(&hours.close)?, auction));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> Date {
        text.parse().unwrap()
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn regular(calendar: &Calendar, day: &str) -> Option<(String, String)> {
        let sessions = calendar.sessions(date(day), date(day));
        let session = sessions.iter().find(|s| s.kind == SessionKind::Regular)?;
        let local = |t: Timestamp| {
            jiff::Timestamp::from_microsecond(t.micros()).unwrap().to_zoned(calendar.zone().clone()).strftime("%H:%M").to_string()
        };
        Some((local(session.open), local(session.close)))
    }

    #[test]
    fn krx_days_have_their_hours() {
        let krx = Calendar::of_venue("KRX");
        for (day, expected) in [
            ("2024-06-03", Some(("09:00", "15:30"))), // Monday
            ("2024-06-01", None),                     // Saturday
            ("2024-06-06", None),                     // Memorial Day
            ("2024-01-01", None),                     // New Year's Day
            ("2024-01-02", Some(("10:00", "15:30"))), // first trading day
            ("2024-11-14", Some(("10:00", "16:30"))), // CSAT
            ("2024-11-15", Some(("09:00", "15:30"))), // the day after
            ("2024-12-30", Some(("09:00", "15:30"))), // last trading day
            ("2024-12-31", None),                     // year end
            ("2026-07-17", None),                     // Constitution Day, a holiday again
            ("2026-11-19", Some(("10:00", "16:30"))), // CSAT
            ("2027-01-04", Some(("10:00", "15:30"))), // first trading day after a Friday holiday
        ] {
            let expected = expected.map(|(open, close)| (open.to_owned(), close.to_owned()));
            assert_eq!(regular(krx, day), expected, "{day}");
        }
    }

    #[test]
    fn krx_trades_as_many_days_a_year_as_published() {
        let krx = Calendar::of_venue("KRX");
        for (year, days) in [(2023, 245), (2024, 244), (2025, 242), (2026, 244), (2027, 245)] {
            let sessions = krx.sessions(Date::new(year, 1, 1).unwrap(), Date::new(year, 12, 31).unwrap());
            assert_eq!(sessions.iter().filter(|s| s.kind == SessionKind::Regular).count(), days, "{year}");
        }
    }

    #[test]
    fn a_normal_krx_day_expects_381_minutes() {
        let krx = Calendar::of_venue("KRX");
        let slots = krx.expected_slots(date("2026-11-20"));
        assert_eq!(slots.len(), 381);
        assert_eq!(slots[0], at("2026-11-20T09:00:00+09:00"));
        assert_eq!(slots[379..], [at("2026-11-20T15:19:00+09:00"), at("2026-11-20T15:30:00+09:00")]);
        assert_eq!(krx.expected_slots(date("2025-01-02")).len(), 321, "first trading day");
        assert_eq!(krx.expected_slots(date("2025-11-13")).len(), 381, "CSAT");
        assert_eq!(krx.expected_slots(date("2025-01-01")), []);
        let session = krx.session_of(slots[0]).unwrap();
        let all = (0..1440).map(|m| session.open.plus_micros((m - 100) * MINUTE_MICROS)).filter(|m| session.expects(*m));
        assert!(all.eq(session.expected_slots()));
    }

    #[test]
    fn a_tick_on_the_edge_has_its_session_and_minute() {
        let krx = Calendar::of_venue("KRX");
        for (tick, kind, is_open, minute) in [
            ("08:59:59.999999", None, false, "08:59"),
            ("09:00:00", Some(SessionKind::Regular), true, "09:00"),
            ("15:19:59.999999", Some(SessionKind::Regular), true, "15:19"),
            ("15:29:59.999999", Some(SessionKind::Regular), true, "15:29"),
            ("15:30:00", Some(SessionKind::Regular), false, "15:30"),
            ("15:30:29", Some(SessionKind::Regular), false, "15:30"),
            ("15:33:20", Some(SessionKind::Regular), false, "15:30"),
            ("15:33:20.000001", None, false, "15:33"),
            ("15:40:00", Some(SessionKind::ClosingPrice), true, "15:40"),
            ("16:00:00", Some(SessionKind::AfterMarket), true, "16:00"),
            ("19:59:59.999999", Some(SessionKind::AfterMarket), true, "19:59"),
            ("20:00:00", None, false, "20:00"),
        ] {
            let tick_at = at(&format!("2026-11-20T{tick}+09:00"));
            assert_eq!(krx.session_of(tick_at).map(|s| s.kind), kind, "{tick}");
            assert_eq!(krx.is_open(tick_at), is_open, "{tick}");
            assert_eq!(krx.minute_of(tick_at), at(&format!("2026-11-20T{minute}:00+09:00")), "{tick}");
        }
    }

    #[test]
    fn the_after_market_starts_on_2026_09_14() {
        let krx = Calendar::of_venue("KRX");
        for (day, kind) in [("2026-09-11", SessionKind::AfterHours), ("2026-09-14", SessionKind::AfterMarket)] {
            assert_eq!(krx.session_of(at(&format!("{day}T17:00:00+09:00"))).map(|s| s.kind), Some(kind), "{day}");
        }
        assert_eq!(krx.session_of(at("2026-09-11T18:00:00+09:00")), None);
    }

    #[test]
    fn stretches_leave_no_hole_and_never_overlap() {
        let krx = Calendar::of_venue("KRX");
        let mut from = Timestamp::MIN;
        let mut count = 0;
        while from < Timestamp::MAX {
            let stretch = krx.stretch_of(from);
            assert!(stretch.from == from && stretch.to > from, "{stretch:?}");
            from = stretch.to;
            count += 1;
        }
        assert!(count > 2 * 1220 * 3, "{count}");
    }

    #[test]
    fn the_fx_week_moves_in_utc_with_new_york() {
        let fx = Calendar::of_venue("FX");
        for (tick, is_open) in [
            ("2026-01-04T21:59:59.999999Z", false), // Sunday, winter: opens 22:00 UTC
            ("2026-01-04T22:00:00Z", true),
            ("2026-01-09T21:59:59.999999Z", true),
            ("2026-01-09T22:00:00Z", false), // Friday
            ("2026-01-10T12:00:00Z", false), // Saturday
            ("2026-07-05T20:59:59.999999Z", false),
            ("2026-07-05T21:00:00Z", true), // summer: 21:00 UTC
            ("2026-07-10T21:00:00Z", false),
        ] {
            assert_eq!(fx.is_open(at(tick)), is_open, "{tick}");
        }
        // the clocks change on Sunday 2026-03-08, before the open: that week opens in summer time, the one before closed in winter time
        let weeks = fx.sessions(date("2026-03-01"), date("2026-03-08"));
        assert_eq!(weeks.iter().map(|s| s.open).collect::<Vec<_>>(), [at("2026-03-01T22:00:00Z"), at("2026-03-08T21:00:00Z")]);
        assert_eq!(weeks[0].close, at("2026-03-06T22:00:00Z"));
        let slots = |day| fx.expected_slots(date(day)).len();
        assert_eq!((slots("2026-03-08"), slots("2026-03-09"), slots("2026-03-13"), slots("2026-03-14")), (420, 1440, 1020, 0));
    }

    #[test]
    fn a_market_that_never_closes_has_one_session_a_day() {
        let always = Calendar::of_venue("BITSTAMP");
        assert!(always.is_always_open() && std::ptr::eq(always, Calendar::of_venue("ELSEWHERE")));
        assert_eq!(always.expected_slots(date("2026-11-21")).len(), 1440);
        assert!(always.is_open(at("2026-11-21T23:59:59.999999Z")));
        assert_eq!(always.session_of(at("2026-11-21T23:59:59Z")).map(|s| s.open), Some(at("2026-11-21T00:00:00Z")));
        let whole = always.stretch_of(at("2026-11-21T00:00:00Z"));
        assert_eq!((whole.from, whole.to), (Timestamp::MIN, Timestamp::MAX));
    }

    #[test]
    fn dates_outside_the_file_have_no_sessions() {
        let krx = Calendar::of_venue("KRX");
        for day in ["2022-06-07T10:00:00+09:00", "2028-06-07T10:00:00+09:00"] {
            assert_eq!(krx.session_of(at(day)), None);
            assert!(!krx.is_open(at(day)));
        }
    }

    #[test]
    fn the_zone_rule_gives_what_the_zone_database_gives() {
        for text in [include_str!("../calendars/fx.toml"), include_str!("../calendars/krx.toml")] {
            let known = Calendar::parse(text).unwrap();
            let zone = format!("time_zone = \"{}\"", known.zone().iana_name().expect("the zone database is installed"));
            let without = Calendar::parse(&text.replace(&zone, "time_zone = \"Nowhere/Else\"")).unwrap();
            assert_eq!(without.zone().iana_name(), None);
            assert_eq!(without.sessions, known.sessions);
        }
    }

    #[test]
    fn a_calendar_file_that_cannot_be_is_refused() {
        let krx = include_str!("../calendars/krx.toml");
        for (what, with, problem) in [
            ("close = \"15:30\"", "close = \"15:45\"", "sessions overlap on 2023-01-03"),
            ("= \"late open\"", "= \"later\"", "no pattern for 2027-01-04"),
            ("to = \"2027-12-31\"", "", "either `always` or `from` and `to`"),
            ("open = \"09:00\"", "open = \"09:00:30\"", "a session on 2023-01-03 is empty or not on whole minutes"),
        ] {
            assert!(krx.contains(what), "{what}");
            assert_eq!(Calendar::parse(&krx.replacen(what, with, 1)).unwrap_err().problem, problem);
        }
    }
}
