//! How long rows are kept, counted from their ingestion: a trade of 2013 that was imported today is as young as one that happened today.
//!
//! Next: `docs/clickhouse.md`, "Retention".

use crate::{ClickHouse, Error};
use serde::Deserialize;

/// A class is what is kept alike. Roll-ups, reference data and what the sink knows of its streams are kept for ever.
const CLASSES: [(&str, &[&str]); 9] = [
    ("trades", &["trades_log"]),
    ("quotes", &["quotes_log"]),
    ("candles", &["candles_log"]),
    ("bars", &["bars_log"]),
    ("flows", &["observations_log", "fund_flows_log", "flow_aggregates_log"]),
    ("feed_status", &["feed_status_log"]),
    ("set_aside", &["set_aside_log"]),
    ("signals", &["signals_log"]),
    ("news", &["news_log"]),
];

/// A session is folded again from its minutes when one of them is corrected, which a gap may delay by 7 days.
const BARS_AT_LEAST: u32 = 30;

/// Days by class of table. A class that is not named stays as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Retention(Vec<(&'static [&'static str], u32)>);

impl Retention {
    /// The classes there are.
    pub fn classes() -> impl Iterator<Item = &'static str> {
        CLASSES.iter().map(|(class, _)| *class)
    }

    /// Keeps the tables of a class for so many days; 0 = for ever.
    ///
    /// # Errors
    /// An unknown class, or fewer days than it needs, in words.
    pub fn keep(&mut self, class: &str, days: u32) -> Result<(), String> {
        let Some((class, tables)) = CLASSES.iter().find(|(known, _)| *known == class) else {
            return Err(format!("no class of tables is called {class}: {}", Self::classes().collect::<Vec<_>>().join(", ")));
        };
        if *class == "bars" && (1..BARS_AT_LEAST).contains(&days) {
            return Err(format!(
                "bars are kept {BARS_AT_LEAST} days at least: roll-ups are folded from them again when one is corrected"
            ));
        }
        self.0.push((tables, days));
        Ok(())
    }

    /// Makes the tables forget as told, and returns those it changed. What agrees already is left alone.
    ///
    /// # Errors
    /// ClickHouse's.
    pub async fn apply(&self, clickhouse: &ClickHouse) -> Result<Vec<&'static str>, Error> {
        #[derive(clickhouse::Row, Deserialize)]
        struct Engine {
            engine_full: String,
        }
        let mut changed = Vec::new();
        for (tables, days) in &self.0 {
            for table in *tables {
                let query = clickhouse
                    .query("SELECT engine_full FROM system.tables WHERE database = ? AND name = ?")
                    .bind(clickhouse.database())
                    .bind(clickhouse.layout().table(table));
                let found = clickhouse.rows::<Engine>(&format!("read how long {table} is kept"), query).await?;
                let engine = found.first().map(|found| found.engine_full.as_str()).unwrap_or_default();
                if let Some(alter) = alter(table, *days, engine) {
                    clickhouse.lay_out(&format!("set how long {table} is kept"), &alter).await?;
                    tracing::info!(table, days, "retention changed");
                    changed.push(*table);
                }
            }
        }
        Ok(changed)
    }
}

/// What makes a table with this engine forget after so many days; nothing when it does so.
fn alter(table: &str, days: u32, engine: &str) -> Option<String> {
    let wanted = format!("toDateTime(append_time) + toIntervalDay({days})");
    match (days, engine.contains(" TTL ")) {
        (0, false) => None,
        (0, true) => Some(format!("ALTER TABLE {table} REMOVE TTL")),
        _ if engine.contains(&format!(" TTL {wanted} ")) => None,
        _ => Some(format!("ALTER TABLE {table} MODIFY TTL {wanted}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_known_and_bars_are_kept_long_enough() {
        let mut retention = Retention::default();
        assert_eq!(retention.keep("trades", 365), Ok(()));
        assert_eq!(retention.keep("bars", 0), Ok(()));
        assert!(retention.keep("bars", 29).is_err_and(|why| why.contains("30 days")));
        assert!(retention.keep("trade", 1).is_err_and(|why| why.contains("quotes")));
        assert_eq!(retention, Retention(vec![(&["trades_log"], 365), (&["bars_log"], 0)]));
    }

    #[test]
    fn only_what_differs_is_changed() {
        let kept = "ReplacingMergeTree(offset) ORDER BY offset TTL toDateTime(append_time) + toIntervalDay(30) SETTINGS a = 1";
        let for_ever = "ReplacingMergeTree(offset) ORDER BY offset SETTINGS a = 1";
        assert_eq!(alter("t", 30, kept), None);
        assert_eq!(alter("t", 0, for_ever), None);
        assert_eq!(alter("t", 0, kept).unwrap(), "ALTER TABLE t REMOVE TTL");
        let thirty = "ALTER TABLE t MODIFY TTL toDateTime(append_time) + toIntervalDay(30)";
        assert_eq!(alter("t", 30, for_ever).unwrap(), thirty);
        assert_eq!(alter("t", 3, kept).unwrap(), thirty.replace("30", "3"));
    }
}
