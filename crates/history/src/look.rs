//! What a history amounts to as seen from a place in it.

mod ranges;

use crate::{
    Definition, History, Position, TooOld,
    definition::{
        Current, Window,
        plan::{Matcher, Plan, Task, View},
    },
    exact,
    look::ranges::Nth,
    prefix::{Folded, fade},
    summary::{Ewma, Summary},
};

/// Above so many events EWMAs are continued from the bucket before instead of from the oldest event.
const FADED_EVENTS: usize = 64;

/// A place to look from.
struct Look<'a> {
    history: &'a History,
    plan: &'a Plan,
    time_ms: i64,
    /// Events before it are behind the newest reset.
    start: usize,
    /// The first event that is not seen.
    end: usize,
    /// The end where the current event is excluded.
    end_before: usize,
    /// None behind a reset.
    older: Option<&'a crate::prefix::Prefix>,
}

/// The events in a view.
struct Seen<'a> {
    start: usize,
    end: usize,
    /// Dropped events that are seen with them.
    folded: Option<&'a Folded>,
    /// So many of the newest of these.
    recent: usize,
}

impl History {
    /// Appends one number per aggregate, as seen from an event's place.
    pub fn look(&self, definition: &Definition, at: Position, out: &mut Vec<f64>) {
        let end = (at.0 + 1).min(self.events.len());
        let before = at.0.min(end);
        let time_ms = self.events.times_ms().get(at.0).copied();
        self.look_from(definition, time_ms.unwrap_or(i64::MAX), before, end, out);
    }

    /// Appends one number per aggregate, as seen at a time from behind all events up to then; no event is the current one.
    pub fn look_at(
        &self,
        definition: &Definition,
        time_ms: i64,
        out: &mut Vec<f64>,
    ) -> Result<(), TooOld> {
        let settings = definition.settings();
        let Some(newest_ms) = self.newest_ms() else {
            self.look_from(definition, time_ms, 0, 0, out);
            return Ok(());
        };
        let earliest_ms = newest_ms.saturating_sub(settings.lateness_ms);
        if time_ms < earliest_ms {
            return Err(TooOld { earliest_ms });
        }
        if definition.forgets(newest_ms, time_ms) {
            History::new().look_from(definition, time_ms, 0, 0, out);
            return Ok(());
        }
        let times_ms = self.events.times_ms();
        let end = times_ms.partition_point(|event_ms| *event_ms <= time_ms);
        self.look_from(definition, time_ms, end, end, out);
        Ok(())
    }

    fn look_from(
        &self,
        definition: &Definition,
        time_ms: i64,
        end_before: usize,
        end: usize,
        out: &mut Vec<f64>,
    ) {
        let reset = self.events.newest_reset(end);
        let look = Look {
            history: self,
            plan: definition.plan(),
            time_ms,
            start: reset.unwrap_or(0),
            end,
            end_before,
            older: self.prefix.as_deref().filter(|_| reset.is_none()),
        };
        let base = out.len();
        out.resize(base + definition.settings().aggregates.len(), f64::NAN);
        for view in &look.plan.views {
            look.view(view, base, out);
        }
    }
}

impl Look<'_> {
    fn view(&self, view: &View, base: usize, out: &mut Vec<f64>) {
        let matcher = &self.plan.matchers[view.matcher];
        let seen = self.seen(view);
        let summary = match view.summary {
            Some(needs) => self.summary(view, &seen, needs),
            None => Summary::default(),
        };
        for (output, task) in &view.tasks {
            let value = match *task {
                Task::Nth(n) => self
                    .nth(view, &seen, n)
                    .map_or(f64::NAN, |(_, value)| value),
                Task::TimeSince => self.nth(view, &seen, 0).map_or(f64::NAN, |(time_ms, _)| {
                    self.time_ms.saturating_sub(time_ms) as f64 / 1000.0
                }),
                Task::Ewma(ewma) => self.ewma(ewma, &seen),
                Task::Median => self.with_values(matcher, &seen, out, median),
                Task::Distinct => self.with_values(matcher, &seen, out, distinct),
                _ => of_summary(*task, &summary),
            };
            out[base + output] = if value.is_finite() { value } else { f64::NAN };
        }
    }

    fn seen(&self, view: &View) -> Seen<'_> {
        let end = match view.current {
            Current::Seen => self.end,
            Current::Excluded => self.end_before,
        };
        let folded = self.older.map(|prefix| &prefix.folded[view.matcher]);
        let recent = folded.map_or(0, |folded| folded.recent.len());
        let start = self.start.min(end);
        match view.window {
            Window::All => Seen {
                start,
                end,
                folded,
                recent,
            },
            Window::Newest(n) => {
                let n = n as usize;
                let (start, found) = match self.nth_before(view.matcher, start, end, n) {
                    Nth::At(place) => (place, n),
                    Nth::Only(found) => (start, found),
                };
                Seen {
                    start,
                    end,
                    folded,
                    recent: recent.min(n - found),
                }
            }
            Window::Time { from_ms, to_ms } => {
                let times_ms = &self.history.events.times_ms()[start..end];
                let before = |last_ms: Option<i64>| {
                    last_ms.map_or(0, |last| {
                        times_ms.partition_point(|time_ms| *time_ms <= last)
                    })
                };
                let first = start + before(self.time_ms.checked_sub(to_ms));
                let end = match from_ms {
                    0 => end,
                    _ => start + before(self.time_ms.checked_sub(from_ms)),
                };
                Seen {
                    start: first.min(end),
                    end,
                    folded: None,
                    recent: 0,
                }
            }
        }
    }

    fn summary(&self, view: &View, seen: &Seen<'_>, needs: crate::summary::Needs) -> Summary {
        let mut summary = Summary::default();
        if let Some(folded) = seen.folded {
            if view.window == Window::All {
                summary.merge(&folded.summary, needs);
            } else {
                for (_, value) in folded.recent.iter().rev().take(seen.recent) {
                    summary.add(*value, needs);
                }
            }
        }
        self.summarise(view.matcher, seen.start, seen.end, needs, &mut summary);
        summary
    }

    /// Time and value of the n-th newest; 0 is the newest.
    fn nth(&self, view: &View, seen: &Seen<'_>, n: usize) -> Option<(i64, f64)> {
        if matches!(view.window, Window::Newest(newest) if n >= newest as usize) {
            return None;
        }
        let events = &self.history.events;
        match self.nth_before(view.matcher, seen.start, seen.end, n.saturating_add(1)) {
            Nth::At(i) => {
                let value = self.plan.matchers[view.matcher].value(events.row(i))?;
                Some((events.times_ms()[i], value))
            }
            Nth::Only(found) => {
                let recent = &seen.folded?.recent;
                let older = n - found;
                (older < seen.recent).then(|| recent[recent.len() - 1 - older])
            }
        }
    }

    fn ewma(&self, ewma: usize, seen: &Seen<'_>) -> f64 {
        let (start, mut state) = if seen.end - seen.start > FADED_EVENTS {
            self.ewma_before(ewma, seen.end)
        } else {
            let older = self.older.map(|prefix| prefix.ewmas[ewma]);
            (seen.start, older.unwrap_or_default())
        };
        let fading = self.plan.ewmas[ewma];
        let events = &self.history.events;
        let matcher = &self.plan.matchers[fading.matcher];
        for i in start.max(seen.start)..seen.end {
            if let Some(value) = matcher.value(events.row(i)) {
                state.add(value, events.times_ms()[i], fading.half_life_ms);
            }
        }
        state.value()
    }

    /// The first event of the bucket that holds the one before `end`, and the state before it.
    fn ewma_before(&self, ewma: usize, end: usize) -> (usize, Ewma) {
        let History {
            events, buckets, ..
        } = self.history;
        let last = buckets.holding(end - 1);
        if buckets.start(last) < self.start {
            return (self.start, Ewma::default());
        }
        let known = (1..=last)
            .rev()
            .find(|b| buckets.get(*b).before.get().is_some());
        let mut states = match known.and_then(|b| buckets.get(b).before.get()) {
            Some(before) => before.to_vec(),
            None => self.first_ewmas(),
        };
        for b in known.unwrap_or(0)..last {
            for i in buckets.start(b)..buckets.end(b) {
                if events.is_reset(i) {
                    states.fill(Ewma::default());
                }
                fade(&mut states, self.plan, events, i);
            }
            // Lost only to another look, which found the same.
            let _ = buckets.get(b + 1).before.set(states.clone().into());
        }
        (buckets.start(last), states[ewma])
    }

    fn first_ewmas(&self) -> Vec<Ewma> {
        match self.history.prefix.as_deref() {
            Some(prefix) => prefix.ewmas.clone(),
            None => vec![Ewma::default(); self.plan.ewmas.len()],
        }
    }

    /// Calls with the values of all that is seen, which stand for a while at the end of `out`.
    fn with_values(
        &self,
        matcher: &Matcher,
        seen: &Seen<'_>,
        out: &mut Vec<f64>,
        of: impl Fn(&mut [f64]) -> f64,
    ) -> f64 {
        let base = out.len();
        if let Some(folded) = seen.folded {
            let newest = folded.recent.iter().rev().take(seen.recent);
            out.extend(newest.map(|(_, value)| *value));
        }
        let rows = seen.start..seen.end;
        out.extend(rows.filter_map(|i| matcher.value(self.history.events.row(i))));
        let value = of(&mut out[base..]);
        out.truncate(base);
        value
    }
}

fn of_summary(task: Task, summary: &Summary) -> f64 {
    match task {
        Task::Count => summary.count as f64,
        Task::Sum => summary.sum.value(),
        Task::Mean => summary.sum.value() / summary.summed as f64,
        Task::Min => summary.min,
        Task::Max => summary.max,
        Task::StdDev => exact::standard_deviation(summary.summed, &summary.sum, &summary.squares),
        Task::Rate { per_ms, length_ms } => summary.count as f64 * per_ms as f64 / length_ms as f64,
        Task::Median | Task::Distinct | Task::Ewma(_) | Task::Nth(_) | Task::TimeSince => f64::NAN,
    }
}

fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    let middle = values.len() / 2;
    let odd = values.len() % 2 == 1;
    let (below, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    if odd {
        return upper;
    }
    let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum = lower + upper;
    // Halved last, as half of the smallest numbers is none, and first where the sum overflows: so it is rounded once.
    match sum.is_finite() {
        true => sum / 2.0,
        false => lower / 2.0 + upper / 2.0,
    }
}

fn distinct(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.chunk_by(|a, b| a == b).count() as f64
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn a_median_between_two_is_rounded_once_however_small_or_large_they_are() {
        let least = f64::from_bits(1);
        for (two, expected) in [
            ([least, least], least),
            ([3.0 * least, 3.0 * least], 3.0 * least),
            ([f64::MAX, f64::MAX], f64::MAX),
            ([-f64::MAX, f64::MAX], 0.0),
            ([1.0, 2.0], 1.5),
        ] {
            assert_eq!(median(&mut two.clone()), expected, "{two:?}");
        }
    }
}
