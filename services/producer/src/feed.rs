//! The feed: one loop that takes what sockets, requests and people bring, asks the ledger, and writes what it says in that order.
//!
//! Next: `ledger.rs` for what is decided, `publish.rs` for how it is written.

use crate::admin::{Request, Subscription};
use crate::backfill::{Answer, Jobs};
use crate::controls::HeartbeatPace;
use crate::intake::{Intake, Item};
use crate::ledger::{Action, Ledger};
use crate::lines::Lines;
use crate::metrics::Metrics;
use crate::publish::Publisher;
use crate::ranking::Rotation;
use crate::state::StateFile;
use marketflow_access::VenueClock;
use marketflow_model::{Control, Instrument, Source, Timestamp, Trade};
use marketflow_providers::{Event, Provider};
use marketflow_runtime::Stop;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tracing::{info, warn};

/// Items taken from the intake at once.
const BATCH: usize = 1_024;
/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(10);
/// Between two looks at failed deliveries and the state file.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// A trade this far ahead of its receipt makes us look at the clock again before we believe it.
const SURPRISE_MICROS: i64 = 2_000_000;
/// How often to look when the clock still stands behind the trade.
const SURPRISE_LOOKS: usize = 20;

/// Everything the loop holds.
pub struct Feed {
    /// Which venue.
    pub provider: &'static Provider,
    /// Endpoint of the sockets, for dead letters.
    pub websocket_url: String,
    /// Endpoint of requests, for dead letters.
    pub rest_url: String,
    /// The injected clock.
    pub clock: VenueClock,
    /// What is known.
    pub ledger: Ledger,
    /// The way to Kafka.
    pub publisher: Publisher,
    /// What sockets bring.
    pub intake: Arc<Intake>,
    /// What requests bring.
    pub answers: mpsc::Receiver<Answer>,
    /// What people ask.
    pub requests: mpsc::Receiver<Request>,
    /// To the sockets.
    pub lines: Lines,
    /// Instruments that every provider takes on its lines.
    pub instruments_max: usize,
    /// Who is followed by rank.
    pub rotation: Rotation,
    /// To the venue by request.
    pub jobs: Jobs,
    /// What survives.
    pub state: StateFile,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// When the next heartbeat is due.
    pub heartbeat: HeartbeatPace,
}

impl Feed {
    /// Runs until the stop is requested, then says so in the log and flushes.
    ///
    /// # Errors
    /// Kafka refuses a record for good, or the state file cannot be written.
    pub async fn run(mut self, stop: Stop, flush_timeout: Duration) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut housekept = Instant::now();
        let mut actions = Vec::new();
        while !stop.requested() {
            tokio::select! {
                () = self.intake.filled() => self.take_in(&mut actions).await?,
                Some(answer) = self.answers.recv() => self.take_answer(answer, &mut actions),
                Some(request) = self.requests.recv() => self.take_request(request, &mut actions).await,
                _ = tick.tick() => self.ledger.on_timer(self.clock.now(), self.clock.monotonic(), &mut actions),
                () = stop.wait() => break,
            }
            self.act(&mut actions).await?;
            self.beat().await?;
            if housekept.elapsed() >= HOUSEKEEPING {
                housekept = Instant::now();
                self.keep_house(&mut actions).await?;
                self.act(&mut actions).await?;
            }
        }
        self.drain(flush_timeout).await
    }

    /// First actions, decided before the loop began.
    ///
    /// # Errors
    /// As [`Feed::run`].
    pub async fn begin(&mut self, mut actions: Vec<Action>) -> anyhow::Result<()> {
        self.act(&mut actions).await
    }

    async fn take_in(&mut self, actions: &mut Vec<Action>) -> anyhow::Result<()> {
        let batch = self.intake.take(BATCH);
        self.metrics.overflowed.inc_by(batch.dropped);
        self.metrics.conflated.inc_by(batch.conflated);
        self.metrics.queue_trades.set(i64::try_from(self.intake.trades()).unwrap_or(i64::MAX));
        for (number, mut item) in batch.items {
            if let Item::Event(Event::Trade(trade)) = &mut item {
                if self.clock.is_virtual() && ahead(trade) {
                    self.believe(trade).await;
                }
                let age_micros = trade.receive_time.micros_since(trade.event_time).max(0);
                self.metrics.event_age.observe(Duration::from_micros(age_micros.unsigned_abs()).as_secs_f64());
            }
            if let Item::Closed { reason, planned } = &item {
                info!(provider = self.provider.id, connection = number, reason, planned, "connection closed");
            }
            self.ledger.on_item(number, item, self.clock.now(), actions);
            // A heartbeat falls due between trades too: at high speed a batch spans minutes.
            self.act(actions).await?;
            self.beat().await?;
        }
        // A standby's quotes count once it tells the trades too.
        for quote in batch.quotes.iter().filter(|quote| self.ledger.is_told_by(&quote.instrument, &quote.feed)) {
            self.publisher.quote(quote)?;
        }
        Ok(())
    }

    /// At high speed the virtual clock last read is old: a trade ahead of it is stamped again once the clock has been asked.
    async fn believe(&self, trade: &mut Trade) {
        for look in 0..SURPRISE_LOOKS {
            if self.clock.now() > trade.receive_time {
                trade.receive_time = self.clock.now();
            }
            if !ahead(trade) {
                return;
            }
            if look > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.clock.refresh().await;
        }
    }

    fn take_answer(&mut self, answer: Answer, actions: &mut Vec<Action>) {
        let now = self.clock.now();
        match answer {
            Answer::Page { job, page, last } => self.ledger.on_page(&job, page, last, now, actions),
            Answer::Refused { job, reason } => self.ledger.on_refused(&job, &reason, now, actions),
        }
    }

    async fn take_request(&mut self, request: Request, actions: &mut Vec<Action>) {
        let now = self.clock.known();
        match request {
            Request::Subscribe(instruments, answer) => {
                let most = self.instruments_max;
                let wanted = self.ledger.instruments().len() + instruments.len();
                let result = if wanted > most {
                    Err(format!(
                        "{} takes {most} instruments on these connections; provider.connections adds some",
                        self.provider.id
                    ))
                } else {
                    let added = self.ledger.add(&instruments, now, actions);
                    info!(provider = self.provider.id, instruments = ?added, "subscribing");
                    self.lines.subscribe(&added).await;
                    Ok(added)
                };
                told(answer.send(result).is_ok());
            }
            Request::Unsubscribe(instruments, answer) => {
                let removed = self.ledger.remove(&instruments, now, actions);
                info!(provider = self.provider.id, instruments = ?removed, "unsubscribing");
                self.lines.unsubscribe(&removed).await;
                told(answer.send(Ok(removed)).is_ok());
            }
            Request::Ranked(ranked) => self.rotate(&ranked, now, actions).await,
            Request::List(answer) => {
                let list = self
                    .ledger
                    .subscriptions()
                    .map(|(instrument, acknowledged)| Subscription { instrument: instrument.clone(), acknowledged })
                    .collect();
                told(answer.send(list).is_ok());
            }
        }
    }

    /// Gives the registrations that are given by rank to the most active; who leaves makes room first.
    async fn rotate(&mut self, ranked: &[Instrument], now: Timestamp, actions: &mut Vec<Action>) {
        let holding = self.ledger.ranked().clone();
        let followed: BTreeSet<Instrument> = self.ledger.instruments().into_iter().collect();
        let kept = |instrument: &Instrument| followed.contains(instrument) && !holding.contains(instrument);
        let room = self.instruments_max.saturating_sub(followed.len() - holding.len());
        let change = self.rotation.look(ranked, &holding, kept, room, now);
        self.metrics.ranking_looks.inc();
        let gone = self.ledger.let_go(&change.leave, now, actions);
        self.lines.unsubscribe(&gone).await;
        let come = self.ledger.bring_in(&change.enter, now, actions);
        self.lines.subscribe(&come).await;
        if !gone.is_empty() || !come.is_empty() {
            info!(provider = self.provider.id, leave = ?gone, enter = ?come, "the most active instruments have changed");
        }
        self.metrics.ranked_changes.inc_by(come.len() as u64);
        self.metrics.ranked.set(i64::try_from(self.ledger.ranked().len()).unwrap_or(i64::MAX));
    }

    /// Does what was decided, in order.
    async fn act(&mut self, actions: &mut Vec<Action>) -> anyhow::Result<()> {
        for action in actions.drain(..) {
            match action {
                Action::Trade(trade) => {
                    if trade.source == Source::Rest {
                        self.metrics.backfilled.inc();
                    }
                    self.publisher.trade(&trade).await?;
                }
                Action::Control(control) => self.publisher.control(&control).await?,
                Action::Ask(job) => self.jobs.push(job),
                Action::Resubscribe(instrument) => {
                    warn!(provider = self.provider.id, %instrument, "the socket is silent though there were trades; subscribing again");
                    self.lines.resubscribe(&instrument).await;
                }
                Action::SetAside { reason, detail, raw, by_request } => {
                    self.metrics.malformed.with_label_values(&[self.provider.id, reason.as_str()]).inc();
                    let endpoint = if by_request { &self.rest_url } else { &self.websocket_url };
                    self.publisher.set_aside(reason, detail, raw, endpoint, self.clock.now()).await?;
                }
                Action::Discarded(reason) => {
                    self.metrics.discarded.with_label_values(&[marketflow_contract::topics::TRADES, reason]).inc();
                }
            }
        }
        Ok(())
    }

    async fn beat(&mut self) -> anyhow::Result<()> {
        let now = self.clock.now();
        if !self.ledger.is_announced() || !self.heartbeat.due(now, self.clock.monotonic()) {
            return Ok(());
        }
        self.say(self.ledger.heartbeats(now)).await
    }

    async fn say(&mut self, controls: Vec<Control>) -> anyhow::Result<()> {
        for control in controls {
            self.publisher.control(&control).await?;
        }
        Ok(())
    }

    async fn keep_house(&mut self, actions: &mut Vec<Action>) -> anyhow::Result<()> {
        let failed = self.publisher.undelivered().await?;
        if !failed.is_empty() {
            warn!(trades = failed.len(), "Kafka did not take these; a gap is opened for exactly them and they are sent again");
            self.ledger.on_undelivered(failed, self.clock.now(), actions);
        }
        if let Some(state) = self.ledger.changed_state() {
            self.state.write(&state)?;
        }
        let seconds = |time: Timestamp| time.micros() / 1_000_000;
        self.metrics.complete_through.set(self.ledger.complete_through().map_or(0, seconds));
        self.metrics.gaps_open.set(i64::try_from(self.ledger.open_gaps()).unwrap_or(i64::MAX));
        for (feed, instruments) in self.ledger.told() {
            self.metrics.told.with_label_values(&[feed.as_str()]).set(i64::try_from(instruments).unwrap_or(i64::MAX));
        }
        let acknowledged: Vec<bool> = self.ledger.subscriptions().map(|(_, acknowledged)| acknowledged).collect();
        let count = |wanted: usize| i64::try_from(wanted).unwrap_or(i64::MAX);
        self.metrics.subscriptions.with_label_values(&["wanted"]).set(count(acknowledged.len()));
        self.metrics.subscriptions.with_label_values(&["acknowledged"]).set(count(acknowledged.iter().filter(|a| **a).count()));
        Ok(())
    }

    /// What was received is still written; then the feed says that it is down.
    async fn drain(mut self, flush_timeout: Duration) -> anyhow::Result<()> {
        let mut actions = Vec::new();
        loop {
            let batch = self.intake.take(BATCH);
            if batch.items.is_empty() {
                break;
            }
            for (number, item) in batch.items {
                self.ledger.on_item(number, item, self.clock.now(), &mut actions);
            }
            self.act(&mut actions).await?;
        }
        self.say(self.ledger.heartbeats(self.clock.now())).await?;
        self.say(self.ledger.shut_down(self.clock.now())).await?;
        if let Some(state) = self.ledger.changed_state() {
            self.state.write(&state)?;
        }
        self.publisher.flush(flush_timeout).await?;
        info!(provider = self.provider.id, open_gaps = self.ledger.open_gaps(), "drained");
        Ok(())
    }
}

fn ahead(trade: &Trade) -> bool {
    trade.event_time.micros_since(trade.receive_time) > SURPRISE_MICROS
}

/// Whoever asked may be gone; that changes nothing.
fn told(reached: bool) {
    if !reached {
        tracing::debug!("nobody waited for the answer");
    }
}
