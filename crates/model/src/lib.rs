//! The vocabulary of marketflow: what a trade, a quote, a candle, a control and a bar are, in exact decimals and UTC microseconds.
//!
//! Pure values: no clock, no I/O, no randomness. Everything that crosses a process boundary is one of these types, converted once at the edge
//! (`contract` for Avro, `providers` for venue frames, the sink for rows).
//!
//! Next: `crates/providers/src/bitstamp/frame.rs`, where a trade starts as a venue's frame.

mod bar;
mod calendar;
mod candle;
mod control;
mod decimal;
mod envelope;
mod flows;
mod instrument;
mod interval;
mod month;
mod quote;
mod reference;
mod timestamp;
mod trade;
mod venue;

pub use bar::{Bar, BarSource, Quality};
pub use calendar::{Calendar, CalendarChange, CalendarError, DayHours, Session, SessionKind, Stretch};
pub use candle::Candle;
pub use control::{Control, ControlKind, FeedState};
pub use decimal::{Amount, DecimalError, Price, Quantity, SeriesValue, Turnover, parse_scaled};
pub use envelope::{Envelope, EnvelopeClass};
pub use flows::{FlowAggregate, FundFlow, InvestorClass, Observation};
pub use instrument::{Feed, Instrument, InstrumentError, InstrumentRef};
pub use interval::{BarKind, BarKindError, Interval, IntervalError};
pub use month::{Month, MonthError};
pub use quote::Quote;
pub use reference::{Reference, ReferenceKind};
pub use timestamp::{Timestamp, TimestampError};
pub use trade::{Condition, Conditions, Side, Source, Trade, TradeRef};
pub use venue::Venue;
