//! clickhouse-local-server: ClickHouse's HTTP interface on this machine, without a ClickHouse installation.
//! Settings: `src/default.toml`. Guarantees and how they are tested: README.md.

use std::process::ExitCode;

use marketflow_clickhouse_local_server::{Config, DEFAULTS, serve};

fn main() -> ExitCode {
    marketflow_runtime::run::<Config, _>(
        marketflow_runtime::program!("clickhouse-local-server"),
        DEFAULTS,
        async |config, lifecycle| serve(config, lifecycle).await,
    )
}
