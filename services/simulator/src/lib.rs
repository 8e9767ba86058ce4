//! The simulator: plays recorded and generated tapes over the venues' own wire formats, in virtual time, with faults on demand, and writes down
//! what was true.
//!
//! It shares no code with the clients in `crates/providers`: both follow the venues' documentation on their own, so that an error on either side
//! shows. What it lacks is said in each venue's `mod.rs`. Reading order: `tape.rs` → `market.rs` → `player.rs` → `bitstamp/`, `binance/`,
//! `upbit/`, `kis/`, `kiwoom/` → `server.rs`, `admin.rs`; `faults.rs` and `truth.rs` beside them. How to use it: `docs/simulator.md`.
//!
//! Next: `services/producer/src/lib.rs`, the client at the other end of the wire.

pub mod admin;
pub mod binance;
pub mod bitstamp;
pub mod clock;
pub mod config;
pub mod connection;
pub mod decimal;
pub mod faults;
pub mod hub;
pub mod kis;
pub mod kiwoom;
pub mod market;
pub mod metrics;
mod place;
pub mod player;
pub mod seed;
pub mod series;
pub mod server;
pub mod simulation;
pub mod tape;
pub mod truth;
pub mod upbit;

pub use config::Config;
pub use simulation::Simulation;

/// Every key with its default and its meaning.
pub const DEFAULTS: &str = include_str!("../default.toml");
