//! What a venue says of its instruments (종목정보): which there are, what they are, and what may not be traded.
//!
//! Pure like the rest: requests out, answers in. Who asks daily and publishes what changed is `services/producer/src/candles/reference.rs`.
//!
//! Next: `crates/providers/src/kis/master.rs`, `crates/providers/src/kiwoom/master.rs`.

use crate::{CallError, CallRequest, Credentials, MalformedRow, RestAnswer, Secret};
use marketflow_model::{Instrument, Timestamp};
use std::collections::BTreeMap;

/// Names of attributes, as they stand on `market.reference.v1`. What is a flag says `yes` or is not there.
pub mod attribute {
    /// `KOSPI`, `KOSDAQ`, `KONEX`.
    pub const MARKET: &str = "market";
    /// `stock`, `etf`, `etn`, `elw`, `reit`, `fund`.
    pub const KIND: &str = "kind";
    /// ISIN.
    pub const ISIN: &str = "isin";
    /// The day it was listed, `2026-11-20`.
    pub const LISTED_ON: &str = "listed_on";
    /// Under administration (관리종목).
    pub const ADMINISTRATION: &str = "administration";
    /// Traded for the last time before it is delisted (정리매매): without price limits.
    pub const LIQUIDATION: &str = "liquidation";
    /// The exchange calls for attention (투자주의환기, 투자유의).
    pub const ATTENTION: &str = "attention";
    /// Too hot for a while (단기과열): traded in auctions.
    pub const OVERHEATED: &str = "overheated";
    /// `caution` (투자주의), `warning` (투자경고), `risk` (투자위험).
    pub const WARNING: &str = "warning";
    /// A flag that is set.
    pub const YES: &str = "yes";
}

/// An instrument as a venue states it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Which.
    pub instrument: Instrument,
    /// What people call it.
    pub name: Option<String>,
    /// Trading is halted (거래정지).
    pub halted: bool,
    /// It is not listed from this day on.
    pub delisted_from: Option<Timestamp>,
    /// By the names of the module `attribute`.
    pub attributes: BTreeMap<&'static str, String>,
}

impl Listing {
    /// Nothing is said of it yet.
    pub fn new(instrument: Instrument) -> Self {
        Self { instrument, name: None, halted: false, delisted_from: None, attributes: BTreeMap::new() }
    }

    /// What another answer adds about the same instrument.
    pub fn with(mut self, other: Self) -> Self {
        self.name = self.name.or(other.name);
        self.halted |= other.halted;
        self.delisted_from = self.delisted_from.or(other.delisted_from);
        for (name, value) in other.attributes {
            self.attributes.entry(name).or_insert(value);
        }
        self
    }

    pub(crate) fn flag(&mut self, name: &'static str, is_set: bool) {
        if is_set {
            self.attributes.insert(name, attribute::YES.to_owned());
        }
    }

    pub(crate) fn say(&mut self, name: &'static str, value: Option<impl Into<String>>) {
        if let Some(value) = value {
            self.attributes.insert(name, value.into());
        }
    }
}

/// A question about instruments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterQuestion {
    /// All instruments of a market, as the venue numbers it.
    Market(&'static str),
    /// What an instrument is.
    Instrument(Instrument),
    /// Its warnings of the day.
    Warnings(Instrument),
}

/// What an answer holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MasterRows {
    /// One for each instrument it speaks of; none for an instrument that the venue does not know.
    pub listings: Vec<Listing>,
    /// Rows that cannot be used.
    pub malformed: Vec<MalformedRow>,
}

/// A venue's master of instruments.
pub trait Master: Sync {
    /// Whether its answers hold every instrument of the venue, so that one that is missing is not listed any more.
    fn is_whole(&self) -> bool;

    /// The questions that together tell everything; about these instruments, where the venue is asked about each.
    fn questions(&self, instruments: &[Instrument]) -> Vec<MasterQuestion>;

    /// As it is sent; `further` is what [`Master::further`] said of the answer before.
    fn request(&self, question: &MasterQuestion, further: Option<&str>, credentials: &Credentials, pass: &Secret) -> CallRequest;

    /// Names the rows behind an answer with these headers, where the venue cuts its answers.
    fn further<'a>(&self, header: &dyn Fn(&'static str) -> Option<&'a str>) -> Option<&'a str>;

    /// Reads the answer.
    ///
    /// # Errors
    /// [`CallError`] for anything but the documented shape, whatever the status says.
    fn read(&self, question: &MasterQuestion, answer: RestAnswer<'_>) -> Result<MasterRows, CallError>;
}

/// The master of a provider's id, where it tells any.
pub fn master_of(id: &str) -> Option<&'static dyn Master> {
    match id {
        "kis" => Some(&crate::kis::KisMaster),
        "kiwoom" => Some(&crate::kiwoom::KiwoomMaster),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_answers_about_an_instrument_are_one_listing() {
        let mut is = Listing::new("KRX:005930".parse().unwrap());
        is.name = Some("삼성전자".to_owned());
        is.say(attribute::MARKET, Some("KOSPI"));
        let mut warned = Listing::new(is.instrument.clone());
        warned.halted = true;
        warned.flag(attribute::LIQUIDATION, true);
        warned.flag(attribute::OVERHEATED, false);
        let both = is.with(warned);
        let attributes: Vec<_> = both.attributes.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(attributes, [("liquidation", "yes"), ("market", "KOSPI")]);
        assert!(both.halted && both.name.is_some());
    }
}
