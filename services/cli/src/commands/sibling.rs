//! Our other programs as helpers of a verb: started beside this one, they say what they do line by line on standard output.

use anyhow::{Context, bail};
use marketflow_runtime::Exit;
use std::process::{Command, ExitStatus};

/// A command that starts the program `name` beside this one; nothing is set but what the environment must not say to it.
pub(super) fn sibling(name: &str) -> anyhow::Result<Command> {
    let path = std::env::current_exe().context("where this program is")?.with_file_name(name);
    if !path.is_file() {
        bail!("{} is not there; `make build` builds it", path.display());
    }
    let mut command = Command::new(path);
    // One environment serves all our programs; those that we start so would not know these keys.
    for (name, _) in std::env::vars_os() {
        if ["CLICKHOUSE", "RETENTION"]
            .iter()
            .any(|section| name.to_string_lossy().starts_with(&format!("MARKETFLOW__{section}__")))
        {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// How it ended.
pub(super) fn exit_of(status: ExitStatus) -> Exit {
    match status.code() {
        Some(0) => Exit::Ok,
        Some(2) => Exit::CheckSaidNo,
        Some(64) => Exit::Usage,
        Some(69) => Exit::Unreachable,
        Some(70) => Exit::Fatal,
        Some(75) => Exit::TryAgain,
        Some(130) | None => Exit::Interrupted,
        Some(_) => Exit::Failed,
    }
}
