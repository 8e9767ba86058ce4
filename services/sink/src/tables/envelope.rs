//! `Envelope` → `set_aside_log`.
//!
//! Next: `schemas/clickhouse/006_set_aside.sql`.

use super::{Row, names};
use marketflow_clickhouse::{Column, RowWriter};
use marketflow_model::{Envelope, EnvelopeClass, Timestamp};

impl Row for Envelope {
    const TABLE: &'static str = "set_aside_log";
    const VERSION: u32 = 1;
    const MONTH_OF: Option<&'static str> = None;
    const COLUMNS: &'static [Column] = &[
        ("consumer", "LowCardinality(String)"),
        ("class", "LowCardinality(String)"),
        ("reason", "String"),
        ("origin_topic", "LowCardinality(String)"),
        ("origin_partition", "Int32"),
        ("origin_offset", "Int64"),
        ("receive_time", "DateTime64(6, 'UTC')"),
        ("schema_id", "Nullable(Int32)"),
        ("key", "Nullable(String)"),
        ("value", "String"),
        ("headers", "Array(Tuple(String, String))"),
    ];

    fn time(&self) -> Timestamp {
        self.receive_time
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.string(&self.consumer);
        row.string(class(self.class));
        row.string(&self.reason);
        row.string(&self.origin_topic);
        row.int32(self.origin_partition);
        row.int64(self.origin_offset);
        row.micros(self.receive_time);
        row.nullable(self.schema_id, RowWriter::int32);
        row.nullable(self.key.as_deref(), RowWriter::bytes);
        row.bytes(&self.value);
        row.array(self.headers.iter(), |row, (name, value)| {
            row.string(name);
            row.bytes(value);
        });
    }
}

names!(class, EnvelopeClass, {
    Unknown => "unknown", Late => "late", Quarantine => "quarantine", Undecodable => "undecodable", Refused => "refused",
    Redriven => "redriven", Discarded => "discarded",
});
