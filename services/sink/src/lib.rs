//! marketflow-sink.
