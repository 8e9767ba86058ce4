//! The command line: verbs, exit codes, and the texts around them. Each verb is a module of [`commands`].
//!
//! It links no service; `up` starts the programs beside its own. Texts are English, or Korean where `LANG` says so.
//!
//! Next: `commands/up.rs`.

pub mod commands;
mod console;
pub mod provision;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use marketflow_runtime::Exit;

/// Event streaming for market data on one machine: the local stack, imports, bars and questions to them.
#[derive(Parser, Debug)]
#[command(
    name = "marketflow",
    version = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("MARKETFLOW_CLI_COMMIT"), ")"),
    arg_required_else_help = true,
    after_help = "Exit codes: 0 ok, 1 failed, 2 a check said no, 64 usage or configuration, 69 a part is not reachable, 75 try again, 130 interrupted.
MARKETFLOW_HOME is the state folder (default .marketflow); stack.toml in it sets ports, services and disk limits."
)]
struct CommandLine {
    #[command(subcommand)]
    command: commands::Command,
}

/// Parses the arguments, runs the verb, prints what went wrong, and says it in the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(answer) => {
            console::print_usage(&answer);
            return if answer.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    match line.command.run() {
        Ok(exit) => exit.into(),
        Err(error) => {
            let exit = Exit::of(&error);
            console::print_error(&error, exit);
            exit.into()
        }
    }
}

/// The whole command tree, for shell completion.
fn command_line() -> clap::Command {
    CommandLine::command()
}
