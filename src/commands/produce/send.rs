//! Records to Kafka: at a rate, a bounded number in flight, every one accounted for.

use std::{collections::VecDeque, pin::Pin, time::Duration};

use quadrille_choreography::{Acknowledged, Publication, Publisher, partition_of, publisher};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use crate::{
    meter::{self, Counts, Sending},
    output,
    rows::{Item, Row},
};

/// In flight at most: a quarter of the client's queue, so that it is never full.
const FLYING_BYTES_MAX: usize = 4 << 20;
/// In flight at most: the client's queue takes 100,000.
const FLYING_RECORDS_MAX: usize = 20_000;
/// So many failures in a row mean that Kafka is unreachable; sending more will not help.
const FAILED_IN_A_ROW_MAX: u64 = 1_000;
/// After this long without a confirmation it is said that Kafka is waited for; a record is given up after 10 s.
const STALLED_AFTER: Duration = Duration::from_secs(4);
/// Before a record is sent again for which the client had no room.
const BUSY_WAIT: Duration = Duration::from_millis(10);
/// A sender that was held up catches up on no more than this.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// Where records go.
pub struct Inbox {
    pub publisher: Publisher,
    pub topic: String,
    pub partitions: i32,
}

/// How it ended.
pub struct Sent {
    pub counts: Counts,
    pub summary: String,
    /// Not all rows were taken.
    pub stopped: bool,
}

/// When the next record is due.
pub struct Pace {
    every: Option<Duration>,
    next: Instant,
}

impl Pace {
    pub fn new(rate: Option<f64>) -> Self {
        Pace {
            every: rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            next: Instant::now(),
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.every.is_none() || self.next <= now
    }

    fn taken(&mut self, now: Instant) {
        if let Some(every) = self.every {
            let earliest = now.checked_sub(CATCH_UP_MAX).unwrap_or(now);
            self.next = self.next.max(earliest) + every;
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Acknowledged, publisher::Error>> + Send>>;

struct Flight {
    row: Row,
    answer: Answer,
}

/// Sends all rows, or those until `shutdown`; waits for every confirmation.
pub async fn send(
    inbox: &Inbox,
    mut rows: mpsc::Receiver<Item>,
    mut pace: Pace,
    shutdown: impl Future<Output = ()>,
) -> Sent {
    let mut shutdown = std::pin::pin!(shutdown);
    let mut sender = Sender::new(inbox);
    let (mut open, mut stopped) = (true, false);
    let mut tick = interval(meter::EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace.next = Instant::now();
    while open || !sender.flying.is_empty() {
        let now = Instant::now();
        let (room, due) = (open && sender.has_room(), pace.is_due(now));
        tokio::select! {
            biased;
            () = &mut shutdown, if open => (open, stopped) = (false, true),
            _ = tick.tick() => sender.show(now),
            item = rows.recv(), if room && due => match item {
                Some(item) => {
                    pace.taken(now);
                    sender.take(item);
                }
                None => open = false,
            },
            () = sleep_until(pace.next), if room && !due => {}
            (row, result) = landed(&mut sender.flying) => sender.account(row, result).await,
        }
        if open && sender.failed_in_a_row >= FAILED_IN_A_ROW_MAX {
            output::note("stopped: Kafka confirms nothing any more");
            (open, stopped) = (false, true);
        }
    }
    Sent {
        summary: sender.meter.end(&sender.counts),
        counts: sender.counts,
        stopped,
    }
}

/// The oldest record's answer. Given up half-way, nothing is lost.
async fn landed(flying: &mut VecDeque<Flight>) -> (Row, Result<Acknowledged, publisher::Error>) {
    let Some(oldest) = flying.front_mut() else {
        return std::future::pending().await;
    };
    let result = oldest.answer.as_mut().await;
    match flying.pop_front() {
        Some(flight) => (flight.row, result),
        None => std::future::pending().await,
    }
}

struct Sender<'a> {
    inbox: &'a Inbox,
    flying: VecDeque<Flight>,
    flying_bytes: usize,
    counts: Counts,
    meter: Sending,
    failed_in_a_row: u64,
    /// When Kafka last confirmed a record, or the first of those in flight was sent.
    moved: Instant,
    stalled: bool,
    round: i32,
}

impl<'a> Sender<'a> {
    fn new(inbox: &'a Inbox) -> Self {
        Sender {
            inbox,
            flying: VecDeque::new(),
            flying_bytes: 0,
            counts: Counts::default(),
            meter: Sending::start(),
            failed_in_a_row: 0,
            moved: Instant::now(),
            stalled: false,
            round: 0,
        }
    }

    fn has_room(&self) -> bool {
        self.flying_bytes < FLYING_BYTES_MAX && self.flying.len() < FLYING_RECORDS_MAX
    }

    fn show(&mut self, now: Instant) {
        let waits = !self.flying.is_empty() && now.duration_since(self.moved) >= STALLED_AFTER;
        if waits && !self.stalled {
            self.stalled = true;
            let seconds = STALLED_AFTER.as_secs();
            self.meter.note(&format!(
                "Kafka has confirmed nothing for {seconds} s; waiting for it"
            ));
        }
        self.meter.show(&self.counts);
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Row(row) => {
                self.counts.sent += 1;
                self.publish(row);
            }
            Item::Refused { line, reason } => {
                self.counts.refused += 1;
                self.meter.fault(&format!("line {line}: {reason}"));
            }
        }
    }

    fn publish(&mut self, row: Row) {
        let partition = match &row.key {
            Some(key) => partition_of(key.as_bytes(), self.inbox.partitions),
            None => {
                self.round = (self.round + 1) % self.inbox.partitions.max(1);
                self.round
            }
        };
        let answer = self.inbox.publisher.publish(&Publication {
            topic: &self.inbox.topic,
            partition,
            key: row.key.as_deref().unwrap_or_default().as_bytes(),
            payload: Some(&row.payload),
            timestamp_ms: None,
            headers: &[],
        });
        if self.flying.is_empty() {
            self.moved = Instant::now();
        }
        self.flying_bytes += weight(&row);
        self.flying.push_back(Flight {
            row,
            answer: Box::pin(answer),
        });
    }

    async fn account(&mut self, row: Row, result: Result<Acknowledged, publisher::Error>) {
        self.flying_bytes -= weight(&row);
        match result {
            Ok(_) => {
                self.counts.confirmed += 1;
                self.failed_in_a_row = 0;
                (self.moved, self.stalled) = (Instant::now(), false);
            }
            Err(publisher::Error::Busy) => {
                sleep(BUSY_WAIT).await;
                self.publish(row);
            }
            Err(error) => {
                self.counts.failed += 1;
                self.failed_in_a_row += 1;
                let key = row.key.as_deref().unwrap_or("no key");
                self.meter.fault(&format!("record of {key}: {error}"));
            }
        }
    }
}

fn weight(row: &Row) -> usize {
    row.payload.len() + row.key.as_ref().map_or(0, String::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_spreads_records_and_forgets_long_delays() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(10.0));
        pace.next = start;
        assert!(pace.is_due(start));
        pace.taken(start);
        assert!(!pace.is_due(start) && pace.is_due(start + Duration::from_millis(100)));
        let late = start + Duration::from_secs(60);
        pace.taken(late);
        assert_eq!(pace.next, late - CATCH_UP_MAX + Duration::from_millis(100));
    }

    #[test]
    fn without_a_rate_everything_is_due() {
        let mut pace = Pace::new(None);
        let now = Instant::now();
        pace.taken(now);
        assert!(pace.is_due(now));
    }
}
