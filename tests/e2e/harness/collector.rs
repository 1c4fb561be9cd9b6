//! An OTLP receiver: takes spans, metrics and logs as a collector does, and draws traces as text.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{
            ExportLogsServiceRequest, ExportLogsServiceResponse,
            logs_service_server::{LogsService, LogsServiceServer},
        },
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::Metric,
    resource::v1::Resource,
    trace::v1::Span,
};
use quadrille_proto::Service;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::{PATIENCE, eventually_or_show, process::Process, world::World};

/// A span and the service that made it.
#[derive(Debug, Clone)]
pub struct Received {
    pub service: String,
    pub span: Span,
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        other => format!("{other:?}"),
    }
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let pair = |kv: &KeyValue| {
        let value = kv.value.as_ref().and_then(|v| v.value.as_ref());
        (kv.key.clone(), text(value))
    };
    list.iter().map(pair).collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Received {
    pub fn attributes(&self) -> BTreeMap<String, String> {
        attributes(&self.span.attributes)
    }

    pub fn attribute(&self, key: &str) -> Option<String> {
        self.attributes().remove(key)
    }

    pub fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }
}

#[derive(Default)]
struct All {
    spans: Vec<Received>,
    /// Of each service, by name, as last pushed.
    metrics: BTreeMap<(String, String), Metric>,
    logs: Vec<(String, LogRecord)>,
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<All>>);

impl Sink {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn service_of(resource: Option<Resource>) -> String {
    let about = resource.map(|r| attributes(&r.attributes));
    let service = about.unwrap_or_default().remove("service.name");
    service.unwrap_or_default()
}

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let service = service_of(resource.resource);
            for span in resource.scope_spans.into_iter().flat_map(|s| s.spans) {
                self.lock().spans.push(Received {
                    service: service.clone(),
                    span,
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Sink {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for resource in request.into_inner().resource_metrics {
            let service = service_of(resource.resource);
            for metric in resource.scope_metrics.into_iter().flat_map(|s| s.metrics) {
                let key = (service.clone(), metric.name.clone());
                self.lock().metrics.insert(key, metric);
            }
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Sink {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        for resource in request.into_inner().resource_logs {
            let service = service_of(resource.resource);
            for record in resource.scope_logs.into_iter().flat_map(|s| s.log_records) {
                self.lock().logs.push((service.clone(), record));
            }
        }
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

/// A collector of one test.
pub struct Collector {
    sink: Sink,
    pub endpoint: String,
    _runtime: Runtime,
}

impl Collector {
    pub fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let sink = Sink::default();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let incoming = TcpListenerStream::new(listener);
        runtime.spawn(
            Server::builder()
                .add_service(TraceServiceServer::new(sink.clone()))
                .add_service(MetricsServiceServer::new(sink.clone()))
                .add_service(LogsServiceServer::new(sink.clone()))
                .serve_with_incoming(incoming),
        );
        Collector {
            sink,
            endpoint,
            _runtime: runtime,
        }
    }

    /// All four services, exporting here.
    pub fn start_all(&self, world: &World, sampler: (&str, &str)) -> Vec<Process> {
        start_all(world, &self.endpoint, sampler)
    }

    pub fn spans(&self) -> Vec<Received> {
        self.sink.lock().spans.clone()
    }

    /// A service's metric as last pushed.
    pub fn metric(&self, service: &str, name: &str) -> Option<Metric> {
        let key = (service.to_owned(), name.to_owned());
        self.sink.lock().metrics.get(&key).cloned()
    }

    /// The lines a service has logged.
    pub fn logs(&self, service: &str) -> Vec<LogRecord> {
        let all = self.sink.lock();
        let own = all.logs.iter().filter(|(from, _)| from == service);
        own.map(|(_, record)| record.clone()).collect()
    }

    /// The spans of a trace once `complete` says that they are all there.
    pub fn trace(&self, id: &str, complete: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        eventually_or_show("a complete trace", PATIENCE, || {
            let mut spans = self.spans();
            spans.retain(|received| received.trace() == id);
            match complete(&spans) {
                true => Ok(spans),
                false => Err(draw(&spans)),
            }
        })
    }
}

pub fn start_all(world: &World, endpoint: &str, sampler: (&str, &str)) -> Vec<Process> {
    let start = |stage| {
        world
            .launch(stage, "a")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env("OTEL_TRACES_SAMPLER", sampler.0)
            .env("OTEL_TRACES_SAMPLER_ARG", sampler.1)
            .env("OTEL_METRIC_EXPORT_INTERVAL", "200")
            .start()
    };
    let mut services: Vec<Process> = Service::ALL.iter().copied().map(start).collect();
    for service in &mut services {
        service.ready();
    }
    services
}

/// A trace as an indented tree, siblings by name.
pub fn draw(spans: &[Received]) -> String {
    let known: Vec<&[u8]> = spans.iter().map(|r| &r.span.span_id[..]).collect();
    let mut lines = Vec::new();
    let is_root = |r: &&Received| !known.contains(&&r.span.parent_span_id[..]);
    let mut roots: Vec<&Received> = spans.iter().filter(is_root).collect();
    roots.sort_by_key(|r| (r.span.name.clone(), r.span.start_time_unix_nano));
    for root in roots {
        below(spans, root, 0, &mut lines);
    }
    lines.join("\n")
}

fn below(spans: &[Received], at: &Received, depth: usize, lines: &mut Vec<String>) {
    let error = at.attribute("error.type").map(|class| format!(" !{class}"));
    let indent = "  ".repeat(depth);
    lines.push(format!(
        "{indent}{}: {}{}",
        at.service,
        at.span.name,
        error.unwrap_or_default()
    ));
    let mut children: Vec<&Received> = spans
        .iter()
        .filter(|r| r.span.parent_span_id == at.span.span_id)
        .collect();
    children.sort_by_key(|r| (r.span.name.clone(), r.span.start_time_unix_nano));
    for child in children {
        below(spans, child, depth + 1, lines);
    }
}
