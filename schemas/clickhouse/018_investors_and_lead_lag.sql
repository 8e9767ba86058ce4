-- What investors bought of an instrument net, by day (수급): a column for each class, and what all of them leave over. Of several words on a day the
-- newest counts (docs/methodology/fund-flows.md). Every share bought was sold by somebody: where a venue reports all classes the residual is 0 for
-- shares, and for money what rounding to millions leaves (up to 2,500,000 won for five rounded numbers).
-- complete: all four classes are told. residual: their sum, less `total` where that is reported; null where none is told.
CREATE OR REPLACE VIEW investor_flows AS
SELECT
    instrument, provider, toDate(addSeconds(period_start, intDiv(dateDiff('second', period_start, period_end), 2))) AS day,
    period_start, period_end, any(currency) AS currency,
    anyIf(net_amount, investor_class = 'foreign') AS foreign_amount,
    anyIf(net_amount, investor_class = 'institution') AS institution_amount,
    anyIf(net_amount, investor_class = 'individual') AS individual_amount,
    anyIf(net_amount, investor_class = 'other_corporation') AS other_corporation_amount,
    sumIf(net_amount, investor_class NOT IN ('total', 'unknown')) - ifNull(anyIf(net_amount, investor_class = 'total'), 0) AS residual,
    anyIf(net_quantity, investor_class = 'foreign') AS foreign_quantity,
    anyIf(net_quantity, investor_class = 'institution') AS institution_quantity,
    anyIf(net_quantity, investor_class = 'individual') AS individual_quantity,
    anyIf(net_quantity, investor_class = 'other_corporation') AS other_corporation_quantity,
    sumIf(net_quantity, investor_class NOT IN ('total', 'unknown')) - ifNull(anyIf(net_quantity, investor_class = 'total'), 0) AS residual_quantity,
    toBool(uniqExactIf(investor_class, investor_class NOT IN ('total', 'unknown')) = 4) AS complete
FROM
(
    SELECT *
    FROM fund_flows
    ORDER BY ifNull(vintage, '') DESC, receive_time DESC
    LIMIT 1 BY instrument, provider, investor_class, period_start, period_end
)
GROUP BY instrument, provider, period_start, period_end;

-- Who follows whom: how each name's net flow of a month goes with another's `lag_months` later (docs/methodology/fund-flows.md), by scope, method
-- and currency: Pearson's correlation over the n months that both have, the least-squares slope (units into the follower for one into the leader),
-- and the two-sided p-value of no correlation, by Student's t with n - 2 degrees of freedom. At lag 0 a pair is there once. Nothing is corrected
-- for looking at many pairs. It is computed here, and only here, so that boards, SQL and `marketflow flows lead-lag` read one number.
-- The t distribution with a whole number of degrees of freedom v is a finite sum (Abramowitz and Stegun 26.7.3 and 26.7.4); with t of a correlation r
-- its angle has sine |r| and cosine sqrt(1 - r^2), so the sum runs over powers of 1 - r^2. Good to about 1e-12.
CREATE OR REPLACE VIEW flow_lead_lag AS
WITH months AS
(
    SELECT scope, method, currency, name, toRelativeMonthNum(month) AS number, toFloat64(net) AS net
    FROM flow_monthly
    WHERE scope IN ('market', 'asset_class', 'investor_class')
)
SELECT
    scope, method, currency, leader, follower, lag_months, n, correlation, slope,
    greatest(0., 1. - multiIf(
        n = 3, 2 / pi() * atan2(r, sqrt(rest)),
        n % 2 = 0, r * arraySum(k -> exp(lgamma(k + 0.5) - lgamma(k + 1.)) / sqrt(pi()) * pow(rest, k), range(toUInt32(intDiv(n, 2) - 1))),
        2 / pi() * (atan2(r, sqrt(rest)) + r * sqrt(rest)
            * arraySum(k -> exp(lgamma(k + 1.) - lgamma(k + 1.5)) * sqrt(pi()) / 2 * pow(rest, k), range(toUInt32(intDiv(n - 3, 2))))))) AS p_value
FROM
(
    SELECT
        scope, method, currency, leader, follower, lag_months, n,
        greatest(-1., least(1., sxy / sqrt(sxx * syy))) AS correlation, sxy / sxx AS slope,
        abs(correlation) AS r, (1. - r) * (1. + r) AS rest
    FROM
    (
        SELECT
            leading.scope AS scope, leading.method AS method, leading.currency AS currency, leading.name AS leader, following.name AS follower,
            leading.lag_months AS lag_months, toInt64(count()) AS n,
            varPopStable(leading.net) AS sxx, varPopStable(following.net) AS syy, covarPopStable(leading.net, following.net) AS sxy,
            avg(leading.net) AS mean_x, avg(following.net) AS mean_y
        FROM (SELECT *, arrayJoin(range(7)) AS lag_months, number + lag_months AS later FROM months) AS leading
        INNER JOIN months AS following
            ON following.scope = leading.scope AND following.method = leading.method AND following.currency = leading.currency
            AND following.number = leading.later
        WHERE leading.name != following.name AND (leading.lag_months > 0 OR leading.name < following.name)
        GROUP BY scope, method, currency, leader, follower, lag_months
        HAVING n >= 3 AND sxx > pow(1e-12 * mean_x, 2) AND syy > pow(1e-12 * mean_y, 2)
    )
);
