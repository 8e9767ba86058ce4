//! `Trade` → `trades_log`.
//!
//! Next: `schemas/clickhouse/001_trades.sql`.

use super::{Row, names, symbols};
use marketflow_clickhouse::{Column, RowWriter};
use marketflow_model::{Condition, Side, Timestamp, TradeRef};

impl Row for TradeRef<'_> {
    const TABLE: &'static str = "trades_log";
    const VERSION: u32 = 1;
    const MONTH_OF: Option<&'static str> = Some("event_time");
    const COLUMNS: &'static [Column] = &[
        ("instrument", "String"),
        ("feed", "LowCardinality(String)"),
        ("event_time", "DateTime64(6, 'UTC')"),
        ("receive_time", "DateTime64(6, 'UTC')"),
        ("price", "Decimal(18, 8)"),
        ("size", "Nullable(Decimal(38, 8))"),
        ("side", "LowCardinality(String)"),
        ("trade_id", "Nullable(String)"),
        ("sequence", "Nullable(Int64)"),
        ("import_row", "Nullable(Int64)"),
        ("conditions", "Array(LowCardinality(String))"),
        ("source", "LowCardinality(String)"),
    ];

    fn time(&self) -> Timestamp {
        self.event_time
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.string(self.instrument.as_str());
        row.string(self.feed);
        row.micros(self.event_time);
        row.micros(self.receive_time);
        row.int64(self.price.scaled());
        row.nullable(self.size, |row, size| row.decimal38(size.scaled()));
        row.string(side(self.side));
        row.nullable(self.trade_id, RowWriter::string);
        row.nullable(self.sequence, RowWriter::int64);
        row.nullable(self.import_row, RowWriter::int64);
        row.array(self.conditions.iter(), |row, one| row.string(condition(one)));
        row.string(symbols::source(self.source));
    }
}

names!(side, Side, { Unknown => "unknown", Buy => "buy", Sell => "sell" });
names!(condition, Condition, { Auction => "auction", Correction => "correction", Cancel => "cancel", OddLot => "odd_lot" });

#[cfg(test)]
mod tests {
    use super::super::tests::row_of;
    use super::*;
    use marketflow_model::{Conditions, Feed, Source, Trade};

    #[test]
    fn a_trade_is_a_row() {
        let trade = Trade {
            instrument: "BITSTAMP:BTCUSD".parse().unwrap(),
            feed: Feed::new("bitstamp"),
            event_time: Timestamp::from_micros(1_385_337_600_000_001),
            receive_time: Timestamp::from_micros(2),
            price: "1163.00".parse().unwrap(),
            size: None,
            side: Side::Sell,
            trade_id: Some("7".to_owned()),
            sequence: None,
            import_row: Some(3),
            conditions: Conditions::NONE.with(Condition::Cancel),
            source: Source::Rest,
        };
        let expected = "instrument=BITSTAMP:BTCUSD feed=bitstamp event_time=1385337600000001 receive_time=2 price=116300000000 size=null side=sell \
                        trade_id=7 sequence=null import_row=3 conditions=[cancel] source=rest";
        assert_eq!(row_of(&TradeRef::from(&trade)), expected);
    }
}
