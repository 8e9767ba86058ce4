//! Counters read off `/metrics`, kept rising over restarts of the part that counts.

use std::collections::BTreeMap;

/// Sum of the samples of `name` that carry this label, or of all when `label` is `None`, in Prometheus' text format.
pub(super) fn sum(text: &str, name: &str, label: Option<(&str, &str)>) -> u64 {
    samples(text, name, label).map(whole).sum()
}

/// The samples of `name` that carry this label, or all when `label` is `None`, in Prometheus' text format.
pub(super) fn samples<'a>(text: &'a str, name: &'a str, label: Option<(&str, &str)>) -> impl Iterator<Item = f64> + use<'a> {
    let wanted = label.map(|(key, value)| format!("{key}=\"{value}\""));
    let samples = text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(inside) => inside.split_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        wanted.as_ref().is_none_or(|wanted| labels.split(',').any(|label| label == wanted)).then_some(value)
    });
    samples.filter_map(|value| value.split_whitespace().next()?.parse().ok())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counters are whole and not negative; the cast saturates"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

/// Counters that go on from where they were when the part that counts starts anew at 0.
#[derive(Debug, Default)]
pub(super) struct Rising(BTreeMap<&'static str, (u64, u64)>);

impl Rising {
    /// Takes a reading and returns the count since the beginning. What was counted between the last reading and the restart is lost.
    pub(super) fn take(&mut self, name: &'static str, reading: u64) -> u64 {
        let (before, last) = self.0.entry(name).or_default();
        if reading < *last {
            *before += *last;
        }
        *last = reading;
        *before + reading
    }

    /// The count as last read.
    pub(super) fn last(&self, name: &str) -> u64 {
        self.0.get(name).map_or(0, |(before, last)| before + last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_label() {
        let text = "# TYPE trades_total counter\ntrades_total{outcome=\"used\",partition=\"0\"} 12\ntrades_total{outcome=\"used\",partition=\"1\"} 3e1\n\
                    trades_total{outcome=\"late\",partition=\"1\"} 1\ntrades_total_more 7\nup 1\n";
        assert_eq!(sum(text, "trades_total", Some(("outcome", "used"))), 42);
        assert_eq!(sum(text, "trades_total", None), 43);
        assert_eq!(sum(text, "up", None), 1);
        assert_eq!(sum(text, "down", None), 0);
    }

    #[test]
    fn a_restart_of_the_counting_part_loses_nothing_that_was_read() {
        let mut rising = Rising::default();
        assert_eq!(
            [rising.take("used", 5), rising.take("used", 9), rising.take("used", 2), rising.take("used", 4)],
            [5, 9, 11, 13]
        );
        assert_eq!((rising.last("used"), rising.last("late")), (13, 0));
    }
}
