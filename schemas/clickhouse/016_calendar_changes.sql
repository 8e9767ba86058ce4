-- Dates that were declared to be other than their calendar's file says (`marketflow calendar`): the last word on each. Only KRX's calendar has days
-- that can be changed; up = it trades at these hours, down = it does not, unknown = as the file says.
CREATE OR REPLACE VIEW calendar_changes AS
SELECT
    substring(feed, length('calendar:') + 1) AS calendar, toDate32(toTimeZone(assumeNotNull(from_time), 'Asia/Seoul')) AS date,
    argMax(said, appended) AS last, last.1 AS state, last.2 AS open_time, last.3 AS close_time, last.4 AS reason, max(appended) AS append_time
FROM (SELECT feed, from_time, tuple(state, assumeNotNull(from_time), assumeNotNull(to_time), reason) AS said, append_time AS appended
      FROM feed_status WHERE kind = 'calendar_change' AND startsWith(feed, 'calendar:'))
GROUP BY calendar, date;

-- The sessions of the last load, with what was changed since. Of a changed day only the regular session is listed; its closing auction takes ten
-- minutes and its print a minute of its own.
CREATE OR REPLACE VIEW sessions AS
SELECT calendar, kind, date, last_date, open_time, close_time, auction_time, expected_slots
FROM sessions_log
WHERE checksum = (SELECT argMax(checksum, loaded_at) FROM sessions_log)
  AND (calendar, date) NOT IN (SELECT calendar, date FROM calendar_changes WHERE state != 'unknown')
UNION ALL
SELECT
    toLowCardinality(changed) AS calendar, toLowCardinality('regular') AS kind, day AS date, day AS last_date, open AS open_time,
    close + INTERVAL 1 MINUTE AS close_time, toNullable(close - INTERVAL 10 MINUTE) AS auction_time,
    toInt32(dateDiff('minute', open, close) - 9) AS expected_slots
FROM (SELECT calendar AS changed, date AS day, open_time AS open, close_time AS close FROM calendar_changes WHERE state = 'up');
