-- Best bid and ask as they stand on market.quotes.v1: one row per offset.
CREATE TABLE IF NOT EXISTS quotes_log
(
    stream_epoch LowCardinality(String),
    topic        LowCardinality(String),
    partition    Int32,
    offset       Int64,
    append_time  DateTime64(3, 'UTC'),
    instrument   String,
    feed         LowCardinality(String),
    event_time   DateTime64(6, 'UTC'),
    receive_time DateTime64(6, 'UTC'),
    bid_price    Nullable(Decimal(18, 8)),
    bid_size     Nullable(Decimal(38, 8)),
    ask_price    Nullable(Decimal(18, 8)),
    ask_size     Nullable(Decimal(38, 8)),
    sequence     Nullable(Int64)                COMMENT 'the venue''s update number',
    insert_time  DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(offset)
PARTITION BY toYYYYMM(event_time)
ORDER BY (instrument, event_time, stream_epoch, topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE OR REPLACE VIEW quotes AS
SELECT instrument, feed, event_time, receive_time, bid_price, bid_size, ask_price, ask_size, sequence
FROM quotes_log FINAL;
