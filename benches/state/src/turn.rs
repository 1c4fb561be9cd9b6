//! One contender's turn, and what it measured.

use std::{error::Error, fmt, fs, path::Path, time::Instant};

use crate::{
    Contender, Options,
    contenders::{Contend, Fjall, State},
    workload::{self, BATCH_RECORDS, Distribution, Workload},
};

/// Keys whose rows are scanned, one after the other.
const SCANS: u64 = 20_000;

/// By name, as a turn prints them.
#[derive(Default, Clone)]
pub struct Figures(Vec<(String, f64)>);

const NAMES: [&str; 8] = [
    "cpu_us",
    "rate",
    "scan_us",
    "disk_mb",
    "resident_mb",
    "open_ms",
    "tail",
    "restored_ms",
];

impl Figures {
    pub fn read(&mut self, text: &str) -> Result<(), Box<dyn Error>> {
        for line in text.lines() {
            let (name, value) = line.split_once(' ').ok_or("a line without a name")?;
            self.0.push((name.to_string(), value.parse()?));
        }
        Ok(())
    }

    pub fn median(rounds: &[Self]) -> Self {
        let median = |name: &str| {
            let mut values: Vec<f64> = rounds.iter().map(|round| round.get(name)).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Self(NAMES.map(|name| (name.to_string(), median(name))).into())
    }

    fn get(&self, name: &str) -> f64 {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map_or(f64::NAN, |(_, value)| *value)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [cpu, rate, scan, disk, resident, open, tail, restored] =
            NAMES.map(|name| self.get(name));
        write!(
            f,
            "{cpu:>13.2}  {rate:>9.0}  {scan:>7.2}  {disk:>7.0}  {resident:>11.0}  {open:>12.0}  {tail:>12.0}  {restored:>12.0}"
        )
    }
}

/// In an empty folder it works, and ends without closing anything; in another it opens the store and reads the tail.
pub fn take(contender: Contender, options: &Options, folder: &Path) -> Result<(), Box<dyn Error>> {
    let began = fs::read_dir(folder)?.next().is_some();
    let (Some(&keys), Some(&distribution)) = (options.keys.first(), options.distribution.first())
    else {
        return Err("a turn has keys and a distribution".into());
    };
    let start = Instant::now();
    let memory_bytes = options.memory_mib << 20;
    let mut store: Box<dyn Contend> = match contender {
        Contender::State => Box::new(State::open(folder, memory_bytes)?),
        Contender::Fjall => Box::new(Fjall::open(folder, memory_bytes)?),
    };
    if began {
        store.get(&workload::key(0), &mut vec![])?;
        println!("open_ms {}", start.elapsed().as_secs_f64() * 1e3);
        let next_offset = store.next_offset()?;
        println!("tail {}", keys + options.records - next_offset);
        // The tail comes from Kafka, as rows.
        records(
            &mut *store,
            options,
            keys,
            distribution,
            next_offset,
            Reads::No,
        )?;
        println!("restored_ms {}", start.elapsed().as_secs_f64() * 1e3);
    } else {
        load(&mut *store, keys)?;
        let (start, cpu) = (Instant::now(), cpu_seconds()?);
        records(&mut *store, options, keys, distribution, keys, Reads::Yes)?;
        let of = options.records as f64;
        println!("rate {}", of / start.elapsed().as_secs_f64());
        println!("cpu_us {}", (cpu_seconds()? - cpu) * 1e6 / of);
        println!("disk_mb {}", disk_bytes(folder)? as f64 / 1e6);
        println!("resident_mb {}", resident_mb()?);
        scans(&*store, keys)?;
    }
    // Like a kill: nothing is flushed.
    std::process::exit(0)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    Yes,
    No,
}

/// Every key gets a row.
fn load(store: &mut dyn Contend, keys: u64) -> Result<(), Box<dyn Error>> {
    let mut row = vec![];
    for rank in 0..keys {
        workload::change(&mut row, rank);
        store.put(&workload::key(rank), &row);
        if (rank + 1) % BATCH_RECORDS as u64 == 0 || rank + 1 == keys {
            store.apply(rank + 1)?;
        }
    }
    Ok(())
}

/// Records from an offset on.
fn records(
    store: &mut dyn Contend,
    options: &Options,
    keys: u64,
    distribution: Distribution,
    from: u64,
    reads: Reads,
) -> Result<(), Box<dyn Error>> {
    let mut workload = Workload::new(keys, distribution);
    let mut row = vec![];
    let end = keys + options.records;
    for offset in keys..end {
        let key = workload.next_key();
        if offset < from {
            continue;
        }
        row.clear();
        if reads == Reads::Yes {
            store.get(&key, &mut row)?;
        }
        workload::change(&mut row, offset);
        store.put(&key, &row);
        if (offset + 1) % BATCH_RECORDS as u64 == 0 || offset + 1 == end {
            store.apply(offset + 1)?;
        }
    }
    Ok(())
}

fn scans(store: &dyn Contend, keys: u64) -> Result<(), Box<dyn Error>> {
    let mut workload = Workload::new(keys, Distribution::Uniform);
    let start = Instant::now();
    let mut rows = 0;
    for _ in 0..SCANS {
        rows += store.scan(&workload.next_key()[..12])?;
    }
    if rows != SCANS as usize {
        return Err(format!("{rows} rows in {SCANS} scans").into());
    }
    println!(
        "scan_us {}",
        start.elapsed().as_secs_f64() * 1e6 / SCANS as f64
    );
    Ok(())
}

/// Of all threads, user and system.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // Behind the command's name, which may have spaces.
    let (_, fields) = stat
        .rsplit_once(')')
        .ok_or("no command in /proc/self/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / 100.0)
}

fn resident_mb() -> Result<f64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kilobytes
        .ok_or("no VmHWM in /proc/self/status")?
        .parse::<f64>()?
        / 1e3)
}

fn disk_bytes(folder: &Path) -> Result<u64, Box<dyn Error>> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => disk_bytes(&entry.path())?,
            // A merge may delete it meanwhile.
            false => entry.metadata().map_or(0, |metadata| metadata.len()),
        };
    }
    Ok(bytes)
}
