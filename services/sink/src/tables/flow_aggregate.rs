//! `FlowAggregate` → `flow_aggregates_log`.
//!
//! Next: `schemas/clickhouse/007_flows.sql`.

use super::Row;
use marketflow_clickhouse::{Column, RowWriter};
use marketflow_model::{FlowAggregate, Timestamp};

impl Row for FlowAggregate {
    const TABLE: &'static str = "flow_aggregates_log";
    const VERSION: u32 = 1;
    const MONTH_OF: Option<&'static str> = None;
    const COLUMNS: &'static [Column] = &[
        ("scope", "LowCardinality(String)"),
        ("name", "String"),
        ("open_time", "DateTime64(6, 'UTC')"),
        ("close_time", "DateTime64(6, 'UTC')"),
        ("method", "LowCardinality(String)"),
        ("inflow", "Decimal(38, 8)"),
        ("outflow", "Decimal(38, 8)"),
        ("net", "Decimal(38, 8)"),
        ("currency", "LowCardinality(String)"),
        ("input_count", "Int64"),
        ("stale", "Bool"),
        ("revision", "Int32"),
    ];

    fn time(&self) -> Timestamp {
        self.open_time
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.string(&self.scope);
        row.string(&self.name);
        row.micros(self.open_time);
        row.micros(self.close_time);
        row.string(&self.method);
        row.decimal38(self.inflow.scaled());
        row.decimal38(self.outflow.scaled());
        row.decimal38(self.net.scaled());
        row.string(&self.currency);
        row.int64(self.input_count);
        row.boolean(self.stale);
        row.int32(self.revision);
    }
}
