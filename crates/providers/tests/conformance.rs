//! One suite over every provider in [`ALL`]: fixtures give the expected events, every offered feed has a fixture, and whatever is cut out of or
//! written over a frame or an answer gives an event or an error, never a panic and never a record that was not sent.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on fails its test")]

use marketflow_model::{Instrument, Timestamp};
use marketflow_providers::{ALL, Connection, Cursor, Event, Frame, Moment, Provider, RestAnswer, RestRequest, Secret, Timing};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::time::Duration;

const START_SECONDS: i64 = 1_700_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    feed: String,
    #[serde(rename = "about")]
    _about: String,
    instruments: Vec<Instrument>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    #[serde(default)]
    open: bool,
    frame: Option<Box<RawValue>>,
    text: Option<String>,
    advance_seconds: Option<u64>,
    unsubscribe: Option<Vec<Instrument>>,
    rest: Option<RestStep>,
    /// Each expected event names the keys it cares about.
    events: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RestStep {
    cursor: CursorStep,
    now_seconds: i64,
    request: String,
    status: u16,
    body: Box<RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CursorStep {
    after: Option<i64>,
    before: Option<i64>,
    from: i64,
}

fn fixtures(provider: &Provider) -> Vec<(String, Fixture)> {
    let folder = format!("{}/src/{}/fixtures", env!("CARGO_MANIFEST_DIR"), provider.id);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let fixture = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path.display().to_string(), fixture)
        })
        .collect()
}

fn moment(seconds: u64) -> Moment {
    let venue = Timestamp::from_seconds(START_SECONDS + i64::try_from(seconds).unwrap());
    Moment { venue, received: venue, monotonic: Duration::from_secs(seconds) }
}

/// Plays a fixture; calls back with each step's events.
fn play(provider: &Provider, fixture: &Fixture, mut check: impl FnMut(usize, &Step, Vec<Value>)) {
    let mut connection = (provider.connection)(fixture.instruments.clone(), Timing::USUAL, &Secret::new("the-key"));
    let mut seconds = 0;
    for (index, step) in fixture.steps.iter().enumerate() {
        let mut out = Vec::new();
        if step.open {
            connection.on_open(moment(seconds), &mut out);
        }
        if let Some(frame) = &step.frame {
            connection.on_frame(Frame::Text(frame.get()), moment(seconds), &mut out);
        }
        if let Some(text) = &step.text {
            connection.on_frame(Frame::Text(text), moment(seconds), &mut out);
        }
        if let Some(advance) = step.advance_seconds {
            seconds += advance;
            connection.on_timer(moment(seconds), &mut out);
        }
        if let Some(instruments) = &step.unsubscribe {
            connection.unsubscribe(instruments, moment(seconds), &mut out);
        }
        let mut values: Vec<Value> = out.iter().map(|event| serde_json::to_value(event).unwrap()).collect();
        if let Some(rest) = &step.rest {
            let (request, page) = ask(provider, &fixture.instruments[0], rest, rest.body.get().as_bytes());
            assert_eq!(request.path_and_query, rest.request);
            let page = page.unwrap();
            assert_eq!((page.malformed.len(), page.next, page.reaches_from), (0, None, None));
            values.extend(page.trades.iter().map(|trade| serde_json::to_value(trade).unwrap()));
        }
        check(index, step, values);
    }
}

fn ask(
    provider: &Provider,
    instrument: &Instrument,
    rest: &RestStep,
    body: &[u8],
) -> (RestRequest, Result<marketflow_providers::Page, marketflow_providers::RestError>) {
    let now = Timestamp::from_seconds(START_SECONDS + rest.now_seconds);
    let cursor = Cursor {
        after: rest.cursor.after,
        before: rest.cursor.before,
        from: Timestamp::from_micros(rest.cursor.from),
        widened: 0,
    };
    let asked = provider.rest.unwrap();
    let request = asked.request(instrument, &cursor, now);
    let answer = RestAnswer { status: rest.status, retry_after: None, body };
    let page = asked.page(instrument, &cursor, &request, answer, now);
    (request, page)
}

fn matches(expected: &Value, actual: &Value) -> bool {
    let (Value::Object(expected), Value::Object(actual)) = (expected, actual) else { return false };
    expected.iter().all(|(key, value)| actual.get(key) == Some(value))
}

#[test]
fn fixtures_give_the_expected_events() {
    for provider in ALL {
        for (name, fixture) in fixtures(provider) {
            assert!(fixture.instruments.iter().all(|i| (provider.accepts)(i)), "{name}");
            play(provider, &fixture, |index, step, actual| {
                let same = step.events.len() == actual.len() && step.events.iter().zip(&actual).all(|(e, a)| matches(e, a));
                assert!(same, "{name} step {index}\nexpected {:#?}\nactual {actual:#?}", step.events);
            });
        }
    }
}

#[test]
fn every_offered_feed_has_a_fixture() {
    for provider in ALL {
        let offered: BTreeSet<String> =
            provider.feeds.iter().map(|kind| serde_json::to_value(kind).unwrap().as_str().unwrap().to_owned()).collect();
        let tested: BTreeSet<String> = fixtures(provider).into_iter().map(|(_, fixture)| fixture.feed).collect();
        assert_eq!(offered, tested, "{}", provider.id);
    }
}

/// A small deterministic generator: the seed is the test's, so a failure repeats.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }
}

/// Every cut of the text and some thousand seeded edits of it.
fn mangled(text: &str, seeded: &mut Seeded) -> Vec<String> {
    const PIECES: [&str; 16] = [
        "",
        "null",
        "{",
        "}",
        "[]",
        "\"",
        "-1",
        "1e999",
        "9999999999999999999999",
        "\\u0000",
        "NaN",
        "é",
        ":",
        ",",
        "0x1",
        "\u{0}",
    ];
    let bounds: Vec<usize> = (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect();
    let mut all: Vec<String> = bounds.iter().map(|at| text[..*at].to_owned()).collect();
    for _ in 0..400 {
        let (a, b) = (bounds[seeded.below(bounds.len())], bounds[seeded.below(bounds.len())]);
        let (start, end) = (a.min(b), a.max(b).min(a.min(b) + 12));
        let end = bounds.iter().copied().rfind(|at| *at <= end).unwrap();
        all.push(format!("{}{}{}", &text[..start], PIECES[seeded.below(PIECES.len())], &text[end.max(start)..]));
    }
    all
}

fn opened(provider: &Provider, fixture: &Fixture) -> Box<dyn Connection> {
    let mut connection = (provider.connection)(fixture.instruments.clone(), Timing::USUAL, &Secret::new("the-key"));
    connection.on_open(moment(0), &mut Vec::new());
    connection
}

#[test]
fn mangled_frames_are_events_and_never_a_panic() {
    let mut seeded = Seeded(0x5eed);
    for provider in ALL {
        for (name, fixture) in fixtures(provider) {
            let mut connection = opened(provider, &fixture);
            for step in &fixture.steps {
                let Some(text) = step.frame.as_ref().map(|frame| frame.get()).or(step.text.as_deref()) else { continue };
                let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
                for mangled in mangled(text, &mut seeded) {
                    let mut out = Vec::new();
                    connection.on_frame(Frame::Text(&mangled), moment(1), &mut out);
                    let said_why = !out.is_empty() || mangled.contains("econnect") || mangled.contains("hutdown");
                    assert!(said_why, "{name}: silently swallowed {mangled}");
                    if is_json && serde_json::from_str::<serde::de::IgnoredAny>(&mangled).is_err() {
                        let refused = out.iter().all(|event| matches!(event, Event::Malformed { .. }));
                        assert!(refused, "{name}: no JSON, yet {out:?} from {mangled}");
                    }
                }
            }
        }
    }
}

#[test]
fn binary_and_oversized_frames_are_refused_unread() {
    for provider in ALL {
        let (_, fixture) = fixtures(provider).remove(0);
        let mut connection = opened(provider, &fixture);
        let huge = "x".repeat(provider.limits.frame_bytes_max + 1);
        for frame in [Frame::Binary(&[0, 159, 146, 150]), Frame::Text(&huge)] {
            let mut out = Vec::new();
            connection.on_frame(frame, moment(1), &mut out);
            assert!(matches!(&out[..], [Event::Malformed { .. }]), "{}: {out:?}", provider.id);
        }
    }
}

#[test]
fn mangled_answers_are_errors_and_never_a_panic() {
    let mut seeded = Seeded(0xbadd);
    for provider in ALL {
        for (name, fixture) in fixtures(provider) {
            for rest in fixture.steps.iter().filter_map(|step| step.rest.as_ref()) {
                for mangled in mangled(rest.body.get(), &mut seeded) {
                    let (_, page) = ask(provider, &fixture.instruments[0], rest, mangled.as_bytes());
                    if serde_json::from_str::<serde::de::IgnoredAny>(&mangled).is_err() {
                        assert!(page.is_err(), "{name}: no JSON, yet {page:?} from {mangled}");
                    }
                }
            }
        }
    }
}
