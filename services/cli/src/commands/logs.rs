//! `marketflow logs`: the log of one part, or of all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use marketflow_runtime::Exit;
use marketflow_stack::{Error, home_folder};

use crate::console::{line, problem};

const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// Shows the log of a part, or of all
#[derive(clap::Args, Debug)]
#[command(after_long_help = "\
Examples:
  marketflow logs                  the end of every log
  marketflow logs processor -n 200
  marketflow logs kafka -f         go on showing what is written
Logs are files under logs/ in the state folder; the three runs before this one end in .1 to .3.")]
pub struct Args {
    /// kafka, registry, clickhouse, supervisor or a service; all when absent
    part: Option<String>,
    /// Go on showing what is written
    #[arg(short, long)]
    follow: bool,
    /// Lines of each log to begin with
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 40)]
    lines: usize,
}

/// Runs the command.
///
/// # Errors
/// When there is no such part or its log cannot be read.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let folder = home_folder().join("logs");
    let all = log_files(&folder);
    let chosen: BTreeMap<String, PathBuf> = match &args.part {
        None => all,
        Some(part) => {
            let known = all.keys().cloned().collect::<Vec<_>>().join(", ");
            all.into_iter()
                .filter(|(name, _)| name == part)
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .next()
                .map(|entry| [entry].into())
                .ok_or_else(|| problem(&Error::UnknownPart { part: part.clone(), known }))?
        }
    };
    // the name in front of every line only where several logs are mixed
    let show = |name: &str, text: &str| if args.part.is_some() { line(text) } else { line(&format!("{name:<12} {text}")) };
    let mut positions = BTreeMap::new();
    for (name, path) in &chosen {
        let text = read_from(path, 0)?;
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(args.lines)..].iter().for_each(|text| show(name, text));
        positions.insert(name.clone(), text.len() as u64);
    }
    if !args.follow {
        return Ok(Exit::Ok);
    }
    loop {
        std::thread::sleep(FOLLOW_EVERY);
        for (name, path) in &chosen {
            let position = positions.entry(name.clone()).or_default();
            // shorter than before: the stack was started again and began a new file
            if path.metadata().map_or(0, |data| data.len()) < *position {
                *position = 0;
            }
            let text = read_from(path, *position).unwrap_or_default();
            // a line still being written is shown when it is whole
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            whole.lines().for_each(|text| show(name, text));
            *position += whole.len() as u64;
        }
    }
}

/// The current logs by part.
fn log_files(folder: &Path) -> BTreeMap<String, PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter_map(|path| Some((path.file_name()?.to_str()?.strip_suffix(".log")?.to_owned(), path.clone()))).collect()
}

/// Bytes that are no text are shown as such, one for one, so that lengths stay positions in the file.
fn read_from(path: &Path, start: u64) -> anyhow::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => error.into_bytes().iter().map(|&byte| if byte.is_ascii() { char::from(byte) } else { '?' }).collect(),
    })
}
