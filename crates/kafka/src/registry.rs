//! The schema registry: our schemas registered, their ids looked up, and values decoded by the id they carry.

use crate::Error;
use marketflow_contract::topics::{self, TopicSpec};
use marketflow_contract::{AvroRecord, Schema, split_value};
use reqwest::Client;
use schema_registry_converter::async_impl::schema_registry::{SrSettings, get_schema_by_id, post_schema};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{SchemaType, SuppliedSchema};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What every subject is held to.
const COMPATIBILITY: &str = "FULL_TRANSITIVE";

/// Unknown ids remembered as such; past it they are forgotten and asked again.
const UNKNOWN_IDS_KEPT: usize = 1_024;

/// Section `[registry]`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    /// Base URL of the Confluent API, such as `http://127.0.0.1:8081/apis/ccompat/v7`.
    pub url: String,
}

/// A client of the Confluent API.
#[derive(Clone)]
pub struct Registry {
    url: String,
    settings: SrSettings,
    http: Client,
}

/// The schema id of each (topic, schema).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchemaIds(BTreeMap<(String, Schema), u32>);

impl SchemaIds {
    /// The id to write a topic's values with; `None` when the topic does not hold such values.
    pub fn id(&self, topic: &str, schema: Schema) -> Option<u32> {
        self.0.get(&(topic.to_owned(), schema)).copied()
    }
}

impl Registry {
    /// Creates the client.
    ///
    /// # Errors
    /// A URL or TLS set-up that cannot work.
    pub fn new(config: &RegistryConfig) -> Result<Self, Error> {
        let url = config.url.trim_end_matches('/').to_owned();
        let settings = SrSettings::new_builder(url.clone())
            .set_timeout(Duration::from_secs(5))
            .build()
            .map_err(|problem| Error::Config(format!("registry {url}: {}", in_words(&problem))))?;
        let http = Client::builder()
            .timeout(Duration::from_secs(5))
            .build()
            .map_err(|problem| Error::Config(format!("registry {url}: {problem}")))?;
        Ok(Self { url, settings, http })
    }

    /// Registers every schema of `schemas/topics.toml` under FULL_TRANSITIVE compatibility; what is there already stays. Returns the ids.
    ///
    /// # Errors
    /// [`Error::SchemasDisagree`] with every refusal, or an unreachable registry.
    pub async fn register_all(&self) -> Result<SchemaIds, Error> {
        let mut ids = SchemaIds::default();
        let mut refusals = Vec::new();
        for (topic, schema, subject) in subjects() {
            self.require_compatibility(&subject).await?;
            let supplied = SuppliedSchema::new(None, SchemaType::Avro, schema.text().to_owned());
            match post_schema(&self.settings, subject.clone(), supplied).await {
                Ok(registered) => {
                    ids.0.insert((topic.name, schema), registered.id);
                }
                Err(problem) if problem.retriable || is_connection(&problem) => {
                    return Err(unreachable("register schemas", &problem));
                }
                Err(problem) => refusals.push(format!("{subject} refuses {}: {}", schema.name(), in_words(&problem))),
            }
        }
        if refusals.is_empty() { Ok(ids) } else { Err(Error::SchemasDisagree(refusals)) }
    }

    /// Looks the ids of our schemas up, and writes nothing.
    ///
    /// # Errors
    /// [`Error::SchemasDisagree`] naming every schema that is not registered, or an unreachable registry.
    pub async fn ids(&self) -> Result<SchemaIds, Error> {
        let mut ids = SchemaIds::default();
        let mut missing = Vec::new();
        for (topic, schema, subject) in subjects() {
            match self.lookup(&subject, schema).await? {
                Some(id) => {
                    ids.0.insert((topic.name, schema), id);
                }
                None => missing.push(format!("{subject} does not hold {}", schema.name())),
            }
        }
        if missing.is_empty() { Ok(ids) } else { Err(Error::SchemasDisagree(missing)) }
    }

    /// A decoder that knows the ids of our schemas and fetches others when it meets them.
    ///
    /// # Errors
    /// As [`Registry::ids`].
    pub async fn decoder(&self) -> Result<Decoder, Error> {
        Ok(Decoder::new(self.clone(), &self.ids().await?))
    }

    async fn lookup(&self, subject: &str, schema: Schema) -> Result<Option<u32>, Error> {
        #[derive(Deserialize)]
        struct Found {
            id: u32,
        }
        let doing = || format!("look up {subject}");
        let answer = self
            .http
            .post(format!("{}/subjects/{subject}", self.url))
            .header("content-type", "application/vnd.schemaregistry.v1+json")
            .body(json!({ "schema": schema.text(), "schemaType": "AVRO" }).to_string())
            .send()
            .await
            .map_err(|problem| Error::Registry { doing: doing(), reason: with_causes(&problem), retry: true })?;
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer = success(answer, doing).await?;
        let found: Found = answer.json().await.map_err(|problem| Error::Registry {
            doing: doing(),
            reason: with_causes(&problem),
            retry: false,
        })?;
        Ok(Some(found.id))
    }

    async fn require_compatibility(&self, subject: &str) -> Result<(), Error> {
        let doing = || format!("set the compatibility of {subject}");
        let answer = self
            .http
            .put(format!("{}/config/{subject}", self.url))
            .header("content-type", "application/vnd.schemaregistry.v1+json")
            .body(json!({ "compatibility": COMPATIBILITY }).to_string())
            .send()
            .await
            .map_err(|problem| Error::Registry { doing: doing(), reason: with_causes(&problem), retry: true })?;
        success(answer, doing).await.map(drop)
    }

    async fn fetch(&self, id: u32) -> Result<Option<String>, Error> {
        match get_schema_by_id(id, &self.settings).await {
            Ok(found) if found.schema_type == SchemaType::Avro => Ok(Some(found.schema)),
            Ok(_) => Ok(None),
            Err(problem) if problem.retriable || is_connection(&problem) => {
                Err(unreachable(&format!("fetch schema {id}"), &problem))
            }
            Err(_) => Ok(None),
        }
    }

    /// Fetches from a plain thread or within a runtime alike, on a thread and with connections of its own; ids are new once in a blue moon.
    fn fetch_blocking(&self, id: u32) -> Result<Option<String>, Error> {
        let config = RegistryConfig { url: self.url.clone() };
        std::thread::scope(|scope| {
            let fetching = scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|problem| {
                    Error::Registry { doing: format!("fetch schema {id}"), reason: problem.to_string(), retry: true }
                })?;
                runtime.block_on(async { Self::new(&config)?.fetch(id).await })
            });
            fetching.join().unwrap_or_else(|_| {
                Err(Error::Registry {
                    doing: format!("fetch schema {id}"),
                    reason: "the fetching thread panicked".to_owned(),
                    retry: false,
                })
            })
        })
    }
}

fn subjects() -> impl Iterator<Item = (TopicSpec, Schema, String)> {
    topics::all().into_iter().flat_map(|topic| {
        let values = topic.values.clone();
        values.into_iter().map(move |schema| {
            let subject = topic.subject(schema);
            (topic.clone(), schema, subject)
        })
    })
}

async fn success(answer: reqwest::Response, doing: impl Fn() -> String) -> Result<reqwest::Response, Error> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let text: String = answer.text().await.unwrap_or_default().chars().take(500).collect();
    Err(Error::Registry { doing: doing(), reason: format!("{status} {text}"), retry: status.is_server_error() })
}

fn unreachable(doing: &str, problem: &SRCError) -> Error {
    Error::Registry { doing: doing.to_owned(), reason: in_words(problem), retry: true }
}

fn in_words(problem: &SRCError) -> String {
    match &problem.cause {
        Some(cause) => format!("{} ({cause})", problem.error),
        None => problem.error.clone(),
    }
}

fn is_connection(problem: &SRCError) -> bool {
    std::error::Error::source(problem)
        .and_then(|source| source.downcast_ref::<reqwest::Error>())
        .is_some_and(|error| error.is_connect() || error.is_timeout())
}

fn with_causes(problem: &dyn std::error::Error) -> String {
    let mut text = problem.to_string();
    let mut source = problem.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Why a value gave no record.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are at fault: put them aside.
    #[error(transparent)]
    Value(#[from] marketflow_contract::DecodeError),
    /// The value is of another record type than asked for.
    #[error("value is a {found}, not a {wanted}")]
    OtherRecord {
        /// What it is.
        found: &'static str,
        /// What was asked for.
        wanted: &'static str,
    },
    /// The registry is needed and did not answer: try again.
    #[error("cannot tell what schema {id} is")]
    Registry {
        /// The id in the value.
        id: u32,
        /// Why.
        #[source]
        problem: Error,
    },
}

impl DecodeError {
    /// Whether the same bytes may be decoded later.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Registry { .. })
    }
}

#[derive(Clone)]
enum Known {
    /// Written by exactly the embedded schema, or one of the same shape.
    Same(Schema),
    /// Written by another version; resolved by Avro's rules.
    Other(Schema, Arc<apache_avro::Schema>),
}

/// Decodes values by the schema id they carry. Synchronous; asks the registry only for ids it never met. One per thread.
#[derive(Clone)]
pub struct Decoder {
    registry: Registry,
    known: Vec<(u32, Known)>,
    unknown: BTreeSet<u32>,
}

impl Decoder {
    /// With the ids of our own schemas.
    pub fn new(registry: Registry, ids: &SchemaIds) -> Self {
        let known: BTreeMap<u32, Known> = ids.0.iter().map(|((_, schema), id)| (*id, Known::Same(*schema))).collect();
        Self { registry, known: known.into_iter().collect(), unknown: BTreeSet::new() }
    }

    /// Which record type a value holds.
    ///
    /// # Errors
    /// No header, an id that is none of ours, or an unreachable registry.
    pub fn schema_of(&mut self, value: &[u8]) -> Result<Schema, DecodeError> {
        let (id, _) = split_value(value)?;
        Ok(match self.find(id)? {
            Known::Same(schema) | Known::Other(schema, _) => *schema,
        })
    }

    /// Decodes a value.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode<R: AvroRecord>(&mut self, value: &[u8]) -> Result<R, DecodeError> {
        match self.body(value)? {
            (schema, body) if schema == R::SCHEMA => Ok(R::decode(&body)?),
            (schema, _) => Err(DecodeError::OtherRecord { found: schema.record_name(), wanted: R::SCHEMA.record_name() }),
        }
    }

    /// Which record type a value holds, and its body under exactly the embedded schema: the value's own bytes, unless its writer had another.
    ///
    /// # Errors
    /// As [`Decoder::decode`].
    pub fn body<'v>(&mut self, value: &'v [u8]) -> Result<(Schema, Cow<'v, [u8]>), DecodeError> {
        let (id, body) = split_value(value)?;
        Ok(match self.find(id)? {
            Known::Same(schema) => (*schema, body.into()),
            Known::Other(schema, writer) => (*schema, marketflow_contract::resolve(writer, *schema, body)?.into()),
        })
    }

    fn find(&mut self, id: u32) -> Result<&Known, DecodeError> {
        // a handful of ids: scanning beats hashing
        let index = match self.known.iter().position(|(known, _)| *known == id) {
            Some(index) => index,
            None => self.learn(id)?,
        };
        Ok(&self.known[index].1)
    }

    #[cold]
    fn learn(&mut self, id: u32) -> Result<usize, DecodeError> {
        let unknown = marketflow_contract::DecodeError::UnknownSchema(id);
        if self.unknown.contains(&id) {
            return Err(unknown.into());
        }
        let text = self.registry.fetch_blocking(id).map_err(|problem| DecodeError::Registry { id, problem })?;
        match text.as_deref().and_then(recognise) {
            Some(known) => {
                self.known.push((id, known));
                Ok(self.known.len() - 1)
            }
            None => {
                if self.unknown.len() >= UNKNOWN_IDS_KEPT {
                    self.unknown.clear();
                }
                self.unknown.insert(id);
                Err(unknown.into())
            }
        }
    }
}

/// Which of our records a schema text describes, if any: by its full name.
fn recognise(text: &str) -> Option<Known> {
    let parsed = apache_avro::Schema::parse_str(text).ok()?;
    let name = parsed.name()?.to_string();
    let schema = *Schema::ALL.iter().find(|schema| schema.parsed().name().is_some_and(|own| own.to_string() == name))?;
    if schema.text() == text || parsed == *schema.parsed() {
        Some(Known::Same(schema))
    } else {
        Some(Known::Other(schema, Arc::new(parsed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use marketflow_contract::encode_value;
    use marketflow_model::{Control, ControlKind, Feed, Quote, Timestamp};

    fn decoder() -> Decoder {
        // nothing listens there: every id that is not known is a registry error
        let registry = Registry::new(&RegistryConfig { url: "http://127.0.0.1:9".to_owned() }).unwrap();
        let ids = SchemaIds([((topics::TRADES.to_owned(), Schema::Control), 7)].into_iter().collect());
        Decoder::new(registry, &ids)
    }

    fn heartbeat(id: u32) -> Vec<u8> {
        let mut value = Vec::new();
        let control = Control::new(ControlKind::Heartbeat, Feed::new("bitstamp"), Timestamp::from_seconds(1));
        encode_value(&control, id, &mut value);
        value
    }

    #[test]
    fn a_value_is_decoded_by_its_id() {
        let mut decoder = decoder();
        assert_eq!(decoder.schema_of(&heartbeat(7)).unwrap(), Schema::Control);
        assert_eq!(decoder.decode::<Control>(&heartbeat(7)).unwrap().feed.as_str(), "bitstamp");
        assert!(matches!(decoder.decode::<Quote>(&heartbeat(7)), Err(DecodeError::OtherRecord { .. })));
        assert!(!decoder.decode::<Control>(b"junk").unwrap_err().is_retriable());
    }

    #[test]
    fn an_unreachable_registry_is_no_reason_to_set_a_record_aside() {
        assert!(decoder().decode::<Control>(&heartbeat(8)).unwrap_err().is_retriable());
    }

    #[test]
    fn schemas_are_recognised_by_name_and_shape() {
        assert!(matches!(recognise(Schema::Bar.text()), Some(Known::Same(Schema::Bar))));
        let older = Schema::Bar.text().replace(r#""revision_reason""#, r#""because""#);
        assert!(matches!(recognise(&older), Some(Known::Other(Schema::Bar, _))));
        assert!(recognise(r#"{"type":"record","name":"Foreign","fields":[]}"#).is_none());
        assert!(recognise("\"string\"").is_none());
        assert!(recognise("{").is_none());
    }
}
