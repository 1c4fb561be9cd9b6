//! What is left of events that were dropped because no window reaches them as events any more.

use std::collections::VecDeque;

use crate::{
    definition::plan::Plan,
    events::Events,
    summary::{Ewma, Summary},
};

/// Of the events behind the newest dropped reset.
#[derive(Debug, Clone)]
pub(crate) struct Prefix {
    /// One per matcher.
    pub folded: Vec<Folded>,
    pub ewmas: Vec<Ewma>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Folded {
    pub summary: Summary,
    /// Time and value of the newest that count, oldest first.
    pub recent: VecDeque<(i64, f64)>,
}

impl Prefix {
    pub(crate) fn new(plan: &Plan) -> Self {
        Prefix {
            folded: vec![Folded::default(); plan.matchers.len()],
            ewmas: vec![Ewma::default(); plan.ewmas.len()],
        }
    }

    /// Takes in the events from `start` to `end`.
    pub(crate) fn fold(&mut self, plan: &Plan, events: &Events, start: usize, end: usize) {
        let start = match events.newest_reset(end) {
            Some(reset) if reset >= start => {
                *self = Prefix::new(plan);
                reset
            }
            _ => start,
        };
        for (matcher, folded) in plan.matchers.iter().zip(&mut self.folded) {
            if !matcher.is_folded() {
                continue;
            }
            for i in start..end {
                let Some(value) = matcher.value(events.row(i)) else {
                    continue;
                };
                if let Some(needs) = matcher.folded {
                    folded.summary.add(value, needs);
                }
                if matcher.recent > 0 {
                    if folded.recent.len() >= matcher.recent {
                        folded.recent.pop_front();
                    }
                    folded.recent.push_back((events.times_ms()[i], value));
                }
            }
            folded.summary.sum.make_canonical();
            folded.summary.squares.make_canonical();
        }
        for i in start..end {
            fade(&mut self.ewmas, plan, events, i);
        }
    }

    /// Forgets remembered events that no look can reach: `settled` kept events, up to `recent` of which count, are behind them in every
    /// look to come.
    pub(crate) fn trim(&mut self, plan: &Plan, events: &Events, start: usize, settled: usize) {
        for (matcher, folded) in plan.matchers.iter().zip(&mut self.folded) {
            if folded.recent.is_empty() {
                continue;
            }
            let counting = (start..settled)
                .rev()
                .filter(|i| matcher.value(events.row(*i)).is_some())
                .take(matcher.recent)
                .count();
            let reachable = matcher.recent - counting;
            let surplus = folded.recent.len().saturating_sub(reachable);
            folded.recent.drain(..surplus);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let recent: usize = self.folded.iter().map(|f| 16 * f.recent.capacity()).sum();
        recent + size_of::<Folded>() * self.folded.len() + size_of::<Ewma>() * self.ewmas.len()
    }
}

/// Brings all EWMAs over event `i`.
pub(crate) fn fade(ewmas: &mut [Ewma], plan: &Plan, events: &Events, i: usize) {
    for (fading, ewma) in plan.ewmas.iter().zip(ewmas) {
        if let Some(value) = plan.matchers[fading.matcher].value(events.row(i)) {
            ewma.add(value, events.times_ms()[i], fading.half_life_ms);
        }
    }
}
