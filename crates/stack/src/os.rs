//! The few calls the standard library lacks: signals, free disk space, and children that do not outlive us.
//!
//! The kernel sends a child its parent-death signal when the *thread* that started it ends, not the process. An async runtime starts
//! and ends threads as it likes, so every child is started by one thread that lives as long as the process.
//!
//! Next: `process.rs`.
#![expect(
    unsafe_code,
    reason = "prctl, setsid, kill and statvfs have no safe form in the standard library; each call is one line"
)]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{OnceLock, mpsc};
use std::thread;

/// A signal we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Please end.
    Terminate,
    /// End now.
    Kill,
    /// Stand still.
    Stop,
    /// Go on.
    Continue,
    /// To our supervisor: start again what is down.
    HangUp,
}

/// Sends `signal` to the process `pid`; a process that is gone is not an error.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let number = match signal {
        Signal::Terminate => libc::SIGTERM,
        Signal::Kill => libc::SIGKILL,
        Signal::Stop => libc::SIGSTOP,
        Signal::Continue => libc::SIGCONT,
        Signal::HangUp => libc::SIGHUP,
    };
    let Ok(pid) = libc::pid_t::try_from(pid) else { return };
    if pid > 1 {
        // SAFETY: kill takes two integers and touches no memory of ours.
        unsafe { libc::kill(pid, number) };
    }
}

/// Bytes an ordinary user may still write on the file system that holds `path`.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut figures = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path ends in NUL and statvfs fills the whole structure when it returns 0.
    let figures = unsafe {
        if libc::statvfs(path.as_ptr(), figures.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        figures.assume_init()
    };
    Ok(figures.f_bavail * figures.f_frsize)
}

/// Starts `command` as a child in a process group of its own that gets SIGTERM when this process ends, however it ends.
pub(crate) fn spawn(mut command: Command) -> io::Result<Child> {
    let parent = std::process::id();
    command.process_group(0);
    // SAFETY: between fork and exec only prctl, getppid and _exit run, all async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                return Err(io::Error::last_os_error());
            }
            // the parent may have died before prctl took effect
            if u32::try_from(libc::getppid()) != Ok(parent) {
                libc::_exit(1);
            }
            Ok(())
        });
    }
    let (reply, answer) = mpsc::channel();
    spawner().send((command, reply)).map_err(|_| io::Error::other("the thread that starts processes is gone"))?;
    answer.recv().map_err(|_| io::Error::other("the thread that starts processes is gone"))?
}

/// Starts `command` in a session of its own: it outlives this process and its terminal.
///
/// # Errors
/// When the program cannot be started.
pub fn spawn_detached(mut command: Command) -> io::Result<Child> {
    // SAFETY: setsid is async-signal-safe; a freshly forked child is never a group leader, so it succeeds.
    unsafe {
        command.pre_exec(|| if libc::setsid() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) });
    }
    command.spawn()
}

type Request = (Command, mpsc::Sender<io::Result<Child>>);

fn spawner() -> &'static mpsc::Sender<Request> {
    static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (requests, inbox) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // a caller that went away dropped its end; its child then ends with this process
                if reply.send(command.spawn()).is_err() {
                    tracing::debug!("the caller left before its process was started");
                }
            }
        });
        requests
    })
}
