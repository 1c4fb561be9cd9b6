//! A collector that takes spans and forgets them.

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use quadrille_telemetry::{Registry, Tracing, traces::Sampling};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

struct Nowhere;

#[tonic::async_trait]
impl TraceService for Nowhere {
    async fn export(
        &self,
        _: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

pub struct Sink {
    runtime: Runtime,
    endpoint: String,
}

impl Sink {
    pub fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let server = Server::builder().add_service(TraceServiceServer::new(Nowhere));
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(Sink { runtime, endpoint })
    }

    /// Traces what its sender sampled.
    pub fn tracing(&self, registry: &Registry) -> anyhow::Result<Tracing> {
        let sampling = Sampling::parse("parentbased_always_on", "");
        let sampling = sampling.map_err(anyhow::Error::msg)?;
        let _runtime = self.runtime.enter();
        Tracing::to(&self.endpoint, "bench", "bench", sampling, registry)
            .map_err(anyhow::Error::msg)
    }
}
