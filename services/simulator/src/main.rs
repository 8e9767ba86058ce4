//! Market simulator: tapes in; the venues' own WebSocket and REST out, in virtual time, with faults and a truth file.
//! How to use it: docs/simulator.md.

use marketflow_runtime::{Exit, ExitContext, run};
use marketflow_simulator::player::Player;
use marketflow_simulator::server::Wire;
use marketflow_simulator::{Config, DEFAULTS, Simulation, admin};
use std::process::ExitCode;

fn main() -> ExitCode {
    run::<Config, _>(marketflow_runtime::program!("simulator"), DEFAULTS, async |config, lifecycle| {
        let simulation = Simulation::new(config, lifecycle.metrics()).exit(Exit::Usage)?;
        let wire = Wire::bind(simulation.clone()).exit(Exit::Usage)?;
        lifecycle.routes(admin::routes(simulation.clone()));
        lifecycle.ready();
        tokio::select! {
            result = wire.serve(lifecycle.stop()) => result?,
            result = Player::new(simulation.clone()).run(lifecycle.stop()) => result?,
        }
        simulation.write_truth()
    })
}
