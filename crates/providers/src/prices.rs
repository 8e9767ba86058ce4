//! The current price by request (현재가): one instrument and its day so far.
//!
//! For people and checks; what is stored comes from the sockets and the candles. Pure like the rest: requests out, answers in.
//!
//! Next: `crates/providers/src/kis/prices.rs`, `crates/providers/src/kiwoom/prices.rs`.

use crate::number::{FieldError, price, quantity};
use crate::{CallError, CallRequest, Credentials, RestAnswer, Secret};
use marketflow_model::{Amount, Instrument, Price, Quantity};

/// A broker's current prices.
pub trait Prices: Sync {
    /// The question about an instrument.
    fn request(&self, instrument: &Instrument, credentials: &Credentials, pass: &Secret) -> CallRequest;

    /// Reads the answer to it; `None` for an instrument that the broker does not know.
    ///
    /// # Errors
    /// [`CallError`] for anything but the documented shape, whatever the status says.
    fn read(&self, answer: RestAnswer<'_>) -> Result<Option<CurrentPrice>, CallError>;
}

/// The current prices of a provider's id, where it tells any.
pub fn prices_of(id: &str) -> Option<&'static dyn Prices> {
    match id {
        "kis" => Some(&crate::kis::KisPrices),
        "kiwoom" => Some(&crate::kiwoom::KiwoomPrices),
        _ => None,
    }
}

/// An instrument's day so far, in won and shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentPrice {
    /// Last price; `None` before the first trade of the day, where the broker shows none.
    pub last: Option<Price>,
    /// What changes and limits count from: the close before, adjusted for the day's events (기준가).
    pub base: Price,
    /// First price of the day; `None` before the first trade.
    pub open: Option<Price>,
    /// Highest.
    pub high: Option<Price>,
    /// Lowest.
    pub low: Option<Price>,
    /// Highest price allowed today (상한가).
    pub upper_limit: Option<Price>,
    /// Lowest price allowed today (하한가).
    pub lower_limit: Option<Price>,
    /// Shares traded.
    pub volume: Quantity,
    /// Won traded, where the broker tells it.
    pub turnover: Option<Amount>,
    /// Whether trading in it is halted, where the broker tells it here.
    pub halted: Option<bool>,
}

/// A price that may not be there: empty or zero.
pub(crate) fn price_or_none(field: &str, text: &str) -> Result<Option<Price>, FieldError> {
    let text = text.trim_start_matches(['+', '-']);
    if text.bytes().all(|digit| digit == b'0') {
        return Ok(None);
    }
    price(field, text).map(Some)
}

/// Shares; empty before the first trade.
pub(crate) fn volume(field: &str, text: &str) -> Result<Quantity, FieldError> {
    if text.is_empty() { Ok(Quantity::ZERO) } else { quantity(field, text) }
}
