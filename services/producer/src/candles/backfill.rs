//! History once: symbol by symbol, several at once, oldest minute first, each answer journalled when Kafka has it.
//!
//! Next: `live.rs`.

use super::check::{Limits as PriceLimits, Verdict};
use super::client::{Client, Question};
use super::config::{Checked, Config};
use super::journal::{Journal, Line, PageDone, SymbolDone};
use super::metrics::Metrics;
use super::plan::{Plan, PlannedSession, Summary, expected, windows};
use super::publish::Publisher;
use super::{Said, say};
use anyhow::Context;
use jiff::civil::Date;
use marketflow_access::VenueClock;
use marketflow_model::{Amount, Control, ControlKind, Feed, FeedState, Instrument, Interval, Timestamp};
use marketflow_pacing::{Class, PriorityQueue};
use marketflow_providers::{CandlePage, CandleRows};
use marketflow_runtime::{Exit, Stop};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tracing::{info, warn};

/// How often progress is said.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// How far a run has come.
#[derive(Clone, Debug, Serialize)]
pub struct Progress {
    /// Answers that are in Kafka, earlier runs' included.
    pub done: u64,
    /// Answers planned.
    pub calls: u64,
    /// Candles written by this run.
    pub candles: u64,
    /// Symbols that are there whole.
    pub symbols_done: u64,
    /// Seconds since the start.
    pub seconds: f64,
    /// Seconds left at this run's pace; `None` before the first answer.
    pub seconds_left: Option<f64>,
}

/// What came of a run.
#[derive(Clone, Debug, Serialize)]
pub struct RunResult {
    /// What was planned.
    pub plan: Summary,
    /// Whether every answer is in Kafka.
    pub complete: bool,
    /// Answers of this run that are in Kafka.
    pub answers: u64,
    /// Calls of this run, failed ones included.
    pub calls: u64,
    /// Share of them that was answered with rows.
    pub success_ratio: f64,
    /// Candles written by this run.
    pub candles: u64,
    /// How long it took.
    pub seconds: f64,
    /// The shortest time the limit allows for its answers.
    pub seconds_at_least: f64,
    /// The former over the latter; `None` where the latter is 0.
    pub ratio: Option<f64>,
    /// By symbol.
    pub symbols: Vec<SymbolResult>,
}

/// What is there of a symbol.
#[derive(Clone, Debug, Serialize)]
pub struct SymbolResult {
    /// Which.
    pub symbol: Instrument,
    /// Its feed of this run; `None`: everything was there.
    pub feed: Option<String>,
    /// Whether every answer is there.
    pub complete: bool,
    /// Why not.
    pub problem: Option<String>,
    /// By session.
    pub sessions: Vec<SessionResult>,
}

/// What is there of a session of a symbol.
#[derive(Clone, Debug, Serialize)]
pub struct SessionResult {
    /// The day it opens on.
    #[serde(with = "super::as_text")]
    pub day: Date,
    /// `complete`, `partial` (answers are missing), `halted` (nothing was traded, as the broker's master says) or `empty`: halted without that we
    /// knew, not listed, or closed unknown to the calendar.
    pub state: &'static str,
    /// By interval: bars expected of an instrument that trades each minute, by the calendar, and bars that the candles make.
    pub counts: Vec<Count>,
    /// Minutes without a trade, as far as the broker shows them.
    pub quiet: usize,
    /// Candles that were not believed, and rows that could not be read.
    pub set_aside: usize,
    /// Whether the whole day lies beyond the price limits of the close before, as after a split.
    pub new_base: bool,
}

/// Expected and actual.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// `1m`, `5m`, `15m`.
    pub interval: String,
    /// By the calendar.
    pub expected: usize,
    /// Of the candles.
    pub actual: usize,
}

/// What the tasks of a run share.
struct Run {
    plan: Plan,
    again: bool,
    endpoint: String,
    client: Client,
    publisher: Publisher,
    clock: VenueClock,
    journal: Journal,
    metrics: Arc<Metrics>,
    done: AtomicU64,
    answers: AtomicU64,
    candles: AtomicU64,
    symbols_done: AtomicU64,
}

/// Makes the plan true.
///
/// # Errors
/// The venue refuses the key, Kafka takes nothing, the day's calls are spent; the same command goes on from there.
#[expect(clippy::too_many_arguments, reason = "everything that a run is made of")]
pub async fn run(
    config: &Config,
    checked: &Checked,
    plan: Plan,
    folder: &Path,
    client: Client,
    publisher: Publisher,
    clock: VenueClock,
    metrics: Arc<Metrics>,
    stop: Stop,
) -> anyhow::Result<()> {
    let summary = plan.summary(&checked.limits);
    say(&Said::Plan(&summary))?;
    let (journal, mut there) = Journal::open(&folder.join(format!("{}-candles.ndjson", checked.provider.id)))?;
    let again = config.backfill.again;
    let mut waiting = PriorityQueue::default();
    for (rank, symbol) in (0..).zip(&plan.symbols) {
        waiting.push(Class::Backfill, rank, (symbol.clone(), there.remove(symbol).unwrap_or_default()));
    }
    let done_before = if again { 0 } else { waiting_done(&plan, &waiting) };
    let endpoint = checked.rest_url.clone();
    let run = Arc::new(Run {
        plan,
        again,
        endpoint,
        client,
        publisher,
        clock,
        journal,
        metrics,
        done: AtomicU64::new(done_before),
        answers: AtomicU64::new(0),
        candles: AtomicU64::new(0),
        symbols_done: AtomicU64::new(0),
    });
    let started = Instant::now();
    let waiting = Arc::new(Mutex::new(waiting));
    let mut workers = JoinSet::new();
    for _ in 0..config.backfill.parallel.min(run.plan.symbols.len()) {
        workers.spawn(work(run.clone(), waiting.clone(), stop.clone()));
    }
    let (mut results, mut fatal) = (Vec::new(), None);
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    loop {
        tokio::select! {
            ended = workers.join_next() => match ended {
                Some(Ok(Ok(found))) => results.extend(found),
                Some(Ok(Err(problem))) => {
                    // What one cannot do the others cannot either.
                    fatal.get_or_insert(problem);
                    workers.abort_all();
                }
                Some(Err(problem)) if problem.is_cancelled() => {}
                Some(Err(problem)) => return Err(problem).context("a task of the back-fill ended badly"),
                None => break,
            },
            _ = tick.tick() => say(&Said::Progress(&run.progress(started.elapsed(), done_before)))?,
        }
    }
    say(&Said::Progress(&run.progress(started.elapsed(), done_before)))?;
    if let Some(problem) = fatal {
        return Err(problem).context("the back-fill stops here; the same command goes on where it stopped");
    }
    results.sort_by_key(|result: &SymbolResult| run.plan.symbols.iter().position(|symbol| *symbol == result.symbol));
    let result = run.result(summary, checked, results, started.elapsed());
    if !config.backfill.result.as_os_str().is_empty() {
        let path = &config.backfill.result;
        std::fs::write(path, serde_json::to_vec_pretty(&result)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    say(&Said::Result(&result))?;
    info!(answers = result.answers, calls = result.calls, candles = result.candles, seconds = result.seconds, "back-fill ended");
    if result.complete {
        return Ok(());
    }
    let incomplete = result.symbols.iter().filter(|symbol| !symbol.complete).count();
    let missing = result.plan.symbols - result.symbols.iter().filter(|symbol| symbol.complete).count();
    let words = anyhow::anyhow!(
        "{} of {} symbols are not complete; the same command goes on where it stopped",
        missing.max(incomplete),
        result.plan.symbols
    );
    Err(words.context(if stop.requested() { Exit::Interrupted } else { Exit::TryAgain }))
}

fn waiting_done(plan: &Plan, waiting: &PriorityQueue<(Instrument, SymbolDone)>) -> u64 {
    let mut waiting = waiting.clone();
    let mut count = 0;
    while let Some((_, (symbol, done))) = waiting.pop(&[Class::Backfill]) {
        for planned in plan.sessions_of(&symbol) {
            let to = done.days.get(&planned.session.date).and_then(|day| day.to);
            count += planned.pages.iter().filter(|page| to >= Some(page.to)).count() as u64;
        }
    }
    count
}

/// Takes symbols until none waits. A symbol that the venue refuses is a result; what concerns all is an error.
async fn work(
    run: Arc<Run>,
    waiting: Arc<Mutex<PriorityQueue<(Instrument, SymbolDone)>>>,
    stop: Stop,
) -> anyhow::Result<Vec<SymbolResult>> {
    let mut results = Vec::new();
    while !stop.requested() {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop(&[Class::Backfill]);
        let Some((_, (symbol, done))) = next else { break };
        let mut history = History { run: &run, symbol: symbol.clone(), done, feed: None };
        let problem = match history.fill(&stop).await {
            Ok(()) => None,
            Err(problem) if problem.downcast_ref::<marketflow_providers::CallError>().is_some() => {
                warn!(%symbol, problem = format!("{problem:#}"), "the symbol is left as it is");
                Some(format!("{problem:#}"))
            }
            Err(problem) => return Err(problem),
        };
        run.symbols_done.fetch_add(1, Ordering::Relaxed);
        results.push(history.result(problem));
    }
    Ok(results)
}

/// One symbol's history under way.
struct History<'a> {
    run: &'a Run,
    symbol: Instrument,
    done: SymbolDone,
    feed: Option<Feed>,
}

impl History<'_> {
    async fn fill(&mut self, stop: &Stop) -> anyhow::Result<()> {
        let run = self.run;
        let symbol = self.symbol.clone();
        let sessions = run.plan.sessions_of(&symbol);
        let wanted: Vec<&PlannedSession> = sessions.filter(|planned| run.again || !self.is_whole(planned)).collect();
        let Some(first) = wanted.first() else { return Ok(()) };
        self.take_up_feed(first).await?;
        for (place, planned) in wanted.into_iter().enumerate() {
            // Only the first can have been under way.
            let resumed = if place == 0 && !run.again { self.done.days.get(&planned.session.date).cloned() } else { None };
            let resumed = resumed.unwrap_or_default();
            let base = self.done.close_before(planned.session.date).filter(|_| !resumed.new_base);
            let limits = PriceLimits::of_session(base.filter(|_| !run.plan.known.is_liquidated(&symbol)));
            let mut limits = if resumed.close.is_some() { limits.begun() } else { limits };
            let mut turnover = if resumed.to.is_some() { resumed.turnover } else { Amount::from_scaled(0) };
            for page in planned.pages.iter().filter(|page| resumed.to.is_none_or(|to| page.to > to)) {
                if stop.requested() {
                    return Ok(());
                }
                turnover = self.fill_page(planned, page, &mut limits, turnover).await?;
            }
        }
        self.end_feed().await
    }

    fn is_whole(&self, planned: &PlannedSession) -> bool {
        self.done.days.get(&planned.session.date).is_some_and(|day| day.is_whole(&planned.session))
    }

    /// Goes on in the feed that has not ended, if what is wanted comes after what is in it; else a new one begins.
    async fn take_up_feed(&mut self, first: &PlannedSession) -> anyhow::Result<()> {
        let begins = self.done.days.get(&first.session.date).and_then(|day| day.to).unwrap_or(first.session.open);
        let goes_on = !self.run.again && self.done.written_to.is_none_or(|to| to <= begins);
        if let Some(open) = self.done.open_feed.clone() {
            self.feed = Some(Feed::new(&open));
            if goes_on {
                return Ok(());
            }
            self.end_feed().await?;
        }
        let last = self.run.plan.sessions.last().map_or(first.session.date, |last| last.session.date);
        let name = format!("{} {} {} {last} {}", self.run.plan.provider, self.symbol, first.session.date, self.done.feeds);
        let mut id = hex::encode(Sha256::digest(name));
        id.truncate(16);
        let feed = Feed::import(&id);
        let mut up = Control::new(ControlKind::FeedState, feed.clone(), self.run.clock.now());
        up.state = FeedState::Up;
        up.from = Some(begins.min(first.session.open));
        up.reason = Some(format!("{} of {} from {}", self.symbol, self.run.plan.provider, first.session.date));
        self.run.publisher.control(&up, Some(&self.symbol)).await?;
        self.run.publisher.copy(&up).await?;
        self.note(Line::Begin { symbol: self.symbol.clone(), feed: feed.as_str().to_owned() }).await?;
        self.feed = Some(feed);
        Ok(())
    }

    async fn end_feed(&mut self) -> anyhow::Result<()> {
        let Some(feed) = self.feed.clone() else { return Ok(()) };
        let mut end = Control::new(ControlKind::End, feed, self.run.clock.now());
        end.reason = Some(format!("{} of {}", self.symbol, self.run.plan.provider));
        self.run.publisher.control(&end, Some(&self.symbol)).await?;
        self.run.publisher.copy(&end).await?;
        self.note(Line::End { symbol: self.symbol.clone() }).await
    }

    /// Asks for a page and writes what it holds. Returns the day's turnover after it.
    async fn fill_page(
        &mut self,
        planned: &PlannedSession,
        page: &CandlePage,
        limits: &mut PriceLimits,
        before: Option<Amount>,
    ) -> anyhow::Result<Option<Amount>> {
        let run = self.run;
        let feed = self.feed.clone().context("a feed was taken up")?;
        let question = Question { instrument: &self.symbol, page, feed: &feed, before, class: Class::Backfill };
        let rows = run.client.ask(question).await?;
        let turnover = rows.turnover_after;
        let quiet = rows.quiet;
        let written = write(&run.publisher, &run.metrics, &self.symbol, rows, limits, &run.endpoint, run.clock.now()).await?;
        let mut heartbeat = Control::new(ControlKind::Heartbeat, feed, run.clock.now());
        // The closing print's bar is due when its grace is over.
        let is_last = page.to >= planned.session.last_minute_close();
        let grace = planned.session.grace_halted_micros.max(planned.session.grace_micros) + 1;
        heartbeat.complete_through = Some(if is_last { page.to.plus_micros(grace) } else { page.to });
        run.publisher.control(&heartbeat, Some(&self.symbol)).await?;
        let line = PageDone {
            symbol: self.symbol.clone(),
            day: planned.session.date,
            to: page.to,
            bars: windows(written.minutes.iter().copied()),
            quiet,
            set_aside: written.set_aside,
            new_base: written.new_base,
            turnover,
            close: written.close,
        };
        self.note(Line::Page(line)).await?;
        run.done.fetch_add(1, Ordering::Relaxed);
        run.answers.fetch_add(1, Ordering::Relaxed);
        run.candles.fetch_add(written.minutes.len() as u64, Ordering::Relaxed);
        Ok(turnover)
    }

    /// Journals what Kafka has.
    async fn note(&mut self, line: Line) -> anyhow::Result<()> {
        self.run.publisher.delivered().await?;
        self.run.journal.write(&line)?;
        self.done.apply(line);
        Ok(())
    }

    fn result(self, problem: Option<String>) -> SymbolResult {
        let sessions: Vec<SessionResult> = self
            .run
            .plan
            .sessions_of(&self.symbol)
            .map(|planned| {
                let is_halted = self.run.plan.known.is_halted(&self.symbol, &planned.session);
                let day = self.done.days.get(&planned.session.date).cloned().unwrap_or_default();
                let state = match (day.is_whole(&planned.session), day.bars[0]) {
                    (false, _) => "partial",
                    (true, 0) if is_halted => "halted",
                    (true, 0) => "empty",
                    (true, _) => "complete",
                };
                // Nothing is expected of a halt, only believed.
                let expected = if state == "halted" { [0; 3] } else { expected(&planned.session) };
                let counts = Interval::STANDARD.into_iter().zip(expected).zip(day.bars);
                SessionResult {
                    day: planned.session.date,
                    state,
                    counts: counts
                        .map(|((interval, expected), actual)| Count { interval: interval.to_string(), expected, actual })
                        .collect(),
                    quiet: day.quiet,
                    set_aside: day.set_aside,
                    new_base: day.new_base,
                }
            })
            .collect();
        let complete = problem.is_none() && sessions.iter().all(|session| session.state != "partial");
        let feed = self.feed.map(|feed| feed.as_str().to_owned());
        SymbolResult { symbol: self.symbol, feed, complete, problem, sessions }
    }
}

/// What became of an answer's rows.
pub(super) struct Written {
    /// Minutes written.
    pub(super) minutes: Vec<Timestamp>,
    pub(super) set_aside: usize,
    pub(super) new_base: bool,
    /// Of the last candle written.
    pub(super) close: Option<marketflow_model::Price>,
}

/// Writes an answer's rows: candles that are believed, and the others aside.
pub(super) async fn write(
    publisher: &Publisher,
    metrics: &Metrics,
    instrument: &Instrument,
    rows: CandleRows,
    limits: &mut PriceLimits,
    endpoint: &str,
    received: Timestamp,
) -> anyhow::Result<Written> {
    let mut written = Written { minutes: Vec::new(), set_aside: rows.malformed.len(), new_base: false, close: None };
    let count = |outcome: &str, count: usize| metrics.candles.with_label_values(&[outcome]).inc_by(count as u64);
    count("quiet", rows.quiet);
    count("unasked", rows.unasked);
    count("unreadable", rows.malformed.len());
    for mut candle in rows.candles {
        // Its number is its minute: rising, and the same whenever it is written, so that what a kill made come twice counts once.
        candle.import_row = Some(candle.open_time.micros().div_euclid(Interval::ONE_MINUTE.micros()));
        match limits.judge(&candle) {
            Verdict::Quarantined(reason) => {
                count("quarantined", 1);
                written.set_aside += 1;
                publisher.quarantine(&candle, reason).await?;
                continue;
            }
            Verdict::NewBase => {
                warn!(%instrument, minute = %candle.open_time, "the day lies beyond the price limits of the close before: that was adjusted, or there are none");
                written.new_base = true;
            }
            Verdict::Fine => {}
        }
        publisher.candle(&candle).await?;
        written.minutes.push(candle.open_time);
        written.close = Some(candle.close);
    }
    count("written", written.minutes.len());
    for row in rows.malformed {
        publisher.set_aside(Some(instrument), row, endpoint, received).await?;
    }
    Ok(written)
}

impl Run {
    fn progress(&self, elapsed: Duration, done_before: u64) -> Progress {
        let (done, calls, seconds) = (self.done.load(Ordering::Relaxed), self.plan.calls(), elapsed.as_secs_f64());
        let of_this_run = done.saturating_sub(done_before);
        let left = calls.saturating_sub(done) as f64;
        Progress {
            done,
            calls,
            candles: self.candles.load(Ordering::Relaxed),
            symbols_done: self.symbols_done.load(Ordering::Relaxed),
            seconds,
            seconds_left: (of_this_run > 0).then(|| left * seconds / of_this_run as f64),
        }
    }

    fn result(&self, plan: Summary, checked: &Checked, symbols: Vec<SymbolResult>, elapsed: Duration) -> RunResult {
        let answers = self.answers.load(Ordering::Relaxed);
        let (fine, calls) = self.client.calls();
        let least = checked.limits.least_time(answers).as_secs_f64();
        RunResult {
            complete: symbols.len() == self.plan.symbols.len() && symbols.iter().all(|symbol| symbol.complete),
            plan,
            answers,
            calls,
            success_ratio: if calls == 0 { 1.0 } else { fine as f64 / calls as f64 },
            candles: self.candles.load(Ordering::Relaxed),
            seconds: elapsed.as_secs_f64(),
            seconds_at_least: least,
            ratio: (least > 0.0).then(|| elapsed.as_secs_f64() / least),
            symbols,
        }
    }
}
