//! How long trades take from socket to row, read off two counters: how many were sent, and how many rows can be read.
//!
//! A trade's latency is the time between the moment the first counter reached its number and the moment the second did: measured from outside,
//! in wall time, as exact as the counters are polled. It says nothing of single trades that overtake each other.

use super::render::Latency;
use std::collections::VecDeque;
use std::time::Duration;

/// Readings kept of the first counter; at ten a second, ten minutes of them.
const READINGS: usize = 6_000;
/// Latencies kept, the newest.
const SAMPLES: usize = 20_000;

/// The two counters over time.
#[derive(Debug)]
pub(super) struct Latencies {
    /// One trade in so many is measured, by its number.
    stride: u64,
    sent: VecDeque<(Duration, u64)>,
    last_visible: u64,
    samples: VecDeque<Duration>,
}

impl Latencies {
    /// Measures one trade in `stride`.
    pub(super) fn new(stride: u64) -> Self {
        Self { stride: stride.max(1), sent: VecDeque::new(), last_visible: 0, samples: VecDeque::new() }
    }

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

    /// `count` rows could be read at `at`: all that were not there before became readable just now.
    pub(super) fn visible(&mut self, at: Duration, count: u64) {
        let first = (self.last_visible / self.stride + 1) * self.stride;
        for number in (first..=count).step_by(usize::try_from(self.stride).unwrap_or(1)) {
            if let Some(sent) = self.sent_at(number) {
                self.samples.push_back(at.saturating_sub(sent));
                if self.samples.len() > SAMPLES {
                    self.samples.pop_front();
                }
            }
        }
        self.last_visible = self.last_visible.max(count);
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
        let after = self.sent.partition_point(|(_, sent)| *sent < count);
        let (late, many) = *self.sent.get(after)?;
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
        let mut latencies = Latencies::new(50);
        assert_eq!(latencies.summary(), None);
        latencies.sent(at(0), 0);
        latencies.sent(at(1_000), 100);
        latencies.sent(at(2_000), 200);
        latencies.visible(at(1_100), 50); // sent at 500
        latencies.visible(at(1_200), 60); // none of the measured ones
        latencies.visible(at(1_800), 150); // 100 was sent at 1000, 150 at 1500
        assert_eq!(latencies.summary(), Some(Latency { median: at(600), p95: at(600) }));
        latencies.visible(at(9_000), 900); // 200 was sent at 2000; more were never seen sent
        assert_eq!(latencies.summary().map(|latency| latency.p95), Some(at(800)));
        assert_eq!(latencies.samples, [at(600), at(800), at(300), at(7_000)]);
    }
}
