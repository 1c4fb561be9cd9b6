//! A consumer group seen from outside: its members and their progress.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::KafkaError,
};

use crate::{Admin, admin, admin::ANSWER_WITHIN, client::LoggingContext};

/// One partition of a group's topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionProgress {
    pub partition: i32,
    /// The offset to be read next; None where nothing was committed yet.
    pub committed: Option<i64>,
    /// The log's first offset.
    pub begin: i64,
    /// The log's end: one past its last offset.
    pub end: i64,
}

impl PartitionProgress {
    /// Offsets that are left, 0 or more; transaction markers count as well.
    pub fn lag(&self) -> i64 {
        (self.end - self.next_offset()).max(0)
    }

    /// The offset to be read next: never before the log's first.
    pub fn next_offset(&self) -> i64 {
        self.committed.unwrap_or(self.begin).max(self.begin)
    }
}

/// A group and its topic at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupProgress {
    /// The members' `client.id`, sorted: `{group}-{instance}-{lane}` where they are ours.
    pub members: Vec<String>,
    /// All partitions of the topic, in order.
    pub partitions: Vec<PartitionProgress>,
}

impl GroupProgress {
    /// The sum over the partitions.
    pub fn lag(&self) -> i64 {
        self.partitions.iter().map(PartitionProgress::lag).sum()
    }

    /// Our replicas among the members: those whose name says a lane.
    pub fn replicas(&self) -> usize {
        let instance = |member: &String| member.rsplit_once('-').map(|(at, _)| at.to_owned());
        let mut instances: Vec<String> = self.members.iter().filter_map(instance).collect();
        instances.dedup();
        instances.len()
    }
}

impl Admin {
    /// # Errors
    /// The cluster does not answer, or the topic is missing.
    pub fn progress(&self, group: &str, topic: &str) -> Result<GroupProgress, admin::Error> {
        let partitions = self
            .partitions(topic)?
            .ok_or_else(|| admin::Error::Missing {
                topics: vec![topic.to_owned()],
            })?;
        let unreachable = |error| self.unreachable(error);
        let mut config = self.cluster().client_config();
        // Asks in the group's name without joining it.
        config.set("group.id", group);
        let consumer: BaseConsumer<LoggingContext> = config
            .create_with_context(LoggingContext)
            .map_err(unreachable)?;
        let mut list = TopicPartitionList::with_capacity(partitions as usize);
        for partition in 0..partitions {
            list.add_partition(topic, partition);
        }
        let committed = consumer
            .committed_offsets(list, ANSWER_WITHIN)
            .map_err(unreachable)?;
        let mut progress = GroupProgress::default();
        for element in committed.elements() {
            let partition = element.partition();
            let (begin, end) = consumer
                .fetch_watermarks(topic, partition, ANSWER_WITHIN)
                .map_err(unreachable)?;
            progress.partitions.push(PartitionProgress {
                partition,
                committed: match element.offset() {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                },
                begin,
                end,
            });
        }
        let groups = consumer
            .fetch_group_list(Some(group), ANSWER_WITHIN)
            .map_err(unreachable)?;
        let members = groups.groups().iter().flat_map(|group| group.members());
        progress.members = members
            .map(|member| member.client_id().to_owned())
            .collect();
        progress.members.sort_unstable();
        Ok(progress)
    }
}

impl Admin {
    /// Whether a group has records to read. Its lag alone does not say: a transaction's marker counts as well, and a
    /// member that has read nothing yet does not step over it.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn has_records(&self, topic: &str, progress: &GroupProgress) -> Result<bool, admin::Error> {
        let unreachable = |error| self.unreachable(error);
        let mut list = TopicPartitionList::new();
        for it in progress.partitions.iter().filter(|it| it.lag() > 0) {
            list.add_partition_offset(topic, it.partition, Offset::Offset(it.next_offset()))
                .map_err(unreachable)?;
        }
        let mut open: BTreeSet<i32> = list.elements().iter().map(|it| it.partition()).collect();
        if open.is_empty() {
            return Ok(false);
        }
        let mut config = self.cluster().client_config();
        config
            .set("group.id", "quadrille.progress.reader")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "earliest");
        let consumer: BaseConsumer<LoggingContext> = config
            .create_with_context(LoggingContext)
            .map_err(unreachable)?;
        consumer.assign(&list).map_err(unreachable)?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        while !open.is_empty() && Instant::now() < deadline {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(_)) => return Ok(true),
                // The client may say it of one partition more than once.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                }
                // It comes back, or the time is up.
                Some(Err(error)) => {
                    tracing::debug!(topic, %error, "poll failed while looking for records")
                }
                None => {}
            }
        }
        // Where it is not known, there may be some.
        Ok(!open.is_empty())
    }

    /// Sends a group without members to the beginning of a topic, where it has committed something else.
    ///
    /// # Errors
    /// The cluster does not answer, or the group has members.
    pub fn rewind(&self, group: &str, topic: &str) -> Result<(), admin::Error> {
        let progress = self.progress(group, topic)?;
        let unreachable = |error| self.unreachable(error);
        let mut list = TopicPartitionList::new();
        for it in &progress.partitions {
            if it.committed.is_some_and(|committed| committed != it.begin) {
                list.add_partition_offset(topic, it.partition, Offset::Offset(it.begin))
                    .map_err(unreachable)?;
            }
        }
        if list.count() == 0 {
            return Ok(());
        }
        let mut config = self.cluster().client_config();
        config.set("group.id", group);
        let consumer: BaseConsumer<LoggingContext> = config
            .create_with_context(LoggingContext)
            .map_err(unreachable)?;
        consumer
            .commit(&list, CommitMode::Sync)
            .map_err(unreachable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_of_one_instance_are_one_replica() {
        let member = |name: &str| format!("quadrille.feature.p-{name}");
        let progress = GroupProgress {
            members: ["a:7002-0", "a:7002-1", "b-c:7002-0"].map(member).to_vec(),
            ..GroupProgress::default()
        };
        assert_eq!(progress.replicas(), 2);
    }

    #[test]
    fn what_retention_has_deleted_is_no_lag() {
        let partition = PartitionProgress {
            partition: 0,
            committed: Some(3),
            begin: 10,
            end: 14,
        };
        assert_eq!((partition.next_offset(), partition.lag()), (10, 4));
    }
}
