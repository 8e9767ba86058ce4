//! The current price of instruments, once, said line by line and kept nowhere.
//!
//! Next: `services/cli/src/commands/price.rs`, which shows them.

use super::config::Checked;
use super::{Said, say};
use marketflow_access::{self as access, Symbols};
use marketflow_model::{Instrument, Timestamp};
use marketflow_pacing::Class;
use marketflow_providers::prices::{CurrentPrice, Prices};
use marketflow_providers::{CallError, CallRequest, Credentials, RestAnswer, Secret};
use marketflow_runtime::Stop;
use serde::Serialize;

/// An instrument's day so far; numbers as text, exactly as they were told.
#[derive(Clone, Debug, Serialize)]
pub struct PriceSaid {
    symbol: Instrument,
    last: Option<String>,
    base: Option<String>,
    open: Option<String>,
    high: Option<String>,
    low: Option<String>,
    upper_limit: Option<String>,
    lower_limit: Option<String>,
    volume: Option<String>,
    turnover: Option<String>,
    halted: Option<bool>,
    /// Why there is none.
    problem: Option<String>,
}

struct Asked<'a> {
    prices: &'static dyn Prices,
    instrument: &'a Instrument,
}

impl access::Question for Asked<'_> {
    type Answer = Option<CurrentPrice>;

    fn class(&self) -> Class {
        Class::Live
    }

    fn request(&self, credentials: &Credentials, pass: &Secret) -> CallRequest {
        self.prices.request(self.instrument, credentials, pass)
    }

    fn read<'a>(
        &self,
        answer: RestAnswer<'_>,
        _: &dyn Fn(&'static str) -> Option<&'a str>,
        _: Timestamp,
    ) -> Result<Option<CurrentPrice>, CallError> {
        self.prices.read(answer)
    }
}

/// Asks about each.
///
/// # Errors
/// The venue refuses the key, or the day's calls are spent. What it says of one instrument does not end it.
pub async fn run(checked: &Checked, symbols: &Symbols, calls: &access::Client, stop: &Stop) -> anyhow::Result<()> {
    for instrument in &symbols.all {
        if stop.requested() {
            break;
        }
        let told = match calls.ask(&Asked { prices: checked.prices, instrument }).await {
            Ok(told) => told.ok_or_else(|| "the broker does not know it".to_owned()),
            Err(problem) if problem.downcast_ref::<CallError>().is_some() => Err(format!("{problem:#}")),
            Err(problem) => return Err(problem),
        };
        say(&Said::Price(&PriceSaid::new(instrument, told)))?;
    }
    Ok(())
}

impl PriceSaid {
    fn new(instrument: &Instrument, told: Result<CurrentPrice, String>) -> Self {
        let (told, problem) = match told {
            Ok(told) => (Some(told), None),
            Err(problem) => (None, Some(problem)),
        };
        let of = |pick: fn(&CurrentPrice) -> Option<marketflow_model::Price>| {
            told.as_ref().and_then(pick).map(|price| price.to_string())
        };
        Self {
            symbol: instrument.clone(),
            last: of(|told| told.last),
            base: of(|told| Some(told.base)),
            open: of(|told| told.open),
            high: of(|told| told.high),
            low: of(|told| told.low),
            upper_limit: of(|told| told.upper_limit),
            lower_limit: of(|told| told.lower_limit),
            volume: told.as_ref().map(|told| told.volume.to_string()),
            turnover: told.as_ref().and_then(|told| told.turnover).map(|turnover| turnover.to_string()),
            halted: told.as_ref().and_then(|told| told.halted),
            problem,
        }
    }
}
