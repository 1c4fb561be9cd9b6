//! Outside text in our messages: bounded, escaped, and compared with what was meant.

/// Characters of outside text a message shows at most.
const SHOWN_MAX: usize = 80;
/// Names a message lists at most.
const LISTED_MAX: usize = 12;
/// Longer names are not compared: nobody mistypes them by a letter.
const COMPARED_MAX: usize = 64;

/// The text in double quotes, escaped, at most about 80 characters of it.
pub fn quote(text: &str) -> String {
    format!("{:?}", cut(text))
}

/// At most 80 characters of the text.
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Bytes of a whole message at most: what is told over gRPC travels as a header, three bytes for some of them.
pub const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// A message, cut where it is too long for one.
pub fn message(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

/// The names, quoted, the first dozen of them.
/// Names for a message, quoted, as many as one reads.
pub fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names = names.map(quote);
    let mut shown: Vec<String> = names.by_ref().take(LISTED_MAX).collect();
    let more = names.count();
    if more > 0 {
        shown.push(format!("… and {more} more"));
    }
    shown.join(", ")
}

/// `did you mean "mass"?`, or the names there are.
pub(crate) fn suggest<'a>(
    meant: &str,
    what: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> String {
    match nearest(meant, names.clone()) {
        Some(name) => format!("did you mean {}?", quote(name)),
        None => format!("{what}: {}", list(names)),
    }
}

/// The name a few letters away, if there is one.
pub fn nearest<'a>(meant: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // No character takes more than four bytes.
    let meant = (meant.len() <= 4 * COMPARED_MAX).then_some(meant)?;
    let meant: Vec<char> = meant
        .to_lowercase()
        .chars()
        .take(COMPARED_MAX + 1)
        .collect();
    if meant.len() > COMPARED_MAX {
        return None;
    }
    let far = (meant.len() / 3).max(1) + 1;
    names
        .filter(|name| name.len() <= COMPARED_MAX)
        .map(|name| {
            (
                distance(&meant, &name.to_lowercase().chars().collect::<Vec<_>>()),
                name,
            )
        })
        .filter(|(distance, _)| *distance < far)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Levenshtein's distance, a swap of neighbours counting one.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let shown = quote(&"é".repeat(1_000_000));
        assert_eq!(shown.chars().count(), SHOWN_MAX + 3);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        assert_eq!(message("é".repeat(2_048)), "é".repeat(2_048));
        assert_eq!(
            message("é".repeat(2_049)),
            format!("{}…", "é".repeat(2_048))
        );
        let odd = message(format!("a{}", "é".repeat(1 << 20)));
        assert_eq!(odd, format!("a{}…", "é".repeat(2_047)));
    }

    #[test]
    fn a_typo_finds_the_name_it_meant() {
        let names = ["glucose", "mass", "age"];
        let suggest = |meant| suggest(meant, "known", names.into_iter());
        assert_eq!(suggest("mas"), "did you mean \"mass\"?");
        assert_eq!(suggest("Glucsoe"), "did you mean \"glucose\"?");
        assert_eq!(suggest("weight"), r#"known: "glucose", "mass", "age""#);
    }

    #[test]
    fn a_long_list_is_cut() {
        let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert!(list(names.iter().map(String::as_str)).ends_with("\"11\", … and 88 more"));
    }
}
