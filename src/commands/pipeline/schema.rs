//! `quadrille pipeline schema`: the file's JSON Schema.

use quadrille_service::Error;

use crate::output;

#[derive(Debug, clap::Args)]
pub struct Args {}

/// # Errors
/// Standard output cannot be written.
pub fn run(_: &Args) -> Result<(), Error> {
    let _ = output::print(format_args!("{:#}", quadrille_pipeline::schema()))?;
    Ok(())
}
