//! The injected clock: wall time, or a venue's virtual time served over HTTP (`GET` → `{"now_us", "running", "speed"}`).
//!
//! Of virtual time two readings are kept apart: [`VenueClock::known`] is what the server last said, never ahead of the venue and therefore fit
//! to be evidence; [`VenueClock::now`] adds what should have passed since, for stamps. At maximum speed nothing can be added.

use anyhow::Context;
use jiff::civil::Date;
use marketflow_model::{Calendar, Timestamp};
use marketflow_providers::Moment;
use marketflow_runtime::{Exit, ExitContext};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Section `[clock]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockConfig {
    /// `wall`, or the URL of a virtual clock.
    pub source: String,
    /// Time between two readings of a virtual clock at normal speed; faster clocks are read more often.
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
}

/// Shortest time between two readings.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(20);
/// How long a reading may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The clock; cheap to clone.
#[derive(Clone, Debug)]
pub struct VenueClock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    virtual_time: Option<VirtualTime>,
    /// Wall time never goes back either.
    highest: Mutex<Timestamp>,
}

#[derive(Debug)]
struct VirtualTime {
    url: String,
    http: reqwest::Client,
    poll_interval: Duration,
    reading: Mutex<(Reading, Instant)>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Reading {
    now_us: i64,
    running: bool,
    /// Virtual seconds per second; 0 = as fast as it goes, which cannot be foretold.
    speed: f64,
}

impl VenueClock {
    /// Connects to the source and reads it once.
    ///
    /// # Errors
    /// A virtual clock that does not answer.
    pub async fn connect(config: &ClockConfig) -> anyhow::Result<Self> {
        let inner = |virtual_time| Inner { started: Instant::now(), virtual_time, highest: Mutex::new(Timestamp::MIN) };
        if config.source == "wall" {
            return Ok(Self(Arc::new(inner(None))));
        }
        let http = reqwest::Client::builder().timeout(ANSWER_WITHIN).no_proxy().build().context("clock.source")?;
        let url = config.source.clone();
        let first = read(&http, &url)
            .await
            .with_context(|| {
                format!("clock.source = {url:?} does not answer; start the simulator first, or set clock.source=wall")
            })
            .exit(Exit::Unreachable)?;
        let reading = Mutex::new((first, Instant::now()));
        let virtual_time = VirtualTime { url, http, poll_interval: config.poll_interval, reading };
        Ok(Self(Arc::new(inner(Some(virtual_time)))))
    }

    /// Whether time is served and not the wall's.
    pub fn is_virtual(&self) -> bool {
        self.0.virtual_time.is_some()
    }

    /// The venue's time, never ahead of it.
    pub fn known(&self) -> Timestamp {
        match &self.0.virtual_time {
            None => self.wall_time(),
            Some(time) => Timestamp::from_micros(lock(&time.reading).0.now_us),
        }
    }

    /// The venue's time, best guess.
    pub fn now(&self) -> Timestamp {
        let Some(time) = &self.0.virtual_time else { return self.wall_time() };
        let (reading, at) = *lock(&time.reading);
        let since = at.elapsed().min(time.poll_interval * 2);
        let passed = if reading.running { since.as_secs_f64() * reading.speed } else { 0.0 };
        let passed_micros = Duration::try_from_secs_f64(passed).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(0));
        Timestamp::from_micros(reading.now_us.saturating_add(passed_micros))
    }

    /// Time since the start, never going back.
    pub fn monotonic(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// All readings at once.
    pub fn moment(&self) -> Moment {
        Moment { venue: self.known(), received: self.now(), monotonic: self.monotonic() }
    }

    /// Reads a virtual clock now; the wall needs no reading.
    pub async fn refresh(&self) {
        let Some(time) = &self.0.virtual_time else { return };
        match read(&time.http, &time.url).await {
            Ok(reading) => {
                let mut last = lock(&time.reading);
                if reading.now_us >= last.0.now_us {
                    *last = (reading, Instant::now());
                }
            }
            Err(error) => tracing::debug!(error = %format!("{error:#}"), "virtual clock did not answer"),
        }
    }

    /// Keeps reading a virtual clock; never returns.
    pub async fn run(self) {
        loop {
            let Some(time) = &self.0.virtual_time else { return std::future::pending().await };
            let reading = lock(&time.reading).0;
            let fast = !reading.running || reading.speed <= 0.0;
            let interval = if fast {
                POLL_INTERVAL_MIN
            } else {
                Duration::try_from_secs_f64(1.0 / reading.speed).unwrap_or(time.poll_interval)
            };
            tokio::time::sleep(interval.clamp(POLL_INTERVAL_MIN, time.poll_interval.max(POLL_INTERVAL_MIN))).await;
            self.refresh().await;
        }
    }

    fn wall_time(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX));
        let mut highest = lock(&self.0.highest);
        *highest = (*highest).max(now);
        *highest
    }
}

/// The local date.
pub fn date_of(calendar: &Calendar, at: Timestamp) -> Date {
    let at = jiff::Timestamp::from_microsecond(at.micros()).unwrap_or_default();
    at.to_zoned(calendar.zone().clone()).date()
}

async fn read(http: &reqwest::Client, url: &str) -> anyhow::Result<Reading> {
    let answer = http.get(url).send().await?.error_for_status()?;
    serde_json::from_slice(&answer.bytes().await?).context("not the answer of a clock")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
