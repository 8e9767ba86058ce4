//! Which instruments: codes, or sets of them, which are files.
//!
//! `@NAME` is `symbols/NAME.toml` below `MARKETFLOW_HOME`, else a set that comes with the program. Sets list their symbols busiest first.
//!
//! Next: `clock.rs`.

use anyhow::{Context, bail, ensure};
use marketflow_model::Instrument;
use marketflow_providers::Provider;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::Path;

/// Sets that come with the program.
const BUILT_IN: &[(&str, &str)] =
    &[("krx10", include_str!("../symbols/krx10.toml")), ("krx97", include_str!("../symbols/krx97.toml"))];

/// What is asked for, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbols {
    /// All of them, the most active first.
    pub all: Vec<Instrument>,
    /// How many of them count as the most active.
    pub active: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetFile {
    /// Venue part of its instruments.
    venue: String,
    /// How many of the first count as the most active.
    active: usize,
    /// `[code, name]`, the most active first.
    symbols: Vec<(String, String)>,
}

impl Symbols {
    /// Reads what was asked for.
    ///
    /// # Errors
    /// A set that is not there, or an instrument the provider does not have.
    pub fn read(asked: &[String], provider: &Provider, home: &Path) -> anyhow::Result<Self> {
        let (mut most_active, mut others) = (Vec::new(), Vec::new());
        for text in asked.iter().flat_map(|text| text.split([',', ' '])).filter(|text| !text.is_empty()) {
            match text.strip_prefix('@') {
                Some(name) => {
                    let set = set(name, home)?;
                    for (place, (code, _)) in set.symbols.iter().enumerate() {
                        let list = if place < set.active { &mut most_active } else { &mut others };
                        list.push(Instrument::new(&set.venue, code).with_context(|| format!("@{name}"))?);
                    }
                }
                None if text.contains(':') => most_active.push(text.parse().with_context(|| format!("symbol {text:?}"))?),
                None => most_active.push(Instrument::new(provider.venue, text).with_context(|| format!("symbol {text:?}"))?),
            }
        }
        let mut seen = BTreeSet::new();
        most_active.retain(|instrument| seen.insert(instrument.clone()));
        others.retain(|instrument| seen.insert(instrument.clone()));
        let active = most_active.len();
        let all: Vec<Instrument> = most_active.into_iter().chain(others).collect();
        ensure!(!all.is_empty(), "no symbols: give codes such as 005930, or a set such as @krx97");
        if let Some(foreign) = all.iter().find(|instrument| !(provider.accepts)(instrument)) {
            bail!("{foreign} is not an instrument of {}; write a code such as 005930 or {}:CODE", provider.id, provider.venue);
        }
        Ok(Self { all, active })
    }

    /// The same in a broker's order: those it ranks first, and they count as the most active; then the others as they are. A ranking that names none
    /// of them changes nothing.
    #[must_use]
    pub fn most_active_first(self, ranked: &[Instrument]) -> Self {
        let first: Vec<Instrument> = ranked.iter().filter(|instrument| self.all.contains(instrument)).cloned().collect();
        if first.is_empty() {
            return self;
        }
        let active = first.len();
        let others = self.all.into_iter().filter(|instrument| !first.contains(instrument));
        Self { all: first.iter().cloned().chain(others).collect(), active }
    }
}

fn set(name: &str, home: &Path) -> anyhow::Result<SetFile> {
    ensure!(
        name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)),
        "@{name}: a set's name has letters, digits, - and _"
    );
    let path = home.join("symbols").join(format!("{name}.toml"));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(_) => match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => (*text).to_owned(),
            None => {
                let known: Vec<String> = BUILT_IN.iter().map(|(known, _)| format!("@{known}")).collect();
                bail!("no set @{name}: write {}, or use {}", path.display(), known.join(", "))
            }
        },
    };
    toml::from_str(&text).with_context(|| format!("the set @{name} ({})", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use marketflow_providers::by_id;

    fn read(asked: &[&str]) -> anyhow::Result<Symbols> {
        let asked: Vec<String> = asked.iter().map(|text| (*text).to_owned()).collect();
        Symbols::read(&asked, by_id("kis").unwrap(), Path::new("/nowhere"))
    }

    #[test]
    fn the_built_in_sets_hold_as_many_different_codes_as_their_names_say() {
        let krx97 = read(&["@krx97"]).unwrap();
        assert_eq!((krx97.all.len(), krx97.active), (97, 30));
        assert_eq!(krx97.all[0].as_str(), "KRX:005930");
        let krx10 = read(&["@krx10"]).unwrap();
        assert_eq!((krx10.all.len(), krx10.active), (10, 10));
        assert!(krx10.all.iter().all(|instrument| krx97.all[..30].contains(instrument)));
    }

    #[test]
    fn codes_and_sets_mix_and_nothing_is_asked_for_twice() {
        let mixed = read(&["035420, KRX:0080G0", "@krx97"]).unwrap();
        assert_eq!((mixed.all.len(), mixed.all[0].as_str(), mixed.all[1].as_str()), (98, "KRX:035420", "KRX:0080G0"));
        for (asked, problem) in
            [("@nowhere", "@krx97"), ("5930", "not an instrument"), ("UPBIT:KRW-BTC", "not an instrument"), ("@../x", "name")]
        {
            let error = format!("{:#}", read(&[asked]).unwrap_err());
            assert!(error.contains(problem), "{error}");
        }
        assert!(read(&[""]).is_err());
    }

    #[test]
    fn a_ranking_comes_before_the_sets_own_order() {
        let codes = |symbols: &Symbols| symbols.all.iter().map(|instrument| instrument.symbol().to_owned()).collect::<Vec<_>>();
        let ranked: Vec<Instrument> = ["035420", "999999", "005930"].map(|code| Instrument::new("KRX", code).unwrap()).to_vec();
        let asked = || read(&["005930", "000660", "035420"]).unwrap();
        let by_rank = asked().most_active_first(&ranked);
        assert_eq!((codes(&by_rank), by_rank.active), (["035420", "005930", "000660"].map(str::to_owned).to_vec(), 2));
        for none in [&ranked[1..2], &[]] {
            assert_eq!(asked().most_active_first(none), asked());
        }
    }

    #[test]
    fn a_file_at_home_wins_over_the_built_in_set() {
        let home = std::env::temp_dir().join(format!("marketflow-symbols-{}", std::process::id()));
        std::fs::create_dir_all(home.join("symbols")).unwrap();
        std::fs::write(
            home.join("symbols/krx97.toml"),
            "venue = 'KRX'\nactive = 1\nsymbols = [['000020', '동화약품'], ['000040', 'KR모터스']]",
        )
        .unwrap();
        let own = Symbols::read(&["@krx97".to_owned()], by_id("kis").unwrap(), &home).unwrap();
        assert_eq!((own.all.len(), own.active), (2, 1));
        std::fs::remove_dir_all(&home).unwrap();
    }
}
