//! Settings as they are computed: aggregates that share a column, a filter and a window share the work.

use crate::{
    definition::{Aggregate, Current, Filter, Function, Settings, Window},
    summary::Needs,
};

#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub matchers: Vec<Matcher>,
    pub views: Vec<View>,
    pub ewmas: Vec<Fading>,
    /// How far windows of time reach; at least 1.
    pub reach_ms: i64,
    /// Events worth keeping beyond that, for windows of the newest n.
    pub spare: usize,
}

/// Which events count, and what is kept of those that are dropped.
#[derive(Debug, Clone)]
pub(crate) struct Matcher {
    column: Option<usize>,
    filter: Option<Filter>,
    /// Of summaries of kept events.
    pub needs: Needs,
    /// Of the summary of dropped events, where all history is seen.
    pub folded: Option<Needs>,
    /// So many of the newest dropped events are remembered.
    pub recent: usize,
}

/// An EWMA over the events of a matcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fading {
    pub matcher: usize,
    pub half_life_ms: i64,
}

/// A window over the events of a matcher, and what is computed in it.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub matcher: usize,
    pub window: Window,
    pub current: Current,
    /// What the tasks read of a summary; None if none does.
    pub summary: Option<Needs>,
    pub tasks: Vec<(usize, Task)>,
}

/// How one aggregate is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Task {
    Count,
    Sum,
    Mean,
    Min,
    Max,
    Median,
    StdDev,
    Rate {
        per_ms: i64,
        length_ms: i64,
    },
    /// By index in the plan.
    Ewma(usize),
    /// The newest is 0.
    Nth(usize),
    TimeSince,
    Distinct,
}

impl Matcher {
    /// The value of an event that counts.
    #[inline]
    pub(crate) fn value(&self, row: &[f64]) -> Option<f64> {
        if let Some(filter) = &self.filter
            && !filter.values.contains(&row[filter.column])
        {
            return None;
        }
        let value = self.column.map_or(0.0, |column| row[column]);
        (!value.is_nan()).then_some(value)
    }

    pub(crate) fn takes_every_event(&self) -> bool {
        self.column.is_none() && self.filter.is_none()
    }

    pub(crate) fn is_folded(&self) -> bool {
        self.folded.is_some() || self.recent > 0
    }
}

impl Plan {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut plan = Plan {
            reach_ms: 1,
            ..Plan::default()
        };
        for (output, aggregate) in settings.aggregates.iter().enumerate() {
            let matcher = plan.matcher(aggregate);
            let task = plan.task(aggregate, matcher);
            plan.keep(aggregate, matcher, task);
            plan.view(aggregate, matcher, task, output);
        }
        let recent = plan.matchers.iter().map(|matcher| matcher.recent).max();
        plan.spare = recent.unwrap_or(0).min(settings.events_max / 2);
        plan
    }

    /// Whether anything is kept of dropped events.
    pub(crate) fn folds(&self) -> bool {
        !self.ewmas.is_empty() || self.matchers.iter().any(Matcher::is_folded)
    }

    fn matcher(&mut self, aggregate: &Aggregate) -> usize {
        let same = |m: &Matcher| m.column == aggregate.column && m.filter == aggregate.filter;
        self.matchers.iter().position(same).unwrap_or_else(|| {
            self.matchers.push(Matcher {
                column: aggregate.column,
                filter: aggregate.filter.clone(),
                needs: Needs::default(),
                folded: None,
                recent: 0,
            });
            self.matchers.len() - 1
        })
    }

    fn task(&mut self, aggregate: &Aggregate, matcher: usize) -> Task {
        match aggregate.function {
            Function::Count => Task::Count,
            Function::Sum => Task::Sum,
            Function::Mean => Task::Mean,
            Function::Min => Task::Min,
            Function::Max => Task::Max,
            Function::Median => Task::Median,
            Function::StdDev => Task::StdDev,
            Function::Rate { per_ms } => Task::Rate {
                per_ms,
                length_ms: match aggregate.window {
                    Window::Time { from_ms, to_ms } => to_ms - from_ms,
                    // Refused before.
                    Window::All | Window::Newest(_) => i64::MAX,
                },
            },
            Function::Ewma { half_life_ms } => {
                let fading = Fading {
                    matcher,
                    half_life_ms,
                };
                let known = self.ewmas.iter().position(|known| *known == fading);
                Task::Ewma(known.unwrap_or_else(|| {
                    self.ewmas.push(fading);
                    self.ewmas.len() - 1
                }))
            }
            Function::Last => Task::Nth(0),
            Function::Lag(n) => Task::Nth(n as usize),
            Function::TimeSince => Task::TimeSince,
            Function::Distinct => Task::Distinct,
        }
    }

    /// What the aggregate makes the history keep.
    fn keep(&mut self, aggregate: &Aggregate, matcher: usize, task: Task) {
        let matcher = &mut self.matchers[matcher];
        let needs = task.needs();
        matcher.needs = matcher.needs.or(needs.unwrap_or_default());
        match aggregate.window {
            Window::Time { to_ms, .. } => self.reach_ms = self.reach_ms.max(to_ms),
            Window::Newest(n) => matcher.recent = matcher.recent.max(n as usize),
            Window::All => {
                if let Some(needs) = needs {
                    matcher.folded = Some(matcher.folded.unwrap_or_default().or(needs));
                }
                matcher.recent = matcher.recent.max(task.newest());
            }
        }
    }

    fn view(&mut self, aggregate: &Aggregate, matcher: usize, task: Task, output: usize) {
        let current = match task {
            Task::TimeSince => Current::Excluded,
            _ => aggregate.current,
        };
        let same =
            |v: &View| v.matcher == matcher && v.window == aggregate.window && v.current == current;
        let view = self.views.iter().position(same).unwrap_or_else(|| {
            self.views.push(View {
                matcher,
                window: aggregate.window,
                current,
                summary: None,
                tasks: Vec::new(),
            });
            self.views.len() - 1
        });
        let view = &mut self.views[view];
        if let Some(needs) = task.needs() {
            view.summary = Some(view.summary.unwrap_or_default().or(needs));
        }
        view.tasks.push((output, task));
    }
}

impl Task {
    /// What it reads of a summary.
    fn needs(self) -> Option<Needs> {
        let needs = match self {
            Task::Count | Task::Rate { .. } => Needs::default(),
            Task::Sum | Task::Mean => Needs {
                sum: true,
                ..Needs::default()
            },
            Task::Min | Task::Max => Needs {
                extremes: true,
                ..Needs::default()
            },
            Task::StdDev => Needs {
                sum: true,
                squares: true,
                ..Needs::default()
            },
            Task::Median | Task::Ewma(_) | Task::Nth(_) | Task::TimeSince | Task::Distinct => {
                return None;
            }
        };
        Some(needs)
    }

    /// Newest events that it reads of all history.
    fn newest(self) -> usize {
        match self {
            Task::Nth(n) => n.saturating_add(1),
            Task::TimeSince => 1,
            _ => 0,
        }
    }
}
