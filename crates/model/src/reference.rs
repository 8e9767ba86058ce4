//! Reference data: what is said of an instrument itself, rather than of its trading.

use crate::{Instrument, SeriesValue, Timestamp};
use serde::{Deserialize, Serialize};

/// What a fact is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default, Hash, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum ReferenceKind {
    /// Not said, or newer than this reader.
    #[default]
    Unknown,
    /// The instrument: its name, market and flags; `valid_to` = it is no longer listed.
    Instrument,
    /// Trading in it is halted; `valid_to` = trading goes on.
    Halt,
    /// `member` is part of the fund, `value` its weight.
    EtfConstituent,
    /// `member` names its kind, `value` the factor on prices before `valid_from`.
    CorporateAction,
}

/// A fact about an instrument. Kind, instrument, member, `valid_from` and provider name it; the last word on it counts. Key: instrument.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reference {
    /// What it is about.
    pub kind: ReferenceKind,
    /// Of which instrument.
    pub instrument: Instrument,
    /// Constituent of a fund, kind of a corporate action; else empty.
    pub member: String,
    /// When it takes effect.
    pub valid_from: Timestamp,
    /// When it ends (exclusive); `None` = until further notice.
    pub valid_to: Option<Timestamp>,
    /// What people call it.
    pub name: Option<String>,
    /// A number that belongs to it.
    pub value: Option<SeriesValue>,
    /// Everything else the provider says of it; each name once, sorted.
    pub attributes: Vec<(String, String)>,
    /// Who told us.
    pub provider: String,
    /// When it reached us.
    pub receive_time: Timestamp,
}

impl Reference {
    /// What an attribute says, where it stands.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether it holds at some time of `[from, to)`.
    pub fn overlaps(&self, from: Timestamp, to: Timestamp) -> bool {
        self.valid_from < to && self.valid_to.is_none_or(|end| from < end)
    }
}
