//! What the commands about models and deployments share: opening the log, who asks, and how models and routes are written.

use std::{env, fs, time::Duration};

use quadrille_choreography::Cluster;
use quadrille_registry::{
    self as registry, Deployment, ModelEntry, ModelId, Registry, Replica, Replicas, Role,
};
use quadrille_service::Error;

use crate::{kafka, output::counted, preview, time::now_ms};

/// How long the status topic may take to be read.
const STATUS_WITHIN: Duration = Duration::from_secs(20);

/// The log of models and deployments, read to its end.
///
/// # Errors
/// Kafka does not answer, or topics are missing.
pub fn open(cluster: &Cluster) -> Result<Registry, Error> {
    kafka::reach(cluster)?;
    Registry::open(cluster).map_err(refused)
}

/// What the asker can change is wrong usage; the rest failed.
pub fn refused(error: registry::Error) -> Error {
    match error.is_refusal() {
        true => Error::Config(error.to_string()),
        false => Error::Failed(error.to_string()),
    }
}

/// The replicas that report, silent ones left out; none where the status topic is missing.
pub fn replicas(cluster: &Cluster) -> Result<Vec<Replica>, Error> {
    let replicas = Replicas::start(cluster).map_err(refused)?;
    match replicas.wait_caught_up(STATUS_WITHIN) {
        Ok(()) => {}
        Err(registry::Error::Missing { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(refused(error)),
    }
    let now = now_ms();
    let list = replicas.list();
    let alive = list.iter().filter(|replica| !replica.is_silent(now));
    Ok(alive.cloned().collect())
}

/// Who asks, unless they say it: user@host.
pub fn author(given: Option<&str>) -> String {
    if let Some(given) = given {
        return given.to_owned();
    }
    let user = ["USER", "LOGNAME", "USERNAME"]
        .into_iter()
        .find_map(|name| env::var(name).ok().filter(|user| !user.is_empty()));
    let host = fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| fs::read_to_string("/etc/hostname"))
        .or_else(|_| env::var("HOSTNAME"))
        .unwrap_or_default();
    let host = match host.trim() {
        "" => "localhost",
        host => host,
    };
    format!("{}@{host}", user.as_deref().unwrap_or("unknown"))
}

/// Where a package lies, as it follows a number of bytes.
pub fn place(entry: &ModelEntry) -> String {
    match entry.artefact_uri() {
        Some(uri) => format!("at {}", preview::text(uri, preview::PAYLOAD_CHARS_MAX)),
        None => format!("in {}", counted(entry.chunks(), "chunk")),
    }
}

/// `NAME:VERSION`.
///
/// # Errors
/// What it should be.
pub fn model_id(text: &str) -> Result<ModelId, String> {
    let (name, version) = text
        .split_once(':')
        .ok_or_else(|| format!("{text:?} is not NAME:VERSION, as in diabetes:3"))?;
    let id = ModelId {
        name: name.to_owned(),
        version: version.to_owned(),
    };
    id.validate().map_err(|invalid| invalid.to_string())?;
    Ok(id)
}

/// A model as two words, `NAME VERSION`, or as one, `NAME:VERSION`.
///
/// # Errors
/// The version is there twice, or the one word cannot be a model.
pub fn name_and_version(
    name: &str,
    version: Option<&str>,
) -> Result<(String, Option<String>), Error> {
    match (name.contains(':'), version) {
        (false, version) => Ok((name.to_owned(), version.map(str::to_owned))),
        (true, None) => {
            let id = model_id(name).map_err(Error::Config)?;
            Ok((id.name, Some(id.version)))
        }
        (true, Some(version)) => Err(Error::Config(format!(
            "{name} names a version and {version} another; give one"
        ))),
    }
}

/// Hundredths of a percent, as people write them.
pub fn percent(share: u32) -> String {
    let text = format!("{}.{:02}", share / 100, share % 100);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}%")
}

/// What a route does, in words.
pub fn role(role: Role) -> String {
    match role {
        Role::Live { weight } => format!("live, weight {weight}"),
        Role::Canary { share } => format!("canary, {}", percent(share)),
        Role::Shadow => "shadow".to_owned(),
    }
}

/// All routes in a line.
pub fn routes(deployment: &Deployment) -> String {
    let route = |route: &registry::Route| {
        let (name, model) = (&route.name, &route.model);
        match route.role {
            Role::Live { weight } => format!("{name}={model}@{weight}"),
            Role::Canary { share } => format!("{name}={model}@{}", percent(share)),
            Role::Shadow => format!("{name}={model}"),
        }
    };
    let routes: Vec<String> = deployment.routes.iter().map(route).collect();
    match routes.is_empty() {
        true => "no routes".to_owned(),
        false => routes.join(" "),
    }
}

/// The second deployment of a pipeline, with one live route to a model. For tests.
#[cfg(test)]
pub fn deployment() -> Deployment {
    Deployment {
        pipeline: "p".to_owned(),
        revision: 2,
        routes: vec![registry::Route {
            name: "live".to_owned(),
            model: model_id("m:1").unwrap(),
            role: Role::Live { weight: 1 },
        }],
        ranges: None,
        action: registry::Action::Set,
        by: String::new(),
        at_ms: 0,
        reason: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_with_its_version() {
        let id = model_id("diabetes-forest:1.2").unwrap();
        assert_eq!((&*id.name, &*id.version), ("diabetes-forest", "1.2"));
        for wrong in ["diabetes", "diabetes:", ":1", "a/b:1", "a:1:2"] {
            assert!(model_id(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_version_comes_with_its_model_or_after_it() {
        let named = |name, version| name_and_version(name, version);
        let both = ("m".to_owned(), Some("1".to_owned()));
        assert_eq!(named("m:1", None).unwrap(), both);
        assert_eq!(named("m", Some("1")).unwrap(), both);
        assert_eq!(named("m", None).unwrap(), ("m".to_owned(), None));
        for (name, version) in [("m:1", Some("2")), ("m:", None)] {
            assert!(
                matches!(named(name, version), Err(Error::Config(_))),
                "{name}"
            );
        }
    }

    #[test]
    fn shares_are_told_in_percent() {
        assert_eq!(percent(1_000), "10%");
        assert_eq!(percent(10_000), "100%");
        assert_eq!(percent(250), "2.5%");
        assert_eq!(percent(1), "0.01%");
    }

    #[test]
    fn an_author_is_who_was_named_or_the_user_at_this_machine() {
        assert_eq!(author(Some("ci")), "ci");
        let found = author(None);
        let (user, host) = found.split_once('@').unwrap();
        assert!(!user.is_empty() && !host.is_empty() && host == host.trim());
    }
}
