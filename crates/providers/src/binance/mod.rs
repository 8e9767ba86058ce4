//! Binance Spot: market streams and the v3 request interface. What the venue says and where it surprises: README.md beside this file.
//!
//! Next: `frame.rs`.

mod connection;
mod frame;
mod parse;
mod rest;

use crate::{FeedKind, Limits, Provider, Repair};
use marketflow_model::Instrument;
use std::time::Duration;

pub use connection::BinanceConnection;
pub use rest::BinanceRest;

/// The entry in [`crate::ALL`].
pub const PROVIDER: Provider = Provider {
    id: "binance",
    venue: "BINANCE",
    feeds: &[FeedKind::Trades, FeedKind::Quotes],
    websocket_url: "wss://stream.binance.com:9443/stream?timeUnit=MICROSECOND",
    rest_url: "https://api.binance.com",
    credentials: &[],
    // 1,024 streams a connection, two of each instrument; 6,000 weight a minute, of which some is left for others at the address.
    limits: Limits {
        instruments_per_connection: 512,
        frame_bytes_max: 1024 * 1024,
        rest_weight_per_second: 80,
        rest_weight_burst: 1_000,
    },
    repair: Repair::ContiguousIds,
    connection: |instruments, timing, _| Box::new(BinanceConnection::new(&instruments, timing)),
    login: None,
    rest: Some(&BinanceRest),
    accepts,
};

/// The venue cuts at 24 h.
const RENEW_AFTER: Duration = Duration::from_secs(23 * 3600);

fn accepts(instrument: &Instrument) -> bool {
    let symbol = instrument.symbol();
    instrument.venue() == PROVIDER.venue && symbol.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruments_are_spelled_as_the_venue_spells_its_symbols() {
        let check = |text: &str, expected: bool| assert_eq!(accepts(&text.parse().unwrap()), expected, "{text}");
        check("BINANCE:BTCUSDT", true);
        check("BINANCE:1INCHUSDT", true);
        check("BINANCE:btcusdt", false);
        check("BITSTAMP:BTCUSD", false);
    }
}
