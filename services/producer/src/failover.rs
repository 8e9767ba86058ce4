//! Two providers of one venue, one of which stands by: who tells an instrument's trades, and under whose name they go out. Pure.
//!
//! Both give a trade the same id, so the feed hears both all the time and writes each trade once. The one that tells is believed at once; what
//! the other says is held until the one has said it too. When the one falls silent, the other takes over within [`Settings::after`], beginning
//! with what was held; so nothing is missing, and what the one missed is filled. Names change later than tellers: bars are folded per feed, so
//! the name of a trade changes on an edge of the longest bar's window, and until then the other completes the windows that the one began.
//!
//! Next: `ledger.rs`, which asks here.

use crate::intake::ConnectionNumber;
use crate::lines::Line;
use marketflow_model::{Feed, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A name changes no sooner than this, so that the state file says so before any record does.
const NOTICE_MICROS: i64 = 2_000_000;
/// Changes of name that are remembered per instrument.
const EDGES_KEPT: usize = 16;

/// What was configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The feed that stands by.
    pub standby: Feed,
    /// How long the one may be lost or silent before the other takes over; monotonic.
    pub after: Duration,
    /// How long the first must be back without interruption before it tells again; monotonic.
    pub return_after: Duration,
    /// Length of the windows on whose edges names change, in microseconds.
    pub window_micros: i64,
}

/// One of the two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Teller {
    /// Configured first; preferred.
    #[default]
    First,
    /// Stands by.
    Standby,
}

impl Teller {
    /// Both.
    pub const ALL: [Self; 2] = [Self::First, Self::Standby];

    /// Whose connection this is.
    pub const fn of(number: ConnectionNumber) -> Self {
        Line::of(number).teller()
    }

    /// Not this one.
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Standby,
            Self::Standby => Self::First,
        }
    }
}

/// Who tells an instrument's trades, and under whose name they go out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Who tells them now.
    pub by: Teller,
    /// From when on they carry whose name; before all of them the first's.
    edges: Vec<(Timestamp, Teller)>,
}

impl Told {
    /// Whose name a trade of this event time carries.
    pub fn name(&self, at: Timestamp) -> Teller {
        self.edges.iter().rev().find(|(from, _)| *from <= at).map_or(Teller::First, |(_, name)| *name)
    }

    /// Whose names trades within `[from, to)` carry.
    pub fn names(&self, from: Timestamp, to: Option<Timestamp>) -> impl Iterator<Item = Teller> + use<> {
        let within = |at: Timestamp| from < at && to.is_none_or(|to| at < to);
        let at_once = self.name(from);
        let changed = self.edges.iter().any(|(at, name)| within(*at) && *name != at_once);
        std::iter::once(at_once).chain(changed.then_some(at_once.other()))
    }

    /// The other tells from now on, and gives trades its name from the next edge after `reached` on, up to which trades may have been told.
    /// Returns that edge; `None` where no name changes.
    pub fn change(&mut self, reached: Timestamp, window_micros: i64) -> Option<Timestamp> {
        self.by = self.by.other();
        let settled = reached.plus_micros(NOTICE_MICROS);
        // A change that was announced and has not come is taken back.
        self.edges.retain(|(from, _)| *from <= settled);
        if self.name(Timestamp::MAX) == self.by {
            return None;
        }
        let windows = settled.micros().div_euclid(window_micros) + 1;
        let edge = Timestamp::from_micros(windows.saturating_mul(window_micros));
        self.edges.push((edge, self.by));
        if self.edges.len() > EDGES_KEPT {
            self.edges.remove(0);
        }
        Some(edge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Teller::{First, Standby};

    const MINUTE: i64 = 60_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(600 + seconds)
    }

    #[test]
    fn names_change_on_the_next_edge_and_back() {
        let mut told = Told::default();
        assert_eq!((told.by, told.name(Timestamp::MAX)), (First, First));
        assert_eq!(told.change(at(30), MINUTE), Some(at(60)));
        assert_eq!((told.by, told.name(at(59)), told.name(at(60))), (Standby, First, Standby));
        assert_eq!(told.names(at(50), Some(at(60))).collect::<Vec<_>>(), [First]);
        assert_eq!(told.names(at(50), None).collect::<Vec<_>>(), [First, Standby]);
        assert_eq!(told.change(at(130), MINUTE), Some(at(180)));
        assert_eq!((told.by, told.name(at(179)), told.name(at(180))), (First, Standby, First));
        let kept = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Told>(&kept).unwrap(), told);
    }

    #[test]
    fn a_change_that_has_not_come_is_taken_back_and_one_about_to_come_is_not() {
        let mut told = Told::default();
        told.change(at(30), MINUTE);
        assert_eq!(told.change(at(40), MINUTE), None);
        assert_eq!((told.by, told.name(Timestamp::MAX)), (First, First));
        assert_eq!(told.change(at(59), MINUTE), Some(at(120)), "an edge a second away may be passed before anyone knows");
        assert_eq!(told.change(at(119), MINUTE), Some(at(180)));
        assert_eq!((told.name(at(119)), told.name(at(120)), told.name(at(180))), (First, Standby, First));
    }

    #[test]
    fn connections_tell_whose_they_are() {
        assert_eq!([Teller::of(1), Teller::of(Line::new(Standby, 0).first_number() + 1)], Teller::ALL);
    }
}
