//! Getting in: what a venue asks of a customer before it talks, and the passes it issues for it.
//!
//! Pure like the rest: requests out, answers in. Who keeps a pass, shares it and renews it is the shell (`crates/access/src/passes.rs`).
//!
//! Next: `crates/providers/src/kis/login.rs`.

use crate::{RestAnswer, RestError};
use marketflow_model::Timestamp;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A key or a pass: printed as `***`; [`Secret::expose`] is the only way to the text.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a customer was given, by the names in [`crate::Provider::credentials`].
#[derive(Clone, Default, Debug)]
pub struct Credentials(BTreeMap<&'static str, Secret>);

impl Credentials {
    /// From names and values.
    pub fn new(values: impl IntoIterator<Item = (&'static str, Secret)>) -> Self {
        Self(values.into_iter().collect())
    }

    /// The value of a name; empty when it was not given.
    pub fn get(&self, name: &str) -> Secret {
        self.0.get(name).cloned().unwrap_or_default()
    }
}

/// What a pass is good for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PassKind {
    /// Requests.
    AccessToken,
    /// The socket.
    SocketKey,
}

impl PassKind {
    /// Part of a file name, label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccessToken => "access-token",
            Self::SocketKey => "socket-key",
        }
    }
}

/// A request for a pass, to be posted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoginRequest {
    /// To be appended to the request endpoint.
    pub path: &'static str,
    /// Header `content-type`.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: &'static [(&'static str, &'static str)],
    /// Body; it holds the credentials.
    pub body: Secret,
    /// Least time between two such requests of one customer, over all processes.
    pub interval_min: Duration,
}

/// A pass as issued.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pass {
    /// To be shown.
    pub secret: Secret,
    /// When it is no longer good.
    pub ends: Ends,
}

/// When a pass ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ends {
    /// So long after its issue.
    After(Duration),
    /// At this instant.
    At(Timestamp),
}

/// Why a connection ends whose pass is not taken: the next one needs a new pass.
pub const KEY_REFUSED: &str = "key_refused";

/// How passes are asked for and read.
pub trait Login: Sync {
    /// The request for a pass.
    fn request(&self, kind: PassKind, credentials: &Credentials) -> LoginRequest;

    /// Reads the answer to it.
    ///
    /// # Errors
    /// [`RestError`] for anything but a pass; its text holds no secret.
    fn pass(&self, kind: PassKind, answer: RestAnswer<'_>) -> Result<Pass, RestError>;

    /// The request that gives a pass back before its time.
    fn revocation(&self, kind: PassKind, credentials: &Credentials, pass: &Secret) -> LoginRequest;

    /// Which pass the socket wants to see.
    fn for_socket(&self) -> PassKind;
}
