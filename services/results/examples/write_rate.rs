//! How fast a store takes batches:
//! `write_rate <DATABASE_URL of an empty database> [rows] [rows a batch] [random|rising ids]`.

use std::{env, time::Instant};

use anyhow::Context;
use results::{
    prediction::Prediction,
    store::{Advance, AnyStore, Position, ReadStore, Store, TopicIdentity, UnitOfWork, WriteStore},
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let url = arguments
        .next()
        .context("the first argument is the URL of an empty database")?;
    let rows: i64 = arguments.next().as_deref().unwrap_or("500000").parse()?;
    let size: i64 = arguments.next().as_deref().unwrap_or("1000").parse()?;
    let ids = match arguments.next().as_deref() {
        None | Some("random") => Ids::Random,
        Some("rising") => Ids::Rising,
        Some(other) => anyhow::bail!("ids are random or rising, not {other}"),
    };
    let store = AnyStore::open(&url).await?;
    let batches: Vec<UnitOfWork> = (0..rows / size)
        .map(|number| batch(number, size, ids))
        .collect();
    let begun = Instant::now();
    for batch in &batches {
        store.write(batch).await?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let count = store.count("p").await?;
    println!(
        "{} rows in {seconds:.2} s: {:.0} rows/s",
        count.stored,
        rows as f64 / seconds
    );
    store.close().await;
    Ok(())
}

/// As UUIDv4, or as UUIDv7 and offsets are.
#[derive(Clone, Copy)]
enum Ids {
    Random,
    Rising,
}

/// Four partitions, 1,000 keys.
fn batch(number: i64, size: i64, ids: Ids) -> UnitOfWork {
    let topic = TopicIdentity {
        cluster_id: "c".into(),
        topic: "p".into(),
        topic_id: None,
    };
    let moved = |offset: i64| offset * size;
    let old = Some(moved(number)).filter(|offset| *offset > 0);
    let old = old.map(Position::at);
    let advance = |partition| Advance {
        partition,
        old,
        new: moved(number + 1),
    };
    let predictions = (number * size..(number + 1) * size)
        .map(|row| prediction(row, ids))
        .collect();
    let advances = (0..4).map(advance).collect();
    UnitOfWork {
        pipeline: "p".into(),
        topic,
        advances,
        predictions,
        shadows: Vec::new(),
    }
}

fn prediction(number: i64, ids: Ids) -> Prediction {
    // An odd multiplier visits every 64-bit number once.
    let mixed = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let head = match ids {
        Ids::Random => mixed,
        Ids::Rising => number as u64,
    };
    Prediction {
        id: format!("{head:016x}-0000-4000-8000-{number:012x}"),
        key: format!("patient-{}", mixed % 1000),
        event_time_ms: 1_700_000_000_000 + number,
        probability: (mixed >> 32) as f64 / f64::from(u32::MAX),
        outputs: vec![0.25],
        decision: if mixed.is_multiple_of(3) {
            "positive"
        } else {
            "negative"
        }
        .into(),
        model: "forest".into(),
        version: "2025-01-01".into(),
        variant: String::new(),
        config_hash: vec![7; 32],
        input_topic: "p.features".into(),
        input_partition: 3,
        input_offset: number,
        predicted_at_ms: 1_700_000_000_100 + number,
    }
}
