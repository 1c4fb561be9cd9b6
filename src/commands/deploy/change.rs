//! What every change of a deployment has in common: its flags, and reading, deciding, writing, waiting.

use std::time::Duration;

use quadrille_choreography::Admin;
use quadrille_registry::{Action, Deployment, KeyRanges, Route, View, change};
use quadrille_service::Error;

use super::{show::to_json, wait};
use crate::{
    kafka::Kafka,
    output::{self, Output, OutputArg},
    registry, time,
};

/// Flags of every change.
#[derive(Debug, clap::Args)]
pub struct Change {
    /// Why; shown in the history.
    #[arg(
        long,
        help_heading = "Change",
        default_value = "",
        value_name = "TEXT",
        hide_default_value = true
    )]
    reason: String,

    /// Who makes the change [default: user@host].
    #[arg(long, help_heading = "Change", value_name = "WHO")]
    by: Option<String>,

    /// Refuse unless this revision serves now (0: none) [default: whichever does].
    #[arg(long, help_heading = "Change", value_name = "REVISION")]
    base: Option<u64>,

    /// Return when every replica that reports has the revision and its models ready.
    #[arg(long, help_heading = "Change")]
    wait: bool,

    /// How long to wait.
    #[arg(long, help_heading = "Change", default_value_t = 120, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,

    #[command(flatten)]
    output: OutputArg,
}

/// What a change comes to.
pub struct Next {
    pub action: Action,
    pub routes: Vec<Route>,
    pub ranges: Option<KeyRanges>,
}

impl Next {
    /// Other routes, by which as few keys as possible move.
    pub fn routes(action: Action, current: Option<&Deployment>, routes: Vec<Route>) -> Self {
        Next {
            action,
            ranges: KeyRanges::after(current, &routes),
            routes,
        }
    }
}

pub fn current<'a>(view: &'a View, pipeline: &str) -> Result<&'a Deployment, Error> {
    let current = view.current(pipeline);
    let current = current.filter(|current| current.action != Action::Unset);
    current.ok_or_else(|| unclear(change::Error::NoDeployment(pipeline.to_owned())))
}

pub fn unclear(error: change::Error) -> Error {
    Error::Config(error.to_string())
}

/// Reads the log, decides, writes the event, and says what came of it.
pub fn change(
    pipeline: &str,
    asked: &Change,
    kafka: &Kafka,
    decide: impl FnOnce(&View, &Admin) -> Result<Next, Error>,
) -> Result<(), Error> {
    let cluster = kafka.cluster()?;
    let registry = registry::open(&cluster)?;
    let view = registry.view();
    let base = view.current(pipeline).map_or(0, |current| current.revision);
    if let Some(wanted) = asked.base.filter(|wanted| *wanted != base) {
        return Err(Error::Failed(format!(
            "revision {base} serves pipeline {pipeline}, not {wanted}; look at it with `quadrille deploy show {pipeline}`"
        )));
    }
    let next = decide(&view, &Admin::connect(&cluster)?)?;
    let deployment = Deployment {
        pipeline: pipeline.to_owned(),
        revision: base + 1,
        routes: next.routes,
        ranges: next.ranges,
        action: next.action,
        by: registry::author(asked.by.as_deref()),
        at_ms: time::now_ms(),
        reason: asked.reason.clone(),
    };
    registry.deploy(&deployment).map_err(registry::refused)?;
    let _ = match asked.output.get() {
        Output::Text => output::print(format_args!(
            "{pipeline} revision {}: {}",
            deployment.revision,
            registry::routes(&deployment)
        ))?,
        Output::Json => output::print(to_json(&deployment))?,
    };
    match asked.wait {
        true => {
            let within = Duration::from_secs(asked.timeout);
            wait::until_ready(&cluster, &registry, &deployment, within, asked.output.get())
        }
        false => Ok(()),
    }
}
