//! Section `[kafka]`, shared by every service.

use crate::Error;
use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// Where the cluster is, and whatever librdkafka should be told beyond it.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port`, comma-separated.
    pub bootstrap_servers: String,
    /// librdkafka properties passed through, such as `security.protocol` or `sasl.password`; underscores may stand for dots, so that
    /// `MARKETFLOW__KAFKA__PROPERTIES__SASL_PASSWORD` works. They win over everything but what a guarantee rests on.
    #[serde(default, serialize_with = "without_secrets")]
    pub properties: BTreeMap<String, String>,
}

impl KafkaConfig {
    /// With nothing but the servers.
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        Self { bootstrap_servers: bootstrap_servers.into(), properties: BTreeMap::new() }
    }

    /// `defaults` < the properties passed through < `fixed`.
    pub(crate) fn client<T, C>(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)], context: C) -> Result<T, Error>
    where
        C: rdkafka::ClientContext,
        T: FromClientConfigAndContext<C>,
    {
        self.settings(defaults, fixed).create_with_context(context).map_err(|problem| Error::Config(problem.to_string()))
    }

    /// As [`KafkaConfig::client`], before there is a client.
    pub(crate) fn settings(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap_servers).set("client.id", "marketflow");
        // how soon a broker that came back is found; librdkafka's own 10 s would be most of an outage
        config.set("reconnect.backoff.max.ms", "1000");
        for (key, value) in defaults {
            config.set(*key, *value);
        }
        for (key, value) in &self.properties {
            config.set(key.replace('_', "."), value);
        }
        for (key, value) in fixed {
            config.set(*key, *value);
        }
        config
    }
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties: BTreeMap<_, _> = self.properties.iter().map(|(key, value)| (key, shown(key, value))).collect();
        f.debug_struct("KafkaConfig")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("properties", &properties)
            .finish()
    }
}

fn without_secrets<S: Serializer>(properties: &BTreeMap<String, String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(properties.iter().map(|(key, value)| (key, shown(key, value))))
}

fn shown<'a>(key: &str, value: &'a str) -> &'a str {
    let secret = ["password", "secret", "key.pem", "token", "jaas", "sasl.oauthbearer.config"];
    let key = key.replace('_', ".");
    if secret.iter().any(|word| key.contains(word)) { "***" } else { value }
}

/// Logs what librdkafka reports by itself; errors it recovers from are not ours to raise.
#[derive(Clone, Copy, Default)]
pub(crate) struct Quiet;

impl rdkafka::ClientContext for Quiet {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // the end of a partition comes the same way, and is what a reader waits for
        if error != KafkaError::Global(RDKafkaErrorCode::PartitionEOF) {
            tracing::warn!(%error, reason, "kafka client");
        }
    }
}

pub(crate) fn log(level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
    use rdkafka::config::RDKafkaLogLevel as Level;
    match level {
        Level::Emerg | Level::Alert | Level::Critical | Level::Error | Level::Warning => {
            tracing::warn!(facility, message, "librdkafka");
        }
        Level::Notice | Level::Info => tracing::info!(facility, message, "librdkafka"),
        Level::Debug => tracing::debug!(facility, message, "librdkafka"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_properties_are_not_printed() {
        let mut config = KafkaConfig::new("127.0.0.1:9092");
        config.properties.insert("sasl.password".into(), "canary".into());
        config.properties.insert("SSL_KEY_PASSWORD".to_lowercase(), "canary".into());
        config.properties.insert("security.protocol".into(), "SASL_SSL".into());
        let text = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(!text.contains("canary"), "{text}");
        assert!(text.contains("SASL_SSL"), "{text}");
    }
}
