//! One source: its endpoints one after the other, months in order, at the pace it allows.
//!
//! Next: `journal.rs`, where what was answered goes.

use crate::config::{Checked, Config};
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::now;
use anyhow::Context;
use marketflow_model::{Month, Observation};
use marketflow_pacing::{Backoff, BackoffSettings, TokenBucket};
use marketflow_providers::series::{self, Reach, Reading, Series, Source};
use marketflow_providers::{RestAnswer, RestError, Secret};
use marketflow_runtime::{Stop, on_thread};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// An endpoint of a source and the months wanted of it.
pub struct Endpoint {
    /// What is asked for.
    pub series: Series,
    /// From this month on.
    pub next: Month,
    /// Up to this month: the end of a period.
    pub last: Month,
}

/// What came of a source's endpoints.
pub struct Collected {
    /// Endpoints that had to be left.
    pub failed: Vec<String>,
    /// The time that the source's limit alone dictates for the requests made.
    pub least: Duration,
}

/// Asks one source.
pub struct Collector {
    source: &'static dyn Source,
    url: String,
    key: Option<Secret>,
    http: reqwest::Client,
    bucket: TokenBucket,
    /// Requests a second.
    rate: f64,
    requests: u32,
    started: Instant,
    backoff: BackoffSettings,
    attempts: u32,
    months_per_request: i32,
    journal: Arc<Journal>,
    metrics: Arc<Metrics>,
    stop: Stop,
    /// The last answer of a source whose files hold more than one series, by its path.
    file: Option<(String, Vec<u8>)>,
}

impl Collector {
    /// Creates the client.
    ///
    /// # Errors
    /// TLS that cannot be set up.
    pub fn new(
        id: &str,
        config: &Config,
        checked: &Checked,
        journal: Arc<Journal>,
        metrics: Arc<Metrics>,
        stop: Stop,
    ) -> anyhow::Result<Self> {
        let source = series::by_id(id).with_context(|| format!("no source {id}"))?;
        let settings = config.sources.get(id).cloned().unwrap_or_default();
        let url = if settings.url.is_empty() { source.url() } else { settings.url.trim_end_matches('/') }.to_owned();
        let http = marketflow_access::http_client(&url, config.request.timeout)?;
        let pace = source.pace();
        let (rate, burst) = if settings.per_second > 0.0 { (settings.per_second, 1.0) } else { (pace.per_second, pace.burst) };
        let mut bucket = TokenBucket::new(rate, burst, Duration::ZERO);
        // another run may have asked a moment ago, or have been told to wait
        bucket.hold(journal.silence(id, now()).max(Duration::from_secs_f64(burst / rate)), Duration::ZERO);
        Ok(Self {
            source,
            url,
            key: checked.keys.get(id).cloned(),
            http,
            bucket,
            rate,
            requests: 0,
            started: Instant::now(),
            backoff: config.request.backoff(),
            attempts: config.request.attempts,
            months_per_request: config.collect.months_per_request,
            journal,
            metrics,
            stop,
            file: None,
        })
    }

    /// Collects the endpoints.
    ///
    /// # Errors
    /// Kafka or the disk fail: what the source says does not end it.
    pub async fn run(mut self, endpoints: Vec<Endpoint>) -> anyhow::Result<Collected> {
        let mut failed = Vec::new();
        for Endpoint { series, mut next, last } in endpoints {
            while next <= last && !self.stop.requested() {
                let through = match self.source.reach() {
                    Reach::Months => series.every.last_of(next.plus(self.months_per_request - 1)).min(last),
                    Reach::Everything => last,
                };
                let Some(readings) = self.ask(&series, next, through).await? else {
                    self.metrics.failed.inc();
                    failed.push(series.endpoint());
                    break;
                };
                self.keep(&series, readings, next, through).await?;
                next = through.plus(1);
            }
        }
        Ok(Collected { failed, least: Duration::from_secs_f64(f64::from(self.requests.saturating_sub(1)) / self.rate) })
    }

    /// The values of the periods that end with these months; `None` when the source would not tell them, or the service stops.
    async fn ask(&mut self, series: &Series, first: Month, last: Month) -> anyhow::Result<Option<Vec<Reading>>> {
        let mut backoff = Backoff::new(self.backoff);
        loop {
            let error = match self.ask_once(series, first, last).await {
                Ok(readings) => return Ok(Some(readings)),
                Err(error) => error,
            };
            let endpoint = series.endpoint();
            self.journal.note_problem(now(), &endpoint, &error.to_string())?;
            let wait = backoff.on_failure(&mut rand::rng());
            if !error.retryable() || backoff.failures() >= self.attempts {
                warn!(endpoint, %error, "left for the next run");
                return Ok(None);
            }
            let (asked, least) = match &error {
                RestError::RateLimited { retry_after, .. } => (*retry_after, retry_after.unwrap_or(self.source.pace().penalty)),
                RestError::Unavailable { retry_after, .. } => (*retry_after, Duration::ZERO),
                RestError::Refused { .. } | RestError::Region { .. } | RestError::Unreadable { .. } => (None, Duration::ZERO),
            };
            let wait = wait.max(asked.unwrap_or_default()).max(least);
            if asked.is_some() || !least.is_zero() {
                self.journal.keep_silence(self.source.id(), now(), wait)?;
            }
            self.bucket.hold(wait, self.started.elapsed());
            warn!(endpoint, %error, attempt = backoff.failures(), ?wait, "request failed; asking again");
            if self.stop.requested() {
                return Ok(None);
            }
        }
    }

    async fn ask_once(&mut self, series: &Series, first: Month, last: Month) -> Result<Vec<Reading>, RestError> {
        let path = self.source.request(series, first, last, self.key.as_ref());
        let body = match self.file.take_if(|(known, _)| *known == path) {
            Some((_, body)) => body,
            None => self.fetch(series, first, last, &path).await?,
        };
        let readings = self.source.read(series, first, last, RestAnswer { status: 200, retry_after: None, body: &body });
        self.count(&readings);
        if self.source.reach() == Reach::Everything && readings.is_ok() {
            self.file = Some((path, body));
        }
        readings
    }

    /// The body of a good answer; what another one says is for the source to judge.
    async fn fetch(&mut self, series: &Series, first: Month, last: Month, path: &str) -> Result<Vec<u8>, RestError> {
        self.wait_for_turn().await;
        self.requests += 1;
        // the address holds the key
        let unreachable = |error: reqwest::Error| RestError::Unavailable {
            retry_after: None,
            detail: format!("{:#}", anyhow::Error::from(error.without_url())),
        };
        let answered = async {
            let answer = self.http.get(format!("{}{path}", self.url)).send().await.map_err(unreachable)?;
            let status = answer.status().as_u16();
            let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
            Ok::<_, RestError>((status, retry_after, answer.bytes().await.map_err(unreachable)?.to_vec()))
        };
        let (status, retry_after, body) = answered.await.inspect_err(|error| self.count(&Err::<(), _>(error.clone())))?;
        if status == 200 {
            return Ok(body);
        }
        let answer = RestAnswer { status, retry_after: retry_after.as_deref(), body: &body };
        let problem = self.source.read(series, first, last, answer).err();
        let problem = problem.unwrap_or_else(|| RestError::Unreadable { detail: format!("HTTP {status} with data") });
        self.count(&Err::<(), _>(problem.clone()));
        Err(problem)
    }

    fn count<T>(&self, answer: &Result<T, RestError>) {
        let outcome = answer.as_ref().map_or_else(RestError::outcome, |_| "ok");
        self.metrics.access.requests.with_label_values(&[self.source.id(), outcome]).inc();
    }

    async fn wait_for_turn(&mut self) {
        let since = Instant::now();
        while let Err(wait) = self.bucket.take(1.0, self.started.elapsed()) {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.wait() => return,
            }
        }
        let waited = i64::try_from(since.elapsed().as_secs()).unwrap_or(i64::MAX);
        self.metrics.waited.with_label_values(&[self.source.id()]).add(waited);
    }

    /// The cursor stands at the last period that the source has told: what it publishes late is asked for again.
    async fn keep(&self, series: &Series, readings: Vec<Reading>, first: Month, through: Month) -> anyhow::Result<()> {
        self.metrics.months_done.add(i64::from(through.months_since(first) + 1));
        let Some(told) = readings.iter().map(|reading| reading.month).max() else {
            info!(endpoint = series.endpoint(), from = %first, %through, "nothing is told of these months");
            return Ok(());
        };
        let provider = self.source.id().to_uppercase();
        let receive_time = now();
        let observations = readings.into_iter().map(|reading| Observation {
            provider: provider.clone(),
            series: series.name_of(&reading.value_name),
            period_start: series.every.first_of(reading.month).start(),
            period_end: reading.month.end(),
            value: reading.value,
            unit: series.values.get(&reading.value_name).cloned().unwrap_or_default(),
            published_at: reading.published_at,
            vintage: reading.vintage,
            receive_time,
        });
        let (journal, endpoint, observations) = (self.journal.clone(), series.endpoint(), observations.collect::<Vec<_>>());
        let written = on_thread("journal", move || journal.keep(&endpoint, observations, told)).await?;
        info!(endpoint = series.endpoint(), from = %first, through = %told, written, "collected");
        Ok(())
    }
}
