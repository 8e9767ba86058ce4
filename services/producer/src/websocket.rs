//! Sockets: one task per connection that reads and never waits for anything but the venue, and one keeper that connects, renews and backs off.
//!
//! A planned renewal opens the next connection first; the old one stays until it has proved that it delivered everything up to the moment the
//! next was subscribed. So the two overlap and the ledger drops what came twice.
//!
//! Next: `intake.rs`, where everything read goes.

use crate::config::ConnectionConfig;
use crate::intake::{ConnectionNumber, Intake, Item};
use crate::metrics::Metrics;
use anyhow::anyhow;
use futures_util::{SinkExt, StreamExt};
use marketflow_access::{Passes, VenueClock};
use marketflow_model::{Instrument, Timestamp};
use marketflow_pacing::{AttemptBudget, Backoff, BackoffSettings};
use marketflow_providers::{Connection, Event, Frame, KEY_REFUSED, Malformed, Provider, Secret, Timing};
use marketflow_runtime::{Exit, Stop};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use tracing::{debug, info, warn};

/// What every connection of a feed shares.
#[derive(Clone)]
pub struct Wire {
    /// Which venue.
    pub provider: &'static Provider,
    /// Where.
    pub url: String,
    /// Waits and intervals.
    pub config: ConnectionConfig,
    /// Its connections are numbered from here on.
    pub first_number: ConnectionNumber,
    /// What is shown at the door, where the venue asks for it.
    pub passes: Option<Passes>,
    /// The injected clock.
    pub clock: VenueClock,
    /// Where everything read goes.
    pub intake: Arc<Intake>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// What the keeper is told while it runs.
#[derive(Debug)]
pub enum Command {
    /// Add instruments.
    Subscribe(Vec<Instrument>),
    /// Take instruments away.
    Unsubscribe(Vec<Instrument>),
    /// Leave and enter again.
    Resubscribe(Instrument),
}

/// What a connection tells the keeper.
enum Notice {
    Renew(ConnectionNumber),
    Settled(ConnectionNumber, Timestamp),
    Ended(ConnectionNumber, End),
}

struct End {
    reason: &'static str,
    problem: Option<anyhow::Error>,
    /// First and last data, monotonic.
    flowed: Option<(Duration, Duration)>,
    connected: bool,
}

/// What the keeper tells a connection.
enum Order {
    Subscribe(Vec<Instrument>),
    Unsubscribe(Vec<Instrument>),
    /// Close once evidence reaches this.
    FinishAfter(Timestamp),
}

/// Longest excerpt of a frame kept for people.
const RAW_MAX: usize = 64 * 1024;
/// Frames beyond this are not even read; the connection ends.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// Between two looks at the connection's timers.
const TICK: Duration = Duration::from_millis(50);
/// How long the old connection may take to prove that it is finished.
const FINISH_WITHIN: Duration = Duration::from_secs(15);

/// Why a connection ends that never began.
const LOGIN_FAILED: &str = "login_failed";

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Keeps the instruments subscribed until the stop is requested.
///
/// # Errors
/// The venue refuses this region, or was never reached within `connection.give_up_after`; both name the cure.
pub async fn keep_connected(
    wire: Wire,
    instruments: Vec<Instrument>,
    mut commands: mpsc::Receiver<Command>,
    stop: Stop,
) -> anyhow::Result<()> {
    let (notices, mut inbox) = mpsc::unbounded_channel();
    let now = wire.clock.monotonic();
    let mut keeper = Keeper {
        backoff: Backoff::new(BackoffSettings {
            min: wire.config.backoff_min,
            max: wire.config.backoff_max,
            reset_after: wire.config.backoff_reset_after,
        }),
        budget: AttemptBudget::new(wire.config.attempts, wire.config.attempts_window, now),
        wanted: instruments.into_iter().collect(),
        made: wire.first_number,
        wire,
        notices,
        orders: BTreeMap::new(),
        current: None,
        next: None,
        renewing: false,
        attempt_at: Some(now),
        ever_connected: false,
    };
    loop {
        let wait = keeper.attempt_at.map(|at| at.saturating_sub(keeper.wire.clock.monotonic()));
        tokio::select! {
            () = stop.wait() => break,
            Some(notice) = inbox.recv() => keeper.on_notice(notice)?,
            Some(command) = commands.recv() => keeper.on_command(command),
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => keeper.attempt(),
        }
    }
    keeper.orders.clear();
    Ok(())
}

struct Keeper {
    wire: Wire,
    wanted: BTreeSet<Instrument>,
    notices: mpsc::UnboundedSender<Notice>,
    /// Dropping a sender ends its connection.
    orders: BTreeMap<ConnectionNumber, mpsc::UnboundedSender<Order>>,
    current: Option<ConnectionNumber>,
    next: Option<ConnectionNumber>,
    renewing: bool,
    made: ConnectionNumber,
    backoff: Backoff,
    budget: AttemptBudget,
    /// When to connect, monotonic.
    attempt_at: Option<Duration>,
    ever_connected: bool,
}

impl Keeper {
    /// Opens a connection if one is needed and the budget allows.
    fn attempt(&mut self) {
        let now = self.wire.clock.monotonic();
        let needed = self.current.is_none() || (self.renewing && self.next.is_none());
        if !needed || self.wanted.is_empty() {
            self.attempt_at = None;
            return;
        }
        if let Err(wait) = self.budget.take(now) {
            debug!(provider = self.wire.provider.id, ?wait, "connection attempts are spent");
            self.attempt_at = Some(now + wait);
            return;
        }
        self.attempt_at = None;
        self.made += 1;
        let number = self.made;
        let (orders, inbox) = mpsc::unbounded_channel();
        self.orders.insert(number, orders);
        let slot = if self.current.is_none() { &mut self.current } else { &mut self.next };
        *slot = Some(number);
        let instruments = self.wanted.iter().cloned().collect();
        let notices = self.notices.clone();
        let wire = self.wire.clone();
        tokio::spawn(async move {
            let end = converse(&wire, number, instruments, inbox, &notices).await;
            if notices.send(Notice::Ended(number, end)).is_err() {
                debug!(connection = number, "ended after its keeper");
            }
        });
    }

    fn on_notice(&mut self, notice: Notice) -> anyhow::Result<()> {
        match notice {
            Notice::Renew(number) => {
                if self.current == Some(number) && !self.renewing {
                    self.renewing = true;
                    self.attempt_at = Some(self.wire.clock.monotonic());
                }
            }
            Notice::Settled(number, at) => {
                self.ever_connected = true;
                if self.next == Some(number)
                    && let Some(old) = self.current
                {
                    self.order(old, Order::FinishAfter(at));
                }
            }
            Notice::Ended(number, end) => self.on_ended(number, end)?,
        }
        Ok(())
    }

    fn on_ended(&mut self, number: ConnectionNumber, end: End) -> anyhow::Result<()> {
        let provider = self.wire.provider.id;
        self.orders.remove(&number);
        self.ever_connected |= end.connected;
        self.wire.metrics.reconnects.with_label_values(&[provider, end.reason]).inc();
        if let Some((first, last)) = end.flowed {
            self.backoff.on_data(first);
            self.backoff.on_data(last);
        }
        if self.next == Some(number) {
            self.next = None;
        } else if self.current == Some(number) {
            self.current = self.next.take();
            self.renewing = false;
        }
        if let Some(problem) = &end.problem {
            self.give_up(problem)?;
        }
        let needed = self.current.is_none() || (self.renewing && self.next.is_none());
        if !needed {
            info!(provider, connection = number, reason = end.reason, "connection ended; the next has taken over");
            return Ok(());
        }
        let wait = self.backoff.on_failure(&mut rand::rng());
        let attempt = self.backoff.failures();
        let error = end.problem.map(|problem| format!("{problem:#}")).unwrap_or_default();
        warn!(provider, connection = number, reason = end.reason, error, attempt, ?wait, "connection lost; reconnecting");
        self.attempt_at = Some(self.wire.clock.monotonic() + wait);
        Ok(())
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Subscribe(instruments) => {
                self.wanted.extend(instruments.iter().cloned());
                self.order_all(|| Order::Subscribe(instruments.clone()));
                if self.current.is_none() && self.attempt_at.is_none() {
                    self.attempt_at = Some(self.wire.clock.monotonic());
                }
            }
            Command::Unsubscribe(instruments) => {
                self.wanted.retain(|instrument| !instruments.contains(instrument));
                self.order_all(|| Order::Unsubscribe(instruments.clone()));
            }
            Command::Resubscribe(instrument) => {
                self.order_all(|| Order::Unsubscribe(vec![instrument.clone()]));
                self.order_all(|| Order::Subscribe(vec![instrument.clone()]));
            }
        }
    }

    fn order_all(&self, order: impl Fn() -> Order) {
        self.orders.keys().for_each(|number| self.order(*number, order()));
    }

    fn order(&self, number: ConnectionNumber, order: Order) {
        if let Some(orders) = self.orders.get(&number)
            && orders.send(order).is_err()
        {
            debug!(connection = number, "ended before its order");
        }
    }

    /// Ends the service when going on cannot help: refused credentials, a refused region, or a venue never reached in the time given.
    fn give_up(&self, problem: &anyhow::Error) -> anyhow::Result<()> {
        if Exit::of(problem) == Exit::Usage {
            return Err(anyhow!("{problem:#}").context(Exit::Usage));
        }
        let url = &self.wire.url;
        if let Some(tungstenite::Error::Http(answer)) = problem.downcast_ref::<tungstenite::Error>()
            && answer.status().as_u16() == 451
        {
            return Err(anyhow!(
                "{url} does not serve this region (HTTP 451); choose another provider, or play a recorded session instead of live"
            )
            .context(Exit::Unreachable));
        }
        let limit = self.wire.config.give_up_after;
        if !self.ever_connected && !limit.is_zero() && self.wire.clock.monotonic() >= limit {
            return Err(anyhow!(
                "{url} was not reached within {limit:?} ({problem:#}); check that there is internet and that outgoing port {} is open, \
                 or play a recorded session instead of live",
                port(url)
            )
            .context(Exit::Unreachable));
        }
        Ok(())
    }
}

fn port(url: &str) -> String {
    url.parse::<tungstenite::http::Uri>()
        .ok()
        .and_then(|uri| uri.port_u16().or(if uri.scheme_str() == Some("wss") { Some(443) } else { Some(80) }))
        .map_or_else(|| "of the URL".to_owned(), |port| port.to_string())
}

/// One connection from connect to close. Everything it reads is in the intake before it returns, its end last.
async fn converse(
    wire: &Wire,
    number: ConnectionNumber,
    instruments: Vec<Instrument>,
    orders: mpsc::UnboundedReceiver<Order>,
    notices: &mpsc::UnboundedSender<Notice>,
) -> End {
    let key = match key(wire).await {
        Ok(key) => key,
        Err(problem) => return End { reason: LOGIN_FAILED, problem: Some(problem), flowed: None, connected: false },
    };
    let socket = match connect(wire).await {
        Ok(socket) => socket,
        Err(problem) => return End { reason: "connect_failed", problem: Some(problem), flowed: None, connected: false },
    };
    info!(provider = wire.provider.id, connection = number, url = wire.url, "connected");
    let timing = wire.config.timing();
    let mut conversation = Conversation {
        wire,
        number,
        notices,
        machine: (wire.provider.connection)(instruments.clone(), timing, &key),
        socket,
        pending: instruments.into_iter().collect(),
        opened: wire.clock.monotonic(),
        settled: false,
        finish: None,
        flowed: None,
        events: Vec::new(),
        timing,
    };
    let (reason, problem) = conversation.run(orders).await;
    if reason == KEY_REFUSED
        && let Some(passes) = &wire.passes
        && let Err(problem) = passes.refused(passes.for_socket(), &key).await
    {
        warn!(provider = wire.provider.id, error = format!("{problem:#}"), "the refused key could not be forgotten");
    }
    let planned = reason == "renewed";
    wire.intake.push(number, Item::Closed { reason, planned });
    End { reason, problem, flowed: conversation.flowed, connected: true }
}

/// The key the venue wants to see on its socket.
async fn key(wire: &Wire) -> anyhow::Result<Secret> {
    match &wire.passes {
        Some(passes) => passes.get(passes.for_socket()).await,
        None => Ok(Secret::default()),
    }
}

async fn connect(wire: &Wire) -> anyhow::Result<Socket> {
    let limits = WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX)).max_frame_size(Some(MESSAGE_MAX));
    let connecting = connect_async_with_config(&wire.url, Some(limits), true);
    match tokio::time::timeout(wire.config.connect_timeout, connecting).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(problem)) => Err(problem.into()),
        Err(_) => Err(anyhow!("no answer within {:?}", wire.config.connect_timeout)),
    }
}

struct Conversation<'a> {
    wire: &'a Wire,
    number: ConnectionNumber,
    notices: &'a mpsc::UnboundedSender<Notice>,
    machine: Box<dyn Connection>,
    socket: Socket,
    /// Not yet acknowledged.
    pending: BTreeSet<Instrument>,
    opened: Duration,
    settled: bool,
    /// When to close: evidence to reach, and patience.
    finish: Option<(Timestamp, Duration)>,
    flowed: Option<(Duration, Duration)>,
    events: Vec<Event>,
    timing: Timing,
}

type Ended = (&'static str, Option<anyhow::Error>);

impl Conversation<'_> {
    async fn run(&mut self, mut orders: mpsc::UnboundedReceiver<Order>) -> Ended {
        self.machine.on_open(self.wire.clock.moment(), &mut self.events);
        let mut timer = tokio::time::interval(TICK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if let Some(ended) = self.handle_events(&[]).await {
                return ended;
            }
            tokio::select! {
                message = self.socket.next() => {
                    if let Some(ended) = self.on_message(message).await {
                        return ended;
                    }
                }
                _ = timer.tick() => self.on_tick(),
                order = orders.recv() => match order {
                    Some(order) => self.on_order(order),
                    None => return self.close("stopped").await,
                },
            }
            if let Some((_, until)) = self.finish
                && self.wire.clock.monotonic() >= until
            {
                return self.close("renewal_unfinished").await;
            }
        }
    }

    async fn on_message(&mut self, message: Option<Result<Message, tungstenite::Error>>) -> Option<Ended> {
        let moment = self.wire.clock.moment();
        match message {
            None => Some(("socket_closed", None)),
            Some(Ok(Message::Text(text))) => {
                self.on_data(moment.monotonic);
                self.machine.on_frame(Frame::Text(&text), moment, &mut self.events);
                self.handle_events(text.as_bytes()).await
            }
            Some(Ok(Message::Binary(bytes))) => {
                self.on_data(moment.monotonic);
                self.machine.on_frame(Frame::Binary(&bytes), moment, &mut self.events);
                self.handle_events(&bytes).await
            }
            Some(Ok(Message::Close(frame))) => {
                let problem = frame.map(|frame| anyhow!("close {}: {}", frame.code, frame.reason));
                Some(("closed_by_venue", problem))
            }
            // The library answers pings by itself, with their payload.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => None,
            Some(Err(problem)) => Some(self.on_broken(problem)),
        }
    }

    /// A frame that breaks the protocol takes the connection with it, but not unseen.
    fn on_broken(&mut self, problem: tungstenite::Error) -> Ended {
        let reason = if matches!(problem, tungstenite::Error::Capacity(_)) {
            Some(Malformed::Oversized)
        } else if matches!(problem, tungstenite::Error::Utf8(_)) {
            Some(Malformed::Binary)
        } else {
            None
        };
        if let Some(reason) = reason {
            let detail = format!("{problem}; the connection had to be given up with it");
            self.wire.intake.push(self.number, Item::Malformed { reason, detail, raw: Vec::new(), trade: None });
        }
        ("socket_error", Some(problem.into()))
    }

    fn on_data(&mut self, monotonic: Duration) {
        let (first, _) = self.flowed.unwrap_or((monotonic, monotonic));
        self.flowed = Some((first, monotonic));
    }

    fn on_tick(&mut self) {
        let moment = self.wire.clock.moment();
        self.machine.on_timer(moment, &mut self.events);
        if !self.settled && moment.monotonic.saturating_sub(self.opened) >= self.timing.acknowledge_timeout {
            warn!(
                provider = self.wire.provider.id,
                connection = self.number,
                instruments = ?self.pending,
                "not acknowledged by the venue; going on without, asking again"
            );
            self.settle();
        }
    }

    fn on_order(&mut self, order: Order) {
        let moment = self.wire.clock.moment();
        match order {
            Order::Subscribe(instruments) => self.machine.subscribe(&instruments, moment, &mut self.events),
            Order::Unsubscribe(instruments) => {
                self.pending.retain(|instrument| !instruments.contains(instrument));
                self.machine.unsubscribe(&instruments, moment, &mut self.events);
                self.settle_if_complete();
            }
            Order::FinishAfter(evidence) => self.finish = Some((evidence, moment.monotonic + FINISH_WITHIN)),
        }
    }

    /// Passes events on; `raw` is the frame they came from. Something other than `None` ends the connection.
    async fn handle_events(&mut self, raw: &[u8]) -> Option<Ended> {
        let mut events = std::mem::take(&mut self.events);
        let mut ended = None;
        for event in events.drain(..) {
            match event {
                Event::Send { text } => {
                    let sending = self.socket.send(Message::text(text));
                    match tokio::time::timeout(self.wire.config.connect_timeout, sending).await {
                        Ok(Ok(())) => {}
                        Ok(Err(problem)) => ended = Some(("socket_error", Some(problem.into()))),
                        Err(_) => ended = Some(("no_reply", Some(anyhow!("the venue does not read")))),
                    }
                }
                Event::Malformed { reason, detail, trade } => {
                    let raw = raw[..raw.len().min(RAW_MAX)].to_vec();
                    self.wire.intake.push(self.number, Item::Malformed { reason, detail, raw, trade });
                }
                Event::Renew { reason } => {
                    info!(provider = self.wire.provider.id, connection = self.number, reason, "renewing");
                    self.tell(Notice::Renew(self.number));
                }
                Event::Reconnect { reason } => ended = Some((reason, None)),
                Event::Refused { instrument, reason } => {
                    let instrument = instrument.as_ref().map(Instrument::as_str);
                    warn!(provider = self.wire.provider.id, connection = self.number, instrument, reason, "refused by the venue");
                }
                Event::Subscribed { instrument } => {
                    self.pending.remove(&instrument);
                    self.wire.intake.push(self.number, Item::Event(Event::Subscribed { instrument }));
                    self.settle_if_complete();
                }
                Event::Evidence { through } => {
                    self.wire.intake.push(self.number, Item::Event(Event::Evidence { through }));
                    if self.finish.is_some_and(|(until, _)| through >= until) {
                        ended = Some(("renewed", None));
                    }
                }
                Event::Ignored => {}
                event @ (Event::Trade(_)
                | Event::Quote(_)
                | Event::Unsubscribed { .. }
                | Event::Missing { .. }
                | Event::Halt { .. }
                | Event::Silent { .. }) => self.wire.intake.push(self.number, Item::Event(event)),
            }
        }
        self.events = events;
        if let Some(("renewed", _)) = ended {
            return Some(self.close("renewed").await);
        }
        ended
    }

    fn settle_if_complete(&mut self) {
        if !self.settled && self.pending.is_empty() {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.settled = true;
        let at = self.wire.clock.known();
        self.wire.intake.push(self.number, Item::Settled { at });
        self.tell(Notice::Settled(self.number, at));
    }

    fn tell(&self, notice: Notice) {
        if self.notices.send(notice).is_err() {
            debug!(connection = self.number, "told after the keeper ended");
        }
    }

    async fn close(&mut self, reason: &'static str) -> Ended {
        let closing = self.socket.close(None);
        if !matches!(tokio::time::timeout(Duration::from_secs(1), closing).await, Ok(Ok(()))) {
            debug!(connection = self.number, "closed without a goodbye");
        }
        (reason, None)
    }
}
