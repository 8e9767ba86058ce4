//! How fast, how often, in which order and when again: token bucket, shared budget, priority queue, full-jitter back-off, circuit breaker.
//!
//! Pure: every call takes `now`, a monotonic duration since an arbitrary start, and randomness is handed in. It lacks any waiting: the caller
//! sleeps as long as it is told.
//!
//! Next: `services/producer/src/websocket.rs`, which reconnects by it, `backfill.rs`, which asks by it, and `crates/access/src/client.rs`, which
//! shares a key's budget by it.

mod backoff;
mod breaker;
mod bucket;
mod budget;
mod queue;

pub use backoff::{AttemptBudget, Backoff, BackoffSettings};
pub use breaker::{Breaker, BreakerSettings};
pub use bucket::TokenBucket;
pub use budget::{Budget, Denied, Limits, Permit, WindowLimit};
pub use queue::{Class, PriorityQueue, TimeOfDay};
