//! Where a run stands, kept in a file, so that a simulator that was killed goes on where it was: an exchange does not forget its day.
//!
//! Trades before the kept instant have happened: REST shows them, and the truth calls them `rest_only`, because what the earlier process put on
//! sockets is not known any more. Trades the earlier process sent after the last note are sent again under the same ids. Extra trades that faults
//! made up (`zero_size`, `too_precise`) are forgotten. Next: `player.rs`.

use crate::config::Config;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::path::Path;
use tracing::{info, warn};

#[derive(Serialize, Deserialize)]
struct Note {
    /// Tells this run's tapes from another's.
    run: String,
    /// Everything up to here was sent, UTC microseconds.
    now_us: i64,
}

fn run_of(config: &Config) -> anyhow::Result<String> {
    Ok(serde_json::to_string(&(config.seed, &config.tapes, &config.range))?)
}

/// Notes the place, whole or not at all.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn keep(config: &Config, now_us: i64) -> anyhow::Result<()> {
    let path = &config.place.path;
    let attempt = || -> anyhow::Result<()> {
        let partial = path.with_extension("partial");
        std::fs::write(&partial, serde_json::to_vec(&Note { run: run_of(config)?, now_us })?)?;
        Ok(std::fs::rename(&partial, path)?)
    };
    attempt().with_context(|| format!("cannot note the place in {}", path.display()))
}

/// The kept place of this run, if there is one.
pub(crate) fn kept(config: &Config) -> Option<i64> {
    let path = &config.place.path;
    if path.as_os_str().is_empty() {
        return None;
    }
    match read(path, config) {
        Ok(Some(now_us)) => {
            info!(virtual_now_us = now_us, "going on where an earlier process was");
            Some(now_us)
        }
        Ok(None) => None,
        Err(error) => {
            warn!(error = format!("{error:#}"), "the kept place is not used");
            None
        }
    }
}

fn read(path: &Path, config: &Config) -> anyhow::Result<Option<i64>> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let note: Note = serde_json::from_slice(&bytes)?;
    anyhow::ensure!(note.run == run_of(config)?, "{} belongs to a run of other tapes", path.display());
    Ok(Some(note.now_us))
}
