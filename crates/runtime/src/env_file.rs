//! Settings people keep in the environment or in a `.env` file: keys and secrets.

use crate::Secret;
use anyhow::Context;
use std::io::ErrorKind;
use std::path::Path;

/// The value of a name: the environment's, else the file's (`NAME=value` lines); the file need not exist. An empty value is none.
///
/// # Errors
/// A file that cannot be read.
pub fn setting(name: &str, file: &Path) -> anyhow::Result<Option<Secret>> {
    if let Some(value) = std::env::var(name).ok().filter(|value| !value.is_empty()) {
        return Ok(Some(Secret::new(value)));
    }
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(in_file(&text, name).map(Secret::new)),
        Err(problem) if problem.kind() == ErrorKind::NotFound => Ok(None),
        Err(problem) => Err(problem).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// The value of a name in the text of a `.env` file: `export` and quotes are allowed, `#` begins a comment line, the last one counts.
fn in_file(text: &str, name: &str) -> Option<String> {
    let lines = text.lines().rev().map(|line| line.trim().trim_start_matches("export ").trim_start());
    let mut values = lines.filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == name).then(|| value.trim())
    });
    let value = values.next()?;
    let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    Some(quoted.unwrap_or(value).to_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_files_are_read_as_people_write_them() {
        let text = "# KIS_APP_KEY=old\nexport KIS_APP_KEY = \"a=b\"\nKIS_APP_SECRET='c d'\n\nKIS_EMPTY=\nKIS_APP_KEYS=no\n";
        assert_eq!(in_file(text, "KIS_APP_KEY").as_deref(), Some("a=b"));
        assert_eq!(in_file(text, "KIS_APP_SECRET").as_deref(), Some("c d"));
        assert_eq!((in_file(text, "KIS_EMPTY"), in_file(text, "KIS")), (None, None));
    }
}
