//! A proxy in front of a Kafka broker that loses chosen answers.
//!
//! A Kafka client leaves a proxy after the first answer, which names the broker's own address; so the address is replaced in every answer by the
//! proxy's, which takes as many bytes. Of the protocol it knows the frame: a length, and a correlation id that an answer shares with its request.

use anyhow::Context;
use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Where the broker says it is, as it stands in an answer: the host, then the port in four bytes.
const HOST: &[u8] = b"127.0.0.1";

/// A running proxy in front of a broker at 127.0.0.1; ends when dropped.
#[derive(Debug)]
pub struct KafkaProxy {
    address: SocketAddr,
    faults: Arc<Faults>,
    acceptor: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Faults {
    /// Which request's answers are lost, and how many still.
    losing: Mutex<(i16, usize)>,
    lost: AtomicUsize,
}

impl KafkaProxy {
    /// `EndTxn`: the commit or abort of a transaction.
    pub const END_TXN: i16 = 26;

    /// Listens on a free port of 127.0.0.1 for the broker at `broker` (`127.0.0.1:9092`).
    ///
    /// # Errors
    /// When no port is free, or the address has none.
    pub async fn start(broker: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot listen")?;
        let address = listener.local_addr()?;
        let broker: SocketAddr = broker.parse().context("a broker's address")?;
        let faults = Arc::new(Faults::default());
        let acceptor = tokio::spawn(accept(listener, broker, address.port(), Arc::clone(&faults)));
        Ok(Self { address, faults, acceptor })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next `count` answers to requests of this kind are lost, each with its connection: the broker did what it was asked for.
    pub fn lose_answers(&self, api_key: i16, count: usize) {
        *self.faults.losing.lock().unwrap_or_else(PoisonError::into_inner) = (api_key, count);
    }

    /// How many answers were lost.
    pub fn lost(&self) -> usize {
        self.faults.lost.load(Ordering::SeqCst)
    }
}

impl Drop for KafkaProxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

impl Faults {
    fn marks(&self, api_key: i16) -> bool {
        let losing = self.losing.lock().unwrap_or_else(PoisonError::into_inner);
        losing.0 == api_key && losing.1 > 0
    }

    /// Takes one answer off those to be lost.
    fn lose(&self) -> bool {
        let mut losing = self.losing.lock().unwrap_or_else(PoisonError::into_inner);
        let has_one = losing.1 > 0;
        if has_one {
            losing.1 -= 1;
            self.lost.fetch_add(1, Ordering::SeqCst);
        }
        has_one
    }
}

async fn accept(listener: TcpListener, broker: SocketAddr, port: u16, faults: Arc<Faults>) {
    while let Ok((client, _)) = listener.accept().await {
        let faults = Arc::clone(&faults);
        tokio::spawn(async move {
            // how a connection ends is seen by the two at its ends
            drop(carry(client, broker, port, faults).await);
        });
    }
}

async fn carry(client: TcpStream, broker: SocketAddr, port: u16, faults: Arc<Faults>) -> io::Result<()> {
    let server = TcpStream::connect(broker).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let marked = Arc::new(Mutex::new(BTreeSet::new()));
    tokio::try_join!(
        requests(from_client, to_server, Arc::clone(&faults), Arc::clone(&marked)),
        answers(from_server, to_client, broker.port(), port, faults, marked),
    )?;
    Ok(())
}

/// Correlation ids of requests whose answers are to be lost.
type Marked = Arc<Mutex<BTreeSet<[u8; 4]>>>;

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, faults: Arc<Faults>, marked: Marked) -> io::Result<()> {
    loop {
        let frame = frame(&mut from).await?;
        if let [_, _, _, _, a, b, _, _, c, d, e, f, ..] = frame[..]
            && faults.marks(i16::from_be_bytes([a, b]))
        {
            marked.lock().unwrap_or_else(PoisonError::into_inner).insert([c, d, e, f]);
        }
        to.write_all(&frame).await?;
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    broker: u16,
    proxy: u16,
    faults: Arc<Faults>,
    marked: Marked,
) -> io::Result<()> {
    let port = |of: u16| u32::from(of).to_be_bytes();
    loop {
        let mut frame = frame(&mut from).await?;
        if let [_, _, _, _, a, b, c, d, ..] = frame[..]
            && marked.lock().unwrap_or_else(PoisonError::into_inner).remove(&[a, b, c, d])
            && faults.lose()
        {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let address = [HOST, &port(broker)].concat();
        let named: Vec<usize> = (0..frame.len()).filter(|at| frame[*at..].starts_with(&address)).collect();
        for at in named {
            frame[at + HOST.len()..at + address.len()].copy_from_slice(&port(proxy));
        }
        to.write_all(&frame).await?;
    }
}

/// One request or answer, with its length.
async fn frame(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.resize(4 + usize::try_from(length).map_err(io::Error::other)?, 0);
    from.read_exact(&mut frame[4..]).await?;
    Ok(frame)
}
