//! The client: questions in SQL, answers as rows; exact inserts.

use crate::{ClickHouseConfig, Error, Insert};
use clickhouse::error::Error as ClientError;
use clickhouse::query::Query;
use clickhouse::{Client, Compression};
use serde::Deserialize;
use std::time::Duration;

/// How long a question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A client of one database. Cheap to clone.
#[derive(Clone)]
pub struct ClickHouse {
    client: Client,
    database: String,
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
        Self { client, database: config.database.clone() }
    }

    /// The database of our tables.
    pub fn database(&self) -> &str {
        &self.database
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
        within("create the database", ANSWER_WITHIN, self.client.query_raw(&sql).execute()).await
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
        let send = async {
            request.send(insert.body()).await?;
            request.end().await
        };
        within(&format!("insert {} rows into {}", insert.rows(), insert.table()), timeout, send).await
    }
}

async fn within<T>(doing: &str, limit: Duration, call: impl Future<Output = Result<T, ClientError>>) -> Result<T, Error> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(Error::call(doing)),
        Err(_) => Err(Error::Timeout { doing: doing.to_owned(), seconds: limit.as_secs() }),
    }
}
