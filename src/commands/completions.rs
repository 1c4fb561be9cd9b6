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
pub fn run(args: &Args, command: &clap::Command) -> Result<(), Error> {
    match io::stdout().lock().write_all(&script(args.shell, command)) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Failed(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

fn script(shell: Shell, command: &clap::Command) -> Vec<u8> {
    let mut script = Vec::new();
    let mut command = offered(command).version(env!("CARGO_PKG_VERSION"));
    clap_complete::generate(shell, &mut command, "quadrille", &mut script);
    script
}

/// A command without the flags that are kept for scripts only: the generators would offer them.
fn offered(command: &clap::Command) -> clap::Command {
    // Names of commands are static for clap; the process ends when they are printed.
    let name: &'static str = command.get_name().to_owned().leak();
    let args = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let mut offered = clap::Command::new(name).args(args.cloned());
    if let Some(about) = command.get_about() {
        offered = offered.about(about.clone());
    }
    offered.subcommands(command.get_subcommands().map(self::offered))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn hidden(command: &clap::Command) -> usize {
        let own = command.get_arguments().filter(|arg| arg.is_hide_set());
        own.count() + command.get_subcommands().map(hidden).sum::<usize>()
    }

    #[test]
    fn what_is_hidden_is_not_offered() {
        let command = crate::Cli::command();
        assert!(hidden(&command) > 0);
        assert_eq!(hidden(&offered(&command)), 0);
    }

    #[test]
    fn a_script_knows_nouns_verbs_and_flags() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell, &crate::Cli::command());
            let script = String::from_utf8(script).unwrap();
            for word in ["scale-advice", "redrive", "bootstrap-servers", "version"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
