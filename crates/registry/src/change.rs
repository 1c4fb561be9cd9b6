//! Changes that follow from what is: a canary promoted, an earlier revision restored.

use crate::{Deployment, History, Role, Route};

/// The weight of a live route that is given none.
pub const WEIGHT_DEFAULT: u32 = 100;

/// Why there is no such change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchChange {
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
    #[error("route {0} is the only live one already")]
    LiveAlready(String),
    #[error("there is no valid revision {revision}; revisions are: {known}")]
    NoRevision { revision: u64, known: String },
    #[error("nothing else has served pipeline {0} before; see `quadrille deploy history {0}`")]
    NothingBefore(String),
    #[error("revision {0} serves already, or has the same routes")]
    SameRoutes(u64),
}

fn names<'a>(routes: impl Iterator<Item = &'a Route>) -> String {
    let names: Vec<&str> = routes.map(|route| route.name.as_str()).collect();
    names.join(", ")
}

/// The routes after a variant was promoted: it is live alone; shadows stay. Without a name it is the only canary.
///
/// # Errors
/// There is no such variant, or no telling which.
pub fn promote(current: &Deployment, variant: Option<&str>) -> Result<Vec<Route>, NoSuchChange> {
    let promoted = match variant {
        Some(name) => {
            let found = current.routes.iter().find(|route| route.name == name);
            found.ok_or_else(|| NoSuchChange::NoRoute {
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
        return Err(NoSuchChange::LiveAlready(promoted.name.clone()));
    }
    // What was told of the live variant goes on under its name.
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

fn only_canary(current: &Deployment) -> Result<&Route, NoSuchChange> {
    let is_canary = |route: &&Route| matches!(route.role, Role::Canary { .. });
    let mut canaries = current.routes.iter().filter(is_canary);
    match (canaries.next(), canaries.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(NoSuchChange::NoCanary(names(current.routes.iter()))),
        (Some(_), Some(_)) => {
            let canaries = names(current.routes.iter().filter(is_canary));
            Err(NoSuchChange::SeveralCanaries(canaries))
        }
    }
}

/// The deployment whose routes a rollback restores: of a revision, or the last one whose routes are not those of now.
///
/// # Errors
/// There is no such revision, or it would change nothing.
pub fn rollback<'a>(
    pipeline: &str,
    history: &'a History,
    to: Option<u64>,
) -> Result<&'a Deployment, NoSuchChange> {
    let current = history
        .current()
        .ok_or_else(|| NoSuchChange::NoDeployment(pipeline.to_owned()))?;
    let Some(revision) = to else {
        let before = history.valid().rfind(|past| past.routes != current.routes);
        return before.ok_or_else(|| NoSuchChange::NothingBefore(pipeline.to_owned()));
    };
    let Some(past) = history.revision(revision) else {
        let known: Vec<String> = history
            .valid()
            .map(|past| past.revision.to_string())
            .collect();
        let known = known.join(", ");
        return Err(NoSuchChange::NoRevision { revision, known });
    };
    match past.routes == current.routes {
        true => Err(NoSuchChange::SameRoutes(revision)),
        false => Ok(past),
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            said(vec![live()], None),
            NoSuchChange::NoCanary("live".into())
        );
        let two = vec![live(), route("a", "2", CANARY), route("b", "3", CANARY)];
        assert_eq!(
            said(two, None),
            NoSuchChange::SeveralCanaries("a, b".into())
        );
        assert!(
            said(vec![live()], Some("x"))
                .to_string()
                .contains("no route x")
        );
        assert!(matches!(
            said(vec![live()], Some("live")),
            NoSuchChange::LiveAlready(_)
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
        assert_eq!(
            back(&["1", "2", "1"], Some(1)),
            Err(NoSuchChange::SameRoutes(1))
        );
        assert_eq!(
            back(&["1"], None),
            Err(NoSuchChange::NothingBefore("p".into()))
        );
        assert!(
            back(&["1"], Some(9))
                .unwrap_err()
                .to_string()
                .contains("revisions are: 1")
        );
        assert_eq!(back(&[], None), Err(NoSuchChange::NoDeployment("p".into())));
    }
}
