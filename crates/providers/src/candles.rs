//! Minute candles by request (분봉): how a venue is asked for a session's minutes, and how its answers are read.
//!
//! Pure like the rest: requests out, answers in. Who paces, repeats and keeps them is `services/producer/src/candles`.
//!
//! Next: `crates/providers/src/kis/candles.rs`.

use crate::{Credentials, MalformedRow, RestAnswer, Secret};
use marketflow_model::{Amount, Candle, Feed, Instrument, Interval, Session, Timestamp};
use std::time::Duration;

/// A venue's minute candles.
pub trait Candles: Sync {
    /// What one key may ask of the venue.
    fn limits(&self) -> CandleLimits;

    /// The questions that together cover the minutes `[from, to)` of a session, oldest first; `is_today` on the venue's clock.
    fn pages(&self, session: &Session, from: Timestamp, to: Timestamp, is_today: bool) -> Vec<CandlePage>;

    /// The question for a page.
    fn request(&self, instrument: &Instrument, page: &CandlePage, credentials: &Credentials, pass: &Secret) -> CandleRequest;

    /// Reads the answer to it. `before` is the day's turnover before the page, where it is known: some venues only tell sums of the day.
    ///
    /// # Errors
    /// [`CallError`] for anything but the documented shape, whatever the status says.
    fn read(
        &self,
        instrument: &Instrument,
        feed: &Feed,
        page: &CandlePage,
        before: Option<Amount>,
        answer: RestAnswer<'_>,
        received: Timestamp,
    ) -> Result<CandleRows, CallError>;
}

/// The candles of a provider's id, where it tells any.
pub fn candles_of(id: &str) -> Option<&'static dyn Candles> {
    match id {
        "kis" => Some(&crate::kis::KisCandles),
        _ => None,
    }
}

/// What one key may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CandleLimits {
    /// Calls in any second.
    pub per_second: u32,
    /// Calls a day.
    pub per_day: u64,
    /// Minutes that one question about a past day covers.
    pub past_minutes: u16,
    /// Minutes that one question about today covers.
    pub today_minutes: u16,
}

/// Which of a venue's questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandleCall {
    /// About a day that is over.
    Past,
    /// About today.
    Today,
}

/// One question: the minutes `[from, to)` of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CandlePage {
    /// By which of the venue's questions.
    pub call: CandleCall,
    /// First minute.
    pub from: Timestamp,
    /// End of the last minute.
    pub to: Timestamp,
}

impl CandlePage {
    /// Cuts minutes into pages of at most so many, oldest first.
    pub fn cut(call: CandleCall, from: Timestamp, to: Timestamp, minutes: u16) -> Vec<Self> {
        let length = i64::from(minutes.max(1)) * Interval::ONE_MINUTE.micros();
        let mut pages = Vec::new();
        let mut at = from;
        while at < to {
            let end = at.plus_micros(length).min(to);
            pages.push(Self { call, from: at, to: end });
            at = end;
        }
        pages
    }

    /// Open of its last minute.
    pub fn last(&self) -> Timestamp {
        self.to.plus_micros(-Interval::ONE_MINUTE.micros())
    }
}

/// A question as it is sent (GET).
#[derive(Clone, Debug)]
pub struct CandleRequest {
    /// To be appended to the request endpoint.
    pub path_and_query: String,
    /// Headers; some hold secrets.
    pub headers: Vec<(&'static str, Secret)>,
}

/// What an answer holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CandleRows {
    /// Candles of the page's minutes in which something traded, oldest first.
    pub candles: Vec<Candle>,
    /// Minutes of the page that the venue shows without a trade.
    pub quiet: usize,
    /// Rows that were not asked for: of other minutes, other days, or shown twice.
    pub unasked: usize,
    /// Rows that cannot be used.
    pub malformed: Vec<MalformedRow>,
    /// The day's turnover after the page's last row, where the venue tells it.
    pub turnover_after: Option<Amount>,
}

/// Why a call brought no rows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The venue does not take the pass any more: another one is needed.
    #[error("pass refused: {detail}")]
    Pass {
        /// In the venue's words.
        detail: String,
    },
    /// Too many calls; not before `wait`.
    #[error("rate limited: {detail}")]
    Limited {
        /// As the venue asks.
        wait: Duration,
        /// In the venue's words.
        detail: String,
    },
    /// The venue cannot answer now.
    #[error("not available: {detail}")]
    Unavailable {
        /// In the venue's words.
        detail: String,
    },
    /// The venue will not answer this, however often it is asked.
    #[error("refused: {detail}")]
    Refused {
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

impl CallError {
    /// Label value, bounded.
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::Pass { .. } => "pass_refused",
            Self::Limited { .. } => "rate_limited",
            Self::Unavailable { .. } => "unavailable",
            Self::Refused { .. } => "refused",
            Self::Unreadable { .. } => "unreadable",
        }
    }

    /// Whether asking again later can help.
    pub const fn retryable(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}
