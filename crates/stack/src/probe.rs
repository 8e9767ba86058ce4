//! Whether a part answers in its own protocol. A listening socket alone proves little: the kernel accepts for a process that hangs.
//!
//! Next: `part.rs`.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Kafka: an ApiVersions request gets its answer.
    Kafka {
        /// Port on 127.0.0.1.
        port: u16,
    },
    /// HTTP: a GET gets status 200.
    Http {
        /// Port on 127.0.0.1.
        port: u16,
        /// Path, with the leading slash.
        path: String,
    },
}

/// Why a part does not count as ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReady {
    /// No answer in this time: the process may hang.
    Silent(Duration),
    /// What it said instead, or why it could not be asked.
    Said(String),
}

impl fmt::Display for NotReady {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(patience) => write!(formatter, "no answer within {} ms", patience.as_millis()),
            Self::Said(words) => formatter.write_str(words),
        }
    }
}

impl Probe {
    /// Asks once and waits at most `patience`.
    ///
    /// # Errors
    /// When no answer came, or another one.
    pub async fn ask(&self, patience: Duration) -> Result<(), NotReady> {
        let asked = async {
            match self {
                Self::Kafka { port } => kafka_answers(*port).await,
                Self::Http { port, path } => http_answers(*port, path).await,
            }
        };
        match timeout(patience, asked).await {
            Ok(answer) => answer.map_err(NotReady::Said),
            Err(_) => Err(NotReady::Silent(patience)),
        }
    }
}

/// ApiVersions version 0: the one request every broker answers to everybody.
/// **Source**: <https://kafka.apache.org/protocol>, request header v1 (read 2026-11-21).
async fn kafka_answers(port: u16) -> Result<(), String> {
    const CORRELATION: [u8; 4] = *b"mkfl";
    let mut request = vec![0, 0, 0, 10]; // length of the rest
    request.extend([0, 18, 0, 0]); // ApiVersions, version 0
    request.extend(CORRELATION);
    request.extend([0xff, 0xff]); // no client id
    let words = |error: std::io::Error| error.to_string();
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(words)?;
    socket.write_all(&request).await.map_err(words)?;
    let mut answer = [0; 8];
    socket.read_exact(&mut answer).await.map_err(words)?;
    if answer[4..] == CORRELATION { Ok(()) } else { Err("the answer is not Kafka's".to_owned()) }
}

/// The status line is all we need, so this is a few lines of HTTP and no client.
async fn http_answers(port: u16, path: &str) -> Result<(), String> {
    let words = |error: std::io::Error| error.to_string();
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(words)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.map_err(words)?;
    let mut answer = Vec::new();
    socket.take(4096).read_to_end(&mut answer).await.map_err(words)?;
    let status = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    if status.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(format!("GET {path} answered {status:?}")) }
}
