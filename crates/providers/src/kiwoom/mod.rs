//! Kiwoom (키움증권 REST API): real-time trades, order books, volatility interruptions and minute candles of the Korea Exchange. What the broker
//! says and where it surprises: README.md beside this file.
//!
//! Next: `login.rs`, then `frame.rs`.

mod candles;
mod connection;
mod days;
mod frame;
mod investors;
mod login;
mod master;
mod parse;
mod prices;
mod ranking;
pub mod rest;

use crate::{CallLimits, FeedKind, Limits, Provider, krx};
use std::time::Duration;

pub use candles::KiwoomCandles;
pub use connection::KiwoomConnection;
pub use days::KiwoomDays;
pub use investors::KiwoomInvestors;
pub use login::KiwoomLogin;
pub use master::KiwoomMaster;
pub use prices::KiwoomPrices;
pub use ranking::KiwoomRanking;

/// Name of the customer's application key.
pub const APP_KEY: &str = "KIWOOM_APP_KEY";
/// Name of its secret.
pub const SECRET_KEY: &str = "KIWOOM_SECRET_KEY";

/// Calls of one key: the broker allows five a second, and of one name two within two seconds, as its customers measured; all keep to that.
const CALLS: CallLimits = CallLimits { calls: 2, within: Duration::from_secs(2), per_day: None };

/// The entry in [`crate::ALL`].
pub const PROVIDER: Provider = Provider {
    id: "kiwoom",
    venue: krx::VENUE,
    feeds: &[FeedKind::Trades, FeedKind::Quotes, FeedKind::Halts],
    websocket_url: "wss://api.kiwoom.com:10000/api/dostk/websocket",
    rest_url: "https://api.kiwoom.com",
    credentials: &[APP_KEY, SECRET_KEY],
    // The broker states no number of registrations; a hundred instruments are what its customers assume. Five requests a second are allowed.
    limits: Limits {
        instruments_per_connection: 100,
        frame_bytes_max: 1024 * 1024,
        rest_weight_per_second: 4,
        rest_weight_burst: 4,
    },
    repair: krx::REPAIR,
    connection: |instruments, timing, token| Box::new(KiwoomConnection::new(&instruments, timing, token)),
    login: Some(&KiwoomLogin),
    rest: None,
    accepts: krx::accepts,
};
