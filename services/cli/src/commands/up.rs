//! `marketflow up`: starts the local stack.
//!
//! The supervisor is this same program with `--foreground`. Without it, `up` starts that in a session of its own, watches the state file
//! until everything is ready, and returns.
//!
//! Next: `../provision.rs`.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use marketflow_runtime::Exit;
use marketflow_stack::{
    Error, Ports, ProcessIdentity, SERVICES, Snapshot, Stack, StackConfig, StackFile, StackPhase, home_folder, logs,
    spawn_detached, supervisor,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::console::{block_on, json, line, problem, say};
use crate::{commands::status, provision};

/// What `up` starts when neither the flag nor stack.toml says otherwise.
const USUAL_SERVICES: [&str; 2] = ["sink", "processor"];

/// Starts the local stack and returns when everything is ready
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Examples:
  marketflow up                                       Kafka, registry, ClickHouse, sink and processor
  marketflow up --services sink,processor,tick-producer
  marketflow up --services sink,processor,flow-producer,archiver   collects months, archives what is there; both then show \"done\"
  marketflow up --kafka-port 19092 --registry-port 18081
  marketflow up --foreground                          stays, logs to the terminal, Ctrl-C stops everything
A service reads <name>.toml in the state folder, where there is one. Run again, `up` starts what is down and leaves the rest alone.")]
pub struct Args {
    /// Supervise in this process instead of the background
    #[arg(long)]
    foreground: bool,
    /// Our services to start beside the infrastructure, separated by commas, or none
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    services: Option<Vec<String>>,
    /// Any free ports instead of the usual ones
    #[arg(long)]
    free_ports: bool,
    #[command(flatten)]
    ports: PortFlags,
    /// Print the state as JSON when ready
    #[arg(long)]
    json: bool,
}

macro_rules! port_flags {
    ($($port:ident $flag:literal,)+) => {
        /// One flag a port; the defaults are in `--help` of stack.toml's `[ports]`.
        #[derive(clap::Args, Debug)]
        #[command(next_help_heading = "Ports")]
        struct PortFlags {
            $(#[arg(long = $flag, value_name = "PORT", hide_short_help = true)] $port: Option<u16>,)+
        }

        impl PortFlags {
            fn apply(&self, ports: &mut Ports) {
                $(if let Some(port) = self.$port { ports.$port = port; })+
            }
        }
    };
}

port_flags! {
    kafka "kafka-port",
    kafka_controller "kafka-controller-port",
    registry "registry-port",
    clickhouse "clickhouse-port",
    clickhouse_admin "clickhouse-admin-port",
    simulator "simulator-port",
    simulator_admin "simulator-admin-port",
    tick_producer "tick-producer-port",
    candle_producer "candle-producer-port",
    flow_producer "flow-producer-port",
    processor "processor-port",
    sink "sink-port",
    archiver "archiver-port",
}

/// Runs the command.
///
/// # Errors
/// 64 for what is missing or taken, 69 for a part that does not start, 130 when interrupted.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let (config, services) = settings(&args).map_err(|error| problem(&error))?;
    if args.foreground {
        return block_on(supervise(config, services));
    }
    block_on(in_background(&config.home, args.json))
}

fn settings(args: &Args) -> Result<(StackConfig, Vec<String>), Error> {
    let mut config = StackConfig::new(home_folder());
    let file = StackFile::read(&config.home)?;
    file.apply(&mut config)?;
    if args.free_ports {
        config.ports = Ports::free().map_err(|source| Error::Io { doing: "find free ports".to_owned(), source })?;
    }
    args.ports.apply(&mut config.ports);
    let wanted = args.services.clone().or(file.services).unwrap_or_else(|| USUAL_SERVICES.map(str::to_owned).to_vec());
    let wanted: Vec<String> = wanted.into_iter().filter(|name| !matches!(name.as_str(), "" | "none")).collect();
    match wanted.iter().find(|name| !SERVICES.contains(&name.as_str())) {
        Some(part) => Err(Error::UnknownPart { part: part.clone(), known: SERVICES.join(", ") }),
        None => Ok((
            config,
            SERVICES.into_iter().filter(|name| wanted.iter().any(|wanted| wanted == name)).map(str::to_owned).collect(),
        )),
    }
}

// --- the supervisor ------------------------------------------------------------------------------------------------------------

async fn supervise(config: StackConfig, services: Vec<String>) -> anyhow::Result<Exit> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let stack = tokio::select! {
        // dropped half way, it ends what it started
        stack = start(config, services) => stack?,
        _ = interrupt.recv() => return Ok(Exit::Interrupted),
        _ = terminate.recv() => return Ok(Exit::Interrupted),
    };
    tracing::info!(addresses = ?stack.addresses(), "ready");
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hang_up.recv() => if let Err(error) = stack.start_missing().await {
                tracing::error!(error = %error, "a part does not start");
            },
        }
    }
    tracing::info!("stopping");
    stack.stop().await;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}

async fn start(config: StackConfig, services: Vec<String>) -> anyhow::Result<Stack> {
    let mut stack = Stack::start(config).await.map_err(|error| problem(&error))?;
    match furnish(&mut stack, services).await {
        Ok(()) => {
            stack.mark_ready();
            Ok(stack)
        }
        Err(error) => {
            let words: Vec<String> =
                error.chain().map(ToString::to_string).filter(|words| *words != Exit::of(&error).to_string()).collect();
            stack.abandon(&words.join(": ")).await;
            Err(error)
        }
    }
}

async fn furnish(stack: &mut Stack, services: Vec<String>) -> anyhow::Result<()> {
    provision::lay_out(&stack.addresses()).await?;
    for name in services {
        let spec = stack.service(&name).map_err(|error| problem(&error))?;
        stack.start_service(spec).await.map_err(|error| problem(&error))?;
    }
    Ok(())
}

// --- the command that starts it ------------------------------------------------------------------------------------------------

async fn in_background(home: &Path, as_json: bool) -> anyhow::Result<Exit> {
    if let Some(process) = supervisor(home) {
        return wake(home, &process, as_json).await;
    }
    let log = logs::file(home, "supervisor");
    let folder = log.parent().unwrap_or(home);
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    logs::rotate(&log).with_context(|| format!("cannot rotate {}", log.display()))?;
    let out = std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).arg("--foreground").stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
    let mut child = spawn_detached(command).context("cannot start the supervisor")?;

    let begun = Instant::now();
    let mut told = BTreeSet::new();
    loop {
        let state = Snapshot::read(home).filter(|state| state.supervisor_pid == child.id());
        if let Some(state) = &state {
            if !as_json {
                tell_ready(state, &mut told, begun);
            }
            if state.phase == StackPhase::Ready {
                show(home, state, as_json)?;
                return Ok(Exit::Ok);
            }
        }
        if let Some(status) = child.try_wait()? {
            let exit = exit_of(status.code());
            let why = state.filter(|state| state.phase == StackPhase::Failed).map(|state| state.note);
            let why = why.or_else(|| last_words(&log)).unwrap_or_else(|| format!("{status}"));
            return Err(anyhow!(why).context(exit));
        }
        tokio::select! {
            () = sleep(Duration::from_millis(50)) => {}
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                line(say("interrupted: stopping what was started", "중단됨: 시작한 것을 끝냅니다"));
                if let Some(process) = ProcessIdentity::of(child.id()) {
                    process.end(Duration::from_secs(60));
                }
                return Ok(Exit::Interrupted);
            }
        }
    }
}

/// A stack that runs: starts again what is down.
async fn wake(home: &Path, process: &ProcessIdentity, as_json: bool) -> anyhow::Result<Exit> {
    let not_yet = || {
        anyhow!(say(
            "the stack is not ready; see `marketflow status`",
            "스택이 준비되지 않았습니다; `marketflow status`를 보세요"
        ))
    };
    if !as_json {
        line(&say(
            format!("already running (supervisor pid {}); starting what is down", process.pid),
            format!("이미 실행 중입니다 (감독 프로세스 pid {}); 멈춘 것을 시작합니다", process.pid),
        ));
    }
    process.hang_up();
    let deadline = Instant::now() + Duration::from_secs(120);
    while process.alive() && Instant::now() < deadline {
        // the signal is taken and its effect written within this time
        sleep(Duration::from_millis(300)).await;
        if let Some(state) = Snapshot::read(home).filter(|state| state.phase == StackPhase::Ready)
            && state.parts.iter().all(|part| part.state.is_well())
        {
            show(home, &state, as_json)?;
            return Ok(Exit::Ok);
        }
    }
    Err(not_yet().context(Exit::Unreachable))
}

fn tell_ready(state: &Snapshot, told: &mut BTreeSet<String>, begun: Instant) {
    for part in state.parts.iter().filter(|part| part.state.is_well()) {
        if told.insert(part.name.clone()) {
            let seconds = begun.elapsed().as_secs_f64();
            line(&say(format!("{} is ready after {seconds:.1} s", part.name), format!("{} 준비됨 ({seconds:.1}초)", part.name)));
        }
    }
}

fn show(home: &Path, state: &Snapshot, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return json(state);
    }
    line("");
    line(&status::table(state));
    line("");
    let at = &state.addresses;
    line(&format!("Kafka       {}", at.kafka));
    line(&format!("Registry    {}", at.registry));
    line(&format!("ClickHouse  {}", at.clickhouse));
    line(&say(format!("State       {}", home.display()), format!("상태 폴더   {}", home.display())));
    line(say(
        "Next: `marketflow status`, `marketflow logs -f`, `marketflow down`.",
        "다음: `marketflow status`, `marketflow logs -f`, `marketflow down`.",
    ));
    Ok(())
}

fn exit_of(code: Option<i32>) -> Exit {
    let exits = [Exit::CheckSaidNo, Exit::Usage, Exit::Unreachable, Exit::Fatal, Exit::TryAgain, Exit::Interrupted];
    exits.into_iter().find(|exit| code == Some(exit.code().into())).unwrap_or(Exit::Failed)
}

/// What a supervisor that ended before it could write its state said last.
fn last_words(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    let (_, words) = text.rsplit_once("marketflow: ")?;
    Some(words.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_its_flag() {
        let command = crate::command_line();
        let up = command.find_subcommand("up").unwrap();
        for port in Ports::default().all() {
            let flag = format!("{}-port", port.key.replace('_', "-"));
            assert!(up.get_arguments().any(|argument| argument.get_long() == Some(flag.as_str())), "--{flag}");
        }
    }

    #[test]
    fn supervisor_problems_reach_the_user_in_full() {
        let error = problem(&Error::NotRunning { home: "here".into() });
        assert_eq!(Exit::of(&error), Exit::Unreachable);
        assert!(error.chain().any(|words| words.to_string().contains("marketflow up")));
    }
}
