//! marketflow-clickhouse.
