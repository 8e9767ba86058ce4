-- Views for people, boards and programs: completeness, the market, what is hot, where money goes, minute prices in another system's columns.

-- Each instrument's regular sessions against its calendar, from the first day it was seen to the last day anything of its calendar was.
-- A slot is a minute in which an actively traded instrument trades; an unseen one may also have been quiet: `missing_minutes` tells.
CREATE OR REPLACE VIEW completeness AS
WITH
    days AS (SELECT instrument, calendar, session_date, slots, trusted, gaps, revised, first_minute, last_minute FROM bars_daily),
    expected AS
    (
        SELECT calendar, date, last_date, open_time, close_time, expected_slots FROM sessions WHERE kind = 'regular'
        UNION ALL
        SELECT '24/7' AS calendar, date, date AS last_date, toDateTime64(date, 6, 'UTC') AS open_time,
               toDateTime64(date + 1, 6, 'UTC') AS close_time, 1440 AS expected_slots
        FROM (SELECT arrayJoin(arrayMap(n -> first + n, range(toUInt32(dateDiff('day', first, last) + 1)))) AS date
              FROM (SELECT min(session_date) AS first, max(session_date) AS last FROM days WHERE calendar = '24/7' HAVING count() > 0))
    ),
    seen AS
    (
        SELECT instrument, any(days.calendar) AS calendar, min(session_date) AS first, any(last_of_calendar) AS last
        FROM days
        INNER JOIN (SELECT calendar, max(session_date) AS last_of_calendar FROM days GROUP BY calendar) AS ends USING (calendar)
        GROUP BY instrument
    ),
    due AS
    (
        SELECT seen.instrument AS instrument, expected.calendar AS calendar, date, last_date, open_time, close_time, expected_slots
        FROM seen INNER JOIN expected ON seen.calendar = expected.calendar
        WHERE expected.last_date >= seen.first AND expected.date <= seen.last
    )
SELECT
    due.instrument AS instrument, due.calendar AS calendar, due.date AS session_date,
    any(due.open_time) AS session_open, any(due.close_time) AS session_close, any(due.expected_slots) AS expected,
    toUInt64(sum(days.slots)) AS with_bar, toUInt64(sum(days.trusted)) AS trusted, toUInt64(sum(days.gaps)) AS gaps,
    toUInt64(sum(days.revised)) AS revised,
    if(expected > with_bar, expected - with_bar, 0) AS unseen,
    toFloat64(trusted) / expected AS trusted_share,
    multiIf(with_bar = 0, 'nothing', gaps > 0, 'gaps', trusted < with_bar, 'partial', unseen > 0, 'quiet or missing', 'full') AS state,
    if(with_bar = 0, NULL, minIf(days.first_minute, days.slots > 0)) AS first_minute,
    if(with_bar = 0, NULL, maxIf(days.last_minute, days.slots > 0)) AS last_minute
FROM due
LEFT JOIN days ON days.instrument = due.instrument AND days.session_date >= due.date AND days.session_date <= due.last_date
GROUP BY due.instrument, due.calendar, due.date;

-- Minutes for which a provider's own closed candle has volume and we have no bar: missing, not quiet.
CREATE OR REPLACE VIEW missing_minutes AS
SELECT candles.instrument AS instrument, candles.open_time AS open_time, any(candles.feed) AS feed, max(candles.volume) AS volume
FROM candles
LEFT ANTI JOIN (SELECT instrument, open_time FROM bars_final WHERE interval = '1m') AS bars
    ON bars.instrument = candles.instrument AND bars.open_time = candles.open_time
WHERE candles.interval = '1m' AND candles.closed AND candles.volume > 0
GROUP BY instrument, open_time;

-- Korean minute prices with the columns, names and types of a widespread MySQL table: won have no decimals, times are Seoul's.
CREATE OR REPLACE VIEW stock_minute_prices AS
SELECT
    toInt64(bitAnd(sipHash64(instrument, interval, open_time), 0x7FFFFFFFFFFFFFFF)) AS id,
    substring(instrument, 5) AS stock_symbol,
    toDateTime(open_time, 'Asia/Seoul') AS timestamp,
    CAST(transform(interval, ['1m', '5m', '15m'], ['ONE_MINUTE', 'FIVE_MINUTES', 'FIFTEEN_MINUTES']),
         'Enum8(\'ONE_MINUTE\' = 1, \'FIVE_MINUTES\' = 2, \'FIFTEEN_MINUTES\' = 3)') AS minute_interval,
    CAST(open, 'Decimal(15, 2)') AS open_price,
    CAST(high, 'Decimal(15, 2)') AS high_price,
    CAST(low, 'Decimal(15, 2)') AS low_price,
    CAST(close, 'Decimal(15, 2)') AS close_price,
    toInt64(volume) AS volume,
    toDateTime(first.append_time, 'Asia/Seoul') AS created_at,
    toDateTime(bars_final.append_time, 'Asia/Seoul') AS updated_at
FROM bars_final
INNER JOIN (SELECT instrument, interval, open_time, min(bars_log.append_time) AS append_time FROM bars_log GROUP BY ALL) AS first
    USING (instrument, interval, open_time)
WHERE instrument >= 'KRX:' AND instrument < 'KRX;' AND interval IN ('1m', '5m', '15m');

-- The last session of each instrument against the one before, and against the mean turnover of up to 20 sessions before. Instruments that
-- have not traded for a year before the newest session are not of this market any more.
CREATE OR REPLACE VIEW market_overview AS
SELECT
    instrument, splitByChar(':', instrument)[1] AS venue, session_date, last_minute,
    close AS price, previous_close, price - previous_close AS change,
    if(previous_close > 0, toFloat64(price - previous_close) / toFloat64(previous_close), NULL) AS change_ratio,
    open, high, low, volume, turnover, trade_count,
    if(sessions_compared > 0, usual, NULL) AS usual_turnover, sessions_compared,
    if(sessions_compared > 0 AND usual > 0, toFloat64(turnover) / usual, NULL) AS turnover_ratio,
    minutes, slots, trusted, gaps, refreshed_at
FROM
(
    SELECT
        *,
        lagInFrame(toNullable(close), 1) OVER (PARTITION BY instrument ORDER BY open_time ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
            AS previous_close,
        avg(turnover) OVER (PARTITION BY instrument ORDER BY open_time ROWS BETWEEN 20 PRECEDING AND 1 PRECEDING) AS usual,
        count() OVER (PARTITION BY instrument ORDER BY open_time ROWS BETWEEN 20 PRECEDING AND 1 PRECEDING) AS sessions_compared,
        max(open_time) OVER (PARTITION BY instrument) AS newest
    FROM bars_daily
    WHERE open_time > (SELECT max(open_time) - INTERVAL 1 YEAR FROM bars_rollup_log)
)
WHERE open_time = newest;

-- How unusual the last session of each instrument is: its turnover against its own usual one, placed within its venue.
CREATE OR REPLACE VIEW hot_instruments AS
SELECT
    row_number() OVER (PARTITION BY venue ORDER BY turnover_ratio DESC NULLS LAST, turnover DESC, instrument) AS place,
    venue, instrument, session_date, price, change_ratio, turnover, usual_turnover, sessions_compared, turnover_ratio
FROM market_overview;

-- Where money went: each window's net outflows matched to its net inflows in proportion, by scope, method and currency.
-- amount(from, to) = outflow(from) x inflow(to) / the larger of both totals; what is left over came from or went outside of what is measured.
CREATE OR REPLACE VIEW flow_rotation AS
WITH flows AS (SELECT scope, method, currency, open_time, close_time, name, net, stale FROM flow_aggregates)
SELECT
    gave.scope AS scope, gave.method AS method, gave.currency AS currency, gave.open_time AS open_time, gave.close_time AS close_time,
    gave.name AS from_name, took.name AS to_name,
    CAST(toDecimal256(-gave.net, 8) * toDecimal256(took.net, 8) / greatest(total.gave, total.took), 'Decimal(38, 8)') AS amount,
    gave.stale OR took.stale AS stale
FROM (SELECT * FROM flows WHERE net < 0) AS gave
INNER JOIN (SELECT * FROM flows WHERE net > 0) AS took USING (scope, method, currency, open_time, close_time)
INNER JOIN
(
    SELECT scope, method, currency, open_time, close_time,
           toDecimal256(-sumIf(net, net < 0), 8) AS gave, toDecimal256(sumIf(net, net > 0), 8) AS took
    FROM flows
    GROUP BY scope, method, currency, open_time, close_time
) AS total USING (scope, method, currency, open_time, close_time);
