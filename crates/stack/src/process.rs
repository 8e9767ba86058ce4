//! Who a process is: number, start time and command line, so that a number used again is never mistaken for one of ours.
//!
//! Next: `part.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::os::{self, Signal};

/// A process as it was when we started it; kept in `run/<name>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process number.
    pub pid: u32,
    /// Start time in clock ticks since boot, as `/proc/<pid>/stat` gives it.
    pub start_ticks: u64,
    /// Command line, arguments joined by blanks.
    pub command: String,
}

impl ProcessIdentity {
    /// Reads who `pid` is now; nothing for a process that has ended.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // the name in parentheses may hold blanks; state is the 3rd field and start time the 22nd, counted from 1
        let after_name = stat.rsplit_once(')')?.1.split_whitespace().collect::<Vec<_>>();
        if matches!(after_name.first(), Some(&("Z" | "X"))) {
            return None;
        }
        let start_ticks = after_name.get(19)?.parse().ok()?;
        Some(Self { pid, start_ticks, command: command_line(pid)? })
    }

    /// Whether this very process still runs.
    #[must_use]
    pub fn alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Asks the process to end and waits up to `patience`, then ends it. Blocks.
    pub fn end(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        if self.alive() {
            os::signal(self.pid, Signal::Terminate);
        }
        while self.alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        if self.alive() {
            tracing::warn!(pid = self.pid, "did not end in time, killing it");
            os::signal(self.pid, Signal::Kill);
            while self.alive() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Sends SIGHUP, upon which a supervisor starts again what is down.
    pub fn hang_up(&self) {
        if self.alive() {
            os::signal(self.pid, Signal::HangUp);
        }
    }

    pub(crate) fn write(&self, run: &Path, name: &str) -> std::io::Result<()> {
        write_atomically(&file(run, name), &serde_json::to_vec(self)?)
    }

    /// The process `name` of this home as last written down, running or not.
    #[must_use]
    pub fn read(home: &Path, name: &str) -> Option<Self> {
        serde_json::from_slice(&fs::read(file(&home.join("run"), name)).ok()?).ok()
    }

    pub(crate) fn forget(run: &Path, name: &str) {
        if let Err(error) = fs::remove_file(file(run, name))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(name, error = %error, "cannot remove the file of an ended process");
        }
    }
}

fn file(run: &Path, name: &str) -> PathBuf {
    run.join(format!("{name}.process.json"))
}

fn command_line(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim_end_matches('\0').replace('\0', " "))
}

/// Replaces a file so that a reader sees the old or the new content, never a part.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("tmp");
    fs::write(&new, content)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_an_earlier_one_with_its_number_is_not() {
        let me = ProcessIdentity::of(std::process::id()).unwrap();
        assert!(me.alive());
        let earlier = ProcessIdentity { start_ticks: me.start_ticks - 1, ..me.clone() };
        assert!(!earlier.alive());
        let other = ProcessIdentity { command: "java kafka.Kafka".into(), ..me };
        assert!(!other.alive());
    }
}
