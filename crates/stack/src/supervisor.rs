//! Keeps one part running: starts it, waits until it is ready, asks it every two seconds, starts it again with growing pauses when it
//! ends by itself, leaves it alone when that does not help.
//!
//! One task per part owns its process; everybody else sends orders and reads the status. Next: `stack.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use crate::error::{Doing, Error};
use crate::logs;
use crate::os::{self, Signal};
use crate::part::{PartSpec, PartStatus, State};
use crate::ports::check_free;
use crate::probe::NotReady;
use crate::process::ProcessIdentity;

/// Starts in a row that did not last before the supervisor gives up.
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A part that was up this long starts with a clean record.
const LASTING: Duration = Duration::from_secs(60);
/// Silence after which a part that was ready is killed and started again; another answer than "ready" is no silence.
pub(crate) const HUNG_AFTER: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_secs(2);
const POLL_EVERY: Duration = Duration::from_millis(50);
/// Exit code of our programs for configuration that cannot work: starting again changes nothing.
const EXIT_CONFIG: i32 = 64;

/// What a part can be told; the answer comes when it is done.
#[derive(Debug)]
pub(crate) enum Order {
    Start(oneshot::Sender<Result<(), Error>>),
    /// Ask it to end; kill it after its patience.
    Stop(oneshot::Sender<()>),
    /// SIGKILL, and leave it down.
    Kill(oneshot::Sender<()>),
}

/// The handle to a supervised part.
#[derive(Debug)]
pub(crate) struct Supervised {
    pub(crate) name: String,
    orders: mpsc::UnboundedSender<Order>,
    pub(crate) status: watch::Receiver<PartStatus>,
    child: SharedChild,
}

/// The process, shared with the handle so that dropping the stack can end it without the task's help.
type SharedChild = Arc<Mutex<Option<Child>>>;

impl Supervised {
    /// A part of the stack in `home`. Without `hung_after` one that hangs is left alone: tests pause parts on purpose.
    pub(crate) fn new(spec: PartSpec, home: &Path, hung_after: Option<Duration>) -> Self {
        let log = logs::file(home, &spec.name);
        let status = PartStatus {
            name: spec.name.clone(),
            state: State::Stopped,
            pid: None,
            ports: spec.ports.clone(),
            restarts: 0,
            note: String::new(),
            log: log.clone(),
        };
        let (status_sender, status) = watch::channel(status);
        let (orders, inbox) = mpsc::unbounded_channel();
        let child = SharedChild::default();
        let name = spec.name.clone();
        let keeper = Keeper { spec, run: home.join("run"), log, status: status_sender, child: child.clone(), hung_after };
        tokio::spawn(keeper.keep(inbox));
        Self { name, orders, status, child }
    }

    pub(crate) async fn start(&self) -> Result<(), Error> {
        self.order(Order::Start).await.unwrap_or(Ok(()))
    }

    pub(crate) async fn stop(&self) {
        self.order(Order::Stop).await;
    }

    pub(crate) async fn kill(&self) {
        self.order(Order::Kill).await;
    }

    /// Sends a signal and nothing more: what happens then is the supervisor's business, as with any crash.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(child) = lock(&self.child).as_ref() {
            os::signal(child.id(), signal);
        }
    }

    /// Ends the process without the help of the runtime, which may be going away.
    pub(crate) fn kill_now(&self) {
        if let Some(mut child) = lock(&self.child).take() {
            end_now(&mut child);
        }
    }

    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).ok()?;
        answer.await.ok()
    }
}

struct Keeper {
    spec: PartSpec,
    run: PathBuf,
    log: PathBuf,
    status: watch::Sender<PartStatus>,
    child: SharedChild,
    hung_after: Option<Duration>,
}

/// How one life of the process ended.
enum End {
    /// It did what it was started for.
    Done,
    /// By itself, or it was never ready: the words say which.
    Exited {
        why: String,
        hopeless: bool,
    },
    Stop(oneshot::Sender<()>),
    Kill(oneshot::Sender<()>),
    /// Nobody holds the handle any more.
    Abandoned,
}

impl Keeper {
    async fn keep(self, mut orders: mpsc::UnboundedReceiver<Order>) {
        while let Some(order) = orders.recv().await {
            match order {
                Order::Start(reply) => {
                    if !self.keep_running(&mut orders, reply).await {
                        return;
                    }
                }
                Order::Stop(reply) | Order::Kill(reply) => answer(reply, ()),
            }
        }
    }

    /// Runs until ordered otherwise or given up. Returns whether there may be further orders.
    async fn keep_running(&self, orders: &mut mpsc::UnboundedReceiver<Order>, reply: oneshot::Sender<Result<(), Error>>) -> bool {
        let mut waiting = vec![reply];
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let log_start = match self.launch() {
                Ok(log_start) => log_start,
                Err(error) => {
                    self.set(State::GaveUp, None, &error.to_string());
                    answer_all(&mut waiting, Err(error));
                    return true;
                }
            };
            let (why, hopeless) = match self.live(log_start, orders, &mut waiting).await {
                End::Exited { why, hopeless } => (why, hopeless),
                End::Done => {
                    self.left(State::Done);
                    answer_all(&mut waiting, Ok(()));
                    return true;
                }
                End::Stop(reply) => {
                    self.end_gently().await;
                    self.left(State::Stopped);
                    answer(reply, ());
                    return true;
                }
                End::Kill(reply) => {
                    self.end_hard().await;
                    self.left(State::Stopped);
                    answer(reply, ());
                    return true;
                }
                End::Abandoned => return false,
            };
            self.end_hard().await;
            ProcessIdentity::forget(&self.run, &self.spec.name);
            let lasted = started.elapsed() >= LASTING;
            failures = if lasted { 1 } else { failures + 1 };
            // somebody waits for the first start: tell at once what is wrong instead of trying for minutes
            if !waiting.is_empty() || hopeless || failures >= ATTEMPTS {
                self.set(State::GaveUp, None, &format!("{why}; gave up after {failures} attempts"));
                let tail = logs::tail(&self.log, log_start, 12);
                answer_all(
                    &mut waiting,
                    Err(Error::NotStarted { part: self.spec.name.clone(), why, log: self.log.clone(), tail }),
                );
                return true;
            }
            let pause = (FIRST_PAUSE * 2_u32.pow(failures - 1)).min(LONGEST_PAUSE);
            tracing::warn!(part = self.spec.name, why, pause_ms = pause.as_millis(), "ended by itself, starting again");
            self.set(State::BackingOff, None, &format!("{why}; starting again in {:.1} s", pause.as_secs_f64()));
            self.status.send_modify(|status| status.restarts += 1);
            tokio::select! {
                () = sleep(pause) => {}
                order = orders.recv() => match order {
                    Some(Order::Start(reply)) => waiting.push(reply),
                    Some(Order::Stop(reply) | Order::Kill(reply)) => {
                        self.left(State::Stopped);
                        answer(reply, ());
                        return true;
                    }
                    None => return false,
                },
            }
        }
    }

    /// Starts the process and writes down who it is. Returns where its log begins.
    fn launch(&self) -> Result<u64, Error> {
        for port in &self.spec.ports {
            check_free(&self.spec.name, port)?;
        }
        let (out, log_start) = logs::open(&self.log).doing(|| format!("open {}", self.log.display()))?;
        let err = out.try_clone().doing(|| "share the log file".to_owned())?;
        let mut command = self.spec.command();
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = os::spawn(command).doing(|| format!("start {}", self.spec.program.display()))?;
        let pid = child.id();
        *lock(&self.child) = Some(child);
        if let Some(identity) = ProcessIdentity::of(pid) {
            identity.write(&self.run, &self.spec.name).doing(|| format!("write to {}", self.run.display()))?;
        }
        self.set(State::Starting, Some(pid), "");
        Ok(log_start)
    }

    /// Follows one life of the process.
    async fn live(
        &self,
        log_start: u64,
        orders: &mut mpsc::UnboundedReceiver<Order>,
        waiting: &mut Vec<oneshot::Sender<Result<(), Error>>>,
    ) -> End {
        let deadline = Instant::now() + self.spec.ready_within;
        let mut ready = false;
        let mut answered = Instant::now();
        let mut next_probe = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                if self.spec.may_end && status.success() {
                    return End::Done;
                }
                return End::Exited { why: in_words(status), hopeless: status.code() == Some(EXIT_CONFIG) };
            }
            if next_probe <= Instant::now() {
                match self.ask(log_start).await {
                    Ok(()) => {
                        (ready, answered) = (true, Instant::now());
                        self.set(State::Ready, self.pid(), "");
                        answer_all(waiting, Ok(()));
                    }
                    Err(why) if ready => {
                        if !matches!(why, NotReady::Silent(_)) {
                            answered = Instant::now();
                        } else if self.hung_after.is_some_and(|limit| answered.elapsed() > limit) {
                            return End::Exited {
                                why: format!("hung: no answer for {} s", answered.elapsed().as_secs()),
                                hopeless: false,
                            };
                        }
                        self.set(State::NotAnswering, self.pid(), &why.to_string());
                    }
                    Err(why) if Instant::now() > deadline => {
                        return End::Exited {
                            why: format!("not ready after {} s: {why}", self.spec.ready_within.as_secs()),
                            hopeless: false,
                        };
                    }
                    Err(_) => {}
                }
                next_probe = Instant::now() + if ready { PROBE_EVERY } else { POLL_EVERY };
            }
            tokio::select! {
                () = sleep(POLL_EVERY) => {}
                order = orders.recv() => match order {
                    Some(Order::Start(reply)) if ready => answer(reply, Ok(())),
                    Some(Order::Start(reply)) => waiting.push(reply),
                    Some(Order::Stop(reply)) => return End::Stop(reply),
                    Some(Order::Kill(reply)) => return End::Kill(reply),
                    None => return End::Abandoned,
                },
            }
        }
    }

    async fn ask(&self, log_start: u64) -> Result<(), NotReady> {
        if self.status.borrow().state == State::Starting
            && let Some(line) = self.spec.ready_line
            && !logs::since(&self.log, log_start).contains(line)
        {
            return Err(NotReady::Said(format!("its log does not say {line:?} yet")));
        }
        self.spec.probe.ask(Duration::from_secs(1)).await
    }

    async fn end_gently(&self) {
        if let Some(pid) = self.pid() {
            os::signal(pid, Signal::Terminate);
        }
        let deadline = Instant::now() + self.spec.stop_within;
        while self.exited().is_none() {
            if Instant::now() > deadline {
                tracing::warn!(part = self.spec.name, "did not end in time, killing it");
                return self.end_hard().await;
            }
            sleep(Duration::from_millis(20)).await;
        }
        lock(&self.child).take();
    }

    async fn end_hard(&self) {
        if let Some(pid) = self.pid() {
            os::signal(pid, Signal::Kill);
        }
        while self.exited().is_none() {
            sleep(Duration::from_millis(2)).await;
        }
        lock(&self.child).take();
    }

    /// There is no process any more, and none is to be.
    fn left(&self, state: State) {
        lock(&self.child).take();
        ProcessIdentity::forget(&self.run, &self.spec.name);
        self.set(state, None, "");
    }

    fn pid(&self) -> Option<u32> {
        lock(&self.child).as_ref().map(Child::id)
    }

    /// The exit status once the process has ended; also when there is none.
    fn exited(&self) -> Option<ExitStatus> {
        match lock(&self.child).as_mut() {
            Some(child) => child.try_wait().unwrap_or_default(),
            None => Some(ExitStatus::default()),
        }
    }

    fn set(&self, state: State, pid: Option<u32>, note: &str) {
        self.status.send_if_modified(|status| {
            let changed = (status.state, status.pid, status.note.as_str()) != (state, pid, note);
            if changed {
                tracing::info!(part = status.name, ?state, pid, note, "part");
                (status.state, status.pid) = (state, pid);
                note.clone_into(&mut status.note);
            }
            changed
        });
    }
}

/// Moves a part's old log aside, once per start of the stack; restarts within a run append.
pub(crate) fn prepare_log(home: &Path, part: &str) -> Result<(), Error> {
    let log = logs::file(home, part);
    fs::create_dir_all(home.join("logs")).doing(|| format!("create {}", home.join("logs").display()))?;
    logs::rotate(&log).doing(|| format!("rotate {}", log.display()))
}

fn in_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn end_now(child: &mut Child) {
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        tracing::warn!(pid = child.id(), error = %error, "cannot end a process");
    }
}

fn lock(child: &SharedChild) -> std::sync::MutexGuard<'_, Option<Child>> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    if reply.send(value).is_err() {
        tracing::debug!("nobody waits for this answer any more");
    }
}

/// The first waiting caller gets the error itself; there is one caller in practice.
fn answer_all(waiting: &mut Vec<oneshot::Sender<Result<(), Error>>>, result: Result<(), Error>) {
    let words = result.as_ref().err().map(ToString::to_string);
    let mut result = Some(result);
    for reply in waiting.drain(..) {
        let value = result.take().unwrap_or_else(|| words.clone().map_or(Ok(()), |what| Err(Error::Config { what })));
        answer(reply, value);
    }
}
