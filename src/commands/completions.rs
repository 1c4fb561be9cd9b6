//! `quadrille completions`: what a shell needs to complete this command line.

use std::io::{self, ErrorKind, Write};

use clap_complete::Shell;
use quadrille_service::Error;

const EXAMPLES: &str = "\
Examples:
  quadrille completions bash > ~/.local/share/bash-completion/completions/quadrille
  quadrille completions zsh > ~/.zfunc/_quadrille             (a folder of $fpath)
  quadrille completions fish > ~/.config/fish/completions/quadrille.fish";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// # Errors
/// Standard output cannot be written.
pub fn run(args: &Args, mut command: clap::Command) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "quadrille", &mut script);
    match io::stdout().lock().write_all(&script) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Failed(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_script_knows_nouns_verbs_and_flags() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            let mut command = crate::Cli::command();
            clap_complete::generate(shell, &mut command, "quadrille", &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in ["scale-advice", "redrive", "bootstrap-servers"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
