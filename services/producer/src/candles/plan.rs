//! What a back-fill asks for, and what that costs, before anything is asked. Sessions come from the calendar.
//!
//! Next: `client.rs`.

use super::config::{BackfillConfig, Checked};
use super::reference::Known;
use anyhow::{Context, ensure};
use jiff::Span;
use jiff::civil::Date;
use marketflow_access::{Symbols, date_of};
use marketflow_model::{Calendar, Instrument, Interval, Session, SessionKind, Timestamp};
use marketflow_pacing::{Limits, WindowLimit};
use marketflow_providers::CandlePage;
use serde::Serialize;
use std::collections::BTreeSet;

/// Symbols × sessions.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Broker.
    pub provider: &'static str,
    /// Most active first.
    pub symbols: Vec<Instrument>,
    /// How many of them count as the most active.
    pub active: usize,
    /// Symbols left out, as they were not listed in any of the sessions.
    pub not_listed: usize,
    /// First and last day.
    pub days: (Date, Date),
    /// Oldest first.
    pub sessions: Vec<PlannedSession>,
    /// What is known of the symbols.
    pub known: Known,
}

/// One session and its questions.
#[derive(Clone, Debug)]
pub struct PlannedSession {
    /// When.
    pub session: Session,
    /// Its questions, oldest first: they are the same for every symbol.
    pub pages: Vec<CandlePage>,
}

/// What a plan says to people.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Broker.
    pub provider: &'static str,
    /// First day.
    #[serde(with = "super::as_text")]
    pub from: Date,
    /// Last day.
    #[serde(with = "super::as_text")]
    pub to: Date,
    /// Instruments.
    pub symbols: usize,
    /// Of those, the ones that are asked for first.
    pub active_first: usize,
    /// Instruments left out, as they are known not to have been listed in any of the sessions.
    pub not_listed: usize,
    /// Sessions in those days.
    pub sessions: usize,
    /// Calls without any repeat.
    pub calls: u64,
    /// Minutes in which an actively traded instrument trades, over all.
    pub rows_at_most: u64,
    /// Calls a second, in the long run.
    pub calls_per_second: f64,
    /// Calls a day.
    pub calls_per_day: Option<u64>,
    /// The shortest time the limit allows, answers that take no time.
    pub seconds_at_least: f64,
}

impl Plan {
    /// From what was asked for, and what is known of it; `now` on the venue's clock.
    ///
    /// # Errors
    /// Days that are none, or that the calendar does not know.
    pub fn new(
        checked: &Checked,
        symbols: &Symbols,
        wanted: &BackfillConfig,
        known: &Known,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let calendar = &*known.calendar(checked.provider.venue);
        let today = date_of(calendar, now);
        let over = |session: &Session| session.last_minute_close() <= now;
        let until = until(calendar, checked, wanted, now)?;
        let from =
            until.checked_sub(Span::new().days(i64::from(wanted.days) - 1)).context("backfill.days reaches too far back")?;
        if let Some((first, last)) = calendar.covers() {
            ensure!(first <= from && until <= last, "the calendar knows {first} to {last}, not {from} to {until}");
        }
        let sessions = regular(calendar, from, until).into_iter().filter(over).map(|session| {
            let pages = checked.candles.pages(&session, session.open, session.last_minute_close(), session.date == today);
            PlannedSession { session, pages }
        });
        let sessions: Vec<PlannedSession> = sessions.collect();
        let was_listed = |symbol: &&Instrument| {
            sessions.is_empty() || sessions.iter().any(|planned| known.is_listed(symbol, &planned.session))
        };
        let listed: Vec<Instrument> = symbols.all.iter().filter(was_listed).cloned().collect();
        Ok(Self {
            provider: checked.provider.id,
            active: symbols.all.iter().take(symbols.active).filter(was_listed).count(),
            not_listed: symbols.all.len() - listed.len(),
            symbols: listed,
            days: (from, until),
            sessions,
            known: known.clone(),
        })
    }

    /// Calls without any repeat.
    pub fn calls(&self) -> u64 {
        let of = |symbol| self.sessions_of(symbol).map(|planned| planned.pages.len() as u64).sum::<u64>();
        self.symbols.iter().map(of).sum()
    }

    /// The sessions in which a symbol was listed, as far as is known.
    pub fn sessions_of<'a>(&'a self, symbol: &'a Instrument) -> impl Iterator<Item = &'a PlannedSession> {
        self.sessions.iter().filter(|planned| self.known.is_listed(symbol, &planned.session))
    }

    /// For people.
    pub fn summary(&self, limits: &Limits) -> Summary {
        let slots = |planned: &PlannedSession| planned.session.expected_slots().count() as u64;
        let rows = self.symbols.iter().map(|symbol| self.sessions_of(symbol).map(slots).sum::<u64>());
        Summary {
            provider: self.provider,
            from: self.days.0,
            to: self.days.1,
            symbols: self.symbols.len(),
            active_first: self.active,
            not_listed: self.not_listed,
            sessions: self.sessions.len(),
            calls: self.calls(),
            rows_at_most: rows.sum(),
            calls_per_second: limits.windows.iter().map(WindowLimit::per_second).reduce(f64::min).unwrap_or_default(),
            calls_per_day: limits.per_day,
            seconds_at_least: limits.least_time(self.calls()).as_secs_f64(),
        }
    }
}

/// The last day wanted; without a word, that of the last session that has ended.
fn until(calendar: &Calendar, checked: &Checked, wanted: &BackfillConfig, now: Timestamp) -> anyhow::Result<Date> {
    if wanted.until.is_empty() {
        return last_over(calendar, checked, now);
    }
    wanted.until.parse().with_context(|| format!("backfill.until {:?} is no day such as 2026-11-20", wanted.until))
}

/// The day of the last session that has ended.
fn last_over(calendar: &Calendar, checked: &Checked, now: Timestamp) -> anyhow::Result<Date> {
    let today = date_of(calendar, now);
    let month_ago = today.checked_sub(Span::new().days(30)).unwrap_or(Date::MIN);
    let last = regular(calendar, month_ago, today).into_iter().rfind(|session| session.last_minute_close() <= now);
    let last =
        last.with_context(|| format!("the calendar knows no session of {} that ended within 30 days", checked.provider.venue))?;
    Ok(last.date)
}

/// The last day wanted whose session has ended.
///
/// # Errors
/// A text that is no day, or a calendar that knows none.
pub fn last_ended(checked: &Checked, wanted: &BackfillConfig, now: Timestamp) -> anyhow::Result<Date> {
    let calendar = Calendar::of_venue(checked.provider.venue);
    Ok(until(calendar, checked, wanted, now)?.min(last_over(calendar, checked, now)?))
}

/// Regular sessions that open on these days, both ends included.
pub fn regular(calendar: &Calendar, from: Date, to: Date) -> Vec<Session> {
    calendar.sessions(from, to).into_iter().filter(|session| session.kind == SessionKind::Regular).collect()
}

/// How many bars of each interval these minutes make.
pub fn windows(minutes: impl IntoIterator<Item = Timestamp>) -> [usize; 3] {
    let mut opens: [BTreeSet<Timestamp>; 3] = Default::default();
    for minute in minutes {
        for (interval, opens) in Interval::STANDARD.into_iter().zip(&mut opens) {
            opens.insert(minute.window_open(interval));
        }
    }
    opens.map(|opens| opens.len())
}

/// How many bars of each interval a session expects of an instrument that trades each minute: 15:15 and the closing print at 15:30 are two of 15
/// minutes.
pub fn expected(session: &Session) -> [usize; 3] {
    windows(session.expected_slots())
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::*;
    use std::path::Path;

    fn plan(days: u32, until: &str, now: &str) -> anyhow::Result<(Plan, Summary)> {
        plan_of("kis", days, until, now)
    }

    fn plan_of(provider: &str, days: u32, until: &str, now: &str) -> anyhow::Result<(Plan, Summary)> {
        let mut config: Config = super::super::DEFAULTS.parse::<toml::Table>().unwrap().try_into().unwrap();
        provider.clone_into(&mut config.provider.name);
        (config.backfill.days, config.backfill.until) = (days, until.to_owned());
        let checked = config.validate()?;
        let symbols = Symbols::read(&config.provider.symbols, checked.provider, Path::new("/nowhere"))?;
        let plan = Plan::new(&checked, &symbols, &config.backfill, &Known::default(), Timestamp::parse(now).unwrap())?;
        let summary = plan.summary(&checked.limits);
        Ok((plan, summary))
    }

    #[test]
    fn thirty_days_of_97_symbols_cost_8_148_calls_and_seven_and_a_half_minutes() {
        let (plan, summary) = plan(30, "2026-09-20", "2026-11-20T18:00:00+09:00").unwrap();
        assert_eq!((plan.days.0.to_string(), plan.days.1.to_string()), ("2026-08-22".into(), "2026-09-20".into()));
        assert_eq!((summary.symbols, summary.active_first, summary.sessions), (97, 30, 20));
        assert_eq!(summary.calls, 97 * 20 * 4);
        assert_eq!(summary.rows_at_most, 97 * 20 * 381);
        assert!((summary.seconds_at_least - 431.0).abs() < 0.5, "{}", summary.seconds_at_least);
    }

    #[test]
    fn kiwoom_is_asked_once_a_session_and_its_own_limit_makes_half_an_hour_of_them() {
        let (_, summary) = plan_of("kiwoom", 30, "2026-09-20", "2026-11-20T18:00:00+09:00").unwrap();
        assert_eq!((summary.symbols, summary.sessions, summary.calls), (97, 20, 97 * 20));
        assert_eq!((summary.calls_per_second.to_string(), summary.calls_per_day), ("1".into(), None));
        assert_eq!(summary.seconds_at_least.to_string(), "1938");
    }

    #[test]
    fn the_last_day_is_the_last_whose_session_is_over() {
        let last = |now| plan(1, "", now).unwrap().0.days.1.to_string();
        assert_eq!(last("2026-11-20T15:30:59+09:00"), "2026-11-19");
        assert_eq!(last("2026-11-20T15:31:00+09:00"), "2026-11-20");
        assert_eq!(last("2026-11-22T12:00:00+09:00"), "2026-11-20", "on a Sunday");
    }

    #[test]
    fn todays_minutes_are_asked_for_by_todays_call() {
        let pages = |now| plan(1, "2026-11-20", now).unwrap().0.sessions[0].pages.len();
        assert_eq!((pages("2026-11-20T18:00:00+09:00"), pages("2026-11-21T18:00:00+09:00")), (14, 4));
    }

    #[test]
    fn each_interval_of_a_session_has_its_count() {
        let calendar = Calendar::of_venue("KRX");
        let of = |day: &str| expected(&regular(calendar, day.parse().unwrap(), day.parse().unwrap())[0]);
        assert_eq!(of("2026-11-20"), [381, 77, 27]);
        assert_eq!(of("2026-01-02"), [321, 65, 23], "opens an hour late");
    }

    #[test]
    fn days_the_calendar_does_not_know_are_refused() {
        assert!(plan(30, "2031-01-31", "2031-02-01T00:00:00Z").is_err());
        assert!(plan(1, "yesterday", "2026-11-20T18:00:00+09:00").is_err());
    }
}
