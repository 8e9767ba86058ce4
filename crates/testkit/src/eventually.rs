//! Waiting for what other processes do, without guessing how long it takes.

use anyhow::Context;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const PAUSE: Duration = Duration::from_millis(50);

/// Repeats `check` until it succeeds; a failure is final only after `deadline`, and is then the last one seen.
///
/// ```
/// # use marketflow_testkit::eventually;
/// # use std::time::{Duration, Instant};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let start = Instant::now();
/// let waited = eventually(Duration::from_secs(5), async || {
///     let waited = start.elapsed();
///     anyhow::ensure!(waited > Duration::from_millis(60), "only {waited:?}");
///     Ok(waited)
/// });
/// assert!(waited.await.unwrap() > Duration::from_millis(60));
/// # });
/// ```
///
/// # Errors
/// The last failure of `check`, when it never succeeded.
pub async fn eventually<T>(deadline: Duration, mut check: impl AsyncFnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match check().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= end => return Err(error).with_context(|| format!("not within {deadline:?}")),
            Err(_) => sleep(PAUSE).await,
        }
    }
}
