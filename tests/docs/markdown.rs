//! As much of Markdown as links, headings and code blocks need.

use std::{collections::BTreeMap, fs, path::Path};

use crate::files::place;

/// Folders without pages of ours.
const SKIPPED: [&str; 4] = ["target", "node_modules", "models", "data"];

#[derive(Debug)]
pub struct Page {
    /// From the repository's root.
    pub path: String,
    pub text: String,
}

/// A fenced block of code: the word after the fence, and the line of its first line.
#[derive(Debug)]
pub struct Block<'a> {
    pub language: &'a str,
    pub line: usize,
    pub lines: Vec<&'a str>,
}

/// Every page of the repository.
pub fn pages() -> Vec<Page> {
    let mut found = Vec::new();
    collect(&place(""), "", &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 10, "{found:?}");
    found
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<Page>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{prefix}: {error}"));
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        // A worktree's .git is a file, and links are not followed.
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() && !name.starts_with('.') && !SKIPPED.contains(&name.as_str()) {
            collect(&entry.path(), &format!("{path}/"), found);
        } else if kind.is_file() && name.ends_with(".md") {
            let text = fs::read_to_string(entry.path());
            let text = text.unwrap_or_else(|error| panic!("{path}: {error}"));
            found.push(Page { path, text });
        }
    }
}

impl Page {
    /// Lines outside of code blocks, with their numbers.
    pub fn prose(&self) -> Vec<(usize, &str)> {
        self.split().0
    }

    pub fn blocks(&self) -> Vec<Block<'_>> {
        self.split().1
    }

    fn split(&self) -> (Vec<(usize, &str)>, Vec<Block<'_>>) {
        let (mut prose, mut blocks) = (Vec::new(), Vec::new());
        let mut open: Option<(&str, Block<'_>)> = None;
        for (at, line) in self.text.lines().enumerate() {
            let trimmed = line.trim_start();
            let ticks = trimmed.len() - trimmed.trim_start_matches('`').len();
            match open.take() {
                None if ticks >= 3 => {
                    let (fence, language) = trimmed.split_at(ticks);
                    let block = Block {
                        language: language.trim(),
                        line: at + 2,
                        lines: Vec::new(),
                    };
                    open = Some((fence, block));
                }
                None => prose.push((at + 1, line)),
                Some((fence, block)) if trimmed.trim_end() == fence => blocks.push(block),
                Some((fence, mut block)) => {
                    block.lines.push(line);
                    open = Some((fence, block));
                }
            }
        }
        assert!(open.is_none(), "{}: a code block is not closed", self.path);
        (prose, blocks)
    }

    /// Where links lead, with the lines they are on.
    pub fn links(&self) -> Vec<(usize, String)> {
        let mut links = Vec::new();
        for (number, line) in self.prose() {
            let line = without_code(line);
            if let Some((label, target)) = line.trim_start().split_once("]: ")
                && label.starts_with('[')
            {
                links.push((number, target.trim().to_owned()));
                continue;
            }
            let mut rest = line.as_str();
            while let Some((_, after)) = rest.split_once("](") {
                let end = after.find(')').unwrap_or(after.len());
                let target = after[..end].split_whitespace().next().unwrap_or_default();
                links.push((number, target.trim_matches(['<', '>']).to_owned()));
                rest = &after[end..];
            }
        }
        links
    }

    /// The names that headings can be linked by, as GitHub and mdBook make them.
    pub fn anchors(&self) -> Vec<String> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut anchors = Vec::new();
        for (_, line) in self.prose() {
            let title = line.trim_start_matches('#');
            let level = line.len() - title.len();
            if !(1..=6).contains(&level) || !title.starts_with(' ') {
                continue;
            }
            let anchor = slug(title.trim());
            let count = seen.entry(anchor.clone()).or_default();
            anchors.push(match *count {
                0 => anchor,
                count => format!("{anchor}-{count}"),
            });
            *count += 1;
        }
        anchors
    }
}

fn slug(title: &str) -> String {
    // Of a link in a heading its text counts.
    let mut text = String::new();
    let mut rest = title;
    while let Some((before, after)) = rest.split_once("](") {
        text.push_str(&before.replace('[', ""));
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    let kept = text.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c if c.is_alphanumeric() => Some(c),
        _ => None,
    });
    kept.flat_map(char::to_lowercase).collect()
}

fn without_code(line: &str) -> String {
    let parts = line.split('`').enumerate();
    // What stands in code is no link; the text of a link may be code.
    let parts = parts.map(|(at, part)| match at % 2 {
        0 => part.to_owned(),
        _ => part.replace(['[', ']', '(', ')'], ""),
    });
    parts.collect::<Vec<String>>().join("`")
}

#[test]
fn headings_have_the_anchors_that_github_gives_them() {
    assert_eq!(slug("`quadrille model push`"), "quadrille-model-push");
    assert_eq!(slug("Which way? A & B, (c)"), "which-way-a--b-c");
    assert_eq!(slug("See [the page](a.md#b)"), "see-the-page");
    assert_eq!(slug("future_max"), "future_max");
}
