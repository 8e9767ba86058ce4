//! What a person types, one module a verb.
//!
//! A verb is a module with `pub struct Args` (its arguments; the doc comment is its help) and `pub fn run(Args) -> anyhow::Result<Exit>`,
//! plus its two lines here.

pub mod archive;
pub mod audit;
pub mod backfill;
pub mod backup;
pub mod bars;
pub mod calendar;
mod candle_producer;
pub mod completion;
pub(crate) mod connection;
pub mod demo;
pub mod dlq;
pub mod doctor;
pub mod down;
pub mod explain;
pub mod export;
pub mod flows;
pub mod import;
pub mod logs;
mod metrics;
pub mod plan;
pub mod price;
pub mod provision;
mod query;
pub mod reconcile;
pub mod reference;
pub mod replay;
pub mod restore;
mod sibling;
pub mod sql;
pub mod status;
mod status_watch;
pub mod tail;
mod time;
pub mod trace;
pub mod up;

macro_rules! commands {
    ($($variant:ident($module:ident),)+) => {
        /// The verbs.
        #[derive(clap::Subcommand, Debug)]
        #[expect(missing_docs, clippy::large_enum_variant, reason = "each verb's text stands at its arguments; there is one value")]
        pub enum Command {
            $($variant($module::Args),)+
        }

        impl Command {
            /// Runs the verb.
            ///
            /// # Errors
            /// What the verb could not do, with its exit code.
            pub fn run(self) -> anyhow::Result<marketflow_runtime::Exit> {
                match self {
                    $(Self::$variant(args) => $module::run(args),)+
                }
            }
        }
    };
}

// in the order of --help
commands! {
    Up(up),
    Down(down),
    Provision(provision),
    Status(status),
    Logs(logs),
    Doctor(doctor),
    Demo(demo),
    Import(import),
    Plan(plan),
    Backfill(backfill),
    Reconcile(reconcile),
    Reference(reference),
    Price(price),
    Bars(bars),
    Flows(flows),
    Explain(explain),
    Trace(trace),
    Audit(audit),
    Replay(replay),
    Calendar(calendar),
    Tail(tail),
    Dlq(dlq),
    Sql(sql),
    Archive(archive),
    Export(export),
    Backup(backup),
    Restore(restore),
    Completion(completion),
}
