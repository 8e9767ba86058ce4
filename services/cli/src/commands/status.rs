//! `marketflow status`: what runs, where it answers, how much disk it uses.

use super::status_watch;
use std::path::Path;
use std::time::Duration;

use comfy_table::{Table, presets};
use marketflow_runtime::Exit;
use marketflow_stack::{
    DiskUse, Error, PartStatus, Snapshot, StackConfig, StackFile, StackPhase, State, home_folder, size, supervisor,
};
use serde_json::json;

use crate::console::{drawn, json, line, problem, say};

/// Shows what runs, where it answers and how much disk it uses
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Exit code 0 when everything that should run is ready, else 69.

Examples:
  marketflow status
  marketflow status --watch              how fast, how far behind, how whole; again each second
  marketflow status --watch --count 1 --json")]
pub struct Args {
    /// Show how it goes, again and again: rates, lag, completeness, gaps, errors
    #[arg(long)]
    watch: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1, requires = "watch", value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// Look so often, then end
    #[arg(long, value_name = "N", requires = "watch")]
    count: Option<u64>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// 69 when no stack runs or a part is down.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let home = home_folder();
    if args.watch {
        return status_watch::run(&home, Duration::from_secs(args.every), args.count, args.json);
    }
    let Some((process, state)) = supervisor(&home).zip(Snapshot::read(&home)) else {
        return not_running(&home, args.json);
    };
    let ready = state.phase == StackPhase::Ready && state.parts.iter().all(|part| part.state.is_well());
    if args.json {
        json(&json!({ "home": home, "running": true, "ready": ready, "state": state }))?;
    } else {
        line(&table(&state));
        line("");
        line(&say(
            format!("supervisor pid {}, state in {}", process.pid, home.display()),
            format!("감독 프로세스 pid {}, 상태 폴더 {}", process.pid, home.display()),
        ));
        line(&disk_words(&state.disk));
    }
    Ok(if ready { Exit::Ok } else { Exit::Unreachable })
}

fn not_running(home: &Path, as_json: bool) -> anyhow::Result<Exit> {
    let mut config = StackConfig::new(home);
    StackFile::read(home).and_then(|file| file.apply(&mut config)).map_err(|error| problem(&error))?;
    let disk = DiskUse::measure(&config);
    if as_json {
        json(&json!({ "home": home, "running": false, "ready": false, "disk": disk }))?;
        return Ok(Exit::Unreachable);
    }
    line(&disk_words(&disk));
    Err(problem(&Error::NotRunning { home: home.to_owned() }))
}

/// The parts as a table.
pub(crate) fn table(state: &Snapshot) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(say(["part", "state", "pid", "port", "restarts", ""], ["구성 요소", "상태", "pid", "포트", "재시작", ""]));
    for part in &state.parts {
        let ports: Vec<String> = part.ports.iter().map(|port| port.port.to_string()).collect();
        let pid = part.pid.map(|pid| pid.to_string()).unwrap_or_default();
        table.add_row([
            part.name.clone(),
            state_words(part).to_owned(),
            pid,
            ports.join(" "),
            part.restarts.to_string(),
            part.note.clone(),
        ]);
    }
    drawn(&table)
}

fn state_words(part: &PartStatus) -> &'static str {
    match part.state {
        State::Stopped => say("stopped", "멈춤"),
        State::Starting => say("starting", "시작 중"),
        State::Ready => say("ready", "준비됨"),
        State::NotAnswering => say("not answering", "응답 없음"),
        State::BackingOff => say("restarting", "다시 시작 중"),
        State::Done => say("done", "완료"),
        State::GaveUp => say("gave up", "포기함"),
    }
}

fn disk_words(disk: &DiskUse) -> String {
    let (used, cap, free) = (size(disk.used_bytes), size(disk.cap_bytes), size(disk.free_bytes));
    let figures = say(
        format!("disk: {used} of {cap} used, {free} free on the file system"),
        format!("디스크: {cap} 중 {used} 사용, 파일 시스템 여유 {free}"),
    );
    let warning = if disk.at_cap() {
        say(
            " - LIMIT REACHED, producers are stopped; see `marketflow doctor`",
            " - 한도 도달, 생산자를 멈춥니다; `marketflow doctor`를 보세요",
        )
    } else if disk.near_cap() {
        say(" - nearly at the limit, where producers are stopped", " - 한도에 가깝습니다; 한도에서 생산자가 멈춥니다")
    } else {
        ""
    };
    figures + warning
}
