//! What can go wrong with the local stack, each with what to do about it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// An error of the local stack. `Display` names cause and cure.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No Java, or one that is too old.
    #[error("no Java 17 or newer ({found}); run `make setup` or install a Java runtime")]
    NoJava {
        /// What was found instead.
        found: String,
    },
    /// An artifact `make setup` fetches is not there.
    #[error("{what} is missing at {path}; run `make setup`")]
    ToolMissing {
        /// What is missing.
        what: &'static str,
        /// Where it was expected.
        path: PathBuf,
    },
    /// One of our own programs is not beside the running one.
    #[error("program {name} is missing at {path}; run `cargo build --workspace --bins`")]
    ProgramMissing {
        /// Name of the program.
        name: String,
        /// Where it was expected.
        path: PathBuf,
    },
    /// Somebody else listens on a port we need.
    #[error("port {port} for {part} is taken by {}; stop it or choose another with --{}-port or ports.{key} in stack.toml", owner.as_deref().unwrap_or("another process"), key.replace('_', "-"))]
    PortTaken {
        /// The part that wants the port.
        part: String,
        /// Port number.
        port: u16,
        /// Key under `[ports]`.
        key: String,
        /// Who listens there, where known.
        owner: Option<String>,
    },
    /// Another supervisor works in this home.
    #[error("a stack already runs in {home}{}; see `marketflow status`, stop it with `marketflow down`", pid.map(|pid| format!(" (supervisor pid {pid})")).unwrap_or_default())]
    AlreadyRunning {
        /// State folder.
        home: PathBuf,
        /// Process number of the supervisor, where known.
        pid: Option<u32>,
    },
    /// The data folder was written by another ClickHouse engine or version.
    #[error(
        "the ClickHouse data in {home} was written by {found}, this machine offers {offered}; put {found} back, or drop the data with `marketflow down --purge`, or move {folder} away"
    )]
    WrongEngine {
        /// State folder.
        home: PathBuf,
        /// Engine that wrote the data.
        found: String,
        /// Engine at hand.
        offered: String,
        /// Folder of the data.
        folder: PathBuf,
    },
    /// A part ended or stayed silent while it was started.
    #[error("{part} did not start: {why}; last lines of {log}:\n{tail}")]
    NotStarted {
        /// The part.
        part: String,
        /// What happened.
        why: String,
        /// Its log file.
        log: PathBuf,
        /// The end of the log.
        tail: String,
    },
    /// No part of that name belongs to this stack.
    #[error("no part named {part}; this stack has: {known}")]
    UnknownPart {
        /// The name asked for.
        part: String,
        /// The names there are.
        known: String,
    },
    /// A setting that cannot be.
    #[error("{what}")]
    Config {
        /// What is wrong and where.
        what: String,
    },
    /// The operating system said no.
    #[error("cannot {doing}")]
    Io {
        /// What was being attempted.
        doing: String,
        /// What the system answered.
        source: io::Error,
    },
}

/// Adds what was being attempted to an error of the operating system.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io { doing: what(), source })
    }
}
