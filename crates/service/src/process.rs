//! The process around a service: logs, runtime, signals, exit code.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use quadrille_telemetry::logs;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Error;

/// Invalid settings: `EX_USAGE` of sysexits.
const EXIT_CONFIG: u8 = 64;

/// Resolves at the first SIGTERM or SIGINT; the second one exits the process immediately. They are listened for from this call on, not
/// only once somebody waits: one that comes while the service starts would end it as it stands. Within a runtime.
pub fn shutdown_signal() -> impl Future<Output = ()> + Send + 'static {
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    first_of(signals)
}

async fn first_of(signals: (io::Result<Signal>, io::Result<Signal>)) {
    let (mut terminate, mut interrupt) = match signals {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signal handlers could not be installed; only SIGKILL ends the process");
            return std::future::pending().await;
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("draining; a second signal exits immediately");
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("second signal; exiting immediately");
        std::process::exit(1);
    });
}

/// If standard error is closed, there is nowhere to report to.
fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "error: {message}");
}

/// The exit code of a result: 0 drained, 64 bad configuration, 1 anything else.
pub fn exit_code(result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Config(message)) => {
            complain(&message);
            ExitCode::from(EXIT_CONFIG)
        }
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Parses the command line, sets up logs and the runtime, runs `main` and turns its end into an exit code.
pub fn run_to_exit<A, Fut>(main: impl FnOnce(A) -> Fut) -> ExitCode
where
    A: Parser,
    Fut: Future<Output = Result<(), Error>>,
{
    run_to_exit_logging(logs::DEFAULT_FILTER, main)
}

/// As [`run_to_exit`], with another filter of the log where `RUST_LOG` is not set.
pub fn run_to_exit_logging<A, Fut>(filter: &str, main: impl FnOnce(A) -> Fut) -> ExitCode
where
    A: Parser,
    Fut: Future<Output = Result<(), Error>>,
{
    let args = match A::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Printing fails only if the reader is gone.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(EXIT_CONFIG)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    if let Err(error) = logs::init(filter) {
        return exit_code(Err(Error::Config(error)));
    }
    match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            let result = runtime.block_on(main(args));
            // Blocked threads (a DNS lookup, an unreachable broker) do not hold up the exit.
            runtime.shutdown_background();
            exit_code(result)
        }
        Err(error) => exit_code(Err(Error::Failed(format!("no runtime: {error}")))),
    }
}
