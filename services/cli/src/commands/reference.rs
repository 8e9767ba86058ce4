//! `marketflow reference`: what brokers say of instruments, asked now or as it stands on `market.reference.v1`.
//!
//! The candle-producer asks and compares (`services/producer/src/candles/reference.rs`); the live service does so each trading day by itself.

use super::candle_producer::{self, Wanted};
use super::connection::{self, STALLED_AFTER, with_exit};
use crate::console::{block_on, json, line, say};
use comfy_table::{Table, presets};
use marketflow_contract::topics;
use marketflow_kafka::{Reader, Registry, TopicPartition};
use marketflow_model::{Instrument, Reference, ReferenceKind, Timestamp};
use marketflow_runtime::Exit;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Asks a broker which instruments there are, and what may not be traded
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Only what changed since the last time is published on market.reference.v1: new listings, delistings, halts and their ends, names and flags. The live
candle-producer does so by itself each trading day (reference.at). KIS is asked about the symbols given, two calls each; Kiwoom lists all of KOSPI,
KOSDAQ and the funds. docs/backfill.md has the rules.

Examples:
  marketflow reference refresh --provider kiwoom
  marketflow reference refresh --provider kis --symbols @krx97
  marketflow reference list --halted
  marketflow reference list 005930 000660 --json")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Asks now, and publishes what changed
    Refresh {
        /// Which broker: kis, kiwoom
        #[arg(long, default_value = "kis")]
        provider: String,
        #[command(flatten)]
        wanted: Wanted,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows what was said last of each instrument
    List {
        /// Codes such as 005930; all where none is given
        symbols: Vec<String>,
        /// Of this broker only
        #[arg(long)]
        provider: Option<String>,
        /// Only those in which trading is halted
        #[arg(long)]
        halted: bool,
        /// Only those that are halted, under administration, warned of, or no longer listed
        #[arg(long)]
        flagged: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// An instrument as it is printed.
#[derive(Debug, Serialize)]
struct Printed {
    instrument: String,
    name: Option<String>,
    provider: String,
    /// From when on this holds.
    valid_from: String,
    /// When it is no longer listed.
    valid_to: Option<String>,
    /// Since when trading in it is halted.
    halted_since: Option<String>,
    attributes: BTreeMap<String, String>,
}

/// What is no flag.
const PLAIN: [&str; 4] = ["market", "kind", "isin", "listed_on"];

impl Printed {
    fn flags(&self) -> impl Iterator<Item = String> {
        let flags = self.attributes.iter().filter(|(name, _)| !PLAIN.contains(&name.as_str()));
        flags.map(|(name, value)| if value == "yes" { name.clone() } else { format!("{name}={value}") })
    }

    fn is_flagged(&self) -> bool {
        self.halted_since.is_some() || self.valid_to.is_some() || self.flags().next().is_some()
    }
}

/// Runs the command.
///
/// # Errors
/// 64 for what cannot be asked for, 69 for a part that is not reachable.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    match args.verb {
        Verb::Refresh { provider, wanted, json: as_json } => {
            let left = candle_producer::run("reference", &provider, &wanted, &[], |_| ())?;
            if let Some(seen) = &left.reference {
                if as_json { json(seen)? } else { line(&words(seen)) }
            }
            Ok(left.exit)
        }
        Verb::List { symbols, provider, halted, flagged, json: as_json } => {
            let wanted = |of: &Printed| {
                let is_named = |symbol: &String| of.instrument == *symbol || of.instrument.ends_with(&format!(":{symbol}"));
                (symbols.is_empty() || symbols.iter().any(is_named))
                    && provider.as_ref().is_none_or(|provider| of.provider == *provider)
                    && (!halted || of.halted_since.is_some())
                    && (!flagged || of.is_flagged())
            };
            let mut rows = printed(read()?);
            rows.retain(wanted);
            if as_json {
                json(&rows)?;
            } else {
                line(&table(&rows));
            }
            Ok(Exit::Ok)
        }
    }
}

fn words(seen: &candle_producer::Refreshed) -> String {
    let candle_producer::Refreshed { provider, day, instruments, published, new, delisted, halted, resumed, changed, .. } = seen;
    let mut words = say(
        format!(
            "{day} {provider}: {instruments} instruments, {published} records published: {new} new, {delisted} delisted, {halted} halts begun, \
             {resumed} ended, {changed} changed"
        ),
        format!(
            "{day} {provider}: 종목 {instruments}개, 변경 {published}건 발행: 신규 {new}, 상장폐지 {delisted}, 거래정지 {halted}, 정지해제 {resumed}, \
             변경 {changed}"
        ),
    );
    if seen.unknown > 0 {
        words.push_str(&say(format!("; {} are not known to it", seen.unknown), format!("; 알 수 없는 종목 {}개", seen.unknown)));
    }
    if seen.set_aside > 0 {
        words.push_str(&say(format!("; {} rows set aside", seen.set_aside), format!("; {}행 격리", seen.set_aside)));
    }
    words
}

/// Everything on the topic, the last word on each fact.
fn read() -> anyhow::Result<Vec<Reference>> {
    let kafka = connection::kafka()?;
    let registry = with_exit(Registry::new(&connection::registry()?))?;
    let mut decoder = block_on(async { with_exit(registry.decoder().await) })?;
    let reader = with_exit(Reader::new(&kafka))?;
    let mut last = BTreeMap::new();
    for partition in 0..with_exit(reader.partition_count(topics::REFERENCE))? {
        let of = TopicPartition::new(topics::REFERENCE, partition);
        let oldest = with_exit(reader.range(&of))?.0;
        with_exit(reader.read_to_end(&of, oldest, STALLED_AFTER, |record| {
            if let Ok(fact) = decoder.decode::<Reference>(record.value().unwrap_or_default()) {
                let name = (fact.provider.clone(), fact.instrument.clone(), fact.kind, fact.member.clone(), fact.valid_from);
                last.insert(name, fact);
            }
            ControlFlow::Continue(())
        }))?;
    }
    Ok(last.into_values().collect())
}

/// One row for each instrument and provider; facts come by the time they begin.
fn printed(facts: Vec<Reference>) -> Vec<Printed> {
    let day = |at: Timestamp| jiff::Timestamp::from_microsecond(at.micros()).unwrap_or_default().to_string();
    let mut states: BTreeMap<(Instrument, String), Reference> = BTreeMap::new();
    let mut halts: BTreeMap<(Instrument, String), Timestamp> = BTreeMap::new();
    for fact in facts {
        let whose = (fact.instrument.clone(), fact.provider.clone());
        match fact.kind {
            ReferenceKind::Instrument => _ = states.insert(whose, fact),
            ReferenceKind::Halt if fact.valid_to.is_none() => _ = halts.insert(whose, fact.valid_from),
            ReferenceKind::Halt | ReferenceKind::Unknown | ReferenceKind::EtfConstituent | ReferenceKind::CorporateAction => {}
        }
    }
    let rows = states.into_iter().map(|(whose, fact)| Printed {
        halted_since: halts.get(&whose).copied().map(day),
        instrument: fact.instrument.to_string(),
        name: fact.name,
        provider: fact.provider,
        valid_from: day(fact.valid_from),
        valid_to: fact.valid_to.map(day),
        attributes: fact.attributes.into_iter().collect(),
    });
    rows.collect()
}

fn table(rows: &[Printed]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(say(
        ["instrument", "name", "market", "kind", "flags", "halted since", "listed until", "provider"],
        ["종목", "이름", "시장", "종류", "지정", "거래정지", "상장폐지", "제공"],
    ));
    for row in rows {
        let attribute = |name: &str| row.attributes.get(name).cloned().unwrap_or_default();
        table.add_row([
            row.instrument.clone(),
            row.name.clone().unwrap_or_default(),
            attribute("market"),
            attribute("kind"),
            row.flags().collect::<Vec<_>>().join(" "),
            row.halted_since.clone().unwrap_or_default(),
            row.valid_to.clone().unwrap_or_default(),
            row.provider.clone(),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instrument_is_its_last_state_and_the_halt_that_goes_on() {
        let example: Reference = serde_json::from_str(include_str!("../../../../schemas/examples/reference.v1.json")).unwrap();
        let state = |from: i64, attributes: &[(&str, &str)]| Reference {
            valid_from: Timestamp::from_seconds(from),
            valid_to: None,
            attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..example.clone()
        };
        let halt = |from: i64, to: Option<i64>| Reference {
            kind: ReferenceKind::Halt,
            valid_to: to.map(Timestamp::from_seconds),
            ..state(from, &[])
        };
        let facts = vec![
            state(0, &[("market", "KOSPI")]),
            state(60, &[("administration", "yes"), ("market", "KOSPI"), ("warning", "risk")]),
            halt(0, Some(30)),
            halt(60, None),
        ];
        let rows = printed(facts);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].flags().collect::<Vec<_>>(), ["administration", "warning=risk"]);
        assert_eq!(rows[0].halted_since.as_deref(), Some("1970-01-01T00:01:00Z"));
        assert!(rows[0].is_flagged());
        let plain = printed(vec![state(0, &[("market", "KOSPI"), ("isin", "KR7005930003")]), halt(0, Some(30))]);
        assert!(!plain[0].is_flagged());
    }
}
