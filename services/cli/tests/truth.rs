//! The whole path against the simulator's truth: connections cut more than fifty times, trades missed and repeated, frames broken.
//! Truth = Kafka = the views in ClickHouse; the bars are those of the truth; every hole is recorded and filled; every broken frame is kept
//! with its reason.

use anyhow::{Context, ensure};
use marketflow_contract::topics;
use marketflow_model::{
    Conditions, Control, ControlKind, Envelope, Feed, FeedState, Interval, Price, Quantity, Side, Source, Timestamp, Trade,
    parse_scaled,
};
use marketflow_oracle::{BarKey, ExpectedBar, recompute};
use marketflow_testkit::{Simulator, TestStack, effects, eventually};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Two stacks at once would be too much for a small machine.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A day that is played.
struct Session {
    venue: &'static str,
    socket: &'static str,
    instrument: &'static str,
    trades: usize,
    /// On the average, virtual.
    trades_per_second: f64,
    speed: &'static str,
    /// Connections are cut at every so-many-th trade.
    cut_every: u64,
    /// How long the playing may take.
    patience: Duration,
}

#[tokio::test(flavor = "multi_thread")]
async fn at_maximum_speed() -> anyhow::Result<()> {
    truth_is_everywhere(&Session {
        venue: "binance",
        socket: "binance/stream",
        instrument: "BINANCE:S001USDT",
        trades: 12_000,
        trades_per_second: 0.5,
        speed: "max",
        cut_every: 200,
        patience: Duration::from_secs(240),
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn at_60x() -> anyhow::Result<()> {
    truth_is_everywhere(&Session {
        venue: "bitstamp",
        socket: "bitstamp",
        instrument: "BITSTAMP:S001USD",
        trades: 4_800,
        trades_per_second: 2.0,
        speed: "60x",
        cut_every: 75,
        patience: Duration::from_secs(180),
    })
    .await
}

/// Eight minutes; `cargo test --workspace --test truth -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes eleven minutes"]
async fn at_the_speed_of_life() -> anyhow::Result<()> {
    truth_is_everywhere(&Session {
        venue: "bitstamp",
        socket: "bitstamp",
        instrument: "BITSTAMP:S001USD",
        trades: 960,
        trades_per_second: 2.0,
        speed: "1x",
        cut_every: 15,
        patience: Duration::from_secs(900),
    })
    .await
}

/// Recorded tapes imported as fast as they go, while trades of today flow: bars of the tapes equal those of pandas, bars of today those of
/// the truth, and neither feed touches the other's.
#[tokio::test(flavor = "multi_thread")]
async fn imports_beside_live_trades_of_today() -> anyhow::Result<()> {
    const INSTRUMENT: &str = "BITSTAMP:S001USD";
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut stack = TestStack::start().await?;
    stack.start_service("sink", &[("batch.max_age", "250ms")]).await?;
    stack.start_service("processor", &[]).await?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    // the simulator's clock begins with a minute: at the speed of life a later first trade would be waited for
    let today = Timestamp::from_seconds(i64::try_from(now.as_secs())?).window_open(Interval::STANDARD[0]);
    let tape = format!(r#"[{{kind="generated",venue="bitstamp",symbols=1,trades=6000,trades_per_second=20.0,start="{today}"}}]"#);
    let settings = [("clock.speed", "1x"), ("tapes", tape.as_str())];
    let simulator = Simulator::start(&mut stack, "bitstamp", 0, 1.0, &settings).await?;
    simulator.start_tick_producer(&mut stack, "bitstamp", "bitstamp", INSTRUMENT, &[]).await?;
    let played = async || -> anyhow::Result<u64> {
        let status: Value = serde_json::from_str(&simulator.get("status").await?)?;
        status["trades_played"].as_u64().context("trades_played")
    };
    eventually(Duration::from_secs(180), async || {
        ensure!(played().await? > 0, "nothing was played");
        Ok(())
    })
    .await?;

    let mut check = check_of_tapes(&stack, INSTRUMENT)?;
    let (before, checked) = (played().await?, tokio::task::spawn_blocking(move || check.output()).await??);
    let printed = String::from_utf8_lossy(&checked.stdout);
    eprintln!("{printed}");
    ensure!(checked.status.success(), "{printed}{}", String::from_utf8_lossy(&checked.stderr));
    ensure!(played().await? > before, "nothing flowed beside the imports");

    simulator.post("speed", &json!({"speed": 600})).await?;
    eventually(Duration::from_secs(120), async || {
        let status: Value = serde_json::from_str(&simulator.get("status").await?)?;
        ensure!(status["finished"] == true, "still playing: {status}");
        Ok(())
    })
    .await?;
    let happened = simulator.truth().await?;
    let happened: Vec<Trade> = happened.iter().filter(|line| line["line"] == "trade").map(trade).collect::<Result<_, _>>()?;
    let expected = recompute(&happened, &Interval::STANDARD);
    eventually(Duration::from_secs(180), async || {
        let mut shown = bars_final(&stack).await?;
        shown.retain(|(of, _, at), _| of.to_string() == INSTRUMENT && *at >= today.window_open(Interval::STANDARD[2]));
        same("the view bars_final", &as_text(&expected), &as_text(&shown))
    })
    .await?;
    let set_aside = stack.query("SELECT count() FROM set_aside WHERE class = 'late'").await?;
    ensure!(set_aside.trim() == "0", "{set_aside} late trades");
    stack.stop().await;
    Ok(())
}

/// A day by two brokers, of which the first is lost for a while: the other takes over and gives back, no trade is missing or there twice, and
/// every bar of whatever length is of one broker's name.
#[tokio::test(flavor = "multi_thread")]
async fn one_broker_takes_over_from_the_other() -> anyhow::Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut stack = TestStack::start().await?;
    stack.start_service("sink", &[("batch.max_age", "250ms")]).await?;
    stack.start_service("processor", &[("bars.future_tolerance", "2days")]).await?;
    let tape = r#"[{kind="krx-day",date="2026-11-20",symbols=2,trades=6000}]"#;
    let settings = [("tapes", tape), ("clock.speed", "600x"), ("start.subscriptions", "2")];
    let simulator = Simulator::start(&mut stack, "kis", 0, 1.0, &settings).await?;
    let keys = stack.home().join("brokers.env");
    std::fs::write(&keys, "KIS_APP_KEY=a\nKIS_APP_SECRET=b\nKIWOOM_APP_KEY=c\nKIWOOM_SECRET_KEY=d\n")?;
    let (keys, wire) = (keys.display().to_string(), simulator.wire());
    let (websocket, rest) = (format!("ws://{wire}/kiwoom/api/dostk/websocket"), format!("http://{wire}/kiwoom"));
    // It is away and waited for until more than a quarter of an hour has been played, for which a name lasts.
    let more = [
        ("provider.instruments", r#"["000010","000020"]"#),
        ("provider.credentials_file", &*keys),
        ("connection.backoff_min", "5s"),
        ("connection.backoff_max", "6s"),
        ("failover.provider", "kiwoom"),
        ("failover.websocket_url", &*websocket),
        ("failover.rest_url", &*rest),
        ("failover.after", "1s"),
        ("failover.return_after", "12s"),
    ];
    simulator.start_tick_producer(&mut stack, "kis", "kis/tryitout", "KRX:000010", &more).await?;

    let ten = Timestamp::parse("2026-11-20T10:00:00+09:00")?.micros();
    eventually(Duration::from_secs(240), async || {
        let clock: Value = serde_json::from_str(&simulator.get("clock").await?)?;
        ensure!(clock["now_us"].as_i64() > Some(ten), "still playing the morning: {clock}");
        Ok(())
    })
    .await?;
    simulator.post("speed", &json!({"speed": 240})).await?;
    eventually(Duration::from_secs(240), async || {
        let told = stack.metrics("tick-producer").await?.sum("marketflow_instruments_told", &[("provider", "kis")]);
        ensure!(told > 1.0, "kis tells {told} of both instruments");
        Ok(())
    })
    .await?;
    simulator.post("faults", &json!({"kind": "disconnect", "venue": "kis"})).await?;
    // What was said is asked, not what is said at the moment: a busy machine may look away for long.
    let named_last = async |broker: &str, other: &str| -> anyhow::Result<()> {
        let sql = format!(
            "SELECT instrument FROM trades GROUP BY instrument HAVING countIf(feed = '{other}') > 0 \
             AND maxIf(event_time, feed = '{broker}') > maxIf(event_time, feed = '{other}')"
        );
        let instruments = stack.query(&sql).await?;
        ensure!(instruments.lines().count() == 2, "{broker} gave its name last to {instruments:?}");
        Ok(())
    };
    for (broker, other) in [("kiwoom", "kis"), ("kis", "kiwoom")] {
        eventually(Duration::from_secs(240), async || named_last(broker, other).await).await?;
    }
    simulator.post("speed", &json!({"speed": 600})).await?;
    eventually(Duration::from_secs(240), async || {
        let status: Value = serde_json::from_str(&simulator.get("status").await?)?;
        ensure!(status["finished"] == true, "still playing: {status}");
        Ok(())
    })
    .await?;

    let truth = simulator.truth().await?;
    let happened: Vec<Trade> = truth.iter().filter(|line| line["line"] == "trade").map(trade).collect::<Result<_, _>>()?;
    let named = |trade: &Trade| (trade.instrument.to_string(), trade.trade_id.clone());
    let expected: BTreeSet<_> = happened.iter().map(named).collect();
    eventually(Duration::from_secs(120), async || {
        let published = stack.read::<Trade>(topics::TRADES).await?;
        let found: BTreeSet<_> = published.iter().map(|located| named(&located.record)).collect();
        let missing = expected.difference(&found).next();
        ensure!(missing.is_none(), "{missing:?} is not in Kafka, with {} of {}", found.len(), expected.len());
        ensure!(published.len() == found.len(), "{} records of {} trades", published.len(), found.len());
        Ok(())
    })
    .await?;
    let mut names: BTreeMap<(String, Timestamp), BTreeSet<String>> = BTreeMap::new();
    for located in stack.read::<Trade>(topics::TRADES).await? {
        let window = located.record.event_time.window_open(Interval::STANDARD[2]);
        names.entry((located.record.instrument.to_string(), window)).or_default().insert(located.record.feed.to_string());
    }
    ensure!(names.values().all(|feeds| feeds.len() == 1), "two names within one window: {names:?}");
    for instrument in ["KRX:000010", "KRX:000020"] {
        let mut order: Vec<&str> = names
            .iter()
            .filter(|((of, _), _)| of == instrument)
            .flat_map(|(_, feeds)| feeds.iter().map(String::as_str))
            .collect();
        order.dedup();
        ensure!(order.windows(3).any(|three| three == ["kis", "kiwoom", "kis"]), "{instrument} was told by {order:?}");
    }
    let controls = stack.read::<Control>(topics::TRADES).await?;
    for (feed, state) in
        [("kis", FeedState::Down), ("kiwoom", FeedState::Up), ("kiwoom", FeedState::Down), ("kis", FeedState::Up)]
    {
        let said = controls
            .iter()
            .map(|located| &located.record)
            .filter(|control| control.kind == ControlKind::FeedState && control.instrument.is_some() && control.state == state);
        let said = said.filter(|control| control.feed.as_str() == feed).count();
        ensure!(said >= 2, "{feed} {state:?} was said {said} times of two instruments");
    }

    let bars = recompute(&happened, &Interval::STANDARD);
    eventually(Duration::from_secs(120), async || {
        same("the view bars_final", &as_text(&bars), &as_text(&bars_final(&stack).await?))?;
        // who was first subscribed in the midst of the opening minute cannot say that it was whole
        let sql = "SELECT instrument, interval, open_time, feed, quality FROM bars_final \
                   WHERE quality IN ('gap', 'partial_open') AND open_time >= '2026-11-20 00:30:00'";
        let doubtful = stack.query(sql).await?;
        ensure!(doubtful.trim().is_empty(), "{doubtful}");
        let seen = stack.query("SELECT count() FROM trades").await?;
        ensure!(seen.trim() == happened.len().to_string(), "the view trades has {seen} rows for {} trades", happened.len());
        Ok(())
    })
    .await?;
    let set_aside = stack.query("SELECT count() FROM set_aside WHERE class = 'late'").await?;
    ensure!(set_aside.trim() == "0", "{set_aside} late trades");
    stack.stop().await;
    Ok(())
}

/// The check nobody's Rust is in, on the tape that set-up fetched and on the recorded ones beside the project where they are.
fn check_of_tapes(stack: &TestStack, instrument: &str) -> anyhow::Result<std::process::Command> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let tools = marketflow_stack::tools_folder();
    let mut check = std::process::Command::new(tools.join("python/bin/python"));
    check.arg(root.join("tests/python/tape_bars_check.py")).arg(tools.join("tape/bitstamp_trades_from_20131125_usd.csv"));
    check.args(Some(root.join("../shared/data")).filter(|folder| folder.exists()));
    let addresses = stack.addresses();
    check
        .env("MARKETFLOW_BIN", env!("CARGO_BIN_EXE_marketflow"))
        .env("MARKETFLOW_TAPE_INSTRUMENT", instrument)
        .env("MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS", addresses.kafka)
        .env("MARKETFLOW__REGISTRY__URL", addresses.registry)
        .env("MARKETFLOW__CLICKHOUSE__URL", addresses.clickhouse);
    Ok(check)
}

async fn truth_is_everywhere(session: &Session) -> anyhow::Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut stack = TestStack::start().await?;
    stack.start_service("sink", &[("batch.max_age", "250ms")]).await?;
    // at high speed much virtual time passes between two readings of the clock
    stack.start_service("processor", &[("bars.future_tolerance", "2days")]).await?;
    let settings = [("clock.speed", session.speed)];
    let simulator = Simulator::start(&mut stack, session.venue, session.trades, session.trades_per_second, &settings).await?;
    let faults = json!([
        {"kind": "disconnect", "every": session.cut_every},
        {"kind": "miss", "probability": 0.02},
        {"kind": "duplicate", "probability": 0.02},
        {"kind": "malformed", "probability": 0.02},
    ]);
    simulator.post("faults", &faults).await?;
    simulator.start_tick_producer(&mut stack, session.venue, session.socket, session.instrument, &[]).await?;

    let playing = async |what: &str, patience, done: fn(&Value) -> bool| {
        eventually(patience, async || {
            let status = simulator.get("status").await?;
            let status: Value = serde_json::from_str(&status)?;
            ensure!(done(&status), "{what}: {status}");
            Ok(())
        })
        .await
    };
    playing("still playing", session.patience, |status| status["trades_played"] == status["trades"]).await?;
    if session.speed != "max" {
        // what is left is silence; it lasts until the last 15 minutes are over
        simulator.post("speed", &json!({"speed": 600})).await?;
    }
    playing("still silent", Duration::from_secs(120), |status| status["finished"] == true).await?;
    let truth = simulator.truth().await?;
    let summary = std::cell::RefCell::new(String::new());
    eventually(Duration::from_secs(90), async || {
        *summary.borrow_mut() = judge(&stack, &truth).await?;
        Ok(())
    })
    .await?;
    eprintln!("{} at {}: {}", session.instrument, session.speed, summary.borrow());
    one_trade_is_traced(&stack, session.instrument)?;
    stack.stop().await;
    Ok(())
}

/// From the header that the producer wrote to the rows of its bars; the id and the place lead to the same trade.
fn one_trade_is_traced(stack: &TestStack, instrument: &str) -> anyhow::Result<()> {
    let trace = |what: &[&str]| -> anyhow::Result<Value> {
        let addresses = stack.addresses();
        let printed = std::process::Command::new(env!("CARGO_BIN_EXE_marketflow"))
            .args(["trace", "--json"])
            .args(what)
            .env("MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS", addresses.kafka)
            .env("MARKETFLOW__REGISTRY__URL", addresses.registry)
            .env("MARKETFLOW__CLICKHOUSE__URL", addresses.clickhouse)
            .output()?;
        ensure!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        Ok(serde_json::from_slice(&printed.stdout)?)
    };
    let newest = trace(&[])?;
    ensure!(newest["instrument"] == instrument, "{newest}");
    let (id, place) = (newest["trace_id"].as_str().context("no trace id")?, newest["place"].as_str().context("no place")?);
    ensure!(trace(&[id])? == newest && trace(&[place])? == newest, "another trade than {newest}");
    let steps = newest["steps"].as_array().context("no steps")?;
    let steps: Vec<&str> = steps.iter().filter_map(|step| step["what"].as_str()).collect();
    let wanted = ["frame received", "appended to Kafka", "row inserted into ClickHouse", "1m bar, revision 0, row inserted"];
    for what in wanted.into_iter().chain(["5m bar, revision 0, appended to Kafka", "15m bar, revision 0, row inserted"]) {
        ensure!(steps.contains(&what), "{what} is not among {steps:?}");
    }
    Ok(())
}

/// Compares log and views with the truth; every difference is an error. Returns the figures.
async fn judge(stack: &TestStack, truth: &[Value]) -> anyhow::Result<String> {
    let happened: Vec<Trade> = truth.iter().filter(|line| line["line"] == "trade").map(trade).collect::<Result<_, _>>()?;
    let expected: BTreeMap<String, String> = happened.iter().map(line).collect();
    ensure!(expected.len() == happened.len(), "the truth names a trade twice");

    let published = stack.read::<Trade>(topics::TRADES).await?;
    let in_kafka: BTreeMap<String, String> = published.iter().map(|located| line(&located.record)).collect();
    same("market.trades.v1", &expected, &in_kafka)?;
    // no restart in between: nothing may stand twice
    ensure!(published.len() == expected.len(), "{} records for {} trades", published.len(), expected.len());

    let seen = stack.query("SELECT trade_id, toUnixTimestamp(event_time), price, size, side FROM trades").await?;
    let seen: Vec<&str> = seen.lines().collect();
    let in_view = seen.iter().filter_map(|row| row.split_once('\t')).map(|(id, rest)| (id.to_owned(), rest.to_owned())).collect();
    same("the view trades", &expected, &in_view)?;
    ensure!(seen.len() == expected.len(), "the view trades has {} rows for {} trades", seen.len(), expected.len());

    let bars = recompute(&happened, &Interval::STANDARD);
    let shown = bars_final(stack).await?;
    same("the view bars_final", &as_text(&bars), &as_text(&shown))?;

    let controls = stack.read::<Control>(topics::TRADES).await?;
    let gaps = every_hole_is_recorded_and_filled(&controls, truth)?;
    let broken = every_broken_frame_is_kept(stack, truth).await?;
    let cuts = effects(truth, "disconnect");
    ensure!(cuts >= 50, "only {cuts} connections were cut");
    let missed = truth.iter().filter(|line| line["line"] == "trade" && line["delivery"] != "socket").count();
    ensure!(missed > 0 && effects(truth, "duplicate") > 0, "nothing was missed or repeated, so nothing was tested");
    Ok(format!(
        "{} trades in Kafka and in the view, {} bars, {cuts} cuts, {missed} trades not sent, {} sent again, {gaps} gaps, {broken}",
        expected.len(),
        bars.len(),
        effects(truth, "duplicate"),
    ))
}

/// A trade as the truth has it; as it comes over the wire but for what no bar depends on.
fn trade(told: &Value) -> anyhow::Result<Trade> {
    let text = |name: &str| told[name].as_str().with_context(|| format!("{name} in {told}"));
    let id = text("id")?;
    let at = Timestamp::from_micros(told["event_time_us"].as_i64().context("event_time_us")?);
    Ok(Trade {
        instrument: text("instrument")?.parse()?,
        feed: Feed::new("truth"),
        event_time: at,
        receive_time: at,
        price: text("price")?.parse()?,
        size: Some(text("size")?.parse::<Quantity>()?),
        side: match text("side")? {
            "buy" => Side::Buy,
            "sell" => Side::Sell,
            _ => Side::Unknown,
        },
        trade_id: Some(id.to_owned()),
        sequence: Some(id.parse()?),
        import_row: None,
        conditions: Conditions::NONE,
        source: Source::Websocket,
    })
}

/// Id, and what must be the same everywhere: second (some answers of a venue have no more than that), price, size, side.
fn line(trade: &Trade) -> (String, String) {
    let size = trade.size.map(|size| size.to_string()).unwrap_or_default();
    let side = if trade.side == Side::Buy { "buy" } else { "sell" };
    let second = trade.event_time.micros().div_euclid(1_000_000);
    (trade.trade_id.clone().unwrap_or_default(), format!("{second}\t{}\t{size}\t{side}", trade.price))
}

fn same(name: &str, expected: &BTreeMap<String, String>, found: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let wrong = expected.iter().find(|(key, value)| found.get(*key) != Some(value));
    let counts = format!("{} in {name}, {} in truth", found.len(), expected.len());
    if let Some((key, value)) = wrong {
        anyhow::bail!("{key}: {value} became {:?} ({counts})", found.get(key));
    }
    let surplus = found.keys().find(|key| !expected.contains_key(*key));
    ensure!(surplus.is_none(), "{surplus:?} never happened ({counts})");
    Ok(())
}

fn as_text(bars: &BTreeMap<BarKey, ExpectedBar>) -> BTreeMap<String, String> {
    bars.iter().map(|((of, minutes, at), bar)| (format!("{of} {minutes}m {at}"), format!("{bar:?}"))).collect()
}

async fn bars_final(stack: &TestStack) -> anyhow::Result<BTreeMap<BarKey, ExpectedBar>> {
    let sql = "SELECT instrument, interval, toUnixTimestamp64Micro(open_time), trade_count, open, high, low, close, volume, turnover, vwap, \
               buy_volume, sell_volume FROM bars_final";
    let text = stack.query(sql).await?;
    let bar = |row: &str| -> anyhow::Result<(BarKey, ExpectedBar)> {
        let [instrument, interval, open_time, trade_count, open, high, low, close, volume, turnover, vwap, buy, sell] =
            row.split('\t').collect::<Vec<_>>()[..]
        else {
            anyhow::bail!("too few fields")
        };
        let key = (instrument.parse()?, interval.parse::<Interval>()?.minutes(), Timestamp::from_micros(open_time.parse()?));
        let price = |text: &str| Ok::<_, anyhow::Error>(text.parse::<Price>()?.scaled());
        let amount = |text: &str| Ok::<_, anyhow::Error>(parse_scaled(text, 8)?);
        let bar = ExpectedBar {
            open: price(open)?,
            high: price(high)?,
            low: price(low)?,
            close: price(close)?,
            volume: amount(volume)?,
            turnover: amount(turnover)?,
            vwap: if vwap == "\\N" { None } else { Some(price(vwap)?) },
            trade_count: trade_count.parse()?,
            buy_volume: amount(buy)?,
            sell_volume: amount(sell)?,
        };
        Ok((key, bar))
    };
    text.lines().map(|row| bar(row).with_context(|| row.to_owned())).collect()
}

/// What did not come over the socket lies in a gap, and every gap that was opened was filled. Returns how many there were.
fn every_hole_is_recorded_and_filled(
    controls: &[marketflow_testkit::Located<Control>],
    truth: &[Value],
) -> anyhow::Result<usize> {
    let of_kind = |kind: ControlKind| {
        let of = controls.iter().map(|located| &located.record).filter(move |control| control.kind == kind);
        of.map(|control| (control.gap_id.clone(), control)).collect::<BTreeMap<_, _>>()
    };
    let (opened, filled) = (of_kind(ControlKind::GapOpened), of_kind(ControlKind::GapFilled));
    ensure!(of_kind(ControlKind::GapAbandoned).is_empty(), "a gap was abandoned");
    let never = opened.keys().find(|id| !filled.contains_key(*id));
    ensure!(never.is_none(), "{never:?} was never filled");
    for told in truth.iter().filter(|line| line["line"] == "trade" && line["delivery"] != "socket") {
        let at = Timestamp::from_micros(told["event_time_us"].as_i64().context("event_time_us")?);
        let recorded = opened
            .values()
            .chain(filled.values())
            .any(|gap| gap.from.is_some_and(|from| from <= at) && gap.to.is_none_or(|to| at < to));
        ensure!(recorded, "no gap tells of {told}");
    }
    Ok(opened.len())
}

/// Every broken frame is a dead letter, a row and a count, each with its reason.
async fn every_broken_frame_is_kept(stack: &TestStack, truth: &[Value]) -> anyhow::Result<String> {
    let letters = stack.read::<Envelope>(topics::DEAD_LETTERS).await?;
    let sent = effects(truth, "malformed");
    let received = u64::try_from(letters.len())?;
    ensure!(received > 0 && received == sent, "{received} dead letters of {sent} broken frames");
    ensure!(letters.iter().all(|letter| !letter.record.reason.is_empty() && letter.record.origin_partition == -1));
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for letter in &letters {
        *reasons.entry(&letter.record.reason).or_default() += 1;
    }
    let rows = stack.query("SELECT reason, count() FROM set_aside WHERE origin_offset < 0 GROUP BY reason").await?;
    let rows: BTreeMap<&str, u64> =
        rows.lines().filter_map(|row| row.split_once('\t')).map(|(of, n)| Ok((of, n.parse()?))).collect::<anyhow::Result<_>>()?;
    ensure!(rows.values().sum::<u64>() == received, "{rows:?} in the view set_aside, {reasons:?} in Kafka");
    let counted = stack.metrics("tick-producer").await?.by("marketflow_frames_malformed_total", "reason");
    ensure!(counted.values().sum::<f64>().to_string() == received.to_string(), "counted {counted:?}, kept {received}");
    Ok(format!("{received} broken frames, all kept, by reason {counted:?}"))
}
