//! The truth: every trade that happened, how it was sent, and every fault, as NDJSON.
//!
//! One `header` line (seed, tapes, rules), one `fault` line per fault in the order they struck, one `trade` line per trade in each market's order, one `totals` line.
//! Next: `docs/simulator.md`, which lists the fields.

use crate::faults::{FaultKind, Strike};
use crate::market::{Fate, Market, Origin, Trade};
use crate::tape::MAPPING;
use anyhow::Context;
use serde::Serialize;
use serde_json::json;
use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Trades copied at a time while writing.
const CHUNK: usize = 4096;

/// One fault that struck.
#[derive(Debug, Clone, Serialize)]
pub struct FaultRecord {
    /// Virtual time, UTC microseconds.
    pub virtual_time_us: i64,
    /// The number of the fault as given.
    pub fault: usize,
    /// What.
    pub name: FaultKind,
    /// The instrument it struck, for faults at trades.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instrument: Option<String>,
    /// The trade it struck.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trade_id: Option<i64>,
    /// How many frames were sent or connections ended because of it.
    pub effects: u64,
}

/// What is remembered beside the trades themselves.
#[derive(Debug, Default)]
pub struct Truth {
    faults: Mutex<Vec<FaultRecord>>,
    late_by_us: Mutex<HashMap<(usize, i64), i64>>,
}

impl Truth {
    /// Records a fault.
    pub fn struck(&self, now_us: i64, strike: &Strike, trade: Option<(&Market, i64)>, effects: u64) {
        lock(&self.faults).push(FaultRecord {
            virtual_time_us: now_us,
            fault: strike.0,
            name: strike.1.kind,
            instrument: trade.map(|(market, _)| market.instrument.clone()),
            trade_id: trade.map(|(_, id)| id),
            effects,
        });
    }

    /// Records by how much a trade of that market came late.
    pub fn late(&self, market: usize, trade_id: i64, by_us: i64) {
        lock(&self.late_by_us).insert((market, trade_id), by_us);
    }

    /// The faults so far.
    pub fn faults(&self) -> Vec<FaultRecord> {
        lock(&self.faults).clone()
    }

    /// Writes the whole truth as it stands.
    ///
    /// # Errors
    /// Whatever the writer reports.
    pub fn write(&self, seed: u64, tapes: &serde_json::Value, markets: &[Market], mut out: impl Write) -> anyhow::Result<()> {
        let mapping: serde_json::Map<_, _> = MAPPING.iter().map(|(what, rule)| ((*what).to_owned(), json!(rule))).collect();
        write_line(&mut out, &json!({"line": "header", "seed": seed, "tapes": tapes, "mapping": mapping}))?;
        let faults = self.faults();
        for fault in &faults {
            write_line(&mut out, &FaultLine { line: "fault", fault })?;
        }
        let late_by_us = lock(&self.late_by_us).clone();
        let mut totals = Totals { faults: faults.len(), ..Totals::default() };
        for (index, market) in markets.iter().enumerate() {
            for trade in chunks(market).flatten() {
                totals.count(trade.fate, trade.copies);
                write_line(
                    &mut out,
                    &TradeLine {
                        line: "trade",
                        instrument: &market.instrument,
                        id: &trade.id.to_string(),
                        event_time_us: trade.time_us,
                        price: &trade.price().text(0),
                        size: &trade.size().text(0),
                        side: if trade.origin == Origin::Auction {
                            "unknown"
                        } else if trade.taker_sells {
                            "sell"
                        } else {
                            "buy"
                        },
                        origin: trade.origin,
                        delivery: trade.fate,
                        frames: trade.frames,
                        copies: trade.copies,
                        late_by_us: late_by_us.get(&(index, trade.id)).copied().unwrap_or(0),
                    },
                )?;
            }
        }
        totals.line = "totals";
        totals.not_played = markets.iter().map(|market| market.count() - market.released()).sum();
        write_line(&mut out, &totals)?;
        out.flush().context("cannot write the truth")
    }

    /// Writes it to a file, which appears whole or not at all.
    ///
    /// # Errors
    /// The file's name and what went wrong with it.
    pub fn write_file(&self, seed: u64, tapes: &serde_json::Value, markets: &[Market], path: &Path) -> anyhow::Result<()> {
        let partial = path.with_extension("partial");
        let attempt = || -> anyhow::Result<()> {
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                std::fs::create_dir_all(folder)?;
            }
            self.write(seed, tapes, markets, BufWriter::new(std::fs::File::create(&partial)?))?;
            Ok(std::fs::rename(&partial, path)?)
        };
        attempt().with_context(|| format!("cannot write the truth to {}", path.display()))
    }
}

/// The trades that have happened, a few thousand at a time, so that the tape need not wait for the writer.
fn chunks(market: &Market) -> impl Iterator<Item = Vec<Trade>> {
    let happened = market.released();
    (0..happened).step_by(CHUNK).map(move |from| market.trades()[from..happened.min(from + CHUNK)].to_vec())
}

#[derive(Serialize)]
struct FaultLine<'a> {
    line: &'static str,
    #[serde(flatten)]
    fault: &'a FaultRecord,
}

#[derive(Serialize)]
struct TradeLine<'a> {
    line: &'static str,
    instrument: &'a str,
    id: &'a str,
    event_time_us: i64,
    price: &'a str,
    size: &'a str,
    side: &'static str,
    origin: Origin,
    delivery: Fate,
    frames: u8,
    copies: u8,
    late_by_us: i64,
}

/// How many trades went which way.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Totals {
    line: &'static str,
    trades: usize,
    socket: usize,
    missed: usize,
    late: usize,
    out_of_order: usize,
    rest_only: usize,
    copies: usize,
    faults: usize,
    not_played: usize,
}

impl Totals {
    fn count(&mut self, fate: Fate, copies: u8) {
        self.trades += 1;
        self.copies += usize::from(copies);
        match fate {
            Fate::Pending => {}
            Fate::Socket => self.socket += 1,
            Fate::Missed => self.missed += 1,
            Fate::Late => self.late += 1,
            Fate::OutOfOrder => self.out_of_order += 1,
            Fate::RestOnly => self.rest_only += 1,
        }
    }
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, line).context("cannot write the truth")?;
    out.write_all(b"\n").context("cannot write the truth")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
