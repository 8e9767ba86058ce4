//! Prints the final bars of `market.bars.v1`, from the first to the last one committed now.
//!
//! `cargo run -p marketflow-tests --bin rust-consumer`, with `KAFKA` and `REGISTRY` set where the stack is not on the usual ports.

#![expect(clippy::print_stdout, reason = "an example prints")]

use marketflow_contract::topics;
use marketflow_kafka::{KafkaConfig, Reader, Registry, RegistryConfig, TopicPartition};
use marketflow_model::Bar;
use std::ops::ControlFlow;
use std::time::Duration;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let registry = Registry::new(&RegistryConfig { url: address("REGISTRY", "http://127.0.0.1:8081/apis/ccompat/v7") })?;
    let mut decoder = registry.decoder().await?;
    let reader = Reader::new(&KafkaConfig::new(address("KAFKA", "127.0.0.1:9092")))?; // sees committed transactions only

    for partition in 0..reader.partition_count(topics::BARS)? {
        reader.read_to_end(&TopicPartition::new(topics::BARS, partition), 0, Duration::from_secs(10), |record| {
            match decoder.decode::<Bar>(record.value().unwrap_or_default()) {
                Ok(bar) => println!(
                    "{} {} {} {} {} {} {} {} {:?} revision {}",
                    bar.instrument,
                    bar.interval,
                    bar.open_time,
                    bar.open,
                    bar.high,
                    bar.low,
                    bar.close,
                    bar.volume,
                    bar.quality,
                    bar.revision
                ),
                Err(problem) => println!("{}/{} offset {}: {problem}", record.topic(), record.partition(), record.offset()),
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(())
}
