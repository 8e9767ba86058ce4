//! Who holds a lease: one of this process, told apart from every other process of every machine.
//!
//! A holder that ended on this machine is seen at once, so nobody waits for its lease to run out. Process numbers mean something only inside their
//! namespace and until the machine starts again, so both belong to the name; the start tells a process from a later one with its number.
//!
//! Next: `services/producer/src/candles/mod.rs`, `services/flow-producer/src/investors.rs`, which collect one at a time.

use std::fs::{read_link, read_to_string};
use std::sync::atomic::{AtomicU64, Ordering};

/// The names a process gave so far.
static GIVEN: AtomicU64 = AtomicU64::new(0);

/// A name that nobody else has: machine, namespace, process, its start, and a number of the process' own.
pub(crate) fn new_name() -> anyhow::Result<String> {
    let serial = GIVEN.fetch_add(1, Ordering::Relaxed);
    Ok(format!("{} {serial}", process(std::process::id())?))
}

/// Whether the holder was of this machine and has ended. In doubt it lives.
pub(crate) fn has_ended(name: &str) -> bool {
    let parts: Vec<&str> = name.split(' ').collect();
    let &[machine, namespace, id, start, _] = parts.as_slice() else { return false };
    let (Ok(own), Ok(id)) = (process(std::process::id()), id.parse()) else { return false };
    own.split(' ').take(2).eq([machine, namespace]) && start_of(id).is_none_or(|now| now != start)
}

fn process(id: u32) -> anyhow::Result<String> {
    let machine = read_to_string("/proc/sys/kernel/random/boot_id")?;
    let namespace = read_link("/proc/self/ns/pid")?;
    let start = start_of(id).ok_or_else(|| anyhow::anyhow!("process {id} does not tell when it started"))?;
    Ok(format!("{} {} {id} {start}", machine.trim(), namespace.display()))
}

/// When a process started, in ticks since the machine did (proc_pid_stat(5), field 22); `None` when it has ended, also when nobody has noticed yet.
fn start_of(id: u32) -> Option<String> {
    let stat = read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The second field is the program's name, which may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (!["Z", "X"].contains(&state)).then(|| fields.nth(18).map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_that_ended_is_seen_and_one_of_elsewhere_is_taken_to_live() {
        let own = new_name().unwrap();
        assert_ne!(own, new_name().unwrap());
        assert!(!has_ended(&own));
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let name = format!("{} 0", process(child.id()).unwrap());
        assert!(!has_ended(&name));
        child.kill().unwrap();
        // Also before anybody has asked how it ended.
        while start_of(child.id()).is_some() {
            std::thread::yield_now();
        }
        assert!(has_ended(&name));
        child.wait().unwrap();
        assert!(has_ended(&name));
        let machine = own.split(' ').next().unwrap();
        assert!(!has_ended(&name.replace(machine, "another")), "a number of another machine says nothing here");
        assert!(!has_ended("") && !has_ended("anything"));
    }
}
