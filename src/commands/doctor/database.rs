//! The database of results, looked at without opening it: opening would make the file or bring the tables up to date.

use std::{
    fs,
    io::{self, ErrorKind, Read},
    path::Path,
    time::Duration,
};

use results::DatabaseArgs;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::Check;
use crate::kafka::blocking;

const OF: &str = "database";
/// A server that does not answer by then is as good as away.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// PostgreSQL's SSLRequest: its own length, then a code. The answer is one byte, S or N.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const POSTGRES_PORT: u16 = 5432;
/// How every SQLite file begins.
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";

/// Looks at the database that the results service would use.
pub async fn check(args: &DatabaseArgs) -> Check {
    match args.url() {
        Ok(url) => check_url(&url).await,
        Err(error) => Check::failed(OF, error.to_string()),
    }
}

async fn check_url(url: &str) -> Check {
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
    match head(path) {
        Ok(head) if head.is_empty() => {
            Check::ok(OF, format!("{shown}: empty, results makes its tables"))
        }
        Ok(head) if head == SQLITE_MAGIC => {
            Check::ok(OF, format!("{shown}: SQLite, for one results replica"))
        }
        Ok(_) => Check::failed(
            OF,
            format!("{shown} is no SQLite file; set DATABASE_URL to another one"),
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Check::ok(OF, format!("{shown}: not there yet, results makes it"))
        }
        Err(error) => Check::failed(
            OF,
            format!(
                "{shown}: {error}; results reads and writes it: change its permissions, or DATABASE_URL"
            ),
        ),
    }
}

/// How a file begins that can be read and written; nothing is written.
fn head(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its other end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut head = Vec::new();
    file.take(SQLITE_MAGIC.len() as u64)
        .read_to_end(&mut head)?;
    Ok(head)
}

async fn postgres(rest: &str) -> Check {
    let Some((host, port)) = server(rest) else {
        return Check::warning(OF, "PostgreSQL by a socket or a parameter: not looked at");
    };
    let reason = match timeout(ANSWER_WITHIN, is_postgres(&host, port)).await {
        Ok(Ok(true)) => {
            return Check::ok(
                OF,
                format!("PostgreSQL answers at {host}:{port}; user and tables are not looked at"),
            );
        }
        Ok(Ok(false)) => {
            return Check::warning(
                OF,
                format!(
                    "what listens at {host}:{port} does not answer as PostgreSQL does; check DATABASE_URL"
                ),
            );
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", ANSWER_WITHIN.as_secs()),
    };
    Check::failed(
        OF,
        format!(
            "PostgreSQL does not answer at {host}:{port}: {reason}; start it, or check DATABASE_URL"
        ),
    )
}

/// Whether PostgreSQL, or a pooler before it, listens: it says whether it has TLS before anyone has a name.
async fn is_postgres(host: &str, port: u16) -> io::Result<bool> {
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(&SSL_REQUEST).await?;
    let mut answer = [0];
    let read = stream.read(&mut answer).await?;
    Ok(read == 1 && matches!(&answer, b"S" | b"N"))
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
        assert_eq!(check_url(&url).await.status, Status::Ok);
        assert!(!path.exists());
        fs::write(&path, "id,key\n1,2\n").unwrap();
        let refused = check_url(&url).await;
        assert_eq!(refused.status, Status::Failed);
        assert!(refused.found.contains("no SQLite file"), "{refused:?}");
        fs::write(&path, SQLITE_MAGIC).unwrap();
        assert_eq!(check_url(&url).await.status, Status::Ok);
        let away = check_url("postgres://u:secret@127.0.0.1:1/x").await;
        assert_eq!(away.status, Status::Failed);
        assert!(!away.found.contains("secret"), "{away:?}");
        let file = folder.path().join("url");
        fs::write(&file, format!("{url}\n")).unwrap();
        let mut place = DatabaseArgs {
            database_url: "mysql://u:secret@h/x".to_owned(),
            database_url_file: Some(file),
        };
        assert_eq!(super::check(&place).await.status, Status::Ok);
        place.database_url_file = Some(folder.path().join("nowhere"));
        let missing = super::check(&place).await;
        assert!(missing.found.contains("DATABASE_URL_FILE"), "{missing:?}");
        let unknown = check_url("mysql://u:secret@h/x").await;
        assert!(unknown.status == Status::Failed && !unknown.found.contains("secret"));
    }

    #[tokio::test]
    async fn a_pipe_is_no_database_and_nobody_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let url = format!("sqlite:{}", path.display());
        let looked = timeout(ANSWER_WITHIN, check_url(&url)).await;
        assert_eq!(looked.unwrap().status, Status::Failed);
    }

    #[tokio::test]
    async fn postgresql_is_what_says_whether_it_has_tls() {
        for (answer, status) in [
            (&b"N"[..], Status::Ok),
            (b"S", Status::Ok),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", Status::Warning),
            (b"", Status::Warning),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 8];
                stream.read_exact(&mut request).await.unwrap();
                assert_eq!(request, SSL_REQUEST);
                let _ = stream.write_all(answer).await;
            });
            let check = check_url(&format!("postgres://u:secret@127.0.0.1:{port}/x")).await;
            assert_eq!(check.status, status, "{check:?}");
        }
    }
}
