//! A source of one's own, whole: lines of JSON over a port of its own, each answered by a line. It shows what a protocol brings,
//! and its test what the service does for it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use quadrille_service::{Context, Drain, Error, StopSignal, Task, fields::now_ms};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::{Order, Push, Source, WhenFull, acknowledgements};
use crate::intake::{Accepted, Intakes, Rejection, Sender};

/// Until what was sent is confirmed or given up.
const ENDS_WITHIN: Duration = Duration::from_secs(8);
const CONNECTIONS_MAX: usize = 8;
const LINE_BYTES_MAX: u64 = 64 << 10;
const IDLE_MAX: Duration = Duration::from_secs(60);
/// A peer that does not read its answers must not hold up the drain.
const WRITTEN_WITHIN: Duration = Duration::from_secs(2);

struct Lines(Intakes);

impl Source for Lines {
    type Frame = String;
    type Tag = ();
    type Ack = String;

    const IN_FLIGHT_MAX: usize = 16;
    const ORDER: Order = Order::OfFrames;
    const WHEN_FULL: WhenFull = WhenFull::Wait;

    fn read(&self, line: String) -> ((), Result<Push<'_>, Rejection>) {
        let push = || {
            let intake = self.0.only("")?;
            let reading = intake.pipeline.read_json(line.as_bytes(), now_ms())?;
            Ok(Push {
                intake,
                reading,
                sender: Sender::default(),
            })
        };
        ((), push())
    }

    fn acknowledge(&self, (): (), outcome: Result<Accepted, Rejection>) -> String {
        match outcome {
            Ok(accepted) => format!("ok {}\n", accepted.id),
            Err(rejection) => format!("refused {}\n", rejection.field()),
        }
    }
}

/// Listens; returns where.
fn listen(context: &Context, intakes: Intakes) -> Result<SocketAddr, Error> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = context.listen("lines", "LINES_LISTEN", any)?;
    let failed = |error: std::io::Error| Error::Failed(error.to_string());
    let address = listener.address().map_err(failed)?;
    let source = Arc::new(Lines(intakes));
    let task = Task::new("lines", Drain::WithStages, ENDS_WITHIN);
    context.spawn(task, |stop| async move {
        let serve = move |stream, _, stop| serve(Arc::clone(&source), stream, stop);
        listener.serve(CONNECTIONS_MAX, stop, serve).await;
        Ok(())
    });
    Ok(address)
}

async fn serve(source: Arc<Lines>, mut stream: TcpStream, stop: StopSignal) {
    let (read, mut write) = stream.split();
    let frames = stream::unfold((BufReader::new(read), stop), |(mut read, mut stop)| async {
        let mut line = Vec::new();
        // Bounded in bytes and in time: a peer may send one line without end, or nothing.
        let mut bounded = (&mut read).take(LINE_BYTES_MAX);
        let next = bounded.read_until(b'\n', &mut line);
        tokio::select! {
            () = stop.requested() => return None,
            next = tokio::time::timeout(IDLE_MAX, next) => next.ok()?.ok()?,
        };
        let line = String::from_utf8(line).ok()?;
        let whole = line.strip_suffix('\n')?.to_owned();
        Some((whole, (read, stop)))
    });
    let mut acks = std::pin::pin!(acknowledgements(source, frames));
    while let Some(ack) = acks.next().await {
        let written = tokio::time::timeout(WRITTEN_WITHIN, write.write_all(ack.as_bytes()));
        if !matches!(written.await, Ok(Ok(()))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use quadrille_choreography::{EmbeddedBroker, TopicSpec};
    use quadrille_proto::{KeyedState, Service};
    use quadrille_service::{Assembly, Calls, Config, MessageMax, Requests};
    use tokio::sync::oneshot;

    use super::*;
    use crate::{Bounds, http, open, toy};

    fn config(broker: &EmbeddedBroker) -> Config {
        let specs = TopicSpec::of_pipeline("p", KeyedState::None, 1, 1_048_588);
        broker.create(&specs).expect("topics");
        let pipeline = toy::pipeline("id = \"id\"");
        let cluster = broker.cluster().expect("a cluster");
        let pipelines = vec![Arc::new(pipeline)];
        Config::on_loopback(Service::Ingest, cluster, pipelines).expect("a port")
    }

    async fn assemble(
        context: Context,
        listens: oneshot::Sender<SocketAddr>,
    ) -> Result<Assembly, Error> {
        let intakes = open(&context, Bounds::default()).await?;
        let _ = listens.send(listen(&context, intakes.clone())?);
        Ok(Assembly {
            http: http::router(intakes, Bounds::default()),
            grpc: Calls::default(),
            message_max: MessageMax::default(),
            requests: Requests::NeedKafka,
        })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn lines_are_answered_in_order_and_a_drain_ends_their_connection() {
        let broker = EmbeddedBroker::start().expect("a broker");
        let (stop, stopped) = oneshot::channel::<()>();
        let (listens, address) = oneshot::channel();
        let shutdown = async { drop(stopped.await) };
        let service = quadrille_service::run(config(&broker), shutdown, |context| {
            assemble(context, listens)
        });
        let service = tokio::spawn(service);
        let address = address.await.expect("it listens");
        let mut client = TcpStream::connect(address).await.expect("connected");
        let line = |id: &str| format!("{{\"id\": \"{id}\", \"k\": \"x\", \"a\": 1}}\n");
        let sent = [&line("1"), "{\"k\": \"x\", \"a\": []}\n", &line("2")].concat();
        client.write_all(sent.as_bytes()).await.expect("sent");
        let mut answers = vec![0; "ok 1\nrefused a\nok 2\n".len()];
        client.read_exact(&mut answers).await.expect("answered");
        assert_eq!(String::from_utf8_lossy(&answers), "ok 1\nrefused a\nok 2\n");
        stop.send(()).expect("it runs");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("closed");
        assert_eq!(rest, b"");
        service.await.expect("no panic").expect("drained");
        let refused = TcpStream::connect(address).await;
        assert!(refused.is_err(), "nobody listens any more");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_push_to_a_pipeline_without_a_name_is_not_found() {
        let broker = EmbeddedBroker::start().expect("a broker");
        let (listens, listening) = oneshot::channel();
        let config = config(&broker);
        let address = config.listen;
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { drop(stopped.await) };
        let service =
            quadrille_service::run(config, shutdown, |context| assemble(context, listens));
        let service = tokio::spawn(service);
        listening.await.expect("it listens");
        let push = |path: &str| {
            let body = r#"{"id": "1", "k": "x", "a": 1}"#;
            let length = body.len();
            let head = "host: localhost\r\nconnection: close\r\ncontent-type: application/json";
            format!("POST {path} HTTP/1.1\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}")
        };
        let mut answers = Vec::new();
        for path in ["/v1/pipelines/p/records", "/v1/pipelines//records"] {
            let mut answer = "503".to_owned();
            // What is mounted follows the assembly.
            while answer.contains("503") {
                let mut client = TcpStream::connect(address).await.expect("connected");
                client.write_all(push(path).as_bytes()).await.expect("sent");
                answer.clear();
                client.read_to_string(&mut answer).await.expect("answered");
            }
            answers.push(answer.split(' ').nth(1).map(str::to_owned));
        }
        let expected = ["200", "404"].map(|status| Some(status.to_owned()));
        assert_eq!(answers, expected);
        stop.send(()).expect("it runs");
        service.await.expect("no panic").expect("drained");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn stages_that_have_started_end_although_the_service_was_never_assembled() {
        let broker = EmbeddedBroker::start().expect("a broker");
        let config = config(&broker);
        let pipeline = Arc::clone(&config.pipelines[0]);
        let (starts, started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { drop(stopped.await) };
        let service = quadrille_service::run(config, shutdown, |context| async move {
            let _intakes = open(&context, Bounds::default()).await?;
            starts.send(()).expect("the test waits");
            std::future::pending().await
        });
        let service = tokio::spawn(service);
        started.await.expect("the stages run");
        stop.send(()).expect("it runs");
        service.await.expect("no panic").expect("drained");
        let held = Arc::strong_count(&pipeline) - 1;
        assert_eq!(held, 0, "lanes' handlers hold the pipeline");
    }
}
