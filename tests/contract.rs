//! The gate before the schema registry: every schema in `schemas/avro` keeps what its committed versions promised (`make schemas`).
//!
//! Compatible means: each committed version can read what this one writes and the reverse (Avro's own rules), and, stricter than Avro,
//! fields keep their type to the letter and enums only grow at their end. A breaking change is a new schema and a new topic.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a panic is how a test fails")]

use apache_avro::Schema as AvroSchema;
use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
use marketflow_contract::{Schema, topics};
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Fields without a default, by what they are; times are told by their type.
const IDENTITY: [&str; 11] = [
    "consumer",
    "feed",
    "instrument",
    "interval",
    "name",
    "origin_offset",
    "origin_partition",
    "origin_topic",
    "provider",
    "scope",
    "series",
];
const VALUE: [&str; 11] = ["open", "high", "low", "close", "price", "volume", "turnover", "inflow", "outflow", "net", "value"];

#[test]
fn schemas_are_compatible_with_every_committed_version() {
    let Some(log) = git(&["rev-parse", "--is-inside-work-tree"]) else {
        println!("no history here: schemas have nothing to be compared with");
        return;
    };
    assert_eq!(log.trim(), "true");
    for file in git(&["ls-tree", "--name-only", "HEAD", "schemas/avro/"]).unwrap_or_default().lines() {
        let now = std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file} was committed once: {e}"));
        for commit in git(&["log", "--format=%h", "--", file]).unwrap().lines() {
            let Some(then) = git(&["show", &format!("{commit}:{file}")]) else { continue };
            let problems = incompatibilities(&then, &now);
            assert!(problems.is_empty(), "{file} differs from its version of {commit}:\n  {}", problems.join("\n  "));
        }
    }
}

#[test]
fn every_field_but_identity_time_and_value_has_a_default() {
    for schema in Schema::ALL {
        for field in fields(&parse(schema.text())) {
            let name = field["name"].as_str().unwrap();
            let essential =
                IDENTITY.contains(&name) || VALUE.contains(&name) || field["type"]["logicalType"] == "timestamp-micros";
            let kind_of_record = field["type"]["type"] == "enum"; // an enum may also name what the record is: it has UNKNOWN
            assert!(essential || kind_of_record || field.get("default").is_some(), "{}: {name} has no default", schema.name());
        }
    }
}

#[test]
fn every_enum_starts_with_its_default_unknown() {
    for schema in Schema::ALL {
        for listed in enums(&parse(schema.text())) {
            assert_eq!(listed["default"], "UNKNOWN", "{}: {}", schema.name(), listed["name"]);
            assert_eq!(listed["symbols"][0], "UNKNOWN", "{}: {}", schema.name(), listed["name"]);
        }
    }
}

#[test]
fn folders_topics_and_examples_name_the_same_schemas() {
    let embedded: BTreeSet<String> = Schema::ALL.iter().map(|s| s.name().to_owned()).collect();
    let in_topics = topics::all().into_iter().flat_map(|t| t.values).map(|s| s.name().to_owned()).collect();
    assert_eq!(embedded, stems("schemas/avro", ".avsc"));
    assert_eq!(embedded, stems("schemas/examples", ".json"));
    assert_eq!(embedded, in_topics);
    for schema in Schema::ALL {
        assert_eq!(parse(schema.text())["name"], schema.record_name());
        assert_eq!(parse(schema.text())["namespace"], "marketflow");
    }
}

#[test]
fn the_gate_refuses_what_breaks_a_reader() {
    let then = Schema::Trade.text();
    let check = |from: &str, to: &str, refused: bool| {
        let now = then.replace(from, to);
        assert_ne!(now, then, "{from}");
        assert_eq!(!incompatibilities(then, &now).is_empty(), refused, "{from} -> {to}");
    };
    let source = r#"{"name": "source", "type""#;
    check(source, r#"{"name": "fee", "type": ["null", "long"], "default": null}, {"name": "source", "type""#, false);
    check(source, r#"{"name": "fee", "type": "long"}, {"name": "source", "type""#, true);
    check(r#""ODD_LOT"]"#, r#""ODD_LOT", "BLOCK"]"#, false);
    check(r#""AUCTION", "#, r#""BLOCK", "AUCTION", "#, true);
    check(r#""CANCEL", "#, "", true);
    check(r#""scale": 8"#, r#""scale": 10"#, true);
    check("timestamp-micros", "timestamp-millis", true);
    check(r#"["null", "string"]"#, r#"["null", "bytes"]"#, true);
    check("the venue's remarks", "remarks of the venue", false);
    check(r#"{"name": "feed""#, r#"{"name": "stream""#, true);
}

/// Why readers and writers of the two versions would not understand each other, in words.
fn incompatibilities(then: &str, now: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let (then_avro, now_avro) = (AvroSchema::parse_str(then).unwrap(), AvroSchema::parse_str(now).unwrap());
    match SchemaCompatibility::mutual_read(&then_avro, &now_avro) {
        Ok(Compatibility::Full) => {}
        Ok(Compatibility::Partial) => problems.push("some values cannot be read by the other version".to_owned()),
        Err(error) => problems.push(error.to_string()),
    }
    let (then, now) = (parse(then), parse(now));
    for old in fields(&then) {
        let Some(new) = fields(&now).into_iter().find(|new| new["name"] == old["name"]) else { continue };
        if !same_type(&old["type"], &new["type"]) {
            problems.push(format!("field {}: type was {}, is {}", old["name"], old["type"], new["type"]));
        }
        if old.get("default") != new.get("default") {
            problems.push(format!("field {}: default was {:?}, is {:?}", old["name"], old.get("default"), new.get("default")));
        }
    }
    problems
}

/// Whether types are equal but for remarks and symbols added at the end of an enum.
fn same_type(then: &Json, now: &Json) -> bool {
    match (then, now) {
        (Json::Object(then), Json::Object(now)) => {
            let keys: BTreeSet<&String> = then.keys().chain(now.keys()).filter(|key| *key != "doc").collect();
            keys.into_iter().all(|key| match (then.get(key), now.get(key)) {
                (Some(Json::Array(then)), Some(Json::Array(now))) if key == "symbols" => now.starts_with(then),
                (Some(then), Some(now)) => same_type(then, now),
                _ => false,
            })
        }
        (Json::Array(then), Json::Array(now)) => then.len() == now.len() && then.iter().zip(now).all(|(t, n)| same_type(t, n)),
        (then, now) => then == now,
    }
}

fn parse(schema: &str) -> Json {
    serde_json::from_str(schema).unwrap()
}

fn fields(schema: &Json) -> Vec<&Json> {
    schema["fields"].as_array().unwrap().iter().collect()
}

/// Every enum in the schema, however deep.
fn enums(json: &Json) -> Vec<&Json> {
    let inside = match json {
        Json::Object(object) => object.values().flat_map(enums).collect(),
        Json::Array(items) => items.iter().flat_map(enums).collect(),
        _ => Vec::new(),
    };
    if json["type"] == "enum" { [vec![json], inside].concat() } else { inside }
}

fn stems(folder: &str, suffix: &str) -> BTreeSet<String> {
    let names = std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| name.strip_suffix(suffix).unwrap_or_else(|| panic!("{folder}/{name}")).to_owned()).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What git prints, or `None` when it fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root()).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}
