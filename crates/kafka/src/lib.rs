//! Kafka and its schema registry: the only crate that sees librdkafka.
//!
//! [`Consumer`] and [`TransactionalProducer`] belong to one plain thread each; [`Producer`] may be shared. Values are bytes here; what they
//! mean is `crates/contract`, found by schema id through a [`Decoder`]. It lacks any notion of bars, trades or rows.
//!
//! Next: `services/processor/src/processor.rs`, which reads, computes and writes with these parts.

pub mod admin;
pub mod calendar;
mod config;
mod consumer;
mod ends;
mod error;
mod failpoint;
mod groups;
#[expect(unsafe_code, reason = "what the safe wrapper lacks: batch consumption, DescribeTopics")]
mod native;
mod partitioner;
mod producer;
mod reader;
mod registry;
mod transaction;

pub use config::KafkaConfig;
pub use consumer::{Batch, Consumer, GroupSettings, Header, Rebalance, Record, Run, StartAt, TopicPartition};
pub use ends::{End, Ends};
pub use error::{Disposition, Error};
pub use failpoint::fail_point;
pub use groups::{committed, members, set_committed};
pub use native::TransactionProblem;
pub use partitioner::partition_for;
pub use producer::{FailedDelivery, Outgoing, Producer, ProducerSettings, SendError};
pub use reader::Reader;
pub use registry::{DecodeError, Decoder, Registry, RegistryConfig, SchemaIds};
pub use transaction::{TransactionSettings, TransactionalProducer};
