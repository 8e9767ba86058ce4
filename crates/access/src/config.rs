//! The sections of a configuration that say how a key is used.

use anyhow::{Context, ensure};
use marketflow_pacing::{BackoffSettings, BreakerSettings, Limits, WindowLimit};
use marketflow_providers::CallLimits;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Name of the variable that lowers the calls a second.
const MAX_CALLS_VARIABLE: &str = "MAX_API_CALLS_PER_SECOND";
const ONE_SECOND: Duration = Duration::from_secs(1);
/// A call is over so long after the wait for its answer ended.
const OVER_AFTER_TIMEOUT: Duration = Duration::from_secs(2);

/// Section `[budget]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetConfig {
    /// Calls a second; 0 = as the venue allows.
    pub calls_per_second: u32,
    /// Calls a day; 0 = as the venue allows.
    pub calls_per_day: u64,
    /// Of a second's calls, what history leaves alone while the market is open.
    pub spared_for_live: u32,
}

/// Section `[request]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestConfig {
    /// Wait for an answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Least wait after a failure.
    #[serde(with = "humantime_serde")]
    pub backoff_min: Duration,
    /// Longest wait after a failure.
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    /// Failures in a row of one call before it is given up.
    pub attempts: u32,
    /// Failures in a row of all calls before the venue is left alone.
    pub breaker_failures: u32,
    /// For how long at first.
    #[serde(with = "humantime_serde")]
    pub breaker_open: Duration,
    /// And at most.
    #[serde(with = "humantime_serde")]
    pub breaker_open_max: Duration,
}

impl RequestConfig {
    /// Checks what spans keys.
    ///
    /// # Errors
    /// The first key that cannot be.
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(self.attempts > 0, "request.attempts must be at least 1");
        ensure!(self.backoff_min <= self.backoff_max, "request.backoff_min exceeds request.backoff_max");
        Ok(())
    }

    /// As the back-off takes it.
    pub fn backoff(&self) -> BackoffSettings {
        BackoffSettings { min: self.backoff_min, max: self.backoff_max, reset_after: Duration::ZERO }
    }

    /// As the circuit breaker takes it.
    pub fn breaker(&self) -> BreakerSettings {
        BreakerSettings { failures: self.breaker_failures, open_for: self.breaker_open, open_for_max: self.breaker_open_max }
    }
}

/// What the environment lowers the calls a second to, as it stands there.
pub fn max_calls_variable() -> Option<String> {
    std::env::var(MAX_CALLS_VARIABLE).ok()
}

impl BudgetConfig {
    /// What the key may spend where the venue allows `own`; `max_calls` as [`max_calls_variable`] says.
    ///
    /// # Errors
    /// A variable that is no number.
    pub fn limits(&self, own: CallLimits, request: &RequestConfig, max_calls: Option<&str>) -> anyhow::Result<Limits> {
        let mut window = match self.calls_per_second {
            0 => WindowLimit { calls: own.calls, window: own.within },
            calls => WindowLimit { calls, window: ONE_SECOND },
        };
        if let Some(text) = max_calls.map(str::trim).filter(|text| !text.is_empty()) {
            let calls = text.parse::<u32>().ok().filter(|calls| *calls > 0);
            let calls = calls.with_context(|| format!("{MAX_CALLS_VARIABLE} {text:?} is no number above 0"))?;
            let lower = WindowLimit { calls, window: ONE_SECOND };
            window = if lower.per_second() < window.per_second() { lower } else { window };
        }
        let per_day = if self.calls_per_day == 0 { own.per_day } else { Some(self.calls_per_day) };
        Ok(Limits { windows: vec![window], per_day, call_over_after: request.timeout + OVER_AFTER_TIMEOUT })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_a_second_are_the_venues_or_those_given_and_the_variable_only_lowers_them() {
        let request = RequestConfig {
            timeout: ONE_SECOND,
            backoff_min: ONE_SECOND,
            backoff_max: ONE_SECOND,
            attempts: 1,
            breaker_failures: 1,
            breaker_open: ONE_SECOND,
            breaker_open_max: ONE_SECOND,
        };
        let kis = CallLimits { calls: 18, within: ONE_SECOND, per_day: Some(1_000_000) };
        let limits = |own, calls_per_second, variable| {
            let budget = BudgetConfig { calls_per_second, calls_per_day: 0, spared_for_live: 0 };
            budget.limits(own, &request, variable)
        };
        let calls = |calls_per_second, variable| limits(kis, calls_per_second, variable).unwrap().windows[0].calls;
        assert_eq!(calls(0, None), 18);
        assert_eq!(calls(0, Some("5")), 5);
        assert_eq!(calls(0, Some("50")), 18);
        assert_eq!(calls(100, Some("")), 100);
        let kiwoom = CallLimits { calls: 2, within: 2 * ONE_SECOND, per_day: None };
        let own = WindowLimit { calls: 2, window: 2 * ONE_SECOND };
        for variable in [None, Some("1")] {
            let limits = limits(kiwoom, 0, variable).unwrap();
            assert_eq!((limits.windows, limits.per_day), (vec![own], None), "as slow as the variable asks");
        }
        assert!(limits(kis, 0, Some("0")).is_err() && limits(kis, 0, Some("many")).is_err());
    }
}
