//! Passes: issued once, kept in a file only their owner reads, shared by every process of the machine, renewed before they end.
//!
//! Whoever needs a pass takes the file's lock, reads it, and only asks the venue when it holds none for another hour. So however many processes
//! start at once, one asks and the others read; and the venue's least time between two requests holds over all of them, also over failures and
//! restarts, because the last attempt stands in the file. Times here are the wall's: they are the venue's own, whatever is played.
//!
//! Next: `config.rs`; a socket shows its pass in `services/producer/src/websocket.rs`.

use anyhow::{Context, anyhow, ensure};
use marketflow_providers::{Credentials, Ends, Login, LoginRequest, Pass, PassKind, Provider, RestAnswer, RestError, Secret};
use marketflow_runtime::{Exit, ExitContext, setting};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tracing::{info, warn};

/// A pass that ends sooner is renewed.
const RENEW_BEFORE: Duration = Duration::from_secs(3600);
/// Between two looks at a lock that another process holds.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The passes of one customer at one provider.
#[derive(Clone)]
pub struct Passes {
    provider: &'static Provider,
    login: &'static dyn Login,
    credentials: Credentials,
    url: String,
    folder: PathBuf,
    /// Tells customers and endpoints apart without naming them.
    owner: String,
    http: reqwest::Client,
}

/// What the file holds. Seconds since the epoch.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    secret: String,
    issued_at: u64,
    ends_at: u64,
    /// When the venue was last asked, whatever it answered.
    asked_at: u64,
}

impl Passes {
    /// The passes of whoever the credentials name; `None` where the provider asks for none.
    ///
    /// # Errors
    /// Credentials that are missing, by name, with the cure.
    pub fn new(provider: &'static Provider, url: &str, folder: &Path, file: &Path) -> anyhow::Result<Option<Self>> {
        Self::of_key(1, provider, url, folder, file)
    }

    /// The same of a customer's further keys, counted from 1: the names of the second one's credentials end with `_2`, and so on.
    ///
    /// # Errors
    /// As [`Passes::new`].
    pub fn of_key(
        key: usize,
        provider: &'static Provider,
        url: &str,
        folder: &Path,
        file: &Path,
    ) -> anyhow::Result<Option<Self>> {
        let Some(login) = provider.login else { return Ok(None) };
        let credentials = credentials(provider, file, key)?;
        let mut hash = Sha256::new();
        hash.update(url);
        provider.credentials.iter().for_each(|name| hash.update(credentials.get(name).expose()));
        let owner = hex::encode(&hash.finalize()[..8]);
        let http = crate::http_client(url, ANSWER_WITHIN)?;
        Ok(Some(Self { provider, login, credentials, url: url.to_owned(), folder: folder.to_owned(), owner, http }))
    }

    /// What the customer was given.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Tells customers and endpoints apart without naming them: part of the names of files that belong to one key.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Which of them the socket wants to see.
    pub fn for_socket(&self) -> PassKind {
        self.login.for_socket()
    }

    /// A pass that is good for another hour, from the file or the venue.
    ///
    /// # Errors
    /// The venue refuses the credentials, or does not answer; a file that cannot be written.
    pub async fn get(&self, kind: PassKind) -> anyhow::Result<Secret> {
        let _lock = self.lock(kind).await?;
        let mut kept = self.read(kind)?;
        let now = since_epoch();
        if !kept.secret.is_empty() && kept.ends_at > now + RENEW_BEFORE.as_secs() {
            return Ok(Secret::new(kept.secret));
        }
        let request = self.login.request(kind, &self.credentials);
        let wait = (kept.asked_at + request.interval_min.as_secs()).saturating_sub(now).min(request.interval_min.as_secs());
        if wait > 0 {
            info!(
                provider = self.provider.id,
                pass = kind.as_str(),
                seconds = wait,
                "the venue issues one pass at a time; waiting"
            );
            tokio::time::sleep(Duration::from_secs(wait)).await;
        }
        let asked_before = std::mem::replace(&mut kept.asked_at, since_epoch());
        self.write(kind, &kept)?;
        let (arrived, answer) = self.ask(kind, &request).await;
        if !arrived {
            // No request, so the next need not wait for the venue's sake.
            kept.asked_at = asked_before;
            self.write(kind, &kept)?;
        }
        match answer {
            Ok(pass) => {
                let issued_at = since_epoch();
                let ends_at = match pass.ends {
                    Ends::After(duration) => issued_at + duration.as_secs(),
                    Ends::At(instant) => u64::try_from(instant.micros() / 1_000_000).unwrap_or(issued_at),
                };
                kept = Kept { secret: pass.secret.expose().to_owned(), issued_at, ends_at, asked_at: kept.asked_at };
                self.write(kind, &kept)?;
                info!(provider = self.provider.id, pass = kind.as_str(), "a pass was issued");
                Ok(pass.secret)
            }
            Err(problem) if !problem.retryable() => Err(anyhow!(
                "{} refuses the credentials: {problem}; check {} in the environment or in the file that credentials_file names, and that real \
                 keys go to the real host and paper keys to the paper host",
                self.provider.id,
                self.provider.credentials.join(", ")
            )
            .context(Exit::Usage)),
            // A pass in its last hour is better than none.
            Err(problem) if !kept.secret.is_empty() && kept.ends_at > since_epoch() => {
                warn!(provider = self.provider.id, pass = kind.as_str(), %problem, "no new pass yet; the old one is still good");
                Ok(Secret::new(kept.secret))
            }
            Err(problem) => Err(problem).with_context(|| format!("no {} from {}", kind.as_str(), self.provider.id)),
        }
    }

    /// The venue no longer takes this pass: the next one is asked for.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub async fn refused(&self, kind: PassKind, secret: &Secret) -> anyhow::Result<()> {
        let _lock = self.lock(kind).await?;
        let mut kept = self.read(kind)?;
        // Another process may have a new one already.
        if kept.secret == secret.expose() {
            kept.secret.clear();
            self.write(kind, &kept)?;
        }
        Ok(())
    }

    /// Gives a pass back before its time, where there is one.
    ///
    /// # Errors
    /// The venue does not answer, or refuses; a file that cannot be written.
    pub async fn revoke(&self, kind: PassKind) -> anyhow::Result<()> {
        let _lock = self.lock(kind).await?;
        let mut kept = self.read(kind)?;
        if kept.secret.is_empty() {
            return Ok(());
        }
        let secret = Secret::new(std::mem::take(&mut kept.secret));
        let (status, _) = self.post(&self.login.revocation(kind, &self.credentials, &secret)).await?;
        ensure!(status == 200, "{} did not take its pass back: HTTP {status}", self.provider.id);
        self.write(kind, &kept)?;
        info!(provider = self.provider.id, pass = kind.as_str(), "a pass was given back");
        Ok(())
    }

    async fn post(&self, request: &LoginRequest) -> reqwest::Result<(u16, Vec<u8>)> {
        let mut call = self.http.post(format!("{}{}", self.url, request.path)).header("content-type", request.content_type);
        for (name, value) in request.headers {
            call = call.header(*name, *value);
        }
        let answer = call.body(request.body.expose().to_owned()).send().await.map_err(reqwest::Error::without_url)?;
        let status = answer.status().as_u16();
        Ok((status, answer.bytes().await.map_err(reqwest::Error::without_url)?.to_vec()))
    }

    /// Whether the request can have arrived, and what came of it.
    async fn ask(&self, kind: PassKind, request: &LoginRequest) -> (bool, Result<Pass, RestError>) {
        match self.post(request).await {
            Ok((status, body)) => (true, self.login.pass(kind, RestAnswer { status, retry_after: None, body: &body })),
            Err(error) => {
                let arrived = !error.is_connect();
                let detail = error.to_string();
                (arrived, Err(RestError::Unavailable { retry_after: None, detail }))
            }
        }
    }

    fn path(&self, kind: PassKind, extension: &str) -> PathBuf {
        self.folder.join(format!("{}-{}-{}.{extension}", self.provider.id, kind.as_str(), self.owner))
    }

    /// The lock; it is given back when the file is closed, also by a crash.
    async fn lock(&self, kind: PassKind) -> anyhow::Result<File> {
        let path = self.path(kind, "lock");
        let file =
            private().create(true).truncate(false).open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(TryLockError::Error(problem)) => {
                    return Err(problem).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
    }

    fn read(&self, kind: PassKind) -> anyhow::Result<Kept> {
        let path = self.path(kind, "json");
        let mut text = Vec::new();
        match File::open(&path) {
            Ok(mut file) => file.read_to_end(&mut text).with_context(|| format!("cannot read {}", path.display()))?,
            Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => return Ok(Kept::default()),
            Err(problem) => return Err(problem).with_context(|| format!("cannot read {}", path.display())),
        };
        // Half a file, or another version's: as good as none.
        Ok(serde_json::from_slice(&text).unwrap_or_default())
    }

    fn write(&self, kind: PassKind, kept: &Kept) -> anyhow::Result<()> {
        let (path, temporary) = (self.path(kind, "json"), self.path(kind, "tmp"));
        let doing = || format!("cannot write {}", path.display());
        let mut file = private().create(true).truncate(true).open(&temporary).with_context(doing)?;
        file.write_all(&serde_json::to_vec(kept)?).and_then(|()| file.sync_all()).with_context(doing)?;
        std::fs::rename(&temporary, &path).with_context(doing)
    }
}

/// For the owner's eyes only.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

fn since_epoch() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The credentials of one of the customer's keys, from the environment or the file.
fn credentials(provider: &'static Provider, file: &Path, key: usize) -> anyhow::Result<Credentials> {
    let mut values = Vec::new();
    for credential in provider.credentials {
        let name = if key == 1 { (*credential).to_owned() } else { format!("{credential}_{key}") };
        let value = setting(&name, file).exit(Exit::Usage)?.ok_or_else(|| {
            anyhow!(
                "{} needs {name}; set it in the environment or as a line {name}=… in {} (credentials_file)",
                provider.id,
                file.display()
            )
            .context(Exit::Usage)
        })?;
        values.push((*credential, Secret::new(value.expose())));
    }
    Ok(Credentials::new(values))
}
