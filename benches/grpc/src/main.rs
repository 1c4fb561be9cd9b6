//! `ModelInfer` of a forest beside a bare tonic server that answers a constant of the same size: calls a second and
//! the 99th percentile, by rows and concurrency, over one connection on loopback. Each server is a process of its own;
//! they take turns; medians of the rounds.

mod bare;
mod load;
mod ours;

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};

use crate::load::{Client, Turn};

/// Calls a second of ModelInfer, against a bare tonic server that answers a constant
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Rows of a request
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64], value_parser = clap::value_parser!(u32).range(1..=4_096))]
    rows: Vec<u32>,

    /// Calls that are under way at once
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64], value_parser = clap::value_parser!(u32).range(1..=1_024))]
    concurrency: Vec<u32>,

    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,

    /// Milliseconds of a server's turn
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    turn: u64,

    /// Serve, and print the address: what this program starts itself with
    #[arg(long, hide = true)]
    serve: Option<Contender>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Contender {
    Bare,
    Ours,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.serve.is_some() {
        end_with_parent();
    }
    let result = match options.serve {
        Some(Contender::Bare) => bare::serve(),
        Some(Contender::Ours) => ours::serve(),
        None => run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ends this process when whoever started it has gone, however that went: then its input ends.
fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
}

fn run(options: &Options) -> anyhow::Result<()> {
    let (bare, ours) = (Server::start("bare")?, Server::start("ours")?);
    let runtime = tokio::runtime::Runtime::new()?;
    let (bare, ours) = runtime.block_on(async {
        anyhow::Ok((
            Client::connect(bare.address).await?,
            Client::connect(ours.address).await?,
        ))
    })?;
    println!(
        "{} trees, depth {}, {} inputs; one connection; medians of {} rounds of {} ms",
        ours::TREES,
        ours::DEPTH,
        load::INPUTS,
        options.rounds,
        options.turn
    );
    println!(
        "rows  concurrency  bare calls/s  ours calls/s  ratio  bare p99 us  ours p99 us  ratio"
    );
    let turn = Duration::from_millis(options.turn);
    for &rows in &options.rows {
        for &concurrency in &options.concurrency {
            let (mut bares, mut ourses) = (vec![], vec![]);
            // The first round warms up.
            for round in 0..=options.rounds {
                let (first, second) = runtime.block_on(async {
                    let bare = bare.load(rows, concurrency, turn).await?;
                    anyhow::Ok((bare, ours.load(rows, concurrency, turn).await?))
                })?;
                if round > 0 {
                    bares.push(first);
                    ourses.push(second);
                }
            }
            report(rows, concurrency, &bares, &ourses);
        }
    }
    Ok(())
}

fn report(rows: u32, concurrency: u32, bares: &[Turn], ourses: &[Turn]) {
    let rate = |turns: &[Turn]| median(turns.iter().map(|turn| turn.calls_per_s));
    let p99 = |turns: &[Turn]| median(turns.iter().map(|turn| turn.p99_us));
    let (bare, ours) = (rate(bares), rate(ourses));
    let (slow, slower) = (p99(bares), p99(ourses));
    println!(
        "{rows:>4}  {concurrency:>11}  {bare:>12.0}  {ours:>12.0}  {:>5.2}  {slow:>11.0}  {slower:>11.0}  {:>5.2}",
        ours / bare,
        slower / slow
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A contender's process; ended when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(contender: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--serve", contender])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("no pipe")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(!line.is_empty(), "the {contender} server did not start");
        let address = line.trim().parse().context("an address")?;
        Ok(Server { child, address })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
