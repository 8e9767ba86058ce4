//! What goes wrong, and when.
//!
//! A fault is given by configuration (`[[faults]]`) or `POST /faults`. Whether it strikes at a trade depends only on the seed, the fault's number
//! and the trade, so a run can be repeated. Next: `player.rs`, which carries it out, and `truth.rs`, which records it.

use crate::config::instant_us;
use crate::market::{Market, Venue};
use crate::seed;
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Connections are cut; with `code` by a close frame, else without one.
    Disconnect,
    /// Connections stay up but neither send nor answer for `duration` (wall time).
    HalfOpen,
    /// Trades of the scope do not reach the socket for `duration` (virtual time); REST has them.
    Silence,
    /// `count` trades do not reach the socket; REST has them.
    Miss,
    /// `count` copies of a trade are sent.
    Duplicate,
    /// A trade is sent after the one that follows it in its market.
    OutOfOrder,
    /// A trade is sent `delay` (virtual time) too late; REST has it in time.
    Late,
    /// `count` broken frames are sent beside a trade.
    Malformed,
    /// `count` frames of `bytes` bytes are sent beside a trade.
    Oversized,
    /// REST answers `status` for `count` requests or for `duration` (wall time).
    HttpError,
    /// Bitstamp's `bts:request_reconnect`; the connection ends `duration` (wall time) later.
    RequestReconnect,
    /// Binance's `serverShutdown`; the connection ends `duration` (wall time) later.
    ServerShutdown,
    /// Connections end as at the end of their planned life.
    LifetimeCut,
    /// Everything is answered 451 for `duration` (wall time).
    RefuseRegion,
    /// The wire port refuses TCP connections for `duration` (wall time); those that are up stay.
    RefuseConnect,
    /// A trade of size 0 happens after this one.
    ZeroSize,
    /// A trade whose price has ten decimals happens after this one.
    TooPrecise,
}

impl FaultKind {
    /// Whether it strikes at a trade of one market, rather than at connections or REST.
    fn needs_a_trade(self) -> bool {
        use FaultKind::{Duplicate, Late, Malformed, Miss, OutOfOrder, Oversized, TooPrecise, ZeroSize};
        matches!(self, Miss | Duplicate | OutOfOrder | Late | Malformed | Oversized | ZeroSize | TooPrecise)
    }
}

/// The body of a failing REST answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultBody {
    /// The venue's own error object.
    #[default]
    Json,
    /// A page for people.
    Html,
    /// Nothing.
    Empty,
}

/// One fault. At most one of `at`, `after`, `at_trade`, `every`, `probability`; none of them: at once (when the tape starts).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultSpec {
    /// What.
    pub kind: FaultKind,
    /// Only this venue; none = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub venue: Option<Venue>,
    /// Only this instrument (`BITSTAMP:BTCUSD`), or the connections that listen to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instrument: Option<String>,
    /// At this virtual instant (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// So long (virtual) after the first trade.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub after: Option<Duration>,
    /// At the n-th trade of the scope, counted from 1 and from when the fault was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_trade: Option<u64>,
    /// At every n-th trade of the scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// At each trade of the scope with this probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// At most so many times; none = without limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// How many trades, copies, frames or requests; 1 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// How long; virtual for `silence`, wall time otherwise.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,
    /// `late`: how late (virtual).
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub delay: Option<Duration>,
    /// `oversized`: frame size, 2 MiB unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// `disconnect`: the close code; none = no close frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// `http_error`: the status, 503 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// `http_error`: the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<FaultBody>,
    /// `http_error`: the `Retry-After` header, whole seconds.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
}

impl FaultSpec {
    /// Whether the fault concerns this market.
    pub fn concerns(&self, market: &Market) -> bool {
        self.venue.is_none_or(|venue| venue.exchange() == market.venue)
            && self.instrument.as_ref().is_none_or(|instrument| *instrument == market.instrument)
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.count.unwrap_or(1)
    }

    fn when(&self, first_us: i64) -> anyhow::Result<When> {
        let mut given = Vec::new();
        if let Some(at) = &self.at {
            given.push(When::Time(instant_us(at).with_context(|| format!("faults.at {at:?}"))?));
        }
        given.extend(self.after.map(|after| When::Time(first_us.saturating_add(crate::clock::micros(after)))));
        given.extend(self.at_trade.map(When::Trade));
        given.extend(self.every.map(|every| When::Every(every.max(1))));
        given.extend(self.probability.map(When::Probability));
        match given[..] {
            [] if self.kind.needs_a_trade() => Ok(When::Trade(1)),
            [] => Ok(When::Time(i64::MIN)),
            [When::Time(time)] if self.kind.needs_a_trade() => Ok(When::FirstTradeFrom(time)),
            [when] => Ok(when),
            _ => bail!("fault {:?}: give one of at, after, at_trade, every, probability", self.kind),
        }
    }

    fn validate(&self, markets: &[Market]) -> anyhow::Result<()> {
        if !markets.iter().any(|market| self.concerns(market)) {
            bail!("fault {:?} concerns no market that is played", self.kind);
        }
        if self.probability.is_some_and(|probability| !(0.0..=1.0).contains(&probability)) {
            bail!("fault {:?}: probability is not within 0–1", self.kind);
        }
        let odd = matches!(self.kind, FaultKind::ZeroSize | FaultKind::TooPrecise);
        if odd && markets.iter().any(|market| self.concerns(market) && market.venue == Venue::Kis) {
            bail!("fault {:?}: the Korea Exchange's prices and sizes are whole and above 0; name another venue", self.kind);
        }
        let lacks = |what: &str| bail!("fault {:?} needs {what}", self.kind);
        match self.kind {
            FaultKind::Silence | FaultKind::RefuseRegion | FaultKind::RefuseConnect if self.duration.is_none() => {
                lacks("duration")
            }
            FaultKind::Late if self.delay.is_none() => lacks("delay"),
            FaultKind::RequestReconnect if self.venue.is_some_and(|venue| venue != Venue::Bitstamp) => lacks("venue bitstamp"),
            FaultKind::ServerShutdown if self.venue.is_some_and(|venue| venue != Venue::Binance) => lacks("venue binance"),
            FaultKind::Disconnect
            | FaultKind::HalfOpen
            | FaultKind::Silence
            | FaultKind::Miss
            | FaultKind::Duplicate
            | FaultKind::OutOfOrder
            | FaultKind::Late
            | FaultKind::Malformed
            | FaultKind::Oversized
            | FaultKind::HttpError
            | FaultKind::RequestReconnect
            | FaultKind::ServerShutdown
            | FaultKind::LifetimeCut
            | FaultKind::RefuseRegion
            | FaultKind::RefuseConnect
            | FaultKind::ZeroSize
            | FaultKind::TooPrecise => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum When {
    Time(i64),
    FirstTradeFrom(i64),
    Trade(u64),
    Every(u64),
    Probability(f64),
}

/// A fault that strikes now: its number and what it says.
pub type Strike = (usize, FaultSpec);

/// All faults given, and what is left of them.
#[derive(Debug)]
pub struct Faults {
    seed: u64,
    first_us: i64,
    at_trades: AtomicBool,
    armed: Mutex<Vec<Armed>>,
}

#[derive(Debug)]
struct Armed {
    spec: FaultSpec,
    when: When,
    seen: u64,
    left: u64,
}

impl Faults {
    /// No faults yet; `first_us` is the time of the first trade.
    pub fn new(seed: u64, first_us: i64) -> Faults {
        Faults { seed, first_us, at_trades: AtomicBool::new(false), armed: Mutex::default() }
    }

    /// Adds a fault and returns its number.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn add(&self, spec: FaultSpec, markets: &[Market]) -> anyhow::Result<usize> {
        spec.validate(markets)?;
        let when = spec.when(self.first_us)?;
        let left = match when {
            When::Time(_) | When::FirstTradeFrom(_) | When::Trade(_) => 1,
            When::Every(_) | When::Probability(_) => spec.times.unwrap_or(u64::MAX),
        };
        let mut armed = self.lock();
        armed.push(Armed { spec, when, seen: 0, left });
        self.at_trades.fetch_or(!matches!(when, When::Time(_)), Ordering::AcqRel);
        Ok(armed.len() - 1)
    }

    /// Every fault given, with how many times it may still strike (none = without limit).
    pub fn list(&self) -> Vec<(FaultSpec, Option<u64>)> {
        self.lock().iter().map(|armed| (armed.spec.clone(), (armed.left < u64::MAX).then_some(armed.left))).collect()
    }

    /// The next virtual instant at which a fault strikes by itself.
    pub fn next_us(&self) -> Option<i64> {
        let armed = self.lock();
        armed
            .iter()
            .filter(|armed| armed.left > 0)
            .filter_map(|armed| if let When::Time(time) = armed.when { Some(time) } else { None })
            .min()
    }

    /// Takes the faults due at or before this instant.
    pub fn due(&self, now_us: i64) -> Vec<Strike> {
        let mut due = Vec::new();
        for (number, armed) in self.lock().iter_mut().enumerate() {
            if armed.left > 0 && matches!(armed.when, When::Time(time) if time <= now_us) {
                armed.left -= 1;
                due.push((number, armed.spec.clone()));
            }
        }
        due
    }

    /// Takes the faults that strike at this trade. Must see each trade of the tape once, in order.
    pub fn at_trade(&self, market: &Market, trade_id: i64, time_us: i64) -> Vec<Strike> {
        let mut strikes = Vec::new();
        if !self.at_trades.load(Ordering::Acquire) {
            return strikes;
        }
        for (number, armed) in self.lock().iter_mut().enumerate() {
            if armed.left == 0 || !armed.spec.concerns(market) {
                continue;
            }
            armed.seen += 1;
            let strikes_here = match armed.when {
                When::Time(_) => false,
                When::FirstTradeFrom(from_us) => time_us >= from_us,
                When::Trade(nth) => armed.seen == nth,
                When::Every(nth) => armed.seen % nth == 0,
                When::Probability(probability) => {
                    let place = [number as u64, seed::of_text(&market.instrument), trade_id.unsigned_abs()];
                    seed::happens(self.seed, &place, probability)
                }
            };
            if strikes_here {
                armed.left -= 1;
                strikes.push((number, armed.spec.clone()));
            }
        }
        strikes
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Armed>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// REST answers and connections that are refused for a while (wall time).
#[derive(Debug, Default)]
pub struct Refusals {
    answers: Mutex<Vec<FailingAnswers>>,
    regions: Mutex<Vec<(Option<Venue>, Instant)>>,
    connect_until: Mutex<Option<Instant>>,
    /// Told when `connect_until` changes.
    pub connect_changed: tokio::sync::Notify,
}

#[derive(Debug)]
struct FailingAnswers {
    spec: FaultSpec,
    left: u64,
    until: Option<Instant>,
}

impl Refusals {
    /// REST fails from now on, as the fault says.
    pub fn fail_answers(&self, spec: FaultSpec) {
        let until = spec.duration.map(|duration| Instant::now() + duration);
        let left = if until.is_some() { spec.count.unwrap_or(u64::MAX) } else { spec.count() };
        lock(&self.answers).push(FailingAnswers { spec, left, until });
    }

    /// The way this venue's next answer fails, if it does.
    pub fn next_failure(&self, venue: Venue) -> Option<FaultSpec> {
        let mut answers = lock(&self.answers);
        let now = Instant::now();
        answers.retain(|failing| failing.left > 0 && failing.until.is_none_or(|until| now < until));
        let failing = answers.iter_mut().find(|failing| failing.spec.venue.is_none_or(|only| only == venue))?;
        failing.left -= 1;
        Some(failing.spec.clone())
    }

    /// The venue (or all) refuses this region for so long.
    pub fn refuse_region(&self, venue: Option<Venue>, duration: Duration) {
        lock(&self.regions).push((venue, Instant::now() + duration));
    }

    /// Whether the region is refused now.
    pub fn region_refused(&self, venue: Venue) -> bool {
        let mut regions = lock(&self.regions);
        regions.retain(|(_, until)| Instant::now() < *until);
        regions.iter().any(|(only, _)| only.is_none_or(|only| only == venue))
    }

    /// The port is closed for so long.
    pub fn refuse_connect(&self, duration: Duration) {
        *lock(&self.connect_until) = Some(Instant::now() + duration);
        self.connect_changed.notify_one();
    }

    /// Until when the port is closed, if it is.
    pub fn connect_refused_until(&self) -> Option<Instant> {
        lock(&self.connect_until).filter(|until| Instant::now() < *until)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decimal::Decimal;
    use crate::market::Trade;

    fn market() -> Market {
        let trade = Trade::new(0, 1, Decimal::new(1, 0), Decimal::new(1, 0), false);
        Market::new(Venue::Bitstamp, "BTC", "USD", (2, 8), vec![trade])
    }

    fn spec(text: &str) -> FaultSpec {
        toml::from_str(text).unwrap()
    }

    fn struck(text: &str, trades: i64) -> Vec<i64> {
        let (market, faults) = (market(), Faults::new(5, 0));
        faults.add(spec(text), std::slice::from_ref(&market)).unwrap();
        (1..=trades).filter(|id| !faults.at_trade(&market, *id, id * 1_000_000).is_empty()).collect()
    }

    #[test]
    fn faults_strike_where_they_are_told_to() {
        assert_eq!(struck("kind = 'miss'\nat_trade = 3", 10), [3]);
        assert_eq!(struck("kind = 'miss'\nevery = 4", 10), [4, 8]);
        assert_eq!(struck("kind = 'miss'\nevery = 2\ntimes = 2", 10), [2, 4]);
        assert_eq!(struck("kind = 'duplicate'\nafter = '7s'", 10), [7]);
        assert_eq!(struck("kind = 'miss'\ninstrument = 'BITSTAMP:BTCUSD'\nprobability = 1.0\ntimes = 1", 10), [1]);
    }

    #[test]
    fn probability_repeats_with_the_seed() {
        let text = "kind = 'miss'\nprobability = 0.1";
        let first = struck(text, 1_000);
        assert_eq!(first, struck(text, 1_000));
        assert!((60..140).contains(&first.len()), "{}", first.len());
    }

    #[test]
    fn a_fault_that_cannot_be_is_refused_in_words() {
        let markets = [market()];
        let faults = Faults::new(1, 0);
        for (text, expected) in [
            ("kind = 'late'", "needs delay"),
            ("kind = 'miss'\nat_trade = 1\nevery = 2", "give one of"),
            ("kind = 'miss'\ninstrument = 'BITSTAMP:NONE'", "concerns no market"),
            ("kind = 'miss'\nprobability = 2.0", "0–1"),
        ] {
            let problem = faults.add(spec(text), &markets).unwrap_err().to_string();
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn failing_answers_are_counted() {
        let refusals = Refusals::default();
        refusals.fail_answers(spec("kind = 'http_error'\nstatus = 429\ncount = 2\nvenue = 'binance'"));
        assert!(refusals.next_failure(Venue::Bitstamp).is_none());
        assert_eq!((0..5).filter(|_| refusals.next_failure(Venue::Binance).is_some()).count(), 2);
    }
}
