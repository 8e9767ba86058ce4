//! `marketflow dlq`: records set aside, looked at and decided about: redriven to their origin, or discarded.
//!
//! Nothing is deleted: a decision is one more envelope, on the topic of dead letters. A redriven record and its decision are written in one
//! transaction, under an id that one run at a time can hold, after all earlier decisions were read. So a record is redriven once, whatever ends the
//! program and whoever else runs it.

use super::connection::{self, STALLED_AFTER, with_exit};
use crate::console::{block_on, json, line, say};
use anyhow::{Context, anyhow, bail};
use comfy_table::{Table, presets};
use marketflow_contract::{Schema, encode_value, headers, topics};
use marketflow_kafka::{
    Decoder, KafkaConfig, Outgoing, Reader, Record, Registry, TopicPartition, TransactionSettings, TransactionalProducer,
};
use marketflow_model::{Envelope, EnvelopeClass, Timestamp};
use marketflow_runtime::{Exit, ExitContext};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// A later run with this id ends an earlier one.
const TRANSACTIONAL_ID: &str = "marketflow-dlq";
/// Few enough for one transaction's time.
const PER_TRANSACTION: usize = 1_000;
const TOPICS: [&str; 3] = [topics::LATE, topics::QUARANTINE, topics::DEAD_LETTERS];

/// Lists records set aside, shows one, writes them to their origin again, or discards them
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
A record set aside is named by where its envelope stands: market.quarantine.v1/0/17.

Examples:
  marketflow dlq list --consumer sink --class undecodable
  marketflow dlq show market.dead-letters.v1/2/15
  marketflow dlq redrive market.dead-letters.v1/2/15 --reason 'schema 12 is registered now'
  marketflow dlq redrive --all --consumer processor --class undecodable --dry-run
  marketflow dlq discard market.quarantine.v1/0/17 --reason 'the venue withdrew it'

The consumer that set a record aside reads it again, and no other does. What it refuses again is set aside again.")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Lists records set aside, newest last
    #[command(after_long_help = "\
Examples:
  marketflow dlq list
  marketflow dlq list --topic market.trades.v1 --decided --json")]
    List {
        #[command(flatten)]
        filter: Filter,
        /// Also those that were redriven or discarded
        #[arg(long)]
        decided: bool,
        /// At most so many, the newest
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows one record set aside, decoded where that is possible
    #[command(after_long_help = "\
Examples:
  marketflow dlq show market.dead-letters.v1/2/15
  marketflow dlq show market.late.v1/0/3 --json")]
    Show {
        /// Where its envelope stands
        #[arg(value_name = "TOPIC/PARTITION/OFFSET")]
        place: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Writes records to their origin again, for the consumer that set them aside
    #[command(after_long_help = "\
Each is redriven at most once; one that is set aside again is a new one in the list.

Examples:
  marketflow dlq redrive market.dead-letters.v1/2/15
  marketflow dlq redrive --all --consumer sink --class refused --reason 'the constraint was dropped'")]
    Redrive(Decide),
    /// Records that a record stays set aside; nothing is deleted
    #[command(after_long_help = "\
Examples:
  marketflow dlq discard market.quarantine.v1/0/17 --reason 'the venue withdrew it'
  marketflow dlq discard --all --class late --reason 'before the fix of 3 March'")]
    Discard(Decide),
}

#[derive(clap::Args, Debug)]
struct Filter {
    /// Only what this consumer set aside, such as processor or sink
    #[arg(long)]
    consumer: Option<String>,
    /// Only this kind: late, quarantine, undecodable or refused
    #[arg(long, value_parser = class)]
    class: Option<EnvelopeClass>,
    /// Only from this topic
    #[arg(long)]
    topic: Option<String>,
}

#[derive(clap::Args, Debug)]
struct Decide {
    /// Where their envelopes stand
    #[arg(value_name = "TOPIC/PARTITION/OFFSET", required_unless_present = "all", conflicts_with = "all")]
    places: Vec<String>,
    /// Every one that is not decided yet and fits
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Why, for those who look later
    #[arg(long, default_value = "")]
    reason: String,
    /// Say which it would be, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

fn class(text: &str) -> Result<EnvelopeClass, String> {
    let class = serde_json::from_value(Value::from(text)).unwrap_or_default();
    if class == EnvelopeClass::Unknown || EnvelopeClass::is_decision(class) {
        return Err("late, quarantine, undecodable or refused".to_owned());
    }
    Ok(class)
}

/// Runs the command.
///
/// # Errors
/// 1 for a record that is not there or was decided already, 69 when Kafka or the registry does not answer.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let kafka = connection::kafka()?;
    let registry = with_exit(Registry::new(&connection::registry()?))?;
    let ids = block_on(async { with_exit(registry.ids().await) })?;
    let schema_id = ids.id(topics::DEAD_LETTERS, Schema::Envelope).context("dead letters have a schema")?;
    let mut desk = Desk { kafka, decoder: Decoder::new(registry, &ids), schema_id };
    match args.verb {
        Verb::List { filter, decided, limit, json } => desk.list(&filter, decided, limit, json)?,
        Verb::Show { place, json } => desk.show(&place, json)?,
        Verb::Redrive(what) => desk.decide(EnvelopeClass::Redriven, &what)?,
        Verb::Discard(what) if what.reason.is_empty() => {
            return Err(anyhow!(say("say why, with --reason", "이유를 --reason 으로 적어 주세요"))).exit(Exit::Usage);
        }
        Verb::Discard(what) => desk.decide(EnvelopeClass::Discarded, &what)?,
    }
    Ok(Exit::Ok)
}

/// One record set aside.
struct Letter {
    /// Where its envelope stands.
    place: String,
    set_aside: Timestamp,
    envelope: Envelope,
    decision: Option<Decision>,
}

/// What was decided about it.
#[derive(Serialize)]
struct Decision {
    decision: EnvelopeClass,
    reason: String,
    by: String,
    time: String,
}

/// A letter as JSON.
#[derive(Serialize)]
struct Printed<'a> {
    place: &'a str,
    set_aside: String,
    consumer: &'a str,
    class: EnvelopeClass,
    reason: &'a str,
    origin_topic: &'a str,
    origin_partition: i32,
    origin_offset: i64,
    key: Option<String>,
    schema_id: Option<i32>,
    value: String,
    headers: Vec<(&'a str, String)>,
    decision: &'a Option<Decision>,
}

impl Letter {
    fn has_origin(&self) -> bool {
        self.envelope.origin_offset >= 0
    }

    /// Where it was set aside first: a record that was redriven and set aside again names that place.
    fn first_place(&self) -> String {
        header(&self.envelope, headers::REDRIVE_OF).unwrap_or_else(|| self.place.clone())
    }

    fn printed(&self) -> Printed<'_> {
        let Self { place, set_aside, envelope, decision } = self;
        Printed {
            place,
            set_aside: set_aside.to_string(),
            consumer: &envelope.consumer,
            class: envelope.class,
            reason: &envelope.reason,
            origin_topic: &envelope.origin_topic,
            origin_partition: envelope.origin_partition,
            origin_offset: envelope.origin_offset,
            key: envelope.key.as_deref().map(text_or_hex),
            schema_id: envelope.schema_id,
            value: hex::encode(&envelope.value),
            headers: envelope.headers.iter().map(|(name, value)| (name.as_str(), text_or_hex(value))).collect(),
            decision,
        }
    }
}

impl Filter {
    fn fits(&self, letter: &Letter) -> bool {
        let Envelope { consumer, class, origin_topic, .. } = &letter.envelope;
        self.consumer.as_ref().is_none_or(|wanted| wanted == consumer)
            && self.class.is_none_or(|wanted| wanted == *class)
            && self.topic.as_ref().is_none_or(|wanted| wanted == origin_topic)
    }
}

struct Desk {
    kafka: KafkaConfig,
    decoder: Decoder,
    /// Of an envelope on the topic of dead letters.
    schema_id: u32,
}

impl Desk {
    /// Everything set aside with what was decided, oldest first. One that was said twice, as after a crash, counts once.
    fn read(&mut self) -> anyhow::Result<Vec<Letter>> {
        let reader = with_exit(Reader::new(&self.kafka))?;
        let mut letters: BTreeMap<(String, String, i32, i64), Letter> = BTreeMap::new();
        let mut decisions = BTreeMap::new();
        for topic in TOPICS {
            for partition in 0..with_exit(reader.partition_count(topic))? {
                let of = TopicPartition::new(topic, partition);
                let take = |record: Record<'_>| {
                    let envelope = self.decoder.decode::<Envelope>(record.value().unwrap_or_default());
                    let envelope = envelope.with_context(|| format!("{of} at {} is no envelope", record.offset()))?;
                    let time = record.timestamp().unwrap_or_default();
                    let place = topics::origin_key(topic, partition, record.offset());
                    if envelope.class.is_decision() {
                        let decision = Decision {
                            decision: envelope.class,
                            by: header(&envelope, headers::DECIDED_BY).unwrap_or_default(),
                            time: time.to_string(),
                            reason: envelope.reason.clone(),
                        };
                        decisions.entry(header(&envelope, headers::SET_ASIDE_AT).unwrap_or_default()).or_insert(decision);
                    } else {
                        let Envelope { consumer, origin_topic, origin_partition, origin_offset, .. } = &envelope;
                        let identity = match *origin_offset {
                            // it never stood anywhere else
                            ..0 => (consumer.clone(), topic.to_owned(), partition, record.offset()),
                            offset => (consumer.clone(), origin_topic.clone(), *origin_partition, offset),
                        };
                        letters.entry(identity).or_insert(Letter { place, set_aside: time, envelope, decision: None });
                    }
                    Ok::<_, anyhow::Error>(ControlFlow::Continue(()))
                };
                with_exit(reader.try_read_to_end(&of, 0, STALLED_AFTER, take))??;
            }
        }
        let mut letters: Vec<Letter> = letters.into_values().collect();
        for letter in &mut letters {
            letter.decision = decisions.remove(&letter.place);
        }
        letters.sort_by(|a, b| (a.set_aside, &a.place).cmp(&(b.set_aside, &b.place)));
        Ok(letters)
    }

    fn list(&mut self, filter: &Filter, decided: bool, limit: usize, as_json: bool) -> anyhow::Result<()> {
        let mut letters = self.read()?;
        letters.retain(|letter| filter.fits(letter) && (decided || letter.decision.is_none()));
        let shown = letters.split_off(letters.len().saturating_sub(limit));
        if as_json {
            return json(&shown.iter().map(Letter::printed).collect::<Vec<_>>());
        }
        if shown.is_empty() {
            line(say("nothing is set aside that is not decided", "처리하지 않은 격리 레코드가 없습니다"));
            return Ok(());
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(say(
            ["place", "set aside (UTC)", "consumer", "class", "origin", "key", "decision", "reason"],
            ["위치", "격리 시각 (UTC)", "소비자", "종류", "원본", "키", "처리", "이유"],
        ));
        for letter in &shown {
            let Envelope { consumer, class, reason, origin_topic, origin_partition, origin_offset, key, .. } = &letter.envelope;
            let origin = if letter.has_origin() {
                topics::origin_key(origin_topic, *origin_partition, *origin_offset)
            } else {
                origin_topic.clone()
            };
            table.add_row([
                letter.place.clone(),
                letter.set_aside.to_string(),
                consumer.clone(),
                name(*class),
                origin,
                key.as_deref().map(text_or_hex).unwrap_or_default(),
                letter.decision.as_ref().map_or_else(String::new, |decision| name(decision.decision)),
                reason.clone(),
            ]);
        }
        line(&table.to_string());
        if !letters.is_empty() {
            let older = letters.len();
            line(&say(
                format!("{older} older ones are not shown; see --limit"),
                format!("더 오래된 {older}건은 --limit 으로 볼 수 있습니다"),
            ));
        }
        Ok(())
    }

    fn show(&mut self, place: &str, as_json: bool) -> anyhow::Result<()> {
        let letter = self.read()?.into_iter().find(|letter| letter.place == place);
        let letter = letter.ok_or_else(|| not_there(place)).exit(Exit::Failed)?;
        let mut printed = serde_json::to_value(letter.printed())?;
        let record = super::tail::decoded(&letter.envelope.value, &mut self.decoder);
        if let Some((kind, value)) = record {
            printed["record"] = json!({ "type": kind, "value": value });
        }
        if as_json {
            return json(&printed);
        }
        for (name, value) in printed.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            line(&format!("{name:17} {text}"));
        }
        Ok(())
    }

    fn decide(&mut self, decision: EnvelopeClass, what: &Decide) -> anyhow::Result<()> {
        // whoever held this id is ended and what it left is settled, before anything is read
        let settings = TransactionSettings::default();
        let producer = if what.dry_run {
            None
        } else {
            Some(with_exit(TransactionalProducer::connect(&self.kafka, TRANSACTIONAL_ID, settings))?)
        };
        let chosen = choose(self.read()?, decision, what).exit(Exit::Failed)?;
        if let Some(producer) = &producer {
            for letters in chosen.chunks(PER_TRANSACTION) {
                with_exit(producer.begin())?;
                for letter in letters {
                    if decision == EnvelopeClass::Redriven {
                        with_exit(redrive(producer, letter))?;
                    }
                    let bytes = self.decision(letter, decision, &what.reason);
                    let key = letter_key(letter);
                    with_exit(producer.send(Outgoing::new(topics::DEAD_LETTERS, key.as_bytes(), &bytes)))?;
                }
                with_exit(producer.commit_records())?;
            }
        }
        let places: Vec<&str> = chosen.iter().map(|letter| letter.place.as_str()).collect();
        if what.json {
            return json(&json!({ "decision": decision, "dry_run": what.dry_run, "places": places }));
        }
        places.iter().for_each(|place| line(place));
        let (count, word) = (places.len(), name(decision));
        line(&match what.dry_run {
            true => {
                say(format!("{count} would be {word}"), format!("{count}건이 대상입니다 ({word}); 아무것도 바꾸지 않았습니다"))
            }
            false => say(format!("{count} {word}"), format!("{count}건을 처리했습니다 ({word})")),
        });
        Ok(())
    }

    /// The envelope that says what was decided.
    fn decision(&self, letter: &Letter, decision: EnvelopeClass, reason: &str) -> Vec<u8> {
        let by = std::env::var("USER").unwrap_or_default();
        let headers = [
            (headers::SET_ASIDE_AT, letter.place.clone()),
            (headers::REDRIVE_OF, letter.first_place()),
            (headers::DECIDED_BY, by),
        ];
        let envelope = Envelope {
            class: decision,
            reason: reason.to_owned(),
            receive_time: Timestamp::from_micros(jiff::Timestamp::now().as_microsecond()),
            schema_id: None,
            value: Vec::new(),
            headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())).collect(),
            ..letter.envelope.clone()
        };
        let mut bytes = Vec::new();
        encode_value(&envelope, self.schema_id, &mut bytes);
        bytes
    }
}

/// Those asked for by name or by filter; refuses what cannot be decided.
fn choose(letters: Vec<Letter>, decision: EnvelopeClass, what: &Decide) -> anyhow::Result<Vec<Letter>> {
    let redrive = decision == EnvelopeClass::Redriven;
    if what.all {
        let fits =
            |letter: &Letter| what.filter.fits(letter) && letter.decision.is_none() && (!redrive || refusal(letter).is_none());
        return Ok(letters.into_iter().filter(fits).collect());
    }
    let mut letters: BTreeMap<String, Letter> = letters.into_iter().map(|letter| (letter.place.clone(), letter)).collect();
    let mut chosen = Vec::new();
    for place in &what.places {
        let letter = letters.remove(place).ok_or_else(|| not_there(place))?;
        if let Some(Decision { decision, time, .. }) = &letter.decision {
            let word = name(*decision);
            bail!(say(
                format!("{place} was {word} at {time} already"),
                format!("{place} 은(는) {time}에 이미 처리되었습니다 ({word})")
            ));
        }
        if let Some(why) = refusal(&letter).filter(|_| redrive) {
            bail!("{place}: {why}");
        }
        chosen.push(letter);
    }
    Ok(chosen)
}

/// Why a record cannot be written to its origin.
fn refusal(letter: &Letter) -> Option<String> {
    let origin = &letter.envelope.origin_topic;
    if !letter.has_origin() {
        return Some(say("it never stood on a topic", "토픽에 기록된 적이 없습니다").to_owned());
    }
    let known = topics::all().iter().any(|topic| topic.name == *origin);
    (!known).then(|| say(format!("there is no topic {origin}"), format!("{origin} 토픽이 없습니다")))
}

/// The record as it was, for the consumer that set it aside alone.
fn redrive(producer: &TransactionalProducer, letter: &Letter) -> Result<(), marketflow_kafka::Error> {
    let Envelope { consumer, origin_topic, origin_partition, key, value, headers: before, .. } = &letter.envelope;
    let first = letter.first_place();
    let kept = before.iter().filter(|(name, _)| name != headers::REDRIVE_FOR && name != headers::REDRIVE_OF);
    let mut headers: Vec<(&str, &[u8])> = kept.map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    headers.extend([(headers::REDRIVE_FOR, consumer.as_bytes()), (headers::REDRIVE_OF, first.as_bytes())]);
    producer.send(Outgoing {
        topic: origin_topic,
        partition: Some(*origin_partition),
        key: key.as_deref(),
        value: Some(value),
        headers: &headers,
    })
}

/// The key of an envelope: its origin, or what it was keyed by.
fn letter_key(letter: &Letter) -> String {
    let Envelope { origin_topic, origin_partition, origin_offset, .. } = &letter.envelope;
    topics::origin_key(origin_topic, *origin_partition, *origin_offset)
}

fn not_there(place: &str) -> anyhow::Error {
    anyhow!(say(
        format!("nothing is set aside at {place}; `marketflow dlq list` names what is"),
        format!("{place} 에 격리된 레코드가 없습니다; `marketflow dlq list` 로 확인하세요")
    ))
}

fn header(envelope: &Envelope, name: &str) -> Option<String> {
    envelope.headers.iter().find(|(known, _)| known == name).map(|(_, value)| String::from_utf8_lossy(value).into_owned())
}

/// `late`, `redriven` …
fn name(class: EnvelopeClass) -> String {
    serde_json::to_value(class).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn text_or_hex(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| hex::encode(bytes))
}
