//! One connection: one list of subscriptions, sent whole whenever it changes, and a question that proves both it and life.
//!
//! Upbit acknowledges nothing and a new request replaces the one before. So after each request `LIST_SUBSCRIPTIONS` is asked: its answer says
//! what the connection carries, which acknowledges, and stands behind the data sent before it, which is evidence. The first trade of a snapshot
//! is a repeat of one long past and is not asked for. Ids have holes by nature: a lost connection is a hole, and between those the recent-trades
//! page is merged by id ([`crate::Repair::Sweep`]).
//!
//! Next: `rest.rs`, then `services/producer/src/websocket.rs`.

use super::frame::{Carried, ErrorBody, ServerFrame};
use super::{PROVIDER, parse};
use crate::number::{digits, shape_error, shown};
use crate::session::{Session, Timing};
use crate::{Connection, Event, FeedKind, Frame, Malformed, Moment};
use marketflow_model::{Instrument, Timestamp};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Windows and the messages sent within each, a little below what the venue allows: 5 a second, 100 a minute.
const ALLOWED: [(Duration, usize); 2] = [(Duration::from_secs(1), 4), (Duration::from_secs(60), 90)];
/// Least time between two proofs of life, so that they leave room for subscriptions within a minute.
const PROBE_INTERVAL_MIN: Duration = Duration::from_millis(1_500);

/// State of one connection to `wss://api.upbit.com/websocket/v1`.
#[derive(Debug)]
pub struct UpbitConnection {
    session: Session,
    /// What the next request will name.
    instruments: BTreeSet<Instrument>,
    /// Whether that differs from the last request.
    changed: bool,
    /// Whether the connection is to be asked what it carries.
    asking: bool,
    /// Questions sent and answers received; and the question that is the proof of life under way.
    asked: u64,
    answered: u64,
    probe: Option<u64>,
    /// When the last messages were sent.
    sent: VecDeque<Duration>,
    tickets: u64,
    /// Time of the last book used, per instrument: an older one is dropped.
    books: BTreeMap<Instrument, Timestamp>,
}

impl UpbitConnection {
    /// A connection that will carry these instruments.
    pub fn new(instruments: &[Instrument], timing: Timing) -> Self {
        let probe_interval_min = timing.probe_interval_min.max(PROBE_INTERVAL_MIN);
        let mut connection = Self {
            session: Session::new(Timing { probe_interval_min, ..timing }),
            instruments: BTreeSet::new(),
            changed: false,
            asking: false,
            asked: 0,
            answered: 0,
            probe: None,
            sent: VecDeque::new(),
            tickets: 0,
            books: BTreeMap::new(),
        };
        connection.want(instruments);
        connection
    }

    fn want(&mut self, instruments: &[Instrument]) {
        for instrument in instruments {
            self.session.want(channel(TRADE, instrument.symbol()), instrument, FeedKind::Trades);
            self.session.want(channel(BOOK, instrument.symbol()), instrument, FeedKind::Quotes);
            self.changed |= self.instruments.insert(instrument.clone());
        }
    }

    /// Sends what the pace allows: first what is wanted, then the question what is carried.
    fn send(&mut self, now: Moment, out: &mut Vec<Event>) {
        if self.changed && self.take_turn(now) {
            if self.instruments.is_empty() {
                // No request asks for nothing.
                out.push(Event::Reconnect { reason: "nothing_wanted" });
                return;
            }
            self.changed = false;
            self.asking = true;
            self.session.wanted().iter().for_each(|name| self.session.asked(name, now));
            out.push(Event::Send { text: self.request() });
        }
        if self.asking && !self.changed && self.take_turn(now) {
            self.asking = false;
            self.asked += 1;
            let ticket = self.ticket();
            out.push(Event::Send {
                text: format!(r#"[{{"ticket":"{ticket}"}},{{"method":"LIST_SUBSCRIPTIONS"}},{{"format":"DEFAULT"}}]"#),
            });
        }
    }

    fn request(&mut self) -> String {
        let ticket = self.ticket();
        let codes = |suffix: &str| {
            let quoted: Vec<String> = self.instruments.iter().map(|i| format!(r#""{}{suffix}""#, i.symbol())).collect();
            quoted.join(",")
        };
        format!(
            r#"[{{"ticket":"{ticket}"}},{{"type":"trade","codes":[{}],"is_only_realtime":true}},{{"type":"orderbook","codes":[{}]}},{{"format":"DEFAULT"}}]"#,
            codes(""),
            codes(".1")
        )
    }

    fn ticket(&mut self) -> String {
        self.tickets += 1;
        format!("marketflow-{}", self.tickets)
    }

    /// Whether a message may be sent now; then it counts as sent.
    fn take_turn(&mut self, now: Moment) -> bool {
        let longest = ALLOWED.iter().map(|(window, _)| *window).max().unwrap_or_default();
        self.sent.retain(|at| now.monotonic.saturating_sub(*at) < longest);
        let within = |window: Duration| self.sent.iter().filter(|at| now.monotonic.saturating_sub(**at) < window).count();
        let free = ALLOWED.iter().all(|(window, most)| within(*window) < *most);
        if free {
            self.sent.push_back(now.monotonic);
        }
        free
    }

    fn on_text(&mut self, text: &str, now: Moment, out: &mut Vec<Event>) {
        let frame: ServerFrame<'_> = match serde_json::from_str(text) {
            Ok(frame) => frame,
            Err(error) => {
                let (reason, detail) = shape_error(text, &error);
                out.push(Event::Malformed { reason, detail, trade: None });
                return;
            }
        };
        match (frame.kind.as_deref(), frame.code.as_deref(), frame.result) {
            (Some(TRADE), Some(code), _) => self.on_trade(code, text, now, out),
            (Some(BOOK), Some(code), _) => self.on_book(code, text, now, out),
            (None, _, Some(carried)) if frame.method.as_deref() == Some("LIST_SUBSCRIPTIONS") => {
                self.on_carried(&carried, now, out);
            }
            (None, ..) if frame.error.is_some() => out.push(refusal(frame.error)),
            (None, ..) if frame.status.is_some() => out.push(Event::Ignored),
            (kind, ..) => out.push(Event::Malformed {
                reason: Malformed::UnknownShape,
                detail: format!("type {:?}", kind.map(shown)),
                trade: None,
            }),
        }
    }

    fn on_trade(&mut self, code: &str, text: &str, now: Moment, out: &mut Vec<Event>) {
        let Some(instrument) = self.session.instrument(&channel(TRADE, code)).cloned() else {
            out.push(Event::Ignored);
            return;
        };
        match parse::trade(text, &instrument, now.received) {
            Ok(trade) => {
                self.session.heard(&instrument, now);
                out.push(Event::Trade(trade));
            }
            Err((reason, detail)) => {
                let id = (reason == Malformed::TooPrecise).then(|| parse::identity(text).0).flatten();
                out.push(Event::Malformed { reason, detail, trade: id.map(|id| (instrument, id)) });
            }
        }
    }

    fn on_book(&mut self, code: &str, text: &str, now: Moment, out: &mut Vec<Event>) {
        let Some(instrument) = self.session.instrument(&channel(BOOK, code)).cloned() else {
            out.push(Event::Ignored);
            return;
        };
        match parse::quote(text, &instrument, now.received) {
            Ok(quote) => {
                let last = self.books.entry(instrument).or_insert(Timestamp::MIN);
                // Two pictures of one millisecond: the later one counts.
                let newer = quote.event_time >= *last;
                *last = quote.event_time.max(*last);
                out.push(if newer { Event::Quote(quote) } else { Event::Ignored });
            }
            Err((reason, detail)) => out.push(Event::Malformed { reason, detail, trade: None }),
        }
    }

    /// What is carried is acknowledged, what is no longer carried has been left.
    fn on_carried(&mut self, carried: &[Carried<'_>], now: Moment, out: &mut Vec<Event>) {
        let mut names = BTreeSet::new();
        for entry in carried {
            // A book's code may name its depth: `KRW-BTC.1`.
            names.extend(entry.codes.iter().map(|code| channel(&entry.kind, code.split('.').next().unwrap_or_default())));
        }
        for name in self.session.asked_for() {
            if names.contains(&name) {
                self.session.acknowledged(&name, now, out);
            }
        }
        if !self.changed {
            for name in self.session.leaving() {
                if !names.contains(&name) {
                    self.session.left(&name, out);
                }
            }
        }
        self.answered += 1;
        // An answer under way when the proof was asked for proves only what was before.
        if self.probe.is_some_and(|probe| probe <= self.answered) {
            self.probe = None;
            self.session.probe_answered(out);
        } else {
            out.push(Event::Ignored);
        }
    }
}

impl Connection for UpbitConnection {
    fn on_open(&mut self, now: Moment, out: &mut Vec<Event>) {
        self.session.open(now);
        self.send(now, out);
    }

    fn on_frame(&mut self, frame: Frame<'_>, now: Moment, out: &mut Vec<Event>) {
        let bytes = match frame {
            Frame::Text(text) => text.as_bytes(),
            Frame::Binary(bytes) => bytes,
        };
        if bytes.len() > PROVIDER.limits.frame_bytes_max {
            out.push(Event::Malformed { reason: Malformed::Oversized, detail: format!("{} bytes", bytes.len()), trade: None });
            return;
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => self.on_text(text, now, out),
            Err(error) => out.push(Event::Malformed { reason: Malformed::Binary, detail: error.to_string(), trade: None }),
        }
    }

    fn on_timer(&mut self, now: Moment, out: &mut Vec<Event>) {
        self.session.on_timer(now, out);
        // What was not acknowledged in time is asked for again.
        self.changed |= !self.session.wanted().is_empty();
        if self.session.probe_due(now) {
            self.asking = true;
            self.probe = Some(self.asked + 1);
        }
        self.send(now, out);
    }

    fn subscribe(&mut self, instruments: &[Instrument], now: Moment, out: &mut Vec<Event>) {
        self.want(instruments);
        self.send(now, out);
    }

    /// What is left is no longer named in the next request; data until then is ignored.
    fn unsubscribe(&mut self, instruments: &[Instrument], _now: Moment, _out: &mut Vec<Event>) {
        for instrument in instruments {
            self.changed |= self.instruments.remove(instrument);
            self.session.leave(&channel(TRADE, instrument.symbol()));
            self.session.leave(&channel(BOOK, instrument.symbol()));
        }
    }
}

const TRADE: &str = "trade";
const BOOK: &str = "orderbook";

fn channel(kind: &str, code: &str) -> String {
    format!("{kind}:{code}")
}

/// The error does not name the code.
fn refusal(error: Option<ErrorBody<'_>>) -> Event {
    let name = error.as_ref().and_then(|error| error.name).map_or("null", digits);
    let message = error.as_ref().and_then(|error| error.message.as_deref()).unwrap_or_default();
    Event::Refused { instrument: None, reason: format!("{} ({})", shown(message), shown(name)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::{TIMING, moment};

    fn instrument(symbol: &str) -> Instrument {
        Instrument::new("UPBIT", symbol).unwrap()
    }

    fn sent(out: &[Event]) -> Vec<&str> {
        out.iter().filter_map(|e| if let Event::Send { text } = e { Some(text.as_str()) } else { None }).collect()
    }

    #[test]
    fn binary_frames_are_read_as_the_text_they_hold() {
        let text = r#"{"type":"trade","code":"KRW-BTC","trade_timestamp":1700000000000,"trade_price":5.1E+7,"trade_volume":6E-8,"ask_bid":"ASK","sequential_id":17000000000000000}"#;
        let read = |frame| {
            let mut connection = UpbitConnection::new(&[instrument("KRW-BTC")], TIMING);
            let mut out = Vec::new();
            connection.on_frame(frame, moment(1), &mut out);
            out
        };
        let out = read(Frame::Binary(text.as_bytes()));
        assert!(matches!(&out[..], [Event::Trade(trade)] if trade.price.to_string() == "51000000"), "{out:?}");
        assert_eq!(out, read(Frame::Text(text)));
    }

    #[test]
    fn an_answer_to_an_earlier_question_is_no_proof_of_life() {
        let mut connection = UpbitConnection::new(&[instrument("KRW-BTC")], TIMING);
        connection.on_open(moment(0), &mut Vec::new());
        connection.on_timer(moment(2), &mut Vec::new());
        let mut evidence = Vec::new();
        for second in [3, 4] {
            let mut out = Vec::new();
            let answer = r#"{"method":"LIST_SUBSCRIPTIONS","result":[{"type":"trade","codes":["KRW-BTC"]}],"ticket":"t"}"#;
            connection.on_frame(Frame::Text(answer), moment(second), &mut out);
            evidence.push(out.into_iter().filter(|e| matches!(e, Event::Evidence { .. })).collect::<Vec<_>>());
        }
        assert_eq!(evidence, [vec![], vec![Event::Evidence { through: moment(2).venue }]]);
    }

    #[test]
    fn the_venues_message_limits_hold_however_often_something_changes() {
        let mut connection = UpbitConnection::new(&[instrument("KRW-BTC")], TIMING);
        let mut sent_at = Vec::new();
        for tenth in 0..3_000 {
            let now = Moment { monotonic: Duration::from_millis(tenth * 100), ..moment(tenth / 10) };
            let mut out = Vec::new();
            if tenth == 0 {
                connection.on_open(now, &mut out);
            }
            connection.subscribe(&[instrument(&format!("KRW-S{tenth}"))], now, &mut out);
            connection.on_timer(now, &mut out);
            sent_at.extend(sent(&out).iter().map(|_| tenth));
        }
        let most =
            |window: u64| sent_at.iter().map(|at| sent_at.iter().filter(|b| **b >= *at && **b < at + window).count()).max();
        assert!(most(10) <= Some(5) && most(600) <= Some(100), "{:?} {:?}", most(10), most(600));
        assert!(sent_at.len() > 200, "and it goes on: {}", sent_at.len());
    }

    #[test]
    fn leaving_the_last_instrument_ends_the_connection_and_another_is_named_alone() {
        let (btc, eth) = (instrument("KRW-BTC"), instrument("KRW-ETH"));
        let mut connection = UpbitConnection::new(&[btc.clone(), eth.clone()], TIMING);
        connection.on_open(moment(0), &mut Vec::new());
        let mut out = Vec::new();
        connection.unsubscribe(&[btc], moment(1), &mut out);
        connection.on_timer(moment(1), &mut out);
        let request = sent(&out)[0];
        assert!(request.contains("KRW-ETH") && !request.contains("KRW-BTC"), "{request}");
        out.clear();
        connection.unsubscribe(&[eth], moment(2), &mut out);
        connection.on_timer(moment(2), &mut out);
        assert!(out.contains(&Event::Reconnect { reason: "nothing_wanted" }), "{out:?}");
    }
}
