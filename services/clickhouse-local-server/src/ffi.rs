//! The C interface of `libchdb.so`, loaded at run time, behind types that own what they point to.
//!
//! Everything unsafe of this service is in this file. What the rest relies on: a [`Connection`] runs one statement at a time and moves
//! between threads only whole; results and streams are destroyed exactly once; an insert stream that is dropped unfinished is cancelled,
//! and inserts nothing of its last block.
//!
//! Next: `engine.rs`.
#![expect(
    unsafe_code,
    reason = "libchdb is a C library loaded at run time; its calls and its pointers are confined to this file"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::NonNull;
use std::slice;

use crate::fault::Fault;

type RawConnection = *mut *mut c_void;
type RawResult = *mut c_void;
type RawInsert = *mut c_void;
type Texts = *const *const c_char;

/// What `chdb_classify_query_n` fills in.
#[repr(C)]
struct RawAnalysis {
    struct_size: u32,
    statement_count: u32,
    flags: u32,
    query_class: u32,
}

macro_rules! symbols {
    ($($name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        struct Symbols { $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)* }

        impl Symbols {
            fn load(library: &libloading::Library) -> Result<Self, libloading::Error> {
                // SAFETY: the signatures below are those of chdb.h of the version this service is pinned to.
                unsafe { Ok(Self { $($name: *library.get(concat!(stringify!($name), "\0").as_bytes())?,)* }) }
            }
        }
    };
}

symbols! {
    chdb_version() -> *const c_char;
    chdb_set_signal_handlers_enabled(c_int);
    chdb_connect(c_int, *mut *mut c_char) -> RawConnection;
    chdb_close_conn(RawConnection);
    chdb_shutdown() -> c_int;
    chdb_classify_query_n(*mut c_void, *const c_char, usize, *const c_char, usize, *mut RawAnalysis) -> c_int;
    chdb_query_with_params_n(*mut c_void, *const c_char, usize, *const c_char, usize, Texts, *const usize, Texts, *const usize, usize) -> RawResult;
    chdb_stream_query_with_params_n(*mut c_void, *const c_char, usize, *const c_char, usize, Texts, *const usize, Texts, *const usize, usize) -> RawResult;
    chdb_stream_fetch_result(*mut c_void, RawResult) -> RawResult;
    chdb_stream_cancel_query(*mut c_void, RawResult);
    chdb_stream_insert_with_params_n(*mut c_void, *const c_char, usize, *const c_char, usize, Texts, *const usize, Texts, *const usize, usize) -> RawInsert;
    chdb_stream_append(RawInsert, *const c_void, usize) -> c_int;
    chdb_stream_done(RawInsert) -> RawResult;
    chdb_stream_insert_error(RawInsert) -> *const c_char;
    chdb_destroy_insert_stream(RawInsert);
    chdb_destroy_query_result(RawResult);
    chdb_result_buffer(RawResult) -> *const u8;
    chdb_result_length(RawResult) -> usize;
    chdb_result_error(RawResult) -> *const c_char;
    chdb_result_rows_read(RawResult) -> u64;
    chdb_result_bytes_read(RawResult) -> u64;
    chdb_result_storage_rows_read(RawResult) -> u64;
    chdb_result_storage_bytes_read(RawResult) -> u64;
    chdb_result_rows_written(RawResult) -> u64;
    chdb_result_bytes_written(RawResult) -> u64;
}

/// The loaded engine library. It is never unloaded: its threads may still run.
pub(crate) struct Library {
    symbols: Symbols,
}

impl Library {
    /// Loads the library and keeps it from installing signal handlers.
    pub(crate) fn open(path: &Path) -> Result<&'static Self, libloading::Error> {
        // SAFETY: loading runs the library's initialisers; it is the engine we were told to trust.
        let library = unsafe { libloading::Library::new(path) }?;
        let symbols = Symbols::load(&library)?;
        std::mem::forget(library);
        // SAFETY: called before the first connection, as chdb.h asks.
        unsafe { (symbols.chdb_set_signal_handlers_enabled)(0) };
        Ok(Box::leak(Box::new(Self { symbols })))
    }

    /// The engine's version: `26.7.0`.
    pub(crate) fn version(&self) -> String {
        // SAFETY: the library returns a static text.
        text(unsafe { (self.symbols.chdb_version)() }).unwrap_or_default()
    }

    /// Stops the engine's threads; all connections must be closed. Says whether they all ended.
    pub(crate) fn shutdown(&self) -> bool {
        // SAFETY: has no arguments and may be called from any thread.
        unsafe { (self.symbols.chdb_shutdown)() == 0 }
    }
}

/// A named query parameter and its value as text.
pub(crate) type Parameter = (String, String);

/// What a statement does, by the engine's own parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Leaves no trace: SELECT, SHOW, DESCRIBE, EXPLAIN, EXISTS, CHECK.
    ReadOnly,
    /// Changes data or tables, or something global.
    Mutating,
    /// USE, SET, SYSTEM, KILL, BACKUP, INTO OUTFILE, temporary tables …
    Control,
    /// Did not parse.
    Unknown,
}

/// A session with the engine.
pub(crate) struct Connection {
    library: &'static Library,
    raw: NonNull<*mut c_void>,
}

// SAFETY: the engine lets a connection be used from any thread, one call at a time; `&mut self` and ownership see to the latter.
unsafe impl Send for Connection {}

impl Connection {
    /// Connects with `--name=value` arguments. The first connection of the process boots the engine on its `--path`.
    pub(crate) fn open(library: &'static Library, arguments: &[String]) -> Result<Self, Fault> {
        let texts: Vec<CString> =
            std::iter::once("chdb").chain(arguments.iter().map(String::as_str)).map(c_string).collect::<Result<_, _>>()?;
        let mut pointers: Vec<*mut c_char> = texts.iter().map(|text| text.as_ptr().cast_mut()).collect();
        let count = c_int::try_from(pointers.len()).map_err(|_| Fault::internal("too many connection arguments"))?;
        // SAFETY: the array holds `count` pointers to texts that live until the call returns; the library copies them.
        let raw = unsafe { (library.symbols.chdb_connect)(count, pointers.as_mut_ptr()) };
        let raw = NonNull::new(raw).ok_or_else(|| Fault::internal("the engine refused a connection"))?;
        Ok(Self { library, raw })
    }

    fn handle(&self) -> *mut c_void {
        // SAFETY: `raw` points to the handle until `chdb_close_conn`, which only `drop` calls.
        unsafe { *self.raw.as_ptr() }
    }

    /// Number of statements in the text and the most restricted class among them.
    pub(crate) fn classify(&mut self, sql: &[u8]) -> (u32, Class) {
        let size = u32::try_from(size_of::<RawAnalysis>()).expect("four u32 are few bytes");
        let mut analysis = RawAnalysis { struct_size: size, statement_count: 0, flags: 0, query_class: 4 };
        // SAFETY: the text is valid for its length; a null target skips that judgement; the struct says its size.
        let state = unsafe {
            let classify = self.library.symbols.chdb_classify_query_n;
            classify(self.handle(), sql.as_ptr().cast(), sql.len(), std::ptr::null(), 0, &raw mut analysis)
        };
        let class = match (state, analysis.query_class) {
            (0, 0) => Class::ReadOnly,
            (0, 1 | 2) => Class::Mutating,
            (0, 3) => Class::Control,
            _ => Class::Unknown,
        };
        (analysis.statement_count, class)
    }

    /// Runs a statement and holds its whole output.
    pub(crate) fn query(&mut self, sql: &[u8], format: &str, parameters: &[Parameter]) -> Result<Answer, Fault> {
        let texts = ParameterArrays::new(parameters);
        let query = self.library.symbols.chdb_query_with_params_n;
        // SAFETY: all texts are valid for their lengths during the call.
        let raw = unsafe {
            query(
                self.handle(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                texts.names.as_ptr(),
                texts.name_lengths.as_ptr(),
                texts.values.as_ptr(),
                texts.value_lengths.as_ptr(),
                parameters.len(),
            )
        };
        Answer::of(self.library, raw)?.checked()
    }

    /// Starts a SELECT whose output is fetched in pieces.
    pub(crate) fn stream(&mut self, sql: &[u8], format: &str, parameters: &[Parameter]) -> Result<Pieces<'_>, Fault> {
        let texts = ParameterArrays::new(parameters);
        let query = self.library.symbols.chdb_stream_query_with_params_n;
        // SAFETY: as in `query`.
        let raw = unsafe {
            query(
                self.handle(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                texts.names.as_ptr(),
                texts.name_lengths.as_ptr(),
                texts.values.as_ptr(),
                texts.value_lengths.as_ptr(),
                parameters.len(),
            )
        };
        let stream = Answer::of(self.library, raw)?.checked()?;
        Ok(Pieces { connection: self, stream, ended: false })
    }

    /// Starts an INSERT (without FORMAT clause or rows) whose rows are appended as bytes of `format`.
    pub(crate) fn insert(&mut self, sql: &[u8], format: &str, parameters: &[Parameter]) -> Result<Insert<'_>, Fault> {
        let texts = ParameterArrays::new(parameters);
        let insert = self.library.symbols.chdb_stream_insert_with_params_n;
        // SAFETY: as in `query`.
        let raw = unsafe {
            insert(
                self.handle(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                texts.names.as_ptr(),
                texts.name_lengths.as_ptr(),
                texts.values.as_ptr(),
                texts.value_lengths.as_ptr(),
                parameters.len(),
            )
        };
        let raw = NonNull::new(raw).ok_or_else(|| Fault::internal("the engine gave no insert stream"))?;
        let insert = Insert { connection: self, raw };
        match insert.error() {
            Some(error) => Err(Fault::of_engine(&error)),
            None => Ok(insert),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: closed once; streams borrow the connection, so none is open.
        unsafe { (self.library.symbols.chdb_close_conn)(self.raw.as_ptr()) };
    }
}

/// Rows and bytes a statement read, returned and wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) result_rows: u64,
    pub(crate) result_bytes: u64,
    pub(crate) read_rows: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_rows: u64,
    pub(crate) written_bytes: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.result_rows += other.result_rows;
        self.result_bytes += other.result_bytes;
        self.read_rows += other.read_rows;
        self.read_bytes += other.read_bytes;
        self.written_rows += other.written_rows;
        self.written_bytes += other.written_bytes;
    }
}

/// A statement's output, or a piece of it.
pub(crate) struct Answer {
    library: &'static Library,
    raw: NonNull<c_void>,
}

impl Answer {
    fn of(library: &'static Library, raw: RawResult) -> Result<Self, Fault> {
        let raw = NonNull::new(raw).ok_or_else(|| Fault::internal("the engine gave no result"))?;
        Ok(Self { library, raw })
    }

    fn checked(self) -> Result<Self, Fault> {
        // SAFETY: the result is alive; the text lives as long.
        match text(unsafe { (self.library.symbols.chdb_result_error)(self.raw.as_ptr()) }) {
            Some(error) => Err(Fault::of_engine(&error)),
            None => Ok(self),
        }
    }

    /// The output in the format asked for.
    pub(crate) fn bytes(&self) -> &[u8] {
        let symbols = &self.library.symbols;
        // SAFETY: buffer and length belong together and live as long as the result.
        unsafe {
            let length = (symbols.chdb_result_length)(self.raw.as_ptr());
            let buffer = (symbols.chdb_result_buffer)(self.raw.as_ptr());
            if length == 0 || buffer.is_null() { &[] } else { slice::from_raw_parts(buffer, length) }
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let (symbols, raw) = (&self.library.symbols, self.raw.as_ptr());
        // SAFETY: the result is alive.
        unsafe {
            Counts {
                result_rows: (symbols.chdb_result_rows_read)(raw),
                result_bytes: (symbols.chdb_result_bytes_read)(raw),
                read_rows: (symbols.chdb_result_storage_rows_read)(raw),
                read_bytes: (symbols.chdb_result_storage_bytes_read)(raw),
                written_rows: (symbols.chdb_result_rows_written)(raw),
                written_bytes: (symbols.chdb_result_bytes_written)(raw),
            }
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: destroyed once.
        unsafe { (self.library.symbols.chdb_destroy_query_result)(self.raw.as_ptr()) };
    }
}

/// The output of a running SELECT, block by block. Dropping it early cancels the query.
pub(crate) struct Pieces<'a> {
    connection: &'a mut Connection,
    stream: Answer,
    ended: bool,
}

impl Pieces<'_> {
    /// The next piece, or `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Answer>, Fault> {
        let library = self.connection.library;
        // SAFETY: connection and stream are alive, and nobody else uses the connection.
        let raw = unsafe { (library.symbols.chdb_stream_fetch_result)(self.connection.handle(), self.stream.raw.as_ptr()) };
        let piece = Answer::of(library, raw)?.checked().inspect_err(|_| self.ended = true)?;
        self.ended = piece.bytes().is_empty();
        Ok((!self.ended).then_some(piece))
    }
}

impl Drop for Pieces<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // SAFETY: as in `next`; the handle itself is destroyed by `Answer`.
            unsafe {
                (self.connection.library.symbols.chdb_stream_cancel_query)(self.connection.handle(), self.stream.raw.as_ptr());
            }
        }
    }
}

/// A running INSERT. Dropping it unfinished cancels it.
pub(crate) struct Insert<'a> {
    connection: &'a mut Connection,
    raw: NonNull<c_void>,
}

impl Insert<'_> {
    /// Hands bytes to the engine, which copies them; blocks while the engine is behind. `false`: it failed, and `finish` says why.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> bool {
        // SAFETY: the stream is alive and the bytes are valid for their length.
        unsafe {
            (self.connection.library.symbols.chdb_stream_append)(self.raw.as_ptr(), bytes.as_ptr().cast(), bytes.len()) == 0
        }
    }

    /// Ends the rows and waits until they are in the table.
    pub(crate) fn finish(self) -> Result<Counts, Fault> {
        // SAFETY: the stream is alive; `drop` destroys it afterwards, as chdb.h asks.
        let raw = unsafe { (self.connection.library.symbols.chdb_stream_done)(self.raw.as_ptr()) };
        Ok(Answer::of(self.connection.library, raw)?.checked()?.counts())
    }

    fn error(&self) -> Option<String> {
        // SAFETY: the stream is alive; the text lives as long.
        text(unsafe { (self.connection.library.symbols.chdb_stream_insert_error)(self.raw.as_ptr()) })
    }
}

impl Drop for Insert<'_> {
    fn drop(&mut self) {
        // SAFETY: destroyed once; this cancels it when it was not finished.
        unsafe { (self.connection.library.symbols.chdb_destroy_insert_stream)(self.raw.as_ptr()) };
    }
}

/// Parameters as the parallel arrays the C interface takes. Borrows the texts.
struct ParameterArrays {
    names: Vec<*const c_char>,
    name_lengths: Vec<usize>,
    values: Vec<*const c_char>,
    value_lengths: Vec<usize>,
}

impl ParameterArrays {
    fn new(parameters: &[Parameter]) -> Self {
        Self {
            names: parameters.iter().map(|(name, _)| name.as_ptr().cast()).collect(),
            name_lengths: parameters.iter().map(|(name, _)| name.len()).collect(),
            values: parameters.iter().map(|(_, value)| value.as_ptr().cast()).collect(),
            value_lengths: parameters.iter().map(|(_, value)| value.len()).collect(),
        }
    }
}

fn c_string(text: &str) -> Result<CString, Fault> {
    CString::new(text).map_err(|_| Fault::internal("a connection argument holds a NUL"))
}

fn text(pointer: *const c_char) -> Option<String> {
    // SAFETY: the library's texts end in NUL; null means none.
    (!pointer.is_null())
        .then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
        .filter(|text| !text.is_empty())
}
