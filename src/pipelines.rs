//! Pipelines as commands name them: a file, a folder, or a name.

use std::path::{Path, PathBuf};

use quadrille_pipeline::Pipeline;
use quadrille_service::Error;

/// Where pipeline files are when nothing else is said.
pub const FOLDER_DEFAULT: &str = "pipelines";

/// The flag of commands that read pipeline files.
#[derive(Debug, clap::Args)]
pub struct PipelineArg {
    /// A pipeline file, or a folder of them.
    #[arg(
        long,
        env = "QUADRILLE_PIPELINE",
        default_value = FOLDER_DEFAULT,
        value_name = "PATH"
    )]
    pipeline: PathBuf,
}

impl PipelineArg {
    /// # Errors
    /// What is wrong with a file, its line, and the fix.
    pub fn all(&self) -> Result<Vec<Pipeline>, Error> {
        all(&self.pipeline)
    }

    /// # Errors
    /// As [`PipelineArg::all`]; or there are several.
    pub fn one(&self) -> Result<Pipeline, Error> {
        one(&self.pipeline)
    }
}

/// All pipelines of a file or folder.
///
/// # Errors
/// What is wrong with a file, its line, and the fix.
fn all(path: &Path) -> Result<Vec<Pipeline>, Error> {
    Pipeline::load(path).map_err(|error| Error::Config(format!("--pipeline: {error}")))
}

/// The one pipeline of a file or folder.
///
/// # Errors
/// As [`all`]; or there are several.
pub fn one(path: &Path) -> Result<Pipeline, Error> {
    let mut pipelines = all(path)?;
    match (pipelines.pop(), pipelines.is_empty()) {
        (Some(pipeline), true) => Ok(pipeline),
        (Some(last), false) => {
            let names = pipelines.iter().chain([&last]).map(Pipeline::name);
            let names: Vec<&str> = names.collect();
            Err(Error::Config(format!(
                "--pipeline: {} holds several pipelines ({}); name the file of one",
                path.display(),
                names.join(", ")
            )))
        }
        (None, _) => Err(Error::Config(format!(
            "--pipeline: {} holds no pipeline",
            path.display()
        ))),
    }
}

/// A pipeline's name from a name, a file or a folder of one; from the
/// services' setting or `./pipelines` where nothing is given.
///
/// # Errors
/// As [`one`]; or nothing is given and there is no such folder.
pub fn name(given: Option<&str>) -> Result<String, Error> {
    match given {
        Some(given) if is_path(given) => Ok(one(Path::new(given))?.name().to_owned()),
        Some("") => Err(Error::Config("--pipeline is empty; give a name".to_owned())),
        Some(given) => Ok(given.to_owned()),
        None => match configured() {
            Some(path) => Ok(one(&path)?.name().to_owned()),
            None => Err(Error::Config(
                "--pipeline is missing and there is no folder ./pipelines; give the pipeline's name"
                    .to_owned(),
            )),
        },
    }
}

/// Where the services find their pipelines.
fn configured() -> Option<PathBuf> {
    let folder = || {
        Path::new(FOLDER_DEFAULT)
            .is_dir()
            .then(|| FOLDER_DEFAULT.into())
    };
    of_environment().or_else(folder)
}

/// The variable; set to nothing it is as if it were not set.
pub fn of_environment() -> Option<PathBuf> {
    let set = std::env::var_os("QUADRILLE_PIPELINE").filter(|path| !path.is_empty());
    set.map(PathBuf::from)
}

fn is_path(given: &str) -> bool {
    let dir = !given.is_empty() && Path::new(given).is_dir();
    dir || given.contains('/') || given.ends_with(".toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIABETES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/diabetes.toml");

    #[test]
    fn a_name_stays_and_a_file_gives_its_pipelines_name() {
        assert_eq!(name(Some("other")).unwrap(), "other");
        assert_eq!(name(Some(DIABETES)).unwrap(), "diabetes");
        assert!(matches!(name(Some("")), Err(Error::Config(_))));
    }

    #[test]
    fn a_folder_of_several_asks_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(DIABETES).unwrap();
        for other in ["a", "b"] {
            let renamed = text.replace("name = \"diabetes\"", &format!("name = \"{other}\""));
            std::fs::write(folder.path().join(format!("{other}.toml")), renamed).unwrap();
        }
        let error = one(folder.path()).unwrap_err().to_string();
        assert!(error.contains("several pipelines (a, b)"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_wrong_usage() {
        let error = name(Some("nowhere/p.toml")).unwrap_err();
        assert!(matches!(error, Error::Config(message) if message.contains("nowhere/p.toml")));
    }
}
