//! Trees as exchange formats know them: several outputs a leaf, a combination over the trees, base values and a transform.
//!
//! They are walked by the kernel of [`super::Forest`], whose one comparison is `<=` and sends NaN to the other side. What a
//! format asks beyond that is turned into it at load, exactly: an [`Operand`] is what a node's comparison reads, an input as
//! it is, negated, or compared for equality. No step of a walk pays for it; a row pays for filling its operands.

use super::kernel::Kernel;
use super::layout::Layout;
use super::leaves::Leaves;
use super::shapley::{self, Walked};
use super::{Error, SourceNode};

/// Rows whose operands are filled together: they stay in the first cache.
const BLOCK_ROWS: usize = 128;

/// What a comparison reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Operand {
    /// An input.
    Input(u32),
    /// An input with its sign turned: `x > t` is `-x <= below(-t)`.
    Negated(u32),
    /// 0 where the input equals the value (and where it is missing, if that counts as equal), else 1.
    Differs {
        input: u32,
        value: f64,
        missing_equals: bool,
    },
}

impl Operand {
    fn input(self) -> usize {
        match self {
            Operand::Input(input) | Operand::Negated(input) | Operand::Differs { input, .. } => {
                input as usize
            }
        }
    }

    #[inline]
    fn read(self, row: &[f64], precision: Precision) -> f64 {
        let value = precision.round(row[self.input()]);
        match self {
            Operand::Input(_) => value,
            Operand::Negated(_) => -value,
            Operand::Differs {
                value: other,
                missing_equals,
                ..
            } => f64::from(value != other && !(missing_equals && value.is_nan())),
        }
    }
}

/// What inputs are rounded to before they are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    Single,
    Double,
}

impl Precision {
    #[inline]
    pub fn round(self, value: f64) -> f64 {
        match self {
            Precision::Single => f64::from(value as f32),
            Precision::Double => value,
        }
    }
}

/// How the trees' leaves become one score an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aggregate {
    Sum,
    Average,
    Least,
    Greatest,
}

/// What becomes of a row's scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PostTransform {
    None,
    Logistic,
    Softmax,
    /// Softmax in which a score of zero stays zero.
    SoftmaxZero,
    Probit,
    /// One score of two classes: `1 - s` and `s`.
    Complement,
    /// One score of two classes: `-s` and `s`.
    Opposite,
    /// One score of two classes: the logistic function of `-s` and of `s`.
    LogisticPair,
}

impl PostTransform {
    /// Whether the outputs are the scores: then what sums to a score sums to its output.
    pub fn keeps_scores(self) -> bool {
        matches!(
            self,
            PostTransform::None | PostTransform::Complement | PostTransform::Opposite
        )
    }

    fn width(self, scores: usize) -> usize {
        match self {
            PostTransform::Complement | PostTransform::Opposite | PostTransform::LogisticPair => 2,
            _ => scores,
        }
    }

    fn apply(self, scores: &mut [f64], outputs: &mut Vec<f64>) {
        match self {
            PostTransform::None => {}
            PostTransform::Logistic => scores
                .iter_mut()
                .for_each(|score| *score = logistic(*score)),
            PostTransform::Softmax => softmax(scores),
            PostTransform::SoftmaxZero => softmax_zero(scores),
            PostTransform::Probit => scores.iter_mut().for_each(|score| *score = probit(*score)),
            PostTransform::Complement => return outputs.extend([1.0 - scores[0], scores[0]]),
            PostTransform::Opposite => return outputs.extend([-scores[0], scores[0]]),
            PostTransform::LogisticPair => {
                return outputs.extend([logistic(-scores[0]), logistic(scores[0])]);
            }
        }
        outputs.extend_from_slice(scores);
    }
}

/// The logistic function.
pub(crate) fn logistic(score: f64) -> f64 {
    1.0 / (1.0 + (-score).exp())
}

/// Scores become shares that sum to 1.
pub(crate) fn softmax(scores: &mut [f64]) {
    let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores
        .iter_mut()
        .for_each(|score| *score = (*score - greatest).exp());
    let sum: f64 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
}

fn softmax_zero(scores: &mut [f64]) {
    /// What counts as zero.
    const ZERO: f64 = 1e-7;
    let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for score in &mut *scores {
        if score.abs() > ZERO {
            *score = (*score - greatest).exp();
            sum += *score;
        } else {
            *score *= (-greatest).exp();
        }
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// ONNX Runtime's approximation of the normal distribution's quantile (Winitzki's inverse error function), so that the
/// answers are its answers.
fn probit(score: f64) -> f64 {
    const A: f64 = 0.147;
    #[expect(clippy::approx_constant, reason = "as coarse as theirs")]
    const PI: f64 = 3.14159;
    let x = 2.0 * score - 1.0;
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let half = 2.0 / (PI * A) + 0.5 * log;
    let inner = -half + (half * half - log / A).sqrt();
    std::f64::consts::SQRT_2 * inner.sqrt().copysign(x)
}

/// What leaves hold, by ordinal: a run of pairs of output and weight for each.
#[derive(Debug, Default)]
pub(crate) struct LeafTable {
    /// Where each leaf's run ends; it begins where the one before ends.
    ends: Vec<u32>,
    outputs: Vec<u32>,
    weights: Vec<f64>,
}

impl LeafTable {
    /// Appends a leaf; returns its ordinal. None: there are more pairs than can be counted.
    pub fn push(&mut self, pairs: impl IntoIterator<Item = (u32, f64)>) -> Option<u32> {
        for (output, weight) in pairs {
            self.outputs.push(output);
            self.weights.push(weight);
        }
        self.ends.push(u32::try_from(self.weights.len()).ok()?);
        u32::try_from(self.ends.len() - 1).ok()
    }

    fn run(&self, ordinal: usize) -> std::ops::Range<usize> {
        let start = match ordinal {
            0 => 0,
            _ => self.ends[ordinal - 1] as usize,
        };
        start..self.ends[ordinal] as usize
    }
}

/// What an ensemble is made of. A leaf's value is its ordinal in `leaves`; a split's input is an operand.
#[derive(Debug)]
pub(crate) struct Parts {
    pub inputs: usize,
    pub precision: Precision,
    pub operands: Vec<Operand>,
    pub trees: Vec<Vec<SourceNode>>,
    pub leaves: LeafTable,
    pub scores: usize,
    pub aggregate: Aggregate,
    /// Added to the scores; there may be fewer than scores.
    pub base: Vec<f64>,
    pub post_transform: PostTransform,
}

/// A validated ensemble.
pub(crate) struct Ensemble {
    inputs: usize,
    precision: Precision,
    operands: Vec<Operand>,
    layout: Layout,
    kernel: Kernel,
    leaves: Runs,
    scores: usize,
    aggregate: Aggregate,
    base: Vec<f64>,
    post_transform: PostTransform,
}

/// Leaves' pairs in the order of the nodes, so that a tree's lie together.
enum Runs {
    /// One score, one weight a leaf: the nodes' own values, as in a forest.
    Values,
    /// Every leaf has a weight for every output, in order.
    Dense { starts: Vec<u32>, weights: Vec<f64> },
    Sparse {
        /// Where each node's run begins, and one more.
        starts: Vec<u32>,
        outputs: Vec<u32>,
        weights: Vec<f64>,
    },
}

/// Its size, not its nodes.
impl std::fmt::Debug for Ensemble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ensemble")
            .field("inputs", &self.inputs)
            .field("trees", &self.layout.roots.len())
            .field("nodes", &self.layout.nodes.len())
            .field("scores", &self.scores)
            .field("post_transform", &self.post_transform)
            .finish_non_exhaustive()
    }
}

impl Ensemble {
    /// # Errors
    /// No trees or too many, or a node that is not sound.
    pub fn new(parts: Parts) -> Result<Self, Error> {
        let Parts {
            inputs,
            precision,
            operands,
            trees,
            leaves,
            scores,
            aggregate,
            base,
            post_transform,
        } = parts;
        let mut layout = Layout::new(operands.len(), &trees)?;
        drop(trees);
        let count = leaves.ends.len() as f64;
        layout.validate(|value| value >= 0.0 && value < count && value.fract() == 0.0)?;
        super::layout::check_size("outputs", scores, crate::OUTPUTS_MAX)?;
        let leaves = Runs::new(&mut layout, &leaves, scores, aggregate);
        Ok(Self {
            inputs,
            precision,
            operands,
            kernel: Kernel::new(&layout),
            layout,
            leaves,
            scores,
            aggregate,
            base,
            post_transform,
        })
    }

    /// Values in a row of outputs.
    pub fn width(&self) -> usize {
        self.post_transform.width(self.scores)
    }

    pub fn post_transform(&self) -> PostTransform {
        self.post_transform
    }

    /// Appends the outputs of each of `rows` (row-major, n × inputs).
    pub fn score(&self, rows: &[f64], outputs: &mut Vec<f64>) {
        let (mut operands, mut scores) = (Vec::new(), Vec::new());
        outputs.reserve(rows.len() / self.inputs * self.width());
        for rows in rows.chunks(BLOCK_ROWS * self.inputs) {
            operands.clear();
            for row in rows.chunks_exact(self.inputs) {
                self.fill(row, &mut operands);
            }
            scores.clear();
            scores.resize(rows.len() / self.inputs * self.scores, self.start());
            self.add(&operands, &mut scores);
            for scores in scores.chunks_exact_mut(self.scores) {
                self.complete(scores);
                self.post_transform.apply(scores, outputs);
            }
        }
    }

    fn fill(&self, row: &[f64], operands: &mut Vec<f64>) {
        operands.extend(
            self.operands
                .iter()
                .map(|operand| operand.read(row, self.precision)),
        );
    }

    /// What a score begins with. NaN gives way to the first leaf that `min` and `max` see.
    fn start(&self) -> f64 {
        match self.aggregate {
            Aggregate::Sum | Aggregate::Average => 0.0,
            Aggregate::Least | Aggregate::Greatest => f64::NAN,
        }
    }

    fn add(&self, operands: &[f64], scores: &mut [f64]) {
        let width = self.scores;
        match (&self.leaves, self.aggregate) {
            (Runs::Values, _) => self.kernel.add_values(operands, scores),
            (Runs::Dense { starts, weights }, _) => {
                let leaves = Dense {
                    starts,
                    weights,
                    width,
                };
                self.kernel.add(operands, scores, &leaves);
            }
            (runs, Aggregate::Sum | Aggregate::Average) => {
                self.fold(operands, scores, runs, |sum, weight| sum + weight);
            }
            (runs, Aggregate::Least) => self.fold(operands, scores, runs, f64::min),
            (runs, Aggregate::Greatest) => self.fold(operands, scores, runs, f64::max),
        }
    }

    fn fold(
        &self,
        operands: &[f64],
        scores: &mut [f64],
        runs: &Runs,
        fold: impl Fn(f64, f64) -> f64,
    ) {
        if let Runs::Sparse {
            starts,
            outputs,
            weights,
        } = runs
        {
            let leaves = Sparse {
                starts,
                outputs,
                weights,
                width: self.scores,
                fold,
            };
            self.kernel.add(operands, scores, &leaves);
        }
    }

    /// Combined scores with their base values.
    fn complete(&self, scores: &mut [f64]) {
        match self.aggregate {
            Aggregate::Sum => {}
            Aggregate::Average => {
                let trees = self.layout.roots.len() as f64;
                scores.iter_mut().for_each(|score| *score /= trees);
            }
            Aggregate::Least | Aggregate::Greatest => {
                // An output of which no leaf said anything.
                let unsaid = scores.iter_mut().filter(|score| score.is_nan());
                unsaid.for_each(|score| *score = 0.0);
            }
        }
        for (score, base) in scores.iter_mut().zip(&self.base) {
            *score += base;
        }
    }

    /// Shapley values of the scores of `row` against each of `background`'s rows, averaged: row-major inputs × scores; and
    /// the scores' mean over the background. None where the trees' leaves are not summed.
    pub fn contributions(&self, row: &[f64], background: &[f64]) -> Option<(Vec<f64>, Vec<f64>)> {
        if !matches!(self.aggregate, Aggregate::Sum | Aggregate::Average) {
            return None;
        }
        let inputs: Vec<u32> = self
            .operands
            .iter()
            .map(|operand| operand.input() as u32)
            .collect();
        let mut operands = Vec::new();
        self.fill(row, &mut operands);
        let mut others = Vec::new();
        for row in background.chunks_exact(self.inputs) {
            self.fill(row, &mut others);
        }
        let walked = Walked {
            layout: &self.layout,
            inputs: &inputs,
            width: self.scores,
        };
        let (mut parts, mut bias) = shapley::values(&walked, &operands, &others, |node, add| {
            self.leaves.each(node, &self.layout, add);
        });
        if self.aggregate == Aggregate::Average {
            let trees = self.layout.roots.len() as f64;
            parts
                .iter_mut()
                .chain(&mut bias)
                .for_each(|it| *it /= trees);
        }
        for (bias, base) in bias.iter_mut().zip(&self.base) {
            *bias += base;
        }
        Some((parts, bias))
    }
}

impl Runs {
    /// Brings the leaves into the nodes' order; where one value a leaf will do, it goes into the nodes.
    fn new(layout: &mut Layout, table: &LeafTable, width: usize, aggregate: Aggregate) -> Self {
        let summed = matches!(aggregate, Aggregate::Sum | Aggregate::Average);
        let leaves = |layout: &Layout| {
            let leaves = layout.nodes.iter().filter(|node| node.child == 0);
            leaves.map(|node| node.value as usize).collect::<Vec<_>>()
        };
        let ordinals = leaves(layout);
        if width == 1 && summed {
            let leaves = layout.nodes.iter_mut().filter(|node| node.child == 0);
            for (node, ordinal) in leaves.zip(ordinals) {
                node.value = table.weights[table.run(ordinal)].iter().sum();
            }
            return Runs::Values;
        }
        let dense = ordinals.iter().all(|&ordinal| {
            let outputs = &table.outputs[table.run(ordinal)];
            outputs.len() == width && outputs.iter().zip(0..).all(|(output, at)| *output == at)
        });
        let mut starts = Vec::with_capacity(layout.nodes.len() + 1);
        let (mut outputs, mut weights) = (Vec::new(), Vec::new());
        for node in &layout.nodes {
            // Runs are copied once each, and the table counts them in u32.
            starts.push(weights.len() as u32);
            if node.child == 0 {
                let run = table.run(node.value as usize);
                weights.extend_from_slice(&table.weights[run.clone()]);
                outputs.extend_from_slice(&table.outputs[run]);
            }
        }
        starts.push(weights.len() as u32);
        match dense && summed {
            true => Runs::Dense { starts, weights },
            false => Runs::Sparse {
                starts,
                outputs,
                weights,
            },
        }
    }

    /// Calls `add` with each output and weight of a leaf.
    fn each(&self, node: usize, layout: &Layout, add: &mut dyn FnMut(usize, f64)) {
        match self {
            Runs::Values => add(0, layout.nodes[node].value),
            Runs::Dense { starts, weights } => {
                let run = starts[node] as usize..starts[node + 1] as usize;
                weights[run]
                    .iter()
                    .enumerate()
                    .for_each(|(at, weight)| add(at, *weight));
            }
            Runs::Sparse {
                starts,
                outputs,
                weights,
            } => {
                let run = starts[node] as usize..starts[node + 1] as usize;
                for at in run {
                    add(outputs[at] as usize, weights[at]);
                }
            }
        }
    }
}

struct Dense<'a> {
    starts: &'a [u32],
    weights: &'a [f64],
    width: usize,
}

impl Leaves for Dense<'_> {
    #[inline(always)]
    fn width(&self) -> usize {
        self.width
    }

    #[inline(always)]
    fn add(&self, leaf: usize, sums: &mut [f64]) {
        let weights = &self.weights[self.starts[leaf] as usize..];
        sums.iter_mut()
            .zip(weights)
            .for_each(|(sum, weight)| *sum += weight);
    }
}

struct Sparse<'a, F> {
    starts: &'a [u32],
    outputs: &'a [u32],
    weights: &'a [f64],
    width: usize,
    fold: F,
}

impl<F: Fn(f64, f64) -> f64> Leaves for Sparse<'_, F> {
    #[inline(always)]
    fn width(&self) -> usize {
        self.width
    }

    #[inline(always)]
    fn add(&self, leaf: usize, sums: &mut [f64]) {
        let run = self.starts[leaf] as usize..self.starts[leaf + 1] as usize;
        let pairs = self.outputs[run.clone()].iter().zip(&self.weights[run]);
        for (output, weight) in pairs {
            let sum = &mut sums[*output as usize];
            *sum = (self.fold)(*sum, *weight);
        }
    }
}
