//! What training found, for people and for scripts.

use std::{fmt, path::Path};

use quadrille_model::{
    Package,
    metrics::{AtThreshold, ClassScores, Confusion, Metrics, Thresholds},
    package::{Labels, Training},
    train::Importances,
};
use quadrille_pipeline::{
    Decision, Pipeline,
    training::{Past, Remark},
};
use quadrille_service::Error;
use serde_json::{Value, json};

use crate::{
    output::{Table, counted},
    preview,
    training::{self, Outcome, Skipped},
};

/// Features whose importance is shown; JSON has all.
const FEATURES_SHOWN: usize = 20;

/// How many rows in a hundred may lie beyond what a number says: two standard deviations.
const DEVIATIONS: f64 = 2.0;

/// Fewer repeats do not tell how much of what was lost is chance: the deviation of one is 0.
const REPEATS_JUDGED_MIN: usize = 3;

/// Thresholds that were not asked for by name.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Of the confusion counts.
    pub threshold: f64,
    /// Whether the pipeline file has this threshold.
    pub is_pipelines: bool,
    /// How much more recall counts than precision, for the second advice.
    pub beta: f64,
}

/// All that is reported of a model that was trained.
pub struct Report<'a> {
    package: &'a Package,
    training: &'a Training,
    skipped: &'a Skipped,
    remarks: &'a [Remark],
    past: Option<&'a Past>,
    importances: Option<&'a Importances>,
    names: Names<'a>,
    folds: String,
    /// Folds without an AUC of their own.
    one_class_folds: usize,
    asked: Asked,
    thresholds: Thresholds,
}

/// What the classes are called in the data, and what is decided for them.
#[derive(Debug, Clone, Copy)]
struct Names<'a> {
    labels: &'a Labels,
    /// Negative and positive.
    decisions: [&'a str; 2],
}

impl<'a> Report<'a> {
    /// # Errors
    /// The package was not trained here.
    pub fn new(
        pipeline: &'a Pipeline,
        outcome: &'a Outcome,
        by_time: bool,
        asked: Asked,
    ) -> Result<Self, Error> {
        let failed = |error: &dyn fmt::Display| Error::Failed(error.to_string());
        let training = outcome.package.manifest().training.as_ref();
        let training =
            training.ok_or_else(|| failed(&"the package does not say how it was trained"))?;
        let held_out = &outcome.held_out;
        let thresholds = Thresholds::new(&held_out.probabilities, &held_out.labels);
        let labels = &outcome.labels;
        let with_auc = training.evaluation.auc_of_folds.len();
        let one_class_folds = held_out.folds.saturating_sub(with_auc);
        Ok(Report {
            package: &outcome.package,
            training,
            skipped: &outcome.skipped,
            remarks: &outcome.remarks,
            past: outcome.past.as_ref(),
            importances: held_out.importances.as_ref(),
            names: Names {
                labels,
                decisions: match pipeline.decision() {
                    Decision::Threshold(it) => [&it.negative, &it.positive],
                    _ => [&labels.negative, &labels.positive],
                },
            },
            one_class_folds,
            folds: folds(pipeline, outcome, by_time, one_class_folds),
            asked,
            thresholds: thresholds.map_err(|error| failed(&error))?,
        })
    }

    fn metrics(&self) -> &Metrics {
        &self.training.evaluation.metrics
    }

    fn advised(&self) -> [(String, AtThreshold); 2] {
        let best = |beta: f64| (format!("f{beta}"), self.thresholds.best(beta));
        [best(1.0), best(self.asked.beta)]
    }

    /// The answer of `--output json`. Its fields are documented in the reference of the command; they are only added to.
    pub fn to_json(&self, out: &Path) -> Result<Value, Error> {
        let manifest: Value = serde_json::from_slice(self.package.manifest_bytes())
            .map_err(|error| Error::Failed(error.to_string()))?;
        let metrics = self.metrics();
        let at = self.thresholds.at(self.asked.threshold);
        let advised = self.advised().map(|(score, at)| {
            let value = at.f_beta(if score == "f1" { 1.0 } else { self.asked.beta });
            let mut json = self.at_json(&at);
            json["maximises"] = json!(score);
            json["score"] = json!(value);
            json
        });
        let remarks = self.remarks.iter().map(|it| {
            json!({ "class": it.class, "field": it.field, "rows": it.rows, "first_lines": it.lines, "reason": it.reason })
        });
        Ok(json!({
            "name": manifest["name"],
            "version": manifest["version"],
            "out": out.display().to_string(),
            "rows": self.skipped.rows,
            "rows_used": self.training.rows,
            "rows_skipped": self.skipped.skipped,
            "skipped": self.skipped.to_json(),
            "replayed": training::past_json(self.past),
            "remarks": remarks.collect::<Vec<Value>>(),
            "held_out": {
                "rows": metrics.rows,
                "folds": self.training.evaluation.auc_of_folds.len() + self.one_class_folds,
                "folds_of_one_class": self.one_class_folds,
                "positive": self.names.labels.positive,
                "negative": self.names.labels.negative,
                "roc_auc": metrics.auc,
                "pr_auc": self.thresholds.average_precision(),
                "log_loss": metrics.log_loss,
                "brier": metrics.brier,
                "calibration_error": metrics.calibration_error,
                "at_threshold": self.at_json(&at),
                "advised_thresholds": advised.to_vec(),
                "importance": self.importances,
            },
            "training": manifest["training"],
        }))
    }

    fn at_json(&self, at: &AtThreshold) -> Value {
        let class = |name: &str, decision: &str, of: &ClassScores| json!({ "label": name, "decision": decision, "rows": of.rows, "precision": of.precision, "recall": of.recall, "f1": of.f1 });
        let Names { labels, decisions } = self.names;
        json!({
            "threshold": at.threshold,
            "accuracy": at.accuracy,
            "confusion": at.confusion,
            "classes": [
                class(&labels.negative, decisions[0], &at.negative),
                class(&labels.positive, decisions[1], &at.positive),
            ],
        })
    }

    fn general(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metrics = self.metrics();
        let share = metrics.positives as f64 / metrics.rows as f64;
        let positive = preview::cell(&self.names.labels.positive);
        let of_folds = self.auc_of_folds();
        let mut line =
            |name: &str, value: f64, note: String| writeln!(f, "{name:<18} {value:.4}  {note}");
        line(
            "ROC-AUC",
            metrics.auc,
            format!("0.5 is guessing, 1 is perfect; {of_folds}"),
        )?;
        line(
            "PR-AUC",
            self.thresholds.average_precision(),
            format!("average precision of {positive}; guessing has {share:.4}"),
        )?;
        line("log loss", metrics.log_loss, "lower is better".to_owned())?;
        line(
            "Brier score",
            metrics.brier,
            format!(
                "lower is better; always the base rate: {:.4}",
                share * (1.0 - share)
            ),
        )?;
        line(
            "calibration error",
            metrics.calibration_error,
            "mean distance of predicted and observed share".to_owned(),
        )
    }

    /// How much the AUC depends on the fold, where folds have one.
    fn auc_of_folds(&self) -> String {
        let evaluation = &self.training.evaluation;
        match (evaluation.auc_of_folds(), &*evaluation.auc_of_folds) {
            (Some(_), [one]) => format!("the one fold of both classes {one:.4}"),
            (Some((mean, deviation)), _) => {
                let [low, high] = [mean - deviation, mean + deviation];
                format!("folds {low:.4} to {high:.4} (mean ± 1 standard deviation)")
            }
            (None, _) => "no fold has rows of both classes".to_owned(),
        }
    }

    fn decided(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.thresholds.at(self.asked.threshold);
        let Names { labels, decisions } = self.names;
        let whose = match self.asked.is_pipelines {
            true => "the pipeline's threshold",
            false => "the threshold asked for,",
        };
        let commoner = at.positive.rows.max(at.negative.rows) as f64 / self.metrics().rows as f64;
        writeln!(
            f,
            "at {whose} {}: accuracy {:.4} (always the commoner class: {commoner:.4})\n",
            at.threshold, at.accuracy
        )?;
        let Confusion {
            true_positives,
            false_positives,
            true_negatives,
            false_negatives,
        } = at.confusion;
        let decided = decisions.map(|it| format!("DECIDED {}", preview::cell(it)));
        let header = [
            "TRUTH",
            "ROWS",
            &decided[0],
            &decided[1],
            "PRECISION",
            "RECALL",
            "F1",
        ];
        let mut table = Table::new(&header);
        let mut row = |name: &str, of: &ClassScores, counts: [u64; 2]| {
            table.row(vec![
                preview::cell(name),
                of.rows.to_string(),
                counts[0].to_string(),
                counts[1].to_string(),
                figure(of.precision),
                figure(of.recall),
                figure(of.f1),
            ]);
        };
        row(
            &labels.negative,
            &at.negative,
            [true_negatives, false_positives],
        );
        row(
            &labels.positive,
            &at.positive,
            [false_negatives, true_positives],
        );
        writeln!(f, "{table}")
    }

    fn advice(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Names { labels, decisions } = self.names;
        let beta = self.asked.beta;
        let decided = format!("DECIDED {}", preview::cell(decisions[1]));
        let scored = format!("F{beta}");
        let header = [
            "THRESHOLD",
            "PRECISION",
            "RECALL",
            "F1",
            &scored,
            &decided,
            "",
        ];
        let mut table = Table::new(&header);
        let rows = self.metrics().rows as f64;
        let mut row = |at: AtThreshold, what: String| {
            let decided = at.confusion.true_positives + at.confusion.false_positives;
            table.row(vec![
                at.threshold.to_string(),
                figure(at.positive.precision),
                figure(at.positive.recall),
                figure(at.positive.f1),
                format!("{:.4}", at.f_beta(beta)),
                format!("{:.1} %", decided as f64 * 100.0 / rows),
                what,
            ]);
        };
        let whose = if self.asked.is_pipelines {
            "the pipeline's"
        } else {
            "asked for"
        };
        row(self.thresholds.at(self.asked.threshold), whose.to_owned());
        let [(_, f1), (_, f_beta)] = self.advised();
        row(
            f1,
            "highest F1: precision and recall count alike".to_owned(),
        );
        if beta != 1.0 {
            let what = format!("highest F{beta}: recall counts {beta} times as much (--beta)");
            row(f_beta, what);
        }
        let positive = preview::cell(&labels.positive);
        writeln!(
            f,
            "thresholds, by what they bring for {positive}; they are chosen on these rows, so expect a little less of others\n"
        )?;
        writeln!(f, "{table}")
    }

    fn importance(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(importances) = self.importances else {
            return Ok(());
        };
        let Importances {
            rows,
            positives,
            repeats,
            features,
        } = importances;
        if *rows == 0 {
            let why = match self.training.evaluation.auc_of_folds.is_empty() {
                true => "no fold has rows of both classes",
                false => {
                    "with so many features it would take too long; lower --importance-repeats or the number of folds"
                }
            };
            return writeln!(f, "\nimportance: not measured: {why}");
        }
        let is_judged = *repeats >= REPEATS_JUDGED_MIN;
        writeln!(
            f,
            "\nimportance: ROC-AUC lost once a feature's values are shuffled, on {} held out ({positives} {}), {} (mean ± standard deviation{})\n",
            counted(*rows, "row"),
            preview::cell(&self.names.labels.positive),
            counted(*repeats, "time"),
            match is_judged {
                true => "",
                false => "; too few times to tell it from chance",
            }
        )?;
        let mut table = Table::new(&["FEATURE", "LOST", ""]);
        for it in features.iter().take(FEATURES_SHOWN) {
            let mut note = match it.inputs {
                1 => String::new(),
                inputs => format!("{inputs} inputs together"),
            };
            if is_judged && it.mean <= DEVIATIONS * it.deviation {
                note = "no more than chance".to_owned();
            }
            table.row(vec![
                preview::cell(&it.feature),
                format!("{:.4} ± {:.4}", it.mean, it.deviation),
                note,
            ]);
        }
        write!(f, "{table}")?;
        match features.len().saturating_sub(FEATURES_SHOWN) {
            0 => writeln!(f),
            more => writeln!(
                f,
                "\nand {} (--output json has all)",
                counted(more, "feature")
            ),
        }
    }

    fn calibration(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bins = &self.metrics().calibration;
        let mut table = Table::new(&["PROBABILITY", "ROWS", "PREDICTED", "OBSERVED"]);
        for (at, bin) in bins.iter().enumerate().filter(|(_, bin)| bin.rows > 0) {
            let edge = |at: usize| at as f64 / bins.len() as f64;
            table.row(vec![
                format!("{:.1} to {:.1}", edge(at), edge(at + 1)),
                bin.rows.to_string(),
                format!("{:.4}", bin.predicted),
                format!("{:.4}", bin.observed),
            ]);
        }
        let positive = preview::cell(&self.names.labels.positive);
        writeln!(
            f,
            "\ncalibration: of the rows of a predicted probability, how many truly are {positive}\n"
        )?;
        write!(f, "{table}")
    }
}

/// For people.
impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metrics = self.metrics();
        let Labels { negative, positive } = self.names.labels;
        let negatives = metrics.rows - metrics.positives;
        let share = metrics.positives as f64 * 100.0 / metrics.rows as f64;
        writeln!(
            f,
            "{} of {} used; evaluated on {} held out: {} {}, {} {} ({share:.1} %)\n{}\n",
            self.training.rows,
            counted(self.skipped.rows as usize, "row"),
            counted(metrics.rows as usize, "row"),
            negatives,
            preview::cell(negative),
            metrics.positives,
            preview::cell(positive),
            self.folds
        )?;
        self.general(f)?;
        writeln!(f)?;
        self.decided(f)?;
        writeln!(f)?;
        self.advice(f)?;
        self.importance(f)?;
        self.calibration(f)
    }
}

/// How the rows were held out.
fn folds(pipeline: &Pipeline, outcome: &Outcome, by_time: bool, one_class: usize) -> String {
    let key = pipeline.key_field();
    let lacks_key = (outcome.remarks.iter()).any(|it| it.class == "no_column" && it.field == key);
    let together = match (by_time, lacks_key) {
        (true, _) => "each evaluated with a model of the rows before it in time".to_owned(),
        (false, true) => format!(
            "each row by itself as there is no column {key:?}, each evaluated with a model of the others"
        ),
        (false, false) => format!(
            "the rows of one {key:?} in one fold, each evaluated with a model of the others"
        ),
    };
    let one_class = match one_class {
        0 => String::new(),
        1 => "; 1 of them has rows of one class only, and no ROC-AUC of its own".to_owned(),
        count => {
            format!("; {count} of them have rows of one class only, and no ROC-AUC of their own")
        }
    };
    format!("{} folds, {together}{one_class}", outcome.held_out.folds)
}

fn figure(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |it| format!("{it:.4}"))
}

#[cfg(test)]
mod tests {
    use quadrille_model::train::Algorithm;

    use super::*;
    use crate::training::Options;

    const DIABETES: &str = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/pipelines/diabetes.toml"
    ));
    const HEADER: &str = "pregnant,glucose,pressure,triceps,insulin,mass,pedigree,age,diabetes";

    /// What is said of 60 rows, one after the other in time, of which `truth` says whether they are positive.
    fn said(header: &str, truth: fn(usize) -> bool, change: fn(&mut Options)) -> (String, Value) {
        let pipeline = Pipeline::parse("diabetes.toml", DIABETES).unwrap();
        let mut csv = format!("event_time,{header}\n");
        for at in 0..60 {
            let truth = if truth(at) { "pos" } else { "neg" };
            let glucose = 80 + at * 7 % 31;
            let key = match header.starts_with("patient_id") {
                true => format!("p{at},"),
                false => String::new(),
            };
            csv.push_str(&format!(
                "{at},{key}1,{glucose},70,20,100,26.5,0.5,40,{truth}\n"
            ));
        }
        let mut options = Options::new(&pipeline, Algorithm::LogisticRegression);
        change(&mut options);
        let outcome = training::train(&pipeline, csv.as_bytes(), &options, &mut |_| {}).unwrap();
        let asked = Asked {
            threshold: 0.5,
            is_pipelines: true,
            beta: 2.0,
        };
        let report = Report::new(&pipeline, &outcome, options.by_time, asked).unwrap();
        let json = report.to_json(Path::new("out")).unwrap();
        (report.to_string(), json)
    }

    #[test]
    fn folds_of_one_class_are_told_and_counted() {
        let (text, json) = said(
            HEADER,
            |at| at < 25 && at % 2 == 0,
            |it| {
                it.by_time = true;
                it.importance_repeats = 5;
            },
        );
        assert!(
            text.contains("5 folds, each evaluated with a model of the rows before it in time; 3 of them have rows of one class only"),
            "{text}"
        );
        assert_eq!(json["held_out"]["folds"], 5);
        assert_eq!(json["held_out"]["folds_of_one_class"], 3);
        // Blocks of ten rows: the first is not evaluated, the second is the one fold that has both classes.
        let (text, _) = said(HEADER, |at| at < 15 && at % 2 == 0, |it| it.by_time = true);
        assert!(text.contains("the one fold of both classes"), "{text}");
        assert!(!text.contains("0.0000 to 0.0000"), "{text}");
    }

    #[test]
    fn importance_of_no_rows_is_no_verdict() {
        // One fold is all positive, the other all negative.
        let truth = |at| if at < 20 { at % 2 == 0 } else { at < 40 };
        let (text, json) = said(HEADER, truth, |it| {
            it.by_time = true;
            it.train.folds = 2;
            it.importance_repeats = 5;
        });
        assert!(
            text.contains("no fold has rows of both classes\n"),
            "{text}"
        );
        assert!(
            text.contains("importance: not measured: no fold has rows of both classes"),
            "{text}"
        );
        assert!(
            !text.contains("no more than chance") && !text.contains("0.0000 to"),
            "{text}"
        );
        assert_eq!(json["held_out"]["importance"]["rows"], 0);
    }

    #[test]
    fn what_is_chance_is_told_from_three_repeats_on() {
        let (text, json) = said(HEADER, |at| at % 2 == 0, |it| it.importance_repeats = 1);
        assert!(
            text.contains("on 60 rows held out (30 pos), 1 time"),
            "{text}"
        );
        assert!(
            text.contains("too few times to tell it from chance"),
            "{text}"
        );
        assert!(!text.contains("no more than chance"), "{text}");
        assert_eq!(json["held_out"]["importance"]["positives"], 30);
        let (text, _) = said(HEADER, |at| at % 2 == 0, |it| it.importance_repeats = 3);
        assert!(
            text.contains("no more than chance") && !text.contains("too few times"),
            "{text}"
        );
    }

    #[test]
    fn rows_of_one_key_are_told_of_only_where_there_is_a_key() {
        let (text, _) = said(HEADER, |at| at % 2 == 0, |_| {});
        assert!(
            text.contains("5 folds, each row by itself as there is no column \"patient_id\""),
            "{text}"
        );
        let (text, _) = said(&format!("patient_id,{HEADER}"), |at| at % 2 == 0, |_| {});
        assert!(
            text.contains("5 folds, the rows of one \"patient_id\" in one fold"),
            "{text}"
        );
    }
}
