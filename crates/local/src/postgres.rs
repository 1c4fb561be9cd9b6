//! One PostgreSQL server with a fresh, empty database, for tests. Committed data survives a `kill`; it does not survive a power
//! failure (`fsync=off`), nor the end of this process.

use std::env::consts::{ARCH, OS};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::succeeded;
use crate::guarded::{Failure, Guarded, Launch, Signal};
use crate::scratch::{self, SeenBy};
use crate::{Error, cache, maven, port};

const NAME: &str = "PostgreSQL";
const VERSION: &str = "17.5.0";
const POM: &str = include_str!("postgres/pom.xml");

/// PostgreSQL refuses to run as root. On Linux this is `nobody`.
const NOBODY: u32 = 65_534;

const START_MAX: Duration = Duration::from_secs(60);
const STARTS_MAX: u32 = 5;

const SETTINGS: [&str; 6] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "fsync=off",
    "full_page_writes=off",
    "max_connections=200",
    "dynamic_shared_memory_type=mmap", // in the data folder, so nothing is left in /dev/shm
];

/// A server, running or stopped. Dropping it stops it and removes its data.
#[derive(Debug)]
pub struct Postgres {
    // Declared first: ends the server and removes its folder.
    process: Guarded,
    programs: PathBuf,
    folder: PathBuf,
    user: Option<u32>,
    port: u16,
    url: String,
}

impl Postgres {
    /// Downloads PostgreSQL if it is not in the cache yet, starts it and returns when it responds.
    pub fn start() -> Result<Self, Error> {
        let is_root = scratch::effective_user()? == scratch::ROOT;
        let (seen_by, user) = if is_root {
            (SeenBy::Everyone, Some(NOBODY))
        } else {
            (SeenBy::Owner, None)
        };
        let programs = install(seen_by)?.join("bin");
        let folder = scratch::create(&scratch::base(seen_by), "postgres")?;
        // SIGQUIT: at once, but its own processes and shared memory go with it.
        let process = Guarded::new(Signal::Quit, Some(&folder))?;
        let mut postgres = Self {
            process,
            programs,
            folder,
            user,
            port: 0,
            url: String::new(),
        };
        postgres.create_database()?;
        postgres.launch(Self::choose_port)?;
        Ok(postgres)
    }

    /// `postgres://postgres@127.0.0.1:<port>/postgres`; no password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the server's first process; `None` while it is stopped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Shuts down gracefully, closing open connections; the data stays for a `restart`.
    pub fn stop(&mut self) {
        self.process.end(Signal::Interrupt);
    }

    /// Kills all its processes without a checkpoint (an "immediate shutdown"): the next start recovers as after a
    /// crash. The data stays for a `restart`.
    pub fn kill(&mut self) {
        self.process.end(Signal::Quit);
    }

    /// Starts again with the same address and data, stopping first if it runs.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.stop();
        self.launch(|_| Ok(()))
    }

    fn create_database(&self) -> Result<(), Error> {
        if let Some(user) = self.user {
            chown(&self.folder, Some(user), Some(user))
                .map_err(Error::io("give to nobody", &self.folder))?;
        }
        let mut initdb = Command::new(self.programs.join("initdb"));
        initdb
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8"])
            .args(["--locale=C", "--no-sync", "--no-instructions", "--pgdata"])
            .arg(self.data())
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        if let Some(user) = self.user {
            initdb.uid(user).gid(user);
        }
        output_of("initdb", &mut initdb)
    }

    fn launch(&mut self, on_clash: fn(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        let mut starts = 0;
        if self.port == 0 {
            self.choose_port()?;
        }
        loop {
            starts += 1;
            match self.start_once() {
                Err(Failure::PortClash(_)) if starts < STARTS_MAX => on_clash(self)?,
                outcome => return outcome.map_err(Error::from),
            }
        }
    }

    fn choose_port(&mut self) -> Result<(), Error> {
        self.port = port::free(1)?[0];
        self.url = format!("postgres://postgres@127.0.0.1:{}/postgres", self.port);
        Ok(())
    }

    fn start_once(&mut self) -> Result<(), Failure> {
        let mut args = vec!["-D".into(), self.data().into_os_string()];
        args.extend(["-p".into(), self.port.to_string().into()]);
        args.extend(
            SETTINGS
                .iter()
                .flat_map(|setting| ["-c".into(), setting.into()]),
        );
        let launch = Launch {
            name: NAME,
            program: self.programs.join("postgres"),
            args,
            folder: self.folder.clone(),
            log: self.folder.join("postgres.log"),
            user: self.user,
        };
        let status = self.data().join("postmaster.pid");
        self.process
            .start(&launch, START_MAX, |pid| says_ready(&status, pid))
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }
}

/// As `pg_ctl --wait` does it: the file starts with the process id and ends with the state. Unlike an
/// answer on the port it cannot come from another server.
fn says_ready(status: &Path, pid: u32) -> bool {
    let status = fs::read_to_string(status).unwrap_or_default();
    let mut lines = status.lines().map(str::trim);
    lines.next() == Some(&pid.to_string()) && lines.next_back() == Some("ready")
}

fn install(seen_by: SeenBy) -> Result<PathBuf, Error> {
    let platform = platform()?;
    cache::install(&format!("postgresql-{VERSION}"), seen_by, |folder| {
        tracing::info!(
            version = VERSION,
            "fetching PostgreSQL from Maven Central (15 MB, once)"
        );
        let pom = POM
            .replace("POSTGRES_VERSION", VERSION)
            .replace("PLATFORM", platform);
        maven::run(&format!("PostgreSQL {VERSION}"), &pom, "package", folder)?;
        let archives = ["postgres.tar", "postgres.tar.xz"].map(|name| folder.join(name));
        let mut tar = Command::new("tar");
        // As us, not as the archive's owner.
        tar.arg("-xof").arg(&archives[0]).arg("-C").arg(folder);
        output_of("tar", tar.stdin(Stdio::null()))?;
        for archive in &archives {
            fs::remove_file(archive).map_err(Error::io("remove", archive))?;
        }
        open_to_all(folder)
    })
}

/// Whatever the umask was: the server may run as another user.
fn open_to_all(folder: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(folder).map_err(Error::io("list", folder))?;
    for entry in entries {
        let path = entry.map_err(Error::io("list", folder))?.path();
        let found = fs::symlink_metadata(&path).map_err(Error::io("look at", &path))?;
        if found.is_symlink() {
            continue;
        }
        let mode = found.permissions().mode();
        // What the owner may read and execute, all may.
        let shared = mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6;
        fs::set_permissions(&path, fs::Permissions::from_mode(shared))
            .map_err(Error::io("open to all", &path))?;
        if found.is_dir() {
            open_to_all(&path)?;
        }
    }
    Ok(())
}

fn platform() -> Result<&'static str, Error> {
    match (OS, ARCH) {
        ("linux", "x86_64") => Ok("linux-amd64"),
        ("linux", "aarch64") => Ok("linux-arm64v8"),
        ("macos", "x86_64") => Ok("darwin-amd64"),
        ("macos", "aarch64") => Ok("darwin-arm64v8"),
        _ => Err(Error::Unsupported {
            what: NAME,
            os: OS,
            arch: ARCH,
        }),
    }
}

fn output_of(program: &'static str, command: &mut Command) -> Result<(), Error> {
    let ran = command
        .output()
        .map_err(Error::io("run", Path::new(command.get_program())))?;
    succeeded(program, &ran)
}
