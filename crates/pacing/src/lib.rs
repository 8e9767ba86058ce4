//! marketflow-pacing.
