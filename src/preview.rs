//! Foreign text on a terminal: bounded, and without characters that would act on it.

/// Characters of a payload shown to a person.
pub const PAYLOAD_CHARS_MAX: usize = 160;
/// Characters of an error message shown to a person.
pub const MESSAGE_CHARS_MAX: usize = 400;
/// Characters of an id, a key or a name shown in a table.
pub const CELL_CHARS_MAX: usize = 48;

/// The text's first characters, control characters and directional ones escaped; `…` where it goes on.
pub fn text(text: &str, chars_max: usize) -> String {
    let mut shown = String::new();
    let mut count = 0;
    for c in text.chars() {
        let escaped = escape(c);
        count += escaped.as_ref().map_or(1, |it| it.chars().count());
        if count > chars_max {
            shown.push('…');
            break;
        }
        match escaped {
            Some(escaped) => shown.push_str(&escaped),
            None => shown.push(c),
        }
    }
    shown
}

/// A foreign id, key or name as a table's cell.
pub fn cell(foreign: &str) -> String {
    text(foreign, CELL_CHARS_MAX)
}

/// A payload: its text, or the digits of bytes that are none.
pub fn payload(bytes: &[u8], chars_max: usize) -> String {
    match std::str::from_utf8(bytes) {
        Ok(whole) => text(whole, chars_max),
        Err(_) => {
            let head = &bytes[..bytes.len().min(chars_max / 2)];
            let more = if head.len() < bytes.len() { "…" } else { "" };
            let digits = crate::output::hex(head);
            format!("0x{digits}{more} ({} bytes, not UTF-8)", bytes.len())
        }
    }
}

fn escape(c: char) -> Option<String> {
    // Embeddings, overrides and isolates turn the order of what follows around.
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (c.is_control() || turns || c == '\u{2028}' || c == '\u{2029}')
        .then(|| c.escape_default().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(
            text("a\x1b[31mred\n\0\u{9b}\u{202e}", 80),
            "a\\u{1b}[31mred\\n\\u{0}\\u{9b}\\u{202e}"
        );
        assert_eq!(text("größer ✓", 80), "größer ✓");
    }

    #[test]
    fn a_long_text_is_cut_where_a_character_ends() {
        assert_eq!(text("äöüß", 3), "äöü…");
        assert_eq!(text("äöü", 3), "äöü");
        assert_eq!(text("ab\n", 3), "ab…");
        assert_eq!(text("", 3), "");
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_digits_with_their_number() {
        assert_eq!(payload(b"\xff\x00", 80), "0xff00 (2 bytes, not UTF-8)");
        assert_eq!(payload(&[0xff; 9], 4), "0xffff… (9 bytes, not UTF-8)");
        assert_eq!(payload(b"{\"a\":1}", 80), "{\"a\":1}");
    }
}
