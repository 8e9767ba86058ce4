//! One collector of a key: whoever holds the lease works, everyone else waits and takes over.
//!
//! A holder renews its lease three times before it runs out, by the store's clock. One that cannot, because the store does not answer or the
//! process stood still, has lost it, by its own clock no later than anyone else may take it, and must stop.
//!
//! Next: `holder.rs`.

use crate::holder;
use crate::store::Store;
use anyhow::Context;
use marketflow_runtime::Stop;
use sqlx::Row;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Between two looks at a lease that another holds.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

const TAKE: &str = "INSERT INTO leases (name, holder, expires_at) VALUES ($1, $2, NOW + $3) ON CONFLICT (name) DO UPDATE \
                    SET holder = excluded.holder, expires_at = excluded.expires_at WHERE leases.expires_at <= NOW OR leases.holder = $4";
const HELD_BY: &str = "SELECT holder FROM leases WHERE name = $1";
const RENEW: &str = "UPDATE leases SET expires_at = NOW + $3 WHERE name = $1 AND holder = $2";
const RELEASE: &str = "DELETE FROM leases WHERE name = $1 AND holder = $2";

/// A lease that is held, of one key or several, and renewed until it is released or dropped.
pub struct Lease {
    lost: Stop,
    given_back: Stop,
    keepers: Vec<tokio::task::JoinHandle<()>>,
}

impl Lease {
    /// Returns when the lease is lost: another may work from now on.
    pub async fn lost(&self) {
        self.lost.wait().await;
    }

    /// Does the work for as long as the lease is held, then gives it back.
    ///
    /// # Errors
    /// What the work ended with; the lease was lost before.
    pub async fn hold<T>(self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let ended = tokio::select! {
            ended = work => ended,
            () = self.lost() => Err(anyhow::anyhow!(
                "the lease of this key is lost: the metadata store did not answer, or this process stood still; another collector may work now, \
                 so this one ends, and waits when it is started again"
            )),
        };
        self.release().await;
        ended
    }

    /// Gives it back; who waits takes over.
    pub async fn release(mut self) {
        self.given_back.request();
        for keeper in std::mem::take(&mut self.keepers) {
            if let Err(problem) = keeper.await {
                warn!(%problem, "the lease was not given back; it runs out");
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.given_back.request();
    }
}

impl Store {
    /// Waits for the lease under each of these names; `None` when the service is stopped meanwhile.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn lease(&self, names: impl IntoIterator<Item = String>, stop: &Stop) -> anyhow::Result<Option<Lease>> {
        // In one order, so that two never wait for one another.
        let names: BTreeSet<String> = names.into_iter().collect();
        let mut lease = Lease { lost: Stop::new(), given_back: Stop::new(), keepers: Vec::new() };
        for name in names {
            let doing = || format!("cannot take the lease {name}");
            let holder = holder::new_name().with_context(doing)?;
            let mut told = false;
            loop {
                let asked = Instant::now();
                if self.take(&name, &holder).await.with_context(doing)? {
                    let held = Held { name, holder, until: asked + self.lease };
                    lease.keepers.push(tokio::spawn(keep(self.clone(), held, lease.lost.clone(), lease.given_back.clone())));
                    break;
                }
                if !std::mem::replace(&mut told, true) {
                    info!(lease = name, "another collector of this key works; waiting to take over");
                }
                tokio::select! {
                    () = stop.wait() => return Ok(None),
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
            }
        }
        Ok(Some(lease))
    }

    async fn take(&self, name: &str, holder: &str) -> anyhow::Result<bool> {
        let held = sqlx::query(HELD_BY).bind(name).fetch_optional(&self.pool).await?;
        let held: Option<String> = held.map(|row| row.try_get(0)).transpose()?;
        let ended = held.filter(|holder| holder::has_ended(holder)).unwrap_or_default();
        let take = self.statement(TAKE);
        let taken = sqlx::query(&take).bind(name).bind(holder).bind(self.micros()).bind(ended).execute(&self.pool).await?;
        Ok(taken.rows_affected() == 1)
    }

    async fn renew(&self, name: &str, holder: &str) -> anyhow::Result<bool> {
        let renew = self.statement(RENEW);
        let renewed = sqlx::query(&renew).bind(name).bind(holder).bind(self.micros()).execute(&self.pool).await?;
        Ok(renewed.rows_affected() == 1)
    }

    fn micros(&self) -> i64 {
        i64::try_from(self.lease.as_micros()).unwrap_or(i64::MAX)
    }
}

struct Held {
    name: String,
    holder: String,
    /// By this process' own clock, counted from before the store was asked.
    until: Instant,
}

/// Renews until it is given back or lost.
async fn keep(store: Store, mut held: Held, lost: Stop, given_back: Stop) {
    let mut wait = store.lease / 3;
    loop {
        tokio::select! {
            () = given_back.wait() => {
                if let Err(problem) = sqlx::query(RELEASE).bind(&held.name).bind(&held.holder).execute(&store.pool).await {
                    warn!(lease = held.name, %problem, "the lease was not given back; it runs out");
                }
                return;
            }
            () = tokio::time::sleep(wait) => {}
        }
        let asked = Instant::now();
        match tokio::time::timeout_at(held.until.into(), store.renew(&held.name, &held.holder)).await {
            Ok(Ok(true)) => (held.until, wait) = (asked + store.lease, store.lease / 3),
            Ok(Ok(false)) => {
                warn!(lease = held.name, "the lease is lost: another collector took it, as this one was not heard of");
                return lost.request();
            }
            Ok(Err(problem)) => {
                warn!(lease = held.name, problem = format!("{problem:#}"), "the lease could not be renewed; trying again");
                wait = LOOK_AGAIN.min(store.lease / 3);
            }
            Err(_) => {
                warn!(lease = held.name, "the lease is lost: the metadata store does not answer");
                return lost.request();
            }
        }
    }
}
