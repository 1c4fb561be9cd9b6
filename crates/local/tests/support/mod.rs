//! What the tests ask servers and the system, without client libraries.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use quadrille_local::Kafka;

pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "not within 120 s: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Not a process that has ended and waits to be reaped.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields[0] != "Z")
}

pub fn process_group(pid: u32) -> u32 {
    stat(pid).unwrap()[2].parse().unwrap()
}

/// State, parent, process group, …
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

pub fn create_topic(kafka: &Kafka, name: &str) {
    topic_command(kafka, &["--create", "--topic", name]);
}

pub fn topics(kafka: &Kafka) -> Vec<String> {
    // Without any topic the tool prints an empty line.
    let listed = topic_command(kafka, &["--list"]);
    listed.split_whitespace().map(str::to_owned).collect()
}

fn topic_command(kafka: &Kafka, args: &[&str]) -> String {
    let ran = Command::new("java")
        .args(["-XX:TieredStopAtLevel=1", "-cp"])
        .arg(kafka.libs().join("*"))
        .arg("org.apache.kafka.tools.TopicCommand")
        .args(["--bootstrap-server", &kafka.bootstrap_servers()])
        .args(args)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{ran:?}");
    String::from_utf8(ran.stdout).unwrap()
}

/// A simple query; the first column of each row.
pub fn query(url: &str, sql: &str) -> Vec<String> {
    let address = url.strip_prefix("postgres://postgres@").unwrap();
    let (address, database) = address.split_once('/').unwrap();
    let mut server = TcpStream::connect(address).unwrap();
    let startup = format!("\0\x03\0\0user\0postgres\0database\0{database}\0\0");
    send(&mut server, b"", startup.as_bytes());
    until_ready(&mut server);
    send(&mut server, b"Q", format!("{sql}\0").as_bytes());
    until_ready(&mut server)
}

fn send(server: &mut TcpStream, kind: &[u8], body: &[u8]) {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    server.write_all(&[kind, &length, body].concat()).unwrap();
}

fn until_ready(server: &mut TcpStream) -> Vec<String> {
    let mut rows = Vec::new();
    loop {
        let mut head = [0; 5];
        server.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        let mut body = vec![0; length - 4];
        server.read_exact(&mut body).unwrap();
        match head[0] {
            b'Z' => return rows,
            b'E' => panic!("{}", String::from_utf8_lossy(&body)),
            // Number of columns (2 bytes), then length (4 bytes) and text of each.
            b'D' => {
                let end = 6 + u32::from_be_bytes(body[2..6].try_into().unwrap()) as usize;
                rows.push(String::from_utf8(body[6..end].to_vec()).unwrap());
            }
            _ => {}
        }
    }
}
