//! One connection: registrations within the 41 a key has, each acknowledged by name; `PINGPONG`; and a question that proves life.
//!
//! Every instrument's trades are registered, and of what is left of the 41 as many market statuses (halts), then order books, as fit. The broker pings every minute or two, and
//! its ping carries its clock, which is evidence; in a quiet market between two of them a registration that exists is asked for again: the
//! refusal stands behind the data sent before it. A trade has no id, but the day's volume, which shows a hole at the next trade.
//!
//! The 42nd registration is never asked for, not even for a moment: what the broker may hold counts from the request until its end is acknowledged.
//!
//! Next: `services/producer/src/websocket.rs`.

use super::PROVIDER;
use super::frame::{BOOK, BookField, ControlFrame, DataFrame, Record, STATUS, StatusField, TRADES, TradeField};
use super::parse::{self, Printed, korean_time};
use crate::krx::LastSeen;
use crate::number::{shape_error, shown};
use crate::session::{Session, Timing};
use crate::{Connection, Event, FeedKind, Frame, KEY_REFUSED, Malformed, Moment, Secret};
use marketflow_model::{Instrument, Timestamp};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Registrations a key may hold over all kinds.
pub(super) const REGISTRATIONS: usize = 41;
/// Least time between two messages to the broker.
const SEND_INTERVAL: Duration = Duration::from_millis(50);
/// Venue clock without any frame before life is asked for.
const QUIET: Duration = Duration::from_secs(10);

#[derive(Debug, PartialEq, Eq)]
enum Request {
    Register(String),
    Leave(String),
    Probe(String),
}

/// State of one connection to the broker.
#[derive(Debug)]
pub struct KisConnection {
    session: Session,
    key: Secret,
    instruments: BTreeSet<Instrument>,
    outbox: VecDeque<Request>,
    /// What the broker may hold: asked for, and neither refused nor acknowledged as left.
    held: BTreeSet<String>,
    /// What it was told to end and has not acknowledged, and since when.
    ending: BTreeMap<String, Duration>,
    last_sent: Option<Duration>,
    /// When anything was last received, on the venue's clock.
    heard: Option<Timestamp>,
    /// The registration whose repetition is to be refused.
    probing: Option<String>,
    seen: LastSeen,
}

impl KisConnection {
    /// A connection that will carry these instruments; `key` is the approval key.
    pub fn new(instruments: &[Instrument], timing: Timing, key: &Secret) -> Self {
        Self {
            session: Session::new(Timing { probe_interval: timing.probe_interval.max(QUIET), ..timing }),
            key: key.clone(),
            instruments: instruments.iter().cloned().collect(),
            outbox: VecDeque::new(),
            held: BTreeSet::new(),
            ending: BTreeMap::new(),
            last_sent: None,
            heard: None,
            probing: None,
            seen: LastSeen::default(),
        }
    }

    /// Brings the registrations in line with the instruments: first what must go, so that there is room for what comes.
    fn arrange(&mut self, now: Moment) {
        // In the order of their worth: what is beyond the limit is not asked for.
        let kinds = [(TRADES, FeedKind::Trades), (STATUS, FeedKind::Halts), (BOOK, FeedKind::Quotes)];
        let all =
            kinds.iter().flat_map(|(tr_id, kind)| self.instruments.iter().map(move |i| (channel(tr_id, i.symbol()), i, *kind)));
        let wanted: Vec<_> = all.take(REGISTRATIONS).map(|(name, instrument, kind)| (name, instrument.clone(), kind)).collect();
        for name in self.session.present() {
            if !wanted.iter().any(|(wanted, ..)| *wanted == name) && self.session.leave(&name) {
                self.outbox.retain(|request| *request != Request::Register(name.clone()));
                self.outbox.push_back(Request::Leave(name));
            }
        }
        for (name, instrument, kind) in wanted {
            self.session.want(name, &instrument, kind);
        }
        let mut missing = self.session.wanted();
        missing.sort_by_key(|name| (!name.starts_with(TRADES), !name.starts_with(STATUS)));
        for name in missing {
            self.session.asked(&name, now);
            let request = Request::Register(name);
            // One that waited too long for its turn is still there.
            if !self.outbox.contains(&request) {
                self.outbox.push_back(request);
            }
        }
    }

    /// Whether the broker has room for a request now. What leaves has to be acknowledged before another takes its place.
    fn has_room(&self, request: &Request) -> bool {
        match request {
            Request::Register(name) => {
                !self.ending.contains_key(name) && (self.held.contains(name) || self.held.len() < REGISTRATIONS)
            }
            Request::Leave(_) | Request::Probe(_) => true,
        }
    }

    /// An end that was not acknowledged in time is asked for again.
    fn end_again(&mut self, now: Moment) {
        let patience = self.session.timing().acknowledge_timeout;
        let late = self.ending.iter().filter(|(_, since)| now.monotonic.saturating_sub(**since) >= patience);
        for name in late.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.ending.remove(&name);
            self.outbox.push_front(Request::Leave(name));
        }
    }

    /// Sends what the pace allows.
    fn send(&mut self, now: Moment, out: &mut Vec<Event>) {
        let free = self.last_sent.is_none_or(|at| now.monotonic.saturating_sub(at) >= SEND_INTERVAL);
        if !free {
            return;
        }
        let next = self.outbox.iter().position(|request| self.has_room(request));
        let Some(request) = next.and_then(|next| self.outbox.remove(next)) else { return };
        let (name, tr_type) = match &request {
            Request::Register(name) | Request::Probe(name) => (name, '1'),
            Request::Leave(name) => (name, '2'),
        };
        match &request {
            Request::Register(name) => {
                // The wait for the answer counts from the moment it is really asked.
                self.session.asked(name, now);
                self.held.insert(name.clone());
            }
            Request::Leave(name) => {
                self.ending.insert(name.clone(), now.monotonic);
            }
            Request::Probe(_) => {}
        }
        let (tr_id, tr_key) = name.split_once(':').unwrap_or((name, ""));
        self.last_sent = Some(now.monotonic);
        out.push(Event::Send {
            text: format!(
                r#"{{"header":{{"approval_key":"{}","custtype":"P","tr_type":"{tr_type}","content-type":"utf-8"}},"body":{{"input":{{"tr_id":"{tr_id}","tr_key":"{tr_key}"}}}}}}"#,
                self.key.expose()
            ),
        });
    }

    fn on_control(&mut self, text: &str, now: Moment, out: &mut Vec<Event>) {
        let frame: ControlFrame<'_> = match serde_json::from_str(text) {
            Ok(frame) => frame,
            Err(error) => {
                let (reason, detail) = shape_error(text, &error);
                out.push(Event::Malformed { reason, detail, trade: None });
                return;
            }
        };
        if frame.header.tr_id == "PINGPONG" {
            return Self::on_ping(text, frame.header.datetime.as_deref(), out);
        }
        let Some(code) = frame.body.as_ref().and_then(|body| body.msg_cd.as_deref()) else {
            out.push(Event::Malformed {
                reason: Malformed::UnknownShape,
                detail: format!("message about {}", shown(&frame.header.tr_id)),
                trade: None,
            });
            return;
        };
        let name = channel(&frame.header.tr_id, frame.header.tr_key.as_deref().unwrap_or_default());
        let message = frame.body.as_ref().and_then(|body| body.msg1.as_deref()).unwrap_or_default();
        match code {
            "OPSP0002" if self.probing.as_ref() == Some(&name) => {
                self.probing = None;
                self.session.probe_answered(out);
            }
            "OPSP0000" | "OPSP0002" => self.session.acknowledged(&name, now, out),
            "OPSP0001" | "OPSP0003" => {
                self.held.remove(&name);
                self.ending.remove(&name);
                self.session.left(&name, out);
            }
            _ => {
                // Refused, whatever it was: the broker does not hold it.
                self.held.remove(&name);
                let instrument = self.session.instrument(&name).cloned();
                out.push(Event::Refused { instrument, reason: format!("{} ({})", shown(message), shown(code)) });
                match code {
                    "OPSP0009" | "OPSP0010" | "OPSP0011" => out.push(Event::Reconnect { reason: KEY_REFUSED }),
                    "OPSP8996" => out.push(Event::Reconnect { reason: "key_in_use" }),
                    _ => {}
                }
            }
        }
    }

    /// The broker's ping is answered with its own words; its clock is evidence.
    fn on_ping(text: &str, datetime: Option<&str>, out: &mut Vec<Event>) {
        out.push(Event::Send { text: text.to_owned() });
        let clock = datetime.and_then(|t| t.split_at_checked(8)).map(|(date, time)| korean_time("datetime", date, time));
        if let Some(Ok(through)) = clock {
            out.push(Event::Evidence { through });
        }
    }

    fn on_data(&mut self, text: &str, now: Moment, out: &mut Vec<Event>) {
        let frame = match DataFrame::read(text) {
            Ok(frame) => frame,
            Err(detail) => {
                out.push(Event::Malformed { reason: Malformed::UnknownShape, detail, trade: None });
                return;
            }
        };
        match frame.tr_id {
            // Notices of one's own orders are not subscribed here; their pass is not kept.
            _ if frame.encrypted => out.push(Event::Ignored),
            TRADES => frame.records().for_each(|record| {
                let instrument = self.session.instrument(&channel(TRADES, record.trade(TradeField::Code))).cloned();
                match instrument {
                    Some(instrument) => self.on_trade(&instrument, parse::trade(record, &instrument, now.received), now, out),
                    None => out.push(Event::Ignored),
                }
            }),
            BOOK => frame.records().for_each(|record| {
                let instrument = self.session.instrument(&channel(BOOK, record.book(BookField::Code))).cloned();
                match instrument.map(|instrument| parse::quote(record, &instrument, now.received)) {
                    None => out.push(Event::Ignored),
                    Some(Ok(quote)) => self.seen.quote(quote, out),
                    Some(Err((reason, detail))) => out.push(Event::Malformed { reason, detail, trade: None }),
                }
            }),
            STATUS => frame.records().for_each(|record| {
                let instrument = self.session.instrument(&channel(STATUS, record.status(StatusField::Code))).cloned();
                out.push(instrument.map_or(Event::Ignored, |instrument| halt(record, instrument, now)));
            }),
            other => out.push(Event::Malformed {
                reason: Malformed::UnknownShape,
                detail: format!("data of {}", shown(other)),
                trade: None,
            }),
        }
    }

    fn on_trade(
        &mut self,
        instrument: &Instrument,
        read: Result<Printed, crate::number::FieldError>,
        now: Moment,
        out: &mut Vec<Event>,
    ) {
        match read {
            Ok(Printed::Trade(trade)) => {
                self.session.heard(instrument, now);
                self.seen.trade(&PROVIDER, trade, out);
            }
            Ok(Printed::Expected) => out.push(Event::Ignored),
            Err((reason, detail)) => out.push(Event::Malformed { reason, detail, trade: None }),
        }
    }
}

impl Connection for KisConnection {
    fn on_open(&mut self, now: Moment, out: &mut Vec<Event>) {
        self.session.open(now);
        self.heard = Some(now.venue);
        self.arrange(now);
        self.send(now, out);
    }

    fn on_frame(&mut self, frame: Frame<'_>, now: Moment, out: &mut Vec<Event>) {
        self.heard = Some(now.venue);
        match frame {
            Frame::Text(text) if text.len() > PROVIDER.limits.frame_bytes_max => {
                out.push(Event::Malformed { reason: Malformed::Oversized, detail: format!("{} bytes", text.len()), trade: None });
            }
            Frame::Text(text) if matches!(text.as_bytes(), [b'0' | b'1', b'|', ..]) => self.on_data(text, now, out),
            Frame::Text(text) => self.on_control(text, now, out),
            Frame::Binary(bytes) => {
                out.push(Event::Malformed { reason: Malformed::Binary, detail: format!("{} bytes", bytes.len()), trade: None });
            }
        }
    }

    fn on_timer(&mut self, now: Moment, out: &mut Vec<Event>) {
        self.session.on_timer(now, out);
        self.end_again(now);
        self.arrange(now);
        let quiet_micros = self.heard.map_or(0, |heard| now.venue.micros_since(heard));
        if quiet_micros >= i64::try_from(QUIET.as_micros()).unwrap_or(i64::MAX)
            && let Some(name) = self.session.active().into_iter().next()
            && self.session.probe_due(now)
        {
            self.probing = Some(name.clone());
            self.outbox.push_front(Request::Probe(name));
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

/// A market status carries no time: it is that of its receipt.
fn halt(record: Record<'_>, instrument: Instrument, now: Moment) -> Event {
    let field = |field| record.status(field);
    let halted = field(StatusField::Halted) == "Y";
    let interrupted = !matches!(field(StatusField::Interrupted), "" | "N" | "0");
    let reason = match (halted, field(StatusField::Reason)) {
        (true, "") => "trading halted".to_owned(),
        (true, words) => format!("trading halted: {}", shown(words)),
        (false, _) if interrupted => "volatility interruption".to_owned(),
        (false, _) => "trading goes on".to_owned(),
    };
    Event::Halt { instrument, halted: halted || interrupted, at: now.received, reason }
}

fn channel(tr_id: &str, tr_key: &str) -> String {
    format!("{tr_id}:{tr_key}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::{TIMING, moment};

    fn instruments(count: usize) -> Vec<Instrument> {
        (1..=count).map(|number| format!("KRX:{number:05}0").parse().unwrap()).collect()
    }

    fn sent(connection: &mut KisConnection, rounds: u64) -> Vec<String> {
        let mut out = Vec::new();
        connection.on_open(moment(0), &mut out);
        for round in 1..=rounds {
            let now = Moment { monotonic: Duration::from_millis(round * 50), ..moment(0) };
            connection.on_timer(now, &mut out);
        }
        out.into_iter().filter_map(|event| if let Event::Send { text } = event { Some(text) } else { None }).collect()
    }

    #[test]
    fn trades_come_first_then_halts_and_books_take_what_is_left_of_the_41() {
        for (count, statuses, books) in [(5, 5, 5), (15, 15, 11), (30, 11, 0), (41, 0, 0)] {
            let mut connection = KisConnection::new(&instruments(count), TIMING, &Secret::new("k"));
            let sent = sent(&mut connection, 60);
            let of = |tr_id| sent.iter().filter(|text| text.contains(tr_id)).count();
            assert_eq!((of(TRADES), of(STATUS), of(BOOK)), (count, statuses, books));
            assert!(sent[..count].iter().all(|text| text.contains(TRADES)), "trades first");
        }
    }

    #[test]
    fn a_book_makes_room_for_the_trades_of_one_more_before_they_are_asked_for() {
        let mut connection = KisConnection::new(&instruments(16), TIMING, &Secret::new("k"));
        connection.on_open(moment(0), &mut Vec::new());
        let mut at = 0;
        let first: Vec<String> = (0..3).flat_map(|_| asked(&mut connection, &mut at)).collect();
        assert_eq!(first.len(), 40, "and one as it opened");
        // 16 of each, but of books 9: one more takes a book for its trades and one for its status.
        connection.subscribe(
            &["KRX:999990".parse().unwrap()],
            Moment { monotonic: Duration::from_millis(at), ..moment(0) },
            &mut Vec::new(),
        );
        let leaving = asked(&mut connection, &mut at);
        assert_eq!(leaving, [format!("-{BOOK}:000090")], "the other went at once");
        answer(&mut connection, &format!("{BOOK}:000080"), "OPSP0001", moment(0));
        assert_eq!(asked(&mut connection, &mut at), [format!("+{TRADES}:999990")]);
        answer(&mut connection, &format!("{BOOK}:000090"), "OPSP0001", moment(0));
        assert_eq!(asked(&mut connection, &mut at), [format!("+{STATUS}:999990")]);
    }

    fn answer(connection: &mut KisConnection, name: &str, code: &str, now: Moment) {
        let (tr_id, tr_key) = name.split_once(':').unwrap();
        let frame = format!(
            r#"{{"header":{{"tr_id":"{tr_id}","tr_key":"{tr_key}","encrypt":"N"}},"body":{{"rt_cd":"0","msg_cd":"{code}","msg1":"x"}}}}"#
        );
        connection.on_frame(Frame::Text(&frame), now, &mut Vec::new());
    }

    /// What is sent within a second, as `+H0STCNT0:000010` or `-…`.
    fn asked(connection: &mut KisConnection, from: &mut u64) -> Vec<String> {
        let mut out = Vec::new();
        for _ in 0..20 {
            *from += 50;
            let now = Moment { monotonic: Duration::from_millis(*from), ..moment(0) };
            connection.on_timer(now, &mut out);
        }
        let sent = out.into_iter().filter_map(|event| if let Event::Send { text } = event { Some(text) } else { None });
        let name = |text: String| {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let input = &value["body"]["input"];
            let sign = if value["header"]["tr_type"] == "1" { '+' } else { '-' };
            format!("{sign}{}:{}", input["tr_id"].as_str().unwrap(), input["tr_key"].as_str().unwrap())
        };
        sent.map(name).collect()
    }

    #[test]
    fn with_all_41_taken_another_is_registered_only_once_the_end_of_one_is_acknowledged() {
        let mut connection = KisConnection::new(&instruments(41), TIMING, &Secret::new("k"));
        connection.on_open(moment(0), &mut Vec::new());
        let mut at = 0;
        let first: Vec<String> = (0..3).flat_map(|_| asked(&mut connection, &mut at)).collect();
        assert_eq!(first.len(), 40, "and one as it opened");
        let trades = |code: &str| format!("{TRADES}:{code}");
        for instrument in instruments(41) {
            answer(&mut connection, &trades(instrument.symbol()), "OPSP0000", moment(0));
        }
        let (leaving, coming): (Instrument, Instrument) = ("KRX:000010".parse().unwrap(), "KRX:999990".parse().unwrap());
        let now = Moment { monotonic: Duration::from_millis(at), ..moment(0) };
        connection.unsubscribe(std::slice::from_ref(&leaving), now, &mut Vec::new());
        connection.subscribe(std::slice::from_ref(&coming), now, &mut Vec::new());
        // The room that was free for a moment was wanted for a status, which makes way again before it was asked for.
        let status = format!("-{STATUS}:000020");
        assert_eq!(asked(&mut connection, &mut at), [status], "the other went at once");
        answer(&mut connection, &format!("{STATUS}:000020"), "OPSP0003", moment(0));
        assert_eq!(asked(&mut connection, &mut at), Vec::<String>::new(), "the broker has not said that there is room");
        // An acknowledgement that is lost is asked for again.
        let mut again = Vec::new();
        for _ in 0..11 {
            again.extend(asked(&mut connection, &mut at));
        }
        assert_eq!(again[0], format!("-{}", trades("000010")), "{again:?}");
        assert!(again.iter().all(|text| text.starts_with('-')), "{again:?}");
        answer(&mut connection, &trades("000010"), "OPSP0001", moment(0));
        assert_eq!(asked(&mut connection, &mut at), [format!("+{}", trades("999990"))]);
        // Refused all the same: there is room for it, and it is asked for again.
        answer(&mut connection, &trades("999990"), "OPSP0008", moment(0));
        let again: Vec<String> = (0..11).flat_map(|_| asked(&mut connection, &mut at)).collect();
        assert_eq!(again, [format!("+{}", trades("999990"))]);
    }

    #[test]
    fn one_that_comes_back_waits_for_its_own_end() {
        let mut connection = KisConnection::new(&instruments(1), TIMING, &Secret::new("k"));
        connection.on_open(moment(0), &mut Vec::new());
        let mut at = 0;
        asked(&mut connection, &mut at);
        for tr_id in [TRADES, STATUS, BOOK] {
            answer(&mut connection, &format!("{tr_id}:000010"), "OPSP0000", moment(0));
        }
        let now = Moment { monotonic: Duration::from_millis(at), ..moment(0) };
        connection.unsubscribe(&instruments(1), now, &mut Vec::new());
        connection.subscribe(&instruments(1), now, &mut Vec::new());
        let sent = asked(&mut connection, &mut at);
        assert!(sent.len() <= 3 && sent.iter().all(|text| text.starts_with('-')), "{sent:?}");
        for tr_id in [TRADES, STATUS, BOOK] {
            answer(&mut connection, &format!("{tr_id}:000010"), "OPSP0001", moment(0));
        }
        let sent = asked(&mut connection, &mut at);
        assert_eq!(sent, [TRADES, STATUS, BOOK].map(|tr_id| format!("+{tr_id}:000010")));
    }

    #[test]
    fn in_a_quiet_market_an_existing_registration_is_asked_for_and_its_refusal_is_proof_of_life() {
        let mut connection = KisConnection::new(&instruments(1), TIMING, &Secret::new("k"));
        sent(&mut connection, 4);
        let answer = |tr_id: &str, code: &str| {
            format!(
                r#"{{"header":{{"tr_id":"{tr_id}","tr_key":"000010","encrypt":"N"}},"body":{{"rt_cd":"1","msg_cd":"{code}","msg1":"x"}}}}"#
            )
        };
        for tr_id in [TRADES, STATUS, BOOK] {
            connection.on_frame(Frame::Text(&answer(tr_id, "OPSP0000")), moment(1), &mut Vec::new());
        }
        let mut out = Vec::new();
        connection.on_timer(moment(5), &mut out);
        assert_eq!(out, [], "heard four seconds ago");
        connection.on_timer(moment(12), &mut out);
        let [Event::Send { text }] = &out[..] else { panic!("{out:?}") };
        let asked = [TRADES, STATUS, BOOK].into_iter().find(|tr_id| text.contains(tr_id)).unwrap();
        out.clear();
        connection.on_frame(Frame::Text(&answer(asked, "OPSP0002")), moment(13), &mut out);
        assert_eq!(out, [Event::Evidence { through: moment(12).venue }]);
    }

    #[test]
    fn the_key_is_not_printed() {
        let connection = KisConnection::new(&instruments(1), TIMING, &Secret::new("a-secret"));
        assert!(!format!("{connection:?}").contains("a-secret"));
    }
}
