//! How much disk the stack uses and how much is left.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::StackConfig;
use crate::os;

/// Disk figures of one home, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiskUse {
    /// Used by the home.
    pub used_bytes: u64,
    /// The home's cap.
    pub cap_bytes: u64,
    /// Free on its file system.
    pub free_bytes: u64,
    /// Free space below which the machine counts as nearly full.
    pub free_min_bytes: u64,
}

impl DiskUse {
    /// Measures the home of `config`.
    #[must_use]
    pub fn measure(config: &StackConfig) -> Self {
        Self {
            used_bytes: used_bytes(&config.home),
            cap_bytes: config.disk_cap_bytes,
            free_bytes: free_bytes(&config.home).unwrap_or(u64::MAX),
            free_min_bytes: config.disk_free_min_bytes,
        }
    }

    /// The cap, or the end of the disk, is reached: the producers must stop.
    #[must_use]
    pub fn at_cap(&self) -> bool {
        self.used_bytes >= self.cap_bytes || self.nearly_full()
    }

    /// Four fifths of the cap are used.
    #[must_use]
    pub fn near_cap(&self) -> bool {
        self.used_bytes >= self.cap_bytes / 5 * 4
    }

    /// Less than the configured minimum is free on the file system.
    #[must_use]
    pub fn nearly_full(&self) -> bool {
        self.free_bytes < self.free_min_bytes
    }
}

/// Bytes the files below `folder` take on disk; Kafka's index files are sparse, so their length says little.
#[must_use]
pub fn used_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let data = fs::symlink_metadata(entry.path()).ok()?;
            Some(if data.is_dir() { used_bytes(&entry.path()) } else { data.blocks() * 512 })
        })
        .sum()
}

/// Free bytes on the file system of `folder`, or of its nearest parent that exists.
///
/// # Errors
/// When the system does not tell.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let folder = std::path::absolute(folder)?;
    let existing = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    os::free_bytes(existing)
}
