//! marketflow-kafka.
