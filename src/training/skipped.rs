//! Rows that training cannot use: by reason, with where they are and what to do, and how many are too many.

use std::{fmt, str::FromStr};

use quadrille_pipeline::{Invalid, InvalidKind, Pipeline, training::Batch};
use serde_json::{Value, json};

use crate::{output::counted, preview};

/// Lines that are named of each reason.
const LINES_MAX: usize = 3;

/// Reasons that are shown; there is one for each field and kind of fault.
const REASONS_MAX: usize = 12;

/// How many rows may be left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Allowed {
    Rows(u64),
    /// Of all rows, 0 to 100.
    Percent(f64),
}

impl Allowed {
    pub const ALL: Self = Allowed::Percent(100.0);

    fn covers(self, skipped: u64, rows: u64) -> bool {
        match self {
            Allowed::Rows(most) => skipped <= most,
            Allowed::Percent(most) => skipped as f64 * 100.0 <= most * rows as f64,
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Rows(most) => write!(f, "{most}"),
            Allowed::Percent(most) => write!(f, "{most}%"),
        }
    }
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = match text.strip_suffix('%') {
            None => text.parse().ok().map(Allowed::Rows),
            Some(share) => (share.trim().parse().ok())
                .filter(|share| (0.0..=100.0).contains(share))
                .map(Allowed::Percent),
        };
        allowed
            .ok_or_else(|| "it must be a number of rows, or a share of them as in 2.5%".to_owned())
    }
}

/// Rows of one fault in one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// `missing_field`, `wrong_type`, …: as in the headers of dead letters.
    pub class: &'static str,
    /// Empty where the row as a whole is at fault.
    pub field: String,
    pub rows: u64,
    /// The first of them; the header is line 1.
    pub lines: Vec<u64>,
    /// What is wrong with the first of them.
    pub reason: String,
    pub fix: String,
}

/// What a file's rows are read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Training,
    Features,
}

/// What was left out of a file's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    purpose: Purpose,
    /// All rows of the file.
    pub rows: u64,
    pub skipped: u64,
    /// The most frequent first.
    pub reasons: Vec<Reason>,
}

impl Skipped {
    pub fn of(pipeline: &Pipeline, used: usize, skipped: &[(u64, Invalid)]) -> Self {
        let mut reasons: Vec<Reason> = Vec::new();
        for (line, invalid) in skipped {
            let same = |it: &&mut Reason| it.class == invalid.class() && it.field == invalid.field;
            match reasons.iter_mut().find(same) {
                Some(reason) => {
                    reason.rows += 1;
                    if reason.lines.len() < LINES_MAX {
                        reason.lines.push(*line);
                    }
                }
                None => reasons.push(Reason {
                    class: invalid.class(),
                    field: invalid.field.clone(),
                    rows: 1,
                    lines: vec![*line],
                    reason: invalid.reason.clone(),
                    fix: remedy(pipeline, invalid),
                }),
            }
        }
        reasons.sort_by_key(|it| std::cmp::Reverse(it.rows));
        Skipped {
            purpose: Purpose::Training,
            rows: (used + skipped.len()) as u64,
            skipped: skipped.len() as u64,
            reasons,
        }
    }

    /// Of rows whose features were computed; those that are only looked back on are not left out.
    pub fn of_features(pipeline: &Pipeline, batch: &Batch) -> Self {
        let state_only = batch.past.as_ref().map_or(0, |past| past.state_only);
        let used = batch.vectors.saturating_add(state_only) as usize;
        Skipped {
            purpose: Purpose::Features,
            ..Skipped::of(pipeline, used, &batch.skipped)
        }
    }

    /// The reasons, for scripts.
    pub fn to_json(&self) -> Vec<Value> {
        let reason = |it: &Reason| json!({ "class": it.class, "field": it.field, "rows": it.rows, "first_lines": it.lines, "reason": it.reason, "fix": it.fix });
        self.reasons.iter().map(reason).collect()
    }

    /// # Errors
    /// More rows are left out than `allowed`; the message has the reasons and the ways out.
    pub fn check(&self, allowed: Allowed) -> Result<(), String> {
        if allowed.covers(self.skipped, self.rows) {
            return Ok(());
        }
        let skipped = self.skipped;
        if self.purpose == Purpose::Features {
            return Err(format!(
                "{self}\n--max-skipped allows {allowed}, so nothing was written. Mend the data or the pipeline file; or, to go on without \
                 these rows, add --max-skipped {skipped}"
            ));
        }
        Err(format!(
            "{self}\n--max-skipped allows {allowed}, so nothing was trained: rows that are left out for a reason are not like the \
             others, and the metrics of a model of the rest look too good. Mend the data or the pipeline file; or, to train without these \
             rows, add --max-skipped {skipped}"
        ))
    }
}

impl Skipped {
    /// In one line, the most frequent reason alone; none where all rows were used.
    pub fn brief(&self) -> Option<String> {
        let (first, others) = self.reasons.split_first()?;
        let Skipped { rows, skipped, .. } = self;
        let share = share(*skipped, *rows);
        let others = match others.len() {
            0 => String::new(),
            more => format!("; and {} more", counted(more, "reason")),
        };
        Some(format!(
            "{skipped} of {rows} rows were left out of the training ({share}): {first}{others}"
        ))
    }
}

fn share(skipped: u64, rows: u64) -> String {
    format!("{:.1} %", skipped as f64 * 100.0 / rows.max(1) as f64)
}

/// An empty cell is a gap, if the pipeline says that there may be one.
fn remedy(pipeline: &Pipeline, invalid: &Invalid) -> String {
    let mut fields = pipeline.record_schema().fields.iter();
    let is_field = fields.any(|it| it.name == invalid.field);
    match invalid.kind == InvalidKind::MissingField && is_field {
        true => "if it may be missing, write `required = false` at the field in the pipeline file: the model fills gaps; else \
                 fill it in"
            .to_owned(),
        false => invalid.fix.clone(),
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Skipped { rows, skipped, .. } = self;
        let purpose = match self.purpose {
            Purpose::Training => "be used for training",
            Purpose::Features => "have features",
        };
        write!(
            f,
            "{skipped} of {rows} rows cannot {purpose} ({}):",
            share(*skipped, *rows)
        )?;
        for reason in self.reasons.iter().take(REASONS_MAX) {
            write!(f, "\n  {reason}")?;
        }
        match self.reasons.len().saturating_sub(REASONS_MAX) {
            0 => Ok(()),
            more => write!(f, "\n  and {} more", counted(more, "reason")),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clean = |text: &str| preview::text(text, preview::MESSAGE_CHARS_MAX);
        let lines: Vec<String> = self.lines.iter().map(u64::to_string).collect();
        let lines = match (self.rows, lines.join(", ")) {
            (1, line) => format!("line {line}"),
            (rows, lines) if rows > LINES_MAX as u64 => format!("lines {lines}, …"),
            (_, lines) => format!("lines {lines}"),
        };
        write!(f, "{} ({lines}): ", counted(self.rows as usize, "row"))?;
        if !self.field.is_empty() {
            write!(f, "field \"{}\": ", clean(&self.field))?;
        }
        write!(f, "{}; {}", clean(&self.reason), clean(&self.fix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_a_number_of_rows_or_a_share() {
        assert_eq!("0".parse(), Ok(Allowed::Rows(0)));
        assert_eq!("2.5%".parse(), Ok(Allowed::Percent(2.5)));
        for wrong in ["", "-1", "1.5", "%", "101%", "NaN%", "all"] {
            assert!(wrong.parse::<Allowed>().is_err(), "{wrong}");
        }
        assert!(Allowed::Rows(3).covers(3, 10) && !Allowed::Rows(3).covers(4, 10));
        assert!(Allowed::Percent(30.0).covers(3, 10) && !Allowed::Percent(30.0).covers(4, 10));
        assert!(Allowed::ALL.covers(10, 10));
        assert!(Allowed::Rows(0).covers(0, 0) && Allowed::Percent(0.0).covers(0, 10));
    }
}
