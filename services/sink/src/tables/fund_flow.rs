//! `FundFlow` → `fund_flows_log`.
//!
//! Next: `schemas/clickhouse/007_flows.sql`.

use super::{Row, names};
use marketflow_clickhouse::{Column, RowWriter};
use marketflow_model::{FundFlow, InvestorClass, Timestamp};

impl Row for FundFlow {
    const TABLE: &'static str = "fund_flows_log";
    const VERSION: u32 = 1;
    const MONTH_OF: Option<&'static str> = None;
    const COLUMNS: &'static [Column] = &[
        ("instrument", "String"),
        ("provider", "LowCardinality(String)"),
        ("investor_class", "LowCardinality(String)"),
        ("period_start", "DateTime64(6, 'UTC')"),
        ("period_end", "DateTime64(6, 'UTC')"),
        ("net_amount", "Nullable(Decimal(38, 8))"),
        ("net_quantity", "Nullable(Decimal(38, 8))"),
        ("currency", "LowCardinality(String)"),
        ("vintage", "Nullable(String)"),
        ("receive_time", "DateTime64(6, 'UTC')"),
    ];

    fn time(&self) -> Timestamp {
        self.period_start
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.string(self.instrument.as_str());
        row.string(&self.provider);
        row.string(investor_class(self.investor_class));
        row.micros(self.period_start);
        row.micros(self.period_end);
        row.nullable(self.net_amount, |row, amount| row.decimal38(amount.scaled()));
        row.nullable(self.net_quantity, |row, quantity| row.decimal38(quantity.scaled()));
        row.string(&self.currency);
        row.nullable(self.vintage.as_deref(), RowWriter::string);
        row.micros(self.receive_time);
    }
}

names!(investor_class, InvestorClass, {
    Unknown => "unknown", Foreign => "foreign", Institution => "institution", Individual => "individual",
    OtherCorporation => "other_corporation", Total => "total",
});
