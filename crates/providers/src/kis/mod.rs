//! KIS (한국투자증권 Open API): real-time trades and order books of the Korea Exchange. What the broker says and where it surprises: README.md
//! beside this file.
//!
//! Next: `login.rs`, then `frame.rs`.

mod candles;
mod connection;
mod frame;
mod login;
mod parse;

use crate::{FeedKind, Limits, Provider, Repair};
use marketflow_model::Instrument;
use std::time::Duration;

pub use candles::KisCandles;
pub use connection::{KEY_REFUSED, KisConnection};
pub use login::KisLogin;

/// Name of the customer's application key.
pub const APP_KEY: &str = "KIS_APP_KEY";
/// Name of its secret.
pub const APP_SECRET: &str = "KIS_APP_SECRET";

/// The entry in [`crate::ALL`].
pub const PROVIDER: Provider = Provider {
    id: "kis",
    venue: "KRX",
    feeds: &[FeedKind::Trades, FeedKind::Quotes, FeedKind::Halts],
    websocket_url: "ws://ops.koreainvestment.com:21000/tryitout",
    rest_url: "https://openapi.koreainvestment.com:9443",
    credentials: &[APP_KEY, APP_SECRET],
    // 41 registrations of a key, one for each instrument's trades; what is left carries halts, then quotes. 18 requests a second, less some for others.
    limits: Limits {
        instruments_per_connection: connection::REGISTRATIONS,
        frame_bytes_max: 1024 * 1024,
        rest_weight_per_second: 15,
        rest_weight_burst: 15,
    },
    repair: Repair::CumulativeVolume { shares_per_day_max: parse::SHARES_PER_DAY_MAX, resolution: Duration::from_secs(1) },
    connection: |instruments, timing, key| Box::new(KisConnection::new(&instruments, timing, key)),
    login: Some(&KisLogin),
    rest: None,
    accepts,
};

/// Short codes have six characters, today also letters (`0080G0`).
fn accepts(instrument: &Instrument) -> bool {
    let symbol = instrument.symbol();
    let code = symbol.len() == 6 && symbol.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    instrument.venue() == PROVIDER.venue && code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruments_are_the_exchanges_short_codes() {
        let check = |text: &str, expected: bool| assert_eq!(accepts(&text.parse().unwrap()), expected, "{text}");
        check("KRX:005930", true);
        check("KRX:0080G0", true);
        check("KRX:5930", false);
        check("KRX:0080g0", false);
        check("UPBIT:005930", false);
    }
}
