//! Bitstamp: WebSocket v2 and the v2 request interface. What the venue says and where it surprises: README.md beside this file.
//!
//! Next: `frame.rs`.

mod connection;
mod frame;
mod parse;
mod rest;

use crate::{FeedKind, Limits, Provider, Repair};
use marketflow_model::Instrument;
use std::time::Duration;

pub use connection::BitstampConnection;
pub use rest::BitstampRest;

/// The entry in [`crate::ALL`].
pub const PROVIDER: Provider = Provider {
    id: "bitstamp",
    venue: "BITSTAMP",
    feeds: &[FeedKind::Trades, FeedKind::Quotes],
    websocket_url: "wss://ws.bitstamp.net",
    rest_url: "https://www.bitstamp.net",
    credentials: &[],
    // 1,024 channels a connection, two of each instrument; 10,000 requests in ten minutes, 400 in a second.
    limits: Limits {
        instruments_per_connection: 512,
        frame_bytes_max: 1024 * 1024,
        rest_weight_per_second: 15,
        rest_weight_burst: 300,
    },
    repair: Repair::Sweep { every: Duration::from_secs(30), resolution: Duration::from_secs(1) },
    connection: |instruments, timing, _| Box::new(BitstampConnection::new(&instruments, timing)),
    login: None,
    rest: Some(&BitstampRest),
    accepts,
};

/// How long the venue keeps a connection, less a day.
const RENEW_AFTER: Duration = Duration::from_secs(89 * 86_400);

fn accepts(instrument: &Instrument) -> bool {
    let symbol = instrument.symbol();
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    instrument.venue() == PROVIDER.venue && word(symbol.strip_suffix("-PERP").unwrap_or(symbol))
}

/// How the venue spells the market: `btcusd`, `btcusd-perp`.
fn pair(instrument: &Instrument) -> String {
    instrument.symbol().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruments_are_spelled_as_the_venue_spells_its_markets() {
        let check = |text: &str, expected: bool| assert_eq!(accepts(&text.parse().unwrap()), expected, "{text}");
        check("BITSTAMP:BTCUSD", true);
        check("BITSTAMP:BTCUSD-PERP", true);
        check("BITSTAMP:btcusd", false);
        check("BITSTAMP:BTC/USD", false);
        check("BINANCE:BTCUSDT", false);
        assert_eq!(pair(&"BITSTAMP:BTCUSD-PERP".parse().unwrap()), "btcusd-perp");
    }
}
