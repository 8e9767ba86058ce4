//! What one stack is: where its state lies, where its programs are, which ports and which parts.
//!
//! Next: `part.rs`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Doing, Error};
use crate::ports::Ports;

/// Names of the parts that carry the data; the rest are our services.
pub const INFRASTRUCTURE: [&str; 3] = ["kafka", "registry", "clickhouse"];

/// Our services, in the order they are started.
pub const SERVICES: [&str; 7] =
    ["sink", "processor", "simulator", "tick-producer", "candle-producer", "flow-producer", "archiver"];

/// How patient the parts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// For people: the brokers' own limits.
    #[default]
    Local,
    /// For tests: short session time-outs allowed, transactions of a dead producer cleaned up within a second.
    Test,
}

/// Everything a stack is started with.
#[derive(Debug, Clone)]
pub struct StackConfig {
    /// State folder: `kafka/ registry/ clickhouse/ logs/ run/`.
    pub home: PathBuf,
    /// Folder of the fetched artifacts (`make setup`).
    pub tools: PathBuf,
    /// Folder of our own programs.
    pub programs: PathBuf,
    /// Ports, all on 127.0.0.1.
    pub ports: Ports,
    /// Parts that carry the data; usually all of [`INFRASTRUCTURE`], a test may want fewer.
    pub infrastructure: Vec<String>,
    /// How patient the parts are.
    pub mode: Mode,
    /// Disk space the home may use, bytes. At four fifths the stack warns, at the cap it stops the producers.
    pub disk_cap_bytes: u64,
    /// Free disk space below which the machine counts as nearly full, bytes.
    pub disk_free_min_bytes: u64,
}

impl StackConfig {
    /// The usual stack in `home`: default ports, all infrastructure, programs beside the running one.
    #[must_use]
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self {
            home: home.into(),
            tools: tools_folder(),
            programs: programs_folder(),
            ports: Ports::default(),
            infrastructure: INFRASTRUCTURE.map(str::to_owned).to_vec(),
            mode: Mode::Local,
            disk_cap_bytes: 20 << 30,
            disk_free_min_bytes: 2 << 30,
        }
    }

    /// A stack for one test: its own home, free ports, short time-outs.
    ///
    /// # Errors
    /// When the machine has no free port left.
    pub fn for_test(home: impl Into<PathBuf>) -> Result<Self, Error> {
        Ok(Self { ports: Ports::free().doing(|| "find free ports".to_owned())?, mode: Mode::Test, ..Self::new(home) })
    }

    /// Keeps only the named infrastructure.
    #[must_use]
    pub fn with_infrastructure(mut self, parts: &[&str]) -> Self {
        self.infrastructure = parts.iter().map(|&part| part.to_owned()).collect();
        self
    }

    /// The state folder as an absolute path, so that parts may have working folders of their own.
    pub(crate) fn absolute(mut self) -> Result<Self, Error> {
        self.home = std::path::absolute(&self.home).doing(|| format!("resolve {}", self.home.display()))?;
        self.tools = std::path::absolute(&self.tools).doing(|| format!("resolve {}", self.tools.display()))?;
        Ok(self)
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.home.join("run")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.home.join("logs")
    }
}

/// `stack.toml` in the state folder; every key may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StackFile {
    /// Ports by part.
    pub ports: Ports,
    /// Services `marketflow up` starts.
    pub services: Option<Vec<String>>,
    /// Disk limits.
    pub disk: DiskFile,
}

/// `[disk]` of `stack.toml`, sizes such as `"20GB"`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskFile {
    /// Space the home may use.
    pub cap: Option<String>,
    /// Free space below which the machine counts as nearly full.
    pub free_min: Option<String>,
}

impl StackFile {
    /// Reads `stack.toml` of `home`; a home without one has the defaults.
    ///
    /// # Errors
    /// When the file cannot be read or holds an unknown key.
    pub fn read(home: &Path) -> Result<Self, Error> {
        let path = home.join("stack.toml");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(Error::Io { doing: format!("read {}", path.display()), source }),
        };
        toml::from_str(&text).map_err(|error| Error::Config { what: format!("{}: {error}", path.display()) })
    }

    /// Lays these settings over `config`.
    ///
    /// # Errors
    /// When a size is not one.
    pub fn apply(&self, config: &mut StackConfig) -> Result<(), Error> {
        config.ports = self.ports;
        if let Some(cap) = &self.disk.cap {
            config.disk_cap_bytes = parse_bytes(cap)?;
        }
        if let Some(free_min) = &self.disk.free_min {
            config.disk_free_min_bytes = parse_bytes(free_min)?;
        }
        Ok(())
    }
}

/// Reads a size: a whole number with `B`, `KB`, `MB`, `GB` or `TB` (powers of 1024) behind it.
///
/// # Errors
/// When it is not one.
pub fn parse_bytes(text: &str) -> Result<u64, Error> {
    let wrong = || Error::Config { what: format!("\"{text}\" is not a size; write for example \"20GB\" or \"500MB\"") };
    let split = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..split].parse().map_err(|_| wrong())?;
    let shift = match text[split..].trim().to_ascii_uppercase().as_str() {
        "B" => 0,
        "KB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// State folder of the local services: `MARKETFLOW_HOME`, else `.marketflow` in the working folder.
#[must_use]
pub fn home_folder() -> PathBuf {
    env::var_os("MARKETFLOW_HOME").filter(|value| !value.is_empty()).map_or_else(|| PathBuf::from(".marketflow"), PathBuf::from)
}

/// Folder of the fetched artifacts: `MARKETFLOW_TOOLS`, else `marketflow/tools` in the user's cache, as in `scripts/setup.sh`.
#[must_use]
pub fn tools_folder() -> PathBuf {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("MARKETFLOW_TOOLS").unwrap_or_else(|| {
        let cache = set("XDG_CACHE_HOME").unwrap_or_else(|| set("HOME").unwrap_or_default().join(".cache"));
        cache.join("marketflow/tools")
    })
}

/// Folder of our programs: the one of the running program. Test binaries lie one below, in `deps`.
#[must_use]
pub fn programs_folder() -> PathBuf {
    let mut folder = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned())).unwrap_or_default();
    if folder.file_name().is_some_and(|name| name == "deps" || name == "examples") {
        folder.pop();
    }
    folder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        for (text, bytes) in [("1B", 1), ("3KB", 3 << 10), ("500mb", 500 << 20), ("20GB", 20 << 30), ("2 TB", 2 << 40)] {
            assert_eq!(parse_bytes(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "20", "GB", "-1GB", "1.5GB", "99999999999TB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn typing_error_in_stack_toml_names_the_key() {
        let error = toml::from_str::<StackFile>("[ports]\nkafak = 1").unwrap_err().to_string();
        assert!(error.contains("kafak"), "{error}");
        let file: StackFile =
            toml::from_str("services = [\"processor\"]\n[ports]\nkafka = 19092\n[disk]\ncap = \"1GB\"").unwrap();
        let mut config = StackConfig::new("home");
        file.apply(&mut config).unwrap();
        assert_eq!((config.ports.kafka, config.ports.registry, config.disk_cap_bytes), (19092, 8081, 1 << 30));
    }
}
