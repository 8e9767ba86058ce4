//! Which exit an error means.

use marketflow_runtime::Exit;

/// An error that a restart does not cure: a person decides.
pub(crate) fn stop(what: String) -> anyhow::Error {
    anyhow::anyhow!(what).context(Exit::Fatal)
}

/// Attaches the exit code that the first of our errors in the chain asks for.
pub fn exit_of(error: anyhow::Error) -> anyhow::Error {
    if error.downcast_ref::<Exit>().is_some() {
        return error;
    }
    let exit = error.chain().find_map(|cause| {
        if let Some(kafka) = cause.downcast_ref::<marketflow_kafka::Error>() {
            let usage = matches!(kafka, marketflow_kafka::Error::Config(_));
            return Some(if usage {
                Exit::Usage
            } else if kafka.is_unreachable() {
                Exit::Unreachable
            } else {
                Exit::Fatal
            });
        }
        let clickhouse = cause.downcast_ref::<marketflow_clickhouse::Error>()?;
        Some(if clickhouse.is_unreachable() { Exit::Unreachable } else { Exit::Fatal })
    });
    match exit {
        Some(exit) => error.context(exit),
        None => error,
    }
}
