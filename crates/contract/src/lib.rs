//! The contract: model values ⇄ Avro bytes, topic names, record keys and headers. The schemas in `schemas/avro` are embedded.
//!
//! Each record type has one hand-written encoder and decoder ([`AvroRecord`]), fields by position in schema order, checked against
//! `apache-avro` for every schema. Bytes written under another version of a schema go through [`resolve`] first, by Avro's own rules.
//! It lacks any I/O: ids come from `crates/kafka/src/registry.rs`.
//!
//! Next: `services/processor/src/processor.rs`, which reads these bytes back.

mod codec;
pub mod headers;
mod records;
mod schemas;
pub mod topics;
mod trace;

pub use codec::DecodeError;
pub use records::{AvroRecord, decode_trade};
pub use schemas::{Schema, resolve};
pub use trace::{NoTraceId, TraceId};

/// Length of the Confluent header: a zero byte and the schema id, big-endian.
pub const HEADER_LENGTH: usize = 5;

/// Largest value accepted from a topic, in bytes; longer ones are undecodable.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;

/// Appends `record` as a Kafka value: Confluent header, then the Avro body.
pub fn encode_value<R: AvroRecord>(record: &R, schema_id: u32, out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&schema_id.to_be_bytes());
    record.encode(out);
}

/// Splits a Kafka value into schema id and Avro body.
///
/// # Errors
/// [`DecodeError`] when the value is too short, too long, or does not start with the magic zero byte.
pub fn split_value(value: &[u8]) -> Result<(u32, &[u8]), DecodeError> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(DecodeError::TooLong(value.len()));
    }
    match value {
        [0, a, b, c, d, body @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), body)),
        _ => Err(DecodeError::NoHeader),
    }
}
