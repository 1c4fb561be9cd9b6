//! As much of an S3-compatible store as a test needs: signed GETs of objects.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

const KEY_ID: &str = "an-id";
pub const SECRET: &str = "very-secret";

type Objects = BTreeMap<String, Vec<u8>>;

/// A store of one bucket, `models`; it listens as long as the tests run.
pub struct Bucket {
    address: SocketAddr,
    objects: Arc<Mutex<Objects>>,
}

impl Bucket {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let objects = Arc::<Mutex<Objects>>::default();
        let shared = Arc::clone(&objects);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let objects = Arc::clone(&shared);
                // Who goes away has no answer.
                std::thread::spawn(move || answer(&stream, &objects));
            }
        });
        Bucket { address, objects }
    }

    pub fn put(&self, key: &str, bytes: Vec<u8>) {
        let mut objects = self.objects.lock().expect("no panic");
        objects.insert(key.to_owned(), bytes);
    }

    /// What tells a process of this store.
    pub fn env(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL_S3", format!("http://{}", self.address)),
            ("AWS_REGION", "eu-west-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY_ID.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_SESSION_TOKEN", String::new()),
        ]
    }
}

fn answer(mut stream: &TcpStream, objects: &Mutex<Objects>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let target = request.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let signed = query.contains(&format!("X-Amz-Credential={KEY_ID}%2F"))
        && query.contains("%2Feu-west-1%2Fs3%2F")
        && query.contains("X-Amz-Signature=");
    let object = path.strip_prefix("/models/").and_then(|key| {
        let objects = objects.lock().expect("no panic");
        objects.get(key).cloned()
    });
    let (status, body) = match (signed, object) {
        (false, _) => ("403 Forbidden", b"<Code>AccessDenied</Code>".to_vec()),
        (true, None) => ("404 Not Found", b"<Code>NoSuchKey</Code>".to_vec()),
        (true, Some(object)) => ("200 OK", object),
    };
    let bytes = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(&body)
}
