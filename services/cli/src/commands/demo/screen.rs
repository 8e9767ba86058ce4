//! Where the live view goes: redrawn in place on a terminal, a line now and then elsewhere.
//!
//! Everything printed stays in the scroll-back; there is no alternate screen and nothing to restore but the cursor.

use super::render::{Snapshot, one_line, picture};
use super::text::Paint;
use marketflow_stack::Language;
use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// What the live view is drawn on.
#[derive(Debug)]
pub(super) struct Screen {
    kind: Kind,
    language: Language,
    pub(super) paint: Paint,
    /// Lines drawn last, which the next picture replaces.
    drawn: usize,
    last_line: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Terminal,
    Lines,
    /// Only JSON is wanted.
    Silent,
}

impl Screen {
    pub(super) fn new(silent: bool, language: Language) -> Self {
        let is_terminal = stdout().is_terminal() && !silent;
        let kind = match (silent, is_terminal) {
            (true, _) => Kind::Silent,
            (false, true) => Kind::Terminal,
            (false, false) => Kind::Lines,
        };
        Self { kind, language, paint: Paint::of_terminal(is_terminal, language), drawn: 0, last_line: None }
    }

    /// Prints a line that stays.
    pub(super) fn say(&mut self, line: &str) {
        if self.kind != Kind::Silent {
            self.drawn = 0;
            write(&format!("{line}\n"));
        }
    }

    /// Prints a line that the next one replaces on a terminal; elsewhere nothing.
    pub(super) fn hint(&mut self, line: &str) {
        if self.kind == Kind::Terminal {
            let up = self.up();
            self.drawn = 1;
            write(&format!("{up}\u{1b}[2K{line}\n"));
        }
    }

    /// Shows how it stands.
    pub(super) fn show(&mut self, snapshot: &Snapshot) {
        let (language, paint) = (self.language, self.paint);
        self.draw(|| one_line(snapshot, language), |width| picture(snapshot, width, language, paint));
    }

    /// Shows a line where there is no terminal, else the picture for its width.
    pub(super) fn draw(&mut self, one_line: impl FnOnce() -> String, picture: impl FnOnce(usize) -> Vec<String>) {
        match self.kind {
            Kind::Silent => {}
            Kind::Lines => {
                if self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
                    self.last_line = Some(Instant::now());
                    write(&format!("{}\n", one_line()));
                }
            }
            Kind::Terminal => {
                let (width, height) = crossterm::terminal::size().unwrap_or((80, 24));
                let mut lines = picture(usize::from(width));
                // a picture taller than the terminal could not be replaced
                lines.truncate(usize::from(height).saturating_sub(1));
                let body: String = lines.iter().map(|line| format!("\u{1b}[2K{line}\n")).collect();
                let up = self.up();
                // one write and the rest below cleared, so that nothing flickers
                write(&format!("{up}{body}\u{1b}[0J"));
                self.drawn = lines.len();
            }
        }
    }

    /// Back to the first line drawn last.
    fn up(&self) -> String {
        if self.drawn == 0 { String::new() } else { format!("\u{1b}[{}A\r", self.drawn) }
    }
}

/// Writes to standard output; a reader that left does not stop the demo, whose end is its exit code.
fn write(text: &str) {
    let mut out = stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}
