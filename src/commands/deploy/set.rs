//! `quadrille deploy set`: which versions serve a pipeline from now on.

use quadrille_choreography::Admin;
use quadrille_proto::Topics;
use quadrille_registry::Action;
use quadrille_service::Error;

use super::{
    change::{Change, Next, change},
    routes,
};
use crate::{kafka::Kafka, pipelines};

const ROUTE_HELP: &str = "\
A route is [ROUTE=]NAME:VERSION. ROUTE is its predictions' variant; without it routes are named live, canary and
shadow, and numbered (live-2) where there are several. --live takes @WEIGHT (100), --canary takes @SHARE (10%).

Keys stay with their variant: a canary takes a share of all keys, live routes share the rest by weight, a shadow
scores everything and is never acted upon. A change moves as many keys as the shares' changes make necessary, and only from
routes whose share falls to routes whose share rises; routes are the same by their names.";

#[derive(Debug, clap::Args)]
#[command(after_help = ROUTE_HELP)]
pub struct Args {
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

/// # Errors
/// The routes cannot be, another change came first, or Kafka does not answer.
pub fn run(args: Args) -> Result<(), Error> {
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
