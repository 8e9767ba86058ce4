//! What is known of a feed in one partition: its watermark, since when there is evidence, and its gaps.

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
    /// An import that ended takes no more rows.
    pub(crate) ended: bool,
}

impl Default for FeedTrack {
    fn default() -> Self {
        Self { watermark: Timestamp::MIN, covered_from: None, declared: false, cut_at: None, gaps: Vec::new(), ended: false }
    }
}

impl FeedTrack {
    /// Whether an open gap of the instrument overlaps the window.
    pub(crate) fn pins(&self, instrument: &Instrument, open: Timestamp, close: Timestamp) -> bool {
        self.gaps.iter().any(|g| g.state == GapState::Open && g.concerns(instrument) && g.overlaps(open, close))
    }
}
