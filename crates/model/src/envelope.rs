//! A record that was not used: kept with origin and reason, so that nothing vanishes.

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// Why a record was set aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default, Hash, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum EnvelopeClass {
    /// Written by something newer than this reader.
    #[default]
    Unknown,
    /// Later than the allowed lateness.
    Late,
    /// Readable, but not believable (zero size, too precise, from the future …).
    Quarantine,
    /// Not readable.
    Undecodable,
    /// Readable, but refused by a later stage (overflow, refused by the database …).
    Refused,
    /// No reason but a decision about a record set aside earlier: it was written to its origin again.
    Redriven,
    /// The other decision: it is left as it is.
    Discarded,
}

impl EnvelopeClass {
    /// Whether it is what a person decided, and no reason.
    pub fn is_decision(self) -> bool {
        matches!(self, Self::Redriven | Self::Discarded)
    }
}

/// One record set aside, with where it came from. Key on the topic: `topic/partition/offset` of the origin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// Which consumer set it aside (`processor`, `sink:market.trades.v1`, `tick-producer`).
    pub consumer: String,
    /// Which kind of reason.
    pub class: EnvelopeClass,
    /// The reason in words.
    pub reason: String,
    /// Topic it stood on, or the venue's endpoint for frames that never reached Kafka.
    pub origin_topic: String,
    /// Partition it stood on; −1 for frames that never reached Kafka.
    pub origin_partition: i32,
    /// Offset it stood at; −1 for frames that never reached Kafka.
    pub origin_offset: i64,
    /// When the origin was received, by the injected clock or the log's append time.
    pub receive_time: Timestamp,
    /// Schema id of the value; `None` when it has none.
    pub schema_id: Option<i32>,
    /// Key bytes.
    pub key: Option<Vec<u8>>,
    /// Value bytes as they came.
    pub value: Vec<u8>,
    /// Headers as they came, in order.
    pub headers: Vec<(String, Vec<u8>)>,
}
