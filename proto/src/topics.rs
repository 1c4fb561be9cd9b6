//! The one table of services and topics.

/// Appended to a topic's name for its dead letters.
pub const DLQ_SUFFIX: &str = ".dlq";

/// The dead-letter topic of a topic.
pub fn dlq_of(topic: &str) -> String {
    format!("{topic}{DLQ_SUFFIX}")
}

/// One of the four services, in the order of the figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    Ingest,
    Feature,
    Inference,
    Results,
}

impl Service {
    pub const ALL: [Service; 4] = [
        Service::Ingest,
        Service::Feature,
        Service::Inference,
        Service::Results,
    ];

    /// The name of the service's folder, package, binary, compose service and `service.name`.
    pub const fn name(self) -> &'static str {
        match self {
            Service::Ingest => "ingest",
            Service::Feature => "feature",
            Service::Inference => "inference",
            Service::Results => "results",
        }
    }

    /// The default port, HTTP and gRPC on one.
    pub const fn port(self) -> u16 {
        match self {
            Service::Ingest => 7001,
            Service::Feature => 7002,
            Service::Inference => 7003,
            Service::Results => 7004,
        }
    }

    /// Its first stage, the one of the figure.
    pub const fn stage(self) -> &'static StageSpec {
        match self {
            Service::Ingest => &STAGES[0],
            Service::Feature => &STAGES[1],
            Service::Inference => &STAGES[2],
            Service::Results => &STAGES[3],
        }
    }

    /// The consumer group of its first stage for a pipeline.
    pub fn group(self, pipeline: &str) -> String {
        self.stage().group(pipeline)
    }
}

/// What a service consumes of each pipeline, and what it writes.
#[derive(Debug, PartialEq, Eq)]
pub struct StageSpec {
    pub service: Service,
    /// Tells the stages of one service apart; empty for its first.
    pub name: &'static str,
    /// A topic of the pipeline, without the pipeline's name.
    input: &'static str,
    /// Likewise; a handler names its outputs by these.
    outputs: &'static [&'static str],
}

/// The stages of every pipeline, in the order of the figure, each service's first one before its others.
pub static STAGES: [StageSpec; 4] = [
    StageSpec::first(Service::Ingest, "inbox", &["records"]),
    StageSpec::first(Service::Feature, "records", &["features"]),
    StageSpec::first(Service::Inference, "features", &["predictions"]),
    StageSpec::first(Service::Results, "predictions", &[]),
];

impl StageSpec {
    const fn first(
        service: Service,
        input: &'static str,
        outputs: &'static [&'static str],
    ) -> Self {
        StageSpec {
            service,
            name: "",
            input,
            outputs,
        }
    }

    /// What people call it: its service, and its own name where the service has several.
    pub fn label(&self) -> String {
        let service = self.service.name();
        match self.name {
            "" => service.to_owned(),
            name => format!("{service} {name}"),
        }
    }

    /// The consumer group for a pipeline. Public: autoscalers and ACLs name it.
    pub fn group(&self, pipeline: &str) -> String {
        let service = self.service.name();
        match self.name {
            "" => format!("quadrille.{service}.{pipeline}"),
            // Pipelines may have dots in their names, so the stage's is not a part between dots.
            name => format!("quadrille.{service}-{name}.{pipeline}"),
        }
    }

    /// The topic it consumes.
    pub fn input(&self, pipeline: &str) -> String {
        topic(pipeline, self.input)
    }

    /// The topics it writes, each with the name that its handler has for it.
    pub fn outputs(&self, pipeline: &str) -> Vec<(&'static str, String)> {
        let named = |name: &&'static str| (*name, topic(pipeline, name));
        self.outputs.iter().map(named).collect()
    }
}

fn topic(pipeline: &str, name: &str) -> String {
    format!("{pipeline}.{name}")
}

/// The topics of one pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// JSON as users produce it.
    pub inbox: String,
    /// [`crate::v1::Record`].
    pub records: String,
    /// [`crate::v1::FeatureVector`].
    pub features: String,
    /// [`crate::v1::Prediction`].
    pub predictions: String,
    /// [`crate::v1::Label`].
    pub labels: String,
}

impl Topics {
    /// Compacted, one partition: schemas by id, for all pipelines.
    pub const SCHEMAS: &'static str = "quadrille.schemas";
    /// Compacted, one partition: what each pipeline was made with, generation by generation.
    pub const PIPELINES: &'static str = "quadrille.pipelines";
    /// Compacted, one partition: model packages, for all pipelines.
    pub const MODELS: &'static str = "quadrille.models";
    /// Compacted, one partition: which model versions serve which pipeline, event by event.
    pub const DEPLOYMENTS: &'static str = "quadrille.deployments";
    /// Compacted, one partition: what each replica says of itself.
    pub const STATUS: &'static str = "quadrille.status";
    /// Compacted, one partition: what became of dead letters, case by case.
    pub const DEAD_LETTERS: &'static str = "quadrille.dead-letters";
    /// The topics all pipelines share.
    pub const SHARED: [&'static str; 6] = [
        Topics::SCHEMAS,
        Topics::PIPELINES,
        Topics::MODELS,
        Topics::DEPLOYMENTS,
        Topics::STATUS,
        Topics::DEAD_LETTERS,
    ];

    pub fn of(pipeline: &str) -> Self {
        let topic = |name| topic(pipeline, name);
        Topics {
            inbox: topic("inbox"),
            records: topic("records"),
            features: topic("features"),
            predictions: topic("predictions"),
            labels: topic("labels"),
        }
    }

    /// The topics of the figure, each with the same number of partitions as its dead letters.
    pub fn flow(&self) -> [&str; 4] {
        [
            &self.inbox,
            &self.records,
            &self.features,
            &self.predictions,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_reads_what_the_one_before_writes() {
        for pair in STAGES.windows(2) {
            let written = pair[0].outputs("p").into_iter().map(|(_, topic)| topic);
            assert_eq!(written.collect::<Vec<_>>(), [pair[1].input("p")]);
        }
    }

    #[test]
    fn the_stages_of_the_figure_are_their_services_first_ones_and_read_its_topics() {
        for service in Service::ALL {
            let first = STAGES.iter().find(|stage| stage.service == service);
            assert_eq!(Some(service.stage()), first);
        }
        let topics = Topics::of("p");
        let read: Vec<String> = STAGES.iter().map(|stage| stage.input("p")).collect();
        assert_eq!(read, topics.flow());
    }

    #[test]
    fn stages_of_one_service_are_groups_of_their_own() {
        let labels = StageSpec {
            name: "labels",
            ..StageSpec::first(Service::Results, "labels", &[])
        };
        assert_eq!(Service::Results.group("p"), "quadrille.results.p");
        assert_eq!(labels.group("p"), "quadrille.results-labels.p");
    }
}
