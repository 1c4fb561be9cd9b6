//! Several brokers, each a controller as well: replication factor 3, and one broker may be down.

use std::thread;

use super::{Kafka, Member, Options, Ports, STARTS_MAX, new_cluster_id};
use crate::guarded::Failure;
use crate::{Error, port};

const BROKERS: usize = 3;
/// Small, so that three fit on one machine; tests move little data.
const HEAP: [&str; 4] = [
    "-Xms64m",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
];

/// A cluster of three brokers. Dropping it stops them.
#[derive(Debug)]
pub struct Cluster {
    brokers: Vec<Kafka>,
}

impl Cluster {
    /// Starts all brokers and returns when each of them responds. Each broker chooses its folder and ports, and has a small heap
    /// unless the options set one.
    ///
    /// # Errors
    /// As [`Options::start`].
    pub fn start(mut options: Options) -> Result<Self, Error> {
        options
            .heap
            .get_or_insert_with(|| HEAP.map(str::to_owned).to_vec());
        let mut starts = 0;
        loop {
            starts += 1;
            match Self::start_once(&options) {
                Err(Failure::PortClash(_)) if starts < STARTS_MAX => {}
                outcome => return outcome.map_err(Error::from),
            }
        }
    }

    fn start_once(options: &Options) -> Result<Self, Failure> {
        let ports: Vec<Ports> = port::free(BROKERS * Ports::COUNT)?
            .chunks_exact(Ports::COUNT)
            .map(Ports::of)
            .collect();
        let controllers: Vec<u16> = ports.iter().map(|ports| ports.controller).collect();
        let cluster_id = new_cluster_id();
        let mut brokers = Vec::new();
        for (id, ports) in (1..).zip(ports) {
            let controllers = controllers.clone();
            let member = Member { id, controllers };
            let options = options.clone();
            brokers.push(options.prepare(ports, &cluster_id, Some(member))?);
        }
        // All at once: two of them make a quorum, without which none responds.
        let all = thread::scope(|scope| {
            let starting: Vec<_> = brokers
                .iter_mut()
                .map(|broker| scope.spawn(|| broker.start_once()))
                .collect();
            let ended = starting.into_iter().map(|it| match it.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            ended.collect::<Vec<_>>()
        });
        for started in all {
            started?;
        }
        Ok(Cluster { brokers })
    }

    /// All of them.
    #[must_use]
    pub fn bootstrap_servers(&self) -> String {
        let all: Vec<String> = self.brokers.iter().map(Kafka::bootstrap_servers).collect();
        all.join(",")
    }

    /// The brokers, to stop, kill and restart one by one.
    #[must_use]
    pub fn brokers(&mut self) -> &mut [Kafka] {
        &mut self.brokers
    }
}
