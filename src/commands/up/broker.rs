//! The broker behind `up`: embedded, a local Apache Kafka, or one that runs already.

use std::{any::Any, mem::ManuallyDrop};

use quadrille_choreography::{Admin, Cluster, EmbeddedBroker, TopicSpec};
use quadrille_local::{Kafka, kafka::DataDir};
use quadrille_pipeline::Pipeline;
use quadrille_service::Error;

use super::Args;
use crate::{kafka::blocking, output};

/// Partitions of each topic.
const PARTITIONS: i32 = 4;
/// Kafka's default, which the embedded broker has too.
const MESSAGE_BYTES_MAX: usize = 1_048_588;

/// A broker to work with; a Kafka that was started here ends when this is dropped.
pub struct Broker {
    cluster: Cluster,
    kind: &'static str,
    keeps: bool,
    _running: Option<Box<dyn Any + Send>>,
}

impl Broker {
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Whether its data outlives this process, so that results and models should too.
    pub fn keeps(&self) -> bool {
        self.keeps
    }

    pub fn address(&self) -> &str {
        self.cluster.bootstrap_servers()
    }

    pub fn kind(&self) -> &'static str {
        self.kind
    }
}

/// The topics of a pipeline.
pub fn topics(pipeline: &Pipeline) -> Vec<TopicSpec> {
    let state = pipeline.keeps_state().into();
    TopicSpec::of_pipeline(pipeline.name(), state, PARTITIONS, MESSAGE_BYTES_MAX)
}

/// Starts or finds the broker, and makes these topics.
pub async fn start(args: &Args, specs: Vec<TopicSpec>) -> Result<Broker, Error> {
    if args.kafka {
        return local(args, specs).await;
    }
    if let Some(servers) = &args.bootstrap_servers {
        let cluster = Cluster::new(servers, &args.kafka_properties)?;
        let given = cluster.clone();
        blocking(move || create(&cluster, specs)).await?;
        return Ok(Broker {
            cluster: given,
            kind: "your Kafka",
            keeps: true,
            _running: None,
        });
    }
    let specs = each_once(specs);
    blocking(move || {
        let failed =
            |error: quadrille_choreography::embedded::Error| Error::Failed(error.to_string());
        let broker = EmbeddedBroker::start().map_err(failed)?;
        broker.create(&specs).map_err(failed)?;
        Ok(Broker {
            cluster: broker.cluster().map_err(failed)?,
            kind: "embedded broker, keeps nothing",
            keeps: false,
            // It ends with the process: clients that are closing yet would complain of its absence.
            _running: Some(Box::new(ManuallyDrop::new(broker))),
        })
    })
    .await
}

async fn local(args: &Args, specs: Vec<TopicSpec>) -> Result<Broker, Error> {
    let _ =
        output::print("starting a local Apache Kafka; the first time it is fetched with Maven")?;
    let mut options = Kafka::options();
    options.data_dir = DataDir::Kept(args.data_dir.join("kafka"));
    options.port = Some(args.kafka_port);
    let properties = args.kafka_properties.clone();
    // Who starts the services chooses the topics' partitions as well.
    let only = args.broker_only;
    blocking(move || {
        let kafka = options
            .start()
            .map_err(|error| Error::Failed(error.to_string()))?;
        let cluster = Cluster::new(&kafka.bootstrap_servers(), &properties)?;
        if !only {
            create(&cluster, specs)?;
        }
        Ok(Broker {
            cluster,
            kind: "local Apache Kafka",
            keeps: true,
            _running: Some(Box::new(kafka)),
        })
    })
    .await
}

/// Creates what is missing; topics that are there keep their partitions.
fn create(cluster: &Cluster, mut specs: Vec<TopicSpec>) -> Result<(), Error> {
    let admin = Admin::connect(cluster)?;
    for group in specs.chunk_by_mut(|before, next| before.is_shared() == next.is_shared()) {
        let own = group.iter_mut().filter(|spec| !spec.is_shared());
        let own: Vec<&mut TopicSpec> = own.collect();
        let mut there = None;
        for spec in &own {
            there = there.or(admin.partitions(&spec.name)?);
        }
        for spec in own {
            spec.partitions = there.unwrap_or(spec.partitions);
        }
    }
    admin.create(&each_once(specs))?;
    Ok(())
}

/// Pipelines share some topics.
fn each_once(mut specs: Vec<TopicSpec>) -> Vec<TopicSpec> {
    let mut seen = std::collections::HashSet::new();
    specs.retain(|spec| seen.insert(spec.name.clone()));
    specs
}
