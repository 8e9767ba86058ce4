-- What brokers say of instruments. `reference_log` stands since 013; the sink fills it from market.reference.v1, where only changes are said: what holds on a day is
-- the last word whose valid_from is not after it.

-- Each instrument as a broker states it now; one that is no longer listed has valid_to.
CREATE OR REPLACE VIEW instruments AS
SELECT
    instrument,
    name,
    attributes['market']                      AS market,
    attributes['kind']                        AS kind,
    toDateOrNull(attributes['listed_on'])     AS listed_on,
    attributes['administration'] = 'yes'      AS administration,
    attributes['liquidation'] = 'yes'         AS liquidation,
    attributes['warning']                     AS warning,
    (instrument, provider) IN
        (SELECT instrument, provider FROM reference WHERE kind = 'halt' AND valid_to IS NULL) AS halted,
    attributes,
    valid_from,
    valid_to,
    provider,
    receive_time
FROM
(
    SELECT * FROM reference
    WHERE reference.kind = 'instrument'
    ORDER BY valid_from DESC
    LIMIT 1 BY instrument, provider
);

-- Stretches in which trading in an instrument was halted, to the day: found by the daily look at the broker's master.
CREATE OR REPLACE VIEW halts AS
SELECT instrument, valid_from AS from_time, valid_to AS to_time, attributes, provider, receive_time
FROM reference
WHERE kind = 'halt';
