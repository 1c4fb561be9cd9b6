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

    /// The consumer group of this stage for a pipeline. Public: autoscalers and ACLs name it.
    pub fn group(self, pipeline: &str) -> String {
        format!("quadrille.{}.{pipeline}", self.name())
    }

    /// The topic this stage consumes.
    pub fn input(self, pipeline: &str) -> String {
        let topics = Topics::of(pipeline);
        match self {
            Service::Ingest => topics.inbox,
            Service::Feature => topics.records,
            Service::Inference => topics.features,
            Service::Results => topics.predictions,
        }
    }

    /// The topics this service's stage produces, each with the name that its handler has for it.
    pub fn outputs(self, pipeline: &str) -> Vec<(&'static str, String)> {
        let topics = Topics::of(pipeline);
        match self {
            Service::Ingest => vec![("records", topics.records)],
            Service::Feature => vec![("features", topics.features)],
            Service::Inference => vec![("predictions", topics.predictions)],
            Service::Results => Vec::new(),
        }
    }

    /// The topic that the next service reads, if there is one.
    pub fn output(self, pipeline: &str) -> Option<String> {
        self.outputs(pipeline).into_iter().next().map(|it| it.1)
    }
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
        let topic = |name: &str| format!("{pipeline}.{name}");
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
        for pair in Service::ALL.windows(2) {
            assert_eq!(pair[0].output("p"), Some(pair[1].input("p")));
        }
    }
}
