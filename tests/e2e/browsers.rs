//! What a page of another site can make a browser on this machine ask, of every service.

use std::net::SocketAddr;

use crate::{
    harness::{client::record, http, oracle, world::World},
    surface::records_path,
};

/// Sends these bytes and nothing else: a browser's `Host` is the name that the page used.
fn raw(address: SocketAddr, head: &str, body: &[u8]) -> (u16, String) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).expect("a connection");
    let length = body.len();
    let head = format!("{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|it| it.parse().ok());
    (status.expect("a status"), answer)
}

const EVIL: &str = "http://evil.example";

#[test]
fn no_page_of_another_site_pushes_asks_or_reads_whatever_it_says_of_the_body() {
    let world = World::new(1);
    let services = world.start_all();
    let results = services[3].address();
    let json = ("Content-Type", "application/json");
    let pushed = record("secret", "p-1", 148);
    let path = records_path(&world);
    let (status, body) = http::post(services[0].address(), &path, &[json], pushed.as_bytes());
    assert_eq!(status, 200, "{body}");
    oracle::stored(&world, results, 1);

    let p = &world.pipeline;
    let grpc = |method: &str| ("POST", format!("/{method}"));
    let asked: [Vec<(&str, String)>; 4] = [
        vec![
            ("POST", path.clone()),
            grpc("quadrille.v1.IngestService/Submit"),
        ],
        vec![grpc("quadrille.v1.FeatureService/GetFeatures")],
        vec![
            ("POST", format!("/v2/models/{p}/infer")),
            ("POST", format!("/v1/models/{p}:predict")),
            ("POST", "/v2/repository/index".to_owned()),
            ("GET", "/v2/models".to_owned()),
            grpc("quadrille.v1.PredictService/Predict"),
            grpc("inference.GRPCInferenceService/ModelInfer"),
        ],
        vec![
            ("GET", format!("/v1/pipelines/{p}/predictions/secret")),
            ("GET", format!("/v1/pipelines/{p}/predictions?key=p-1")),
            ("GET", "/".to_owned()),
            grpc("quadrille.v1.ResultsService/ListPredictions"),
        ],
    ];
    for (service, asked) in services.iter().zip(asked) {
        let address = service.address();
        let asked = asked.into_iter().chain([("GET", "/metrics".to_owned())]);
        for (method, path) in asked {
            let body: &[u8] = match method {
                "POST" => pushed.as_bytes(),
                _ => b"",
            };
            let kinds = match method {
                // A body may have no type at all: a page sends a Blob without one.
                "POST" => &[
                    "",
                    "\r\nContent-Type: application/json",
                    "\r\nContent-Type: text/plain",
                    "\r\nContent-Type: application/grpc",
                    "\r\nContent-Type: application/json\r\nContent-Encoding: gzip",
                ][..],
                _ => &[""][..],
            };
            for kind in kinds {
                for said in [
                    format!("Host: {address}\r\nOrigin: {EVIL}"),
                    // Of a page without a place of its own, or that says nothing of it.
                    format!("Host: {address}\r\nOrigin: null"),
                    format!(
                        "Host: {address}\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors"
                    ),
                    // The page's own name leads here: to the browser it is the same site.
                    format!(
                        "Host: evil.example:{0}\r\nOrigin: {EVIL}:{0}\r\nSec-Fetch-Site: same-origin",
                        address.port()
                    ),
                    format!("Host: evil.example:{}", address.port()),
                ] {
                    let head = format!("{method} {path} HTTP/1.1\r\n{said}{kind}");
                    let (status, answer) = raw(address, &head, body);
                    let denied = match kind.ends_with("grpc") {
                        // PERMISSION_DENIED
                        true => answer.contains("grpc-status: 7"),
                        false => status == 403,
                    };
                    assert!(denied, "{head}\n\n{answer}");
                    assert!(
                        !answer.contains("secret") && !answer.contains("access-control"),
                        "{answer}"
                    );
                }
            }
        }
        let link = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate";
        let head = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n{link}");
        assert_eq!(raw(address, &head, b"").0, 200, "somebody follows a link");
    }
    let count = http::get(results, &format!("/v1/pipelines/{p}/predictions/count")).1;
    assert!(count.contains("\"count\":1"), "{count}");
    let refused = "quadrille_requests_refused_total{reason=\"origin\"}";
    let refused = services[0].metric(refused);
    assert!(refused.is_some_and(|it| it >= 10.0), "{refused:?}");
}
