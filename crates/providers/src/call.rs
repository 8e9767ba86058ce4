//! One call to a venue by a customer's key: what may be asked, how a question is sent, and why it brought nothing.
//!
//! Next: `crates/access/src/client.rs`, which sends it.

use crate::Secret;
use std::time::Duration;

/// What one key may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallLimits {
    /// Calls in any stretch of the length below.
    pub calls: u32,
    /// That length.
    pub within: Duration,
    /// Calls a day; `None`: no such limit is stated.
    pub per_day: Option<u64>,
}

/// A question as it is sent.
#[derive(Clone, Debug)]
pub struct CallRequest {
    /// To be appended to the request endpoint.
    pub path_and_query: String,
    /// Headers; some hold secrets.
    pub headers: Vec<(&'static str, Secret)>,
    /// To be posted; `None`: it is a GET.
    pub body: Option<String>,
}

/// Why a call brought nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The venue does not take the pass any more: another one is needed.
    #[error("pass refused: {detail}")]
    Pass {
        /// In the venue's words.
        detail: String,
    },
    /// Too many calls; not before `wait`.
    #[error("rate limited: {detail}")]
    Limited {
        /// As the venue asks.
        wait: Duration,
        /// In the venue's words.
        detail: String,
    },
    /// The venue cannot answer now.
    #[error("not available: {detail}")]
    Unavailable {
        /// In the venue's words.
        detail: String,
    },
    /// The venue will not answer this, however often it is asked.
    #[error("refused: {detail}")]
    Refused {
        /// In the venue's words.
        detail: String,
    },
    /// Not the documented shape.
    #[error("cannot read the answer: {detail}")]
    Unreadable {
        /// In words.
        detail: String,
    },
}

impl CallError {
    /// Label value, bounded.
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::Pass { .. } => "pass_refused",
            Self::Limited { .. } => "rate_limited",
            Self::Unavailable { .. } => "unavailable",
            Self::Refused { .. } => "refused",
            Self::Unreadable { .. } => "unreadable",
        }
    }

    /// Whether asking again later can help.
    pub const fn retryable(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}
