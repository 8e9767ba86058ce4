//! One collector of a key: whoever holds the lease works, everyone else waits and takes over.
//!
//! The lease is a file's lock, so it ends with its holder, however that ends, and holds on one machine. Several machines with one key need a
//! lease elsewhere; none is built.
//!
//! Next: `services/producer/src/candles/backfill.rs`.

use anyhow::Context;
use marketflow_runtime::Stop;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;
use tracing::info;

/// Between two looks at a lease that another holds.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Waits for the lease; `None` when the service is stopped meanwhile. It is given back when the file is closed.
///
/// # Errors
/// A file that cannot be opened or locked.
pub async fn take(path: &Path, stop: &Stop) -> anyhow::Result<Option<File>> {
    let doing = || format!("cannot take the lease {}", path.display());
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).with_context(doing)?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(problem)) => return Err(problem).with_context(doing),
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut told, true) {
                    info!(lease = %path.display(), "another collector of this key works; waiting to take over");
                }
                tokio::select! {
                    () = stop.wait() => return Ok(None),
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_and_takes_over() {
        let folder = std::env::temp_dir().join(format!("marketflow-lease-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.lease");
        let stop = Stop::new();
        let first = take(&path, &stop).await.unwrap().unwrap();
        let waiting = tokio::spawn({
            let (path, stop) = (path.clone(), stop.clone());
            async move { take(&path, &stop).await.unwrap().is_some() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        assert!(waiting.await.unwrap());
        let _held = take(&path, &stop).await.unwrap().unwrap();
        stop.request();
        assert!(take(&path, &stop).await.unwrap().is_none(), "a stop ends the wait");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
