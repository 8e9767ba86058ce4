//! Kafka record headers.

/// Tells controls from data records without decoding: `kind=control`.
pub const KIND: &str = "kind";
/// The value of [`KIND`] on control records.
pub const CONTROL: &str = "control";
/// W3C trace context of the frame a record came from.
pub const TRACEPARENT: &str = "traceparent";
/// On a redriven record: the only consumer that should read it; others skip it.
pub const REDRIVE_FOR: &str = "redrive-for";
