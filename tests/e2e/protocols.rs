//! Other people's clients, as they come: Triton's from PyPI.

use std::{io::Write, process::Command};

use quadrille_local::python;
use quadrille_proto::Service;

use crate::harness::world::World;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/triton.py");
const ENVIRONMENT: &str = "tritonclient-2.73.0";
const PACKAGES: [&str; 1] = ["tritonclient[grpc,http]==2.73.0"];

#[test]
fn tritons_clients_work_unchanged_over_grpc_and_http() {
    let python = match python::with_packages(ENVIRONMENT, &PACKAGES) {
        Ok(python) => python,
        Err(error) => {
            // Not by a macro, whose output a test that passes does not show.
            let line = format!("SKIPPED: no tritonclient here, it is not tried: {error}\n");
            let _ = std::io::stderr().write_all(line.as_bytes());
            return;
        }
    };
    let world = World::new(1);
    let mut inference = world.start(Service::Inference, "a");
    inference.ready();
    let ran = Command::new(python)
        .arg(SCRIPT)
        .arg(inference.address().to_string())
        .args([&world.pipeline, "diabetes-forest"])
        .output()
        .expect("Python runs");
    let output = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{output}");
}
