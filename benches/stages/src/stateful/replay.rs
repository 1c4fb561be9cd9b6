//! The store alone: the gets and puts of a stage's run, once more, as its changelog tells them.

use std::{
    collections::{BTreeMap, HashSet},
    ops::{Bound::Included, Bound::Unbounded, Range},
    sync::Barrier,
    time::Instant,
};

use quadrille_state::{Batch, Store, Stores};
use rdkafka::Message;

use super::setup::identity;
use crate::{
    broker::{Broker, PARTITIONS},
    process,
    report::Measured,
};

/// A row's key ends with its bucket.
const BUCKET_LEN: usize = 4;

/// A changelog in memory.
pub struct Changes {
    partitions: Vec<Partition>,
}

#[derive(Default)]
struct Partition {
    bytes: Vec<u8>,
    changes: Vec<Change>,
}

struct Change {
    key: Range<usize>,
    /// None: the row is deleted.
    row: Option<Range<usize>>,
    /// The history was not in memory: its rows were read.
    is_first: bool,
}

impl Changes {
    /// What `topic` holds. The stage that wrote it had memory for all histories: it read each key's rows once.
    pub fn read(broker: &Broker, topic: &str) -> anyhow::Result<Self> {
        let mut partitions: Vec<Partition> = Vec::new();
        partitions.resize_with(PARTITIONS as usize, Partition::default);
        let mut known: HashSet<Box<[u8]>> = HashSet::new();
        broker.read(topic, |message| {
            let key = message.key().unwrap_or_default();
            let prefix = prefix_of(key);
            let is_first = !known.contains(prefix);
            if is_first {
                known.insert(prefix.into());
            }
            partitions[message.partition() as usize].add(key, message.payload(), is_first);
        })?;
        Ok(Changes { partitions })
    }

    /// Applies everything anew, in batches of so many changes, by as many threads as the stage had lanes. `records`: what the
    /// figures are to be divided by.
    pub fn replay(
        &self,
        place: &Place,
        lanes: usize,
        batch: usize,
        records: u64,
    ) -> anyhow::Result<Measured> {
        let (start, end) = (Barrier::new(lanes + 1), Barrier::new(lanes + 1));
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..lanes)
                .map(|lane| {
                    let (start, end) = (&start, &end);
                    scope.spawn(move || {
                        start.wait();
                        let own = self.partitions.iter().enumerate();
                        let own = own.skip(lane).step_by(lanes);
                        let stores: anyhow::Result<Vec<_>> = own
                            .map(|(number, partition)| {
                                let mut rows = place.open(number as i32)?;
                                partition.replay(batch, &mut *rows)?;
                                Ok(rows)
                            })
                            .collect();
                        // What it takes to drop them is not part of it.
                        end.wait();
                        stores.map(drop)
                    })
                })
                .collect();
            let cpu = process::cpu_of(std::process::id())?;
            let since = Instant::now();
            start.wait();
            end.wait();
            let seconds = since.elapsed().as_secs_f64();
            let cpu = process::cpu_of(std::process::id())?.saturating_sub(cpu);
            for thread in threads {
                let result = thread.join();
                result.map_err(|_| anyhow::anyhow!("a replay panicked"))??;
            }
            Ok(Measured {
                per_second: records as f64 / seconds,
                cpu_per_million: cpu.as_secs_f64() / (records as f64 / 1e6),
                broker_per_million: None,
            })
        })
    }
}

fn prefix_of(key: &[u8]) -> &[u8] {
    &key[..key.len().saturating_sub(BUCKET_LEN)]
}

impl Partition {
    fn add(&mut self, key: &[u8], row: Option<&[u8]>, is_first: bool) {
        let key = self.keep(key);
        let row = row.map(|row| self.keep(row));
        self.changes.push(Change { key, row, is_first });
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    fn replay(&self, batch: usize, rows: &mut dyn Rows) -> anyhow::Result<()> {
        for changes in self.changes.chunks(batch.max(1)) {
            for change in changes.iter().filter(|change| change.is_first) {
                let prefix = prefix_of(&self.bytes[change.key.clone()]);
                std::hint::black_box(rows.get(prefix)?);
            }
            let mut rows_of = changes.iter().map(|change| {
                let row = change.row.clone().map(|row| &self.bytes[row]);
                (&self.bytes[change.key.clone()], row)
            });
            rows.apply(&mut rows_of)?;
        }
        Ok(())
    }
}

/// Where rows are kept.
pub enum Place {
    Memory,
    Disk(Stores),
}

impl Place {
    fn open(&self, partition: i32) -> anyhow::Result<Box<dyn Rows>> {
        Ok(match self {
            Place::Memory => Box::new(Memory::default()),
            Place::Disk(stores) => Box::new(Disk {
                store: stores.open(&identity("replay"), partition, 0)?.0,
                batch: Batch::new(),
                next_offset: 0,
            }),
        })
    }
}

type RowsOf<'a> = dyn Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + 'a;

trait Rows {
    /// The bytes of a key's rows.
    fn get(&self, prefix: &[u8]) -> anyhow::Result<usize>;
    fn apply(&mut self, changes: &mut RowsOf<'_>) -> anyhow::Result<()>;
}

/// As the stage keeps them without a folder.
#[derive(Default)]
struct Memory(BTreeMap<Box<[u8]>, Box<[u8]>>);

impl Rows for Memory {
    fn get(&self, prefix: &[u8]) -> anyhow::Result<usize> {
        let from = self.0.range::<[u8], _>((Included(prefix), Unbounded));
        let own = from.take_while(|(key, _)| key.starts_with(prefix));
        Ok(own.map(|(_, row)| row.len()).sum())
    }

    fn apply(&mut self, changes: &mut RowsOf<'_>) -> anyhow::Result<()> {
        for (key, row) in changes {
            match row {
                Some(row) => drop(self.0.insert(key.into(), row.into())),
                None => drop(self.0.remove(key)),
            }
        }
        Ok(())
    }
}

struct Disk {
    store: Store,
    batch: Batch,
    next_offset: i64,
}

impl Rows for Disk {
    fn get(&self, prefix: &[u8]) -> anyhow::Result<usize> {
        let mut bytes = 0;
        self.store.scan(prefix, |_, row| bytes += row.len())?;
        Ok(bytes)
    }

    fn apply(&mut self, changes: &mut RowsOf<'_>) -> anyhow::Result<()> {
        self.batch.clear();
        for (key, row) in changes {
            match row {
                Some(row) => self.batch.put(key, row),
                None => self.batch.delete(key),
            }
        }
        self.next_offset += self.batch.len() as i64;
        Ok(self.store.apply(&self.batch, self.next_offset)?)
    }
}
