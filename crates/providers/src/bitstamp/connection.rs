//! One connection: subscribe, acknowledgements, heartbeats, and what to do when the venue asks to reconnect.
//!
//! Bitstamp acknowledges unknown pairs and then stays silent for ever, so an acknowledgement proves little: silence is called
//! ([`Event::Silent`]) and the shell asks by request. Ids have holes by nature: a lost connection is a hole, and between those the
//! recent-trades page is merged by id ([`crate::Repair::Sweep`]).
//!
//! Next: `rest.rs`, then `services/producer/src/websocket.rs`.

use super::frame::{ErrorData, ServerFrame};
use super::{PROVIDER, RENEW_AFTER, pair, parse};
use crate::number::{digits, shape_error, shown};
use crate::session::{Session, Timing};
use crate::{Connection, Event, FeedKind, Frame, Malformed, Moment};
use marketflow_model::{Instrument, Timestamp};
use std::collections::BTreeMap;

const HEARTBEAT: &str = r#"{"event":"bts:heartbeat"}"#;

/// State of one connection to `wss://ws.bitstamp.net`.
#[derive(Debug)]
pub struct BitstampConnection {
    session: Session,
    /// Time of the last book used, per instrument: an older or equal one is dropped.
    books: BTreeMap<Instrument, Timestamp>,
}

impl BitstampConnection {
    /// A connection that will carry these instruments.
    pub fn new(instruments: &[Instrument], timing: Timing) -> Self {
        let mut connection =
            Self { session: Session::new(Timing { renew_after: Some(RENEW_AFTER), ..timing }), books: BTreeMap::new() };
        connection.want(instruments);
        connection
    }

    fn want(&mut self, instruments: &[Instrument]) {
        for instrument in instruments {
            self.session.want(format!("live_trades_{}", pair(instrument)), instrument, FeedKind::Trades);
            self.session.want(format!("order_book_{}", pair(instrument)), instrument, FeedKind::Quotes);
        }
    }

    fn ask(&mut self, now: Moment, out: &mut Vec<Event>) {
        for channel in self.session.wanted() {
            self.session.asked(&channel, now);
            out.push(Event::Send { text: format!(r#"{{"event":"bts:subscribe","data":{{"channel":"{channel}"}}}}"#) });
        }
    }

    fn on_data(&mut self, channel: &str, data: &str, now: Moment, out: &mut Vec<Event>) {
        let Some(instrument) = self.session.instrument(channel).cloned() else {
            out.push(Event::Ignored);
            return;
        };
        if channel.starts_with("live_trades_") {
            match parse::trade(data, &instrument, now.received) {
                Ok(trade) => {
                    self.session.heard(&instrument, now);
                    out.push(Event::Trade(trade));
                }
                Err((reason, detail)) => {
                    let id = (reason == Malformed::TooPrecise).then(|| parse::identity(data).0).flatten();
                    out.push(Event::Malformed { reason, detail, trade: id.map(|id| (instrument, id)) });
                }
            }
            return;
        }
        match parse::quote(data, &instrument, now.received) {
            Ok(quote) => {
                let last = self.books.entry(instrument).or_insert(Timestamp::MIN);
                if quote.event_time <= *last {
                    out.push(Event::Ignored);
                    return;
                }
                *last = quote.event_time;
                let through = quote.event_time;
                out.push(Event::Quote(quote));
                out.push(Event::Evidence { through });
            }
            Err((reason, detail)) => out.push(Event::Malformed { reason, detail, trade: None }),
        }
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
        let channel = frame.channel.as_deref().unwrap_or_default();
        let data = frame.data.map_or("null", |data| data.get());
        match &*frame.event {
            "trade" if channel.starts_with("live_trades_") => self.on_data(channel, data, now, out),
            "data" if channel.starts_with("order_book_") => self.on_data(channel, data, now, out),
            "bts:subscription_succeeded" => self.session.acknowledged(channel, now, out),
            "bts:unsubscription_succeeded" => self.session.left(channel, out),
            "bts:heartbeat" => self.session.probe_answered(out),
            // Its `data` is written "", null or {} and says nothing.
            "bts:request_reconnect" => self.session.renew("asked_by_venue", out),
            "bts:error" => out.push(refusal(data)),
            other => out.push(Event::Malformed {
                reason: Malformed::UnknownShape,
                detail: format!("event {} on channel {}", shown(other), shown(channel)),
                trade: None,
            }),
        }
    }
}

impl Connection for BitstampConnection {
    fn on_open(&mut self, now: Moment, out: &mut Vec<Event>) {
        self.session.open(now);
        self.ask(now, out);
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
        self.ask(now, out);
        if self.session.probe_due(now) {
            out.push(Event::Send { text: HEARTBEAT.to_owned() });
        }
    }

    fn subscribe(&mut self, instruments: &[Instrument], now: Moment, out: &mut Vec<Event>) {
        self.want(instruments);
        self.ask(now, out);
    }

    fn unsubscribe(&mut self, instruments: &[Instrument], _now: Moment, out: &mut Vec<Event>) {
        for instrument in instruments {
            for channel in [format!("live_trades_{}", pair(instrument)), format!("order_book_{}", pair(instrument))] {
                if self.session.leave(&channel) {
                    out.push(Event::Send { text: format!(r#"{{"event":"bts:unsubscribe","data":{{"channel":"{channel}"}}}}"#) });
                }
            }
        }
    }
}

/// The error does not name the channel.
fn refusal(data: &str) -> Event {
    let reason = match serde_json::from_str::<ErrorData<'_>>(data) {
        Ok(error) => {
            let code = error.code.map_or("null", digits);
            format!("{} (code {})", shown(error.message.as_deref().unwrap_or_default()), shown(code))
        }
        Err(_) => format!("error without message: {}", shown(data)),
    };
    Event::Refused { instrument: None, reason }
}
