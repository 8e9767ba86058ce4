-- Trading sessions of the calendars in crates/model/calendars, each load under its checksum; `marketflow up` loads them. Read the view
-- `sessions`. Markets that never close have no rows: their sessions are UTC days.
CREATE TABLE IF NOT EXISTS sessions_log
(
    checksum       LowCardinality(String)       COMMENT 'of everything loaded together',
    calendar       LowCardinality(String)       COMMENT 'krx, fx',
    kind           LowCardinality(String)       COMMENT 'regular, pre_open, closing_price, after_hours, after_market',
    date           Date32                       COMMENT 'the venue''s local date of the open',
    last_date      Date32                       COMMENT 'the venue''s local date of the close: a week of foreign exchange is one session',
    open_time      DateTime64(6, 'UTC')         COMMENT 'inclusive',
    close_time     DateTime64(6, 'UTC')         COMMENT 'exclusive, the minute of the closing print included',
    auction_time   Nullable(DateTime64(6, 'UTC')) COMMENT 'from here to the last minute orders gather and nothing prints; null = no closing auction',
    expected_slots Int32                        COMMENT 'minutes in which an actively traded instrument trades; 0 outside the regular session',
    loaded_at      DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = MergeTree
ORDER BY (checksum, calendar, date, open_time);

-- The sessions of the last load.
CREATE OR REPLACE VIEW sessions AS
SELECT calendar, kind, date, last_date, open_time, close_time, auction_time, expected_slots
FROM sessions_log
WHERE checksum = (SELECT argMax(checksum, loaded_at) FROM sessions_log);
