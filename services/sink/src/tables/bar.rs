//! `Bar` → `bars_log`.
//!
//! Next: `schemas/clickhouse/003_bars.sql`.

use super::{Row, names};
use marketflow_clickhouse::{Column, RowWriter};
use marketflow_model::{Bar, BarSource, Quality, Timestamp};

impl Row for Bar {
    const TABLE: &'static str = "bars_log";
    const VERSION: u32 = 1;
    const MONTH_OF: Option<&'static str> = None;
    const COLUMNS: &'static [Column] = &[
        ("instrument", "String"),
        ("interval", "LowCardinality(String)"),
        ("open_time", "DateTime64(6, 'UTC')"),
        ("close_time", "DateTime64(6, 'UTC')"),
        ("open", "Decimal(18, 8)"),
        ("high", "Decimal(18, 8)"),
        ("low", "Decimal(18, 8)"),
        ("close", "Decimal(18, 8)"),
        ("volume", "Decimal(38, 8)"),
        ("turnover", "Decimal(38, 8)"),
        ("vwap", "Nullable(Decimal(18, 8))"),
        ("trade_count", "Int64"),
        ("buy_volume", "Decimal(38, 8)"),
        ("sell_volume", "Decimal(38, 8)"),
        ("revision", "Int32"),
        ("quality", "LowCardinality(String)"),
        ("feed", "LowCardinality(String)"),
        ("source", "LowCardinality(String)"),
        ("revision_reason", "Nullable(String)"),
    ];

    fn time(&self) -> Timestamp {
        self.open_time
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.string(self.instrument.as_str());
        row.string(&self.interval.to_string());
        row.micros(self.open_time);
        row.micros(self.close_time);
        row.int64(self.open.scaled());
        row.int64(self.high.scaled());
        row.int64(self.low.scaled());
        row.int64(self.close.scaled());
        row.decimal38(self.volume.scaled());
        row.decimal38(self.turnover.scaled());
        row.nullable(self.vwap, |row, vwap| row.int64(vwap.scaled()));
        row.int64(self.trade_count);
        row.decimal38(self.buy_volume.scaled());
        row.decimal38(self.sell_volume.scaled());
        row.int32(self.revision);
        row.string(quality(self.quality));
        row.string(self.feed.as_str());
        row.string(bar_source(self.source));
        row.nullable(self.revision_reason.as_deref(), RowWriter::string);
    }
}

names!(quality, Quality, {
    Unknown => "unknown", Complete => "complete", Backfilled => "backfilled", Halted => "halted",
    PartialOpen => "partial_open", Gap => "gap", NoTrades => "no_trades",
});
names!(bar_source, BarSource, { Unknown => "unknown", Trades => "trades", Candles => "candles" });

#[cfg(test)]
mod tests {
    use super::super::tests::row_of;
    use super::*;
    use marketflow_model::{Feed, Interval};

    #[test]
    fn a_bar_is_a_row() {
        let bar = Bar {
            instrument: "KRX:005930".parse().unwrap(),
            interval: Interval::FIFTEEN_MINUTES.into(),
            open_time: Timestamp::from_seconds(0),
            close_time: Timestamp::from_seconds(900),
            open: "1".parse().unwrap(),
            high: "4".parse().unwrap(),
            low: "0.5".parse().unwrap(),
            close: "2".parse().unwrap(),
            volume: "10".parse().unwrap(),
            turnover: "20".parse().unwrap(),
            vwap: None,
            trade_count: 3,
            buy_volume: "6".parse().unwrap(),
            sell_volume: "4".parse().unwrap(),
            revision: 2,
            quality: Quality::PartialOpen,
            feed: Feed::new("kis"),
            source: BarSource::Trades,
            revision_reason: Some("late".to_owned()),
        };
        let expected = "instrument=KRX:005930 interval=15m open_time=0 close_time=900000000 open=100000000 high=400000000 low=50000000 close=200000000 \
                        volume=1000000000 turnover=2000000000 vwap=null trade_count=3 buy_volume=600000000 sell_volume=400000000 revision=2 \
                        quality=partial_open feed=kis source=trades revision_reason=late";
        assert_eq!(row_of(&bar), expected);
    }
}
