//! A Postgres server of a test's own.

use anyhow::{Context, ensure};
use marketflow_stack::tools_folder;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;

/// The server refuses to run as root; it runs as nobody then.
const NOBODY: u32 = 65534;
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// A running server; ends when dropped.
pub struct Postgres {
    server: Child,
    folder: TempDir,
    port: u16,
}

impl Postgres {
    /// Starts one with the database `postgres`, on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// What `scripts/setup.sh` fetched is not there, or the server does not start: its own words.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        // Tools below root's home are not for others' eyes.
        let programs = folder.path().join("programs");
        let fetched = tools_folder().join("postgres");
        ensure!(fetched.is_dir(), "no Postgres in {}; run: make setup", fetched.display());
        let copied = Command::new("cp").arg("-r").args([&fetched, &programs]).status()?;
        ensure!(copied.success(), "cannot copy {}", fetched.display());
        let data = folder.path().join("data");
        std::fs::create_dir(&data)?;
        let is_root = folder.path().metadata()?.uid() == 0;
        if is_root {
            for path in [folder.path(), &data] {
                chown(path, Some(NOBODY), Some(NOBODY))?;
            }
        }
        let program = |name: &str| {
            let mut program = Command::new(programs.join("bin").join(name));
            if is_root {
                program.uid(NOBODY).gid(NOBODY);
            }
            program.arg("-D").arg(&data).current_dir(folder.path());
            program
        };
        let mut made = program("initdb");
        made.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]);
        let made = made.output().context("initdb")?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = log_file(folder.path());
        let mut server = program("postgres");
        server.args([
            "-p",
            &port.to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "unix_socket_directories=",
            "-c",
            "fsync=off",
        ]);
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log)?);
        let mut started = Self { server: server.spawn()?, folder, port };
        crate::eventually(STARTS_WITHIN, async || started.answers().await).await?;
        Ok(started)
    }

    /// Its address: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let log = || std::fs::read_to_string(log_file(self.folder.path())).unwrap_or_default();
        ensure!(self.server.try_wait()?.is_none(), "the server ended: {}", log());
        ensure!(log().contains("ready to accept connections"), "not ready: {}", log());
        TcpStream::connect(("127.0.0.1", self.port)).await.map(|_| ()).context("the server does not answer")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its own children end with it.
        if self.server.kill().and_then(|()| self.server.wait()).is_err() {
            eprintln!("the Postgres of a test did not end: process {}", self.server.id());
        }
    }
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("log")
}
