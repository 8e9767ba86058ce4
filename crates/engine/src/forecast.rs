//! What a market's net flow may be in the months to come: simple exponential smoothing with an interval, and how it would have done before.
//!
//! Smoothing has one parameter and is a dozen lines; a crate for it would bring an optimiser and a linear algebra along. It says where the level of a
//! noisy series lies, not what will happen: so each forecast comes with its back-test against the naive one, that each month will be as the last.
//!
//! Formulas: `docs/methodology/fund-flows.md`. Next: `services/cli/src/commands/flows/forecast.rs`.

use marketflow_model::Month;
use serde::Serialize;
use statrs::distribution::{ContinuousCDF, Normal};
use std::collections::BTreeMap;

/// Months that have to be known before one is forecast.
pub const MONTHS_AT_LEAST: usize = 24;
/// What share of months the interval should hold.
const INTERVAL: f64 = 0.95;
/// Months of which the first level is the mean.
const FIRST_LEVEL: usize = 6;

/// A forecast of one series.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Forecast {
    /// The last month it knows.
    pub after: Month,
    /// How many months in a row it knows.
    pub known: usize,
    /// Weight of the newest month, 0–1: 0 = all months count the same for ever, 1 = only the last one counts.
    pub alpha: f64,
    /// The months to come.
    pub ahead: Vec<Ahead>,
}

/// One month to come.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Ahead {
    /// Which.
    pub month: Month,
    /// Expected.
    pub value: f64,
    /// Lower edge of the interval.
    pub low: f64,
    /// Upper edge.
    pub high: f64,
    /// How forecasts so many months ahead did; `None` where there was nothing to test them on.
    pub tested: Option<Tested>,
}

/// Forecasts made at every earlier month, from what was known then, held against what came.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Tested {
    /// How many.
    pub forecasts: usize,
    /// Mean absolute error.
    pub mae: f64,
    /// That of the naive forecasts.
    pub naive_mae: f64,
    /// The one divided by the other: below 1 is better than naive; `None` where the naive ones made no error.
    pub mase: Option<f64>,
    /// Share of months that the interval held, 0–1.
    pub coverage: f64,
}

impl Tested {
    /// Whether it is worth more than to say "as the last month".
    pub fn beats_naive(&self) -> bool {
        self.mase.is_some_and(|mase| mase < 1.0)
    }
}

/// Forecasts so many months from net flows and whether each is stale. Stale months at the end are not complete and are left out; of the rest the
/// last ones without a hole between them count. `None` where they are fewer than 24.
pub fn forecast(months: &BTreeMap<Month, (f64, bool)>, ahead: usize) -> Option<Forecast> {
    let mut newest_first = months.iter().rev().skip_while(|(_, (_, stale))| *stale);
    let (after, (last, _)) = newest_first.next()?;
    let mut values = vec![*last];
    for ((month, (value, _)), back) in newest_first.zip(1..) {
        if month.plus(back) != *after {
            break;
        }
        values.push(*value);
    }
    values.reverse();
    if values.len() < MONTHS_AT_LEAST {
        return None;
    }
    let tested = back_test(&values, ahead);
    let fitted = Smoothing::fit(&values);
    let ahead = (1..=ahead).zip(tested).map(|(steps, tested)| {
        let (low, high) = fitted.interval(steps);
        let month = after.plus(i32::try_from(steps).unwrap_or(i32::MAX));
        Ahead { month, value: fitted.level, low, high, tested }
    });
    Some(Forecast { after: *after, known: values.len(), alpha: fitted.alpha, ahead: ahead.collect() })
}

/// By months ahead.
fn back_test(values: &[f64], ahead: usize) -> Vec<Option<Tested>> {
    let mut errors: Vec<Vec<(f64, f64, bool)>> = vec![Vec::new(); ahead];
    for origin in MONTHS_AT_LEAST..values.len() {
        let (known, coming) = values.split_at(origin);
        let fitted = Smoothing::fit(known);
        let naive = known[origin - 1];
        for ((steps, errors), came) in (1..).zip(&mut errors).zip(coming) {
            let (low, high) = fitted.interval(steps);
            errors.push(((came - fitted.level).abs(), (came - naive).abs(), (low..=high).contains(came)));
        }
    }
    let tested = |errors: &Vec<(f64, f64, bool)>| {
        let n = errors.len() as f64;
        let mae = errors.iter().map(|(error, ..)| error).sum::<f64>() / n;
        let naive_mae = errors.iter().map(|(_, naive, _)| naive).sum::<f64>() / n;
        let held = errors.iter().filter(|(.., held)| *held).count() as f64;
        let mase = (naive_mae > 0.0).then(|| mae / naive_mae);
        (!errors.is_empty()).then_some(Tested { forecasts: errors.len(), mae, naive_mae, mase, coverage: held / n })
    };
    errors.iter().map(tested).collect()
}

/// Simple exponential smoothing: level ← level + alpha × (value − level); every month to come is expected at the level.
struct Smoothing {
    alpha: f64,
    level: f64,
    /// Standard deviation of the errors one month ahead.
    deviation: f64,
}

impl Smoothing {
    /// The weight, in hundredths, whose forecasts one month ahead have the least squared error.
    fn fit(values: &[f64]) -> Self {
        let first = values.iter().take(FIRST_LEVEL).sum::<f64>() / FIRST_LEVEL.min(values.len()) as f64;
        let run = |alpha: f64| {
            let (mut level, mut squares) = (first, 0.0);
            for value in values {
                let error = value - level;
                squares += error * error;
                level += alpha * error;
            }
            (squares, level)
        };
        let runs = (0..=100).map(|hundredths| f64::from(hundredths) / 100.0).map(|alpha| (alpha, run(alpha)));
        let best = runs.min_by(|(_, (a, _)), (_, (b, _))| a.total_cmp(b));
        let (alpha, (squares, level)) = best.unwrap_or((0.0, (0.0, first)));
        // the weight and the first level are taken from the same values
        let freedom = values.len().saturating_sub(2).max(1) as f64;
        Self { alpha, level, deviation: (squares / freedom).sqrt() }
    }

    /// Edges of the interval so many months ahead: the error grows by alpha² of a month's variance with each further month.
    fn interval(&self, steps: usize) -> (f64, f64) {
        let variance_ratio = 1.0 + (steps.saturating_sub(1)) as f64 * self.alpha * self.alpha;
        let wide = Normal::standard().inverse_cdf((1.0 + INTERVAL) / 2.0) * self.deviation * variance_ratio.sqrt();
        (self.level - wide, self.level + wide)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn months(values: impl IntoIterator<Item = f64>) -> BTreeMap<Month, (f64, bool)> {
        let first: Month = "2010-01".parse().unwrap();
        (0..).zip(values).map(|(at, value)| (first.plus(at), (value, false))).collect()
    }

    /// About normal: twelve uniform numbers.
    fn noise(random: &mut ChaCha8Rng) -> f64 {
        (0..12).map(|_| random.random_range(0.0..1.0)).sum::<f64>() - 6.0
    }

    fn tested(forecast: &Forecast, steps: usize) -> Tested {
        forecast.ahead[steps - 1].tested.unwrap()
    }

    #[test]
    fn noise_around_a_level_is_forecast_at_the_level_better_than_naive_and_held_by_the_interval() {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let found = forecast(&months((0..240).map(|_| 50.0 + 10.0 * noise(&mut random))), 6).unwrap();
        assert!(found.alpha <= 0.1 && (found.ahead[0].value - 50.0).abs() < 3.0, "{found:?}");
        for steps in [1, 3, 6] {
            let Tested { mase, coverage, forecasts, mae, naive_mae } = tested(&found, steps);
            // of normal numbers: mean distance to the mean against mean distance of two of them is 1 / √2
            assert!((0.6..0.85).contains(&mase.unwrap()) && (0.9..=0.99).contains(&coverage), "{found:?}");
            assert_eq!(forecasts, 240 - MONTHS_AT_LEAST + 1 - steps);
            assert!((mae / naive_mae - mase.unwrap()).abs() < 1e-12 && tested(&found, steps).beats_naive());
        }
        let width = found.ahead[0].high - found.ahead[0].low;
        assert!((width - 2.0 * 1.96 * 10.0).abs() < 5.0, "{width}");
        assert_eq!(found.ahead.iter().map(|ahead| ahead.month.to_string()).collect::<Vec<_>>()[..2], ["2030-01", "2030-02"]);
    }

    #[test]
    fn a_random_walk_is_no_better_forecast_than_by_its_last_value_and_its_interval_widens() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut level = 0.0;
        let walk = (0..240).map(|_| {
            level += noise(&mut random);
            level
        });
        let found = forecast(&months(walk.collect::<Vec<_>>()), 6).unwrap();
        assert!(found.alpha >= 0.9, "{}", found.alpha);
        let one = tested(&found, 1);
        assert!((0.95..1.1).contains(&one.mase.unwrap()) && (0.88..=1.0).contains(&one.coverage), "{one:?}");
        let width = |steps: usize| found.ahead[steps - 1].high - found.ahead[steps - 1].low;
        assert!(width(6) > 2.0 * width(1), "{} {}", width(6), width(1));
    }

    #[test]
    fn only_what_is_known_then_is_used_so_a_later_jump_changes_no_earlier_error() {
        let still = forecast(&months([7.0; 60]), 3).unwrap();
        let never = Tested { forecasts: 36, mae: 0.0, naive_mae: 0.0, mase: None, coverage: 1.0 };
        assert_eq!((still.ahead[0].value, tested(&still, 1)), (7.0, never));
        assert!(!never.beats_naive(), "nothing is better than no error");
        let jumped = forecast(&months((0..60).map(|at| if at == 59 { 1_007.0 } else { 7.0 })), 3).unwrap();
        let one = tested(&jumped, 1);
        assert!((one.mae - 1_000.0 / 36.0).abs() < 1e-9 && (one.coverage - 35.0 / 36.0).abs() < 1e-9, "{one:?}");
    }

    #[test]
    fn holes_cut_history_and_incomplete_months_at_the_end_are_left_out() {
        let mut known = months((0..60).map(f64::from));
        let month = |text: &str| text.parse::<Month>().unwrap();
        known.remove(&month("2011-12"));
        for (at, (_, stale)) in known.values_mut().enumerate() {
            *stale = at >= 57 || at == 40;
        }
        let found = forecast(&known, 1).unwrap();
        assert_eq!((found.after, found.known, found.ahead[0].month), (month("2014-10"), 34, month("2014-11")));
        assert_eq!(forecast(&months([1.0; MONTHS_AT_LEAST - 1]), 1), None, "too few");
        assert!(forecast(&months([1.0; MONTHS_AT_LEAST]), 1).unwrap().ahead[0].tested.is_none(), "nothing to test on");
        assert_eq!(forecast(&BTreeMap::new(), 1), None);
    }
}
