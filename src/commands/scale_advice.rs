//! `quadrille scale-advice`: what comes in, what is done, what is left, and how many replicas that needs.

use std::time::{Duration, Instant};

use quadrille_choreography::{Admin, AdminError, GroupProgress};
use quadrille_proto::Stage;
use quadrille_service::Error;
use serde_json::json;

use crate::{
    kafka::{Kafka, blocking},
    output::{self, Output, OutputOrJson, Table},
    pipelines::PipelineArg,
};

/// Of its capacity a replica should use, so that a burst or a lost replica is borne.
const UTILISATION: f64 = 0.8;

const EXAMPLES: &str = "\
Examples:
  quadrille scale-advice
  quadrille scale-advice --window 60 --catch-up 300
  quadrille scale-advice --output json | jq '.[] | {service, replicas, needed}'

LAG and rates are offsets of the service's input: a transaction adds one to each partition it writes. KEDA is what
KEDA's Kafka scaler would set with this --lag-threshold; it knows the lag only, so it acts when records wait already.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    pipeline: PipelineArg,

    #[command(flatten)]
    kafka: Kafka,

    /// How long rates are measured.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    window: u64,

    /// Within which time what waits should be worked off.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    catch_up: u64,

    /// KEDA's `lagThreshold`: records that may wait for each replica.
    #[arg(long, default_value_t = 1_000, value_name = "RECORDS", value_parser = clap::value_parser!(u64).range(1..))]
    lag_threshold: u64,

    #[command(flatten)]
    output: OutputOrJson,
}

/// # Errors
/// Kafka does not answer, or topics are missing.
pub async fn run(args: Args) -> Result<(), Error> {
    let pipelines = args.pipeline.all()?;
    let names: Vec<String> = pipelines.iter().map(|p| p.name().to_owned()).collect();
    let cluster = args.kafka.cluster()?;
    let window = Duration::from_secs(args.window);
    if args.output.get() == Output::Text {
        output::note(format_args!("measuring for {window:?}"));
    }
    let looking = move || {
        let admin = Admin::connect(&cluster)?;
        Ok(look(&admin, &names)?)
    };
    let (first, began) = (blocking(looking.clone()).await?, Instant::now());
    tokio::time::sleep(window).await;
    let (second, elapsed) = (blocking(looking).await?, began.elapsed());
    let seen = first.into_iter().zip(second);
    let seen: Vec<Seen> = seen
        .map(|(before, after)| Seen::between(before, after, elapsed))
        .collect();
    let goal = Goal {
        catch_up: Duration::from_secs(args.catch_up),
        lag_threshold: args.lag_threshold,
    };
    match args.output.get() {
        Output::Text => show(&seen, &goal),
        Output::Json => show_json(&seen, &goal),
    }
}

#[derive(Debug)]
struct Look {
    pipeline: String,
    stage: Stage,
    progress: GroupProgress,
}

fn look(admin: &Admin, pipelines: &[String]) -> Result<Vec<Look>, AdminError> {
    let mut looks = Vec::new();
    for pipeline in pipelines {
        for stage in Stage::ALL {
            let (group, input) = (stage.group(pipeline), stage.input(pipeline));
            looks.push(Look {
                pipeline: pipeline.clone(),
                stage,
                progress: admin.progress(&group, &input)?,
            });
        }
    }
    Ok(looks)
}

/// One stage of one pipeline over the window.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    pipeline: String,
    service: &'static str,
    partitions: usize,
    replicas: usize,
    lanes: usize,
    lag: i64,
    /// Offsets a second.
    coming: f64,
    handled: f64,
}

impl Seen {
    fn between(before: Look, after: Look, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        let pairs = before.progress.partitions.iter();
        let pairs = pairs.zip(&after.progress.partitions);
        let (coming, handled) = pairs.fold((0, 0), |(coming, handled), (a, b)| {
            (coming + (b.end - a.end), handled + (b.at() - a.at()).max(0))
        });
        Seen {
            pipeline: after.pipeline,
            service: after.stage.name(),
            partitions: after.progress.partitions.len(),
            replicas: after.progress.replicas(),
            lanes: after.progress.members.len(),
            lag: after.progress.lag(),
            coming: coming as f64 / seconds,
            handled: handled as f64 / seconds,
        }
    }

    /// How old the oldest of what waits will be when it is handled, where anything is handled.
    fn behind(&self) -> Option<Duration> {
        match (self.lag, self.handled) {
            (0, _) => Some(Duration::ZERO),
            (_, 0.0) => None,
            (lag, handled) => Duration::try_from_secs_f64(lag as f64 / handled).ok(),
        }
    }
}

#[derive(Debug)]
struct Goal {
    catch_up: Duration,
    lag_threshold: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Advice {
    replicas: usize,
    keda: usize,
    why: String,
}

fn advise(seen: &Seen, goal: &Goal) -> Advice {
    let lanes_each = seen.lanes.div_ceil(seen.replicas.max(1)).max(1);
    let most = seen.partitions.div_ceil(lanes_each).max(1);
    let lag = seen.lag.max(0) as u64;
    // KEDA scales to partitions, of which a replica here takes several.
    let keda = lag.div_ceil(goal.lag_threshold) as usize;
    let keda = keda.clamp(1, seen.partitions.max(1));
    let (replicas, why) = needed(seen, goal, most);
    Advice {
        replicas,
        keda,
        why,
    }
}

/// Replicas, and why that many.
fn needed(seen: &Seen, goal: &Goal, most: usize) -> (usize, String) {
    let replicas = seen.replicas;
    if replicas == 0 {
        return (1, "nobody consumes: start one".to_owned());
    }
    // What waits at the moment of the look is a batch on its way, not a backlog.
    let backlog = seen.lag as f64 > seen.coming.max(seen.handled).max(100.0);
    if !backlog {
        let why = match seen.coming {
            0.0 => "nothing comes in",
            _ => "keeps up",
        };
        return (
            replicas.min(most),
            format!("{why}; fewer may do: look at its CPU"),
        );
    }
    if seen.handled == 0.0 {
        let why =
            "records wait and none is handled: that is no matter of replicas, look at its log";
        return (replicas.min(most), why.to_owned());
    }
    // Behind, so it does what it can: this is its capacity.
    let capacity = seen.handled / replicas as f64;
    let rate = seen.coming + seen.lag as f64 / goal.catch_up.as_secs_f64();
    let wanted = (rate / (capacity * UTILISATION)).ceil() as usize;
    let wanted = wanted.max(replicas);
    let sum = format!(
        "behind at {capacity:.0}/s a replica: {:.0}/s come, and {} within {:?}",
        seen.coming, seen.lag, goal.catch_up
    );
    match wanted > most {
        true => (
            most,
            format!(
                "{sum}, would need {wanted}; {} partitions feed {most}",
                seen.partitions
            ),
        ),
        false => (wanted, sum),
    }
}

fn show(seen: &[Seen], goal: &Goal) -> Result<(), Error> {
    let header = [
        "PIPELINE", "SERVICE", "REPLICAS", "LANES", "LAG", "BEHIND", "IN/S", "OUT/S", "NEEDED",
        "KEDA", "WHY",
    ];
    let mut table = Table::new(&header);
    for stage in seen {
        let advice = advise(stage, goal);
        table.row(vec![
            stage.pipeline.clone(),
            stage.service.to_owned(),
            stage.replicas.to_string(),
            stage.lanes.to_string(),
            stage.lag.to_string(),
            match stage.behind() {
                Some(behind) => format!("{:.1} s", behind.as_secs_f64()),
                None => "-".to_owned(),
            },
            format!("{:.0}", stage.coming),
            format!("{:.0}", stage.handled),
            advice.replicas.to_string(),
            advice.keda.to_string(),
            advice.why,
        ]);
    }
    output::print(table).map(drop)
}

fn show_json(seen: &[Seen], goal: &Goal) -> Result<(), Error> {
    let stages = seen.iter().map(|stage| {
        let advice = advise(stage, goal);
        json!({
            "pipeline": stage.pipeline,
            "service": stage.service,
            "partitions": stage.partitions,
            "replicas": stage.replicas,
            "lanes": stage.lanes,
            "lag": stage.lag,
            "lag_seconds": stage.behind().map(|behind| behind.as_secs_f64()),
            "in_per_second": stage.coming,
            "out_per_second": stage.handled,
            "needed": advice.replicas,
            "keda": advice.keda,
            "why": advice.why,
        })
    });
    let all: serde_json::Value = stages.collect();
    output::print(format_args!("{all:#}")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOAL: Goal = Goal {
        catch_up: Duration::from_secs(60),
        lag_threshold: 1_000,
    };

    /// Two lanes a replica, eight partitions.
    fn seen(replicas: usize, lag: i64, coming: f64, handled: f64) -> Seen {
        Seen {
            pipeline: "p".to_owned(),
            service: "feature",
            partitions: 8,
            replicas,
            lanes: replicas * 2,
            lag,
            coming,
            handled,
        }
    }

    #[test]
    fn who_keeps_up_is_left_alone() {
        let advice = advise(&seen(2, 30, 500.0, 500.0), &GOAL);
        assert_eq!((advice.replicas, advice.keda), (2, 1));
        assert!(advice.why.starts_with("keeps up"), "{advice:?}");
    }

    #[test]
    fn who_is_behind_gets_what_the_load_and_the_backlog_need() {
        // One does 1,000/s; 1,500/s come and 60,000 wait: 2,500/s at 800 each.
        let advice = advise(&seen(1, 60_000, 1_500.0, 1_000.0), &GOAL);
        assert_eq!((advice.replicas, advice.keda), (4, 8));
    }

    #[test]
    fn more_lanes_than_partitions_are_not_advised() {
        let advice = advise(&seen(2, 600_000, 9_000.0, 2_000.0), &GOAL);
        assert_eq!(advice.replicas, 4);
        assert!(advice.why.contains("8 partitions feed 4"), "{advice:?}");
    }

    #[test]
    fn a_stage_that_does_nothing_is_not_scaled() {
        let advice = advise(&seen(1, 5_000, 0.0, 0.0), &GOAL);
        assert_eq!(advice.replicas, 1);
        assert!(advice.why.contains("its log"), "{advice:?}");
    }

    #[test]
    fn where_nobody_consumes_one_is_advised() {
        assert_eq!(advise(&seen(0, 0, 0.0, 0.0), &GOAL).replicas, 1);
    }

    #[test]
    fn rates_are_differences_over_time() {
        let look = |committed, end| Look {
            pipeline: "p".to_owned(),
            stage: Stage::Feature,
            progress: GroupProgress {
                members: vec!["g-a-0".to_owned(), "g-a-1".to_owned()],
                partitions: vec![quadrille_choreography::PartitionProgress {
                    partition: 0,
                    committed: Some(committed),
                    begin: 0,
                    end,
                }],
            },
        };
        let seen = Seen::between(look(100, 150), look(300, 450), Duration::from_secs(10));
        assert_eq!((seen.coming, seen.handled, seen.lag), (30.0, 20.0, 150));
        assert_eq!((seen.replicas, seen.lanes), (1, 2));
        assert_eq!(seen.behind(), Some(Duration::from_millis(7_500)));
    }
}
