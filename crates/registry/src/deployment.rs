//! A deployment: the routes of one pipeline, each to a model version.

use std::{collections::BTreeSet, fmt};

use crate::{
    KeyRanges,
    ranges::{POINTS, RANGES_MAX},
};

/// 100 %, in hundredths of a percent.
pub const SHARE_WHOLE: u32 = 10_000;
/// The most routes: bounds what a reader keeps of an event.
const ROUTES_MAX: usize = 64;
/// Keeps the sum of all weights within 32 bits.
const WEIGHT_MAX: u32 = 1_000_000;
/// As model packages have it.
const NAME_BYTES_MAX: usize = 256;
const TEXT_BYTES_MAX: usize = 4_096;

/// A version of a model. Versions are immutable: changed content is another version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId {
    pub name: String,
    pub version: String,
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.version)
    }
}

impl ModelId {
    /// # Errors
    /// The name or the version is invalid.
    pub fn validate(&self) -> Result<(), Error> {
        check_name("model", &self.name)?;
        check_name("version", &self.version)
    }
}

/// What a route does with what it scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Shares the keys that canaries leave with the other live routes, by weight (0 to 1,000,000; relative to the sum).
    Live { weight: u32 },
    /// Gets this share of all keys, in hundredths of a percent (0 to 10,000).
    Canary { share: u32 },
    /// Scores every record; its predictions are stored and marked, and never acted upon.
    Shadow,
}

/// A route from a pipeline to a model version; its name is the `variant` of predictions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub name: String,
    pub model: ModelId,
    pub role: Role,
}

/// The change that made a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Set,
    Promote,
    Rollback,
    /// The pipeline has no deployment any more; there are no routes.
    Unset,
}

impl Action {
    pub const fn name(self) -> &'static str {
        match self {
            Action::Set => "set",
            Action::Promote => "promote",
            Action::Rollback => "rollback",
            Action::Unset => "unset",
        }
    }
}

/// The routes of a pipeline from one moment on. An event: a change is a new one, with the next revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    pub pipeline: String,
    /// 1 for a pipeline's first.
    pub revision: u64,
    pub routes: Vec<Route>,
    /// Which keys each route has; None: by the formula of the first version, see [`crate::split`].
    pub ranges: Option<KeyRanges>,
    pub action: Action,
    /// Who made the change.
    pub by: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    pub reason: String,
}

/// Why a deployment is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "the {what}'s name {value:?} is invalid: use 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' or '-', not beginning with '.'"
    )]
    Name { what: &'static str, value: String },
    #[error("the {what} has {bytes} bytes; {TEXT_BYTES_MAX} are allowed")]
    Text { what: &'static str, bytes: usize },
    #[error("revisions begin at 1")]
    Revision,
    #[error("there is no route; name at least a live one")]
    NoRoutes,
    #[error("a pipeline whose deployment is removed has no routes")]
    RoutesOfNothing,
    #[error("the routes' key ranges are invalid: {0}")]
    Ranges(String),
    #[error("{0} routes; {ROUTES_MAX} are allowed")]
    TooManyRoutes(usize),
    #[error(
        "two routes are named {0}; names must be unique, for predictions carry their route's name"
    )]
    SameName(String),
    #[error("route {name} has weight {weight}; at most {WEIGHT_MAX} is allowed")]
    Weight { name: String, weight: u32 },
    #[error("the canaries' shares are {} together, more than 100 %", Percent(*.0))]
    Shares(u64),
    #[error(
        "no live route has a weight, and the canaries leave {} of the keys: give a live route a weight",
        Percent(*.0)
    )]
    NothingLive(u64),
}

/// Hundredths of a percent, as people write them.
struct Percent(u64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 100 {
            0 => write!(f, "{} %", self.0 / 100),
            rest => write!(f, "{}.{rest:02} %", self.0 / 100),
        }
    }
}

impl Deployment {
    /// Checks the deployment by itself, whatever models exist.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn validate(&self) -> Result<(), Error> {
        check_name("pipeline", &self.pipeline)?;
        check_text("reason", &self.reason)?;
        check_text("author", &self.by)?;
        if self.revision == 0 {
            return Err(Error::Revision);
        }
        if self.action == Action::Unset {
            return match self.routes.is_empty() && self.ranges.is_none() {
                true => Ok(()),
                false => Err(Error::RoutesOfNothing),
            };
        }
        match self.routes.len() {
            0 => return Err(Error::NoRoutes),
            count if count > ROUTES_MAX => return Err(Error::TooManyRoutes(count)),
            _ => {}
        }
        let mut names = BTreeSet::new();
        for route in &self.routes {
            route.validate()?;
            if !names.insert(&route.name) {
                return Err(Error::SameName(route.name.clone()));
            }
        }
        self.check_shares()?;
        let ranges = self.ranges.as_ref();
        let checked = ranges.map_or(Ok(()), |ranges| self.check_ranges(ranges));
        checked.map_err(Error::Ranges)
    }

    /// # Errors
    /// Ranges that do not cover all points, or lead to a route that does not answer, in words.
    fn check_ranges(&self, ranges: &KeyRanges) -> Result<(), String> {
        let ranges = ranges.ranges();
        if ranges.len() > RANGES_MAX {
            return Err(format!(
                "there are {}; {RANGES_MAX} are allowed",
                ranges.len()
            ));
        }
        let mut start = 0;
        for range in ranges {
            if range.end <= start || range.end > POINTS {
                return Err(format!("one ends at {} after {start}", range.end));
            }
            let role = self.routes.get(range.route).map(|route| route.role);
            if !matches!(role, Some(Role::Live { .. } | Role::Canary { .. })) {
                return Err(format!(
                    "route {} of {} does not answer",
                    range.route,
                    self.routes.len()
                ));
            }
            start = range.end;
        }
        match start == POINTS {
            true => Ok(()),
            false => Err(format!("they end at {start} of {POINTS}")),
        }
    }

    fn check_shares(&self) -> Result<(), Error> {
        let (mut shares, mut weights) = (0_u64, 0_u64);
        for route in &self.routes {
            match route.role {
                Role::Live { weight } => weights += u64::from(weight),
                Role::Canary { share } => shares += u64::from(share),
                Role::Shadow => {}
            }
        }
        let whole = u64::from(SHARE_WHOLE);
        if shares > whole {
            return Err(Error::Shares(shares));
        }
        match weights == 0 && shares < whole {
            true => Err(Error::NothingLive(whole - shares)),
            false => Ok(()),
        }
    }
}

impl Route {
    fn validate(&self) -> Result<(), Error> {
        check_name("route", &self.name)?;
        self.model.validate()?;
        match self.role {
            Role::Live { weight } if weight > WEIGHT_MAX => Err(Error::Weight {
                name: self.name.clone(),
                weight,
            }),
            _ => Ok(()),
        }
    }
}

fn check_name(what: &'static str, value: &str) -> Result<(), Error> {
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let good = !value.is_empty()
        && value.len() <= NAME_BYTES_MAX
        && !value.starts_with('.')
        && value.bytes().all(usable);
    match good {
        true => Ok(()),
        false => Err(Error::Name {
            what,
            value: value.chars().take(80).collect(),
        }),
    }
}

fn check_text(what: &'static str, value: &str) -> Result<(), Error> {
    let bytes = value.len();
    match bytes <= TEXT_BYTES_MAX {
        true => Ok(()),
        false => Err(Error::Text { what, bytes }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn id(name: &str, version: &str) -> ModelId {
        ModelId {
            name: name.to_owned(),
            version: version.to_owned(),
        }
    }

    pub fn route(name: &str, version: &str, role: Role) -> Route {
        Route {
            name: name.to_owned(),
            model: id("m", version),
            role,
        }
    }

    pub fn deployment(revision: u64, routes: Vec<Route>) -> Deployment {
        Deployment {
            pipeline: "p".to_owned(),
            revision,
            routes,
            ranges: None,
            action: Action::Set,
            by: "a@b".to_owned(),
            at_ms: 1,
            reason: String::new(),
        }
    }

    const LIVE: Role = Role::Live { weight: 100 };

    fn said(routes: Vec<Route>) -> String {
        let error = deployment(1, routes).validate().unwrap_err();
        error.to_string()
    }

    #[test]
    fn a_live_route_a_canary_and_a_shadow_are_a_deployment() {
        let routes = vec![
            route("live", "1", LIVE),
            route("canary", "2", Role::Canary { share: 1_000 }),
            route("shadow", "3", Role::Shadow),
        ];
        assert_eq!(deployment(1, routes).validate(), Ok(()));
    }

    #[test]
    fn something_must_answer_for_every_key() {
        assert!(said(Vec::new()).contains("no route"));
        assert!(said(vec![route("shadow", "1", Role::Shadow)]).contains("100 % of the keys"));
        let weightless = route("live", "1", Role::Live { weight: 0 });
        let canary = |share| route("canary", "2", Role::Canary { share });
        assert!(said(vec![weightless.clone(), canary(1_050)]).contains("89.50 % of the keys"));
        assert_eq!(
            deployment(1, vec![weightless, canary(SHARE_WHOLE)]).validate(),
            Ok(())
        );
    }

    #[test]
    fn canaries_have_no_more_than_all() {
        let canary = |name, share| route(name, "2", Role::Canary { share });
        let routes = vec![
            route("live", "1", LIVE),
            canary("a", 6_000),
            canary("b", 4_001),
        ];
        assert!(said(routes).contains("100.01 % together"));
        // Sums beyond 32 bits are sums all the same.
        let routes = vec![
            route("live", "1", LIVE),
            canary("a", u32::MAX),
            canary("b", 1),
        ];
        assert!(said(routes).contains("more than 100 %"));
    }

    #[test]
    fn names_are_told_apart_and_can_be_keys() {
        let twice = vec![route("a", "1", LIVE), route("a", "2", LIVE)];
        assert!(said(twice).contains("two routes are named a"));
        for name in ["", "a/b", ".a", "ä", &"x".repeat(257)] {
            let error = deployment(1, vec![route(name, "1", LIVE)]).validate();
            assert!(matches!(error, Err(Error::Name { .. })), "{name:?}");
        }
        assert!(matches!(
            deployment(1, vec![route("a", "1/2", LIVE)]).validate(),
            Err(Error::Name {
                what: "version",
                ..
            })
        ));
    }

    #[test]
    fn revisions_begin_at_one_and_weights_end_somewhere() {
        let live = || vec![route("live", "1", LIVE)];
        assert_eq!(deployment(0, live()).validate(), Err(Error::Revision));
        let heavy = vec![route("live", "1", Role::Live { weight: u32::MAX })];
        assert!(said(heavy).contains("weight 4294967295"));
        let mut long = deployment(1, live());
        long.reason = "x".repeat(5_000);
        assert!(matches!(
            long.validate(),
            Err(Error::Text { what: "reason", .. })
        ));
    }
}
