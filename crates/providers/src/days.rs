//! Daily candles by request (일봉): how a broker is asked for a stretch of days, and how its answers are read.
//!
//! Pure like the rest: requests out, answers in. Prices are asked for as they were traded, never adjusted: factors are facts of their own, and an
//! adjusted price changes with every later event. A day is named by its midnight in Korea, whatever hours its session had.
//!
//! Next: `crates/providers/src/kis/days.rs`, `crates/providers/src/kiwoom/days.rs`.

use crate::candles::{Traded, malformed};
use crate::krx;
use crate::number::{FieldError, shown};
use crate::{CallError, CallRequest, Credentials, Malformed, MalformedRow, RestAnswer, Secret};
use jiff::civil::Date;
use marketflow_model::{Candle, Feed, Instrument, Interval, Price, Quantity, Source, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// A broker's daily candles.
pub trait Days: Sync {
    /// The question about the days `first` to `last`. Brokers cut their answers at the older end; what is missing is asked for by an earlier
    /// `last`.
    fn request(&self, instrument: &Instrument, first: Date, last: Date, credentials: &Credentials, pass: &Secret) -> CallRequest;

    /// Reads the answer to it.
    ///
    /// # Errors
    /// [`CallError`] for anything but the documented shape, whatever the status says.
    fn read(&self, stretch: &Stretch<'_>, answer: RestAnswer<'_>, received: Timestamp) -> Result<DayRows, CallError>;
}

/// The daily candles of a provider's id, where it tells any.
pub fn days_of(id: &str) -> Option<&'static dyn Days> {
    match id {
        "kis" => Some(&crate::kis::KisDays),
        "kiwoom" => Some(&crate::kiwoom::KiwoomDays),
        _ => None,
    }
}

/// Which days of which instrument, in which feed.
#[derive(Clone, Copy, Debug)]
pub struct Stretch<'a> {
    /// What was traded.
    pub instrument: &'a Instrument,
    /// Of which feed the candles are.
    pub feed: &'a Feed,
    /// First day.
    pub first: Date,
    /// Last day.
    pub last: Date,
}

/// What an answer holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DayRows {
    /// Candles of the days asked for on which something traded.
    pub candles: BTreeMap<Date, Candle>,
    /// Days asked for that the broker shows without a trade.
    pub quiet: usize,
    /// Rows that cannot be used.
    pub malformed: Vec<MalformedRow>,
    /// The oldest day shown within what was asked for.
    pub oldest: Option<Date>,
}

/// A row of an answer in the broker's words.
pub(crate) trait DayRow<'a>: Deserialize<'a> {
    /// The day it is of, `YYYYMMDD`; `None` for a row that holds nothing.
    fn date(&self) -> Option<&str>;

    /// What was traded on it; its turnover is the day's.
    fn traded(self) -> Result<Traded, FieldError>;
}

impl DayRows {
    pub(crate) fn of<'a, R: DayRow<'a>>(raws: Vec<&'a RawValue>, stretch: &Stretch<'_>, received: Timestamp) -> Self {
        let mut read = Self::default();
        for raw in raws {
            match row::<R>(raw) {
                Ok(Some((date, traded))) if (stretch.first..=stretch.last).contains(&date) => {
                    read.oldest = Some(read.oldest.map_or(date, |oldest| oldest.min(date)));
                    if let Err(problem) = traded.and_then(|traded| read.take(stretch, date, traded, received)) {
                        read.malformed.push(malformed(problem, raw));
                    }
                }
                // It fills the answer up, or was not asked for.
                Ok(_) => {}
                Err(problem) => read.malformed.push(malformed(problem, raw)),
            }
        }
        read
    }

    fn take(&mut self, stretch: &Stretch<'_>, date: Date, row: Traded, received: Timestamp) -> Result<(), FieldError> {
        if row.volume.is_zero() {
            self.quiet += 1;
            return Ok(());
        }
        let inside = |price: Price| row.low <= price && price <= row.high;
        if row.volume < Quantity::ZERO || !inside(row.open) || !inside(row.close) {
            let told = format!(
                "{date}: open {}, high {}, low {}, close {}, volume {}",
                row.open, row.high, row.low, row.close, row.volume
            );
            return Err((Malformed::BadNumber, told));
        }
        let candle = Candle {
            instrument: stretch.instrument.clone(),
            feed: stretch.feed.clone(),
            interval: Interval::ONE_DAY,
            open_time: krx::midnight(date).ok_or_else(|| (Malformed::BadTime, format!("{date}: out of range")))?,
            receive_time: received,
            open: row.open,
            high: row.high,
            low: row.low,
            close: row.close,
            volume: Some(row.volume),
            turnover: row.day_turnover,
            trade_count: None,
            buy_volume: None,
            import_row: None,
            closed: true,
            source: Source::Rest,
        };
        if self.candles.insert(date, candle).is_some() {
            return Err((Malformed::BadField, format!("{date} is there twice")));
        }
        Ok(())
    }
}

type Row = (Date, Result<Traded, FieldError>);

fn row<'a, R: DayRow<'a>>(raw: &'a RawValue) -> Result<Option<Row>, FieldError> {
    let row: R = serde_json::from_str(raw.get()).map_err(|error| (Malformed::BadField, error.to_string()))?;
    let Some(text) = row.date() else { return Ok(None) };
    let date = krx::date(text).ok_or_else(|| (Malformed::BadTime, format!("no date: {}", shown(text))))?;
    Ok(Some((date, row.traded())))
}
