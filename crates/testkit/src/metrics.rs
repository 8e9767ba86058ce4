//! The text a `/metrics` page answers, as numbers.

use std::collections::BTreeMap;

/// Samples of one scrape.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Reads Prometheus' text format; lines that are none of it are left out.
    pub fn parse(text: &str) -> Self {
        Self { samples: text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect() }
    }

    /// Sum of the samples of `name` that carry at least these labels; 0 when there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries = |sample: &Sample| labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value));
        self.samples.iter().filter(|s| s.name == name && carries(s)).map(|s| s.value).sum()
    }

    /// Sums of the samples of `name` by the values of one label.
    pub fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.samples.iter().filter(|s| s.name == name) {
            *sums.entry(sample.labels.get(label).cloned().unwrap_or_default()).or_default() += sample.value;
        }
        sums
    }
}

/// `name{label="value",…} number [time]`.
fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, quoted) = rest.split_once("=\"")?;
            let (value, after) = unquote(quoted)?;
            labels.insert(label.to_owned(), value);
            rest = after;
        }
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_label() {
        let text = "# HELP marketflow_trades_total trades\n# TYPE marketflow_trades_total counter\n\
            marketflow_trades_total{outcome=\"used\",partition=\"0\"} 12\n\
            marketflow_trades_total{outcome=\"used\",partition=\"1\"} 30 1700000000\n\
            marketflow_trades_total{outcome=\"late\",partition=\"1\"} 1\n\
            marketflow_reason_total{reason=\"a \\\"b\\\", c}\\n\"} 2e3\n\
            up 1\n\nnot a sample\n";
        let metrics = Metrics::parse(text);
        let check = |name: &str, labels: &[(&str, &str)], expected: f64| {
            assert!((metrics.sum(name, labels) - expected).abs() < 1e-9, "{name} {labels:?}");
        };
        check("marketflow_trades_total", &[], 43.0);
        check("marketflow_trades_total", &[("outcome", "used")], 42.0);
        check("marketflow_trades_total", &[("outcome", "used"), ("partition", "1")], 30.0);
        check("marketflow_trades_total", &[("outcome", "lost")], 0.0);
        check("marketflow_reason_total", &[("reason", "a \"b\", c}\n")], 2000.0);
        check("up", &[], 1.0);
        assert_eq!(metrics.by("marketflow_trades_total", "outcome").into_keys().collect::<Vec<_>>(), ["late", "used"]);
    }
}
