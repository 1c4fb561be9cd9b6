//! A collector that takes spans and forgets them.

use std::{
    io::{BufRead, BufReader, sink, stdin},
    process::{Child, Command, Stdio},
};

use anyhow::Context;
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

/// Serves in this process until standard input ends; says its address first.
pub fn serve() -> anyhow::Result<()> {
    let runtime = Runtime::new()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("http://{}", listener.local_addr()?);
        let server = Server::builder().add_service(TraceServiceServer::new(Nowhere));
        let ended = tokio::task::spawn_blocking(|| std::io::copy(&mut stdin(), &mut sink()));
        let incoming = TcpListenerStream::new(listener);
        let served = server.serve_with_incoming_shutdown(incoming, async {
            let _ = ended.await;
        });
        Ok(served.await?)
    })
}

/// A collector in a process of its own: what it costs is not the stage's.
pub struct Sink {
    runtime: Runtime,
    endpoint: String,
    process: Child,
}

impl Sink {
    pub fn start() -> anyhow::Result<Self> {
        // Carries the exporter's connection.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let mut process = Command::new(std::env::current_exe()?)
            .arg("sink")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut endpoint = String::new();
        let said = process.stdout.take().context("its output")?;
        BufReader::new(said).read_line(&mut endpoint)?;
        Ok(Sink {
            runtime,
            endpoint: endpoint.trim().to_owned(),
            process,
        })
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

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
