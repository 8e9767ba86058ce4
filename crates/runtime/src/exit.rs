//! Exit codes, and how an error carries one.

use std::fmt;
use std::process::ExitCode;

/// How a process ends. Attached to an error with [`ExitContext::exit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// 0: done, or stopped when asked.
    Ok,
    /// 1: failed.
    Failed,
    /// 2: a check ran and said no.
    CheckSaidNo,
    /// 64: wrong arguments or configuration.
    Usage,
    /// 69: another part is not reachable.
    Unreachable,
    /// 70: fenced, or a fatal state that a restart with the same input may not cure.
    Fatal,
    /// 75: try again later.
    TryAgain,
    /// 130: interrupted.
    Interrupted,
}

impl Exit {
    /// The number the shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::CheckSaidNo => 2,
            Self::Usage => 64,
            Self::Unreachable => 69,
            Self::Fatal => 70,
            Self::TryAgain => 75,
            Self::Interrupted => 130,
        }
    }

    /// The exit an error asks for; [`Exit::Failed`] when it says nothing.
    pub fn of(error: &anyhow::Error) -> Self {
        error.downcast_ref::<Self>().copied().unwrap_or(Self::Failed)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "done",
            Self::Failed => "failed",
            Self::CheckSaidNo => "a check said no",
            Self::Usage => "usage or configuration",
            Self::Unreachable => "a part is not reachable",
            Self::Fatal => "cannot go on",
            Self::TryAgain => "try again",
            Self::Interrupted => "interrupted",
        })
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Attaches an [`Exit`] to an error on its way to `main`.
pub trait ExitContext<T> {
    /// The same error, ending the process with `exit` unless a more deeply nested one already says otherwise.
    ///
    /// # Errors
    /// Whatever `self` held.
    fn exit(self, exit: Exit) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> ExitContext<T> for Result<T, E> {
    fn exit(self, exit: Exit) -> anyhow::Result<T> {
        self.map_err(|error| {
            let error = error.into();
            if error.downcast_ref::<Exit>().is_some() { error } else { error.context(exit) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn an_error_keeps_its_exit_through_further_context() {
        let result: anyhow::Result<()> =
            Err(anyhow::anyhow!("connection refused")).exit(Exit::Unreachable).context("cannot read the catalogue");
        assert_eq!(Exit::of(&result.unwrap_err()), Exit::Unreachable);
        let nested: anyhow::Result<()> = Err(anyhow::anyhow!("fenced")).exit(Exit::Fatal).exit(Exit::Failed);
        assert_eq!(Exit::of(&nested.unwrap_err()), Exit::Fatal);
        assert_eq!(Exit::of(&anyhow::anyhow!("anything")), Exit::Failed);
    }
}
