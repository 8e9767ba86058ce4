//! What is played, how fast, and what each service is told for it.
//!
//! Next: `watch.rs`.

use super::{Args, Market};
use anyhow::{Context, anyhow, bail, ensure};
use jiff::tz::TimeZone;
use marketflow_model::{Calendar, Timestamp};
use marketflow_runtime::{Exit, ExitContext};
use marketflow_stack::{Language, Ports};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// First and last minute of the recorded session (`make setup` fetches it): 100,000 trades of Bitstamp's BTC/USD market.
const TAPE_FROM: &str = "2013-11-25T00:00:00Z";
const TAPE_TO: &str = "2013-12-01T16:02:06Z";
/// The Korean day: regular session and closing auction, 09:00 to 15:31 in Korea. It is made up from a seed; only the names are real.
const KRX_FROM: &str = "2026-11-20T00:00:00Z";
const KRX_TO: &str = "2026-11-20T06:31:00Z";
/// Unless the whole day is wanted: its last 46 minutes.
const KRX_USUAL_FROM: &str = "2026-11-20T05:45:00Z";
const KRX_DATE: &str = "2026-11-20";
/// About so many trades of the whole day, all instruments together.
const KRX_TRADES: u32 = 60_000;
const KRX_SPEED: f64 = 60.0;
/// The connection is lost, and the broker not there for so long.
const KRX_OUTAGE_AT: &str = "2026-11-20T06:03:00Z";
const KRX_OUTAGE_SECONDS: f64 = 90.0;
/// In Korea's time.
const KRX_HALT: (&str, &str) = ("14:50:00", "14:55:00");

/// An instrument of the Korean day.
struct Listing {
    code: &'static str,
    korean: &'static str,
    english: &'static str,
    /// Where its prices begin, won.
    base: u32,
    halted: bool,
}

/// The first is drawn.
const KRX_LISTINGS: [Listing; 3] = [
    Listing { code: "005930", korean: "삼성전자", english: "Samsung Electronics", base: 71_000, halted: false },
    Listing { code: "000660", korean: "SK하이닉스", english: "SK hynix", base: 185_000, halted: true },
    Listing { code: "035420", korean: "NAVER", english: "NAVER", base: 202_500, halted: false },
];

/// The usual speed plays the chosen part in so many seconds.
const PLAYED_IN_SECONDS: i64 = 23;
/// How far event time may run ahead of the reading of the virtual clock: what passes between two readings, and then some.
const CLOCK_READING_SECONDS: f64 = 2.0;
/// The processor's own tolerance where time runs as usual.
const FUTURE_TOLERANCE_SECONDS: f64 = 5.0;
const EXCHANGE_ANSWERS_WITHIN: Duration = Duration::from_secs(8);
const DAY_MICROS: i64 = 86_400_000_000;

/// An exchange that needs no key: what `--live` listens to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Exchange {
    /// BTC/USD on Bitstamp
    Bitstamp,
    /// BTC/KRW on Upbit
    Upbit,
}

/// Where an exchange answers, unless the tick-producer's own variables say otherwise.
struct Addresses {
    name: &'static str,
    instrument: &'static str,
    rest: &'static str,
    /// Something small to ask.
    ticker: &'static str,
    socket: &'static str,
}

impl Exchange {
    const fn addresses(self) -> Addresses {
        match self {
            Self::Bitstamp => Addresses {
                name: "Bitstamp",
                instrument: "BITSTAMP:BTCUSD",
                rest: "https://www.bitstamp.net",
                ticker: "/api/v2/ticker/btcusd/",
                socket: "wss://ws.bitstamp.net",
            },
            Self::Upbit => Addresses {
                name: "Upbit",
                instrument: "UPBIT:KRW-BTC",
                rest: "https://api.upbit.com",
                ticker: "/v1/trades/ticks?market=KRW-BTC",
                socket: "wss://api.upbit.com/websocket/v1",
            },
        }
    }
}

/// How fast virtual time runs.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Speed {
    Times(f64),
    Max,
}

/// One session.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) live: bool,
    market: Market,
    exchange: Exchange,
    /// The one that is drawn.
    pub(super) instrument: String,
    from: Timestamp,
    to: Timestamp,
    speed: Speed,
}

impl Plan {
    /// From the arguments.
    ///
    /// # Errors
    /// 64: a time or speed that is none.
    pub(super) fn of(args: &Args) -> anyhow::Result<Self> {
        let (market, exchange) = (args.market, args.exchange);
        let instrument = if market == Market::Krx {
            format!("KRX:{}", KRX_LISTINGS[0].code)
        } else {
            exchange.addresses().instrument.to_owned()
        };
        if args.live && market == Market::Crypto {
            let from = Timestamp::from_micros(jiff::Timestamp::now().as_microsecond());
            let to = from.plus_micros(i64::from(args.minutes) * 60_000_000);
            return Ok(Self { live: true, market, exchange, instrument, from, to, speed: Speed::Times(1.0) });
        }
        let plan = || {
            let (first, usual, last) =
                if market == Market::Krx { (KRX_FROM, KRX_USUAL_FROM, KRX_TO) } else { (TAPE_FROM, TAPE_FROM, TAPE_TO) };
            let (begin, end) = (Timestamp::parse(first)?, Timestamp::parse(last)?);
            ensure!(
                !args.live || market == Market::Crypto,
                "--live listens to exchanges that need no key; docs/providers/kis.md tells how to run on your own"
            );
            ensure!(!args.whole_day || market == Market::Krx, "--whole-day belongs to --market krx");
            ensure!(
                args.days.is_none() || market == Market::Crypto,
                "--market krx plays one day; --whole-day, --from and --to choose of it"
            );
            let usual = if args.whole_day { begin } else { Timestamp::parse(usual)? };
            let instant = |text: &Option<String>, otherwise| match text {
                Some(text) => Timestamp::parse(text).with_context(|| format!("{text:?}")),
                None => Ok(otherwise),
            };
            let from = instant(&args.from, usual)?.max(begin);
            let mut to = instant(&args.to, end)?.min(end);
            if let Some(days) = args.days {
                ensure!(days > 0, "--days must be at least 1");
                to = to.min(from.plus_micros(i64::from(days).saturating_mul(DAY_MICROS)));
            }
            ensure!(from < to, "nothing is played between {from} and {to}; the session is {first} to {last}");
            let speed = match args.speed.as_deref() {
                None if market == Market::Krx => Speed::Times(KRX_SPEED),
                None => usual_speed(from, to),
                Some("max") => Speed::Max,
                Some(text) => match text.trim_end_matches(['x', '×']).parse::<f64>() {
                    Ok(times) if times.is_finite() && times > 0.0 => Speed::Times(times),
                    _ => bail!("--speed {text} is neither a number above 0 nor max"),
                },
            };
            Ok(Self { live: false, market, exchange, instrument, from, to, speed })
        };
        plan().exit(Exit::Usage)
    }

    /// A live session begins now and not when it was asked for.
    pub(super) fn begins_now(&mut self) {
        if self.live {
            let length = self.to.micros() - self.from.micros();
            self.from = Timestamp::from_micros(jiff::Timestamp::now().as_microsecond());
            self.to = self.from.plus_micros(length);
        }
    }

    pub(super) fn from(&self) -> Timestamp {
        self.from
    }

    pub(super) fn to(&self) -> Timestamp {
        self.to
    }

    pub(super) fn headline(&self, language: Language) -> String {
        let rest = self.exchange.addresses().rest;
        if self.market == Market::Krx {
            return self.headline_of_the_korean_day(language);
        }
        match (self.live, self.speed) {
            (true, _) => language.pick(
                format!("marketflow demo: {} live from {rest}", self.instrument),
                format!("marketflow 데모: {} 실시간 ({rest})", self.instrument),
            ),
            (false, Speed::Max) => language.pick(
                format!("marketflow demo: {}, a recorded session as fast as it goes", self.instrument),
                format!("marketflow 데모: {} 녹화 세션, 최대 속도", self.instrument),
            ),
            (false, Speed::Times(times)) => language.pick(
                format!("marketflow demo: {}, a recorded session at {times:.0}× speed", self.instrument),
                format!("marketflow 데모: {} 녹화 세션, {times:.0}배속", self.instrument),
            ),
        }
    }

    fn headline_of_the_korean_day(&self, language: Language) -> String {
        let zone = self.zone();
        let clock = |at: Timestamp| super::text::local(at, &zone, "%H:%M");
        let speed = match self.speed {
            Speed::Max => language.pick("as fast as it goes", "최대 속도").to_owned(),
            Speed::Times(times) => language.pick(format!("at {times:.0}× speed"), format!("{times:.0}배속")),
        };
        let names: Vec<String> = self.names(language).into_iter().map(|(_, name)| name).collect();
        let (names, from, to) = (names.join(", "), clock(self.from), clock(self.to));
        let (halt_from, halt_until) = (&KRX_HALT.0[..5], &KRX_HALT.1[..5]);
        language.pick(
            format!(
                "marketflow demo: a day of the Korea Exchange as the broker KIS shows it, {speed}: {KRX_DATE} {from}–{to} KST, {names}\n  \
                 prices are made up from a seed; {halt_from}–{halt_until} a halt, at 15:03 the connection is lost for {KRX_OUTAGE_SECONDS:.0} s, from 15:20 the closing auction"
            ),
            format!(
                "marketflow 데모: 한국투자증권 API 형식으로 재생하는 한국거래소 하루, {speed}: {KRX_DATE} {from}–{to} KST, {names}\n  \
                 시세는 시드로 만든 가상 데이터입니다. {halt_from}–{halt_until} 거래정지, 15:03 {KRX_OUTAGE_SECONDS:.0}초간 연결 끊김, 15:20부터 장마감 동시호가"
            ),
        )
    }

    /// Whether the venue can be asked for trades that were missed.
    pub(super) fn tells_the_past(&self) -> bool {
        self.market == Market::Crypto
    }

    /// The zone people of this market read times in.
    pub(super) fn zone(&self) -> TimeZone {
        Calendar::of_venue(self.instrument.split(':').next().unwrap_or_default()).zone().clone()
    }

    /// The instruments with the names people know them by, the drawn one first; empty where there is only that one.
    pub(super) fn names(&self, language: Language) -> Vec<(String, String)> {
        let name = |listing: &Listing| {
            let name = language.pick(listing.english, listing.korean);
            (format!("KRX:{}", listing.code), format!("{} {name}", listing.code))
        };
        if self.market == Market::Krx { KRX_LISTINGS.iter().map(name).collect() } else { Vec::new() }
    }

    pub(super) fn venue_words(&self, language: Language) -> String {
        if self.live {
            self.exchange.addresses().name.to_owned()
        } else if self.market == Market::Krx {
            language.pick("KRX (simulator)", "한국거래소(시뮬레이터)").to_owned()
        } else {
            language.pick("exchange (simulator)", "거래소(시뮬레이터)").to_owned()
        }
    }

    /// The services of this session, in the order they start: readers before writers.
    pub(super) fn services(&self) -> &'static [&'static str] {
        if self.live { &["sink", "processor", "tick-producer"] } else { &["sink", "processor", "simulator", "tick-producer"] }
    }

    /// What a service is told beyond its addresses.
    pub(super) fn variables(&self, service: &str, home: &Path, ports: &Ports) -> Vec<(String, String)> {
        let wire = format!("127.0.0.1:{}", ports.simulator);
        let korean = if self.market == Market::Krx { self.korean_variables(service, &wire) } else { Vec::new() };
        let variables: Vec<(&str, String)> = match (service, self.live) {
            ("simulator", _) => vec![
                ("MARKETFLOW__CLOCK__SPEED", self.speed_text()),
                ("MARKETFLOW__START__AUTOMATIC", "false".to_owned()),
                ("MARKETFLOW__RANGE__FROM", self.from.to_string()),
                ("MARKETFLOW__RANGE__TO", self.to.to_string()),
                ("MARKETFLOW__TRUTH__PATH", truth_file(home).display().to_string()),
                // an exchange that is killed goes on where its day was
                ("MARKETFLOW__PLACE__PATH", place_file(home).display().to_string()),
            ],
            ("processor", false) => vec![("MARKETFLOW__BARS__FUTURE_TOLERANCE", format!("{}s", self.future_tolerance_seconds()))],
            // rows sooner than a sink that has the day before it would insert them
            ("sink", _) => vec![("MARKETFLOW__BATCH__MAX_AGE", "250ms".to_owned())],
            ("tick-producer", false) => vec![
                ("MARKETFLOW__PROVIDER__WEBSOCKET_URL", format!("ws://{wire}/bitstamp")),
                ("MARKETFLOW__PROVIDER__REST_URL", format!("http://{wire}/bitstamp")),
                ("MARKETFLOW__CLOCK__SOURCE", format!("http://127.0.0.1:{}/clock", ports.simulator_admin)),
            ],
            // another endpoint or instrument, where somebody said so
            ("tick-producer", true) => {
                let exchange = self.exchange.addresses();
                let own = [
                    ("MARKETFLOW__PROVIDER__NAME", exchange.name.to_lowercase()),
                    ("MARKETFLOW__PROVIDER__INSTRUMENTS", format!("[\"{}\"]", exchange.instrument)),
                ];
                let mut variables: BTreeMap<String, String> =
                    own.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                variables.extend(std::env::vars().filter(|(name, _)| name.starts_with("MARKETFLOW__PROVIDER__")));
                return variables.into_iter().collect();
            }
            _ => Vec::new(),
        };
        // the later of two counts
        variables.into_iter().chain(korean).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What the Korean day needs beyond or instead of what a recorded session does.
    fn korean_variables(&self, service: &str, wire: &str) -> Vec<(&'static str, String)> {
        match service {
            "simulator" => {
                let listings: Vec<String> = KRX_LISTINGS.iter().map(listing_value).collect();
                let tape =
                    format!(r#"[{{kind="krx-day",date="{KRX_DATE}",trades={KRX_TRADES},listings=[{}]}}]"#, listings.join(","));
                vec![
                    ("MARKETFLOW__TAPES", tape),
                    ("MARKETFLOW__FAULTS", self.outage()),
                    ("MARKETFLOW__CLOCK__OUTAGE", format!("{KRX_OUTAGE_SECONDS}s")),
                    // past the longest a closing print may take
                    ("MARKETFLOW__CLOCK__TAIL", "6m".to_owned()),
                ]
            }
            "tick-producer" => {
                let instruments: Vec<String> = KRX_LISTINGS.iter().map(|listing| format!("\"KRX:{}\"", listing.code)).collect();
                vec![
                    ("MARKETFLOW__PROVIDER__NAME", "kis".to_owned()),
                    ("MARKETFLOW__PROVIDER__INSTRUMENTS", format!("[{}]", instruments.join(","))),
                    ("MARKETFLOW__PROVIDER__WEBSOCKET_URL", format!("ws://{wire}/kis/tryitout")),
                    ("MARKETFLOW__PROVIDER__REST_URL", format!("http://{wire}/kis")),
                    // the simulator takes any; nobody's own leave the machine
                    ("KIS_APP_KEY", "demo".to_owned()),
                    ("KIS_APP_SECRET", "demo".to_owned()),
                    // a second is a minute here
                    ("MARKETFLOW__CONNECTION__BACKOFF_MIN", "50ms".to_owned()),
                    ("MARKETFLOW__CONNECTION__BACKOFF_MAX", "250ms".to_owned()),
                ]
            }
            _ => Vec::new(),
        }
    }

    /// The connection is cut and the broker's port closed, when that moment is played.
    fn outage(&self) -> String {
        let played = Timestamp::parse(KRX_OUTAGE_AT).is_ok_and(|at| self.from <= at && at < self.to);
        let seconds = match self.speed {
            Speed::Times(times) => KRX_OUTAGE_SECONDS / times,
            // there the tape waits once that much of it has passed
            Speed::Max => 0.2,
        };
        let millis = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_millis().max(1);
        let faults = format!(
            r#"{{kind="refuse_connect",at="{KRX_OUTAGE_AT}",duration="{millis}ms"}},{{kind="disconnect",at="{KRX_OUTAGE_AT}"}}"#
        );
        format!("[{}]", if played { faults } else { String::new() })
    }

    /// At high speed much virtual time passes between two readings of the clock, and trades seem to come from the future.
    fn future_tolerance_seconds(&self) -> u64 {
        match self.speed {
            Speed::Max => u64::try_from((self.to.micros() - self.from.micros()) / 1_000_000).unwrap_or(u64::MAX),
            Speed::Times(times) => whole(FUTURE_TOLERANCE_SECONDS.max(times * CLOCK_READING_SECONDS)),
        }
    }

    fn speed_text(&self) -> String {
        match self.speed {
            Speed::Max => "max".to_owned(),
            // the sign keeps it a text where numbers in the environment become numbers
            Speed::Times(times) => format!("{times}x"),
        }
    }

    /// Asks the exchange's two addresses for one answer each before anything is started.
    ///
    /// # Errors
    /// 69: no internet, a blocked port, or a refused region.
    pub(super) async fn reach_the_exchange(&self, language: Language) -> anyhow::Result<()> {
        let builder = || reqwest::Client::builder().timeout(EXCHANGE_ANSWERS_WITHIN);
        let http = builder().build().context("cannot make requests")?;
        // sockets take no proxy
        let direct = builder().no_proxy().build().context("cannot make requests")?;
        let address = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
        let exchange = self.exchange.addresses();
        let rest_url = address("MARKETFLOW__PROVIDER__REST_URL", exchange.rest);
        let socket_url = address("MARKETFLOW__PROVIDER__WEBSOCKET_URL", exchange.socket);
        let (ticker, socket) =
            tokio::join!(http.get(format!("{rest_url}{}", exchange.ticker)).send(), handshake(&direct, &socket_url).send(),);
        let problems = [(rest_url, why_unreachable(ticker, language)), (socket_url, why_unreachable(socket, language))];
        let Some((host, why)) = problems.into_iter().find_map(|(host, why)| Some((host, why?))) else { return Ok(()) };
        Err(anyhow!(language.pick(
            format!("cannot reach {host}: {why}. --live needs the internet and an exchange that serves your region; \
                 `marketflow demo` without it plays a recorded session"),
            format!("{host}에 연결할 수 없습니다: {why}. --live에는 인터넷과 이 지역에서 접속할 수 있는 거래소가 필요합니다. 옵션 없는 `marketflow demo`는 녹화 세션을 재생합니다"),
        )))
        .exit(Exit::Unreachable)
    }
}

fn listing_value(listing: &Listing) -> String {
    let halts = if listing.halted { format!(r#"["{}","{}"]"#, KRX_HALT.0, KRX_HALT.1) } else { String::new() };
    format!(r#"{{code="{}",name="{}",base={},halts=[{halts}]}}"#, listing.code, listing.korean, listing.base)
}

/// What a WebSocket client says first (RFC 6455 §4.1; the key is its own example): an exchange may refuse that and nothing else.
fn handshake(http: &reqwest::Client, socket_url: &str) -> reqwest::RequestBuilder {
    http.get(socket_url.replacen("ws", "http", 1))
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

fn why_unreachable(answer: reqwest::Result<reqwest::Response>, language: Language) -> Option<String> {
    match answer {
        Ok(answer) if answer.status().as_u16() == 451 => {
            Some(language.pick("it refuses this region (HTTP 451)", "이 지역의 접속을 거부합니다(HTTP 451)").to_owned())
        }
        Ok(answer) if answer.status().is_client_error() || answer.status().is_server_error() => {
            Some(format!("HTTP {}", answer.status()))
        }
        Ok(_) => None,
        Err(error) if error.is_timeout() => Some(language.pick(
            format!("no answer within {} s", EXCHANGE_ANSWERS_WITHIN.as_secs()),
            format!("{}초 안에 응답이 없습니다", EXCHANGE_ANSWERS_WITHIN.as_secs()),
        )),
        Err(error) => Some(last_cause(&error)),
    }
}

fn usual_speed(from: Timestamp, to: Timestamp) -> Speed {
    let seconds = (to.micros() - from.micros()) / 1_000_000;
    // in round figures; an hour is not worth hurrying for
    Speed::Times(f64::from(u32::try_from((seconds / PLAYED_IN_SECONDS).max(60) / 10 * 10).unwrap_or(u32::MAX)))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; the cast saturates")]
fn whole(seconds: f64) -> u64 {
    seconds.ceil() as u64
}

fn last_cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// Where the simulator writes what it sent.
pub(super) fn truth_file(home: &Path) -> PathBuf {
    std::path::absolute(home).unwrap_or_else(|_| home.to_owned()).join("truth.ndjson")
}

/// Where the simulator keeps where it stands; wiped with the rest of `run/`.
fn place_file(home: &Path) -> PathBuf {
    truth_file(home).with_file_name("run").join("simulator.place.json")
}

/// A `stack.toml` with the ports of the demo.
pub(super) fn stack_file(ports: &Ports) -> String {
    let lines: String = ports.all().iter().map(|port| format!("{} = {}\n", port.key, port.port)).collect();
    format!("# the ports of the demo\n[ports]\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn plan(arguments: &[&str]) -> anyhow::Result<Plan> {
        Plan::of(&Line::try_parse_from([&["demo"], arguments].concat())?.args)
    }

    #[test]
    fn the_whole_session_takes_about_23_seconds() {
        let plan = plan(&[]).unwrap();
        let Speed::Times(times) = plan.speed else { panic!("no speed") };
        let seconds = f64::from(u32::try_from((plan.to.micros() - plan.from.micros()) / 1_000_000).unwrap()) / times;
        assert!((22.0..24.0).contains(&seconds), "{seconds}");
    }

    #[test]
    fn a_part_of_the_session_can_be_chosen() {
        let one_day = plan(&["--days", "1", "--speed", "60x"]).unwrap();
        assert_eq!((one_day.to.to_string().as_str(), one_day.speed), ("2013-11-26T00:00:00Z", Speed::Times(60.0)));
        let from = plan(&["--from", "2013-11-30T03:00:00Z", "--speed", "max"]).unwrap();
        assert_eq!((from.from.to_string().as_str(), from.to.to_string().as_str()), ("2013-11-30T03:00:00Z", TAPE_TO));
        for wrong in
            [vec!["--from", "2020-01-01T00:00:00Z"], vec!["--from", "yesterday"], vec!["--speed", "fast"], vec!["--days", "0"]]
        {
            assert_eq!(Exit::of(&plan(&wrong).unwrap_err()), Exit::Usage, "{wrong:?}");
        }
    }

    #[test]
    fn of_the_korean_day_the_end_is_played_unless_all_of_it_is_wanted() {
        let usual = plan(&["--market", "krx"]).unwrap();
        assert_eq!((usual.from.to_string().as_str(), usual.speed), (KRX_USUAL_FROM, Speed::Times(60.0)));
        assert!(usual.outage().contains("1500ms") && !usual.tells_the_past());
        let whole = plan(&["--market", "krx", "--whole-day", "--speed", "600"]).unwrap();
        assert_eq!((whole.from.to_string().as_str(), whole.to.to_string().as_str()), (KRX_FROM, KRX_TO));
        assert!(
            whole.headline(Language::Korean).contains("삼성전자")
                && whole.headline(Language::English).contains("09:00–15:31 KST")
        );
        let late = plan(&["--market", "krx", "--from", "2026-11-20T06:10:00Z"]).unwrap();
        assert_eq!(late.outage(), "[]", "an outage before the beginning is none");
        for wrong in [vec!["--market", "krx", "--live"], vec!["--market", "krx", "--days", "1"], vec!["--whole-day"]] {
            assert_eq!(Exit::of(&plan(&wrong).unwrap_err()), Exit::Usage, "{wrong:?}");
        }
    }

    #[test]
    fn fast_clocks_get_a_wider_future() {
        assert_eq!(plan(&["--speed", "1"]).unwrap().future_tolerance_seconds(), 5);
        assert_eq!(plan(&["--speed", "1000"]).unwrap().future_tolerance_seconds(), 2_000);
    }
}
