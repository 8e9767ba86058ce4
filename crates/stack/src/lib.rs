//! The local stack: Kafka, schema registry, ClickHouse and our services as child processes on one machine, without containers.
//!
//! Used by the command line (`marketflow up`) and, through testkit, by tests. It starts parts, knows when they are ready, starts them
//! again when they end, stops them in order and recovers what a killed supervisor left. It lacks all knowledge of topics, schemas and
//! tables: those are laid out by whoever uses it, between [`Stack::start`] and [`Stack::start_service`].
//!
//! ```no_run
//! # async fn example() -> Result<(), marketflow_stack::Error> {
//! use marketflow_stack::{Stack, StackConfig};
//! let config = StackConfig::for_test("/tmp/some-test")?;
//! let mut stack = Stack::start(config).await?;
//! println!("Kafka at {}", stack.addresses().kafka);
//! let processor = stack.service("processor")?;
//! stack.start_service(processor).await?;
//! stack.crash("processor")?;      // SIGKILL; it comes back
//! stack.kill("kafka").await?;     // SIGKILL; it stays down …
//! stack.restart("kafka").await?;  // … until it is wanted again
//! stack.stop().await;
//! # Ok(()) }
//! ```
//!
//! Next: `config.rs`.

mod clickhouse;
mod config;
pub mod diagnosis;

mod disk;
mod error;
mod kafka;
mod language;
pub mod logs;
mod os;
mod part;
mod ports;
mod probe;
mod process;
mod registry;
mod service;
mod stack;
mod supervisor;

pub use clickhouse::ClickHouseEngine;
pub use config::{
    DiskFile, INFRASTRUCTURE, Mode, SERVICES, StackConfig, StackFile, home_folder, parse_bytes, programs_folder, tools_folder,
};
pub use disk::{DiskUse, free_bytes, used_bytes};
pub use error::{Error, Kind, size};
pub use language::Language;
pub use os::spawn_detached;
pub use part::{PartSpec, PartStatus, State, java};
pub use ports::{PortUse, Ports, is_free, owner};
pub use probe::{NotReady, Probe};
pub use process::ProcessIdentity;
pub use stack::{Addresses, Snapshot, Stack, StackPhase, purge, recover, supervisor};
