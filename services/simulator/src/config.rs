//! The configuration, section by section; every key with its meaning and unit stands in `default.toml`. Next: `tape.rs`.

use crate::faults::FaultSpec;
use crate::market::Venue;
use anyhow::{Context, bail};
use marketflow_runtime::{AdminConfig, LogConfig};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything the simulator can be told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The seed of every choice.
    pub seed: u64,
    /// The port the venues are played on.
    pub wire: WireConfig,
    /// Virtual time.
    pub clock: ClockConfig,
    /// What is waited for before the tape starts.
    pub start: StartConfig,
    /// Which part of the tapes is played.
    pub range: RangeConfig,
    /// Where the truth is written.
    pub truth: TruthConfig,
    /// Where the place is kept.
    pub place: PlaceConfig,
    /// Bitstamp's ways.
    pub bitstamp: BitstampConfig,
    /// Binance's ways.
    pub binance: BinanceConfig,
    /// Upbit's manners.
    pub upbit: UpbitConfig,
    /// KIS's manners.
    pub kis: KisConfig,
    /// Kiwoom's manners.
    pub kiwoom: KiwoomConfig,
    /// Sources of monthly and quarterly series.
    pub series: SeriesConfig,
    /// The admin port.
    pub admin: AdminConfig,
    /// Logging.
    pub log: LogConfig,
    /// What is played.
    pub tapes: Vec<TapeConfig>,
    /// What goes wrong.
    pub faults: Vec<FaultSpec>,
}

/// Section `[wire]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireConfig {
    /// Where WebSocket and REST are served.
    pub listen: SocketAddr,
    /// Bytes queued for one client before the tape waits for it.
    pub queue_bytes: usize,
    /// Kernel send buffer of each socket, bytes; 0 leaves the system's.
    pub send_buffer_bytes: u32,
    /// How long the tape waits for a client that does not read before the client is cut off.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
}

/// Section `[clock]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockConfig {
    /// Virtual seconds per second, as text (`"1"`, `"60"`), or `"max"`.
    pub speed: String,
    /// Virtual time before the minute of the first trade at which the clock stands until the start.
    #[serde(with = "humantime_serde")]
    pub lead_in: Duration,
    /// Virtual time played after the last trade before the run counts as finished.
    #[serde(with = "humantime_serde")]
    pub tail: Duration,
    /// Speed of the tail when the tape is played at `max`.
    pub tail_speed: f64,
    /// At `max`: virtual time that passes unseen after a client is lost, before the tape waits for it to come back.
    #[serde(with = "humantime_serde")]
    pub outage: Duration,
    /// At `max`: how long (wall time) the tape waits for a lost client.
    #[serde(with = "humantime_serde")]
    pub hold_timeout: Duration,
}

/// Section `[start]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartConfig {
    /// Whether the tape starts by itself once its clients are there; otherwise only `POST /start` starts it.
    pub automatic: bool,
    /// Instruments (`BITSTAMP:BTCUSD`) whose trades must be subscribed first; empty = all that are played.
    pub instruments: Vec<String>,
    /// Subscriptions each of them needs.
    pub subscriptions: usize,
}

/// Section `[range]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeConfig {
    /// First instant played (RFC 3339), empty = from the beginning.
    pub from: String,
    /// First instant no longer played (RFC 3339), empty = to the end.
    pub to: String,
    /// At most so many trades of each tape, 0 = all.
    pub limit: usize,
}

impl RangeConfig {
    /// The range as UTC microseconds, half-open.
    pub(crate) fn bounds(&self) -> anyhow::Result<(i64, i64)> {
        let bound = |text: &str, otherwise: i64, key: &str| -> anyhow::Result<i64> {
            if text.is_empty() {
                return Ok(otherwise);
            }
            instant_us(text).with_context(|| format!("range.{key} {text:?} is no instant such as 2013-11-25T00:00:00Z"))
        };
        let (from, to) = (bound(&self.from, i64::MIN, "from")?, bound(&self.to, i64::MAX, "to")?);
        if from >= to {
            bail!("range.from {} is not before range.to {}", self.from, self.to);
        }
        Ok((from, to))
    }
}

/// RFC 3339 text as UTC microseconds.
pub(crate) fn instant_us(text: &str) -> anyhow::Result<i64> {
    Ok(text.parse::<jiff::Timestamp>()?.as_microsecond())
}

/// Section `[truth]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TruthConfig {
    /// File (NDJSON) written when the run finishes and when the service stops; empty = none.
    pub path: PathBuf,
}

/// Section `[place]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceConfig {
    /// File that keeps where the tape stands over a restart; empty = a restart begins at the beginning.
    pub path: PathBuf,
}

/// Section `[bitstamp]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BitstampConfig {
    /// Time between the server's pings.
    #[serde(with = "humantime_serde")]
    pub ping_every: Duration,
    /// Virtual life of a connection.
    #[serde(with = "humantime_serde")]
    pub connection_lifetime: Duration,
    /// Largest client frame, bytes.
    pub frame_bytes: usize,
    /// Channels one connection may subscribe.
    pub channels: usize,
    /// Requests per second.
    pub requests_per_second: u32,
    /// Requests per ten minutes.
    pub requests_per_ten_minutes: u32,
    /// Status of the rate-limit answer (its code is always 400.002).
    pub rate_limit_status: u16,
    /// What `time=minute` of the transactions call reaches back.
    #[serde(with = "humantime_serde")]
    pub transactions_minute: Duration,
    /// What `time=hour` reaches back.
    #[serde(with = "humantime_serde")]
    pub transactions_hour: Duration,
    /// What `time=day` reaches back.
    #[serde(with = "humantime_serde")]
    pub transactions_day: Duration,
    /// Levels a side of the book frames, at most 100.
    pub book_levels: usize,
    /// Least virtual time between two book frames of a market.
    #[serde(with = "humantime_serde")]
    pub book_every: Duration,
    /// Whether `ohlc` shows the recorded oddities: a repeated row now and then, and empty bars at the next bar's close.
    pub ohlc_oddities: bool,
}

/// Section `[binance]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BinanceConfig {
    /// Time between the server's pings.
    #[serde(with = "humantime_serde")]
    pub ping_every: Duration,
    /// A connection without a matching pong for so long is cut.
    #[serde(with = "humantime_serde")]
    pub pong_timeout: Duration,
    /// Virtual life of a connection.
    #[serde(with = "humantime_serde")]
    pub connection_lifetime: Duration,
    /// Virtual time before that end at which `serverShutdown` is sent.
    #[serde(with = "humantime_serde")]
    pub shutdown_notice: Duration,
    /// Client messages per second, pings and pongs included.
    pub messages_per_second: u32,
    /// Streams one connection may subscribe.
    pub streams: usize,
    /// Connection attempts per five minutes.
    pub connects_per_five_minutes: u32,
    /// Request weight per minute.
    pub weight_per_minute: u32,
    /// Requests over the limit after which 429 becomes 418.
    pub ban_after: u32,
    /// Length of that ban.
    #[serde(with = "humantime_serde")]
    pub ban: Duration,
    /// Most rows one REST answer holds.
    pub rest_limit: usize,
}

/// Section `[upbit]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpbitConfig {
    /// A connection on which nothing went either way for so long is closed.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Time between two `{"status":"UP"}` once a client has said `PING`.
    #[serde(with = "humantime_serde")]
    pub up_every: Duration,
    /// Client messages per second on one connection.
    pub messages_per_second: usize,
    /// Client messages per minute on one connection.
    pub messages_per_minute: usize,
    /// Connection attempts per second.
    pub connects_per_second: u32,
    /// Requests per second of each group.
    pub requests_per_second: u32,
    /// Requests over the limit after which 429 becomes 418.
    pub ban_after: u32,
    /// Length of the first block; each further one is twice as long.
    #[serde(with = "humantime_serde")]
    pub ban: Duration,
    /// Least virtual time between two book frames of a market.
    #[serde(with = "humantime_serde")]
    pub book_every: Duration,
}

/// Section `[kis]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KisConfig {
    /// The one application key that is known; empty = any.
    pub app_key: String,
    /// Its secret; empty = any.
    pub app_secret: String,
    /// Least time between two tokens for one key.
    #[serde(with = "humantime_serde")]
    pub issue_interval: Duration,
    /// Least time between two approval keys for one key.
    #[serde(with = "humantime_serde")]
    pub approval_interval: Duration,
    /// How long tokens and approval keys are good.
    #[serde(with = "humantime_serde")]
    pub pass_life: Duration,
    /// Registrations a session may hold.
    pub registrations: usize,
    /// Time between two pings; one unanswered until the next ends the connection.
    #[serde(with = "humantime_serde")]
    pub ping_every: Duration,
    /// Quotation calls a second of one key.
    pub calls_per_second: usize,
    /// Quotation calls a day of one key.
    pub calls_per_day: u64,
    /// HTTP status of the answer to a call above them.
    pub excess_status: u16,
    /// Whether it is a paper host: one call a second, and no minutes of past days.
    pub paper: bool,
    /// How long a quotation call's answer takes.
    #[serde(with = "humantime_serde")]
    pub answer_after: Duration,
    /// Codes that are not known; every other one of six characters is.
    pub unlisted: Vec<String>,
    /// Instruments in the masters beside those of the tapes; each weekday one comes and one goes.
    pub master: i64,
    /// Days on which the exchange is closed, beside weekends.
    pub holidays: Vec<String>,
    /// Days on which it opens an hour late.
    pub late_opens: Vec<String>,
    /// Days that are an hour later as a whole.
    pub later_days: Vec<String>,
    /// Share of trades that wait for the next one of the same second to share its frame, 0–1.
    pub shared_frames: f64,
    /// Least virtual time between two book frames of a market.
    #[serde(with = "humantime_serde")]
    pub book_every: Duration,
}

/// Section `[kiwoom]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KiwoomConfig {
    /// The one application key that is known; empty = any.
    pub app_key: String,
    /// Its secret; empty = any.
    pub secret_key: String,
    /// How long tokens are good.
    #[serde(with = "humantime_serde")]
    pub token_life: Duration,
    /// Least time between two logins of a customer; sooner, the connection is closed.
    #[serde(with = "humantime_serde")]
    pub login_interval: Duration,
    /// Instruments a connection may register.
    pub items: usize,
    /// Time between two pings; one not echoed until the next ends the connection.
    #[serde(with = "humantime_serde")]
    pub ping_every: Duration,
    /// Calls a second of a customer.
    pub calls_per_second: usize,
    /// Calls of one name within the time below.
    pub calls_of_one: usize,
    /// That time.
    #[serde(with = "humantime_serde")]
    pub calls_of_one_within: Duration,
    /// Status of the answer to one call too many.
    pub limit_status: u16,
    /// Calls over the limit after which none is answered for a while; 0 = never.
    pub ban_after: u32,
    /// How long.
    #[serde(with = "humantime_serde")]
    pub ban: Duration,
    /// Rows of one chart answer.
    pub chart_rows: usize,
    /// Days that charts go back from today.
    pub chart_days: u16,
    /// Rows of one list of instruments.
    pub list_rows: usize,
    /// Rows of one answer of daily candles.
    pub day_rows: usize,
    /// Rows of one answer about investors.
    pub investor_rows: usize,
}

/// Section `[series]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesConfig {
    /// What is known, as `source:code`.
    pub codes: Vec<String>,
    /// First month of all generated series (`2014-01`).
    pub from: String,
    /// Last month.
    pub to: String,
    /// Share of months that are published as missing, 0–1.
    pub missing: f64,
    /// CSV file of values that stand in place of generated ones: `source,code,value,month,number`; empty = none.
    pub values: PathBuf,
    /// The one FRED key that is known; empty = any.
    pub fred_api_key: String,
    /// The sources' limits times this.
    pub limits_times: f64,
    /// Every so many requests to a source one fails, in turn in each of the ways they do; 0 = none.
    pub fail_every: u64,
}

/// One tape: `[[tapes]]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum TapeConfig {
    /// A recorded tape in a CSV file.
    Csv(CsvTape),
    /// A generated tape.
    Generated(GeneratedTape),
    /// A generated day of the Korea Exchange, played as KIS shows it.
    KrxDay(KrxDayTape),
}

/// A recorded tape: a CSV file with a header line, `.gz` too.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvTape {
    /// The file; `{tools}` stands for `$MARKETFLOW_TOOLS`, else `~/.cache/marketflow/tools`.
    pub path: String,
    /// Where it is played.
    pub venue: Venue,
    /// The markets as `BASE/QUOTE`; one unless there is a symbol column.
    pub symbols: Vec<String>,
    /// Column of the symbol (`BASEQUOTE`), empty = none.
    #[serde(default)]
    pub symbol_column: String,
    /// Column of the time.
    pub time_column: String,
    /// Its unit: `s`, `ms` or `us`.
    pub time_unit: TimeUnit,
    /// Column of the price.
    pub price_column: String,
    /// Column of the size.
    pub size_column: String,
    /// Column of the venue's trade id, empty = ids are made up.
    #[serde(default)]
    pub id_column: String,
    /// Column of the aggressor's side, empty = by the tick rule.
    #[serde(default)]
    pub side_column: String,
    /// What that column says when the buyer was the aggressor.
    #[serde(default)]
    pub side_buy_value: String,
    /// Decimals of the price on the wire.
    pub price_decimals: u8,
    /// Decimals of the size on the wire.
    pub size_decimals: u8,
}

/// Unit of a time column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeUnit {
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
}

/// A generated day of the Korea Exchange, repeatable from the seed: auctions, volatility interruptions, the closing print.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KrxDayTape {
    /// The day in Korea (`2026-11-20`).
    pub date: String,
    /// How many instruments, with made-up short codes (`000010`, `000020`, `0080G0`, …); not read where `listings` names them.
    #[serde(default)]
    pub symbols: usize,
    /// About how many trades in all, spread evenly over instruments and session.
    pub trades: usize,
    /// The instruments by name.
    #[serde(default)]
    pub listings: Vec<KrxListing>,
}

/// One instrument of a [`KrxDayTape`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KrxListing {
    /// Its short code.
    pub code: String,
    /// Its name in Korean.
    #[serde(default)]
    pub name: String,
    /// The close of the day before, won; 0 = made up.
    #[serde(default)]
    pub base: i64,
    /// Halts of trading, each `["HH:MM:SS", "HH:MM:SS"]` in Korea: nothing prints between them, an auction ends it.
    #[serde(default)]
    pub halts: Vec<(String, String)>,
}

/// A generated tape: a random walk on tick sizes, repeatable from the seed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratedTape {
    /// Where it is played.
    pub venue: Venue,
    /// How many markets, named `S001`, `S002`, … against the venue's usual quote currency.
    pub symbols: usize,
    /// How many trades in all.
    pub trades: usize,
    /// Trades per virtual second over all markets; busy markets get more than quiet ones (Zipf).
    pub trades_per_second: f64,
    /// First instant (RFC 3339).
    pub start: String,
}

impl Config {
    /// Checks what spans keys.
    ///
    /// # Errors
    /// The key in question, in words.
    pub fn validate(&self) -> anyhow::Result<()> {
        if self.tapes.is_empty() && self.series.codes.is_empty() {
            bail!("tapes and series.codes are empty: there is nothing to play");
        }
        if !(1..=100).contains(&self.bitstamp.book_levels) {
            bail!("bitstamp.book_levels {} is not within 1–100", self.bitstamp.book_levels);
        }
        if self.clock.tail_speed <= 0.0 {
            bail!("clock.tail_speed {} is not above 0", self.clock.tail_speed);
        }
        self.range.bounds()?;
        self.clock.speed.parse::<crate::clock::Speed>()?;
        Ok(())
    }
}
