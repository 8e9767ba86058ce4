//! KIS's quotation calls: their headers, their envelope, and what its error codes ask for.
//!
//! Everything is a text, numbers too. Errors come with any HTTP status: the body is read first.
//! **Source**: the broker's portal pages and its public samples, read 2026-11.
//!
//! Next: `candles.rs`, `master.rs`, `ranking.rs`, `holidays.rs`.

use super::{APP_KEY, APP_SECRET};
use crate::number::shown;
use crate::{CallError, CallRequest, Credentials, RestAnswer, Secret, excerpt};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::time::Duration;

/// Where quotations of shares are.
pub(super) const PATH: &str = "/uapi/domestic-stock/v1/quotations";
/// What the broker asks for after EGW00201: at least the window it counts in.
const AFTER_EXCESS: Duration = Duration::from_millis(1_100);

/// A call of the name `tr_id`.
pub(super) fn request(path_and_query: String, tr_id: &str, credentials: &Credentials, pass: &Secret) -> CallRequest {
    let headers = vec![
        ("content-type", Secret::new("application/json; charset=utf-8")),
        ("authorization", Secret::new(format!("Bearer {}", pass.expose()))),
        ("appkey", credentials.get(APP_KEY)),
        ("appsecret", credentials.get(APP_SECRET)),
        ("tr_id", Secret::new(tr_id)),
        ("custtype", Secret::new("P")),
    ];
    CallRequest { path_and_query, headers, body: None }
}

/// What both envelopes of the broker have.
#[derive(Deserialize)]
pub(super) struct Envelope<'a> {
    #[serde(borrow)]
    rt_cd: Option<Cow<'a, str>>,
    msg_cd: Option<Cow<'a, str>>,
    msg1: Option<Cow<'a, str>>,
    error_code: Option<Cow<'a, str>>,
    error_description: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) output: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) output2: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) ctx_area_nk: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) ctx_area_fk: Option<Cow<'a, str>>,
}

/// What an answer holds, whatever its status says.
pub(super) fn envelope(answer: RestAnswer<'_>) -> Result<Envelope<'_>, CallError> {
    let read: Envelope<'_> = match serde_json::from_slice(answer.body) {
        Ok(read) => read,
        Err(_) if answer.status != 200 || answer.body.trim_ascii_start().first() == Some(&b'<') => {
            return Err(CallError::Unavailable { detail: format!("HTTP {}: {}", answer.status, excerpt(answer.body)) });
        }
        Err(error) => return Err(CallError::Unreadable { detail: format!("{error}: {}", excerpt(answer.body)) }),
    };
    if read.rt_cd.as_deref() == Some("0") && answer.status == 200 {
        return Ok(read);
    }
    let code = read.error_code.or(read.msg_cd).unwrap_or_default();
    let words = read.error_description.or(read.msg1).unwrap_or_default();
    Err(error(&code, format!("{} ({})", shown(words.trim()), if code.is_empty() { "no code" } else { &code })))
}

/// What an error code asks for.
fn error(code: &str, detail: String) -> CallError {
    match code {
        "EGW00201" | "EGW00133" => CallError::Limited { wait: AFTER_EXCESS, detail },
        "EGW00121" | "EGW00123" => CallError::Pass { detail },
        "EGW00103" | "EGW00105" | "EGW00205" | "EGW00206" | "EGW00213" | "EGW02004" | "OPSQ0002" | "OPSQ2000" | "OPSQ2001" => {
            CallError::Refused { detail }
        }
        // EGW00300, 301, 316, OPSQ0003, 1002 and whatever is not documented: passing.
        _ => CallError::Unavailable { detail },
    }
}
