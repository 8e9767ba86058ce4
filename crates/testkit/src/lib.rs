//! What tests of the whole need: a stack of their own, waiting without sleeping, faults on the wire, generated trades. For
//! `[dev-dependencies]` only.
//!
//! A test that cannot start what it needs fails and says why; nothing here skips. It lacks any judgement: what is right is decided by
//! `crates/oracle`.
//!
//! Next: `stack.rs`.

mod eventually;
mod faultproxy;
mod generate;
mod kafkaproxy;
mod metrics;
mod postgres;
mod simulator;
mod stack;

pub use eventually::eventually;
pub use faultproxy::{FaultProxy, Faults};
pub use generate::RandomWalk;
pub use kafkaproxy::KafkaProxy;
pub use metrics::Metrics;
pub use postgres::Postgres;
pub use simulator::{Simulator, effects};
pub use stack::{Located, TestStack};
