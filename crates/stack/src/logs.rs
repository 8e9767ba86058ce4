//! Log files: one per part under `logs/`, the last three runs kept.
//!
//! Next: `supervisor.rs`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Earlier runs kept beside the current log: `kafka.log.1` is the youngest.
const KEPT: u32 = 3;

/// The log file of a part.
#[must_use]
pub fn file(home: &Path, part: &str) -> PathBuf {
    home.join("logs").join(format!("{part}.log"))
}

/// Moves the log of the last run aside.
///
/// # Errors
/// When a file cannot be renamed.
pub fn rotate(path: &Path) -> io::Result<()> {
    let numbered = |number: u32| path.with_extension(format!("log.{number}"));
    for number in (1..KEPT).rev() {
        if numbered(number).exists() {
            fs::rename(numbered(number), numbered(number + 1))?;
        }
    }
    if path.exists() { fs::rename(path, numbered(1)) } else { Ok(()) }
}

/// Opens a log for appending; also tells where it ends now.
pub(crate) fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let end = file.metadata()?.len();
    Ok((file, end))
}

/// The text from byte `start` on, at most the last 64 KiB of it.
pub(crate) fn since(path: &Path, start: u64) -> String {
    const MOST: u64 = 64 << 10;
    let read = || {
        let mut file = File::open(path)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(end.saturating_sub(MOST))))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

/// The last `lines` lines of what was written since byte `start`.
pub(crate) fn tail(path: &Path, start: u64, lines: usize) -> String {
    let text = since(path, start);
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_the_last_three_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kafka.log");
        for run in 0..6 {
            rotate(&path).unwrap();
            fs::write(&path, format!("run {run}")).unwrap();
        }
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(
            (read("kafka.log"), read("kafka.log.1"), read("kafka.log.3")),
            ("run 5".into(), "run 4".into(), "run 2".into())
        );
        assert!(!folder.path().join("kafka.log.4").exists());
    }
}
