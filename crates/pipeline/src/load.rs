//! Pipeline files on disk: one, or a folder of them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::pipeline::Pipeline;

const HOW: &str = "set QUADRILLE_PIPELINE to a pipeline file or a folder of *.toml files";

/// What became of a file.
pub type Loaded = (PathBuf, Result<Pipeline, Error>);

impl Pipeline {
    /// Reads a pipeline file, or a folder's `*.toml` in the order of their names.
    ///
    /// # Errors
    /// What cannot be read, is wrong, or is there twice.
    pub fn load(path: &Path) -> Result<Vec<Pipeline>, Error> {
        let read = Pipeline::load_each(path)?;
        read.into_iter().map(|(_, pipeline)| pipeline).collect()
    }

    /// As [`Pipeline::load`], with what became of each file.
    ///
    /// # Errors
    /// The folder cannot be read, or has no such file.
    pub fn load_each(path: &Path) -> Result<Vec<Loaded>, Error> {
        let found = fs::metadata(path).map_err(|error| {
            Error::of_file(path.display(), format!("cannot be read: {error}"), HOW)
        })?;
        if !found.is_dir() {
            return Ok(vec![(path.to_owned(), read(path))]);
        }
        let mut taken: HashMap<String, PathBuf> = HashMap::new();
        let mut each = |file: PathBuf| {
            let pipeline =
                read(&file).and_then(|pipeline| match claim(&mut taken, &pipeline, &file) {
                    None => Ok(pipeline),
                    Some(clash) => Err(clash),
                });
            (file, pipeline)
        };
        let pipelines: Vec<_> = files(path)?.into_iter().map(&mut each).collect();
        if pipelines.is_empty() {
            return Err(Error::of_file(
                path.display(),
                "the folder has no *.toml file",
                HOW,
            ));
        }
        Ok(pipelines)
    }
}

/// Two pipelines of one folder must not have the same topics.
fn claim(taken: &mut HashMap<String, PathBuf>, pipeline: &Pipeline, file: &Path) -> Option<Error> {
    // Kafka refuses topics whose names differ only in `.` and `_`.
    let topics = pipeline.name().replace('.', "_");
    let other = taken.insert(topics, file.to_owned())?;
    let reason = format!(
        "pipeline {:?} has the topics of {}",
        pipeline.name(),
        other.display()
    );
    let fix = "give each pipeline a name of its own; to Kafka `.` and `_` are the same";
    Some(Error::of_file(file.display(), reason, fix))
}

/// The folder's pipeline files; hidden ones are an editor's or Kubernetes' own.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let cannot = |error: std::io::Error| {
        Error::of_file(folder.display(), format!("cannot be read: {error}"), HOW)
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden
            && path
                .extension()
                .is_some_and(|extension| extension == "toml")
            && !path.is_dir()
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<Pipeline, Error> {
    let cannot = |reason| Error::of_file(file.display(), reason, "");
    let bytes = fs::read(file).map_err(|error| cannot(format!("cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        cannot(format!(
            "byte {} is not UTF-8",
            error.utf8_error().valid_up_to()
        ))
    })?;
    Pipeline::parse(&file.display().to_string(), &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        name = "a"
        record = { key = "k", fields = [{ name = "x", type = "number" }] }
        features = [{ name = "x", kind = "pass", field = "x" }]
        model = { inputs = ["x"] }
    "#;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, pipeline) in files {
            let text = FILE.replace("name = \"a\"", &format!("name = {pipeline:?}"));
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn names(path: &Path) -> Vec<String> {
        Pipeline::load(path)
            .unwrap()
            .iter()
            .map(|it| it.name().to_owned())
            .collect()
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_its_files() {
        let folder = folder(&[
            ("2.toml", "y"),
            ("1.toml", "z"),
            (".hidden.toml", "y"),
            ("n.md", "y"),
        ]);
        assert_eq!(names(folder.path()), ["z", "y"]);
        assert_eq!(names(&folder.path().join("2.toml")), ["y"]);
    }

    #[test]
    fn two_files_of_one_name_are_refused_with_both_named() {
        for other in ["a.b", "a_b"] {
            let folder = folder(&[("1.toml", "a.b"), ("2.toml", other)]);
            let error = Pipeline::load(folder.path()).unwrap_err().to_string();
            assert!(
                error.contains("2.toml: ") && error.contains("1.toml; "),
                "{error}"
            );
        }
    }

    #[test]
    fn an_empty_folder_an_absent_file_and_bytes_are_refused() {
        let folder = folder(&[]);
        let load = |path: &Path| Pipeline::load(path).unwrap_err().to_string();
        assert!(load(folder.path()).contains("has no *.toml file; set QUADRILLE_PIPELINE"));
        let file = folder.path().join("x.toml");
        assert!(load(&file).contains("x.toml: cannot be read: "));
        fs::write(&file, b"name = \"\xff\"").unwrap();
        assert!(load(&file).ends_with("x.toml: byte 8 is not UTF-8"));
    }
}
