//! Ten years of six markets through the simulator, killed on the way: the log and the rows hold every month once, to the last decimal.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use anyhow::{Context, ensure};
use marketflow_contract::topics;
use marketflow_model::{Month, Observation, SeriesValue};
use marketflow_testkit::{Simulator, TestStack, eventually};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);
const FIRST: &str = "2016-11";
const LAST: &str = "2026-10";
const ENDPOINTS: usize = 17;

type Key = (String, String, String);

#[tokio::test]
async fn ten_years_of_six_markets_are_collected_once_whatever_kills_it() -> anyhow::Result<()> {
    let mut stack = TestStack::start().await?;
    stack.start_service("sink", &[("batch.max_age", "250ms")]).await?;
    let played =
        [("tapes", "[]"), ("series.fail_every", "7"), ("series.limits_times", "40"), ("series.fred_api_key", "of-tests")];
    let simulator = Simulator::start_with(&mut stack, &played).await?;
    let collector = Collector { stack: &stack, wire: simulator.wire() };

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

    let truth = truth(&simulator).await?;
    let said = log(&stack).await?;
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
        let said = log(&stack).await?;
        let values = &said[&key];
        ensure!(values.len() == 2, "{values:?}");
        Ok(())
    })
    .await?;
    let said = log(&stack).await?;
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
    stack.stop().await;
    Ok(())
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

    /// Endpoint months behind the cursors.
    fn months_collected(&self) -> anyhow::Result<usize> {
        let Ok(text) = std::fs::read(self.stack.home().join("run/resume_tracker.json")) else { return Ok(0) };
        let tracker: Value = serde_json::from_slice(&text)?;
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
