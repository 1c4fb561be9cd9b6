//! Free ports that stay usable across a restart.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use crate::Error;

const LOWEST: u16 = 15_000;
const ATTEMPTS_MAX: u32 = 1_000;

/// `count` different free ports, below the range from which the system takes the local ports of
/// outgoing connections. Inside that range, a client which reconnects to a stopped server can be
/// given the server's own port, connect to itself, and keep the server from ever binding it again.
pub(crate) fn free(count: usize) -> Result<Vec<u16>, Error> {
    let end = ephemeral_start();
    let mut held = Vec::new();
    for attempt in 0..ATTEMPTS_MAX {
        let width = u64::from(end.saturating_sub(LOWEST));
        let candidate = if width < 1_000 {
            0 // no room below: the system chooses
        } else {
            LOWEST + u16::try_from(RandomState::new().hash_one(attempt) % width).unwrap_or(0)
        };
        // Held until all are chosen, so that they differ.
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, candidate)) {
            held.push(listener);
        }
        if held.len() == count {
            break;
        }
    }
    let ports: Result<Vec<u16>, _> = held
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect();
    match ports {
        Ok(ports) if ports.len() == count => Ok(ports),
        _ => Err(Error::PortTaken { port: LOWEST }),
    }
}

pub(crate) fn check_free(port: u16) -> Result<(), Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .map(drop)
        .map_err(|_| Error::PortTaken { port })
}

fn ephemeral_start() -> u16 {
    const USUAL: u16 = 32_768;
    fs::read_to_string(Path::new("/proc/sys/net/ipv4/ip_local_port_range"))
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(USUAL)
}
