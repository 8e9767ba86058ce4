//! marketflow-oracle.
