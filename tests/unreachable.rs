//! What commands do where nobody answers: an end within seconds, and one sentence that says which address, which setting, and what to do.

use std::{
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";
/// Kafka's client is asked for 10 s; the rest is two dozen processes at once on a busy machine.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(30);

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Commands that ask Kafka.
const OF_KAFKA: &[&str] = &[
    "topics create",
    "topics check",
    "topics accept",
    "topics migrate --partitions 16",
    "produce data/pima.csv",
    "scale-advice",
    "dlq list",
    "dlq list --topic diabetes.inbox --all --output json",
    "dlq redrive --stage inbox",
    "dlq redrive --stage inbox --dry-run",
    "dlq discard --stage inbox --all --note test",
    "model list",
    "model list --output json",
    "model show m:1",
    "model push crates/model/tests/golden/random-forest",
    "model delete m:1",
    "model watch docs --once",
    "deploy set diabetes --live m:1",
    "deploy set diabetes --live m:1 --wait",
    "deploy show",
    "deploy history diabetes",
    "deploy promote diabetes",
    "deploy rollback diabetes",
    "deploy unset diabetes",
];

/// Commands that ask a service.
const OF_SERVICES: &[(&str, &str)] = &[
    ("predict glucose=148", "inference"),
    ("results list", "results"),
    ("results get pima-1 --output json", "results"),
    ("results count", "results"),
    ("explain pima-1", "results"),
];

fn run(line: &str) -> (Output, Duration) {
    let began = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_quadrille"))
        .args(line.split(' '))
        .current_dir(ROOT)
        .env("KAFKA_BOOTSTRAP_SERVERS", NOWHERE)
        .env("QUADRILLE_ADDRESS", format!("http://{NOWHERE}"))
        .env("QUADRILLE_PIPELINE", "pipelines/diabetes.toml")
        .env_remove("KAFKA_PROPERTIES")
        .env_remove("RUST_LOG")
        .output();
    (output.expect("the CLI starts"), began.elapsed())
}

/// What is wrong with how a command that is answered by nobody ended, if anything.
fn fault(line: &str, words: &[String]) -> Option<String> {
    let (output, took) = run(line);
    let said = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<&str> = said
        .lines()
        .filter(|it| it.starts_with("error: "))
        .collect();
    let missing = words.iter().find(|word| !said.contains(word.as_str()));
    let why = match (output.status.code(), &errors[..], missing) {
        _ if took > GIVEN_UP_WITHIN => format!("took {took:?}"),
        // A line of the log, of whatever target.
        _ if said.contains("{\"") => "logs in JSON".to_owned(),
        (Some(1), [_], None) if output.stdout.is_empty() => return None,
        (Some(1), [_], None) => "has an answer".to_owned(),
        (Some(1), [_], Some(missing)) => format!("does not say {missing:?}"),
        (Some(1), errors, _) => format!("has {} errors", errors.len()),
        (code, ..) => format!("ended with {code:?}"),
    };
    Some(format!("{line}: {why}: {said}"))
}

#[test]
fn commands_that_nobody_answers_end_soon_with_one_sentence() {
    let of_kafka = OF_KAFKA.iter().map(|line| {
        let words = [
            "Kafka at 127.0.0.1:1 does not answer",
            "KAFKA_BOOTSTRAP_SERVERS",
        ];
        (*line, words.map(str::to_owned).to_vec())
    });
    let of_services = OF_SERVICES.iter().map(|(line, service)| {
        let nobody = format!("no {service} service answers at http://127.0.0.1:1");
        (
            *line,
            vec![nobody, "--address".to_owned(), "quadrille up".to_owned()],
        )
    });
    let running: Vec<_> = of_kafka
        .chain(of_services)
        .map(|(line, words)| thread::spawn(move || fault(line, &words)))
        .collect();
    let faults = running
        .into_iter()
        .filter_map(|it| it.join().expect("no panic"));
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
