-- Records that were not used: late, quarantined, undecodable, refused; from market.late.v1, market.quarantine.v1 and market.dead-letters.v1.
CREATE TABLE IF NOT EXISTS set_aside_log
(
    stream_epoch     LowCardinality(String),
    topic            LowCardinality(String),
    partition        Int32,
    offset           Int64,
    append_time      DateTime64(3, 'UTC'),
    consumer         LowCardinality(String)     COMMENT 'who set it aside',
    class            LowCardinality(String)     COMMENT 'late, quarantine, undecodable, refused',
    reason           String,
    origin_topic     LowCardinality(String)     COMMENT 'topic, or the venue''s endpoint',
    origin_partition Int32                      COMMENT '-1 when it never reached Kafka',
    origin_offset    Int64                      COMMENT '-1 when it never reached Kafka',
    receive_time     DateTime64(6, 'UTC'),
    schema_id        Nullable(Int32),
    key              Nullable(String)           COMMENT 'bytes',
    value            String                     COMMENT 'bytes as they came',
    headers          Array(Tuple(String, String)),
    insert_time      DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(offset)
ORDER BY (origin_topic, origin_partition, origin_offset, stream_epoch, topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

-- One row per record set aside and consumer, however often it was said; what never reached Kafka has one row per saying.
CREATE OR REPLACE VIEW set_aside AS
SELECT consumer, class, reason, origin_topic, origin_partition, origin_offset, receive_time, schema_id, key, value, headers, append_time
FROM set_aside_log FINAL
ORDER BY append_time, topic, partition, offset
LIMIT 1 BY consumer, origin_topic, origin_partition, origin_offset, if(origin_offset < 0, (topic, partition, offset), ('', 0, 0));

-- What was traded: one row per (instrument, feed, day, trade id), else per import row, else per offset; the first one said counts unless a
-- correction came later; a cancelled trade is not there. What the processor set aside and reported zero sizes are not there either, so that
-- the volumes of this view are the volumes of the bars.
CREATE OR REPLACE VIEW trades AS
SELECT
    instrument, feed, event_date,
    tupleElement(trade, 1) AS event_time,
    tupleElement(trade, 2) AS receive_time,
    tupleElement(trade, 3) AS price,
    tupleElement(trade, 4) AS size,
    tupleElement(trade, 5) AS side,
    tupleElement(trade, 6) AS trade_id,
    tupleElement(trade, 7) AS sequence,
    tupleElement(trade, 8) AS import_row,
    tupleElement(trade, 9) AS conditions,
    tupleElement(trade, 10) AS source
FROM
(
    SELECT
        instrument, feed, toDate(event_time) AS event_date,
        multiIf(trade_id IS NOT NULL, concat('id ', assumeNotNull(trade_id)),
                import_row IS NOT NULL, concat('row ', toString(assumeNotNull(import_row))),
                concat('at ', stream_epoch, ' ', toString(partition), ' ', toString(offset))) AS identity,
        argMin((event_time, receive_time, price, size, side, trade_id, sequence, import_row, conditions, source),
               if(has(conditions, 'correction'), (0, -toInt64(toUnixTimestamp64Milli(append_time)), -offset),
                                                 (1, toInt64(toUnixTimestamp64Milli(append_time)), offset))) AS trade,
        max(has(conditions, 'cancel')) AS cancelled
    FROM trades_log
    WHERE ifNull(size != 0, true)
      AND (topic, partition, offset) NOT IN
          (SELECT origin_topic, origin_partition, origin_offset FROM set_aside_log WHERE consumer = 'processor' AND origin_offset >= 0)
    GROUP BY instrument, feed, event_date, identity
    HAVING NOT cancelled
);
