//! Metrics over OTLP: the content of `/metrics`, pushed to the collector at intervals.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::{
    tonic::{
        collector::metrics::v1::{
            ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient,
        },
        common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
        metrics::v1::{
            AggregationTemporality, Exemplar, Gauge, Histogram, HistogramDataPoint, Metric,
            NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, exemplar, metric,
            number_data_point,
        },
        resource::v1::Resource,
    },
    transform::common::tonic::ResourceAttributesWithSchema,
};
use tokio::sync::watch;
use tonic::{
    Request,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::{
    Registry,
    metrics::exposition::{self, Family, Labels, Sample},
    otlp::{self, Signal, variable},
};

/// `OTEL_METRIC_EXPORT_INTERVAL` where it is not set, milliseconds.
const EVERY_MS: u64 = 60_000;
/// How long the last push may take, at the end of the process.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(2);

/// OpenTelemetry's names of those labels that have one.
const ATTRIBUTES: [(&str, &str); 13] = [
    ("consumergroup", "messaging.consumer.group.name"),
    ("error_type", "error.type"),
    ("http_request_method", "http.request.method"),
    ("http_response_status_code", "http.response.status_code"),
    ("http_route", "http.route"),
    ("messaging_operation_name", "messaging.operation.name"),
    ("partition", "messaging.destination.partition.id"),
    ("pipeline", "quadrille.pipeline"),
    ("reason", "error.type"),
    ("rpc_method", "rpc.method"),
    ("rpc_response_status_code", "rpc.response.status_code"),
    ("rpc_system_name", "rpc.system.name"),
    ("topic", "messaging.destination.name"),
];

/// A running push; None if no collector is set.
#[derive(Default)]
pub struct Push(Option<(watch::Sender<bool>, tokio::task::JoinHandle<()>)>);

impl Push {
    /// Configured by the `OTEL_*` variables. Call it within a tokio runtime.
    ///
    /// # Errors
    /// Names the variable and what it may be.
    pub fn from_env(service: &str, instance: &str, registry: &Registry) -> Result<Self, String> {
        let every = match variable("OTEL_METRIC_EXPORT_INTERVAL") {
            text if text.is_empty() => EVERY_MS,
            text => match text.parse() {
                Ok(ms) if ms > 0 => ms,
                _ => {
                    return Err(format!(
                        "OTEL_METRIC_EXPORT_INTERVAL is {text:?}; it must be milliseconds, 1 or more"
                    ));
                }
            },
        };
        let Some(endpoint) = otlp::collector(Signal::Metrics)? else {
            return Ok(Push::default());
        };
        let headers = otlp::headers(Signal::Metrics)?;
        let channel = otlp::channel(&endpoint, Signal::Metrics)?;
        let resource = otlp::resource(service, instance);
        let source = Source {
            registry: registry.clone(),
            resource: ResourceAttributesWithSchema::from(&resource).attributes.0,
            since: now(),
        };
        let (stop, stopping) = watch::channel(false);
        let every = Duration::from_millis(every);
        let named = move |mut request: Request<()>| {
            *request.metadata_mut() = headers.clone();
            Ok(request)
        };
        let client = MetricsServiceClient::with_interceptor(channel, named);
        let task = tokio::spawn(push(client, source, every, stopping));
        Ok(Push(Some((stop, task))))
    }

    /// Pushes a last time, for two seconds at most.
    pub async fn shutdown(self) {
        if let Some((stop, task)) = self.0 {
            let _ = stop.send(true);
            let _ = tokio::time::timeout(SHUTDOWN_WITHIN, task).await;
        }
    }
}

async fn push<I: Interceptor>(
    mut client: MetricsServiceClient<InterceptedService<Channel, I>>,
    source: Source,
    every: Duration,
    mut stopping: watch::Receiver<bool>,
) {
    let mut failing = false;
    loop {
        let last = tokio::select! {
            () = tokio::time::sleep(every) => false,
            _ = stopping.wait_for(|stopping| *stopping) => true,
        };
        match client.export(source.request()).await {
            Ok(_) => failing = false,
            // Logged once, not every time: /metrics goes on, and the sums are complete when the collector is back.
            Err(status) if !failing => {
                failing = true;
                tracing::warn!(
                    error = status.message(),
                    "the collector did not accept metrics"
                );
            }
            Err(_) => {}
        }
        if last {
            return;
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_nanos() as u64
}

/// What is pushed, and its resource.
struct Source {
    registry: Registry,
    resource: Vec<KeyValue>,
    /// The start time of sums, in Unix nanoseconds.
    since: u64,
}

impl Source {
    fn request(&self) -> ExportMetricsServiceRequest {
        let times = Times {
            since: self.since,
            now: now(),
        };
        let text = self.registry.encode();
        let families = exposition::families(&text).into_iter();
        let metrics = families.filter_map(|family| {
            let name = self.registry.opentelemetry_name(family.name)?;
            times.metric(name, family)
        });
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(Resource {
                    attributes: self.resource.clone(),
                    ..Resource::default()
                }),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(InstrumentationScope {
                        name: "quadrille".to_owned(),
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                        ..InstrumentationScope::default()
                    }),
                    metrics: metrics.collect(),
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        }
    }
}

struct Times {
    since: u64,
    now: u64,
}

impl Times {
    fn metric(&self, name: &str, family: Family<'_>) -> Option<Metric> {
        let messaging = name.starts_with("messaging.");
        let cumulative = AggregationTemporality::Cumulative as i32;
        let data = match family.kind {
            "counter" => metric::Data::Sum(Sum {
                data_points: self.numbers(family.samples, messaging),
                aggregation_temporality: cumulative,
                is_monotonic: true,
            }),
            "gauge" => metric::Data::Gauge(Gauge {
                data_points: self.numbers(family.samples, messaging),
            }),
            "histogram" => metric::Data::Histogram(Histogram {
                data_points: self.histograms(family.samples, messaging),
                aggregation_temporality: cumulative,
            }),
            _ => return None,
        };
        let unit = match family.unit {
            "seconds" => "s",
            "bytes" => "By",
            other => other,
        };
        Some(Metric {
            name: name.to_owned(),
            description: family.help.to_owned(),
            unit: unit.to_owned(),
            data: Some(data),
            ..Metric::default()
        })
    }

    fn numbers(&self, samples: Vec<Sample<'_>>, messaging: bool) -> Vec<NumberDataPoint> {
        let points = samples.into_iter().filter_map(|sample| {
            Some(NumberDataPoint {
                value: Some(number_data_point::Value::AsDouble(
                    sample.value.parse().ok()?,
                )),
                attributes: attributes(sample.labels, messaging),
                start_time_unix_nano: self.since,
                time_unix_nano: self.now,
                ..NumberDataPoint::default()
            })
        });
        points.collect()
    }

    /// Prometheus's buckets are cumulative, OTLP's are not, and its last one, up to infinity, has no explicit bound.
    fn histograms(&self, samples: Vec<Sample<'_>>, messaging: bool) -> Vec<HistogramDataPoint> {
        let mut points: Vec<HistogramDataPoint> = Vec::new();
        let mut below = 0;
        for sample in samples {
            // The sum is the first sample of a series.
            if sample.suffix == "_sum" {
                below = 0;
                points.push(HistogramDataPoint {
                    sum: sample.value.parse().ok(),
                    attributes: attributes(sample.labels, messaging),
                    start_time_unix_nano: self.since,
                    time_unix_nano: self.now,
                    ..HistogramDataPoint::default()
                });
                continue;
            }
            let (Some(point), Ok(count)) = (points.last_mut(), sample.value.parse::<u64>()) else {
                continue;
            };
            if sample.suffix == "_count" {
                point.count = count;
                continue;
            }
            point.bucket_counts.push(count.saturating_sub(below));
            below = count;
            let bound = value(&sample.labels, "le").and_then(|le| le.parse::<f64>().ok());
            let bound = bound.filter(|bound| bound.is_finite());
            point.explicit_bounds.extend(bound);
            let exemplar = sample.exemplar.as_ref();
            point
                .exemplars
                .extend(exemplar.and_then(|e| self.exemplar(e)));
        }
        points
    }

    fn exemplar(&self, example: &exposition::Exemplar<'_>) -> Option<Exemplar> {
        let trace_id = value(&example.labels, "trace_id")?;
        Some(Exemplar {
            time_unix_nano: example.at.map_or(self.now, |at| (at * 1e9) as u64),
            trace_id: opentelemetry::TraceId::from_hex(trace_id)
                .ok()?
                .to_bytes()
                .to_vec(),
            value: Some(exemplar::Value::AsDouble(example.value)),
            ..Exemplar::default()
        })
    }
}

fn value<'a>(labels: &'a Labels<'_>, name: &str) -> Option<&'a str> {
    let found = labels.iter().find(|(label, _)| *label == name)?;
    Some(&found.1)
}

fn attributes(labels: Labels<'_>, messaging: bool) -> Vec<KeyValue> {
    let known = |name: &str| ATTRIBUTES.iter().find(|(label, _)| *label == name);
    let labels = labels.into_iter().filter(|(_, value)| !value.is_empty());
    let mut attributes: Vec<KeyValue> = labels
        .map(|(label, value)| match known(label) {
            Some((_, name)) => text(name, value),
            None => text(&format!("quadrille.{label}"), value),
        })
        .collect();
    if messaging {
        attributes.push(text("messaging.system", "kafka".to_owned()));
    }
    attributes
}

fn text(key: &str, value: String) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value)),
        }),
        ..KeyValue::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Committed, LoopMetrics};

    fn request() -> Vec<Metric> {
        let registry = Registry::default();
        let stage = LoopMetrics::register(&registry).stage("p", "quadrille.feature.p", "p.records");
        stage.committed(&Committed {
            records: 3,
            process: Duration::from_millis(3),
            trace: opentelemetry::TraceId::from_hex("0af7651916cd43dd8448eb211c80319c").ok(),
            ..Committed::default()
        });
        stage.lag(4, 17, Duration::from_millis(1_500));
        let source = Source {
            registry,
            resource: Vec::new(),
            since: 1,
        };
        let mut request = source.request();
        request
            .resource_metrics
            .remove(0)
            .scope_metrics
            .remove(0)
            .metrics
    }

    fn named(name: &str) -> Metric {
        let found = request().into_iter().find(|metric| metric.name == name);
        found.unwrap_or_else(|| panic!("{name} is pushed"))
    }

    fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
        let found = attributes.iter().find(|attribute| attribute.key == key)?;
        match found.value.as_ref()?.value.as_ref()? {
            any_value::Value::StringValue(value) => Some(value.clone()),
            _ => None,
        }
    }

    #[test]
    fn a_counter_is_a_monotonic_sum_by_opentelemetrys_name() {
        let Some(metric::Data::Sum(sum)) = named("messaging.client.consumed.messages").data else {
            panic!("a sum");
        };
        assert!(sum.is_monotonic);
        let point = &sum.data_points[0];
        assert_eq!(point.value, Some(number_data_point::Value::AsDouble(3.0)));
        let attribute = |key| attribute(&point.attributes, key);
        assert_eq!(attribute("messaging.system").as_deref(), Some("kafka"));
        assert_eq!(attribute("quadrille.pipeline").as_deref(), Some("p"));
    }

    #[test]
    fn a_gauge_keeps_its_unit_and_place() {
        let lag = named("quadrille.consumergroup.lag");
        assert_eq!(lag.unit, "s");
        let Some(metric::Data::Gauge(gauge)) = lag.data else {
            panic!("a gauge");
        };
        let point = &gauge.data_points[0];
        assert_eq!(point.value, Some(number_data_point::Value::AsDouble(1.5)));
        let partition = attribute(&point.attributes, "messaging.destination.partition.id");
        assert_eq!(partition.as_deref(), Some("4"));
    }

    #[test]
    fn a_histograms_buckets_count_what_is_in_them_and_show_a_trace() {
        let Some(metric::Data::Histogram(histogram)) = named("messaging.process.duration").data
        else {
            panic!("a histogram");
        };
        let point = &histogram.data_points[0];
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        assert_eq!((point.count, point.bucket_counts.iter().sum()), (1, 1));
        assert_eq!(
            point.bucket_counts[2], 1,
            "3 ms is above 2.5 and below 5 ms"
        );
        assert_eq!(point.exemplars.len(), 1);
    }
}
