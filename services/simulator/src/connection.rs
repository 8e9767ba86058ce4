//! One WebSocket connection, down to its frames.
//!
//! Frames are put together here and not by a WebSocket library's server side, for two reasons: the simulator must be able to misbehave (fall
//! silent, cut without a close frame), and every answer (ack, heartbeat, pong) must stand *behind* the trades queued before it, because clients
//! take it as evidence that they have seen everything up to then. Frame headers and masks are tungstenite's. No compression is negotiated.
//! Next: `hub.rs`.

use crate::market::Venue;
use std::io::Cursor;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tracing::debug;

/// Largest message taken from a client before its venue's own limit is looked at.
const MESSAGE_BYTES: usize = 64 * 1024;
/// How long a closing connection waits for its client to close too.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// With a close frame.
    Frame(u16, &'static str),
    /// What is queued is written, then the TCP connection just ends.
    Cut,
    /// The TCP connection just ends, at once.
    Abrupt,
}

/// A message from the client.
#[derive(Debug)]
pub enum Message {
    /// A text or binary message.
    Text(Vec<u8>),
    /// A ping; already answered.
    Ping,
    /// A pong with its payload.
    Pong(Vec<u8>),
}

/// One client connection: what waits to be written to it, and what its venue remembers about it.
#[derive(Debug)]
pub struct Connection {
    /// Rising number.
    pub id: u64,
    /// Which venue it talks to.
    pub venue: Venue,
    /// Virtual time of its opening, UTC microseconds.
    pub opened_us: i64,
    /// Binance: whether payloads are wrapped with their stream's name.
    pub combined: AtomicBool,
    /// Binance: whether times are microseconds.
    pub microseconds: bool,
    /// Names subscribed, in order, unknown ones too.
    pub channels: Mutex<Vec<String>>,
    /// Binance, Upbit: the times of the last client messages.
    pub arrivals: Mutex<std::collections::VecDeque<Instant>>,
    /// Binance, KIS, Kiwoom: since when pings are unanswered, and the payload of the last one.
    pub pinged: Mutex<Option<(Instant, Vec<u8>)>>,
    /// Upbit: how messages are spelled and when something was last heard or sent.
    pub upbit: Mutex<crate::upbit::socket::Manners>,
    /// Whether its planned end was announced.
    pub warned: AtomicBool,
    /// Frames of data queued to it.
    pub frames: AtomicU64,
    outbox: Mutex<Outbox>,
    filled: Notify,
    drained: Notify,
    ended: Notify,
    muted_us: AtomicI64,
}

#[derive(Debug, Default)]
struct Outbox {
    bytes: Vec<u8>,
    closing: Option<Close>,
}

impl Connection {
    /// A connection that has just been accepted.
    pub fn new(id: u64, venue: Venue, opened_us: i64, combined: bool, microseconds: bool) -> Connection {
        Connection {
            id,
            venue,
            opened_us,
            combined: AtomicBool::new(combined),
            microseconds,
            channels: Mutex::default(),
            arrivals: Mutex::default(),
            pinged: Mutex::default(),
            upbit: Mutex::default(),
            warned: AtomicBool::new(false),
            frames: AtomicU64::new(0),
            outbox: Mutex::default(),
            filled: Notify::new(),
            drained: Notify::new(),
            ended: Notify::new(),
            muted_us: AtomicI64::new(-1),
        }
    }

    /// Queues a message, in the kind of frame its venue uses, and says how many bytes are queued now; `None` when the connection is closing.
    pub fn send_message(&self, payload: &[u8]) -> Option<usize> {
        let data = match self.venue {
            Venue::Bitstamp | Venue::Binance | Venue::Kis | Venue::Kiwoom => Data::Text,
            Venue::Upbit => Data::Binary,
        };
        self.send(OpCode::Data(data), payload)
    }

    /// Queues a ping.
    pub fn send_ping(&self, payload: &[u8]) -> Option<usize> {
        self.send(OpCode::Control(Control::Ping), payload)
    }

    /// Ends the connection.
    pub fn close(&self, close: Close) {
        if let Close::Frame(code, reason) = close {
            let mut payload = code.to_be_bytes().to_vec();
            payload.extend_from_slice(reason.as_bytes());
            self.send(OpCode::Control(Control::Close), &payload);
        }
        let mut outbox = self.outbox();
        if close == Close::Abrupt {
            outbox.bytes.clear();
            outbox.closing = Some(close);
        } else {
            outbox.closing.get_or_insert(close);
        }
        drop(outbox);
        self.filled.notify_one();
        self.drained.notify_waiters();
        self.ended.notify_one();
    }

    /// Leaves the connection half-open for so long: it stays up, but neither reads nor writes any more.
    pub fn mute(&self, for_: Duration) {
        self.muted_us.store(crate::clock::micros(for_), Ordering::Release);
        self.outbox().bytes.clear();
        self.drained.notify_waiters();
        self.filled.notify_one();
        self.ended.notify_one();
    }

    fn muted(&self) -> Option<Duration> {
        u64::try_from(self.muted_us.load(Ordering::Acquire)).ok().map(Duration::from_micros)
    }

    /// Whether more is queued than `limit` bytes.
    pub fn queued_more_than(&self, limit: usize) -> bool {
        self.outbox().bytes.len() > limit
    }

    /// Returns once no more than `limit` bytes are queued.
    pub async fn drained_to(&self, limit: usize) {
        loop {
            let drained = self.drained.notified();
            if !self.queued_more_than(limit) {
                return;
            }
            drained.await;
        }
    }

    fn send(&self, opcode: OpCode, payload: &[u8]) -> Option<usize> {
        let mut outbox = self.outbox();
        if outbox.closing.is_some() || self.muted_us.load(Ordering::Acquire) >= 0 {
            return None;
        }
        let was_empty = outbox.bytes.is_empty();
        write_frame(opcode, payload, &mut outbox.bytes);
        let queued = outbox.bytes.len();
        drop(outbox);
        if was_empty {
            self.filled.notify_one();
        }
        Some(queued)
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is queued until the connection ends.
    async fn write_all(&self, mut io: impl AsyncWrite + Unpin) {
        let mut batch = Vec::new();
        loop {
            let closing = {
                let mut outbox = self.outbox();
                batch.clear();
                std::mem::swap(&mut batch, &mut outbox.bytes);
                outbox.closing
            };
            self.drained.notify_waiters();
            if closing == Some(Close::Abrupt) || self.muted().is_some() {
                return;
            }
            if !batch.is_empty() && io.write_all(&batch).await.is_err() {
                self.close(Close::Abrupt);
                return;
            }
            if closing.is_some() {
                if io.shutdown().await.is_err() {
                    debug!(connection = self.id, "the client was gone before the close");
                }
                return;
            }
            if batch.is_empty() {
                self.filled.notified().await;
            }
        }
    }
}

/// Runs one connection until it ends. `on_message` sees each message, `on_ping_time` is called every `ping_every`.
pub async fn serve<IO: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: IO,
    connection: std::sync::Arc<Connection>,
    ping_every: Duration,
    on_message: impl Fn(Message),
    on_ping_time: impl Fn(),
) {
    let (mut reader, writer) = tokio::io::split(io);
    let writing = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.write_all(writer).await })
    };
    let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + ping_every, ping_every);
    let mut incoming = Incoming::default();
    loop {
        let closing = connection.outbox().closing;
        tokio::select! {
            read = reader.read_buf(&mut incoming.bytes) => match read {
                Ok(0) | Err(_) => break,
                Ok(_) => {
                    if !read_messages(&mut incoming, &connection, &on_message) {
                        break;
                    }
                }
            },
            _ = pings.tick() => on_ping_time(),
            () = connection.ended.notified() => {
                if let Some(for_) = connection.muted() {
                    // Half-open: both halves are kept, nothing is read or written.
                    tokio::time::sleep(for_).await;
                    break;
                }
                if connection.outbox().closing == Some(Close::Abrupt) {
                    break;
                }
            }
            () = tokio::time::sleep(CLOSE_GRACE), if closing.is_some() => break,
        }
    }
    connection.close(Close::Abrupt);
    if writing.await.is_err() {
        debug!(connection = connection.id, "the writer was cancelled");
    }
}

/// Bytes read and not yet understood, and the message they are part of.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    message: Vec<u8>,
}

/// Takes whole frames out of what was read; `false` ends the connection.
fn read_messages(incoming: &mut Incoming, connection: &Connection, on_message: &impl Fn(Message)) -> bool {
    loop {
        let mut cursor = Cursor::new(&incoming.bytes);
        let Ok(header) = FrameHeader::parse(&mut cursor) else {
            connection.close(Close::Frame(1002, "protocol error"));
            return true;
        };
        let Some((header, length)) = header else { return true };
        let start = usize::try_from(cursor.position()).expect("a header is short");
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MESSAGE_BYTES || incoming.message.len() + length > MESSAGE_BYTES {
            connection.close(Close::Frame(1009, "message too big"));
            return true;
        }
        if incoming.bytes.len() < start + length {
            return true;
        }
        let mut payload = incoming.bytes[start..start + length].to_vec();
        incoming.bytes.drain(..start + length);
        if let Some(mask) = header.mask {
            for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
                *byte ^= mask;
            }
        }
        match header.opcode {
            OpCode::Data(_) => {
                incoming.message.extend_from_slice(&payload);
                if header.is_final {
                    on_message(Message::Text(std::mem::take(&mut incoming.message)));
                }
            }
            OpCode::Control(Control::Ping) => {
                connection.send(OpCode::Control(Control::Pong), &payload);
                on_message(Message::Ping);
            }
            OpCode::Control(Control::Pong) => on_message(Message::Pong(payload)),
            OpCode::Control(Control::Close) => {
                connection.send(OpCode::Control(Control::Close), &payload);
                connection.outbox().closing.get_or_insert(Close::Frame(1000, ""));
                connection.filled.notify_one();
            }
            OpCode::Control(Control::Reserved(_)) => return false,
        }
    }
}

fn write_frame(opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    let length = u64::try_from(payload.len()).expect("a length fits");
    header.format(length, out).expect("writing to memory does not fail");
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_stand_behind_what_was_queued_before_them() {
        let connection = Connection::new(1, Venue::Bitstamp, 0, false, false);
        assert_eq!(connection.send_message(b"trade"), Some(7));
        let mut incoming = Incoming { bytes: vec![0x89, 0x81, 0, 0, 0, 0, b'x'], ..Incoming::default() };
        assert!(read_messages(&mut incoming, &connection, &|_| {}));
        assert_eq!(connection.outbox().bytes, [b"\x81\x05trade".as_slice(), b"\x8a\x01x"].concat());
    }

    #[test]
    fn masked_and_fragmented_messages_are_put_together() {
        let connection = Connection::new(1, Venue::Bitstamp, 0, false, false);
        let masked = |first: u8, text: &[u8]| {
            let mut frame = vec![first, 0x80 | u8::try_from(text.len()).unwrap(), 1, 2, 3, 4];
            frame.extend(text.iter().zip([1_u8, 2, 3, 4].iter().cycle()).map(|(byte, mask)| byte ^ mask));
            frame
        };
        let mut incoming = Incoming { bytes: [masked(0x01, b"hello "), masked(0x80, b"world")].concat(), ..Incoming::default() };
        let seen = Mutex::new(Vec::new());
        assert!(read_messages(&mut incoming, &connection, &|message| {
            if let Message::Text(text) = message {
                seen.lock().unwrap().push(text);
            }
        }));
        assert_eq!(*seen.lock().unwrap(), [b"hello world".to_vec()]);
    }
}
