-- Values of series, with their vintages, as they stand on market.observations.v1.
CREATE TABLE IF NOT EXISTS observations_log
(
    stream_epoch LowCardinality(String),
    topic        LowCardinality(String),
    partition    Int32,
    offset       Int64,
    append_time  DateTime64(3, 'UTC'),
    provider     LowCardinality(String),
    series       String,
    period_start DateTime64(6, 'UTC'),
    period_end   DateTime64(6, 'UTC'),
    value        Nullable(Decimal(38, 12))      COMMENT 'null = published as missing',
    unit         LowCardinality(String),
    published_at Nullable(DateTime64(6, 'UTC')),
    vintage      Nullable(String),
    receive_time DateTime64(6, 'UTC'),
    insert_time  DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(offset)
ORDER BY (provider, series, period_start, stream_epoch, topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

-- The last value said for each period and vintage.
CREATE OR REPLACE VIEW observations AS
SELECT provider, series, period_start, period_end, value, unit, published_at, vintage, receive_time
FROM observations_log
ORDER BY append_time DESC, offset DESC
LIMIT 1 BY provider, series, period_start, period_end, vintage;

-- Reported flows as they stand on market.fund-flows.v1.
CREATE TABLE IF NOT EXISTS fund_flows_log
(
    stream_epoch   LowCardinality(String),
    topic          LowCardinality(String),
    partition      Int32,
    offset         Int64,
    append_time    DateTime64(3, 'UTC'),
    instrument     String,
    provider       LowCardinality(String),
    investor_class LowCardinality(String)       COMMENT 'foreign, institution, individual, other_corporation, total',
    period_start   DateTime64(6, 'UTC'),
    period_end     DateTime64(6, 'UTC'),
    net_amount     Nullable(Decimal(38, 8))     COMMENT 'in currency; + = net buying',
    net_quantity   Nullable(Decimal(38, 8))     COMMENT 'in units; + = net buying',
    currency       LowCardinality(String),
    vintage        Nullable(String),
    receive_time   DateTime64(6, 'UTC'),
    insert_time    DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(offset)
ORDER BY (instrument, provider, investor_class, period_start, stream_epoch, topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

-- The last flow said for each period and vintage.
CREATE OR REPLACE VIEW fund_flows AS
SELECT instrument, provider, investor_class, period_start, period_end, net_amount, net_quantity, currency, vintage, receive_time
FROM fund_flows_log
ORDER BY append_time DESC, offset DESC
LIMIT 1 BY instrument, provider, investor_class, period_start, period_end, vintage;

-- Flow over windows as it stands on market.flow-aggregates.v1.
CREATE TABLE IF NOT EXISTS flow_aggregates_log
(
    stream_epoch LowCardinality(String),
    topic        LowCardinality(String),
    partition    Int32,
    offset       Int64,
    append_time  DateTime64(3, 'UTC'),
    scope        LowCardinality(String),
    name         String,
    open_time    DateTime64(6, 'UTC'),
    close_time   DateTime64(6, 'UTC'),
    method       LowCardinality(String),
    inflow       Decimal(38, 8),
    outflow      Decimal(38, 8),
    net          Decimal(38, 8),
    currency     LowCardinality(String),
    input_count  Int64,
    stale        Bool                           COMMENT 'an input is older than its cadence allows',
    revision     Int32,
    insert_time  DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (scope, name, open_time, method, stream_epoch, topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

-- The latest revision of each window.
CREATE OR REPLACE VIEW flow_aggregates AS
SELECT scope, name, open_time, close_time, method, inflow, outflow, net, currency, input_count, stale, revision
FROM flow_aggregates_log
ORDER BY revision DESC, append_time DESC, offset DESC
LIMIT 1 BY scope, name, open_time, close_time, method, currency;
