//! What every peer shares: the stack, the workload on `market.trades.v1`, the answer computed without Kafka, the check of anyone's bars against
//! it, and the floor: librdkafka, a decoder and the bars, nothing else.
//!
//! Next: `workload.rs`.

mod check;
mod floor;
mod load;
mod stack;
mod workload;

use anyhow::Context;
use clap::Parser;
use marketflow_kafka::KafkaConfig;
use std::path::PathBuf;

/// The pieces that `../peers.py` puts together
#[derive(Parser)]
enum Command {
    /// Start Kafka and the registry on free ports, print where, and run until standard input ends or a signal comes
    Stack {
        /// Folder of their data
        #[arg(long)]
        home: PathBuf,
    },
    /// Write the workload to a fresh `market.trades.v1`
    Load {
        #[command(flatten)]
        kafka: Kafka,
        #[command(flatten)]
        schemas: Schemas,
        #[arg(long)]
        trades: usize,
    },
    /// Drop a topic and make it again
    Fresh {
        #[command(flatten)]
        kafka: Kafka,
        #[arg(required = true)]
        topics: Vec<String>,
    },
    /// Drop a group and every topic whose name begins with it
    Forget {
        #[command(flatten)]
        kafka: Kafka,
        group: String,
    },
    /// Print how many bars the workload makes
    Expect {
        #[arg(long)]
        trades: usize,
    },
    /// Consume, decode, build bars, produce them: no state on disk, no commits, no recovery
    Floor {
        #[command(flatten)]
        kafka: Kafka,
        #[command(flatten)]
        schemas: Schemas,
        #[arg(long, default_value_t = 2)]
        threads: usize,
        #[arg(long)]
        out: String,
    },
    /// Wait until a group has committed everything on `market.trades.v1`
    Wait {
        #[command(flatten)]
        kafka: Kafka,
        #[arg(long)]
        group: String,
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
    /// Compare the bars on a topic with the answer: each there, once, with the right numbers
    Check {
        #[command(flatten)]
        kafka: Kafka,
        #[arg(long)]
        topic: String,
        #[arg(long)]
        trades: usize,
    },
}

#[derive(clap::Args, Clone)]
struct Kafka {
    #[arg(long)]
    bootstrap: String,
}

impl Kafka {
    fn config(&self) -> KafkaConfig {
        KafkaConfig::new(&self.bootstrap)
    }
}

/// Schema ids of the two record types on `market.trades.v1`.
#[derive(clap::Args, Clone, Copy)]
struct Schemas {
    #[arg(long)]
    trade_schema: u32,
    #[arg(long)]
    control_schema: u32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Stack { home } => stack::run(home).await,
        Command::Load { kafka, schemas, trades } => {
            stack::fresh(&kafka.config(), &[marketflow_contract::topics::TRADES.to_owned()]).await?;
            on_thread(move || load::load(&kafka.config(), schemas, trades)).await
        }
        Command::Fresh { kafka, topics } => stack::fresh(&kafka.config(), &topics).await,
        Command::Forget { kafka, group } => stack::forget(&kafka.config(), &group).await,
        Command::Expect { trades } => {
            println!("{}", workload::answer(trades).len());
            Ok(())
        }
        Command::Floor { kafka, schemas, threads, out } => {
            on_thread(move || floor::run(&kafka.bootstrap, schemas, threads, &out)).await
        }
        Command::Wait { kafka, group, seconds } => on_thread(move || stack::wait(&kafka.bootstrap, &group, seconds)).await,
        Command::Check { kafka, topic, trades } => on_thread(move || check::check(&kafka.config(), &topic, trades)).await,
    }
}

async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("the work panicked")?
}
