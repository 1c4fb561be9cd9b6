//! What waits in a queue: the pieces of requests and of the stream, each in the order they came.

use std::{collections::VecDeque, time::Instant};

use tokio::sync::oneshot;

use crate::engine::batch::{pending::Answer, policy::Pace};

/// Rows that wait, and who waits for them.
pub(super) struct Job {
    pub(super) rows: Vec<f64>,
    pub(super) count: usize,
    pub(super) at: Instant,
    pub(super) deadline: Option<Instant>,
    /// Whether it is a request's first piece.
    pub(super) first: bool,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// Jobs in the order they came.
#[derive(Default)]
pub(super) struct Line {
    pub(super) jobs: VecDeque<Job>,
    pub(super) rows: usize,
}

impl Line {
    /// An empty one takes a piece of any size: it would never have more room.
    pub(super) fn has_room(&self, rows: usize, rows_max: usize) -> bool {
        self.jobs.is_empty() || self.rows + rows <= rows_max
    }

    pub(super) fn put(&mut self, job: Job) {
        self.rows += job.count;
        self.jobs.push_back(job);
    }

    /// The next job, if it has no more rows than this.
    pub(super) fn take(&mut self, rows_max: usize) -> Option<Job> {
        if self.jobs.front()?.count > rows_max {
            return None;
        }
        let job = self.jobs.pop_front()?;
        self.rows -= job.count;
        Some(job)
    }
}

#[derive(Default)]
pub(super) struct Waiting {
    pub(super) requests: Line,
    pub(super) stream: Line,
    /// Where a batch has one row, the two take turns.
    pub(super) stream_is_next: bool,
    /// Batches being scored.
    pub(super) busy: usize,
    pub(super) pace: Pace,
    pub(super) closed: bool,
}

impl Waiting {
    /// When the first of what waits came.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let first = |line: &Line| line.jobs.front().map(|job| job.at);
        let firsts = [first(&self.requests), first(&self.stream)];
        firsts.into_iter().flatten().min()
    }

    pub(super) fn rows(&self) -> usize {
        self.requests.rows + self.stream.rows
    }
}
