//! Arguments and layered configuration: defaults < `--config` < environment < `--set`.

use crate::{AdminConfig, Exit, ExitContext, Program};
use anyhow::{Context, anyhow};
use clap::{Arg, ArgAction, ArgMatches, Command};
use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Environment variables start with this; a double underscore also separates section and key.
const ENVIRONMENT_PREFIX: &str = "MARKETFLOW__";

/// Section `[log]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Filter directives, such as `info` or `info,rdkafka=warn`; `RUST_LOG` wins.
    pub level: String,
    /// `auto` (text on a terminal, else JSON), `text` or `json`.
    #[serde(default)]
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

pub(crate) enum Loaded<C> {
    Run(Values<C>),
    Printed(Exit),
}

pub(crate) struct Values<C> {
    pub(crate) config: C,
    pub(crate) admin: AdminConfig,
    pub(crate) log: LogConfig,
}

pub(crate) fn load<C: DeserializeOwned + Serialize>(program: Program, defaults: &str) -> anyhow::Result<Loaded<C>> {
    let arguments = match command(program).try_get_matches() {
        Ok(arguments) => arguments,
        Err(answer) => {
            answer.print().context("cannot print the usage")?;
            return Ok(Loaded::Printed(if answer.use_stderr() { Exit::Usage } else { Exit::Ok }));
        }
    };
    let figment = layers(program, defaults, &arguments)?;
    let config: C = figment.extract().map_err(in_words)?;
    if arguments.get_flag("print-config") {
        print(&toml::to_string_pretty(&config).context("cannot print the configuration")?)?;
        return Ok(Loaded::Printed(Exit::Ok));
    }
    let admin = figment.extract_inner("admin").map_err(in_words)?;
    let log = figment.extract_inner("log").map_err(in_words)?;
    Ok(Loaded::Run(Values { config, admin, log }))
}

/// Reads the TOML file that a key names, or the built-in text where the key is empty. With what it holds comes its name, for messages.
///
/// # Errors
/// [`Exit::Usage`]: the file is not there, or holds something else.
pub fn file_or<T: DeserializeOwned>(key: &str, path: &Path, built_in: &str) -> anyhow::Result<(T, String)> {
    let (name, text) = if path.as_os_str().is_empty() {
        (format!("the built-in file of {key}"), built_in.to_owned())
    } else {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name} ({key})")).exit(Exit::Usage)?;
        (name, text)
    };
    let held = toml::from_str(&text).with_context(|| format!("{name} cannot be used as {key}")).exit(Exit::Usage)?;
    Ok((held, name))
}

fn command(program: Program) -> Command {
    let list = |list: &crate::List| {
        let values = Arg::new(list.name).long(list.name).value_name(list.entry).help(list.help);
        values.num_args(1..).action(ArgAction::Append)
    };
    Command::new(program.name)
        .args(program.lists.iter().map(list))
        .version(program.version())
        .after_help(format!(
            "Every key can be set in FILE, in the environment ({ENVIRONMENT_PREFIX}SECTION__KEY) or with --set; --print-config shows them all.\n\
             Exit codes: 0 ok, 1 failed, 64 usage or configuration, 69 a part is not reachable, 70 cannot go on, 75 try again, 130 interrupted."
        ))
        .arg(Arg::new("config").long("config").value_name("FILE").help("TOML file laid over the built-in defaults"))
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("SECTION.KEY=VALUE")
                .action(ArgAction::Append)
                .help("sets one key; wins over file and environment"),
        )
        .arg(
            Arg::new("print-config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("prints the configuration in effect, secrets hidden, and ends"),
        )
}

fn layers(program: Program, defaults: &str, arguments: &ArgMatches) -> anyhow::Result<Figment> {
    let mut figment = Figment::from(Toml::string(defaults));
    if let Some(file) = arguments.get_one::<String>("config") {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read configuration file {file}"))?;
        // parsed from text, so that a file that is not there is an error and not an empty layer
        text.parse::<toml::Table>().with_context(|| format!("configuration file {file}"))?;
        figment = figment.merge(Toml::file_exact(file));
    }
    figment = figment.merge(Env::prefixed(ENVIRONMENT_PREFIX).split("__"));
    for list in program.lists {
        if let Some(entries) = arguments.get_many::<String>(list.name) {
            let value = Value::from(entries.cloned().collect::<Vec<String>>());
            figment = figment.merge(Setting { key: list.key, value });
        }
    }
    for setting in arguments.get_many::<String>("set").into_iter().flatten() {
        let (key, text) = setting.split_once('=').ok_or_else(|| anyhow!("--set {setting}: write SECTION.KEY=VALUE"))?;
        let Ok(value) = text.parse::<Value>();
        figment = figment.merge(Setting { key, value });
    }
    Ok(figment)
}

/// One key set on the command line.
struct Setting<'a> {
    key: &'a str,
    value: Value,
}

impl Provider for Setting<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named("--set")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Serialized::default(self.key, &self.value).data()
    }
}

/// One clause per problem, each naming its key and the layer it came from.
fn in_words(problems: figment::Error) -> anyhow::Error {
    let clause = |problem: figment::Error| {
        let layer = problem.metadata.as_ref().map(|metadata| match &metadata.source {
            Some(Source::File(path)) => format!(" (in {})", path.display()),
            _ => format!(" (in {})", metadata.name),
        });
        format!("{}: {}{}", problem.path.join("."), problem.kind, layer.unwrap_or_default())
    };
    anyhow!("configuration: {}", problems.into_iter().map(clause).collect::<Vec<_>>().join("; "))
}

fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{}", text.trim_end()).context("cannot print")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        log: LogConfig,
        broker: Broker,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Broker {
        servers: String,
        retries: u32,
        topics: Vec<String>,
        password: crate::Secret,
    }

    const LISTS: &[crate::List] = &[crate::List { name: "topics", key: "broker.topics", entry: "TOPIC", help: "which" }];

    const DEFAULTS: &str =
        "[log]\nlevel = \"info\"\n[broker]\nservers = \"127.0.0.1:1\"\nretries = 1\ntopics = []\npassword = \"canary\"\n";

    fn example(arguments: &[&str]) -> Result<Example, String> {
        let program = crate::program!("example").with_lists(LISTS);
        let arguments = command(program).try_get_matches_from([&["example"], arguments].concat()).map_err(|e| e.to_string())?;
        layers(program, DEFAULTS, &arguments)
            .and_then(|figment| figment.extract().map_err(in_words))
            .map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn flags_win_over_the_defaults() {
        let config = example(&["--set", "broker.servers=a:9092", "--set", "broker.retries=7"]).unwrap();
        assert_eq!((config.broker.servers.as_str(), config.broker.retries), ("a:9092", 7));
        assert_eq!(config.log.level, "info");
    }

    #[test]
    fn a_list_of_a_programs_own_is_its_key_word_for_word() {
        let config = example(&["--topics", "005930", "000660", "--set", "broker.retries=7", "--topics", "@ten"]).unwrap();
        assert_eq!((config.broker.topics, config.broker.retries), (vec!["005930".into(), "000660".into(), "@ten".into()], 7));
        assert!(example(&[]).unwrap().broker.topics.is_empty());
    }

    #[test]
    fn an_unknown_key_is_named() {
        let problem = example(&["--set", "broker.retrys=7"]).unwrap_err();
        assert!(problem.contains("broker.retrys: unknown field") && problem.contains("--set"), "{problem}");
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let problem = example(&["--config", "/nowhere/at/all.toml"]).unwrap_err();
        assert!(problem.contains("/nowhere/at/all.toml"), "{problem}");
    }

    #[test]
    fn secrets_are_not_printed() {
        let config = example(&[]).unwrap();
        assert!(!toml::to_string_pretty(&config).unwrap().contains("canary"));
        assert!(!format!("{config:?}").contains("canary"));
        assert_eq!(config.broker.password.expose(), "canary");
    }
}
