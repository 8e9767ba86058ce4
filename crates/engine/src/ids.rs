//! De-duplication by venue id, within the minutes that are still kept.
//!
//! Ids above the high mark are new without look-up. Below it the ids of the trade's minute and its two neighbours are searched (a request
//! interface may round event time). What left the horizon is the caller's to call late.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A venue's trade id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TradeId<'a> {
    /// Numeric ids rise.
    Number(i64),
    /// Others are only equal or not.
    Text(&'a str),
}

impl<'a> TradeId<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        text.parse().map_or(Self::Text(text), Self::Number)
    }
}

/// The ids seen in one minute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SeenIds {
    numbers: Vec<i64>,
    texts: BTreeSet<String>,
    fresh: IdRun,
    runs: u32,
}

/// Ids added since the last commit, as they go to the changelog: numbers sorted, as differences.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdRun {
    numbers: Vec<i64>,
    texts: Vec<String>,
}

impl SeenIds {
    pub(crate) fn contains(&self, id: TradeId<'_>) -> bool {
        match id {
            TradeId::Number(number) => self.numbers.binary_search(&number).is_ok(),
            TradeId::Text(text) => self.texts.contains(text),
        }
    }

    pub(crate) fn insert(&mut self, id: TradeId<'_>) {
        match id {
            TradeId::Number(number) => {
                self.fresh.numbers.push(number);
                self.keep_number(number);
            }
            TradeId::Text(text) => {
                self.fresh.texts.push(text.to_owned());
                self.texts.insert(text.to_owned());
            }
        }
    }

    fn keep_number(&mut self, number: i64) {
        match self.numbers.last() {
            Some(last) if *last >= number => {
                if let Err(place) = self.numbers.binary_search(&number) {
                    self.numbers.insert(place, number);
                }
            }
            _ => self.numbers.push(number),
        }
    }

    /// Takes what was added since the last call; `None` when nothing was.
    pub(crate) fn take_run(&mut self) -> Option<IdRun> {
        if self.fresh.numbers.is_empty() && self.fresh.texts.is_empty() {
            return None;
        }
        let mut run = std::mem::take(&mut self.fresh);
        run.numbers.sort_unstable();
        for index in (1..run.numbers.len()).rev() {
            run.numbers[index] = run.numbers[index].wrapping_sub(run.numbers[index - 1]);
        }
        Some(run)
    }

    /// The number of a run that gets a key of its own.
    pub(crate) fn number_run(&mut self) -> u32 {
        self.runs += 1;
        self.runs - 1
    }

    /// How many runs have a key of their own.
    pub(crate) fn runs(&self) -> u32 {
        self.runs
    }

    /// Puts back a run, and its number where it has a key of its own.
    pub(crate) fn restore(&mut self, number: Option<u32>, run: &IdRun) {
        let mut id = 0i64;
        for difference in &run.numbers {
            id = id.wrapping_add(*difference);
            self.keep_number(id);
        }
        self.texts.extend(run.texts.iter().cloned());
        self.runs = self.runs.max(number.map_or(0, |number| number + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_restore_what_was_seen() {
        let mut seen = SeenIds::default();
        for id in [7, 3, 2_001_939_623_936_278_528, 5] {
            seen.insert(TradeId::Number(id));
        }
        seen.insert(TradeId::Text("a-1"));
        let first = seen.take_run().unwrap();
        assert_eq!(seen.take_run(), None);
        seen.insert(TradeId::Number(4));
        let second = seen.take_run().unwrap();
        let number = seen.number_run();

        let mut restored = SeenIds::default();
        restored.restore(Some(number), &second);
        restored.restore(None, &first);
        assert_eq!(restored, seen);
        assert!(restored.contains(TradeId::Number(3)) && restored.contains(TradeId::Text("a-1")));
        assert!(!restored.contains(TradeId::Number(6)));
    }
}
