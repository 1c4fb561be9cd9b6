use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use quadrille_choreography::Cluster;
use quadrille_proto::Service;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::*;
use crate::{StopSignal, Task};

/// No test here needs Kafka: nothing listens on port 1.
fn config() -> (Config, SocketAddr) {
    let cluster = Cluster::new("127.0.0.1:1", "").unwrap();
    let config = Config::on_loopback(Service::Results, cluster, Vec::new()).unwrap();
    let address = config.listen;
    (config, address)
}

fn nothing() -> Assembly {
    Assembly {
        http: Router::new(),
        grpc: Calls::default(),
        message_max: MessageMax::default(),
        requests: Requests::OutliveKafka,
    }
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    (status.parse().unwrap(), body.to_owned())
}

async fn grpc_health(address: SocketAddr) -> ServingStatus {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    let answer = client.check(HealthCheckRequest::default()).await.unwrap();
    answer.into_inner().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn until_it_is_assembled_a_service_is_alive_and_says_what_it_waits_for() {
    let (config, address) = config();
    let (go_on, assembled) = oneshot::channel::<()>();
    let (waits, waiting) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async { drop(stopped.await) };
    let healthy = Arc::new(AtomicBool::new(false));
    let model = Arc::clone(&healthy);
    let service = run(config, shutdown, move |context| async move {
        context.check("models", move || match model.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("none is loaded".to_owned()),
        });
        context.waiting_for("the database");
        waits.send(()).unwrap();
        assembled.await.unwrap();
        Ok(nothing())
    });
    let service = tokio::spawn(service);
    waiting.await.unwrap();
    assert_eq!(get(address, "/livez").await.0, 200);
    let unready = (503, "waiting for the database\n".to_owned());
    assert_eq!(get(address, "/readyz").await, unready);
    assert_eq!(grpc_health(address).await, ServingStatus::NotServing);
    go_on.send(()).unwrap();
    let unready = (503, "none is loaded\n".to_owned());
    while get(address, "/readyz").await != unready {
        tokio::task::yield_now().await;
    }
    let all = "[+]assembled ok\n[+]draining ok\n[-]models: none is loaded\nnone is loaded\n";
    assert_eq!(get(address, "/readyz?verbose").await, (503, all.to_owned()));
    healthy.store(true, Ordering::Relaxed);
    assert_eq!(get(address, "/readyz").await.0, 200);
    while grpc_health(address).await != ServingStatus::Serving {
        tokio::task::yield_now().await;
    }
    stop.send(()).unwrap();
    service.await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_end_in_the_order_of_the_drain_assembled_or_not() {
    for is_assembled in [true, false] {
        let (config, address) = config();
        let ended = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&ended);
        let (begun, begins) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { drop(stopped.await) };
        let service = run(config, shutdown, move |context| async move {
            let mut answered = Some(address);
            for (name, drain) in [
                ("database", Drain::AfterRequests),
                ("source", Drain::WithStages),
                ("relay", Drain::AfterStages),
            ] {
                let record = Arc::clone(&record);
                // Requests are answered until all but the last have ended.
                let asks = answered.take_if(|_| drain == Drain::AfterStages);
                let task = Task::new(name, drain, Duration::from_secs(5));
                context.spawn(task, |mut stop: StopSignal| async move {
                    stop.requested().await;
                    if let Some(address) = asks {
                        let draining = (503, "draining\n".to_owned());
                        assert_eq!(get(address, "/readyz").await, draining);
                    }
                    record.lock().unwrap().push(name);
                    Ok(())
                });
            }
            begun.send(()).unwrap();
            match is_assembled {
                true => Ok(nothing()),
                false => std::future::pending().await,
            }
        });
        let service = tokio::spawn(service);
        begins.await.unwrap();
        stop.send(()).unwrap();
        service.await.unwrap().unwrap();
        assert_eq!(*ended.lock().unwrap(), ["source", "relay", "database"]);
    }
}

#[tokio::test]
async fn a_task_that_fails_ends_its_service_assembled_or_not() {
    for is_assembled in [true, false] {
        let (config, _) = config();
        let ended = run(config, std::future::pending(), |context| async move {
            let task = Task::new("relay", Drain::AfterStages, Duration::from_secs(5));
            context.spawn(task, |_| async {
                Err(Error::Failed("disk full".to_owned()))
            });
            match is_assembled {
                true => Ok(nothing()),
                false => std::future::pending().await,
            }
        });
        let why = ended.await.unwrap_err().to_string();
        assert_eq!(why, "disk full");
    }
}
