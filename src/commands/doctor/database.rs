//! The database of results, looked at without opening it: opening would make the file or bring the tables up to date.

use std::{
    fs,
    io::{ErrorKind, Read},
    path::Path,
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};

use super::Check;
use crate::kafka::blocking;

const OF: &str = "database";
/// A server that accepts no connection by then is as good as away.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const POSTGRES_PORT: u16 = 5432;
/// How every SQLite file begins.
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";

pub async fn check(url: &str) -> Check {
    match url.split_once(':') {
        Some(("sqlite", rest)) => {
            let path = rest.trim_start_matches("//");
            let path = path.split('?').next().unwrap_or_default().to_owned();
            if path.is_empty() || path.contains(":memory:") {
                return Check::ok(OF, "SQLite in memory: it ends with the results service");
            }
            let looked = blocking(move || Ok(sqlite(Path::new(&path)))).await;
            looked.unwrap_or_else(|error| Check::failed(OF, error))
        }
        Some(("postgres" | "postgresql", rest)) => postgres(rest.trim_start_matches("//")).await,
        // No more of it: the rest may hold a password.
        _ => Check::failed(
            OF,
            "DATABASE_URL has an unknown form; use sqlite:path/to/file.db or postgres://user:password@host/database",
        ),
    }
}

fn sqlite(path: &Path) -> Check {
    let shown = path.display();
    let mut head = [0; SQLITE_MAGIC.len()];
    let read = fs::File::open(path).and_then(|mut file| file.read(&mut head));
    match read {
        Ok(0) => Check::ok(OF, format!("{shown}: empty, results makes its tables")),
        Ok(_) if head == SQLITE_MAGIC => match fs::metadata(path) {
            Ok(metadata) if metadata.permissions().readonly() => Check::failed(
                OF,
                format!("{shown} cannot be written; change its permissions"),
            ),
            _ => Check::ok(OF, format!("{shown}: SQLite, for one results replica")),
        },
        Ok(_) => Check::failed(
            OF,
            format!("{shown} is no SQLite file; set DATABASE_URL to another one"),
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Check::ok(OF, format!("{shown}: not there yet, results makes it"))
        }
        Err(error) => Check::failed(OF, format!("{shown}: {error}; check DATABASE_URL")),
    }
}

async fn postgres(rest: &str) -> Check {
    let Some((host, port)) = server(rest) else {
        return Check::warning(OF, "PostgreSQL by a socket or a parameter: not looked at");
    };
    let connecting = TcpStream::connect((host.as_str(), port));
    let reason = match timeout(CONNECT_WITHIN, connecting).await {
        Ok(Ok(_)) => {
            return Check::ok(
                OF,
                format!(
                    "PostgreSQL's port answers at {host}:{port}; user and tables are not looked at"
                ),
            );
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", CONNECT_WITHIN.as_secs()),
    };
    Check::failed(
        OF,
        format!(
            "PostgreSQL does not answer at {host}:{port}: {reason}; start it, or check DATABASE_URL"
        ),
    )
}

/// Host and port of `[USER[:PASSWORD]@]HOST[:PORT][/DATABASE][?…]`.
fn server(rest: &str) -> Option<(String, u16)> {
    let authority = rest.split(['/', '?']).next()?;
    let place = authority.rsplit('@').next()?;
    let after_host = place.rfind(']').unwrap_or(0);
    let (host, port) = match place[after_host..].rsplit_once(':') {
        Some((host, port)) => (&place[..after_host + host.len()], port.parse().ok()?),
        None => (place, POSTGRES_PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    #[test]
    fn a_server_is_found_in_a_url_and_no_password() {
        for (rest, expected) in [
            ("u:p@db:5433/results", Some(("db", 5433))),
            ("u:p%40:1@db/results?sslmode=require", Some(("db", 5432))),
            ("db", Some(("db", 5432))),
            ("u@[::1]:7/x", Some(("::1", 7))),
            ("[::1]", Some(("::1", 5432))),
            ("/results?host=/run/postgresql", None),
            ("db:port/x", None),
        ] {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(server(rest), expected, "{rest}");
        }
    }

    #[tokio::test]
    async fn a_database_is_looked_at_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.db");
        let url = format!("sqlite:{}", path.display());
        assert_eq!(check(&url).await.status, Status::Ok);
        assert!(!path.exists());
        fs::write(&path, "id,key\n1,2\n").unwrap();
        let refused = check(&url).await;
        assert_eq!(refused.status, Status::Failed);
        assert!(refused.found.contains("no SQLite file"), "{refused:?}");
        fs::write(&path, SQLITE_MAGIC).unwrap();
        assert_eq!(check(&url).await.status, Status::Ok);
        let away = check("postgres://u:secret@127.0.0.1:1/x").await;
        assert_eq!(away.status, Status::Failed);
        assert!(!away.found.contains("secret"), "{away:?}");
        let unknown = check("mysql://u:secret@h/x").await;
        assert!(unknown.status == Status::Failed && !unknown.found.contains("secret"));
    }
}
