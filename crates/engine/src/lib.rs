//! marketflow-engine.
