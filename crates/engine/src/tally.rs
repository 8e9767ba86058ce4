//! What became of every record of an input partition, counted in the same transaction as its effects, so that the sum can be checked against the
//! log at any time: received = used + late + duplicate + quarantined + dead-lettered + not selected; controls are counted apart.
//!
//! Next: `services/cli/src/commands/audit.rs`, which checks it.

use crate::changelog::{Change, Key, NOTE, RestoreError, decode_key};
use marketflow_model::BarSource;
use serde::{Deserialize, Serialize};

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "as in the equation")]
pub enum Verdict {
    Used,
    Late,
    Duplicate,
    Quarantined,
    DeadLettered,
    NotSelected,
    Control,
}

impl Verdict {
    /// As metrics and messages spell it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Late => "late",
            Self::Duplicate => "duplicate",
            Self::Quarantined => "quarantined",
            Self::DeadLettered => "dead_lettered",
            Self::NotSelected => "not_selected",
            Self::Control => "control",
        }
    }
}

/// Counts of one input partition since the processor first read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in the equation")]
pub struct Tally {
    /// Offset of the first record counted; `None` before it.
    pub first: Option<i64>,
    /// Offset after the last one counted.
    pub next: i64,
    pub used: u64,
    pub late: u64,
    pub duplicate: u64,
    pub quarantined: u64,
    pub dead_lettered: u64,
    pub not_selected: u64,
    /// Controls, which are no data.
    pub controls: u64,
}

impl Tally {
    /// Counts the record at an offset.
    pub(crate) fn count(&mut self, offset: i64, verdict: Verdict) {
        self.first.get_or_insert(offset);
        self.next = offset + 1;
        let count = match verdict {
            Verdict::Used => &mut self.used,
            Verdict::Late => &mut self.late,
            Verdict::Duplicate => &mut self.duplicate,
            Verdict::Quarantined => &mut self.quarantined,
            Verdict::DeadLettered => &mut self.dead_lettered,
            Verdict::NotSelected => &mut self.not_selected,
            Verdict::Control => &mut self.controls,
        };
        *count += 1;
    }

    /// Data records counted: what must have been received.
    pub fn received(&self) -> u64 {
        self.used + self.late + self.duplicate + self.quarantined + self.dead_lettered + self.not_selected
    }

    /// Reads it out of a changelog record, with the source whose topic it counts; `None` within: it was dropped with the state.
    ///
    /// # Errors
    /// A record this version does not write.
    pub fn of_change(change: &Change) -> Result<Option<(BarSource, Option<Self>)>, RestoreError> {
        if change.key.first() == Some(&NOTE) {
            return Ok(None);
        }
        let Key::Tally(source) = decode_key(&change.key)? else { return Ok(None) };
        Ok(Some((source, change.value.as_deref().map(postcard::from_bytes).transpose()?)))
    }
}
