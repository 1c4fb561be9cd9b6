//! What can go wrong in a store, and which of it passes by itself.

use std::path::PathBuf;

use sqlx::migrate::MigrateError;

use crate::prediction;

/// Why an operation of a store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "DATABASE_URL has the unknown form {scheme:?}: use sqlite:path/to/file.db (one results \
         replica) or postgres://user:password@host/database (any number)"
    )]
    Url { scheme: String },
    #[error(
        "{file} is in use by another results service: SQLite serves one replica only; end the \
         other one, or set DATABASE_URL to a postgres: database to run several",
        file = file.display()
    )]
    InUse { file: PathBuf },
    #[error("{file}: {source}", file = file.display())]
    File {
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("the database's tables cannot be brought up to date: {0}")]
    Migrate(#[from] MigrateError),
    #[error(
        "topic {topic:?}: the database has its offsets from {stored}, but now it is {found}. This \
         is another Kafka, or the topic was deleted and created anew, so the stored offsets mean \
         nothing here. Set DATABASE_URL to another database, or, to read the topic from its start \
         into this one, DELETE FROM offsets WHERE topic = '{topic}' (ids stored already are then \
         counted as duplicates)"
    )]
    OtherTopic {
        topic: String,
        stored: String,
        found: String,
    },
    #[error(
        "topic {topic:?} partition {partition}: its stored offset is not the one this batch starts \
         from; another replica has taken the partition over, so nothing of the batch was written"
    )]
    Fenced { topic: String, partition: i32 },
    #[error(
        "partition {partition}: a batch would move its offset back from {old} to {new}, so nothing of it was written"
    )]
    Backwards { partition: i32, old: i64, new: i64 },
    #[error("partition {partition} occurs twice in one batch")]
    PartitionTwice { partition: i32 },
    #[error("prediction {id:?} cannot be stored, so nothing of its batch was written: {source}")]
    Unstorable {
        id: String,
        source: prediction::Error,
    },
    #[error("the database did not answer within {seconds} s")]
    Timeout { seconds: u64 },
    #[error("the query was stopped after {seconds} s")]
    TooSlow { seconds: u64 },
    #[error("the service is stopping and no longer waits for the database")]
    Stopping,
    #[error("{0}")]
    Database(#[from] sqlx::Error),
}

impl Error {
    /// Whether the same may succeed later without anyone changing anything.
    ///
    /// After a retriable error of a write its outcome is unknown (the commit may have been the
    /// last thing the database heard): claim the partitions again and go on from there.
    pub fn is_retriable(&self) -> bool {
        match self {
            Error::Timeout { .. } | Error::TooSlow { .. } | Error::Stopping => true,
            Error::Database(error) => is_transient(error),
            Error::Migrate(MigrateError::Execute(error)) => is_transient(error),
            Error::Migrate(MigrateError::ExecuteMigration(error, _)) => is_transient(error),
            // Fenced: the same batch never succeeds; claim again instead.
            _ => false,
        }
    }
}

/// Whether the database ended a statement that took too long.
pub(super) fn is_interrupted(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return false;
    };
    let code = error.code().unwrap_or_default();
    match error.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
        Some(_) => code
            .parse::<i32>()
            .is_ok_and(|code| code & 0xff == SQLITE_INTERRUPT),
        None => code == "57014",
    }
}

const SQLITE_INTERRUPT: i32 = 9;

fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
        // A connection that broke while it was being made (the driver takes the missing answer to its TLS request for
        // a byte of 0), or a proxy before a database that is unreachable. The database itself says what is wrong.
        sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => match error.code() {
            Some(code) => match error.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
                Some(_) => is_transient_in_sqlite(&code),
                None => is_transient_in_postgres(&code),
            },
            None => false,
        },
        _ => false,
    }
}

/// SQLite's extended result codes hold the primary one in the lowest byte.
fn is_transient_in_sqlite(code: &str) -> bool {
    const BUSY: i32 = 5;
    const LOCKED: i32 = 6;
    code.parse::<i32>()
        .is_ok_and(|code| matches!(code & 0xff, BUSY | LOCKED))
}

/// By SQLSTATE; <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn is_transient_in_postgres(code: &str) -> bool {
    // Connection exceptions, and transaction rollbacks: serialization failures, deadlocks.
    code.starts_with("08")
        || code.starts_with("40")
        || matches!(
            code,
            // Out of memory, too many connections.
            "53200" | "53300"
            // Lock not available, query cancelled (by a timeout).
            | "55P03" | "57014"
            // Shutting down, crashed, starting up, database being dropped.
            | "57P01" | "57P02" | "57P03" | "57P05"
            // Idle in a transaction for too long; read-only, as a standby is until promoted.
            | "25P03" | "25006"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_retriable_and_what_needs_a_human_is_not() {
        for code in ["08006", "40001", "40P01", "57P03", "53300"] {
            assert!(is_transient_in_postgres(code), "{code}");
        }
        // Disk full, no such table, wrong password, invalid text.
        for code in ["53100", "42P01", "28P01", "22021"] {
            assert!(!is_transient_in_postgres(code), "{code}");
        }
        assert!(is_transient_in_sqlite("5") && is_transient_in_sqlite("517"));
        // Disk full, input or output error, constraint.
        assert!(
            !["13", "10", "2067", "x"]
                .into_iter()
                .any(is_transient_in_sqlite)
        );
        assert!(Error::Database(sqlx::Error::PoolTimedOut).is_retriable());
        assert!(
            !Error::Fenced {
                topic: "t".into(),
                partition: 0
            }
            .is_retriable()
        );
    }
}
