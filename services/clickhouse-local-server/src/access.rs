//! Who may connect, and what a read-only user may run.
//!
//! The engine in the library has no users. A read-only user gets a connection with `readonly = 2`, which the engine enforces and which
//! cannot be lifted, and two checks before each statement, both by the engine's own parser: the statement leaves no trace (class), and
//! its syntax tree calls nothing that reaches files, URLs, processes or other servers. Table functions are refused unless listed here,
//! so one that a later engine adds is refused too.
//!
//! Next: `session.rs`.

use std::collections::BTreeMap;

use crate::config::{Access, UserConfig};
use crate::engine::Engine;
use crate::fault::{Fault, code};
use crate::ffi::{Class, Connection, Parameter};
use crate::sql;

/// What a request says about who sends it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Credentials {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
}

/// A user that proved who it is.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) access: Access,
}

/// Finds the user and checks the password. No name means `default`.
pub(crate) fn authenticate(users: &BTreeMap<String, UserConfig>, credentials: &Credentials) -> Result<User, Fault> {
    let name = credentials.user.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let known = users.get(name);
    if let Some(known) = known
        && (known.password.is_empty() || same(known.password.expose(), credentials.password.as_deref().unwrap_or_default()))
    {
        return Ok(User { name: name.to_owned(), access: known.access });
    }
    if known.is_some() && credentials.user.is_none() && credentials.password.is_none() {
        return Err(Fault::new(code::REQUIRED_PASSWORD, format!("{name}: a password is required")));
    }
    Err(Fault::new(
        code::AUTHENTICATION_FAILED,
        format!("{name}: Authentication failed: password is incorrect, or there is no user with such name"),
    ))
}

/// Compares in time that depends on the lengths only.
fn same(known: &str, given: &str) -> bool {
    known.len() == given.len() && known.bytes().zip(given.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// Table functions that stay within this server's own tables and numbers.
const HARMLESS_TABLE_FUNCTIONS: &[&str] = &[
    "format",
    "fuzzjson",
    "generate_series",
    "generaterandom",
    "generateseries",
    "merge",
    "mergetreeindex",
    "mergetreeprojection",
    "null",
    "numbers",
    "numbers_mt",
    "primes",
    "sqlstandardvalues",
    "values",
    "view",
    "viewexplain",
    "viewifpermitted",
    "zeros",
    "zeros_mt",
];

/// Ordinary functions that reach out of this server or into its files.
const REACHING_FUNCTIONS: &[&str] = &[
    "addresstoline",
    "addresstolinewithinlines",
    "addresstosymbol",
    "aiclassify",
    "aiembed",
    "aiextract",
    "aigenerate",
    "aitranslate",
    "catboostevaluate",
    "file",
    "hascolumnintable",
    "naivebayesclassifier",
    "naivebayesclassifierwithallprobs",
    "naivebayesclassifierwithprob",
    "showcertificate",
];

/// Refuses what a request by GET may not do: anything that writes.
pub(crate) fn check_get(class: Class, statement: &[u8]) -> Result<(), Fault> {
    let session_only = class == Class::Control && sql::begins_with(statement, &["SET", "USE"]);
    if class == Class::ReadOnly || class == Class::Unknown || session_only {
        return Ok(());
    }
    Err(Fault::new(code::READONLY, "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly"))
}

/// Refuses what a read-only user may not do.
pub(crate) fn check_read(
    engine: &Engine,
    connection: &mut Connection,
    class: Class,
    statement: &[u8],
    parameters: &[Parameter],
) -> Result<(), Fault> {
    if class == Class::Mutating || class == Class::Control {
        return Err(Fault::new(code::READONLY, "Cannot execute query in readonly mode: this user may only read"));
    }
    let tree = explain(connection, "AST", statement, parameters)?; // what does not parse fails here, with the engine's words
    if class == Class::Unknown {
        return Err(Fault::new(code::READONLY, "this user may only read, and this statement is of no known class"));
    }
    for line in tree.lines().map(str::trim_start) {
        let named = |kind: &str| line.strip_prefix(kind).and_then(|rest| rest.split_whitespace().next());
        if let Some(function) = named("Function ") {
            check_function(engine, function)?;
        } else if let Some(name) = named("Identifier ") {
            check_name(name)?;
        }
    }
    // `APPLY(f)` does not show its function in the syntax tree, but does in the query tree before anything is resolved.
    if tree.contains("Transformer") {
        let tree = explain(connection, "QUERY TREE run_passes = 0", statement, parameters)?;
        for rest in tree.split("function_name: ").skip(1) {
            check_function(engine, rest.split([',', '\n', ' ']).next().unwrap_or_default())?;
        }
        for rest in tree.split("identifier: ").skip(1) {
            check_name(rest.split([',', '\n', ' ']).next().unwrap_or_default())?;
        }
    }
    Ok(())
}

fn explain(connection: &mut Connection, what: &str, statement: &[u8], parameters: &[Parameter]) -> Result<String, Fault> {
    let mut sql = format!("EXPLAIN {what} ").into_bytes();
    sql.extend(statement);
    let answer = connection.query(&sql, "TSVRaw", parameters)?;
    Ok(String::from_utf8_lossy(answer.bytes()).into_owned())
}

fn check_function(engine: &Engine, function: &str) -> Result<(), Fault> {
    let name = function.to_ascii_lowercase();
    let reaching_table_function = engine.table_functions.contains(&name) && !HARMLESS_TABLE_FUNCTIONS.contains(&name.as_str());
    if reaching_table_function || REACHING_FUNCTIONS.contains(&name.as_str()) {
        return Err(Fault::new(
            code::ACCESS_DENIED,
            format!("Not enough privileges: a read-only user may not call {function}()"),
        ));
    }
    Ok(())
}

/// A bare name can stand for a function, as in `arrayMap(file, paths)`. A column of such a name is read as `table.file`.
fn check_name(name: &str) -> Result<(), Fault> {
    if REACHING_FUNCTIONS.contains(&name.to_ascii_lowercase().as_str()) {
        let what = format!(
            "Not enough privileges: a read-only user may not name {name}, which is a function; a column is read as table.{name}"
        );
        return Err(Fault::new(code::ACCESS_DENIED, what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, DEFAULTS};

    #[test]
    fn wrong_passwords_and_unknown_users_look_the_same() {
        let text = DEFAULTS.replace("[users.reader]\npassword = \"\"", "[users.reader]\npassword = \"right\"");
        let config: Config = toml::from_str(&text).unwrap();
        let check = |user: Option<&str>, password: Option<&str>| {
            let credentials = Credentials { user: user.map(str::to_owned), password: password.map(str::to_owned) };
            authenticate(&config.users, &credentials).map(|user| user.access).map_err(|fault| fault.code)
        };
        assert_eq!(check(None, None), Ok(Access::Write));
        assert_eq!(check(Some("reader"), Some("right")), Ok(Access::Read));
        assert_eq!(check(Some("reader"), Some("wrong")), Err(code::AUTHENTICATION_FAILED));
        assert_eq!(check(Some("nobody"), Some("right")), Err(code::AUTHENTICATION_FAILED));
    }

    #[test]
    fn the_lists_are_sorted_and_in_lower_case() {
        for list in [HARMLESS_TABLE_FUNCTIONS, REACHING_FUNCTIONS] {
            assert!(list.is_sorted() && list.iter().all(|name| name.to_ascii_lowercase() == **name));
        }
    }
}
