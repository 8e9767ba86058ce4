//! `Observation` → `observations_log`.
//!
//! Next: `schemas/clickhouse/007_flows.sql`.

use super::Row;
use marketflow_clickhouse::{Column, RowWriter};
use marketflow_model::{Observation, Timestamp};

impl Row for Observation {
    const TABLE: &'static str = "observations_log";
    const VERSION: u32 = 1;
    const MONTH_OF: Option<&'static str> = None;
    const COLUMNS: &'static [Column] = &[
        ("provider", "LowCardinality(String)"),
        ("series", "String"),
        ("period_start", "DateTime64(6, 'UTC')"),
        ("period_end", "DateTime64(6, 'UTC')"),
        ("value", "Nullable(Decimal(38, 12))"),
        ("unit", "LowCardinality(String)"),
        ("published_at", "Nullable(DateTime64(6, 'UTC'))"),
        ("vintage", "Nullable(String)"),
        ("receive_time", "DateTime64(6, 'UTC')"),
    ];

    fn time(&self) -> Timestamp {
        self.period_start
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.string(&self.provider);
        row.string(&self.series);
        row.micros(self.period_start);
        row.micros(self.period_end);
        row.nullable(self.value, |row, value| row.decimal38(value.scaled()));
        row.string(&self.unit);
        row.nullable(self.published_at, RowWriter::micros);
        row.nullable(self.vintage.as_deref(), RowWriter::string);
        row.micros(self.receive_time);
    }
}
