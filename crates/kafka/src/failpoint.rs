//! Places where a test may end the process as a crash would: no unwinding, no flushing, no farewell to the group. A file that says `stall` makes
//! the thread stand still for good instead, which a watchdog has to notice; `wait 8` makes it stand still for 8 s.
//!
//! `FAIL_AT` names a folder; a file in it, named like a point, arms that point once: who reaches it removes the file and aborts. So the process
//! that is started again goes on. Compiled in always, so that what is tested is what runs; without `FAIL_AT` a point costs one load and one branch.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

static FOLDER: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("FAIL_AT").map(PathBuf::from));

/// Aborts the process if `point` is armed.
#[inline]
pub fn fail_point(point: &str) {
    let Some(file) = FOLDER.as_ref().map(|folder| folder.join(point)) else { return };
    let Ok(order) = std::fs::read_to_string(&file) else { return };
    if std::fs::remove_file(&file).is_ok() {
        eprintln!("fail point {point}: {order}");
        match order.strip_prefix("wait ").map(str::parse) {
            Some(Ok(seconds)) => std::thread::sleep(Duration::from_secs(seconds)),
            _ if order == "stall" => loop {
                std::thread::park();
            },
            _ => std::process::abort(),
        }
    }
}
