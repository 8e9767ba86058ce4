//! Virtual time: where the tape stands, and how fast it moves.
//!
//! The published time never runs ahead of what was queued to the clients: the player sends everything up to an instant, then publishes it.
//! Next: `player.rs`.

use anyhow::bail;
use serde::Serialize;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How fast virtual time runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// So many virtual seconds per second.
    Times(f64),
    /// As fast as the clients read.
    Max,
}

impl FromStr for Speed {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Speed> {
        match (text, text.trim_end_matches(['x', '×']).parse::<f64>()) {
            ("max", _) => Ok(Speed::Max),
            (_, Ok(times)) if times.is_finite() && times > 0.0 => Ok(Speed::Times(times)),
            _ => bail!("speed {text:?} is neither a number above 0 nor \"max\""),
        }
    }
}

/// What `GET /clock` answers.
#[derive(Debug, Clone, Serialize)]
pub struct ClockReading {
    /// Virtual now, UTC microseconds.
    pub now_us: i64,
    /// Whether it moves.
    pub running: bool,
    /// Virtual seconds per second; 0 at `max`, where time moves only with the frames sent and cannot be interpolated.
    pub speed: f64,
    /// Whether the tape and its tail are over.
    pub finished: bool,
}

/// Virtual time.
#[derive(Debug)]
pub struct Clock {
    now_us: AtomicI64,
    finished: AtomicBool,
    pace: Mutex<Pace>,
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    started: bool,
    paused: bool,
    speed: Speed,
    /// Virtual time at `wall`: both move when the pace changes.
    virtual_us: i64,
    wall: Instant,
}

impl Clock {
    /// A clock that stands at `start_us`.
    pub fn new(start_us: i64, speed: Speed) -> Clock {
        let pace = Pace { started: false, paused: false, speed, virtual_us: start_us, wall: Instant::now() };
        Clock { now_us: AtomicI64::new(start_us), finished: AtomicBool::new(false), pace: Mutex::new(pace) }
    }

    /// Virtual now, UTC microseconds.
    pub fn now_us(&self) -> i64 {
        self.now_us.load(Ordering::Acquire)
    }

    /// The answer to `GET /clock`.
    pub fn reading(&self) -> ClockReading {
        let pace = self.pace();
        ClockReading {
            now_us: self.now_us(),
            running: pace.started && !pace.paused,
            speed: match pace.speed {
                Speed::Times(times) => times,
                Speed::Max => 0.0,
            },
            finished: self.finished.load(Ordering::Acquire),
        }
    }

    /// Whether it was started and is not paused.
    pub fn running(&self) -> bool {
        let pace = self.pace();
        pace.started && !pace.paused
    }

    /// Whether it was ever started.
    pub fn started(&self) -> bool {
        self.pace().started
    }

    /// The speed set.
    pub fn speed(&self) -> Speed {
        self.pace().speed
    }

    /// Starts it; a second start changes nothing.
    pub fn start(&self) {
        self.change(|pace| pace.started = true);
    }

    /// Stops it where it is, or lets it go on.
    pub fn pause(&self, paused: bool) {
        self.change(|pace| pace.paused = paused);
    }

    /// Changes the speed from now on.
    pub fn set_speed(&self, speed: Speed) {
        self.change(|pace| pace.speed = speed);
    }

    /// The virtual instant that wall time has reached; at `max` there is none.
    pub(crate) fn target_us(&self) -> Option<i64> {
        let pace = *self.pace();
        match pace.speed {
            Speed::Times(times) => Some(pace.virtual_us.saturating_add(virtual_us(pace.wall.elapsed(), times))),
            Speed::Max => None,
        }
    }

    /// Publishes that everything up to `now_us` was sent.
    pub(crate) fn publish(&self, now_us: i64) {
        self.now_us.fetch_max(now_us, Ordering::AcqRel);
    }

    pub(crate) fn finish(&self) -> bool {
        !self.finished.swap(true, Ordering::AcqRel)
    }

    fn change(&self, change: impl FnOnce(&mut Pace)) {
        let mut pace = self.pace();
        pace.virtual_us = self.now_us();
        pace.wall = Instant::now();
        change(&mut pace);
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stretch of wall time as virtual microseconds.
#[expect(
    clippy::cast_possible_truncation,
    reason = "virtual time of a run fits 64 bits of microseconds; beyond that it saturates"
)]
fn virtual_us(elapsed: Duration, times: f64) -> i64 {
    (elapsed.as_secs_f64() * times * 1e6) as i64
}

/// A duration as microseconds.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stands_until_started_and_then_runs_at_its_speed() {
        let clock = Clock::new(1_000, Speed::Times(1_000.0));
        assert!(!clock.running());
        clock.start();
        std::thread::sleep(Duration::from_millis(20));
        let target = clock.target_us().unwrap();
        assert!(target >= 20_000_000, "{target}");
        clock.publish(target);
        clock.set_speed(Speed::Max);
        assert_eq!((clock.target_us(), clock.now_us()), (None, target));
    }

    #[test]
    fn time_does_not_go_back() {
        let clock = Clock::new(1_000, Speed::Max);
        clock.publish(5_000);
        clock.publish(4_000);
        assert_eq!(clock.now_us(), 5_000);
    }

    #[test]
    fn speeds_are_numbers_or_max() {
        assert_eq!("60x".parse::<Speed>().unwrap(), Speed::Times(60.0));
        assert_eq!("max".parse::<Speed>().unwrap(), Speed::Max);
        assert!("0".parse::<Speed>().is_err() && "fast".parse::<Speed>().is_err());
    }
}
