//! `quadrille deploy show`: what serves, and how far replicas are.

use quadrille_registry::{Action, Deployment, History, ModelState, Replica, Role, View};
use quadrille_service::Error;
use serde_json::{Value, json};

use super::routes::role_name;
use crate::{
    kafka::Kafka,
    output::{self, Output, OutputOrJson, Table},
    pipelines, preview, registry, time,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The pipeline's name, or its file [default: all that have a deployment].
    #[arg(value_name = "PIPELINE")]
    pipeline: Option<String>,

    #[command(flatten)]
    output: OutputOrJson,

    #[command(flatten)]
    kafka: Kafka,
}

/// There is no deployment of this pipeline.
pub fn none(pipeline: &str, view: &View) -> Error {
    let known: Vec<&str> = view.deployments.keys().map(String::as_str).collect();
    let known = match known.is_empty() {
        true => "no pipeline has one".to_owned(),
        false => format!("those that have one: {}", known.join(", ")),
    };
    Error::Config(format!(
        "pipeline {pipeline} has no deployment ({known}); make one with `quadrille deploy set`"
    ))
}

/// # Errors
/// The pipeline has no deployment, or Kafka does not answer.
pub fn run(args: &Args) -> Result<(), Error> {
    let cluster = args.kafka.cluster()?;
    let registry = registry::open(&cluster)?;
    let replicas = registry::replicas(&cluster)?;
    let view = registry.view();
    let wanted = match &args.pipeline {
        Some(given) => Some(pipelines::name(Some(given))?),
        None => None,
    };
    let current = view.deployments.values().filter_map(History::current);
    let current: Vec<&Deployment> = current
        .filter(|deployment| match &wanted {
            Some(name) => deployment.pipeline == *name,
            None => deployment.action != Action::Unset,
        })
        .collect();
    if let (Some(pipeline), true) = (&wanted, current.is_empty()) {
        return Err(none(pipeline, &view));
    }
    if args.output.get() == Output::Json {
        let all = current.iter().map(|deployment| {
            let mut value = to_json(deployment);
            value["replicas"] = replicas_json(deployment, &replicas);
            value
        });
        let _ = output::print(Value::Array(all.collect()))?;
        return Ok(());
    }
    if current.is_empty() {
        output::note("no deployments; make one with `quadrille deploy set`");
    }
    for deployment in current {
        if output::print(paragraph(deployment, &replicas))?.is_break() {
            break;
        }
    }
    Ok(())
}

/// The replicas that run a pipeline.
pub fn of_pipeline<'a>(
    pipeline: &'a str,
    replicas: &'a [Replica],
) -> impl Iterator<Item = (&'a Replica, u64)> {
    replicas.iter().filter_map(move |replica| {
        let revision = replica.revisions.get(pipeline)?;
        Some((replica, *revision))
    })
}

fn paragraph(deployment: &Deployment, replicas: &[Replica]) -> String {
    if deployment.action == Action::Unset {
        let pipeline = &deployment.pipeline;
        return format!("{pipeline} {}\nno routes\n", headline(deployment));
    }
    let mut table = Table::new(&["ROUTE", "MODEL", "ROLE", "REPLICAS READY"]);
    let here: Vec<(&Replica, u64)> = of_pipeline(&deployment.pipeline, replicas).collect();
    for route in &deployment.routes {
        let is_ready = |(replica, _): &&(&Replica, u64)| {
            replica.state(&route.model) == Some(&ModelState::Ready)
        };
        let ready = here.iter().filter(is_ready).count();
        table.row(vec![
            preview::cell(&route.name),
            preview::cell(&route.model.to_string()),
            registry::role(route.role),
            format!("{ready} of {}", here.len()),
        ]);
    }
    let mut text = format!(
        "{} {}\n{table}\n",
        deployment.pipeline,
        headline(deployment)
    );
    for (replica, revision) in here {
        if revision != deployment.revision {
            let name = preview::cell(&replica.instance);
            text.push_str(&format!("{name} is at revision {revision}\n"));
        }
    }
    text
}

/// Revision, what, who, when, why.
fn headline(deployment: &Deployment) -> String {
    let mut line = format!(
        "revision {}, {} by {} at {}",
        deployment.revision,
        deployment.action.name(),
        preview::cell(&deployment.by),
        time::seconds(deployment.at_ms)
    );
    if !deployment.reason.is_empty() {
        line.push_str(": ");
        line.push_str(&preview::text(
            &deployment.reason,
            preview::MESSAGE_CHARS_MAX,
        ));
    }
    line
}

pub fn to_json(deployment: &Deployment) -> Value {
    let route = |route: &quadrille_registry::Route| {
        let mut value = json!({
            "name": route.name,
            "model": route.model.name,
            "version": route.model.version,
            "role": role_name(route.role),
        });
        match route.role {
            Role::Live { weight } => value["weight"] = json!(weight),
            Role::Canary { share } => value["share_percent"] = json!(f64::from(share) / 100.0),
            Role::Shadow => {}
        }
        value
    };
    json!({
        "pipeline": deployment.pipeline,
        "revision": deployment.revision,
        "action": deployment.action.name(),
        "by": deployment.by,
        "at": time::seconds(deployment.at_ms),
        "reason": deployment.reason,
        "routes": deployment.routes.iter().map(route).collect::<Vec<Value>>(),
    })
}

fn replicas_json(deployment: &Deployment, replicas: &[Replica]) -> Value {
    let here = of_pipeline(&deployment.pipeline, replicas);
    let here = here.map(|(replica, revision)| {
        let states = deployment.routes.iter().map(|route| {
            let state = replica.state(&route.model);
            json!({
                "route": route.name,
                "state": state.map(ModelState::name),
                "why": state.and_then(|state| match state {
                    ModelState::Failed { why } => Some(why),
                    _ => None,
                }),
            })
        });
        json!({
            "service": replica.service,
            "instance": replica.instance,
            "revision": revision,
            "routes": states.collect::<Vec<Value>>(),
        })
    });
    here.collect()
}
