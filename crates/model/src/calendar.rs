//! When a venue trades: calendars as data (`crates/model/calendars/*.toml`), and the sessions that follow from them. No clock in here.
//!
//! A [`Session`] is a stretch of trading without a pause, such as KRX 09:00–15:30. A calendar knows sessions inside the dates its file covers;
//! outside of them it knows none and says so ([`Calendar::session_of`] gives `None`).
//!
//! What a notice of the exchange changes meanwhile is a [`CalendarChange`]: one date, told in-band by a control of kind `CalendarChange`, laid over
//! the file ([`Calendar::changed`]).
//!
//! Next: `crates/engine/src/builder.rs`, where a bar's window ends with the session.

use crate::{Control, ControlKind, Feed, FeedState, Interval, Timestamp};
use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

const MINUTE_MICROS: i64 = Interval::ONE_MINUTE.micros();
const DAY_MICROS: i64 = 1440 * MINUTE_MICROS;

/// What kind of trading a session holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
#[derive(Debug, Clone)]
pub struct Calendar {
    /// As it was read.
    file: Arc<File>,
    zone: TimeZone,
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

/// What one date becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DayHours {
    /// What the calendar's file says.
    AsPlanned,
    /// No session opens on it.
    Closed,
    /// The regular session trades from `open` to `close` (exclusive).
    Regular {
        /// First instant.
        open: Timestamp,
        /// End; the closing print has it.
        close: Timestamp,
    },
}

/// A date of a calendar that is to be other than its file says.
///
/// As a [`Control`]: `feed` is `calendar:<name>`; `from` and `to` are the regular session's open and close with `state` up, and the ends of the local
/// date with `state` down (closed) or unknown (as the file says).
#[derive(Clone, Debug)]
pub struct CalendarChange {
    /// Of which calendar, as its file says.
    pub calendar: &'static Arc<Calendar>,
    /// Which local date.
    pub date: Date,
    /// What becomes of it.
    pub hours: DayHours,
}

/// What the feed of a calendar's changes begins with.
const CALENDAR_FEED: &str = "calendar:";

impl CalendarChange {
    /// The change as producers write it. `clock`: the injected clock.
    pub fn control(&self, clock: Timestamp) -> Control {
        let (state, from, to) = match self.hours {
            DayHours::Regular { open, close } => (FeedState::Up, open, close),
            DayHours::Closed => (FeedState::Down, self.calendar.start_of(self.date), self.calendar.end_of(self.date)),
            DayHours::AsPlanned => (FeedState::Unknown, self.calendar.start_of(self.date), self.calendar.end_of(self.date)),
        };
        let feed = Feed::new(&format!("{CALENDAR_FEED}{}", self.calendar.name()));
        Control { state, from: Some(from), to: Some(to), ..Control::new(ControlKind::CalendarChange, feed, clock) }
    }

    /// Reads a control of kind `CalendarChange`.
    ///
    /// # Errors
    /// A calendar nobody knows or that has no days, a date it does not cover, hours that cannot be.
    pub fn of_control(control: &Control) -> Result<Self, CalendarError> {
        let name = control.feed.as_str().strip_prefix(CALENDAR_FEED).unwrap_or(control.feed.as_str());
        let error = |problem: &str| CalendarError { name: name.to_owned(), problem: problem.to_owned() };
        let calendar = CALENDARS.iter().find(|c| c.name() == name).ok_or_else(|| error("there is no such calendar"))?;
        let from = control.from.ok_or_else(|| error("the change does not say from when"))?;
        let date = local_date(&calendar.zone, from).ok_or_else(|| error("the change is of no date"))?;
        let hours = match (control.state, control.to) {
            (FeedState::Unknown, _) => DayHours::AsPlanned,
            (FeedState::Down, _) => DayHours::Closed,
            (FeedState::Up, Some(close)) => DayHours::Regular { open: from, close },
            (FeedState::Up, None) => return Err(error("the change does not say to when")),
        };
        let change = Self { calendar, date, hours };
        calendar.changed(&BTreeMap::from([(calendar.start_of(date), hours)]))?;
        Ok(change)
    }
}

static CALENDARS: LazyLock<Vec<Arc<Calendar>>> = LazyLock::new(|| {
    [include_str!("../calendars/always.toml"), include_str!("../calendars/fx.toml"), include_str!("../calendars/krx.toml")]
        .into_iter()
        .map(|text| Arc::new(Calendar::parse(text).expect("the calendars in this crate are checked by its tests")))
        .collect()
});

impl Calendar {
    /// The calendar of a venue; a venue no calendar names never closes.
    pub fn of_venue(venue: &str) -> &'static Arc<Self> {
        CALENDARS.iter().find(|c| c.file.venues.iter().any(|v| v == venue)).unwrap_or(&CALENDARS[0])
    }

    /// Every calendar there is.
    pub fn all() -> &'static [Arc<Self>] {
        &CALENDARS
    }

    /// The calendar with these dates other than its file says, by the start of the date ([`Calendar::start_of`]).
    ///
    /// A day with other hours keeps its closing auction as long before the close as planned, and its other sessions as far as they do not overlap the
    /// regular one; those before it only where that opens as planned. A day the file has no sessions for is a normal one otherwise.
    ///
    /// # Errors
    /// A calendar without days, a date it does not cover, hours that are empty, not on whole minutes, or leave the date.
    pub fn changed(&self, changes: &BTreeMap<Timestamp, DayHours>) -> Result<Self, CalendarError> {
        let error = |problem| CalendarError { name: self.name().to_owned(), problem };
        let Some((first, last)) = self.covers.filter(|_| self.file.week.is_none()) else {
            return Err(error("it has no days that could be changed".to_owned()));
        };
        let mut changed = self.clone();
        for (start, hours) in changes {
            let date = local_date(&self.zone, *start).filter(|date| first <= *date && *date <= last);
            let date = date.ok_or_else(|| error(format!("{start} is outside of {first} to {last}")))?;
            let day = self.file.day(&self.zone, date, *hours).map_err(error)?;
            if let Some(bad) = day.iter().find(|s| {
                s.open >= s.close
                    || !on_a_minute(s.open)
                    || !on_a_minute(s.close)
                    || s.open < self.start_of(date)
                    || s.last_minute_close() > self.end_of(date)
            }) {
                return Err(error(format!("a session from {} to {} does not fit into {date}", bad.open, bad.close)));
            }
            let range = changed.sessions.partition_point(|s| s.date < date)..changed.sessions.partition_point(|s| s.date <= date);
            changed.sessions.splice(range, day);
        }
        Ok(changed)
    }

    /// The first instant from which on two versions of a calendar are not the same any more; `None` where they are.
    pub fn first_difference(&self, other: &Self) -> Option<Timestamp> {
        let same = self.sessions.iter().zip(&other.sessions).take_while(|(mine, theirs)| mine == theirs).count();
        let (mine, theirs) = (self.sessions.get(same), other.sessions.get(same));
        match (mine, theirs) {
            (Some(mine), Some(theirs)) if mine.open == theirs.open => {
                let first = |s: &Session| s.auction.unwrap_or(s.close).min(s.close);
                Some(first(mine).min(first(theirs)))
            }
            _ => mine.into_iter().chain(theirs).map(|session| session.open).min(),
        }
    }

    /// The regular session of a normal trading day that is this date, whatever its file says of it; `None` outside of what it covers, and for one
    /// that has no days.
    pub fn normal_hours(&self, date: Date) -> Option<(Timestamp, Timestamp)> {
        let (first, last) = self.covers.filter(|_| self.file.week.is_none())?;
        let day = self.file.pattern_day(&self.zone, date, true).ok().filter(|_| first <= date && date <= last)?;
        day.into_iter().find(|s| s.kind == SessionKind::Regular).map(|s| (s.open, s.close))
    }

    /// First instant of a local date.
    pub fn start_of(&self, date: Date) -> Timestamp {
        self.instant(date, Time::midnight())
    }

    /// Last instant of a local date (exclusive).
    pub fn end_of(&self, date: Date) -> Timestamp {
        date.tomorrow().map_or(Timestamp::MAX, |next| self.start_of(next))
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
        &self.file.name
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
        let (start, end) = (self.start_of(date), self.end_of(date));
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

    /// The instant of a local time.
    pub fn instant(&self, date: Date, time: Time) -> Timestamp {
        instant(&self.zone, date, time)
    }
}

fn local_date(zone: &TimeZone, at: Timestamp) -> Option<Date> {
    jiff::Timestamp::from_microsecond(at.micros()).ok().map(|at| at.to_zoned(zone.clone()).date())
}

fn on_a_minute(at: Timestamp) -> bool {
    at.window_open(Interval::ONE_MINUTE) == at
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

#[derive(Deserialize, Debug)]
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
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Week {
    /// On Sunday.
    open: String,
    /// On Friday.
    close: String,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Pattern {
    name: String,
    /// The normal day from this date on; none: special days only.
    from: Option<String>,
    sessions: Vec<Hours>,
}

#[derive(Deserialize, Debug)]
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
                sessions.extend(self.day(&zone, date, DayHours::AsPlanned)?);
            }
        }
        for pair in sessions.windows(2) {
            if pair[0].last_minute_close() > pair[1].open {
                return Err(format!("sessions overlap on {}", pair[1].date));
            }
        }
        if let Some(odd) = sessions.iter().find(|s| s.open >= s.close || !on_a_minute(s.open) || !on_a_minute(s.close)) {
            return Err(format!("a session on {} is empty or not on whole minutes", odd.date));
        }
        let longest_grace_micros = self.grace_seconds.max(self.grace_halted_seconds) * 1_000_000;
        Ok(Calendar { longest_grace_micros, file: Arc::new(self), zone, covers, sessions })
    }

    /// The sessions that open on a date.
    fn day(&self, zone: &TimeZone, date: Date, hours: DayHours) -> Result<Vec<Session>, String> {
        match hours {
            DayHours::Closed => Ok(Vec::new()),
            DayHours::AsPlanned => self.planned_day(zone, date),
            DayHours::Regular { open, close } => Ok(with_hours(self.pattern_day(zone, date, false)?, open, close)),
        }
    }

    fn planned_day(&self, zone: &TimeZone, date: Date) -> Result<Vec<Session>, String> {
        if let Some(week) = &self.week {
            if date.weekday() != Weekday::Sunday {
                return Ok(Vec::new());
            }
            let friday = date.checked_add(jiff::Span::new().days(5)).map_err(|e| e.to_string())?;
            let (open, close) = (instant(zone, date, read(&week.open)?), instant(zone, friday, read(&week.close)?));
            return Ok(vec![self.session(SessionKind::Regular, date, open, close, None)]);
        }
        if matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday) || self.closed.contains_key(&date.to_string()) {
            return Ok(Vec::new());
        }
        self.pattern_day(zone, date, false)
    }

    /// A date as its pattern says, also where it is none of trading; `normal`: though it may be a special one.
    fn pattern_day(&self, zone: &TimeZone, date: Date, normal: bool) -> Result<Vec<Session>, String> {
        let key = date.to_string();
        let pattern = match self.special.get(&key).filter(|_| !normal) {
            Some(name) => self.pattern.iter().find(|p| p.name == *name),
            // dates are ISO 8601, so the order of texts is the order of dates
            None => self.pattern.iter().rfind(|p| p.from.as_ref().is_some_and(|from| *from <= key)),
        };
        let pattern = pattern.ok_or_else(|| format!("no pattern for {key}"))?;
        let at = |text: &String| read(text).map(|time| instant(zone, date, time));
        let session = |hours: &Hours| {
            let auction = hours.auction.as_ref().map(at).transpose()?;
            Ok(self.session(hours.kind, date, at(&hours.open)?, at(&hours.close)?, auction))
        };
        pattern.sessions.iter().map(session).collect()
    }

    fn session(&self, kind: SessionKind, date: Date, open: Timestamp, close: Timestamp, auction: Option<Timestamp>) -> Session {
        Session {
            kind,
            date,
            open,
            close,
            auction,
            grace_micros: self.grace_seconds * 1_000_000,
            grace_halted_micros: self.grace_halted_seconds * 1_000_000,
        }
    }
}

/// A day whose regular session is at other hours.
fn with_hours(mut day: Vec<Session>, open: Timestamp, close: Timestamp) -> Vec<Session> {
    let Some(place) = day.iter().position(|s| s.kind == SessionKind::Regular) else { return day };
    let planned = day[place];
    let regular = &mut day[place];
    (regular.open, regular.close) = (open, close);
    regular.auction = planned.auction.map(|auction| close.plus_micros(-planned.close.micros_since(auction)).max(open));
    let end = regular.last_minute_close();
    for later in &mut day[place + 1..] {
        later.open = later.open.max(end);
    }
    let stays = |(at, session): &(usize, Session)| match at.cmp(&place) {
        Ordering::Less => open == planned.open,
        Ordering::Equal => true,
        Ordering::Greater => session.open < session.close,
    };
    day.into_iter().enumerate().filter(stays).map(|(_, session)| session).collect()
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
        assert!(always.is_always_open() && Arc::ptr_eq(always, Calendar::of_venue("ELSEWHERE")));
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
    fn one_date_is_changed_and_no_other() {
        let krx = Calendar::of_venue("KRX");
        let day = date("2026-12-24");
        let hours = |open: &str, close: &str| DayHours::Regular {
            open: at(&format!("2026-12-24T{open}:00+09:00")),
            close: at(&format!("2026-12-24T{close}:00+09:00")),
        };
        let first = |time: &str| Some(at(&format!("2026-12-24T{time}:00+09:00")));
        for (hours, sessions, slots, differs) in [
            (DayHours::Closed, 0, 0, first("08:30")),
            (DayHours::AsPlanned, 4, 381, None),
            (hours("09:00", "15:30"), 4, 381, None),
            (hours("10:00", "15:30"), 3, 321, first("08:30")),
            (hours("09:00", "12:00"), 4, 171, first("11:50")),
            (hours("10:00", "16:30"), 2, 381, first("08:30")), // nothing is left of the closing-price session
        ] {
            let changed = krx.changed(&BTreeMap::from([(krx.start_of(day), hours)])).unwrap();
            assert_eq!((changed.sessions(day, day).len(), changed.expected_slots(day).len()), (sessions, slots), "{hours:?}");
            assert_eq!((krx.first_difference(&changed), changed.first_difference(krx)), (differs, differs), "{hours:?}");
            let others = |c: &Calendar| [c.sessions(Date::MIN, date("2026-12-23")), c.sessions(date("2026-12-25"), Date::MAX)];
            assert_eq!(others(&changed), others(krx), "{hours:?}");
            for pair in changed.sessions.windows(2) {
                assert!(pair[0].last_minute_close() <= pair[1].open, "{pair:?}");
            }
            let change = CalendarChange { calendar: krx, date: day, hours };
            let read = CalendarChange::of_control(&change.control(Timestamp::MIN)).unwrap();
            assert_eq!((read.calendar.name(), read.date, read.hours), ("krx", day, hours));
        }
        // a holiday of the file, and a Sunday
        for day in ["2026-12-25", "2026-12-27"] {
            let (open, close) = krx.normal_hours(date(day)).unwrap();
            let trading = krx.changed(&BTreeMap::from([(krx.start_of(date(day)), DayHours::Regular { open, close })])).unwrap();
            assert_eq!(krx.expected_slots(date(day)), []);
            assert_eq!(trading.expected_slots(date(day)).len(), 381, "{day}");
        }
        assert_eq!(krx.normal_hours(date("2028-01-03")), None);
        assert_eq!(Calendar::of_venue("FX").normal_hours(day), None);
    }

    #[test]
    fn a_change_that_cannot_be_is_refused() {
        let krx = Calendar::of_venue("KRX");
        let hours = |open: &str, close: &str| CalendarChange {
            calendar: krx,
            date: date("2026-12-24"),
            hours: DayHours::Regular { open: at(open), close: at(close) },
        };
        let good = hours("2026-12-24T10:00:00+09:00", "2026-12-24T15:30:00+09:00").control(Timestamp::MIN);
        assert!(CalendarChange::of_control(&good).is_ok());
        let elsewhere = |feed: &str| Control { feed: Feed::new(feed), ..good.clone() };
        for (control, problem) in [
            (elsewhere("kis"), "there is no such calendar"),
            (elsewhere("calendar:nowhere"), "there is no such calendar"),
            (elsewhere("calendar:fx"), "it has no days that could be changed"),
            (elsewhere("calendar:24/7"), "it has no days that could be changed"),
            (Control { from: None, ..good.clone() }, "the change does not say from when"),
            (Control { to: None, ..good.clone() }, "the change does not say to when"),
            (Control { from: Some(at("2028-12-24T10:00:00+09:00")), ..good.clone() }, "is outside of 2023-01-01 to 2027-12-31"),
            (Control { from: Some(Timestamp::MIN), ..good.clone() }, "the change is of no date"),
            (
                hours("2026-12-24T15:30:00+09:00", "2026-12-24T10:00:00+09:00").control(Timestamp::MIN),
                "does not fit into 2026-12-24",
            ),
            (
                hours("2026-12-24T10:00:30+09:00", "2026-12-24T15:30:00+09:00").control(Timestamp::MIN),
                "does not fit into 2026-12-24",
            ),
            (
                hours("2026-12-24T10:00:00+09:00", "2026-12-25T00:00:00+09:00").control(Timestamp::MIN),
                "does not fit into 2026-12-24",
            ),
        ] {
            let refused = CalendarChange::of_control(&control).unwrap_err();
            assert!(refused.problem.contains(problem), "{refused}, not {problem}");
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
