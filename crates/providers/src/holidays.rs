//! Whether an exchange opens on a day, as a broker tells it (휴장일): how it is asked, and how its answers are read.
//!
//! Pure like the rest: requests out, answers in. Who asks daily and says what differs from the calendar is
//! `services/producer/src/candles/holidays.rs`.
//!
//! Next: `crates/providers/src/kis/holidays.rs`.

use crate::{CallError, CallRequest, Credentials, RestAnswer, Secret};
use jiff::civil::Date;

/// A day of the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TradingDay {
    /// Local date.
    pub date: Date,
    /// Whether the market opens.
    pub is_open: bool,
}

/// What an answer holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HolidayRows {
    /// Day after day.
    pub days: Vec<TradingDay>,
    /// Names the days behind them.
    pub further: Option<String>,
}

/// A broker's days.
pub trait Holidays: Sync {
    /// The question about the days from this one on; `further` is what the answer before said.
    fn request(&self, from: Date, further: Option<&str>, credentials: &Credentials, pass: &Secret) -> CallRequest;

    /// Reads the answer.
    ///
    /// # Errors
    /// [`CallError`] for anything but the documented shape, whatever the status says.
    fn read(&self, answer: RestAnswer<'_>) -> Result<HolidayRows, CallError>;
}

/// The days of a provider's id, where it tells any.
pub fn holidays_of(id: &str) -> Option<&'static dyn Holidays> {
    match id {
        "kis" => Some(&crate::kis::KisHolidays),
        _ => None,
    }
}
