//! Rows a second of the forest kernel, one thread, by batch size, beside a plain walk: the same trees in flat
//! arrays, one row and one tree at a time; and beside ONNX Runtime, where a Python has it. Contenders take
//! turns; medians of the rounds.

mod peer;
mod plain;

use std::{
    hint::black_box,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use quadrille_model::forest::{Forest, SourceNode};

use crate::{peer::Peer, plain::Plain};

/// Rows a second of a forest, against a plain walk of the same trees
#[derive(Parser)]
#[command(version)]
struct Options {
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    trees: u32,

    /// Splits between a root and its leaves, all of them
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=16))]
    depth: u32,

    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    inputs: u32,

    /// Rows handed over together
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 1_024], value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: Vec<u32>,

    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,

    /// A Python that has numpy, onnx and onnxruntime: ONNX Runtime takes part
    #[arg(long, value_name = "PYTHON")]
    onnxruntime: Option<PathBuf>,

    /// Milliseconds of a contender's turn
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    turn: u64,
}

/// Distinct rows, so that branches cannot be learned.
const ROWS: usize = 16_384;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let trees: Vec<Vec<SourceNode>> = (0..options.trees)
        .map(|_| tree(options.depth, options.inputs, &mut random))
        .collect();
    let inputs = options.inputs as usize;
    let forest = Forest::new(inputs, &trees)?;
    let plain = Plain::new(inputs, &trees);
    let mut peer = match &options.onnxruntime {
        Some(python) => Some(Peer::start(python, inputs, &trees)?),
        None => None,
    };
    let rows: Vec<f64> = (0..ROWS * inputs).map(|_| random.share()).collect();
    let (mut ours, mut theirs) = (vec![], vec![]);
    forest.score(&rows, &mut ours);
    plain.score(&rows, &mut theirs);
    assert_eq!(ours, theirs, "the contenders disagree");

    println!(
        "{} trees, depth {}, {} inputs; one thread; medians of {} rounds",
        options.trees, options.depth, options.inputs, options.rounds
    );
    println!("batch  kernel rows/s  plain rows/s  ratio  ONNX Runtime rows/s  ratio");
    let turn = Duration::from_millis(options.turn);
    for &batch in &options.batch {
        let batch = batch as usize;
        let (mut kernels, mut plains, mut peers) = (vec![], vec![], vec![]);
        for _ in 0..options.rounds {
            plains.push(rate(&rows, batch * inputs, inputs, turn, |rows, out| {
                plain.score(rows, out);
            }));
            kernels.push(rate(&rows, batch * inputs, inputs, turn, |rows, out| {
                forest.score(rows, out);
            }));
            if let Some(peer) = &mut peer {
                peers.push(peer.rate(batch, turn)?);
            }
        }
        let (kernel, plain, peer) = (median(kernels), median(plains), median(peers));
        print!(
            "{batch:>5}  {kernel:>13.0}  {plain:>12.0}  {:>5.2}",
            kernel / plain
        );
        match peer.is_nan() {
            true => println!("  not asked for (--onnxruntime)"),
            false => println!("  {peer:>19.0}  {:>5.2}", kernel / peer),
        }
    }
    Ok(())
}

/// Rows a second over a turn.
fn rate(
    rows: &[f64],
    batch: usize,
    inputs: usize,
    turn: Duration,
    score: impl Fn(&[f64], &mut Vec<f64>),
) -> f64 {
    let mut out = Vec::new();
    let mut scored = 0;
    let start = Instant::now();
    for rows in rows.chunks(batch).cycle() {
        out.clear();
        score(black_box(rows), &mut out);
        black_box(&out);
        scored += rows.len() / inputs;
        if start.elapsed() >= turn {
            break;
        }
    }
    scored as f64 / start.elapsed().as_secs_f64()
}

/// A full tree, level by level.
fn tree(depth: u32, inputs: u32, random: &mut Random) -> Vec<SourceNode> {
    let splits = (1_usize << depth) - 1;
    let split = |at: usize, random: &mut Random| SourceNode::Split {
        input: (random.next() % u64::from(inputs)) as usize,
        threshold: random.share(),
        at_most: 2 * at + 1,
        above: 2 * at + 2,
    };
    let mut nodes: Vec<SourceNode> = (0..splits).map(|at| split(at, random)).collect();
    nodes.extend((0..=splits).map(|_| SourceNode::Leaf {
        value: random.share(),
    }));
    nodes
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// xorshift64*: the same trees each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// 0 to 1.
    fn share(&mut self) -> f64 {
        self.next() as f64 / (1_u64 << 53) as f64
    }
}
