//! What can be wrong with the local stack: for each problem its cause and its cure, in both languages.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::disk::DiskUse;
use crate::language::Language;

/// A problem of the local stack. `Display` is "cause; cure" in English.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No Java, or one that is too old.
    NoJava {
        /// What was found instead.
        found: String,
    },
    /// An artifact `make setup` fetches is not there.
    ToolMissing {
        /// What is missing.
        what: &'static str,
        /// Where it was expected.
        path: PathBuf,
    },
    /// One of our own programs is not beside the running one.
    ProgramMissing {
        /// Name of the program.
        name: String,
        /// Where it was expected.
        path: PathBuf,
    },
    /// Somebody else listens on a port we need.
    PortTaken {
        /// The part that wants the port.
        part: String,
        /// Port number.
        port: u16,
        /// Key under `[ports]`.
        key: String,
        /// Who listens there, where known.
        owner: Option<String>,
    },
    /// Another supervisor works in this home.
    AlreadyRunning {
        /// State folder.
        home: PathBuf,
        /// Process number of the supervisor, where known.
        pid: Option<u32>,
    },
    /// No supervisor works in this home.
    NotRunning {
        /// State folder.
        home: PathBuf,
    },
    /// A supervisor was killed and its parts still run.
    Leftovers {
        /// Their names.
        parts: Vec<String>,
    },
    /// The data folder was written by another ClickHouse engine or version.
    WrongEngine {
        /// Engine that wrote the data.
        found: String,
        /// Engine at hand.
        offered: String,
        /// Folder of the data.
        folder: PathBuf,
    },
    /// A part ended or stayed silent while it was started.
    NotStarted {
        /// The part.
        part: String,
        /// What happened.
        why: String,
        /// Its log file.
        log: PathBuf,
        /// The end of the log.
        tail: String,
    },
    /// A part of a running stack does not answer.
    PartDown {
        /// The part.
        part: String,
        /// What was asked and what came of it, what the supervisor knows.
        why: String,
        /// Its log file.
        log: PathBuf,
        /// The supervisor sees to it without being asked.
        being_restarted: bool,
    },
    /// The home has used up the space it may.
    DiskCap {
        /// The figures.
        disk: DiskUse,
    },
    /// Little space is left on the file system.
    DiskNearlyFull {
        /// The figures.
        disk: DiskUse,
    },
    /// Registry, topics or tables are not what this version's schemas say.
    SchemaMismatch {
        /// The difference in words.
        difference: String,
    },
    /// No part of that name belongs to this stack.
    UnknownPart {
        /// The name asked for.
        part: String,
        /// The names there are.
        known: String,
    },
    /// A setting that cannot be.
    Config {
        /// What is wrong and where.
        what: String,
    },
    /// The operating system said no.
    Io {
        /// What was being attempted.
        doing: String,
        /// What the system answered.
        source: io::Error,
    },
}

/// What sort of problem it is: decides a command's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something on this machine is missing, taken or set wrongly.
    Setting,
    /// A part, or the whole stack, does not answer.
    Unreachable,
    /// Data and program do not belong together.
    Mismatch,
    /// Other circumstances, such as less disk in use, and it works.
    Passing,
    /// The operating system said no.
    System,
}

impl Error {
    /// What sort of problem it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoJava { .. } | Self::ToolMissing { .. } | Self::ProgramMissing { .. } | Self::PortTaken { .. } => {
                Kind::Setting
            }
            Self::WrongEngine { .. } | Self::UnknownPart { .. } | Self::Config { .. } => Kind::Setting,
            Self::NotRunning { .. } | Self::Leftovers { .. } | Self::NotStarted { .. } | Self::PartDown { .. } => {
                Kind::Unreachable
            }
            Self::SchemaMismatch { .. } => Kind::Mismatch,
            Self::AlreadyRunning { .. } | Self::DiskCap { .. } | Self::DiskNearlyFull { .. } => Kind::Passing,
            Self::Io { .. } => Kind::System,
        }
    }

    /// What is wrong.
    #[must_use]
    pub fn cause(&self, language: Language) -> String {
        let say = |english: String, korean: String| language.pick(english, korean);
        match self {
            Self::NoJava { found } => {
                say(format!("there is no Java 17 or newer ({found})"), format!("Java 17 이상이 없습니다 ({found})"))
            }
            Self::ToolMissing { what, path } => {
                say(format!("{what} is missing at {}", path.display()), format!("{what}이(가) {}에 없습니다", path.display()))
            }
            Self::ProgramMissing { name, path } => say(
                format!("program {name} is missing at {}", path.display()),
                format!("프로그램 {name}이(가) {}에 없습니다", path.display()),
            ),
            Self::PortTaken { part, port, owner, .. } => {
                let owner_en = owner.as_deref().unwrap_or("another process");
                let owner_ko = owner.as_deref().unwrap_or("다른 프로세스");
                say(
                    format!("port {port} for {part} is taken by {owner_en}"),
                    format!("{part}의 포트 {port}을(를) {owner_ko}이(가) 쓰고 있습니다"),
                )
            }
            Self::AlreadyRunning { home, pid } => {
                let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                say(
                    format!("a stack already runs in {}{pid}", home.display()),
                    format!("{}에서 스택이 이미 실행 중입니다{pid}", home.display()),
                )
            }
            Self::NotRunning { home } => {
                say(format!("no stack runs in {}", home.display()), format!("{}에서 실행 중인 스택이 없습니다", home.display()))
            }
            Self::Leftovers { parts } => {
                let parts = parts.join(", ");
                say(
                    format!("the supervisor was killed and left running: {parts}"),
                    format!("감독 프로세스가 강제로 종료되어 다음이 남아 있습니다: {parts}"),
                )
            }
            Self::WrongEngine { found, offered, folder } => say(
                format!("the ClickHouse data in {} was written by {found}, this machine offers {offered}", folder.display()),
                format!(
                    "{}의 ClickHouse 데이터는 {found}(으)로 기록되었으나 이 컴퓨터에는 {offered}이(가) 있습니다",
                    folder.display()
                ),
            ),
            Self::NotStarted { part, why, log, tail } => {
                let log = log.display();
                say(
                    format!("{part} did not start: {why}; last lines of {log}:\n{tail}\n"),
                    format!("{part}이(가) 시작되지 않았습니다: {why}; {log}의 마지막 줄:\n{tail}\n"),
                )
            }
            Self::PartDown { part, why, .. } => {
                say(format!("{part} is down: {why}"), format!("{part}이(가) 응답하지 않습니다: {why}"))
            }
            Self::DiskCap { disk } => say(
                format!(
                    "the stack uses {} of the {} it may; producers are stopped there",
                    size(disk.used_bytes),
                    size(disk.cap_bytes)
                ),
                format!(
                    "스택이 허용된 {} 가운데 {}을(를) 사용합니다; 한도에서 생산자가 멈춥니다",
                    size(disk.cap_bytes),
                    size(disk.used_bytes)
                ),
            ),
            Self::DiskNearlyFull { disk } => say(
                format!("the disk is nearly full: {} free, at least {} wanted", size(disk.free_bytes), size(disk.free_min_bytes)),
                format!(
                    "디스크가 거의 찼습니다: 남은 공간 {}, 필요한 최소 공간 {}",
                    size(disk.free_bytes),
                    size(disk.free_min_bytes)
                ),
            ),
            Self::SchemaMismatch { difference } => say(
                format!("schemas do not match this version: {difference}"),
                format!("스키마가 이 버전과 맞지 않습니다: {difference}"),
            ),
            Self::UnknownPart { part, known } => say(
                format!("no part is named {part}; there are: {known}"),
                format!("{part}(이)라는 구성 요소가 없습니다; 있는 것: {known}"),
            ),
            Self::Config { what } => what.clone(),
            Self::Io { doing, source } => say(format!("cannot {doing}: {source}"), format!("할 수 없음: {doing}: {source}")),
        }
    }

    /// What to do about it; empty where the cause says it all.
    #[must_use]
    pub fn cure(&self, language: Language) -> String {
        let say = |english: String, korean: String| language.pick(english, korean);
        match self {
            Self::NoJava { .. } => say(
                "run `make setup`, or install a Java runtime and set JAVA_HOME or PATH".into(),
                "`make setup`을 실행하거나 Java를 설치하고 JAVA_HOME 또는 PATH를 설정하세요".into(),
            ),
            Self::ToolMissing { .. } => say("run `make setup`".into(), "`make setup`을 실행하세요".into()),
            Self::ProgramMissing { .. } => {
                say("run `cargo build --workspace --bins`".into(), "`cargo build --workspace --bins`를 실행하세요".into())
            }
            Self::PortTaken { key, .. } => {
                let flag = key.replace('_', "-");
                say(
                    format!("stop it, or choose another port with --{flag}-port or ports.{key} in stack.toml, or use --free-ports"),
                    format!("그 프로세스를 끝내거나 --{flag}-port 또는 stack.toml의 ports.{key}(으)로 다른 포트를 정하거나 --free-ports를 쓰세요"),
                )
            }
            Self::AlreadyRunning { .. } => {
                say("see `marketflow status`, stop it with `marketflow down`".into(), "`marketflow status`로 확인하고 `marketflow down`으로 끝내세요".into())
            }
            Self::NotRunning { .. } => say("start it with `marketflow up`".into(), "`marketflow up`으로 시작하세요".into()),
            Self::Leftovers { .. } => say(
                "`marketflow up` ends them and starts anew, `marketflow down` only ends them; data is kept".into(),
                "`marketflow up`은 정리하고 다시 시작하며 `marketflow down`은 정리만 합니다; 데이터는 남습니다".into(),
            ),
            Self::WrongEngine { found, folder, .. } => say(
                format!("put {found} back, or move {} away, or drop all data with `marketflow down --purge`", folder.display()),
                format!("{found}을(를) 다시 설치하거나 {}을(를) 옮기거나 `marketflow down --purge`로 데이터를 모두 지우세요", folder.display()),
            ),
            Self::NotStarted { part, .. } => {
                say(format!("see `marketflow logs {part}` and `marketflow doctor`"), format!("`marketflow logs {part}`와 `marketflow doctor`를 보세요"))
            }
            Self::PartDown { part, log, being_restarted: true, .. } => say(
                format!("the supervisor starts it again by itself; if it stays down, see {} (`marketflow logs {part}`)", log.display()),
                format!("감독 프로세스가 다시 시작하고 있습니다; 계속되면 {}을(를) 보세요 (`marketflow logs {part}`)", log.display()),
            ),
            Self::PartDown { part, log, .. } => say(
                format!("see {} (`marketflow logs {part}`), then `marketflow up` starts it again", log.display()),
                format!("{}을(를) 보고 (`marketflow logs {part}`) `marketflow up`으로 다시 시작하세요", log.display()),
            ),
            Self::DiskCap { .. } => say(
                "raise disk.cap in stack.toml and run `marketflow down` and `up`, or drop all data with `marketflow down --purge`".into(),
                "stack.toml의 disk.cap을 올리고 `marketflow down`과 `up`을 실행하거나 `marketflow down --purge`로 데이터를 모두 지우세요".into(),
            ),
            Self::DiskNearlyFull { .. } => say(
                "free some space, or move the state folder with MARKETFLOW_HOME; disk.free_min in stack.toml sets the limit".into(),
                "공간을 비우거나 MARKETFLOW_HOME으로 상태 폴더를 옮기세요; 기준은 stack.toml의 disk.free_min입니다".into(),
            ),
            Self::SchemaMismatch { .. } => say(
                "use the version of marketflow that wrote the data, or drop all data with `marketflow down --purge`".into(),
                "데이터를 기록한 marketflow 버전을 쓰거나 `marketflow down --purge`로 데이터를 모두 지우세요".into(),
            ),
            Self::UnknownPart { .. } | Self::Config { .. } | Self::Io { .. } => String::new(),
        }
    }

    /// Cause and cure as one text.
    #[must_use]
    pub fn words(&self, language: Language) -> String {
        match (self.cause(language), self.cure(language)) {
            (cause, cure) if cure.is_empty() => cause,
            (cause, cure) if cause.ends_with('\n') => format!("{cause}{cure}"),
            (cause, cure) => format!("{cause}; {cure}"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.words(Language::English))
    }
}

// no source(): what the operating system answered is part of the words
impl std::error::Error for Error {}

/// A number of bytes as people read it.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")];
    match UNITS.into_iter().find(|&(unit, _)| bytes >= unit) {
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

/// Adds what was being attempted to an error of the operating system.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io { doing: what(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_names_cause_and_cure_in_both_languages() {
        let error =
            Error::PortTaken { part: "registry".into(), port: 8081, key: "registry".into(), owner: Some("java (pid 7)".into()) };
        for language in [Language::English, Language::Korean] {
            let words = error.words(language);
            assert!(
                ["8081", "java (pid 7)", "--registry-port", "ports.registry"].iter().all(|word| words.contains(word)),
                "{words}"
            );
        }
        assert_ne!(error.words(Language::English), error.words(Language::Korean));
    }

    #[test]
    fn sizes_have_one_decimal() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KB"), (20 << 30, "20.0 GB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
