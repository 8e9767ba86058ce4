//! How fast, how often and when again: token bucket, full-jitter back-off, shared attempt budget.
//!
//! Pure: every call takes `now`, a monotonic duration since an arbitrary start, and randomness is handed in. It lacks any waiting: the caller
//! sleeps as long as it is told.
//!
//! Next: `services/producer/src/websocket.rs`, which reconnects by it, and `backfill.rs`, which asks by it.

mod backoff;
mod bucket;

pub use backoff::{AttemptBudget, Backoff, BackoffSettings};
pub use bucket::TokenBucket;
