//! What reaches the terminal: lines, JSON, errors; and the language of it all.

use std::future::Future;
use std::io::{ErrorKind, Write};

use indicatif::{ProgressBar, ProgressStyle};
use marketflow_runtime::Exit;
use marketflow_stack::{Kind, Language};
use serde::Serialize;

/// The English or the Korean text, as the user's locale says.
pub(crate) fn say<T>(english: T, korean: T) -> T {
    Language::of_user().pick(english, korean)
}

/// Writes a line to standard output. A reader that left, as `head` does, ends the program quietly.
pub(crate) fn line(text: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{text}")
        && error.kind() == ErrorKind::BrokenPipe
    {
        std::process::exit(0);
    }
}

/// A table as text, without the blanks that fill its last column.
pub(crate) fn drawn(table: &comfy_table::Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Writes a value as JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A problem of the stack as an error with its exit code, in the user's language.
pub(crate) fn problem(error: &marketflow_stack::Error) -> anyhow::Error {
    let exit = match error.kind() {
        Kind::Setting => Exit::Usage,
        Kind::Unreachable => Exit::Unreachable,
        Kind::Mismatch => Exit::CheckSaidNo,
        Kind::Passing => Exit::TryAgain,
        Kind::System => Exit::Failed,
    };
    anyhow::anyhow!(error.words(Language::of_user())).context(exit)
}

/// Writes `marketflow: …` to standard error; the exit itself is told by the exit code.
pub(crate) fn print_error(error: &anyhow::Error, exit: Exit) {
    let exit = exit.to_string();
    let words: Vec<String> = error.chain().map(ToString::to_string).filter(|words| *words != exit).collect();
    eprintln!("marketflow: {}", words.join(": "));
}

pub(crate) fn print_usage(answer: &clap::Error) {
    if answer.print().is_err() {
        eprintln!("marketflow: usage could not be printed");
    }
}

/// A bar that shows how far a read has come.
pub(crate) fn progress(what: &str, records: i64) -> ProgressBar {
    let bar = ProgressBar::new(u64::try_from(records).unwrap_or_default());
    bar.set_style(ProgressStyle::with_template("{prefix} {wide_bar} {human_pos}/{human_len} {eta}").expect("a fixed template"));
    bar.set_prefix(what.to_owned());
    bar
}

/// Runs `future` to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(future)
}
