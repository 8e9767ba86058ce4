//! How much at once.

use std::time::Duration;

/// A token bucket: `rate` tokens a second, at most `burst` saved up.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    refilled: Duration,
    held_until: Duration,
}

impl TokenBucket {
    /// A full bucket. `rate` is tokens per second and positive.
    pub fn new(rate: f64, burst: f64, now: Duration) -> Self {
        Self { rate: rate.max(f64::MIN_POSITIVE), burst: burst.max(1.0), tokens: burst.max(1.0), refilled: now, held_until: now }
    }

    /// Takes `count` tokens (more than the burst counts as the burst), or says how long to wait.
    ///
    /// # Errors
    /// The wait until there will be enough.
    pub fn take(&mut self, count: f64, now: Duration) -> Result<(), Duration> {
        if now < self.held_until {
            return Err(self.held_until - now);
        }
        let elapsed = now.saturating_sub(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.rate).min(self.burst);
        self.refilled = self.refilled.max(now);
        let count = count.min(self.burst);
        if self.tokens >= count {
            self.tokens -= count;
            return Ok(());
        }
        let wait = Duration::try_from_secs_f64((count - self.tokens) / self.rate).unwrap_or(Duration::MAX);
        Err(wait.max(Duration::from_millis(1)))
    }

    /// The venue asked for silence (`Retry-After`): nothing before `wait` has passed.
    pub fn hold(&mut self, wait: Duration, now: Duration) {
        self.held_until = self.held_until.max(now.saturating_add(wait));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn the_rate_holds_over_time_and_the_burst_at_once() {
        let mut bucket = TokenBucket::new(10.0, 20.0, Duration::ZERO);
        let taken = (0..1_000).filter(|_| bucket.take(1.0, Duration::ZERO).is_ok()).count();
        assert_eq!(taken, 20);
        let taken = (1..=10_000).filter(|ms| bucket.take(1.0, Duration::from_millis(*ms)).is_ok()).count();
        assert!((99..=100).contains(&taken), "{taken} in ten seconds");
    }

    #[test]
    fn the_wait_told_is_enough() {
        let mut bucket = TokenBucket::new(2.0, 4.0, Duration::ZERO);
        assert_eq!(bucket.take(4.0, Duration::ZERO), Ok(()));
        let wait = bucket.take(3.0, Duration::ZERO).unwrap_err();
        assert_eq!(bucket.take(3.0, wait + Duration::from_millis(1)), Ok(()));
        assert!(bucket.take(100.0, seconds(10.0)).is_ok(), "more than the burst is the burst");
    }

    #[test]
    fn a_hold_outlasts_the_tokens_and_time_may_stand_still() {
        let mut bucket = TokenBucket::new(10.0, 10.0, seconds(5.0));
        bucket.hold(seconds(17.0), seconds(5.0));
        assert_eq!(bucket.take(1.0, seconds(10.0)), Err(seconds(12.0)));
        assert_eq!(bucket.take(1.0, seconds(22.0)), Ok(()));
        assert_eq!(bucket.take(1.0, seconds(1.0)), Err(seconds(21.0)), "a clock that goes back does not lift the hold");
    }
}
