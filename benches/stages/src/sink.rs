//! A collector that takes spans and forgets them.

use std::{
    io::{BufRead, BufReader, sink, stdin},
    process::{Child, Command, Stdio},
};

use anyhow::Context;
use bytes::Buf;
use quadrille_telemetry::{Registry, Tracing, traces::Sampling};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, UnaryService},
    transport::Server,
};

/// Takes requests without reading them: a collector is another machine's work, and what it would cost here
/// is not the stage's.
#[derive(Clone, Copy)]
struct Nowhere;

impl NamedService for Nowhere {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl Service<http::Request<Body>> for Nowhere {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async { Ok(Grpc::new(Unread).unary(Nowhere, request).await) })
    }
}

impl UnaryService<()> for Nowhere {
    type Response = ();
    type Future = BoxFuture<Response<()>, Status>;

    fn call(&mut self, _: Request<()>) -> Self::Future {
        Box::pin(async { Ok(Response::new(())) })
    }
}

/// Any message in, an empty one out.
#[derive(Clone, Copy)]
struct Unread;

impl Codec for Unread {
    type Encode = ();
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Unread
    }

    fn decoder(&mut self) -> Self {
        Unread
    }
}

impl Encoder for Unread {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for Unread {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        message.advance(message.remaining());
        Ok(Some(()))
    }
}

/// Serves in this process until standard input ends; says its address first.
pub fn serve() -> anyhow::Result<()> {
    let runtime = Runtime::new()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("http://{}", listener.local_addr()?);
        let server = Server::builder().add_service(Nowhere);
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

    pub fn endpoint(&self) -> &str {
        &self.endpoint
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
