//! How far a sending of records is: a line that changes on a terminal, else a line every few seconds.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::Lines;
use crate::{output, preview};

/// How often [`Sending::show`] wants to be called.
pub const EVERY: Duration = Duration::from_millis(250);
/// Between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Faults explained one by one; the others are only counted.
const FAULTS_SHOWN: u64 = 5;

/// What became of the records so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed to the Kafka client.
    pub sent: u64,
    /// In Kafka for certain.
    pub confirmed: u64,
    /// Sent and not confirmed.
    pub failed: u64,
    /// Lines that are no record, not sent.
    pub refused: u64,
}

impl Counts {
    pub fn faults(&self) -> u64 {
        self.failed + self.refused
    }
}

pub struct Sending {
    bar: Option<ProgressBar>,
    started: Instant,
    lines: Lines,
    explained: u64,
}

impl Sending {
    pub fn start() -> Self {
        let started = Instant::now();
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}");
            ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        Sending {
            bar,
            started,
            lines: Lines::every(LINE_EVERY),
            explained: 0,
        }
    }

    pub fn show(&mut self, counts: &Counts) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(self.line(counts));
                bar.tick();
            }
            None if self.lines.is_due() => output::note(self.line(counts)),
            None => {}
        }
    }

    /// Explains a fault, unless there were many.
    pub fn fault(&mut self, text: &str) {
        self.explained += 1;
        let text = match self.explained {
            n if n <= FAULTS_SHOWN => preview::text(text, preview::MESSAGE_CHARS_MAX),
            n if n == FAULTS_SHOWN + 1 => "more faults are only counted".to_owned(),
            _ => return,
        };
        self.note(&text);
    }

    /// Says something beside the line.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }

    /// Removes the line and sums up.
    pub fn end(self, counts: &Counts) -> String {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.line(counts)
    }

    fn line(&self, counts: &Counts) -> String {
        summary(counts, self.started.elapsed())
    }
}

fn summary(counts: &Counts, elapsed: Duration) -> String {
    let Counts {
        sent,
        confirmed,
        failed,
        refused,
    } = *counts;
    let seconds = elapsed.as_secs_f64();
    let rate = confirmed as f64 / seconds.max(1e-3);
    let refused = match refused {
        0 => String::new(),
        n => format!(", {n} refused"),
    };
    format!(
        "{sent} sent, {confirmed} confirmed, {failed} failed{refused} in {seconds:.1} s, {rate:.0} records/s"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_every_number() {
        let mut counts = Counts {
            sent: 20,
            confirmed: 18,
            failed: 2,
            refused: 0,
        };
        let line = summary(&counts, Duration::from_secs(2));
        assert_eq!(
            line,
            "20 sent, 18 confirmed, 2 failed in 2.0 s, 9 records/s"
        );
        counts.refused = 1;
        assert!(summary(&counts, Duration::ZERO).contains("2 failed, 1 refused in 0.0 s"));
        assert_eq!(counts.faults(), 3);
    }
}
