//! `Candle` → `candles_log`.
//!
//! Next: `schemas/clickhouse/004_candles.sql`.

use super::{Row, symbols};
use marketflow_clickhouse::{Column, RowWriter};
use marketflow_model::{Candle, Timestamp};

impl Row for Candle {
    const TABLE: &'static str = "candles_log";
    const VERSION: u32 = 1;
    const MONTH_OF: Option<&'static str> = Some("open_time");
    const COLUMNS: &'static [Column] = &[
        ("instrument", "String"),
        ("feed", "LowCardinality(String)"),
        ("interval", "LowCardinality(String)"),
        ("open_time", "DateTime64(6, 'UTC')"),
        ("receive_time", "DateTime64(6, 'UTC')"),
        ("open", "Decimal(18, 8)"),
        ("high", "Decimal(18, 8)"),
        ("low", "Decimal(18, 8)"),
        ("close", "Decimal(18, 8)"),
        ("volume", "Nullable(Decimal(38, 8))"),
        ("turnover", "Nullable(Decimal(38, 8))"),
        ("trade_count", "Nullable(Int64)"),
        ("buy_volume", "Nullable(Decimal(38, 8))"),
        ("import_row", "Nullable(Int64)"),
        ("closed", "Bool"),
        ("source", "LowCardinality(String)"),
    ];

    fn time(&self) -> Timestamp {
        self.open_time
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.string(self.instrument.as_str());
        row.string(self.feed.as_str());
        row.string(&self.interval.to_string());
        row.micros(self.open_time);
        row.micros(self.receive_time);
        row.int64(self.open.scaled());
        row.int64(self.high.scaled());
        row.int64(self.low.scaled());
        row.int64(self.close.scaled());
        row.nullable(self.volume, |row, volume| row.decimal38(volume.scaled()));
        row.nullable(self.turnover, |row, turnover| row.decimal38(turnover.scaled()));
        row.nullable(self.trade_count, RowWriter::int64);
        row.nullable(self.buy_volume, |row, volume| row.decimal38(volume.scaled()));
        row.nullable(self.import_row, RowWriter::int64);
        row.boolean(self.closed);
        row.string(symbols::source(self.source));
    }
}
