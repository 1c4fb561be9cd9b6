//! One Metadata request (version 4), encoded by hand: which brokers are alive, and of which cluster?
//! A port that accepts connections is not enough: the broker answers with itself in the list only
//! once its controller lets it serve.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

const ANSWER_MAX: Duration = Duration::from_secs(2);
/// The largest response: a broker takes some twenty bytes, and no topic is requested.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

const REQUEST: [u8; 28] = *b"\
    \x00\x00\x00\x18\
    \x00\x03\
    \x00\x04\
    \x00\x00\x00\x01\
    \x00\x09quadrille\
    \x00\x00\x00\x00\
    \x00";

/// A cluster as one of its brokers describes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub cluster_id: String,
    /// Ids of the brokers that serve; at least one.
    pub live: Vec<i32>,
}

/// The cluster of the broker on a port, if at least one broker is live.
pub(super) fn of_broker(port: u16) -> io::Result<Found> {
    let mut broker = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    broker.set_read_timeout(Some(ANSWER_MAX))?;
    broker.set_write_timeout(Some(ANSWER_MAX))?;
    broker.write_all(&REQUEST)?;
    let mut length = [0; 4];
    broker.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > ANSWER_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut answer = vec![0; length];
    broker.read_exact(&mut answer)?;
    cluster(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Correlation id, throttle time, brokers (id, host, port, rack), cluster id, …
fn cluster(answer: &[u8]) -> Option<Found> {
    let mut rest = answer;
    take(&mut rest, 8)?;
    let brokers = integer(&mut rest)?;
    if brokers < 1 {
        return None;
    }
    let mut live = Vec::new();
    for _ in 0..brokers {
        live.push(integer(&mut rest)?);
        string(&mut rest)?;
        take(&mut rest, 4)?;
        string(&mut rest)?;
    }
    let cluster_id = string(&mut rest)?;
    Some(Found { cluster_id, live })
}

fn integer(rest: &mut &[u8]) -> Option<i32> {
    Some(i32::from_be_bytes(take(rest, 4)?.try_into().ok()?))
}

/// A string, empty for null.
fn string(rest: &mut &[u8]) -> Option<String> {
    let length = i16::from_be_bytes(take(rest, 2)?.try_into().ok()?);
    let bytes = take(rest, usize::try_from(length).unwrap_or(0))?;
    String::from_utf8(bytes.to_vec()).ok()
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_states_its_own_length() {
        assert_eq!(usize::from(REQUEST[3]), REQUEST.len() - 4);
    }

    #[test]
    fn the_cluster_is_read_only_when_a_broker_is_live() {
        let live = b"\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x01\0\x01h\0\0\x23\x84\xff\xff\0\x02id\0";
        let expected = Found {
            cluster_id: "id".to_owned(),
            live: vec![1],
        };
        assert_eq!(cluster(live), Some(expected));
        assert_eq!(cluster(b"\0\0\0\x01\0\0\0\0\0\0\0\0\0\x02id"), None);
        assert_eq!(cluster(&live[..20]), None);
    }
}
