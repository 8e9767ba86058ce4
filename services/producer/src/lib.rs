//! marketflow-producer.
