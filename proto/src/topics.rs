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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageSpec {
    pub service: Service,
    /// Tells the stages of one service apart; empty for its first.
    pub name: &'static str,
    /// A topic of the pipeline, without the pipeline's name.
    input: &'static str,
    outputs: &'static [OutputSpec],
}

/// Whether a pipeline keeps state by key: then it has the topics of that state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyedState {
    #[default]
    None,
    Kept,
}

impl From<bool> for KeyedState {
    /// As a pipeline says of itself whether it keeps any.
    fn from(keeps_state: bool) -> Self {
        match keeps_state {
            true => KeyedState::Kept,
            false => KeyedState::None,
        }
    }
}

/// What a topic holds, and so what is deleted from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Records; they are deleted by age, as the broker is set.
    Stream,
    /// Of each key the newest record: what a stage remembers.
    Changelog,
    /// The changelog of the state by key, which only pipelines have that keep any.
    State,
}

impl Content {
    /// Whether only the newest record of each key is kept.
    pub fn is_compacted(self) -> bool {
        self != Content::Stream
    }
}

/// A topic that a stage writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputSpec {
    /// A topic of the pipeline, without the pipeline's name. The handler names its output so as well.
    name: &'static str,
    content: Content,
}

impl OutputSpec {
    /// Of which records are deleted by age, as the broker is set.
    pub const fn stream(name: &'static str) -> Self {
        OutputSpec {
            name,
            content: Content::Stream,
        }
    }

    /// Of which the newest record of each key is kept: what a stage remembers.
    pub const fn changelog(name: &'static str) -> Self {
        OutputSpec {
            name,
            content: Content::Changelog,
        }
    }

    /// The changelog of state by key; of pipelines that keep none there is no such topic.
    pub const fn state(name: &'static str) -> Self {
        OutputSpec {
            name,
            content: Content::State,
        }
    }

    fn is_there(&self, state: KeyedState) -> bool {
        self.content != Content::State || state == KeyedState::Kept
    }
}

/// The stages of every pipeline, in the order of the figure, each service's first one before its others.
pub static STAGES: [StageSpec; 4] = [
    StageSpec::first(Service::Ingest, "inbox", &[OutputSpec::stream("records")]),
    StageSpec::first(
        Service::Feature,
        "records",
        &[
            OutputSpec::stream("features"),
            OutputSpec::state("feature-state"),
        ],
    ),
    StageSpec::first(
        Service::Inference,
        "features",
        &[OutputSpec::stream("predictions")],
    ),
    StageSpec::first(Service::Results, "predictions", &[]),
];

impl StageSpec {
    const fn first(service: Service, input: &'static str, outputs: &'static [OutputSpec]) -> Self {
        StageSpec::further(service, "", input, outputs)
    }

    /// A stage beside its service's first one.
    pub const fn further(
        service: Service,
        name: &'static str,
        input: &'static str,
        outputs: &'static [OutputSpec],
    ) -> Self {
        StageSpec {
            service,
            name,
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

    /// The topic it consumes, without the pipeline's name.
    pub const fn input_name(&self) -> &'static str {
        self.input
    }

    /// The topic it consumes.
    pub fn input(&self, pipeline: &str) -> String {
        topic(pipeline, self.input)
    }

    /// The topics it writes, each with the name that its handler has for it.
    pub fn outputs(&self, pipeline: &str, state: KeyedState) -> Vec<(&'static str, String)> {
        let there = self.outputs.iter().filter(|it| it.is_there(state));
        there
            .map(|output| (output.name, topic(pipeline, output.name)))
            .collect()
    }

    /// The changelogs of state among them.
    pub fn state_topics(&self, pipeline: &str, state: KeyedState) -> Vec<String> {
        let there = self.outputs.iter().filter(|it| it.is_there(state));
        there
            .filter(|it| it.content == Content::State)
            .map(|it| topic(pipeline, it.name))
            .collect()
    }
}

/// A topic of one pipeline, as the stages that read and write it need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineTopic {
    pub name: String,
    pub content: Content,
    /// A stage consumes it: what that cannot handle goes to a topic of dead letters.
    pub has_dead_letters: bool,
}

impl PipelineTopic {
    /// Those of a pipeline with these stages: what they read, in their order, then what they write and none of them reads.
    pub fn of(stages: &[StageSpec], pipeline: &str, state: KeyedState) -> Vec<PipelineTopic> {
        let written = || stages.iter().flat_map(|stage| stage.outputs);
        let outputs = || written().filter(|it| it.is_there(state));
        let read = |name| stages.iter().any(|stage| stage.input == name);
        let inputs = stages.iter().map(|stage| stage.input);
        let unread = outputs().map(|it| it.name).filter(|name| !read(*name));
        let mut topics: Vec<PipelineTopic> = Vec::new();
        for name in inputs.chain(unread) {
            let found = PipelineTopic {
                name: topic(pipeline, name),
                content: outputs()
                    .find(|it| it.name == name)
                    .map_or(Content::Stream, |it| it.content),
                has_dead_letters: read(name),
            };
            if !topics.contains(&found) {
                topics.push(found);
            }
        }
        topics
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
            let written = pair[0]
                .outputs("p", KeyedState::None)
                .into_iter()
                .map(|(_, topic)| topic);
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
    fn a_pipeline_has_the_topics_of_the_figure_and_what_further_stages_read_and_write() {
        let names = |stages: &[StageSpec]| -> Vec<String> {
            let topics = PipelineTopic::of(stages, "p", KeyedState::None);
            topics.into_iter().map(|it| it.name).collect()
        };
        assert_eq!(names(&STAGES), Topics::of("p").flow());
        const COUNTS: [OutputSpec; 2] =
            [OutputSpec::stream("counts"), OutputSpec::changelog("state")];
        let further = [
            StageSpec::first(Service::Feature, "records", &[]),
            StageSpec::further(Service::Feature, "counts", "records", &COUNTS),
        ];
        assert_eq!(names(&further), ["p.records", "p.counts", "p.state"]);
        let topics = PipelineTopic::of(&further, "p", KeyedState::None);
        let compacted: Vec<bool> = topics.iter().map(|it| it.content.is_compacted()).collect();
        let letters: Vec<bool> = topics.iter().map(|it| it.has_dead_letters).collect();
        assert_eq!(compacted, [false, false, true]);
        assert_eq!(letters, [true, false, false]);
    }

    #[test]
    fn a_pipeline_that_keeps_state_has_the_changelog_of_it_beside_the_topics_of_the_figure() {
        let topics = PipelineTopic::of(&STAGES, "p", KeyedState::Kept);
        let (state, flow) = topics.split_last().unwrap();
        let names: Vec<&str> = flow.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, Topics::of("p").flow());
        assert_eq!(
            (&*state.name, state.content, state.has_dead_letters),
            ("p.feature-state", Content::State, false)
        );
        let feature = Service::Feature.stage();
        let outputs = |state| -> Vec<&str> {
            let outputs = feature.outputs("p", state).into_iter();
            outputs.map(|(name, _)| name).collect()
        };
        assert_eq!(outputs(KeyedState::None), ["features"]);
        assert_eq!(outputs(KeyedState::Kept), ["features", "feature-state"]);
        assert_eq!(
            feature.state_topics("p", KeyedState::Kept),
            ["p.feature-state"]
        );
        assert!(feature.state_topics("p", KeyedState::None).is_empty());
    }

    #[test]
    fn stages_of_one_service_are_groups_of_their_own() {
        let labels = StageSpec::further(Service::Results, "labels", "labels", &[]);
        assert_eq!(Service::Results.group("p"), "quadrille.results.p");
        assert_eq!(labels.group("p"), "quadrille.results-labels.p");
    }
}
