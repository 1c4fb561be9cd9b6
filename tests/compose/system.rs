//! One run of compose.yaml, under a project name of its own.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tempfile::TempDir;

use crate::{
    PATIENCE,
    harness::{eventually_or_show, http, world::World},
};

const fn local(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

pub const INGEST: SocketAddr = local(7001);
pub const INFERENCE: SocketAddr = local(7003);
pub const RESULTS: SocketAddr = local(7004);
pub const JAEGER: SocketAddr = local(16686);
const DOORS: [SocketAddr; 4] = [INGEST, local(7002), INFERENCE, RESULTS];
const BOOTSTRAP: &str = "127.0.0.1:9092";
/// Containers beside those of compose.yaml.
const WRONG: &str = "quadrille-test-wrong-model";
const DOOR: &str = "quadrille-test-door";
const PROJECT: &str = "quadrille-test";
/// Of new topics, by `quadrille topics create`.
const PARTITIONS: i32 = 8;

/// The ports are the host's: one system at a time.
static ONE: Mutex<()> = Mutex::new(());

pub struct System {
    options: Vec<String>,
    _one: MutexGuard<'static, ()>,
}

impl System {
    /// Built, started, ready behind the load balancer; without the demo, whose records are nobody's.
    pub fn up(options: &[&str]) -> Self {
        let system = System {
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            _one: ONE.lock().unwrap_or_else(PoisonError::into_inner),
        };
        system.compose(&["up", "--build", "--detach", "--scale", "demo=0"]);
        for door in DOORS {
            eventually_or_show(
                "the service is ready",
                PATIENCE,
                || match http::try_request(door, "GET", "/readyz", &[], b"") {
                    Some((200, _)) => Ok(()),
                    other => Err(format!("{door}: {other:?}")),
                },
            );
        }
        system
    }

    pub fn world(&self) -> World {
        World {
            pipeline: "diabetes".to_owned(),
            bootstrap: BOOTSTRAP.to_owned(),
            partitions: PARTITIONS,
            database_url: String::new(),
            folder: TempDir::new().expect("a folder"),
            model: PathBuf::new(),
        }
    }

    /// Runs `docker compose`; returns what it printed.
    #[track_caller]
    pub fn compose(&self, args: &[&str]) -> String {
        let mut command = Command::new("docker");
        command.arg("compose").args(&self.options);
        command.args(["--project-name", PROJECT, "--progress", "plain"]);
        run(command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")))
    }

    /// A second model of the pipeline's, and a replica of inference that serves it beside the others.
    pub fn add_wrong_model(&self) {
        let paths = [
            "--pipeline=/etc/quadrille/pipelines/diabetes.toml",
            "--data=/usr/local/share/quadrille/data/pima.csv",
            "--algorithm=random-forest",
            "--model-version=2",
            "--out=/models/wrong",
        ];
        self.compose(&[&["run", "--rm", "--no-deps", "train", "train"], &paths[..]].concat());
        let wrong = ["--name", WRONG, "--env", "QUADRILLE_MODEL=/models/wrong"];
        let run = ["run", "--detach", "--no-deps", "--use-aliases"];
        self.compose(&[&run, &wrong[..], &["inference"]].concat());
    }

    /// A load balancer of inference with another configuration, until the guard is dropped.
    pub fn door(&self, config: &str) -> Door {
        let config = format!("{}/deploy/haproxy/{config}", env!("CARGO_MANIFEST_DIR"));
        let mount = format!("{config}:/usr/local/etc/haproxy/haproxy.cfg:ro");
        let network = format!("{PROJECT}_default");
        docker(&[
            "run",
            "--detach",
            "--rm",
            "--name",
            DOOR,
            "--network",
            &network,
            "--volume",
            &mount,
            "--publish",
            "127.0.0.1::7003",
            "haproxy:3.0",
        ]);
        let published = docker(&["port", DOOR, "7003"]);
        Door(published.trim().parse().expect("an address"))
    }

    /// Replicas of services; those that run already stay.
    pub fn scale(&self, replicas: &[(&str, u32)]) {
        let scales = replicas.iter().map(|(service, n)| format!("{service}={n}"));
        let scales: Vec<String> = scales.collect();
        let mut args = vec!["up", "--detach", "--no-recreate", "--no-deps"];
        for scale in &scales {
            args.extend(["--scale", scale]);
        }
        args.extend(replicas.iter().map(|(service, _)| *service));
        self.compose(&args);
    }

    fn containers(&self, service: &str) -> Vec<String> {
        let ids = self.compose(&["ps", "--quiet", service]);
        ids.split_whitespace().map(str::to_owned).collect()
    }

    /// SIGTERM, a start, and the next one when it is healthy again.
    pub fn restart_one_by_one(&self, service: &str) {
        for container in self.containers(service) {
            docker(&["restart", "--time", "30", &container]);
            healthy(&container);
        }
    }

    /// Waits until all replicas are healthy.
    pub fn settle(&self, service: &str) {
        for container in self.containers(service) {
            healthy(&container);
        }
    }

    /// SIGKILL to the first replica.
    pub fn kill(&self, service: &str) {
        let containers = self.containers(service);
        let first = containers.first().expect("a replica runs");
        docker(&["kill", first]);
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What the containers said is the only trace of what went wrong.
            println!("{}", self.compose(&["logs", "--no-color", "--tail", "60"]));
        }
        // There is one in one test only.
        let _ = Command::new("docker")
            .args(["rm", "--force", WRONG])
            .output();
        self.compose(&["down", "--volumes", "--timeout", "10"]);
    }
}

/// Another load balancer's address.
pub struct Door(pub SocketAddr);

impl Drop for Door {
    fn drop(&mut self) {
        docker(&["rm", "--force", DOOR]);
    }
}

fn docker(args: &[&str]) -> String {
    run(Command::new("docker").args(args))
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().expect("docker runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn healthy(container: &str) {
    eventually_or_show("the container is healthy", PATIENCE, || {
        let state = docker(&["inspect", "--format", "{{.State.Health.Status}}", container]);
        (state.trim() == "healthy").then_some(()).ok_or(state)
    });
}
