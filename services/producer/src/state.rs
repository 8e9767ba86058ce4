//! The state file: which instruments are subscribed and which gaps are open. Written beside and renamed, so it is never half a file.
//!
//! The log stays the truth about trades; this file holds what the log's end may no longer show.

use crate::ledger::State;
use anyhow::Context;
use marketflow_model::Instrument;
use std::path::{Path, PathBuf};

/// The state file of a feed.
#[derive(Debug, Clone)]
pub struct StateFile(PathBuf);

impl StateFile {
    /// In this folder.
    pub fn new(folder: &Path, feed: &str) -> Self {
        Self(folder.join(format!("tick-producer-{feed}.json")))
    }

    /// Reads it; nothing there is an empty state.
    ///
    /// # Errors
    /// A file that cannot be read or understood, with the cure.
    pub fn read(&self) -> anyhow::Result<State> {
        let text = match std::fs::read(&self.0) {
            Ok(text) => text,
            Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => return Ok(State::default()),
            Err(problem) => return Err(problem).with_context(|| format!("cannot read {}", self.0.display())),
        };
        serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is damaged; remove it: subscriptions of the configuration and the log's end are used then",
                self.0.display()
            )
        })
    }

    /// Writes it.
    ///
    /// # Errors
    /// A full or read-only disk.
    pub fn write(&self, state: &State) -> anyhow::Result<()> {
        use std::io::Write;
        let temporary = self.0.with_extension("tmp");
        let doing = || format!("cannot write {}", self.0.display());
        let mut file = std::fs::File::create(&temporary).with_context(doing)?;
        file.write_all(&serde_json::to_vec_pretty(state)?).and_then(|()| file.sync_all()).with_context(doing)?;
        std::fs::rename(&temporary, &self.0).with_context(doing)
    }
}

/// What is subscribed at the start: the configuration and what was added at run time, less what was left at run time.
pub fn merge(configured: &[Instrument], mut state: State) -> State {
    let wanted: Vec<Instrument> =
        configured.iter().filter(|instrument| !state.left.contains_key(*instrument)).chain(&state.added).cloned().collect();
    let mut known = std::mem::take(&mut state.instruments);
    state.instruments = wanted
        .into_iter()
        .map(|instrument| {
            let since = known.remove(&instrument).flatten();
            (instrument, since)
        })
        .collect();
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use marketflow_model::Timestamp;

    #[test]
    fn run_time_changes_outlive_a_restart() {
        let instrument = |text: &str| text.parse::<Instrument>().unwrap();
        let since = Some(Timestamp::from_seconds(5));
        let state = State {
            instruments: [(instrument("V:A"), since), (instrument("V:C"), since), (instrument("V:OLD"), since)].into(),
            added: [instrument("V:C")].into(),
            left: [(instrument("V:B"), since)].into(),
            ..State::default()
        };
        let merged = merge(&[instrument("V:A"), instrument("V:B"), instrument("V:NEW")], state);
        assert_eq!(
            merged.instruments.into_iter().collect::<Vec<_>>(),
            [(instrument("V:A"), since), (instrument("V:C"), since), (instrument("V:NEW"), None)]
        );
    }

    #[test]
    fn the_file_reads_back_as_written_and_damage_names_the_cure() {
        let folder =
            marketflow_access::folder(&std::env::temp_dir().join(format!("marketflow-state-{}", std::process::id()))).unwrap();
        let file = StateFile::new(&folder, "bitstamp");
        assert_eq!(file.read().unwrap(), State::default());
        let state = State { added: ["V:A".parse().unwrap()].into(), ..State::default() };
        file.write(&state).unwrap();
        assert_eq!(file.read().unwrap(), state);
        std::fs::write(&file.0, b"{").unwrap();
        assert!(format!("{:#}", file.read().unwrap_err()).contains("remove it"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
