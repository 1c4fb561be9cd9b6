//! `quadrille model`: packages put on the log, looked at, taken away.

mod delete;
mod import;
mod list;
mod package;
mod push;
mod show;
mod versions;
mod watch;

use quadrille_service::Error;

use crate::kafka::blocking;

const EXAMPLES: &str = "\
Examples:
  quadrille model import forest.onnx --pipeline pipelines/diabetes.toml --out models/diabetes
  quadrille model push models/diabetes
  quadrille model push models/diabetes --pipeline pipelines/diabetes.toml
  quadrille model push --uri s3://models/diabetes/3/
  quadrille model push --uri file:///mnt/models/diabetes/3/
  quadrille model list
  quadrille model show diabetes 3
  quadrille model delete diabetes 2
  quadrille model watch models

A version does not change: the same content may be pushed again, other content is another version. Every inference replica learns of \
a version from the topic quadrille.models; which one serves is decided by `quadrille deploy`.

By --uri the artefact stays where it is, and every replica fetches it from there when it needs it. The store of s3: is that of \
AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, or AWS in AWS_REGION [default: us-east-1]; the keys are AWS_ACCESS_KEY_ID, \
AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, none for a public bucket. Replicas have the same variables.";

#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// Make a package of an ONNX file.
    Import(import::Args),
    /// Check a package and put it on the log.
    Push(push::Args),
    /// Show all versions, and what each replica has made of them.
    List(list::Args),
    /// Show a model's versions, or all about one.
    Show(show::Args),
    /// Take a version off the log; refused while a pipeline routes to it.
    Delete(delete::Args),
    /// Push packages as they appear in <DIR>/<NAME>/<VERSION>/, as TensorFlow Serving has them.
    Watch(watch::Args),
}

/// # Errors
/// The package is not sound, the log refuses, or Kafka does not answer.
pub async fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Import(args) => blocking(move || import::run(&args)).await,
        Command::Push(args) => blocking(move || push::run(&args)).await,
        Command::List(args) => blocking(move || list::run(&args)).await,
        Command::Show(args) => blocking(move || show::run(&args)).await,
        Command::Delete(args) => blocking(move || delete::run(&args)).await,
        Command::Watch(args) => watch::run(args).await,
    }
}
