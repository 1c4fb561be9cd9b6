//! Compressed pushes, and compressed answers about what became of them.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use flate2::{
    Compression,
    read::GzDecoder,
    write::{GzEncoder, ZlibEncoder},
};
use quadrille_proto::Service;

use crate::{
    harness::{client::record, http, oracle, world::World},
    surface::records_path,
};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("compressed")
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("compressed")
}

/// The head of a compressed answer and what its body is, decompressed.
fn get_gzipped(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n");
    let body = answer.split_off(end.expect("a head") + 4);
    let mut plain = String::new();
    let read = GzDecoder::new(&unchunked(&body)[..]).read_to_string(&mut plain);
    read.expect("gzip");
    (String::from_utf8_lossy(&answer).to_lowercase(), plain)
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|it| it == b"\r\n");
        let end = end.expect("a chunk");
        let length = std::str::from_utf8(&body[..end]).expect("a length");
        let length = usize::from_str_radix(length, 16).expect("a length");
        if length == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[end + 2..][..length]);
        body = &body[end + 2 + length + 2..];
    }
}

#[test]
fn pushes_come_compressed_and_results_go_out_compressed() {
    let world = World::new(2);
    let services = world.start_all();
    let (ingest, results) = (services[0].address(), services[3].address());
    let path = records_path(&world);
    let push = |kind: &str, coding: &str, body: &[u8]| {
        let headers = [("Content-Type", kind), ("Content-Encoding", coding)];
        http::post(ingest, &path, &headers, body)
    };
    let one = record("one", "p-1", 148);
    let (status, body) = push("application/json", "gzip", &gzip(one.as_bytes()));
    assert_eq!(status, 200, "{body}");
    let lines: Vec<String> = (0..20)
        .map(|n| record(&format!("n{n}"), "p-2", 100 + n))
        .collect();
    let lines = lines.join("\n");
    let (status, body) = push(
        "application/x-ndjson",
        "deflate",
        &deflate(lines.as_bytes()),
    );
    assert_eq!(status, 200, "{body}");
    let csv = "id,patient_id,pregnant,glucose,pressure,triceps,insulin,mass,pedigree,age\n\
        c1,p-1,6,148,72,35,0,33.6,0.627,50\n";
    let (status, body) = push("text/csv", "gzip", &gzip(csv.as_bytes()));
    assert_eq!(status, 200, "{body}");
    let (status, body) = push("application/json", "gzip", one.as_bytes());
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("cannot be decompressed"), "{body}");
    let (status, body) = push("application/json", "br", one.as_bytes());
    assert_eq!(status, 415, "{body}");
    oracle::stored(&world, results, 22);

    let path = format!("/v1/pipelines/{}/predictions?limit=50", world.pipeline);
    let (head, packed) = get_gzipped(results, &path);
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert_eq!(packed, http::get(results, &path).1);
    for service in &services {
        let (head, metrics) = get_gzipped(service.address(), "/metrics");
        assert!(head.contains("content-encoding: gzip"), "{head}");
        assert!(metrics.ends_with("# EOF\n"));
    }
}

#[test]
fn a_push_that_becomes_larger_than_a_body_may_be_is_refused_by_that_limit() {
    let world = World::new(1);
    let mut ingest = world.launch(Service::Ingest, "a").start();
    ingest.ready();
    // 9 MiB, one more than the limit, in 9 KB.
    let bomb = gzip(&vec![b'\n'; 9 << 20]);
    let headers = [
        ("Content-Type", "application/x-ndjson"),
        ("Content-Encoding", "gzip"),
    ];
    let (status, body) = http::post(ingest.address(), &records_path(&world), &headers, &bomb);
    assert_eq!(status, 413, "{body}");
    for part in ["8388608 bytes", "QUADRILLE_BODY_BYTES"] {
        assert!(body.contains(part), "{body}");
    }
}
