//! A service as the process people run.

use std::{
    collections::BTreeMap,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use quadrille_proto::Service;

use super::{PATIENCE, eventually, http};

/// Tests of each service, for which Cargo builds its binary.
const OF_SERVICES: [&str; 3] = ["openapi", "refusals", "stage"];

/// The folder of the binaries under test. `cargo test` builds only the root package's: the services', and the examples, are
/// built here, once a run, unless QUADRILLE_TEST_SERVICES names a folder that has them. As dependencies of tests of the whole workspace: `cargo test --workspace` has built the same already,
/// while `cargo build` with other features would build nearly everything again.
pub fn binaries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        if let Some(folder) = std::env::var_os("QUADRILLE_TEST_SERVICES") {
            return folder.into();
        }
        let quadrille = PathBuf::from(env!("CARGO_BIN_EXE_quadrille"));
        let folder = quadrille
            .parent()
            .expect("a binary lies in a folder")
            .to_owned();
        let mut build = Command::new(env!("CARGO"));
        build.args(["test", "--quiet", "--no-run", "--workspace"]);
        build.args(OF_SERVICES.iter().flat_map(|test| ["--test", test]));
        build.args(["--example", "counter"]);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(
            build.status().is_ok_and(|status| status.success()),
            "the services build"
        );
        for stage in Service::ALL {
            let path = folder.join(stage.name());
            assert!(path.exists(), "{} is built", path.display());
        }
        folder
    })
}

/// How to start a service.
#[derive(Clone)]
pub struct Launch {
    pub binary: String,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub log: PathBuf,
}

impl Launch {
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn start(&self) -> Process {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a log file");
        let begins = log.metadata().expect("its size").len();
        let child = Command::new(binaries().join(&self.binary))
            .args(&self.args)
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        Process {
            child,
            launch: self.clone(),
            begins,
            started: Instant::now(),
            address: OnceLock::new(),
        }
    }
}

/// A running service; killed when dropped.
pub struct Process {
    child: Child,
    pub launch: Launch,
    /// Where its log begins in the file.
    begins: u64,
    pub started: Instant,
    address: OnceLock<SocketAddr>,
}

impl Process {
    /// What it has logged.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.launch.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes[(self.begins as usize).min(bytes.len())..]).into_owned()
    }

    /// What it has logged under this message.
    pub fn events(&self, message: &str) -> Vec<serde_json::Value> {
        let log = self.log();
        let events = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        events
            .filter(|event: &serde_json::Value| event["message"] == message)
            .collect()
    }

    /// SIGTERM; it drains.
    #[track_caller]
    pub fn drain(&mut self) {
        self.signal("TERM");
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "it drains:\n{}", self.log());
    }

    /// The address it says it listens on.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        *self.address.get_or_init(|| {
            eventually("the service logs its address", PATIENCE, || {
                let log = self.log();
                let (_, rest) = log.split_once("\"address\":\"")?;
                rest.split('"').next()?.parse().ok()
            })
        })
    }

    pub fn is_ready(&self) -> bool {
        http::try_request(self.address(), "GET", "/readyz", &[], b"")
            .is_some_and(|(status, _)| status == 200)
    }

    /// Waits until it is ready; returns how long that took from the start.
    #[track_caller]
    pub fn ready(&mut self) -> Duration {
        eventually("the service is ready", PATIENCE, || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!(
                    "{} ended with {status}:\n{}",
                    self.launch.binary,
                    self.log()
                );
            }
            self.is_ready().then(|| self.started.elapsed())
        })
    }

    /// The value of a metric whose line begins so.
    pub fn metric(&self, line: &str) -> Option<f64> {
        let (_, text) = http::try_request(self.address(), "GET", "/metrics", &[], b"")?;
        let found = text.lines().find(|l| l.starts_with(line))?;
        found.rsplit(' ').next()?.parse().ok()
    }

    /// CPU time so far, of all threads.
    pub fn cpu(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(&path).expect("a running process");
        // What the second field, the command's name in brackets, holds may be anything.
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let ticks: u64 = (fields.split_whitespace().skip(11).take(2))
            .map(|field| field.parse::<u64>().expect("ticks"))
            .sum();
        // A hundred a second, on every architecture Linux runs Rust on.
        Duration::from_millis(ticks * 10)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by name: TERM, INT, STOP, CONT.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "the signal is sent"
        );
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the service ends", PATIENCE, || {
            self.child.try_wait().expect("a child of ours")
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
