-- Bars and their revisions as they stand on market.bars.v1: one row per offset.
CREATE TABLE IF NOT EXISTS bars_log
(
    stream_epoch    LowCardinality(String),
    topic           LowCardinality(String),
    partition       Int32,
    offset          Int64,
    append_time     DateTime64(3, 'UTC'),
    instrument      String,
    interval        LowCardinality(String)      COMMENT '1m, 5m, 15m',
    open_time       DateTime64(6, 'UTC')        COMMENT 'inclusive; identifies the bar',
    close_time      DateTime64(6, 'UTC')        COMMENT 'exclusive',
    open            Decimal(18, 8),
    high            Decimal(18, 8),
    low             Decimal(18, 8),
    close           Decimal(18, 8),
    volume          Decimal(38, 8),
    turnover        Decimal(38, 8)              COMMENT 'sum of price x size, rounded once, half-even',
    vwap            Nullable(Decimal(18, 8))    COMMENT 'null when volume is 0',
    trade_count     Int64,
    buy_volume      Decimal(38, 8),
    sell_volume     Decimal(38, 8),
    revision        Int32                       COMMENT '0 first, +1 per correction',
    quality         LowCardinality(String)      COMMENT 'complete, backfilled, halted, partial_open, gap, no_trades',
    feed            LowCardinality(String),
    source          LowCardinality(String)      COMMENT 'trades or candles',
    revision_reason Nullable(String),
    insert_time     DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (instrument, interval, open_time, feed, stream_epoch, topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

-- The latest revision of each feed's bar.
CREATE OR REPLACE VIEW bars AS
SELECT
    instrument, interval, open_time, feed,
    tupleElement(latest, 1) AS close_time,
    tupleElement(latest, 2) AS open,
    tupleElement(latest, 3) AS high,
    tupleElement(latest, 4) AS low,
    tupleElement(latest, 5) AS close,
    tupleElement(latest, 6) AS volume,
    tupleElement(latest, 7) AS turnover,
    tupleElement(latest, 8) AS vwap,
    tupleElement(latest, 9) AS trade_count,
    tupleElement(latest, 10) AS buy_volume,
    tupleElement(latest, 11) AS sell_volume,
    tupleElement(latest, 12) AS revision,
    tupleElement(latest, 13) AS quality,
    tupleElement(latest, 14) AS source,
    tupleElement(latest, 15) AS revision_reason
FROM
(
    SELECT
        instrument, interval, open_time, feed,
        argMax((close_time, open, high, low, close, volume, turnover, vwap, trade_count, buy_volume, sell_volume,
                revision, quality, source, revision_reason), (revision, append_time, offset)) AS latest
    FROM bars_log
    GROUP BY instrument, interval, open_time, feed
);

-- One bar per window: where several feeds published it, the better quality, then live before import, then the higher revision.
CREATE OR REPLACE VIEW bars_final AS
SELECT
    instrument, interval, open_time,
    tupleElement(best, 1) AS close_time,
    tupleElement(best, 2) AS open,
    tupleElement(best, 3) AS high,
    tupleElement(best, 4) AS low,
    tupleElement(best, 5) AS close,
    tupleElement(best, 6) AS volume,
    tupleElement(best, 7) AS turnover,
    tupleElement(best, 8) AS vwap,
    tupleElement(best, 9) AS trade_count,
    tupleElement(best, 10) AS buy_volume,
    tupleElement(best, 11) AS sell_volume,
    tupleElement(best, 12) AS revision,
    tupleElement(best, 13) AS quality,
    tupleElement(best, 14) AS feed,
    tupleElement(best, 15) AS source,
    tupleElement(best, 16) AS revision_reason
FROM
(
    SELECT
        instrument, interval, open_time,
        argMax((close_time, open, high, low, close, volume, turnover, vwap, trade_count, buy_volume, sell_volume,
                revision, quality, feed, source, revision_reason),
               (transform(quality, ['complete', 'backfilled', 'halted', 'partial_open', 'gap', 'no_trades'], [6, 5, 4, 3, 2, 1], 0),
                not startsWith(feed, 'import:'), revision, feed)) AS best
    FROM bars
    GROUP BY instrument, interval, open_time
);
