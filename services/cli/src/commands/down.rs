//! `marketflow down`: stops the local stack; data stays unless told otherwise.

use std::time::Duration;

use marketflow_runtime::Exit;
use marketflow_stack::{Snapshot, home_folder, purge, recover, size, supervisor, used_bytes};
use serde_json::json;

use crate::console::{block_on, json, line, problem, say};

/// Longer than the parts' own patience together.
const PATIENCE: Duration = Duration::from_secs(150);

/// Stops the local stack in order; data stays
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Examples:
  marketflow down            stop; the next `up` goes on where this left off
  marketflow down --purge    stop, then delete all data, logs and state (stack.toml stays)")]
pub struct Args {
    /// Delete all data afterwards
    #[arg(long)]
    purge: bool,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be removed.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let home = home_folder();
    let tell = |english: String, korean: String| {
        if !args.json {
            line(&say(english, korean));
        }
    };
    let mut stopped: Vec<String> = Vec::new();
    if let Some(process) = supervisor(&home) {
        tell(format!("stopping (supervisor pid {})", process.pid), format!("끝내는 중 (감독 프로세스 pid {})", process.pid));
        stopped = Snapshot::read(&home)
            .into_iter()
            .flat_map(|state| state.parts)
            .filter(|part| part.pid.is_some())
            .map(|part| part.name)
            .collect();
        process.end(PATIENCE);
    }
    // after a supervisor that was killed, now or earlier
    let left = block_on(async { Ok(recover(&home).await) })?;
    stopped.extend(left.into_iter().filter(|name| !stopped.contains(name)).collect::<Vec<_>>());
    match stopped.as_slice() {
        [] => tell(format!("nothing runs in {}", home.display()), format!("{}에서 실행 중인 것이 없습니다", home.display())),
        names => tell(format!("stopped: {}", names.join(", ")), format!("끝냄: {}", names.join(", "))),
    }
    let mut freed_bytes = 0;
    if args.purge {
        freed_bytes = used_bytes(&home);
        block_on(async { purge(&home).await.map_err(|error| problem(&error)) })?;
        freed_bytes -= used_bytes(&home).min(freed_bytes);
        tell(format!("deleted {} of data and logs", size(freed_bytes)), format!("데이터와 로그 {} 삭제", size(freed_bytes)));
    }
    if args.json {
        json(&json!({ "home": home, "stopped": stopped, "purged": args.purge, "freed_bytes": freed_bytes }))?;
    }
    Ok(Exit::Ok)
}
