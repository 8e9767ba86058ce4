//! When to try again.

use crate::TokenBucket;
use rand::Rng;
use std::time::Duration;

/// Bounds of a [`Backoff`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffSettings {
    /// Ceiling of the first wait, and least wait of all.
    pub min: Duration,
    /// Ceiling of every wait.
    pub max: Duration,
    /// The counter starts again only after data flowed for so long, so that a connection that dies young keeps backing off.
    pub reset_after: Duration,
}

/// Full-jitter back-off: the n-th wait is drawn evenly between `min` and `min × 2ⁿ`, at most `max`.
///
/// **Source**: "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
#[derive(Clone, Debug)]
pub struct Backoff {
    settings: BackoffSettings,
    failures: u32,
    flowing_since: Option<Duration>,
}

impl Backoff {
    /// No failure yet.
    pub const fn new(settings: BackoffSettings) -> Self {
        Self { settings, failures: 0, flowing_since: None }
    }

    /// Failures since the last reset.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Data arrived.
    pub fn on_data(&mut self, now: Duration) {
        let since = *self.flowing_since.get_or_insert(now);
        if now.saturating_sub(since) >= self.settings.reset_after {
            self.failures = 0;
        }
    }

    /// It failed: how long to wait before the next attempt.
    pub fn on_failure(&mut self, random: &mut impl Rng) -> Duration {
        self.flowing_since = None;
        self.failures = self.failures.saturating_add(1);
        let ceiling = self.settings.min.saturating_mul(2u32.saturating_pow(self.failures)).min(self.settings.max);
        random.random_range(self.settings.min.min(ceiling)..=ceiling)
    }
}

/// Attempts that all connections to one venue share, so that many failing at once do not get the address banned.
#[derive(Clone, Debug)]
pub struct AttemptBudget(TokenBucket);

impl AttemptBudget {
    /// `attempts` in any `window`.
    pub fn new(attempts: u32, window: Duration, now: Duration) -> Self {
        Self(TokenBucket::new(f64::from(attempts) / window.as_secs_f64(), f64::from(attempts), now))
    }

    /// Takes one attempt, or says how long to wait for one.
    ///
    /// # Errors
    /// The wait until an attempt is free.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        self.0.take(1.0, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    const SETTINGS: BackoffSettings =
        BackoffSettings { min: Duration::from_millis(500), max: Duration::from_secs(30), reset_after: Duration::from_secs(60) };

    #[test]
    fn waits_are_spread_below_a_doubling_ceiling() {
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        let mut backoff = Backoff::new(SETTINGS);
        let waits: Vec<Duration> = (0..200).map(|_| backoff.on_failure(&mut random)).collect();
        for (n, wait) in waits.iter().enumerate() {
            let ceiling = (SETTINGS.min * 2u32.pow(u32::try_from(n + 1).unwrap().min(10))).min(SETTINGS.max);
            assert!(*wait >= SETTINGS.min && *wait <= ceiling, "{n}: {wait:?}");
        }
        let late = &waits[10..];
        assert!(
            late.iter().any(|w| *w < Duration::from_secs(8)) && late.iter().any(|w| *w > Duration::from_secs(22)),
            "no jitter"
        );
    }

    #[test]
    fn only_a_minute_of_data_resets_the_counter() {
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        let mut backoff = Backoff::new(SETTINGS);
        for _ in 0..5 {
            backoff.on_failure(&mut random);
        }
        backoff.on_data(Duration::from_secs(100));
        backoff.on_data(Duration::from_secs(159));
        assert_eq!(backoff.failures(), 5);
        backoff.on_data(Duration::from_secs(160));
        assert_eq!(backoff.failures(), 0);
        backoff.on_failure(&mut random);
        backoff.on_data(Duration::from_secs(200));
        assert_eq!(backoff.failures(), 1, "the minute counts from the reconnect");
    }

    #[test]
    fn the_budget_is_shared_and_refills() {
        let mut budget = AttemptBudget::new(3, Duration::from_secs(30), Duration::ZERO);
        for _ in 0..3 {
            assert_eq!(budget.take(Duration::ZERO), Ok(()));
        }
        let wait = budget.take(Duration::ZERO).unwrap_err();
        assert!(wait > Duration::from_secs(9) && wait <= Duration::from_secs(10), "{wait:?}");
        assert_eq!(budget.take(Duration::from_secs(11)), Ok(()));
    }
}
