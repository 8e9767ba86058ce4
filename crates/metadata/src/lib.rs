//! Small facts on which services agree, in one store: SQLite in a file of this machine, or Postgres where several machines collect.
//!
//! So far it holds leases: who collects with a broker's key. It knows no market and no broker.
//!
//! Read in this order: `store.rs` (where) → `lease.rs` (who works) → `holder.rs` (whether he lives).
//!
//! Next: `store.rs`.

mod holder;
mod lease;
mod store;

pub use lease::Lease;
pub use store::{MetadataConfig, Store};
