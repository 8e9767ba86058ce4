//! The player: takes the trades of all markets in the order of their times, applies the faults, and sends.
//!
//! One task does all of it, so what is sent, and in which order, depends on the tape, the seed and who is subscribed, not on scheduling.
//! Next: `bitstamp/socket.rs`, `binance/socket.rs`, `upbit/socket.rs`, which spell the frames.

use crate::binance::{self, Interval};
use crate::bitstamp;
use crate::clock::{Speed, micros};
use crate::connection::{Close, Connection};
use crate::decimal::Decimal;
use crate::faults::{FaultKind, FaultSpec, Strike};
use crate::hub::Channel;
use crate::kis;
use crate::kiwoom;
use crate::market::{Fate, Market, Origin, Trade, Venue};
use crate::place;
use crate::seed;
use crate::simulation::Simulation;
use crate::upbit;
use marketflow_runtime::Stop;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Wall time between two looks at the clock.
const TICK: Duration = Duration::from_millis(2);
/// Longest wait for a notification that may have been missed.
const WAKE_UP: Duration = Duration::from_millis(50);
/// Wall time between two notes of the place.
const KEEP_PLACE_EVERY: Duration = Duration::from_millis(50);
/// Events played between two looks at the stop request.
const BATCH: usize = 256;
/// Warning time of a close that a fault announces.
const NOTICE: Duration = Duration::from_secs(3);
/// How long a half-open connection stays so, unless the fault says otherwise.
const HALF_OPEN: Duration = Duration::from_secs(600);
/// Size of an oversized frame, unless the fault says otherwise.
const OVERSIZED_BYTES: usize = 2 * 1024 * 1024;

/// Lets the market's next trade happen.
fn release(market: &Market, fate: Fate) -> (usize, Trade) {
    let at = market.released();
    let (trade, previous) = {
        let mut trades = market.trades_mut();
        trades[at].fate = fate;
        (trades[at], at.checked_sub(1).map(|before| trades[before]))
    };
    if market.venue == Venue::Binance && !previous.is_some_and(|previous| previous.aggregates_with(&trade)) {
        market.aggregates.write().unwrap_or_else(PoisonError::into_inner).push(at);
    }
    market.release();
    (at, trade)
}

/// Plays the tapes.
pub struct Player {
    simulation: Arc<Simulation>,
    /// The next trade of each market.
    next: BinaryHeap<Reverse<(i64, usize)>>,
    /// Late trades by the time they are due.
    delayed: BinaryHeap<Reverse<(i64, usize, usize)>>,
    /// Halts and interruptions to tell: when, of which market, which of its day.
    statuses: BinaryHeap<Reverse<(i64, usize, usize)>>,
    /// Candles that somebody watches: by close time, market, interval; with the time last sent.
    candles: BTreeMap<(i64, usize, Interval), i64>,
    /// Per market: silent until; trades still to be missed; a trade waiting to go out after the next one.
    silent_until: Vec<i64>,
    misses: Vec<u64>,
    overtaken: Vec<Option<usize>>,
    /// Per market: a trade waiting to share a frame with the next one.
    held: Vec<Option<usize>>,
    /// Connections with too much queued.
    crowded: Vec<Arc<Connection>>,
    /// Since when clients are missing at `max`, and whether waiting for them was given up.
    lost_since_us: Option<i64>,
    gave_up: bool,
    was_complete: bool,
    last_event_us: i64,
    swept_us: i64,
    at_full_speed: bool,
    payload: Vec<u8>,
    place_kept_at: Instant,
}

impl Player {
    /// A player at the beginning of the tapes.
    pub fn new(simulation: Arc<Simulation>) -> Player {
        let markets = &simulation.hub.markets;
        // trades before the clock have happened: none on a fresh run, those of an earlier process otherwise
        let now_us = simulation.clock.now_us();
        for market in markets {
            while market.trades().get(market.released()).is_some_and(|trade| trade.time_us <= now_us) {
                release(market, Fate::RestOnly);
            }
        }
        let next: BinaryHeap<_> = markets
            .iter()
            .enumerate()
            .filter_map(|(index, market)| Some(Reverse((market.trades().get(market.released())?.time_us, index))))
            .collect();
        let statuses = markets.iter().enumerate().flat_map(|(index, market)| {
            let all = market.day.statuses.iter().enumerate();
            all.filter(move |(_, status)| status.time_us > now_us).map(move |(at, status)| Reverse((status.time_us, index, at)))
        });
        let last_event_us = markets.iter().filter_map(|market| Some(market.trades().last()?.time_us)).max().unwrap_or(0);
        Player {
            silent_until: vec![i64::MIN; markets.len()],
            misses: vec![0; markets.len()],
            overtaken: vec![None; markets.len()],
            held: vec![None; markets.len()],
            next,
            delayed: BinaryHeap::new(),
            statuses: statuses.collect(),
            candles: BTreeMap::new(),
            crowded: Vec::new(),
            lost_since_us: None,
            gave_up: false,
            was_complete: false,
            last_event_us,
            swept_us: i64::MIN,
            at_full_speed: false,
            payload: Vec::with_capacity(1024),
            place_kept_at: Instant::now(),
            simulation,
        }
    }

    /// Plays until the stop is requested.
    ///
    /// # Errors
    /// The truth file cannot be written.
    pub async fn run(mut self, stop: Stop) -> anyhow::Result<()> {
        while !stop.requested() {
            self.keep_place()?;
            if !self.simulation.clock.running() {
                self.wait_for_the_start(&stop).await;
                continue;
            }
            match self.simulation.clock.target_us() {
                Some(target_us) => {
                    self.play_until(target_us, &stop).await;
                    self.simulation.clock.publish(target_us);
                    self.finish_at(target_us)?;
                    tokio::select! {
                        () = tokio::time::sleep(TICK) => {}
                        () = stop.wait() => {}
                    }
                }
                None => self.play_as_fast_as_read(&stop).await,
            }
        }
        Ok(())
    }

    /// Notes where the run stands, a few times a second.
    fn keep_place(&mut self) -> anyhow::Result<()> {
        let config = &self.simulation.config;
        let due = !config.place.path.as_os_str().is_empty() && self.place_kept_at.elapsed() >= KEEP_PLACE_EVERY;
        if due && self.simulation.clock.started() {
            self.place_kept_at = Instant::now();
            place::keep(config, self.simulation.clock.now_us())?;
        }
        Ok(())
    }

    async fn wait_for_the_start(&mut self, stop: &Stop) {
        let simulation = &self.simulation;
        if !simulation.clock.started() && simulation.config.start.automatic && simulation.hub.complete() {
            info!(virtual_now_us = simulation.clock.now_us(), "the clients are here: the tape starts");
            simulation.clock.start();
            return;
        }
        tokio::select! {
            () = simulation.hub.changed.notified() => {}
            () = simulation.control.notified() => {}
            () = tokio::time::sleep(WAKE_UP) => {}
            () = stop.wait() => {}
        }
    }

    async fn play_until(&mut self, target_us: i64, stop: &Stop) {
        let mut played = 0;
        while let Some(next_us) = self.next_us().filter(|next_us| *next_us <= target_us) {
            self.play_next(next_us).await;
            played += 1;
            if played % BATCH == 0 {
                tokio::task::yield_now().await;
                if stop.requested() || !self.simulation.clock.running() {
                    return;
                }
            }
        }
        self.end_old_connections(target_us);
    }

    async fn play_as_fast_as_read(&mut self, stop: &Stop) {
        self.at_full_speed = true;
        for _ in 0..BATCH {
            let Some(next_us) = self.next_us() else {
                self.slow_down_for_the_tail().await;
                return;
            };
            self.hold_for_lost_clients(next_us, stop).await;
            if stop.requested() || self.simulation.clock.speed() != Speed::Max || !self.simulation.clock.running() {
                return;
            }
            self.play_next(next_us).await;
            self.end_old_connections(next_us);
        }
        tokio::task::yield_now().await;
    }

    /// At full speed a reconnecting client would find the tape at its end; so time waits for it once the outage has passed.
    async fn hold_for_lost_clients(&mut self, next_us: i64, stop: &Stop) {
        let simulation = self.simulation.clone();
        if simulation.hub.complete() {
            (self.was_complete, self.lost_since_us, self.gave_up) = (true, None, false);
            return;
        }
        if !self.was_complete || self.gave_up {
            return;
        }
        let lost_since_us = *self.lost_since_us.get_or_insert(simulation.clock.now_us());
        if next_us <= lost_since_us.saturating_add(micros(simulation.config.clock.outage)) {
            return;
        }
        let give_up = Instant::now() + simulation.config.clock.hold_timeout;
        while !simulation.hub.complete() && !stop.requested() && simulation.clock.speed() == Speed::Max {
            if Instant::now() >= give_up {
                warn!("the lost clients did not come back: the tape goes on without them");
                self.gave_up = true;
                return;
            }
            tokio::select! {
                () = simulation.hub.changed.notified() => {}
                () = tokio::time::sleep(WAKE_UP) => {}
            }
        }
    }

    async fn slow_down_for_the_tail(&mut self) {
        let simulation = &self.simulation;
        for connection in simulation.hub.connections() {
            drain(&connection, 0, simulation.config.wire.stall_timeout).await;
        }
        simulation.clock.set_speed(Speed::Times(simulation.config.clock.tail_speed));
    }

    fn finish_at(&mut self, now_us: i64) -> anyhow::Result<()> {
        let simulation = &self.simulation;
        let end_us = self.last_event_us.saturating_add(micros(simulation.config.clock.tail));
        if now_us < end_us || self.next_us().is_some() || !simulation.clock.finish() {
            return Ok(());
        }
        if self.at_full_speed {
            simulation.clock.set_speed(Speed::Times(1.0));
        }
        info!(virtual_now_us = now_us, "the tape and its tail are over");
        simulation.write_truth()
    }

    /// The time of the next thing that happens.
    fn next_us(&self) -> Option<i64> {
        let trade = self.next.peek().map(|Reverse((time_us, _))| *time_us);
        let delayed = self.delayed.peek().map(|Reverse((due_us, _, _))| *due_us);
        let candle = self.candles.first_key_value().map(|((close_us, _, _), _)| *close_us);
        let status = self.statuses.peek().map(|Reverse((time_us, ..))| *time_us);
        let now_us = self.simulation.clock.now_us();
        let fault = self.simulation.faults.next_us().map(|fault_us| fault_us.max(now_us));
        [trade, delayed, candle, status, fault].into_iter().flatten().min()
    }

    /// Plays what happens at that time: faults first, then closing candles, then what comes late, then the next trade.
    async fn play_next(&mut self, at_us: i64) {
        let simulation = self.simulation.clone();
        let strikes = simulation.faults.due(at_us);
        if !strikes.is_empty() {
            for strike in strikes {
                self.strike(at_us, &strike, None);
            }
        } else if let Some(((close_us, market, interval), _)) =
            self.candles.first_key_value().filter(|((close_us, ..), _)| *close_us <= at_us)
        {
            let (close_us, market, interval) = (*close_us, *market, *interval);
            self.candles.remove(&(close_us, market, interval));
            self.send_candle(market, interval, close_us - 1, true, at_us);
        } else if self.delayed.peek().is_some_and(|Reverse((due_us, ..))| *due_us <= at_us) {
            if let Some(Reverse((_, market, index))) = self.delayed.pop() {
                self.deliver(market, index, Fate::Late, 0);
            }
        } else if self.statuses.peek().is_some_and(|Reverse((time_us, ..))| *time_us <= at_us) {
            if let Some(Reverse((_, market, at))) = self.statuses.pop() {
                self.send_status(market, at);
            }
        } else if let Some(Reverse((_, market))) = self.next.pop() {
            self.play_trade(market);
            if let Some(following) = simulation.hub.markets[market].trades().get(simulation.hub.markets[market].released()) {
                self.next.push(Reverse((following.time_us, market)));
            } else if let Some(waiting) = self.overtaken[market].take() {
                self.deliver(market, waiting, Fate::OutOfOrder, 0);
            }
        }
        for connection in std::mem::take(&mut self.crowded) {
            drain(&connection, simulation.config.wire.queue_bytes / 2, simulation.config.wire.stall_timeout).await;
        }
        simulation.clock.publish(at_us);
    }

    fn play_trade(&mut self, index: usize) {
        let simulation = self.simulation.clone();
        let market = &simulation.hub.markets[index];
        let (at, trade) = release(market, Fate::Pending);
        let strikes = match trade.origin {
            Origin::Tape | Origin::Auction => simulation.faults.at_trade(market, trade.id, trade.time_us),
            Origin::ZeroSize | Origin::TooPrecise => Vec::new(),
        };
        let waiting = self.overtaken[index].take();
        let mut copies = 0;
        let mut fate = Fate::Socket;
        for (_, spec) in &strikes {
            match spec.kind {
                FaultKind::Miss => self.misses[index] += spec.count(),
                FaultKind::Duplicate => copies += spec.count(),
                FaultKind::Late => fate = Fate::Late,
                FaultKind::OutOfOrder if waiting.is_none() && fate == Fate::Socket => fate = Fate::OutOfOrder,
                FaultKind::Silence => self.silence(trade.time_us, spec),
                FaultKind::OutOfOrder
                | FaultKind::Disconnect
                | FaultKind::HalfOpen
                | FaultKind::Malformed
                | FaultKind::Oversized
                | FaultKind::HttpError
                | FaultKind::RequestReconnect
                | FaultKind::ServerShutdown
                | FaultKind::LifetimeCut
                | FaultKind::RefuseRegion
                | FaultKind::RefuseConnect
                | FaultKind::ZeroSize
                | FaultKind::TooPrecise => {}
            }
        }
        if self.misses[index] > 0 {
            self.misses[index] -= 1;
            fate = Fate::Missed;
        } else if self.silent_until[index] > trade.time_us {
            fate = Fate::Missed;
        }
        match fate {
            Fate::Late => {
                let delay =
                    strikes.iter().filter(|(_, spec)| spec.kind == FaultKind::Late).filter_map(|(_, spec)| spec.delay).max();
                let due_us = trade.time_us.saturating_add(micros(delay.unwrap_or_default()));
                self.delayed.push(Reverse((due_us, index, at)));
                self.last_event_us = self.last_event_us.max(due_us);
                simulation.truth.late(index, trade.id, due_us - trade.time_us);
                market.trades_mut()[at].fate = Fate::Late;
            }
            Fate::OutOfOrder => {
                self.overtaken[index] = Some(at);
                market.trades_mut()[at].fate = Fate::OutOfOrder;
            }
            Fate::Missed => market.trades_mut()[at].fate = Fate::Missed,
            Fate::Socket | Fate::Pending | Fate::RestOnly => self.deliver(index, at, Fate::Socket, copies),
        }
        if let Some(waiting) = waiting {
            self.deliver(index, waiting, Fate::OutOfOrder, 0);
        }
        if let Some(held) = self.held[index].filter(|held| *held != at) {
            // What it waited for did not come.
            self.held[index] = None;
            self.put_on_sockets(index, &[held], Fate::Socket, 0);
        }
        simulation.metrics.trade(market.trades()[at].fate);
        self.send_derived(index, at);
        for strike in &strikes {
            self.strike(trade.time_us, strike, Some((index, at)));
        }
    }

    /// Delivers a trade, or keeps it back to share a frame with the next one.
    fn deliver(&mut self, index: usize, at: usize, fate: Fate, copies: u64) {
        let simulation = self.simulation.clone();
        let market = &simulation.hub.markets[index];
        match self.held[index].take() {
            Some(held) if fate == Fate::Socket => self.put_on_sockets(index, &[held, at], fate, copies),
            Some(held) => {
                self.put_on_sockets(index, &[held], Fate::Socket, 0);
                self.put_on_sockets(index, &[at], fate, copies);
            }
            None if fate == Fate::Socket && copies == 0 && kis::shares_frame(&simulation.config, market, at) => {
                self.held[index] = Some(at);
                market.trades_mut()[at].fate = Fate::Socket;
            }
            None => self.put_on_sockets(index, &[at], fate, copies),
        }
    }

    /// Puts trades (one, or two that share a frame) on every socket that listens for them, with so many copies, and notes what became of them.
    fn put_on_sockets(&mut self, index: usize, all: &[usize], fate: Fate, copies: u64) {
        let simulation = self.simulation.clone();
        let market = &simulation.hub.markets[index];
        let Some(at) = all.last().copied() else { return };
        let together: Vec<Trade> = all.iter().map(|at| market.trades()[*at]).collect();
        let trade = market.trades()[at];
        let mut frames = 0_u64;
        for _ in 0..=copies {
            for subscriber in market.subscribers.read().unwrap_or_else(PoisonError::into_inner).iter() {
                self.payload.clear();
                let connection = &subscriber.connection;
                match subscriber.channel {
                    Channel::Trades if connection.venue == Venue::Kiwoom => {
                        kiwoom::socket::write_trades(market, &together, &mut self.payload);
                    }
                    Channel::Trades if market.venue == Venue::Kis => {
                        kis::socket::write_trades(market, &together, &mut self.payload);
                    }
                    Channel::Trades => write_trade(&simulation, market, &trade, connection, &mut self.payload),
                    Channel::AggTrade => {
                        if !binance::socket::write_aggregate(market, at, connection, &mut self.payload) {
                            continue; // its group goes on
                        }
                    }
                    Channel::Book | Channel::BookTicker | Channel::Kline(_) | Channel::Status => continue,
                }
                if let Some(queued) = connection.send_message(&self.payload) {
                    frames += 1;
                    connection.frames.fetch_add(1, Ordering::Relaxed);
                    if queued > simulation.config.wire.queue_bytes {
                        self.crowded.push(connection.clone());
                    }
                }
            }
        }
        simulation.metrics.frames(market.venue, frames);
        let mut trades = market.trades_mut();
        let frames_of_one = frames / (copies + 1);
        for at in all {
            let trade = &mut trades[*at];
            trade.fate = if frames == 0 { Fate::RestOnly } else { fate };
            trade.frames = trade.frames.saturating_add(u8::try_from(frames).unwrap_or(u8::MAX));
            trade.copies = trade.copies.saturating_add(u8::try_from(frames - frames_of_one).unwrap_or(u8::MAX));
        }
    }

    /// Sends what is derived from a trade: book tops and candles.
    fn send_derived(&mut self, index: usize, at: usize) {
        let simulation = self.simulation.clone();
        let market = &simulation.hub.markets[index];
        let trade = market.trades()[at];
        let mut watched = Vec::new();
        for subscriber in market.subscribers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            self.payload.clear();
            let connection = &subscriber.connection;
            match subscriber.channel {
                Channel::Book => {
                    if !write_book(&simulation, market, &trade, connection, &mut self.payload) {
                        continue; // sampled: not every change is sent
                    }
                }
                Channel::BookTicker => {
                    binance::socket::write_book_ticker(market, &trade, simulation.config.seed, connection, &mut self.payload)
                }
                Channel::Kline(interval) => {
                    watched.push(interval);
                    continue;
                }
                Channel::Trades | Channel::AggTrade | Channel::Status => continue,
            }
            if let Some(queued) = connection.send_message(&self.payload) {
                simulation.metrics.frames(market.venue, 1);
                connection.frames.fetch_add(1, Ordering::Relaxed);
                if queued > simulation.config.wire.queue_bytes {
                    self.crowded.push(connection.clone());
                }
            }
        }
        match market.venue {
            Venue::Bitstamp => market.note_book(&trade, simulation.config.bitstamp.book_every),
            Venue::Upbit => market.note_book(&trade, simulation.config.upbit.book_every),
            Venue::Kis | Venue::Kiwoom => market.note_book(&trade, simulation.config.kis.book_every),
            Venue::Binance => {}
        }
        for interval in watched {
            let key = (interval.close_us(trade.time_us), index, interval);
            let last_us = self.candles.get(&key).copied();
            if last_us.is_none_or(|last_us| trade.time_us - last_us >= interval.cadence_us()) {
                self.candles.insert(key, trade.time_us);
                self.send_candle(index, interval, trade.time_us, false, trade.time_us);
            }
        }
    }

    fn send_status(&mut self, index: usize, at: usize) {
        let market = &self.simulation.hub.markets[index];
        let Some(status) = market.day.statuses.get(at) else { return };
        for subscriber in market.subscribers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if subscriber.channel != Channel::Status {
                continue;
            }
            self.payload.clear();
            if subscriber.connection.venue == Venue::Kiwoom {
                if !kiwoom::socket::write_status(market, *status, &mut self.payload) {
                    continue;
                }
            } else {
                kis::socket::write_status(market, *status, &mut self.payload);
            }
            if subscriber.connection.send_message(&self.payload).is_some() {
                self.simulation.metrics.frames(market.venue, 1);
                subscriber.connection.frames.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn send_candle(&mut self, index: usize, interval: Interval, within_us: i64, closed: bool, now_us: i64) {
        let market = &self.simulation.hub.markets[index];
        for subscriber in market.subscribers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if subscriber.channel != Channel::Kline(interval) {
                continue;
            }
            self.payload.clear();
            let event_us = if closed { now_us + 200_000 } else { now_us };
            binance::socket::write_candle(
                market,
                interval,
                within_us,
                closed,
                event_us,
                &subscriber.connection,
                &mut self.payload,
            );
            if subscriber.connection.send_message(&self.payload).is_some() {
                self.simulation.metrics.frames(market.venue, 1);
                subscriber.connection.frames.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn silence(&mut self, now_us: i64, spec: &FaultSpec) {
        let until_us = now_us.saturating_add(micros(spec.duration.unwrap_or_default()));
        for (index, market) in self.simulation.hub.markets.iter().enumerate() {
            if spec.concerns(market) {
                self.silent_until[index] = self.silent_until[index].max(until_us);
            }
        }
    }

    /// Carries out what a fault does beside the trade itself, and records it.
    fn strike(&mut self, now_us: i64, strike: &Strike, trade: Option<(usize, usize)>) {
        let simulation = self.simulation.clone();
        let spec = &strike.1;
        let effects = match spec.kind {
            FaultKind::Miss | FaultKind::Duplicate | FaultKind::OutOfOrder | FaultKind::Late => spec.count(),
            FaultKind::Silence => {
                self.silence(now_us, spec);
                1
            }
            FaultKind::Malformed | FaultKind::Oversized => trade.map_or(0, |(index, at)| self.send_broken(index, at, strike)),
            FaultKind::ZeroSize | FaultKind::TooPrecise => trade.map_or(0, |(index, at)| self.insert_odd_trade(index, at, spec)),
            FaultKind::HttpError => {
                simulation.refusals.fail_answers(spec.clone());
                spec.count()
            }
            FaultKind::RefuseRegion => {
                simulation.refusals.refuse_region(spec.venue, spec.duration.unwrap_or_default());
                1
            }
            FaultKind::RefuseConnect => {
                simulation.refusals.refuse_connect(spec.duration.unwrap_or_default());
                1
            }
            FaultKind::Disconnect
            | FaultKind::HalfOpen
            | FaultKind::RequestReconnect
            | FaultKind::ServerShutdown
            | FaultKind::LifetimeCut => self.strike_connections(spec, strike.0),
        };
        info!(fault = strike.0, kind = ?spec.kind, virtual_now_us = now_us, effects, "fault");
        simulation.metrics.fault(spec.kind);
        let trade =
            trade.map(|(index, at)| (&simulation.hub.markets[index], at)).map(|(market, at)| (market, market.trades()[at].id));
        simulation.truth.struck(now_us, strike, trade, effects);
    }

    fn strike_connections(&self, spec: &FaultSpec, number: usize) -> u64 {
        let hub = &self.simulation.hub;
        let listens = |connection: &Connection| {
            spec.instrument.is_none()
                || hub.markets.iter().filter(|market| spec.concerns(market)).any(|market| {
                    market
                        .subscribers
                        .read()
                        .unwrap_or_else(PoisonError::into_inner)
                        .iter()
                        .any(|s| s.connection.id == connection.id)
                })
        };
        let mut struck = 0;
        for connection in hub.connections() {
            let other_venue = spec.venue.is_some_and(|venue| venue != connection.venue)
                || spec.kind == FaultKind::RequestReconnect && connection.venue != Venue::Bitstamp
                || spec.kind == FaultKind::ServerShutdown && connection.venue != Venue::Binance;
            if other_venue || !listens(&connection) {
                continue;
            }
            struck += 1;
            match spec.kind {
                FaultKind::HalfOpen => connection.mute(spec.duration.unwrap_or(HALF_OPEN)),
                FaultKind::RequestReconnect | FaultKind::ServerShutdown => {
                    match connection.venue {
                        Venue::Bitstamp => bitstamp::socket::send_request_reconnect(&connection, number),
                        Venue::Binance => binance::socket::send_shutdown(&connection, self.simulation.clock.now_us()),
                        Venue::Upbit | Venue::Kis | Venue::Kiwoom => {} // give no notice
                    }
                    close_later(connection, spec.duration.unwrap_or(NOTICE));
                    continue;
                }
                FaultKind::LifetimeCut => connection.close(Close::Frame(1001, "")),
                FaultKind::Disconnect
                | FaultKind::Silence
                | FaultKind::Miss
                | FaultKind::Duplicate
                | FaultKind::OutOfOrder
                | FaultKind::Late
                | FaultKind::Malformed
                | FaultKind::Oversized
                | FaultKind::HttpError
                | FaultKind::RefuseRegion
                | FaultKind::RefuseConnect
                | FaultKind::ZeroSize
                | FaultKind::TooPrecise => connection.close(spec.code.map_or(Close::Cut, |code| Close::Frame(code, ""))),
            }
            // From here on its trades are not sent to it, whenever its task notices.
            hub.unsubscribe_all(&connection);
        }
        struck
    }

    fn send_broken(&mut self, index: usize, at: usize, strike: &Strike) -> u64 {
        let simulation = self.simulation.clone();
        let market = &simulation.hub.markets[index];
        let trade = market.trades()[at];
        let mut sent = 0;
        for number in 0..strike.1.count() {
            for subscriber in market.subscribers.read().unwrap_or_else(PoisonError::into_inner).iter() {
                if !subscriber.channel.carries_trades() {
                    continue;
                }
                self.payload.clear();
                write_trade(&simulation, market, &trade, &subscriber.connection, &mut self.payload);
                if strike.1.kind == FaultKind::Oversized {
                    make_oversized(strike.1.bytes.unwrap_or(OVERSIZED_BYTES), &mut self.payload);
                } else {
                    make_malformed(
                        market,
                        subscriber.connection.venue,
                        simulation.config.seed,
                        &[strike.0 as u64, trade.id.unsigned_abs(), number],
                        &mut self.payload,
                    );
                }
                if let Some(queued) = subscriber.connection.send_message(&self.payload) {
                    sent += 1;
                    if queued > simulation.config.wire.queue_bytes {
                        self.crowded.push(subscriber.connection.clone());
                    }
                }
            }
        }
        sent
    }

    fn insert_odd_trade(&self, index: usize, at: usize, spec: &FaultSpec) -> u64 {
        let market = &self.simulation.hub.markets[index];
        let trade = market.trades()[at];
        let mut odd = if spec.kind == FaultKind::ZeroSize {
            Trade::new(trade.time_us, trade.id, trade.price(), Decimal::ZERO, trade.taker_sells)
        } else {
            // Ten decimals, of which the last is not zero.
            let price = i64::try_from(trade.price().at_scale(10)).unwrap_or(i64::MAX - 1) | 1;
            Trade::new(trade.time_us, trade.id, Decimal::new(price, 10), trade.size(), trade.taker_sells)
        };
        odd.origin = if spec.kind == FaultKind::ZeroSize { Origin::ZeroSize } else { Origin::TooPrecise };
        market.insert(at + 1, odd);
        1
    }

    /// Ends connections that have reached their planned life, with the notice their venue gives.
    fn end_old_connections(&mut self, now_us: i64) {
        if now_us < self.swept_us.saturating_add(1_000_000) {
            return;
        }
        self.swept_us = now_us;
        let (config, hub) = (&self.simulation.config, &self.simulation.hub);
        for connection in hub.connections() {
            let age_us = now_us - connection.opened_us;
            let lifetime_us = match connection.venue {
                Venue::Bitstamp => micros(config.bitstamp.connection_lifetime),
                Venue::Binance => micros(config.binance.connection_lifetime),
                Venue::Upbit | Venue::Kis | Venue::Kiwoom => i64::MAX, // have none
            };
            let notice_us = micros(config.binance.shutdown_notice);
            if connection.venue == Venue::Binance
                && age_us >= lifetime_us - notice_us
                && !connection.warned.swap(true, Ordering::AcqRel)
            {
                binance::socket::send_shutdown(&connection, now_us);
            }
            if age_us >= lifetime_us {
                info!(connection = connection.id, "the connection has reached its planned life");
                connection.close(Close::Frame(1001, ""));
                hub.unsubscribe_all(&connection);
            }
        }
    }
}

/// Spells a trade as its venue does.
fn write_trade(simulation: &Simulation, market: &Market, trade: &Trade, connection: &Connection, out: &mut Vec<u8>) {
    match connection.venue {
        Venue::Bitstamp => bitstamp::socket::write_trade(market, trade, simulation.config.seed, out),
        Venue::Binance => binance::socket::write_trade(market, trade, connection, out),
        Venue::Upbit => upbit::socket::write_trade(simulation, market, trade, connection, "REALTIME", out),
        Venue::Kis => kis::socket::write_trades(market, std::slice::from_ref(trade), out),
        Venue::Kiwoom => kiwoom::socket::write_trades(market, std::slice::from_ref(trade), out),
    }
}

/// Spells the book around a trade as its venue does; `false` when none is due.
fn write_book(simulation: &Simulation, market: &Market, trade: &Trade, connection: &Connection, out: &mut Vec<u8>) -> bool {
    match connection.venue {
        Venue::Bitstamp => bitstamp::socket::write_book(market, trade, &simulation.config.bitstamp, simulation.config.seed, out),
        Venue::Binance => false, // has other channels for it
        Venue::Upbit => {
            let due = market.book_due(trade, simulation.config.upbit.book_every).is_some();
            if due {
                upbit::socket::write_book(simulation, market, trade, connection, "REALTIME", out);
            }
            due
        }
        Venue::Kis | Venue::Kiwoom => {
            let due = market.book_due(trade, simulation.config.kis.book_every).is_some();
            if due && connection.venue == Venue::Kiwoom {
                kiwoom::socket::write_book(market, trade, simulation.config.seed, out);
            } else if due {
                kis::socket::write_book(market, trade, simulation.config.seed, out);
            }
            due
        }
    }
}

async fn drain(connection: &Connection, limit: usize, stall_timeout: Duration) {
    if tokio::time::timeout(stall_timeout, connection.drained_to(limit)).await.is_err() {
        warn!(connection = connection.id, "the client does not read: cut off");
        connection.close(Close::Abrupt);
    }
}

fn close_later(connection: Arc<Connection>, notice: Duration) {
    tokio::spawn(async move {
        tokio::time::sleep(notice).await;
        connection.close(Close::Frame(1001, ""));
    });
}

/// Breaks a good trade frame in one of five ways.
fn make_malformed(market: &Market, venue: Venue, seed: u64, place: &[u64], payload: &mut Vec<u8>) {
    let (own_code, own_code_and_nines) = (format!("|{}^", market.upper), format!("|{}^99", market.upper));
    let (wrong_types, price, time) = match venue {
        Venue::Bitstamp => (
            format!(r#"{{"data":{{"id":true}},"channel":"live_trades_{}","event":"trade"}}"#, market.lower),
            ("\"price_str\":\"", "\"price_str\":\"NaN"),
            ("\"microtimestamp\":\"", "\"microtimestamp\":\"soon"),
        ),
        Venue::Binance => (r#"{"e":"trade","s":true}"#.to_owned(), ("\"p\":\"", "\"p\":\"NaN"), ("\"T\":", "\"T\":null,\"x\":")),
        Venue::Upbit => (
            format!(r#"{{"type":"trade","code":"{}","sequential_id":true}}"#, market.upper),
            ("\"trade_price\":", "\"trade_price\":\"NaN\",\"x\":"),
            ("\"trade_timestamp\":", "\"trade_timestamp\":\"soon\",\"y\":"),
        ),
        // No JSON: fields that do not divide among the records, and a time out of every clock.
        Venue::Kis => (
            format!("0|H0STCNT0|001|{}^090000", market.upper),
            ("0|H0STCNT0|001|", "0|H0STCNT0|003|"),
            (own_code.as_str(), own_code_and_nines.as_str()),
        ),
        Venue::Kiwoom => (
            format!(r#"{{"data":[{{"values":true,"type":"0B","item":"{}"}}],"trnm":"REAL"}}"#, market.upper),
            ("\"10\":\"", "\"10\":\"NaN"),
            ("\"20\":\"", "\"20\":\"99"),
        ),
    };
    match seed::pick(seed, place, 5) {
        0 => payload.truncate(payload.len() / 2),
        1 => *payload = b"<html><body>upstream error</body></html>".to_vec(),
        2 => *payload = wrong_types.into_bytes(),
        3 => replace(payload, price),
        _ => replace(payload, time),
    }
}

fn replace(payload: &mut Vec<u8>, (text, by): (&str, &str)) {
    if let Some(at) = payload.windows(text.len()).position(|window| window == text.as_bytes()) {
        payload.splice(at..at + text.len(), by.bytes());
    }
}

/// Blows a frame up to a size with white space, which JSON allows.
fn make_oversized(bytes: usize, payload: &mut Vec<u8>) {
    let padding = bytes.saturating_sub(payload.len());
    payload.splice(1..1, std::iter::repeat_n(b' ', padding));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_frames_are_not_the_trade_they_were() {
        for (venue, quote, good) in [
            (
                Venue::Bitstamp,
                "EUR",
                r#"{"data":{"id":1,"price_str":"2","microtimestamp":"3"},"channel":"live_trades_btceur","event":"trade"}"#,
            ),
            (
                Venue::Upbit,
                "KRW",
                r#"{"type":"trade","code":"KRW-BTC","trade_timestamp":3,"trade_price":2.0,"trade_volume":1,"sequential_id":30000}"#,
            ),
            (Venue::Binance, "USDT", r#"{"e":"trade","E":1,"s":"BTCUSDT","t":1,"p":"2","q":"1","T":3,"m":true,"M":true}"#),
        ] {
            let market = Market::new(venue, "BTC", quote, (2, 8), Vec::new());
            for place in 0..50 {
                let mut frame = good.as_bytes().to_vec();
                make_malformed(&market, venue, 1, &[place], &mut frame);
                assert_ne!(frame, good.as_bytes());
                // of another channel it would be ignored, not malformed
                let text = String::from_utf8(frame).unwrap();
                assert!(!text.contains("channel\":\"") || text.contains("live_trades_btceur"), "{text}");
            }
        }
    }

    #[test]
    fn oversized_frames_have_the_size_asked_for() {
        let mut frame = br#"{"a":1}"#.to_vec();
        make_oversized(100, &mut frame);
        assert_eq!(frame.len(), 100);
        assert!(serde_json::from_slice::<serde_json::Value>(&frame).is_ok());
    }
}
