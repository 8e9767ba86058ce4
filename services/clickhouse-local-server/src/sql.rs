//! Just enough of ClickHouse's lexer to tell where a statement ends and its rows begin, and which format it names.
//!
//! It decides nothing about permissions (the engine's own parser does, see `access.rs`): a wrong guess here is a syntax error there.
//!
//! Next: `codec.rs`.

use std::ops::Range;

/// An INSERT that takes rows, split where the rows begin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InsertHead {
    /// The statement without its FORMAT or VALUES clause.
    pub(crate) statement: Range<usize>,
    /// The format named, `Values` after VALUES.
    pub(crate) format: Option<String>,
    /// Where the rows begin.
    pub(crate) rows_at: usize,
}

/// Splits an INSERT from its rows; `None` for any other statement, `INSERT … SELECT` among them.
pub(crate) fn insert_head(sql: &[u8]) -> Option<InsertHead> {
    let mut tokens = Tokens::new(sql);
    let first = tokens.next()?;
    if !first.is_word(sql, "INSERT") {
        return None;
    }
    let mut token = tokens.next()?;
    for skipped in ["INTO", "TABLE"] {
        if token.is_word(sql, skipped) {
            token = tokens.next()?;
        }
    }
    if token.is_word(sql, "FUNCTION") {
        token = tokens.next()?;
    }
    // `token` is the table's name or its first part, which may be any word: what follows it is a keyword again.
    let mut depth = usize::from(token.is_symbol(b'{'));
    let mut after_dot = false;
    let mut end = token.range.end;
    loop {
        let Some(token) = tokens.next() else {
            return Some(InsertHead { statement: first.range.start..end, format: None, rows_at: sql.len() });
        };
        match token.kind {
            Kind::Symbol(b'(') if depth == 0 => {
                // `INSERT INTO t (SELECT …)` has no rows; a column list is stepped over.
                let opening = Tokens { sql, at: token.range.end }.next();
                if opening.is_some_and(|inner| inner.is_word(sql, "SELECT") || inner.is_word(sql, "WITH")) {
                    return None;
                }
                depth += 1;
            }
            Kind::Symbol(b'(' | b'[' | b'{') => depth += 1,
            Kind::Symbol(b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            Kind::Symbol(b'.') if depth == 0 => {
                after_dot = true;
                end = token.range.end;
                continue;
            }
            Kind::Symbol(b';') if depth == 0 => {
                let rows_at = after_line_end(sql, token.range.end);
                return Some(InsertHead { statement: first.range.start..end, format: None, rows_at });
            }
            Kind::Word if depth == 0 && !after_dot => {
                if ["SELECT", "WITH", "WATCH", "FROM"].iter().any(|word| token.is_word(sql, word)) {
                    return None;
                }
                if token.is_word(sql, "VALUES") {
                    let format = Some("Values".to_owned());
                    return Some(InsertHead { statement: first.range.start..end, format, rows_at: token.range.end });
                }
                if token.is_word(sql, "FORMAT") {
                    let name = tokens.next().filter(|name| name.kind == Kind::Word)?;
                    let format = Some(String::from_utf8_lossy(&sql[name.range.clone()]).into_owned());
                    let rows_at = after_line_end(sql, name.range.end);
                    return Some(InsertHead { statement: first.range.start..end, format, rows_at });
                }
            }
            Kind::Word | Kind::Quoted | Kind::Symbol(_) => {}
        }
        after_dot = false;
        end = token.range.end;
    }
}

/// The format a query names at its end, if it does.
pub(crate) fn output_format(sql: &[u8]) -> Option<String> {
    let mut tokens = Tokens::new(sql).peekable();
    let mut depth = 0_usize;
    let mut found = None;
    while let Some(token) = tokens.next() {
        match token.kind {
            Kind::Symbol(b'(' | b'[' | b'{') => depth += 1,
            Kind::Symbol(b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            Kind::Word if depth == 0 && token.is_word(sql, "FORMAT") => {
                let Some(name) = tokens.next_if(|next| next.kind == Kind::Word) else { continue };
                if tokens.peek().is_none_or(|next| next.is_symbol(b';') || next.is_word(sql, "SETTINGS")) {
                    found = Some(String::from_utf8_lossy(&sql[name.range]).into_owned());
                }
            }
            Kind::Word | Kind::Quoted | Kind::Symbol(_) => {}
        }
    }
    found
}

/// Whether the first word (after opening parentheses) is one of these.
pub(crate) fn begins_with(sql: &[u8], words: &[&str]) -> bool {
    let first = Tokens::new(sql).find(|token| !token.is_symbol(b'('));
    first.is_some_and(|token| words.iter().any(|word| token.is_word(sql, word)))
}

/// Whether a word occurs anywhere outside texts, quoted names and comments.
pub(crate) fn has_word(sql: &[u8], word: &str) -> bool {
    Tokens::new(sql).any(|token| token.is_word(sql, word))
}

/// Quotes a text for SQL.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Quotes a name for SQL.
pub(crate) fn quote_name(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// Rows begin after blanks, an optional semicolon and one line end; ClickHouse skips the same.
fn after_line_end(sql: &[u8], mut at: usize) -> usize {
    let blanks = |mut at: usize| {
        while matches!(sql.get(at), Some(b' ' | b'\t' | b'\x0c')) {
            at += 1;
        }
        at
    };
    at = blanks(at);
    if sql.get(at) == Some(&b';') {
        at = blanks(at + 1);
    }
    if sql.get(at) == Some(&b'\r') {
        at += 1;
    }
    if sql.get(at) == Some(&b'\n') { at + 1 } else { at }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Quoted,
    Symbol(u8),
}

#[derive(Debug)]
struct Token {
    kind: Kind,
    range: Range<usize>,
}

impl Token {
    fn is_word(&self, sql: &[u8], word: &str) -> bool {
        self.kind == Kind::Word && sql[self.range.clone()].eq_ignore_ascii_case(word.as_bytes())
    }

    fn is_symbol(&self, symbol: u8) -> bool {
        self.kind == Kind::Symbol(symbol)
    }
}

struct Tokens<'a> {
    sql: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    fn new(sql: &'a [u8]) -> Self {
        Self { sql, at: 0 }
    }

    fn skip_blanks_and_comments(&mut self) {
        loop {
            let rest = &self.sql[self.at..];
            let length = match rest {
                [first, ..] if first.is_ascii_whitespace() || *first == b'\x0b' => 1,
                [b'-', b'-', ..] | [b'#', b' ' | b'!', ..] => rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()),
                [b'/', b'*', ..] => rest.windows(2).skip(2).position(|pair| pair == b"*/").map_or(rest.len(), |at| at + 4),
                _ => return,
            };
            self.at += length;
        }
    }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_blanks_and_comments();
        let rest = &self.sql[self.at..];
        let (kind, length) = match *rest.first()? {
            quote @ (b'\'' | b'"' | b'`') => (Kind::Quoted, quoted_length(rest, quote)),
            b'$' if heredoc_length(rest).is_some() => (Kind::Quoted, heredoc_length(rest)?),
            byte if is_word_byte(byte) => (Kind::Word, rest.iter().position(|&byte| !is_word_byte(byte)).unwrap_or(rest.len())),
            byte => (Kind::Symbol(byte), 1),
        };
        let range = self.at..self.at + length;
        self.at = range.end;
        Some(Token { kind, range })
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// A quote ends at its match; a backslash or a doubled quote keeps it open.
fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        if rest[at] == b'\\' {
            at += 2;
        } else if rest[at] == quote {
            if rest.get(at + 1) != Some(&quote) {
                return at + 1;
            }
            at += 2;
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// `$tag$ … $tag$`
fn heredoc_length(rest: &[u8]) -> Option<usize> {
    let tag = 2 + rest[1..].iter().position(|&byte| byte == b'$')?;
    if !rest[1..tag - 1].iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let end = rest[tag..].windows(tag).position(|window| window == &rest[..tag])?;
    Some(tag + end + tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str, expected: Option<(&str, Option<&str>, &str)>) {
        let head = insert_head(sql.as_bytes());
        let found = head.as_ref().map(|head| (&sql[head.statement.clone()], head.format.as_deref(), &sql[head.rows_at..]));
        assert_eq!(found, expected, "{sql:?}");
    }

    #[test]
    fn an_insert_is_split_where_its_rows_begin() {
        check("INSERT INTO t FORMAT RowBinary\nabc", Some(("INSERT INTO t", Some("RowBinary"), "abc")));
        check("insert into d.t (a, `b)`) format CSV \r\n1,2\n", Some(("insert into d.t (a, `b)`)", Some("CSV"), "1,2\n")));
        check(
            "INSERT INTO t (a) SETTINGS x = 'FORMAT' VALUES (1), (2)",
            Some(("INSERT INTO t (a) SETTINGS x = 'FORMAT'", Some("Values"), " (1), (2)")),
        );
        check("INSERT INTO t FORMAT TSV;\n1\n", Some(("INSERT INTO t", Some("TSV"), "1\n")));
        check("INSERT INTO TABLE t(a, b)", Some(("INSERT INTO TABLE t(a, b)", None, "")));
        check("/* x */ INSERT t -- FORMAT CSV\n FORMAT JSONEachRow {}", Some(("INSERT t", Some("JSONEachRow"), "{}")));
        check("INSERT INTO format FORMAT CSV\n1", Some(("INSERT INTO format", Some("CSV"), "1")));
        check("INSERT INTO d.values VALUES (1)", Some(("INSERT INTO d.values", Some("Values"), " (1)")));
        check("INSERT INTO {t:Identifier} FORMAT CSV\n1", Some(("INSERT INTO {t:Identifier}", Some("CSV"), "1")));
        check("INSERT INTO t FORMAT RowBinary\n\n\n", Some(("INSERT INTO t", Some("RowBinary"), "\n\n")));
    }

    #[test]
    fn statements_without_rows_are_left_whole() {
        for sql in
            ["SELECT 1", "INSERT INTO t SELECT 1", "INSERT INTO t (a) WITH 1 AS x SELECT x", "INSERT INTO t (SELECT 1)", ""]
        {
            check(sql, None);
        }
    }

    #[test]
    fn the_output_format_is_the_one_at_the_end() {
        let check = |sql: &str, expected: Option<&str>| assert_eq!(output_format(sql.as_bytes()).as_deref(), expected, "{sql}");
        check("SELECT 1 FORMAT JSON", Some("JSON"));
        check("select 1 format Native ;", Some("Native"));
        check("SELECT format('{}', 1)", None);
        check("SELECT 'FORMAT JSON'", None);
        check("SELECT * FROM (SELECT 1 FORMAT x) -- FORMAT TSV", None);
        check("SELECT 1 FORMAT CSV SETTINGS max_threads = 1", Some("CSV"));
        check("SELECT $a$ FORMAT JSON $a$", None);
    }

    #[test]
    fn quoting_survives_quotes_and_backslashes() {
        assert_eq!(quote(r"it's a \ test"), r"'it\'s a \\ test'");
        assert_eq!(quote_name("a`b"), r"`a\`b`");
    }
}
