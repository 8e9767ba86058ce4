//! One call: leave from the budget, the pass, the answer, and again when that can help.
//!
//! Next: `check.rs`.

use super::budget::SharedBudget;
use super::config::{Checked, Config, RequestConfig};
use super::metrics::Metrics;
use super::plan::date_of;
use crate::clock::VenueClock;
use crate::passes::Passes;
use anyhow::Context;
use marketflow_model::{Amount, Calendar, Feed, Instrument, SessionKind, Timestamp};
use marketflow_pacing::{Backoff, Breaker, Class};
use marketflow_providers::{CallError, CandlePage, CandleRows, PassKind, RestAnswer};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::{debug, warn};

/// Asks the venue; cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    checked: Checked,
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

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Of which instrument.
    pub instrument: &'a Instrument,
    /// Which minutes.
    pub page: &'a CandlePage,
    /// Of which feed the candles are.
    pub feed: &'a Feed,
    /// The day's turnover before them, where it is known.
    pub before: Option<Amount>,
    /// What for.
    pub class: Class,
}

impl Client {
    /// Creates the client.
    ///
    /// # Errors
    /// TLS that cannot be set up.
    pub fn new(
        checked: &Checked,
        config: &Config,
        passes: Passes,
        budget: SharedBudget,
        clock: VenueClock,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let mut http = reqwest::Client::builder()
            .timeout(config.request.timeout)
            .user_agent(concat!("marketflow/", env!("CARGO_PKG_VERSION")));
        if crate::backfill::on_this_machine(&checked.rest_url) {
            http = http.no_proxy();
        }
        Ok(Self(Arc::new(Inner {
            checked: checked.clone(),
            request: config.request.clone(),
            spared_for_live: config.budget.spared_for_live,
            passes,
            budget,
            breaker: Mutex::new(Breaker::new(config.request.breaker())),
            http: http.build().context("the client for requests to the venue")?,
            clock,
            calendar: Calendar::of_venue(checked.provider.venue),
            metrics,
        })))
    }

    /// Asks until it is answered, and again for what the venue cut off.
    ///
    /// # Errors
    /// The venue refuses, or fails too often; the day's calls are spent.
    pub async fn ask(&self, question: Question<'_>) -> anyhow::Result<CandleRows> {
        let about = || format!("the minutes from {} of {}", question.page.from, question.instrument);
        let mut rows = self.ask_call(question, None).await.with_context(about)?;
        while rows.reaches.is_some_and(|oldest| oldest > question.page.from)
            && let Some(further) = rows.further.take()
        {
            let older = self.ask_call(question, Some(&further)).await.with_context(about)?;
            rows = rows.with_older(older).with_context(about)?;
        }
        Ok(rows)
    }

    /// One call, until it is answered.
    async fn ask_call(&self, question: Question<'_>, further: Option<&str>) -> anyhow::Result<CandleRows> {
        let inner = &*self.0;
        let mut backoff = Backoff::new(inner.request.backoff());
        loop {
            let problem = match self.ask_once(question, further).await? {
                Ok(rows) => return Ok(rows),
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
                    warn!(provider = inner.checked.provider.id, attempt = backoff.failures(), wait = ?wait, %problem, "asking again");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// One call. The outer error ends everything, the inner one only this call.
    async fn ask_once(&self, question: Question<'_>, further: Option<&str>) -> anyhow::Result<Result<CandleRows, CallError>> {
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
        let candles = inner.checked.candles;
        let request = candles.request(question.instrument, question.page, further, inner.passes.credentials(), &pass);
        let now = inner.clock.now();
        let spare = match question.class {
            Class::Live | Class::Repair => 0,
            Class::Backfill if self.is_in_session(now) => inner.spared_for_live,
            Class::Backfill => 0,
        };
        let url = format!("{}{}", inner.checked.rest_url, request.path_and_query);
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
                let (page, received) = (question.page, inner.clock.now());
                let further = candles.further(&|name| headers.get(name).and_then(|value| value.to_str().ok()));
                candles
                    .read(question.instrument, question.feed, page, question.before, answer, received)
                    .map(|rows| CandleRows { further: further.map(str::to_owned), ..rows })
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
        inner.metrics.requests.with_label_values(&[inner.checked.provider.id, outcome]).inc();
        debug!(instrument = %question.instrument, from = %question.page.from, outcome, "asked");
        match &answer {
            Err(CallError::Unavailable { .. }) => {
                let mut breaker = self.breaker();
                let was_open = breaker.is_open();
                breaker.on_failure(inner.clock.monotonic());
                if breaker.is_open() && !was_open {
                    inner.metrics.breaker_opened.inc();
                    warn!(provider = inner.checked.provider.id, "the venue keeps failing; it is left alone for a while");
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

    /// Calls that were answered with rows, and all.
    pub fn calls(&self) -> (u64, u64) {
        let (requests, provider) = (&self.0.metrics.requests, self.0.checked.provider.id);
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
    let date = date_of(calendar, now);
    date.strftime("%Y%m%d").to_string().parse().unwrap_or(0)
}
