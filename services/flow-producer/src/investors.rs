//! Investors' net buying of Korean shares by day (수급): symbols side by side, each from its cursor on, stretch by stretch, oldest first.
//!
//! All calls go through the key's one budget (`crates/access`), so what the candle-producer asks with the same key counts as well.
//!
//! Next: `journal.rs`, where what was answered goes.

use crate::collect::Collected;
use crate::config::{CheckedInvestors, Config};
use crate::journal::{Journal, endpoint_of_days};
use crate::metrics::Metrics;
use crate::now;
use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::civil::{Date, Weekday};
use jiff::{Span, ToSpan};
use marketflow_access::{self as access, Client, Passes, SharedBudget, VenueClock, date_of};
use marketflow_metadata::Store;
use marketflow_model::{Calendar, Instrument, Timestamp};
use marketflow_pacing::Class;
use marketflow_providers::investors::{InvestorDays, Investors, Measure};
use marketflow_providers::{CallError, CallRequest, Credentials, RestAnswer, Secret};
use marketflow_runtime::{Stop, on_thread};
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// As far back as is asked for without a first day.
const TEN_YEARS: i32 = 10;

/// Asks one broker; cheap to clone.
#[derive(Clone)]
pub struct Desk {
    checked: CheckedInvestors,
    client: Client,
    store: Store,
    /// Whoever holds it works.
    lease: String,
    clock: VenueClock,
    calendar: &'static Calendar,
    journal: Arc<Journal>,
    metrics: Arc<Metrics>,
    stop: Stop,
}

/// One question: what investors bought of an instrument on the days up to `last`.
struct Asked<'a> {
    investors: &'static dyn Investors,
    instrument: &'a Instrument,
    measure: Measure,
    last: Date,
}

impl access::Question for Asked<'_> {
    type Answer = InvestorDays;

    fn class(&self) -> Class {
        Class::Backfill
    }

    fn request(&self, credentials: &Credentials, pass: &Secret) -> CallRequest {
        self.investors.request(self.instrument, self.measure, self.last, credentials, pass)
    }

    fn read<'a>(
        &self,
        answer: RestAnswer<'_>,
        _: &dyn Fn(&'static str) -> Option<&'a str>,
        _: Timestamp,
    ) -> Result<InvestorDays, CallError> {
        self.investors.read(self.measure, answer)
    }
}

impl Desk {
    /// Gets in.
    ///
    /// # Errors
    /// Credentials that are missing, by name; a clock that does not answer; a folder that cannot be written.
    pub async fn open(
        config: &Config,
        checked: CheckedInvestors,
        journal: Arc<Journal>,
        metrics: Arc<Metrics>,
        stop: Stop,
    ) -> anyhow::Result<Self> {
        let provider = checked.provider;
        let clock = VenueClock::connect(&config.clock).await?;
        tokio::spawn(clock.clone().run());
        let folder = access::folder(&config.state.folder)?;
        let passes = Passes::new(provider, &checked.rest_url, &folder, &config.collect.credentials_file)?
            .with_context(|| format!("{} issues no passes", provider.id))?;
        let store = Store::open(&config.metadata, &folder).await?;
        let lease = format!("{}-investors-{}", provider.id, passes.owner());
        let budget_file = folder.join(format!("{}-budget-{}.json", provider.id, passes.owner()));
        let budget = SharedBudget::new(&budget_file, checked.limits.clone(), metrics.access.clone())?;
        let (url, spared) = (&checked.rest_url, config.budget.spared_for_live);
        let (clock_of_calls, counted) = (clock.clone(), metrics.access.clone());
        let client = Client::new(provider, url, &config.request, spared, passes, budget, clock_of_calls, counted)?;
        let calendar = Calendar::of_venue(provider.venue);
        Ok(Self { checked, client, store, lease, clock, calendar, journal, metrics, stop })
    }

    /// Collects every symbol up to the last day; `again`: so many days up to it are read once more.
    ///
    /// # Errors
    /// Kafka, the disk or the broker's door fail: what it says of one symbol does not end it.
    pub async fn collect(self, again: Option<i32>) -> anyhow::Result<Collected> {
        let Some(lease) = self.store.lease([self.lease.clone()], &self.stop).await? else {
            return Ok(Collected { failed: Vec::new(), least: Duration::ZERO });
        };
        lease.hold(self.collect_all(again)).await
    }

    async fn collect_all(&self, again: Option<i32>) -> anyhow::Result<Collected> {
        // The day before: what brokers tell of a day they tell after it, and correct until the evening.
        let last = self.checked.last.unwrap_or_else(|| back(date_of(self.calendar, self.clock.now()), 1.day()));
        let first = self.checked.first.unwrap_or_else(|| back(last, TEN_YEARS.years()));
        let due: Vec<(Instrument, Date)> = self
            .checked
            .symbols
            .iter()
            .map(|symbol| {
                let collected = self.journal.days_collected_through(&self.endpoint(symbol));
                let next = collected.map_or(first, |day| day.saturating_add(1.day())).max(first);
                (symbol.clone(), again.map_or(next, |days| next.min(back(last, (days - 1).days())).max(first)))
            })
            .filter(|(_, next)| *next <= last)
            .collect();
        self.metrics.days_due.set(due.iter().map(|(_, next)| i64::from(days_between(*next, last))).sum());
        info!(provider = self.checked.provider.id, symbols = due.len(), from = %first, to = %last, "collecting investors' net buying");
        let (desk, calls_before) = (self, self.client.calls().1);
        let failed: Vec<Option<String>> = stream::iter(due)
            .map(|(symbol, next)| async move {
                anyhow::Ok((!desk.collect_symbol(&symbol, next, last).await?).then(|| desk.endpoint(&symbol)))
            })
            .buffer_unordered(self.checked.parallel)
            .try_collect()
            .await?;
        let calls = self.client.calls().1 - calls_before;
        Ok(Collected { failed: failed.into_iter().flatten().collect(), least: self.checked.limits.least_time(calls) })
    }

    /// What a cursor is kept for.
    fn endpoint(&self, symbol: &Instrument) -> String {
        endpoint_of_days(self.checked.provider.id, symbol.symbol())
    }

    /// Whether all of it is there, or the service stops.
    async fn collect_symbol(&self, symbol: &Instrument, next: Date, last: Date) -> anyhow::Result<bool> {
        let endpoint = self.endpoint(symbol);
        let mut next = next;
        while next <= last && !self.stop.requested() {
            let through = next.saturating_add((self.checked.investors.days() - 1).days()).min(last);
            let days = match self.ask(symbol, next, through).await {
                Ok(days) => days,
                Err(problem) => {
                    let Some(said) = problem.downcast_ref::<CallError>() else { return Err(problem) };
                    self.journal.note_problem(now(), &endpoint, &said.to_string())?;
                    warn!(endpoint, problem = %said, "left for the next run");
                    self.metrics.failed.inc();
                    return Ok(false);
                }
            };
            let flows = days.flows(symbol, self.checked.provider.id, next, through, now());
            let (journal, name) = (self.journal.clone(), endpoint.clone());
            let written = on_thread("journal", move || journal.keep_days(&name, flows, through)).await?;
            self.metrics.days_done.add(i64::from(days_between(next, through)));
            info!(endpoint, from = %next, %through, written, "collected");
            next = through.saturating_add(1.day());
        }
        Ok(true)
    }

    /// What is told of these days; what is older than an answer shows is asked for again by its date.
    async fn ask(&self, symbol: &Instrument, first: Date, last: Date) -> anyhow::Result<InvestorDays> {
        let mut days = InvestorDays::default();
        for measure in self.checked.investors.measures() {
            let mut until = last;
            while has_weekday(first, until) {
                let asked = Asked { investors: self.checked.investors, instrument: symbol, measure: *measure, last: until };
                let told = self.client.ask(&asked).await?;
                let oldest = told.oldest();
                days.merge(told);
                match oldest.filter(|oldest| *oldest <= until) {
                    Some(oldest) => until = back(oldest, 1.day()),
                    None => break,
                }
            }
        }
        Ok(days)
    }
}

fn back(date: Date, span: Span) -> Date {
    date.saturating_sub(span)
}

/// Whether the exchange may have been open on one of these days.
fn has_weekday(first: Date, last: Date) -> bool {
    let is_weekday = |day: Date| !matches!(day.weekday(), Weekday::Saturday | Weekday::Sunday);
    first.series(1.day()).take_while(|day| *day <= last).any(is_weekday)
}

/// Both included.
fn days_between(first: Date, last: Date) -> i32 {
    first.until(last).map_or(0, |span| span.get_days() + 1)
}
