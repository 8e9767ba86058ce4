//! What a key may spend, over all processes that share it and over their restarts: so many calls in any window, so many a day.
//!
//! A limit of N calls is N **places**. A call takes one when it is sent and gives it back one window after its answer arrived: the venue saw the
//! call before it answered, so it never sees more than N in any window, whatever the network did to their spacing. A call whose answer never
//! comes, because its process died for instance, keeps its place until it must be over: in doubt it counts. The price is the answer's latency
//! on top of each window; an even spacing would need a larger margin and could still not promise anything.
//!
//! Next: `crates/access/src/budget.rs`, which keeps it in a file.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// So many calls in any window of so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimit {
    /// Calls; 0 counts as 1.
    pub calls: u32,
    /// In any stretch of this length.
    pub window: Duration,
}

impl WindowLimit {
    /// Calls a second in the long run.
    pub fn per_second(&self) -> f64 {
        f64::from(self.calls.max(1)) / self.window.as_secs_f64()
    }
}

/// What a venue allows one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All of them hold.
    pub windows: Vec<WindowLimit>,
    /// Calls a day; `None`: no such limit.
    pub per_day: Option<u64>,
    /// A call without an answer is over after this: longer than the caller waits for one.
    pub call_over_after: Duration,
}

impl Limits {
    /// The shortest time in which so many calls can be made, answers that take no time: the first of a window go at once.
    pub fn least_time(&self, calls: u64) -> Duration {
        let of = |limit: &WindowLimit| {
            let windows_before_the_last_call = calls.saturating_sub(1) / u64::from(limit.calls.max(1));
            limit.window.saturating_mul(u32::try_from(windows_before_the_last_call).unwrap_or(u32::MAX))
        };
        self.windows.iter().map(of).max().unwrap_or_default()
    }
}

/// What was spent. Times are since the epoch, so that processes can share it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// For each window of the limits: when each of its places is free, in microseconds.
    places: Vec<Vec<u64>>,
    /// The venue asked for silence until then, in microseconds.
    held_until: u64,
    /// The day that is counted, as `YYYYMMDD`.
    day: u32,
    spent_today: u64,
    /// What a machine that lost power counts as spent: written durably before it is reached.
    reserved_today: u64,
    /// Names the time since the machine started.
    boot: String,
}

/// Leave for one call: its place in each window, and what stands there for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit(Vec<(usize, u64)>);

/// Why there is no leave now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Not before this; a place may become free earlier, when another's answer arrives.
    #[error("no place for {0:?}")]
    Wait(Duration),
    /// Nothing left today.
    #[error("the calls of the day are spent")]
    DaySpent,
}

/// Calls of a day that are written durably at once.
const RESERVED_AT_ONCE: u64 = 256;

impl Budget {
    /// Takes up a budget read from the disk, or a new one, under these limits; done each time it is read. `boot` names the time since the
    /// machine started: after a restart of it what had been reserved counts as spent, and every place as taken a moment ago.
    pub fn resume(mut self, limits: &Limits, boot: &str, now: Duration) -> Self {
        let now = micros(now);
        let latest =
            limits.windows.iter().map(|limit| now + micros(limits.call_over_after) + micros(limit.window)).collect::<Vec<_>>();
        let is_new_boot = !self.boot.is_empty() && self.boot != boot;
        if is_new_boot {
            self.spent_today = self.spent_today.max(self.reserved_today);
        }
        boot.clone_into(&mut self.boot);
        self.places.resize_with(limits.windows.len(), Vec::new);
        for ((places, limit), latest) in self.places.iter_mut().zip(&limits.windows).zip(latest) {
            let wanted = limit.calls.max(1) as usize;
            if places.len() > wanted {
                // Of a limit that was lowered the places that are free last stay.
                places.sort_unstable_by(|a, b| b.cmp(a));
            }
            places.resize(wanted, 0);
            for free_at in places {
                if is_new_boot {
                    *free_at = (*free_at).max(now + micros(limit.window));
                }
                // A clock that was set back does not close the place for ever.
                *free_at = (*free_at).min(latest);
            }
        }
        self.held_until = self.held_until.min(now + micros(HOLD_MAX));
        self
    }

    /// Takes a place in each window, if at least `spare` more are left for others. `day` is the date that the day's limit goes by, as `YYYYMMDD`.
    ///
    /// # Errors
    /// How long to wait, or that the day is spent.
    pub fn take(&mut self, limits: &Limits, now: Duration, day: u32, spare: u32) -> Result<Permit, Denied> {
        let now = micros(now);
        if self.day != day {
            (self.day, self.spent_today, self.reserved_today) = (day, 0, 0);
        }
        if limits.per_day.is_some_and(|most| self.spent_today >= most) {
            return Err(Denied::DaySpent);
        }
        if now < self.held_until {
            return Err(Denied::Wait(Duration::from_micros(self.held_until - now)));
        }
        let mut chosen = Vec::with_capacity(limits.windows.len());
        for (places, limit) in self.places.iter().zip(&limits.windows) {
            // At least one place is left to take, however many are to be spared.
            let spare = (spare as usize).min(places.len().saturating_sub(1));
            let mut free_at: Vec<(u64, usize)> = places.iter().copied().zip(0..).collect();
            free_at.sort_unstable();
            let (needed, _) = free_at[spare];
            if needed > now {
                return Err(Denied::Wait(Duration::from_micros(needed - now)));
            }
            chosen.push((free_at[0].1, now + micros(limits.call_over_after) + micros(limit.window)));
        }
        for (places, (place, free_at)) in self.places.iter_mut().zip(&chosen) {
            places[*place] = *free_at;
        }
        self.spent_today += 1;
        if self.spent_today > self.reserved_today {
            self.reserved_today = self.spent_today + RESERVED_AT_ONCE - 1;
        }
        Ok(Permit(chosen))
    }

    /// The answer has arrived: the places are free one window from now.
    pub fn answered(&mut self, limits: &Limits, permit: &Permit, now: Duration) {
        for ((places, limit), (place, taken)) in self.places.iter_mut().zip(&limits.windows).zip(&permit.0) {
            // A call that outlived its place has none to give back.
            if let Some(free_at) = places.get_mut(*place).filter(|free_at| **free_at == *taken) {
                *free_at = micros(now) + micros(limit.window);
            }
        }
    }

    /// The call never left: its places and its share of the day are free again.
    pub fn unused(&mut self, permit: &Permit) {
        for (places, (place, taken)) in self.places.iter_mut().zip(&permit.0) {
            if let Some(free_at) = places.get_mut(*place).filter(|free_at| **free_at == *taken) {
                *free_at = 0;
            }
        }
        self.spent_today = self.spent_today.saturating_sub(1);
    }

    /// The venue asked for silence: nothing before `wait` has passed.
    pub fn hold(&mut self, wait: Duration, now: Duration) {
        self.held_until = self.held_until.max(micros(now) + micros(wait.min(HOLD_MAX)));
    }

    /// Calls left today.
    pub fn left_today(&self, limits: &Limits, day: u32) -> Option<u64> {
        let spent = if self.day == day { self.spent_today } else { 0 };
        limits.per_day.map(|most| most.saturating_sub(spent))
    }

    /// The day and its count as they must be on the disk before the next call: a change of them is written durably.
    pub fn reserved(&self) -> (u32, u64) {
        (self.day, self.reserved_today)
    }

    /// Calls made on the day last counted.
    pub fn spent_today(&self) -> u64 {
        self.spent_today
    }
}

/// No venue is left alone for longer.
const HOLD_MAX: Duration = Duration::from_secs(600);

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    const DAY: u32 = 20_261_120;

    fn limits(calls: u32, per_day: Option<u64>) -> Limits {
        Limits {
            windows: vec![WindowLimit { calls, window: Duration::from_secs(1) }],
            per_day,
            call_over_after: Duration::from_secs(10),
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(1_800_000_000_000 + ms)
    }

    fn begun(limits: &Limits) -> Budget {
        Budget::default().resume(limits, "boot", ms(0))
    }

    /// Several clients with random latencies share a budget; each now and then dies, which loses its permits, and the budget goes through its
    /// text form. Returns the times at which the venue saw a call.
    fn play(seed: u64, limits: &Limits, until_ms: u64) -> Vec<u64> {
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        let mut budget = begun(limits);
        // (when the answer arrives, its permit); lost ones never do
        let mut under_way: Vec<(u64, Permit)> = Vec::new();
        let mut seen = Vec::new();
        for now in 0..until_ms {
            let (arrived, left) = std::mem::take(&mut under_way).into_iter().partition(|(at, _)| *at <= now);
            under_way = left;
            let arrived: Vec<(u64, Permit)> = arrived;
            for (_, permit) in arrived {
                budget.answered(limits, &permit, ms(now));
            }
            if random.random_bool(0.002) {
                under_way.retain(|_| random.random_bool(0.5));
                let text = serde_json::to_string(&budget).unwrap();
                budget = serde_json::from_str::<Budget>(&text).unwrap().resume(limits, "boot", ms(now));
            }
            while let Ok(permit) = budget.take(limits, ms(now), DAY, 0) {
                let there = random.random_range(0..400);
                seen.push(now + there);
                under_way.push((now + there + random.random_range(0..400), permit));
            }
        }
        seen.sort_unstable();
        seen
    }

    #[test]
    fn the_venue_never_sees_more_than_the_limit_in_any_window_however_calls_are_delayed_and_clients_die() {
        for seed in 0..20 {
            let limits = Limits {
                windows: vec![
                    WindowLimit { calls: 7, window: Duration::from_secs(1) },
                    WindowLimit { calls: 20, window: Duration::from_secs(5) },
                ],
                per_day: None,
                call_over_after: Duration::from_secs(2),
            };
            let seen = play(seed, &limits, 30_000);
            for (calls, window) in [(7, 1_000), (20, 5_000)] {
                let worst = seen.iter().map(|at| seen.iter().filter(|other| (*at..at + window).contains(other)).count()).max();
                assert!(worst <= Some(calls), "seed {seed}: {worst:?} calls within {window} ms");
            }
            assert!(seen.len() > 60, "seed {seed}: only {} calls", seen.len());
        }
    }

    #[test]
    fn full_speed_is_the_limit_less_the_latency() {
        let limits = limits(20, None);
        let mut budget = begun(&limits);
        let (mut now, mut calls) = (0, 0);
        // One answer at a time, each after 2 ms.
        while now < 100_000 {
            match budget.take(&limits, ms(now), DAY, 0) {
                Ok(permit) => {
                    now += 2;
                    calls += 1;
                    budget.answered(&limits, &permit, ms(now));
                }
                Err(Denied::Wait(wait)) => now += u64::try_from(wait.as_millis()).unwrap().max(1),
                Err(Denied::DaySpent) => unreachable!(),
            }
        }
        let least = limits.least_time(calls).as_secs_f64();
        assert!(least > 0.99 * 100.0 * 0.98 && least <= 100.0, "{calls} calls in 100 s could have been made in {least} s");
    }

    #[test]
    fn the_least_time_counts_full_windows() {
        let limits = limits(18, None);
        for (calls, seconds) in [(0, 0), (1, 0), (18, 0), (19, 1), (36, 1), (37, 2), (8_148, 452)] {
            assert_eq!(limits.least_time(calls), Duration::from_secs(seconds), "{calls}");
        }
    }

    #[test]
    fn the_day_is_spent_once_and_what_was_in_doubt_stays_spent() {
        let limits = limits(1_000, Some(300));
        let mut budget = begun(&limits);
        let mut durable = 0;
        for _ in 0..300 {
            let before = budget.reserved();
            budget.take(&limits, ms(0), DAY, 0).unwrap();
            durable += usize::from(budget.reserved() != before);
        }
        assert_eq!(durable, 2, "written durably once in 256 calls");
        assert_eq!(budget.take(&limits, ms(0), DAY, 0), Err(Denied::DaySpent));
        assert_eq!(budget.left_today(&limits, DAY), Some(0));
        assert_eq!(budget.left_today(&limits, DAY + 1), Some(300));
        assert!(budget.take(&limits, ms(0), DAY + 1, 0).is_ok(), "another day");

        let lost_power = Budget::default().resume(&limits, "boot", ms(0));
        let mut lost_power = {
            let mut b = lost_power;
            b.take(&limits, ms(0), DAY, 0).unwrap();
            b
        }
        .resume(&limits, "another boot", ms(1));
        assert_eq!(lost_power.left_today(&limits, DAY), Some(300 - 256), "what was reserved counts as spent");
        assert!(matches!(lost_power.take(&limits, ms(1), DAY, 0), Err(Denied::Wait(_))), "and every place as just taken");
    }

    #[test]
    fn places_can_be_spared_for_others_and_a_call_that_never_left_gives_back() {
        let limits = limits(4, Some(100));
        let mut budget = begun(&limits);
        assert!(budget.take(&limits, ms(0), DAY, 3).is_ok());
        assert!(matches!(budget.take(&limits, ms(0), DAY, 3), Err(Denied::Wait(_))), "three are left for others");
        let permit = budget.take(&limits, ms(0), DAY, 0).unwrap();
        budget.unused(&permit);
        assert_eq!(budget.spent_today(), 1);
        assert!(budget.take(&limits, ms(0), DAY, 100).is_err(), "all but one");
        assert!((0..3).all(|_| budget.take(&limits, ms(0), DAY, 0).is_ok()));
        assert_eq!(budget.take(&limits, ms(0), DAY, 0), Err(Denied::Wait(Duration::from_secs(11))));
    }

    #[test]
    fn silence_is_kept_and_a_clock_set_back_does_not_keep_it_for_ever() {
        let limits = limits(2, None);
        let mut budget = begun(&limits);
        budget.hold(Duration::from_secs(3), ms(0));
        assert_eq!(budget.take(&limits, ms(1_000), DAY, 0), Err(Denied::Wait(Duration::from_secs(2))));
        assert!(budget.take(&limits, ms(3_000), DAY, 0).is_ok());
        let back = ms(0) - Duration::from_secs(86_400);
        let mut budget = budget.resume(&limits, "boot", back);
        let Err(Denied::Wait(wait)) = budget.take(&limits, back, DAY, 0) else { panic!("the places look taken") };
        assert!(wait <= HOLD_MAX, "{wait:?}");
    }

    #[test]
    fn a_lower_limit_holds_at_once() {
        let (wide, narrow) = (limits(10, None), limits(2, None));
        let mut budget = begun(&wide);
        for _ in 0..9 {
            budget.take(&wide, ms(0), DAY, 0).unwrap();
        }
        let mut budget = budget.resume(&narrow, "boot", ms(0));
        assert!(budget.take(&narrow, ms(500), DAY, 0).is_err(), "the free tenth place is gone");
    }
}
