-- Candles as providers sent them, as they stand on market.candles.v1: one row per offset.
CREATE TABLE IF NOT EXISTS candles_log
(
    stream_epoch LowCardinality(String),
    topic        LowCardinality(String),
    partition    Int32,
    offset       Int64,
    append_time  DateTime64(3, 'UTC'),
    instrument   String,
    feed         LowCardinality(String),
    interval     LowCardinality(String),
    open_time    DateTime64(6, 'UTC'),
    receive_time DateTime64(6, 'UTC'),
    open         Decimal(18, 8),
    high         Decimal(18, 8),
    low          Decimal(18, 8),
    close        Decimal(18, 8),
    volume       Nullable(Decimal(38, 8))       COMMENT 'null = not reported',
    turnover     Nullable(Decimal(38, 8)),
    trade_count  Nullable(Int64),
    buy_volume   Nullable(Decimal(38, 8)),
    import_row   Nullable(Int64),
    closed       Bool                           COMMENT 'the provider says the window is over',
    source       LowCardinality(String),
    insert_time  DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(offset)
PARTITION BY toYYYYMM(open_time)
ORDER BY (instrument, interval, open_time, feed, stream_epoch, topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

-- The last candle each feed sent for a window.
CREATE OR REPLACE VIEW candles AS
SELECT
    instrument, interval, open_time, feed,
    tupleElement(latest, 1) AS receive_time,
    tupleElement(latest, 2) AS open,
    tupleElement(latest, 3) AS high,
    tupleElement(latest, 4) AS low,
    tupleElement(latest, 5) AS close,
    tupleElement(latest, 6) AS volume,
    tupleElement(latest, 7) AS turnover,
    tupleElement(latest, 8) AS trade_count,
    tupleElement(latest, 9) AS buy_volume,
    tupleElement(latest, 10) AS closed,
    tupleElement(latest, 11) AS source
FROM
(
    SELECT
        instrument, interval, open_time, feed,
        argMax((receive_time, open, high, low, close, volume, turnover, trade_count, buy_volume, closed, source),
               (append_time, offset)) AS latest
    FROM candles_log
    GROUP BY instrument, interval, open_time, feed
);
