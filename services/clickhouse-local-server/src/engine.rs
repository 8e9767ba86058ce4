//! The engine on its data folder: finds the library, keeps one process per folder, boots, hands out connections, kills queries.
//!
//! Data lives in `DATA/chdb-<major.minor>/`. A folder written by another engine version is refused, because it may look readable and
//! be wrong. A lock file beside it names the process that has it.
//!
//! Next: `fault.rs`.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing::{info, warn};

use crate::config::Config;
use crate::fault::Fault;
use crate::ffi::{Connection, Library};
use crate::sql;

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting, a path or a folder is not as it must be; the text says the cure.
    #[error("{0}")]
    Usage(String),
    /// The engine itself failed.
    #[error("the engine does not start: {0}")]
    Engine(String),
}

/// The running engine.
pub(crate) struct Engine {
    library: &'static Library,
    arguments: Vec<String>,
    /// Version as `version()` says it: `26.7.2.1`.
    pub(crate) version: String,
    /// Time zone of the server.
    pub(crate) timezone: String,
    /// Every table function the engine has, in lower case.
    pub(crate) table_functions: BTreeSet<String>,
    /// Keeps the engine alive while no query runs.
    anchor: Mutex<Option<Connection>>,
    _lock: File,
}

impl Engine {
    /// Loads the library, takes the data folder and boots.
    pub(crate) fn open(config: &Config) -> Result<Self, OpenError> {
        let path = library_path(&config.server.library)?;
        let library = Library::open(&path).map_err(|error| {
            OpenError::Usage(format!(
                "cannot load the ClickHouse engine from {}: {error}; `make setup` fetches it anew",
                path.display()
            ))
        })?;
        let folder = data_folder(Path::new(&config.server.data), &library.version())?;
        let lock = lock(&folder)?;
        // The engine reads a `config.xml` and relative file names from the working directory: give it an empty one of its own.
        let files = folder.join("user_files");
        make_folder(&files)?;
        env::set_current_dir(&files).map_err(|error| OpenError::Usage(format!("cannot enter {}: {error}", files.display())))?;

        let arguments = vec![
            format!("--path={}", folder.display()),
            format!("--max_server_memory_usage_to_ram_ratio={}", config.limits.memory_ratio),
            format!("--mark_cache_size={}", config.limits.mark_cache_bytes),
            // As a server has them; the library's own defaults are those of clickhouse-local.
            "--implicit_select=0".to_owned(),
            "--allow_introspection_functions=0".to_owned(),
            "--async_insert=0".to_owned(),
        ];
        let failed = |fault: Fault| OpenError::Engine(fault.message);
        let mut anchor = Connection::open(library, &arguments).map_err(failed)?;
        drop_overlay(&mut anchor).map_err(failed)?;
        let mut ask = |sql: &str| {
            let answer = anchor.query(sql.as_bytes(), "TSVRaw", &[])?;
            Ok(String::from_utf8_lossy(answer.bytes()).trim_end().to_owned())
        };
        let version = ask("SELECT version()").map_err(failed)?;
        let timezone = ask("SELECT timezone()").map_err(failed)?;
        let table_functions = ask("SELECT lower(name) FROM system.table_functions").map_err(failed)?;
        let table_functions = table_functions.lines().map(str::to_owned).collect();
        info!(version, folder = %folder.display(), "the engine runs");
        Ok(Self { library, arguments, version, timezone, table_functions, anchor: Mutex::new(Some(anchor)), _lock: lock })
    }

    /// A new session, about half a millisecond of work. A read-only one cannot be made writable again.
    pub(crate) fn connect(&self, read_only: bool) -> Result<Connection, Fault> {
        let mut arguments = self.arguments.clone();
        if read_only {
            arguments.push("--readonly=2".to_owned());
        }
        Connection::open(self.library, &arguments)
    }

    /// Asks the engine to cancel the statements whose `log_comment` holds the key. They end on their own, at their next block.
    pub(crate) fn kill(&self, key: &str) -> Result<(), Fault> {
        let sql = format!("KILL QUERY WHERE position(Settings['log_comment'], {}) > 0 ASYNC", sql::quote(key));
        self.connect(false)?.query(sql.as_bytes(), "Null", &[]).map(drop)
    }

    /// Closes the data folder. Other connections must be gone by now.
    pub(crate) fn close(&self) {
        drop(self.anchor.lock().expect("nobody panics while holding the anchor").take());
        if !self.library.shutdown() {
            info!("the engine closed its data; some of its idle threads end with the process");
        }
    }
}

/// The library's `default` database is an overlay in which `SELECT * FROM "/etc/passwd"` reads that file. Re-attach the tables below it
/// as an ordinary Atomic database, which is what a server has.
fn drop_overlay(connection: &mut Connection) -> Result<(), Fault> {
    let answer =
        connection.query(b"SELECT uuid FROM system.databases WHERE name = 'default' AND engine = 'Overlay'", "TSVRaw", &[])?;
    let uuid = String::from_utf8_lossy(answer.bytes()).trim().to_owned();
    drop(answer);
    if !uuid.is_empty() {
        connection.query(b"DETACH DATABASE default", "Null", &[])?;
        let attach = format!("ATTACH DATABASE default UUID {} ENGINE = Atomic", sql::quote(&uuid));
        connection.query(attach.as_bytes(), "Null", &[])?;
    }
    Ok(())
}

fn library_path(configured: &str) -> Result<PathBuf, OpenError> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| env::var_os("HOME").map(PathBuf::from).unwrap_or_default().join(".cache"));
    let tools = env::var_os("MARKETFLOW_TOOLS").map_or_else(|| cache.join("marketflow/tools"), PathBuf::from);
    let path = if configured.is_empty() {
        env::var_os("MARKETFLOW_LIBCHDB").map_or_else(|| tools.join("chdb/libchdb.so"), PathBuf::from)
    } else {
        PathBuf::from(configured)
    };
    if path.is_file() {
        return std::path::absolute(&path).map_err(|error| OpenError::Usage(format!("{}: {error}", path.display())));
    }
    Err(OpenError::Usage(format!(
        "the ClickHouse engine is not at {}: `make setup` fetches it, or say where it is with --set server.library=PATH or MARKETFLOW_LIBCHDB",
        path.display()
    )))
}

/// `chdb-26.7`
fn engine_name(version: &str) -> String {
    let mut numbers = version.split('.');
    format!("chdb-{}.{}", numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
}

fn is_engine_name(name: &str) -> bool {
    name.strip_prefix("chdb-")
        .is_some_and(|rest| rest.split('.').count() == 2 && rest.split('.').all(|part| part.parse::<u32>().is_ok()))
}

/// The folder for this engine's data below `data`, or `data` itself when it already is named so.
fn data_folder(data: &Path, version: &str) -> Result<PathBuf, OpenError> {
    let wanted = engine_name(version);
    let data = std::path::absolute(data).map_err(|error| OpenError::Usage(format!("data folder {}: {error}", data.display())))?;
    let refuse = |found: &str, folder: &Path| {
        OpenError::Usage(format!(
            "{} holds data of engine {found}, and this engine is {wanted}: run with the libchdb.so of that version (--set server.library=PATH), or \
             choose another folder (--set server.data=DIR), or move {} away and fill a new one from Kafka",
            folder.display(),
            folder.display()
        ))
    };
    let own_name = data.file_name().and_then(|name| name.to_str()).filter(|name| is_engine_name(name));
    let folder = match own_name {
        Some(name) if name == wanted => data,
        Some(name) => return Err(refuse(name, &data)),
        None => {
            let folder = data.join(&wanted);
            for entry in fs::read_dir(&data).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let other = is_engine_name(&name) && name != wanted;
                if other && fs::read_dir(entry.path()).is_ok_and(|mut content| content.next().is_some()) {
                    if !folder.is_dir() {
                        return Err(refuse(&name, &entry.path()));
                    }
                    warn!(other = %entry.path().display(), used = %folder.display(), "another engine's data lies beside ours");
                }
            }
            folder
        }
    };
    make_folder(&folder)?;
    Ok(folder)
}

fn make_folder(folder: &Path) -> Result<(), OpenError> {
    fs::create_dir_all(folder).map_err(|error| OpenError::Usage(format!("cannot create {}: {error}", folder.display())))
}

/// One process per data folder, for as long as the file is open: the lock goes with the process, however it ends.
fn lock(folder: &Path) -> Result<File, OpenError> {
    let mut path = folder.as_os_str().to_owned();
    path.push(".lock"); // beside the folder, which is the engine's own
    let path = PathBuf::from(path);
    let failed = |error: &dyn std::fmt::Display| OpenError::Usage(format!("cannot lock {}: {error}", path.display()));
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(|error| failed(&error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let holder = file.read_to_string(&mut holder).map_or_else(|_| String::new(), |_| holder.trim().to_owned());
            return Err(OpenError::Usage(format!(
                "{} is in use by process {holder}: one process has a data folder at a time; stop that one or choose another folder (--set server.data=DIR)",
                folder.display()
            )));
        }
        Err(TryLockError::Error(error)) => return Err(failed(&error)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|error| failed(&error))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_another_version_is_refused_with_the_cure() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(data_folder(home.path(), "26.7.0").unwrap(), home.path().join("chdb-26.7"));
        assert_eq!(data_folder(&home.path().join("chdb-26.7"), "26.7.0").unwrap(), home.path().join("chdb-26.7"));
        assert!(data_folder(&home.path().join("chdb-26.5"), "26.7.0").is_err());

        let other = tempfile::tempdir().unwrap();
        fs::create_dir_all(other.path().join("chdb-25.8/store")).unwrap();
        let error = data_folder(other.path(), "26.7.0").unwrap_err().to_string();
        assert!(error.contains("chdb-25.8") && error.contains("server.data"), "{error}");
    }

    #[test]
    fn a_second_process_is_refused_by_name() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("chdb-26.7");
        let first = lock(&folder).unwrap();
        let error = lock(&folder).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(first);
        lock(&folder).unwrap();
    }
}
