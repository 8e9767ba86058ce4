//! Time travels in-band: what a producer knows about its feed, in the same partition and order as the data it speaks of.

use crate::{Feed, Instrument, Timestamp};
use serde::{Deserialize, Serialize};

/// What a control says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default, Hash, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum ControlKind {
    /// Written by something newer than this reader; skipped and counted.
    #[default]
    Unknown,
    /// Each second: `clock` and `complete_through`.
    Heartbeat,
    /// A feed (or one instrument of it) came up or went down; `from` = evidence exists from here on (`None`: since ever).
    FeedState,
    /// Records between `from` and `to` (`None`: still open) may be missing.
    GapOpened,
    /// The gap's records have all been written before this control.
    GapFilled,
    /// The gap's records will not come.
    GapAbandoned,
    /// Trading halted or resumed.
    Halt,
    /// A date of a calendar is other than its file says, from here in the log on: [`crate::CalendarChange`].
    CalendarChange,
    /// The feed is over: nothing follows; all its windows close.
    End,
    /// Written by the processor when a feed has said nothing for a while: `clock` is how far the feed's own clock must be by now, `state` down
    /// where that is too long.
    Clock,
}

/// Whether a feed delivers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default, Hash, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum FeedState {
    /// Not said.
    #[default]
    Unknown,
    /// Connected and subscribed.
    Up,
    /// Not delivering.
    Down,
}

/// A control record. Which optional fields are set follows from the kind (see [`ControlKind`]).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Control {
    /// What it says.
    pub kind: ControlKind,
    /// Of which feed.
    pub feed: Feed,
    /// Of which instrument; `None` = of the whole feed.
    pub instrument: Option<Instrument>,
    /// The injected clock when it was written.
    pub clock: Timestamp,
    /// Every record of the feed with an earlier event time stands before this control, known gaps excepted.
    pub complete_through: Option<Timestamp>,
    /// Names a gap over its life: opened, then filled or abandoned.
    pub gap_id: Option<String>,
    /// Start of what is spoken of (inclusive).
    pub from: Option<Timestamp>,
    /// End of what is spoken of (exclusive).
    pub to: Option<Timestamp>,
    /// For [`ControlKind::FeedState`], [`ControlKind::Halt`] (down = halted) and [`ControlKind::CalendarChange`] (up = these hours, down = closed).
    pub state: FeedState,
    /// Why, in words for people.
    pub reason: Option<String>,
    /// The network login it was learned on.
    pub connection_id: Option<String>,
}

impl Control {
    /// A control with nothing optional set.
    pub fn new(kind: ControlKind, feed: Feed, clock: Timestamp) -> Self {
        Self {
            kind,
            feed,
            instrument: None,
            clock,
            complete_through: None,
            gap_id: None,
            from: None,
            to: None,
            state: FeedState::Unknown,
            reason: None,
            connection_id: None,
        }
    }
}
