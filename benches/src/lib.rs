//! marketflow-benches.
