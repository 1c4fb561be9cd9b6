//! Deployments derived from existing ones: promoting a canary, restoring an earlier revision.

use crate::{Action, Deployment, History, Role, Route};

/// The weight of a live route without an explicit one.
pub const WEIGHT_DEFAULT: u32 = 100;

/// Why a change is not possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("pipeline {0} has no deployment yet; make one with `quadrille deploy set`")]
    NoDeployment(String),
    #[error(
        "there is no canary to promote; routes are: {0}; name one, or make one with `quadrille deploy set … --canary`"
    )]
    NoCanary(String),
    #[error("there are several canaries ({0}); name the one to promote")]
    SeveralCanaries(String),
    #[error("there is no route {name}; routes are: {known}")]
    NoRoute { name: String, known: String },
    #[error("route {0} is already the only live one")]
    LiveAlready(String),
    #[error("there is no valid revision {revision}; revisions are: {known}")]
    NoRevision { revision: u64, known: String },
    #[error(
        "pipeline {0} has no earlier deployment that was not already rolled back from; `quadrille deploy history {0}` lists the revisions, --to chooses one"
    )]
    NothingBefore(String),
    #[error("revision {0} already serves, or has the same routes")]
    SameRoutes(u64),
}

fn names<'a>(routes: impl Iterator<Item = &'a Route>) -> String {
    let names: Vec<&str> = routes.map(|route| route.name.as_str()).collect();
    names.join(", ")
}

/// The routes after promoting a variant: it is the only live one; shadows stay. Without a name it is the only canary.
///
/// # Errors
/// There is no such variant, or the choice is ambiguous.
pub fn promote(current: &Deployment, variant: Option<&str>) -> Result<Vec<Route>, Error> {
    if current.action == Action::Unset {
        return Err(Error::NoDeployment(current.pipeline.clone()));
    }
    let promoted = match variant {
        Some(name) => {
            let found = current.routes.iter().find(|route| route.name == name);
            found.ok_or_else(|| Error::NoRoute {
                name: name.to_owned(),
                known: names(current.routes.iter()),
            })?
        }
        None => only_canary(current)?,
    };
    let is_live = |route: &&Route| matches!(route.role, Role::Live { .. });
    let mut live = current.routes.iter().filter(is_live);
    let (first, more) = (live.next(), live.next());
    let canaries = (current.routes.iter()).any(|route| matches!(route.role, Role::Canary { .. }));
    if first == Some(promoted) && more.is_none() && !canaries {
        return Err(Error::LiveAlready(promoted.name.clone()));
    }
    // Predictions of the live variant keep its name.
    let name = first.unwrap_or(promoted).name.clone();
    let shadows = current
        .routes
        .iter()
        .filter(|route| route.role == Role::Shadow && route.name != promoted.name);
    let live = Route {
        name,
        model: promoted.model.clone(),
        role: Role::Live {
            weight: WEIGHT_DEFAULT,
        },
    };
    Ok([live].into_iter().chain(shadows.cloned()).collect())
}

fn only_canary(current: &Deployment) -> Result<&Route, Error> {
    let is_canary = |route: &&Route| matches!(route.role, Role::Canary { .. });
    let mut canaries = current.routes.iter().filter(is_canary);
    match (canaries.next(), canaries.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Error::NoCanary(names(current.routes.iter()))),
        (Some(_), Some(_)) => {
            let canaries = names(current.routes.iter().filter(is_canary));
            Err(Error::SeveralCanaries(canaries))
        }
    }
}

/// The deployment that a rollback restores: of the given revision, or the one that served before the current one. Without a
/// revision it only goes back, and never to one that an earlier rollback left.
///
/// # Errors
/// There is no such revision, or it would change nothing.
pub fn rollback<'a>(
    pipeline: &str,
    history: &'a History,
    to: Option<u64>,
) -> Result<&'a Deployment, Error> {
    let current = history
        .current()
        .ok_or_else(|| Error::NoDeployment(pipeline.to_owned()))?;
    let Some(revision) = to else {
        let before = Walk::through(history).before(current);
        return before.ok_or_else(|| Error::NothingBefore(pipeline.to_owned()));
    };
    let restorable = || history.valid().filter(|past| past.action != Action::Unset);
    let Some(past) = restorable().find(|past| past.revision == revision) else {
        let known: Vec<String> = restorable().map(|past| past.revision.to_string()).collect();
        let known = known.join(", ");
        return Err(Error::NoRevision { revision, known });
    };
    match past.routes == current.routes {
        true => Err(Error::SameRoutes(revision)),
        false => Ok(past),
    }
}

/// A history, as the next rollback sees it. It compares routes: a rollback's event does not name the revision that it restored, and
/// must not, since older readers do not know such a field.
#[derive(Default)]
struct Walk<'a> {
    /// A stack of what served: a change pushes onto it, a rollback pops from it.
    path: Vec<&'a Deployment>,
    /// Revisions that a rollback left and that were not deployed again since.
    left: Vec<&'a [Route]>,
}

impl<'a> Walk<'a> {
    fn through(history: &'a History) -> Self {
        let mut walk = Walk::default();
        let mut serves: Option<&Deployment> = None;
        for event in history.valid() {
            if event.action == Action::Unset {
                serves = None;
                continue;
            }
            let place = walk.path.iter().rposition(|it| it.routes == event.routes);
            match (event.action, place) {
                (Action::Rollback, Some(place)) => walk.path.truncate(place + 1),
                _ => walk.path.push(event),
            }
            if event.action == Action::Rollback {
                walk.left.extend(serves.map(|left| left.routes.as_slice()));
            }
            walk.left.retain(|left| *left != event.routes);
            serves = Some(event);
        }
        walk
    }

    fn before(&self, current: &Deployment) -> Option<&'a Deployment> {
        let may_serve = |past: &&&Deployment| {
            past.routes != current.routes && !self.left.contains(&past.routes.as_slice())
        };
        self.path.iter().rev().find(may_serve).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Event,
        deployment::tests::{deployment, route},
    };

    const LIVE: Role = Role::Live { weight: 7 };
    const CANARY: Role = Role::Canary { share: 500 };

    fn told(routes: &[Route]) -> Vec<(String, String)> {
        let told = |route: &Route| (route.name.clone(), route.model.version.clone());
        routes.iter().map(told).collect()
    }

    fn pair(name: &str, version: &str) -> (String, String) {
        (name.to_owned(), version.to_owned())
    }

    #[test]
    fn a_promoted_canary_is_live_alone_under_the_live_ones_name() {
        let current = deployment(
            1,
            vec![
                route("live", "1", LIVE),
                route("live-2", "0", LIVE),
                route("canary", "2", CANARY),
                route("shadow", "3", Role::Shadow),
            ],
        );
        let routes = promote(&current, None).unwrap();
        assert_eq!(told(&routes), [pair("live", "2"), pair("shadow", "3")]);
        assert_eq!(deployment(2, routes.clone()).validate(), Ok(()));
        assert_eq!(
            routes[0].role,
            Role::Live {
                weight: WEIGHT_DEFAULT
            }
        );
        let routes = promote(&current, Some("shadow")).unwrap();
        assert_eq!(told(&routes), [pair("live", "3")]);
    }

    #[test]
    fn a_promotion_that_is_not_clear_is_refused() {
        let live = || route("live", "1", LIVE);
        let said = |routes, name| promote(&deployment(1, routes), name).unwrap_err();
        assert_eq!(said(vec![live()], None), Error::NoCanary("live".into()));
        let two = vec![live(), route("a", "2", CANARY), route("b", "3", CANARY)];
        assert_eq!(said(two, None), Error::SeveralCanaries("a, b".into()));
        assert!(
            said(vec![live()], Some("x"))
                .to_string()
                .contains("no route x")
        );
        assert!(matches!(
            said(vec![live()], Some("live")),
            Error::LiveAlready(_)
        ));
    }

    fn history(versions: &[&str]) -> History {
        let event = |(at, version): (usize, &&str)| Event {
            offset: at as i64,
            key: String::new(),
            deployment: deployment(at as u64 + 1, vec![route("live", version, LIVE)]),
            void: None,
        };
        History {
            events: versions.iter().enumerate().map(event).collect(),
        }
    }

    #[test]
    fn a_rollback_restores_what_served_before() {
        let back = |versions: &[&str], to| {
            let history = history(versions);
            rollback("p", &history, to).map(|past| past.revision)
        };
        assert_eq!(back(&["1", "2"], None), Ok(1));
        assert_eq!(back(&["1", "2", "2"], None), Ok(1));
        assert_eq!(back(&["1", "2", "3"], Some(1)), Ok(1));
        assert_eq!(back(&["1", "2", "1"], Some(1)), Err(Error::SameRoutes(1)));
        assert_eq!(back(&["1"], None), Err(Error::NothingBefore("p".into())));
        assert!(
            back(&["1"], Some(9))
                .unwrap_err()
                .to_string()
                .contains("revisions are: 1")
        );
        assert_eq!(back(&[], None), Err(Error::NoDeployment("p".into())));
    }

    /// A change, as it is asked for.
    #[derive(Debug, Clone)]
    enum Asked {
        Set(u32),
        Unset,
        Rollback(Option<u64>),
    }

    /// Puts a change on the history, if there is such a change; returns the revision that a rollback restored.
    fn ask(history: &mut History, asked: &Asked) -> Option<u64> {
        let revision = history.current().map_or(1, |current| current.revision + 1);
        let (action, routes, restored) = match asked {
            Asked::Set(version) => {
                let routes = vec![route("live", &version.to_string(), LIVE)];
                (Action::Set, routes, None)
            }
            Asked::Unset => (Action::Unset, Vec::new(), None),
            Asked::Rollback(to) => {
                let past = rollback("p", history, *to).ok()?;
                (Action::Rollback, past.routes.clone(), Some(past.revision))
            }
        };
        let mut deployment = deployment(revision, routes);
        deployment.action = action;
        history.events.push(Event {
            offset: revision as i64,
            key: String::new(),
            deployment,
            void: None,
        });
        restored
    }

    fn all(asked: &[Asked]) -> Vec<Option<u64>> {
        let mut history = History::default();
        asked.iter().map(|asked| ask(&mut history, asked)).collect()
    }

    #[test]
    fn a_second_rollback_goes_further_back_and_never_forward_again() {
        use Asked::{Rollback, Set, Unset};
        const BACK: Asked = Rollback(None);
        let restored = all(&[Set(1), Set(2), Set(3), BACK, BACK, BACK]);
        assert_eq!(restored[3..], [Some(2), Some(1), None]);
        // What was deployed after a rollback goes back to what served then.
        let restored = all(&[Set(1), Set(2), BACK, Set(3), BACK, BACK]);
        assert_eq!(restored[4..], [Some(1), None]);
        // By its number anything may be restored; from there it is a change like any other.
        let restored = all(&[Set(1), Set(2), Set(3), BACK, Rollback(Some(3)), BACK]);
        assert_eq!(restored[4..], [Some(3), Some(1)]);
        let restored = all(&[Set(1), Set(2), Set(3), Set(4), Rollback(Some(1)), BACK]);
        assert_eq!(restored[4..], [Some(1), None]);
        // The same routes deployed twice are left twice by one rollback.
        let restored = all(&[Set(1), Set(2), Set(1), BACK, BACK]);
        assert_eq!(restored[3..], [Some(2), None]);
        // Deployed again it may be restored again.
        let restored = all(&[Set(1), Set(2), BACK, Set(2), Set(3), BACK]);
        assert_eq!(restored[5..], [Some(4)]);
        // After its removal a deployment is what served before.
        let restored = all(&[Set(1), Set(2), Unset, BACK, BACK, Rollback(Some(3))]);
        assert_eq!(restored[3..], [Some(2), Some(1), None]);
    }

    fn asked() -> impl Strategy<Value = Asked> {
        prop_oneof![
            4 => (0_u32..5).prop_map(Asked::Set),
            1 => Just(Asked::Unset),
            4 => Just(Asked::Rollback(None)),
            1 => (1_u64..12).prop_map(|to| Asked::Rollback(Some(to))),
        ]
    }

    proptest! {
        #[test]
        fn a_rollback_restores_what_served_and_was_not_rolled_back_from(
            asked in prop::collection::vec(asked(), 1..30),
        ) {
            let mut history = History::default();
            let mut left: Vec<Vec<Route>> = Vec::new();
            for asked in &asked {
                let before = history.current().cloned();
                let count = history.events.len();
                let restored = ask(&mut history, asked);
                if history.events.len() == count {
                    continue;
                }
                let now = history.current().unwrap().routes.clone();
                if let Asked::Rollback(to) = asked {
                    let past = history.revision(restored.unwrap()).unwrap();
                    prop_assert_eq!(&past.routes, &now);
                    prop_assert!(to.is_some() || !left.contains(&now), "{:?} was left", now);
                    let before = before.unwrap();
                    if before.action != Action::Unset {
                        left.push(before.routes);
                    }
                }
                left.retain(|left| *left != now);
            }
        }

        #[test]
        fn rollbacks_in_a_row_end_and_visit_ever_older_revisions(
            asked in prop::collection::vec(asked(), 1..30),
        ) {
            let mut history = History::default();
            for asked in &asked {
                ask(&mut history, asked);
            }
            let (mut last, mut steps) = (u64::MAX, 0);
            while let Some(restored) = ask(&mut history, &Asked::Rollback(None)) {
                prop_assert!(restored < last, "{restored} after {last}");
                last = restored;
                steps += 1;
            }
            prop_assert!(steps <= asked.len());
        }
    }
}
