//! `marketflow demo --market flows`: ten years of six markets, from their sources into Kafka, ClickHouse and Parquet. The collector is
//! killed on the way and goes on; at the end every value is compared with what the sources hold, and every flow with a recomputation.
//!
//! Next: `../flows/mod.rs`, the table and the picture.

use super::check::Comparison;
use super::statement::answer;
use super::text::{Paint, Tone, grouped, padded, stretch};
use super::{Args, Performance, Stage, topics};
use crate::commands::archive;
use crate::commands::flows::{self, Measure, PrintedFlow, picture};
use crate::commands::query::{Texts, texts};
use crate::commands::sibling::sibling;
use crate::console::{json, line, problem};
use anyhow::{Context, anyhow, bail, ensure};
use marketflow_archive::{MarketFile, market_path};
use marketflow_clickhouse::{ClickHouse, ClickHouseConfig};
use marketflow_contract::topics::OBSERVATIONS;
use marketflow_engine::{MarketFlows, MarketSettings};
use marketflow_kafka::{KafkaConfig, Reader, Registry, RegistryConfig};
use marketflow_model::{Amount, Month, Observation, SeriesValue, Timestamp};
use marketflow_providers::series::{Every, Market, Series, SeriesSet};
use marketflow_runtime::{Exit, ExitContext};
use marketflow_stack::{Addresses, Language, Stack};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::time::sleep;

const FIRST: &str = "2016-11";
const LAST: &str = "2026-10";
/// The collector is killed once it has so much of what it shall collect.
const KILLED_AT_PERCENT: u64 = 40;
/// Requests a second. The sources' limits a minute are in force; that of a minute suffices for all requests, so they need not be spread over more.
const PACES: [(&str, f64); 6] =
    [("binance", 8.0), ("bis", 8.0), ("frankfurter", 8.0), ("fred", 8.0), ("yahoo", 4.0), ("zillow", 8.0)];
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Collecting counts as stuck when no month came for so long.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// Once all is collected: nothing changed for so long, so nothing more will.
const SETTLED_AFTER: Duration = Duration::from_secs(30);
/// The longest the check waits for what is on its way, come what may.
const CHECK_WITHIN: Duration = Duration::from_secs(300);
/// Months shown of the table at the end.
const SHOWN_MONTHS: i32 = 3;
const BAR_COLUMNS: usize = 36;
const MARKET_SETTINGS: &str = include_str!("../../../../../schemas/market_flows.toml");

/// The picture of all months, in the demo's home.
pub(super) const PICTURE: &str = "flows.svg";

/// Provider, series, first month of the period.
type Key = (String, String, Month);
/// `None`: published as missing.
type Values = BTreeMap<Key, Option<SeriesValue>>;
/// Scope, name, method, currency, first and last instant.
type Window = (String, String, String, String, i64, i64);

/// What the statement says.
#[derive(Debug, Serialize)]
struct Findings {
    /// Values the sources hold, and how many of them are published as missing.
    values: usize,
    missing: usize,
    /// The sources' values against the log: each once.
    in_kafka: Comparison,
    /// … against the view `observations`.
    in_clickhouse: Comparison,
    /// … against `data/<market>.parquet`.
    in_parquet: Comparison,
    /// A batch recomputation from the sources' values against the view `flow_aggregates`.
    flows: Comparison,
    /// Of each window: inflow − outflow = net; of each month: the markets sum up to the total.
    sums: Comparison,
    /// Every record of the archive against ClickHouse.
    archive: Comparison,
    /// Requests to the sources, those beyond a limit being the differences.
    requests: Comparison,
}

impl Findings {
    fn all(&self) -> [&Comparison; 7] {
        [&self.in_kafka, &self.in_clickhouse, &self.in_parquet, &self.flows, &self.sums, &self.archive, &self.requests]
    }

    /// Whether every check said yes, and there was something to check.
    fn hold(&self) -> bool {
        self.all().iter().all(|check| check.equal() && check.compared > 0)
    }
}

/// How it went and what was found.
pub(super) struct Outcome {
    findings: Findings,
    collected: Collected,
    checking: Duration,
    flows: Vec<PrintedFlow>,
    picture: PathBuf,
}

struct Collected {
    months: u64,
    /// Months that were collected when the collector was killed; `None` where it was done before.
    killed_at: Option<u64>,
    took: Duration,
}

/// The demo.
pub(super) struct Flows {
    stage: Stage,
    series: Vec<Series>,
    first: Month,
    last: Month,
}

impl Flows {
    /// From the arguments.
    ///
    /// # Errors
    /// 64 for what belongs to a session of trades.
    pub(super) fn new(args: &Args) -> anyhow::Result<Self> {
        let of_sessions = args.speed.is_some() || args.days.is_some() || args.from.is_some() || args.to.is_some();
        if of_sessions || args.whole_day || args.live {
            return Err(anyhow!("--market flows plays ten years of months as fast as the sources allow: of these options it has only --keep and --json"))
                .exit(Exit::Usage);
        }
        // what needs a key of a paid source is not among the built-in ones
        let set: SeriesSet = toml::from_str(SeriesSet::BUILT_IN).context("the built-in series")?;
        Ok(Self { stage: Stage::new(args), series: set.series, first: FIRST.parse()?, last: LAST.parse()? })
    }

    /// Months of one endpoint: where it tells quarters, up to the last one that is over.
    fn months_of(&self, series: &Series) -> u64 {
        u64::try_from(series.every.last_ended(self.last).months_since(self.first) + 1).unwrap_or_default()
    }

    fn months_due(&self) -> u64 {
        self.series.iter().map(|series| self.months_of(series)).sum()
    }

    fn simulator_variables(&self) -> Vec<(String, String)> {
        let codes: Vec<String> =
            self.series.iter().map(|series| format!("{:?}", format!("{}:{}", series.source, series.code))).collect();
        [
            ("TAPES", "[]".to_owned()),
            ("SERIES__CODES", format!("[{}]", codes.join(","))),
            ("SERIES__FROM", FIRST.to_owned()),
            ("SERIES__TO", LAST.to_owned()),
        ]
        .map(|(key, value)| (format!("MARKETFLOW__{key}"), value))
        .to_vec()
    }

    /// Starts the collector; what it logs is added to its file.
    fn collector(&self, stack: &Stack) -> anyhow::Result<Child> {
        let spec = stack.service("flow-producer").map_err(|error| problem(&error))?;
        let path = self.stage.home.join("logs/flow-producer.log");
        let log = OpenOptions::new().create(true).append(true).open(&path).with_context(|| format!("{}", path.display()))?;
        let mut command = Command::new(&spec.program);
        // the simulator takes any key; nobody's own leaves the machine
        command.args(&spec.args).envs(spec.env).env("FRED_API_KEY", "demo");
        for (source, per_second) in PACES {
            let key = format!("MARKETFLOW__SOURCES__{}", source.to_uppercase());
            command.env(format!("{key}__URL"), format!("http://127.0.0.1:{}/series/{source}", self.stage.ports.simulator));
            command.env(format!("{key}__PER_SECOND"), per_second.to_string());
        }
        let own = [("FROM", FIRST), ("TO", LAST), ("MONTHS_PER_REQUEST", "12"), ("UPDATE_EVERY", "0s")];
        command.envs(own.map(|(key, value)| (format!("MARKETFLOW__COLLECT__{key}"), value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        command.spawn().context("cannot start flow-producer")
    }

    /// Collects everything, with a kill -9 on the way.
    async fn collect(&mut self, stack: &Stack) -> anyhow::Result<Collected> {
        let begun = Instant::now();
        let due = self.months_due();
        let mut killed_at = None;
        let mut running = self.collector(stack)?;
        let mut moved = (Instant::now(), 0);
        loop {
            let ended = running.try_wait().context("flow-producer")?;
            let by_market = self.months_collected()?;
            let months: u64 = by_market.values().sum();
            self.show(&by_market, killed_at);
            if let Some(status) = ended {
                let log = self.stage.home.join("logs/flow-producer.log");
                ensure!(status.success(), "flow-producer ended with {status}; why stands in {}", log.display());
                ensure!(months == due, "flow-producer ended with {months} of {due} months");
                return Ok(Collected { months, killed_at, took: begun.elapsed() });
            }
            if killed_at.is_none() && months * 100 >= due * KILLED_AT_PERCENT {
                running.kill().await.context("cannot kill flow-producer")?;
                killed_at = Some(months);
                running = self.collector(stack)?;
            }
            if months != moved.1 {
                moved = (Instant::now(), months);
            } else if moved.0.elapsed() >= STUCK_AFTER {
                let logs = self.stage.home.join("logs");
                return Err(anyhow!("no month came for {} s; the logs are in {}", STUCK_AFTER.as_secs(), logs.display()))
                    .exit(Exit::Unreachable);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Months behind the cursors, by market.
    fn months_collected(&self) -> anyhow::Result<BTreeMap<&'static str, u64>> {
        #[derive(Default, Deserialize)]
        struct Tracker {
            endpoints: BTreeMap<String, Month>,
        }
        let mut by_market: BTreeMap<_, _> = Market::ALL.map(|market| (market.as_str(), 0)).into();
        // it appears with the first month, whole
        let Ok(text) = fs::read(self.stage.home.join("run/resume_tracker.json")) else { return Ok(by_market) };
        let tracker: Tracker = serde_json::from_slice(&text).context("resume_tracker.json")?;
        for series in &self.series {
            if let (Some(cursor), Some(months)) =
                (tracker.endpoints.get(&series.endpoint()), by_market.get_mut(series.market.as_str()))
            {
                *months += u64::try_from(cursor.months_since(self.first) + 1).unwrap_or_default();
            }
        }
        Ok(by_market)
    }

    fn show(&mut self, by_market: &BTreeMap<&'static str, u64>, killed_at: Option<u64>) {
        let (language, paint, all) = (self.stage.language, self.stage.screen.paint, self.months_due());
        let due_of = |market: &str| {
            self.series.iter().filter(|series| series.market.as_str() == market).map(|series| self.months_of(series)).sum::<u64>()
        };
        let rows: Vec<(&str, u64, u64)> = Market::ALL
            .map(|market| (market.as_str(), by_market.get(market.as_str()).copied().unwrap_or_default(), due_of(market.as_str())))
            .into();
        let months: u64 = by_market.values().sum();
        let killed = killed_at.map(|at| killed_words(at, language));
        let one_line = || {
            let killed = killed.as_ref().map(|words| format!("; {words}")).unwrap_or_default();
            format!("  {} / {} {}{killed}", grouped(months), grouped(all), language.pick("months", "개월"))
        };
        let picture = |_| {
            let mut lines: Vec<String> = rows.iter().map(|(market, done, due)| bar(market, *done, *due, paint)).collect();
            lines.extend(killed.iter().map(|words| paint.apply(Tone::Faint, &format!("  {words}"))));
            lines
        };
        self.stage.screen.draw(one_line, picture);
    }

    /// Judges again and again until every check of the rows says yes, or until nothing changes any more.
    async fn wait_for_rows(&mut self, clickhouse: &ClickHouse, truth: &Values) -> anyhow::Result<(Comparison, Comparison)> {
        self.stage.screen.hint(self.stage.language.pick("  waiting for the rows …", "  행 적재를 기다리는 중 …"));
        let expected = recomputed(truth)?;
        let begun = Instant::now();
        let mut changed = (Instant::now(), (0, 0));
        loop {
            let values = values_in_clickhouse(clickhouse).await?;
            let flows = flows_in_clickhouse(clickhouse).await?;
            let found = (compare(truth, &values), compare(&expected, &flows));
            if found.0.equal() && found.1.equal() {
                return Ok(found);
            }
            let differences = (found.0.different, found.1.different);
            if differences != changed.1 {
                changed = (Instant::now(), differences);
            }
            if changed.0.elapsed() >= SETTLED_AFTER || begun.elapsed() >= CHECK_WITHIN {
                return Ok(found);
            }
            sleep(LOOK_EVERY * 4).await;
        }
    }

    /// Runs the archiver to its end.
    async fn archive(&mut self, addresses: &Addresses) -> anyhow::Result<()> {
        self.stage.screen.hint(self.stage.language.pick("  writing Parquet …", "  Parquet 기록 중 …"));
        let mut command = Command::from(sibling("archiver")?);
        command.env("MARKETFLOW__KAFKA__BOOTSTRAP_SERVERS", &addresses.kafka);
        command.env("MARKETFLOW__REGISTRY__URL", &addresses.registry);
        let place = format!("archive.to={:?}", self.stage.home.display().to_string());
        for setting in
            [place.as_str(), "archive.every=0s", "admin.listen=127.0.0.1:0", r#"log.level="warn,marketflow_kafka=error""#]
        {
            command.args(["--set", setting]);
        }
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).status().await;
        let status = status.context("cannot start the archiver")?;
        if !status.success() {
            bail!("the archiver ended with {status}");
        }
        Ok(())
    }

    fn values_in_parquet(&self) -> anyhow::Result<Values> {
        let mut values = Values::new();
        for market in Market::ALL {
            let path = self.stage.home.join(market_path(market.as_str()));
            let Ok(bytes) = fs::read(&path) else { continue };
            let file = MarketFile::read(bytes.into()).with_context(|| format!("{}", path.display()))?;
            for observation in file.observations() {
                let (key, value) = keyed(observation)?;
                values.insert(key, value);
            }
        }
        Ok(values)
    }

    fn statement(&self, outcome: &Outcome, paint: Paint) -> Vec<String> {
        let language = self.stage.language;
        let Outcome { findings, collected, checking, .. } = outcome;
        let mut lines = vec![
            paint.apply(Tone::Strong, language.pick("Checked statement", "검증 결과")),
            format!(
                "  {} {FIRST} – {LAST}; {} {}, {} {}, {} {}",
                language.pick("six markets,", "여섯 시장,"),
                language.pick("start-up", "기동"),
                stretch(self.stage.starting),
                language.pick("collecting", "수집"),
                stretch(collected.took),
                language.pick("settling and checking", "마무리·검증"),
                stretch(*checking)
            ),
            match collected.killed_at {
                Some(at) => format!("  {}", killed_words(at, language)),
                None => format!(
                    "  {}",
                    language.pick(
                        "flow-producer was done before it could be killed",
                        "flow-producer가 강제 종료 전에 수집을 마쳤습니다"
                    )
                ),
            },
        ];
        let number = |of: &Comparison| grouped(of.compared as u64);
        let questions = [
            (
                language.pick("Kafka holds every value the sources hold, once", "출처의 모든 값이 Kafka에 한 번씩 있음"),
                &findings.in_kafka,
                language.pick(
                    format!(
                        "{} values, {} of them published as missing",
                        grouped(findings.values as u64),
                        grouped(findings.missing as u64)
                    ),
                    format!("값 {}개, 그중 결측 {}개", grouped(findings.values as u64), grouped(findings.missing as u64)),
                ),
            ),
            (
                language.pick("ClickHouse shows the same values, to the last decimal", "ClickHouse의 값이 소수 끝자리까지 같음"),
                &findings.in_clickhouse,
                language
                    .pick(format!("{} rows", number(&findings.in_clickhouse)), format!("{}행", number(&findings.in_clickhouse))),
            ),
            (
                language.pick("Parquet holds the same values, to the last decimal", "Parquet의 값이 소수 끝자리까지 같음"),
                &findings.in_parquet,
                language.pick(format!("{} rows", number(&findings.in_parquet)), format!("{}행", number(&findings.in_parquet))),
            ),
            (
                language.pick(
                    "Flows in ClickHouse equal a batch recomputation from the sources' values",
                    "ClickHouse의 흐름이 출처의 값을 일괄 재계산한 결과와 일치",
                ),
                &findings.flows,
                language.pick(format!("{} windows", number(&findings.flows)), format!("구간 {}개", number(&findings.flows))),
            ),
            (
                language.pick(
                    "Inflow less outflow is net, and the markets add up to the total",
                    "유입 − 유출 = 순유입이고 시장의 합이 전체와 같음",
                ),
                &findings.sums,
                language.pick(format!("{} sums", number(&findings.sums)), format!("합계 {}건", number(&findings.sums))),
            ),
            (
                language.pick(
                    "The archive's files are whole and hold as many records as ClickHouse",
                    "보관 파일이 온전하고 레코드 수가 ClickHouse와 같음",
                ),
                &findings.archive,
                language
                    .pick(format!("{} records", number(&findings.archive)), format!("레코드 {}건", number(&findings.archive))),
            ),
            (
                language.pick("No source was asked more often than it allows", "어느 출처도 허용 한도보다 자주 묻지 않음"),
                &findings.requests,
                language
                    .pick(format!("{} requests", number(&findings.requests)), format!("요청 {}건", number(&findings.requests))),
            ),
        ];
        for (question, comparison, size) in questions {
            lines.extend(answer(question, comparison, &size, language, paint));
        }
        lines
    }

    fn where_next(&self, kept: bool) -> Vec<String> {
        let language = self.stage.language;
        let marketflow = std::env::args().next().unwrap_or_else(|| "marketflow".to_owned());
        let home = self.stage.home.display();
        let with_home = format!("MARKETFLOW_HOME={home} {marketflow}");
        let mut lines = vec![language.pick("Where to look next", "다음으로 볼 것").to_owned()];
        lines.push(format!("  {with_home} export --market bonds --format csv"));
        if kept {
            lines.push(format!("  {with_home} flows --from 2020-01 --to 2020-12"));
            lines.push(format!("  {with_home} flows --format svg --measure share > share.svg"));
            lines.push(format!("  {with_home} flows rotation --format svg > rotation.svg"));
            lines.push(language.pick(
                format!("It keeps running. Stop it: {with_home} down"),
                format!("계속 실행 중입니다. 끝내려면: {with_home} down"),
            ));
        } else {
            lines.push(language.pick(
                format!("  --keep leaves it running, to be asked; nothing runs any more, the logs are in {home}/logs"),
                format!(
                    "  --keep로 실행하면 스택을 남겨 두고 조회할 수 있습니다. 실행 중인 프로세스는 없습니다. 로그: {home}/logs"
                ),
            ));
        }
        lines
    }
}

impl Performance for Flows {
    type Outcome = Outcome;

    fn stage(&mut self) -> &mut Stage {
        &mut self.stage
    }

    async fn start(&mut self) -> anyhow::Result<Stack> {
        let headline = self.stage.language.pick(
            format!(
                "marketflow demo: months of six markets, {FIRST} to {LAST}, as their sources show them\n  \
                 values are made up from a seed; each source's own limit is in force; flow-producer is killed on the way"
            ),
            format!(
                "marketflow 데모: 여섯 시장의 월별 데이터 {FIRST} ~ {LAST}, 출처의 API 형식 그대로\n  \
                 값은 시드로 만든 가상 데이터이고 출처별 호출 한도가 적용되며, 도중에 flow-producer를 강제 종료합니다"
            ),
        );
        let mut stack = self.stage.start(&headline).await?;
        let sooner = vec![("MARKETFLOW__BATCH__MAX_AGE".to_owned(), "250ms".to_owned())];
        self.stage.start_service(&mut stack, "sink", sooner).await?;
        self.stage.start_service(&mut stack, "processor", Vec::new()).await?;
        self.stage.start_service(&mut stack, "simulator", self.simulator_variables()).await?;
        stack.mark_ready();
        Ok(stack)
    }

    async fn play_and_check(&mut self, stack: &Stack) -> anyhow::Result<Outcome> {
        self.stage.starting = self.stage.begun.elapsed();
        let collected = self.collect(stack).await?;
        let checking = Instant::now();
        let addresses = stack.addresses();
        let clickhouse = ClickHouse::new(&ClickHouseConfig::new(&addresses.clickhouse));
        let sources = Sources::new(self.stage.ports.simulator_admin)?;
        let truth = sources.values().await?;
        let (in_clickhouse, flows) = self.wait_for_rows(&clickhouse, &truth).await?;
        let in_kafka = compare_once(&truth, &values_in_kafka(&addresses).await?);
        self.archive(&addresses).await?;
        let place = self.stage.home.display().to_string();
        let findings = Findings {
            values: truth.len(),
            missing: truth.values().filter(|value| value.is_none()).count(),
            in_kafka,
            in_clickhouse,
            in_parquet: compare(&truth, &self.values_in_parquet()?),
            flows,
            sums: sums(&flows_in_clickhouse(&clickhouse).await?),
            archive: archive::verified(&place, &clickhouse).await.map(|(rows, problems)| Comparison::of(rows, problems))?,
            requests: sources.requests().await?,
        };
        let flows = flows::of_markets(&clickhouse).await?;
        let path = self.stage.home.join(PICTURE);
        let svg = picture::svg(&flows, "market, COMBINED, USD", Measure::ZScore)?;
        fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Outcome { findings, collected, checking: checking.elapsed(), flows, picture: path })
    }

    async fn conclude(&mut self, outcome: Outcome) -> anyhow::Result<Exit> {
        let kept = self.stage.keep && self.stage.hand_over().await?;
        let Outcome { findings, collected, checking, flows, picture } = &outcome;
        let ok = findings.hold();
        if self.stage.json {
            let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            json(&serde_json::json!({
                "ok": ok, "market": "flows", "from": FIRST, "to": LAST, "months": collected.months, "killed_at": collected.killed_at,
                "starting_ms": millis(self.stage.starting), "collecting_ms": millis(collected.took), "checking_ms": millis(*checking),
                "picture": picture.display().to_string(), "findings": findings,
            }))?;
            return Ok(if ok { Exit::Ok } else { Exit::CheckSaidNo });
        }
        let months: BTreeSet<&str> = flows.iter().map(|flow| flow.month.as_str()).collect();
        let shown: Vec<&str> = months.into_iter().rev().take(usize::try_from(SHOWN_MONTHS)?).collect();
        let last: Vec<PrintedFlow> = flows.iter().filter(|flow| shown.contains(&flow.month.as_str())).cloned().collect();
        line("");
        line(&flows::table(&last));
        let pick = self.stage.language.pick("the picture of all months", "모든 달의 그림");
        line(&format!("{pick}: {}", picture.display()));
        line("");
        self.statement(&outcome, self.stage.screen.paint).iter().for_each(|text| line(text));
        line("");
        self.where_next(kept).iter().for_each(|text| line(text));
        Ok(if ok { Exit::Ok } else { Exit::CheckSaidNo })
    }
}

/// What the simulated sources hold, and who asked them.
struct Sources {
    http: reqwest::Client,
    admin: String,
}

impl Sources {
    fn new(port: u16) -> anyhow::Result<Self> {
        Ok(Self { http: reqwest::Client::builder().no_proxy().build()?, admin: format!("http://127.0.0.1:{port}") })
    }

    async fn ask(&self, what: &str) -> anyhow::Result<String> {
        let answer = self.http.get(format!("{}/{what}", self.admin)).send().await.and_then(reqwest::Response::error_for_status);
        answer.context("the simulator")?.text().await.context("the simulator")
    }

    async fn values(&self) -> anyhow::Result<Values> {
        self.ask("series").await?.lines().map(source_value).collect()
    }

    async fn requests(&self) -> anyhow::Result<Comparison> {
        let requests: BTreeMap<String, Value> = serde_json::from_str(&self.ask("series/requests").await?)?;
        let of = |count: &Value, name: &str| count[name].as_u64().unwrap_or_default();
        let refused = requests.iter().filter(|(_, count)| of(count, "refused") > 0);
        let refused = refused.map(|(source, count)| format!("{source} refused {}", of(count, "refused"))).collect();
        let received: u64 = requests.values().map(|count| of(count, "received")).sum();
        Ok(Comparison::of(usize::try_from(received)?, refused))
    }
}

/// A line of what the simulator holds, as the flow-producer has to say it.
fn source_value(line: &str) -> anyhow::Result<(Key, Option<SeriesValue>)> {
    #[derive(Deserialize)]
    struct Line {
        source: String,
        code: String,
        value: String,
        month: Month,
        number: Option<String>,
    }
    let Line { source, code, value, month, number } = serde_json::from_str(line).context("a line of the simulator's series")?;
    let series = if value == marketflow_providers::series::VALUE { code } else { format!("{code}/{value}") };
    let number = number.map(|number| number.parse()).transpose().with_context(|| format!("a number in {line}"))?;
    Ok(((source.to_uppercase(), series, month), number))
}

fn keyed(observation: &Observation) -> anyhow::Result<(Key, Option<SeriesValue>)> {
    let Observation { provider, series, period_start, value, .. } = observation;
    let is_period = |month: &Month| {
        let ends = [Every::Month, Every::Quarter].map(|every| every.last_of(*month).end());
        month.start() == *period_start && ends.contains(&observation.period_end)
    };
    let month = Month::of(*period_start).filter(is_period);
    let month = month.with_context(|| format!("{provider}:{series}: {period_start} begins no month or quarter"))?;
    Ok(((provider.clone(), series.clone(), month), *value))
}

async fn values_in_kafka(addresses: &Addresses) -> anyhow::Result<BTreeMap<Key, Vec<Option<SeriesValue>>>> {
    let mut decoder = Registry::new(&RegistryConfig { url: addresses.registry.clone() })?.decoder().await?;
    let kafka = KafkaConfig::new(&addresses.kafka);
    let read = move || -> anyhow::Result<_> {
        let reader = Reader::new(&kafka)?;
        let mut values: BTreeMap<Key, Vec<_>> = BTreeMap::new();
        topics::each(&reader, OBSERVATIONS, |_, _, value| {
            let (key, value) = keyed(&decoder.decode(value)?)?;
            values.entry(key).or_default().push(value);
            Ok(())
        })?;
        Ok(values)
    };
    tokio::task::spawn_blocking(read).await.context("reading the topic was cut short")?
}

async fn values_in_clickhouse(clickhouse: &ClickHouse) -> anyhow::Result<Values> {
    let sql = "SELECT provider, series, formatDateTime(period_start, '%Y-%m'), toString(value) FROM observations";
    let rows = texts(clickhouse, "read observations", sql, &[]).await?;
    let value = |row: Texts| -> anyhow::Result<(Key, Option<SeriesValue>)> {
        let [provider, series, month, value] =
            <[Option<String>; 4]>::try_from(row).ok().context("an observation of another shape")?;
        let key = (provider.unwrap_or_default(), series.unwrap_or_default(), month.unwrap_or_default().parse()?);
        Ok((key, value.map(|value| value.parse()).transpose()?))
    };
    rows.into_iter().map(value).collect()
}

/// Inflow, outflow, net, inputs and whether they are stale.
type Flow = (Amount, Amount, Amount, i64, bool);

async fn flows_in_clickhouse(clickhouse: &ClickHouse) -> anyhow::Result<BTreeMap<Window, Flow>> {
    let sql = "SELECT scope, name, method, currency, toString(toUnixTimestamp64Micro(open_time)), toString(toUnixTimestamp64Micro(close_time)), \
               toString(inflow), toString(outflow), toString(net), toString(input_count), toString(toUInt8(stale)) FROM flow_aggregates";
    let rows = texts(clickhouse, "read flows", sql, &[]).await?;
    let flow = |row: Texts| -> anyhow::Result<(Window, Flow)> {
        let row: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
        let [scope, name, method, currency, open, close, inflow, outflow, net, inputs, stale] =
            <[String; 11]>::try_from(row).ok().context("a flow of another shape")?;
        let flow = (inflow.parse()?, outflow.parse()?, net.parse()?, inputs.parse()?, stale == "1");
        Ok(((scope, name, method, currency, open.parse()?, close.parse()?), flow))
    };
    rows.into_iter().map(flow).collect()
}

/// The flows of these values, computed at once and here.
fn recomputed(truth: &Values) -> anyhow::Result<BTreeMap<Window, Flow>> {
    let settings: MarketSettings = toml::from_str(MARKET_SETTINGS).context("the settings of the flows")?;
    let mut flows = MarketFlows::new(settings);
    for ((provider, series, month), value) in truth {
        flows.on_observation(&Observation {
            provider: provider.clone(),
            series: series.clone(),
            period_start: month.start(),
            period_end: month.end(),
            value: *value,
            unit: String::new(),
            published_at: None,
            vintage: None,
            receive_time: Timestamp::from_micros(0),
        });
    }
    let mut published = Vec::new();
    flows.publish(&mut published);
    let last_words = published.into_iter().map(|flow| {
        let window = (flow.scope, flow.name, flow.method, flow.currency, flow.open_time.micros(), flow.close_time.micros());
        (window, (flow.inflow, flow.outflow, flow.net, flow.input_count, flow.stale))
    });
    Ok(last_words.collect())
}

/// Whether the columns of each window and the markets of each month add up.
fn sums(flows: &BTreeMap<Window, Flow>) -> Comparison {
    let mut wrong = Vec::new();
    let mut by_month: BTreeMap<(i64, i64), (i128, Option<i128>)> = BTreeMap::new();
    for (window, (inflow, outflow, net, ..)) in flows {
        if inflow.scaled() - outflow.scaled() != net.scaled() {
            wrong.push(format!("{window:?}: {inflow} − {outflow} is not {net}"));
        }
        let (scope, _, method, _, open, close) = window;
        let of_month = by_month.entry((*open, *close)).or_default();
        match (scope.as_str(), method.as_str()) {
            ("market", "COMBINED") => of_month.0 += net.scaled(),
            ("global", "COMBINED") => of_month.1 = Some(net.scaled()),
            _ => {}
        }
    }
    let differ = by_month.iter().filter(|(_, (markets, total))| total.is_some_and(|total| total != *markets));
    wrong.extend(
        differ.map(|((open, _), _)| format!("the month from {}: the markets are not the total", Timestamp::from_micros(*open))),
    );
    Comparison::of(flows.len() + by_month.len(), wrong)
}

fn compare<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    expected: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
) -> Comparison {
    let mut differences: Vec<String> = expected
        .iter()
        .filter(|(key, value)| found.get(*key) != Some(*value))
        .map(|(key, value)| format!("{key:?}: expected {value:?}, found {:?}", found.get(key)))
        .collect();
    let strange = found.iter().filter(|(key, _)| !expected.contains_key(*key));
    differences.extend(strange.map(|(key, value)| format!("{key:?}: {value:?}, which no source holds")));
    Comparison::of(expected.len(), differences)
}

fn compare_once(expected: &Values, found: &BTreeMap<Key, Vec<Option<SeriesValue>>>) -> Comparison {
    let once = expected.iter().map(|(key, value)| (key.clone(), vec![*value])).collect();
    compare(&once, found)
}

fn killed_words(at: u64, language: Language) -> String {
    let at = grouped(at);
    language.pick(
        format!("flow-producer was killed (SIGKILL) at {at} months and went on from there"),
        format!("flow-producer를 {at}개월에서 강제 종료(SIGKILL)했고 그 지점부터 이어서 수집했습니다"),
    )
}

/// `stocks        ██████████░░░░░░  213 / 360`
fn bar(market: &str, done: u64, due: u64, paint: Paint) -> String {
    let filled = usize::try_from(done * BAR_COLUMNS as u64 / due.max(1)).unwrap_or(BAR_COLUMNS).min(BAR_COLUMNS);
    let full = "█".repeat(filled);
    let empty = paint.apply(Tone::Faint, &"░".repeat(BAR_COLUMNS - filled));
    format!("  {} {full}{empty} {:>5} / {}", padded(market, 12), grouped(done), grouped(due))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(numbers: &[(&str, Option<&str>)]) -> Values {
        let key = |month: &str| ("FRED".to_owned(), "DGS10".to_owned(), month.parse().unwrap());
        numbers.iter().map(|(month, number)| (key(month), number.map(|number| number.parse().unwrap()))).collect()
    }

    #[test]
    fn what_is_missing_wrong_double_or_strange_is_a_difference() {
        let truth = values(&[("2020-01", Some("1.5")), ("2020-02", None), ("2020-03", Some("1.7"))]);
        assert!(compare(&truth, &truth).equal());
        let found = values(&[("2020-01", Some("1.5")), ("2020-02", Some("1.6")), ("2020-04", None)]);
        assert_eq!(compare(&truth, &found).different, 3);
        let mut log: BTreeMap<Key, Vec<_>> = truth.iter().map(|(key, value)| (key.clone(), vec![*value])).collect();
        assert!(compare_once(&truth, &log).equal());
        log.values_mut().next().unwrap().push(Some("1.5".parse().unwrap()));
        assert_eq!(compare_once(&truth, &log).different, 1);
    }

    #[test]
    fn a_line_of_a_source_is_the_observation_it_has_to_become() {
        let line = r#"{"source":"yahoo","code":"SPY","value":"close","month":"2020-01","number":"321.73"}"#;
        let month: Month = "2020-01".parse().unwrap();
        let expected = (("YAHOO".to_owned(), "SPY/close".to_owned(), month), Some("321.73".parse().unwrap()));
        assert_eq!(source_value(line).unwrap(), expected);
        let missing = r#"{"source":"fred","code":"DGS10","value":"value","month":"2020-01","number":null}"#;
        assert_eq!(source_value(missing).unwrap(), (("FRED".to_owned(), "DGS10".to_owned(), month), None));
        assert!(source_value("{}").is_err());
    }

    #[test]
    fn flows_of_made_up_values_add_up_and_a_wrong_one_is_found() {
        let truth = values(&[("2020-01", Some("1.5")), ("2020-02", Some("1.4")), ("2020-03", Some("1.7"))]);
        let mut flows = recomputed(&truth).unwrap();
        assert!(flows.keys().any(|window| window.0 == "market" && window.1 == "bonds"), "{flows:?}");
        assert!(sums(&flows).equal(), "{:?}", sums(&flows));
        let total = flows.iter_mut().find(|(window, _)| window.0 == "global").unwrap().1;
        total.2 = "0.5".parse().unwrap();
        assert_eq!(sums(&flows).different, 2, "its own columns and the month");
    }

    #[test]
    fn progress_is_a_bar() {
        let of = |done| bar("stocks", done, 360, Paint::PLAIN);
        assert!(of(0).contains(&"░".repeat(BAR_COLUMNS)) && of(360).contains(&"█".repeat(BAR_COLUMNS)));
        assert!(of(180).ends_with("  180 / 360"), "{}", of(180));
    }
}
