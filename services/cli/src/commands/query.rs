//! Questions to ClickHouse, with values bound by the client crate and answers as text: decimals stay digits.

use super::connection;
use anyhow::Context;
use marketflow_clickhouse::{ClickHouse, Error};
use marketflow_runtime::{Exit, ExitContext};
use std::time::Duration;

const ANSWER_WITHIN: Duration = Duration::from_secs(300);

/// A row of texts; `None` = null.
pub(crate) type Texts = Vec<Option<String>>;

/// Asks for rows whose columns are all texts (`toString(…)`); `{name:String}` and `{name:Int64}` in the SQL take the parameter of that name.
///
/// # Errors
/// 69 when ClickHouse does not answer.
pub(crate) async fn texts(
    clickhouse: &ClickHouse,
    doing: &str,
    sql: &str,
    parameters: &[(&str, String)],
) -> anyhow::Result<Vec<Texts>> {
    let (sql, values) = positional(sql, parameters)?;
    let query = values.iter().fold(clickhouse.query(&sql), |query, value| match value {
        Value::Text(text) => query.bind(text),
        Value::Number(number) => query.bind(number),
    });
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

#[derive(PartialEq, Eq, Debug)]
enum Value<'a> {
    Text(&'a str),
    Number(i64),
}

/// `{name:Type}` becomes `?`, which the client crate replaces by an escaped literal. (It sends server-side parameters as a multipart form,
/// which not every server and proxy takes.)
fn positional<'a>(sql: &str, parameters: &'a [(&str, String)]) -> anyhow::Result<(String, Vec<Value<'a>>)> {
    let (mut positional, mut values) = (String::new(), Vec::new());
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, kind, after) = after
            .split_once('}')
            .and_then(|(parameter, after)| parameter.split_once(':').map(|(name, kind)| (name, kind, after)))
            .context("a parameter in the SQL is written {name:Type}")?;
        let (_, value) = parameters.iter().find(|(known, _)| *known == name).with_context(|| format!("no parameter {name}"))?;
        values.push(if kind == "Int64" { Value::Number(value.parse()?) } else { Value::Text(value) });
        positional.push_str(before);
        positional.push('?');
        rest = after;
    }
    positional.push_str(rest);
    Ok((positional, values))
}

/// The client of the stack that runs, or of the environment.
///
/// # Errors
/// 69 when the environment does not say and no stack runs.
pub(crate) fn clickhouse() -> anyhow::Result<ClickHouse> {
    Ok(ClickHouse::new(&connection::clickhouse()?))
}

/// Gives an error of ClickHouse its exit code, and leaves out the list of everything its parser would have taken.
///
/// # Errors
/// The error that was given, in words.
pub(crate) fn with_exit<T>(result: Result<T, Error>) -> anyhow::Result<T> {
    let error = match result {
        Ok(answer) => return Ok(answer),
        Err(error) => error,
    };
    let exit = if error.is_unreachable() { Exit::Unreachable } else { Exit::Failed };
    let words = format!("{:#}", anyhow::Error::new(error));
    let short = words.split_once(". Expected one of: ").map_or(words.as_str(), |(said, _)| said);
    Err(anyhow::anyhow!(short.to_owned())).exit(exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_parameters_are_bound_in_the_order_of_the_sql() {
        let parameters = [("from", "17".to_owned()), ("symbol", "a'b{c}".to_owned())];
        let (sql, values) = positional("x = {symbol:String} AND t >= {from:Int64} AND y = {symbol:String}", &parameters).unwrap();
        assert_eq!(sql, "x = ? AND t >= ? AND y = ?");
        assert_eq!(values, [Value::Text("a'b{c}"), Value::Number(17), Value::Text("a'b{c}")]);
        assert!(positional("x = {other:String}", &parameters).is_err());
    }
}
