//! ClickHouse: a `clickhouse` program on the PATH when it is new enough, else our clickhouse-local-server over the engine as a library.
//!
//! Each engine and version keeps its data in a folder of its own, and a home that holds another one's data is refused with the cure: a
//! folder written by a newer engine may look readable and be wrong.
//!
//! Next: `service.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::config::StackConfig;
use crate::error::{Doing, Error};
use crate::part::PartSpec;
use crate::ports::PortUse;
use crate::probe::Probe;
use crate::service;

/// The oldest `clickhouse` program we use: the sink's settings mean there what we measured.
const OLDEST: (u32, u32) = (25, 8);

/// Which engine a machine offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClickHouseEngine {
    /// `clickhouse` for the server program, `chdb` for the library.
    pub kind: &'static str,
    /// Major and minor version.
    pub version: (u32, u32),
    /// The server program, or the library.
    pub path: PathBuf,
}

impl ClickHouseEngine {
    /// Looks for the server program on the PATH, then for the library in the tools folder.
    ///
    /// # Errors
    /// When neither is there.
    pub fn find(tools: &Path) -> Result<Self, Error> {
        if let Some(server) = on_path("clickhouse")
            && let Some(version) = program_version(&server).filter(|&version| version >= OLDEST)
        {
            return Ok(Self { kind: "clickhouse", version, path: server });
        }
        let path = tools.join("chdb/libchdb.so");
        let missing = || Error::ToolMissing { what: "the ClickHouse engine", path: path.clone() };
        if !path.is_file() {
            return Err(missing());
        }
        let package = fs::read_to_string(tools.join("chdb/package.json")).map_err(|_| missing())?;
        let package: serde_json::Value = serde_json::from_str(&package).map_err(|_| missing())?;
        let version = package["version"].as_str().and_then(major_minor).ok_or_else(missing)?;
        Ok(Self { kind: "chdb", version, path })
    }

    /// Name with version, as its data folder is called: `chdb-26.7`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}.{}", self.kind, self.version.0, self.version.1)
    }

    /// The folder for this engine's data in `home`.
    ///
    /// # Errors
    /// [`Error::WrongEngine`] when the home holds data of another engine or version.
    pub fn data_folder(&self, home: &Path) -> Result<PathBuf, Error> {
        let all = home.join("clickhouse");
        let other = fs::read_dir(&all).into_iter().flatten().flatten().find(|entry| {
            let foreign = entry.file_name().to_str().is_some_and(|name| is_engine_name(name) && name != self.name());
            foreign && fs::read_dir(entry.path()).is_ok_and(|mut content| content.next().is_some())
        });
        match other {
            Some(entry) => Err(Error::WrongEngine {
                found: entry.file_name().to_string_lossy().into_owned(),
                offered: self.name(),
                folder: entry.path(),
            }),
            None => Ok(all.join(self.name())),
        }
    }
}

pub(crate) fn spec(config: &StackConfig) -> Result<PartSpec, Error> {
    let engine = ClickHouseEngine::find(&config.tools)?;
    let folder = engine.data_folder(&config.home)?;
    fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
    let port = config.ports.clickhouse;
    let http = PortUse::new(port, "clickhouse");
    let probe = Probe::Http { port, path: "/ping".to_owned() };
    if engine.kind == "clickhouse" {
        let file = config.home.join("clickhouse/config.xml");
        fs::write(&file, server_config(port, &folder)).doing(|| format!("write {}", file.display()))?;
        return Ok(PartSpec {
            name: "clickhouse".to_owned(),
            program: engine.path,
            args: ["server".into(), format!("--config-file={}", file.display()).into()].to_vec(),
            env: Vec::new(),
            folder: Some(folder),
            ports: vec![http],
            probe,
            ready_line: None,
            ready_within: Duration::from_secs(60),
            stop_within: Duration::from_secs(30),
            may_end: false,
        });
    }
    let admin = config.ports.clickhouse_admin;
    Ok(PartSpec {
        name: "clickhouse".to_owned(),
        program: service::program(config, "clickhouse-local-server")?,
        args: Vec::new(),
        env: [
            ("MARKETFLOW__SERVER__LISTEN", format!("127.0.0.1:{port}")),
            // the server adds its engine's name and version itself
            ("MARKETFLOW__SERVER__DATA", config.home.join("clickhouse").display().to_string()),
            ("MARKETFLOW__SERVER__LIBRARY", engine.path.display().to_string()),
            ("MARKETFLOW__ADMIN__LISTEN", format!("127.0.0.1:{admin}")),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .to_vec(),
        folder: None,
        ports: vec![http, PortUse::new(admin, "clickhouse_admin")],
        probe,
        ready_line: None,
        ready_within: Duration::from_secs(60),
        stop_within: Duration::from_secs(30),
        may_end: false,
    })
}

/// Configuration of the server program: one user without a password, reachable from this machine only, modest caches.
fn server_config(port: u16, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "<clickhouse>
  <logger><level>warning</level><console>1</console></logger>
  <listen_host>127.0.0.1</listen_host>
  <http_port>{port}</http_port>
  <path>{folder}/</path>
  <tmp_path>{folder}/tmp/</tmp_path>
  <user_files_path>{folder}/user_files/</user_files_path>
  <format_schema_path>{folder}/format_schemas/</format_schema_path>
  <mark_cache_size>268435456</mark_cache_size>
  <max_server_memory_usage_to_ram_ratio>0.4</max_server_memory_usage_to_ram_ratio>
  <user_directories><users_xml><path>config.xml</path></users_xml></user_directories>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
  <users><default><password/><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></default></users>
</clickhouse>
"
    )
}

fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// `ClickHouse local version 25.8.1.1 (official build).` -> (25, 8)
fn program_version(program: &Path) -> Option<(u32, u32)> {
    let output = Command::new(program).args(["local", "--version"]).output().ok()?;
    String::from_utf8_lossy(&output.stdout).split_whitespace().find_map(major_minor)
}

fn major_minor(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn is_engine_name(name: &str) -> bool {
    name.rsplit_once('-').is_some_and(|(kind, version)| matches!(kind, "chdb" | "clickhouse") && major_minor(version).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_programs_and_packages_say() {
        assert_eq!("ClickHouse local version 25.8.1.1 (official build).".split_whitespace().find_map(major_minor), Some((25, 8)));
        assert_eq!(major_minor("26.7.3-stable.1"), Some((26, 7)));
        assert_eq!(major_minor("unknown"), None);
    }

    #[test]
    fn data_of_another_version_is_refused_with_the_cure() {
        let home = tempfile::tempdir().unwrap();
        let engine = ClickHouseEngine { kind: "chdb", version: (26, 7), path: PathBuf::new() };
        assert_eq!(engine.data_folder(home.path()).unwrap(), home.path().join("clickhouse/chdb-26.7"));

        let older = home.path().join("clickhouse/chdb-26.5");
        fs::create_dir_all(&older).unwrap();
        assert!(engine.data_folder(home.path()).is_ok(), "an empty folder is no data");
        fs::write(older.join("uuid"), "x").unwrap();
        let error = engine.data_folder(home.path()).unwrap_err().to_string();
        for word in ["chdb-26.5", "chdb-26.7", "down --purge"] {
            assert!(error.contains(word), "{error}");
        }
    }
}
