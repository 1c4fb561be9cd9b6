//! Logs: to standard error, readable on a terminal and JSON otherwise; and over OTLP, with the trace they
//! belong to.

use std::{
    io::{IsTerminal, stderr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{LogExporter, WithExportConfig};
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, fmt, layer::Context, layer::SubscriberExt, registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::otlp::{self, Signal};

/// The default filter of a service, if `RUST_LOG` is not set.
pub const DEFAULT_FILTER: &str = "info,librdkafka=warn,sqlx=warn";
/// How long the process waits at its end for the last lines to be exported.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(2);
/// Targets that are not exported: lines of the export itself would be exported again, for ever.
const EXPORTERS_OWN: [&str; 5] = ["h2", "hyper", "opentelemetry", "tonic", "tower"];

type Bridge = OpenTelemetryTracingBridge<SdkLoggerProvider, SdkLogger>;

/// The process has one subscriber, so one export; the first service to start it names it.
static EXPORT: OnceLock<Bridge> = OnceLock::new();

/// Passes events to the export, once there is one.
struct Exported;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Exported {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let target = event.metadata().target();
        let module = target.split("::").next().unwrap_or(target);
        if let Some(bridge) = EXPORT.get()
            && !EXPORTERS_OWN.iter().any(|own| module.starts_with(own))
        {
            bridge.on_event(event, context);
        }
    }
}

/// Installs the process's subscriber. `RUST_LOG` selects what is shown, or else `default_filter`.
///
/// # Errors
/// `RUST_LOG` does not parse; the message says where. A second call changes nothing.
pub fn init(default_filter: &str) -> Result<(), String> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.trim().is_empty() => {
            EnvFilter::try_new(&text).map_err(|error| format!("RUST_LOG {text:?}: {error}"))?
        }
        _ => EnvFilter::new(default_filter),
    };
    let registry = tracing_subscriber::registry().with(filter).with(Exported);
    let installed = if stderr().is_terminal() {
        registry
            .with(fmt::layer().with_writer(stderr).with_target(false))
            .try_init()
    } else {
        registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    // Only the current span: ours are not nested.
                    .with_span_list(false)
                    .with_writer(stderr),
            )
            .try_init()
    };
    // A second initialisation (tests, several services in one process) keeps the first.
    drop(installed);
    Ok(())
}

/// How many lines `work` logs on this thread, at whatever level. For tests.
pub fn count_lines(work: impl FnOnce()) -> usize {
    struct Lines(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Lines {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    let lines = Arc::<AtomicUsize>::default();
    let counting = tracing_subscriber::registry().with(Lines(Arc::clone(&lines)));
    tracing::subscriber::with_default(counting, work);
    lines.load(Ordering::Relaxed)
}

/// A running export; None if no collector is set, or another service of this process already exports.
#[derive(Default)]
pub struct Export(Option<SdkLoggerProvider>);

impl Export {
    /// Configured by the `OTEL_*` variables. Call it within a tokio runtime, which runs the connection.
    ///
    /// # Errors
    /// Names the variable and what it may be.
    pub fn from_env(service: &str, instance: &str) -> Result<Self, String> {
        let Some(endpoint) = otlp::collector(Signal::Logs)? else {
            return Ok(Export::default());
        };
        let exporter = LogExporter::builder().with_tonic();
        let exporter = exporter
            .with_endpoint(&endpoint)
            .build()
            .map_err(|error| otlp::wrong_endpoint(&endpoint, error))?;
        let provider = SdkLoggerProvider::builder()
            .with_resource(otlp::resource(service, instance))
            .with_batch_exporter(exporter)
            .build();
        match EXPORT.set(OpenTelemetryTracingBridge::new(&provider)) {
            Ok(()) => Ok(Export(Some(provider))),
            Err(_) => Ok(Export::default()),
        }
    }

    /// Flushes the last lines to the collector, for two seconds at most. Blocks.
    pub fn shutdown(&self) {
        if let Some(provider) = &self.0 {
            let _ = provider.shutdown_with_timeout(SHUTDOWN_WITHIN);
        }
    }
}
