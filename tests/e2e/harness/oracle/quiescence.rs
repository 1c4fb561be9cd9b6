//! Whether a pipeline has come to rest: nothing to read, nothing uncommitted, no transaction open.

use quadrille_proto::{Service, dlq_of};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

use crate::harness::{PATIENCE, eventually_or_show, world::World};

/// Waits until every service has committed the end of its topic and no transaction is open on it. One after the other in the
/// order of the figure, so that none that was found at rest is given work afterwards.
#[track_caller]
pub fn wait(world: &World) {
    let topics = world.topics();
    for (stage, topic) in Service::ALL.iter().zip(topics.flow()) {
        wait_for(world, *stage, topic);
    }
}

/// The same of one service alone, which reads this topic.
#[track_caller]
pub fn wait_for(world: &World, stage: Service, topic: &str) {
    let group = stage.group(&world.pipeline);
    let (all, stable) = (reader(world, &group, false), reader(world, &group, true));
    let what = format!("{group} has committed the end of {topic}");
    eventually_or_show(&what, PATIENCE, || {
        let ends = ends(&all, topic, world.partitions)?;
        if ends != self::ends(&stable, topic, world.partitions)? {
            return Err(format!("a transaction is open on {topic}"));
        }
        let committed = committed(&stable, topic, world.partitions)?;
        let at_end = |(end, next): (&i64, &i64)| *end == 0 || next == end;
        match ends.iter().zip(&committed).all(at_end) {
            true => Ok(()),
            false => Err(format!("the ends are {ends:?}, committed is {committed:?}")),
        }
    });
    let dlq = dlq_of(topic);
    eventually_or_show(
        &format!("no transaction is open on {dlq}"),
        PATIENCE,
        || {
            let open =
                ends(&all, &dlq, world.partitions)? != ends(&stable, &dlq, world.partitions)?;
            if open { Err(String::new()) } else { Ok(()) }
        },
    );
}

fn reader(world: &World, group: &str, committed_only: bool) -> BaseConsumer {
    let level = match committed_only {
        true => "read_committed",
        false => "read_uncommitted",
    };
    ClientConfig::new()
        .set("bootstrap.servers", &world.bootstrap)
        .set("group.id", group)
        .set("isolation.level", level)
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer")
}

/// Of each partition the end; for a reader of what is committed that is the last stable offset.
fn ends(reader: &BaseConsumer, topic: &str, partitions: i32) -> Result<Vec<i64>, String> {
    (0..partitions)
        .map(|partition| {
            let found = reader.fetch_watermarks(topic, partition, PATIENCE);
            found.map(|(_, end)| end).map_err(|error| error.to_string())
        })
        .collect()
}

/// Of each partition the group's next offset; 0 where it has none.
fn committed(reader: &BaseConsumer, topic: &str, partitions: i32) -> Result<Vec<i64>, String> {
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, partitions - 1);
    let found = reader
        .committed_offsets(list, PATIENCE)
        .map_err(|error| error.to_string())?;
    let next = |partition| {
        let element = found.find_partition(topic, partition);
        match element.map(|element| element.offset()) {
            Some(Offset::Offset(next)) => next,
            _ => 0,
        }
    };
    Ok((0..partitions).map(next).collect())
}
