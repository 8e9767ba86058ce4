//! Which call is made next: by class in the order of the time of day, then by rank, then as they came.

use std::collections::BTreeMap;

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Minutes that just ended.
    Live,
    /// Minutes that were missed.
    Repair,
    /// History.
    Backfill,
}

/// The order of classes, by the local time of day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeOfDay {
    /// Seconds of the local day, `[from, to)`, and the order then; the first that holds counts.
    pub rules: Vec<(u32, u32, Vec<Class>)>,
    /// The order at all other times.
    pub otherwise: Vec<Class>,
}

impl TimeOfDay {
    /// Live first while the market is open, history first at night.
    pub fn of_session(open_second: u32, close_second: u32) -> Self {
        Self {
            rules: vec![(open_second, close_second, vec![Class::Live, Class::Repair, Class::Backfill])],
            otherwise: vec![Class::Repair, Class::Backfill, Class::Live],
        }
    }

    /// The order at a second of the local day.
    pub fn at(&self, second: u32) -> &[Class] {
        self.rules.iter().find(|(from, to, _)| (*from..*to).contains(&second)).map_or(&self.otherwise, |(_, _, order)| order)
    }
}

/// Calls that wait.
#[derive(Clone, Debug)]
pub struct PriorityQueue<T> {
    waiting: BTreeMap<(Class, u32, u64), T>,
    pushed: u64,
}

impl<T> Default for PriorityQueue<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), pushed: 0 }
    }
}

impl<T> PriorityQueue<T> {
    /// Adds a call; lower ranks of a class go first.
    pub fn push(&mut self, class: Class, rank: u32, call: T) {
        self.waiting.insert((class, rank, self.pushed), call);
        self.pushed += 1;
    }

    /// Takes the next call, by this order of classes; classes that are not named wait.
    pub fn pop(&mut self, order: &[Class]) -> Option<(Class, T)> {
        let key = order.iter().find_map(|class| {
            let range = (*class, 0, 0)..=(*class, u32::MAX, u64::MAX);
            self.waiting.range(range).next().map(|(key, _)| *key)
        })?;
        self.waiting.remove(&key).map(|call| (key.0, call))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day_decides_between_classes_and_the_rank_within_one() {
        let times = TimeOfDay::of_session(9 * 3_600, 15 * 3_600 + 1_800);
        let mut queue = PriorityQueue::default();
        for (class, rank, name) in [
            (Class::Backfill, 1, "b1"),
            (Class::Live, 5, "l5"),
            (Class::Repair, 0, "r0"),
            (Class::Live, 2, "l2"),
            (Class::Backfill, 0, "b0"),
            (Class::Live, 2, "l2 later"),
        ] {
            queue.push(class, rank, name);
        }
        let mut night = queue.clone();
        let drain = |queue: &mut PriorityQueue<&'static str>, second| {
            std::iter::from_fn(|| queue.pop(times.at(second)).map(|(_, name)| name)).collect::<Vec<_>>()
        };
        assert_eq!(drain(&mut queue, 10 * 3_600), ["l2", "l2 later", "l5", "r0", "b0", "b1"]);
        assert_eq!(drain(&mut night, 15 * 3_600 + 1_800), ["r0", "b0", "b1", "l2", "l2 later", "l5"]);
        assert!(queue.is_empty() && night.is_empty());
    }

    #[test]
    fn a_class_that_is_not_named_waits() {
        let mut queue = PriorityQueue::default();
        queue.push(Class::Backfill, 0, ());
        assert_eq!(queue.pop(&[Class::Live, Class::Repair]), None);
        assert_eq!((queue.len(), queue.pop(&[Class::Backfill])), (1, Some((Class::Backfill, ()))));
    }
}
