//! Sessions (`session_id`): a connection that outlives a request, with its temporary tables, `SET`s and `USE`.
//!
//! A request's own URL settings and database apply to that request alone; `Borrowed` puts back what they covered.
//!
//! Next: `execute.rs`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::access::User;
use crate::config::Access;
use crate::engine::Engine;
use crate::fault::{Fault, code};
use crate::ffi::Connection;

/// What a request asks for by `session_id`, `session_timeout` and `session_check`.
#[derive(Debug, Clone)]
pub(crate) struct SessionRequest {
    pub(crate) id: String,
    pub(crate) timeout: Duration,
    pub(crate) must_exist: bool,
}

pub(crate) struct Session {
    pub(crate) connection: Mutex<Connection>,
    expires: Mutex<Instant>,
}

impl Session {
    fn expires_at(&self) -> Instant {
        *self.expires.lock().expect("nobody panics while holding the time")
    }

    pub(crate) fn extend(&self, timeout: Duration) {
        *self.expires.lock().expect("nobody panics while holding the time") = Instant::now() + timeout;
    }
}

/// Whether a request holds the session. Asked under the map's lock, which is where requests get theirs.
fn in_use(session: &Arc<Session>) -> bool {
    Arc::strong_count(session) > 1
}

/// All sessions. Bounded: the one that would expire first makes room.
pub(crate) struct Sessions {
    sessions: Mutex<HashMap<(String, String), Arc<Session>>>,
    limit: usize,
}

impl Sessions {
    pub(crate) fn new(limit: usize) -> Self {
        Self { sessions: Mutex::new(HashMap::new()), limit: limit.max(1) }
    }

    /// The session asked for, made when it is new.
    pub(crate) fn get(&self, engine: &Engine, user: &User, request: &SessionRequest) -> Result<Arc<Session>, Fault> {
        self.expire();
        let key = (user.name.clone(), request.id.clone());
        let mut sessions = self.sessions.lock().expect("nobody panics while holding the sessions");
        if let Some(session) = sessions.get(&key) {
            return Ok(Arc::clone(session));
        }
        if request.must_exist {
            return Err(Fault::new(code::SESSION_NOT_FOUND, format!("Session {} not found", request.id)));
        }
        if sessions.len() >= self.limit {
            let oldest = sessions.iter().filter(|(_, session)| !in_use(session)).min_by_key(|(_, session)| session.expires_at());
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                let what = format!("All {} sessions (limits.sessions) are in use", self.limit);
                return Err(Fault::new(code::TOO_MANY_SIMULTANEOUS_QUERIES, what));
            };
            sessions.remove(&oldest);
        }
        let connection = engine.connect(user.access == Access::Read)?;
        let session = Session { connection: Mutex::new(connection), expires: Mutex::new(Instant::now() + request.timeout) };
        let session = Arc::new(session);
        sessions.insert(key, Arc::clone(&session));
        Ok(session)
    }

    /// Drops the sessions whose time is over and that nobody uses.
    pub(crate) fn expire(&self) {
        let now = Instant::now();
        let mut sessions = self.sessions.lock().expect("nobody panics while holding the sessions");
        sessions.retain(|_, session| session.expires_at() > now || in_use(session));
    }

    pub(crate) fn close_all(&self) {
        self.sessions.lock().expect("nobody panics while holding the sessions").clear();
    }
}
