//! The tables and views on the real engine: rows in, among them repeats and revisions, and answers worked out by hand.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use marketflow_clickhouse::{Layout, Retention, migrations};
use marketflow_engine::MonthlyFlows;
use marketflow_model::{Calendar, FlowAggregate, Month, Timestamp};
use marketflow_testkit::TestStack;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

mod boards;

/// One engine for all: starting it takes longer than what is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_and_views_answer_as_worked_out_by_hand() {
    let stack = TestStack::start_with(&["clickhouse"]).await.unwrap();
    // refreshed when a test says so, not in the middle of it
    ask(&stack, "SYSTEM STOP VIEW bars_rollup").await;
    sessions_are_those_of_the_calendars(&stack).await;
    session_dates_are_the_venues_own(&stack).await;
    rollups_follow_repeats_revisions_and_late_bars(&stack).await;
    bars_as_of_is_what_was_known(&stack).await;
    completeness_is_against_the_calendar(&stack).await;
    minute_prices_have_the_other_systems_columns(&stack).await;
    the_market_is_seen_against_the_session_before(&stack).await;
    flows_rotate_in_proportion(&stack).await;
    months_of_flows_are_held_against_those_before(&stack).await;
    investors_bought_what_others_sold(&stack).await;
    who_leads_whom_is_what_the_engine_computes(&stack).await;
    signals_news_and_reference_say_their_last_word(&stack).await;
    retention_counts_from_ingestion(&stack).await;
    insert_what_the_boards_show(&stack).await;
    boards::every_query_runs(&stack).await;
    boards::the_cookbook_runs_in_other_clients(&stack).await;
    boards::every_panel_shows_rows(&stack).await;
    years_of_days_are_read_from_the_rollup_alone(&stack).await;
    statements_for_a_cluster_are_sql(&stack).await;
    stack.stop().await;
}

/// Writes flows of markets: the values of a row as SQL.
async fn insert_flows(stack: &TestStack, rows: &[String]) {
    ask(
        stack,
        &format!(
            "INSERT INTO flow_aggregates_log (stream_epoch, topic, partition, offset, append_time, scope, name, open_time, close_time, method, inflow, \
             outflow, net, currency, input_count, stale, revision) VALUES {}",
            rows.join(", ")
        ),
    )
    .await;
}

async fn ask(stack: &TestStack, sql: &str) -> String {
    stack.query(sql).await.unwrap_or_else(|problem| panic!("{sql}: {problem:#}"))
}

/// Compares an answer with the lines expected, columns separated by blanks.
async fn check(stack: &TestStack, sql: &str, expected: &str) {
    let words =
        |text: &str| text.trim().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    let start: String = sql.chars().take(400).collect();
    assert_eq!(words(&ask(stack, sql).await), words(expected), "{start}");
}

async fn refresh(stack: &TestStack) {
    for verb in ["START", "REFRESH", "WAIT", "STOP"] {
        ask(stack, &format!("SYSTEM {verb} VIEW bars_rollup")).await;
    }
}

/// A bar as the sink writes it. `offset` tells rows apart; the same offset again is a repeat.
struct BarRow {
    offset: i64,
    append: &'static str,
    instrument: &'static str,
    interval: &'static str,
    open_time: &'static str,
    /// open, high, low, close
    prices: [&'static str; 4],
    volume: &'static str,
    revision: i32,
    quality: &'static str,
    feed: &'static str,
}

const BAR: BarRow = BarRow {
    offset: 0,
    append: "2026-11-20 07:00:00",
    instrument: "KRX:005930",
    interval: "1m",
    open_time: "2026-11-20 00:00:00",
    prices: ["100", "100", "100", "100"],
    volume: "1",
    revision: 0,
    quality: "complete",
    feed: "kis",
};

async fn insert(stack: &TestStack, bars: &[BarRow]) {
    let rows: Vec<String> = bars
        .iter()
        .map(|bar| {
            let [open, high, low, close] = bar.prices;
            format!(
                "('epoch', 'market.bars.v1', 0, {}, '{}', '{}', '{}', '{}', toDateTime64('{}', 6, 'UTC') + toIntervalMinute(1), {open}, {high}, \
                 {low}, {close}, {volume}, {close} * {volume}, {close}, 1, {volume}, 0, {}, '{}', '{}', 'trades', NULL)",
                bar.offset, bar.append, bar.instrument, bar.interval, bar.open_time, bar.open_time, bar.revision, bar.quality, bar.feed,
                volume = bar.volume,
            )
        })
        .collect();
    let columns = "stream_epoch, topic, partition, offset, append_time, instrument, interval, open_time, close_time, open, high, low, close, \
                   volume, turnover, vwap, trade_count, buy_volume, sell_volume, revision, quality, feed, source, revision_reason";
    ask(stack, &format!("INSERT INTO bars_log ({columns}) VALUES {}", rows.join(", "))).await;
}

/// Every minute bar of a KRX session but these (minutes since 09:00, Seoul), at this price, one share each.
async fn insert_session(stack: &TestStack, instrument: &str, date: &str, price: i32, but: &[i32]) {
    let but = if but.is_empty() { "-1".to_owned() } else { but.iter().map(i32::to_string).collect::<Vec<_>>().join(", ") };
    let first = date.replace('-', "").parse::<i64>().unwrap() * 1_000;
    let sql = format!(
        "INSERT INTO bars_log (stream_epoch, topic, partition, offset, append_time, instrument, interval, open_time, close_time, open, high, low, \
         close, volume, turnover, vwap, trade_count, buy_volume, sell_volume, revision, quality, feed, source, revision_reason) \
         SELECT 'epoch', 'market.bars.v1', 1, {first} + number, toDateTime64(o + INTERVAL 62 SECOND, 3), '{instrument}', '1m', \
         toDateTime64('{date} 00:00:00', 6, 'UTC') + toIntervalMinute(if(number = 380, 390, number)) AS o, o + INTERVAL 1 MINUTE, \
         {price}, {price}, {price}, {price}, 1, {price}, {price}, 1, 1, 0, 0, 'complete', 'kis', 'trades', NULL \
         FROM numbers(381) WHERE number NOT IN ({but})"
    );
    ask(stack, &sql).await;
}

async fn sessions_are_those_of_the_calendars(stack: &TestStack) {
    let krx = Calendar::of_venue("KRX");
    let (from, to) = krx.covers().unwrap();
    let expected: i64 =
        krx.sessions(from, to).iter().map(|session| i64::try_from(session.expected_slots().count()).unwrap()).sum();
    check(stack, "SELECT sum(expected_slots) FROM sessions WHERE calendar = 'krx'", &expected.to_string()).await;
    // an ordinary Friday, and the entrance exam's Thursday an hour later
    check(
        stack,
        "SELECT date, formatDateTime(open_time, '%H:%i', 'Asia/Seoul'), formatDateTime(close_time, '%H:%i', 'Asia/Seoul'), expected_slots FROM \
         sessions WHERE kind = 'regular' AND date IN ('2026-11-19', '2026-11-20', '2026-11-21') AND calendar = 'krx' ORDER BY date",
        "2026-11-19 10:00 16:31 381
         2026-11-20 09:00 15:31 381",
    )
    .await;
    check(
        stack,
        "SELECT date, last_date, expected_slots FROM sessions WHERE calendar = 'fx' AND date = '2026-11-15'",
        "2026-11-15 2026-11-20 7200",
    )
    .await;
    let before = ask(stack, "SELECT count() FROM sessions_log").await;
    assert!(migrations::apply(&stack.clickhouse()).await.unwrap().is_empty(), "nothing is applied twice");
    assert_eq!(ask(stack, "SELECT count() FROM sessions_log").await, before, "nothing is loaded twice");
}

/// `bars_log.calendar` and `session_date` say what `crates/model` says, in every hour of days around a change of New York's clocks.
async fn session_dates_are_the_venues_own(stack: &TestStack) {
    let aliases = "SELECT arrayStringConcat(groupArray(concat(default_expression, ' AS ', name)), ', ') FROM system.columns \
                   WHERE table = 'bars_log' AND database = currentDatabase() AND default_kind = 'ALIAS' FORMAT TSVRaw";
    let aliases = ask(stack, aliases).await;
    for (instrument, venue) in [("KRX:005930", "KRX"), ("FX:EURUSD", "FX"), ("BITSTAMP:BTCUSD", "BITSTAMP")] {
        let calendar = Calendar::of_venue(venue);
        let start = Timestamp::parse("2026-10-26T00:30:00Z").unwrap();
        let hours: Vec<Timestamp> = (0..24 * 9)
            .map(|hour| start.plus_micros(hour * 3_600_000_000))
            .filter(|at| calendar.session_of(*at).is_some())
            .collect();
        let expected: Vec<String> = hours
            .iter()
            .map(|at| {
                let local = jiff::Timestamp::from_microsecond(at.micros()).unwrap().to_zoned(calendar.zone().clone());
                // a day of foreign exchange ends at 17:00 in New York
                let ahead = if venue == "FX" { 7 } else { 0 };
                format!("{} {}", calendar.name(), local.checked_add(jiff::Span::new().hours(ahead)).unwrap().date())
            })
            .collect();
        let micros: Vec<String> = hours.iter().map(|at| at.micros().to_string()).collect();
        let sql = format!(
            "SELECT calendar, session_date FROM (SELECT '{instrument}' AS instrument, fromUnixTimestamp64Micro(arrayJoin([{}]), 'UTC') AS open_time, \
             {aliases})",
            micros.join(", ")
        );
        check(stack, &sql, &expected.join("\n")).await;
    }
}

async fn rollups_follow_repeats_revisions_and_late_bars(stack: &TestStack) {
    let at = |open_time, prices, volume| BarRow { open_time, prices, volume, ..BAR };
    let first = |offset, bar: BarRow| BarRow { offset, ..bar };
    insert(
        stack,
        &[
            // Thursday: two hours, and the after-market, which is in its hour and not in the day
            first(1, BarRow { instrument: "KRX:000660", ..at("2026-11-12 00:59:00", ["10", "12", "9", "11"], "100") }),
            first(2, BarRow { instrument: "KRX:000660", ..at("2026-11-12 01:00:00", ["11", "15", "11", "14"], "50") }),
            first(3, BarRow { instrument: "KRX:000660", ..at("2026-11-12 08:00:00", ["14", "99", "14", "99"], "7") }),
            // Friday, and Monday of the next week
            first(4, BarRow { instrument: "KRX:000660", ..at("2026-11-13 06:30:00", ["14", "14", "14", "14"], "30") }),
            first(5, BarRow { instrument: "KRX:000660", ..at("2026-11-16 00:00:00", ["13", "13", "8", "8"], "20") }),
        ],
    )
    .await;
    refresh(stack).await;
    let days = "SELECT session_date, open_time, open, high, low, close, volume, minutes, slots, revised FROM bars_daily WHERE instrument = \
                'KRX:000660' ORDER BY open_time";
    let thursday = "2026-11-12 2026-11-11 15:00:00.000000 10 15 9 14 150 2 2 0";
    let rest = "2026-11-13 2026-11-12 15:00:00.000000 14 14 14 14 30 1 1 0
                2026-11-16 2026-11-15 15:00:00.000000 13 13 8 8 20 1 1 0";
    check(stack, days, &format!("{thursday}\n{rest}")).await;
    check(
        stack,
        "SELECT open_time, open, high, low, close, volume, vwap FROM bars_hourly WHERE instrument = 'KRX:000660' ORDER BY open_time LIMIT 3",
        "2026-11-12 00:00:00.000000 10 12 9 11 100 11
         2026-11-12 01:00:00.000000 11 15 11 14 50 14
         2026-11-12 08:00:00.000000 14 99 14 99 7 99",
    )
    .await;

    // the same rows again, as a second sink would write them; then a revision, a worse feed beside it, and a bar that came late
    insert(stack, &[first(1, BarRow { instrument: "KRX:000660", ..at("2026-11-12 00:59:00", ["10", "12", "9", "11"], "100") })])
        .await;
    refresh(stack).await;
    check(stack, days, &format!("{thursday}\n{rest}")).await;
    insert(
        stack,
        &[
            BarRow {
                offset: 6,
                revision: 1,
                instrument: "KRX:000660",
                quality: "backfilled",
                ..at("2026-11-12 01:00:00", ["11", "16", "11", "13"], "60")
            },
            BarRow {
                offset: 7,
                instrument: "KRX:000660",
                quality: "gap",
                feed: "other",
                ..at("2026-11-12 01:00:00", ["1", "1", "1", "1"], "1")
            },
            BarRow { offset: 8, instrument: "KRX:000660", ..at("2026-11-12 02:00:00", ["13", "13", "12", "12"], "5") },
        ],
    )
    .await;
    refresh(stack).await;
    let thursday = "2026-11-12 2026-11-11 15:00:00.000000 10 16 9 12 165 3 3 1";
    check(stack, days, &format!("{thursday}\n{rest}")).await;
    check(
        stack,
        "SELECT week, sessions, open, high, low, close, volume FROM bars_weekly WHERE instrument = 'KRX:000660' ORDER BY week",
        "2026-11-09 2 10 16 9 14 195
         2026-11-16 1 13 13 8 8 20",
    )
    .await;
    check(
        stack,
        "SELECT month, sessions, open, high, low, close, volume, turnover FROM bars_monthly WHERE instrument = 'KRX:000660'",
        "2026-11-01 3 10 16 8 8 215 2520",
    )
    .await;
    // whatever is folded once more stays as it is, also when every row of the fold is there twice
    ask(stack, "INSERT INTO bars_rollup_log SELECT * FROM bars_rollup_log").await;
    check(stack, days, &format!("{thursday}\n{rest}")).await;

    // a minute without a trade carries a price of before: it counts where there is nothing else
    insert(
        stack,
        &[
            BarRow {
                offset: 20,
                instrument: "SIM:QUIET",
                quality: "no_trades",
                ..at("2026-11-12 00:00:00", ["50", "50", "50", "50"], "0")
            },
            BarRow { offset: 21, instrument: "SIM:QUIET", ..at("2026-11-12 00:01:00", ["40", "41", "40", "41"], "2") },
            BarRow {
                offset: 22,
                instrument: "SIM:QUIET",
                quality: "no_trades",
                ..at("2026-11-13 00:00:00", ["41", "41", "41", "41"], "0")
            },
        ],
    )
    .await;
    refresh(stack).await;
    check(
        stack,
        "SELECT session_date, open, high, low, close, volume, vwap FROM bars_daily WHERE instrument = 'SIM:QUIET' ORDER BY session_date",
        "2026-11-12 40 41 40 41 2 41
         2026-11-13 41 41 41 41 0 \\N",
    )
    .await;
}

async fn bars_as_of_is_what_was_known(stack: &TestStack) {
    let bar = |offset, append, revision, quality, feed, close| BarRow {
        offset,
        append,
        revision,
        quality,
        feed,
        instrument: "SIM:ASOF",
        prices: ["1", "9", "1", close],
        ..BAR
    };
    insert(
        stack,
        &[
            bar(30, "2026-11-20 00:01:02", 0, "gap", "a", "2"),
            bar(31, "2026-11-20 00:05:00", 1, "backfilled", "a", "3"),
            bar(32, "2026-11-20 01:00:00", 0, "complete", "import:x", "4"),
            bar(31, "2026-11-20 00:05:00", 1, "backfilled", "a", "3"),
        ],
    )
    .await;
    for (at, expected) in [
        ("00:01:01.999", ""),
        ("00:01:02.000", "2 0 gap a"),
        ("00:30:00", "3 1 backfilled a"),
        ("23:00:00", "4 0 complete import:x"),
    ] {
        let sql =
            format!("SELECT close, revision, quality, feed FROM bars_as_of(t = '2026-11-20 {at}') WHERE instrument = 'SIM:ASOF'");
        check(stack, &sql, expected).await;
    }
    let differing = "SELECT count() FROM (SELECT * FROM bars_as_of(t = '2199-01-01 00:00:00') EXCEPT SELECT * FROM bars_final)";
    check(stack, differing, "0").await;
}

async fn completeness_is_against_the_calendar(stack: &TestStack) {
    // Tuesday in full, Wednesday without three minutes of which the broker's candle knows one, Thursday (an hour later) not at all,
    // Friday with a gap
    insert_session(stack, "KRX:035420", "2026-11-17", 200, &[]).await;
    insert_session(stack, "KRX:035420", "2026-11-18", 200, &[10, 11, 12]).await;
    insert_session(stack, "KRX:035420", "2026-11-20", 200, &[0]).await;
    insert(stack, &[BarRow { offset: 40, instrument: "KRX:035420", quality: "gap", open_time: "2026-11-20 00:00:00", ..BAR }])
        .await;
    ask(
        stack,
        "INSERT INTO candles_log (stream_epoch, topic, partition, offset, append_time, instrument, feed, interval, open_time, receive_time, open, \
         high, low, close, volume, turnover, trade_count, buy_volume, import_row, closed, source) VALUES \
         ('e', 'market.candles.v1', 0, 1, '2026-11-18 01:00:00', 'KRX:035420', 'kis', '1m', '2026-11-18 00:10:00', '2026-11-18 01:00:00', 1, 1, 1, 1, \
         5, 5, NULL, NULL, NULL, true, 'rest'), \
         ('e', 'market.candles.v1', 0, 2, '2026-11-18 01:00:00', 'KRX:035420', 'kis', '1m', '2026-11-18 00:11:00', '2026-11-18 01:00:00', 1, 1, 1, 1, \
         0, 0, NULL, NULL, NULL, true, 'rest'), \
         ('e', 'market.candles.v1', 0, 3, '2026-11-18 01:00:00', 'KRX:035420', 'kis', '1m', '2026-11-18 00:13:00', '2026-11-18 01:00:00', 1, 1, 1, 1, \
         5, 5, NULL, NULL, NULL, true, 'rest')",
    )
    .await;
    refresh(stack).await;
    check(
        stack,
        "SELECT session_date, expected, with_bar, trusted, gaps, unseen, replaceAll(state, ' ', '_'), round(trusted_share, 4) FROM completeness \
         WHERE instrument = 'KRX:035420' ORDER BY session_date",
        "2026-11-17 381 381 381 0 0 full 1
         2026-11-18 381 378 378 0 3 quiet_or_missing 0.9921
         2026-11-19 381 0 0 0 381 nothing 0
         2026-11-20 381 381 380 1 0 gaps 0.9974",
    )
    .await;
    check(stack, "SELECT open_time, volume FROM missing_minutes WHERE instrument = 'KRX:035420'", "2026-11-18 00:10:00.000000 5")
        .await;
    // a market that never closes has days of 1,440 minutes; SIM:QUIET was last seen a week before the others
    check(
        stack,
        "SELECT session_date, expected, with_bar, trusted, state FROM completeness WHERE instrument = 'SIM:QUIET' AND session_date <= '2026-11-14' \
         ORDER BY session_date",
        "2026-11-12 1440 2 2 quiet or missing
         2026-11-13 1440 1 1 quiet or missing
         2026-11-14 1440 0 0 nothing",
    )
    .await;
}

async fn minute_prices_have_the_other_systems_columns(stack: &TestStack) {
    check(
        stack,
        "SELECT name, type FROM system.columns WHERE table = 'stock_minute_prices' AND database = currentDatabase() ORDER BY position FORMAT TSVRaw",
        "id Int64
         stock_symbol String
         timestamp DateTime('Asia/Seoul')
         minute_interval Enum8('ONE_MINUTE' = 1, 'FIVE_MINUTES' = 2, 'FIFTEEN_MINUTES' = 3)
         open_price Decimal(15, 2)
         high_price Decimal(15, 2)
         low_price Decimal(15, 2)
         close_price Decimal(15, 2)
         volume Int64
         created_at DateTime('Asia/Seoul')
         updated_at DateTime('Asia/Seoul')",
    )
    .await;
    let bar = |offset, revision, append| BarRow {
        offset,
        revision,
        append,
        instrument: "KRX:005930",
        interval: "15m",
        open_time: "2026-11-20 06:30:00",
        prices: ["75000", "75200", "74800", "75100"],
        volume: "1250000",
        ..BAR
    };
    insert(stack, &[bar(50, 0, "2026-11-20 06:31:00"), bar(51, 1, "2026-11-20 06:40:00"), bar(51, 1, "2026-11-20 06:40:00")])
        .await;
    check(
        stack,
        "SELECT * EXCEPT id FROM stock_minute_prices WHERE stock_symbol = '005930' AND minute_interval = 'FIFTEEN_MINUTES'",
        "005930 2026-11-20 15:30:00 FIFTEEN_MINUTES 75000 75200 74800 75100 1250000 2026-11-20 15:31:00 2026-11-20 15:40:00",
    )
    .await;
    check(stack, "SELECT count() = uniqExact(id), min(id) >= 0 FROM stock_minute_prices", "1 1").await;
}

async fn the_market_is_seen_against_the_session_before(stack: &TestStack) {
    // KRX:035720 doubles its price with three times its usual turnover; KRX:000270 does nothing
    for (instrument, closes, volumes) in
        [("KRX:035720", ["100", "100", "200"], ["10", "30", "30"]), ("KRX:000270", ["50", "50", "50"], ["10", "10", "10"])]
    {
        for (n, open_time) in ["2026-11-17 00:00:00", "2026-11-18 00:00:00", "2026-11-20 00:00:00"].into_iter().enumerate() {
            let offset = 60 + i64::try_from(n).unwrap();
            let prices = [closes[n], closes[n], closes[n], closes[n]];
            insert(stack, &[BarRow { offset, instrument, open_time, prices, volume: volumes[n], ..BAR }]).await;
        }
    }
    refresh(stack).await;
    check(
        stack,
        "SELECT instrument, session_date, price, previous_close, change, change_ratio, usual_turnover, sessions_compared, turnover_ratio FROM \
         market_overview WHERE instrument IN ('KRX:035720', 'KRX:000270') ORDER BY instrument",
        "KRX:000270 2026-11-20 50 50 0 0 500 2 1
         KRX:035720 2026-11-20 200 100 100 1 2000 2 3",
    )
    .await;
    check(
        stack,
        "SELECT instrument, place, turnover_ratio FROM hot_instruments WHERE venue = 'KRX' ORDER BY place LIMIT 1",
        "KRX:035720 1 3",
    )
    .await;
    check(stack, "SELECT max(place) = count() FROM hot_instruments WHERE venue = 'KRX'", "1").await;
}

async fn flows_rotate_in_proportion(stack: &TestStack) {
    let row = |offset: i64, name: &str, revision: i32, net: &str| {
        format!(
            "('e', 'market.flow-aggregates.v1', 0, {offset}, '2026-12-01 00:00:00', 'market', '{name}', '2026-11-01 00:00:00', '2026-12-01 00:00:00', \
             'REPORTED', 0, 0, {net}, 'USD', 1, {}, {revision})",
            name == "bonds"
        )
    };
    let rows = [
        row(1, "stocks", 0, "-60"),
        row(2, "bonds", 0, "-1000"),
        row(3, "bonds", 1, "-30"), // the revision counts
        row(4, "gold", 0, "45"),
        row(5, "crypto", 0, "15"),
        row(4, "gold", 0, "45"), // a repeat
        row(6, "fx", 0, "0"),
    ];
    insert_flows(stack, &rows).await;
    // outflows 90, inflows 60: two thirds of each outflow are matched, 3 : 1 between gold and crypto
    check(
        stack,
        "SELECT from_name, to_name, amount, stale FROM flow_rotation ORDER BY from_name, to_name",
        "bonds crypto 5 true
         bonds gold 15 true
         stocks crypto 10 false
         stocks gold 30 false",
    )
    .await;
}

/// All classes of a day add up to zero, or what is left is shown; of a day told again the last word counts.
async fn investors_bought_what_others_sold(stack: &TestStack) {
    let mut offset = 700;
    let mut row = |day: u32, class: &str, amount: &str, quantity: &str, received: &str| {
        offset += 1;
        format!(
            "('e', 't', 0, {offset}, '{received}', 'KRX:000660', 'kis', '{class}', '2026-11-{:02} 15:00:00', '2026-11-{day:02} 15:00:00', {amount}, \
             {quantity}, 'KRW', '{received}')",
            day - 1
        )
    };
    let evening = "2026-11-18 09:00:00";
    let rows = [
        row(17, "foreign", "-3000000", "-40", evening),
        row(17, "institution", "1000000", "15", evening),
        row(17, "individual", "2000000", "27", evening),
        row(17, "other_corporation", "1000000", "-2", evening),
        row(18, "foreign", "5000000", "70", evening),
        row(18, "institution", "-1000000", "NULL", evening),
        row(18, "individual", "-4000000", "-70", evening),
        // corrected the next day
        row(17, "other_corporation", "0", "-2", "2026-11-19 09:00:00"),
        // reported with a total, as some venues do
        row(19, "foreign", "5000000", "7", evening),
        row(19, "total", "4000000", "7", evening),
    ];
    ask(
        stack,
        &format!(
            "INSERT INTO fund_flows_log (stream_epoch, topic, partition, offset, append_time, instrument, provider, investor_class, period_start, \
             period_end, net_amount, net_quantity, currency, receive_time) VALUES {}",
            rows.join(", ")
        ),
    )
    .await;
    check(
        stack,
        "SELECT day, foreign_amount, institution_amount, individual_amount, other_corporation_amount, residual, residual_quantity, complete \
         FROM investor_flows WHERE instrument = 'KRX:000660' ORDER BY day",
        "2026-11-17 -3000000 1000000 2000000 0 0 0 true
         2026-11-18 5000000 -1000000 -4000000 \\N 0 0 false
         2026-11-19 5000000 \\N \\N \\N 1000000 0 false",
    )
    .await;
}

/// Five years of made-up markets: the view says what the pure computation says, p-values included; and three months worked out by hand: a correlation
/// of one half has the angle of 30 degrees, so p = 1 - 2 / 180 * 30 * 2 = 2 / 3.
async fn who_leads_whom_is_what_the_engine_computes(stack: &TestStack) {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let first: Month = "2015-01".parse().unwrap();
    let mut flows = Vec::new();
    let mut add = |name: &str, currency: &str, at: i32, net: i64| {
        let month = first.plus(at);
        let amount = |value: i64| value.to_string().parse().unwrap();
        flows.push(FlowAggregate {
            scope: "market".to_owned(),
            name: name.to_owned(),
            open_time: month.start(),
            close_time: month.end(),
            method: "COMBINED".to_owned(),
            inflow: amount(net.max(0)),
            outflow: amount((-net).max(0)),
            net: amount(net),
            currency: currency.to_owned(),
            input_count: 1,
            stale: false,
            revision: 0,
        });
    };
    let leader: Vec<i64> = (0..60).map(|_| random.random_range(-1_000_000..1_000_000)).collect();
    for at in 0..60_i32 {
        let place = usize::try_from(at).unwrap();
        add("leader", "EUR", at, leader[place]);
        let followed = if place < 3 { 0 } else { leader[place - 3] / 2 };
        add("follower", "EUR", at, followed + random.random_range(-200_000..200_000));
        if at % 7 != 0 {
            add("with_holes", "EUR", at, random.random_range(-90_000_000..10_000));
        }
        add("still", "EUR", at, 5);
    }
    add("short", "EUR", 10, 1);
    for (at, (x, y)) in (0..).zip([(-1, 0), (0, 2), (1, 1)]) {
        add("x", "CHF", at, x);
        add("y", "CHF", at, y);
    }
    let row = |(offset, flow): (usize, &FlowAggregate)| {
        let FlowAggregate { name, inflow, outflow, net, currency, .. } = flow;
        let (open, close) = (&flow.open_time.to_string()[..10], &flow.close_time.to_string()[..10]);
        format!(
            "('e', 't', 1, {offset}, '2026-12-01 00:00:00', 'market', '{name}', '{open} 00:00:00', '{close} 00:00:00', 'COMBINED', {inflow}, {outflow}, {net}, \
             '{currency}', 1, false, 0)"
        )
    };
    let rows: Vec<String> = flows.iter().enumerate().map(row).collect();
    insert_flows(stack, &rows).await;
    let answer = ask(
        stack,
        "SELECT leader, follower, lag_months, n, correlation, slope, p_value FROM flow_lead_lag WHERE currency = 'EUR' ORDER BY leader, follower, lag_months",
    )
    .await;
    let expected = MonthlyFlows::of(&flows, "market", "COMBINED", "EUR").lead_lags();
    assert_eq!((answer.lines().count(), expected.len()), (39, 39), "{answer}");
    for (line, expected) in answer.lines().zip(&expected) {
        let cells: Vec<&str> = line.split('\t').collect();
        let (lag, n) = (expected.lag_months.to_string(), expected.n.to_string());
        assert_eq!(cells[..4], [expected.leader.as_str(), &expected.follower, &lag, &n]);
        for (cell, number) in cells[4..].iter().zip([expected.correlation, expected.slope, expected.p_value]) {
            let said: f64 = cell.parse().unwrap();
            assert!((said - number).abs() <= 1e-9 * number.abs().max(1.0), "{line}: {said}, not {number}");
        }
    }
    check(
        stack,
        "SELECT leader, follower, lag_months FROM flow_lead_lag WHERE currency = 'EUR' ORDER BY p_value LIMIT 1",
        "leader follower 3",
    )
    .await;
    check(
        stack,
        "SELECT leader, follower, lag_months, n, round(correlation, 9), round(slope, 9), round(p_value, 9) FROM flow_lead_lag WHERE currency = 'CHF'",
        "x y 0 3 0.5 0.5 0.666666667",
    )
    .await;
}

/// Forty months of a market that goes up and down by 5 and ends with 30, beside one that stands still; a day is no month.
async fn months_of_flows_are_held_against_those_before(stack: &TestStack) {
    ask(
        stack,
        "INSERT INTO flow_aggregates_log (stream_epoch, topic, partition, offset, append_time, scope, name, open_time, close_time, method, inflow, \
         outflow, net, currency, input_count, stale, revision) \
         SELECT 'e', 't', 0, 2 * number + (name = 'up_and_down'), '2026-12-01 00:00:00', 'market', name, addMonths(toDateTime64('2015-01-01 00:00:00', 6, 'UTC'), number) AS open, \
                addMonths(open, 1), 'COMBINED', greatest(value, 0), greatest(-value, 0), value, 'USD', 1, false, 0 \
         FROM numbers(40) ARRAY JOIN ['up_and_down', 'still'] AS name, \
              [if(number = 39, 30, if(number % 2 = 0, 5, -5)), 7] AS value",
    )
    .await;
    ask(
        stack,
        "INSERT INTO flow_aggregates_log (stream_epoch, topic, partition, offset, append_time, scope, name, open_time, close_time, method, inflow, \
         outflow, net, currency, input_count, stale, revision) VALUES \
         ('e', 't', 0, 100, '2026-12-01 00:00:00', 'market', 'still', '2018-04-01 00:00:00', '2018-04-02 00:00:00', 'COMBINED', 9, 0, 9, 'USD', 1, false, 0)",
    )
    .await;
    // of the 36 before half are 5 and half -5: mean 0, deviation 5 x sqrt(36 / 35) = 5.070925528, and 30 / that = 5.916079783
    check(
        stack,
        "SELECT name, month, net, round(share, 9), round(z_score, 9), months_compared FROM flow_monthly \
         WHERE method = 'COMBINED' AND month IN ('2016-12-01', '2017-01-01', '2018-04-01') ORDER BY name, month",
        "still 2016-12-01 7 0.583333333 \\N 23
         still 2017-01-01 7 0.583333333 \\N 24
         still 2018-04-01 7 0.189189189 \\N 36
         up_and_down 2016-12-01 -5 -0.416666667 \\N 23
         up_and_down 2017-01-01 5 0.416666667 0.97894501 24
         up_and_down 2018-04-01 30 0.810810811 5.916079783 36",
    )
    .await;
}

async fn signals_news_and_reference_say_their_last_word(stack: &TestStack) {
    ask(
        stack,
        "INSERT INTO signals_log (stream_epoch, topic, partition, offset, append_time, rule, instrument, interval, open_time, direction, strength, price, \
         reason, revision) VALUES \
         ('e', 't', 0, 1, '2026-11-20 00:01:00', 'cross/1', 'KRX:005930', '1m', '2026-11-20 00:00:00', 'buy', 0.5, 100, NULL, 0), \
         ('e', 't', 0, 1, '2026-11-20 00:01:00', 'cross/1', 'KRX:005930', '1m', '2026-11-20 00:00:00', 'buy', 0.5, 100, NULL, 0), \
         ('e', 't', 0, 2, '2026-11-20 00:02:00', 'cross/1', 'KRX:005930', '1m', '2026-11-20 00:01:00', 'sell', 0.5, 100, NULL, 0), \
         ('e', 't', 0, 3, '2026-11-20 00:09:00', 'cross/1', 'KRX:005930', '1m', '2026-11-20 00:01:00', 'withdrawn', NULL, NULL, 'revised', 1)",
    )
    .await;
    check(stack, "SELECT open_time, direction, revision FROM signals", "2026-11-20 00:00:00.000000 buy 0").await;
    ask(
        stack,
        "INSERT INTO news_log (stream_epoch, topic, partition, offset, append_time, provider, article_id, published_at, receive_time, language, title, \
         summary, url, instruments) VALUES \
         ('e', 't', 0, 1, '2026-11-20 00:01:00', 'rss', 'a1', '2026-11-20 00:00:00', '2026-11-20 00:00:30', 'ko', '첫 제목', NULL, NULL, []), \
         ('e', 't', 0, 2, '2026-11-20 00:03:00', 'rss', 'a1', '2026-11-20 00:00:00', '2026-11-20 00:02:30', 'ko', '고친 제목', NULL, NULL, ['KRX:005930'])",
    )
    .await;
    check(stack, "SELECT title, instruments FROM news", "고친 제목 ['KRX:005930']").await;
    ask(
        stack,
        "INSERT INTO reference_log (stream_epoch, topic, partition, offset, append_time, kind, instrument, member, valid_from, valid_to, name, value, \
         attributes, provider, receive_time) VALUES \
         ('e', 't', 0, 1, '2026-11-20 00:01:00', 'corporate_action', 'KRX:005930', 'split', '2018-05-04 00:00:00', NULL, NULL, 0.5, {}, 'kis', \
         '2026-11-20 00:00:00'), \
         ('e', 't', 0, 2, '2026-11-20 00:03:00', 'corporate_action', 'KRX:005930', 'split', '2018-05-04 00:00:00', NULL, NULL, 0.02, {'ratio': '50:1'}, \
         'kis', '2026-11-20 00:02:00')",
    )
    .await;
    check(stack, "SELECT value, attributes['ratio'] FROM reference WHERE kind = 'corporate_action'", "0.02 50:1").await;
}

/// An old trade that was read from a file today stays, what came long ago goes; said again it changes nothing; and it is taken back.
async fn retention_counts_from_ingestion(stack: &TestStack) {
    let clickhouse = stack.clickhouse();
    let keep = async |class: &str, days| {
        let mut retention = Retention::default();
        retention.keep(class, days).unwrap();
        retention.apply(&clickhouse).await.unwrap()
    };
    let columns = "stream_epoch, topic, partition, offset, append_time, instrument, feed, event_time, receive_time, price, size, side, source";
    ask(
        stack,
        &format!(
            "INSERT INTO trades_log ({columns}) VALUES \
             ('e', 'ttl', 0, 1, now64(3), 'SIM:A', 'import:x', '2013-11-25 00:00:00', now64(6), 1, 1, 'buy', 'import'), \
             ('e', 'ttl', 0, 2, now64(3) - INTERVAL 400 DAY, 'SIM:A', 'sim', now64(6) - INTERVAL 400 DAY, now64(6), 1, 1, 'buy', 'websocket')"
        ),
    )
    .await;
    assert_eq!(keep("trades", 365).await, ["trades_log"]);
    assert!(keep("trades", 365).await.is_empty(), "it is so already");
    ask(stack, "OPTIMIZE TABLE trades_log FINAL").await;
    check(stack, "SELECT offset FROM trades_log WHERE topic = 'ttl'", "1").await;
    assert_eq!(keep("trades", 500).await, ["trades_log"]);
    assert_eq!(keep("flows", 500).await, ["observations_log", "fund_flows_log", "flow_aggregates_log"]);
    for class in Retention::classes() {
        keep(class, 0).await;
        assert!(keep(class, 0).await.is_empty());
    }
    check(stack, "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine_full LIKE '% TTL %'", "").await;
    ask(stack, "ALTER TABLE trades_log DELETE WHERE topic = 'ttl' SETTINGS mutations_sync = 2").await;
}

/// 20 instruments, two years, two minutes a day, folded by the refresh that folds everything.
async fn years_of_days_are_read_from_the_rollup_alone(stack: &TestStack) {
    ask(
        stack,
        "INSERT INTO bars_log (stream_epoch, topic, partition, offset, append_time, instrument, interval, open_time, close_time, open, high, low, close, \
         volume, turnover, vwap, trade_count, buy_volume, sell_volume, revision, quality, feed, source, revision_reason) \
         SELECT 'e', 'market.bars.v1', 0, 1000000 + number, '2026-11-20 07:00:00', concat('UPBIT:Y', toString(intDiv(number, 1000))), '1m', \
         toDateTime64('2014-01-01 00:00:00', 6, 'UTC') + toIntervalDay(intDiv(number % 1000, 2)) + toIntervalMinute(number % 2) AS o, \
         o + toIntervalMinute(1), 100, 101 + number % 2, 99, 100 + number % 2, 10, 1000, 100, 1, 5, 5, 0, 'complete', 'upbit', 'trades', NULL \
         FROM numbers(20 * 1000)",
    )
    .await;
    refresh(stack).await;
    check(
        stack,
        "SELECT count(), uniqExact(instrument), min(session_date), max(session_date), sum(volume), min(close), max(high), sum(minutes) FROM bars_daily \
         WHERE instrument LIKE 'UPBIT:Y%'",
        "10000 20 2014-01-01 2015-05-15 200000 101 102 20000",
    )
    .await;
    let days: u64 = ask(stack, "SELECT count() FROM bars_rollup_log WHERE interval = '1d'").await.trim().parse().unwrap();
    for sql in [
        "SELECT instrument, session_date, open, high, low, close, volume FROM bars_daily",
        "SELECT toYear(open_time) AS year, sum(turnover) FROM bars_daily GROUP BY year",
    ] {
        let estimate = ask(stack, &format!("EXPLAIN ESTIMATE {sql}")).await;
        let read: Vec<Vec<&str>> = estimate.lines().map(|line| line.split('\t').collect()).collect();
        let [table] = read.as_slice() else { panic!("{sql} reads {estimate}") };
        let rows: u64 = table[3].parse().unwrap();
        assert!(table[1] == "bars_rollup_log" && rows <= days, "{sql} reads {estimate}, there are {days} days");
    }
    let one = "SELECT * FROM bars_daily WHERE instrument = 'UPBIT:Y7' AND session_date >= '2014-06-01'";
    check(stack, &format!("SELECT count() FROM ({one})"), "349").await;
}

/// Every statement of `schemas/clickhouse` as it is said to a cluster: the engine parses it, and what must be said is said. Run it is only where a
/// cluster is.
async fn statements_for_a_cluster_are_sql(stack: &TestStack) {
    let cluster = || "market".to_owned();
    let layouts = [
        Layout::Server,
        Layout::Everywhere { cluster: cluster() },
        Layout::Spread { cluster: cluster(), database: "default".to_owned() },
    ];
    let mut parsed = 0;
    for layout in &layouts {
        let mut tables = Vec::new();
        for statement in migrations::ALL.iter().flat_map(|file| migrations::statements(layout, file)) {
            let quoted = statement.replace('\\', "\\\\").replace('\'', "\\'");
            let formatted = ask(stack, &format!("SELECT formatQuery('{quoted}') FORMAT TSVRaw")).await;
            parsed += 1;
            if *layout == Layout::Server {
                continue;
            }
            assert!(formatted.contains("ON CLUSTER market"), "{formatted}");
            assert!(!formatted.contains("non_replicated"), "{formatted}");
            if formatted.starts_with("CREATE TABLE") {
                let name = formatted.split_whitespace().nth(5).unwrap().to_owned();
                let replicated = formatted.contains("ENGINE = Replicated") && formatted.contains("'/marketflow/{database}/");
                assert!(replicated || formatted.contains("ENGINE = Distributed('market', 'default', "), "{formatted}");
                tables.push((name, replicated));
            }
        }
        let spread = tables.iter().filter(|(_, replicated)| !replicated).count();
        assert_eq!(spread, if layout.is_spread() { 4 } else { 0 }, "{layout:?}");
        for (name, replicated) in &tables {
            assert!(*replicated || tables.contains(&(format!("{name}_local"), true)), "{name} lies over nothing");
        }
    }
    assert!(parsed >= 150, "{parsed} statements");
}

/// One of everything for KRX:035420, so that no panel is empty for want of rows.
async fn insert_what_the_boards_show(stack: &TestStack) {
    for sql in [
        "INSERT INTO trades_log (stream_epoch, topic, partition, offset, append_time, instrument, feed, event_time, receive_time, price, size, side, \
         trade_id, source) VALUES ('e', 'market.trades.v1', 0, 1, '2026-11-18 00:00:01', 'KRX:035420', 'kis', '2026-11-18 00:00:00', \
         '2026-11-18 00:00:00.1', 200, 1, 'buy', '1', 'websocket')",
        "INSERT INTO feed_status_log (stream_epoch, topic, partition, offset, append_time, kind, feed, clock, complete_through, gap_id, from_time, \
         to_time, state, reason) VALUES \
         ('e', 't', 0, 1, '2026-11-18 00:00:01', 'heartbeat', 'kis', '2026-11-18 00:00:01', '2026-11-18 00:00:00', NULL, NULL, NULL, 'up', NULL), \
         ('e', 't', 0, 2, '2026-11-18 00:00:02', 'gap_opened', 'kis', '2026-11-18 00:00:02', NULL, 'kis-1', '2026-11-18 00:00:00', \
          '2026-11-18 00:00:02', 'down', 'the connection broke')",
        "INSERT INTO set_aside_log (stream_epoch, topic, partition, offset, append_time, consumer, class, reason, origin_topic, origin_partition, \
         origin_offset, receive_time, value) VALUES ('e', 't', 0, 1, '2026-11-18 00:00:02', 'processor', 'quarantine', 'reported size is zero', \
         'market.trades.v1', 3, 9, '2026-11-18 00:00:02', '')",
        "INSERT INTO fund_flows_log (stream_epoch, topic, partition, offset, append_time, instrument, provider, investor_class, period_start, period_end, \
         net_amount, net_quantity, currency, receive_time) VALUES ('e', 't', 0, 1, '2026-11-18 07:00:00', 'KRX:035420', 'kis', 'foreign', \
         '2026-11-18 00:00:00', '2026-11-18 06:30:00', 1000, 5, 'KRW', '2026-11-18 07:00:00')",
    ] {
        ask(stack, sql).await;
    }
}
