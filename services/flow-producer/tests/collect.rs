//! Ten years of six markets, and months of investors' net buying, through the simulator, killed on the way: the log and the rows hold every month and
//! day once, to the last decimal.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use anyhow::{Context, ensure};
use marketflow_contract::topics;
use marketflow_model::{FlowAggregate, FundFlow, InvestorClass, Month, Observation, SeriesValue};
use marketflow_testkit::{Simulator, TestStack, eventually};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);
const FIRST: &str = "2016-11";
const LAST: &str = "2026-10";
const ENDPOINTS: usize = 17;

type Key = (String, String, String);

/// One stack for both: starting it takes longer than what is tested.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flow_producer() -> anyhow::Result<()> {
    let mut stack = TestStack::start().await?;
    stack.start_service("sink", &[("batch.max_age", "250ms")]).await?;
    stack.start_service("processor", &[]).await?;
    let played = [
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
    let months = ENDPOINTS * 120;
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
    let ended = collector.start(&[])?;
    ensure!(exit_code(ended).await? == Some(0), "it did not end by itself");
    ensure!(collector.months_collected()? == months, "{} of {months} months", collector.months_collected()?);

    let truth = truth(simulator).await?;
    let said = log(stack).await?;
    ensure!(said.len() == truth.len(), "{} values in the log, {} at the sources", said.len(), truth.len());
    for (key, number) in &truth {
        let in_log = said.get(key).with_context(|| format!("{key:?} is missing"))?;
        ensure!(in_log.as_slice() == [*number], "{key:?}: {in_log:?}, not {number:?} once");
    }
    ensure!(truth.values().any(Option::is_none), "no value was missing");
    let rows = eventually(PATIENCE, async || {
        let answer =
            stack.query("SELECT provider, series, formatDateTime(period_start, '%Y-%m'), value FROM observations").await?;
        let rows: BTreeMap<Key, Option<SeriesValue>> = answer.lines().map(row).collect();
        ensure!(rows.len() == truth.len(), "{} rows of {}", rows.len(), truth.len());
        Ok(rows)
    })
    .await?;
    ensure!(rows == truth, "rows differ from the sources");

    let requests: Value = serde_json::from_str(&simulator.get("series/requests").await?)?;
    let by_source = requests.as_object().context("requests by source")?;
    ensure!(by_source.len() == 5, "{requests}");
    for (source, count) in by_source {
        ensure!(count["refused"] == 0, "{source} was asked too often: {count}");
    }
    ensure!(by_source.values().any(|count| count["failed"].as_u64() > Some(0)), "nothing failed: {requests}");
    let problems = std::fs::read_to_string(stack.home().join("logs/error_log.txt"))?;
    ensure!(problems.contains("yahoo:SPY") && problems.contains("a page instead of data"), "{problems}");
    ensure!(!problems.contains("of-tests"), "a key is in the error log");

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
    ensure!(last.and_then(|o| o.vintage.as_deref()) == Some("2026-11-02"), "{last:?}");
    // a polite end
    Command::new("kill").arg(updating.id().to_string()).status()?;
    ensure!(updating.wait()?.code() == Some(0), "it did not drain");

    // one market alone, and a source that does not know a series
    let unknown = stack.home().join("series.toml");
    std::fs::write(
        &unknown,
        "[[series]]\nmarket = \"bonds\"\nsource = \"fred\"\ncode = \"NOSUCH\"\nvalues = { value = \"percent\" }\n\
         [[series]]\nmarket = \"forex\"\nsource = \"frankfurter\"\ncode = \"USD/KRW\"\nvalues = { value = \"KRW per USD\" }\n",
    )?;
    let failed = collector.start(&[("COLLECT__SERIES", unknown.to_str().unwrap())])?;
    ensure!(exit_code(failed).await? == Some(1), "an endpoint that cannot be collected ends with 1");
    let problems = std::fs::read_to_string(stack.home().join("logs/error_log.txt"))?;
    ensure!(problems.contains("bonds/fred:NOSUCH refused: Bad Request.  The series does not exist."), "{problems}");
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
    let sources = ["BINANCE", "FRANKFURTER", "FRED", "YAHOO", "ZILLOW"];
    let keys: Vec<String> = sources.iter().map(|source| format!("SOURCES__{source}__PER_SECOND")).collect();
    own_limits.extend(keys.iter().map(|key| (key.as_str(), "0")));

    let seed = std::env::var("SEED").map_or(Ok(1), |seed| seed.parse::<u64>())?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let months = ENDPOINTS * 120;
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
    let said = log(&stack).await?;
    ensure!(said.len() == truth.len(), "{} values in the log, {} at the sources", said.len(), truth.len());
    for (key, number) in &truth {
        ensure!(
            said.get(key).is_some_and(|said| said.as_slice() == [*number]),
            "{key:?}: {:?}, not {number:?} once",
            said.get(key)
        );
    }
    eventually(PATIENCE, async || {
        let answer =
            stack.query("SELECT provider, series, formatDateTime(period_start, '%Y-%m'), value FROM observations").await?;
        let rows: BTreeMap<Key, Option<SeriesValue>> = answer.lines().map(row).collect();
        ensure!(rows == truth, "{} rows differ from the {} at the sources", rows.len(), truth.len());
        Ok(())
    })
    .await?;
    ensure!(collector.months_collected()? == months, "cursors stand at {} of {months} months", collector.months_collected()?);
    let requests: BTreeMap<String, Value> = serde_json::from_str(&simulator.get("series/requests").await?)?;
    let least = requests.iter().map(|(source, count)| {
        let pace = marketflow_providers::series::by_id(source).context("a source")?.pace();
        anyhow::Ok((count["received"].as_f64().context("a count")? - pace.burst) / pace.per_second)
    });
    let least = least.collect::<anyhow::Result<Vec<_>>>()?.into_iter().fold(0.0, f64::max);
    let ratio = took.as_secs_f64() / least;
    eprintln!(
        "SEED={seed}: killed after {killed_after:?} of {months} months; {:.1} s, the limits dictate {least:.1} s: {ratio:.3}; peak memory {} KiB; {requests:?}",
        took.as_secs_f64(),
        peak
    );
    ensure!(peak < 200 * 1_024, "{peak} KiB of memory");
    stack.stop().await;
    Ok(())
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
        command.envs(spec.env.iter().map(|(key, value)| (key, value))).env("FRED_API_KEY", "of-tests");
        for name in ["KIS_APP_KEY", "KIS_APP_SECRET", "KIWOOM_APP_KEY", "KIWOOM_SECRET_KEY"] {
            command.env(name, "of-tests");
        }
        let log = OpenOptions::new().create(true).append(true).open(self.stack.home().join("logs/flow-producer.log"))?;
        command.stdout(Stdio::null()).stderr(log);
        for (source, per_second) in [("binance", 500), ("frankfurter", 500), ("fred", 78), ("yahoo", 39), ("zillow", 500)] {
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

    /// Endpoint months behind the cursors.
    fn months_collected(&self) -> anyhow::Result<usize> {
        let tracker = self.tracker()?;
        if tracker.is_null() {
            return Ok(0);
        }
        let first: Month = FIRST.parse()?;
        let cursors = tracker["endpoints"].as_object().context("endpoints")?.values();
        let months =
            cursors.map(|cursor| anyhow::Ok(cursor.as_str().context("a month")?.parse::<Month>()?.months_since(first) + 1));
        Ok(usize::try_from(months.sum::<anyhow::Result<i32>>()?)?)
    }
}

async fn exit_code(mut process: Child) -> anyhow::Result<Option<i32>> {
    eventually(PATIENCE, async || Ok(process.try_wait()?.context("still running")?.code())).await
}

/// What the sources hold of the built-in series.
async fn truth(simulator: &Simulator) -> anyhow::Result<BTreeMap<Key, Option<SeriesValue>>> {
    let mut truth = BTreeMap::new();
    for line in simulator.get("series").await?.lines() {
        let line: Value = serde_json::from_str(line)?;
        let text = |name: &str| line[name].as_str().map(str::to_owned).with_context(|| format!("{name} in {line}"));
        let (source, code, value, month) = (text("source")?, text("code")?, text("value")?, text("month")?);
        if source == "nasdaq" || code.ends_with("#394913") || month.as_str() < FIRST {
            continue;
        }
        let series = if value == "value" { code } else { format!("{code}/{value}") };
        let number = line["number"].as_str().map(str::parse).transpose()?;
        truth.insert((source.to_uppercase(), series, month), number);
    }
    Ok(truth)
}

/// What was said of each period, in order.
async fn log(stack: &TestStack) -> anyhow::Result<BTreeMap<Key, Vec<Option<SeriesValue>>>> {
    let mut said: BTreeMap<Key, Vec<_>> = BTreeMap::new();
    for located in stack.read::<Observation>(topics::OBSERVATIONS).await? {
        let Observation { provider, series, period_start, period_end, value, .. } = located.record;
        let month = Month::of(period_start).context("a month")?;
        ensure!((month.start(), month.end()) == (period_start, period_end), "{provider}:{series} {period_start} is no month");
        ensure!(located.key == format!("{provider}:{series}").into_bytes(), "{provider}:{series} has another key");
        said.entry((provider, series, month.to_string())).or_default().push(value);
    }
    Ok(said)
}

fn row(line: &str) -> (Key, Option<SeriesValue>) {
    let cells: Vec<&str> = line.split('\t').collect();
    let value = (cells[3] != "\\N").then(|| cells[3].parse().unwrap());
    ((cells[0].to_owned(), cells[1].to_owned(), cells[2].to_owned()), value)
}
