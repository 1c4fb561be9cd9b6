//! One connection to PostgreSQL: a thread for what the client sends, one for what the server answers.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::{Held, Network, Statement, Verdict, lock};

/// What our services send is far smaller; a length beyond it is not one.
const MESSAGE_BYTES_MAX: usize = 100 << 20;
/// How much of the server's answer is forwarded at a time.
const ANSWER_BYTES: usize = 64 << 10;
const SIZE_BYTES: usize = 4;
/// Protocol 3: the start-up message, as opposed to those that may precede it (a request for TLS, say).
const VERSION: std::ops::Range<u32> = 3 << 16..4 << 16;

/// The client has lost its connection, the server has not.
#[derive(Default)]
struct Orphaned(Mutex<Option<Option<Held>>>);

pub(super) fn open(
    network: &Arc<Network<Statement>>,
    id: u64,
    client: TcpStream,
    server: TcpStream,
) -> io::Result<()> {
    let orphaned = Arc::new(Orphaned::default());
    let orphaned_back = Arc::clone(&orphaned);
    network.connect(
        id,
        client,
        server,
        move |network, client, server| {
            let ended = statements(network, &orphaned, (client, server));
            // Where the server's answer is still to come, the other thread closes.
            ended.is_err() || lock(&orphaned.0).is_none()
        },
        move |network, client, server| {
            let _ = answers(network, &orphaned_back, (server, client));
        },
    )
}

/// Until the connection is closed, or it is orphaned.
fn statements(
    network: &Network<Statement>,
    orphaned: &Orphaned,
    (mut client, mut server): (&TcpStream, &TcpStream),
) -> io::Result<()> {
    let mut begun = false;
    loop {
        let message = match begun {
            true => message(&mut client)?,
            false => opening(&mut client, &mut begun)?,
        };
        network.travel();
        let orphan = |held: Option<Held>| {
            *lock(&orphaned.0) = Some(held);
            client.shutdown(Shutdown::Both)
        };
        match network.judge(&statement(&message)) {
            Verdict::Pass => server.write_all(&message)?,
            Verdict::Lose => return Ok(()),
            Verdict::LoseAnswer => {
                orphan(None)?;
                return server.write_all(&message);
            }
            Verdict::Slow(by) => {
                thread::sleep(by);
                server.write_all(&message)?;
            }
            Verdict::Hold(held) => {
                held.here();
                held.wait_released();
                server.write_all(&message)?;
            }
            Verdict::Late(held) => {
                orphan(Some(held.clone()))?;
                held.here();
                held.wait_released();
                return server.write_all(&message);
            }
        }
    }
}

/// The client sends one request at a time, so what arrives for an orphan is the answer that is to be lost.
fn answers(
    network: &Network<Statement>,
    orphaned: &Orphaned,
    (mut server, mut client): (&TcpStream, &TcpStream),
) -> io::Result<()> {
    let mut buffer = vec![0; ANSWER_BYTES];
    loop {
        let read = server.read(&mut buffer)?;
        network.travel();
        if let Some(held) = &*lock(&orphaned.0) {
            held.iter().for_each(Held::answered);
            return Ok(());
        }
        match buffer.get(..read) {
            None | Some([]) => return Ok(()),
            Some(answer) => client.write_all(answer)?,
        }
    }
}

/// A message from before the first with a kind: its size, which counts itself, and its body.
fn opening(from: &mut impl Read, begun: &mut bool) -> io::Result<Vec<u8>> {
    let message = sized(from, Vec::new())?;
    let version = message.get(SIZE_BYTES..2 * SIZE_BYTES);
    let version = version.and_then(|bytes| bytes.try_into().ok());
    *begun = version.is_some_and(|bytes| VERSION.contains(&u32::from_be_bytes(bytes)));
    Ok(message)
}

/// Its kind, a letter, before the size.
fn message(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut kind = vec![0];
    from.read_exact(&mut kind)?;
    sized(from, kind)
}

fn sized(from: &mut impl Read, mut message: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut size = [0; SIZE_BYTES];
    from.read_exact(&mut size)?;
    let length = usize::try_from(u32::from_be_bytes(size)).unwrap_or(usize::MAX);
    if !(SIZE_BYTES..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    message.extend(size);
    let start = message.len();
    message.resize(start + length - SIZE_BYTES, 0);
    if let Some(body) = message.get_mut(start..) {
        from.read_exact(body)?;
    }
    Ok(message)
}

/// Of a query its SQL, of a statement that is prepared (a name, SQL) as well.
fn statement(message: &[u8]) -> Statement {
    let body = message.get(1 + SIZE_BYTES..).unwrap_or_default();
    let mut texts = body.split(|byte| *byte == 0);
    let sql = match message.first() {
        Some(b'Q') => texts.next(),
        Some(b'P') => texts.nth(1),
        _ => None,
    };
    Statement {
        sql: String::from_utf8_lossy(sql.unwrap_or_default()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_s_first_messages_have_no_kind() {
        let tls = b"\0\0\0\x08\x04\xd2\x16\x2f";
        let start = b"\0\0\0\x0c\0\x03\0\0user";
        let mut begun = false;
        assert_eq!(opening(&mut &tls[..], &mut begun).expect("read"), tls);
        assert!(!begun);
        assert_eq!(opening(&mut &start[..], &mut begun).expect("read"), start);
        assert!(begun);
    }

    #[test]
    fn a_statement_is_known_by_its_sql() {
        let query = b"Q\0\0\0\x0bCOMMIT\0";
        let read = message(&mut &query[..]).expect("read");
        assert_eq!(read, query);
        assert_eq!(statement(&read).sql, "COMMIT");
        assert_eq!(
            statement(b"P\0\0\0\x13name\0SELECT 1\0\0\0").sql,
            "SELECT 1"
        );
        assert_eq!(statement(b"S\0\0\0\x04").sql, "");
        assert!(message(&mut &b"Q\0\0\0\x01"[..]).is_err());
    }
}
