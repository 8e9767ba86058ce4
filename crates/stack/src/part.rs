//! One part of the stack as a value: which program, with what, on which ports, how to ask whether it is ready.
//!
//! Building the values is in `kafka.rs`, `registry.rs`, `clickhouse.rs` and `service.rs`. Next: `supervisor.rs`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::ports::PortUse;
use crate::probe::Probe;

/// How one part is started, known ready and stopped.
#[derive(Debug, Clone)]
pub struct PartSpec {
    /// Name on the command line and of the log file.
    pub name: String,
    /// Program to start.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to the environment.
    pub env: Vec<(String, String)>,
    /// Working folder; ours when absent.
    pub folder: Option<PathBuf>,
    /// Ports it will listen on.
    pub ports: Vec<PortUse>,
    /// How to ask whether it works.
    pub probe: Probe,
    /// A line its log must show before it counts as ready.
    pub ready_line: Option<&'static str>,
    /// How long it may take until it is ready.
    pub ready_within: Duration,
    /// How long it may take to end when asked to.
    pub stop_within: Duration,
    /// Whether exit code 0 says that it is done; otherwise it is started again.
    pub may_end: bool,
}

impl PartSpec {
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // what was set for the command line, or for one service, is an unknown key to the others
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"MARKETFLOW__")) {
            command.env_remove(name);
        }
        command.args(&self.args).envs(self.env.iter().map(|(key, value)| (key, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }
}

/// What a part is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not running, and not meant to.
    Stopped,
    /// Started, not yet ready.
    Starting,
    /// Answers.
    Ready,
    /// Runs but does not answer.
    NotAnswering,
    /// Ended by itself; started again after a pause.
    BackingOff,
    /// Ended too often; left alone.
    GaveUp,
    /// Ended by itself with exit code 0: what it was started for is done.
    Done,
}

impl State {
    /// Whether it is as it should be while the stack runs.
    #[must_use]
    pub const fn is_well(self) -> bool {
        matches!(self, Self::Ready | Self::Done)
    }
}

/// What `status` shows of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartStatus {
    /// Name of the part.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// Process number while it runs.
    pub pid: Option<u32>,
    /// Ports on 127.0.0.1.
    pub ports: Vec<PortUse>,
    /// How often it was started again after ending by itself.
    pub restarts: u32,
    /// What is to be known about the state: why it ended, what it does not answer.
    pub note: String,
    /// Log file.
    pub log: PathBuf,
}

/// The Java runtime to use: `JAVA_HOME`, else the PATH; 17 or newer.
///
/// # Errors
/// [`Error::NoJava`] says what was found instead.
pub fn java() -> Result<PathBuf, Error> {
    let home = std::env::var_os("JAVA_HOME").filter(|home| !home.is_empty());
    let program = home.map_or_else(|| PathBuf::from("java"), |home| PathBuf::from(home).join("bin/java"));
    let output = Command::new(&program).arg("-version").output();
    let output = output.map_err(|error| Error::NoJava { found: format!("{}: {error}", program.display()) })?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    // openjdk version "17.0.15" 2025-04-15; version 8 calls itself 1.8
    let version = text.split('"').nth(1).unwrap_or_default();
    match version.split(['.', '-', '+']).next().and_then(|major| major.parse::<u32>().ok()) {
        Some(major) if major >= 17 => Ok(program),
        _ => Err(Error::NoJava { found: text.lines().next().unwrap_or("no version told").to_owned() }),
    }
}
