//! A topic as Kafka describes it.

/// A topic at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    pub name: String,
    /// In base64; None where the broker has none.
    pub id: Option<String>,
    pub partitions: i32,
}
