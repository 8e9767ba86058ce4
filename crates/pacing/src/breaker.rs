//! Leaves a venue alone that keeps failing, and asks it again with one call at a time.

use std::time::Duration;

/// Bounds of a [`Breaker`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long it stays open at first; twice as long after each trial that fails.
    pub open_for: Duration,
    /// And at most so long.
    pub open_for_max: Duration,
}

/// A circuit breaker: closed, open, half-open. Only what says nothing about the one call counts as a failure: no answer, 5xx, web pages.
#[derive(Clone, Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    failures: u32,
    trips: u32,
    open_until: Option<Duration>,
    trial: bool,
}

impl Breaker {
    /// Closed.
    pub const fn new(settings: BreakerSettings) -> Self {
        Self { settings, failures: 0, trips: 0, open_until: None, trial: false }
    }

    /// Whether a call may be made.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub fn admit(&mut self, now: Duration) -> Result<(), Duration> {
        match self.open_until {
            None => Ok(()),
            Some(until) if now < until => Err(until - now),
            // One trial is under way; whoever else asks waits for what comes of it.
            Some(_) if self.trial => Err(Duration::from_millis(100)),
            Some(_) => {
                self.trial = true;
                Ok(())
            }
        }
    }

    /// A call was answered.
    pub fn on_success(&mut self) {
        *self = Self::new(self.settings);
    }

    /// A call failed.
    pub fn on_failure(&mut self, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        let was_trial = std::mem::take(&mut self.trial);
        if was_trial || (self.open_until.is_none() && self.failures >= self.settings.failures) {
            let open_for = self.settings.open_for.saturating_mul(2u32.saturating_pow(self.trips)).min(self.settings.open_for_max);
            self.trips = self.trips.saturating_add(1);
            self.open_until = Some(now + open_for);
        }
    }

    /// A call that was admitted came to nothing that says anything: it is as if it had not been made.
    pub fn on_nothing(&mut self) {
        self.trial = false;
    }

    /// Whether calls are held back.
    pub const fn is_open(&self) -> bool {
        self.open_until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: BreakerSettings =
        BreakerSettings { failures: 3, open_for: Duration::from_secs(2), open_for_max: Duration::from_secs(5) };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_a_trial_decides() {
        let mut breaker = Breaker::new(SETTINGS);
        breaker.on_failure(seconds(0));
        breaker.on_failure(seconds(0));
        breaker.on_success();
        for _ in 0..2 {
            breaker.on_failure(seconds(1));
        }
        assert_eq!(breaker.admit(seconds(1)), Ok(()), "two in a row are not three");
        breaker.on_failure(seconds(1));
        assert!(breaker.is_open());
        assert_eq!(breaker.admit(seconds(2)), Err(seconds(1)));
        assert_eq!(breaker.admit(seconds(3)), Ok(()), "a trial");
        assert!(breaker.admit(seconds(3)).is_err(), "and no second one beside it");
        breaker.on_failure(seconds(3));
        assert_eq!(breaker.admit(seconds(4)), Err(seconds(3)), "twice as long");
        assert_eq!(breaker.admit(seconds(7)), Ok(()));
        breaker.on_failure(seconds(7));
        assert_eq!(breaker.admit(seconds(8)), Err(seconds(4)), "at most five seconds");
        assert_eq!(breaker.admit(seconds(12)), Ok(()));
        breaker.on_success();
        assert!(!breaker.is_open() && breaker.admit(seconds(12)).is_ok());
    }

    #[test]
    fn failures_of_calls_that_were_under_way_do_not_prolong_it() {
        let mut breaker = Breaker::new(SETTINGS);
        for _ in 0..10 {
            breaker.on_failure(seconds(0));
        }
        assert_eq!(breaker.admit(seconds(1)), Err(seconds(1)));
        assert_eq!(breaker.admit(seconds(2)), Ok(()));
        breaker.on_nothing();
        assert_eq!(breaker.admit(seconds(2)), Ok(()), "the next may try");
    }
}
