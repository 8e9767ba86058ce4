-- Trades as they stand on market.trades.v1: one row per offset. Read the view `trades`, not this table.
CREATE TABLE IF NOT EXISTS trades_log
(
    stream_epoch LowCardinality(String)         COMMENT 'cluster id/topic id: tells a topic from a later one of the same name',
    topic        LowCardinality(String),
    partition    Int32,
    offset       Int64,
    append_time  DateTime64(3, 'UTC')           COMMENT 'when Kafka appended the record',
    instrument   String                         COMMENT 'VENUE:SYMBOL',
    feed         LowCardinality(String)         COMMENT 'provider, or import:<id>',
    event_time   DateTime64(6, 'UTC')           COMMENT 'the venue''s clock',
    receive_time DateTime64(6, 'UTC')           COMMENT 'our socket''s clock',
    price        Decimal(18, 8)                 COMMENT 'in the quote currency',
    size         Nullable(Decimal(38, 8))       COMMENT 'in units of the instrument; null = not reported',
    side         LowCardinality(String)         COMMENT 'aggressor: buy, sell, unknown',
    trade_id     Nullable(String)               COMMENT 'the venue''s id',
    sequence     Nullable(Int64)                COMMENT 'order within a feed session',
    import_row   Nullable(Int64)                COMMENT 'row of an import, from 1',
    conditions   Array(LowCardinality(String))  COMMENT 'auction, correction, cancel, odd_lot',
    source       LowCardinality(String)         COMMENT 'websocket, rest, replay, import',
    insert_time  DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(offset)
PARTITION BY toYYYYMM(event_time)
ORDER BY (instrument, event_time, stream_epoch, topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;
