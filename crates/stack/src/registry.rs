//! Schema registry: Apicurio, spoken to in Confluent's dialect under `/apis/ccompat/v7`.
//!
//! Its default store is memory: ids would change at every restart, and with them the meaning of every record in Kafka. H2 writes to a
//! file here, and with `WRITE_DELAY=0` it has written before it answers; without, acknowledged schemas were lost by kill -9.
//!
//! Next: `clickhouse.rs`.

use std::fs;
use std::time::Duration;

use crate::config::StackConfig;
use crate::error::{Doing, Error};
use crate::part::{PartSpec, java};
use crate::ports::PortUse;
use crate::probe::Probe;

/// Path of Confluent's API in Apicurio.
pub(crate) const API: &str = "/apis/ccompat/v7";

const RUNNER: &str = "apicurio-registry-app-2.6.13.Final-runner.jar";

pub(crate) fn spec(config: &StackConfig) -> Result<PartSpec, Error> {
    let java = java()?;
    let tool = config.tools.join("apicurio");
    if !tool.join(RUNNER).is_file() {
        return Err(Error::ToolMissing { what: "Apicurio Registry", path: tool.join(RUNNER) });
    }
    let folder = config.home.join("registry");
    fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
    let class_path = format!("{}:{}/*", tool.join(RUNNER).display(), tool.join("lib").display());
    let port = config.ports.registry;
    let env = [
        ("QUARKUS_HTTP_HOST", "127.0.0.1".to_owned()),
        ("QUARKUS_HTTP_PORT", port.to_string()),
        ("QUARKUS_BANNER_ENABLED", "false".to_owned()),
        ("LOG_LEVEL", "WARN".to_owned()),
        ("REGISTRY_LOG_LEVEL", "WARN".to_owned()),
        // by itself it opens twenty connections at once and gives up after 5 s, which a loaded machine may need for the first
        ("QUARKUS_DATASOURCE_JDBC_INITIAL_SIZE", "2".to_owned()),
        ("QUARKUS_DATASOURCE_JDBC_MIN_SIZE", "2".to_owned()),
        ("QUARKUS_DATASOURCE_JDBC_MAX_SIZE", "16".to_owned()),
        ("QUARKUS_DATASOURCE_JDBC_ACQUISITION_TIMEOUT", "60".to_owned()),
        ("REGISTRY_DATASOURCE_URL", format!("jdbc:h2:file:{}/registry;WRITE_DELAY=0", folder.display())),
    ];
    Ok(PartSpec {
        name: "registry".to_owned(),
        program: java,
        args: [
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",
            "-cp",
            &class_path,
            "io.quarkus.runner.GeneratedMain",
        ]
        .map(Into::into)
        .to_vec(),
        env: env.map(|(key, value)| (key.to_owned(), value)).to_vec(),
        folder: Some(folder),
        ports: vec![PortUse::new(port, "registry")],
        probe: Probe::Http { port, path: format!("{API}/subjects") },
        ready_line: None,
        ready_within: Duration::from_secs(120),
        stop_within: Duration::from_secs(10),
        may_end: false,
    })
}
