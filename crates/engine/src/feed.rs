//! What is known of a feed in one partition: its watermark, since when there is evidence, its gaps and halts.

use marketflow_model::{Instrument, Timestamp};
use serde::{Deserialize, Serialize};

/// What became of a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum GapState {
    /// Its records may still come.
    Open,
    /// All of them came.
    Filled,
    /// They will not come.
    Abandoned,
}

/// A hole in a feed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Gap {
    pub(crate) id: String,
    /// `None` = the whole feed.
    pub(crate) instrument: Option<Instrument>,
    pub(crate) from: Timestamp,
    /// Exclusive; [`Timestamp::MAX`] while unknown.
    pub(crate) to: Timestamp,
    pub(crate) state: GapState,
}

impl Gap {
    pub(crate) fn concerns(&self, instrument: &Instrument) -> bool {
        self.instrument.as_ref().is_none_or(|i| i == instrument)
    }

    pub(crate) fn overlaps(&self, open: Timestamp, close: Timestamp) -> bool {
        self.from < close && self.to > open
    }
}

/// A stop of trading.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Halt {
    /// `None` = everything the feed carries.
    pub(crate) instrument: Option<Instrument>,
    pub(crate) from: Timestamp,
    /// Exclusive; [`Timestamp::MAX`] while it lasts.
    pub(crate) to: Timestamp,
}

/// A feed in one partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct FeedTrack {
    /// No earlier event is expected, known gaps excepted.
    pub(crate) watermark: Timestamp,
    /// Evidence exists from here on. Until a control declares it: the first record's event time.
    pub(crate) covered_from: Option<Timestamp>,
    /// Whether a control declared `covered_from`.
    pub(crate) declared: bool,
    /// A partial import was cut here: later windows are partial.
    pub(crate) cut_at: Option<Timestamp>,
    /// Open gaps, and closed ones while windows they touch are kept.
    pub(crate) gaps: Vec<Gap>,
    /// Halts that touch kept windows, and the one that lasts.
    pub(crate) halts: Vec<Halt>,
    /// An import that ended takes no more rows.
    pub(crate) ended: bool,
    /// Up to where the flow stage was told that this feed is complete; on a minute.
    pub(crate) marked: Timestamp,
    /// Clock of the feed's own last control.
    pub(crate) clock: Timestamp,
    /// Whether it counts as down because it has said nothing; a gap named [`SILENCE`] is open then.
    pub(crate) down: bool,
}

/// Name of the gap that a feed's silence opens.
pub(crate) const SILENCE: &str = "silence";

impl Default for FeedTrack {
    fn default() -> Self {
        Self {
            watermark: Timestamp::MIN,
            covered_from: None,
            declared: false,
            cut_at: None,
            gaps: Vec::new(),
            halts: Vec::new(),
            ended: false,
            marked: Timestamp::MIN,
            clock: Timestamp::MIN,
            down: false,
        }
    }
}

impl FeedTrack {
    /// Whether an open gap of the instrument overlaps the window.
    pub(crate) fn pins(&self, instrument: &Instrument, open: Timestamp, close: Timestamp) -> bool {
        self.gaps.iter().any(|g| g.state == GapState::Open && g.concerns(instrument) && g.overlaps(open, close))
    }

    /// Whether trading of the instrument stood still in a part of `[from, to)`.
    pub(crate) fn is_halted(&self, instrument: &Instrument, from: Timestamp, to: Timestamp) -> bool {
        self.halts.iter().any(|h| h.instrument.as_ref().is_none_or(|i| i == instrument) && h.from < to && h.to > from)
    }
}
