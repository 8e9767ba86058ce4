-- Which streams the sink has begun to land here; a topic that comes back under another epoch was created again.
CREATE TABLE IF NOT EXISTS streams
(
    topic        String,
    stream_epoch String,
    first_seen   DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree
ORDER BY (topic, stream_epoch);
