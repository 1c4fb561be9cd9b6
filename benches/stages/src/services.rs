//! Services as the processes that users start.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use quadrille_proto::Service;

use crate::{broker::wait_until, cgroup::Cgroup, http};

const READY_WITHIN: Duration = Duration::from_secs(30);
const DRAINED_WITHIN: Duration = Duration::from_secs(20);

/// A service's process. Dropping it drains it.
pub struct Process {
    pub service: Service,
    child: Child,
    address: SocketAddr,
    /// From its start to its first `/readyz` 200.
    pub ready: Duration,
}

/// What a process is started with.
pub struct Start<'a> {
    pub service: Service,
    pub binaries: &'a Path,
    pub servers: &'a str,
    /// Of the pipeline's file and the model.
    pub folder: &'a Path,
    /// Beside the address, Kafka and the pipeline.
    pub arguments: &'a [String],
    pub cgroup: Option<&'a Cgroup>,
}

/// Joins a cgroup and becomes the program.
const JOIN: &str = r#"echo $$ > "$0" && exec "$@""#;

impl Process {
    /// `arguments` beside the address, Kafka and the pipeline of `folder`.
    pub fn start(
        service: Service,
        binaries: &Path,
        servers: &str,
        folder: &Path,
        arguments: &[String],
    ) -> anyhow::Result<Self> {
        Self::launch(&Start {
            service,
            binaries,
            servers,
            folder,
            arguments,
            cgroup: None,
        })
    }

    pub fn launch(start: &Start<'_>) -> anyhow::Result<Self> {
        let Start {
            service,
            binaries,
            servers,
            folder,
            arguments,
            cgroup,
        } = *start;
        let address = free_address()?;
        let log = folder.join(format!("{}-{}.log", service.name(), address.port()));
        let program = binaries.join(service.name());
        let mut command = match cgroup {
            Some(cgroup) => {
                let mut command = Command::new("sh");
                command
                    .args(["-c", JOIN])
                    .arg(cgroup.members())
                    .arg(program);
                command
            }
            None => Command::new(program),
        };
        // What the caller's environment says is not what is measured.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("QUADRILLE_")) {
            command.env_remove(name);
        }
        command
            .env_remove("KAFKA_PROPERTIES")
            .arg(format!("--bootstrap-servers={servers}"))
            .arg(format!(
                "--pipeline={}",
                folder.join("bench.toml").display()
            ))
            .arg(format!("--listen={address}"))
            .args(arguments);
        match service {
            Service::Inference => {
                command.arg(format!("--model={}", folder.join("model").display()));
            }
            Service::Results => {
                let file = folder.join("results.db");
                command.arg(format!("--database-url=sqlite:{}", file.display()));
            }
            Service::Ingest | Service::Feature => {}
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        let since = Instant::now();
        let child = command.spawn().with_context(|| service.name())?;
        let mut process = Process {
            service,
            child,
            address,
            ready: Duration::ZERO,
        };
        process.ready = http::ready(address, since, READY_WITHIN).with_context(|| {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            format!("{} said:\n{log}", service.name())
        })?;
        Ok(process)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Records it has committed, by its own metrics.
    pub fn consumed(&self) -> anyhow::Result<u64> {
        Ok(self.metric("messaging_client_consumed_messages_total")? as u64)
    }

    /// The sum of all lines of a metric.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let (status, page) = http::get(self.address, "/metrics")?;
        ensure!(status == 200, "/metrics answers {status}");
        let lines = page.lines().filter(|line| line.starts_with(name));
        let value = |line: &str| line.rsplit_once(' ')?.1.parse::<f64>().ok();
        Ok(lines.filter_map(value).sum())
    }

    /// Without any warning.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        // The standard library sends no SIGTERM.
        let pid = self.pid().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        wait_until(
            "draining",
            DRAINED_WITHIN,
            Duration::from_millis(20),
            || Ok(self.child.try_wait()?.is_some()),
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{}: {error:#}; killed", self.service.name());
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// The folder of this program, with the services' binaries beside it, built if need be.
pub fn binaries() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own
        .parent()
        .context("a program lies in a folder")?
        .to_owned();
    let there = || {
        Service::ALL
            .iter()
            .all(|service| folder.join(service.name()).is_file())
    };
    let built = build(&folder);
    match built {
        Ok(()) if there() => Ok(folder),
        Ok(()) => bail!("the services' binaries are not in {}", folder.display()),
        Err(error) if there() => {
            eprintln!("measuring the binaries as they are, not built anew: {error:#}");
            Ok(folder)
        }
        Err(error) => Err(error),
    }
}

/// Does nothing where all is up to date.
fn build(folder: &Path) -> anyhow::Result<()> {
    ensure!(
        folder.ends_with("release"),
        "this is no release build; run with --release"
    );
    let target = folder.parent().context("no target folder")?;
    let status = Command::new("cargo")
        .args([
            "build",
            "--release",
            "--workspace",
            "--bins",
            "--quiet",
            "--target-dir",
        ])
        .arg(target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .status()
        .context("cargo")?;
    ensure!(status.success(), "the services do not build");
    Ok(())
}
