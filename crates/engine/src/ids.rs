//! De-duplication by venue id, within the minutes that are still kept.
//!
//! Ids above the high mark are new without look-up. Below it the ids of the trade's minute and its two neighbours are searched (a request
//! interface may round event time). What left the horizon is the caller's to call late.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Entries of a run at most: a changelog record stays far below Kafka's limit, however much one commit holds.
pub(crate) const RUN_AT_MOST: usize = 5_000;

/// A venue's trade id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TradeId<'a> {
    /// Numeric ids rise.
    Number(i64),
    /// Others are only equal or not.
    Text(&'a str),
}

impl std::fmt::Display for TradeId<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(out),
            Self::Text(text) => out.write_str(text),
        }
    }
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

    /// Takes what was added since the last call, as runs of a bounded size; none when nothing was.
    pub(crate) fn take_runs(&mut self) -> Vec<IdRun> {
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.numbers.sort_unstable();
        let numbers = fresh.numbers.chunks(RUN_AT_MOST).map(|chunk| {
            let differences = std::iter::once(chunk[0]).chain(chunk.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])));
            IdRun { numbers: differences.collect(), texts: Vec::new() }
        });
        let texts = fresh.texts.chunks(RUN_AT_MOST).map(|chunk| IdRun { numbers: Vec::new(), texts: chunk.to_vec() });
        numbers.chain(texts).collect()
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
        let (mut id, known) = (0i64, self.numbers.len());
        self.numbers.extend(run.numbers.iter().map(|difference| {
            id = id.wrapping_add(*difference);
            id
        }));
        if known > 0 && self.numbers.get(known).is_some_and(|first| *first <= self.numbers[known - 1]) {
            // two sorted runs: the stable sort merges them
            self.numbers.sort();
            self.numbers.dedup();
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
        let first = seen.take_runs();
        assert_eq!((first.len(), seen.take_runs()), (2, Vec::new()), "numbers and texts");
        seen.insert(TradeId::Number(4));
        let second = seen.take_runs().remove(0);
        let number = seen.number_run();

        let mut restored = SeenIds::default();
        restored.restore(Some(number), &second);
        first.iter().for_each(|run| restored.restore(None, run));
        assert_eq!(restored, seen);
        assert!(restored.contains(TradeId::Number(3)) && restored.contains(TradeId::Text("a-1")));
        assert!(!restored.contains(TradeId::Number(6)));
    }
}
