//! Reads of files, and of a store that answers as it is told.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    thread::JoinHandle,
};

use super::*;

/// A store that gives one answer a connection, in order. Ends with what it was asked.
fn server(answers: &[String]) -> (Store, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answers = answers.to_vec();
    let asked = thread::spawn(move || {
        let answer = |answer: &String| {
            let (mut stream, _) = listener.accept().unwrap();
            let request = head(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
            request
        };
        answers.iter().map(answer).collect()
    });
    let some = |text: &str| Some(text.to_owned());
    let mut store = Store::new(S3Settings {
        endpoint: Some(endpoint),
        region: None,
        access_key_id: some("an-id"),
        secret_access_key: some("hush"),
        session_token: None,
    });
    store.again = (Duration::ZERO, Duration::ZERO);
    (store, asked)
}

fn head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let bytes = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {bytes}\r\nConnection: close\r\n{headers}\r\n{body}"
    )
}

fn failed(status: &str, code: &str) -> String {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    answer(status, "", &body)
}

fn object() -> Uri {
    Uri::parse("s3://models/pima/1/forest.bin").unwrap()
}

#[test]
fn an_object_is_asked_for_by_a_signed_address() {
    let (store, asked) = server(&[answer("200 OK", "", "numbers")]);
    assert_eq!(store.read(&object(), 7), Ok(b"numbers".to_vec()));
    let asked = asked.join().unwrap().remove(0);
    for part in [
        "GET /models/pima/1/forest.bin?",
        "X-Amz-Signature=",
        "X-Amz-Credential=an-id%2F",
    ] {
        assert!(asked.contains(part), "{asked}");
    }
    assert!(!asked.contains("hush"), "{asked}");
}

#[test]
fn what_passes_is_tried_again() {
    let cut_off = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nnum";
    let (store, asked) = server(&[
        failed("503 Service Unavailable", "SlowDown"),
        cut_off.to_owned(),
        failed("429 Too Many Requests", "SlowDown"),
        answer("200 OK", "", "numbers"),
    ]);
    assert_eq!(store.read(&object(), 7), Ok(b"numbers".to_vec()));
    assert_eq!(asked.join().unwrap().len(), 4);
}

#[test]
fn attempts_come_to_an_end_and_the_last_reason_is_told() {
    let answers = vec![failed("503 Service Unavailable", "SlowDown"); ATTEMPTS as usize];
    let (store, asked) = server(&answers);
    let error = store.read(&object(), 7).unwrap_err();
    assert!(matches!(error, Error::Away { .. }));
    let told = error.to_string();
    assert!(
        told.contains("s3://models/pima/1/forest.bin") && told.contains("503 (SlowDown)"),
        "{told}"
    );
    assert_eq!(asked.join().unwrap().len(), 4);
}

#[test]
fn no_answer_is_told_without_the_address_that_was_asked() {
    let (store, asked) = server(&vec![String::new(); ATTEMPTS as usize]);
    let error = store.read(&object(), 7).unwrap_err();
    assert!(matches!(error, Error::Away { .. }), "{error}");
    assert!(
        !format!("{error} {error:?}").contains("Signature"),
        "{error:?}"
    );
    assert_eq!(asked.join().unwrap().len(), 4);
}

#[test]
fn a_refusal_is_told_at_once_with_what_to_look_at() {
    for (status, code, told) in [
        (
            "404 Not Found",
            "NoSuchKey",
            "404 (NoSuchKey); check the URI",
        ),
        (
            "403 Forbidden",
            "AccessDenied",
            "403 (AccessDenied); check AWS_ACCESS_KEY_ID",
        ),
        (
            "301 Moved Permanently",
            "PermanentRedirect",
            "(eu-west-1): set AWS_REGION",
        ),
        ("400 Bad Request", "a\u{1b}[2J", "400 (a)"),
    ] {
        let body = format!("<Error><Code>{code}</Code></Error>");
        let headers = "x-amz-bucket-region: eu-west-1\r\nLocation: http://127.0.0.1:1/\r\n";
        let (store, asked) = server(&[answer(status, headers, &body)]);
        let error = store.read(&object(), 7).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert!(error.to_string().contains(told), "{error}");
        assert_eq!(asked.join().unwrap().len(), 1);
    }
}

#[test]
fn more_bytes_than_asked_for_are_not_read() {
    let without_length = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nnumbers and more";
    // That many will not come: it is enough that they were announced.
    let announced = "HTTP/1.1 200 OK\r\nContent-Length: 8000000000000\r\n\r\n";
    for answer in [without_length, announced] {
        let (store, asked) = server(&[answer.to_owned()]);
        let error = store.read(&object(), 7).unwrap_err();
        assert_eq!(
            error,
            Error::TooLong {
                uri: object(),
                max: 7
            }
        );
        asked.join().unwrap();
    }
}

#[test]
fn a_file_is_read_whole_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(S3Settings::default());
    let file = Uri::File(folder.path().to_owned()).join("a b");
    let error = store.read(&file, 7).unwrap_err().to_string();
    assert!(
        error.contains("/a%20b") && error.contains("every replica"),
        "{error}"
    );
    fs::write(folder.path().join("a b"), "numbers").unwrap();
    assert_eq!(store.read(&file, 7), Ok(b"numbers".to_vec()));
    let error = store.read(&file, 6).unwrap_err();
    assert_eq!(error, Error::TooLong { uri: file, max: 6 });
    let error = store
        .read(&Uri::File(folder.path().to_owned()), 7)
        .unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
    let device = Uri::File("/dev/zero".into());
    assert!(store.read(&device, 7).is_err());
}
