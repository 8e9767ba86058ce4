//! A TCP proxy that misbehaves on request, for connections over which we have no other power.
//!
//! It knows nothing of what it carries. A Kafka client leaves it after the first answer, which names the broker's own address; it is meant for
//! the venue's socket, the registry and ClickHouse.

use anyhow::Context;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What goes wrong; the default is nothing. Changes reach connections that are already open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// New connections are closed at once.
    pub refuse: bool,
    /// Nothing passes in either direction, nothing ends; what was sent passes once this is over.
    pub black_hole: bool,
    /// Requests pass, answers vanish.
    pub swallow_responses: bool,
    /// Each piece waits this long, in each direction.
    pub delay: Duration,
    /// A connection ends after this many bytes from the client.
    pub cut_requests_after_bytes: Option<usize>,
    /// A connection ends after this many bytes to the client.
    pub cut_responses_after_bytes: Option<usize>,
}

/// A running proxy in front of one address; ends, with its connections, when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    faults: watch::Sender<Faults>,
    /// Connections end when this changes.
    cuts: watch::Sender<u64>,
    acceptor: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and passes everything on to `target` (`127.0.0.1:8123`).
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(target: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot listen")?;
        let address = listener.local_addr()?;
        let (faults, _) = watch::channel(Faults::default());
        let (cuts, _) = watch::channel(0);
        let acceptor = tokio::spawn(accept(listener, target.to_owned(), faults.subscribe(), cuts.subscribe()));
        Ok(Self { address, faults, cuts, acceptor })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this goes wrong.
    pub fn set(&self, faults: Faults) {
        self.faults.send_replace(faults);
    }

    /// From now on nothing goes wrong.
    pub fn heal(&self) {
        self.set(Faults::default());
    }

    /// Ends every connection that is open now.
    pub fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.cut();
        self.acceptor.abort();
    }
}

async fn accept(listener: TcpListener, target: String, faults: watch::Receiver<Faults>, cuts: watch::Receiver<u64>) {
    while let Ok((client, _)) = listener.accept().await {
        if faults.borrow().refuse {
            continue;
        }
        let (target, faults, mut cuts) = (target.clone(), faults.clone(), cuts.clone());
        cuts.mark_unchanged();
        tokio::spawn(async move {
            tokio::select! {
                // how a connection ends is seen by the two at its ends
                _ = carry(client, &target, faults) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

async fn carry(client: TcpStream, target: &str, faults: watch::Receiver<Faults>) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(
        pass(from_client, to_server, Direction::Request, faults.clone()),
        pass(from_server, to_client, Direction::Response, faults),
    )?;
    Ok(())
}

/// Passes bytes in one direction until the sender ends; an error ends both directions.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    mut faults: watch::Receiver<Faults>,
) -> io::Result<()> {
    let mut passed_bytes = 0;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        let faults = *faults.wait_for(|faults| !faults.black_hole).await.map_err(io::Error::other)?;
        if count == 0 {
            return to.shutdown().await;
        }
        sleep(faults.delay).await;
        let (limit, swallowed) = match direction {
            Direction::Request => (faults.cut_requests_after_bytes, false),
            Direction::Response => (faults.cut_responses_after_bytes, faults.swallow_responses),
        };
        if swallowed {
            continue;
        }
        let room = limit.map_or(count, |limit| limit.saturating_sub(passed_bytes)).min(count);
        to.write_all(&buffer[..room]).await?;
        passed_bytes += room;
        if limit.is_some_and(|limit| passed_bytes >= limit) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, timeout};

    /// A server that answers each byte with the next one.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    while let Ok(byte) = client.read_u8().await {
                        if client.write_u8(byte + 1).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    async fn ask(client: &mut TcpStream, byte: u8) -> io::Result<u8> {
        client.write_u8(byte).await?;
        timeout(Duration::from_millis(300), client.read_u8()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    #[tokio::test]
    async fn each_fault_does_what_it_says() {
        let proxy = FaultProxy::start(&echo().await.to_string()).await.unwrap();
        let connect = async || TcpStream::connect(proxy.address()).await.unwrap();
        let mut client = connect().await;
        assert_eq!(ask(&mut client, 1).await.unwrap(), 2);

        proxy.set(Faults { delay: Duration::from_millis(40), ..Faults::default() });
        let start = Instant::now();
        assert_eq!(ask(&mut client, 1).await.unwrap(), 2);
        assert!(start.elapsed() >= Duration::from_millis(80));

        proxy.set(Faults { black_hole: true, ..Faults::default() });
        assert_eq!(ask(&mut client, 7).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        proxy.heal();
        assert_eq!(client.read_u8().await.unwrap(), 8);

        proxy.set(Faults { swallow_responses: true, ..Faults::default() });
        assert_eq!(ask(&mut client, 20).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        proxy.heal();
        assert_eq!(ask(&mut client, 30).await.unwrap(), 31);

        proxy.cut();
        assert!(ask(&mut client, 1).await.is_err());
        let mut client = connect().await;
        assert_eq!(ask(&mut client, 1).await.unwrap(), 2);

        proxy.set(Faults { cut_responses_after_bytes: Some(3), ..Faults::default() });
        assert_eq!(ask(&mut client, 1).await.unwrap(), 2);
        assert_eq!(ask(&mut client, 1).await.unwrap(), 2);
        assert!(ask(&mut client, 1).await.is_err());

        proxy.set(Faults { cut_requests_after_bytes: Some(1), ..Faults::default() });
        assert!(ask(&mut connect().await, 1).await.is_err());

        proxy.set(Faults { refuse: true, ..Faults::default() });
        assert!(ask(&mut connect().await, 1).await.is_err());
    }
}
