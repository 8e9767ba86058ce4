-- Signals, articles and reference data. The tables stand so that queries and boards can be written; nothing writes the topics
-- market.signals.v1, market.news.v1 and market.reference.v1 yet, and no mapping of the sink fills these tables.
CREATE TABLE IF NOT EXISTS signals_log
(
    stream_epoch LowCardinality(String),
    topic        LowCardinality(String),
    partition    Int32,
    offset       Int64,
    append_time  DateTime64(3, 'UTC'),
    rule         LowCardinality(String)         COMMENT 'who says it, with its version: ma_cross/2',
    instrument   String,
    interval     LowCardinality(String),
    open_time    DateTime64(6, 'UTC')           COMMENT 'the window it is said of; with rule, instrument and interval it names the signal',
    direction    LowCardinality(String)         COMMENT 'buy, sell, neutral, withdrawn',
    strength     Nullable(Decimal(18, 8))       COMMENT '0 to 1',
    price        Nullable(Decimal(18, 8))       COMMENT 'close of the window when it was said',
    reason       Nullable(String),
    revision     Int32                          COMMENT '0 first, +1 when a revised bar changed it',
    insert_time  DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMM(open_time)
ORDER BY (instrument, open_time, rule, interval, stream_epoch, topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

-- The last word of each rule on each window; a signal that a revision took back is not there.
CREATE OR REPLACE VIEW signals AS
SELECT instrument, interval, open_time, rule, direction, strength, price, reason, revision, append_time
FROM
(
    SELECT * FROM signals_log
    ORDER BY revision DESC, append_time DESC, offset DESC
    LIMIT 1 BY instrument, interval, open_time, rule
)
WHERE direction != 'withdrawn';

CREATE TABLE IF NOT EXISTS news_log
(
    stream_epoch LowCardinality(String),
    topic        LowCardinality(String),
    partition    Int32,
    offset       Int64,
    append_time  DateTime64(3, 'UTC'),
    provider     LowCardinality(String),
    article_id   String                         COMMENT 'the provider''s id, else its address',
    published_at DateTime64(6, 'UTC'),
    receive_time DateTime64(6, 'UTC'),
    language     LowCardinality(String)         COMMENT 'ISO 639-1: ko, en',
    title        String,
    summary      Nullable(String),
    url          Nullable(String),
    instruments  Array(String)                  COMMENT 'VENUE:SYMBOL it names',
    insert_time  DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(offset)
ORDER BY (provider, published_at, article_id, stream_epoch, topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

-- Each article once, as it read last.
CREATE OR REPLACE VIEW news AS
SELECT provider, article_id, published_at, receive_time, language, title, summary, url, instruments
FROM news_log
ORDER BY append_time DESC, offset DESC
LIMIT 1 BY provider, article_id;

CREATE TABLE IF NOT EXISTS reference_log
(
    stream_epoch LowCardinality(String),
    topic        LowCardinality(String),
    partition    Int32,
    offset       Int64,
    append_time  DateTime64(3, 'UTC'),
    kind         LowCardinality(String)         COMMENT 'instrument, halt, etf_constituent, corporate_action',
    instrument   String,
    member       String                         COMMENT 'constituent of an ETF, kind of a corporate action; else empty',
    valid_from   DateTime64(6, 'UTC')           COMMENT 'when it takes effect',
    valid_to     Nullable(DateTime64(6, 'UTC')) COMMENT 'exclusive; null = until further notice',
    name         Nullable(String),
    value        Nullable(Decimal(38, 12))      COMMENT 'weight of a constituent (0 to 1), factor on prices before valid_from of a corporate action',
    attributes   Map(LowCardinality(String), String),
    provider     LowCardinality(String),
    receive_time DateTime64(6, 'UTC'),
    insert_time  DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(offset)
ORDER BY (kind, instrument, member, valid_from, provider, stream_epoch, topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

-- The last word on each fact.
CREATE OR REPLACE VIEW reference AS
SELECT kind, instrument, member, valid_from, valid_to, name, value, attributes, provider, receive_time
FROM reference_log
ORDER BY append_time DESC, offset DESC
LIMIT 1 BY kind, instrument, member, valid_from, provider;
