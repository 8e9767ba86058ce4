//! How long trades take from socket to row, read off two counters: how many were sent, and how many rows can be read.
//!
//! A trade's latency is the time between the moment the first counter reached its number and the moment the second did: measured from outside,
//! in wall time, as exact as the counters are polled. It says nothing of single trades that overtake each other.

use super::render::Latency;
use std::collections::VecDeque;
use std::time::Duration;

/// Readings kept of the first counter.
const READINGS: usize = 1_200;
/// Latencies kept; one per reading at which rows had become visible.
const SAMPLES: usize = 600;

/// The two counters over time.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    sent: VecDeque<(Duration, u64)>,
    last_visible: u64,
    samples: VecDeque<Duration>,
}

impl Latencies {
    /// `count` trades had been sent at `at`.
    pub(super) fn sent(&mut self, at: Duration, count: u64) {
        if self.sent.back().is_some_and(|(_, known)| *known >= count) {
            return;
        }
        self.sent.push_back((at, count));
        if self.sent.len() > READINGS {
            self.sent.pop_front();
        }
    }

    /// `count` rows could be read at `at`.
    pub(super) fn visible(&mut self, at: Duration, count: u64) {
        if count <= self.last_visible {
            return;
        }
        self.last_visible = count;
        if let Some(sent) = self.sent_at(count) {
            self.samples.push_back(at.saturating_sub(sent));
            if self.samples.len() > SAMPLES {
                self.samples.pop_front();
            }
        }
    }

    /// Median and 95th percentile of what was measured so far.
    pub(super) fn summary(&self) -> Option<Latency> {
        let mut sorted: Vec<Duration> = self.samples.iter().copied().collect();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        Some(Latency { median: sorted[last / 2], p95: sorted[last * 95 / 100] })
    }

    /// When the first counter reached `count`, on a straight line between the two readings around it.
    fn sent_at(&self, count: u64) -> Option<Duration> {
        let after = self.sent.iter().position(|(_, sent)| *sent >= count)?;
        let (late, many) = self.sent[after];
        let Some((early, few)) = after.checked_sub(1).map(|before| self.sent[before]) else { return Some(late) };
        let micros = (late - early).as_micros() * u128::from(count - few) / u128::from(many - few);
        Some(early + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_is_the_distance_between_the_two_counters() {
        let at = Duration::from_millis;
        let mut latencies = Latencies::default();
        assert_eq!(latencies.summary(), None);
        latencies.sent(at(0), 0);
        latencies.sent(at(1_000), 100);
        latencies.sent(at(2_000), 200);
        latencies.visible(at(1_100), 50); // sent at 500
        latencies.visible(at(1_200), 50); // nothing new
        latencies.visible(at(1_800), 150); // sent at 1500
        latencies.visible(at(9_000), 900); // never seen sent
        assert_eq!(latencies.summary(), Some(Latency { median: at(300), p95: at(300) }));
    }
}
