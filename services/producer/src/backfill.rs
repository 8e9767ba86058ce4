//! Requests for missing trades: paced as the venue allows, patient with failures, gaps before sweeps.
//!
//! It decides nothing: pages go back to the ledger, which knows what is really missing.
//!
//! Next: `ledger.rs`, `on_page`.

use crate::config::RepairConfig;
use crate::ledger::{Job, Purpose};
use crate::metrics::Metrics;
use marketflow_access::{VenueClock, http_client};
use marketflow_pacing::{Backoff, BackoffSettings, TokenBucket};
use marketflow_providers::{Cursor, Page, Provider, RestAnswer, RestError, RestRequest};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tracing::{debug, warn};

/// What comes back for a job.
#[derive(Debug)]
pub enum Answer {
    /// A page; `last` when no further one follows.
    Page {
        /// For which job.
        job: Job,
        /// What was answered.
        page: Page,
        /// Whether it was the last.
        last: bool,
    },
    /// The venue will not answer.
    Refused {
        /// For which job.
        job: Job,
        /// In words.
        reason: String,
    },
}

/// The way in: gaps and checks apart, so that a gap never waits behind a sweep.
#[derive(Clone, Debug)]
pub struct Jobs {
    fills: mpsc::UnboundedSender<Job>,
    checks: mpsc::UnboundedSender<Job>,
}

impl Jobs {
    /// Queues a job. Unbounded, because the ledger holds at most one check per instrument and one job per gap.
    pub fn push(&self, job: Job) {
        let queue = match job.purpose {
            Purpose::Fill(_) => &self.fills,
            Purpose::Check(_) => &self.checks,
        };
        if queue.send(job).is_err() {
            debug!("asked after back-fill ended");
        }
    }
}

/// The other end of [`Jobs`].
#[derive(Debug)]
pub struct JobQueue {
    fills: mpsc::UnboundedReceiver<Job>,
    checks: mpsc::UnboundedReceiver<Job>,
}

/// Both ends.
pub fn jobs() -> (Jobs, JobQueue) {
    let (fills, fill_queue) = mpsc::unbounded_channel();
    let (checks, check_queue) = mpsc::unbounded_channel();
    (Jobs { fills, checks }, JobQueue { fills: fill_queue, checks: check_queue })
}

/// Asks the venue.
#[derive(Clone)]
pub struct Backfill {
    provider: &'static Provider,
    url: Arc<str>,
    http: reqwest::Client,
    clock: VenueClock,
    bucket: Arc<Mutex<TokenBucket>>,
    backoff: BackoffSettings,
    in_flight: usize,
    metrics: Arc<Metrics>,
}

impl Backfill {
    /// Creates the client.
    ///
    /// # Errors
    /// TLS that cannot be set up.
    pub fn new(
        provider: &'static Provider,
        url: &str,
        config: &RepairConfig,
        clock: VenueClock,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let http = http_client(url, config.request_timeout)?;
        let limits = provider.limits;
        let bucket =
            TokenBucket::new(f64::from(limits.rest_weight_per_second), f64::from(limits.rest_weight_burst), clock.monotonic());
        Ok(Self {
            provider,
            url: url.into(),
            http,
            clock,
            bucket: Arc::new(Mutex::new(bucket)),
            backoff: BackoffSettings { min: config.backoff_min, max: config.backoff_max, reset_after: Duration::ZERO },
            in_flight: config.requests_in_flight,
            metrics,
        })
    }

    /// Works the queue off until it is closed.
    pub async fn run(self, mut queue: JobQueue, answers: mpsc::Sender<Answer>) {
        let slots = Arc::new(Semaphore::new(self.in_flight));
        let mut running = JoinSet::new();
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let job = tokio::select! {
                biased;
                Some(job) = queue.fills.recv() => job,
                Some(job) = queue.checks.recv() => job,
                else => return,
            };
            let (asker, answers) = (self.clone(), answers.clone());
            running.spawn(async move {
                asker.work(job, &answers).await;
                drop(slot);
            });
            while let Some(done) = running.try_join_next() {
                if let Err(error) = done {
                    warn!(%error, "a back-fill ended badly");
                }
            }
        }
    }

    /// One job, page by page, until the venue has told all or refuses.
    async fn work(&self, job: Job, answers: &mpsc::Sender<Answer>) {
        let mut cursor = job.cursor.clone();
        let mut backoff = Backoff::new(self.backoff);
        loop {
            let answer = match self.ask(&job, &cursor).await {
                Ok(mut page) => {
                    backoff = Backoff::new(self.backoff);
                    let next = page.next.take();
                    let last = next.is_none();
                    if let Some(next) = next {
                        cursor = next;
                    }
                    Answer::Page { job: job.clone(), page, last }
                }
                Err(error) if error.retryable() => {
                    let wait = backoff.on_failure(&mut rand::rng());
                    let asked = match &error {
                        RestError::RateLimited { retry_after, .. } | RestError::Unavailable { retry_after, .. } => *retry_after,
                        RestError::Refused { .. } | RestError::Region { .. } | RestError::Unreadable { .. } => None,
                    };
                    let wait = asked.map_or(wait, |asked| asked.max(wait));
                    if matches!(error, RestError::RateLimited { .. }) {
                        self.bucket().hold(wait, self.clock.monotonic());
                    }
                    let attempt = backoff.failures();
                    warn!(provider = self.provider.id, instrument = %job.instrument, %error, attempt, ?wait, "request failed; asking again");
                    tokio::time::sleep(wait).await;
                    continue;
                }
                Err(error) => {
                    warn!(provider = self.provider.id, instrument = %job.instrument, %error, "request refused");
                    Answer::Refused { job: job.clone(), reason: error.to_string() }
                }
            };
            let done = !matches!(answer, Answer::Page { last: false, .. });
            if answers.send(answer).await.is_err() || done {
                return;
            }
        }
    }

    async fn ask(&self, job: &Job, cursor: &Cursor) -> Result<Page, RestError> {
        // How far back to ask depends on the venue's present.
        self.clock.refresh().await;
        let Some(rest) = self.provider.rest else {
            return Err(RestError::Refused { detail: format!("{} tells no past trades", self.provider.id) });
        };
        let request = rest.request(&job.instrument, cursor, self.clock.now());
        self.wait_for_turn(&request).await;
        let answered = self.send(&request).await;
        self.clock.refresh().await;
        let page = answered.and_then(|(status, retry_after, body)| {
            let answer = RestAnswer { status, retry_after: retry_after.as_deref(), body: &body };
            rest.page(&job.instrument, cursor, &request, answer, self.clock.now())
        });
        let outcome = page.as_ref().map_or_else(RestError::outcome, |_| "ok");
        self.metrics.access.requests.with_label_values(&[self.provider.id, outcome]).inc();
        page
    }

    async fn send(&self, request: &RestRequest) -> Result<(u16, Option<String>, Vec<u8>), RestError> {
        let unreachable = |error: reqwest::Error| RestError::Unavailable { retry_after: None, detail: in_words(&error) };
        let mut call = self.http.get(format!("{}{}", self.url, request.path_and_query));
        for (name, value) in request.headers {
            call = call.header(*name, *value);
        }
        let answer = call.send().await.map_err(unreachable)?;
        let status = answer.status().as_u16();
        let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = answer.bytes().await.map_err(unreachable)?;
        Ok((status, retry_after, body.to_vec()))
    }

    async fn wait_for_turn(&self, request: &RestRequest) {
        loop {
            let taken = self.bucket().take(f64::from(request.weight), self.clock.monotonic());
            match taken {
                Ok(()) => return,
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    fn bucket(&self) -> std::sync::MutexGuard<'_, TokenBucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
