//! The bundled data, sent to the inbox at a human pace, as a user's producer would send it.

use std::{sync::Arc, time::Duration};

use quadrille_choreography::{Cluster, Publication, Publisher, partition_of};
use quadrille_pipeline::Pipeline;
use quadrille_proto::Topics;
use quadrille_service::{Error, fields::now_ms};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    kafka::blocking,
    rows::{CsvRows, Item, Naming},
};

/// Far above a row of the data.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Sends every row once, then ends.
pub async fn run(
    cluster: Cluster,
    pipeline: Arc<Pipeline>,
    csv: Vec<u8>,
    rate: f64,
) -> Result<(), Error> {
    let topic = Topics::of(pipeline.name()).inbox;
    let asked = (cluster.clone(), topic.clone());
    let partitions = blocking(move || {
        Ok(quadrille_choreography::Admin::connect(&asked.0)?.partitions(&asked.1)?)
    })
    .await?
    .unwrap_or(1);
    let publisher = Publisher::connect(&cluster, "quadrille.replay", MESSAGE_BYTES_MAX)
        .map_err(|error| Error::Failed(error.to_string()))?;
    // A run's ids are its own: with a broker that keeps its data, the next run's are others.
    let stem = format!("demo-{:x}", now_ms() / 1000);
    let naming = Naming {
        stem: &stem,
        pass: 1,
        key_field: None,
    };
    let mut tick = interval(Duration::from_secs_f64(1.0 / rate));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for item in CsvRows::new(&pipeline, csv.as_slice(), &naming)? {
        tick.tick().await;
        let Item::Row(row) = item? else { continue };
        let key = row.key.unwrap_or_default();
        let sent = publisher.publish(&Publication {
            topic: &topic,
            partition: partition_of(key.as_bytes(), partitions),
            key: key.as_bytes(),
            payload: Some(&row.payload),
            timestamp_ms: Some(now_ms()),
            headers: &[],
        });
        if let Err(error) = sent.await {
            tracing::warn!(%error, "replay");
        }
    }
    Ok(())
}
