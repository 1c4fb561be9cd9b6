//! Which module of the service knows which, held by a test: adapters know the core and not each other, and nothing knows what stands on it.

use std::{collections::BTreeSet, fs, path::Path};

/// Each module, and those that it may know.
const LAYERS: [(&str, &[&str]); 10] = [
    ("engine", &[]),
    ("tensor", &[]),
    ("serving", &["engine"]),
    ("scoring", &["engine", "serving", "tensor"]),
    ("transport", &["scoring", "serving", "tensor"]),
    (
        "oip",
        &["engine", "scoring", "serving", "tensor", "transport"],
    ),
    ("tfs", &["scoring", "serving", "tensor", "transport"]),
    ("predict", &["scoring", "serving", "transport"]),
    ("shadows", &["engine", "serving"]),
    ("stage", &["serving", "shadows"]),
];

#[test]
fn adapters_know_the_core_and_not_each_other_and_no_two_modules_know_each_other() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (module, allowed) in LAYERS {
        let mut text = String::new();
        read(&src.join(format!("{module}.rs")), &mut text);
        read(&src.join(module), &mut text);
        let mut known = known(&text);
        known.remove(module);
        assert!(!text.is_empty(), "{module}");
        let beyond: Vec<_> = known.iter().filter(|it| !allowed.contains(it)).collect();
        assert!(beyond.is_empty(), "{module} may not know {beyond:?}");
    }
}

/// The code of a file, or of all files of a folder, without its tests.
fn read(path: &Path, text: &mut String) {
    if let Ok(entries) = fs::read_dir(path) {
        for entry in entries {
            read(&entry.expect("an entry").path(), text);
        }
    } else if let Ok(file) = fs::read_to_string(path)
        && !path.ends_with("tests.rs")
    {
        let code = file.split("#[cfg(test)]\nmod tests {").next();
        text.push_str(code.unwrap_or_default());
    }
}

/// The modules of this crate that are named in code.
fn known(text: &str) -> BTreeSet<&str> {
    let name = |text: &'_ str| text.find(|it: char| !it.is_alphanumeric() && it != '_');
    let mut known = BTreeSet::new();
    for (at, path) in text.match_indices("crate::") {
        let rest = &text[at + path.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            known.insert(&rest[..name(rest).unwrap_or(rest.len())]);
            continue;
        };
        let (mut depth, mut expected) = (0, true);
        for (at, byte) in group.bytes().enumerate() {
            match byte {
                b'{' => depth += 1,
                b'}' if depth == 0 => break,
                b'}' => depth -= 1,
                b',' if depth == 0 => expected = true,
                _ if expected && byte.is_ascii_alphabetic() => {
                    let rest = &group[at..];
                    known.insert(&rest[..name(rest).unwrap_or(rest.len())]);
                    expected = false;
                }
                _ => {}
            }
        }
    }
    known
}
