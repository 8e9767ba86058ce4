//! marketflow-providers.
