//! `marketflow calendar`: the days of a venue, and dates that are to be other than its calendar's file says.
//!
//! A change is a control in every partition of the processor's inputs, so it takes effect at a place of the log and a replay sees it there; a copy goes
//! to `market.feed-status.v1`, where `changes` finds it again. Saying it twice changes nothing.
//!
//! Next: `crates/engine/src/partition.rs`, which acts on it.

use super::candle_producer::{self, Wanted};
use super::connection::{self, STALLED_AFTER, with_exit};
use crate::console::{block_on, json, line, say};
use anyhow::{Context, anyhow, bail};
use comfy_table::{Table, presets};
use jiff::civil::{Date, Time};
use marketflow_contract::topics;
use marketflow_kafka::calendar::{ChangedDays, read_changes, write_change};
use marketflow_kafka::{Producer, ProducerSettings, Reader, Registry};
use marketflow_model::{Calendar, CalendarChange, Control, DayHours, Session, SessionKind, Timestamp};
use marketflow_runtime::{Exit, ExitContext};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Dates shown when no end is given, the first included.
const SHOWN_DAYS: i32 = 14;

/// Shows a venue's trading days, and makes a date a holiday, a trading day, or one of other hours
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
A change takes effect from its place in the log on, in every partition, and is kept by the processor; times are the venue's own. It has to come before
the first instant it changes: once records of that time were read it is refused (marketflow_controls_total{kind=\"calendar_change_refused\"}).

Examples:
  marketflow calendar show --venue KRX --from 2026-12-21 --to 2027-01-04
  marketflow calendar add-holiday KRX 2026-12-24 --reason 'temporary holiday'
  marketflow calendar remove-holiday KRX 2027-05-03
  marketflow calendar late-open KRX 2027-11-18 --open 10:00 --close 16:30
  marketflow calendar early-close KRX 2026-12-30 --close 12:00
  marketflow calendar reset KRX 2026-12-24
  marketflow calendar refresh --provider kis")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Shows trading days and what was changed
    #[command(after_long_help = "Example:\n  marketflow calendar show --venue KRX --from 2026-12-21 --json")]
    Show {
        /// Whose calendar
        #[arg(long)]
        venue: String,
        /// First date; today where none is given
        #[arg(long, value_name = "DATE")]
        from: Option<Date>,
        /// Last date; two weeks where none is given
        #[arg(long, value_name = "DATE")]
        to: Option<Date>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Asks a broker whether the exchange opens on the coming days, and changes those that differ
    #[command(after_long_help = "\
The live candle-producer asks once a trading day by itself; KIS wants no more than one call a day. A day that was changed by hand stays as it is.

Example:\n  marketflow calendar refresh --provider kis")]
    Refresh {
        /// Which broker: kis
        #[arg(long, default_value = "kis")]
        provider: String,
        /// Request endpoint, such as a simulator
        #[arg(long, value_name = "URL")]
        rest_url: Option<String>,
        /// Virtual clock, such as http://127.0.0.1:8091/clock
        #[arg(long, value_name = "URL")]
        clock: Option<String>,
        /// Any key of the candle-producer
        #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
        settings: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Nothing is traded on the date
    AddHoliday(Day),
    /// The date is a normal trading day
    RemoveHoliday(Day),
    /// Trading begins later than planned, and ends as planned unless it is said
    LateOpen {
        #[command(flatten)]
        day: Day,
        /// Local time the regular session opens
        #[arg(long, value_name = "HH:MM")]
        open: Time,
        /// Local time it closes
        #[arg(long, value_name = "HH:MM")]
        close: Option<Time>,
    },
    /// Trading begins as planned and ends earlier; the closing auction is as long as planned
    EarlyClose {
        #[command(flatten)]
        day: Day,
        /// Local time the regular session closes
        #[arg(long, value_name = "HH:MM")]
        close: Time,
    },
    /// The date is what the calendar's file says
    Reset(Day),
}

#[derive(clap::Args, Debug)]
struct Day {
    /// Whose calendar; it changes for every venue that has the same
    venue: String,
    /// Local date
    date: Date,
    /// Why, for those who look later
    #[arg(long)]
    reason: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// A session as it is printed, in the venue's time.
#[derive(Serialize)]
struct PrintedSession {
    kind: SessionKind,
    open: String,
    close: String,
    auction: Option<String>,
}

#[derive(Serialize)]
struct PrintedDay {
    calendar: String,
    date: String,
    time_zone: String,
    sessions: Vec<PrintedSession>,
    /// Whether it is other than the file says.
    changed: bool,
    reason: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// 64 for a date or hours the calendar cannot have, 69 when Kafka or the registry does not answer.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let (day, hours): (Day, Hours) = match args.verb {
        Verb::Show { venue, from, to, json } => return show(&venue, from, to, json),
        Verb::Refresh { provider, rest_url, clock, settings, json } => {
            let wanted = Wanted { symbols: vec!["@krx10".to_owned()], rest_url, clock, settings };
            return refresh(&provider, &wanted, json);
        }
        Verb::AddHoliday(day) => (day, Hours::Are(DayHours::Closed)),
        Verb::Reset(day) => (day, Hours::Are(DayHours::AsPlanned)),
        Verb::RemoveHoliday(day) => (day, Hours::Normal),
        Verb::LateOpen { day, open, close } => (day, Hours::Regular { open: Some(open), close }),
        Verb::EarlyClose { day, close } => (day, Hours::Regular { open: None, close: Some(close) }),
    };
    let calendar = Calendar::of_venue(&day.venue);
    let hours = hours.on(calendar, day.date).exit(Exit::Usage)?;
    let now = Timestamp::from_micros(jiff::Timestamp::now().as_microsecond());
    let mut control = CalendarChange { calendar, date: day.date, hours }.control(now);
    control.reason.clone_from(&day.reason);
    // read back as the processor does, so that what it would refuse is not written
    CalendarChange::of_control(&control).exit(Exit::Usage)?;
    let changed = calendar.changed(&BTreeMap::from([(calendar.start_of(day.date), hours)])).exit(Exit::Usage)?;
    let partitions = publish(&control)?;
    let printed = printed(&changed, day.date, hours != DayHours::AsPlanned, day.reason);
    if day.json {
        json(&printed)?;
    } else {
        line(&table(&[printed]));
        let told = [
            format!("written to {partitions} partitions each of {} and {}", topics::TRADES, topics::CANDLES),
            format!("{}, {}의 파티션 {partitions}개씩에 기록했습니다", topics::TRADES, topics::CANDLES),
        ];
        let [english, korean] = told;
        line(&say(english, korean));
    }
    Ok(Exit::Ok)
}

/// What was asked for, before the calendar is known.
enum Hours {
    Are(DayHours),
    Normal,
    /// As planned where nothing is said.
    Regular {
        open: Option<Time>,
        close: Option<Time>,
    },
}

impl Hours {
    fn on(self, calendar: &Calendar, date: Date) -> anyhow::Result<DayHours> {
        let (open, close) = match self {
            Self::Are(hours) => return Ok(hours),
            Self::Normal => (None, None),
            Self::Regular { open, close } => (open, close),
        };
        let sessions = calendar.sessions(date, date);
        let regular =
            sessions.iter().find(|session| session.kind == SessionKind::Regular && calendar.normal_hours(date).is_some());
        let planned = regular.filter(|_| open.is_some() || close.is_some()).map(|session| (session.open, session.close));
        let Some((planned_open, planned_close)) = planned.or_else(|| calendar.normal_hours(date)) else {
            bail!("the calendar {} has no day {date} that could be changed", calendar.name());
        };
        let at = |time: Option<Time>, planned| time.map_or(planned, |time| calendar.instant(date, time));
        Ok(DayHours::Regular { open: at(open, planned_open), close: at(close, planned_close) })
    }
}

/// Writes the change where the processor reads it, and a copy for people last. Returns how many partitions each input has.
fn publish(control: &Control) -> anyhow::Result<i32> {
    let kafka = connection::kafka()?;
    let registry = with_exit(Registry::new(&connection::registry()?))?;
    let ids = block_on(async { with_exit(registry.ids().await) })?;
    let producer = with_exit(Producer::new(&kafka, &ProducerSettings::default()))?;
    let again = "not every partition may have the change; the same command again sets it right, it counts once";
    with_exit(write_change(&producer, &ids, control, STALLED_AFTER)).context(again)
}

fn show(venue: &str, from: Option<Date>, to: Option<Date>, as_json: bool) -> anyhow::Result<Exit> {
    let planned = Calendar::of_venue(venue);
    let from = from.unwrap_or_else(|| jiff::Timestamp::now().to_zoned(planned.zone().clone()).date());
    let to = to.unwrap_or_else(|| from.saturating_add(jiff::Span::new().days(SHOWN_DAYS - 1)));
    if from > to {
        return Err(anyhow!("--from {from} is after --to {to}")).exit(Exit::Usage);
    }
    let (calendar, reasons) = match changes(planned) {
        Ok(changes) => {
            let hours: BTreeMap<_, _> = changes.iter().map(|(date, day)| (*date, day.hours)).collect();
            let calendar = if hours.is_empty() { Arc::clone(planned) } else { Arc::new(planned.changed(&hours)?) };
            (calendar, changes)
        }
        Err(error) => {
            eprintln!("{}: {error:#}", say("changes made since are not shown", "이후의 변경 사항은 표시되지 않습니다"));
            (Arc::clone(planned), BTreeMap::new())
        }
    };
    let dates = from.series(jiff::Span::new().days(1)).take_while(|date| *date <= to);
    let days = dates.map(|date| {
        let change = reasons.get(&planned.start_of(date));
        printed(&calendar, date, change.is_some(), change.and_then(|day| day.reason.clone()))
    });
    let days: Vec<PrintedDay> = days.collect();
    if as_json {
        json(&days)?
    } else {
        line(&table(&days))
    }
    Ok(Exit::Ok)
}

/// The dates of a calendar that were changed and not reset, by the start of the date: the last word on each, with its reason.
fn changes(calendar: &Calendar) -> anyhow::Result<ChangedDays> {
    let kafka = connection::kafka()?;
    let registry = with_exit(Registry::new(&connection::registry()?))?;
    let mut decoder = block_on(async { with_exit(registry.decoder().await) })?;
    let reader = with_exit(Reader::new(&kafka))?;
    let mut days = ChangedDays::new();
    with_exit(read_changes(&reader, &mut decoder, calendar, &mut BTreeMap::new(), &mut days, STALLED_AFTER))?;
    Ok(days)
}

/// What a broker says of the coming days, where it is something else.
fn refresh(provider: &str, wanted: &Wanted, as_json: bool) -> anyhow::Result<Exit> {
    let left = candle_producer::run("holidays", provider, wanted, &[], |_| ())?;
    let Some(seen) = &left.holidays else { return Ok(left.exit) };
    if as_json {
        json(seen)?;
        return Ok(left.exit);
    }
    let (day, days, count) = (&seen.day, seen.days, seen.differences.len());
    line(&say(
        format!("{day} {provider}: {days} days compared, {count} differ from the calendar"),
        format!("{day} {provider}: {days}일 비교, 달력과 다른 날 {count}일"),
    ));
    if count > 0 {
        let mut table = Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_header(say(["date", "calendar", "broker", "changed"], ["날짜", "달력", "증권사", "변경"]));
        for difference in &seen.differences {
            let word = |word: &str| say(word.to_owned(), if word == "open" { "개장" } else { "휴장" }.to_owned());
            let changed =
                if difference.published { say("yes", "예") } else { say("no: changed by hand", "아니오: 수동 변경됨") };
            table.add_row([difference.date.clone(), word(&difference.calendar), word(&difference.broker), changed.to_owned()]);
        }
        line(&table.to_string());
    }
    Ok(left.exit)
}

fn printed(calendar: &Calendar, date: Date, changed: bool, reason: Option<String>) -> PrintedDay {
    let local = |at: Timestamp| {
        let at = jiff::Timestamp::from_microsecond(at.micros()).map(|at| at.to_zoned(calendar.zone().clone()));
        at.map_or_else(|_| String::new(), |at| at.strftime(if at.date() == date { "%H:%M" } else { "%F %H:%M" }).to_string())
    };
    let session = |session: Session| PrintedSession {
        kind: session.kind,
        open: local(session.open),
        close: local(session.close),
        auction: session.auction.map(local),
    };
    PrintedDay {
        calendar: calendar.name().to_owned(),
        date: date.to_string(),
        time_zone: calendar.zone().iana_name().unwrap_or_default().to_owned(),
        sessions: calendar.sessions(date, date).into_iter().map(session).collect(),
        changed,
        reason,
    }
}

fn table(days: &[PrintedDay]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(say(
        ["date", "regular session", "auction from", "other sessions", "changed"],
        ["날짜", "정규장", "동시호가 시작", "그 밖의 장", "변경"],
    ));
    let span = |session: &PrintedSession| format!("{}–{}", session.open, session.close);
    for day in days {
        let regular = day.sessions.iter().find(|session| session.kind == SessionKind::Regular);
        let others = day.sessions.iter().filter(|session| session.kind != SessionKind::Regular);
        let changed = match (day.changed, &day.reason) {
            (false, _) => "",
            (true, Some(reason)) => reason,
            (true, None) => say("yes", "예"),
        };
        table.add_row([
            day.date.clone(),
            regular.map_or_else(|| say("closed", "휴장").to_owned(), span),
            regular.and_then(|session| session.auction.clone()).unwrap_or_default(),
            others.map(span).collect::<Vec<_>>().join("  "),
            changed.to_owned(),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_the_planned_ones_where_nothing_is_said() {
        let krx = Calendar::of_venue("KRX");
        let check = |date: &str, hours: Hours, expected: Option<(&str, &str)>| {
            let on = hours.on(krx, date.parse().unwrap()).ok().map(|hours| match hours {
                DayHours::Regular { open, close } => (open, close),
                DayHours::Closed | DayHours::AsPlanned => panic!("{hours:?}"),
            });
            let at = |time: &str| Timestamp::parse(&format!("{date}T{time}:00+09:00")).unwrap();
            assert_eq!(on, expected.map(|(open, close)| (at(open), at(close))), "{date}");
        };
        let time = |text: &str| Some(text.parse::<Time>().unwrap());
        let (ten, noon) = (time("10:00"), time("12:00"));
        check("2026-12-24", Hours::Normal, Some(("09:00", "15:30")));
        check("2026-12-25", Hours::Normal, Some(("09:00", "15:30"))); // Christmas
        check("2026-12-24", Hours::Regular { open: ten, close: None }, Some(("10:00", "15:30")));
        check("2026-12-24", Hours::Regular { open: None, close: noon }, Some(("09:00", "12:00")));
        check("2026-11-19", Hours::Regular { open: None, close: noon }, Some(("10:00", "12:00"))); // an hour later as planned
        check("2026-12-27", Hours::Regular { open: ten, close: None }, Some(("10:00", "15:30"))); // a Sunday
        check("2028-01-03", Hours::Normal, None);
    }
}
