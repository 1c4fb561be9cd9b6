//! Compressed bodies, in both directions and by both protocols.

use std::io::{Read, Write};

use axum::body::to_bytes;
use flate2::{
    Compression,
    read::{GzDecoder, ZlibDecoder},
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use tower::ServiceExt;

use super::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn raw_deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

async fn packed(address: SocketAddr, coding: &str, body: &[u8]) -> String {
    ask(
        address,
        &format!("{ECHO}\r\nContent-Encoding: {coding}"),
        body,
    )
    .await
}

/// Head and body of an answer to a question with these lines in its head.
async fn get_with(address: SocketAddr, line: &str, more: &str) -> (String, Vec<u8>) {
    let head = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n");
    let mut stream = say(address, &head).await;
    let mut heard = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut heard));
    read.await.expect("the service closes").unwrap();
    let end = heard.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(heard[..end].to_vec()).unwrap();
    let body = heard.split_off(end + 4);
    match head.contains("transfer-encoding: chunked") {
        true => (head, unchunked(&body)),
        false => (head, body),
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|it| it == b"\r\n").unwrap();
        let length = std::str::from_utf8(&body[..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[end + 2..][..length]);
        body = &body[end + 2 + length + 2..];
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_body_is_read_as_if_it_were_not() {
    let address = start(HttpConfig::default()).await;
    let plain = text();
    for (coding, body) in [
        ("gzip", gzip(plain.as_bytes())),
        ("X-GZIP", gzip(plain.as_bytes())),
        ("deflate", deflate(plain.as_bytes())),
        ("identity", plain.clone().into_bytes()),
        // As files that were put together, or by a sender that begins anew.
        (
            "gzip",
            [gzip(&plain.as_bytes()[..7]), gzip(&plain.as_bytes()[7..])].concat(),
        ),
    ] {
        let answer = packed(address, coding, &body).await;
        assert_status(&answer, 200);
        assert!(
            answer.ends_with(&format!("\r\n{}", plain.len())),
            "{answer}"
        );
    }
    // In chunks of a byte.
    let mut head = format!("{ECHO}\r\nConnection: close\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    for byte in gzip(b"0123456789") {
        head.extend_from_slice(b"1\r\n");
        head.extend_from_slice(&[byte]);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"0\r\n\r\n");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&head).await.unwrap();
    let answer = hear(&mut stream).await;
    assert!(answer.ends_with("\r\n10"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_body_that_becomes_large_meets_the_limit_of_a_large_one() {
    let address = start(HttpConfig::default()).await;
    // 64 KiB, and axum's own limit is 2 MB.
    let bomb = gzip(&vec![b'x'; 64 << 20]);
    assert!(bomb.len() < 70 << 10);
    assert_status(&packed(address, "gzip", &bomb).await, 413);
    assert_status(&echo(address, 3 << 20).await, 413);
    let fits = gzip(&vec![b'x'; 1 << 20]);
    assert_status(&packed(address, "gzip", &fits).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_body_becomes_counts_against_what_all_bodies_may_hold() {
    let config = HttpConfig {
        body_memory_max: 1 << 20,
        ..HttpConfig::default()
    };
    let address = start(config).await;
    let more = gzip(&vec![b'x'; 3 << 19]);
    assert!(more.len() < 2_000);
    let refused = packed(address, "gzip", &more).await;
    assert_status(&refused, 503);
    assert!(refused.contains("QUADRILLE_BODY_MEMORY"), "{refused}");
    // What it held is given back.
    let fits = gzip(&vec![b'x'; 900 << 10]);
    for _ in 0..3 {
        assert_status(&packed(address, "gzip", &fits).await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_what_it_says_is_refused() {
    let address = start(HttpConfig::default()).await;
    let whole = gzip(text().as_bytes());
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 0x10;
    let mut checksum = whole.clone();
    checksum[whole.len() - 6] ^= 1;
    for (coding, body) in [
        ("gzip", text().into_bytes()),
        ("gzip", whole[..whole.len() - 1].to_vec()),
        ("gzip", whole[..whole.len() / 2].to_vec()),
        ("gzip", whole[..5].to_vec()),
        ("gzip", damaged),
        ("gzip", checksum),
        ("gzip", [&whole[..], b"more"].concat()),
        ("gzip", deflate(b"zlib")),
        ("deflate", [&deflate(b"zlib")[..], b"more"].concat()),
        ("deflate", raw_deflate(text().as_bytes())),
        ("deflate", whole.clone()),
    ] {
        let answer = packed(address, coding, &body).await;
        assert_status(&answer, 400);
        assert!(answer.contains("cannot be decompressed"), "{answer}");
    }
    // Empty blocks: more and more comes, and it is never too large.
    let lines = format!("{ECHO}\r\nContent-Encoding: gzip\r\nContent-Length: 1000000000\r\n\r\n");
    let mut stream = say(address, &lines).await;
    let _ = stream.write_all(&whole[..10]).await;
    let _ = stream
        .write_all(&[0, 0, 0, 0xff, 0xff].repeat(100_000))
        .await;
    assert_status(&hear(&mut stream).await, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn codings_that_nobody_knows_and_several_at_once_are_refused_with_those_that_are_known() {
    let address = start(HttpConfig::default()).await;
    let twice = gzip(&gzip(b"{}"));
    for coding in ["br", "zstd", "gzip, gzip", "gzip\r\nContent-Encoding: gzip"] {
        let answer = packed(address, coding, &twice).await;
        assert_status(&answer, 415);
        assert!(
            answer.contains("accept-encoding: gzip, deflate"),
            "{answer}"
        );
        assert!(answer.contains("gzip or deflate"), "{answer}");
    }
    let bodiless = ask(
        address,
        "GET /text HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: br",
        b"",
    );
    assert_status(&bodiless.await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_compressed_where_that_is_asked_for_and_worth_it() {
    let address = start(HttpConfig::default()).await;
    let (head, body) = get_with(address, "GET /text", "Accept-Encoding: gzip, deflate\r\n").await;
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert!(head.contains("vary: accept-encoding"), "{head}");
    assert!(body.len() < text().len() / 2 && gunzip(&body) == text().as_bytes());
    let (head, body) = get_with(address, "GET /text", "Accept-Encoding: deflate\r\n").await;
    assert!(head.contains("content-encoding: deflate"), "{head}");
    let mut plain = String::new();
    let mut decoder = ZlibDecoder::new(&body[..]);
    decoder.read_to_string(&mut plain).unwrap();
    assert_eq!(plain, text());
    let (head, body) = get_with(address, "GET /large", "Accept-Encoding: gzip\r\n").await;
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert_eq!(gunzip(&body).len(), LARGE_BYTES);
    for (asked, more) in [
        ("GET /text", ""),
        ("GET /text", "Accept-Encoding: gzip;q=0, br\r\n"),
        ("GET /livez", "Accept-Encoding: gzip\r\n"),
        ("GET /stream", "Accept-Encoding: gzip\r\n"),
        ("HEAD /text", "Accept-Encoding: gzip\r\n"),
    ] {
        let (head, _) = get_with(address, asked, more).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(!head.contains("content-encoding"), "{asked} {more}: {head}");
    }
    // Prometheus asks for it.
    let (head, body) = get_with(address, "GET /metrics", "Accept-Encoding: gzip\r\n").await;
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert!(gunzip(&body).ends_with(b"# EOF\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_memory_is_scarce_an_answer_goes_out_as_it_is() {
    let config = HttpConfig {
        body_memory_max: 300 << 10,
        ..HttpConfig::default()
    };
    let address = start(config).await;
    let (head, body) = get_with(address, "GET /text", "Accept-Encoding: gzip\r\n").await;
    assert!(!head.contains("content-encoding"), "{head}");
    assert_eq!(body, text().as_bytes());
}

/// A message as it is framed.
fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flag], &length[..], message].concat()
}

/// What is answered to a call of gRPC: its head, and the frames of its messages.
async fn call(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (http::HeaderMap, Vec<u8>) {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut request = http::Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = tonic::body::Body::new(axum::body::Body::from(body));
    let channel = endpoint.connect().await.unwrap();
    let answer = channel.oneshot(request.body(body).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = to_bytes(axum::body::Body::new(body), usize::MAX).await;
    (head.headers, body.unwrap().to_vec())
}

const GZIP: [(&str, &str); 2] = [("grpc-encoding", "gzip"), ("grpc-accept-encoding", "gzip")];
const ECHO_CALL: &str = "/test.Echo/Call";
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// Status and message of a call that failed before it answered anything.
fn failed(headers: &http::HeaderMap) -> (Code, String) {
    let status = tonic::Status::from_header_map(headers).expect("a status");
    (status.code(), status.message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_grpc_are_decompressed_and_compressed_each_for_itself() {
    let address = start(HttpConfig::default()).await;
    let (large, small) = (text().into_bytes(), b"small".to_vec());
    let packed = |plain: &[u8]| framed(1, &gzip(plain));
    let sent = [
        packed(&large),
        framed(0, &small),
        packed(b""),
        framed(0, b""),
        packed(&small),
        framed(0, &large),
    ];
    // Whoever does not read it gets it as it is.
    let (head, body) = call(address, ECHO_CALL, &GZIP[..1], sent.concat()).await;
    assert!(!head.contains_key("grpc-encoding"), "{head:?}");
    let plain = |message: &[u8]| framed(0, message);
    let expected = [&large, &small, &vec![], &vec![], &small, &large].map(|it| plain(it));
    assert_eq!(body, expected.concat());
    let (head, mut body) = call(address, ECHO_CALL, &GZIP, sent.concat()).await;
    assert_eq!(head.get("grpc-encoding").unwrap(), "gzip");
    assert!(body.len() < large.len());
    let mut heard = Vec::new();
    while !body.is_empty() {
        let [flag, length @ ..] = [body[0], body[1], body[2], body[3], body[4]];
        let length = u32::from_be_bytes(length) as usize;
        let rest = body.split_off(5 + length);
        heard.push(match flag {
            0 => (false, body.split_off(5)),
            _ => (true, gunzip(&body[5..])),
        });
        body = rest;
    }
    let expected = [&large, &small, &vec![], &vec![], &small, &large];
    let expected = expected.map(|it| (it.len() > 1_000, it.clone()));
    assert_eq!(heard, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_grpc_that_becomes_large_meets_the_limit_of_a_large_one() {
    let address = start(HttpConfig::default()).await;
    let check = |message: Vec<u8>| async move { call(address, CHECK, &GZIP, message).await.0 };
    // A check of "", and then a field that nobody knows.
    assert!(tonic::Status::from_header_map(&check(framed(1, &gzip(b""))).await).is_none());
    let bomb = framed(1, &gzip(&vec![b'x'; 64 << 20]));
    assert!(bomb.len() < 70 << 10);
    let (code, message) = failed(&check(bomb).await);
    assert_eq!(code, Code::ResourceExhausted, "{message}");
    assert!(
        message.contains("4194304 bytes once it is decompressed"),
        "{message}"
    );
    let whole = gzip(text().as_bytes());
    for broken in [&whole[..whole.len() / 2], b"no gzip at all", b""] {
        let (code, message) = failed(&check(framed(1, broken)).await);
        assert_eq!(code, Code::Internal, "{message}");
        assert!(message.contains("cannot be decompressed"), "{message}");
    }
    let (code, _) = failed(&check(framed(1, &whole)[..50].to_vec()).await);
    assert_eq!(code, Code::Internal);
    let (head, _) = call(
        address,
        CHECK,
        &[("grpc-encoding", "snappy")],
        framed(1, b""),
    )
    .await;
    assert_eq!(failed(&head).0, Code::Unimplemented);
    assert_eq!(
        head.get("grpc-accept-encoding").unwrap(),
        "identity,gzip,deflate"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_grpc_count_decompressed_against_what_all_bodies_may_hold() {
    let config = HttpConfig {
        body_memory_max: 1 << 20,
        ..HttpConfig::default()
    };
    let address = start(config).await;
    let message = framed(1, &gzip(&vec![b'x'; 2 << 20]));
    let (head, _) = call(address, CHECK, &GZIP, message).await;
    let (code, message) = failed(&head);
    assert_eq!(code, Code::ResourceExhausted);
    assert!(message.contains("QUADRILLE_BODY_MEMORY"), "{message}");
    // Its answer counts as well.
    let fits = framed(1, &gzip(&vec![b'x'; 500 << 10]));
    let (_, body) = call(address, ECHO_CALL, &GZIP[..1], fits).await;
    assert_eq!(body.len(), 5 + (500 << 10));
    let large = framed(1, &gzip(&vec![b'x'; 800 << 10]));
    let (_, body) = call(address, ECHO_CALL, &GZIP[..1], large).await;
    assert!(body.len() < 800 << 10, "{}", body.len());
}
