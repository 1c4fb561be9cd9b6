//! Which rows a model is evaluated on, and by which it was trained.

use std::collections::HashSet;

use super::{Dataset, Error, TrainOptions, folds};

/// Which rows a model is evaluated on that was trained on the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split<'a> {
    /// Drawn at random, each row for itself.
    Rows,
    /// Drawn at random, the rows of an entity together: equal numbers are one entity. Rows of one patient are alike, and
    /// a model that saw some of them would know the others' truth.
    Entities(&'a [usize]),
    /// Each fold is evaluated by a model of the rows before it in time. The first rows are not evaluated.
    Time(&'a [i64]),
}

/// Rows cut into folds.
pub(super) enum Folds {
    /// The fold of each row.
    Random(Vec<usize>),
    /// The block of time of each row: each but the first is a fold.
    Time(Vec<usize>),
}

impl Folds {
    pub fn cut(data: &Dataset, split: Split<'_>, options: &TrainOptions) -> Result<Self, Error> {
        let (labels, folds, seed) = (&data.labels, options.folds, options.seed);
        let check = |found: usize| match found == labels.len() {
            true => Ok(()),
            false => Err(Error::Split {
                rows: labels.len(),
                found,
            }),
        };
        Ok(match split {
            Split::Rows => Folds::Random(folds::stratified(labels, folds, seed)),
            Split::Entities(entities) => {
                check(entities.len())?;
                let distinct: HashSet<usize> = entities.iter().copied().collect();
                Folds::Random(match distinct.len() == labels.len() {
                    // Each row is its own: what is drawn row by row is balanced best.
                    true => folds::stratified(labels, folds, seed),
                    false => {
                        check_entities(labels, entities, folds)?;
                        folds::grouped(labels, entities, folds, seed)
                    }
                })
            }
            Split::Time(times) => {
                check(times.len())?;
                let blocks = folds::by_time(times, folds);
                Folds::Time(blocks.ok_or(Error::TooFewTimes { folds })?)
            }
        })
    }

    pub fn trains(&self, fold: usize, row: usize) -> bool {
        match self {
            Folds::Random(folds) => folds[row] != fold,
            Folds::Time(blocks) => blocks[row] <= fold,
        }
    }

    pub fn evaluates(&self, fold: usize, row: usize) -> bool {
        match self {
            Folds::Random(folds) => folds[row] == fold,
            Folds::Time(blocks) => blocks[row] == fold + 1,
        }
    }

    /// Of random folds both classes are on either side; the beginning of time may have one only.
    pub fn check_before(&self, fold: usize, labels: &[f64]) -> Result<(), Error> {
        match (self, labels.first()) {
            (Folds::Time(_), Some(&label)) if labels.iter().all(|it| *it == label) => {
                let fold = fold + 1;
                Err(Error::OneClassBefore { fold, label })
            }
            _ => Ok(()),
        }
    }
}

fn check_entities(labels: &[f64], entities: &[usize], folds: usize) -> Result<(), Error> {
    for label in [0.0, 1.0] {
        let rows = entities.iter().zip(labels);
        let having = rows.filter(|(_, it)| **it == label);
        let count = having
            .map(|(entity, _)| entity)
            .collect::<HashSet<_>>()
            .len();
        if count < folds {
            return Err(Error::TooFewEntities {
                count,
                label,
                folds,
            });
        }
    }
    Ok(())
}
