-- Controls: what producers knew about their feeds and when, from market.feed-status.v1.
CREATE TABLE IF NOT EXISTS feed_status_log
(
    stream_epoch     LowCardinality(String),
    topic            LowCardinality(String),
    partition        Int32,
    offset           Int64,
    append_time      DateTime64(3, 'UTC'),
    kind             LowCardinality(String)     COMMENT 'heartbeat, feed_state, gap_opened, gap_filled, gap_abandoned, halt, calendar_change, end, clock',
    feed             LowCardinality(String),
    instrument       Nullable(String)           COMMENT 'null = the whole feed',
    clock            DateTime64(6, 'UTC')       COMMENT 'the injected clock when it was written',
    complete_through Nullable(DateTime64(6, 'UTC')),
    gap_id           Nullable(String),
    from_time        Nullable(DateTime64(6, 'UTC')),
    to_time          Nullable(DateTime64(6, 'UTC')),
    state            LowCardinality(String)     COMMENT 'up, down, unknown',
    reason           Nullable(String),
    connection_id    Nullable(String),
    insert_time      DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(offset)
ORDER BY (feed, clock, stream_epoch, topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE OR REPLACE VIEW feed_status AS
SELECT kind, feed, instrument, clock, complete_through, gap_id, from_time, to_time, state, reason, connection_id, append_time
FROM feed_status_log FINAL;
