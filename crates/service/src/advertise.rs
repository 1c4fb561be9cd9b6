//! Where other replicas of a service reach this one, as it says it to them.

use axum::http::uri::Authority;

use crate::Error;

/// A `host:port` of another machine's point of view.
///
/// # Errors
/// Names the setting and the fix.
pub(crate) fn read(given: &str) -> Result<String, Error> {
    let wrong = |why: &str| {
        Error::Config(format!(
            "QUADRILLE_ADVERTISE is {given:?}: {why}; give HOST:PORT, by which other replicas of the service reach this one"
        ))
    };
    let authority: Authority = given.parse().map_err(|_| wrong("it is no address"))?;
    if given.contains('@') {
        return Err(wrong("a user is not needed"));
    }
    match authority.port_u16() {
        None => return Err(wrong("the port is missing")),
        Some(0) => return Err(wrong("nobody is reached at port 0")),
        Some(_) => {}
    }
    match authority.host() {
        "" => Err(wrong("the host is missing")),
        "0.0.0.0" | "[::]" => Err(wrong(
            "it stands for every address of a machine, and names none",
        )),
        _ => Ok(given.to_ascii_lowercase()),
    }
}

/// The host of an address, as `Host` bears it without the port.
pub(crate) fn host(address: &str) -> Option<&str> {
    address.rsplit_once(':').map(|(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_host_and_a_port_by_which_others_can_come() {
        for given in ["feature-0.feature:7002", "10.0.0.7:7002", "[fd00::1]:7002"] {
            assert_eq!(read(given).unwrap(), given);
        }
        assert_eq!(read("Feature-0:7002").unwrap(), "feature-0:7002");
        for wrong in [
            "",
            "feature",
            "feature:",
            ":7002",
            "feature:0",
            "feature:70000",
            "http://feature:7002",
            "feature:7002/",
            "a b:7002",
            "user@feature:7002",
            "0.0.0.0:7002",
            "[::]:7002",
        ] {
            let refused = read(wrong).unwrap_err().to_string();
            assert!(
                refused.contains("QUADRILLE_ADVERTISE"),
                "{wrong}: {refused}"
            );
        }
    }
}
