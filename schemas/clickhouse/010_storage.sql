-- How columns are packed, chosen by measurement (docs/clickhouse.md: `benches/tables.py codecs`), and what finds the bars inserted lately.
-- Columns not named keep LZ4. Parts written before are packed anew when they merge.
ALTER TABLE trades_log
    MODIFY COLUMN offset CODEC(ZSTD(1)),
    MODIFY COLUMN append_time CODEC(ZSTD(1)),
    MODIFY COLUMN event_time CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN receive_time CODEC(ZSTD(1)),
    MODIFY COLUMN price CODEC(ZSTD(1)),
    MODIFY COLUMN size CODEC(ZSTD(1)),
    MODIFY COLUMN side CODEC(ZSTD(1)),
    MODIFY COLUMN trade_id CODEC(ZSTD(1)),
    MODIFY COLUMN sequence CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN import_row CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN conditions CODEC(ZSTD(1)),
    MODIFY COLUMN insert_time CODEC(ZSTD(1));

ALTER TABLE quotes_log
    MODIFY COLUMN offset CODEC(ZSTD(1)),
    MODIFY COLUMN append_time CODEC(ZSTD(1)),
    MODIFY COLUMN event_time CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN receive_time CODEC(ZSTD(1)),
    MODIFY COLUMN bid_price CODEC(ZSTD(1)),
    MODIFY COLUMN bid_size CODEC(ZSTD(1)),
    MODIFY COLUMN ask_price CODEC(ZSTD(1)),
    MODIFY COLUMN ask_size CODEC(ZSTD(1)),
    MODIFY COLUMN sequence CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN insert_time CODEC(ZSTD(1));

ALTER TABLE bars_log
    MODIFY COLUMN offset CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN append_time CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN open_time CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN close_time CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN open CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN high CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN low CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN close CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN volume CODEC(ZSTD(1)),
    MODIFY COLUMN turnover CODEC(ZSTD(1)),
    MODIFY COLUMN vwap CODEC(ZSTD(1)),
    MODIFY COLUMN trade_count CODEC(ZSTD(1)),
    MODIFY COLUMN buy_volume CODEC(ZSTD(1)),
    MODIFY COLUMN sell_volume CODEC(ZSTD(1)),
    MODIFY COLUMN revision_reason CODEC(ZSTD(1)),
    MODIFY COLUMN insert_time CODEC(ZSTD(1)),
    ADD INDEX IF NOT EXISTS insert_time insert_time TYPE minmax GRANULARITY 1;

ALTER TABLE candles_log
    MODIFY COLUMN offset CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN append_time CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN open_time CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN receive_time CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN open CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN high CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN low CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN close CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN volume CODEC(ZSTD(1)),
    MODIFY COLUMN turnover CODEC(ZSTD(1)),
    MODIFY COLUMN trade_count CODEC(ZSTD(1)),
    MODIFY COLUMN buy_volume CODEC(ZSTD(1)),
    MODIFY COLUMN import_row CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN insert_time CODEC(ZSTD(1));
