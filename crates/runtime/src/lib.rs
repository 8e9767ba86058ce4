//! marketflow-runtime.
