//! The load balancer's configuration as it is shipped, in front of replicas that answer as a test wants: what it sends
//! again, and what it never does.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use tempfile::TempDir;

use crate::harness::{PATIENCE, eventually, http};

const CONFIG: &str = include_str!("../../deploy/haproxy/haproxy.cfg");

/// Answers everything with one status, and remembers what it was asked.
struct Replica {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Replica {
    fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let remembered = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Some(head) = answer(stream, status) {
                    remembered.lock().expect("whole").push(head);
                }
            }
        });
        Replica { address, asked }
    }

    /// Heads of requests of a method.
    fn asked(&self, method: &str) -> Vec<String> {
        let asked = self.asked.lock().expect("whole");
        let asked = asked.iter().filter(|head| head.starts_with(method));
        asked.cloned().collect()
    }
}

fn answer(mut stream: TcpStream, status: &str) -> Option<String> {
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    let end = loop {
        let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
        heard.extend_from_slice(&buffer[..read]);
        if let Some(end) = heard.windows(4).position(|it| it == b"\r\n\r\n") {
            break end;
        }
    };
    let head = String::from_utf8_lossy(&heard[..end]).to_lowercase();
    let length = head
        .lines()
        .find_map(|it| it.strip_prefix("content-length: "));
    let length: usize = length.and_then(|it| it.parse().ok()).unwrap_or(0);
    while heard.len() < end + 4 + length {
        let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
        heard.extend_from_slice(&buffer[..read]);
    }
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).ok()?;
    Some(head)
}

/// HAProxy with the shipped configuration; its ingest's replicas are these.
struct Balancer {
    child: Child,
    ingest: SocketAddr,
    _folder: TempDir,
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Balancer {
    /// None where there is no HAProxy.
    fn start(replicas: &[SocketAddr]) -> Option<Self> {
        let folder = TempDir::new().expect("a folder");
        let ports: Vec<SocketAddr> = free_ports(5);
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, configuration(replicas, &ports)).expect("written");
        let haproxy = Command::new("haproxy")
            .args(["-db", "-f"])
            .arg(&file)
            .stdout(Stdio::null())
            .spawn();
        let Ok(child) = haproxy else {
            // Not by a macro, whose output a test that passes does not show.
            let line = b"SKIPPED: no haproxy here, its configuration is not tried\n";
            let _ = std::io::stderr().write_all(line);
            return None;
        };
        let balancer = Balancer {
            child,
            ingest: ports[0],
            _folder: folder,
        };
        eventually("HAProxy listens", PATIENCE, || {
            TcpStream::connect(balancer.ingest).ok()
        });
        Some(balancer)
    }

    fn push(&self, headers: &[(&str, &str)]) -> u16 {
        http::post(self.ingest, "/v1/pipelines/p/records", headers, b"{}").0
    }
}

fn free_ports(count: usize) -> Vec<SocketAddr> {
    let listeners = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let listeners: Vec<TcpListener> = listeners.collect();
    let addresses = listeners
        .iter()
        .map(|it| it.local_addr().expect("an address"));
    addresses.collect()
}

/// Other addresses, HTTP/1.1 to the replicas, and no checks: the replicas of this test know nothing else.
fn configuration(replicas: &[SocketAddr], ports: &[SocketAddr]) -> String {
    let mut ports = ports.iter();
    let mut lines = Vec::new();
    for line in CONFIG.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["bind", _] => {
                let port = ports.next().expect("a port for each");
                lines.push(format!("    bind {port}"));
            }
            ["server-template", "ingest", ..] => {
                let servers = replicas.iter().enumerate();
                lines.extend(servers.map(|(n, at)| format!("    server r{n} {at}")));
            }
            ["server-template", ..] => lines.push("    server nobody 127.0.0.1:9".to_owned()),
            ["default-server", ..] => {}
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

fn key(head: &str) -> &str {
    let line = head
        .lines()
        .find_map(|it| it.strip_prefix("idempotency-key: "));
    line.unwrap_or_else(|| panic!("no key: {head}"))
}

#[test]
fn a_push_that_a_replica_has_seen_is_not_sent_again_and_a_question_is() {
    let (busy, well) = (Replica::start("503 Unconfirmed"), Replica::start("200 OK"));
    let Some(balancer) = Balancer::start(&[busy.address]) else {
        return;
    };
    assert_eq!(balancer.push(&[]), 503);
    assert_eq!(busy.asked("post").len(), 1, "once");
    let both = Balancer::start(&[busy.address, well.address]).expect("HAProxy");
    for _ in 0..10 {
        assert_eq!(http::get(both.ingest, "/v1/pipelines").0, 200);
    }
    assert!(
        !busy.asked("get").is_empty(),
        "it was asked first, now and then"
    );
}

#[test]
fn a_push_that_reached_no_replica_goes_to_another_with_the_id_it_was_given() {
    let well = Replica::start("200 OK");
    let gone = free_ports(1)[0];
    let Some(balancer) = Balancer::start(&[gone, well.address]) else {
        return;
    };
    for _ in 0..10 {
        assert_eq!(balancer.push(&[]), 200);
    }
    assert_eq!(balancer.push(&[("Idempotency-Key", "mine")]), 200);
    let asked = well.asked("post");
    let mut keys: Vec<&str> = asked.iter().map(|head| key(head)).collect();
    assert_eq!((keys.len(), keys.pop()), (11, Some("mine")));
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 10, "each its own");
}
