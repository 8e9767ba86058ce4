-- Months of flows beside the 36 before and beside each other (docs/methodology/fund-flows.md), by scope, method and currency.
-- share: net / gross (inflow + outflow) of all names in the month. z_score: (net - mean) / standard deviation (n - 1) of the net flows of the 36
-- months before; null where fewer than 24 of them are known, or all are equal. Computed when asked: a revised month revises no other one's record.
CREATE OR REPLACE VIEW flow_monthly AS
SELECT
    scope, name, method, currency, toDate(open_time) AS month, inflow, outflow, net,
    toFloat64(net) / nullIf(toFloat64(gross), 0) AS share,
    if(months_compared >= 24 AND deviation > 1e-12 * abs(mean), (toFloat64(net) - mean) / deviation, NULL) AS z_score,
    months_compared, input_count, stale, revision
FROM
(
    SELECT
        scope, name, method, currency, open_time, inflow, outflow, net, input_count, stale, revision,
        sum(inflow + outflow) OVER (PARTITION BY scope, method, currency, open_time) AS gross,
        count() OVER trailing AS months_compared,
        avg(toFloat64(net)) OVER trailing AS mean,
        stddevSampStable(toFloat64(net)) OVER trailing AS deviation
    FROM flow_aggregates
    WHERE open_time = toStartOfMonth(open_time) AND close_time = addMonths(open_time, 1)
    WINDOW trailing AS
    (
        PARTITION BY scope, name, method, currency
        ORDER BY toRelativeMonthNum(open_time)
        RANGE BETWEEN 36 PRECEDING AND 1 PRECEDING
    )
);
