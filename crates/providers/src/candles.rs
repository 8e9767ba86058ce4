//! Minute candles by request (분봉): how a venue is asked for a session's minutes, and how its answers are read.
//!
//! Pure like the rest: requests out, answers in. Who paces, repeats and keeps them is `services/producer/src/candles`.
//!
//! Next: `crates/providers/src/kis/candles.rs`, `crates/providers/src/kiwoom/candles.rs`.

use crate::number::FieldError;
use crate::{CallError, CallLimits, CallRequest, Credentials, Malformed, MalformedRow, RestAnswer, Secret};
use marketflow_model::{Amount, Candle, Feed, Instrument, Interval, Price, Quantity, Session, Source, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// A venue's minute candles.
pub trait Candles: Sync {
    /// What one key may ask of the venue.
    fn limits(&self) -> CallLimits;

    /// The questions that together cover the minutes `[from, to)` of a session, oldest first; `is_today` on the venue's clock.
    fn pages(&self, session: &Session, from: Timestamp, to: Timestamp, is_today: bool) -> Vec<CandlePage>;

    /// The question for a page; `further` is what [`Candles::further`] said of the answer before, where that did not reach back far enough.
    fn request(
        &self,
        instrument: &Instrument,
        page: &CandlePage,
        further: Option<&str>,
        credentials: &Credentials,
        pass: &Secret,
    ) -> CallRequest;

    /// Names the older rows behind an answer with these headers, where the venue cuts its answers.
    fn further<'a>(&self, header: &dyn Fn(&'static str) -> Option<&'a str>) -> Option<&'a str>;

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
        "kiwoom" => Some(&crate::kiwoom::KiwoomCandles),
        _ => None,
    }
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
    /// The oldest minute shown, asked for or not.
    pub reaches: Option<Timestamp>,
    /// Names the older rows behind them, where the venue cut its answer.
    pub further: Option<String>,
}

impl CandleRows {
    /// Sorts an answer's rows into what was asked for and what was not; `before` is the day's turnover before the page, where it is known.
    pub(crate) fn of_page<'a, R: CandleRow<'a>>(
        raws: Vec<&'a RawValue>,
        page: &CandlePage,
        instrument: &Instrument,
        feed: &Feed,
        before: Option<Amount>,
        received: Timestamp,
    ) -> Self {
        let mut read = Self::default();
        // By minute, so that the order of the answer and rows shown twice do not matter.
        let mut rows: BTreeMap<Timestamp, Traded> = BTreeMap::new();
        for raw in raws {
            let (minute, traded) = match row::<R>(raw) {
                Ok(Some(row)) => row,
                // It fills the answer up.
                Ok(None) => continue,
                Err(problem) => {
                    read.malformed.push(malformed(problem, raw));
                    continue;
                }
            };
            read.reaches = Some(read.reaches.map_or(minute, |oldest| oldest.min(minute)));
            match traded {
                _ if minute >= page.to => read.unasked += 1,
                // Rows older than the page still tell the turnover before it.
                Ok(traded) => read.unasked += usize::from(rows.insert(minute, traded).is_some()),
                Err(_) if minute < page.from => read.unasked += 1,
                Err(problem) => read.malformed.push(malformed(problem, raw)),
            }
        }
        let mut day_turnover = before;
        for (minute, row) in rows {
            if minute < page.from {
                read.unasked += 1;
                day_turnover = row.day_turnover.or(day_turnover);
                continue;
            }
            let turnover = row.day_turnover.zip(day_turnover).and_then(|(after, before)| difference(after, before));
            day_turnover = row.day_turnover.or(day_turnover);
            if row.volume.is_zero() {
                read.quiet += 1;
                continue;
            }
            read.candles.push(Candle {
                instrument: instrument.clone(),
                feed: feed.clone(),
                interval: Interval::ONE_MINUTE,
                open_time: minute,
                receive_time: received,
                open: row.open,
                high: row.high,
                low: row.low,
                close: row.close,
                volume: Some(row.volume),
                turnover,
                trade_count: None,
                buy_volume: None,
                import_row: None,
                closed: true,
                source: Source::Rest,
            });
        }
        read.turnover_after = day_turnover;
        read
    }

    /// These, with those of the further answer in front; a minute that both show is the newer answer's.
    ///
    /// # Errors
    /// An answer that goes no further back.
    pub fn with_older(mut self, mut older: Self) -> Result<Self, CallError> {
        if older.reaches.is_some() && older.reaches >= self.reaches {
            return Err(CallError::Unreadable { detail: "the further rows are not older".to_owned() });
        }
        if let Some(first) = self.candles.first().map(|candle| candle.open_time) {
            older.unasked += older.candles.extract_if(.., |candle| candle.open_time >= first).count();
        }
        older.candles.append(&mut self.candles);
        older.malformed.append(&mut self.malformed);
        Ok(Self {
            quiet: older.quiet + self.quiet,
            unasked: older.unasked + self.unasked,
            turnover_after: self.turnover_after.or(older.turnover_after),
            reaches: older.reaches.or(self.reaches),
            ..older
        })
    }
}

/// A row of an answer in the venue's words.
pub(crate) trait CandleRow<'a>: Deserialize<'a> {
    /// The minute it is of; `None` for a row that holds nothing.
    fn minute(&self) -> Result<Option<Timestamp>, FieldError>;

    /// What was traded in it.
    fn traded(self) -> Result<Traded, FieldError>;
}

/// What was traded in a minute.
pub(crate) struct Traded {
    pub(crate) open: Price,
    pub(crate) high: Price,
    pub(crate) low: Price,
    pub(crate) close: Price,
    pub(crate) volume: Quantity,
    /// Of the day, up to the end of the minute, where the venue tells it.
    pub(crate) day_turnover: Option<Amount>,
}

/// What a row says of which minute.
type Row = (Timestamp, Result<Traded, FieldError>);

fn row<'a, R: CandleRow<'a>>(raw: &'a RawValue) -> Result<Option<Row>, FieldError> {
    let row: R = serde_json::from_str(raw.get()).map_err(|error| (Malformed::BadField, error.to_string()))?;
    let Some(minute) = row.minute()? else { return Ok(None) };
    if minute.window_open(Interval::ONE_MINUTE) != minute {
        return Err((Malformed::BadTime, format!("{minute} is not on a minute")));
    }
    let traded = row.traded().and_then(|traded| {
        if traded.volume < Quantity::ZERO {
            return Err((Malformed::BadNumber, format!("volume: {} is negative", traded.volume)));
        }
        Ok(traded)
    });
    Ok(Some((minute, traded)))
}

pub(crate) fn malformed((reason, detail): FieldError, raw: &RawValue) -> MalformedRow {
    MalformedRow { reason, detail, raw: raw.get().to_owned(), id: None, event_time: None }
}

/// A minute's turnover; a day's sum that falls tells none.
fn difference(after: Amount, before: Amount) -> Option<Amount> {
    let scaled = after.scaled().checked_sub(before.scaled()).filter(|scaled| *scaled >= 0)?;
    Amount::from_scaled(scaled)
}
