//! Daily candles once: symbol by symbol, from the newest answer backwards, written oldest first when a symbol is whole.
//!
//! They go to the topic of candles as candles of a day (`1d`) in a feed of their own; no bar is made of them. A file says up to and from which day each
//! symbol is there, so a later run asks only for what has come since. What is written twice is the same row of the same day and counts once.
//!
//! Next: `services/processor/src/processor.rs`, which lets them pass; `services/sink/src/sink.rs`, which stores them.

use super::backfill::Progress;
use super::config::{Checked, Config};
use super::plan::last_ended;
use super::publish::Publisher;
use super::{Said, say};
use anyhow::Context;
use jiff::civil::Date;
use jiff::{Span, ToSpan};
use marketflow_access::{self as access, Symbols, VenueClock};
use marketflow_model::{Candle, Feed, Instrument, Timestamp};
use marketflow_pacing::Class;
use marketflow_providers::days::{DayRows, Days, Stretch};
use marketflow_providers::{CallError, CallRequest, Credentials, RestAnswer, Secret};
use marketflow_runtime::{Exit, Stop};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tracing::{info, warn};

/// What came of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DaysResult {
    /// Broker.
    pub provider: String,
    /// First day asked for.
    pub from: String,
    /// Last day asked for: of the last session that has ended.
    pub to: String,
    /// Candles written by this run.
    pub candles: u64,
    /// Rows that could not be used; each is a dead letter or quarantined.
    pub set_aside: u64,
    /// Calls of this run, failed ones included.
    pub calls: u64,
    /// How long it took.
    pub seconds: f64,
    /// By symbol, what is there.
    pub symbols: Vec<SymbolDays>,
}

/// What is there of a symbol.
#[derive(Clone, Debug, Serialize)]
pub struct SymbolDays {
    /// Which.
    pub symbol: Instrument,
    /// First day with a trade that this run saw; `None`: none, or everything was there.
    pub first: Option<String>,
    /// Candles written.
    pub candles: usize,
    /// Days that the broker shows without a trade.
    pub quiet: usize,
    /// Why it is not whole.
    pub problem: Option<String>,
}

/// The days of a symbol that are there, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct There {
    #[serde(with = "super::as_text")]
    from: Date,
    #[serde(with = "super::as_text")]
    to: Date,
}

/// One question.
struct Asked<'a> {
    days: &'static dyn Days,
    stretch: Stretch<'a>,
}

impl access::Question for Asked<'_> {
    type Answer = DayRows;

    fn class(&self) -> Class {
        Class::Backfill
    }

    fn request(&self, credentials: &Credentials, pass: &Secret) -> CallRequest {
        let Stretch { instrument, first, last, .. } = self.stretch;
        self.days.request(instrument, first, last, credentials, pass)
    }

    fn read<'a>(
        &self,
        answer: RestAnswer<'_>,
        _: &dyn Fn(&'static str) -> Option<&'a str>,
        received: Timestamp,
    ) -> Result<DayRows, CallError> {
        self.days.read(&self.stretch, answer, received)
    }
}

struct Run<'a> {
    checked: &'a Checked,
    calls: &'a access::Client,
    publisher: &'a Publisher,
    clock: &'a VenueClock,
    feed: Feed,
    path: PathBuf,
    there: BTreeMap<Instrument, There>,
}

/// Fetches them.
///
/// # Errors
/// The venue refuses the key, Kafka takes nothing, the day's calls are spent; the same command goes on from there.
#[expect(clippy::too_many_arguments, reason = "everything that a run is made of")]
pub async fn run(
    config: &Config,
    checked: &Checked,
    symbols: &Symbols,
    folder: &Path,
    calls: &access::Client,
    publisher: &Publisher,
    clock: &VenueClock,
    stop: &Stop,
) -> anyhow::Result<()> {
    let last = last_ended(checked, &config.backfill, clock.now())?;
    let back = Span::new().try_days(i64::from(config.backfill.days) - 1).context("backfill.days reaches too far back")?;
    let first = last.checked_sub(back).context("backfill.days reaches too far back")?;
    let path = folder.join(format!("{}-days.json", checked.provider.id));
    let there = match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; remove it: the days are asked for again then", path.display()))?,
        Err(_) => BTreeMap::new(),
    };
    // Not the feed of the minutes: a day is no minute that could be missing in it.
    let feed = Feed::new(&format!("{}-days", checked.provider.id));
    let mut run = Run { checked, calls, publisher, clock, feed, path, there };
    let started = Instant::now();
    let (provider, calls_before) = (checked.provider.id.to_owned(), calls.calls().1);
    let mut result = DaysResult { provider, from: first.to_string(), to: last.to_string(), ..DaysResult::default() };
    let planned = symbols.all.len() as u64;
    for (done, symbol) in (0..).zip(&symbols.all) {
        if stop.requested() {
            break;
        }
        let (there, candles) = match run.symbol(symbol, first, last, config.backfill.again).await {
            Ok((there, set_aside)) => {
                result.set_aside += set_aside;
                let candles = there.candles;
                (there, candles as u64)
            }
            Err(problem) if problem.downcast_ref::<CallError>().is_some() => {
                warn!(%symbol, problem = format!("{problem:#}"), "the symbol is left as it is");
                let problem = Some(format!("{problem:#}"));
                (SymbolDays { symbol: symbol.clone(), first: None, candles: 0, quiet: 0, problem }, 0)
            }
            Err(problem) => return Err(problem).context("the days stop here; the same command goes on where it stopped"),
        };
        result.candles += candles;
        result.symbols.push(there);
        let (seconds, done) = (started.elapsed().as_secs_f64(), done + 1);
        #[expect(clippy::cast_precision_loss, reason = "a guess for people")]
        let seconds_left = Some(seconds / done as f64 * (planned - done) as f64);
        let candles = result.candles;
        say(&Said::Progress(&Progress { done, calls: planned, candles, symbols_done: done, seconds, seconds_left }))?;
    }
    result.calls = calls.calls().1 - calls_before;
    result.seconds = started.elapsed().as_secs_f64();
    if !config.backfill.result.as_os_str().is_empty() {
        let path = &config.backfill.result;
        std::fs::write(path, serde_json::to_vec_pretty(&result)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    info!(symbols = result.symbols.len(), candles = result.candles, calls = result.calls, "days collected");
    let missing = symbols.all.len() - result.symbols.iter().filter(|symbol| symbol.problem.is_none()).count();
    say(&Said::Days(&result))?;
    if missing == 0 {
        return Ok(());
    }
    let words = anyhow::anyhow!("{missing} of {planned} symbols are not whole; the same command goes on where it stopped");
    Err(words.context(if stop.requested() { Exit::Interrupted } else { Exit::TryAgain }))
}

impl Run<'_> {
    /// What came of a symbol, and how many rows were set aside.
    async fn symbol(&mut self, symbol: &Instrument, first: Date, last: Date, again: bool) -> anyhow::Result<(SymbolDays, u64)> {
        let there = self.there.get(symbol).copied().filter(|_| !again);
        // What is there is asked for again only when more is wanted in front of it.
        let from = match there {
            Some(there) if there.from <= first => there.to.saturating_add(1.day()).max(first),
            _ => first,
        };
        let mut seen = SymbolDays { symbol: symbol.clone(), first: None, candles: 0, quiet: 0, problem: None };
        if from > last {
            return Ok((seen, 0));
        }
        let (mut candles, mut set_aside): (BTreeMap<Date, Candle>, u64) = (BTreeMap::new(), 0);
        let mut until = last;
        loop {
            let stretch = Stretch { instrument: symbol, feed: &self.feed, first: from, last: until };
            let asked = Asked { days: self.checked.days, stretch };
            let rows = self.calls.ask(&asked).await.with_context(|| format!("the days up to {until} of {symbol}"))?;
            candles.extend(rows.candles);
            seen.quiet += rows.quiet;
            set_aside += rows.malformed.len() as u64;
            for row in rows.malformed {
                self.publisher.set_aside(Some(symbol), row, &self.checked.rest_url, self.clock.now()).await?;
            }
            match rows.oldest {
                Some(oldest) if oldest > from => until = oldest.saturating_sub(1.day()),
                _ => break,
            }
        }
        (seen.first, seen.candles) = (candles.keys().next().map(Date::to_string), candles.len());
        for candle in candles.values() {
            self.publisher.candle(candle).await?;
        }
        self.publisher.delivered().await?;
        let from = there.map_or(first, |there| there.from.min(first));
        self.there.insert(symbol.clone(), There { from, to: last });
        super::keep(&self.path, &self.there)?;
        Ok((seen, set_aside))
    }
}
