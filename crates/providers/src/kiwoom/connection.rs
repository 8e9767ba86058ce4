//! One connection: LOGIN, then one registration at a time, because an answer does not say what it answers; PING is echoed; a question that proves
//! life.
//!
//! Each instrument is one registration of trades, order book and interruptions. The broker's ping carries no time, so in a quiet market an existing
//! registration is repeated: the answer stands behind the data sent before it. An answer that does not come leaves the two sides out of step, and
//! the connection is given up. A trade has no id, but the day's volume, which shows a hole at the next trade.
//!
//! Next: `services/producer/src/websocket.rs`.

use super::PROVIDER;
use super::frame::{BOOK, Entry, INTERRUPTIONS, InterruptionField, Message, TRADES};
use super::parse;
use crate::krx::LastSeen;
use crate::number::{shape_error, shown};
use crate::session::{Session, Timing};
use crate::{Connection, Event, FeedKind, Frame, KEY_REFUSED, Malformed, Moment, Secret};
use marketflow_model::{Instrument, Timestamp};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// Least time between two messages to the broker.
const SEND_INTERVAL: Duration = Duration::from_millis(50);
/// Venue clock without any frame before life is asked for.
const QUIET: Duration = Duration::from_secs(10);
/// What is registered of each instrument.
const KINDS: [(&str, FeedKind); 3] = [(TRADES, FeedKind::Trades), (BOOK, FeedKind::Quotes), (INTERRUPTIONS, FeedKind::Halts)];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Request {
    Login,
    Register(Instrument),
    Leave(Instrument),
    Probe(Instrument),
}

/// State of one connection to the broker.
#[derive(Debug)]
pub struct KiwoomConnection {
    session: Session,
    token: Secret,
    instruments: BTreeSet<Instrument>,
    logged_in: bool,
    outbox: VecDeque<Request>,
    /// What is not yet answered, and since when.
    asked: Option<(Request, Duration)>,
    last_sent: Option<Duration>,
    /// When anything was last received, on the venue's clock.
    heard: Option<Timestamp>,
    seen: LastSeen,
}

impl KiwoomConnection {
    /// A connection that will carry these instruments.
    pub fn new(instruments: &[Instrument], timing: Timing, token: &Secret) -> Self {
        Self {
            session: Session::new(Timing { probe_interval: timing.probe_interval.max(QUIET), ..timing }),
            token: token.clone(),
            instruments: instruments.iter().cloned().collect(),
            logged_in: false,
            outbox: VecDeque::new(),
            asked: None,
            last_sent: None,
            heard: None,
            seen: LastSeen::default(),
        }
    }

    /// Brings the registrations in line with the instruments.
    fn arrange(&mut self, now: Moment) {
        let mut left = BTreeSet::new();
        for name in self.session.present() {
            let Some(instrument) = self.session.instrument(&name).cloned() else { continue };
            if !self.instruments.contains(&instrument) && self.session.leave(&name) {
                left.insert(instrument);
            }
        }
        for instrument in left {
            self.outbox.retain(|request| *request != Request::Register(instrument.clone()));
            self.outbox.push_back(Request::Leave(instrument));
        }
        let mut missing = BTreeSet::new();
        for instrument in &self.instruments {
            for (kind, of) in KINDS {
                self.session.want(channel(kind, instrument.symbol()), instrument, of);
            }
        }
        for name in self.session.wanted() {
            self.session.asked(&name, now);
            missing.extend(self.session.instrument(&name).cloned());
        }
        self.outbox.extend(missing.into_iter().map(Request::Register));
    }

    /// Sends what the pace allows, once the last is answered.
    fn send(&mut self, now: Moment, out: &mut Vec<Event>) {
        let free = self.last_sent.is_none_or(|at| now.monotonic.saturating_sub(at) >= SEND_INTERVAL);
        if !free || self.asked.is_some() || !self.logged_in {
            return;
        }
        if let Some(request) = self.outbox.pop_front() {
            self.ask(request, now, out);
        }
    }

    fn ask(&mut self, request: Request, now: Moment, out: &mut Vec<Event>) {
        let text = match &request {
            // A token is plain text without quotes.
            Request::Login => format!(r#"{{"trnm":"LOGIN","token":"{}"}}"#, self.token.expose()),
            Request::Register(instrument) | Request::Probe(instrument) => {
                format!(r#"{{"trnm":"REG","grp_no":"1","refresh":"1","data":[{}]}}"#, element(instrument))
            }
            Request::Leave(instrument) => format!(r#"{{"trnm":"REMOVE","grp_no":"1","data":[{}]}}"#, element(instrument)),
        };
        if let Request::Register(instrument) = &request {
            // The wait for the answer counts from the moment it is really asked.
            KINDS.iter().for_each(|(kind, _)| self.session.asked(&channel(kind, instrument.symbol()), now));
        }
        self.last_sent = Some(now.monotonic);
        self.asked = Some((request, now.monotonic));
        out.push(Event::Send { text });
    }

    fn on_message(&mut self, text: &str, now: Moment, out: &mut Vec<Event>) {
        let message: Message<'_> = match serde_json::from_str(text) {
            Ok(message) => message,
            Err(error) => return malformed(shape_error(text, &error), out),
        };
        match &*message.trnm {
            "PING" => out.push(Event::Send { text: text.to_owned() }),
            "REAL" => self.on_real(&message, now, out),
            "LOGIN" | "REG" | "REMOVE" => self.on_answer(&message, now, out),
            "SYSTEM" => {
                let words = message.message.as_deref().or(message.return_msg.as_deref()).unwrap_or_default();
                out.push(Event::Refused { instrument: None, reason: format!("the broker says: {}", shown(words)) });
            }
            other => malformed((Malformed::UnknownShape, format!("message {}", shown(other))), out),
        }
    }

    fn on_answer(&mut self, message: &Message<'_>, now: Moment, out: &mut Vec<Event>) {
        let asked = self.asked.as_ref().map(|(request, _)| request.clone());
        let answered = match (&*message.trnm, asked) {
            ("LOGIN", Some(request @ Request::Login)) => request,
            ("REG", Some(request @ (Request::Register(_) | Request::Probe(_)))) => request,
            ("REMOVE", Some(request @ Request::Leave(_))) => request,
            _ => return out.push(Event::Ignored),
        };
        let Some(done) = message.done() else {
            return malformed((Malformed::BadField, "an answer without return_code".to_owned()), out);
        };
        self.asked = None;
        let words = shown(message.return_msg.as_deref().unwrap_or_default()).into_owned();
        match (answered, done) {
            (Request::Login, true) => {
                self.logged_in = true;
                out.push(Event::Ignored);
                self.send(now, out);
            }
            (Request::Login, false) => {
                out.push(Event::Refused { instrument: None, reason: words });
                out.push(Event::Reconnect { reason: KEY_REFUSED });
            }
            (Request::Register(instrument), true) => {
                for (kind, _) in KINDS {
                    self.session.acknowledged(&channel(kind, instrument.symbol()), now, out);
                }
            }
            (Request::Probe(_), true) => self.session.probe_answered(out),
            (Request::Register(instrument) | Request::Probe(instrument), false) => {
                out.push(Event::Refused { instrument: Some(instrument), reason: words });
            }
            // What was not registered is as good as removed.
            (Request::Leave(instrument), _) => {
                KINDS.iter().for_each(|(kind, _)| self.session.left(&channel(kind, instrument.symbol()), out));
            }
        }
    }

    fn on_real(&mut self, message: &Message<'_>, now: Moment, out: &mut Vec<Event>) {
        let text = message.data.map_or("[]", |data| data.get());
        let entries: Vec<Entry<'_>> = match serde_json::from_str(text) {
            Ok(entries) => entries,
            Err(error) => return malformed(shape_error(text, &error), out),
        };
        if entries.is_empty() {
            out.push(Event::Ignored);
        }
        for entry in entries {
            self.on_entry(&entry, now, out);
        }
    }

    fn on_entry(&mut self, entry: &Entry<'_>, now: Moment, out: &mut Vec<Event>) {
        let named = entry.item.as_deref().filter(|item| !item.is_empty());
        // Registered for all, an interruption names its instrument only among its values.
        let code = named.unwrap_or_else(|| entry.values.interruption(InterruptionField::Code));
        if KINDS.iter().all(|(kind, _)| *kind != entry.kind) {
            return malformed((Malformed::UnknownShape, format!("data of type {}", shown(&entry.kind))), out);
        }
        let Some(instrument) = self.session.instrument(&channel(&entry.kind, code)).cloned() else {
            return out.push(Event::Ignored);
        };
        let read = match &*entry.kind {
            TRADES => parse::trade(&entry.values, &instrument, now.received).map(|trade| match trade {
                Some(trade) => {
                    self.session.heard(&instrument, now);
                    self.seen.trade(&PROVIDER, trade, out);
                }
                None => out.push(Event::Ignored),
            }),
            BOOK => parse::quote(&entry.values, &instrument, now.received).map(|quote| self.seen.quote(quote, out)),
            _ => parse::interruption(&entry.values, now.received).map(|(halted, at)| {
                let reason = if halted { "volatility interruption" } else { "trading goes on" }.to_owned();
                out.push(Event::Halt { instrument, halted, at, reason });
            }),
        };
        if let Err(problem) = read {
            malformed(problem, out);
        }
    }
}

impl Connection for KiwoomConnection {
    fn on_open(&mut self, now: Moment, out: &mut Vec<Event>) {
        self.session.open(now);
        self.heard = Some(now.venue);
        self.arrange(now);
        self.ask(Request::Login, now, out);
    }

    fn on_frame(&mut self, frame: Frame<'_>, now: Moment, out: &mut Vec<Event>) {
        self.heard = Some(now.venue);
        match frame {
            Frame::Text(text) if text.len() > PROVIDER.limits.frame_bytes_max => {
                malformed((Malformed::Oversized, format!("{} bytes", text.len())), out);
            }
            Frame::Text(text) => self.on_message(text, now, out),
            Frame::Binary(bytes) => malformed((Malformed::Binary, format!("{} bytes", bytes.len())), out),
        }
    }

    fn on_timer(&mut self, now: Moment, out: &mut Vec<Event>) {
        if let Some((_, at)) = &self.asked
            && now.monotonic.saturating_sub(*at) >= self.session.timing().acknowledge_timeout
        {
            self.asked = None;
            out.push(Event::Reconnect { reason: "no_reply" });
            return;
        }
        self.session.on_timer(now, out);
        self.arrange(now);
        let quiet_micros = self.heard.map_or(0, |heard| now.venue.micros_since(heard));
        if quiet_micros >= i64::try_from(QUIET.as_micros()).unwrap_or(i64::MAX)
            && let Some(name) = self.session.active().into_iter().next()
            && let Some(instrument) = self.session.instrument(&name).cloned()
            && self.session.probe_due(now)
        {
            self.outbox.push_front(Request::Probe(instrument));
        }
        self.send(now, out);
    }

    fn subscribe(&mut self, instruments: &[Instrument], now: Moment, out: &mut Vec<Event>) {
        self.instruments.extend(instruments.iter().cloned());
        self.arrange(now);
        self.send(now, out);
    }

    fn unsubscribe(&mut self, instruments: &[Instrument], now: Moment, out: &mut Vec<Event>) {
        for instrument in instruments {
            self.instruments.remove(instrument);
            self.seen.forget(instrument);
        }
        self.arrange(now);
        self.send(now, out);
    }
}

fn malformed((reason, detail): (Malformed, String), out: &mut Vec<Event>) {
    out.push(Event::Malformed { reason, detail, trade: None });
}

/// What a registration names.
fn element(instrument: &Instrument) -> String {
    let [(trades, _), (book, _), (interruptions, _)] = KINDS;
    format!(r#"{{"item":["{}"],"type":["{trades}","{book}","{interruptions}"]}}"#, instrument.symbol())
}

fn channel(kind: &str, code: &str) -> String {
    format!("{kind}:{code}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::{TIMING, moment};

    fn instruments(count: usize) -> Vec<Instrument> {
        (1..=count).map(|number| format!("KRX:{number:05}0").parse().unwrap()).collect()
    }

    fn millis(millis: u64) -> Moment {
        Moment { monotonic: Duration::from_millis(millis), ..moment(0) }
    }

    fn sends(out: &[Event]) -> Vec<&str> {
        out.iter().filter_map(|event| if let Event::Send { text } = event { Some(text.as_str()) } else { None }).collect()
    }

    fn answer(connection: &mut KiwoomConnection, trnm: &str, code: &str, at: Moment) -> Vec<Event> {
        let mut out = Vec::new();
        connection.on_frame(Frame::Text(&format!(r#"{{"trnm":"{trnm}","return_code":{code},"return_msg":"m"}}"#)), at, &mut out);
        out
    }

    fn logged_in(count: usize) -> KiwoomConnection {
        let mut connection = KiwoomConnection::new(&instruments(count), TIMING, &Secret::new("t"));
        connection.on_open(millis(0), &mut Vec::new());
        answer(&mut connection, "LOGIN", "0", millis(1));
        connection
    }

    #[test]
    fn nothing_is_registered_before_the_login_and_each_registration_waits_for_the_answer_to_the_last() {
        let mut connection = KiwoomConnection::new(&instruments(2), TIMING, &Secret::new("t"));
        let mut out = Vec::new();
        connection.on_open(millis(0), &mut out);
        connection.on_timer(millis(500), &mut out);
        assert_eq!(sends(&out), [r#"{"trnm":"LOGIN","token":"t"}"#]);
        let asked = answer(&mut connection, "LOGIN", "0", millis(600));
        assert!(sends(&asked)[0].contains("000010"), "{asked:?}");
        let mut out = Vec::new();
        connection.on_timer(millis(900), &mut out);
        assert_eq!(sends(&out).len(), 0, "not before the answer");
        let acknowledged = answer(&mut connection, "REG", "0", millis(901));
        assert!(acknowledged.iter().any(|event| matches!(event, Event::Subscribed { .. })));
        connection.on_timer(millis(950), &mut out);
        assert!(sends(&out)[0].contains("000020"), "{out:?}");
        let refused = answer(&mut connection, "REG", "\"1\"", millis(960));
        assert!(matches!(&refused[..], [Event::Refused { instrument: Some(of), .. }] if of.symbol() == "000020"), "{refused:?}");
    }

    #[test]
    fn an_answer_that_does_not_come_ends_the_connection() {
        let mut connection = logged_in(1);
        let mut out = Vec::new();
        connection.on_timer(millis(100), &mut out);
        connection.on_timer(millis(10_200), &mut out);
        assert_eq!(out.last(), Some(&Event::Reconnect { reason: "no_reply" }), "{out:?}");
    }

    #[test]
    fn in_a_quiet_market_a_registration_is_repeated_and_its_answer_is_proof_of_life() {
        let mut connection = logged_in(1);
        connection.on_timer(millis(100), &mut Vec::new());
        answer(&mut connection, "REG", "0", moment(1));
        let mut out = Vec::new();
        connection.on_timer(moment(5), &mut out);
        assert_eq!(out, [], "heard four seconds ago");
        connection.on_timer(moment(12), &mut out);
        assert!(sends(&out)[0].contains("\"REG\""), "{out:?}");
        assert_eq!(answer(&mut connection, "REG", "0", moment(13)), [Event::Evidence { through: moment(12).venue }]);
    }

    #[test]
    fn a_refused_token_is_said_so_and_never_printed() {
        let mut connection = KiwoomConnection::new(&instruments(1), TIMING, &Secret::new("a-secret"));
        connection.on_open(millis(0), &mut Vec::new());
        let refused = answer(&mut connection, "LOGIN", "805004", millis(1));
        assert_eq!(refused.last(), Some(&Event::Reconnect { reason: KEY_REFUSED }));
        assert!(!format!("{connection:?}").contains("a-secret"));
    }
}
