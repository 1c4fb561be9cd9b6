//! No link is dead, and the book has every page.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use crate::{
    files::place,
    markdown::{Page, pages},
};

const SUMMARY: &str = "docs/SUMMARY.md";

fn by_path(pages: &[Page]) -> BTreeMap<&str, &Page> {
    pages
        .iter()
        .map(|page| (page.path.as_str(), page))
        .collect()
}

/// A link's file from the repository's root; None where it leaves the repository.
fn resolved(from: &str, link: &str) -> Option<String> {
    let mut path = PathBuf::from(from);
    path.pop();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path.to_string_lossy().into_owned())
}

fn is_elsewhere(link: &str) -> bool {
    link.contains("://") || link.starts_with("mailto:")
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_are_there() {
    let pages = pages();
    let known = by_path(&pages);
    let mut dead = Vec::new();
    for page in &pages {
        for (line, link) in page.links() {
            if is_elsewhere(&link) {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => Some(page.path.clone()),
                file => resolved(&page.path, file),
            };
            let place_of = |target: &String| place(target).exists();
            let Some(target) = target.filter(place_of) else {
                dead.push(format!("{}:{line}: {link}: no such file", page.path));
                continue;
            };
            let has = |page: &&Page| page.anchors().iter().any(|known| known == anchor);
            if !anchor.is_empty() && !known.get(target.as_str()).is_some_and(has) {
                dead.push(format!("{}:{line}: {link}: no such heading", page.path));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

#[test]
fn the_book_lists_every_page_under_docs_and_no_other() {
    let pages = pages();
    let known = by_path(&pages);
    let summary = known[SUMMARY];
    let links = summary.links();
    let listed: Vec<String> = links
        .iter()
        .filter(|(_, link)| !is_elsewhere(link))
        .filter_map(|(_, link)| resolved(SUMMARY, link))
        .collect();
    let once: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
    assert_eq!(once.len(), listed.len(), "a page is listed twice");
    let there = known.keys().copied();
    let there: BTreeSet<&str> = there
        .filter(|path| path.starts_with("docs/") && *path != SUMMARY)
        .collect();
    let missing: Vec<&&str> = there.difference(&once).collect();
    let beyond: Vec<&&str> = once.difference(&there).collect();
    assert!(
        missing.is_empty() && beyond.is_empty(),
        "not in {SUMMARY}: {missing:?}; in {SUMMARY} and no page: {beyond:?}"
    );
}
