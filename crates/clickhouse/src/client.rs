//! The client: questions in SQL, answers as rows; exact inserts.

use crate::{ClickHouseConfig, Error, Insert, Layout};
use bytes::Bytes;
use clickhouse::error::Error as ClientError;
use clickhouse::insert_formatted::InsertFormatted;
use clickhouse::query::{BytesCursor, Query};
use clickhouse::{Client, Compression};
use serde::Deserialize;
use std::time::Duration;

/// How long a question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// How long a stream may stand still.
const STALLED_AFTER: Duration = Duration::from_secs(300);
/// What streams may last: a server may allow less to a query that does not say.
const A_DAY_SECONDS: &str = "86400";

/// A client of one database. Cheap to clone.
#[derive(Clone)]
pub struct ClickHouse {
    client: Client,
    database: String,
    layout: Layout,
    insert_quorum: String,
}

impl ClickHouse {
    /// Creates the client; nothing is asked yet.
    pub fn new(config: &ClickHouseConfig) -> Self {
        let mut client = Client::default()
            .with_url(&config.url)
            .with_user(&config.user)
            .with_product_info("marketflow", env!("CARGO_PKG_VERSION"))
            .with_compression(if config.compress { Compression::Lz4 } else { Compression::None });
        if !config.password.is_empty() {
            client = client.with_password(&config.password);
        }
        let layout = Layout::of(config);
        if layout.is_spread() {
            // subqueries over shards are answered once and sent to all
            client = client.with_setting("distributed_product_mode", "global");
        }
        Self { client, database: config.database.clone(), layout, insert_quorum: config.insert_quorum.clone() }
    }

    /// The database of our tables.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Where the tables lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Runs a statement that is written for one server, in the words of where the tables lie.
    ///
    /// # Errors
    /// As [`ClickHouse::rows`].
    pub async fn lay_out(&self, doing: &str, statement: &str) -> Result<(), Error> {
        for statement in self.layout.statements(statement) {
            self.execute(doing, &statement).await?;
        }
        Ok(())
    }

    /// A question, to which values are bound (`?`) and parameters given; `fetch_all` and its kin ask it.
    pub fn query(&self, sql: &str) -> Query {
        self.client.clone().with_database(&self.database).query(sql)
    }

    /// Asks for rows; see [`ClickHouse::query`].
    ///
    /// # Errors
    /// ClickHouse's, or no answer within a minute.
    pub async fn rows<T>(&self, doing: &str, query: Query) -> Result<Vec<T>, Error>
    where
        T: clickhouse::RowOwned + clickhouse::RowRead,
    {
        within(doing, ANSWER_WITHIN, query.fetch_all::<T>()).await
    }

    /// Runs a statement that answers nothing.
    ///
    /// # Errors
    /// As [`ClickHouse::rows`].
    pub async fn execute(&self, doing: &str, sql: &str) -> Result<(), Error> {
        within(doing, ANSWER_WITHIN, self.client.clone().with_database(&self.database).query_raw(sql).execute()).await
    }

    /// The answer of a query as text in one of ClickHouse's formats (`CSVWithNames`, `JSONEachRow`, `PrettyCompact` …).
    ///
    /// # Errors
    /// As [`ClickHouse::rows`].
    pub async fn text(&self, doing: &str, sql: &str, format: &str) -> Result<String, Error> {
        let read = async {
            let mut cursor = self.client.clone().with_database(&self.database).query_raw(sql).fetch_bytes(format)?;
            let mut text = Vec::new();
            while let Some(bytes) = cursor.next().await? {
                text.extend_from_slice(&bytes);
            }
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        within(doing, ANSWER_WITHIN, read).await
    }

    /// The answer of a query in one of ClickHouse's formats, piece by piece, for as long as it takes.
    ///
    /// # Errors
    /// As [`ClickHouse::rows`]; what breaks off comes from [`Pieces::next`].
    pub fn pieces(&self, doing: &str, sql: &str, format: &str) -> Result<Pieces, Error> {
        let query =
            self.client.clone().with_database(&self.database).query_raw(sql).with_setting("max_execution_time", A_DAY_SECONDS);
        Ok(Pieces { doing: doing.to_owned(), cursor: query.fetch_bytes(format).map_err(Error::call(doing))? })
    }

    /// Rows into a table, piece by piece in the format the statement names; not one block, and not once for all: see [`ClickHouse::insert`].
    pub fn upload(&self, doing: &str, statement: &str) -> Upload {
        let insert = self.client.clone().with_database(&self.database).insert_formatted_with(statement);
        let settings = [
            ("async_insert", "0"),
            ("insert_deduplicate", "0"),
            ("wait_end_of_query", "1"),
            ("max_execution_time", A_DAY_SECONDS),
        ];
        let insert = settings.into_iter().fold(insert, |insert, (key, value)| insert.with_setting(key, value));
        Upload { doing: doing.to_owned(), insert }
    }

    /// The server's version, which also tells whether it can be reached and lets us in.
    ///
    /// # Errors
    /// As [`ClickHouse::rows`].
    pub async fn version(&self) -> Result<String, Error> {
        let query = self.client.query("SELECT version()");
        within("ask ClickHouse for its version", Duration::from_secs(10), query.fetch_one::<String>()).await
    }

    pub(crate) async fn create_database(&self) -> Result<(), Error> {
        let sql = format!("CREATE DATABASE IF NOT EXISTS `{}`", self.database.replace(['`', '\\'], ""));
        for sql in self.layout.statements(&sql) {
            within("create the database", ANSWER_WITHIN, self.client.query_raw(&sql).execute()).await?;
        }
        Ok(())
    }

    /// Name and type of each column of a table that an insert may fill, in the table's order; empty when there is no such table.
    ///
    /// # Errors
    /// As [`ClickHouse::rows`].
    pub async fn columns(&self, table: &str) -> Result<Vec<(String, String)>, Error> {
        #[derive(clickhouse::Row, Deserialize)]
        struct Found {
            name: String,
            r#type: String,
        }
        let query = self
            .query("SELECT name, type FROM system.columns WHERE database = ? AND table = ? ORDER BY position")
            .bind(&self.database)
            .bind(table);
        let found = self.rows::<Found>(&format!("read the columns of {table}"), query).await?;
        Ok(found.into_iter().map(|column| (column.name, column.r#type)).collect())
    }

    /// Inserts one block, once: as long as an earlier try is remembered, the same token and rows do nothing. Returns when the rows are
    /// readable.
    ///
    /// # Errors
    /// See [`Error::disposition`]; after `Retry` it may have been done: repeat the same [`Insert`].
    pub async fn insert(&self, insert: &Insert, timeout: Duration) -> Result<(), Error> {
        let sql = insert.sql();
        let settings = [
            ("insert_deduplicate", "1"),
            ("insert_deduplication_token", insert.token()),
            // the token stands for one block of one table partition: no other splitting, no waiting room
            ("async_insert", "0"),
            ("max_insert_block_size", "1048576"),
            ("min_insert_block_size_rows", "1048576"),
            ("min_insert_block_size_bytes", "268435456"),
            ("max_partitions_per_insert_block", "1"),
            // rows of a block have different offsets: there is nothing to merge yet
            ("optimize_on_insert", "0"),
            ("input_format_native_allow_types_conversion", "0"),
            ("deduplicate_blocks_in_dependent_materialized_views", "1"),
            ("wait_end_of_query", "1"),
        ];
        let client = self.client.clone().with_database(&self.database);
        let mut request =
            settings.into_iter().fold(client.insert_formatted_with(sql), |r, (key, value)| r.with_setting(key, value));
        if self.layout.is_spread() {
            // answered when the shard has it
            request = request.with_setting("distributed_foreground_insert", "1");
        }
        if !self.insert_quorum.is_empty() {
            request = request.with_setting("insert_quorum", &self.insert_quorum);
        }
        let send = async {
            request.send(insert.body()).await?;
            request.end().await
        };
        within(&format!("insert {} rows into {}", insert.rows(), insert.table()), timeout, send).await
    }
}

/// An answer that is read as it comes.
pub struct Pieces {
    doing: String,
    cursor: BytesCursor,
}

impl Pieces {
    /// The next piece; `None` after the last one of a whole answer.
    ///
    /// # Errors
    /// ClickHouse's, a broken connection, or no piece for five minutes.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        within(&self.doing, STALLED_AFTER, self.cursor.next()).await
    }
}

/// Rows on their way into a table; without [`Upload::end`] the last of them are not in it.
pub struct Upload {
    doing: String,
    insert: InsertFormatted,
}

impl Upload {
    /// Sends a piece.
    ///
    /// # Errors
    /// ClickHouse's, a broken connection, or nothing taken for five minutes.
    pub async fn send(&mut self, piece: Bytes) -> Result<(), Error> {
        within(&self.doing, STALLED_AFTER, self.insert.send(piece)).await
    }

    /// Waits until all rows are in the table.
    ///
    /// # Errors
    /// ClickHouse's.
    pub async fn end(self) -> Result<(), Error> {
        within(&self.doing, STALLED_AFTER, self.insert.end()).await
    }
}

async fn within<T>(doing: &str, limit: Duration, call: impl Future<Output = Result<T, ClientError>>) -> Result<T, Error> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(Error::call(doing)),
        Err(_) => Err(Error::Timeout { doing: doing.to_owned(), seconds: limit.as_secs() }),
    }
}
