//! `Quote` → `quotes_log`.
//!
//! Next: `schemas/clickhouse/002_quotes.sql`.

use super::Row;
use marketflow_clickhouse::{Column, RowWriter};
use marketflow_model::{Quote, Timestamp};

impl Row for Quote {
    const TABLE: &'static str = "quotes_log";
    const VERSION: u32 = 1;
    const MONTH_OF: Option<&'static str> = Some("event_time");
    const COLUMNS: &'static [Column] = &[
        ("instrument", "String"),
        ("feed", "LowCardinality(String)"),
        ("event_time", "DateTime64(6, 'UTC')"),
        ("receive_time", "DateTime64(6, 'UTC')"),
        ("bid_price", "Nullable(Decimal(18, 8))"),
        ("bid_size", "Nullable(Decimal(38, 8))"),
        ("ask_price", "Nullable(Decimal(18, 8))"),
        ("ask_size", "Nullable(Decimal(38, 8))"),
        ("sequence", "Nullable(Int64)"),
    ];

    fn time(&self) -> Timestamp {
        self.event_time
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.string(self.instrument.as_str());
        row.string(self.feed.as_str());
        row.micros(self.event_time);
        row.micros(self.receive_time);
        row.nullable(self.bid_price, |row, price| row.int64(price.scaled()));
        row.nullable(self.bid_size, |row, size| row.decimal38(size.scaled()));
        row.nullable(self.ask_price, |row, price| row.int64(price.scaled()));
        row.nullable(self.ask_size, |row, size| row.decimal38(size.scaled()));
        row.nullable(self.sequence, RowWriter::int64);
    }
}
