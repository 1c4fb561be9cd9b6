//! One connection to Kafka: a thread for what the client sends, one for what the broker answers.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::{Held, Network, Request, Verdict, lock};

/// A broker takes no larger request by default (`socket.request.max.bytes`).
const FRAME_BYTES_MAX: usize = 100 << 20;
const SIZE_BYTES: usize = 4;
/// Key and version.
const API_BYTES: usize = 4;

/// What its two threads share.
#[derive(Default)]
struct Fate {
    /// The client has lost its connection, the broker has not.
    orphaned: Mutex<Option<Orphaned>>,
}

struct Orphaned {
    correlation: i32,
    held: Option<Held>,
}

pub(super) fn open(
    network: &Arc<Network<Request>>,
    id: u64,
    client: TcpStream,
    broker: TcpStream,
) -> io::Result<()> {
    let fate = Arc::new(Fate::default());
    let fate_back = Arc::clone(&fate);
    network.connect(
        id,
        client,
        broker,
        move |network, client, broker| {
            let ended = requests(network, &fate, (client, broker));
            !matches!(ended, Ok(End::Orphaned))
        },
        move |network, client, broker| {
            let _ = answers(network, &fate_back, (broker, client));
        },
    )
}

enum End {
    Closed,
    /// The broker's answer is still to come.
    Orphaned,
}

fn requests(
    network: &Network<Request>,
    fate: &Fate,
    (mut client, mut broker): (&TcpStream, &TcpStream),
) -> io::Result<End> {
    loop {
        let frame = read(&mut client)?;
        network.travel();
        let request = request(&frame).ok_or(io::ErrorKind::InvalidData)?;
        let orphan = |held: Option<Held>| {
            let correlation = request.correlation;
            *lock(&fate.orphaned) = Some(Orphaned { correlation, held });
            client.shutdown(Shutdown::Both)
        };
        match network.judge(&request) {
            Verdict::Pass => broker.write_all(&frame)?,
            Verdict::Lose => return Ok(End::Closed),
            Verdict::LoseAnswer => {
                orphan(None)?;
                broker.write_all(&frame)?;
                return Ok(End::Orphaned);
            }
            Verdict::Slow(by) => {
                thread::sleep(by);
                broker.write_all(&frame)?;
            }
            Verdict::Hold(held) => {
                held.here();
                held.wait_released();
                broker.write_all(&frame)?;
            }
            Verdict::Late(held) => {
                orphan(Some(held.clone()))?;
                held.here();
                held.wait_released();
                broker.write_all(&frame)?;
                return Ok(End::Orphaned);
            }
        }
    }
}

fn answers(
    network: &Network<Request>,
    fate: &Fate,
    (mut broker, mut client): (&TcpStream, &TcpStream),
) -> io::Result<()> {
    loop {
        let frame = read(&mut broker)?;
        network.travel();
        let correlation = integer(&frame, SIZE_BYTES).ok_or(io::ErrorKind::InvalidData)?;
        match &*lock(&fate.orphaned) {
            None => {}
            Some(orphaned) if orphaned.correlation == correlation => {
                if let Some(held) = &orphaned.held {
                    held.answered();
                }
                return Ok(());
            }
            // Answers to earlier requests: they are dropped.
            Some(_) => continue,
        }
        if let Err(error) = client.write_all(&frame)
            && lock(&fate.orphaned).is_none()
        {
            return Err(error);
        }
    }
}

/// A frame with its size before it.
fn read(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut size = [0; SIZE_BYTES];
    from.read_exact(&mut size)?;
    let length = usize::try_from(u32::from_be_bytes(size)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; SIZE_BYTES + length];
    let (head, body) = frame.split_at_mut(SIZE_BYTES);
    head.copy_from_slice(&size);
    from.read_exact(body)?;
    Ok(frame)
}

/// Of all versions of a request's header: key, version, correlation id, client id.
fn request(frame: &[u8]) -> Option<Request> {
    let after_api = SIZE_BYTES + API_BYTES;
    let length = short(frame, after_api + 4)?;
    let start = after_api + 6;
    let client_id = match usize::try_from(length) {
        Ok(length) => frame.get(start..start + length)?,
        Err(_) => &[], // null
    };
    Some(Request {
        api_key: short(frame, SIZE_BYTES)?,
        correlation: integer(frame, after_api)?,
        client_id: String::from_utf8_lossy(client_id).into_owned(),
    })
}

fn short(frame: &[u8], at: usize) -> Option<i16> {
    let bytes = frame.get(at..at + 2)?;
    Some(i16::from_be_bytes(bytes.try_into().ok()?))
}

fn integer(frame: &[u8], at: usize) -> Option<i32> {
    let bytes = frame.get(at..at + 4)?;
    Some(i32::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_its_header() {
        let frame = b"\0\0\0\x0f\0\x1a\0\x01\0\0\0\x07\0\x03abc\0\0";
        let read = read(&mut &frame[..]).expect("a frame");
        assert_eq!(read, frame);
        let expected = Request {
            api_key: 26,
            correlation: 7,
            client_id: "abc".to_owned(),
        };
        assert_eq!(request(&read), Some(expected));
        let anonymous = request(b"\0\0\0\x0a\0\x1a\0\x01\0\0\0\x07\xff\xff").expect("a header");
        assert_eq!(anonymous.client_id, "");
        assert_eq!(request(&frame[..12]), None);
    }
}
