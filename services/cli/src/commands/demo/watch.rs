//! Follows a session while it runs: asks the parts for their counters, and ClickHouse for what can be read there.
//!
//! A part that does not answer (it may have been killed and be on its way back) keeps its last reading. Next: `render.rs`.

use super::latency::Latencies;
use super::render::{Counts, Phase, Snapshot};
use super::rows::Rows;
use super::tally::Tally;
use crate::commands::metrics::{Rising, sum};
use anyhow::Context;
use marketflow_model::{Bar, Interval, Timestamp};
use marketflow_stack::{Language, Ports, Stack, State};
use serde::Deserialize;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// A part that is busy answers within this time, or not in this round.
const ANSWER_WITHIN: Duration = Duration::from_millis(800);
/// How long the readers may take to be assigned their partitions.
const READERS_WITHIN: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Time between two questions to ClickHouse for the drawing.
const BARS_EVERY: Duration = Duration::from_millis(500);
/// Bars asked for; more than the widest drawing has columns.
const BARS_SHOWN: usize = 110;

/// Where a session stands in the venue's time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(super) now: Timestamp,
    pub(super) finished: bool,
}

/// What `GET /status` of the simulator answers, as far as it is needed.
#[derive(Deserialize)]
struct SimulatorStatus {
    now_us: i64,
    started: bool,
    running: bool,
    finished: bool,
    trades_played: u64,
    subscriptions: usize,
}

/// Follows one session.
pub(super) struct Watch {
    http: reqwest::Client,
    rows: Rows,
    tally: Tally,
    ports: Ports,
    language: Language,
    /// Whether we stopped the venue's time.
    holding: bool,
    /// Whether the venue is the simulator, whose counters we can read.
    simulated: bool,
    /// Whether its time stops while nobody listens.
    waits: bool,
    begun: Instant,
    asked_for_bars: Option<Instant>,
    rising: Rising,
    pub(super) latencies: Latencies,
    pub(super) snapshot: Snapshot,
}

impl Watch {
    pub(super) fn new(
        rows: Rows,
        tally: Tally,
        ports: Ports,
        language: Language,
        (simulated, waits): (bool, bool),
        snapshot: Snapshot,
    ) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(ANSWER_WITHIN).no_proxy().build().context("cannot ask the parts")?;
        Ok(Self {
            http,
            rows,
            tally,
            ports,
            language,
            holding: false,
            simulated,
            waits,
            begun: Instant::now(),
            asked_for_bars: None,
            rising: Rising::default(),
            // a recorded session has a hundred thousand trades, a live one some hundred
            latencies: Latencies::new(if simulated { 20 } else { 1 }),
            snapshot,
        })
    }

    /// Asks everyone once. `None`: the venue did not answer.
    pub(super) async fn look(&mut self, stack: &Stack) -> Option<Progress> {
        let (venue, producer, processor, counted) = tokio::join!(
            self.ask_simulator(),
            self.text(self.ports.tick_producer, "/metrics"),
            self.text(self.ports.processor, "/metrics"),
            self.rows.counts(),
        );
        self.snapshot.elapsed = self.begun.elapsed();
        let at = self.snapshot.elapsed;
        if let Some(text) = producer {
            self.rising.take("received", sum(&text, "marketflow_event_age_seconds_count", None));
        }
        if let Some(text) = processor {
            let outcome = |outcome| sum(&text, "marketflow_trades_total", Some(("outcome", outcome)));
            self.rising.take("used", outcome("used"));
            self.rising.take("set_aside", sum(&text, "marketflow_trades_total", None) - outcome("used"));
        }
        if let Some(status) = &venue {
            self.steer(status).await;
        }
        let sent = match &venue {
            Some(status) => status.trades_played,
            None if self.simulated => self.snapshot.counts.sent,
            None => self.rising.last("received"),
        };
        let (trade_rows, bar_rows) = counted.unwrap_or((self.snapshot.counts.trade_rows, self.snapshot.counts.bar_rows));
        self.snapshot.counts = Counts {
            sent: sent.max(self.snapshot.counts.sent),
            in_kafka: self.tally.trades(),
            used: self.rising.last("used"),
            set_aside: self.rising.last("set_aside"),
            bars_in_kafka: self.tally.bars(),
            trade_rows,
            bar_rows,
        };
        self.latencies.sent(at, sent);
        self.latencies.visible(at, trade_rows);
        self.snapshot.latency = self.latencies.summary();
        self.snapshot.troubles = troubles(stack, self.language);
        self.look_at_bars().await;
        let progress = self.progress(venue)?;
        self.snapshot.now = progress.now.min(self.snapshot.to);
        if progress.finished {
            self.snapshot.phase = Phase::Draining;
        }
        Some(progress)
    }

    /// Lets the venue begin once its client is there and the readers are assigned, which takes a new broker some seconds; the time until then
    /// would be measured as latency. Returns when it began, or when a reader was waited for in vain.
    pub(super) async fn begin(&mut self) {
        let deadline = Instant::now() + READERS_WITHIN;
        while Instant::now() < deadline
            && !(self.is_reading(self.ports.sink).await && self.is_reading(self.ports.processor).await)
        {
            sleep(LOOK_AGAIN).await;
        }
        while self.simulated && Instant::now() < deadline + READERS_WITHIN {
            match self.ask_simulator().await {
                Some(status) if status.started => break,
                Some(status) => self.steer(&status).await,
                None => {}
            }
            sleep(LOOK_AGAIN).await;
        }
        self.begun = Instant::now();
    }

    /// A consumer that was assigned its partitions knows how far it is behind.
    async fn is_reading(&self, port: u16) -> bool {
        self.text(port, "/metrics").await.is_some_and(|text| text.contains("\nmarketflow_consumer_lag_records{"))
    }

    /// Starts the venue, also after it was killed, and stops its time while nobody listens: at the speed of the demo a second is hours of the
    /// venue's time, more than its REST interface reaches back. Where an outage is part of the session, time goes on.
    async fn steer(&mut self, status: &SimulatorStatus) {
        let order = match (status.subscriptions, status.started, status.running) {
            (1.., false, _) => "/start",
            (1.., true, false) if self.holding => "/resume",
            (0, true, true) if self.waits && !status.finished => "/pause",
            _ => return,
        };
        let url = format!("http://127.0.0.1:{}{order}", self.ports.simulator_admin);
        if self.http.post(url).send().await.is_ok_and(|answer| answer.status().is_success()) {
            self.holding = order == "/pause";
        }
    }

    fn progress(&self, venue: Option<SimulatorStatus>) -> Option<Progress> {
        if self.simulated {
            let status = venue?;
            return Some(Progress { now: Timestamp::from_micros(status.now_us), finished: status.finished });
        }
        let elapsed = i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX);
        let now = self.snapshot.from.plus_micros(elapsed);
        Some(Progress { now, finished: now >= self.snapshot.to })
    }

    async fn look_at_bars(&mut self) {
        if self.asked_for_bars.is_some_and(|last| last.elapsed() < BARS_EVERY) {
            return;
        }
        self.asked_for_bars = Some(Instant::now());
        // a long session in 15-minute bars, the first quarter of an hour and a live one in 1-minute bars
        let played = self.snapshot.now.micros().saturating_sub(self.snapshot.from.micros());
        let interval = if self.simulated && played > 2 * Interval::FIFTEEN_MINUTES.micros() * 4 {
            Interval::FIFTEEN_MINUTES
        } else {
            Interval::ONE_MINUTE
        };
        if let Ok(bars) = self.rows.last_bars(&self.snapshot.instrument, interval, BARS_SHOWN).await {
            self.snapshot.bars = bars;
        }
        let named: Vec<&str> = self.snapshot.names.iter().map(|(instrument, _)| instrument.as_str()).collect();
        if !named.is_empty()
            && let Ok(latest) = self.rows.latest_bars(&named).await
        {
            self.snapshot.latest = latest;
        }
    }

    async fn ask_simulator(&self) -> Option<SimulatorStatus> {
        if !self.simulated {
            return None;
        }
        serde_json::from_str(&self.text(self.ports.simulator_admin, "/status").await?).ok()
    }

    async fn text(&self, port: u16, path: &str) -> Option<String> {
        let answer = self.http.get(format!("http://127.0.0.1:{port}{path}")).send().await.ok()?;
        answer.error_for_status().ok()?.text().await.ok()
    }

    /// Every bar that ClickHouse shows now.
    pub(super) async fn all_bars(&self) -> anyhow::Result<Vec<Bar>> {
        self.rows.all_bars().await
    }
}

/// Whether all parts are as they should be.
pub(super) fn all_ready(stack: &Stack) -> bool {
    stack.status().iter().all(|part| part.state.is_well() || part.state == State::Stopped)
}

/// Parts that ended by themselves, and how often they were started again.
pub(super) fn restarts(stack: &Stack) -> Vec<(String, u32)> {
    stack.status().into_iter().filter(|part| part.restarts > 0).map(|part| (part.name, part.restarts)).collect()
}

fn troubles(stack: &Stack, language: Language) -> Vec<String> {
    let parts = stack.status().into_iter();
    parts
        .filter_map(|part| {
            let words = match part.state {
                State::Ready | State::Done | State::Stopped if part.restarts == 0 => return None,
                State::Ready | State::Done | State::Stopped => {
                    format!("{} {}×", language.pick("was started again", "재기동됨"), part.restarts)
                }
                State::Starting => language.pick("is starting", "기동 중").to_owned(),
                State::NotAnswering => language.pick("does not answer", "응답 없음").to_owned(),
                State::BackingOff => {
                    format!("{} {}", language.pick("ended, starting it again:", "종료됨, 다시 시작합니다:"), part.note)
                }
                State::GaveUp => format!("{} {}", language.pick("ended too often:", "반복해서 종료됨:"), part.note),
            };
            Some(format!("{}: {words}", part.name))
        })
        .collect()
}
