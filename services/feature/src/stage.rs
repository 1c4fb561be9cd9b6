//! The stream's handler: a record in, its feature vector out; for a pipeline that looks back, by way of the state of its key.

use std::{sync::Arc, time::Instant};

use prost::Message;
use quadrille_choreography::{
    ChangelogReader, Delivered, Destination, Handler, Incoming, Item, LaneId, Output, OutputKey,
    Restore, Schemas, handler,
};
use quadrille_pipeline::{Arrival, Invalid, Late, Pipeline, Scratch, Taken};
use quadrille_proto::{
    seal,
    v1::{FeatureVector, Record},
};
use quadrille_service::{
    fields::now_ms,
    sealed::{Opener, malformed},
};

use crate::state::{CHANGELOG, KEY_LEN_MAX, Options, Partition, States, Unusable};

/// Computes the features of a pipeline's records.
pub struct FeatureHandler {
    pipeline: Arc<Pipeline>,
    opener: Opener,
    /// Reused for every record.
    vector: FeatureVector,
    scratch: Scratch,
    /// When the records in hand came.
    now_ms: i64,
    /// Of a pipeline that looks back.
    states: Option<States>,
}

impl FeatureHandler {
    /// Of a pipeline whose features are computed from each record alone.
    pub fn new(pipeline: Arc<Pipeline>, schemas: Schemas) -> Self {
        let opener = Opener::new(schemas, pipeline.record_schema());
        FeatureHandler {
            pipeline,
            opener,
            vector: FeatureVector::default(),
            scratch: Scratch::default(),
            now_ms: 0,
            states: None,
        }
    }

    /// Of a lane of a pipeline that looks back, or of any other.
    pub(crate) fn with_state(
        options: Options,
        lane: usize,
        reader: ChangelogReader,
        schemas: Schemas,
    ) -> Self {
        let stateless = FeatureHandler::new(Arc::clone(&options.pipeline), schemas);
        FeatureHandler {
            states: States::new(options, lane, reader),
            ..stateless
        }
    }

    fn each_state(&mut self, change: impl FnOnce(&mut States)) {
        if let Some(states) = &mut self.states {
            change(states);
        }
    }

    fn compute(&mut self, item: &Item<'_, Record>, output: &mut Output) {
        let vector = &mut self.vector;
        vector.id.clone_from(&item.record.id);
        vector.key.clone_from(&item.record.key);
        vector.event_time_ms = item.record.event_time_ms;
        vector.records_offset = Some(item.incoming.offset);
        let Some(states) = &mut self.states else {
            let values = &item.record.values;
            return match self.pipeline.features(values, &mut vector.values) {
                Ok(()) => self.emit(output),
                Err(error) => output.fail(handler::Error::fatal("state", error.to_string())),
            };
        };
        let number = item.incoming.partition;
        let taken = states.of(number).map(|partition| {
            partition.handled(item.incoming.offset);
            take(&self.pipeline, partition, item, &mut self.scratch, vector)
        });
        match taken {
            Ok(Ok((taken, before))) => self.decide(item, taken, before, output),
            // Not this record's fault: the rows of its key cannot be read.
            Ok(Err(why)) => output.fail(states.unusable(number, &why)),
            Err(error) => output.fail(error),
        }
    }

    fn emit(&self, output: &mut Output) {
        let schema = self.pipeline.feature_schema_id();
        output.emit(|payload| seal(schema, &self.vector, payload));
    }

    fn decide(
        &mut self,
        item: &Item<'_, Record>,
        taken: Taken,
        before: usize,
        output: &mut Output,
    ) {
        let late = self.pipeline.state().map(|state| state.late());
        let absorbed = match taken {
            Taken::Vector => None,
            Taken::StateOnly => Some("state_only"),
            Taken::Duplicate => Some("duplicate"),
            Taken::Late { .. } if late == Some(Late::Absorb) => Some("late"),
            Taken::Late { .. } | Taken::TooMany => {
                let refusal = self.pipeline.refusal(taken, &item.record.id);
                return output.fail(refused(refusal));
            }
        };
        // Before the record's outcome, of which there is one alone.
        if let Err(damage) = self.sweep(item) {
            return output.fail(damage);
        }
        match absorbed {
            None => self.emit(output),
            Some(reason) => output.absorb(reason),
        }
        if let Some(states) = &mut self.states {
            send_changes(states, item.incoming.partition, before, output);
        }
    }

    /// Looks for what may be forgotten in the record's partition.
    fn sweep(&mut self, item: &Item<'_, Record>) -> Result<(), handler::Error> {
        let (Some(states), Some(state)) = (&mut self.states, self.pipeline.state()) else {
            return Ok(());
        };
        let number = item.incoming.partition;
        let partition = states.of(number)?;
        // A clock that is ahead does not make all other keys old.
        partition.advance(item.record.event_time_ms.min(self.now_ms));
        match partition.sweep_now_and_then(state.definition()) {
            Ok(()) => Ok(()),
            Err(damage) if damage.is_damage() => Err(states.unusable(number, &damage)),
            Err(error) => {
                tracing::debug!(partition = number, %error, "the sweep of state has to wait");
                Ok(())
            }
        }
    }
}

fn refused(refusal: Option<Invalid>) -> handler::Error {
    match refusal {
        Some(invalid) => handler::Error::dead_letter(invalid.class(), invalid.to_string()),
        // Whatever is refused has a reason.
        None => handler::Error::fatal(
            "state",
            "a record was refused without a reason; this is a bug",
        ),
    }
}

/// Applies a record to its key's history; what is computed goes to the vector.
fn take(
    pipeline: &Pipeline,
    partition: &mut Partition,
    item: &Item<'_, Record>,
    scratch: &mut Scratch,
    vector: &mut FeatureVector,
) -> Result<(Taken, usize), Unusable> {
    let Some(state) = pipeline.state() else {
        return Ok((Taken::StateOnly, 0));
    };
    let record = item.record;
    let arrival = Arrival {
        id: &record.id,
        key: &record.key,
        time_ms: record.event_time_ms,
        values: &record.values,
    };
    partition.update(state.definition(), record.key.as_bytes(), |history| {
        state.take(history, &arrival, scratch, &mut vector.values)
    })
}

/// Sends what changed with the record in hand.
fn send_changes(states: &mut States, number: i32, before: usize, output: &mut Output) {
    let Ok(partition) = states.of(number) else {
        return;
    };
    let mut sent = false;
    for (key, row) in partition.changes(before) {
        match row {
            Some(row) => output.with(change(key), |payload| payload.extend_from_slice(row)),
            None => output.with_tombstone(change(key)),
        }
        sent = true;
    }
    if sent {
        partition.changed(output.decided().saturating_sub(1));
    }
}

/// A row of the changelog.
fn change(key: &[u8]) -> Destination<'_> {
    Destination {
        output: Some(CHANGELOG),
        key: OutputKey::OnInputPartition(key),
        headers: &[],
    }
}

/// Ends what the records in hand have changed of each partition, so that who reads the changelog knows what it stands for.
fn send_progress(states: &mut States, output: &mut Output) {
    for partition in states.all() {
        if let Some((outcome, key, progress)) = partition.end_changes() {
            let row = progress.write();
            output.with_earlier(outcome, change(&key), |payload| {
                payload.extend_from_slice(&row);
            });
        }
    }
}

impl Handler for FeatureHandler {
    type Record = Record;

    fn decode(
        &mut self,
        incoming: &Incoming<'_>,
        record: &mut Record,
    ) -> Result<(), handler::Error> {
        let (schema, message) = self.opener.open(incoming)?;
        record.clear();
        record.merge(message).map_err(malformed)?;
        if record.id.is_empty() || record.key.is_empty() {
            return Err(malformed("id or key is empty"));
        }
        if record.key.len() > KEY_LEN_MAX {
            return Err(malformed("the key is longer than any that ingest accepts"));
        }
        self.opener.project(schema, &mut record.values)
    }

    fn begin(&mut self) {
        self.each_state(States::begin);
    }

    fn handle(&mut self, items: &[Item<'_, Record>], output: &mut Output) {
        let start = Instant::now();
        self.now_ms = now_ms();
        self.each_state(States::save);
        for item in items {
            self.compute(item, output);
        }
        self.each_state(|states| send_progress(states, output));
        output.step("features", start);
    }

    fn keeps_state(&self) -> bool {
        self.states.is_some()
    }

    fn restore(&mut self, partition: i32, next: Option<i64>) -> Result<Restore, handler::Error> {
        match &mut self.states {
            Some(states) => states.restore(partition, next),
            None => Ok(Restore::Done),
        }
    }

    fn claimants(&self, partition: i32) -> Vec<LaneId> {
        let states = self.states.as_ref();
        states.map_or_else(Vec::new, |it| it.claimants(partition))
    }

    fn revoked(&mut self, partitions: &[i32]) {
        self.each_state(|states| states.revoked(partitions));
    }

    fn committed(&mut self, delivered: &Delivered) {
        self.each_state(|states| states.committed(delivered));
    }

    fn aborted(&mut self) {
        self.each_state(States::aborted);
    }

    fn panicked(&mut self) {
        self.each_state(States::panicked);
    }

    fn tick(&mut self) {
        self.each_state(States::tick);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quadrille_choreography::{Cluster, Headers};
    use quadrille_telemetry::metrics::PipelineStateMetrics;
    use tokio::sync::watch;

    use super::*;
    use crate::state::{Opener, Shared, Standby, Standbys};

    const FILE: &str = r#"
name = "p"
[record]
id = "id"
key = "card"
event_time = "time"
[[record.fields]]
name = "amount"
type = "number"
[state]
lateness = "1h"
forget_after = "1d"
[[features]]
name = "sum"
kind = "sum"
field = "amount"
to = "1h"
[model]
inputs = ["sum"]
"#;

    /// Of one partition, of which these rows are kept.
    fn handler(rows: &[(&[u8], &[u8])]) -> FeatureHandler {
        let pipeline = Arc::new(Pipeline::parse("p.toml", FILE).unwrap());
        let cluster = Cluster::new("127.0.0.1:1", "").unwrap();
        let shared = Shared::new(Standby::None, watch::Sender::new(0));
        let options = Options {
            pipeline: Arc::clone(&pipeline),
            standbys: Standbys::new(Standby::None, Opener::Memory, shared, 1),
            claimants: Arc::new(|_| Vec::new()),
            session: Duration::from_secs(6),
            cache_bytes: 1 << 20,
            metrics: PipelineStateMetrics::unregistered(),
        };
        let reader = ChangelogReader::new(&cluster, "p.feature-state");
        let mut handler = FeatureHandler::with_state(options, 0, reader, Schemas::new(&cluster));
        let states = handler.states.as_mut().unwrap();
        states.hold(0, rows);
        handler
    }

    #[test]
    fn a_damaged_row_that_the_sweep_meets_has_the_partition_restored() {
        let incoming = Incoming {
            topic: "p.records",
            partition: 0,
            offset: 7,
            key: None,
            payload: None,
            timestamp_ms: None,
            headers: Headers::default(),
            polled_at: Instant::now(),
        };
        let record = Record {
            id: "a".to_owned(),
            key: "k".to_owned(),
            event_time_ms: now_ms(),
            values: vec![1.0],
            ..Record::default()
        };
        let item = Item {
            record: &record,
            incoming: &incoming,
        };
        // Of key "x" in epoch 1: no bucket looks like that.
        let row: (&[u8], &[u8]) = (b"\x01\0\0\0\x01\0\x01x\0\0\0\x01", b"cut");
        for (rows, is_damaged) in [(&[][..], false), (&[row], true)] {
            let (mut handler, mut output) = (handler(rows), Output::default());
            handler.begin();
            handler.handle(std::slice::from_ref(&item), &mut output);
            let failure = output.failure(0);
            let restarts = matches!(failure, Some(handler::Error::Restart(_)));
            assert_eq!(restarts, is_damaged, "{failure:?}");
            assert_eq!(output.payload(0).is_some(), !is_damaged);
        }
    }
}
