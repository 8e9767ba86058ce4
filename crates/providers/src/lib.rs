//! Providers: what each venue speaks, as plain state machines. Bytes in, events out, time passed as an argument; no sockets in here.
//!
//! A provider is one folder (`frame.rs`, `parse.rs`, `connection.rs`, `rest.rs`, fixtures, README) and one entry in [`ALL`]. It lacks
//! everything that touches the world: the shell in `services/producer` owns sockets, requests and clocks, and keeps the order of events.
//!
//! Next: `crates/providers/src/bitstamp/frame.rs`, then `services/producer/src/websocket.rs`.

pub mod binance;
pub mod bitstamp;
mod call;
mod candles;
pub mod days;
mod holidays;
pub mod investors;
pub mod kis;
pub mod kiwoom;
mod krx;
mod login;
mod master;
mod number;
pub mod prices;
mod ranking;
pub mod series;
mod session;
pub mod upbit;

use marketflow_model::{Feed, Instrument, Quantity, Quote, Timestamp, Trade};
use serde::Serialize;
use std::time::Duration;

pub use call::{CallError, CallLimits, CallRequest};
pub use candles::{CandleCall, CandlePage, CandleRows, Candles, candles_of};
pub use holidays::{HolidayRows, Holidays, TradingDay, holidays_of};
pub use login::{Credentials, Ends, KEY_REFUSED, Login, LoginRequest, Pass, PassKind, Secret};
pub use master::{Listing, Master, MasterQuestion, MasterRows, attribute, master_of};
pub use ranking::{ActiveBy, Ranking, RankingCall, ranking_of};
pub use session::Timing;

/// Every provider, sorted by id.
pub const ALL: &[&Provider] = &[&binance::PROVIDER, &bitstamp::PROVIDER, &kis::PROVIDER, &kiwoom::PROVIDER, &upbit::PROVIDER];

/// The provider of an id, if there is one.
pub fn by_id(id: &str) -> Option<&'static Provider> {
    ALL.iter().copied().find(|provider| provider.id == id)
}

/// What a venue offers and how to speak with it.
pub struct Provider {
    /// Id and name of its feed, such as `bitstamp`.
    pub id: &'static str,
    /// Venue part of its instruments, such as `BITSTAMP`.
    pub venue: &'static str,
    /// Record kinds it delivers.
    pub feeds: &'static [FeedKind],
    /// Public WebSocket endpoint.
    pub websocket_url: &'static str,
    /// Public request endpoint, without trailing slash.
    pub rest_url: &'static str,
    /// Names of the credentials it needs; empty: none.
    pub credentials: &'static [&'static str],
    /// What the venue allows.
    pub limits: Limits,
    /// How missing trades are noticed.
    pub repair: Repair,
    /// A fresh connection for these instruments; with the key for the socket, where the venue issues one.
    pub connection: fn(Vec<Instrument>, Timing, &Secret) -> Box<dyn Connection>,
    /// How passes are got; `None`: the venue asks for none.
    pub login: Option<&'static dyn Login>,
    /// Requests and answers for back-fill; `None`: the venue tells no past trades.
    pub rest: Option<&'static dyn Rest>,
    /// The instrument as the provider would name it, when it is one of this venue's.
    pub accepts: fn(&Instrument) -> bool,
}

impl Provider {
    /// The feed's name.
    pub fn feed(&self) -> Feed {
        Feed::new(self.id)
    }

    /// First and last of the ids a trade stands for: its own, or one for each of its shares where volume counts.
    pub fn ids(&self, trade: &Trade) -> Option<(i64, i64)> {
        let last = trade.sequence?;
        match self.repair {
            Repair::ContiguousIds | Repair::Sweep { .. } => Some((last, last)),
            Repair::CumulativeVolume { .. } => {
                const ONE: i128 = 10_i128.pow(Quantity::SCALE);
                let shares = i64::try_from(trade.size?.scaled() / ONE).ok()?;
                Some((last.checked_sub(shares.max(1) - 1)?, last))
            }
        }
    }

    /// The last id before a hole between `last`, seen before, and `first`, seen now; `None` when nothing is missing as far as ids tell.
    pub fn missing_after(&self, last: i64, first: i64) -> Option<i64> {
        let before = first.checked_sub(1)?;
        let after = match self.repair {
            Repair::Sweep { .. } => return None,
            Repair::ContiguousIds => last,
            // A day counts from nothing.
            Repair::CumulativeVolume { shares_per_day_max, .. } => {
                last.max(before.div_euclid(shares_per_day_max) * shares_per_day_max)
            }
        };
        (before > after).then_some(after)
    }
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id)
    }
}

/// A kind of record a provider delivers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedKind {
    /// Single executions.
    Trades,
    /// Best bid and ask.
    Quotes,
    /// Halts of trading.
    Halts,
}

/// What a venue allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Instruments on one connection, both channels of each counted.
    pub instruments_per_connection: usize,
    /// Longest frame accepted from the venue, in bytes.
    pub frame_bytes_max: usize,
    /// Sustained request weight per second.
    pub rest_weight_per_second: u32,
    /// Request weight that may be spent at once.
    pub rest_weight_burst: u32,
}

/// How missing trades are noticed besides a lost connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// Trade ids of an instrument rise by one: a hole shows at the next trade.
    ContiguousIds,
    /// There are no ids; the day's volume after each trade shows a hole at the next one. It stands behind the date in the sequence.
    CumulativeVolume {
        /// Bound of the day's volume: what the date is multiplied by.
        shares_per_day_max: i64,
        /// Unit of the trades' times.
        resolution: Duration,
    },
    /// Ids have holes by nature: a recent-trades page is merged by id every so often.
    Sweep {
        /// How often, on the venue's clock.
        every: Duration,
        /// Unit of the times on that page: a row stands for so long a stretch.
        resolution: Duration,
    },
}

/// The clocks at one moment: timers on the venue's side follow `venue`, socket time-outs follow `monotonic`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The venue's clock as far as it is known: never ahead of the venue itself, so it can be evidence.
    pub venue: Timestamp,
    /// The venue's clock as best guessed: what records are stamped with on receipt.
    pub received: Timestamp,
    /// Time since an arbitrary start; never goes back.
    pub monotonic: Duration,
}

/// One message from the venue.
#[derive(Clone, Copy, Debug)]
pub enum Frame<'a> {
    /// A text frame.
    Text(&'a str),
    /// A binary frame; at Upbit it holds text.
    Binary(&'a [u8]),
}

/// What a connection tells the shell, in the order it happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// One execution.
    Trade(Trade),
    /// Best bid and ask.
    Quote(Quote),
    /// Text to send to the venue now.
    Send {
        /// The frame.
        text: String,
    },
    /// The venue acknowledged the trades of an instrument: what happens from now on arrives here.
    Subscribed {
        /// Of which instrument.
        instrument: Instrument,
    },
    /// The venue acknowledged that an instrument's trades end.
    Unsubscribed {
        /// Of which instrument.
        instrument: Instrument,
    },
    /// The venue refused something, or did not acknowledge it in time.
    Refused {
        /// Which instrument, when the venue says so.
        instrument: Option<Instrument>,
        /// In the venue's words.
        reason: String,
    },
    /// The venue was heard: everything it sent with an event time before `through`, less the disorder allowance, stands before this.
    Evidence {
        /// On the venue's clock.
        through: Timestamp,
    },
    /// Trades with ids strictly between the two were never received.
    Missing {
        /// Of which instrument.
        instrument: Instrument,
        /// Last id before the hole.
        after: i64,
        /// First id after the hole.
        before: i64,
    },
    /// No trade of an instrument for a while, though subscribed. A quiet market looks the same: ask by request.
    Silent {
        /// Of which instrument.
        instrument: Instrument,
        /// Last trade, or the acknowledgement when there was none.
        since: Timestamp,
    },
    /// Trading in an instrument is halted, or goes on: by the venue's decision or by a volatility interruption.
    Halt {
        /// Of which instrument.
        instrument: Instrument,
        /// Whether it is halted now.
        halted: bool,
        /// Since when, as exactly as the venue tells: its own time, else that of receipt.
        at: Timestamp,
        /// In words.
        reason: String,
    },
    /// A frame that cannot be used.
    Malformed {
        /// Bounded, for counting.
        reason: Malformed,
        /// In words.
        detail: String,
        /// The trade it speaks of, when that much can be read: only where the trade exists but cannot be kept ([`Malformed::TooPrecise`]).
        trade: Option<(Instrument, i64)>,
    },
    /// A frame that is fine but of no use: an answer, a repeated book, a channel just left.
    Ignored,
    /// Open the next connection now and close this one when the next is subscribed.
    Renew {
        /// In words.
        reason: &'static str,
    },
    /// This connection is of no further use.
    Reconnect {
        /// In words; bounded, for counting.
        reason: &'static str,
    },
}

/// Why a frame, or a row of an answer, cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Malformed {
    /// Not JSON, or cut short.
    NotJson,
    /// JSON of a shape the venue does not document.
    UnknownShape,
    /// A field is missing or of the wrong type.
    BadField,
    /// A price, size or id is not a number or out of range.
    BadNumber,
    /// More decimals than are kept; never rounded.
    TooPrecise,
    /// A time out of every range.
    BadTime,
    /// A binary frame where text is spoken.
    Binary,
    /// Longer than [`Limits::frame_bytes_max`].
    Oversized,
}

impl Malformed {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::NotJson,
        Self::UnknownShape,
        Self::BadField,
        Self::BadNumber,
        Self::TooPrecise,
        Self::BadTime,
        Self::Binary,
        Self::Oversized,
    ];

    /// Label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::UnknownShape => "unknown_shape",
            Self::BadField => "bad_field",
            Self::BadNumber => "bad_number",
            Self::TooPrecise => "too_precise",
            Self::BadTime => "bad_time",
            Self::Binary => "binary",
            Self::Oversized => "oversized",
        }
    }
}

/// One connection's side of the conversation, from open to close.
pub trait Connection: Send {
    /// The socket is open.
    fn on_open(&mut self, now: Moment, out: &mut Vec<Event>);
    /// A message arrived. Never panics, whatever it holds.
    fn on_frame(&mut self, frame: Frame<'_>, now: Moment, out: &mut Vec<Event>);
    /// Time passed; called several times a second.
    fn on_timer(&mut self, now: Moment, out: &mut Vec<Event>);
    /// Adds instruments.
    fn subscribe(&mut self, instruments: &[Instrument], now: Moment, out: &mut Vec<Event>);
    /// Takes instruments away.
    fn unsubscribe(&mut self, instruments: &[Instrument], now: Moment, out: &mut Vec<Event>);
}

/// Where a back-fill stands: what is wanted of one instrument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Trades with higher ids; `None`: by time.
    pub after: Option<i64>,
    /// Trades with lower ids; `None`: up to now.
    pub before: Option<i64>,
    /// Trades from this event time on (the venue's resolution applies).
    pub from: Timestamp,
    /// How often an answer did not reach back far enough.
    pub widened: u8,
}

/// A request to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestRequest {
    /// To be appended to the endpoint.
    pub path_and_query: String,
    /// Extra headers.
    pub headers: &'static [(&'static str, &'static str)],
    /// What it costs of [`Limits::rest_weight_per_second`].
    pub weight: u32,
    /// How far back from now the answer reaches at most; `None`: without limit.
    pub reach: Option<Duration>,
}

/// An answer received.
#[derive(Clone, Copy, Debug)]
pub struct RestAnswer<'a> {
    /// HTTP status.
    pub status: u16,
    /// `Retry-After` as sent.
    pub retry_after: Option<&'a str>,
    /// Body as sent.
    pub body: &'a [u8],
}

/// One page of trades, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Trades within the cursor's bounds, ids rising.
    pub trades: Vec<Trade>,
    /// Rows that cannot be used.
    pub malformed: Vec<MalformedRow>,
    /// Where to go on; `None`: the venue has told all it knows.
    pub next: Option<Cursor>,
    /// The venue does not answer further back than this; `None`: the whole range was answered.
    pub reaches_from: Option<Timestamp>,
}

/// A row of an answer that cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub struct MalformedRow {
    /// Bounded, for counting.
    pub reason: Malformed,
    /// In words.
    pub detail: String,
    /// The row as it came.
    pub raw: String,
    /// Id of the trade, when that much can be read.
    pub id: Option<i64>,
    /// Its event time, when that much can be read.
    pub event_time: Option<Timestamp>,
}

/// Why an answer holds no page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestError {
    /// Too many requests; not before `retry_after`.
    #[error("rate limited: {detail}")]
    RateLimited {
        /// As the venue asks.
        retry_after: Option<Duration>,
        /// In the venue's words.
        detail: String,
    },
    /// The venue cannot answer now (5xx, maintenance page, firewall page).
    #[error("not available: {detail}")]
    Unavailable {
        /// As the venue asks.
        retry_after: Option<Duration>,
        /// In the venue's words.
        detail: String,
    },
    /// The venue will not answer this (unknown symbol, bad parameter).
    #[error("refused: {detail}")]
    Refused {
        /// In the venue's words.
        detail: String,
    },
    /// The venue does not serve this region (HTTP 451).
    #[error("not served from this region (HTTP 451): {detail}")]
    Region {
        /// In the venue's words.
        detail: String,
    },
    /// Not the documented shape.
    #[error("cannot read the answer: {detail}")]
    Unreadable {
        /// In words.
        detail: String,
    },
}

impl RestError {
    /// Label value, bounded.
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::RateLimited { .. } => "rate_limited",
            Self::Unavailable { .. } => "unavailable",
            Self::Refused { .. } => "refused",
            Self::Region { .. } => "region",
            Self::Unreadable { .. } => "unreadable",
        }
    }

    /// Whether asking again later can help.
    pub const fn retryable(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::Region { .. })
    }
}

/// Builds requests for missing trades and reads the answers.
pub trait Rest: Sync {
    /// The next request for `cursor`; `now` on the venue's clock.
    fn request(&self, instrument: &Instrument, cursor: &Cursor, now: Timestamp) -> RestRequest;

    /// Reads the answer to `request`; `received` on the venue's clock, sampled after it arrived.
    ///
    /// # Errors
    /// [`RestError`] for anything but the documented shape, also for error objects inside a 200.
    fn page(
        &self,
        instrument: &Instrument,
        cursor: &Cursor,
        request: &RestRequest,
        answer: RestAnswer<'_>,
        received: Timestamp,
    ) -> Result<Page, RestError>;
}

/// What status and headers say on their own, the same for every venue: `None` = read the body.
pub(crate) fn status_error(answer: RestAnswer<'_>) -> Option<RestError> {
    let detail = || format!("HTTP {}: {}", answer.status, excerpt(answer.body));
    let retry_after = answer.retry_after.and_then(|text| text.trim().parse::<u64>().ok()).map(Duration::from_secs);
    match answer.status {
        200 if answer.body.trim_ascii_start().first() == Some(&b'<') => {
            Some(RestError::Unavailable { retry_after, detail: format!("a web page instead of data: {}", excerpt(answer.body)) })
        }
        200 => None,
        418 | 429 => Some(RestError::RateLimited { retry_after, detail: detail() }),
        451 => Some(RestError::Region { detail: detail() }),
        403 | 500..=599 => Some(RestError::Unavailable { retry_after, detail: detail() }),
        _ => Some(RestError::Refused { detail: detail() }),
    }
}

/// The beginning of a body, for messages.
pub(crate) fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(160)]).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All but `series`, which is no venue.
    #[test]
    fn every_folder_is_listed_and_the_list_is_sorted() {
        let mut folders: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_type().unwrap().is_dir())
            .map(|entry| entry.file_name().into_string().unwrap())
            .filter(|name| name != "series")
            .collect();
        folders.sort();
        assert_eq!(ALL.iter().map(|p| p.id).collect::<Vec<_>>(), folders);
    }

    #[test]
    fn statuses_are_told_apart() {
        let outcome = |status, body: &str| {
            status_error(RestAnswer { status, retry_after: Some("17"), body: body.as_bytes() })
                .map(|e| (e.outcome(), e.retryable()))
        };
        assert_eq!(outcome(200, "[]"), None);
        assert_eq!(outcome(200, " <html>maintenance</html>"), Some(("unavailable", true)));
        assert_eq!(outcome(429, ""), Some(("rate_limited", true)));
        assert_eq!(outcome(418, ""), Some(("rate_limited", true)));
        assert_eq!(outcome(451, ""), Some(("region", false)));
        assert_eq!(outcome(503, "<html>"), Some(("unavailable", true)));
        assert_eq!(outcome(404, ""), Some(("refused", false)));
    }
}
