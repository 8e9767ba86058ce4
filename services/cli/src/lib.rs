//! marketflow-cli.
