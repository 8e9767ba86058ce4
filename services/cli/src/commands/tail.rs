//! `marketflow tail TOPIC`: decoded records as they come, controls too.

use super::connection::{self, STALLED_AFTER, with_exit};
use crate::console::{block_on, line};
use marketflow_contract::{Schema, headers, topics};
use marketflow_kafka::{Decoder, Reader, Record, Registry, TopicPartition, partition_for};
use marketflow_model::{
    Bar, Candle, Control, Envelope, FlowAggregate, FundFlow, Instrument, Observation, Quote, Reference, Timestamp, Trade,
};
use marketflow_runtime::{Exit, ExitContext};
use serde_json::{Map, Value, json};
use std::ops::ControlFlow;
use std::time::Duration;

/// Shows decoded records of a topic, controls too
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Examples:
  marketflow tail market.bars.v1
  marketflow tail market.trades.v1 --instrument BITSTAMP:BTCUSD --from-beginning --max 20
  marketflow tail market.quarantine.v1 --from-beginning --no-follow --json")]
pub struct Args {
    /// Topic, such as market.trades.v1
    topic: String,
    /// Only records of this instrument, and controls that concern it
    #[arg(long, value_name = "VENUE:SYMBOL")]
    instrument: Option<Instrument>,
    /// Start at the oldest record instead of the next
    #[arg(long)]
    from_beginning: bool,
    /// Stop after so many records
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Stop at the end of what is there
    #[arg(long)]
    no_follow: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// 64 for a topic that does not exist, 69 when Kafka or the registry does not answer.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let known = topics::all();
    let Some(topic) = known.iter().find(|topic| topic.name == args.topic && !topic.values.is_empty()) else {
        let names: Vec<&str> = known.iter().filter(|topic| !topic.values.is_empty()).map(|topic| topic.name.as_str()).collect();
        return Err(anyhow::anyhow!("no topic {:?}; there are {}", args.topic, names.join(", "))).exit(Exit::Usage);
    };
    let kafka = connection::kafka()?;
    let registry = with_exit(Registry::new(&connection::registry()?))?;
    let mut decoder = block_on(async { with_exit(registry.decoder().await) })?;
    let reader = with_exit(Reader::new(&kafka))?;
    let partitions = with_exit(reader.partition_count(&topic.name))?;
    let wanted = match &args.instrument {
        Some(instrument) if topic.key == "instrument" => {
            let partition = partition_for(instrument.as_str().as_bytes(), partitions);
            partition..partition + 1
        }
        Some(_) | None => 0..partitions,
    };
    let mut places = Vec::new();
    for partition in wanted {
        let place = TopicPartition::new(&topic.name, partition);
        let (oldest, end) = with_exit(reader.range(&place))?;
        places.push((place, if args.from_beginning { oldest } else { end }));
    }
    let mut left = args.max.unwrap_or(u64::MAX);
    let mut show = |record: Record<'_>| {
        if left > 0 && print(&record, &mut decoder, &args) {
            left -= 1;
        }
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    if args.no_follow {
        for (place, from) in places {
            with_exit(reader.read_to_end(&place, from, STALLED_AFTER, &mut show))?;
        }
    } else {
        let tick = Duration::from_secs(1);
        with_exit(reader.follow(&places, tick, |record| record.map_or(ControlFlow::Continue(()), &mut show)))?;
    }
    Ok(Exit::Ok)
}

/// Prints the record if it is wanted, and says whether it was.
fn print(record: &Record<'_>, decoder: &mut Decoder, args: &Args) -> bool {
    let (kind, mut value) = decode(record, decoder);
    if let Some(instrument) = &args.instrument
        && !concerns(&kind, &value, instrument)
    {
        return false;
    }
    readable(&mut value);
    let (partition, offset) = (record.partition(), record.offset());
    let key = record.key().map(|key| String::from_utf8_lossy(key).into_owned());
    if args.json {
        let written = record.timestamp().map(|time| time.to_string());
        line(
            &json!({ "partition": partition, "offset": offset, "written": written, "key": key, "type": kind, "value": value })
                .to_string(),
        );
    } else {
        line(&format!("{partition}/{offset} {} {kind} {}", key.unwrap_or_default(), words(&value)));
    }
    true
}

/// The record's type and its fields; what cannot be decoded is shown as it is.
fn decode(record: &Record<'_>, decoder: &mut Decoder) -> (String, Value) {
    let bytes = record.value().unwrap_or_default();
    decode_value(bytes, decoder).unwrap_or_else(|error| {
        let kind = if record.header(headers::KIND).is_some() { "undecodable control" } else { "undecodable" };
        (kind.to_owned(), json!({ "error": format!("{error:#}"), "raw": hex::encode(bytes) }))
    })
}

/// A value's record type and its fields for people; nothing where it cannot be decoded.
pub(crate) fn decoded(bytes: &[u8], decoder: &mut Decoder) -> Option<(String, Value)> {
    let (kind, mut value) = decode_value(bytes, decoder).ok()?;
    readable(&mut value);
    Some((kind, value))
}

fn decode_value(bytes: &[u8], decoder: &mut Decoder) -> anyhow::Result<(String, Value)> {
    decoder.schema_of(bytes).map_err(anyhow::Error::from).and_then(|schema| {
        Ok((
            schema.record_name().to_owned(),
            match schema {
                Schema::Trade => serde_json::to_value(decoder.decode::<Trade>(bytes)?)?,
                Schema::Quote => serde_json::to_value(decoder.decode::<Quote>(bytes)?)?,
                Schema::Candle => serde_json::to_value(decoder.decode::<Candle>(bytes)?)?,
                Schema::Control => serde_json::to_value(decoder.decode::<Control>(bytes)?)?,
                Schema::Bar => serde_json::to_value(decoder.decode::<Bar>(bytes)?)?,
                Schema::Envelope => serde_json::to_value(decoder.decode::<Envelope>(bytes)?)?,
                Schema::Observation => serde_json::to_value(decoder.decode::<Observation>(bytes)?)?,
                Schema::FundFlow => serde_json::to_value(decoder.decode::<FundFlow>(bytes)?)?,
                Schema::FlowAggregate => serde_json::to_value(decoder.decode::<FlowAggregate>(bytes)?)?,
                Schema::Reference => serde_json::to_value(decoder.decode::<Reference>(bytes)?)?,
            },
        ))
    })
}

fn concerns(kind: &str, value: &Value, instrument: &Instrument) -> bool {
    match (kind, value.get("instrument").and_then(Value::as_str)) {
        (_, Some(of)) => of == instrument.as_str(),
        // a control of the whole feed
        ("Control", None) => true,
        ("Envelope", None) => text_of_bytes(&value["key"]).is_some_and(|key| key == instrument.as_str()),
        (_, None) => false,
    }
}

/// Times as RFC 3339 and bytes as text, in place.
fn readable(value: &mut Value) {
    const TIMES: [&str; 13] = [
        "event_time",
        "receive_time",
        "open_time",
        "close_time",
        "clock",
        "complete_through",
        "from",
        "to",
        "period_start",
        "period_end",
        "published_at",
        "valid_from",
        "valid_to",
    ];
    let Some(fields) = value.as_object_mut() else { return };
    for (name, field) in fields.iter_mut() {
        if TIMES.contains(&name.as_str())
            && let Some(micros) = field.as_i64()
        {
            *field = Timestamp::from_micros(micros).to_string().into();
        } else if let Some(text) = text_of_bytes(field) {
            *field = text.into();
        }
    }
}

/// A byte array as JSON has it: as text, or as hex where it is none.
fn text_of_bytes(value: &Value) -> Option<String> {
    let array = value.as_array()?;
    let bytes: Option<Vec<u8>> = array.iter().map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect();
    let bytes = bytes.filter(|bytes| !bytes.is_empty())?;
    Some(String::from_utf8(bytes).unwrap_or_else(|error| hex::encode(error.into_bytes())))
}

/// The fields that say something, on one line.
fn words(value: &Value) -> String {
    let empty = Map::new();
    let fields = value.as_object().unwrap_or(&empty);
    let said = fields.iter().filter(|(_, field)| !field.is_null() && !field.as_array().is_some_and(Vec::is_empty));
    let words: Vec<String> = said
        .map(|(name, field)| match field.as_str() {
            Some(text) if !text.is_empty() && !text.contains(char::is_whitespace) => format!("{name}={text}"),
            Some(_) | None => format!("{name}={field}"),
        })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use marketflow_model::{ControlKind, EnvelopeClass, Feed};

    #[test]
    fn a_line_says_times_for_people_and_leaves_out_what_is_not_set() {
        let mut control = Control::new(ControlKind::Heartbeat, Feed::new("bitstamp"), Timestamp::from_seconds(1_385_337_600));
        control.reason = Some("two words".to_owned());
        let mut value = serde_json::to_value(&control).unwrap();
        readable(&mut value);
        assert_eq!(words(&value), "kind=heartbeat feed=bitstamp clock=2013-11-25T00:00:00Z state=unknown reason=\"two words\"");
    }

    #[test]
    fn bytes_are_shown_as_text_or_as_hex() {
        let envelope = Envelope {
            consumer: "import".to_owned(),
            class: EnvelopeClass::Quarantine,
            reason: String::new(),
            origin_topic: String::new(),
            origin_partition: -1,
            origin_offset: -1,
            receive_time: Timestamp::from_seconds(0),
            schema_id: None,
            key: Some(b"BITSTAMP:BTCUSD".to_vec()),
            value: vec![0xff, 0x00],
            headers: Vec::new(),
        };
        let mut value = serde_json::to_value(&envelope).unwrap();
        assert!(concerns("Envelope", &value, &"BITSTAMP:BTCUSD".parse().unwrap()));
        assert!(!concerns("Envelope", &value, &"BITSTAMP:ETHUSD".parse().unwrap()));
        readable(&mut value);
        assert_eq!((value["key"].as_str(), value["value"].as_str()), (Some("BITSTAMP:BTCUSD"), Some("ff00")));
    }

    #[test]
    fn controls_of_the_feed_and_of_the_instrument_concern_it_others_not() {
        let instrument: Instrument = "BITSTAMP:BTCUSD".parse().unwrap();
        let check = |value: Value, expected: bool| assert_eq!(concerns("Control", &value, &instrument), expected);
        check(json!({ "instrument": null }), true);
        check(json!({ "instrument": "BITSTAMP:BTCUSD" }), true);
        check(json!({ "instrument": "BITSTAMP:ETHUSD" }), false);
    }
}
