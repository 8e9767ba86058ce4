//! The key's budget in a file, for every process of the machine that uses the key, and for their successors.
//!
//! The file is read, changed and replaced under a lock, for each call: a replaced file is never half a file, so a process that is killed loses
//! nothing but its own call, which counts. What is on the disk for good is the day's count, in portions (`crates/pacing/src/budget.rs`). Times in
//! the file are the wall's at the start of each process plus what has passed since, so a clock that is set meanwhile moves nothing.
//!
//! Next: `client.rs`.

use crate::metrics::Metrics;
use anyhow::Context;
use marketflow_pacing::{Budget, Denied, Limits, Permit};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// A place may become free before it says so; whoever waits looks again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The budget of one key; cheap to clone.
#[derive(Clone)]
pub struct SharedBudget(Arc<Inner>);

struct Inner {
    path: PathBuf,
    lock: PathBuf,
    limits: Limits,
    boot: String,
    started: (Duration, Instant),
    metrics: Arc<Metrics>,
}

impl SharedBudget {
    /// The budget of this file.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn new(path: &Path, limits: Limits, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let (path, lock) = (path.to_owned(), path.with_extension("lock"));
        let budget = Self(Arc::new(Inner { path, lock, limits, boot, started: (since_epoch, Instant::now()), metrics }));
        // Whatever is wrong with the place shows now.
        budget.change(|_, _| ())?;
        Ok(budget)
    }

    /// Waits for leave to make a call, with so many places left to others. `day` is the venue's date, as `YYYYMMDD`.
    ///
    /// # Errors
    /// The day's calls are spent, or the file cannot be written.
    pub async fn take(&self, day: u32, spare: u32) -> anyhow::Result<Permit> {
        let asked = Instant::now();
        loop {
            let limits = &self.0.limits;
            match self.change(|budget, now| (budget.take(limits, now, day, spare), budget.left_today(limits, day)))? {
                (Ok(permit), left) => {
                    self.0.metrics.waited.observe(asked.elapsed().as_secs_f64());
                    self.0.metrics.left_today.set(left.and_then(|left| i64::try_from(left).ok()).unwrap_or(-1));
                    return Ok(permit);
                }
                (Err(Denied::Wait(wait)), _) => tokio::time::sleep(wait.clamp(Duration::from_micros(200), LOOK_AGAIN)).await,
                (Err(Denied::DaySpent), _) => {
                    anyhow::bail!("the key's calls of the day are spent (budget.calls_per_day); go on tomorrow, nothing is lost")
                }
            }
        }
    }

    /// The answer has arrived.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn answered(&self, permit: &Permit) -> anyhow::Result<()> {
        self.change(|budget, now| budget.answered(&self.0.limits, permit, now))
    }

    /// The call never left.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn unused(&self, permit: &Permit) -> anyhow::Result<()> {
        self.change(|budget, _| budget.unused(permit))
    }

    /// The venue asked for silence, of everybody who uses the key.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn hold(&self, wait: Duration) -> anyhow::Result<()> {
        self.change(|budget, now| budget.hold(wait, now))
    }

    fn now(&self) -> Duration {
        let (since_epoch, started) = self.0.started;
        since_epoch + started.elapsed()
    }

    /// Reads, changes and replaces the budget, alone. It takes tens of microseconds, so it does not leave the thread.
    fn change<T>(&self, change: impl FnOnce(&mut Budget, Duration) -> T) -> anyhow::Result<T> {
        let doing = || format!("cannot keep the budget in {}", self.0.path.display());
        let lock = private(&self.0.lock).with_context(doing)?;
        lock.lock().with_context(doing)?;
        let now = self.now();
        let mut budget = self.read(now).with_context(doing)?;
        let before = budget.clone();
        let changed = change(&mut budget, now);
        if budget != before || !self.0.path.exists() {
            let temporary = self.0.path.with_extension("tmp");
            let mut file = private(&temporary).with_context(doing)?;
            file.set_len(0).and_then(|()| file.write_all(&serde_json::to_vec(&budget)?)).with_context(doing)?;
            if budget.reserved() != before.reserved() {
                file.sync_all().with_context(doing)?;
            }
            std::fs::rename(&temporary, &self.0.path).with_context(doing)?;
        }
        Ok(changed)
    }

    fn read(&self, now: Duration) -> std::io::Result<Budget> {
        let limits = &self.0.limits;
        let budget = match std::fs::read(&self.0.path) {
            Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => Budget::default(),
            Err(problem) => return Err(problem),
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(budget) => budget,
                // Damaged from outside: everything may have been spent a moment ago.
                Err(_) => {
                    let mut budget = Budget::default();
                    budget.hold(limits.call_over_after, now);
                    budget
                }
            },
        };
        Ok(budget.resume(limits, &self.0.boot, now))
    }
}

/// For the owner's eyes only.
fn private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}
