//! The dashboard at `/`: one file without outside resources, held to that by its own
//! Content-Security-Policy.

use std::sync::LazyLock;

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("dashboard.html");

/// Only the page's own script and style, named by their hashes, may run, and only this server may be called.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash_of_element("script"),
        hash_of_element("style")
    )
});

pub async fn show() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, PAGE).into_response()
}

/// The SHA-256 of what the page has between `<name>` and `</name>`, as a policy names it.
fn hash_of_element(name: &str) -> String {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let inside = PAGE
        .split_once(&open)
        .and_then(|(_, rest)| rest.split_once(&close));
    base64(&Sha256::digest(inside.map_or("", |(inside, _)| inside)))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = bits >> (18 - 6 * place) & 63;
            let digit = char::from(DIGITS[digit as usize]);
            text.push(if place <= three.len() { digit } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn the_page_has_one_script_and_one_style_and_no_way_around_the_policy() {
        for element in ["<script", "<style"] {
            assert_eq!(PAGE.matches(element).count(), 1, "{element}");
        }
        assert_ne!(hash_of_element("script"), base64(&Sha256::digest("")));
        assert_ne!(hash_of_element("style"), base64(&Sha256::digest("")));
        for way in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            " style=",
            " onclick=",
            "http:",
        ] {
            assert!(!PAGE.contains(way), "{way}");
        }
    }
}
