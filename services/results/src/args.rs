//! The command line of the results service.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
};

use clap::Parser;
use quadrille_proto::Service;
use quadrille_service::{Args, Error};

use crate::Config;

/// Far above any URL; a file that was named by mistake is not read whole.
const URL_BYTES_MAX: u64 = 1 << 16;

/// Keeps predictions: consumes `<pipeline>.predictions`, writes SQL, answers ResultsService, REST and a page.
#[derive(Debug, Parser)]
#[command(name = "results", version)]
pub struct Cli {
    #[command(flatten)]
    pub args: Args,

    #[command(flatten)]
    database: DatabaseArgs,
}

impl Cli {
    /// Checks the settings and reads the pipelines.
    ///
    /// # Errors
    /// Names the setting and the fix.
    pub fn config(self) -> Result<Config, Error> {
        Ok(Config {
            service: self.args.resolve(Service::Results)?,
            database_url: self.database.url()?,
        })
    }
}

/// Where predictions are stored: of this service, and of whoever looks after it.
#[derive(Debug, clap::Args)]
pub struct DatabaseArgs {
    /// Database of the results service: sqlite:path/to/file.db (one replica) or postgres://user:password@host/database (any number).
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "sqlite:results.db",
        value_name = "URL",
        hide_env_values = true
    )]
    pub database_url: String,

    /// File that holds the database URL, such as a mounted secret; used in place of --database-url.
    #[arg(long, env = "DATABASE_URL_FILE", value_name = "PATH")]
    pub database_url_file: Option<PathBuf>,
}

impl DatabaseArgs {
    /// The URL as given, or out of the file.
    ///
    /// # Errors
    /// The file cannot be read, or is empty.
    pub fn url(&self) -> Result<String, Error> {
        let Some(path) = &self.database_url_file else {
            return Ok(self.database_url.clone());
        };
        let wrong = |reason: String| {
            let path = path.display();
            Error::Config(format!("DATABASE_URL_FILE {path}: {reason}"))
        };
        let text = text(path).map_err(|error| wrong(error.to_string()))?;
        match text.trim() {
            "" => Err(wrong("is empty; write the database URL to it".to_owned())),
            url => Ok(url.to_owned()),
        }
    }
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?;
    let read = file.take(URL_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > URL_BYTES_MAX {
        let reason = format!(
            "larger than {} KiB, so it holds no URL",
            URL_BYTES_MAX >> 10
        );
        return Err(io::Error::new(ErrorKind::FileTooLarge, reason));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_goes_before_the_url_and_one_without_a_url_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        let mut args = DatabaseArgs {
            database_url: "sqlite:results.db".to_owned(),
            database_url_file: None,
        };
        assert_eq!(args.url().unwrap(), "sqlite:results.db");
        std::fs::write(&path, "postgres://u:secret@h/x\n").unwrap();
        args.database_url_file = Some(path.clone());
        assert_eq!(args.url().unwrap(), "postgres://u:secret@h/x");
        std::fs::write(&path, "\n").unwrap();
        assert!(args.url().unwrap_err().to_string().contains("is empty"));
        std::fs::write(&path, "x".repeat(100_000)).unwrap();
        assert!(args.url().unwrap_err().to_string().contains("larger than"));
        args.database_url_file = Some(folder.path().join("nowhere"));
        let missing = args.url().unwrap_err().to_string();
        assert!(missing.contains("DATABASE_URL_FILE"), "{missing}");
    }
}
