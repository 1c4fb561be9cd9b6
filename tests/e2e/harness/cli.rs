//! The command line as people type it, and packages for it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::world::model;

/// The command line, on one Kafka.
pub struct Cli(pub String);

impl Cli {
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quadrille"));
        command
            .args(args)
            .env("KAFKA_BOOTSTRAP_SERVERS", &self.0)
            .env_remove("QUADRILLE_PIPELINE");
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the CLI starts")
    }

    /// What it prints; it must succeed.
    #[track_caller]
    pub fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What it complains of; it must end with this code.
    #[track_caller]
    pub fn bad(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        error
    }
}

/// The run's model as a package of another name, version and content.
pub fn written(folder: &Path, name: &str, version: &str, by: &str) -> PathBuf {
    let to = folder.join(name).join(version);
    std::fs::create_dir_all(&to).expect("a folder");
    for entry in std::fs::read_dir(model()).expect("the model's folder") {
        let from = entry.expect("an entry").path();
        let name = from.file_name().expect("a name").to_owned();
        std::fs::copy(&from, to.join(name)).expect("copied");
    }
    let manifest = to.join("manifest.json");
    let text = std::fs::read_to_string(&manifest).expect("a manifest");
    let mut fields: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for (field, value) in [("name", name), ("version", version), ("written_by", by)] {
        fields[field] = value.into();
    }
    std::fs::write(&manifest, fields.to_string()).expect("written");
    to
}
