//! One request from its first byte of SQL to its last byte of response, on a thread of its own, where the engine's calls may block.
//!
//! Rows of an INSERT go from the socket through decompression into the engine's insert stream in pieces; they are never part of a
//! statement's text. If the body breaks off or does not decompress, the stream is cancelled.
//!
//! Next: `http.rs`.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::access::{self, User};
use crate::codec::{BlockReader, Coding};
use crate::config::{Access, Limits};
use crate::engine::Engine;
use crate::fault::{Fault, code};
use crate::ffi::{Class, Connection, Counts, Parameter};
use crate::metrics::Metrics;
use crate::native;
use crate::output::{Delivery, Output, Part};
use crate::session::{SessionRequest, Sessions};
use crate::sql::{self, InsertHead};

/// What the query threads share.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) sessions: Sessions,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
}

/// A request, read from its URL and headers.
pub(crate) struct Job {
    pub(crate) user: User,
    pub(crate) get: bool,
    pub(crate) query_id: String,
    /// Names this request alone, for cancelling it.
    pub(crate) key: String,
    /// Tag of the exception frame.
    pub(crate) tag: String,
    /// The `query` parameter.
    pub(crate) query: String,
    pub(crate) body: BodyReader,
    pub(crate) body_coding: Option<Coding>,
    /// `decompress=1`.
    pub(crate) body_blocks: bool,
    pub(crate) database: Option<String>,
    pub(crate) format: Option<String>,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) session: Option<SessionRequest>,
    /// `client_protocol_version`, which changes the Native format; 0 is none.
    pub(crate) protocol_version: u32,
    pub(crate) delivery: Delivery,
    /// Set when the client is gone.
    pub(crate) cancelled: Arc<AtomicBool>,
}

/// Runs the request and answers through `parts`. The last word is said when the connection is free again, so that a client that has read
/// its answer may use its session at once.
pub(crate) fn run(shared: &Shared, job: Job, parts: &mpsc::Sender<Part>) {
    let started = Instant::now();
    let ending = match job.session.clone() {
        None => in_own_connection(shared, job, parts),
        Some(request) => in_session(shared, job, &request, parts),
    };
    let fault = match &ending {
        Ok(Ending::Good(..)) => None,
        Ok(Ending::Broken(_, fault)) | Err(fault) => Some(fault.code),
    };
    match ending {
        Ok(Ending::Good(output, counts)) => {
            if let Err(error) = output.finish(counts, started.elapsed().as_nanos()) {
                tracing::debug!(error = %error, "a result is not delivered");
            }
        }
        Ok(Ending::Broken(output, fault)) => output.fail(fault),
        Err(fault) => drop(parts.blocking_send(Part::Failed(fault))), // a closed channel means the client is gone
    }
    shared.metrics.finished(fault, started.elapsed());
}

/// How a statement ended that has an output; one that failed before has only its fault.
enum Ending {
    Good(Output, Counts),
    Broken(Output, Fault),
}

fn in_own_connection(shared: &Shared, job: Job, parts: &mpsc::Sender<Part>) -> Result<Ending, Fault> {
    let mut connection = shared.engine.connect(job.user.access == Access::Read)?;
    Execution { shared, connection: &mut connection }.run(job, parts)
}

fn in_session(shared: &Shared, job: Job, request: &SessionRequest, parts: &mpsc::Sender<Part>) -> Result<Ending, Fault> {
    let session = shared.sessions.get(&shared.engine, &job.user, request)?;
    let Ok(mut connection) = session.connection.try_lock() else {
        return Err(Fault::new(code::SESSION_IS_LOCKED, format!("Session {} is locked by a concurrent client", request.id)));
    };
    let covered = Covered::note(&mut connection, &job)?;
    let ending = Execution { shared, connection: &mut connection }.run(job, parts);
    covered.put_back(&mut connection);
    session.extend(request.timeout);
    ending
}

struct Execution<'a> {
    shared: &'a Shared,
    connection: &'a mut Connection,
}

impl Execution<'_> {
    fn run(mut self, mut job: Job, parts: &mpsc::Sender<Part>) -> Result<Ending, Fault> {
        self.prepare(&job)?;
        let limit = self.shared.limits.query_size_bytes;
        let (mut input, in_url) = open_input(&mut job);
        let mut text = Vec::new();
        (&mut input).take(limit as u64).read_to_end(&mut text).map_err(|error| body_fault(&error))?;

        if let Some(head) = split_insert(&text, in_url) {
            if job.get || job.user.access == Access::Read {
                return Err(Fault::new(code::READONLY, "Cannot execute query in readonly mode"));
            }
            let format = head.format.or_else(|| job.format.clone()).unwrap_or_else(|| "Values".to_owned());
            let rows = io::Cursor::new(&text[head.rows_at..]).chain(input);
            let counts = self.insert(&text[head.statement], &format, rows, &job)?;
            self.shared.metrics.rows_written(counts.written_rows);
            return Ok(Ending::Good(output(parts, &job, None)?, counts));
        }
        if text.len() == limit && input.read(&mut [0]).map_err(|error| body_fault(&error))? > 0 {
            let what = format!("Max query size exceeded: a statement has at most {limit} bytes (limits.query_size_bytes)");
            return Err(Fault::new(code::SYNTAX_ERROR, what));
        }
        drop(input);
        if text.iter().all(u8::is_ascii_whitespace) {
            return Err(Fault::new(code::SYNTAX_ERROR, "Empty query"));
        }
        self.query(&text, &job, parts)
    }

    /// Settings and database of the request. Settings go first to the engine's own checks, as `SET`.
    fn prepare(&mut self, job: &Job) -> Result<(), Fault> {
        let comment = |name: &str| job.settings.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
        // The key by which this request is killed when its client goes away.
        let mut assignments = vec![format!(
            "log_comment = {}",
            sql::quote(format!("{} {} {}", job.query_id, job.key, comment("log_comment")).trim_end())
        )];
        let limit = self.shared.limits.query_timeout;
        if !limit.is_zero() && comment("max_execution_time").is_empty() {
            assignments.push(format!("max_execution_time = {}", limit.as_secs_f64()));
        }
        for (name, value) in job.settings.iter().filter(|(name, _)| name != "log_comment") {
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return Err(Fault::new(code::UNKNOWN_SETTING, format!("Unknown setting '{name}'")));
            }
            assignments.push(format!("{name} = {}", sql::quote(value)));
        }
        self.connection.query(format!("SET {}", assignments.join(", ")).as_bytes(), "Null", &[])?;
        if let Some(database) = job.database.as_deref().filter(|database| !database.is_empty()) {
            self.connection.query(format!("USE {}", sql::quote_name(database)).as_bytes(), "Null", &[])?;
        }
        Ok(())
    }

    fn insert(&mut self, statement: &[u8], format: &str, mut rows: impl Read, job: &Job) -> Result<Counts, Fault> {
        let mut stream = self.connection.insert(statement, format, &job.parameters)?;
        let mut piece = vec![0; 1 << 20];
        loop {
            let length = fill(&mut rows, &mut piece).map_err(|error| body_fault(&error))?; // dropping the stream cancels it
            if length == 0 || !stream.append(&piece[..length]) {
                break; // the end, or the engine refused: `finish` says why
            }
        }
        if job.cancelled.load(Ordering::Relaxed) {
            return Err(client_gone());
        }
        stream.finish()
    }

    fn query(&mut self, text: &[u8], job: &Job, parts: &mpsc::Sender<Part>) -> Result<Ending, Fault> {
        let (statements, class) = self.connection.classify(text);
        if statements > 1 {
            return Err(Fault::new(code::SYNTAX_ERROR, "Syntax error: Multi-statements are not allowed"));
        }
        if job.get {
            access::check_get(class, text)?;
        }
        if job.user.access == Access::Read {
            access::check_read(&self.shared.engine, self.connection, class, text, &job.parameters)?;
        }
        if sql::has_word(text, "OUTFILE") && class == Class::Control || sql::has_word(text, "INFILE") && class != Class::ReadOnly
        {
            return Err(Fault::new(code::NOT_IMPLEMENTED, "INTO OUTFILE and FROM INFILE are for the command-line client"));
        }
        let format = sql::output_format(text).or_else(|| job.format.clone()).unwrap_or_else(|| "TabSeparated".to_owned());
        // As on a server, a statement without a result has no format.
        let mut output = output(parts, job, (class == Class::ReadOnly).then(|| format.clone()))?;
        let version = Some(job.protocol_version).filter(|&version| version > 0 && format.eq_ignore_ascii_case("Native"));
        let streamed =
            class == Class::ReadOnly && sql::begins_with(text, &["SELECT", "WITH", "FROM"]) && !shows_totals(text, job);
        if streamed && let Some(repeats) = Repeats::of(&format, text, job) {
            return self.stream(text, &format, repeats, version, output, job);
        }
        let answer = self.connection.query(text, &format, &job.parameters)?;
        let reframed = version.map(|version| native::reframe(answer.bytes(), version)).transpose()?;
        for piece in reframed.as_deref().unwrap_or(answer.bytes()).chunks(1 << 20) {
            if let Err(error) = output.write(piece) {
                return Ok(Ending::Broken(output, output_fault(&error)));
            }
        }
        Ok(Ending::Good(output, answer.counts()))
    }

    fn stream(
        &mut self,
        text: &[u8],
        format: &str,
        repeats: Repeats,
        version: Option<u32>,
        mut output: Output,
        job: &Job,
    ) -> Result<Ending, Fault> {
        let mut counts = Counts::default();
        let mut header = None;
        let mut pieces = self.connection.stream(text, format, &job.parameters)?;
        loop {
            if job.cancelled.load(Ordering::Relaxed) {
                return Err(client_gone());
            }
            let piece = match pieces.next() {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(fault) => return Ok(Ending::Broken(output, fault)),
            };
            counts.add(piece.counts());
            let bytes = match &header {
                None => {
                    header = Some(repeats.header_of(piece.bytes()).to_vec());
                    piece.bytes()
                }
                Some(header) => piece.bytes().strip_prefix(header.as_slice()).unwrap_or(piece.bytes()),
            };
            let written = match version.map(|version| native::reframe(bytes, version)) {
                None => output.write(bytes),
                Some(Ok(reframed)) => output.write(&reframed),
                Some(Err(fault)) => return Ok(Ending::Broken(output, fault)),
            };
            if let Err(error) = written {
                return Ok(Ending::Broken(output, output_fault(&error)));
            }
        }
        Ok(Ending::Good(output, counts))
    }
}

fn output(parts: &mpsc::Sender<Part>, job: &Job, format: Option<String>) -> Result<Output, Fault> {
    Output::new(parts.clone(), job.delivery, format, job.tag.clone()).map_err(|error| output_fault(&error))
}

/// Totals and extremes come as a second table, which a piecewise result tears apart.
fn shows_totals(text: &[u8], job: &Job) -> bool {
    sql::has_word(text, "TOTALS") || sql::has_word(text, "extremes") || job.settings.iter().any(|(name, _)| name == "extremes")
}

/// How a format that can be streamed begins. The engine formats every block as a result of its own, so a header comes with each block
/// and is wanted once; formats that frame the whole result are not streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeats {
    Nothing,
    /// This many lines, in which quoted line ends do not count.
    Lines(usize),
    /// Column count, names and types.
    BinaryNames,
}

impl Repeats {
    fn of(format: &str, text: &[u8], job: &Job) -> Option<Self> {
        const BINARY_TYPES: &str = "output_format_binary_encode_types_in_binary_format";
        match format.to_ascii_lowercase().as_str() {
            "tabseparated" | "tsv" | "tabseparatedraw" | "tsvraw" | "csv" | "jsoneachrow" | "jsonlines" | "ndjson"
            | "jsoncompacteachrow" | "jsonstringseachrow" | "native" | "rowbinary" | "rawblob" | "lineasstring" | "null"
            | "tskv" => Some(Self::Nothing),
            "tabseparatedwithnames" | "tsvwithnames" | "csvwithnames" => Some(Self::Lines(1)),
            "tabseparatedwithnamesandtypes" | "tsvwithnamesandtypes" | "csvwithnamesandtypes" => Some(Self::Lines(2)),
            "rowbinarywithnamesandtypes"
                if !sql::has_word(text, BINARY_TYPES) && job.settings.iter().all(|(name, _)| name != BINARY_TYPES) =>
            {
                Some(Self::BinaryNames)
            }
            _ => None,
        }
    }

    /// The header at the beginning of a result.
    fn header_of(self, bytes: &[u8]) -> &[u8] {
        let length = match self {
            Self::Nothing => 0,
            Self::Lines(count) => lines_length(bytes, count),
            Self::BinaryNames => binary_names_length(bytes).unwrap_or(0),
        };
        &bytes[..length]
    }
}

fn lines_length(bytes: &[u8], count: usize) -> usize {
    let (mut quoted, mut seen) = (false, 0);
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => {
                seen += 1;
                if seen == count {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    0
}

fn binary_names_length(bytes: &[u8]) -> Option<usize> {
    let (columns, mut at) = varint(bytes, 0)?;
    for _ in 0..columns.checked_mul(2)? {
        let (length, after) = varint(bytes, at)?;
        at = after.checked_add(length)?;
    }
    (at <= bytes.len()).then_some(at)
}

fn varint(bytes: &[u8], mut at: usize) -> Option<(usize, usize)> {
    let mut value = 0_usize;
    for shift in (0..63).step_by(7) {
        let byte = *bytes.get(at)?;
        at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}

/// What a request in a session covers and must put back: the session's own database and values of the settings it sets.
struct Covered {
    statements: Vec<String>,
}

impl Covered {
    fn note(connection: &mut Connection, job: &Job) -> Result<Self, Fault> {
        let mut names: Vec<&str> = job.settings.iter().map(|(name, _)| name.as_str()).collect();
        names.extend(["log_comment", "max_execution_time"]);
        let list = names.iter().map(|name| sql::quote(name)).collect::<Vec<_>>().join(", ");
        let known = format!("SELECT name, value, toUInt8(changed) FROM system.settings WHERE name IN ({list})");
        let answer = connection.query(known.as_bytes(), "JSONCompactEachRow", &[])?;
        let lines = answer.bytes().split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let known: Vec<(String, String, u8)> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
        drop(answer);
        let assignments: Vec<String> = known
            .iter()
            .map(|(name, value, changed)| match changed {
                0 => format!("{name} = DEFAULT"),
                _ => format!("{name} = {}", sql::quote(value)),
            })
            .collect();
        let mut statements = vec![format!("SET {}", assignments.join(", "))];
        if job.database.as_deref().is_some_and(|database| !database.is_empty()) {
            let answer = connection.query(b"SELECT currentDatabase()", "TSVRaw", &[])?;
            let current = String::from_utf8_lossy(answer.bytes()).trim_end().to_owned();
            drop(answer);
            statements.push(format!("USE {}", sql::quote_name(&current)));
        }
        Ok(Self { statements })
    }

    fn put_back(self, connection: &mut Connection) {
        for statement in self.statements {
            if let Err(fault) = connection.query(statement.as_bytes(), "Null", &[]) {
                tracing::debug!(statement, error = %fault, "a session's setting is not put back");
            }
        }
    }
}

fn client_gone() -> Fault {
    Fault {
        code: 394,
        message: "Code: 394. DB::Exception: Query was cancelled: the client is gone. (QUERY_WAS_CANCELLED)".to_owned(),
    }
}

fn output_fault(error: &io::Error) -> Fault {
    if error.kind() == io::ErrorKind::FileTooLarge {
        return Fault::new(code::TOO_MANY_ROWS_OR_BYTES, error.to_string());
    }
    client_gone()
}

fn body_fault(error: &io::Error) -> Fault {
    let code = if error.kind() == io::ErrorKind::TimedOut { code::SOCKET_TIMEOUT } else { code::CANNOT_READ_ALL_DATA };
    Fault::new(code, format!("Cannot read the request's body: {error}"))
}

/// Reads until the buffer is full or the input ends.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match input.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Splits an INSERT from its rows. One that stands in the URL and names no format has all its rows in the body.
fn split_insert(text: &[u8], in_url: usize) -> Option<InsertHead> {
    let of_url = sql::insert_head(&text[..in_url.min(text.len())]).filter(|head| head.format.is_none());
    of_url.map(|head| InsertHead { rows_at: in_url, ..head }).or_else(|| sql::insert_head(text))
}

/// The statement's text, and how much of it stood in the URL: the `query` parameter on a line of its own, then the body, decompressed.
fn open_input(job: &mut Job) -> (Box<dyn Read>, usize) {
    let mut query = std::mem::take(&mut job.query).into_bytes();
    if !query.is_empty() && !query.ends_with(b"\n") {
        query.push(b'\n');
    }
    let mut body: Box<dyn Read> = Box::new(std::mem::replace(&mut job.body, BodyReader::empty()));
    if let Some(coding) = job.body_coding {
        body = Box::new(LateReader::new(coding, body));
    }
    if job.body_blocks {
        body = Box::new(BlockReader::new(body));
    }
    let in_url = query.len();
    (Box::new(io::Cursor::new(query).chain(body)), in_url)
}

/// Starts a decoder at the first byte of the body, so that an empty body needs none.
struct LateReader {
    coding: Coding,
    source: Option<Box<dyn Read>>,
    decoder: Option<Box<dyn Read>>,
}

impl LateReader {
    fn new(coding: Coding, source: Box<dyn Read>) -> Self {
        Self { coding, source: Some(source), decoder: None }
    }
}

impl Read for LateReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(mut source) = self.source.take() {
            let mut first = [0; 64];
            let length = fill(&mut source, &mut first)?;
            if length > 0 {
                self.decoder = Some(self.coding.reader(Box::new(io::Cursor::new(first[..length].to_vec()).chain(source)))?);
            }
        }
        self.decoder.as_mut().map_or(Ok(0), |decoder| decoder.read(buffer))
    }
}

/// The request's body, handed over piece by piece from the task that reads the socket. `None` is its end: without it the body broke off.
pub(crate) struct BodyReader {
    pieces: Option<mpsc::Receiver<io::Result<Option<Bytes>>>>,
    current: Bytes,
}

impl BodyReader {
    pub(crate) fn new(pieces: mpsc::Receiver<io::Result<Option<Bytes>>>) -> Self {
        Self { pieces: Some(pieces), current: Bytes::new() }
    }

    fn empty() -> Self {
        Self { pieces: None, current: Bytes::new() }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let Some(pieces) = self.pieces.as_mut() else { return Ok(0) };
            match pieces.blocking_recv() {
                Some(piece) => match piece? {
                    Some(bytes) => self.current = bytes,
                    None => self.pieces = None,
                },
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it broke off")),
            }
        }
        let taken = buffer.len().min(self.current.len());
        buffer[..taken].copy_from_slice(&self.current.split_to(taken));
        Ok(taken)
    }
}

/// How long a session lives when the client says so; ClickHouse caps it at an hour.
pub(crate) fn session_timeout(given: Option<&str>, default: Duration) -> Result<Duration, Fault> {
    let Some(text) = given else { return Ok(default) };
    match text.parse::<u64>() {
        Ok(seconds) if seconds <= 3600 => Ok(Duration::from_secs(seconds)),
        _ => Err(Fault::new(code::INVALID_SESSION_TIMEOUT, format!("Invalid session timeout: '{text}' (at most 3600 seconds)"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_headers_are_measured() {
        assert_eq!(Repeats::Lines(1).header_of(b"\"a\nb\",c\n1,2\n"), b"\"a\nb\",c\n");
        assert_eq!(Repeats::Lines(2).header_of(b"a\tb\nUInt8\tString\n1\tx\n"), b"a\tb\nUInt8\tString\n");
        assert_eq!(Repeats::BinaryNames.header_of(b"\x01\x01a\x05UInt8\x07\x08"), b"\x01\x01a\x05UInt8");
        assert_eq!(Repeats::BinaryNames.header_of(b"\x05\x01a"), b"");
        assert_eq!(Repeats::Nothing.header_of(b"abc"), b"");
    }

    #[test]
    fn session_timeouts_are_bounded() {
        let default = Duration::from_secs(60);
        assert_eq!(session_timeout(None, default).unwrap(), default);
        assert_eq!(session_timeout(Some("5"), default).unwrap(), Duration::from_secs(5));
        assert_eq!(session_timeout(Some("3601"), default).unwrap_err().code, code::INVALID_SESSION_TIMEOUT);
    }
}
