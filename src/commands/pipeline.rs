//! `quadrille pipeline`: pipeline files looked over, explained, and described for editors.

mod check;
mod schema;
mod show;

use std::path::PathBuf;

use quadrille_pipeline::{Loaded, Pipeline};
use quadrille_service::Error;

use crate::{output::OutputArg, pipelines::FOLDER_DEFAULT};

const EXAMPLES: &str = "\
Examples:
  quadrille pipeline check                               the files that the services run
  quadrille pipeline check pipelines/*.toml draft.toml
  quadrille pipeline show pipelines/diabetes.toml
  quadrille pipeline show --output json
  quadrille pipeline schema > pipeline.schema.json

Editors that know JSON Schema complete and check pipeline files by the schema. With Taplo (Even Better TOML) the first line of
a file names it:  #:schema ./pipeline.schema.json";

#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// Check pipeline files: what is wrong, what is hardly meant, where, and how to put it right.
    Check(check::Args),
    /// Say what pipeline files mean: fields, features, decision, topics, and the hash that models are made for.
    Show(show::Args),
    /// Print the JSON Schema of pipeline files, for editors.
    Schema(schema::Args),
}

/// The files of commands that need no Kafka.
#[derive(Debug, clap::Args)]
struct Files {
    /// Pipeline files, or folders of them.
    #[arg(env = "QUADRILLE_PIPELINE", default_value = FOLDER_DEFAULT, value_name = "PATH")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    output: OutputArg,
}

/// # Errors
/// A file is refused.
pub fn run(command: &Command) -> Result<(), Error> {
    match command {
        Command::Check(args) => check::run(args),
        Command::Show(args) => show::run(args),
        Command::Schema(args) => schema::run(args),
    }
}

impl Files {
    /// What became of each file.
    ///
    /// # Errors
    /// A folder cannot be read, or has no pipeline file.
    fn load(&self) -> Result<Vec<Loaded>, Error> {
        let mut all = Vec::new();
        for path in &self.files {
            let each =
                Pipeline::load_each(path).map_err(|error| Error::Config(error.to_string()))?;
            all.extend(each);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests;
