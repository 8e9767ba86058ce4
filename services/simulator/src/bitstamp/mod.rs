//! Bitstamp: WebSocket v2 and REST v2 as they are on the wire.
//!
//! Not played: `diff_order_book_`, `detail_order_book_`, `live_orders_` and `funding_rate_` are acknowledged and stay silent; no compression is
//! offered. Next: `socket.rs`, then `rest.rs`.

pub mod rest;
pub mod socket;
