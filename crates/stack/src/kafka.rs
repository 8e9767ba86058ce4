//! Kafka: one KRaft node, broker and controller in one process, formatted on its first start.
//!
//! Topics are not its business: auto-creation is off, `marketflow up` creates what `schemas/topics.toml` lists. Next: `registry.rs`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::{Mode, StackConfig};
use crate::error::{Doing, Error};
use crate::part::{PartSpec, java};
use crate::ports::{PortUse, random_bytes};
use crate::probe::Probe;

const LOG_CONFIG: &str = include_str!("../assets/log4j2.xml");

/// Small enough for a laptop; the broker holds 360 MB with it.
const JVM: [&str; 4] = ["-Xms128m", "-Xmx512m", "-XX:+UseG1GC", "-XX:+ExitOnOutOfMemoryError"];

pub(crate) fn spec(config: &StackConfig) -> Result<PartSpec, Error> {
    let java = java()?;
    let lib = config.tools.join("kafka/lib");
    if !lib.is_dir() {
        return Err(Error::ToolMissing { what: "Kafka", path: lib });
    }
    let folder = config.home.join("kafka");
    fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
    let properties = folder.join("server.properties");
    fs::write(&properties, server_properties(config, &folder)).doing(|| format!("write {}", properties.display()))?;
    let log_config = folder.join("log4j2.xml");
    fs::write(&log_config, LOG_CONFIG).doing(|| format!("write {}", log_config.display()))?;

    let class_path = format!("{}/*", lib.display());
    let log_flag = format!("-Dlog4j2.configurationFile={}", log_config.display());
    if !folder.join("data/meta.properties").exists() {
        format(&java, &class_path, &log_flag, &properties)?;
    }
    let mut args: Vec<_> = JVM.map(Into::into).to_vec();
    args.extend(
        [log_flag, "-cp".to_owned(), class_path, "kafka.Kafka".to_owned(), properties.display().to_string()].map(Into::into),
    );
    Ok(PartSpec {
        name: "kafka".to_owned(),
        program: java,
        args,
        env: Vec::new(),
        folder: Some(folder),
        ports: vec![PortUse::new(config.ports.kafka, "kafka"), PortUse::new(config.ports.kafka_controller, "kafka_controller")],
        probe: Probe::Kafka { port: config.ports.kafka },
        ready_line: Some("Kafka Server started"),
        ready_within: Duration::from_secs(90),
        stop_within: Duration::from_secs(20),
        may_end: false,
    })
}

fn server_properties(config: &StackConfig, folder: &Path) -> String {
    let (port, controller) = (config.ports.kafka, config.ports.kafka_controller);
    let mut text = format!(
        "# written by marketflow at every start
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
log.dirs={}/data
auto.create.topics.enable=false
# one node: one replica of everything, few partitions for Kafka's own topics
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# what a topic does not say itself: keep everything
log.retention.ms=-1
# a laptop that slept for months still knows how far its readers were
offsets.retention.minutes=525600
num.network.threads=2
num.io.threads=4
num.partitions=4
log.cleaner.dedupe.buffer.size=16777216
",
        folder.display()
    );
    if config.mode == Mode::Test {
        text.push_str("group.min.session.timeout.ms=1000\ntransaction.abort.timed.out.transaction.cleanup.interval.ms=1000\n");
    }
    text
}

/// Gives an empty data folder its cluster id. The id is part of every row's stream epoch, so each home has its own.
fn format(java: &Path, class_path: &str, log_flag: &str, properties: &Path) -> Result<(), Error> {
    let mut id = [0; 16];
    random_bytes(&mut id).doing(|| "read random bytes".to_owned())?;
    id[0] &= 0x7f; // no leading dash, which the tool would take for an option
    let output = Command::new(java)
        .args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", log_flag, "-cp", class_path, "kafka.tools.StorageTool"])
        .args(["format", "--standalone", "--ignore-formatted", "-t", &URL_SAFE_NO_PAD.encode(id), "-c"])
        .arg(properties)
        .output()
        .doing(|| format!("run {}", java.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let words = [output.stdout, output.stderr].concat();
    Err(Error::Config { what: format!("cannot format Kafka's data folder: {}", String::from_utf8_lossy(&words).trim()) })
}
