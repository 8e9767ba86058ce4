//! The stack as a whole: one supervisor per home, parts started in order, state written down for others to read.
//!
//! `run/supervisor.lock` is held by the living supervisor; the kernel lets go of it however the supervisor ends. `run/<part>.process.json`
//! says which processes it started, so that the next one can end those that a kill -9 left. `run/state.json` is what `status` reads.
//!
//! Next: `diagnosis.rs`.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::config::{INFRASTRUCTURE, Mode, StackConfig};
use crate::disk::DiskUse;
use crate::error::{Doing, Error};
use crate::language::Language;
use crate::os::Signal;
use crate::part::{PartSpec, PartStatus, State};
use crate::process::{ProcessIdentity, write_atomically};
use crate::supervisor::{HUNG_AFTER, Supervised, prepare_log};
use crate::{clickhouse, kafka, ports, registry, service};

const SUPERVISOR: &str = "supervisor";
/// The parts that put market data in: stopped when the disk cap is reached, so that what is in can still be worked off.
const PRODUCERS: [&str; 4] = ["tick-producer", "candle-producer", "flow-producer", "simulator"];
const DISK_EVERY: Duration = Duration::from_secs(10);
/// What a part left by a killed supervisor gets to end by itself.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(20);

/// Where the parts of a stack answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Kafka's bootstrap servers, `127.0.0.1:9092`.
    pub kafka: String,
    /// Base URL of the registry's Confluent API.
    pub registry: String,
    /// Base URL of ClickHouse's HTTP interface.
    pub clickhouse: String,
}

impl Addresses {
    /// The addresses that follow from the ports of `config`.
    #[must_use]
    pub fn of(config: &StackConfig) -> Self {
        let ports = &config.ports;
        Self {
            kafka: format!("127.0.0.1:{}", ports.kafka),
            registry: format!("http://127.0.0.1:{}{}", ports.registry, registry::API),
            clickhouse: format!("http://127.0.0.1:{}", ports.clickhouse),
        }
    }
}

/// How far a supervisor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StackPhase {
    /// Parts are being started, topics and tables laid out.
    Starting,
    /// Everything wanted was ready.
    Ready,
    /// Parts are being stopped.
    Stopping,
    /// The start failed.
    Failed,
}

/// What a supervisor writes to `run/state.json` at every change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Process number of the supervisor that wrote it.
    pub supervisor_pid: u32,
    /// How far it is.
    pub phase: StackPhase,
    /// Why it failed, or what it does.
    pub note: String,
    /// Where the parts answer.
    pub addresses: Addresses,
    /// Every part, in starting order.
    pub parts: Vec<PartStatus>,
    /// Disk figures, at most ten seconds old.
    pub disk: DiskUse,
}

impl Snapshot {
    /// The last snapshot of `home`; whether its supervisor still lives is told by [`supervisor`].
    #[must_use]
    pub fn read(home: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(home.join("run/state.json")).ok()?).ok()
    }
}

/// A running stack. Dropping it kills what it started; [`Stack::stop`] ends it cleanly.
#[derive(Debug)]
pub struct Stack {
    config: StackConfig,
    parts: Arc<Mutex<Vec<Arc<Supervised>>>>,
    phase: watch::Sender<(StackPhase, String)>,
    watcher: tokio::task::JoinHandle<()>,
    _lock: File,
}

impl Stack {
    /// Ends what an earlier supervisor of this home left, then starts the infrastructure and waits until all of it is ready.
    ///
    /// # Errors
    /// When a supervisor already runs here, something is missing, a port is taken, or a part does not start.
    pub async fn start(config: StackConfig) -> Result<Self, Error> {
        let config = config.absolute()?;
        for folder in [config.run(), config.logs()] {
            fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
        }
        let lock = lock(&config.home)?;
        recover(&config.home).await;
        if let Some(me) = ProcessIdentity::of(std::process::id()) {
            me.write(&config.run(), SUPERVISOR).doing(|| "write down who supervises".to_owned())?;
        }

        let parts = Arc::default();
        let (phase, _) = watch::channel((StackPhase::Starting, String::new()));
        let watcher = tokio::spawn(watch_over(config.clone(), Arc::clone(&parts), phase.subscribe()));
        let mut stack = Self { config, parts, phase, watcher, _lock: lock };
        match stack.start_infrastructure().await {
            Ok(()) => Ok(stack),
            Err(error) => {
                stack.abandon(&error.words(Language::of_user())).await;
                Err(error)
            }
        }
    }

    async fn start_infrastructure(&mut self) -> Result<(), Error> {
        // all specs first: what is missing or refused is said before anything runs
        let wanted = INFRASTRUCTURE.into_iter().filter(|name| self.config.infrastructure.iter().any(|wanted| wanted == name));
        let make = |name| match name {
            "kafka" => kafka::spec,
            "registry" => registry::spec,
            _ => clickhouse::spec,
        };
        let config = &self.config;
        for name in wanted.clone() {
            let ports =
                config.ports.all().into_iter().filter(|port| port.key == name || port.key.starts_with(&format!("{name}_")));
            ports.into_iter().try_for_each(|port| ports::check_free(name, &port))?;
        }
        let specs = wanted.map(|name| make(name)(config)).collect::<Result<Vec<_>, _>>()?;
        let mut starting = tokio::task::JoinSet::new();
        for spec in specs {
            let part = self.add(spec)?;
            starting.spawn(async move { part.start().await });
        }
        while let Some(result) = starting.join_next().await {
            result.unwrap_or_else(|error| Err(Error::Config { what: format!("a starting task failed: {error}") }))?;
        }
        Ok(())
    }

    /// The spec of one of our services with the addresses of this stack; change it as the case needs, then [`Stack::start_service`].
    ///
    /// # Errors
    /// When the program is not built, or no such service is known.
    pub fn service(&self, name: &str) -> Result<PartSpec, Error> {
        service::spec(&self.config, name)
    }

    /// Starts a service and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or stays silent instead, with the end of its log.
    pub async fn start_service(&mut self, spec: PartSpec) -> Result<(), Error> {
        self.add(spec)?.start().await
    }

    /// Says that everything wanted runs; `marketflow up` waits for this.
    pub fn mark_ready(&self) {
        self.phase.send_replace((StackPhase::Ready, String::new()));
    }

    /// Ends everything because the start failed, and leaves word why.
    pub async fn abandon(self, why: &str) {
        self.phase.send_replace((StackPhase::Failed, why.to_owned()));
        self.stop_parts().await;
    }

    /// Where the parts answer.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        Addresses::of(&self.config)
    }

    /// What this stack was started with.
    #[must_use]
    pub fn config(&self) -> &StackConfig {
        &self.config
    }

    /// Every part's status, in starting order.
    #[must_use]
    pub fn status(&self) -> Vec<PartStatus> {
        statuses(&self.parts)
    }

    /// Starts again what gave up or was stopped; what runs stays as it is.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start_missing(&self) -> Result<(), Error> {
        let parts = lock_parts(&self.parts).clone();
        for part in parts {
            part.start().await?;
        }
        Ok(())
    }

    /// SIGKILL, and the part stays down until [`Stack::restart`]: an outage.
    ///
    /// # Errors
    /// When there is no such part.
    pub async fn kill(&self, part: &str) -> Result<(), Error> {
        self.part(part)?.kill().await;
        Ok(())
    }

    /// SIGKILL, and the supervisor sees to it: a crash.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn crash(&self, part: &str) -> Result<(), Error> {
        self.part(part)?.signal(Signal::Kill);
        Ok(())
    }

    /// SIGSTOP: the process stands still and answers nothing.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn pause(&self, part: &str) -> Result<(), Error> {
        self.part(part)?.signal(Signal::Stop);
        Ok(())
    }

    /// SIGCONT after [`Stack::pause`].
    ///
    /// # Errors
    /// When there is no such part.
    pub fn resume(&self, part: &str) -> Result<(), Error> {
        self.part(part)?.signal(Signal::Continue);
        Ok(())
    }

    /// Stops a part cleanly; it stays down until [`Stack::restart`].
    ///
    /// # Errors
    /// When there is no such part.
    pub async fn stop_part(&self, part: &str) -> Result<(), Error> {
        self.part(part)?.stop().await;
        Ok(())
    }

    /// Stops a part if it runs, starts it again and waits until it is ready.
    ///
    /// # Errors
    /// When there is no such part, or it does not start.
    pub async fn restart(&self, part: &str) -> Result<(), Error> {
        let part = self.part(part)?;
        part.stop().await;
        part.start().await
    }

    /// Ends everything in order: services last started first, then the infrastructure. Data stays.
    pub async fn stop(self) {
        self.phase.send_replace((StackPhase::Stopping, String::new()));
        self.stop_parts().await;
    }

    async fn stop_parts(&self) {
        let parts = lock_parts(&self.parts).clone();
        let (infrastructure, services): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|part| INFRASTRUCTURE.contains(&part.name.as_str()));
        for part in services.into_iter().rev() {
            part.stop().await;
        }
        let mut stopping = tokio::task::JoinSet::new();
        for part in infrastructure {
            stopping.spawn(async move { part.stop().await });
        }
        stopping.join_all().await;
        self.write_state();
    }

    fn add(&mut self, spec: PartSpec) -> Result<Arc<Supervised>, Error> {
        if lock_parts(&self.parts).iter().any(|part| part.name == spec.name) {
            return Err(Error::Config { what: format!("this stack already has a part named {}", spec.name) });
        }
        prepare_log(&self.config.home, &spec.name)?;
        let hung_after = (self.config.mode == Mode::Local).then_some(HUNG_AFTER);
        let part = Arc::new(Supervised::new(spec, &self.config.home, hung_after));
        lock_parts(&self.parts).push(Arc::clone(&part));
        Ok(part)
    }

    fn part(&self, name: &str) -> Result<Arc<Supervised>, Error> {
        let parts = lock_parts(&self.parts);
        let known = || parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>().join(", ");
        parts
            .iter()
            .find(|part| part.name == name)
            .cloned()
            .ok_or_else(|| Error::UnknownPart { part: name.to_owned(), known: known() })
    }

    fn write_state(&self) {
        write_state(&self.config, &self.parts, &self.phase.borrow(), DiskUse::measure(&self.config));
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.watcher.abort();
        let run = self.config.run();
        // taken out, so that no handle is left and the keepers end too
        for part in lock_parts(&self.parts).drain(..).rev() {
            part.kill_now();
            ProcessIdentity::forget(&run, &part.name);
        }
        ProcessIdentity::forget(&run, SUPERVISOR);
    }
}

/// The supervisor that works in `home` now, if one does.
#[must_use]
pub fn supervisor(home: &Path) -> Option<ProcessIdentity> {
    ProcessIdentity::read(home, SUPERVISOR).filter(ProcessIdentity::alive)
}

/// Ends the parts a killed supervisor left in `home`, services before infrastructure. Returns their names.
pub async fn recover(home: &Path) -> Vec<String> {
    let run = home.join("run");
    let names = fs::read_dir(&run).into_iter().flatten().flatten().filter_map(|entry| {
        Some(entry.file_name().to_str()?.strip_suffix(".process.json")?.to_owned()).filter(|name| name != SUPERVISOR)
    });
    let (infrastructure, services): (Vec<_>, Vec<_>) = names.partition(|name| INFRASTRUCTURE.contains(&name.as_str()));
    let mut ended = Vec::new();
    for group in [services, infrastructure] {
        let mut ending = tokio::task::JoinSet::new();
        for name in group {
            let process = ProcessIdentity::read(home, &name).filter(ProcessIdentity::alive);
            ProcessIdentity::forget(&run, &name);
            let Some(process) = process else { continue };
            tracing::warn!(part = name, pid = process.pid, "left by an earlier run, ending it");
            ending.spawn_blocking(move || process.end(RECOVERY_PATIENCE));
            ended.push(name);
        }
        ending.join_all().await;
    }
    ended
}

/// Deletes all data, logs and state of `home`; `stack.toml` stays. Ends leftovers first.
///
/// # Errors
/// When a supervisor works there, or a file cannot be removed.
pub async fn purge(home: &Path) -> Result<(), Error> {
    if !home.exists() {
        return Ok(());
    }
    fs::create_dir_all(home.join("run")).doing(|| format!("create {}", home.join("run").display()))?;
    let _lock = lock(home)?;
    recover(home).await;
    for name in ["kafka", "registry", "clickhouse", "logs", "services", "run"] {
        let folder = home.join(name);
        match fs::remove_dir_all(&folder) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::Io { doing: format!("remove {}", folder.display()), source });
            }
            _ => {}
        }
    }
    Ok(())
}

fn lock(home: &Path) -> Result<File, Error> {
    let path = home.join("run/supervisor.lock");
    let file = File::create(&path).doing(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::AlreadyRunning { home: home.to_owned(), pid: supervisor(home).map(|process| process.pid) })
        }
        Err(TryLockError::Error(source)) => Err(Error::Io { doing: format!("lock {}", path.display()), source }),
    }
}

type Parts = Mutex<Vec<Arc<Supervised>>>;

fn lock_parts(parts: &Parts) -> std::sync::MutexGuard<'_, Vec<Arc<Supervised>>> {
    parts.lock().unwrap_or_else(PoisonError::into_inner)
}

fn statuses(parts: &Parts) -> Vec<PartStatus> {
    lock_parts(parts).iter().map(|part| part.status.borrow().clone()).collect()
}

/// Writes the state down whenever it changes, and keeps an eye on the disk.
async fn watch_over(config: StackConfig, parts: Arc<Parts>, phase: watch::Receiver<(StackPhase, String)>) {
    let mut written = None;
    let mut disk = DiskUse::measure(&config);
    let mut measured = Instant::now();
    loop {
        if measured.elapsed() >= DISK_EVERY {
            let at_cap_before = disk.at_cap();
            let measuring = config.clone();
            disk = tokio::task::spawn_blocking(move || DiskUse::measure(&measuring)).await.unwrap_or(disk);
            measured = Instant::now();
            if disk.at_cap() {
                stop_producers(&parts, &disk).await;
            } else if disk.near_cap() && !at_cap_before {
                tracing::warn!(used_bytes = disk.used_bytes, cap_bytes = disk.cap_bytes, "four fifths of the disk cap are used");
            }
        }
        let now = (statuses(&parts), phase.borrow().clone(), disk);
        if written.as_ref() != Some(&now) {
            write_state(&config, &parts, &now.1, disk);
            written = Some(now);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn stop_producers(parts: &Parts, disk: &DiskUse) {
    let running: Vec<_> = lock_parts(parts).iter().filter(|part| PRODUCERS.contains(&part.name.as_str())).cloned().collect();
    for part in running.into_iter().filter(|part| part.status.borrow().state != State::Stopped) {
        tracing::error!(
            part = part.name,
            used_bytes = disk.used_bytes,
            cap_bytes = disk.cap_bytes,
            free_bytes = disk.free_bytes,
            "disk cap reached, stopping the producer"
        );
        part.stop().await;
    }
}

fn write_state(config: &StackConfig, parts: &Parts, phase: &(StackPhase, String), disk: DiskUse) {
    let snapshot = Snapshot {
        supervisor_pid: std::process::id(),
        phase: phase.0,
        note: phase.1.clone(),
        addresses: Addresses::of(config),
        parts: statuses(parts),
        disk,
    };
    let written = serde_json::to_vec_pretty(&snapshot)
        .map_err(std::io::Error::from)
        .and_then(|json| write_atomically(&config.run().join("state.json"), &json));
    if let Err(error) = written {
        tracing::warn!(error = %error, "cannot write run/state.json");
    }
}
