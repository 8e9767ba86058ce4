//! Our own services: sibling programs, told where the others are by environment variables; everything else by `<service>.toml` in the
//! state folder, where there is one.
//!
//! Next: `supervisor.rs`.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::StackConfig;
use crate::error::Error;
use crate::part::PartSpec;
use crate::ports::PortUse;
use crate::probe::Probe;
use crate::stack::Addresses;

/// Services that are told, by their configuration, to end when all is there.
const MAY_END: [&str; 3] = ["candle-producer", "flow-producer", "archiver"];

/// The spec of service `name` with its usual ports and addresses; add arguments and variables as the case needs.
///
/// # Errors
/// When the program is not built, or no such service is known.
pub(crate) fn spec(config: &StackConfig, name: &str) -> Result<PartSpec, Error> {
    let at = Addresses::of(config);
    let kafka = ("MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS", at.kafka);
    let registry = ("MARKETFLOW__REGISTRY__URL", at.registry);
    let clickhouse = ("MARKETFLOW__CLICKHOUSE__URL", at.clickhouse);
    let (admin, key, mut env) = match name {
        "tick-producer" => (config.ports.tick_producer, "tick_producer", vec![kafka, registry]),
        "candle-producer" => (config.ports.candle_producer, "candle_producer", vec![kafka, registry]),
        "flow-producer" => (config.ports.flow_producer, "flow_producer", vec![kafka, registry]),
        "processor" => (config.ports.processor, "processor", vec![kafka, registry]),
        "sink" => (config.ports.sink, "sink", vec![kafka, registry, clickhouse]),
        "archiver" => (config.ports.archiver, "archiver", vec![kafka, registry]),
        "simulator" => (
            config.ports.simulator_admin,
            "simulator_admin",
            vec![("MARKETFLOW__WIRE__LISTEN", format!("127.0.0.1:{}", config.ports.simulator))],
        ),
        _ => return Err(Error::UnknownPart { part: name.to_owned(), known: crate::config::SERVICES.join(", ") }),
    };
    env.push(("MARKETFLOW__ADMIN__LISTEN", format!("127.0.0.1:{admin}")));
    env.push(("MARKETFLOW_HOME", config.home.display().to_string()));
    let settings = config.home.join(format!("{name}.toml"));
    let args = if settings.is_file() { vec!["--config".into(), settings.into()] } else { Vec::new() };
    let mut ports = vec![PortUse::new(admin, key)];
    if name == "simulator" {
        ports.push(PortUse::new(config.ports.simulator, "simulator"));
    }
    Ok(PartSpec {
        name: name.to_owned(),
        program: program(config, name)?,
        args,
        env: env.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        folder: None,
        ports,
        probe: Probe::Http { port: admin, path: "/readyz".to_owned() },
        ready_line: None,
        ready_within: Duration::from_secs(60),
        stop_within: Duration::from_secs(45),
        may_end: MAY_END.contains(&name),
    })
}

/// Our program `name`, beside the running one.
pub(crate) fn program(config: &StackConfig, name: &str) -> Result<PathBuf, Error> {
    let path = config.programs.join(name);
    if path.is_file() { Ok(path) } else { Err(Error::ProgramMissing { name: name.to_owned(), path }) }
}
