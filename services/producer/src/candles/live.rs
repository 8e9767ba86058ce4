//! Today: every minute, five or fifteen, the minutes that have ended, inside the regular session only. Nights, weekends and holidays it sleeps.
//!
//! The broker's own feed: it is up from the session's open, each round ends with a heartbeat that says up to where it is complete, and the session
//! ends it. Minutes that could not be had in their round, or passed while the service was down, are a gap of their instrument: declared before the
//! round's heartbeat, filled by a later round, given up aloud when the session ends without them. What was written is kept in a file, so a restart
//! omits no minute and repeats at most those of the round that was cut off; they count once, as their numbers are their minutes.
//!
//! Next: `services/processor/src/processor.rs`.

use super::backfill::write;
use super::check::Limits as PriceLimits;
use super::client::{Client, Question};
use super::config::{Checked, Config};
use super::journal::Journal;
use super::metrics::Metrics;
use super::plan::regular;
use super::publish::Publisher;
use super::reference::Known;
use anyhow::Context;
use futures_util::StreamExt;
use jiff::civil::Date;
use marketflow_access::{Symbols, VenueClock, date_of};
use marketflow_kafka::calendar::ChangedDays;
use marketflow_model::{Amount, Calendar, Control, ControlKind, FeedState, Instrument, Interval, Session, Timestamp};
use marketflow_pacing::{Class, PriorityQueue, TimeOfDay};
use marketflow_providers::{CandlePage, CandleRows};
use marketflow_runtime::Stop;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{info, warn};

/// Between two looks at the clock.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Between two heartbeats.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// What was written of the day, in the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Written {
    #[serde(with = "super::as_text")]
    day: Date,
    /// Whether the session was ended.
    ended: bool,
    symbols: BTreeMap<Instrument, SymbolWritten>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct SymbolWritten {
    /// Minutes before this were written; `None`: none was.
    to: Option<Timestamp>,
    /// Turnover of the day so far.
    turnover: Option<Amount>,
    /// The gap that is open: its name and start.
    gap: Option<(String, Timestamp)>,
    /// Whether it was said that trading in it is halted.
    #[serde(default)]
    halted: bool,
}

struct Live<'a> {
    config: &'a Config,
    checked: &'a Checked,
    symbols: &'a Symbols,
    calendar: Arc<Calendar>,
    /// As of which changes that is.
    changes: ChangedDays,
    client: Client,
    publisher: Publisher,
    clock: VenueClock,
    metrics: Arc<Metrics>,
    path: PathBuf,
    journal: PathBuf,
    written: Written,
    limits: BTreeMap<Instrument, PriceLimits>,
    known: watch::Receiver<Arc<Known>>,
    /// Those that are asked for: what is not listed is not.
    asked: Vec<Instrument>,
    through: Option<Timestamp>,
}

/// Follows session after session until it is told to stop.
///
/// # Errors
/// Kafka takes nothing, or the file cannot be written.
#[expect(clippy::too_many_arguments, reason = "everything that the live minutes are made of")]
pub async fn run(
    config: &Config,
    checked: &Checked,
    symbols: &Symbols,
    folder: &Path,
    client: Client,
    publisher: Publisher,
    clock: VenueClock,
    metrics: Arc<Metrics>,
    known: watch::Receiver<Arc<Known>>,
    stop: Stop,
) -> anyhow::Result<()> {
    let path = folder.join(format!("{}-candles-live.json", checked.provider.id));
    let written = match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; remove it: today's minutes are written again then", path.display()))?,
        Err(_) => Written::default(),
    };
    let (calendar, changes) = (Arc::clone(Calendar::of_venue(checked.provider.venue)), ChangedDays::new());
    let journal = folder.join(format!("{}-candles.ndjson", checked.provider.id));
    let limits = BTreeMap::new();
    let mut live = Live {
        config,
        checked,
        symbols,
        calendar,
        changes,
        client,
        publisher,
        clock,
        metrics,
        path,
        journal,
        written,
        limits,
        known,
        asked: Vec::new(),
        through: None,
    };
    while !stop.requested() {
        match live.session_now() {
            Some(session) => live.follow(&session, &stop).await?,
            None => tokio::select! {
                () = stop.wait() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            },
        }
    }
    Ok(())
}

/// The end of the minutes that have ended and settled, on the grid of the rounds.
fn due(session: &Session, now: Timestamp, settle_micros: i64, every_minutes: u16) -> Timestamp {
    let settled = now.plus_micros(-settle_micros);
    if settled >= session.last_minute_close() {
        return session.last_minute_close();
    }
    let every = Interval::from_minutes(every_minutes).unwrap_or(Interval::ONE_MINUTE);
    settled.window_open(every).max(session.open)
}

impl Live<'_> {
    /// The session to follow: the one that goes on, or that this service began and has not ended.
    fn session_now(&mut self) -> Option<Session> {
        self.follow_calendar();
        let now = self.clock.now();
        let today = date_of(&self.calendar, now);
        let session = regular(&self.calendar, today, today).into_iter().next()?;
        let is_begun = self.written.day == today && !self.written.symbols.is_empty();
        let is_ended = self.written.day == today && self.written.ended;
        let last = session.last_minute_close().plus_micros(self.settle_micros() + session.grace_halted_micros);
        (!is_ended && session.open <= now && (now < last || is_begun)).then_some(session)
    }

    /// Days may have become others since.
    fn follow_calendar(&mut self) {
        let known = self.known.borrow();
        if known.days != self.changes {
            self.changes = known.days.clone();
            self.calendar = known.calendar(self.checked.provider.venue);
        }
    }

    fn settle_micros(&self) -> i64 {
        i64::try_from(self.config.live.settle.as_micros()).unwrap_or(0)
    }

    async fn follow(&mut self, session: &Session, stop: &Stop) -> anyhow::Result<()> {
        if self.written.day != session.date {
            self.written = Written { day: session.date, ..Written::default() };
        }
        let known = self.known.borrow_and_update().clone();
        self.ask_for(&known, session);
        let (closes, _) = Journal::read(&self.journal)?;
        let limit = |symbol: &Instrument| {
            let close = closes.get(symbol).and_then(|done| done.close_before(session.date));
            PriceLimits::of_session(close.filter(|_| !known.is_liquidated(symbol)))
        };
        self.limits = self.symbols.all.iter().map(|symbol| (symbol.clone(), limit(symbol))).collect();
        self.through = None;
        let mut up = self.control(ControlKind::FeedState);
        up.state = FeedState::Up;
        up.from = Some(session.open);
        up.reason = Some("the session is open".to_owned());
        self.say(&up).await?;
        self.say_halts(&known, session).await?;
        info!(session = %session.date, symbols = self.asked.len(), "following the session");
        let mut beat = tokio::time::interval(BEAT_EVERY);
        let mut last_due = session.open;
        while !stop.requested() {
            if self.known.has_changed().unwrap_or(false) {
                let known = self.known.borrow_and_update().clone();
                self.ask_for(&known, session);
                self.say_halts(&known, session).await?;
            }
            // Never ahead of the venue: a minute asked for too early is half a minute.
            let due = due(session, self.clock.known(), self.settle_micros(), self.config.live.every_minutes);
            if due > last_due {
                self.round(session, due, &mut beat).await?;
                last_due = due;
                if due >= session.last_minute_close() {
                    return self.end(session).await;
                }
            }
            tokio::select! {
                () = stop.wait() => {}
                _ = beat.tick() => self.heartbeat().await?,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
        Ok(())
    }

    fn ask_for(&mut self, known: &Known, session: &Session) {
        self.asked = self.symbols.all.iter().filter(|symbol| known.is_listed(symbol, session)).cloned().collect();
        for symbol in &self.asked {
            self.written.symbols.entry(symbol.clone()).or_default();
        }
    }

    /// Says which halts began and ended, as the broker's master tells.
    async fn say_halts(&mut self, known: &Known, session: &Session) -> anyhow::Result<()> {
        let now = self.clock.now().max(session.open);
        for symbol in &self.asked.clone() {
            let halt = known.halt(symbol, now);
            let done = self.written.symbols.entry(symbol.clone()).or_default();
            if done.halted == halt.is_some() {
                continue;
            }
            done.halted = halt.is_some();
            let mut control = self.control(ControlKind::Halt);
            control.instrument = Some(symbol.clone());
            control.state = if halt.is_some() { FeedState::Down } else { FeedState::Up };
            control.from = Some(halt.map_or(now, |halt| halt.valid_from.max(session.open)));
            control.reason = Some("by the broker's master of instruments".to_owned());
            self.say(&control).await?;
        }
        Ok(())
    }

    /// Asks for every symbol's minutes up to `due`, live ones before missed ones while the market is open.
    async fn round(&mut self, session: &Session, due: Timestamp, beat: &mut tokio::time::Interval) -> anyhow::Result<()> {
        let every_micros = i64::from(self.config.live.every_minutes) * Interval::ONE_MINUTE.micros();
        let mut waiting = PriorityQueue::default();
        for (rank, symbol) in (0..).zip(&self.asked.clone()) {
            let from = self.written.symbols.get(symbol).and_then(|done| done.to).unwrap_or(session.open);
            let missed = due.micros_since(from) > every_micros;
            if missed {
                self.open_gap(symbol, from, due.plus_micros(-every_micros), "minutes passed before they were asked for").await?;
            }
            if from < due {
                waiting.push(if missed { Class::Repair } else { Class::Live }, rank, (symbol.clone(), from));
            }
        }
        let order = self.order(session);
        let patience = self.config.request.timeout * 2;
        let questions = std::iter::from_fn(|| waiting.pop(&order)).map(|(class, (symbol, from))| {
            let pages = self.checked.candles.pages(session, from, due, true);
            let known = self.written.symbols.get(&symbol).and_then(|done| done.turnover);
            let before = if from == session.open { Amount::from_scaled(0) } else { known };
            let (client, feed) = (self.client.clone(), self.publisher.feed().clone());
            async move {
                let asked = ask_all(&client, &symbol, &feed, &pages, before, class);
                let answer = tokio::time::timeout(patience * u32::try_from(pages.len()).unwrap_or(1), asked).await;
                (symbol, answer.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time"))))
            }
        });
        let questions: Vec<_> = questions.collect();
        let mut answers = futures_util::stream::iter(questions).buffer_unordered(self.config.backfill.parallel);
        let mut failed: i64 = 0;
        loop {
            let (symbol, answer) = tokio::select! {
                answer = answers.next() => match answer {
                    Some(answer) => answer,
                    None => break,
                },
                _ = beat.tick() => {
                    heartbeat(&self.publisher, &self.clock, self.through).await?;
                    continue;
                }
            };
            match answer {
                Ok(rows) => {
                    let done = self.written.symbols.entry(symbol.clone()).or_default();
                    let limits = self.limits.entry(symbol.clone()).or_default();
                    for rows in rows {
                        done.turnover = rows.turnover_after.or(done.turnover);
                        let (endpoint, now) = (&self.checked.rest_url, self.clock.now());
                        write(&self.publisher, &self.metrics, &symbol, rows, limits, endpoint, now).await?;
                    }
                    done.to = Some(due);
                    if let Some((id, from)) = done.gap.take() {
                        let filled = gap(
                            ControlKind::GapFilled,
                            &self.publisher,
                            &self.clock,
                            &symbol,
                            (id, from),
                            Some(due),
                            "the venue told them",
                        );
                        self.publisher.control(&filled, None).await?;
                        self.publisher.copy(&filled).await?;
                    }
                }
                Err(problem) => {
                    failed += 1;
                    warn!(%symbol, problem = format!("{problem:#}"), "no minutes in this round");
                    let done = self.written.symbols.entry(symbol.clone()).or_default();
                    if done.gap.is_none() {
                        let from = done.to.unwrap_or(session.open);
                        let named = (format!("candles-{symbol}-{}", from.micros()), from);
                        let opened = gap(
                            ControlKind::GapOpened,
                            &self.publisher,
                            &self.clock,
                            &symbol,
                            named.clone(),
                            None,
                            "the venue did not answer",
                        );
                        self.publisher.control(&opened, None).await?;
                        self.publisher.copy(&opened).await?;
                        done.gap = Some(named);
                    }
                }
            }
        }
        drop(answers);
        self.through = Some(due);
        self.heartbeat().await?;
        self.publisher.delivered().await?;
        self.keep()?;
        self.metrics.gaps_open.set(failed);
        self.metrics.complete_through.set(due.micros().div_euclid(1_000_000));
        Ok(())
    }

    fn order(&self, session: &Session) -> Vec<Class> {
        let local_second = |at: Timestamp| {
            let at = jiff::Timestamp::from_microsecond(at.micros()).unwrap_or_default().to_zoned(self.calendar.zone().clone());
            let [hour, minute, second] = [at.hour(), at.minute(), at.second()].map(|part| u32::from(part.unsigned_abs()));
            hour * 3_600 + minute * 60 + second
        };
        let times = TimeOfDay::of_session(local_second(session.open), local_second(session.last_minute_close()));
        times.at(local_second(self.clock.now())).to_vec()
    }

    async fn open_gap(&mut self, symbol: &Instrument, from: Timestamp, to: Timestamp, reason: &str) -> anyhow::Result<()> {
        let done = self.written.symbols.entry(symbol.clone()).or_default();
        if done.gap.is_some() {
            return Ok(());
        }
        let named = (format!("candles-{symbol}-{}", from.micros()), from);
        done.gap = Some(named.clone());
        let opened = gap(ControlKind::GapOpened, &self.publisher, &self.clock, symbol, named, Some(to), reason);
        self.say(&opened).await
    }

    /// The session is over: gaps that are still open are given up, and everything closes.
    async fn end(&mut self, session: &Session) -> anyhow::Result<()> {
        let open: Vec<_> =
            self.written.symbols.iter_mut().filter_map(|(symbol, done)| Some((symbol.clone(), done.gap.take()?))).collect();
        for (symbol, named) in open {
            let to = session.last_minute_close();
            let given_up = gap(
                ControlKind::GapAbandoned,
                &self.publisher,
                &self.clock,
                &symbol,
                named,
                Some(to),
                "the session ended without them",
            );
            self.say(&given_up).await?;
        }
        self.through = Some(session.last_minute_close().plus_micros(session.grace_halted_micros + 1));
        self.heartbeat().await?;
        let mut end = self.control(ControlKind::End);
        end.reason = Some("the session is over".to_owned());
        self.say(&end).await?;
        self.publisher.delivered().await?;
        self.written.ended = true;
        self.keep()?;
        info!(session = %session.date, "the session is over");
        Ok(())
    }

    async fn heartbeat(&self) -> anyhow::Result<()> {
        heartbeat(&self.publisher, &self.clock, self.through).await
    }

    async fn say(&self, control: &Control) -> anyhow::Result<()> {
        self.publisher.control(control, None).await?;
        self.publisher.copy(control).await
    }

    fn control(&self, kind: ControlKind) -> Control {
        Control::new(kind, self.publisher.feed().clone(), self.clock.now())
    }

    fn keep(&self) -> anyhow::Result<()> {
        super::keep(&self.path, &self.written)
    }
}

async fn heartbeat(publisher: &Publisher, clock: &VenueClock, through: Option<Timestamp>) -> anyhow::Result<()> {
    let mut heartbeat = Control::new(ControlKind::Heartbeat, publisher.feed().clone(), clock.now());
    heartbeat.complete_through = through;
    publisher.control(&heartbeat, None).await
}

fn gap(
    kind: ControlKind,
    publisher: &Publisher,
    clock: &VenueClock,
    symbol: &Instrument,
    (id, from): (String, Timestamp),
    to: Option<Timestamp>,
    reason: &str,
) -> Control {
    let mut control = Control::new(kind, publisher.feed().clone(), clock.now());
    control.instrument = Some(symbol.clone());
    control.gap_id = Some(id);
    control.from = Some(from);
    control.to = to;
    control.reason = Some(reason.to_owned());
    control
}

async fn ask_all(
    client: &Client,
    symbol: &Instrument,
    feed: &marketflow_model::Feed,
    pages: &[CandlePage],
    mut before: Option<Amount>,
    class: Class,
) -> anyhow::Result<Vec<CandleRows>> {
    let mut answers = Vec::with_capacity(pages.len());
    for page in pages {
        let rows = client.ask(Question { instrument: symbol, page, feed, before, class }).await?;
        before = rows.turnover_after;
        answers.push(rows);
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_due_on_their_grid_inside_the_session_and_once_after_the_close() {
        let calendar = Calendar::of_venue("KRX");
        let at = |text: &str| Timestamp::parse(&format!("2026-11-20T{text}+09:00")).unwrap();
        let session = regular(calendar, "2026-11-20".parse().unwrap(), "2026-11-20".parse().unwrap())[0];
        let due = |now, every| due(&session, at(now), 3_000_000, every);
        for (now, every, expected) in [
            ("09:00:30", 1, "09:00:00"),
            ("09:01:02", 1, "09:00:00"),
            ("09:01:03", 1, "09:01:00"),
            ("09:06:00", 5, "09:05:00"),
            ("09:16:00", 15, "09:15:00"),
            ("15:30:40", 1, "15:30:00"),
            ("15:31:02", 15, "15:30:00"),
            ("15:31:03", 15, "15:31:00"),
            ("23:00:00", 1, "15:31:00"),
        ] {
            assert_eq!(due(now, every), at(expected), "{now} every {every}");
        }
    }

    #[test]
    fn weekends_holidays_and_new_year_have_no_session_to_follow() {
        let calendar = Calendar::of_venue("KRX");
        for day in ["2025-08-02", "2024-01-01", "2026-11-21", "2026-07-17"] {
            assert!(regular(calendar, day.parse().unwrap(), day.parse().unwrap()).is_empty(), "{day}");
        }
    }
}
