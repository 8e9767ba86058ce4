//! Upbit: public WebSocket v1 and the v1 request interface. What the venue says and where it surprises: README.md beside this file.
//!
//! Next: `frame.rs`.

mod connection;
mod frame;
mod parse;
mod rest;

use crate::{FeedKind, Limits, Provider, Repair};
use marketflow_model::Instrument;
use std::time::Duration;

pub use connection::UpbitConnection;
pub use rest::UpbitRest;

/// The entry in [`crate::ALL`].
pub const PROVIDER: Provider = Provider {
    id: "upbit",
    venue: "UPBIT",
    feeds: &[FeedKind::Trades, FeedKind::Quotes],
    websocket_url: "wss://api.upbit.com/websocket/v1",
    rest_url: "https://api.upbit.com",
    credentials: &[],
    // Ten requests a second to the trades group, of which some are left for others at the address.
    limits: Limits {
        instruments_per_connection: 512,
        frame_bytes_max: 1024 * 1024,
        rest_weight_per_second: 8,
        rest_weight_burst: 8,
    },
    repair: Repair::Sweep { every: Duration::from_secs(30), resolution: Duration::from_millis(1) },
    connection: |instruments, timing, _| Box::new(UpbitConnection::new(&instruments, timing)),
    login: None,
    rest: Some(&UpbitRest),
    accepts,
};

/// The symbol is the venue's market code: quote currency first, `KRW-BTC`.
fn accepts(instrument: &Instrument) -> bool {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    let pair = instrument.symbol().split_once('-');
    instrument.venue() == PROVIDER.venue && pair.is_some_and(|(quote, base)| word(quote) && word(base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruments_are_spelled_as_the_venue_spells_its_markets() {
        let check = |text: &str, expected: bool| assert_eq!(accepts(&text.parse().unwrap()), expected, "{text}");
        check("UPBIT:KRW-BTC", true);
        check("UPBIT:USDT-1INCH", true);
        check("UPBIT:KRWBTC", false);
        check("UPBIT:krw-btc", false);
        check("UPBIT:KRW-BTC-X", false);
        check("BINANCE:KRW-BTC", false);
    }
}
