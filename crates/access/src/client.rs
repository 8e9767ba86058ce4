//! One call: leave from the budget, the pass, the answer, and again when that can help.
//!
//! Next: `services/producer/src/candles/client.rs`, `services/flow-producer/src/collect.rs`, which ask.

use crate::budget::SharedBudget;
use crate::clock::{VenueClock, date_of};
use crate::config::RequestConfig;
use crate::metrics::Metrics;
use crate::passes::Passes;
use marketflow_model::{Calendar, SessionKind, Timestamp};
use marketflow_pacing::{Backoff, Breaker, Class};
use marketflow_providers::{CallError, CallRequest, Credentials, PassKind, Provider, RestAnswer, Secret};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::{debug, warn};

/// What is asked, and how the answer is read.
pub trait Question: Sync {
    /// What a good answer says.
    type Answer;

    /// What for.
    fn class(&self) -> Class;

    /// As it is sent.
    fn request(&self, credentials: &Credentials, pass: &Secret) -> CallRequest;

    /// Reads the answer; `header` tells one of its headers.
    ///
    /// # Errors
    /// [`CallError`] for anything but the documented shape.
    fn read<'a>(
        &self,
        answer: RestAnswer<'_>,
        header: &dyn Fn(&'static str) -> Option<&'a str>,
        received: Timestamp,
    ) -> Result<Self::Answer, CallError>;
}

/// Asks the venue; cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    provider: &'static Provider,
    url: String,
    request: RequestConfig,
    spared_for_live: u32,
    passes: Passes,
    budget: SharedBudget,
    breaker: Mutex<Breaker>,
    http: reqwest::Client,
    clock: VenueClock,
    calendar: &'static Calendar,
    metrics: Arc<Metrics>,
}

impl Client {
    /// Creates the client for requests to `url`; `spared_for_live` of a second's calls are left to others while the market is open, where the
    /// question is of history.
    ///
    /// # Errors
    /// TLS that cannot be set up.
    #[expect(clippy::too_many_arguments, reason = "everything that a call is made of")]
    pub fn new(
        provider: &'static Provider,
        url: &str,
        request: &RequestConfig,
        spared_for_live: u32,
        passes: Passes,
        budget: SharedBudget,
        clock: VenueClock,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Inner {
            provider,
            url: url.to_owned(),
            request: request.clone(),
            spared_for_live,
            passes,
            budget,
            breaker: Mutex::new(Breaker::new(request.breaker())),
            http: crate::http_client(url, request.timeout)?,
            clock,
            calendar: Calendar::of_venue(provider.venue),
            metrics,
        })))
    }

    /// One call, until it is answered.
    ///
    /// # Errors
    /// [`CallError`] when the venue refuses, or fails too often; other errors concern every call: the day's calls are spent.
    pub async fn ask<Q: Question>(&self, question: &Q) -> anyhow::Result<Q::Answer> {
        let inner = &*self.0;
        let mut backoff = Backoff::new(inner.request.backoff());
        loop {
            let problem = match self.ask_once(question).await? {
                Ok(answer) => return Ok(answer),
                Err(problem) => problem,
            };
            let wait = backoff.on_failure(&mut rand::rng());
            if !problem.retryable() || backoff.failures() >= inner.request.attempts {
                return Err(problem.into());
            }
            match &problem {
                // The budget holds everybody back.
                CallError::Limited { wait, .. } => inner.budget.hold(*wait)?,
                CallError::Pass { .. }
                | CallError::Unavailable { .. }
                | CallError::Unreadable { .. }
                | CallError::Refused { .. } => {
                    warn!(provider = inner.provider.id, attempt = backoff.failures(), wait = ?wait, %problem, "asking again");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// One call. The outer error ends everything, the inner one only this call.
    async fn ask_once<Q: Question>(&self, question: &Q) -> anyhow::Result<Result<Q::Answer, CallError>> {
        let inner = &*self.0;
        loop {
            let Err(wait) = self.breaker().admit(inner.clock.monotonic()) else { break };
            tokio::time::sleep(wait).await;
        }
        let pass = match inner.passes.get(PassKind::AccessToken).await {
            Ok(pass) => pass,
            Err(problem) => {
                self.breaker().on_nothing();
                return Err(problem);
            }
        };
        let request = question.request(inner.passes.credentials(), &pass);
        let now = inner.clock.now();
        let spare = match question.class() {
            Class::Live | Class::Repair => 0,
            Class::Backfill if self.is_in_session(now) => inner.spared_for_live,
            Class::Backfill => 0,
        };
        let url = format!("{}{}", inner.url, request.path_and_query);
        let mut call = match request.body {
            Some(body) => inner.http.post(url).body(body),
            None => inner.http.get(url),
        };
        for (name, value) in &request.headers {
            call = call.header(*name, value.expose());
        }
        let permit = inner.budget.take(day_number(inner.calendar, now), spare).await?;
        let answered = async {
            let answer = call.send().await?;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            Ok::<_, reqwest::Error>((status, headers, answer.bytes().await?))
        };
        let answer = match answered.await {
            Ok((status, headers, body)) => {
                inner.budget.answered(&permit)?;
                let answer = RestAnswer { status, retry_after: None, body: &body };
                question.read(answer, &|name| headers.get(name).and_then(|value| value.to_str().ok()), inner.clock.now())
            }
            Err(problem) => {
                // A connection that was never made carried no call; everything else may have.
                if problem.is_connect() {
                    inner.budget.unused(&permit)?;
                }
                Err(CallError::Unavailable { detail: problem.without_url().to_string() })
            }
        };
        let outcome = answer.as_ref().map_or_else(CallError::outcome, |_| "ok");
        inner.metrics.requests.with_label_values(&[inner.provider.id, outcome]).inc();
        debug!(provider = inner.provider.id, outcome, "asked");
        match &answer {
            Err(CallError::Unavailable { .. }) => {
                let mut breaker = self.breaker();
                let was_open = breaker.is_open();
                breaker.on_failure(inner.clock.monotonic());
                if breaker.is_open() && !was_open {
                    inner.metrics.breaker_opened.inc();
                    warn!(provider = inner.provider.id, "the venue keeps failing; it is left alone for a while");
                }
            }
            Err(CallError::Pass { .. }) => {
                self.breaker().on_nothing();
                inner.passes.refused(PassKind::AccessToken, &pass).await?;
            }
            // The venue works.
            Ok(_) | Err(CallError::Limited { .. } | CallError::Refused { .. } | CallError::Unreadable { .. }) => {
                self.breaker().on_success();
            }
        }
        Ok(answer)
    }

    /// Whether live minutes are being asked for now.
    fn is_in_session(&self, now: Timestamp) -> bool {
        self.0.calendar.session_of(now).is_some_and(|session| session.kind == SessionKind::Regular)
    }

    /// Calls that were answered with what was asked for, and all.
    pub fn calls(&self) -> (u64, u64) {
        let (requests, provider) = (&self.0.metrics.requests, self.0.provider.id);
        let of = |outcome: &str| requests.with_label_values(&[provider, outcome]).get();
        let failed: u64 = ["pass_refused", "rate_limited", "unavailable", "refused", "unreadable"].into_iter().map(of).sum();
        (of("ok"), of("ok") + failed)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.0.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The venue's date as `YYYYMMDD`.
fn day_number(calendar: &Calendar, now: Timestamp) -> u32 {
    date_of(calendar, now).strftime("%Y%m%d").to_string().parse().unwrap_or(0)
}
