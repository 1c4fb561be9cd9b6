//! The repository's files, and pages compared with what they should be.

use std::{fs, path::PathBuf};

const UPDATE: &str = "QUADRILLE_UPDATE_DOCS";

pub fn place(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn read(path: &str) -> String {
    fs::read_to_string(place(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Fails where the page is not the text, or writes it, where [`UPDATE`] is set.
pub fn compare(path: &str, expected: &str) {
    if std::env::var_os(UPDATE).is_some_and(|it| !it.is_empty()) {
        fs::write(place(path), expected).unwrap_or_else(|error| panic!("{path}: {error}"));
        return;
    }
    let found = fs::read_to_string(place(path)).unwrap_or_default();
    if found != expected {
        let differs = expected.lines().zip(found.lines());
        let line = differs.take_while(|(a, b)| a == b).count();
        panic!(
            "{path} is stale from line {} on: the code says\n  {}\nUpdate it: {UPDATE}=1 cargo test --test docs",
            line + 1,
            expected.lines().nth(line).unwrap_or("(nothing more)"),
        );
    }
}
