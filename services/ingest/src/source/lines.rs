//! A source of one's own, whole: lines of JSON over a port of its own, each answered by a line. It shows what a protocol brings,
//! and its test what the service does for it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use quadrille_service::{Context, Drain, Error, StopSignal, Task, fields::now_ms};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::{Order, Push, Source, WhenFull, acknowledgements};
use crate::intake::{Accepted, Intakes, Rejection, Sender};

/// Until what was sent is confirmed or given up.
const ENDS_WITHIN: Duration = Duration::from_secs(8);
const CONNECTIONS_MAX: usize = 8;

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
            let intake = self.0.find("")?;
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
    let task = Task::new("lines", Drain::BeforeStages, ENDS_WITHIN);
    context.spawn(task, |stop| async move {
        let serve = move |stream, _, stop| serve(Arc::clone(&source), stream, stop);
        listener.serve(CONNECTIONS_MAX, stop, serve).await;
        Ok(())
    });
    Ok(address)
}

async fn serve(source: Arc<Lines>, mut stream: TcpStream, stop: StopSignal) {
    let (read, mut write) = stream.split();
    let lines = BufReader::new(read).lines();
    let frames = stream::unfold((lines, stop), |(mut lines, mut stop)| async {
        let line = tokio::select! {
            () = stop.requested() => return None,
            line = lines.next_line() => line.ok()??,
        };
        Some((line, (lines, stop)))
    });
    let mut acks = std::pin::pin!(acknowledgements(source, frames));
    while let Some(ack) = acks.next().await {
        if write.write_all(ack.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use quadrille_choreography::{EmbeddedBroker, TopicSpec};
    use quadrille_pipeline::Pipeline;
    use quadrille_proto::Service;
    use quadrille_service::{Assembly, Calls, Config, MessageMax, Requests};
    use tokio::{io::AsyncReadExt, sync::oneshot};

    use super::*;
    use crate::{Bounds, open};

    const PIPELINE: &str = r#"
        name = "p"
        [record]
        id = "id"
        key = "k"
        [[record.fields]]
        name = "a"
        type = "number"
        [[features]]
        name = "a"
        kind = "pass"
        field = "a"
        [model]
        inputs = ["a"]
        [decision]
        threshold = 0.5
        positive = "y"
        negative = "n"
    "#;

    fn config(broker: &EmbeddedBroker) -> Config {
        let specs = TopicSpec::of_pipeline("p", 1, 1_048_588);
        broker.create(&specs).expect("topics");
        let pipeline = Pipeline::parse("p.toml", PIPELINE).expect("a pipeline");
        let cluster = broker.cluster().expect("a cluster");
        let pipelines = vec![Arc::new(pipeline)];
        Config::on_loopback(Service::Ingest, cluster, pipelines).expect("a port")
    }

    async fn assemble(
        context: Context,
        listens: oneshot::Sender<SocketAddr>,
    ) -> Result<Assembly, Error> {
        let (stages, intakes) = open(&context, Bounds::default()).await?;
        let _ = listens.send(listen(&context, intakes)?);
        Ok(Assembly {
            stages,
            http: Router::new(),
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
}
