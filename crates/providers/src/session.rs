//! Bookkeeping every connection shares: which channels are wanted, asked for and acknowledged; silence; proof of life; planned renewal.
//!
//! It lacks any venue's words: `connection.rs` of each provider turns channels into frames and answers into calls here.
//!
//! Next: `crates/providers/src/bitstamp/connection.rs`.

use crate::{Event, FeedKind, Moment};
use marketflow_model::{Instrument, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// When a connection asks, waits and gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Venue clock between two proofs of life asked for.
    pub probe_interval: Duration,
    /// Least time between two on the monotonic clock, whatever the venue clock does.
    pub probe_interval_min: Duration,
    /// Monotonic wait for the answer before the connection counts as dead.
    pub probe_timeout: Duration,
    /// Monotonic wait for a subscription's acknowledgement.
    pub acknowledge_timeout: Duration,
    /// Venue clock without a trade before an instrument is called silent; doubles while it stays so.
    pub silent_after: Duration,
    /// Least time between two frames sent.
    pub send_interval_min: Duration,
    /// Venue clock after which the connection is renewed before the venue cuts it; `None`: the venue does not.
    pub renew_after: Option<Duration>,
}

impl Timing {
    /// As `services/producer/default.toml` has it.
    pub const USUAL: Self = Self {
        probe_interval: Duration::from_secs(2),
        probe_interval_min: Duration::from_millis(250),
        probe_timeout: Duration::from_secs(10),
        acknowledge_timeout: Duration::from_secs(10),
        silent_after: Duration::from_secs(60),
        send_interval_min: Duration::from_millis(250),
        renew_after: None,
    };
}

/// Longest venue-clock wait between two calls of silence.
const SILENCE_MAX: Duration = Duration::from_secs(30 * 60);

#[derive(Debug)]
struct Channel {
    instrument: Instrument,
    kind: FeedKind,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Not yet written to the socket.
    Wanted,
    Asked {
        at: Duration,
    },
    Active,
    Leaving,
}

/// When an instrument's trades were last heard and when to wonder next.
#[derive(Debug)]
struct Hearing {
    last: Timestamp,
    wonder_at: Timestamp,
    patience: Duration,
}

#[derive(Debug)]
struct Probe {
    venue: Timestamp,
    at: Duration,
    answered: bool,
}

#[derive(Debug)]
pub(crate) struct Session {
    timing: Timing,
    channels: BTreeMap<String, Channel>,
    hearing: BTreeMap<Instrument, Hearing>,
    opened: Option<Moment>,
    probe: Option<Probe>,
    renewing: bool,
    dead: bool,
}

impl Session {
    pub(crate) fn new(timing: Timing) -> Self {
        Self {
            timing,
            channels: BTreeMap::new(),
            hearing: BTreeMap::new(),
            opened: None,
            probe: None,
            renewing: false,
            dead: false,
        }
    }

    pub(crate) fn timing(&self) -> &Timing {
        &self.timing
    }

    pub(crate) fn open(&mut self, now: Moment) {
        self.opened = Some(now);
    }

    /// Notes a channel as wanted; whether it is new.
    pub(crate) fn want(&mut self, name: String, instrument: &Instrument, kind: FeedKind) -> bool {
        let state = self.channels.get(&name).map(|channel| &channel.state);
        if state.is_some_and(|state| *state != State::Leaving) {
            return false;
        }
        self.channels.insert(name, Channel { instrument: instrument.clone(), kind, state: State::Wanted });
        true
    }

    /// Channels not yet asked for, in name order.
    pub(crate) fn wanted(&self) -> Vec<String> {
        self.channels.iter().filter(|(_, channel)| channel.state == State::Wanted).map(|(name, _)| name.clone()).collect()
    }

    /// Channels asked for and not yet acknowledged, in name order.
    pub(crate) fn asked_for(&self) -> Vec<String> {
        let asked = |channel: &Channel| matches!(channel.state, State::Asked { .. });
        self.channels.iter().filter(|(_, channel)| asked(channel)).map(|(name, _)| name.clone()).collect()
    }

    /// Channels wanted, asked for or acknowledged, in name order.
    pub(crate) fn present(&self) -> Vec<String> {
        self.channels.iter().filter(|(_, channel)| channel.state != State::Leaving).map(|(name, _)| name.clone()).collect()
    }

    /// Channels acknowledged, in name order.
    pub(crate) fn active(&self) -> Vec<String> {
        self.channels.iter().filter(|(_, channel)| channel.state == State::Active).map(|(name, _)| name.clone()).collect()
    }

    /// Channels being left, in name order.
    pub(crate) fn leaving(&self) -> Vec<String> {
        self.channels.iter().filter(|(_, channel)| channel.state == State::Leaving).map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn asked(&mut self, name: &str, now: Moment) {
        if let Some(channel) = self.channels.get_mut(name) {
            channel.state = State::Asked { at: now.monotonic };
        }
    }

    /// Marks a channel as being left; whether it was there.
    pub(crate) fn leave(&mut self, name: &str) -> bool {
        let Some(channel) = self.channels.get_mut(name) else { return false };
        channel.state = State::Leaving;
        if channel.kind == FeedKind::Trades {
            self.hearing.remove(&channel.instrument);
        }
        true
    }

    /// The venue acknowledged a subscription.
    pub(crate) fn acknowledged(&mut self, name: &str, now: Moment, out: &mut Vec<Event>) {
        let Some(channel) = self.channels.get_mut(name) else {
            out.push(Event::Ignored);
            return;
        };
        if matches!(channel.state, State::Active | State::Leaving) {
            out.push(Event::Ignored);
            return;
        }
        channel.state = State::Active;
        if channel.kind == FeedKind::Trades {
            let patience = self.timing.silent_after;
            self.hearing
                .insert(channel.instrument.clone(), Hearing { last: now.venue, wonder_at: plus(now.venue, patience), patience });
            out.push(Event::Subscribed { instrument: channel.instrument.clone() });
        } else {
            out.push(Event::Ignored);
        }
    }

    /// The venue acknowledged that a channel ends.
    pub(crate) fn left(&mut self, name: &str, out: &mut Vec<Event>) {
        match self.channels.get(name) {
            Some(channel) if channel.state == State::Leaving => {
                let instrument = channel.instrument.clone();
                let trades = channel.kind == FeedKind::Trades;
                self.channels.remove(name);
                out.push(if trades { Event::Unsubscribed { instrument } } else { Event::Ignored });
            }
            _ => out.push(Event::Ignored),
        }
    }

    /// The instrument of a channel data arrived on; `None` when it is not (or no longer) wanted.
    pub(crate) fn instrument(&self, name: &str) -> Option<&Instrument> {
        self.channels.get(name).filter(|channel| channel.state != State::Leaving).map(|channel| &channel.instrument)
    }

    /// A trade of the instrument was received.
    pub(crate) fn heard(&mut self, instrument: &Instrument, now: Moment) {
        if let Some(hearing) = self.hearing.get_mut(instrument) {
            hearing.last = now.venue;
            hearing.patience = self.timing.silent_after;
            hearing.wonder_at = plus(now.venue, hearing.patience);
        }
    }

    /// Whether a proof of life should be asked for now; then it counts as asked.
    pub(crate) fn probe_due(&mut self, now: Moment) -> bool {
        let since = self.probe.as_ref().map(|probe| (probe.venue, probe.at)).or(self.opened.map(|m| (m.venue, m.monotonic)));
        let Some((venue, at)) = since else { return false };
        if self.probe.as_ref().is_some_and(|probe| !probe.answered) {
            return false;
        }
        let waited = now.monotonic.saturating_sub(at);
        let due = waited >= self.timing.probe_interval_min
            && (now.venue >= plus(venue, self.timing.probe_interval) || waited >= self.timing.probe_interval);
        if due {
            self.probe = Some(Probe { venue: now.venue, at: now.monotonic, answered: false });
        }
        due
    }

    /// The answer came: the venue had sent everything up to the moment it was asked.
    pub(crate) fn probe_answered(&mut self, out: &mut Vec<Event>) {
        match &mut self.probe {
            Some(probe) if !probe.answered => {
                probe.answered = true;
                out.push(Event::Evidence { through: probe.venue });
            }
            _ => out.push(Event::Ignored),
        }
    }

    /// The venue announced that it will close.
    pub(crate) fn renew(&mut self, reason: &'static str, out: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.renewing, true) {
            out.push(Event::Renew { reason });
        }
    }

    /// Time-outs: unanswered probe, missing acknowledgements, silence, planned renewal.
    pub(crate) fn on_timer(&mut self, now: Moment, out: &mut Vec<Event>) {
        let Some(opened) = self.opened else { return };
        if self.dead {
            return;
        }
        if let Some(probe) = &self.probe
            && !probe.answered
            && now.monotonic.saturating_sub(probe.at) >= self.timing.probe_timeout
        {
            self.dead = true;
            out.push(Event::Reconnect { reason: "no_reply" });
            return;
        }
        if let Some(renew_after) = self.timing.renew_after
            && now.venue >= plus(opened.venue, renew_after)
        {
            self.renew("planned", out);
        }
        for channel in self.channels.values_mut() {
            if let State::Asked { at } = channel.state
                && now.monotonic.saturating_sub(at) >= self.timing.acknowledge_timeout
            {
                channel.state = State::Wanted;
                out.push(Event::Refused {
                    instrument: Some(channel.instrument.clone()),
                    reason: format!("not acknowledged within {:?}; asking again", self.timing.acknowledge_timeout),
                });
            }
        }
        for (instrument, hearing) in &mut self.hearing {
            if now.venue >= hearing.wonder_at {
                out.push(Event::Silent { instrument: instrument.clone(), since: hearing.last });
                hearing.patience = (hearing.patience * 2).min(SILENCE_MAX);
                hearing.wonder_at = plus(now.venue, hearing.patience);
            }
        }
    }
}

fn plus(at: Timestamp, duration: Duration) -> Timestamp {
    at.plus_micros(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const TIMING: Timing = Timing { renew_after: Some(Duration::from_secs(23 * 3600)), ..Timing::USUAL };

    pub(crate) fn moment(seconds: u64) -> Moment {
        let venue = Timestamp::from_seconds(1_700_000_000).plus_micros(i64::try_from(seconds * 1_000_000).unwrap());
        Moment { venue, received: venue, monotonic: Duration::from_secs(seconds) }
    }

    fn session() -> (Session, Instrument) {
        let instrument: Instrument = "V:S".parse().unwrap();
        let mut session = Session::new(TIMING);
        session.open(moment(0));
        assert!(session.want("trades".into(), &instrument, FeedKind::Trades));
        session.asked("trades", moment(0));
        (session, instrument)
    }

    #[test]
    fn an_unanswered_probe_ends_the_connection_once() {
        let (mut session, _) = session();
        let mut out = Vec::new();
        assert!(!session.probe_due(moment(1)));
        assert!(session.probe_due(moment(2)));
        assert!(!session.probe_due(moment(5)), "one at a time");
        session.on_timer(moment(11), &mut Vec::new());
        session.on_timer(moment(12), &mut out);
        session.on_timer(moment(13), &mut out);
        assert_eq!(out, [Event::Reconnect { reason: "no_reply" }]);
    }

    #[test]
    fn an_answered_probe_is_evidence_up_to_the_moment_it_was_asked() {
        let (mut session, _) = session();
        let mut out = Vec::new();
        assert!(session.probe_due(moment(2)));
        session.probe_answered(&mut out);
        session.probe_answered(&mut out);
        assert_eq!(out, [Event::Evidence { through: moment(2).venue }, Event::Ignored]);
    }

    #[test]
    fn silence_is_called_at_doubling_distances_and_ends_with_a_trade() {
        let (mut session, instrument) = session();
        session.acknowledged("trades", moment(0), &mut Vec::new());
        let silences = |session: &mut Session, range: std::ops::Range<u64>| {
            range
                .filter(|second| {
                    let mut out = Vec::new();
                    session.on_timer(moment(*second), &mut out);
                    out.iter().any(|e| matches!(e, Event::Silent { .. }))
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(silences(&mut session, 1..500), [60, 180, 420]);
        session.heard(&instrument, moment(500));
        assert_eq!(silences(&mut session, 500..600), [560]);
    }

    #[test]
    fn a_missing_acknowledgement_is_asked_again() {
        let (mut session, instrument) = session();
        let mut out = Vec::new();
        session.on_timer(moment(10), &mut out);
        assert!(matches!(&out[..], [Event::Refused { instrument: Some(refused), .. }] if *refused == instrument));
        assert_eq!(session.wanted(), ["trades"]);
    }

    #[test]
    fn a_renewal_is_asked_for_once_before_the_venue_cuts() {
        let (mut session, _) = session();
        session.acknowledged("trades", moment(0), &mut Vec::new());
        let renewals = |second, session: &mut Session| {
            let mut out = Vec::new();
            session.on_timer(moment(second), &mut out);
            out.iter().filter(|e| matches!(e, Event::Renew { .. })).count()
        };
        assert_eq!(renewals(23 * 3600 - 1, &mut session), 0);
        assert_eq!(renewals(23 * 3600, &mut session), 1);
        assert_eq!(renewals(23 * 3600 + 1, &mut session), 0);
    }
}
