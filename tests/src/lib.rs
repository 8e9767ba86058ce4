//! marketflow-tests.
