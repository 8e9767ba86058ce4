//! Sink: every topic that holds market data in, ClickHouse rows out, each visible once.
//! Topics: schemas/topics.toml. Guarantees and how they are tested: README.md.

use marketflow_runtime::{ExitContext, on_thread, run};
use marketflow_sink::{Config, DEFAULTS, Sink, exit_of};
use std::process::ExitCode;

/// librdkafka makes each record on its own thread and the loop frees it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    run::<Config, _>(marketflow_runtime::program!("sink"), DEFAULTS, async |config, lifecycle| {
        config.validate().exit(marketflow_runtime::Exit::Usage)?;
        let sink = Sink::connect(config, lifecycle.metrics()).await.map_err(exit_of)?;
        lifecycle.ready();
        let stop = lifecycle.stop();
        on_thread("sink", move || sink.run(&stop)).await.map_err(exit_of)
    })
}
