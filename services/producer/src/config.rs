//! The tick-producer's configuration; `default.toml` holds every key with its unit.

use crate::failover;
use crate::lines::LINES_MAX;
use crate::ranking;
use anyhow::{Context, ensure};
use marketflow_access::config::max_calls_variable;
use marketflow_access::{BudgetConfig, ClockConfig, RequestConfig, Symbols};
use marketflow_kafka::{KafkaConfig, ProducerSettings, RegistryConfig};
use marketflow_metadata::MetadataConfig;
use marketflow_model::{Instrument, Interval};
use marketflow_pacing::Limits;
use marketflow_providers::{ActiveBy, Provider, Ranking, Repair, Timing, by_id, ranking_of};
use marketflow_runtime::{AdminConfig, Exit, ExitContext, LogConfig};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Everything the tick-producer is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Admin port.
    pub admin: AdminConfig,
    /// Logging.
    pub log: LogConfig,
    /// Which venue, which instruments.
    pub provider: ProviderConfig,
    /// Further instruments, by their rank.
    pub ranking: RankingConfig,
    /// What may be asked.
    pub budget: BudgetConfig,
    /// One call.
    pub request: RequestConfig,
    /// Where Kafka is.
    pub kafka: KafkaConfig,
    /// Where the schema registry is.
    pub registry: RegistryConfig,
    /// Whose time.
    pub clock: ClockConfig,
    /// Sockets.
    pub connection: ConnectionConfig,
    /// Missing trades.
    pub repair: RepairConfig,
    /// Another provider that stands by.
    pub failover: FailoverConfig,
    /// The way to Kafka.
    pub publish: PublishConfig,
    /// Trace ids.
    pub trace: TraceConfig,
    /// What survives a restart.
    pub state: StateConfig,
    /// Who works.
    pub metadata: MetadataConfig,
}

/// Section `[provider]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    /// Id of a provider.
    pub name: String,
    /// WebSocket endpoint; empty = the venue's own.
    pub websocket_url: String,
    /// Request endpoint; empty = the venue's own.
    pub rest_url: String,
    /// `VENUE:SYMBOL`, a code alone, or a set such as `@krx10`.
    pub instruments: Vec<String>,
    /// Connections that share them, each with a key of its own where the provider asks for keys.
    pub connections: usize,
    /// File of `NAME=value` lines with the credentials that are not in the environment.
    pub credentials_file: PathBuf,
}

/// Section `[ranking]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankingConfig {
    /// Registrations given to the most active instruments; 0 = none.
    pub slots: usize,
    /// Most active by what.
    pub by: ActiveBy,
    /// Venue clock between two looks.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// An instrument leaves after so many looks in a row without it among the first.
    pub leaves_after: u32,
    /// And not before it was there for so long.
    #[serde(with = "humantime_serde")]
    pub stay_min: Duration,
    /// Path of the call; empty = the broker's own.
    pub path: String,
    /// Name of the call; empty = the broker's own.
    pub call: String,
}

/// Section `[connection]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionConfig {
    /// Wait for TCP, TLS and handshake together.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// The service ends when the venue was never reached for so long; 0 = it keeps trying.
    #[serde(with = "humantime_serde")]
    pub give_up_after: Duration,
    /// Least wait before a reconnect.
    #[serde(with = "humantime_serde")]
    pub backoff_min: Duration,
    /// Longest wait before a reconnect.
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    /// Waits start small again after data flowed for so long.
    #[serde(with = "humantime_serde")]
    pub backoff_reset_after: Duration,
    /// Connection attempts within a window, over all connections.
    pub attempts: u32,
    /// That window.
    #[serde(with = "humantime_serde")]
    pub attempts_window: Duration,
    /// Venue clock between two proofs of life.
    #[serde(with = "humantime_serde")]
    pub probe_interval: Duration,
    /// Least time between two, whatever the venue clock does.
    #[serde(with = "humantime_serde")]
    pub probe_interval_min: Duration,
    /// Wait for the answer before the connection counts as dead.
    #[serde(with = "humantime_serde")]
    pub probe_timeout: Duration,
    /// Wait for a subscription's acknowledgement.
    #[serde(with = "humantime_serde")]
    pub acknowledge_timeout: Duration,
    /// Venue clock without a trade before an instrument counts as silent.
    #[serde(with = "humantime_serde")]
    pub silent_after: Duration,
    /// Least time between two frames sent, where the venue limits them.
    #[serde(with = "humantime_serde")]
    pub send_interval_min: Duration,
    /// Trades held between socket and feed before a gap is opened instead.
    pub queue_trades: usize,
}

impl ConnectionConfig {
    /// As the state machines take it.
    pub fn timing(&self) -> Timing {
        Timing {
            probe_interval: self.probe_interval,
            probe_interval_min: self.probe_interval_min,
            probe_timeout: self.probe_timeout,
            acknowledge_timeout: self.acknowledge_timeout,
            silent_after: self.silent_after,
            send_interval_min: self.send_interval_min,
            renew_after: None,
        }
    }
}

/// Section `[repair]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairConfig {
    /// How late a trade may arrive behind newer ones; `complete_through` stays that far behind.
    #[serde(with = "humantime_serde")]
    pub disorder: Duration,
    /// Trade ids remembered per instrument.
    pub ids_per_instrument: usize,
    /// Requests in flight at once.
    pub requests_in_flight: usize,
    /// Wait for an answer.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Least wait after a failed request.
    #[serde(with = "humantime_serde")]
    pub backoff_min: Duration,
    /// Longest wait after a failed request.
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    /// Venue clock between two merges of the recent-trades page, where the provider needs them; 0 = as the provider says.
    #[serde(with = "humantime_serde")]
    pub sweep_interval: Duration,
    /// Records read back per partition at the start, at most.
    pub read_back_records: i64,
}

/// Section `[failover]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailoverConfig {
    /// Id of the provider that stands by; empty = none.
    pub provider: String,
    /// As `provider.connections`.
    pub connections: usize,
    /// Its WebSocket endpoint; empty = the venue's own.
    pub websocket_url: String,
    /// Its request endpoint; empty = the venue's own.
    pub rest_url: String,
    /// How long the one that tells an instrument's trades may be lost or silent before the other takes over.
    #[serde(with = "humantime_serde")]
    pub after: Duration,
    /// How long the first must be back before it tells again.
    #[serde(with = "humantime_serde")]
    pub return_after: Duration,
    /// Length of the windows on whose edges the feed's name on the records changes.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
}

/// Section `[publish]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishConfig {
    /// Records held on the way to Kafka.
    pub queue_records: u32,
    /// KiB held on the way to Kafka.
    pub queue_kib: u32,
    /// How long a record waits for company.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// How long delivery is tried before a gap is opened.
    #[serde(with = "humantime_serde")]
    pub delivery_timeout: Duration,
    /// How long the last records may take when the service stops.
    #[serde(with = "humantime_serde")]
    pub flush_timeout: Duration,
}

/// Section `[trace]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceConfig {
    /// One trade in so long carries a trace id; 0s = each.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
}

impl PublishConfig {
    /// As the Kafka crate takes it.
    pub fn settings(&self) -> ProducerSettings {
        ProducerSettings {
            queue_records: self.queue_records,
            queue_kib: self.queue_kib,
            linger: self.linger,
            delivery_timeout: self.delivery_timeout,
        }
    }
}

/// Section `[state]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateConfig {
    /// Folder of the state file; empty = `run/` below `MARKETFLOW_HOME` (`.marketflow`).
    pub folder: PathBuf,
}

/// A provider and where it is.
#[derive(Debug)]
pub struct Place {
    /// The provider.
    pub provider: &'static Provider,
    /// Where its WebSocket is.
    pub websocket_url: String,
    /// Where its requests go, without trailing slash.
    pub rest_url: String,
    /// Connections that share the instruments.
    pub connections: usize,
}

impl Place {
    /// The venue's own endpoints where none are given.
    fn new(provider: &'static Provider, websocket_url: &str, rest_url: &str, connections: usize) -> Self {
        let or = |given: &str, own: &str| if given.is_empty() { own.to_owned() } else { given.to_owned() };
        Self {
            provider,
            websocket_url: or(websocket_url, provider.websocket_url),
            rest_url: or(rest_url, provider.rest_url).trim_end_matches('/').to_owned(),
            connections,
        }
    }

    /// Instruments that its connections take.
    fn instruments_max(&self) -> usize {
        self.provider.limits.instruments_per_connection.saturating_mul(self.connections)
    }
}

/// What follows from the configuration.
pub struct Checked {
    /// The provider named.
    pub place: Place,
    /// Instruments that every provider takes on its connections.
    pub instruments_max: usize,
    /// The provider that stands by, and when it takes over.
    pub standby: Option<(Place, failover::Settings)>,
    /// What is to be subscribed.
    pub instruments: Vec<Instrument>,
    /// Who leaves the registrations that are given by rank, and when.
    pub rotation: ranking::Settings,
    /// The broker's ranking and what the key may spend, where registrations are given by rank.
    pub ranking: Option<(&'static dyn Ranking, Limits)>,
    /// Sweep interval in microseconds.
    pub sweep_interval_micros: i64,
    /// Disorder allowance in microseconds.
    pub disorder_micros: i64,
}

impl Config {
    /// Checks what spans keys.
    ///
    /// # Errors
    /// The first key that cannot be, with the cure.
    pub fn validate(&self) -> anyhow::Result<Checked> {
        self.check().exit(Exit::Usage)
    }

    fn check(&self) -> anyhow::Result<Checked> {
        let name = &self.provider.name;
        let known = || marketflow_providers::ALL.iter().map(|provider| provider.id).collect::<Vec<_>>().join(", ");
        let provider = by_id(name).with_context(|| format!("provider.name {name:?} is none of: {}", known()))?;
        let standby = self.standby(provider)?;
        self.metadata.validate()?;
        let instruments = match self.provider.instruments.as_slice() {
            [] => Vec::new(),
            asked => Symbols::read(asked, provider, &marketflow_access::home()).context("provider.instruments")?.all,
        };
        let place = Place::new(provider, &self.provider.websocket_url, &self.provider.rest_url, self.provider.connections);
        let standing_by = standby.iter().map(|(standby, _)| (standby, "failover.connections"));
        let places = std::iter::once((&place, "provider.connections")).chain(standing_by);
        let mut instruments_max = usize::MAX;
        for (place, key) in places {
            ensure!((1..=LINES_MAX).contains(&place.connections), "{key} is not within 1–{LINES_MAX}");
            let (named, slots) = (instruments.len(), self.ranking.slots);
            let (most, each) = (place.instruments_max(), place.provider.limits.instruments_per_connection);
            let wanted = named.saturating_add(slots);
            let keys = if place.provider.credentials.is_empty() {
                String::new()
            } else {
                format!(", each with a key of its own: {}_2, …", place.provider.credentials.join("_2, "))
            };
            ensure!(
                wanted <= most,
                "provider.instruments names {named} and ranking.slots is {slots}; {} takes {each} on a connection: set {key} = {}{keys}",
                place.provider.id,
                wanted.div_ceil(each.max(1))
            );
            instruments_max = instruments_max.min(most);
        }
        ensure!(
            self.connection.backoff_min <= self.connection.backoff_max,
            "connection.backoff_min exceeds connection.backoff_max"
        );
        ensure!(self.connection.attempts > 0, "connection.attempts must be at least 1");
        ensure!(!self.connection.attempts_window.is_zero(), "connection.attempts_window must not be 0");
        ensure!(self.repair.requests_in_flight > 0, "repair.requests_in_flight must be at least 1");
        ensure!(self.repair.ids_per_instrument > 0, "repair.ids_per_instrument must be at least 1");
        let sweep = match provider.repair {
            Repair::Sweep { every, .. } if self.repair.sweep_interval.is_zero() => every,
            Repair::Sweep { .. } | Repair::ContiguousIds | Repair::CumulativeVolume { .. } => self.repair.sweep_interval,
        };
        let ranking = match self.ranking.slots {
            0 => None,
            _ => Some(self.ranking_of(provider)?),
        };
        let rotation = ranking::Settings {
            slots: self.ranking.slots,
            leaves_after: self.ranking.leaves_after,
            stay_min_micros: micros(self.ranking.stay_min, "ranking.stay_min")?,
        };
        Ok(Checked {
            place,
            instruments,
            rotation,
            ranking,
            instruments_max,
            standby,
            sweep_interval_micros: micros(sweep, "repair.sweep_interval")?,
            disorder_micros: micros(self.repair.disorder, "repair.disorder")?,
        })
    }

    /// The provider's ranking, and what the key may spend.
    fn ranking_of(&self, provider: &Provider) -> anyhow::Result<(&'static dyn Ranking, Limits)> {
        let id = provider.id;
        let ranking = ranking_of(id).with_context(|| format!("ranking.slots: {id} ranks no instruments; kis and kiwoom do"))?;
        ensure!(!self.ranking.every.is_zero(), "ranking.every must not be 0");
        ensure!(self.ranking.leaves_after > 0, "ranking.leaves_after must be at least 1");
        self.request.validate()?;
        let limits = self.budget.limits(ranking.limits(), &self.request, max_calls_variable().as_deref())?;
        Ok((ranking, limits))
    }

    /// The provider that stands by: one whose trades have the same ids, because the exchange counts them.
    fn standby(&self, first: &Provider) -> anyhow::Result<Option<(Place, failover::Settings)>> {
        let FailoverConfig { provider: name, connections, websocket_url, rest_url, after, return_after, window } = &self.failover;
        if name.is_empty() {
            return Ok(None);
        }
        let fits = |other: &Provider| {
            let by_volume = matches!(first.repair, Repair::CumulativeVolume { .. });
            by_volume && other.id != first.id && other.venue == first.venue && other.repair == first.repair
        };
        let provider = by_id(name).filter(|other| fits(other)).with_context(|| {
            format!("failover.provider {name:?} cannot stand by for {}: kis and kiwoom can for one another", first.id)
        })?;
        let window_micros = micros(*window, "failover.window")?;
        ensure!(
            window_micros > 0 && window_micros % Interval::ONE_MINUTE.micros() == 0,
            "failover.window must be whole minutes: the longest bar that is built"
        );
        let standby = provider.feed();
        let settings = failover::Settings { standby, after: *after, return_after: *return_after, window_micros };
        Ok(Some((Place::new(provider, websocket_url, rest_url, *connections), settings)))
    }
}

fn micros(duration: Duration, key: &str) -> anyhow::Result<i64> {
    i64::try_from(duration.as_micros()).with_context(|| format!("{key} is too long"))
}
