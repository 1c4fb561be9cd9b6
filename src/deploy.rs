//! `quadrille deploy`: which model versions serve a pipeline, and which did.

mod routes;
mod show;
mod wait;

use std::time::Duration;

use quadrille_choreography::Admin;
use quadrille_proto::Topics;
use quadrille_registry::{
    Action, Deployment, KeyRanges, NoSuchChange, Registry, Role, Route, View, promote, rollback,
};
use quadrille_service::Error;

use crate::{
    kafka::{Kafka, blocking},
    output, pipelines, registry,
};

const EXAMPLES: &str = "\
Examples:
  quadrille deploy set diabetes --live diabetes:1
  quadrille deploy set diabetes --live diabetes:1 --canary diabetes:2@10% --wait
  quadrille deploy set diabetes --live champion=forest:3@70 --live net:1@30 --shadow net:2
  quadrille deploy promote diabetes --reason 'better for a week'
  quadrille deploy rollback diabetes
  quadrille deploy rollback diabetes --to 3
  quadrille deploy unset diabetes --reason 'a slip of the keyboard'
  quadrille deploy history diabetes

Every change is an event on quadrille.deployments, one revision after the one it changes. Of two at once the first
counts, and the other is told who was quicker.";

const ROUTE_HELP: &str = "\
A route is [ROUTE=]NAME:VERSION. ROUTE is its predictions' variant; without it routes are named live, canary and
shadow, and numbered (live-2) where there are several. --live takes @WEIGHT (100), --canary takes @SHARE (10%).

Keys stay with their variant: a canary takes a share of all keys, live routes share the rest by weight, a shadow
scores everything and is never acted upon. A change moves as many keys as the shares' changes make necessary, and only from
routes whose share falls to routes whose share rises; routes are the same by their names.";

const ROLLBACK_HELP: &str = "\
Without --to it goes back through what served before the current revision, one step each time, and never to what an
earlier rollback left. With --to it restores any revision, also a later one.";

#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// Say which versions serve a pipeline from now on.
    Set(SetArgs),
    /// Show what serves, and how far replicas are.
    Show(show::ShowArgs),
    /// Show every event of a pipeline: who, when, why, what.
    History(show::HistoryArgs),
    /// Let the canary serve everything.
    Promote(PromoteArgs),
    /// Restore the routes of an earlier revision, as a new event.
    Rollback(RollbackArgs),
    /// Remove a pipeline's deployment, as a new event; its models may be deleted then.
    Unset(UnsetArgs),
}

/// Flags of every change.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Change")]
struct Change {
    /// Why; shown in the history.
    #[arg(
        long,
        default_value = "",
        value_name = "TEXT",
        hide_default_value = true
    )]
    reason: String,

    /// Who asks [default: user@host].
    #[arg(long, value_name = "WHO")]
    by: Option<String>,

    /// Refuse unless this revision serves now (0: none) [default: whichever does].
    #[arg(long, value_name = "REVISION")]
    base: Option<u64>,

    /// Return when every replica that reports has the revision and its models ready.
    #[arg(long)]
    wait: bool,

    /// How long to wait.
    #[arg(long, default_value_t = 120, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

#[derive(Debug, clap::Args)]
#[command(after_help = ROUTE_HELP)]
pub struct SetArgs {
    /// The pipeline's name, or its file.
    #[arg(value_name = "PIPELINE")]
    pipeline: String,

    /// Serves what canaries leave.
    #[arg(long, value_name = "ROUTE", value_parser = routes::live)]
    live: Vec<routes::Asked>,

    /// Serves a share of all keys.
    #[arg(long, value_name = "ROUTE@SHARE", value_parser = routes::canary)]
    canary: Vec<routes::Asked>,

    /// Scores everything beside the others.
    #[arg(long, value_name = "ROUTE", value_parser = routes::shadow)]
    shadow: Vec<routes::Asked>,

    /// Deploy to a pipeline that has no topics yet.
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    change: Change,

    #[command(flatten)]
    kafka: Kafka,
}

#[derive(Debug, clap::Args)]
pub struct PromoteArgs {
    /// The pipeline's name, or its file.
    #[arg(value_name = "PIPELINE")]
    pipeline: String,

    /// The route to promote [default: the only canary].
    #[arg(value_name = "VARIANT")]
    variant: Option<String>,

    #[command(flatten)]
    change: Change,

    #[command(flatten)]
    kafka: Kafka,
}

#[derive(Debug, clap::Args)]
pub struct UnsetArgs {
    /// The pipeline's name, or its file.
    #[arg(value_name = "PIPELINE")]
    pipeline: String,

    #[command(flatten)]
    change: Change,

    #[command(flatten)]
    kafka: Kafka,
}

#[derive(Debug, clap::Args)]
#[command(after_help = ROLLBACK_HELP)]
pub struct RollbackArgs {
    /// The pipeline's name, or its file.
    #[arg(value_name = "PIPELINE")]
    pipeline: String,

    /// The revision whose routes to restore [default: what served before the current one].
    #[arg(long, value_name = "REVISION")]
    to: Option<u64>,

    #[command(flatten)]
    change: Change,

    #[command(flatten)]
    kafka: Kafka,
}

/// # Errors
/// The change cannot be, somebody was quicker, or Kafka does not answer.
pub async fn run(command: Command) -> Result<(), Error> {
    blocking(move || match command {
        Command::Set(args) => set(args),
        Command::Show(args) => show::show(&args),
        Command::History(args) => show::history(&args),
        Command::Promote(args) => promotion(&args),
        Command::Rollback(args) => restoration(&args),
        Command::Unset(args) => removal(&args),
    })
    .await
}

/// What a change comes to.
struct Next {
    action: Action,
    routes: Vec<Route>,
    ranges: Option<KeyRanges>,
}

impl Next {
    /// Other routes, by which as few keys as possible move.
    fn routes(action: Action, current: Option<&Deployment>, routes: Vec<Route>) -> Self {
        Next {
            action,
            ranges: KeyRanges::after(current, &routes),
            routes,
        }
    }
}

fn set(args: SetArgs) -> Result<(), Error> {
    let pipeline = pipelines::name(Some(&args.pipeline))?;
    let routes = routes::named(args.live.into_iter().chain(args.canary).chain(args.shadow));
    change(&pipeline, &args.change, &args.kafka, |view, admin| {
        let current = view.current(&pipeline);
        let is_known = current.is_some_and(|current| current.action != Action::Unset);
        if !is_known && !args.force {
            exists(admin, &pipeline)?;
        }
        Ok(Next::routes(Action::Set, current, routes))
    })
}

fn promotion(args: &PromoteArgs) -> Result<(), Error> {
    let pipeline = pipelines::name(Some(&args.pipeline))?;
    change(&pipeline, &args.change, &args.kafka, |view, _| {
        let current = current(view, &pipeline)?;
        let routes = promote(current, args.variant.as_deref()).map_err(unclear)?;
        Ok(Next::routes(Action::Promote, Some(current), routes))
    })
}

fn restoration(args: &RollbackArgs) -> Result<(), Error> {
    let pipeline = pipelines::name(Some(&args.pipeline))?;
    change(&pipeline, &args.change, &args.kafka, |view, _| {
        let history = view.deployments.get(&pipeline).cloned().unwrap_or_default();
        let past = rollback(&pipeline, &history, args.to).map_err(unclear)?;
        // Its ranges, too: each key has the route that it had then.
        Ok(Next {
            action: Action::Rollback,
            routes: past.routes.clone(),
            ranges: past.ranges.clone(),
        })
    })
}

fn removal(args: &UnsetArgs) -> Result<(), Error> {
    let pipeline = pipelines::name(Some(&args.pipeline))?;
    change(&pipeline, &args.change, &args.kafka, |view, _| {
        current(view, &pipeline)?;
        Ok(Next {
            action: Action::Unset,
            routes: Vec::new(),
            ranges: None,
        })
    })
}

fn current<'a>(view: &'a View, pipeline: &str) -> Result<&'a Deployment, Error> {
    let current = view.current(pipeline);
    let current = current.filter(|current| current.action != Action::Unset);
    current.ok_or_else(|| unclear(NoSuchChange::NoDeployment(pipeline.to_owned())))
}

/// # Errors
/// There is no such pipeline here: its name is misspelt, or its topics are still to be made.
fn exists(admin: &Admin, pipeline: &str) -> Result<(), Error> {
    let features = Topics::of(pipeline).features;
    match admin.partitions(&features)? {
        Some(_) => Ok(()),
        None => Err(Error::Config(format!(
            "there is no pipeline {pipeline} on this Kafka (no topic {features}): check the name, or create its topics with \
             `quadrille topics create`; --force deploys to it all the same"
        ))),
    }
}

fn unclear(error: NoSuchChange) -> Error {
    Error::Config(error.to_string())
}

/// Reads the log, decides, writes the event, and says what came of it.
fn change(
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
        at_ms: registry::now_ms(),
        reason: asked.reason.clone(),
    };
    registry.deploy(&deployment).map_err(registry::refused)?;
    let told = registry::routes(&deployment);
    let _ = output::print(format_args!(
        "{pipeline} revision {}: {told}",
        deployment.revision
    ))?;
    match asked.wait {
        true => {
            let within = Duration::from_secs(asked.timeout);
            wait::until_ready(&cluster, &registry, &deployment, within)
        }
        false => Ok(()),
    }
}

/// A role's route names begin with this when none is given.
const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Live { .. } => "live",
        Role::Canary { .. } => "canary",
        Role::Shadow => "shadow",
    }
}

/// The log and a pipeline's history, for those who only look.
fn open(kafka: &Kafka) -> Result<Registry, Error> {
    registry::open(&kafka.cluster()?)
}
