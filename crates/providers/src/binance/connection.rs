//! One connection: subscribe in batches, answers matched by id, the list of subscriptions as proof of life, renewal before the 24 h cut.
//!
//! Trade ids of a symbol rise by one, so a hole is seen at the next trade ([`Event::Missing`]). Five messages a second are allowed, pongs
//! included: everything sent goes through a paced outbox. `LIST_SUBSCRIPTIONS` proves life better than a ping: its answer is queued behind
//! the data and says whether the venue still knows what we want.
//!
//! Next: `rest.rs`, then `services/producer/src/websocket.rs`.

use super::frame::ServerFrame;
use super::{PROVIDER, RENEW_AFTER, parse};
use crate::number::{digits, shape_error, shown};
use crate::session::{Session, Timing};
use crate::{Connection, Event, FeedKind, Frame, Malformed, Moment};
use marketflow_model::Instrument;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Streams in one request.
const BATCH: usize = 200;

#[derive(Debug)]
enum Request {
    Subscribe(Vec<String>),
    Unsubscribe(Vec<String>),
    List,
}

/// State of one connection to a Binance market-data endpoint.
#[derive(Debug)]
pub struct BinanceConnection {
    session: Session,
    outbox: VecDeque<(u64, Request)>,
    last_sent: Option<Duration>,
    /// Requests sent and not answered, by id.
    open_requests: BTreeMap<u64, Request>,
    next_id: u64,
    /// Highest trade id on this connection.
    last_ids: BTreeMap<Instrument, i64>,
}

impl BinanceConnection {
    /// A connection that will carry these instruments.
    pub fn new(instruments: &[Instrument], timing: Timing) -> Self {
        let mut connection = Self {
            session: Session::new(Timing { renew_after: Some(RENEW_AFTER), ..timing }),
            outbox: VecDeque::new(),
            last_sent: None,
            open_requests: BTreeMap::new(),
            next_id: 1,
            last_ids: BTreeMap::new(),
        };
        connection.want(instruments);
        connection
    }

    fn want(&mut self, instruments: &[Instrument]) {
        for instrument in instruments {
            self.session.want(stream(instrument.symbol(), TRADE), instrument, FeedKind::Trades);
            self.session.want(stream(instrument.symbol(), BOOK_TICKER), instrument, FeedKind::Quotes);
        }
    }

    fn queue(&mut self, request: Request) {
        self.outbox.push_back((self.next_id, request));
        self.next_id += 1;
    }

    fn queue_wanted(&mut self, now: Moment) {
        let wanted = self.session.wanted();
        for batch in wanted.chunks(BATCH) {
            for name in batch {
                self.session.asked(name, now);
            }
            self.queue(Request::Subscribe(batch.to_vec()));
        }
    }

    /// Sends what the pace allows.
    fn send(&mut self, now: Moment, out: &mut Vec<Event>) {
        let free = self.last_sent.is_none_or(|at| now.monotonic.saturating_sub(at) >= self.session.timing().send_interval_min);
        if !free {
            return;
        }
        let Some((id, request)) = self.outbox.pop_front() else { return };
        let (method, streams) = match &request {
            Request::Subscribe(streams) => ("SUBSCRIBE", Some(streams)),
            Request::Unsubscribe(streams) => ("UNSUBSCRIBE", Some(streams)),
            Request::List => ("LIST_SUBSCRIPTIONS", None),
        };
        let text = match streams {
            Some(streams) => format!(r#"{{"method":"{method}","params":["{}"],"id":{id}}}"#, streams.join(r#"",""#)),
            None => format!(r#"{{"method":"{method}","id":{id}}}"#),
        };
        if let Request::Subscribe(streams) = &request {
            for name in streams {
                // The wait for the answer counts from the moment it is really asked.
                self.session.asked(name, now);
            }
        }
        self.last_sent = Some(now.monotonic);
        self.open_requests.insert(id, request);
        out.push(Event::Send { text });
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
        if let Some(name) = frame.stream.as_deref() {
            let Some(data) = frame.data else {
                out.push(Event::Malformed {
                    reason: Malformed::BadField,
                    detail: "missing field `data`".to_owned(),
                    trade: None,
                });
                return;
            };
            return self.on_payload(name, data.get(), now, out);
        }
        match (frame.e.as_deref(), frame.s.as_deref()) {
            (Some("trade"), Some(symbol)) => return self.on_payload(&stream(symbol, TRADE), text, now, out),
            (Some("serverShutdown"), _) => return self.session.renew("asked_by_venue", out),
            (None, Some(symbol)) if frame.u.is_some() => return self.on_payload(&stream(symbol, BOOK_TICKER), text, now, out),
            _ => {}
        }
        let id = frame.id.and_then(|id| digits(id).parse::<u64>().ok());
        let error = frame.error.map(|error| (error.code, error.msg)).or(frame.code.map(|code| (Some(code), frame.msg)));
        if let Some((code, message)) = error {
            let reason = format!("{} (code {})", shown(message.as_deref().unwrap_or_default()), code.map_or("null", digits));
            self.on_refused(id, &reason, out);
        } else if let Some(request) = id.and_then(|id| self.open_requests.remove(&id)) {
            self.on_answered(request, now, out);
        } else if frame.id.is_some() {
            out.push(Event::Ignored);
        } else {
            out.push(Event::Malformed {
                reason: Malformed::UnknownShape,
                detail: format!("event {:?}", frame.e.as_deref().map(shown)),
                trade: None,
            });
        }
    }

    fn on_answered(&mut self, request: Request, now: Moment, out: &mut Vec<Event>) {
        match request {
            Request::Subscribe(streams) => streams.iter().for_each(|name| self.session.acknowledged(name, now, out)),
            Request::Unsubscribe(streams) => streams.iter().for_each(|name| self.session.left(name, out)),
            Request::List => self.session.probe_answered(out),
        }
    }

    /// An error is an answer too: a refused list still proves life.
    fn on_refused(&mut self, id: Option<u64>, reason: &str, out: &mut Vec<Event>) {
        match id.and_then(|id| self.open_requests.remove(&id)) {
            Some(Request::List) => self.session.probe_answered(out),
            Some(Request::Subscribe(streams) | Request::Unsubscribe(streams)) => {
                for name in streams.iter().filter(|name| name.ends_with(TRADE)) {
                    let instrument = self.session.instrument(name).cloned();
                    out.push(Event::Refused { instrument, reason: reason.to_owned() });
                }
            }
            None => out.push(Event::Refused { instrument: None, reason: reason.to_owned() }),
        }
    }

    fn on_payload(&mut self, name: &str, payload: &str, now: Moment, out: &mut Vec<Event>) {
        if name == "!serverShutdown" {
            return self.session.renew("asked_by_venue", out);
        }
        if !name.ends_with(TRADE) && !name.ends_with(BOOK_TICKER) {
            out.push(Event::Malformed {
                reason: Malformed::UnknownShape,
                detail: format!("stream {}", shown(name)),
                trade: None,
            });
            return;
        }
        let Some(instrument) = self.session.instrument(name).cloned() else {
            out.push(Event::Ignored);
            return;
        };
        let event = if name.ends_with(TRADE) {
            parse::trade(payload, &instrument, now.received).map(Event::Trade)
        } else {
            parse::quote(payload, &instrument, now.received).map(Event::Quote)
        };
        match event {
            Ok(Event::Trade(trade)) => {
                self.session.heard(&instrument, now);
                self.watch_ids(&instrument, trade.sequence, out);
                out.push(Event::Trade(trade));
            }
            Ok(event) => out.push(event),
            Err((reason, detail)) => {
                // The trade exists, only we cannot keep it: its id is no hole.
                let id = (reason == Malformed::TooPrecise).then(|| parse::identity(payload).0).flatten();
                self.watch_ids(&instrument, id, out);
                out.push(Event::Malformed { reason, detail, trade: id.map(|id| (instrument, id)) });
            }
        }
    }

    fn watch_ids(&mut self, instrument: &Instrument, id: Option<i64>, out: &mut Vec<Event>) {
        let Some(id) = id else { return };
        match self.last_ids.get_mut(instrument) {
            None => {
                self.last_ids.insert(instrument.clone(), id);
            }
            Some(last) if id > *last => {
                if id - *last > 1 {
                    out.push(Event::Missing { instrument: instrument.clone(), after: *last, before: id });
                }
                *last = id;
            }
            // A repeat or a late one: the shell knows which ids it has.
            Some(_) => {}
        }
    }
}

impl Connection for BinanceConnection {
    fn on_open(&mut self, now: Moment, out: &mut Vec<Event>) {
        self.session.open(now);
        self.queue_wanted(now);
        self.send(now, out);
    }

    fn on_frame(&mut self, frame: Frame<'_>, now: Moment, out: &mut Vec<Event>) {
        match frame {
            Frame::Text(text) if text.len() > PROVIDER.limits.frame_bytes_max => {
                out.push(Event::Malformed { reason: Malformed::Oversized, detail: format!("{} bytes", text.len()), trade: None });
            }
            Frame::Text(text) => self.on_text(text, now, out),
            Frame::Binary(bytes) => {
                out.push(Event::Malformed { reason: Malformed::Binary, detail: format!("{} bytes", bytes.len()), trade: None });
            }
        }
    }

    fn on_timer(&mut self, now: Moment, out: &mut Vec<Event>) {
        self.session.on_timer(now, out);
        self.queue_wanted(now);
        if self.session.probe_due(now) {
            // Ahead of subscriptions still waiting: their answers are no proof of life.
            self.outbox.push_front((self.next_id, Request::List));
            self.next_id += 1;
        }
        self.send(now, out);
    }

    fn subscribe(&mut self, instruments: &[Instrument], now: Moment, out: &mut Vec<Event>) {
        self.want(instruments);
        self.queue_wanted(now);
        self.send(now, out);
    }

    fn unsubscribe(&mut self, instruments: &[Instrument], now: Moment, out: &mut Vec<Event>) {
        let mut streams = Vec::new();
        for instrument in instruments {
            self.last_ids.remove(instrument);
            for name in [stream(instrument.symbol(), TRADE), stream(instrument.symbol(), BOOK_TICKER)] {
                if self.session.leave(&name) {
                    streams.push(name);
                }
            }
        }
        for batch in streams.chunks(BATCH) {
            self.queue(Request::Unsubscribe(batch.to_vec()));
        }
        self.send(now, out);
    }
}

const TRADE: &str = "@trade";
const BOOK_TICKER: &str = "@bookTicker";

fn stream(symbol: &str, suffix: &str) -> String {
    format!("{}{suffix}", symbol.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::{TIMING, moment};

    fn sent(out: &[Event]) -> Vec<&str> {
        out.iter().filter_map(|e| if let Event::Send { text } = e { Some(text.as_str()) } else { None }).collect()
    }

    #[test]
    fn many_instruments_are_asked_for_in_few_paced_messages() {
        let instruments: Vec<Instrument> = (0..500).map(|i| format!("BINANCE:S{i}USDT").parse().unwrap()).collect();
        let mut connection = BinanceConnection::new(&instruments, TIMING);
        let mut out = Vec::new();
        connection.on_open(moment(0), &mut out);
        assert_eq!(sent(&out).len(), 1);
        for tenth in 1..30 {
            let now = Moment { monotonic: Duration::from_millis(tenth * 100), ..moment(0) };
            connection.on_timer(now, &mut out);
        }
        let messages = sent(&out);
        assert_eq!(messages.iter().filter(|m| m.contains("SUBSCRIBE\"")).count(), 5);
        assert!(messages.len() <= 13, "{} in three seconds", messages.len());
    }

    #[test]
    fn a_hole_in_the_ids_is_missing_and_a_repeat_is_not() {
        let mut connection = BinanceConnection::new(&["BINANCE:BTCUSDT".parse().unwrap()], TIMING);
        let mut missing = Vec::new();
        for id in [5, 6, 6, 9, 8, 10] {
            let mut out = Vec::new();
            let text = format!(
                r#"{{"e":"trade","E":1700000000000,"s":"BTCUSDT","t":{id},"p":"1.5","q":"2","T":1700000000000,"m":false,"M":true}}"#
            );
            connection.on_frame(Frame::Text(&text), moment(1), &mut out);
            missing.extend(
                out.into_iter()
                    .filter_map(|e| if let Event::Missing { after, before, .. } = e { Some((after, before)) } else { None }),
            );
        }
        assert_eq!(missing, [(6, 9)]);
    }
}
