//! A server process that cannot outlive this one, even if this one is killed with `kill -9`.
//!
//! A guard, a few lines of shell, reads our pipe. The server's process tells it its id before it
//! becomes the server, so there is no moment at which a server runs unguarded. When the pipe closes,
//! because we close it or because we are gone, the guard stops the server and removes its folder.
//! Both are in process groups of their own: Ctrl-C in a terminal does not reach them, and services
//! can drain first.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::last_lines;
use crate::{Error, patience};

/// $1: the signal, $2: the folder to remove, if any. After 5 s the server is killed.
const GUARD: &str = r#"
trap '' HUP INT TERM
pid=
while read -r order value; do
    case $order in
        run) pid=$value ;;
        idle) pid= ;;
    esac
done
if [ -n "$pid" ] && kill -s "$1" "$pid" 2>/dev/null; then
    n=0
    while kill -s 0 "$pid" 2>/dev/null && [ $n -lt 100 ]; do sleep 0.05; n=$((n + 1)); done
    kill -s KILL "$pid" 2>/dev/null
fi
if [ -n "$2" ]; then
    n=0
    until rm -rf -- "$2" 2>/dev/null || [ $n -ge 100 ]; do sleep 0.05; n=$((n + 1)); done
fi
"#;

/// Standard output is the guard's pipe until the server takes over.
const BECOME_SERVER: &str = r#"echo "run $$" && exec "$@" >&2"#;

/// How long a server may take to shut down before it is killed.
const STOP_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Interrupt,
    Kill,
    Quit,
    Terminate,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "INT",
            Self::Kill => "KILL",
            Self::Quit => "QUIT",
            Self::Terminate => "TERM",
        }
    }
}

/// What to run.
pub(crate) struct Launch {
    pub name: &'static str,
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub folder: PathBuf,
    /// Takes standard output and error.
    pub log: PathBuf,
    /// Another user and group to run as.
    pub user: Option<u32>,
}

/// Why a launch failed.
pub(crate) enum Failure {
    /// Its port was taken in the meantime: worth another try.
    PortClash(Error),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::PortClash(error) | Failure::Other(error) => error,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Guarded {
    guard: Child,
    /// Some until the end.
    orders: Option<ChildStdin>,
    server: Option<Child>,
    last_signal: Signal,
}

impl Guarded {
    /// `last_signal` ends the server when this is dropped or its owner dies; `temporary` is removed then.
    pub(crate) fn new(last_signal: Signal, temporary: Option<&Path>) -> Result<Self, Error> {
        let guard = Command::new("sh")
            .args(["-c", GUARD, "quadrille-guard", last_signal.name()])
            .arg(temporary.unwrap_or(Path::new("")))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        match guard {
            Ok(mut guard) => Ok(Self {
                orders: guard.stdin.take(),
                guard,
                server: None,
                last_signal,
            }),
            Err(error) => {
                if let Some(folder) = temporary {
                    let _ = fs::remove_dir_all(folder);
                }
                Err(Error::io("start a guard with", Path::new("sh"))(error))
            }
        }
    }

    /// Starts the server, and waits until it is ready or has failed.
    pub(crate) fn start(
        &mut self,
        launch: &Launch,
        patience: Duration,
        mut is_ready: impl FnMut(u32) -> bool,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        let log_start = fs::metadata(&launch.log).map_or(0, |log| log.len());
        self.spawn(launch)?;
        let outcome = patience::until(started + patience, || match self.poll() {
            Some(status) => Some(Err(status)),
            None => is_ready(self.pid()?).then_some(Ok(())),
        });
        let status = match outcome {
            Some(Ok(())) => return Ok(()),
            Some(Err(status)) => Some(status),
            None => None,
        };
        self.end(Signal::Kill);
        let log = read_from(&launch.log, log_start);
        let server = launch.name;
        Err(match status {
            None => Failure::Other(Error::Late {
                server,
                waited_s: patience.as_secs(),
                log: last_lines(&log),
            }),
            Some(status) => {
                let error = Error::Ended {
                    server,
                    status: status.to_string(),
                    log: last_lines(&log),
                };
                if log.contains("Address already in use") {
                    Failure::PortClash(error)
                } else {
                    Failure::Other(error)
                }
            }
        })
    }

    fn spawn(&mut self, launch: &Launch) -> Result<(), Error> {
        let failed = |action| Error::io(action, &launch.log);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&launch.log)
            .map_err(failed("open"))?;
        let orders = self
            .orders
            .as_ref()
            .map(|pipe| pipe.as_fd().try_clone_to_owned());
        let Some(orders) = orders else { return Ok(()) };
        let mut command = Command::new("sh");
        command
            .args(["-c", BECOME_SERVER, "sh"])
            .arg(&launch.program)
            .args(&launch.args)
            .current_dir(&launch.folder)
            .stdin(Stdio::null())
            .stdout(orders.map_err(failed("prepare the guard for"))?)
            .stderr(log)
            .process_group(0);
        if let Some(user) = launch.user {
            command.uid(user).gid(user);
        }
        let server = command
            .spawn()
            .map_err(Error::io("start", &launch.program))?;
        self.server = Some(server);
        Ok(())
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// Stops the server and returns when it is gone; a no-op if it is not running.
    pub(crate) fn end(&mut self, signal: Signal) {
        let Some(pid) = self.pid() else { return };
        if self.poll().is_none() && signal != Signal::Kill {
            send(signal, pid);
            let _ = patience::until(Instant::now() + STOP_MAX, || self.poll());
        }
        if let Some(mut server) = self.server.take() {
            // Harmless if it has ended: we have not reaped it, so its id is not reused yet.
            let _ = server.kill();
            let _ = server.wait();
        }
        if let Some(orders) = &mut self.orders {
            let _ = orders.write_all(b"idle\n");
        }
    }

    /// Its exit status once it has ended.
    fn poll(&mut self) -> Option<ExitStatus> {
        self.server.as_mut()?.try_wait().ok().flatten()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.end(self.last_signal);
        // The guard sees the end of its input, removes the folder and goes.
        drop(self.orders.take());
        let _ = self.guard.wait();
    }
}

fn send(signal: Signal, pid: u32) {
    // Without unsafe code there is no kill(2); if the shell fails the server is killed after the wait.
    let _ = Command::new("sh")
        .args(["-c", r#"kill -s "$1" "$2""#, "sh", signal.name()])
        .arg(pid.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

fn read_from(path: &Path, start: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = fs::File::open(path) {
        let _ = file.seek(SeekFrom::Start(start));
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
