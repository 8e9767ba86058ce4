//! KIS (한국투자증권 Open API): real-time trades and order books of the Korea Exchange. What the broker says and where it surprises: README.md
//! beside this file.
//!
//! Next: `login.rs`, then `frame.rs`.

mod candles;
mod connection;
mod days;
mod frame;
mod holidays;
mod investors;
mod login;
mod master;
mod parse;
mod prices;
mod ranking;
mod rest;

use crate::{CallLimits, FeedKind, Limits, Provider, krx};
use std::time::Duration;

pub use candles::KisCandles;
pub use connection::KisConnection;
pub use days::KisDays;
pub use holidays::KisHolidays;
pub use investors::KisInvestors;
pub use login::KisLogin;
pub use master::KisMaster;
pub use prices::KisPrices;
pub use ranking::KisRanking;

/// Name of the customer's application key.
pub const APP_KEY: &str = "KIS_APP_KEY";
/// Name of its secret.
pub const APP_SECRET: &str = "KIS_APP_SECRET";

/// Quotation calls of one key, all together.
const CALLS: CallLimits = CallLimits { calls: 18, within: Duration::from_secs(1), per_day: Some(1_000_000) };

/// The entry in [`crate::ALL`].
pub const PROVIDER: Provider = Provider {
    id: "kis",
    venue: krx::VENUE,
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
    repair: krx::REPAIR,
    connection: |instruments, timing, key| Box::new(KisConnection::new(&instruments, timing, key)),
    login: Some(&KisLogin),
    rest: None,
    accepts: krx::accepts,
};
