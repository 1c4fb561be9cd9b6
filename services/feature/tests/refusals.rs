//! Settings that cannot be right are refused before anything is connected: exit status 64, and what is wrong on standard error.

use std::{
    path::Path,
    process::{Command, Output},
};

fn feature(settings: &[(&str, &str)]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(env!("CARGO_BIN_EXE_feature"));
    command
        .env_clear()
        .env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
        .env("QUADRILLE_LISTEN", "127.0.0.1:0")
        .env("QUADRILLE_PIPELINE", "examples/cards/pipeline.toml")
        .envs(settings.iter().copied())
        .current_dir(root);
    command.output().expect("it starts")
}

#[track_caller]
fn is_refused(settings: &[(&str, &str)], told: &[&str]) {
    let output = feature(settings);
    let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(64), "{text}");
    for part in told {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn state_by_key_with_delivery_at_least_once_is_refused() {
    is_refused(
        &[("QUADRILLE_DELIVERY", "at-least-once")],
        &["QUADRILLE_DELIVERY", "state"],
    );
}

#[test]
fn memory_for_state_that_is_no_number_is_refused() {
    is_refused(
        &[("QUADRILLE_STATE_MEMORY_MB", "much")],
        &["--state-memory-mb", "much"],
    );
}

#[test]
fn a_pipeline_file_that_is_not_there_is_refused() {
    is_refused(
        &[("QUADRILLE_PIPELINE", "examples/none.toml")],
        &["examples/none.toml"],
    );
}
