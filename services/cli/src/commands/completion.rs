//! `marketflow completion SHELL`.

use clap_complete::Shell;
use marketflow_runtime::Exit;

/// Prints the completion script of a shell.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Examples:
  marketflow completion bash > ~/.local/share/bash-completion/completions/marketflow
  marketflow completion zsh  > ~/.zfunc/_marketflow")]
pub struct Args {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

/// Runs the command.
///
/// # Errors
/// None in practice.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::command_line(), "marketflow", &mut script);
    crate::console::line(String::from_utf8_lossy(&script).trim_end());
    Ok(Exit::Ok)
}
