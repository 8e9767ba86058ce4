-- Bars computed again from the log by `marketflow replay`, beside those that were published; one name, one range. No result: what differs becomes
-- one only when it is published as a revision.
CREATE TABLE IF NOT EXISTS bars_shadow
(
    shadow       LowCardinality(String)      COMMENT 'name of the replay',
    range_from   DateTime64(6, 'UTC')        COMMENT 'bars that open at or after this were computed',
    range_to     DateTime64(6, 'UTC')        COMMENT 'and before this',
    instrument   String,
    interval     LowCardinality(String),
    open_time    DateTime64(6, 'UTC'),
    close_time   DateTime64(6, 'UTC'),
    open         Decimal(18, 8),
    high         Decimal(18, 8),
    low          Decimal(18, 8),
    close        Decimal(18, 8),
    volume       Decimal(38, 8),
    turnover     Decimal(38, 8),
    vwap         Nullable(Decimal(18, 8)),
    trade_count  Int64,
    buy_volume   Decimal(38, 8),
    sell_volume  Decimal(38, 8),
    quality      LowCardinality(String),
    feed         LowCardinality(String),
    source       LowCardinality(String),
    insert_time  DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(insert_time)
PARTITION BY shadow
ORDER BY (instrument, interval, open_time, feed)
SETTINGS non_replicated_deduplication_window = 10000;
