//! Lines: connections at one provider that share the instruments among them, each with a key of its own where the provider asks for keys.
//!
//! A venue takes so many instruments on a connection and no more, so a feed of many instruments is several connections at once. An instrument is
//! on one line; which, nobody else needs to know: the number of a connection tells its line and its provider. A line that is lost opens gaps for
//! its own instruments, and the others go on.
//!
//! Next: `websocket.rs`, which keeps a line connected.

use crate::failover::Teller;
use crate::intake::ConnectionNumber;
use crate::websocket::Command;
use marketflow_model::Instrument;
use std::collections::BTreeSet;
use tokio::sync::mpsc;
use tracing::warn;

/// Connections that a line is numbered for.
const CONNECTIONS: ConnectionNumber = 1 << 24;
/// Lines that a provider is numbered for.
pub const LINES_MAX: usize = 256;
/// Commands waiting for the sockets of a line.
const COMMANDS: usize = 64;

/// A place for one connection at a time (and its successor, while it is renewed).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line(u64);

impl Line {
    /// The line so many places after a provider's first.
    ///
    /// # Panics
    /// Never below [`LINES_MAX`].
    pub fn new(teller: Teller, index: usize) -> Self {
        assert!(index < LINES_MAX, "a provider has {LINES_MAX} lines");
        let of_teller = match teller {
            Teller::First => 0,
            Teller::Standby => LINES_MAX,
        };
        Self((of_teller + index) as u64)
    }

    /// Whose connection this is.
    pub const fn of(number: ConnectionNumber) -> Self {
        Self(number / CONNECTIONS)
    }

    /// Its connections are numbered from here on, exclusive.
    pub const fn first_number(self) -> ConnectionNumber {
        self.0 * CONNECTIONS
    }

    /// Which provider it is at.
    pub const fn teller(self) -> Teller {
        if self.0 < LINES_MAX as u64 { Teller::First } else { Teller::Standby }
    }

    /// A connection as people read it: `3`, on the second line `2.3`.
    pub fn name(number: ConnectionNumber) -> String {
        match (number / CONNECTIONS % LINES_MAX as u64, number % CONNECTIONS) {
            (0, connection) => connection.to_string(),
            (index, connection) => format!("{}.{connection}", index + 1),
        }
    }
}

/// Which line each instrument is on, and the way to each line's sockets.
#[derive(Debug, Default)]
pub struct Lines(Vec<Open>);

#[derive(Debug)]
struct Open {
    line: Line,
    instruments: BTreeSet<Instrument>,
    commands: mpsc::Sender<Command>,
}

impl Lines {
    /// Opens so many lines at a provider and spreads the instruments over them. Returns each line with its instruments and what it is told.
    pub fn open(
        &mut self,
        teller: Teller,
        count: usize,
        instruments: &[Instrument],
    ) -> Vec<(Line, Vec<Instrument>, mpsc::Receiver<Command>)> {
        let (mut inboxes, first) = (Vec::new(), self.0.len());
        for index in 0..count {
            let (commands, inbox) = mpsc::channel(COMMANDS);
            self.0.push(Open { line: Line::new(teller, index), instruments: BTreeSet::new(), commands });
            inboxes.push(inbox);
        }
        self.spread(teller, instruments);
        let opened = self.0[first..].iter().zip(inboxes);
        opened.map(|(open, inbox)| (open.line, open.instruments.iter().cloned().collect(), inbox)).collect()
    }

    /// Puts new instruments on a line at each provider.
    pub async fn subscribe(&mut self, instruments: &[Instrument]) {
        for teller in Teller::ALL {
            for (index, added) in self.spread(teller, instruments) {
                self.command(index, Command::Subscribe(added)).await;
            }
        }
    }

    /// Takes instruments off their lines.
    pub async fn unsubscribe(&mut self, instruments: &[Instrument]) {
        for index in 0..self.0.len() {
            let on = &mut self.0[index].instruments;
            let removed: Vec<Instrument> = instruments.iter().filter(|instrument| on.remove(*instrument)).cloned().collect();
            if !removed.is_empty() {
                self.command(index, Command::Unsubscribe(removed)).await;
            }
        }
    }

    /// Leaves and enters an instrument's channels again, wherever it is.
    pub async fn resubscribe(&self, instrument: &Instrument) {
        for index in 0..self.0.len() {
            if self.0[index].instruments.contains(instrument) {
                self.command(index, Command::Resubscribe(instrument.clone())).await;
            }
        }
    }

    /// Each instrument goes to the line of the provider that has the fewest. Returns what each line got.
    fn spread(&mut self, teller: Teller, instruments: &[Instrument]) -> Vec<(usize, Vec<Instrument>)> {
        let mut given = vec![Vec::new(); self.0.len()];
        for instrument in instruments {
            let lines = self.0.iter_mut().enumerate().filter(|(_, open)| open.line.teller() == teller);
            if let Some((index, open)) = lines.min_by_key(|(_, open)| open.instruments.len())
                && open.instruments.insert(instrument.clone())
            {
                given[index].push(instrument.clone());
            }
        }
        given.into_iter().enumerate().filter(|(_, given)| !given.is_empty()).collect()
    }

    async fn command(&self, index: usize, command: Command) {
        if self.0[index].commands.send(command).await.is_err() {
            warn!("the sockets have ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruments(names: &[&str]) -> Vec<Instrument> {
        names.iter().map(|name| format!("V:{name}").parse().unwrap()).collect()
    }

    #[test]
    fn a_number_tells_line_and_provider() {
        for (teller, index) in [(Teller::First, 0), (Teller::First, 255), (Teller::Standby, 0), (Teller::Standby, 7)] {
            let line = Line::new(teller, index);
            for number in [line.first_number() + 1, line.first_number() + CONNECTIONS - 1] {
                assert_eq!((Line::of(number), line.teller()), (line, teller));
            }
        }
        assert_eq!(Line::name(Line::new(Teller::First, 0).first_number() + 3), "3");
        assert_eq!(Line::name(Line::new(Teller::Standby, 1).first_number() + 3), "2.3");
    }

    #[tokio::test]
    async fn instruments_are_spread_evenly_and_told_only_to_their_line() {
        let mut lines = Lines::default();
        let mut first = lines.open(Teller::First, 2, &instruments(&["A", "B", "C"]));
        let mut standby = lines.open(Teller::Standby, 1, &instruments(&["A", "B", "C"]));
        let on: Vec<_> = first.iter().chain(&standby).map(|(_, on, _)| on.clone()).collect();
        assert_eq!(on, [instruments(&["A", "C"]), instruments(&["B"]), instruments(&["A", "B", "C"])]);
        lines.subscribe(&instruments(&["D"])).await;
        lines.unsubscribe(&instruments(&["A"])).await;
        lines.resubscribe(&instruments(&["B"])[0]).await;
        lines.subscribe(&instruments(&["E"])).await;
        let told = |(_, _, inbox): &mut (Line, Vec<Instrument>, mpsc::Receiver<Command>)| {
            let mut told = Vec::new();
            while let Ok(command) = inbox.try_recv() {
                told.push(match command {
                    Command::Subscribe(on) => format!("+{}", on[0].symbol()),
                    Command::Unsubscribe(on) => format!("-{}", on[0].symbol()),
                    Command::Resubscribe(instrument) => format!("~{}", instrument.symbol()),
                });
            }
            told.join(" ")
        };
        assert_eq!([told(&mut first[0]), told(&mut first[1]), told(&mut standby[0])], ["-A +E", "+D ~B", "+D -A ~B +E"]);
    }
}
