//! Any messages and answers, as any venue's: a connection, a back-fill and a page of candles give events, rows or errors, and never panic. The
//! first byte chooses the venue; the byte 0x1e parts messages.
//!
//! The same on damaged fixtures runs in `crates/providers/tests/conformance.rs`, in every `make test`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use marketflow_model::{Instrument, Timestamp};
use marketflow_providers::{ALL, Cursor, Frame, Moment, Provider, RestAnswer, Secret, Timing};
use std::time::Duration;

const START: i64 = 1_700_000_000;

/// As in the fixtures, which are the first inputs.
fn instruments(provider: &Provider) -> Vec<Instrument> {
    let all = ["BITSTAMP:BTCUSD", "BINANCE:BTCUSDT", "KRX:005930", "UPBIT:KRW-BTC"];
    all.into_iter().map(|name| name.parse::<Instrument>().expect("a name")).filter(|instrument| (provider.accepts)(instrument)).collect()
}

fn talk(provider: &Provider, messages: &[u8]) {
    let mut connection = (provider.connection)(instruments(provider), Timing::USUAL, &Secret::new("approval-key"));
    let mut events = Vec::new();
    let at = |seconds: u32| {
        let now = Timestamp::from_seconds(START + i64::from(seconds));
        Moment { venue: now, received: now, monotonic: Duration::from_secs(seconds.into()) }
    };
    connection.on_open(at(0), &mut events);
    for (second, message) in (1..).zip(messages.split(|byte| *byte == 0x1e)) {
        let frame = std::str::from_utf8(message).map_or(Frame::Binary(message), Frame::Text);
        connection.on_frame(frame, at(second), &mut events);
        connection.on_frame(Frame::Binary(message), at(second), &mut events);
        connection.on_timer(at(second), &mut events);
        events.clear();
    }
}

fn answer(provider: &Provider, body: &[u8]) {
    let Some(rest) = provider.rest else { return };
    let now = Timestamp::from_seconds(START);
    let cursor = Cursor { after: None, before: None, from: Timestamp::from_seconds(START - 3_600), widened: 0 };
    for instrument in instruments(provider) {
        let request = rest.request(&instrument, &cursor, now);
        drop(rest.page(&instrument, &cursor, &request, RestAnswer { status: 200, retry_after: None, body }, now));
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Some((choice, messages)) = bytes.split_first() {
        let provider = ALL[usize::from(*choice) % ALL.len()];
        talk(provider, messages);
        answer(provider, messages);
    }
});
