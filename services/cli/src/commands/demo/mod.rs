//! `marketflow demo`: a recorded session through the whole path in a home of its own, checked at the end.
//!
//! Read in this order: `plan.rs` (what is played), `watch.rs` (the counters), `render.rs` and `chart.rs` (the live view), `topics.rs` and
//! `rows.rs` (what stands in Kafka and ClickHouse), `check.rs` (the judgement), `statement.rs` (its words). `flows.rs` is a demo of its own kind.
//!
//! Next: `plan.rs`.

mod chart;
mod check;
mod flows;
mod latency;
mod plan;
mod render;
mod rows;
mod screen;
mod statement;
mod tally;
mod text;
mod topics;
mod watch;

use crate::console::{block_on, json, line, problem};
use crate::provision;
use anyhow::{Context, anyhow};
use check::{Findings, Truth};
use marketflow_clickhouse::{ClickHouse, ClickHouseConfig};
use marketflow_kafka::{KafkaConfig, Registry, RegistryConfig};
use marketflow_model::Bar;
use marketflow_runtime::{Exit, ExitContext};
use marketflow_stack::{Language, Ports, Stack, StackConfig, home_folder, purge, supervisor};
use plan::Plan;
use render::{Counts, Phase, Snapshot};
use rows::Rows;
use screen::Screen;
use statement::Session;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tally::Tally;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use watch::{Watch, all_ready};

/// Time between two looks at the counters.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The session counts as stuck when nothing changed for so long.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// After the session: nothing changed for so long while all parts were ready, so nothing more will.
const SETTLED_AFTER: Duration = Duration::from_secs(8);
/// How long the simulator may take to write what it sent.
const TRUTH_WITHIN: Duration = Duration::from_secs(30);
/// The longest the check waits for what is on its way, come what may.
const CHECK_WITHIN: Duration = Duration::from_secs(180);

/// Plays a recorded session through the whole path and checks every bar
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Examples:
  marketflow demo                        6.7 days of real BTC/USD trades in about 25 s
  marketflow demo --days 1 --speed 3600
  marketflow demo --live --minutes 5     the exchange's own public WebSocket, no key needed
  marketflow demo --live --exchange upbit    the same in won
  marketflow demo --market krx           the end of a day of the Korea Exchange at 60x: a halt, an outage, the closing auction
  marketflow demo --market krx --whole-day --speed 600
  marketflow demo --market flows         ten years of six markets from their sources into Kafka, ClickHouse and Parquet, in about half a minute
  marketflow demo --keep                 leaves Kafka, registry, ClickHouse and the data for you to look at
Exit codes: 0 every check said yes, 2 a check said no, 69 a part or the exchange is not reachable, 75 an earlier demo still runs.
The demo has a home of its own, demo/ in the state folder, wiped at the start; it never touches a running `marketflow up`.")]
pub struct Args {
    /// What is played
    #[arg(long, value_enum, default_value_t = Market::Crypto)]
    market: Market,
    /// Virtual seconds per second, or max [default: the whole session in about 23 s; krx: 60; flows has none]
    #[arg(long, value_name = "N|max")]
    speed: Option<String>,
    /// With --market krx: from the opening auction on, not only from 14:45
    #[arg(long, conflicts_with_all = ["from", "to"])]
    whole_day: bool,
    /// Only the first so many days
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "to"])]
    days: Option<u32>,
    /// Only from this instant on (RFC 3339)
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only before this instant (RFC 3339)
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// The exchange itself instead of the recorded session
    #[arg(long, conflicts_with_all = ["speed", "days", "from", "to"])]
    live: bool,
    /// Which exchange --live listens to
    #[arg(long, value_enum, default_value_t = plan::Exchange::Bitstamp, requires = "live")]
    exchange: plan::Exchange,
    /// How long --live lasts
    #[arg(long, value_name = "N", default_value_t = 3, requires = "live", value_parser = clap::value_parser!(u16).range(1..=1440))]
    minutes: u16,
    /// Leave the stack running afterwards
    #[arg(long)]
    keep: bool,
    /// Print nothing but the statement, as JSON
    #[arg(long)]
    json: bool,
}

/// What can be played.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Market {
    /// BTC/USD on Bitstamp
    Crypto,
    /// A seeded day of the Korea Exchange, as the broker KIS shows it
    Krx,
    /// Ten years of months of six markets, as their sources show them
    Flows,
}

/// Runs the command.
///
/// # Errors
/// 64 for what is missing, 69 for a part that does not start or an exchange that does not answer, 75 when an earlier demo still runs,
/// 130 when interrupted.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    if args.market == Market::Flows {
        return block_on(perform(flows::Flows::new(&args)?));
    }
    let plan = Plan::of(&args)?;
    block_on(perform(Demo { plan, stage: Stage::new(&args) }))
}

/// What a demo of any kind does, in this order.
trait Performance {
    /// What its end says.
    type Outcome;

    fn stage(&mut self) -> &mut Stage;
    /// From an empty home to a session that is about to begin.
    async fn start(&mut self) -> anyhow::Result<Stack>;
    async fn play_and_check(&mut self, stack: &Stack) -> anyhow::Result<Self::Outcome>;
    /// Says what was found and where to look next. The stack has stopped.
    async fn conclude(&mut self, outcome: Self::Outcome) -> anyhow::Result<Exit>;
}

async fn perform(mut demo: impl Performance) -> anyhow::Result<Exit> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stack = tokio::select! {
        // dropped half way, it ends what it started
        started = demo.start() => started?,
        _ = interrupt.recv() => return demo.stage().interrupted(None).await,
        _ = terminate.recv() => return demo.stage().interrupted(None).await,
    };
    let result = tokio::select! {
        result = demo.play_and_check(&stack) => result,
        _ = interrupt.recv() => return demo.stage().interrupted(Some(stack)).await,
        _ = terminate.recv() => return demo.stage().interrupted(Some(stack)).await,
    };
    let stage = demo.stage();
    stage.screen.hint(stage.language.pick("stopping …", "정리하는 중 …"));
    stack.stop().await;
    demo.conclude(result?).await
}

/// Where it is played, and who watches.
struct Stage {
    home: PathBuf,
    ports: Ports,
    language: Language,
    screen: Screen,
    keep: bool,
    json: bool,
    begun: Instant,
    starting: Duration,
}

impl Stage {
    fn new(args: &Args) -> Self {
        let language = Language::of_user();
        Self {
            home: home_folder().join("demo"),
            ports: Ports::default(),
            language,
            screen: Screen::new(args.json, language),
            keep: args.keep,
            json: args.json,
            begun: Instant::now(),
            starting: Duration::ZERO,
        }
    }

    /// An empty home, and Kafka, registry and ClickHouse in it, with everything laid out.
    async fn start(&mut self, headline: &str) -> anyhow::Result<Stack> {
        wipe(&self.home, self.language).await?;
        self.ports = Ports::default_or_free().context("cannot find free ports")?;
        let mut config = StackConfig::new(&self.home);
        config.ports = self.ports;
        self.screen.say(headline);
        self.screen.say(&self.language.pick(
            format!(
                "  home {}, Kafka 127.0.0.1:{}, registry :{}, ClickHouse :{}",
                self.home.display(),
                self.ports.kafka,
                self.ports.registry,
                self.ports.clickhouse
            ),
            format!(
                "  홈 {}, Kafka 127.0.0.1:{}, 레지스트리 :{}, ClickHouse :{}",
                self.home.display(),
                self.ports.kafka,
                self.ports.registry,
                self.ports.clickhouse
            ),
        ));
        self.screen.hint(
            self.language.pick(
                "  starting Kafka, the schema registry and ClickHouse …",
                "  Kafka, 스키마 레지스트리, ClickHouse 기동 중 …",
            ),
        );
        let stack = Stack::start(config).await.map_err(|error| problem(&error))?;
        self.screen.hint(self.language.pick("  topics, schemas, tables …", "  토픽, 스키마, 테이블 준비 중 …"));
        provision::lay_out(&stack.addresses()).await?;
        Ok(stack)
    }

    /// Starts a service that is told this beyond its addresses.
    async fn start_service(&mut self, stack: &mut Stack, name: &str, variables: Vec<(String, String)>) -> anyhow::Result<()> {
        self.screen.hint(&format!("  {name} …"));
        let mut spec = stack.service(name).map_err(|error| problem(&error))?;
        spec.env.extend(variables);
        stack.start_service(spec).await.map_err(|error| problem(&error))
    }

    async fn interrupted(&mut self, stack: Option<Stack>) -> anyhow::Result<Exit> {
        self.screen.say(self.language.pick("interrupted: stopping everything", "중단됨: 모두 정리합니다"));
        if let Some(stack) = stack {
            stack.stop().await;
        }
        Ok(Exit::Interrupted)
    }

    /// Gives the demo's home to `marketflow up`, with the demo's ports and data.
    async fn hand_over(&mut self) -> anyhow::Result<bool> {
        self.screen
            .hint(self.language.pick("handing the data over to `marketflow up` …", "데이터를 `marketflow up`에 넘기는 중 …"));
        std::fs::write(self.home.join("stack.toml"), plan::stack_file(&self.ports)).context("cannot write stack.toml")?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = tokio::process::Command::new(program);
        command.args(["up", "--json"]).env("MARKETFLOW_HOME", &self.home).stdout(std::process::Stdio::null());
        let status = command.status().await.context("cannot start `marketflow up`")?;
        Ok(status.success())
    }
}

struct Demo {
    plan: Plan,
    stage: Stage,
}

impl Performance for Demo {
    type Outcome = (Session, Findings);

    fn stage(&mut self) -> &mut Stage {
        &mut self.stage
    }

    async fn start(&mut self) -> anyhow::Result<Stack> {
        if self.plan.live {
            self.plan.reach_the_exchange(self.stage.language).await?;
        }
        let mut stack = self.stage.start(&self.plan.headline(self.stage.language)).await?;
        for name in self.plan.services() {
            let variables = self.plan.variables(name, &self.stage.home, &self.stage.ports);
            self.stage.start_service(&mut stack, name, variables).await?;
        }
        stack.mark_ready();
        Ok(stack)
    }

    async fn play_and_check(&mut self, stack: &Stack) -> anyhow::Result<(Session, Findings)> {
        let addresses = stack.addresses();
        let snapshot = Snapshot {
            instrument: self.plan.instrument.clone(),
            names: self.plan.names(self.stage.language),
            zone: self.plan.zone(),
            venue: self.plan.venue_words(self.stage.language),
            phase: Phase::Playing,
            elapsed: Duration::ZERO,
            from: self.plan.from(),
            to: self.plan.to(),
            now: self.plan.from(),
            counts: Counts::default(),
            latency: None,
            troubles: Vec::new(),
            bars: Vec::new(),
            latest: Vec::new(),
        };
        let rows = Rows::new(ClickHouse::new(&ClickHouseConfig::new(&addresses.clickhouse)));
        let tally = Tally::begin(KafkaConfig::new(&addresses.kafka));
        let mut watch = Watch::new(
            rows,
            tally,
            self.stage.ports,
            self.stage.language,
            (!self.plan.live, self.plan.tells_the_past()),
            snapshot,
        )?;
        self.stage.screen.hint(self.stage.language.pick("  waiting for the readers …", "  컨슈머 할당을 기다리는 중 …"));
        watch.begin().await;
        self.plan.begins_now();
        (watch.snapshot.from, watch.snapshot.to) = (self.plan.from(), self.plan.to());
        self.stage.starting = self.stage.begun.elapsed();
        let playing = Instant::now();
        self.play(stack, &mut watch).await?;
        let playing = playing.elapsed();
        if self.plan.live {
            // the log must stand still to be judged
            stack.stop_part("tick-producer").await.map_err(|error| problem(&error))?;
        }
        let checking = Instant::now();
        let findings = self.check(stack, &mut watch).await?;
        let session = Session {
            instrument: self.plan.instrument.clone(),
            names: self.plan.names(self.stage.language),
            zone: self.plan.zone(),
            live: self.plan.live,
            from: watch.snapshot.from,
            to: watch.snapshot.to,
            starting: self.stage.starting,
            playing,
            checking: checking.elapsed(),
            latency: watch.latencies.summary(),
            restarts: watch::restarts(stack),
        };
        Ok((session, findings))
    }

    async fn conclude(&mut self, (session, findings): Self::Outcome) -> anyhow::Result<Exit> {
        let kept = self.stage.keep && self.stage.hand_over().await?;
        if self.stage.json {
            json(&statement::as_json(&session, &findings)?)?;
        } else {
            line("");
            for text in statement::lines(&session, &findings, self.stage.language, self.stage.screen.paint) {
                line(&text);
            }
            line("");
            for text in statement::where_next(&self.stage.home, &self.stage.ports, &session, kept, self.stage.language) {
                line(&text);
            }
        }
        Ok(if findings.hold() { Exit::Ok } else { Exit::CheckSaidNo })
    }
}

impl Demo {
    /// Watches until the venue has sent everything.
    async fn play(&mut self, stack: &Stack, watch: &mut Watch) -> anyhow::Result<()> {
        let mut moved = (Instant::now(), self.plan.from(), watch.snapshot.counts);
        loop {
            let progress = watch.look(stack).await;
            self.stage.screen.show(&watch.snapshot);
            if progress.is_some_and(|progress| progress.finished) {
                return Ok(());
            }
            // a live clock always moves; there it is the trades that count. The venue's clock goes on after the last trade, so that bars end.
            let now = progress.filter(|_| !self.plan.live).map_or(moved.1, |progress| progress.now);
            let stands = (now, watch.snapshot.counts);
            if stands != (moved.1, moved.2) {
                moved = (Instant::now(), stands.0, stands.1);
            } else if moved.0.elapsed() >= STUCK_AFTER {
                let logs = self.stage.home.join("logs");
                return Err(anyhow!(self.stage.language.pick(
                    format!("nothing moved for {} s; the logs are in {}", STUCK_AFTER.as_secs(), logs.display()),
                    format!("{}초 동안 진행이 없습니다. 로그: {}", STUCK_AFTER.as_secs(), logs.display()),
                )))
                .exit(Exit::Unreachable);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Judges again and again until every check says yes, or until nothing changes any more.
    async fn check(&mut self, stack: &Stack, watch: &mut Watch) -> anyhow::Result<Findings> {
        let truth = if self.plan.live { None } else { Some(self.read_truth().await?) };
        let begun = Instant::now();
        let mut changed = (Instant::now(), watch.snapshot.counts);
        let mut held = false;
        loop {
            let _progress = watch.look(stack).await;
            watch.snapshot.phase = Phase::Draining;
            self.stage.screen.show(&watch.snapshot);
            let counts = watch.snapshot.counts;
            if counts != changed.1 || !all_ready(stack) {
                changed = (Instant::now(), counts);
            }
            let over = changed.0.elapsed() >= SETTLED_AFTER || begun.elapsed() >= CHECK_WITHIN;
            // reading the topics is worth it once the rows are as they should be, or when it is over
            let judged = match watch.all_bars().await {
                Ok(shown)
                    if over
                        || !self.plan.tells_the_past()
                        || truth.as_ref().is_none_or(|truth| check::rows_hold(truth, &shown)) =>
                {
                    self.judge(stack, truth.as_ref(), &shown).await
                }
                Ok(_) => Err(anyhow!("the rows are not all there yet")),
                Err(error) => Err(error),
            };
            match judged {
                // twice in a row, so that nothing that comes after the last bar spoils it unseen
                Ok(findings) if findings.hold() && held => return Ok(findings),
                Ok(findings) if over => return Ok(findings),
                Ok(findings) => held = findings.hold(),
                Err(error) if over => return Err(error),
                Err(error) => {
                    tracing::debug!(error = %format!("{error:#}"), "not yet");
                    held = false;
                }
            }
            sleep(Duration::from_millis(400)).await;
        }
    }

    async fn judge(&self, stack: &Stack, truth: Option<&Truth>, shown: &[Bar]) -> anyhow::Result<Findings> {
        let addresses = stack.addresses();
        let registry = Registry::new(&RegistryConfig { url: addresses.registry })?;
        let mut decoder = registry.decoder().await?;
        let kafka = KafkaConfig::new(addresses.kafka);
        let read = tokio::task::spawn_blocking(move || topics::read(&kafka, &mut decoder)).await;
        let topics = read.context("reading the topics was cut short")??;
        Ok(check::judge(truth, self.plan.tells_the_past(), &topics, shown))
    }

    /// The truth file appears, whole, a moment after the venue says that it is done.
    async fn read_truth(&self) -> anyhow::Result<Truth> {
        let path = plan::truth_file(&self.stage.home);
        let begun = Instant::now();
        let file = loop {
            match std::fs::File::open(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && begun.elapsed() < TRUTH_WITHIN => {
                    sleep(LOOK_EVERY).await
                }
                file => break file.with_context(|| format!("cannot read {}", path.display()))?,
            }
        };
        Truth::read(BufReader::new(file)).with_context(|| format!("{}", path.display()))
    }
}

/// An empty home. One in which an earlier demo was kept is left alone.
async fn wipe(home: &Path, language: Language) -> anyhow::Result<()> {
    if supervisor(home).is_some() {
        let down = format!("MARKETFLOW_HOME={} marketflow down", home.display());
        return Err(anyhow!(language.pick(
            format!("an earlier demo still runs in {}; stop it with `{down}`", home.display()),
            format!("이전 데모가 {}에서 아직 실행 중입니다. `{down}`으로 끝내십시오", home.display()),
        )))
        .exit(Exit::TryAgain);
    }
    purge(home).await.map_err(|error| problem(&error))?;
    // what outlives a stack elsewhere is of an earlier demo here
    let folders = ["archive", "data"].map(|name| home.join(name));
    let files = [plan::truth_file(home), home.join("stack.toml"), home.join(flows::PICTURE)];
    let removed = folders.iter().map(|path| (path, std::fs::remove_dir_all(path)));
    for (path, removed) in removed.chain(files.iter().map(|path| (path, std::fs::remove_file(path)))) {
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
pub(in crate::commands::demo) mod tests {
    use super::*;
    use marketflow_model::{Amount, Bar, BarSource, Feed, Interval, Quality, Quantity, Timestamp};

    #[tokio::test]
    async fn nothing_of_an_earlier_demo_is_left() {
        let home = tempfile::tempdir().unwrap();
        for folder in ["archive/market.trades.v1", "data", "kafka", "run"] {
            std::fs::create_dir_all(home.path().join(folder)).unwrap();
        }
        for file in ["data/bonds.parquet", "flows.svg", "stack.toml", "archive/market.trades.v1/x"] {
            std::fs::write(home.path().join(file), "old").unwrap();
        }
        wipe(home.path(), Language::English).await.unwrap();
        let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "run"), "{left:?}");
        wipe(&home.path().join("of/nobody"), Language::English).await.unwrap();
    }

    /// A one-minute bar for the drawing.
    pub(in crate::commands::demo) fn bar(minute: i64, open: &str, high: &str, low: &str, close: &str) -> Bar {
        let open_time = Timestamp::from_seconds(1_385_337_600 + minute * 60);
        let price = |text: &str| text.parse().unwrap();
        Bar {
            instrument: "BITSTAMP:BTCUSD".parse().unwrap(),
            interval: Interval::ONE_MINUTE.into(),
            open_time,
            close_time: open_time.plus_micros(60_000_000),
            open: price(open),
            high: price(high),
            low: price(low),
            close: price(close),
            volume: Quantity::ZERO,
            turnover: Amount::ZERO,
            vwap: None,
            trade_count: 1,
            buy_volume: Quantity::ZERO,
            sell_volume: Quantity::ZERO,
            revision: 0,
            quality: Quality::Complete,
            feed: Feed::new("bitstamp"),
            source: BarSource::Trades,
            revision_reason: None,
        }
    }
}
