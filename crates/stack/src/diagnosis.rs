//! What is wrong with a stack, running or about to: every check with its problem, if it found one.
//!
//! Schemas are not looked at here: whoever lays them out adds that check. Next: `services/cli/src/commands/doctor.rs`.

use std::time::Duration;

use crate::clickhouse::ClickHouseEngine;
use crate::config::{INFRASTRUCTURE, StackConfig};
use crate::disk::DiskUse;
use crate::error::Error;
use crate::part::{State, java};
use crate::ports;
use crate::probe::Probe;
use crate::process::ProcessIdentity;
use crate::registry;
use crate::stack::{Snapshot, supervisor};

const PATIENCE: Duration = Duration::from_secs(2);

/// One thing looked at.
#[derive(Debug)]
pub struct Check {
    /// What was looked at, a word or two.
    pub name: String,
    /// What is wrong with it.
    pub problem: Option<Error>,
}

/// Looks at everything this crate knows of: Java, tools, engine and data, disk, and the ports or the parts of `config`.
/// A running stack is asked on the ports it was started with.
pub async fn diagnose(config: &StackConfig) -> Vec<Check> {
    let mut checks = vec![
        check("java", java()),
        check("tools", tools(config)),
        check("clickhouse engine", ClickHouseEngine::find(&config.tools).and_then(|engine| engine.data_folder(&config.home))),
        check("disk", disk(config)),
    ];
    match (supervisor(&config.home), Snapshot::read(&config.home)) {
        (Some(_), Some(snapshot)) => running(&snapshot, &mut checks).await,
        _ => stopped(config, &mut checks),
    }
    checks
}

async fn running(snapshot: &Snapshot, checks: &mut Vec<Check>) {
    for part in snapshot.parts.iter().filter(|part| part.state != State::Done) {
        let port = part.ports.first().map_or(0, |port| port.port);
        let probe = match part.name.as_str() {
            "kafka" => Probe::Kafka { port },
            "registry" => Probe::Http { port, path: format!("{}/subjects", registry::API) },
            "clickhouse" => Probe::Http { port, path: "/ping".to_owned() },
            _ => Probe::Http { port, path: "/readyz".to_owned() },
        };
        let answered = probe.ask(PATIENCE).await;
        let problem = answered.err().map(|why| Error::PartDown {
            part: part.name.clone(),
            why: format!("port {port}: {why}{}{}", if part.note.is_empty() { "" } else { "; " }, part.note),
            log: part.log.clone(),
            being_restarted: matches!(part.state, State::Starting | State::BackingOff | State::Ready | State::NotAnswering),
        });
        checks.push(Check { name: part.name.clone(), problem });
    }
}

fn stopped(config: &StackConfig, checks: &mut Vec<Check>) {
    let home = &config.home;
    let alive = |name: &&str| ProcessIdentity::read(home, name).is_some_and(|process| process.alive());
    let left: Vec<String> =
        INFRASTRUCTURE.iter().chain(&crate::config::SERVICES).filter(|name| alive(name)).map(|&name| name.to_owned()).collect();
    if left.is_empty() {
        for port in config.ports.all() {
            let part = port.key.replace('_', "-");
            checks.push(check(&format!("port {} ({part})", port.port), ports::check_free(&part, &port)));
        }
        checks.push(Check { name: "stack".into(), problem: Some(Error::NotRunning { home: home.clone() }) });
    } else {
        checks.push(Check { name: "stack".into(), problem: Some(Error::Leftovers { parts: left }) });
    }
}

fn tools(config: &StackConfig) -> Result<(), Error> {
    let wanted = [("Kafka", "kafka/lib"), ("Apicurio Registry", "apicurio/lib")];
    match wanted.into_iter().map(|(what, path)| (what, config.tools.join(path))).find(|(_, path)| !path.is_dir()) {
        Some((what, path)) => Err(Error::ToolMissing { what, path }),
        None => Ok(()),
    }
}

fn disk(config: &StackConfig) -> Result<(), Error> {
    let disk = DiskUse::measure(config);
    if disk.nearly_full() {
        Err(Error::DiskNearlyFull { disk })
    } else if disk.near_cap() {
        Err(Error::DiskCap { disk })
    } else {
        Ok(())
    }
}

fn check<T>(name: &str, result: Result<T, Error>) -> Check {
    Check { name: name.to_owned(), problem: result.err() }
}
