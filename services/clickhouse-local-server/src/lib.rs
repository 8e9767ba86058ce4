//! marketflow-clickhouse-local-server.
