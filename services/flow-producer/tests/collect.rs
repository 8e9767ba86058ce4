//! Ten years of six markets, and months of investors' net buying, through the simulator, killed on the way: the log, the rows and the Parquet files
//! hold every month and day once, to the last decimal.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use anyhow::{Context, ensure};
use marketflow_archive::{MarketFile, market_path, row_count};
use marketflow_contract::topics;
use marketflow_model::{FlowAggregate, FundFlow, InvestorClass, Month, Observation, SeriesValue};
use marketflow_providers::series::{Every, Market, Reach, Series, SeriesSet};
use marketflow_testkit::{Simulator, TestStack, eventually};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);
const FIRST: &str = "2016-11";
const LAST: &str = "2026-10";

/// The sources and how often they are asked where their limits do not matter.
const SOURCES: [(&str, u32); 7] =
    [("alphavantage", 500), ("binance", 500), ("bis", 500), ("frankfurter", 500), ("fred", 78), ("yahoo", 39), ("zillow", 500)];

/// Provider, series, first month of the period.
type Key = (String, String, String);
type Values = BTreeMap<Key, Option<SeriesValue>>;

/// The built-in series.
fn built_in() -> anyhow::Result<Vec<Series>> {
    let set: SeriesSet = toml::from_str(SeriesSet::BUILT_IN)?;
    Ok(set.series)
}

/// Provider and name of each of their values.
fn by_name() -> anyhow::Result<BTreeMap<(String, String), (Market, Every)>> {
    let named = |series: Series| {
        let of = |value: &String| ((series.source.to_uppercase(), series.name_of(value)), (series.market, series.every));
        series.values.keys().map(of).collect::<Vec<_>>()
    };
    Ok(built_in()?.into_iter().flat_map(named).collect())
}

/// Where each cursor has to stand in the end: where quarters are told, at the last one that is over.
fn cursors_in_the_end() -> anyhow::Result<BTreeMap<String, Month>> {
    let last: Month = LAST.parse()?;
    Ok(built_in()?.into_iter().map(|series| (series.endpoint(), series.every.last_ended(last))).collect())
}

/// Endpoint months in all.
fn months_in_all() -> anyhow::Result<usize> {
    months_behind(&cursors_in_the_end()?)
}

fn months_behind(cursors: &BTreeMap<String, Month>) -> anyhow::Result<usize> {
    let first: Month = FIRST.parse()?;
    Ok(usize::try_from(cursors.values().map(|cursor| cursor.months_since(first) + 1).sum::<i32>())?)
}

/// One stack for both: starting it takes longer than what is tested.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flow_producer() -> anyhow::Result<()> {
    let mut stack = TestStack::start().await?;
    stack.start_service("sink", &[("batch.max_age", "250ms")]).await?;
    stack.start_service("processor", &[]).await?;
    let recorded = recorded_months(stack.home())?;
    let played = [
        ("series.values", recorded.as_str()),
        // the morning of 2026-11-20, which stands still
        ("tapes", r#"[{kind="krx-day",date="2026-11-20",symbols=1,trades=10}]"#),
        ("start.automatic", "false"),
        ("kis.answer_after", "50ms"),
        ("kiwoom.calls_per_second", "100"),
        ("kiwoom.calls_of_one", "100"),
        ("kiwoom.investor_rows", "40"),
        ("series.fail_every", "7"),
        ("series.limits_times", "40"),
        ("series.fred_api_key", "of-tests"),
    ];
    let simulator = Simulator::start_with(&mut stack, &played).await?;
    investors_are_collected_once_whatever_kills_it_and_summed_by_class(&stack, &simulator).await?;
    ten_years_of_six_markets_are_collected_once_whatever_kills_it(&stack, &simulator).await?;
    stack.stop().await;
    Ok(())
}

/// A file of months that were recorded, for the simulator to tell in place of generated ones, where the folder with them is there; else no file.
/// After their end the last value is repeated.
fn recorded_months(home: &Path) -> anyhow::Result<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/monthly");
    if !folder.exists() {
        eprintln!("SKIPPED: {} is not there, so all months are generated", folder.display());
        return Ok(String::new());
    }
    let mut lines = vec!["source,code,value,month,number".to_owned()];
    for (of, file, column) in [
        ("fred,DGS10,value", "bonds_us10y_yield.csv", "Rate"),
        ("fred,DCOILWTICO,value", "commodities_wti_usd_bbl.csv", "Price"),
        ("fred,CSUSHPINSA,value", "realestate_case_shiller_us.csv", "National-US-SA"),
        ("frankfurter,USD/KRW,value", "fx_usd_rates.csv", "Exchange rate"),
        ("binance,BTCUSDT,close", "crypto_btcusd.csv", "Close"),
        ("yahoo,GC=F,close", "commodities_gold_usd_oz.csv", "Price"),
        ("yahoo,SPY,close", "stocks_sp500_shiller.csv", "SP500"),
    ] {
        let text = std::fs::read_to_string(folder.join(file))?;
        let mut rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let header = rows.next().context("a header")?;
        let place = |name: &str| header.iter().position(|known| *known == name);
        // the first column without a name is a date as well
        let (date, number) = (place("Date").unwrap_or_default(), place(column).context("a column")?);
        let rows = rows.filter(|row| place("Country").is_none_or(|country| row[country] == "South Korea"));
        let known: BTreeMap<Month, &str> = rows.filter_map(|row| Some((Month::of_date(row[date])?, row[number]))).collect();
        for month in FIRST.parse::<Month>()?.through(LAST.parse()?) {
            let (_, number) = known.range(..=month).next_back().context("a month before")?;
            // Yahoo's floats hold no more than cents; a mean of days has more
            let number = if of.starts_with("yahoo") { format!("{:.2}", number.parse::<f64>()?) } else { (*number).to_owned() };
            lines.push(format!("{of},{month},{number}"));
        }
    }
    let path = home.join("recorded.csv");
    std::fs::write(&path, lines.join("\n"))?;
    Ok(path.to_str().context("a plain path")?.to_owned())
}

const FIRST_DAY: &str = "2026-06-29";
/// Its evening has passed; of the 20th nothing is told yet.
const LAST_DAY: &str = "2026-11-19";
const SYMBOLS: [&str; 10] = ["005930", "000660", "373220", "207940", "005380", "000270", "068270", "035420", "035720", "105560"];

/// Shares and won of a class on a day.
type Bought = (String, String);

async fn investors_are_collected_once_whatever_kills_it_and_summed_by_class(
    stack: &TestStack,
    simulator: &Simulator,
) -> anyhow::Result<()> {
    let collector = Collector { stack, wire: simulator.wire() };
    let url = format!("http://{}/kis", simulator.wire());
    let usual = [
        ("COLLECT__MARKETS", r#"["korean_investors"]"#),
        ("INVESTORS__PROVIDER", "kis"),
        ("INVESTORS__REST_URL", &url),
        ("INVESTORS__SYMBOLS", r#"["@krx10"]"#),
        ("INVESTORS__FROM", FIRST_DAY),
        ("INVESTORS__TO", LAST_DAY),
    ];
    let days = SYMBOLS.len() * 144;
    for killed_after in [1, days / 3, days * 2 / 3] {
        let mut running = collector.start(&usual)?;
        eventually(PATIENCE, async || {
            let collected = collector.days_collected()?;
            ensure!(collected >= killed_after, "{collected} of {days} days");
            Ok(())
        })
        .await?;
        running.kill()?;
        running.wait()?;
    }
    let ended = collector.start(&usual)?;
    ensure!(exit_code(ended).await? == Some(0), "it did not end by itself");
    ensure!(collector.days_collected()? == days, "{} of {days} days", collector.days_collected()?);
    // again, and nothing is there to be done
    ensure!(exit_code(collector.start(&usual)?).await? == Some(0), "it did not end by itself");

    let flows: Vec<FundFlow> = stack.read::<FundFlow>(topics::FUND_FLOWS).await?.into_iter().map(|l| l.record).collect();
    let mut told: BTreeMap<(String, String), BTreeMap<InvestorClass, Vec<Bought>>> = BTreeMap::new();
    for flow in &flows {
        ensure!(flow.period_end.micros_since(flow.period_start) == 86_400_000_000 && flow.currency == "KRW", "{flow:?}");
        let day = flow.period_end.to_string()[..10].to_owned();
        let bought = (text(flow.net_quantity)?, text(flow.net_amount)?);
        let classes = told.entry((flow.instrument.symbol().to_owned(), day)).or_default();
        classes.entry(flow.investor_class).or_default().push(bought);
    }
    let mut days_told = 0;
    for symbol in SYMBOLS {
        for (day, expected) in bought(simulator, symbol, true).await? {
            let classes = told.get(&(symbol.to_owned(), day.clone())).with_context(|| format!("{symbol} {day} is missing"))?;
            let expected: BTreeMap<InvestorClass, Vec<Bought>> =
                expected.into_iter().map(|(class, bought)| (class, vec![bought])).collect();
            ensure!(*classes == expected, "{symbol} {day}: {classes:?}, not {expected:?} once");
            days_told += 1;
        }
    }
    ensure!(told.len() == days_told && days_told > 900, "{} days in the log, {days_told} at the broker", told.len());
    let status: Value = serde_json::from_str(&simulator.get("status").await?)?;
    ensure!(status["kis_excess"] == 0, "the broker was asked too often: {status}");

    // what foreigners bought of all of them, by day
    let mut sums: BTreeMap<(String, InvestorClass), i128> = BTreeMap::new();
    for flow in &flows {
        let day = flow.period_end.to_string()[..10].to_owned();
        *sums.entry((day, flow.investor_class)).or_default() += flow.net_amount.context("an amount")?.scaled();
    }
    eventually(PATIENCE, async || {
        let mut published = BTreeMap::new();
        for located in stack.read::<FlowAggregate>(topics::FLOW_AGGREGATES).await? {
            let row = located.record;
            if (row.scope.as_str(), row.currency.as_str()) == ("investor_class", "KRW")
                && row.close_time.micros_since(row.open_time) == 86_400_000_000
            {
                published.insert((row.open_time.to_string()[..10].to_owned(), row.name), row.net.scaled());
            }
        }
        for ((day, class), net) in &sums {
            let name = match class {
                InvestorClass::Foreign => "stocks/foreign",
                InvestorClass::Institution => "stocks/institution",
                InvestorClass::Individual => "stocks/individual",
                InvestorClass::OtherCorporation => "stocks/other_corporation",
                InvestorClass::Unknown | InvestorClass::Total => anyhow::bail!("{class:?} was not told"),
            };
            let sum = published.get(&(day.clone(), name.to_owned()));
            ensure!(sum == Some(net), "{day} {name}: {sum:?}, not {net}");
        }
        ensure!(published.len() == sums.len(), "{} sums of {}", published.len(), sums.len());
        Ok(())
    })
    .await?;
    // what one bought another sold; money is rounded to millions in four numbers
    let left = "SELECT count(), countIf(residual_quantity != 0), toBool(max(abs(residual)) <= 2000000), countIf(NOT complete) FROM investor_flows";
    eventually(PATIENCE, async || {
        let answer = stack.query(left).await?;
        ensure!(answer.trim() == format!("{days_told}\t0\ttrue\t0"), "{answer}");
        Ok(())
    })
    .await?;

    // the other broker tells the same of its day, in two questions and cut answers
    let url = format!("http://{}/kiwoom", simulator.wire());
    let changes = [
        ("INVESTORS__PROVIDER", "kiwoom"),
        ("INVESTORS__REST_URL", &url),
        ("INVESTORS__SYMBOLS", r#"["0080G0"]"#),
        ("BUDGET__CALLS_PER_SECOND", "50"),
    ];
    let all: Vec<(&str, &str)> = usual.iter().chain(&changes).copied().collect();
    ensure!(exit_code(collector.start(&all)?).await? == Some(0), "it did not end by itself");
    let mut expected = bought(simulator, "0080G0", false).await?;
    for located in stack.read::<FundFlow>(topics::FUND_FLOWS).await? {
        let flow = located.record;
        if flow.provider == "kiwoom" {
            let day = flow.period_end.to_string()[..10].to_owned();
            let found = (text(flow.net_quantity)?, text(flow.net_amount)?);
            let there = expected.get_mut(&day).and_then(|classes| classes.remove(&flow.investor_class));
            ensure!(there.as_ref() == Some(&found), "{day} {:?}: {found:?}, not {there:?}", flow.investor_class);
        }
    }
    ensure!(expected.len() > 90 && expected.values().all(BTreeMap::is_empty), "not told: {expected:?}");

    // a code that no broker knows is named, and the others are there
    let changes = [("INVESTORS__SYMBOLS", r#"["999999"]"#)];
    let all: Vec<(&str, &str)> = all.iter().chain(&changes).copied().collect();
    ensure!(exit_code(collector.start(&all)?).await? == Some(1), "an endpoint that cannot be collected ends with 1");
    let problems = std::fs::read_to_string(stack.home().join("logs/error_log.txt"))?;
    ensure!(problems.contains("korean_investors/kiwoom:999999 refused: "), "{problems}");
    Ok(())
}

/// What there is to be told of a code by day; `together`: both kinds of foreigners are rounded as one number.
async fn bought(
    simulator: &Simulator,
    code: &str,
    together: bool,
) -> anyhow::Result<BTreeMap<String, BTreeMap<InvestorClass, Bought>>> {
    let millions = |won: i64| (won.abs() + 500_000) / 1_000_000 * won.signum() * 1_000_000;
    let mut days = BTreeMap::new();
    for line in simulator.get(&format!("investors/{code}/{FIRST_DAY}/{LAST_DAY}")).await?.lines() {
        let line: Value = serde_json::from_str(line)?;
        let numbers = |name: &str| -> anyhow::Result<Vec<i64>> { Ok(serde_json::from_value(line[name].clone())?) };
        let (shares, won) = (numbers("shares")?, numbers("won")?);
        let foreign = if together { millions(won[0] + won[1]) } else { millions(won[0]) + millions(won[1]) };
        let of = |class, shares: i64, won: i64| (class, (shares.to_string(), won.to_string()));
        let classes = [
            of(InvestorClass::Foreign, shares[0] + shares[1], foreign),
            of(InvestorClass::Institution, shares[2], millions(won[2])),
            of(InvestorClass::Individual, shares[3], millions(won[3])),
            of(InvestorClass::OtherCorporation, shares[4], millions(won[4])),
        ];
        days.insert(line["date"].as_str().context("a date")?.to_owned(), classes.into_iter().collect());
    }
    Ok(days)
}

fn text(number: Option<impl ToString>) -> anyhow::Result<String> {
    Ok(number.context("a number")?.to_string())
}

async fn ten_years_of_six_markets_are_collected_once_whatever_kills_it(
    stack: &TestStack,
    simulator: &Simulator,
) -> anyhow::Result<()> {
    let collector = Collector { stack, wire: simulator.wire() };

    // it is killed as soon as it has come so far, five times
    let months = months_in_all()?;
    for killed_after in [1, 311, 312, 900, 1_700] {
        let mut running = collector.start(&[])?;
        eventually(PATIENCE, async || {
            let collected = collector.months_collected()?;
            ensure!(collected >= killed_after, "{collected} of {months} months");
            Ok(())
        })
        .await?;
        running.kill()?;
        running.wait()?;
    }
    // told to wait at its end and killed before it could know
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = requests(simulator).await?;
    let ended = collector.start(&[])?;
    ensure!(exit_code(ended).await? == Some(0), "it did not end by itself");
    ensure!(collector.cursors()? == cursors_in_the_end()?, "cursors stand elsewhere: {:?}", collector.cursors()?);

    let truth = truth(simulator).await?;
    ensure!(truth.values().any(Option::is_none), "no value was missing");
    every_value_is_there_once(stack, &truth).await?;

    let requests = requests(simulator).await?;
    ensure!(requests.len() == 6, "{requests:?}");
    let mut told_to_wait = 0;
    for (source, count) in &requests {
        ensure!(count["refused"] == 0, "{source} was asked too often: {count}");
        let grown = |name: &str| count[name].as_u64().zip(before.get(source).map_or(Some(0), |count| count[name].as_u64()));
        let grown = |name: &str| grown(name).map(|(now, before)| now - before).context("a count");
        ensure!(grown("hasty")? == 0, "{source} was asked before its Retry-After had passed: {count}");
        told_to_wait += grown("told_to_wait")?;
    }
    ensure!(told_to_wait > 0, "nobody was told to wait: {requests:?}");
    let problems = std::fs::read_to_string(stack.home().join("logs/error_log.txt"))?;
    ensure!(problems.contains("yahoo:SPY") && problems.contains("a page instead of data"), "{problems}");
    ensure!(!problems.contains("of-tests"), "a key is in the error log");
    let said = std::fs::read_to_string(stack.home().join("logs/flow-producer.log"))?;
    ensure!(!said.contains("EOF"), "the end of a partition is no warning");

    // nothing is told of a month that has just ended, so no cursor passes it; what is published late is collected then
    let late: Month = LAST.parse::<Month>()?.plus(1);
    let to_late = [("COLLECT__TO", late.to_string())];
    let to_late = to_late.each_ref().map(|(key, value)| (*key, value.as_str()));
    ensure!(exit_code(collector.start(&to_late)?).await? == Some(0), "it did not end by itself");
    ensure!(
        collector.cursors()? == cursors_in_the_end()?,
        "a cursor stands at a month that nobody told: {:?}",
        collector.cursors()?
    );
    let published = json!({"source": "fred", "code": "DGS2", "value": "value", "month": late.to_string(), "number": "3.75"});
    simulator.post("series", &published).await?;
    ensure!(exit_code(collector.start(&to_late)?).await? == Some(0), "it did not end by itself");
    let mut cursors = cursors_in_the_end()?;
    cursors.insert("bonds/fred:DGS2".to_owned(), late);
    ensure!(collector.cursors()? == cursors, "{:?}", collector.cursors()?);
    let mut truth = truth;
    truth.insert(("FRED".to_owned(), "DGS2".to_owned(), late.to_string()), Some("3.75".parse()?));

    // a source revises what it said: the new value stands beside the old one, and nothing else is said again
    let revised = json!({"source": "fred", "code": "DGS10", "value": "value", "month": "2026-09", "number": "9.99"});
    simulator.post("series", &revised).await?;
    let mut updating = collector.start(&[("COLLECT__UPDATE_EVERY", "100ms")])?;
    let key = ("FRED".to_owned(), "DGS10".to_owned(), "2026-09".to_owned());
    eventually(PATIENCE, async || {
        let said = log(stack).await?;
        let values = &said[&key];
        ensure!(values.len() == 2, "{values:?}");
        Ok(())
    })
    .await?;
    let said = log(stack).await?;
    ensure!(said[&key] == [truth[&key], Some("9.99".parse()?)], "{:?}", said[&key]);
    ensure!(said.values().map(Vec::len).sum::<usize>() == truth.len() + 1, "more was said again");
    let vintages = stack.read::<Observation>(topics::OBSERVATIONS).await?;
    let last =
        vintages.iter().map(|located| &located.record).rfind(|o| o.series == "DGS10" && o.value == Some("9.99".parse().unwrap()));
    ensure!(last.and_then(|o| o.vintage.as_deref()) == Some("2026-11-03"), "{last:?}");
    // a polite end
    Command::new("kill").arg(updating.id().to_string()).status()?;
    ensure!(updating.wait()?.code() == Some(0), "it did not drain");

    // one market alone, and a source that does not know a series
    let unknown = stack.home().join("series.toml");
    std::fs::write(
        &unknown,
        "[[series]]\nmarket = \"bonds\"\nsource = \"fred\"\ncode = \"NOSUCH\"\nvalues = { value = \"percent\" }\n\
         [[series]]\nmarket = \"forex\"\nsource = \"alphavantage\"\ncode = \"USD/KRW\"\nvalues = { close = \"KRW per USD\" }\n",
    )?;
    let failed = collector.start(&[("COLLECT__SERIES", unknown.to_str().unwrap())])?;
    ensure!(exit_code(failed).await? == Some(1), "an endpoint that cannot be collected ends with 1");
    let problems = std::fs::read_to_string(stack.home().join("logs/error_log.txt"))?;
    ensure!(problems.contains("bonds/fred:NOSUCH refused: Bad Request.  The series does not exist."), "{problems}");
    let other = stack.read::<Observation>(topics::OBSERVATIONS).await?;
    let other = other.iter().filter(|located| located.key == b"ALPHAVANTAGE:USD/KRW/close").count();
    ensure!(other == 120, "another source of the same rate: {other} of 120 months");
    Ok(())
}

/// Ten years of six markets month by month at each source's own limit, killed five times at random (`SEED`), on demand:
/// `cargo test --workspace --test collect -- --ignored --nocapture`. It says how long that took against what the limits dictate, and how much memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "nine minutes at one request a second"]
async fn ten_years_at_the_sources_own_limits_though_it_is_killed_at_random() -> anyhow::Result<()> {
    let mut stack = TestStack::start().await?;
    stack.start_service("sink", &[("batch.max_age", "250ms")]).await?;
    let played = [("tapes", "[]"), ("series.fred_api_key", "of-tests")];
    let simulator = Simulator::start_with(&mut stack, &played).await?;
    let collector = Collector { stack: &stack, wire: simulator.wire() };
    let mut own_limits = vec![("COLLECT__MONTHS_PER_REQUEST", "1")];
    let keys: Vec<String> = SOURCES.iter().map(|(source, _)| format!("SOURCES__{}__PER_SECOND", source.to_uppercase())).collect();
    own_limits.extend(keys.iter().map(|key| (key.as_str(), "0")));

    let seed = std::env::var("SEED").map_or(Ok(1), |seed| seed.parse::<u64>())?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let months = months_in_all()?;
    let mut killed_after: Vec<usize> = (0..5).map(|_| random.random_range(1..months * 95 / 100)).collect();
    killed_after.sort_unstable();
    let (started, mut peak) = (Instant::now(), 0);
    for killed_after in &killed_after {
        let mut running = collector.start(&own_limits)?;
        eventually(Duration::from_secs(1_200), async || {
            let collected = collector.months_collected()?;
            ensure!(collected >= *killed_after, "{collected} of {months} months");
            Ok(())
        })
        .await?;
        peak = peak.max(peak_memory(&running)?);
        running.kill()?;
        running.wait()?;
    }
    let mut ended = collector.start(&own_limits)?;
    let code = eventually(Duration::from_secs(1_200), async || {
        peak = peak.max(peak_memory(&ended).unwrap_or_default());
        Ok(ended.try_wait()?.context("still running")?.code())
    })
    .await?;
    let took = started.elapsed();
    ensure!(code == Some(0), "it did not end by itself: {code:?}");

    let truth = truth(&simulator).await?;
    ensure!(collector.cursors()? == cursors_in_the_end()?, "cursors stand elsewhere: {:?}", collector.cursors()?);
    every_value_is_there_once(&stack, &truth).await?;
    let requests = requests(&simulator).await?;
    for (source, count) in &requests {
        ensure!(count["refused"] == 0, "{source} was asked too often: {count}");
    }
    let least = least_seconds()?;
    eprintln!(
        "SEED={seed}: {} values, killed after {killed_after:?} of {months} months; the limits dictate {least:.1} s, it took {:.1} s: {:.3}; peak \
         memory {} MB; {requests:?}",
        truth.len(),
        took.as_secs_f64(),
        took.as_secs_f64() / least,
        peak / 1_024
    );
    ensure!(peak < 200 * 1_024, "{peak} KiB of memory");
    stack.stop().await;
    Ok(())
}

/// The time that the sources' limits alone dictate for a month each request, each asked once and all sources beside each other: 120 a minute at
/// FRED, one a second at Yahoo, and what we allow ourselves where nothing is said.
fn least_seconds() -> anyhow::Result<f64> {
    let first: Month = FIRST.parse()?;
    let mut seconds: BTreeMap<String, f64> = BTreeMap::new();
    for series in built_in()? {
        let source = marketflow_providers::series::by_id(&series.source).context("a source")?;
        let per_second = match source.id() {
            "fred" => 2.0,
            "yahoo" => 1.0,
            _ => source.pace().per_second,
        };
        let months = f64::from(series.every.last_ended(LAST.parse()?).months_since(first) + 1);
        let requests = match source.reach() {
            Reach::Months => (months / f64::from(series.every.months())).ceil(),
            Reach::Everything => 1.0,
        };
        *seconds.entry(series.source).or_insert(-1.0 / per_second) += requests / per_second;
    }
    Ok(seconds.into_values().fold(0.0, f64::max))
}

/// The log, ClickHouse and the Parquet files of the markets hold every value, each once, and no other.
async fn every_value_is_there_once(stack: &TestStack, truth: &Values) -> anyhow::Result<()> {
    let said = log(stack).await?;
    ensure!(said.len() == truth.len(), "{} values in the log, {} at the sources", said.len(), truth.len());
    for (key, number) in truth {
        let in_log = said.get(key).with_context(|| format!("{key:?} is missing"))?;
        ensure!(in_log.as_slice() == [*number], "{key:?}: {in_log:?}, not {number:?} once");
    }
    let rows = eventually(PATIENCE, async || {
        let answer =
            stack.query("SELECT provider, series, formatDateTime(period_start, '%Y-%m'), value FROM observations").await?;
        let rows: Vec<_> = answer.lines().map(row).collect();
        ensure!(rows.len() >= truth.len(), "{} rows of {}", rows.len(), truth.len());
        Ok(rows)
    })
    .await?;
    ensure!(rows.len() == truth.len(), "{} rows of {}", rows.len(), truth.len());
    ensure!(rows.into_iter().collect::<Values>() == *truth, "rows differ from the sources");

    let folder = stack.home().join("parquet");
    std::fs::create_dir_all(&folder)?;
    let spec = stack.service("archiver", &[("archive.to", folder.to_str().context("a plain path")?), ("archive.every", "0s")])?;
    let archived = Command::new(&spec.program).envs(spec.env).args(&spec.args).stdin(Stdio::null()).output()?;
    ensure!(archived.status.success(), "{archived:?}");
    let markets = by_name()?;
    for market in Market::ALL {
        let path = folder.join(market_path(market.as_str()));
        let bytes = bytes::Bytes::from(std::fs::read(&path).with_context(|| path.display().to_string())?);
        let is_of = |key: &Key| markets.get(&(key.0.clone(), key.1.clone())).is_some_and(|(of, _)| *of == market);
        let expected: Values = truth.iter().filter(|(key, _)| is_of(key)).map(|(key, value)| (key.clone(), *value)).collect();
        ensure!(row_count(bytes.clone())? == u64::try_from(expected.len())?, "{market}: a month twice, or none");
        let file = MarketFile::read(bytes)?;
        let found = file.observations().map(|one| {
            let month = Month::of(one.period_start).context("a month")?;
            Ok(((one.provider.clone(), one.series.clone(), month.to_string()), one.value))
        });
        ensure!(found.collect::<anyhow::Result<Values>>()? == expected, "{market}.parquet differs from the sources");
    }
    Ok(())
}

/// Who was asked how often.
async fn requests(simulator: &Simulator) -> anyhow::Result<BTreeMap<String, Value>> {
    Ok(serde_json::from_str(&simulator.get("series/requests").await?)?)
}

/// The most memory a process had at once, KiB.
fn peak_memory(process: &Child) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.split_whitespace().next().context("a number")?.parse()?)
}

struct Collector<'a> {
    stack: &'a TestStack,
    wire: &'a str,
}

impl Collector<'_> {
    fn start(&self, more: &[(&str, &str)]) -> anyhow::Result<Child> {
        let spec = self.stack.service("flow-producer", &[])?;
        let mut command = Command::new(&spec.program);
        command
            .envs(spec.env.iter().map(|(key, value)| (key, value)))
            .env("FRED_API_KEY", "of-tests")
            .env("ALPHAVANTAGE_API_KEY", "of-tests");
        for name in ["KIS_APP_KEY", "KIS_APP_SECRET", "KIWOOM_APP_KEY", "KIWOOM_SECRET_KEY"] {
            command.env(name, "of-tests");
        }
        let log = OpenOptions::new().create(true).append(true).open(self.stack.home().join("logs/flow-producer.log"))?;
        command.stdout(Stdio::null()).stderr(log);
        for (source, per_second) in SOURCES {
            let key = format!("MARKETFLOW__SOURCES__{}", source.to_uppercase());
            command.env(format!("{key}__URL"), format!("http://{}/series/{source}", self.wire));
            command.env(format!("{key}__PER_SECOND"), per_second.to_string());
        }
        let usual = [
            ("COLLECT__FROM", FIRST),
            ("COLLECT__TO", LAST),
            ("COLLECT__MONTHS_PER_REQUEST", "12"),
            ("REQUEST__BACKOFF_MIN", "10ms"),
            ("REQUEST__BACKOFF_MAX", "100ms"),
        ];
        for (key, value) in usual.iter().chain(more) {
            command.env(format!("MARKETFLOW__{key}"), value);
        }
        command.spawn().context("flow-producer")
    }

    /// Endpoint days of KIS behind the cursors.
    fn days_collected(&self) -> anyhow::Result<usize> {
        let first: jiff::civil::Date = FIRST_DAY.parse()?;
        let Some(cursors) = self.tracker()?["days"].as_object().cloned() else { return Ok(0) };
        let of_kis = cursors.iter().filter(|(endpoint, _)| endpoint.starts_with("korean_investors/kis:"));
        let days = of_kis.map(|(_, cursor)| {
            let last: jiff::civil::Date = cursor.as_str().context("a day")?.parse()?;
            anyhow::Ok(first.until(last)?.get_days() + 1)
        });
        Ok(usize::try_from(days.sum::<anyhow::Result<i32>>()?)?)
    }

    fn tracker(&self) -> anyhow::Result<Value> {
        let Ok(text) = std::fs::read(self.stack.home().join("run/resume_tracker.json")) else { return Ok(Value::Null) };
        Ok(serde_json::from_slice(&text)?)
    }

    /// The last month of each endpoint.
    fn cursors(&self) -> anyhow::Result<BTreeMap<String, Month>> {
        let tracker = self.tracker()?;
        Ok(if tracker.is_null() { BTreeMap::new() } else { serde_json::from_value(tracker["endpoints"].clone())? })
    }

    /// Endpoint months behind the cursors.
    fn months_collected(&self) -> anyhow::Result<usize> {
        months_behind(&self.cursors()?)
    }
}

async fn exit_code(mut process: Child) -> anyhow::Result<Option<i32>> {
    eventually(PATIENCE, async || Ok(process.try_wait()?.context("still running")?.code())).await
}

/// What the sources hold of the built-in series.
async fn truth(simulator: &Simulator) -> anyhow::Result<Values> {
    let (series, first) = (by_name()?, FIRST.parse::<Month>()?);
    let mut truth = BTreeMap::new();
    for line in simulator.get("series").await?.lines() {
        let line: Value = serde_json::from_str(line)?;
        let text = |name: &str| line[name].as_str().map(str::to_owned).with_context(|| format!("{name} in {line}"));
        let (source, code, value, month) = (text("source")?.to_uppercase(), text("code")?, text("value")?, text("month")?);
        let name = if value == "value" { code } else { format!("{code}/{value}") };
        // a quarter is due that was not over when the first month began
        let is_due = |every: Every| anyhow::Ok(every.last_of(month.parse()?) >= first);
        let key = (source, name);
        if series.get(&key).map(|(_, every)| is_due(*every)).transpose()? == Some(true) {
            let number = line["number"].as_str().map(str::parse).transpose()?;
            truth.insert((key.0, key.1, month), number);
        }
    }
    Ok(truth)
}

/// What was said of each period, in order.
async fn log(stack: &TestStack) -> anyhow::Result<BTreeMap<Key, Vec<Option<SeriesValue>>>> {
    let series = by_name()?;
    let mut said: BTreeMap<Key, Vec<_>> = BTreeMap::new();
    for located in stack.read::<Observation>(topics::OBSERVATIONS).await? {
        let Observation { provider, series: name, period_start, period_end, value, .. } = located.record;
        let (_, every) =
            series.get(&(provider.clone(), name.clone())).with_context(|| format!("{provider}:{name} is not due"))?;
        let month = Month::of(period_start).context("a month")?;
        let period = (month.start(), every.last_of(month).end());
        ensure!(
            every.first_of(month) == month && period == (period_start, period_end),
            "{provider}:{name} {period_start} is no period"
        );
        ensure!(located.key == format!("{provider}:{name}").into_bytes(), "{provider}:{name} has another key");
        said.entry((provider, name, month.to_string())).or_default().push(value);
    }
    Ok(said)
}

fn row(line: &str) -> (Key, Option<SeriesValue>) {
    let cells: Vec<&str> = line.split('\t').collect();
    let value = (cells[3] != "\\N").then(|| cells[3].parse().unwrap());
    ((cells[0].to_owned(), cells[1].to_owned(), cells[2].to_owned()), value)
}
