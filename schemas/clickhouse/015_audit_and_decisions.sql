-- Which offsets a part holds, so that the sink's audit each minute reads the parts it landed lately and no others.
ALTER TABLE trades_log ADD INDEX IF NOT EXISTS offset offset TYPE minmax GRANULARITY 1024;

ALTER TABLE quotes_log ADD INDEX IF NOT EXISTS offset offset TYPE minmax GRANULARITY 1024;

ALTER TABLE candles_log ADD INDEX IF NOT EXISTS offset offset TYPE minmax GRANULARITY 1024;

ALTER TABLE bars_log ADD INDEX IF NOT EXISTS offset offset TYPE minmax GRANULARITY 1024;

-- One row per record set aside and consumer, however often it was said, with what was decided about it (`marketflow dlq`): redriven, discarded,
-- or nothing yet. What never reached Kafka has one row per saying. `place` is where the envelope stands, topic/partition/offset.
CREATE OR REPLACE VIEW set_aside AS
SELECT consumer, class, reason, origin_topic, origin_partition, origin_offset, receive_time, schema_id, key, value, headers, append_time,
       place, decision, decided_by, decided_at, decision_reason
FROM
(
    SELECT *, concat(topic, '/', toString(partition), '/', toString(offset)) AS place
    FROM set_aside_log FINAL
    WHERE class NOT IN ('redriven', 'discarded')
    ORDER BY append_time, topic, partition, offset
    LIMIT 1 BY consumer, origin_topic, origin_partition, origin_offset, if(origin_offset < 0, (topic, partition, offset), ('', 0, 0))
) AS letters
LEFT JOIN
(
    SELECT
        arrayFirst(header -> header.1 = 'set-aside-at', headers).2 AS place,
        argMin(toString(class), append_time) AS decision,
        argMin(arrayFirst(header -> header.1 = 'decided-by', headers).2, append_time) AS decided_by,
        min(append_time) AS decided_at,
        argMin(reason, append_time) AS decision_reason
    FROM set_aside_log
    WHERE class IN ('redriven', 'discarded')
    GROUP BY place
) AS decisions USING (place)
ORDER BY append_time, place;

-- Records of the bars' inputs that the processor set aside and that are still not used: one that was redriven counts as used, unless it was set
-- aside again.
CREATE OR REPLACE VIEW not_in_bars AS
SELECT tupleElement(origin, 1) AS topic, tupleElement(origin, 2) AS partition, tupleElement(origin, 3) AS offset
FROM
(
    SELECT
        anyIf((origin_topic, origin_partition, origin_offset), redrive_of = '') AS origin,
        uniqExactIf(place, class NOT IN ('redriven', 'discarded')) AS times_set_aside,
        uniqExactIf(place, class = 'redriven') AS times_redriven
    FROM
    (
        SELECT class, origin_topic, origin_partition, origin_offset,
               concat(topic, '/', toString(partition), '/', toString(offset)) AS place,
               arrayFirst(header -> header.1 = 'redrive-of', headers).2 AS redrive_of
        FROM set_aside_log
        WHERE consumer = 'processor' AND origin_offset >= 0
    )
    GROUP BY if(redrive_of = '', place, redrive_of)
    HAVING times_set_aside > times_redriven
);

-- As before (006_set_aside.sql), but a trade that was redriven to the processor and used there is shown again: the volumes of this view are the
-- volumes of the bars.
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
      AND (topic, partition, offset) NOT IN (SELECT topic, partition, offset FROM not_in_bars)
    GROUP BY instrument, feed, event_date, identity
    HAVING NOT cancelled
);

-- Fewer, larger merges: half the processor time of merging in sets of five, for a few more parts to read. Not where FINAL reads.
ALTER TABLE trades_log MODIFY SETTING min_parts_to_merge_at_once = 10;
