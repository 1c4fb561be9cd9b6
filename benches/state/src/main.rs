//! The workload of a stateful stage on two stores: a row is read and written for every record, 500 records are one batch.
//! Contenders take turns, each turn in a process of its own that ends without closing its store; medians of the rounds.

mod contenders;
mod turn;
mod workload;

use std::{
    error::Error,
    process::{Command, ExitCode},
};

use clap::{Parser, ValueEnum};

use crate::{turn::Figures, workload::Distribution};

/// The changelog's workload on quadrille-state and on fjall, side by side
#[derive(Parser)]
#[command(version)]
struct Options {
    #[arg(long, value_delimiter = ',', default_values_t = [100_000, 1_000_000], value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: Vec<u64>,

    /// Records after every key has a row
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,

    #[arg(long, value_enum, value_delimiter = ',', default_values = ["uniform", "zipf"])]
    distribution: Vec<Distribution>,

    /// Of rows in memory and blocks read from disk
    #[arg(long, default_value_t = 64)]
    memory_mib: usize,

    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// One turn, in this process
    #[arg(long, hide = true)]
    turn: Option<Contender>,

    /// Where the turn before this one ended: only what opening takes
    #[arg(long, hide = true)]
    folder: Option<std::path::PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Contender {
    State,
    Fjall,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    if let (Some(contender), Some(folder)) = (options.turn, &options.folder) {
        return turn::take(contender, options, folder);
    }
    println!(
        "{} records after every key has a row; rows of {} bytes, {} records a batch; {} MiB of memory; medians of {} rounds",
        options.records,
        workload::VALUE_BYTES,
        workload::BATCH_RECORDS,
        options.memory_mib,
        options.rounds
    );
    println!(
        "keys      keys drawn  store  CPU µs/record  records/s  scan µs  disk MB  resident MB  opened in ms  tail records  with tail ms"
    );
    for &keys in &options.keys {
        for &distribution in &options.distribution {
            let (mut ours, mut theirs) = (vec![], vec![]);
            for _ in 0..options.rounds {
                ours.push(turn(Contender::State, options, keys, distribution)?);
                theirs.push(turn(Contender::Fjall, options, keys, distribution)?);
            }
            let name = format!("{distribution:?}").to_lowercase();
            let (ours, theirs) = (Figures::median(&ours), Figures::median(&theirs));
            println!("{keys:<9} {name:<11} state  {ours}");
            println!("{keys:<9} {name:<11} fjall  {theirs}");
        }
    }
    Ok(())
}

/// Two processes: one that works and ends like a kill, one that opens what it left.
fn turn(
    contender: Contender,
    options: &Options,
    keys: u64,
    distribution: Distribution,
) -> Result<Figures, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut figures = Figures::default();
    for _ in 0..2 {
        let output = Command::new(std::env::current_exe()?)
            .args(["--turn", name(contender), "--keys", &keys.to_string()])
            .args(["--records", &options.records.to_string()])
            .args(["--memory-mib", &options.memory_mib.to_string()])
            .args(["--distribution", distribution.name()])
            .arg("--folder")
            .arg(folder.path())
            .output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!("a turn of {contender:?} failed: {errors}").into());
        }
        figures.read(&String::from_utf8(output.stdout)?)?;
    }
    Ok(figures)
}

fn name(contender: Contender) -> &'static str {
    match contender {
        Contender::State => "state",
        Contender::Fjall => "fjall",
    }
}
