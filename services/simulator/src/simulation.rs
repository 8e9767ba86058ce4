//! What the wire, the player and the admin port share. Next: `player.rs`.

use crate::bitstamp;
use crate::clock::{Clock, Speed, micros};
use crate::config::Config;
use crate::faults::{Faults, Refusals};
use crate::hub::Hub;
use crate::metrics::SimulatorMetrics;
use crate::place;
use crate::series::Sources;
use crate::tape;
use crate::truth::Truth;
use crate::{binance, kis, kiwoom, market::Market, upbit};
use anyhow::bail;
use marketflow_runtime::Metrics;
use serde::Serialize;
use std::io::Write;
use std::sync::Arc;
use tokio::sync::Notify;

const MINUTE_US: i64 = 60_000_000;

/// One run of the simulator.
#[derive(Debug)]
pub struct Simulation {
    /// As configured.
    pub config: Config,
    /// Markets and clients.
    pub hub: Hub,
    /// Virtual time.
    pub clock: Clock,
    /// Faults to come.
    pub faults: Faults,
    /// Faults of REST and of the port that are in force.
    pub refusals: Refusals,
    /// What happened.
    pub truth: Truth,
    /// Counters.
    pub metrics: SimulatorMetrics,
    /// Told when the admin port changes something.
    pub control: Notify,
    /// Bitstamp's request ledger.
    pub bitstamp_ledger: bitstamp::rest::Ledger,
    /// Binance's request and connection ledgers.
    pub binance_ledger: binance::rest::Ledger,
    /// Upbit's request and connection ledgers.
    pub upbit_ledger: upbit::rest::Ledger,
    /// KIS's customers: their passes and sessions.
    pub kis_ledger: kis::rest::Ledger,
    /// Kiwoom's customers: their tokens and how often they ask.
    pub kiwoom_ledger: kiwoom::rest::Ledger,
    /// Sources of monthly series.
    pub series: Sources,
}

/// What `GET /status` answers.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Virtual now, UTC microseconds.
    pub now_us: i64,
    /// Whether the clock moves.
    pub running: bool,
    /// Whether the tape was started.
    pub started: bool,
    /// Whether the tape and its tail are over.
    pub finished: bool,
    /// Virtual seconds per second, or `max`.
    pub speed: String,
    /// Trades that happened, of all.
    pub progress: f64,
    /// Trades on the tapes.
    pub trades: usize,
    /// Trades that happened.
    pub trades_played: usize,
    /// Data frames queued to clients.
    pub frames_sent: u64,
    /// Markets played.
    pub markets: usize,
    /// WebSocket connections.
    pub clients: usize,
    /// Subscriptions to data channels.
    pub subscriptions: usize,
    /// KIS: quotation calls that were let through.
    pub kis_calls: u64,
    /// KIS: quotation calls above a limit.
    pub kis_excess: u64,
    /// KIS: calls for the exchange's days; the broker asks for one a day.
    pub kis_days_asked: u64,
    /// KIS: registrations beyond what a key may hold.
    pub kis_registrations_excess: u64,
    /// Kiwoom: calls that were let through.
    pub kiwoom_calls: u64,
    /// Kiwoom: calls and registrations above a limit.
    pub kiwoom_excess: u64,
    /// Faults that struck.
    pub faults_struck: usize,
}

impl Simulation {
    /// Loads the tapes and sets the clock before their first trade.
    ///
    /// # Errors
    /// What in the configuration or the tapes cannot be, in words.
    pub fn new(config: Config, metrics: &Metrics) -> anyhow::Result<Arc<Simulation>> {
        config.validate()?;
        let markets = tape::load(&config)?;
        for instrument in &config.start.instruments {
            if !markets.iter().any(|market| market.instrument == *instrument) {
                bail!("start.instruments names {instrument}, which no tape plays");
            }
        }
        let first_us = markets.iter().filter_map(|market| Some(market.trades().first()?.time_us)).min().unwrap_or(0);
        let start_us = first_us.div_euclid(MINUTE_US) * MINUTE_US - micros(config.clock.lead_in);
        let start_us = place::kept(&config).unwrap_or(start_us);
        let faults = Faults::new(config.seed, first_us);
        for fault in &config.faults {
            faults.add(fault.clone(), &markets)?;
        }
        let speed: Speed = config.clock.speed.parse()?;
        Ok(Arc::new(Simulation {
            hub: Hub::new(markets, &config.start.instruments, config.start.subscriptions),
            clock: Clock::new(start_us, speed),
            faults,
            refusals: Refusals::default(),
            truth: Truth::default(),
            metrics: SimulatorMetrics::new(metrics),
            control: Notify::new(),
            bitstamp_ledger: bitstamp::rest::Ledger::default(),
            binance_ledger: binance::rest::Ledger::default(),
            upbit_ledger: upbit::rest::Ledger::default(),
            kis_ledger: kis::rest::Ledger::default(),
            kiwoom_ledger: kiwoom::rest::Ledger::default(),
            series: Sources::new(&config.series, config.seed)?,
            config,
        }))
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        let trades: usize = self.hub.markets.iter().map(Market::count).sum();
        let trades_played: usize = self.hub.markets.iter().map(Market::released).sum();
        let reading = self.clock.reading();
        Status {
            now_us: reading.now_us,
            running: reading.running,
            started: self.clock.started(),
            finished: reading.finished,
            speed: match self.clock.speed() {
                Speed::Times(times) => times.to_string(),
                Speed::Max => "max".into(),
            },
            progress: trades_played as f64 / trades.max(1) as f64,
            trades,
            trades_played,
            frames_sent: self.metrics.frames_sent(),
            markets: self.hub.markets.len(),
            clients: self.hub.connections().len(),
            subscriptions: self.hub.subscriptions(),
            kis_calls: self.kis_ledger.calls().0,
            kis_excess: self.kis_ledger.calls().1,
            kis_days_asked: self.kis_ledger.days(),
            kis_registrations_excess: self.kis_ledger.excess(),
            kiwoom_calls: self.kiwoom_ledger.calls(),
            kiwoom_excess: self.kiwoom_ledger.excess(),
            faults_struck: self.truth.faults().len(),
        }
    }

    /// Writes the truth as it stands.
    ///
    /// # Errors
    /// Whatever the writer reports.
    pub fn write_truth_to(&self, out: impl Write) -> anyhow::Result<()> {
        self.truth.write(self.config.seed, &self.tapes(), &self.hub.markets, out)
    }

    /// Writes the truth file, when one is configured.
    ///
    /// # Errors
    /// The file's name and what went wrong with it.
    pub fn write_truth(&self) -> anyhow::Result<()> {
        let path = &self.config.truth.path;
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        self.truth.write_file(self.config.seed, &self.tapes(), &self.hub.markets, path)
    }

    fn tapes(&self) -> serde_json::Value {
        serde_json::json!({"tapes": self.config.tapes, "range": self.config.range})
    }
}
