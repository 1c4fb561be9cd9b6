//! A service with a further stage that keeps state and has a second output, and a task that passes on what it wrote: what is here
//! is all there is to adding one. How state lives through kills is told by `counter.rs`.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use quadrille_choreography::{
    Admin, Delivered, Destination, Handler, Incoming, Item, Output, OutputKey, Restore, TopicSpec,
    handler,
};
use quadrille_pipeline::Pipeline;
use quadrille_proto::{KeyedState, OutputSpec, STAGES, Service, StageSpec};
use quadrille_service::{
    Assembly, Calls, Config, Context, Drain, Error, MessageMax, Requests, Task,
};
use rdkafka::Message;
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};

use crate::harness::{
    PATIENCE,
    client::{Client, Raw},
    eventually_or_show,
    world::{MESSAGE_BYTES_MAX, World},
};

const PARTITIONS: i32 = 2;
const KEYS: usize = 5;

/// As a line of the table of stages.
static COUNTS: StageSpec = StageSpec::further(
    Service::Feature,
    "counts",
    "records",
    &[
        OutputSpec::stream("counts"),
        OutputSpec::changelog("counts-state"),
    ],
);

/// Passes on what it gets.
struct Copy;

impl Handler for Copy {
    type Record = Vec<u8>;

    fn decode(&mut self, incoming: &Incoming<'_>, to: &mut Vec<u8>) -> Result<(), handler::Error> {
        to.clear();
        to.extend_from_slice(incoming.payload.unwrap_or_default());
        Ok(())
    }

    fn handle(&mut self, items: &[Item<'_, Vec<u8>>], output: &mut Output) {
        for item in items {
            output.emit(|payload| payload.extend_from_slice(item.record));
        }
    }
}

/// Says of each record its number within its key.
struct Counter {
    client: Arc<Client>,
    state: String,
    committed: HashMap<Vec<u8>, u64>,
    pending: HashMap<Vec<u8>, u64>,
}

impl Handler for Counter {
    type Record = Vec<u8>;

    fn decode(&mut self, incoming: &Incoming<'_>, to: &mut Vec<u8>) -> Result<(), handler::Error> {
        Copy.decode(incoming, to)
    }

    fn begin(&mut self) {
        self.pending.clear();
    }

    fn handle(&mut self, items: &[Item<'_, Vec<u8>>], output: &mut Output) {
        for item in items {
            let key = item.record.as_slice();
            let before = self.pending.get(key).or(self.committed.get(key));
            let count = before.copied().unwrap_or_default() + 1;
            self.pending.insert(key.to_vec(), count);
            let text = format!("{}={count}", String::from_utf8_lossy(key));
            output.emit(|payload| payload.extend_from_slice(text.as_bytes()));
            let change = Destination {
                output: Some("counts-state"),
                key: OutputKey::OnInputPartition(key),
                headers: &[],
            };
            output.with(change, |payload| payload.extend(count.to_be_bytes()));
        }
    }

    fn keeps_state(&self) -> bool {
        true
    }

    fn restore(&mut self, partition: i32, _: Option<i64>) -> Result<Restore, handler::Error> {
        let changes = self.client.read(&self.state);
        for change in changes.iter().filter(|it| it.partition() == partition) {
            let key = change.key().unwrap_or_default().to_vec();
            let count = change.payload().unwrap_or_default().try_into();
            self.committed
                .insert(key, u64::from_be_bytes(count.expect("a count")));
        }
        Ok(Restore::Done)
    }

    fn committed(&mut self, _: &Delivered) {
        self.committed.extend(self.pending.drain());
    }

    fn aborted(&mut self) {
        self.pending.clear();
    }
}

/// The service, in this process.
struct Running {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), Error>>,
    /// Counts that the task found on the topic when it was asked to end.
    relayed: Arc<AtomicUsize>,
}

impl Running {
    fn start(world: &World, runtime: &Runtime) -> Self {
        let text = std::fs::read_to_string(world.pipeline_file()).expect("the pipeline");
        let pipeline = Pipeline::parse("pipeline.toml", &text).expect("a pipeline");
        let pipelines = vec![Arc::new(pipeline)];
        let config = Config::on_loopback(Service::Feature, world.cluster(), pipelines);
        let client = Arc::new(Client::new(world));
        let relayed = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = oneshot::channel();
        let assemble = {
            let relayed = Arc::clone(&relayed);
            move |context| assemble(context, client, relayed)
        };
        let config = config.expect("a port");
        let ended = runtime.spawn(async move {
            let shutdown = pin!(async move {
                let _ = stopped.await;
            });
            quadrille_service::run(config, shutdown, assemble).await
        });
        Running {
            stop,
            ended,
            relayed,
        }
    }

    /// What the task found.
    fn end(self, runtime: &Runtime) -> usize {
        self.stop.send(()).expect("it runs");
        let ended = runtime.block_on(self.ended).expect("no panic");
        ended.expect("it drains");
        self.relayed.load(Ordering::Relaxed)
    }
}

async fn assemble(
    context: Context,
    client: Arc<Client>,
    relayed: Arc<AtomicUsize>,
) -> Result<Assembly, Error> {
    for pipeline in &context.config.pipelines {
        let features = context.stage(pipeline).await?;
        context.run(features, |_| Copy)?;
        let counts = context.stage_of(&COUNTS, pipeline).await?;
        context.run(counts, |_| Counter {
            client: Arc::clone(&client),
            state: format!("{}.counts-state", pipeline.name()),
            committed: HashMap::new(),
            pending: HashMap::new(),
        })?;
        let relay = Task::new("relay", Drain::AfterStages, PATIENCE);
        let (client, relayed) = (Arc::clone(&client), Arc::clone(&relayed));
        let topic = format!("{}.counts", pipeline.name());
        context.spawn(relay, |mut stop| async move {
            stop.requested().await;
            let read = tokio::task::spawn_blocking(move || client.read(&topic).len());
            relayed.store(read.await.expect("no panic"), Ordering::Relaxed);
            Ok(())
        });
    }
    Ok(Assembly {
        http: Default::default(),
        grpc: Calls::default(),
        message_max: MessageMax::default(),
        requests: Requests::OutliveKafka,
    })
}

fn send(world: &World, client: &Client, records: std::ops::Range<usize>) {
    for n in records {
        let key = format!("k{}", n % KEYS);
        let raw = Raw {
            partition: Some((n % KEYS) as i32 % PARTITIONS),
            ..Raw::json(&key, key.clone())
        };
        client.send(&world.topics().records, &raw);
    }
    client.flush();
}

/// Waits until so many records were counted.
fn await_counts(world: &World, client: &Client, records: usize) {
    eventually_or_show("all is counted", PATIENCE, || {
        let counted = client.read(&format!("{}.counts", world.pipeline)).len();
        match counted >= records {
            true => Ok(()),
            false => Err(format!("{counted} of {records}")),
        }
    });
}

#[test]
fn a_service_runs_a_further_stage_with_state_a_second_output_and_a_task_after_it() {
    let world = World::new(PARTITIONS);
    let stages: Vec<StageSpec> = STAGES.into_iter().chain([COUNTS]).collect();
    let specs = TopicSpec::of_stages(
        &stages,
        &world.pipeline,
        KeyedState::None,
        PARTITIONS,
        MESSAGE_BYTES_MAX,
    );
    let admin = Admin::connect(&world.cluster()).expect("a client");
    let created = admin.create(&specs).expect("topics");
    let name = |suffix: &str| format!("{}.{suffix}", world.pipeline);
    assert_eq!(created, [name("counts"), name("counts-state")]);

    let runtime = Runtime::new().expect("a runtime");
    let client = Client::new(&world);
    let first = Running::start(&world, &runtime);
    send(&world, &client, 0..200);
    await_counts(&world, &client, 200);
    // It ends amid these.
    send(&world, &client, 200..5_000);
    let relayed = first.end(&runtime);
    let counted = client.read(&name("counts")).len();
    assert_eq!(relayed, counted, "the task ends after its stages");

    let second = Running::start(&world, &runtime);
    send(&world, &client, 5_000..5_100);
    await_counts(&world, &client, 5_100);
    eventually_or_show("the first stage has copied all", PATIENCE, || {
        let progress = admin.progress(&Service::Feature.group(&world.pipeline), &name("records"));
        match progress.expect("progress").lag() {
            0 => Ok(()),
            lag => Err(format!("lag {lag}")),
        }
    });
    second.end(&runtime);

    let mut counts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for message in client.read(&name("counts")) {
        let text = String::from_utf8_lossy(message.payload().expect("a count")).into_owned();
        let (key, count) = text.split_once('=').expect("key=count");
        let count = count.parse().expect("a number");
        counts.entry(key.to_owned()).or_default().push(count);
    }
    let each: Vec<u64> = (1..=1_020).collect();
    assert_eq!(counts.len(), KEYS);
    for (key, counted) in counts {
        assert_eq!(counted, each, "{key} is counted in order, across restarts");
    }
    assert_eq!(client.read(&world.topics().features).len(), 5_100);
    let own = admin.progress(&COUNTS.group(&world.pipeline), &name("records"));
    assert_eq!(own.expect("progress").lag(), 0, "a group of its own");
}
