//! `marketflow provision`: topics, schemas and tables on servers that are not ours to start.

use super::connection;
use crate::console::{block_on, line};
use crate::provision::lay_out_at;
use marketflow_kafka::admin::TopicOptions;
use marketflow_runtime::Exit;

/// Creates the topics, registers the schemas and lays out the tables on given servers, or says how they differ
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
The servers are those of the environment: MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS, MARKETFLOW__REGISTRY__URL, MARKETFLOW__CLICKHOUSE__URL (and
…__DATABASE, …__USER, …__PASSWORD); without them, the local stack's. What is there already and agrees stays as it is.
MARKETFLOW__CLICKHOUSE__CLUSTER and …__SPREAD=true lay the tables out on a cluster; MARKETFLOW__RETENTION__TRADES=365 and its like make tables forget
rows that many days after they came (0 = never).

Examples:
  MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS=kafka:9092 MARKETFLOW__REGISTRY__URL=http://registry:8080/apis/ccompat/v7 \\
  MARKETFLOW__CLICKHOUSE__URL=http://clickhouse:8123 marketflow provision --replication 3")]
pub struct Args {
    /// Copies of each partition
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    replication: i32,
}

/// Runs the command.
///
/// # Errors
/// 69 when a server does not answer; what `up` says when one disagrees with this version.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let (kafka, registry, clickhouse) = (connection::kafka()?, connection::registry()?, connection::clickhouse()?);
    let topics = TopicOptions { replication: args.replication, partitions: None };
    block_on(lay_out_at(&kafka, &topics, &registry, &clickhouse, &connection::retention()?))?;
    line("topics, schemas and tables are laid out");
    Ok(Exit::Ok)
}
