//! What pages say of names in the code is so: variables, commands, reasons of dead letters.

use std::{collections::BTreeSet, fs, path::Path};

use clap::{Command, CommandFactory, error::ErrorKind};

use crate::{
    files::{place, read},
    markdown::pages,
};

/// Tells what was, too.
const HISTORY: &str = "CHANGELOG.md";
/// Sources that name variables and reasons.
const SOURCES: [&str; 6] = ["crates", "services", "src", "tests", "benches", "proto"];
/// Others that name variables.
const SCRIPTS: [&str; 4] = ["compose.yaml", "deploy/Dockerfile", ".ci/run", "justfile"];

fn sources(roots: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for root in roots {
        collect(&place(root), &mut found);
    }
    found
}

fn collect(path: &Path, found: &mut Vec<(String, String)>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            collect(&entry.path(), found);
        }
    } else if path.extension().is_some_and(|end| end == "rs") {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        found.push((path.to_string_lossy().into_owned(), text));
    }
}

fn variables(text: &str) -> impl Iterator<Item = &str> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(move |c: char| !is_name(c));
    words.filter(|word| word.starts_with("QUADRILLE_") && !word.ends_with('_'))
}

#[test]
fn every_variable_that_a_page_names_is_one_that_the_code_reads() {
    let mut known = BTreeSet::new();
    for (_, text) in sources(&SOURCES) {
        known.extend(variables(&text).map(str::to_owned));
    }
    for script in SCRIPTS {
        known.extend(variables(&read(script)).map(str::to_owned));
    }
    for page in pages().iter().filter(|page| page.path != HISTORY) {
        let unknown: BTreeSet<&str> = variables(&page.text)
            .filter(|name| !known.contains(*name))
            .collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", page.path);
    }
}

/// The command lines of a script: continued lines joined, prompts and what does not belong to the command left out.
fn command_lines(lines: &[&str]) -> Vec<String> {
    let prompts = lines.iter().any(|line| line.starts_with("$ "));
    let mut found: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in lines {
        let line = match line.strip_prefix("$ ") {
            Some(line) => line,
            // What a session prints is no command.
            None if prompts && !goes_on => continue,
            None => line,
        };
        let (text, more) = match line.trim_end().strip_suffix('\\') {
            Some(text) => (text, true),
            None => (line, false),
        };
        match found.last_mut().filter(|_| goes_on) {
            Some(last) => last.push_str(text.trim_start()),
            None => found.push(text.trim_start().to_owned()),
        }
        goes_on = more;
    }
    found
}

/// The words of a command as a shell has them, up to where another one begins; None where it has quotes that stay open.
fn words(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, '|' | ';' | '&' | '>' | '<') => break,
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// Why a line cannot be typed; None where it can, or is no command of ours.
fn refused(line: &str) -> Option<String> {
    // A text that goes on in the next line.
    let words = words(line)?;
    // Variables for this command alone.
    let is_variable = |word: &String| {
        let name = word.split_once('=').map(|(name, _)| name);
        name.is_some_and(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    let words: Vec<String> = words.into_iter().skip_while(is_variable).collect();
    let command = match words.first()?.as_str() {
        "quadrille" => quadrille::command(),
        "ingest" => ingest::Cli::command(),
        "feature" => feature::Cli::command(),
        "inference" => inference::Cli::command(),
        "results" => results::Cli::command(),
        _ => return None,
    };
    let error = command.try_get_matches_from(&words).err()?;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => None,
        _ => Some(error.to_string()),
    }
}

#[test]
fn commands_that_pages_show_can_be_typed() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for page in pages().iter().filter(|page| page.path != HISTORY) {
        for block in page.blocks() {
            if !["sh", "console", "bash", "shell"].contains(&block.language) {
                continue;
            }
            for line in command_lines(&block.lines) {
                seen += usize::from(line.starts_with("quadrille "));
                let place = format!("{}:{}", page.path, block.line);
                wrong.extend(refused(&line).map(|why| format!("{place}: {line}\n{why}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen >= 10, "only {seen} lines are commands");
}

#[test]
fn examples_of_help_can_be_typed() {
    let mut root = quadrille::command();
    root.build();
    let mut texts = Vec::new();
    helps(&root, &mut texts);
    let mut wrong = Vec::new();
    for text in texts {
        let lines: Vec<&str> = text.lines().collect();
        for line in command_lines(&lines) {
            // A comment stands after some blanks.
            let line = line.split("   ").next().unwrap_or_default().to_owned();
            if line.starts_with("quadrille ") {
                wrong.extend(refused(&line).map(|why| format!("{line}\n{why}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn helps(command: &Command, texts: &mut Vec<String>) {
    texts.extend(command.get_after_help().map(ToString::to_string));
    for inner in command.get_subcommands() {
        helps(inner, texts);
    }
}

/// Where reasons of dead letters, and of absorbed records, are given: what is between the two.
const REASONS: [(&str, &str); 5] = [
    ("::dead_letter(", ","),
    ("::retry(", ","),
    ("class: \"", "\""),
    ("InvalidKind::", ","),
    ("output.absorb(", ")"),
];

fn reasons() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (path, text) in sources(&[
        "crates/choreography/src",
        "crates/service/src",
        "crates/pipeline/src/invalid.rs",
        "services",
    ]) {
        // A file of tests alone.
        if path.contains("test") || (text.contains("#[test]") && !text.contains("#[cfg(test)]")) {
            continue;
        }
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        // Examples have reasons of their own.
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("///"));
        let text = code.collect::<Vec<&str>>().join("\n");
        for (begin, end) in REASONS {
            for (at, _) in text.match_indices(begin) {
                let rest = &text[at + begin.len()..];
                let literal = match begin.ends_with('"') {
                    true => rest.split(end).next(),
                    // The first text, if it comes before anything else that is said.
                    false => rest.split(end).next().and_then(|it| it.split('"').nth(1)),
                };
                found.extend(literal.map(str::to_owned));
            }
        }
    }
    found
}

#[test]
fn every_reason_of_a_dead_letter_is_explained() {
    let reasons = reasons();
    for known in [
        "not_json",
        "bad_id",
        "unknown_schema",
        "no_prediction",
        "panic",
        "unreadable",
        "database",
    ] {
        assert!(
            reasons.contains(known),
            "{known} is not found in {reasons:?}"
        );
    }
    let page = read("docs/reference/errors.md");
    let missing: Vec<&String> = reasons
        .iter()
        .filter(|it| !page.contains(&format!("`{it}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/reference/errors.md does not explain {missing:?}"
    );
}

#[test]
fn every_key_of_a_pipeline_file_is_on_its_page() {
    let files = ["keys.rs", "keys/features.rs", "keys/state.rs"];
    let files = files.map(|file| read(&format!("crates/pipeline/src/{file}")));
    let keys = files.concat();
    let named = ["need(", "may("]
        .into_iter()
        .flat_map(|call| keys.split(call).skip(1));
    let texts = named.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
    let texts: BTreeSet<&str> = texts.collect();
    assert!(texts.contains("latency_objective"), "not found: {texts:?}");
    let page = read("docs/reference/pipeline-file.md");
    let missing: Vec<&&str> = texts
        .iter()
        .filter(|key| !page.contains(&format!("`{key}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/reference/pipeline-file.md does not name {missing:?}"
    );
}

/// Pages that name files of the code.
const OF_CODE: [&str; 2] = ["ARCHITECTURE.md", "docs/internals/"];

#[test]
fn files_that_pages_about_the_code_name_are_there() {
    let is_path = |text: &str| {
        let ends = [".rs", ".proto", ".toml", ".yaml", ".yml"];
        let has_folder = text.contains('/') && !text.contains(['*', ' ', '<', ':', '(']);
        has_folder && (ends.iter().any(|end| text.ends_with(end)) || text.starts_with("crates/"))
    };
    let mut missing = Vec::new();
    for page in pages() {
        if !OF_CODE.iter().any(|of| page.path.starts_with(of)) {
            continue;
        }
        for (number, line) in page.prose() {
            let named = line.split('`').skip(1).step_by(2).filter(|it| is_path(it));
            let gone = named.filter(|path| !place(path).exists());
            missing.extend(gone.map(|path| format!("{}:{number}: {path}", page.path)));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn pages_that_everyone_reads_stay_short() {
    for (path, words_max) in [("README.md", 700), ("ARCHITECTURE.md", 2_000)] {
        let words = read(path).split_whitespace().count();
        assert!(
            words <= words_max,
            "{path} has {words} words, and {words_max} is the most"
        );
    }
}
