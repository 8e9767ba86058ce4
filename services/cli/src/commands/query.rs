//! Questions to ClickHouse, with values as server-side parameters and answers as text: decimals stay digits.

use super::connection;
use anyhow::Context;
use marketflow_clickhouse::{ClickHouse, Error};
use marketflow_runtime::{Exit, ExitContext};
use std::time::Duration;

const ANSWER_WITHIN: Duration = Duration::from_secs(300);

/// A row of texts; `None` = null.
pub(crate) type Texts = Vec<Option<String>>;

/// Asks for rows whose columns are all texts (`toString(…)`); `{name:Type}` in the SQL takes the parameter of that name.
///
/// # Errors
/// 69 when ClickHouse does not answer.
pub(crate) async fn texts(
    clickhouse: &ClickHouse,
    doing: &str,
    sql: &str,
    parameters: &[(&str, String)],
) -> anyhow::Result<Vec<Texts>> {
    let query = parameters.iter().fold(clickhouse.query(sql), |query, (name, value)| query.param(name, value));
    let ask = async {
        let mut cursor = query.fetch_bytes("JSONCompactEachRow")?;
        let mut answer = Vec::new();
        while let Some(bytes) = cursor.next().await? {
            answer.extend_from_slice(&bytes);
        }
        Ok(answer)
    };
    let answer = match tokio::time::timeout(ANSWER_WITHIN, ask).await {
        Ok(answer) => with_exit(answer.map_err(|source| Error::Call { doing: doing.to_owned(), source }))?,
        Err(_) => with_exit(Err(Error::Timeout { doing: doing.to_owned(), seconds: ANSWER_WITHIN.as_secs() }))?,
    };
    let rows = answer.split(|&b| b == b'\n').filter(|row| !row.is_empty());
    rows.map(|row| serde_json::from_slice(row).with_context(|| format!("cannot {doing}: an answer that is no row of texts")))
        .collect()
}

/// The client of the stack that runs, or of the environment.
///
/// # Errors
/// 69 when the environment does not say and no stack runs.
pub(crate) fn clickhouse() -> anyhow::Result<ClickHouse> {
    Ok(ClickHouse::new(&connection::clickhouse()?))
}

/// Gives an error of ClickHouse its exit code.
///
/// # Errors
/// The error that was given.
pub(crate) fn with_exit<T>(result: Result<T, Error>) -> anyhow::Result<T> {
    let unreachable = result.as_ref().is_err_and(Error::is_unreachable);
    result.exit(if unreachable { Exit::Unreachable } else { Exit::Failed })
}
