//! Which series there are, as a file: the built-in one is `schemas/series.toml`.

use super::Series;
use serde::{Deserialize, Serialize};

/// A file of series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesSet {
    /// In the order in which they are asked for.
    pub series: Vec<Series>,
}

impl SeriesSet {
    /// The text of `schemas/series.toml`: six markets, month by month.
    pub const BUILT_IN: &str = include_str!("../../../../schemas/series.toml");
}
