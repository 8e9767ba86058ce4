//! What can go wrong, and what the loop should do about it.

use crate::native::TransactionProblem;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// What a loop does about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// The same call with the same arguments, later.
    Retry,
    /// Abort the open transaction, forget what it computed, go back to the committed offsets.
    Abort,
    /// Put the record aside and go on.
    DeadLetter,
    /// End the process; nothing this instance could do next is safe or useful.
    Fatal,
}

/// An error of Kafka or of the schema registry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting librdkafka or the registry client does not take.
    #[error("kafka configuration: {0}")]
    Config(String),
    /// A call to Kafka.
    #[error("cannot {doing}")]
    Kafka {
        /// What was being attempted, with topic and partition where they are known.
        doing: String,
        /// librdkafka's answer.
        #[source]
        source: KafkaError,
    },
    /// Offsets could not be added to a transaction.
    #[error("cannot {doing}")]
    Transaction {
        /// What was being attempted.
        doing: String,
        /// librdkafka's answer.
        #[source]
        source: TransactionProblem,
    },
    /// No answer from the cluster in time.
    #[error("cannot {doing}: no answer within {seconds} s")]
    Timeout {
        /// What was being attempted.
        doing: String,
        /// How long it was tried.
        seconds: u64,
    },
    /// Retried in vain.
    #[error("gave up after {seconds} s")]
    GaveUp {
        /// How long it was tried.
        seconds: u64,
        /// The last answer.
        #[source]
        problem: Box<Error>,
        /// What is next.
        then: Disposition,
    },
    /// The cluster did not take a record.
    #[error("cannot {doing}: {reason}")]
    Refused {
        /// What was being attempted.
        doing: String,
        /// Its answer.
        reason: String,
    },
    /// The cluster is not as `schemas/topics.toml` says; one line per difference.
    #[error("the Kafka cluster disagrees with schemas/topics.toml: {}", .0.join("; "))]
    TopicsDisagree(Vec<String>),
    /// The registry did not answer, or not sensibly.
    #[error("cannot {doing} at the schema registry: {reason}")]
    Registry {
        /// What was being attempted.
        doing: String,
        /// Its answer, or why there was none.
        reason: String,
        /// Whether the same call may succeed later.
        retry: bool,
    },
    /// The registry is not as `schemas/avro` says; one line per difference.
    #[error("the schema registry disagrees with schemas/avro: {}", .0.join("; "))]
    SchemasDisagree(Vec<String>),
}

impl Error {
    pub(crate) fn kafka(doing: impl Into<String>) -> impl FnOnce(KafkaError) -> Self {
        let doing = doing.into();
        move |source| Self::Kafka { doing, source }
    }

    /// What to do about it.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Config(_) | Self::TopicsDisagree(_) | Self::SchemasDisagree(_) => Disposition::Fatal,
            Self::Timeout { .. } | Self::Refused { .. } => Disposition::Retry,
            Self::GaveUp { then, .. } => *then,
            Self::Registry { retry, .. } => {
                if *retry {
                    Disposition::Retry
                } else {
                    Disposition::Fatal
                }
            }
            Self::Kafka { source, .. } => of_kafka(source),
            Self::Transaction { source, .. } => of_transaction(source.is_fatal, source.requires_abort, source.is_retriable),
        }
    }

    /// Whether the cause is that a server cannot be reached (exit 69).
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::GaveUp { problem, .. } => problem.is_unreachable(),
            Self::Registry { retry, .. } => *retry,
            Self::Kafka { source, .. } => matches!(
                source.rdkafka_error_code(),
                Some(
                    RDKafkaErrorCode::BrokerTransportFailure
                        | RDKafkaErrorCode::AllBrokersDown
                        | RDKafkaErrorCode::OperationTimedOut
                        | RDKafkaErrorCode::Resolve
                )
            ),
            Self::Config(_)
            | Self::Transaction { .. }
            | Self::Refused { .. }
            | Self::TopicsDisagree(_)
            | Self::SchemasDisagree(_) => false,
        }
    }
}

fn of_kafka(error: &KafkaError) -> Disposition {
    if let KafkaError::Transaction(error) = error {
        return of_transaction(error.is_fatal(), error.txn_requires_abort(), error.is_retriable());
    }
    if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
        return Disposition::Fatal;
    }
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::QueueFull
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::MessageTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::CoordinatorLoadInProgress
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::NotLeaderForPartition
            | RDKafkaErrorCode::RebalanceInProgress
            | RDKafkaErrorCode::InProgress
            | RDKafkaErrorCode::State,
        ) => Disposition::Retry,
        // the group moved on without us, or the transaction cannot be saved: what was computed is void
        Some(
            RDKafkaErrorCode::IllegalGeneration
            | RDKafkaErrorCode::UnknownMemberId
            | RDKafkaErrorCode::AssignmentLost
            | RDKafkaErrorCode::PurgeQueue
            | RDKafkaErrorCode::PurgeInflight,
        ) => Disposition::Abort,
        _ => Disposition::Fatal,
    }
}

/// What librdkafka's flags ask for.
fn of_transaction(is_fatal: bool, requires_abort: bool, is_retriable: bool) -> Disposition {
    if is_fatal {
        Disposition::Fatal
    } else if requires_abort {
        Disposition::Abort
    } else if is_retriable {
        Disposition::Retry
    } else {
        // unflagged: the outcome is unknown to librdkafka as well
        Disposition::Fatal
    }
}
