//! The candle-producer and the simulated brokers: the key's budget over several clients, a back-fill that is killed, a live session that is killed,
//! both brokers about one exchange, and their masters of instruments over two days.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on fails its test")]

use futures_util::StreamExt;
use marketflow_access::{self as access, Passes, SharedBudget, VenueClock};
use marketflow_contract::topics;
use marketflow_model::{
    Bar, BarKind, Calendar, Candle, Control, ControlKind, Feed, FeedState, Instrument, Interval, Quality, Reference,
    ReferenceKind, SessionKind, Timestamp,
};
use marketflow_pacing::Class;
use marketflow_producer::candles::client::{Client, Question};
use marketflow_producer::candles::config::{Checked, Config};
use marketflow_producer::candles::{DEFAULTS, metrics::Metrics};
use marketflow_providers::{CandleCall, CandlePage};
use marketflow_testkit::{Located, TestStack, eventually};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Everything here waits for other processes on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(180);
const TAPE: &str = r#"[{kind="krx-day",date="2026-11-20",symbols=3,trades=6000}]"#;

struct Broker {
    url: String,
    admin: String,
    home: PathBuf,
}

impl Broker {
    async fn start(stack: &mut TestStack, settings: &[(&str, &str)]) -> Self {
        let usual = [("tapes", TAPE), ("start.automatic", "false")];
        stack.start_service("simulator", &[&usual, settings].concat()).await.unwrap();
        let (ports, home) = (&stack.parts.config().ports, stack.parts.config().home.clone());
        let keys = "KIS_APP_KEY=key\nKIS_APP_SECRET=secret\nKIWOOM_APP_KEY=key\nKIWOOM_SECRET_KEY=secret\n";
        std::fs::write(home.join("keys.env"), keys).unwrap();
        Self {
            url: format!("http://127.0.0.1:{}/kis", ports.simulator),
            admin: format!("http://127.0.0.1:{}", ports.simulator_admin),
            home,
        }
    }

    /// Waits until the day has been played.
    async fn finished(&self) {
        eventually(PATIENCE, async || {
            let status = self.status().await;
            anyhow::ensure!(status["finished"] == true, "still playing: {status}");
            Ok(())
        })
        .await
        .unwrap();
    }

    async fn status(&self) -> Value {
        serde_json::from_str(&reqwest::get(format!("{}/status", self.admin)).await.unwrap().text().await.unwrap()).unwrap()
    }

    /// Calls let through, and calls above a limit.
    async fn calls(&self) -> (u64, u64) {
        let status = self.status().await;
        (status["kis_calls"].as_u64().unwrap(), status["kis_excess"].as_u64().unwrap())
    }

    async fn tell(&self, what: &str) {
        self.tell_more(what, &Value::Null).await;
    }

    async fn tell_more(&self, what: &str, body: &Value) {
        let request = reqwest::Client::new().post(format!("{}/{what}", self.admin)).header("content-type", "application/json");
        let answer = request.body(body.to_string()).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    /// A candle-producer of its own process.
    fn candle_producer(&self, stack: &TestStack, settings: &[(&str, &str)]) -> Child {
        let addresses = stack.addresses();
        let keys = self.home.join("keys.env");
        let clock = format!("{}/clock", self.admin);
        let usual = [
            ("admin.listen", "127.0.0.1:0"),
            ("provider.rest_url", &self.url),
            ("provider.credentials_file", keys.to_str().unwrap()),
            ("kafka.bootstrap_servers", &addresses.kafka),
            ("registry.url", &addresses.registry),
            ("clock.source", &clock),
            ("request.backoff_min", "50ms"),
            ("request.backoff_max", "500ms"),
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_candle-producer"));
        command.env("MARKETFLOW_HOME", &self.home).stdin(Stdio::null()).stdout(Stdio::piped());
        for (key, value) in usual.iter().chain(settings) {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        command.spawn().unwrap()
    }
}

/// What a one-shot run says, until it ends or `enough` says so; then it is killed as by power.
fn watch(mut child: Child, enough: impl Fn(&Value) -> bool) -> (Option<i32>, Vec<Value>) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    for line in lines {
        let value: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let is_enough = enough(&value);
        said.push(value);
        if is_enough {
            child.kill().unwrap();
            break;
        }
    }
    (child.wait().unwrap().code(), said)
}

async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn checked(change: &str) -> (Config, Checked) {
    let mut table: toml::Table = DEFAULTS.parse().unwrap();
    for (section, keys) in change.parse::<toml::Table>().unwrap() {
        table[&section].as_table_mut().unwrap().extend(keys.as_table().unwrap().clone());
    }
    let config: Config = table.try_into().unwrap();
    let checked = config.validate().unwrap();
    (config, checked)
}

/// A client as a process of its own would have it: nothing but the folder is shared.
async fn client(broker: &Broker, folder: &Path, per_second: u32) -> Client {
    let change = format!(
        "[provider]\nrest_url = '{}'\ncredentials_file = '{}'\n[budget]\ncalls_per_second = {per_second}\n[request]\nbackoff_min = '50ms'\nbackoff_max = '200ms'\n",
        broker.url,
        broker.home.join("keys.env").display()
    );
    let (config, checked) = checked(&change);
    let registry = marketflow_runtime::Metrics::new(marketflow_runtime::program!("candle-producer"));
    let metrics = Arc::new(Metrics::new(&registry, "kis"));
    let passes = Passes::new(checked.provider, &checked.rest_url, folder, &config.provider.credentials_file).unwrap().unwrap();
    let file = folder.join(format!("budget-{}.json", passes.owner()));
    let budget = SharedBudget::new(&file, checked.limits.clone(), metrics.access.clone()).unwrap();
    let clock = VenueClock::connect(&config.clock).await.unwrap();
    let (url, spared) = (&checked.rest_url, config.budget.spared_for_live);
    let counted = metrics.access.clone();
    let calls = access::Client::new(checked.provider, url, &config.request, spared, passes, budget, clock, counted).unwrap();
    Client::new(checked.candles, calls)
}

fn past_page(hour: i64) -> CandlePage {
    let open = Timestamp::parse("2026-11-18T09:00:00+09:00").unwrap().plus_micros(hour * 3_600_000_000);
    CandlePage { call: CandleCall::Past, from: open, to: open.plus_micros(60 * 60_000_000) }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_one_key_never_exceed_its_limit_together_also_when_one_dies_and_answers_are_slow() {
    let mut stack = TestStack::start_with(&[]).await.unwrap();
    let broker = Broker::start(&mut stack, &[("kis.calls_per_second", "20"), ("kis.answer_after", "30ms")]).await;
    let folder = broker.home.clone();
    let ask = |count: i64| {
        let (broker, folder) =
            (Broker { url: broker.url.clone(), admin: broker.admin.clone(), home: broker.home.clone() }, folder.clone());
        async move {
            let client = client(&broker, &folder, 20).await;
            let instrument: Instrument = "KRX:005930".parse().unwrap();
            let feed = Feed::new("kis-candles");
            let questions = (0..count).map(|number| {
                let (client, instrument, feed, page) = (client.clone(), instrument.clone(), feed.clone(), past_page(number % 6));
                async move {
                    let question =
                        Question { instrument: &instrument, page: &page, feed: &feed, before: None, class: Class::Backfill };
                    client.ask(question).await.unwrap().candles.len()
                }
            });
            let found = futures_util::future::join_all(questions).await;
            assert!(found.iter().all(|candles| *candles > 30), "{found:?}");
        }
    };
    // One of five ends in the middle of its calls, and its successor goes on.
    let dying = tokio::spawn(ask(200));
    let living: Vec<_> = (0..4).map(|_| tokio::spawn(ask(15))).collect();
    eventually(PATIENCE, async || {
        anyhow::ensure!(broker.calls().await.0 >= 10, "not begun");
        Ok(())
    })
    .await
    .unwrap();
    dying.abort();
    ask(15).await;
    for task in living {
        task.await.unwrap();
    }
    let (calls, excess) = broker.calls().await;
    assert!(calls >= 75, "{calls}");
    assert_eq!(excess, 0, "of {calls} calls");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_broker_is_asked_again_and_a_token_it_no_longer_takes_is_renewed_once() {
    let mut stack = TestStack::start_with(&[]).await.unwrap();
    let broker = Broker::start(&mut stack, &[("kis.issue_interval", "0s"), ("kis.calls_per_second", "200")]).await;
    let client = client(&broker, &broker.home, 200).await;
    let instrument: Instrument = "KRX:005930".parse().unwrap();
    let feed = Feed::new("kis-candles");
    let page = past_page(0);
    let question = Question { instrument: &instrument, page: &page, feed: &feed, before: None, class: Class::Backfill };
    assert!(client.ask(question).await.unwrap().candles.len() > 30);
    // The next answers are web pages.
    broker.tell("start").await;
    broker
        .tell_more(
            "faults",
            &serde_json::json!([{"kind": "http_error", "venue": "kis", "status": 502, "body": "html", "count": 3}]),
        )
        .await;
    eventually(PATIENCE, async || {
        let faults: Value = serde_json::from_str(&reqwest::get(format!("{}/faults", broker.admin)).await?.text().await?)?;
        anyhow::ensure!(faults["struck"].as_array().is_some_and(|struck| !struck.is_empty()), "not yet: {faults}");
        Ok(())
    })
    .await
    .unwrap();
    assert!(client.ask(question).await.unwrap().candles.len() > 30);
    // The broker forgets the token; the minute until it issues another has passed.
    let file = std::fs::read_dir(&broker.home).unwrap().map(|entry| entry.unwrap().path());
    let is_pass = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kis-access-token"))
            && path.extension().is_some_and(|e| e == "json")
    };
    let file = file.into_iter().find(is_pass).unwrap();
    let mut pass: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    pass["asked_at"] = 0.into();
    std::fs::write(&file, pass.to_string()).unwrap();
    let keys = serde_json::json!({"appkey": "key", "appsecret": "secret", "token": ""});
    reqwest::Client::new()
        .post(format!("{}/oauth2/revokeP", broker.url))
        .header("content-type", "application/json")
        .body(keys.to_string())
        .send()
        .await
        .unwrap();
    assert!(client.ask(question).await.unwrap().candles.len() > 30);
    let (fine, all) = client.calls();
    assert_eq!((fine, all), (3, 3 + 3 + 1), "three web pages and one refused token");

    // Two seconds of nothing but errors amid four hundred calls: it is left alone, so that 95 % of the calls are answered all the same.
    let outage = serde_json::json!([{"kind": "http_error", "venue": "kis", "status": 503, "duration": "2s"}]);
    broker.tell_more("faults", &outage).await;
    let asked = (0..400).map(|_| async { client.ask(question).await.unwrap().candles.len() });
    let answers: Vec<usize> = futures_util::stream::iter(asked).buffer_unordered(8).collect().await;
    assert!(answers.len() == 400 && answers.iter().all(|candles| *candles > 30));
    let (fine, all) = (client.calls().0 - fine, client.calls().1 - all);
    assert!(fine == 400 && all > 400, "the outage was felt: {fine} of {all}");
    assert!(fine * 100 >= all * 95, "{fine} of {all}");
    stack.stop().await;
}

const DAYS: [&str; 3] = ["2026-11-17", "2026-11-18", "2026-11-19"];

#[tokio::test(flavor = "multi_thread")]
async fn a_back_fill_that_is_killed_goes_on_with_one_repeated_call_a_symbol_and_its_bars_are_whole() {
    let mut stack = TestStack::start_with(&["kafka", "registry"]).await.unwrap();
    let broker = Broker::start(&mut stack, &[("kis.calls_per_second", "10"), ("kis.issue_interval", "0s")]).await;
    stack.start_service("processor", &[]).await.unwrap();
    let result = broker.home.join("minute_data_collection_results.json");
    let settings = [
        ("mode", "backfill"),
        ("provider.symbols", r#"["005930","000660","0080G0"]"#),
        ("budget.calls_per_second", "10"),
        ("backfill.days", "3"),
        ("backfill.until", "\"2026-11-19\""),
        ("backfill.result", result.to_str().unwrap()),
    ];
    let child = broker.candle_producer(&stack, &settings);
    let (_, said) =
        on_thread(|| watch(child, |said| said["event"] == "progress" && said["of"]["done"].as_u64() >= Some(12))).await;
    assert_eq!(
        (said[0]["event"].as_str(), &said[0]["of"]["calls"], &said[0]["of"]["sessions"]),
        (Some("plan"), &Value::from(36), &Value::from(3))
    );

    let child = broker.candle_producer(&stack, &settings);
    let (code, said) = on_thread(|| watch(child, |_| false)).await;
    assert_eq!(code, Some(0), "{said:?}");
    let (calls, excess) = broker.calls().await;
    assert!(calls <= 36 + 3, "{calls} calls: at most one repeated for each of three symbols");
    assert_eq!(excess, 0);

    let written: Value = serde_json::from_slice(&std::fs::read(&result).unwrap()).unwrap();
    assert_eq!((&written["complete"], written["symbols"].as_array().unwrap().len()), (&Value::from(true), 3));
    let mut expected: BTreeMap<(String, String), u64> = BTreeMap::new();
    for symbol in written["symbols"].as_array().unwrap() {
        let sessions = symbol["sessions"].as_array().unwrap();
        assert_eq!(sessions.iter().map(|session| session["day"].as_str().unwrap()).collect::<Vec<_>>(), DAYS);
        for session in sessions {
            assert_eq!((session["state"].as_str(), session["set_aside"].as_u64()), (Some("complete"), Some(0)), "{session}");
            for (count, full) in session["counts"].as_array().unwrap().iter().zip([381, 77, 27]) {
                let (interval, actual) = (count["interval"].as_str().unwrap(), count["actual"].as_u64().unwrap());
                assert!(count["expected"] == full && actual <= full && actual > full * 8 / 10, "{symbol}");
                let of = (symbol["symbol"].as_str().unwrap().to_owned(), interval.to_owned());
                *expected.entry(of).or_default() += actual;
            }
        }
    }

    // Each bar once, complete, and of the candles' volume.
    let bars = eventually(PATIENCE, async || {
        let bars = stack.read::<Bar>(topics::BARS).await?;
        let wanted: u64 = expected.values().sum();
        anyhow::ensure!(bars.len() as u64 >= wanted, "{} of {wanted} bars", bars.len());
        Ok(bars)
    })
    .await
    .unwrap();
    let mut counted: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for bar in bars.iter().map(|located| &located.record) {
        assert_eq!((bar.revision, bar.quality), (0, Quality::Complete), "{bar:?}");
        assert!(seen.insert((bar.instrument.clone(), bar.interval.to_string(), bar.open_time)), "twice: {bar:?}");
        *counted.entry((bar.instrument.to_string(), bar.interval.to_string())).or_default() += 1;
    }
    assert_eq!(counted, expected);
    let volumes = |interval: Interval| {
        let of = bars.iter().filter(|bar| bar.record.interval == BarKind::Time(interval));
        of.map(|bar| bar.record.volume.scaled()).sum::<i128>()
    };
    let candles = stack.read::<Candle>(topics::CANDLES).await.unwrap();
    let distinct: BTreeMap<_, _> =
        candles.iter().map(|c| ((c.record.instrument.clone(), c.record.open_time), c.record.clone())).collect();
    let volume: i128 = distinct.values().map(|candle| candle.volume.unwrap().scaled()).sum();
    for interval in Interval::STANDARD {
        assert_eq!(volumes(interval), volume, "{interval}");
    }

    // Nothing is asked for twice.
    let child = broker.candle_producer(&stack, &settings);
    let (code, _) = on_thread(|| watch(child, |_| false)).await;
    assert_eq!((code, broker.calls().await.0), (Some(0), calls));
    stack.stop().await;
}

/// Both brokers' minutes of one session; KIS's collector is killed in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_session_that_is_killed_omits_no_minute_and_ends_with_the_session() {
    let mut stack = TestStack::start_with(&["kafka", "registry"]).await.unwrap();
    let fast = [
        ("kis.calls_per_second", "200"),
        ("kis.issue_interval", "0s"),
        ("kiwoom.calls_per_second", "200"),
        ("kiwoom.calls_of_one", "400"),
        ("clock.speed", "1200x"),
    ];
    let broker = Broker::start(&mut stack, &fast).await;
    let settings = [
        ("mode", "live"),
        ("provider.symbols", r#"["000010","000020"]"#),
        ("budget.calls_per_second", "200"),
        ("live.every_minutes", "5"),
        ("clock.poll_interval", "20ms"),
    ];
    let mut first = broker.candle_producer(&stack, &settings);
    let url = broker.url.replace("/kis", "/kiwoom");
    let of_kiwoom = [("provider.name", "kiwoom"), ("provider.rest_url", url.as_str())];
    let mut kiwoom = broker.candle_producer(&stack, &[&settings, of_kiwoom.as_slice()].concat());
    let is_there = async |what: &str| {
        let files = std::fs::read_dir(broker.home.join("run"))?.map(|entry| entry.map(|entry| entry.file_name()));
        let names: Vec<_> = files.collect::<Result<_, _>>()?;
        anyhow::ensure!(names.iter().any(|name| name.to_string_lossy().ends_with(what)), "no {what} in {names:?}");
        Ok(())
    };
    // It is about to take its lease, so it is there before the session begins.
    eventually(PATIENCE, async || is_there("metadata.db").await).await.unwrap();
    broker.tell("start").await;
    let of_symbols = async |least: usize| {
        let candles = stack.read::<Candle>(topics::CANDLES).await?;
        anyhow::ensure!(candles.len() >= least, "{} candles", candles.len());
        Ok(candles)
    };
    eventually(PATIENCE, async || of_symbols(80).await).await.unwrap();
    eventually(PATIENCE, async || is_there("kis-candles-live.json").await).await.unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    let mut second = broker.candle_producer(&stack, &settings);
    let partitions = 4;
    let ended = eventually(PATIENCE, async || {
        let controls = stack.read::<Control>(topics::CANDLES).await?;
        let ends = controls.iter().filter(|control| control.record.kind == ControlKind::End).count();
        anyhow::ensure!(ends >= 2 * partitions, "the session goes on: {ends}");
        Ok(controls)
    });
    let controls = ended.await.unwrap();
    for collector in [&mut second, &mut kiwoom] {
        collector.kill().unwrap();
        collector.wait().unwrap();
    }

    let candles = of_symbols(1_400).await.unwrap();
    let mut written: BTreeMap<_, Candle> = BTreeMap::new();
    for candle in candles.iter().map(|located| &located.record) {
        let minute = candle.open_time.micros().div_euclid(60_000_000);
        assert_eq!(candle.import_row, Some(minute), "what comes twice is known by its number");
        // The round that was cut off may have been written already.
        let place = (candle.feed.as_str().to_owned(), candle.instrument.clone(), candle.open_time);
        if let Some(before) = written.insert(place, candle.clone()) {
            assert_eq!(Candle { receive_time: candle.receive_time, ..before }, *candle);
        }
    }
    // The tape is the truth: its minutes are those of the trades.
    let truth = reqwest::get(format!("{}/truth", broker.admin)).await.unwrap().text().await.unwrap();
    let mut minutes = BTreeSet::new();
    for line in truth.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).filter(|line| line["line"] == "trade") {
        let instrument: Instrument = line["instrument"].as_str().unwrap().parse().unwrap();
        let at = Timestamp::from_micros(line["event_time_us"].as_i64().unwrap()).window_open(Interval::ONE_MINUTE);
        if ["000010", "000020"].contains(&instrument.symbol()) {
            minutes.insert((instrument, at));
        }
    }
    for feed in ["kis-candles", "kiwoom-candles"] {
        let seen: BTreeSet<_> =
            written.keys().filter(|(of, ..)| of == feed).map(|(_, instrument, at)| (instrument.clone(), *at)).collect();
        assert_eq!(seen, minutes, "{feed}");
    }
    assert_eq!(written.len(), 2 * minutes.len());
    let count = |kind| {
        controls
            .iter()
            .filter(|control| control.record.kind == kind)
            .map(|control| control.record.gap_id.clone())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(count(ControlKind::GapOpened), count(ControlKind::GapFilled), "what was missed was had later");
    stack.stop().await;
}

/// Kiwoom's minutes at its own limit, its answers shorter than a session: those of the day that was played are the trades', those of the day before
/// are what KIS tells.
#[tokio::test(flavor = "multi_thread")]
async fn both_brokers_tell_the_same_minutes_each_within_its_own_limit() {
    let mut stack = TestStack::start_with(&["kafka", "registry"]).await.unwrap();
    let settings =
        [("clock.speed", "max"), ("kis.issue_interval", "0s"), ("kiwoom.chart_rows", "250"), ("kiwoom.day_rows", "90")];
    let broker = Broker::start(&mut stack, &settings).await;
    broker.tell("start").await;
    broker.finished().await;
    let mut of_feed: BTreeMap<String, &str> = BTreeMap::new();
    for provider in ["kiwoom", "kis"] {
        let (name, url) = (format!("{provider:?}"), broker.url.replace("/kis", &format!("/{provider}")));
        let settings = [
            ("mode", "backfill"),
            ("provider.name", name.as_str()),
            ("provider.rest_url", &url),
            ("provider.symbols", r#"["000010","0080G0"]"#),
            ("backfill.days", "2"),
            ("backfill.until", "\"2026-11-20\""),
        ];
        let child = broker.candle_producer(&stack, &settings);
        let (code, said) = on_thread(|| watch(child, |_| false)).await;
        let result = &said.last().unwrap()["of"];
        assert_eq!(
            (code, &result["complete"], &result["plan"]["provider"]),
            (Some(0), &true.into(), &provider.into()),
            "{result}"
        );
        for symbol in result["symbols"].as_array().unwrap() {
            of_feed.insert(symbol["feed"].as_str().unwrap().to_owned(), provider);
            let sessions = symbol["sessions"].as_array().unwrap();
            assert!(sessions.len() == 2 && sessions.iter().all(|session| session["state"] == "complete"), "{symbol}");
        }
    }
    let status = broker.status().await;
    assert!(status["kiwoom_calls"].as_u64() >= Some(8), "two calls for each of two sessions of two symbols: {status}");
    assert_eq!((&status["kiwoom_excess"], &status["kis_excess"]), (&0.into(), &0.into()), "{status}");

    type Minute = (Instrument, Timestamp);
    let mut told: BTreeMap<&str, BTreeMap<Minute, [String; 5]>> = BTreeMap::new();
    for candle in stack.read::<Candle>(topics::CANDLES).await.unwrap().into_iter().map(|located| located.record) {
        let provider = of_feed[candle.feed.as_str()];
        assert_eq!((candle.closed, candle.turnover.is_some()), (true, provider == "kis"), "{candle:?}");
        let [open, high, low, close] = [candle.open, candle.high, candle.low, candle.close].map(|price| price.to_string());
        let row = [open, high, low, close, candle.volume.unwrap().to_string()];
        let minutes = told.entry(provider).or_default();
        assert_eq!(minutes.insert((candle.instrument, candle.open_time), row), None, "once each");
    }
    assert_eq!(told["kiwoom"], told["kis"]);

    let truth = reqwest::get(format!("{}/truth", broker.admin)).await.unwrap().text().await.unwrap();
    let mut traded: BTreeMap<Minute, (Vec<i64>, i64)> = BTreeMap::new();
    for line in truth.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).filter(|line| line["line"] == "trade") {
        let instrument: Instrument = line["instrument"].as_str().unwrap().parse().unwrap();
        let at = Timestamp::from_micros(line["event_time_us"].as_i64().unwrap()).window_open(Interval::ONE_MINUTE);
        let whole = |name: &str| line[name].as_str().unwrap().parse::<i64>().unwrap();
        let (prices, volume) = traded.entry((instrument, at)).or_default();
        prices.push(whole("price"));
        *volume += whole("size");
    }
    traded.retain(|(instrument, _), _| ["000010", "0080G0"].contains(&instrument.symbol()));
    let midnight = Timestamp::parse("2026-11-20T00:00:00+09:00").unwrap();
    let played: BTreeMap<Minute, [String; 5]> =
        told["kiwoom"].clone().into_iter().filter(|((_, at), _)| *at >= midnight).collect();
    let folded = traded.into_iter().map(|(minute, (prices, volume))| {
        let ends = [prices[0], *prices.iter().max().unwrap(), *prices.iter().min().unwrap(), prices[prices.len() - 1], volume];
        (minute, ends.map(|number| number.to_string()))
    });
    assert_eq!(played, folded.collect());
    assert!(told["kiwoom"].len() > played.len() + 600, "{} and {}", told["kiwoom"].len(), played.len());

    days_are_what_their_minutes_make(&broker, &stack, &told["kis"]).await;
    prices_are_those_of_the_day(&broker, &stack, &told["kis"]).await;
    stack.stop().await;
}

/// Both brokers tell the day that has been played, and what a code they do not know is.
async fn prices_are_those_of_the_day(
    broker: &Broker,
    stack: &TestStack,
    minutes: &BTreeMap<(Instrument, Timestamp), [String; 5]>,
) {
    let instrument: Instrument = "KRX:000010".parse().unwrap();
    let midnight = Timestamp::parse("2026-11-20T00:00:00+09:00").unwrap();
    let of_day: Vec<_> = minutes.range((instrument.clone(), midnight)..).take_while(|((of, _), _)| *of == instrument).collect();
    let volume: i64 = of_day.iter().map(|(_, row)| row[4].parse::<i64>().unwrap()).sum();
    let (first, last) = (of_day.first().unwrap().1, of_day.last().unwrap().1);
    for provider in ["kis", "kiwoom"] {
        let (name, url) = (format!("{provider:?}"), broker.url.replace("/kis", &format!("/{provider}")));
        let settings = [
            ("mode", "price"),
            ("provider.name", name.as_str()),
            ("provider.rest_url", &url),
            ("provider.symbols", r#"["000010","999999"]"#),
        ];
        let child = broker.candle_producer(stack, &settings);
        let (code, said) = on_thread(|| watch(child, |_| false)).await;
        let [known, unknown] = &said[..] else { panic!("{said:?}") };
        let of = |name: &str| known["of"][name].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            (code, of("last"), of("open"), of("volume")),
            (Some(0), last[3].clone(), first[0].clone(), volume.to_string()),
            "{provider}: {known}"
        );
        assert!(of("lower_limit").parse::<i64>().unwrap() < of("upper_limit").parse().unwrap(), "{known}");
        assert!(unknown["of"]["problem"].is_string() && unknown["of"]["last"].is_null(), "{provider}: {unknown}");
    }
}

/// Ten months of daily candles of both brokers, in several answers, and once only.
async fn days_are_what_their_minutes_make(
    broker: &Broker,
    stack: &TestStack,
    minutes: &BTreeMap<(Instrument, Timestamp), [String; 5]>,
) {
    let days = async |provider: &str, days: &str| {
        let (name, url) = (format!("{provider:?}"), broker.url.replace("/kis", &format!("/{provider}")));
        let settings = [
            ("mode", "days"),
            ("provider.name", name.as_str()),
            ("provider.rest_url", &url),
            ("provider.symbols", r#"["000010","0080G0"]"#),
            ("backfill.days", days),
        ];
        let child = broker.candle_producer(stack, &settings);
        let (code, said) = on_thread(|| watch(child, |_| false)).await;
        assert_eq!(code, Some(0), "{said:?}");
        said.last().unwrap()["of"].clone()
    };
    for provider in ["kis", "kiwoom"] {
        let first = days(provider, "200").await;
        assert!(first["calls"].as_u64() >= Some(4), "each symbol takes more than an answer: {first}");
        // What is there is not asked for again; what is wanted in front of it is.
        let again = days(provider, "200").await;
        assert_eq!((&again["calls"], &again["candles"]), (&0.into(), &0.into()), "{again}");
        let more = days(provider, "300").await;
        assert!(more["candles"].as_u64() > first["candles"].as_u64(), "{more}");
        assert_eq!((&more["set_aside"], &more["symbols"][0]["first"]), (&0.into(), &"2026-01-26".into()), "{more}");
    }
    let mut told: BTreeMap<(String, Instrument, Timestamp), Candle> = BTreeMap::new();
    let candles = stack.read::<Candle>(topics::CANDLES).await.unwrap().into_iter().map(|located| located.record);
    for candle in candles.filter(|candle| candle.interval == Interval::ONE_DAY) {
        told.insert((candle.feed.as_str().to_owned(), candle.instrument.clone(), candle.open_time), candle);
    }
    let sessions = Calendar::of_venue("KRX").sessions("2026-01-26".parse().unwrap(), "2026-11-20".parse().unwrap());
    let regular = sessions.iter().filter(|session| session.kind == SessionKind::Regular).count();
    for feed in ["kis-days", "kiwoom-days"] {
        let of_feed = told.keys().filter(|(of, ..)| of == feed).count();
        assert_eq!(of_feed, 2 * regular, "one for each session of {feed}");
    }
    for ((feed, instrument, midnight), day) in &told {
        let end = midnight.plus_micros(Interval::ONE_DAY.micros());
        let of_day: Vec<&[String; 5]> =
            minutes.range((instrument.clone(), *midnight)..(instrument.clone(), end)).map(|(_, row)| row).collect();
        let (Some(first), Some(last)) = (of_day.first(), of_day.last()) else { continue };
        let column = |at: usize| of_day.iter().map(move |row| row[at].parse::<i64>().unwrap());
        let folded = [
            first[0].clone(),
            column(1).max().unwrap().to_string(),
            column(2).min().unwrap().to_string(),
            last[3].clone(),
            column(4).sum::<i64>().to_string(),
        ];
        let [open, high, low, close] = [day.open, day.high, day.low, day.close].map(|price| price.to_string());
        assert_eq!([open, high, low, close, day.volume.unwrap().to_string()], folded, "{feed} {instrument} {midnight}");
        assert!(day.turnover.is_some() && day.closed && !day.feed.is_import(), "{day:?}");
    }
    let compared = told.keys().filter(|(_, instrument, at)| minutes.range((instrument.clone(), *at)..).next().is_some()).count();
    assert!(compared >= 8, "two days of two symbols of two brokers: {compared}");
}

fn facts(located: Vec<Located<Reference>>, provider: &str) -> Vec<Reference> {
    located.into_iter().map(|of| of.record).filter(|fact| fact.provider == provider).collect()
}

/// Both brokers' masters over two days: everything at first, then only what changed, and nothing again. What is halted is said in-band, and what is
/// not listed is not asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_masters_first_look_says_everything_the_next_day_only_what_changed_and_a_restart_nothing() {
    let mut stack = TestStack::start().await.unwrap();
    stack.start_service("sink", &[]).await.unwrap();
    let tapes = r#"[{kind="krx-day",date="2026-11-17",trades=300,listings=[{code="000010"}]},{kind="krx-day",date="2026-11-18",trades=300,listings=[{code="000020"}]}]"#;
    let settings = [
        ("tapes", tapes),
        ("kis.issue_interval", "0s"),
        ("clock.speed", "1200x"),
        ("kis.master", "40"),
        ("kiwoom.list_rows", "15"),
        ("kiwoom.calls_per_second", "100"),
        ("kiwoom.calls_of_one", "100"),
    ];
    let broker = Broker::start(&mut stack, &settings).await;
    let kiwoom = broker.url.replace("/kis", "/kiwoom");
    let look = async |provider: &str, symbols: &str| {
        let (name, url) = (format!("{provider:?}"), if provider == "kis" { broker.url.clone() } else { kiwoom.clone() });
        let settings = [
            ("mode", "reference"),
            ("provider.name", name.as_str()),
            ("provider.rest_url", &url),
            ("provider.symbols", symbols),
            ("budget.calls_per_second", "18"),
        ];
        let child = broker.candle_producer(&stack, &settings);
        let (code, said) = on_thread(|| watch(child, |_| false)).await;
        assert_eq!(code, Some(0), "{said:?}");
        said.last().unwrap()["of"].clone()
    };
    let published = async |provider: &str| facts(stack.read::<Reference>(topics::REFERENCE).await.unwrap(), provider);

    // The first day: all of them, page by page, and the one that is halted.
    let any = r#"["000010"]"#;
    let seen = look("kiwoom", any).await;
    assert_eq!(
        (&seen["instruments"], &seen["new"], &seen["halted"], &seen["published"]),
        (&42.into(), &42.into(), &1.into(), &43.into())
    );
    let first = published("kiwoom").await;
    let midnight = |day: &str| Timestamp::parse(&format!("{day}T00:00:00+09:00")).unwrap();
    assert_eq!(first.len(), 43);
    assert!(first.iter().all(|fact| fact.valid_from == midnight("2026-11-17") && fact.valid_to.is_none()));
    let halted = |facts: &[Reference], provider: &str| {
        let lasting = facts.iter().rfind(|fact| fact.kind == ReferenceKind::Halt && fact.valid_to.is_none());
        lasting.unwrap_or_else(|| panic!("{provider} halts nothing")).instrument.clone()
    };
    let first_halted = halted(&first, "kiwoom");

    // The live service looks by itself before the session, and says the halt where the candles are.
    let symbols = format!(r#"["000010","{}"]"#, first_halted.symbol());
    let settings =
        [("mode", "live"), ("provider.symbols", symbols.as_str()), ("live.every_minutes", "5"), ("clock.poll_interval", "20ms")];
    let mut live = broker.candle_producer(&stack, &settings);
    eventually(PATIENCE, async || {
        let said = published("kis").await;
        anyhow::ensure!(said.len() == 3, "{} facts", said.len());
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(halted(&published("kis").await, "kis"), first_halted);
    broker.tell("start").await;
    let control = eventually(PATIENCE, async || {
        let controls = stack.read::<Control>(topics::CANDLES).await?;
        let halt = controls.into_iter().map(|of| of.record).find(|control| control.kind == ControlKind::Halt);
        halt.ok_or_else(|| anyhow::anyhow!("no halt is said"))
    })
    .await
    .unwrap();
    live.kill().unwrap();
    live.wait().unwrap();
    assert_eq!((control.instrument, control.state), (Some(first_halted.clone()), FeedState::Down));
    assert_eq!(control.from, Some(Timestamp::parse("2026-11-17T09:00:00+09:00").unwrap()));

    // The next day: one comes, one goes, one halt ends, another begins, one warning moves on.
    broker.tell_more("speed", &serde_json::json!({"speed": "max"})).await;
    broker.finished().await;
    let seen = look("kiwoom", any).await;
    let count = |name: &str| seen[name].as_u64().unwrap();
    assert_eq!(["new", "delisted", "halted", "resumed", "changed"].map(count), [1, 1, 1, 1, 2], "{seen}");
    let all = published("kiwoom").await;
    let second = &all[43..];
    assert_eq!((second.len() as u64, seen["day"].as_str()), (6, Some("2026-11-18")));
    let resumed = second.iter().find(|fact| fact.kind == ReferenceKind::Halt && fact.valid_to.is_some()).unwrap();
    assert_eq!(
        (&resumed.instrument, resumed.valid_from, resumed.valid_to),
        (&first_halted, midnight("2026-11-17"), Some(midnight("2026-11-18")))
    );
    let gone = second.iter().find(|fact| fact.kind == ReferenceKind::Instrument && fact.valid_to.is_some()).unwrap().clone();
    assert_eq!((gone.valid_from, gone.valid_to), (midnight("2026-11-17"), Some(midnight("2026-11-18"))));
    let second_halted = halted(second, "kiwoom");
    assert_ne!(second_halted, first_halted);

    // Nothing twice, also when the file of this machine is lost.
    assert_eq!(look("kiwoom", any).await["published"], 0);
    std::fs::remove_file(broker.home.join("run/kiwoom-reference.json")).unwrap();
    assert_eq!(look("kiwoom", any).await["published"], 0);
    assert_eq!(published("kiwoom").await.len(), 49);

    // A back-fill asks for nothing of what is gone, and expects nothing of what is halted.
    let symbols = format!(r#"["000020","{}","{}"]"#, second_halted.symbol(), gone.instrument.symbol());
    let seen = look("kis", &symbols).await;
    assert_eq!((&seen["instruments"], &seen["halted"], &seen["unknown"]), (&3.into(), &1.into(), &0.into()), "{seen}");
    let settings = [
        ("mode", "backfill"),
        ("provider.symbols", symbols.as_str()),
        ("backfill.days", "1"),
        ("backfill.until", "\"2026-11-18\""),
    ];
    let child = broker.candle_producer(&stack, &settings);
    let (code, said) = on_thread(|| watch(child, |_| false)).await;
    let result = &said.last().unwrap()["of"];
    assert_eq!((code, &result["plan"]["symbols"], &result["plan"]["not_listed"]), (Some(0), &2.into(), &1.into()), "{result}");
    let states: Vec<(&str, u64)> = result["symbols"]
        .as_array()
        .unwrap()
        .iter()
        .map(|symbol| {
            (symbol["sessions"][0]["state"].as_str().unwrap(), symbol["sessions"][0]["counts"][0]["expected"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(states, [("complete", 381), ("halted", 0)]);

    // And all of it can be asked of the tables.
    let total = 49 + published("kis").await.len();
    eventually(PATIENCE, async || {
        let rows = stack.query("SELECT count() FROM reference_log").await?;
        anyhow::ensure!(rows.trim() == total.to_string(), "{} of {total} rows", rows.trim());
        Ok(())
    })
    .await
    .unwrap();
    let of = async |sql: &str| stack.query(sql).await.unwrap().trim().to_owned();
    assert_eq!(
        of("SELECT count(), countIf(valid_to IS NULL), countIf(halted) FROM instruments WHERE provider = 'kiwoom'").await,
        "43\t42\t1"
    );
    let halts = format!("SELECT instrument, to_time FROM halts WHERE provider = 'kiwoom' AND instrument = '{first_halted}'");
    assert_eq!(of(&halts).await, format!("{first_halted}\t2026-11-17 15:00:00.000000"));
    let flags = "SELECT market, kind, listed_on FROM instruments WHERE provider = 'kiwoom' AND instrument = 'KRX:000020'";
    assert_eq!(of(flags).await, "KOSPI\tstock\t1975-06-11");
    let (calls, excess) = broker.calls().await;
    assert_eq!((excess, &broker.status().await["kiwoom_excess"]), (0, &0.into()), "of {calls} calls");
    stack.stop().await;
}

/// A holiday that only the broker knows of: the live service asks once, the calendar is changed in every partition, and nobody asks for that day.
#[tokio::test(flavor = "multi_thread")]
async fn a_holiday_that_the_broker_announces_changes_the_calendar_and_nobody_asks_for_that_day() {
    let mut stack = TestStack::start_with(&["kafka", "registry"]).await.unwrap();
    let tape = r#"[{kind="krx-day",date="2026-11-24",trades=300,listings=[{code="000010"}]}]"#;
    let settings = [
        ("tapes", tape),
        ("kis.issue_interval", "0s"),
        ("kis.holidays", r#"["2026-11-24","2026-12-25"]"#),
        ("clock.speed", "max"),
        ("clock.tail", "10m"),
    ];
    let broker = Broker::start(&mut stack, &settings).await;
    let symbols = r#"["000010"]"#;
    let settings = [("mode", "live"), ("provider.symbols", symbols), ("clock.poll_interval", "20ms")];
    let mut live = broker.candle_producer(&stack, &settings);
    let changes = async || -> anyhow::Result<Vec<(&str, i32, Control)>> {
        let mut all = Vec::new();
        for topic in [topics::TRADES, topics::CANDLES] {
            let controls = stack.read::<Control>(topic).await?.into_iter();
            let changes = controls.filter(|located| located.record.kind == ControlKind::CalendarChange);
            all.extend(changes.map(|located| (topic, located.partition, located.record)));
        }
        Ok(all)
    };
    // Twenty seconds before the open of what would be a session.
    let said = eventually(PATIENCE, async || {
        // The copy is written last.
        let copies = stack.read::<Control>(topics::FEED_STATUS).await?;
        anyhow::ensure!(copies.iter().any(|copy| copy.record.kind == ControlKind::CalendarChange), "no copy");
        changes().await
    })
    .await
    .unwrap();
    let midnight = |day: &str| Timestamp::parse(&format!("{day}T00:00:00+09:00")).unwrap();
    for (_, _, control) in &said {
        assert_eq!((control.from, control.to), (Some(midnight("2026-11-24")), Some(midnight("2026-11-25"))), "{control:?}");
        assert_eq!((control.state, control.feed.as_str()), (FeedState::Down, "calendar:krx"));
        assert!(control.reason.as_deref().unwrap().contains("kis says closed"), "{control:?}");
    }
    let places = said.iter().map(|(topic, partition, _)| (*topic, *partition)).collect::<BTreeSet<_>>();
    assert_eq!((said.len(), places.len()), (places.len(), 8), "each partition of both inputs once");

    // The day passes, and nobody asks for its minutes.
    let calls = broker.calls().await.0;
    broker.tell("start").await;
    broker.finished().await;
    live.kill().unwrap();
    live.wait().unwrap();
    let kept: Value = serde_json::from_slice(&std::fs::read(broker.home.join("run/kis-reference.json")).unwrap()).unwrap();
    assert_eq!(kept["days_asked"], "2026-11-24", "a restart asks no more on that day");
    let status = broker.status().await;
    assert_eq!((broker.calls().await.0, &status["kis_days_asked"]), (calls, &1.into()), "{status}");
    assert!(stack.read::<Candle>(topics::CANDLES).await.unwrap().is_empty());

    // On demand it is asked again and agrees; plan and back-fill leave the day out.
    let once = async |more: &[(&str, &str)]| {
        let child = broker.candle_producer(&stack, &[&[("provider.symbols", symbols)], more].concat());
        let (code, said) = on_thread(|| watch(child, |_| false)).await;
        assert_eq!(code, Some(0), "{said:?}");
        said.last().unwrap()["of"].clone()
    };
    let seen = once(&[("mode", "holidays")]).await;
    assert_eq!((&seen["days"], &seen["differences"]), (&21.into(), &serde_json::json!([])), "{seen}");
    assert_eq!(changes().await.unwrap().len(), said.len(), "said once");
    let days = [("backfill.days", "2"), ("backfill.until", "\"2026-11-24\"")];
    let plan = once(&[&[("mode", "plan")], days.as_slice()].concat()).await;
    assert_eq!((&plan["sessions"], &plan["calls"]), (&1.into(), &4.into()), "{plan}");
    let result = once(&[&[("mode", "backfill")], days.as_slice()].concat()).await;
    let sessions: Vec<_> =
        result["symbols"][0]["sessions"].as_array().unwrap().iter().map(|session| session["day"].as_str().unwrap()).collect();
    assert_eq!((&result["complete"], sessions), (&true.into(), vec!["2026-11-23"]), "{result}");
    stack.stop().await;
}

/// The whole size at the broker's own limit, on demand: `cargo test --workspace --test candles -- --ignored --nocapture`. Eight minutes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "eight minutes at 18 calls a second"]
async fn ninety_seven_symbols_and_thirty_days_take_what_the_limit_takes() {
    let per_second = std::env::var("CALLS_PER_SECOND").unwrap_or_else(|_| "18".to_owned());
    let mut stack = TestStack::start_with(&["kafka", "registry"]).await.unwrap();
    let broker = Broker::start(&mut stack, &[("kis.calls_per_second", per_second.as_str())]).await;
    let settings = [("mode", "backfill"), ("budget.calls_per_second", per_second.as_str()), ("log.level", "warn")];
    let child = broker.candle_producer(&stack, &settings);
    let (code, said) = on_thread(|| watch(child, |_| false)).await;
    let result = &said.last().unwrap()["of"];
    let (calls, excess) = broker.calls().await;
    let number = |name: &str| result[name].as_f64().unwrap();
    println!(
        "{} symbols, {} sessions, {} candles, {calls} calls at {per_second} a second: at least {:.1} s, took {:.1} s, ratio {:.3}, above the limit {excess}",
        result["plan"]["symbols"],
        result["plan"]["sessions"],
        result["candles"],
        number("seconds_at_least"),
        number("seconds"),
        number("ratio"),
    );
    assert_eq!((code, excess), (Some(0), 0));
    assert!(number("ratio") < 1.1, "{result}");
    stack.stop().await;
}
