//! Random streams against a model that keeps everything.

mod common;

use common::{
    Owned, Rows, bits, load,
    model::{Expected, Model},
    push_and_look, store,
    strategy::{LARGE, SMALL, Step, What, settings, steps},
};
use proptest::prelude::*;
use quadrille_history::{Definition, History, Pushed, Settings};

/// A stream as it goes: a history in memory, its rows, and one that is loaded before each push.
struct Run {
    definition: Definition,
    model: Model,
    history: History,
    rows: Rows,
    clock_ms: i64,
    pushed: Vec<Owned>,
}

impl Run {
    fn new(settings: Settings) -> Self {
        Run {
            definition: Definition::new(settings.clone()).unwrap(),
            model: Model::new(settings),
            history: History::new(),
            rows: Rows::new(),
            clock_ms: 1_700_000_000_000,
            pushed: Vec::new(),
        }
    }

    fn event(&mut self, step: &Step) -> Owned {
        self.clock_ms += step.gap_ms;
        let repeated = step.repeats.and_then(|n| self.pushed.iter().rev().nth(n));
        let mut event = Owned {
            id: self.pushed.len() as u64,
            time_ms: self.clock_ms - step.late_ms,
            reset: step.reset,
            values: step.values.clone(),
        };
        if let Some(repeated) = repeated {
            event.id = repeated.id;
            event.time_ms = repeated.time_ms.max(event.time_ms - 1);
        }
        self.pushed.push(event.clone());
        event
    }

    fn step(&mut self, step: &Step) {
        let event = self.event(step);
        let expected = self.model.expected(&event);
        let result = push_and_look(&self.definition, &mut self.history, &event);
        match (expected, result) {
            (Expected::New | Expected::MayBeDuplicate, Ok(seen)) => {
                let at = self.model.insert(&event);
                self.check(&seen, &self.model.look(at));
            }
            (Expected::Duplicate | Expected::MayBeDuplicate, Err(Pushed::Duplicate))
            | (Expected::Late, Err(Pushed::Late { .. }))
            | (Expected::Full | Expected::MayBeDuplicate, Err(Pushed::Full)) => {}
            (expected, result) => panic!("{expected:?}, but {result:?} of {event:?}"),
        }
        assert_eq!(self.history.newest_ms(), self.model.newest_ms());
        if step.what != What::Nothing {
            store(&self.definition, &mut self.history, &mut self.rows);
            assert!(self.rows.len() <= self.definition.settings().events_max + 1);
        }
        if step.what == What::StoreAndLoad {
            self.history = load(&self.definition, &self.rows).unwrap();
        }
    }

    fn check(&self, seen: &[f64], expected: &[common::model::Value]) {
        let aggregates = &self.model.settings.aggregates;
        assert_eq!(seen.len(), expected.len());
        for ((value, expected), aggregate) in seen.iter().zip(expected).zip(aggregates) {
            assert!(
                expected.is(*value),
                "{value}, not {expected:?}, of {aggregate:?}"
            );
        }
    }

    /// Requests see what the model sees, from the earliest time allowed to one that is yet to come.
    fn check_times(&self) {
        let Some(newest_ms) = self.model.newest_ms() else {
            return;
        };
        let earliest_ms = newest_ms - self.model.settings.lateness_ms;
        let mut seen = Vec::new();
        for time_ms in [
            earliest_ms,
            (earliest_ms + newest_ms) / 2,
            newest_ms,
            newest_ms + 50,
        ] {
            seen.clear();
            self.history
                .look_at(&self.definition, time_ms, &mut seen)
                .unwrap();
            self.check(&seen, &self.model.look_at(time_ms));
        }
        let too_old = self
            .history
            .look_at(&self.definition, earliest_ms - 1, &mut seen);
        assert_eq!(too_old.unwrap_err().earliest_ms, earliest_ms);
    }
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn a_history_sees_what_a_model_that_keeps_everything_sees(
        settings in settings(SMALL), steps in steps(SMALL),
    ) {
        let mut run = Run::new(settings);
        for (i, step) in steps.iter().enumerate() {
            run.step(step);
            if i % 8 == 0 {
                run.check_times();
            }
        }
    }

    #[test]
    fn a_history_loaded_before_each_push_goes_on_like_the_one_in_memory(
        settings in settings(SMALL), steps in steps(SMALL),
    ) {
        let mut run = Run::new(settings);
        let mut rows = Rows::new();
        for step in &steps {
            let event = run.event(step);
            let mut loaded = load(&run.definition, &rows).unwrap();
            let seen = push_and_look(&run.definition, &mut run.history, &event);
            let seen_loaded = push_and_look(&run.definition, &mut loaded, &event);
            prop_assert_eq!(seen.map(|s| bits(&s)), seen_loaded.map(|s| bits(&s)));
            store(&run.definition, &mut run.history, &mut run.rows);
            store(&run.definition, &mut loaded, &mut rows);
            prop_assert_eq!(&run.rows, &rows);
        }
    }
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn long_histories_see_what_the_model_sees(
        settings in settings(LARGE), steps in steps(LARGE),
    ) {
        let mut run = Run::new(settings);
        for (i, step) in steps.iter().enumerate() {
            run.step(step);
            if i % 256 == 0 {
                run.check_times();
            }
        }
    }

    #[test]
    fn caches_of_long_histories_change_no_bit(
        settings in settings(LARGE), steps in steps(LARGE),
    ) {
        let mut run = Run::new(settings);
        for (i, step) in steps.iter().enumerate() {
            let event = run.event(step);
            let cold = (i % 16 == 0).then(|| {
                store(&run.definition, &mut run.history, &mut run.rows);
                load(&run.definition, &run.rows).unwrap()
            });
            let seen = push_and_look(&run.definition, &mut run.history, &event);
            if let Some(mut cold) = cold {
                let seen_cold = push_and_look(&run.definition, &mut cold, &event);
                prop_assert_eq!(seen.map(|s| bits(&s)), seen_cold.map(|s| bits(&s)));
            }
        }
    }
}
