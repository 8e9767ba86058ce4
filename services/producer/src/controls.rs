//! The controls a producer writes among its trades (design: time travels in-band).
//!
//! Heartbeats and gaps are put together in `ledger.rs`; here is what several places need.
//!
//! Next: `publish.rs`.

use marketflow_model::{Control, ControlKind, Feed, FeedState, Instrument, Timestamp};

/// A feed, or one instrument of it, came up or went down.
pub fn feed_state(
    feed: &Feed,
    instrument: Option<Instrument>,
    state: FeedState,
    from: Option<Timestamp>,
    reason: &str,
    now: Timestamp,
) -> Control {
    let mut control = Control::new(ControlKind::FeedState, feed.clone(), now);
    control.instrument = instrument;
    control.state = state;
    control.from = from;
    control.reason = Some(reason.to_owned());
    control
}

/// Label value of a kind.
pub const fn kind_label(kind: ControlKind) -> &'static str {
    match kind {
        ControlKind::Unknown => "unknown",
        ControlKind::Heartbeat => "heartbeat",
        ControlKind::FeedState => "feed_state",
        ControlKind::GapOpened => "gap_opened",
        ControlKind::GapFilled => "gap_filled",
        ControlKind::GapAbandoned => "gap_abandoned",
        ControlKind::Halt => "halt",
        ControlKind::CalendarChange => "calendar_change",
        ControlKind::End => "end",
        ControlKind::Clock => "clock",
    }
}

/// When the next heartbeat is due: each second of the venue's clock, but not faster than the machine can use, and at least each second of
/// the wall's, so that a feed on a standing clock still shows life.
#[derive(Debug)]
pub struct HeartbeatPace {
    last: Option<(Timestamp, std::time::Duration)>,
}

const EVERY_MICROS: i64 = 1_000_000;
const WALL_MIN: std::time::Duration = std::time::Duration::from_millis(15);
const WALL_MAX: std::time::Duration = std::time::Duration::from_secs(1);

impl HeartbeatPace {
    /// None was written yet.
    pub const fn new() -> Self {
        Self { last: None }
    }

    /// Whether one is due; then it counts as written.
    pub fn due(&mut self, venue: Timestamp, monotonic: std::time::Duration) -> bool {
        if let Some((last_venue, last)) = self.last {
            let waited = monotonic.saturating_sub(last);
            let second_passed = venue.micros_since(last_venue) >= EVERY_MICROS && waited >= WALL_MIN;
            if !second_passed && waited < WALL_MAX {
                return false;
            }
        }
        self.last = Some((venue, monotonic));
        true
    }
}

impl Default for HeartbeatPace {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_heartbeat_each_second_of_either_clock_and_no_flood() {
        let mut pace = HeartbeatPace::new();
        let at = Timestamp::from_seconds;
        assert!(pace.due(at(100), Duration::ZERO));
        assert!(!pace.due(at(100), Duration::from_millis(999)));
        assert!(pace.due(at(100), Duration::from_millis(1_000)), "a standing clock");
        assert!(!pace.due(at(500), Duration::from_millis(1_005)), "a racing clock");
        assert!(pace.due(at(500), Duration::from_millis(1_015)));
    }
}
