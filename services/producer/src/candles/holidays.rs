//! The exchange's days, asked of the broker once a trading day (휴장일 조회): where it says of a coming day that the market opens, or does not, and the
//! calendar says otherwise, the calendar is changed as `marketflow calendar` does it, by a control in every partition of the processor's inputs.
//!
//! What was changed is read back from the log, so days that agree say nothing, and what was said is said once. A day that a person changed is left as
//! it is, aloud.
//!
//! Next: `plan.rs`, whose sessions follow it.

use anyhow::{Context, bail};
use jiff::ToSpan;
use jiff::civil::Date;
use marketflow_access as access;
use marketflow_kafka::calendar::ChangedDays;
use marketflow_model::{Calendar, CalendarChange, Control, DayHours, SessionKind, Timestamp};
use marketflow_pacing::Class;
use marketflow_providers::{CallError, CallRequest, Credentials, HolidayRows, Holidays, RestAnswer, Secret, TradingDay};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// So many days ahead are compared: no more than one answer holds, for the broker asks for one call a day.
const DAYS_AHEAD: i32 = 20;
/// Stands in the reason of a change that a broker's word made.
const BY_BROKER: &str = "by the broker's calendar: ";

/// What came of a look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Broker.
    pub provider: &'static str,
    /// Day on the venue's clock.
    pub day: String,
    /// Days compared.
    pub days: usize,
    /// Those that differ.
    pub differences: Vec<Difference>,
}

/// A day of which the broker says something else than the calendar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Which.
    #[serde(with = "super::as_text")]
    pub date: Date,
    /// What the calendar says.
    pub calendar: &'static str,
    /// What the broker says.
    pub broker: &'static str,
    /// Whether the calendar was changed: not where a person had changed the day.
    pub published: bool,
    #[serde(skip)]
    hours: Option<DayHours>,
}

impl Difference {
    /// The change that makes the calendar say what the broker says.
    pub fn control(&self, provider: &str, calendar: &'static Arc<Calendar>, clock: Timestamp) -> Option<Control> {
        let change = CalendarChange { calendar, date: self.date, hours: self.hours? };
        let reason = format!("{BY_BROKER}{provider} says {}", self.broker);
        Some(Control { reason: Some(reason), ..change.control(clock) })
    }
}

/// The calendar with what was changed of it.
pub fn changed(calendar: &'static Arc<Calendar>, days: &ChangedDays) -> Arc<Calendar> {
    let hours: BTreeMap<Timestamp, DayHours> = days.iter().map(|(date, day)| (*date, day.hours)).collect();
    // Every one of them was read as the processor reads it.
    if hours.is_empty() { Arc::clone(calendar) } else { calendar.changed(&hours).map_or_else(|_| Arc::clone(calendar), Arc::new) }
}

/// The days that differ, of those whose session is still to come.
pub fn differences(
    planned: &Calendar,
    days: &ChangedDays,
    now_is: &Calendar,
    said: &[TradingDay],
    now: Timestamp,
) -> Vec<Difference> {
    let is_regular = |calendar: &Calendar, date| calendar.sessions(date, date).iter().any(|s| s.kind == SessionKind::Regular);
    let word = |is_open: bool| if is_open { "open" } else { "closed" };
    let differs = |day: &&TradingDay| is_regular(now_is, day.date) != day.is_open;
    let to_come = |day: &&TradingDay| {
        let sessions = now_is.sessions(day.date, day.date);
        let open = sessions.iter().find(|session| session.kind == SessionKind::Regular).map(|session| session.open);
        open.or_else(|| planned.normal_hours(day.date).map(|(open, _)| open)).is_some_and(|open| open > now)
    };
    let difference = |day: &TradingDay| {
        let hours = match (day.is_open, planned.normal_hours(day.date)) {
            (false, _) => DayHours::Closed,
            // A change is taken back.
            (true, _) if is_regular(planned, day.date) => DayHours::AsPlanned,
            (true, Some((open, close))) => DayHours::Regular { open, close },
            (true, None) => return None,
        };
        let change = days.get(&planned.start_of(day.date));
        let is_a_persons = change.is_some_and(|change| !change.reason.as_deref().unwrap_or_default().starts_with(BY_BROKER));
        Some(Difference {
            date: day.date,
            calendar: word(!day.is_open),
            broker: word(day.is_open),
            published: !is_a_persons,
            hours: (!is_a_persons).then_some(hours),
        })
    };
    said.iter().filter(differs).filter(to_come).filter_map(difference).collect()
}

/// One call.
struct Call<'a> {
    days: &'static dyn Holidays,
    from: Date,
    further: Option<&'a str>,
}

impl access::Question for Call<'_> {
    type Answer = HolidayRows;

    fn class(&self) -> Class {
        Class::Backfill
    }

    fn request(&self, credentials: &Credentials, pass: &Secret) -> CallRequest {
        self.days.request(self.from, self.further, credentials, pass)
    }

    fn read<'a>(
        &self,
        answer: RestAnswer<'_>,
        _: &dyn Fn(&'static str) -> Option<&'a str>,
        _: Timestamp,
    ) -> Result<HolidayRows, CallError> {
        self.days.read(answer)
    }
}

/// The days from one on, as far as they are compared.
///
/// # Errors
/// The broker refuses or fails too often.
pub async fn ask(calls: &access::Client, days: &'static dyn Holidays, from: Date) -> anyhow::Result<Vec<TradingDay>> {
    let last = from.saturating_add(DAYS_AHEAD.days());
    let (mut said, mut pages_seen, mut further) = (Vec::new(), BTreeSet::new(), None::<String>);
    loop {
        let rows = calls.ask(&Call { days, from, further: further.as_deref() }).await.context("the exchange's days")?;
        said.extend(rows.days);
        let reaches = said.iter().any(|day| day.date >= last);
        match rows.further.filter(|_| !reaches) {
            Some(next) if pages_seen.insert(next.clone()) => further = Some(next),
            Some(_) => bail!("the broker goes around in its pages of days"),
            None => break,
        }
    }
    said.retain(|day| (from..=last).contains(&day.date));
    said.sort_by_key(|day| day.date);
    said.dedup_by_key(|day| day.date);
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use marketflow_kafka::calendar::ChangedDay;

    fn krx() -> &'static Arc<Calendar> {
        Calendar::of_venue("KRX")
    }

    fn day(date: &str, is_open: bool) -> TradingDay {
        TradingDay { date: date.parse().unwrap(), is_open }
    }

    fn found(days: &ChangedDays, said: &[TradingDay], now: &str) -> Vec<Difference> {
        differences(krx(), days, &changed(krx(), days), said, Timestamp::parse(now).unwrap())
    }

    /// What the calendar becomes when it is told.
    fn told(days: &mut ChangedDays, found: &[Difference]) {
        for difference in found {
            let Some(control) = difference.control("kis", krx(), Timestamp::MIN) else { continue };
            let change = CalendarChange::of_control(&control).unwrap();
            let date = krx().start_of(change.date);
            match change.hours {
                DayHours::AsPlanned => days.remove(&date),
                hours @ (DayHours::Closed | DayHours::Regular { .. }) => {
                    days.insert(date, ChangedDay { hours, reason: control.reason })
                }
            };
        }
    }

    const EVE: &str = "2026-11-23T08:10:00+09:00";

    #[test]
    fn days_that_agree_say_nothing_and_either_difference_is_said_once() {
        let mut days = ChangedDays::new();
        let agree = [day("2026-11-23", true), day("2026-11-28", false), day("2026-12-25", false)];
        assert_eq!(found(&days, &agree, EVE), []);
        // A temporary holiday, and Christmas on which it is said to open.
        let said = [day("2026-11-24", false), day("2026-12-25", true)];
        let first = found(&days, &said, EVE);
        let words: Vec<_> = first.iter().map(|d| (d.date.to_string(), d.calendar, d.broker, d.published)).collect();
        assert_eq!(words, [("2026-11-24".to_owned(), "open", "closed", true), ("2026-12-25".to_owned(), "closed", "open", true)]);
        told(&mut days, &first);
        let now_is = changed(krx(), &days);
        let sessions = |date: &str| now_is.sessions(date.parse().unwrap(), date.parse().unwrap());
        let regular = |date: &str| sessions(date).iter().any(|session| session.kind == SessionKind::Regular);
        assert!(!regular("2026-11-24") && regular("2026-12-25") && regular("2026-11-25"));
        assert_eq!(found(&days, &said, EVE), [], "said once");
        // Taken back: the calendar's file holds again.
        let back = found(&days, &[day("2026-11-24", true), day("2026-12-25", false)], EVE);
        told(&mut days, &back);
        assert_eq!(found(&days, &agree, EVE), []);
        assert!(!days.contains_key(&krx().start_of("2026-11-24".parse().unwrap())), "{days:?}");
    }

    #[test]
    fn what_a_person_changed_stays_and_a_session_that_has_begun_too() {
        let date: Date = "2026-11-24".parse().unwrap();
        let person = ChangedDay { hours: DayHours::Closed, reason: Some("temporary holiday".to_owned()) };
        let mut days = ChangedDays::from([(krx().start_of(date), person)]);
        let left = found(&days, &[day("2026-11-24", true)], EVE);
        assert_eq!((left.len(), left[0].published, left[0].control("kis", krx(), Timestamp::MIN)), (1, false, None));
        days.clear();
        for (now, count) in [("2026-11-24T08:59:59+09:00", 1), ("2026-11-24T09:00:00+09:00", 0), ("2026-11-25T08:10:00+09:00", 0)]
        {
            assert_eq!(found(&days, &[day("2026-11-24", false)], now).len(), count, "{now}");
        }
        assert_eq!(found(&days, &[day("2031-11-24", false)], EVE), [], "of which the calendar knows nothing");
    }
}
