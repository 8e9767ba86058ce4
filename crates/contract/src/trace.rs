//! Trace ids: which record a frame became, and back.

use std::fmt;
use std::str::FromStr;

/// A trace id of W3C Trace Context. Its first 48 bits are the Unix milliseconds at which it was given, as in a UUID of version 7, so that the
/// record that carries it is found by time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceId(u128);

const RANDOM_BITS: u32 = 80;

impl TraceId {
    /// Given at `millis` since 1970; the low 80 bits are of `random`.
    pub fn new(millis: u64, random: u128) -> Self {
        let random = random & ((1 << RANDOM_BITS) - 1);
        Self(u128::from(millis) << RANDOM_BITS | random | 1)
    }

    /// When it was given, in milliseconds since 1970.
    pub fn millis(self) -> i64 {
        i64::try_from(self.0 >> RANDOM_BITS).unwrap_or(i64::MAX)
    }

    /// The value of the header [`crate::headers::TRACEPARENT`]: sampled, with the id's low half as the parent span.
    pub fn traceparent(self) -> String {
        format!("00-{self}-{:016x}-01", self.0 & u128::from(u64::MAX))
    }

    /// Out of the header's value; `None` for what is none of version 00.
    pub fn of_traceparent(value: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(value).ok()?.split('-');
        (parts.next()? == "00").then_some(())?;
        parts.next()?.parse().ok()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Not 32 hexadecimal digits, or all of them zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a trace id has 32 hexadecimal digits, not all zero")]
pub struct NoTraceId;

impl FromStr for TraceId {
    type Err = NoTraceId;

    fn from_str(text: &str) -> Result<Self, NoTraceId> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u128::from_str_radix(text, 16).ok().filter(|id| digits && *id != 0);
        id.map(Self).ok_or(NoTraceId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_when_it_was_given_and_survives_the_header() {
        let id = TraceId::new(1_700_000_000_123, u128::MAX);
        assert_eq!(id.millis(), 1_700_000_000_123);
        assert_eq!(id.traceparent(), "00-018bcfe5687bffffffffffffffffffff-ffffffffffffffff-01");
        assert_eq!(TraceId::of_traceparent(id.traceparent().as_bytes()), Some(id));
        assert_eq!(id.to_string().parse(), Ok(id));
        for broken in [
            "",
            "00-1-2-01",
            "01-018bcfe5687bffffffffffffffffffff-ffffffffffffffff-01",
            "00-00000000000000000000000000000000-1-01",
        ] {
            assert_eq!(TraceId::of_traceparent(broken.as_bytes()), None, "{broken}");
        }
    }
}
