//! Best bid and ask.

use crate::{Feed, Instrument, Price, Quantity, Timestamp};
use serde::{Deserialize, Serialize};

/// Best bid and ask of an instrument; a side without orders is `None`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Quote {
    /// What is quoted.
    pub instrument: Instrument,
    /// Who told us.
    pub feed: Feed,
    /// The venue's clock; equal to `receive_time` where the venue stamps no quotes.
    pub event_time: Timestamp,
    /// Our socket's clock.
    pub receive_time: Timestamp,
    /// Highest price bid.
    pub bid_price: Option<Price>,
    /// Size at the highest bid.
    pub bid_size: Option<Quantity>,
    /// Lowest price asked.
    pub ask_price: Option<Price>,
    /// Size at the lowest ask.
    pub ask_size: Option<Quantity>,
    /// The venue's update number, if any.
    pub sequence: Option<i64>,
}
