//! Training's progress: a bar on a terminal, else a line a step.

use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use quadrille_model::train::Progress;

use crate::output;

/// Training's progress: a bar on a terminal, else a line a step.
pub enum Training {
    Terminal(ProgressBar),
    Lines,
}

impl Training {
    pub fn new() -> Self {
        if !stderr().is_terminal() {
            return Training::Lines;
        }
        let bar = ProgressBar::new(1);
        let style = ProgressStyle::with_template("training {bar:30} {pos}/{len} {msg} {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Training::Terminal(bar)
    }

    pub fn show(&self, progress: Progress) {
        let Progress { done, total, step } = progress;
        match self {
            Training::Terminal(bar) => {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
                bar.set_message(step.to_string());
            }
            Training::Lines => output::note(format_args!("training {done}/{total} {step}")),
        }
    }

    pub fn end(&self) {
        if let Training::Terminal(bar) = self {
            bar.finish_and_clear();
        }
    }
}
