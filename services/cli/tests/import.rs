//! `marketflow import` and the questions after it, against real Kafka, registry, ClickHouse, processor and sink.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use marketflow_contract::topics;
use marketflow_model::{Bar, Interval, Month, Observation, Timestamp};
use marketflow_testkit::{Located, TestStack, eventually};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// 2024-03-01T00:00:00Z.
const START: i64 = 1_709_251_200;
const MINUTES: i64 = 16;
/// A loaded machine may need so long for what takes a second.
const PATIENCE: Duration = Duration::from_secs(120);

/// Three trades a minute: bought, sold, bought.
fn rows() -> Vec<String> {
    (0..MINUTES)
        .flat_map(|minute| {
            let at = START + 60 * minute;
            [
                format!("{},{},1", at + 5, 100 + minute),
                format!("{},{},-2", at + 20, 101 + minute),
                format!("{},{}.5,0.5", at + 40, 99 + minute),
            ]
        })
        .collect()
}

/// The 1-minute bars of [`rows`], by hand: turnover is 100 + 2 x 101 + 0.5 x 99.5 = 351.75, 3.5 more each minute; vwap is that by 3.5.
fn expected_csv() -> String {
    let mut csv =
        "open_time,open,high,low,close,volume,buy_volume,trade_count,vwap,revision,quality,turnover,sell_volume\n".to_owned();
    for minute in 0..MINUTES {
        let turnover_hundredths = 35_175 + 350 * minute;
        let turnover = format!("{}.{:02}", turnover_hundredths / 100, turnover_hundredths % 100);
        let turnover = turnover.trim_end_matches('0').trim_end_matches('.');
        let (open, high, low) = (100 + minute, 101 + minute, 99 + minute);
        writeln!(csv, "2024-03-01T00:{minute:02}:00Z,{open},{high},{low}.5,{low}.5,3.5,1.5,3,{open}.5,0,complete,{turnover},2")
            .unwrap();
    }
    csv
}

struct Cli<'a> {
    stack: &'a TestStack,
    folder: PathBuf,
}

impl Cli<'_> {
    fn run(&self, arguments: &[&str]) -> Output {
        let addresses = self.stack.addresses();
        Command::new(env!("CARGO_BIN_EXE_marketflow"))
            .args(arguments)
            .env("MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS", addresses.kafka)
            .env("MARKETFLOW__REGISTRY__URL", addresses.registry)
            .env("MARKETFLOW__CLICKHOUSE__URL", addresses.clickhouse)
            .env("LANG", "C")
            .output()
            .unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?} ended with {}\n{out}\n{err}", output.status);
        out.into_owned()
    }

    fn refused(&self, arguments: &[&str], code: i32, part: &str) {
        let output = self.run(arguments);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {err}");
        assert!(err.contains(part), "{arguments:?}: {err}");
    }

    fn file(&self, name: &str, lines: &[String]) -> String {
        let path = self.folder.join(name);
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        path.display().to_string()
    }

    fn import(&self, file: &str, symbol: &str, more: &[&str]) -> serde_json::Value {
        let out = self.ok(&[&import_arguments(file, symbol), more, &["--json"]].concat());
        serde_json::from_str(&out).unwrap()
    }

    fn bars(&self, symbol: &str, interval: &str) -> String {
        self.ok(&["bars", "--instrument", &format!("TEST:{symbol}"), "--interval", interval, "--format", "csv"])
    }
}

fn import_arguments<'a>(file: &'a str, symbol: &'a str) -> Vec<&'a str> {
    let columns = ["--time-column", "1", "--time-unit", "s", "--price-column", "2", "--size-column", "3", "--signed-size"];
    [&["import", "trades", file, "--venue", "TEST", "--symbol", symbol], &columns[..]].concat()
}

fn folder_of(stack: &TestStack) -> PathBuf {
    let folder = Path::new(stack.home()).join("files");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_becomes_bars_once_however_often_it_is_imported() {
    let mut stack = TestStack::start().await.unwrap();
    stack.start_service("processor", &[]).await.unwrap();
    stack.start_service("sink", &[("batch.max_age", "100ms")]).await.unwrap();
    let cli = Cli { stack: &stack, folder: folder_of(&stack) };

    let file = cli.file("plain.csv", &rows());
    let first = cli.import(&file, "PLAIN", &[]);
    assert_eq!((&first["sent"], &first["known_before"], &first["quarantined"]), (&48.into(), &0.into(), &0.into()));
    assert_eq!(first["bars"], serde_json::json!({ "1m": 16, "5m": 4, "15m": 2 }));
    assert_eq!(cli.bars("PLAIN", "1m"), expected_csv());
    let five = cli.bars("PLAIN", "5m");
    assert_eq!(first["set_aside"], serde_json::json!({}));

    let second = cli.import(&file, "PLAIN", &[]);
    assert_eq!((&second["feed"], &second["known_before"]), (&first["feed"], &48.into()));
    assert_eq!(cli.bars("PLAIN", "1m"), expected_csv());
    assert_eq!(cli.bars("PLAIN", "5m"), five);

    let backwards: Vec<String> = rows().into_iter().rev().collect();
    let backwards = cli.file("backwards.csv", &backwards);
    cli.refused(
        &import_arguments(&backwards, "SORTED"),
        2,
        "32 of 48 rows lie more than 5m behind an earlier row (the first is line 17",
    );
    cli.import(&backwards, "SORTED", &["--sort"]);
    assert_eq!(cli.bars("SORTED", "1m"), expected_csv());

    // the first and the last minute were cut
    cli.import(&file, "CUT", &["--partial"]);
    let cut = cli.bars("CUT", "1m");
    let qualities: Vec<&str> = cut.lines().skip(1).map(|line| line.split(',').nth(10).unwrap()).collect();
    assert_eq!(
        (qualities[0], qualities[1], qualities[14], qualities[15]),
        ("partial_open", "complete", "complete", "partial_open")
    );

    // what is no row is kept with its line, and what is around it counts
    let mut bad = rows();
    bad.insert(1, "1709251206,1.123456789,1".to_owned());
    bad.insert(2, "soon,1,1".to_owned());
    let bad = cli.file("bad.csv", &bad);
    let report = cli.import(&bad, "BAD", &[]);
    assert_eq!((&report["sent"], &report["quarantined"]), (&48.into(), &2.into()));
    assert_eq!(cli.bars("BAD", "1m"), expected_csv());
    let kept = cli.ok(&["tail", "market.quarantine.v1", "--from-beginning", "--no-follow", "--json", "--instrument", "TEST:BAD"]);
    let kept: Vec<serde_json::Value> = kept.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(kept.iter().any(|record| {
        record["value"]["value"] == "1709251206,1.123456789,1"
            && record["value"]["reason"] == "bad.csv line 2: price \"1.123456789\" has more than 8 significant decimals"
    }));

    // a reported size of zero is no trade, on every path
    let mut zero = rows();
    zero.insert(1, "1709251206,1,0".to_owned());
    let report = cli.import(&cli.file("zero.csv", &zero), "ZERO", &[]);
    assert_eq!((&report["sent"], &report["set_aside"]), (&49.into(), &serde_json::json!({ "quarantine, size is zero": 1 })));
    assert_eq!(cli.bars("ZERO", "1m"), expected_csv());

    candles_become_bars(&cli);
    one_bar_is_explained(&cli);
    records_and_queries_are_shown(&cli);
    every_record_is_accounted_for(&cli);
    a_replay_finds_and_mends_what_is_wrong(&cli).await;
    months_of_gold_become_flows(&cli).await;
    a_scripted_rotation_is_what_people_read(&cli).await;
    stack.stop().await;
}

fn said(series: &str, month: &str, value: &str) -> (String, Observation) {
    let month: Month = month.parse().unwrap();
    let observation = Observation {
        provider: "YAHOO".to_owned(),
        series: series.to_owned(),
        period_start: month.start(),
        period_end: month.end(),
        value: Some(value.parse().unwrap()),
        unit: String::new(),
        published_at: None,
        vintage: None,
        receive_time: Timestamp::from_seconds(START),
    };
    (format!("YAHOO:{series}"), observation)
}

/// What leaves stocks enters gold two months later, six tenths of it, beside noise: seven years through processor and sink, as the views say.
async fn a_scripted_rotation_is_what_people_read(cli: &Cli<'_>) {
    const MONTHS: usize = 84;
    let mut state = 7_u64;
    let mut random = |limit: i64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((state >> 33) % (2 * limit.unsigned_abs())).unwrap() - limit
    };
    let stocks: Vec<i64> = (0..MONTHS).map(|_| random(1_000_000)).collect();
    let gold: Vec<i64> = (0..MONTHS).map(|at| random(40_000) - if at < 2 { 0 } else { 6 * stocks[at - 2] / 10 }).collect();
    let first: Month = "2012-01".parse().unwrap();
    let mut records = Vec::new();
    for (name, nets, factor) in [("SPY", &stocks, 1), ("GC=F", &gold, 100)] {
        let mut price = 10_000_i64;
        records.push(said(&format!("{name}/close"), &first.plus(-1).to_string(), &price.to_string()));
        for (month, net) in first.through(first.plus(83)).zip(nets) {
            // the price moves with the flow; volume = |net| ÷ (price × factor), to twelve decimals
            price += net.signum();
            let volume = i128::from(net.abs()) * 1_000_000_000_000 / i128::from(price * factor);
            let volume = format!("{}.{:012}", volume / 1_000_000_000_000, volume % 1_000_000_000_000);
            records.push(said(&format!("{name}/close"), &month.to_string(), &price.to_string()));
            records.push(said(&format!("{name}/volume"), &month.to_string(), &volume));
        }
    }
    cli.stack.send(topics::OBSERVATIONS, records).await.unwrap();
    let printed = |arguments: &[&str]| -> Vec<serde_json::Value> {
        serde_json::from_str(&cli.ok(&[&["flows"], arguments, &["--format", "json"]].concat())).unwrap()
    };
    let months = eventually(PATIENCE, async || {
        let months = printed(&["--from", "2012-01", "--to", "2018-12"]);
        anyhow::ensure!(months.len() == 2 * MONTHS, "{} months", months.len());
        Ok(months)
    })
    .await
    .unwrap();

    let closest = &printed(&["lead-lag"])[0];
    let number = |row: &serde_json::Value, name: &str| row[name].as_f64().unwrap();
    let text = |row: &serde_json::Value, name: &str| row[name].as_str().unwrap().to_owned();
    assert_eq!((text(closest, "leader"), text(closest, "follower")), ("stocks".to_owned(), "commodities".to_owned()));
    assert_eq!((&closest["lag_months"], &closest["n"]), (&2.into(), &(MONTHS - 2).into()), "{closest}");
    assert!(number(closest, "correlation") < -0.95 && (number(closest, "slope") + 0.6).abs() < 0.05, "{closest}");
    assert!(number(closest, "p_value") < 1e-12, "{closest}");
    let others = printed(&["lead-lag", "--market", "commodities"]);
    assert_eq!(others.len(), 13, "two markets, lags of -6 to 6 months");
    assert!(others[1..].iter().all(|row| number(row, "correlation").abs() < 0.5), "{:?}", others[1]);
    assert!(cli.ok(&["flows", "lead-lag"]).contains("< 0.0001"));

    // of two markets the smaller of what one gave and the other took is matched
    let mut expected = Vec::new();
    for pair in months.chunks(2) {
        let (gold, stocks) = (text(&pair[0], "net"), text(&pair[1], "net"));
        assert_eq!((text(&pair[0], "name"), text(&pair[1], "name")), ("commodities".to_owned(), "stocks".to_owned()));
        let (gave, took) = match (gold.strip_prefix('-'), stocks.strip_prefix('-')) {
            (Some(gave), None) => (("commodities", gave), ("stocks", stocks.as_str())),
            (None, Some(gave)) => (("stocks", gave), ("commodities", gold.as_str())),
            _ => continue,
        };
        let value = |text: &str| text.parse::<f64>().unwrap();
        let amount = if value(gave.1) < value(took.1) { gave.1 } else { took.1 };
        expected.push([text(&pair[0], "month"), gave.0.to_owned(), took.0.to_owned(), amount.to_owned()]);
    }
    let rotation: Vec<_> = printed(&["rotation", "--from", "2012-01", "--to", "2018-12"])
        .iter()
        .map(|row| ["month", "from", "to", "amount"].map(|name| text(row, name)))
        .collect();
    assert!(expected.len() > 20 && rotation == expected, "{rotation:?}, not {expected:?}");

    // noise around nothing: what was last is the worse guess
    let forecast = printed(&["forecast", "--market", "stocks", "--months", "3"]);
    let ahead: Vec<_> = forecast.iter().map(|row| text(row, "month")).collect();
    assert_eq!(ahead, ["2019-01", "2019-02", "2019-03"]);
    for row in &forecast {
        assert_eq!((text(row, "name"), text(row, "verdict")), ("stocks".to_owned(), "better than naive".to_owned()), "{row}");
        assert!(number(row, "low") < number(row, "forecast") && number(row, "forecast") < number(row, "high"), "{row}");
        assert!(number(row, "mase") < 1.0 && number(row, "coverage") > 0.8 && number(row, "tested") > 50.0, "{row}");
    }
    assert!(cli.ok(&["flows", "forecast"]).starts_with("FORECAST of net flows, not observed"));
    cli.refused(&["flows", "lead-lag", "--format", "svg"], 64, "--format svg");
}

/// From observations over processor and sink to a line: 1,600 × 1 contract of 100 ounces, bought because the price rose.
async fn months_of_gold_become_flows(cli: &Cli<'_>) {
    let gold = [("GC=F/close", "2020-01", "1500"), ("GC=F/close", "2020-02", "1600"), ("GC=F/volume", "2020-02", "1")];
    let gold = gold.into_iter().map(|(series, month, value)| said(series, month, value)).collect();
    cli.stack.send(topics::OBSERVATIONS, gold).await.unwrap();
    eventually(PATIENCE, async || {
        let printed = cli.ok(&["flows", "--market", "commodities", "--from", "2020-02", "--to", "2020-02", "--format", "csv"]);
        anyhow::ensure!(printed.lines().nth(1) == Some("2020-02,commodities,160000,0,160000,USD,1,,1,false,0"), "{printed}");
        Ok(())
    })
    .await
    .unwrap();
    assert!(cli.ok(&["flows", "--scope", "asset_class", "--method", "SIGNED_TURNOVER"]).contains("metal"));
}

fn candles_become_bars(cli: &Cli<'_>) {
    let open = START * 1_000;
    let kline = |minute: i64, close: &str| {
        let at = open + 60_000 * minute;
        format!("{at},4.1507,4.1587,4.1506,{close},539.23,{},2240.5,13,401.82,1669.9,0", at + 59_999)
    };
    let file = cli.file("klines.csv", &[kline(0, "4.1554"), kline(1, "9"), kline(2, "4.1508")]);
    let arguments = ["import", "candles", &file, "--venue", "TEST", "--symbol", "KLINES", "--format", "binance-klines"];
    let report: serde_json::Value =
        serde_json::from_str(&cli.ok(&[&arguments[..], &["--interval", "1m", "--json"]].concat())).unwrap();
    assert_eq!((&report["sent"], &report["quarantined"]), (&2.into(), &1.into()), "close 9 is above high");
    assert_eq!(report["bars"], serde_json::json!({ "1m": 2, "5m": 1, "15m": 1 }));
    let bars = cli.bars("KLINES", "1m");
    let first = bars.lines().nth(1).unwrap();
    assert!(first.starts_with("2024-03-01T00:00:00Z,4.1507,4.1587,4.1506,4.1554,539.23,401.82,13,"), "{first}");
}

fn one_bar_is_explained(cli: &Cli<'_>) {
    let question = ["explain", "--instrument", "TEST:PLAIN", "--interval", "5m", "--open-time", "2024-03-01T00:15:00Z"];
    let explained: serde_json::Value = serde_json::from_str(&cli.ok(&[&question[..], &["--json"]].concat())).unwrap();
    assert_eq!((&explained["trade_count"], &explained["volume"]), (&3.into(), &"3.5".into()));
    let prices: Vec<&str> =
        explained["trades"].as_array().unwrap().iter().map(|trade| trade["price"].as_str().unwrap()).collect();
    assert_eq!(prices, ["115", "116", "114.5"]);
    let words = cli.ok(&question);
    assert!(words.contains("3 trades with a volume of 3.5, as in the bar"), "{words}");
    cli.refused(
        &["explain", "--instrument", "TEST:PLAIN", "--open-time", "2024-03-01T00:00:30Z"],
        64,
        "opens at 2024-03-01T00:00:00Z",
    );
    cli.refused(&["explain", "--instrument", "TEST:PLAIN", "--open-time", "2025-03-01"], 1, "nothing traded then");
}

fn records_and_queries_are_shown(cli: &Cli<'_>) {
    let records = ["tail", "market.trades.v1", "--instrument", "TEST:CUT", "--from-beginning", "--no-follow", "--json"];
    let records = cli.ok(&records);
    let kinds: Vec<String> = records
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|record| record["type"] == "Trade")
        .map(|record| record["value"]["event_time"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!((kinds.len(), kinds[0].as_str()), (48, "2024-03-01T00:00:05Z"));
    let shown = cli.ok(&["tail", "market.bars.v1", "--from-beginning", "--max", "3"]);
    assert_eq!(shown.lines().count(), 3, "{shown}");
    cli.refused(&["tail", "market.trade.v1"], 64, "market.trades.v1");

    let count = cli.ok(&["sql", "--format", "TabSeparated", "SELECT count() FROM trades WHERE instrument = 'TEST:PLAIN'"]);
    assert_eq!(count, "48\n");
    cli.refused(&["sql", "SELECT nothing FROM nowhere"], 1, "nowhere");
}

fn every_record_is_accounted_for(cli: &Cli<'_>) {
    let audit: serde_json::Value = serde_json::from_str(&cli.ok(&["audit", "--day", "2024-03-01", "--json"])).unwrap();
    let partitions = audit["partitions"].as_array().unwrap();
    let of_trades = || partitions.iter().filter(|account| account["topic"] == "market.trades.v1");
    let sum = |name: &str| of_trades().map(|account| account[name].as_u64().unwrap()).sum::<u64>();
    let records = cli.ok(&["tail", "market.trades.v1", "--from-beginning", "--no-follow", "--json"]);
    let trades = records.lines().filter(|line| line.contains(r#""type":"Trade""#)).count();
    assert_eq!((sum("received"), sum("quarantined"), sum("late")), (u64::try_from(trades).unwrap(), 1, 0), "{audit:#}");
    assert_eq!((sum("used") + sum("duplicate"), sum("waiting")), (sum("received") - 1, 0), "{audit:#}");
    let candles = partitions.iter().filter(|account| account["topic"] == "market.candles.v1");
    assert_eq!(candles.map(|account| account["used"].as_u64().unwrap()).sum::<u64>(), 2, "{audit:#}");
    let days = audit["day"].as_array().unwrap();
    assert_eq!(days.len(), 5, "PLAIN, SORTED, CUT, BAD, ZERO: {audit:#}");
    assert!(days.iter().all(|day| day["equal"] == true && day["trades"] == 48), "{audit:#}");
    assert_eq!(audit["adds_up"], true);
    assert!(cli.ok(&["audit"]).contains("counted by the processor and in the log: yes"));
}

/// A bar that a faulty version might have published is found and put right; nothing else is touched.
async fn a_replay_finds_and_mends_what_is_wrong(cli: &Cli<'_>) {
    let range = ["replay", "--from", "2024-03-01", "--to", "2024-03-02", "--into", "check", "--json"];
    let same: serde_json::Value = serde_json::from_str(&cli.ok(&range)).unwrap();
    assert_eq!(same["differences"], serde_json::json!([]), "the log decides: {same:#}");
    assert!(same["bars"].as_u64() > Some(100), "{same:#}");
    let right = cli.bars("PLAIN", "1m");

    let published: Vec<Located<Bar>> = cli.stack.read(topics::BARS).await.unwrap();
    let mut published = published.into_iter().map(|located| located.record);
    let wrong = published.rfind(|bar| bar.instrument.as_str() == "TEST:PLAIN" && bar.interval == Interval::ONE_MINUTE).unwrap();
    let wrong = Bar { high: "999".parse().unwrap(), revision: wrong.revision + 1, ..wrong };
    cli.stack.send(topics::BARS, vec![(wrong.instrument.to_string(), wrong.clone())]).await.unwrap();
    eventually(PATIENCE, async || {
        let bars = cli.bars("PLAIN", "1m");
        anyhow::ensure!(bars.contains(",999,"), "{bars}");
        Ok(())
    })
    .await
    .unwrap();

    let output = cli.run(&["replay", "diff", "check", "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), found.as_array().unwrap().len()), (Some(2), 1), "{found:#}");
    assert_eq!((&found[0]["what"], &found[0]["columns"][0][0]), (&"changed".into(), &"high".into()), "{found:#}");
    let swapped = || -> serde_json::Value { serde_json::from_str(&cli.ok(&["replay", "swap", "check", "--json"])).unwrap() };
    assert_eq!(swapped(), serde_json::json!({ "published": 0, "left": 1, "gone": 0 }), "it was published after that replay");
    let again: serde_json::Value = serde_json::from_str(&cli.ok(&range)).unwrap();
    assert_eq!(again["differences"].as_array().unwrap().len(), 1, "{again:#}");
    assert_eq!(swapped(), serde_json::json!({ "published": 1, "left": 0, "gone": 0 }));
    let columns = |bars: &str, which: std::ops::Range<usize>| -> Vec<String> {
        bars.lines().map(|line| line.split(',').collect::<Vec<_>>()[which.clone()].join(",")).collect()
    };
    let mended = eventually(PATIENCE, async || {
        let bars = cli.bars("PLAIN", "1m");
        anyhow::ensure!(columns(&bars, 0..9) == columns(&right, 0..9), "{bars}");
        Ok(bars)
    });
    let mended = mended.await.unwrap();
    assert_eq!(columns(&mended, 9..10).last(), Some(&(wrong.revision + 1).to_string()), "{mended}");
    assert!(cli.ok(&["replay", "diff", "check"]).contains("0 bars differ"));
    cli.refused(&["replay", "diff", "nothing"], 1, "no replay is named");
    cli.refused(&["replay", "--from", "2024-03-01"], 64, "--to");
}
