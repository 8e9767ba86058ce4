//! Kafka record headers.

/// Tells controls from data records without decoding: `kind=control`.
pub const KIND: &str = "kind";
/// The value of [`KIND`] on control records.
pub const CONTROL: &str = "control";
/// W3C trace context of the frame a trade came from ([`crate::TraceId`]); few trades have one.
pub const TRACEPARENT: &str = "traceparent";
/// On a redriven record: the only consumer that should read it; others skip it.
pub const REDRIVE_FOR: &str = "redrive-for";
/// On a redriven record and on the decision to redrive it: where it was set aside first, `topic/partition/offset` of the envelope.
pub const REDRIVE_OF: &str = "redrive-of";
/// In the envelope of a decision: which one it is about, `topic/partition/offset`.
pub const SET_ASIDE_AT: &str = "set-aside-at";
/// In the envelope of a decision: whose it is.
pub const DECIDED_BY: &str = "decided-by";
