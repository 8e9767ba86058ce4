//! `marketflow doctor`: what is wrong with the local stack, why, and what to do about it.

use marketflow_runtime::Exit;
use marketflow_stack::diagnosis::{Check, diagnose};
use marketflow_stack::{Error, Language, Snapshot, StackConfig, StackFile, home_folder, supervisor};
use serde_json::json;

use crate::console::{block_on, json, line, problem, say};
use crate::provision;

/// Says what is wrong with the local stack, why, and what to do about it
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Exit code 0 when nothing is wrong, else 2.")]
pub struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When stack.toml cannot be read.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let home = home_folder();
    let mut config = StackConfig::new(home);
    StackFile::read(&config.home).and_then(|file| file.apply(&mut config)).map_err(|error| problem(&error))?;
    let checks = block_on(async {
        let mut checks = diagnose(&config).await;
        checks.extend(schemas(&config, &checks).await);
        Ok(checks)
    })?;
    let language = Language::of_user();
    if args.json {
        let rows = checks.iter().map(|check| {
            let words = |text: fn(&Error, Language) -> String| check.problem.as_ref().map(|problem| text(problem, language));
            json!({ "check": check.name, "ok": check.problem.is_none(), "cause": words(Error::cause), "cure": words(Error::cure) })
        });
        json(&rows.collect::<Vec<_>>())?;
    } else {
        for check in &checks {
            tell(check, language);
        }
    }
    Ok(if checks.iter().all(|check| check.problem.is_none()) { Exit::Ok } else { Exit::CheckSaidNo })
}

fn tell(check: &Check, language: Language) {
    let Some(problem) = &check.problem else {
        return line(&format!("ok    {}", check.name));
    };
    line(&format!("{}   {}: {}", say("BAD", "이상"), check.name, problem.cause(language).trim_end()));
    let cure = problem.cure(language);
    if !cure.is_empty() {
        line(&say(format!("      cure: {cure}"), format!("      해결: {cure}")));
    }
}

/// Compares schemas, topics and tables, when all three parts answer.
async fn schemas(config: &StackConfig, checks: &[Check]) -> Option<Check> {
    supervisor(&config.home)?;
    let addresses = Snapshot::read(&config.home)?.addresses;
    let answers = |name: &&str| checks.iter().any(|check| check.name == **name && check.problem.is_none());
    if !["kafka", "registry", "clickhouse"].iter().all(answers) {
        return None;
    }
    let problem = match provision::difference(&addresses).await {
        Ok(difference) => difference.map(|difference| Error::SchemaMismatch { difference }),
        Err(error) => Some(Error::Config { what: format!("{error:#}") }),
    };
    Some(Check { name: "schemas".to_owned(), problem })
}
