//! marketflow-testkit.
