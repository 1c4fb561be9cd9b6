//! How far a run over a dead-letter topic is: a line now and then.

use std::time::Duration;

use quadrille_choreography::redrive::Progress;

use super::Lines;
use crate::output;

/// Between two lines that say how far a long run is.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Says now and then how far a run over a topic is.
#[derive(Debug)]
pub struct Letters<'a> {
    topic: &'a str,
    done: &'static str,
    lines: Lines,
}

impl<'a> Letters<'a> {
    /// `done`: what becomes of letters in this run, as in "sent back".
    pub fn new(topic: &'a str, done: &'static str) -> Self {
        Letters {
            topic,
            done,
            lines: Lines::every(LINE_EVERY),
        }
    }

    pub fn show(&mut self, progress: Progress) {
        if !self.lines.is_due() {
            return;
        }
        let (topic, verb) = (self.topic, self.done);
        output::note(match progress {
            Progress::Reading { letters } => format!("{topic}: {letters} letters read so far"),
            Progress::Settling { done, total } => {
                format!("{topic}: {done} of {total} {verb} so far")
            }
        });
    }
}
