//! URIs of packages outside the log.

use std::{fmt, path::PathBuf};

use url::Url;

const SUPPORTED: &str = "supported are file:///path and s3://bucket/key";

/// A file or a folder outside the log. Shown as it is written: `file:///path` or `s3://bucket/key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uri {
    /// Absolute.
    File(PathBuf),
    /// The key as S3 has it, not percent-encoded.
    S3 { bucket: String, key: String },
}

impl Uri {
    /// # Errors
    /// What is wrong and what would be right. The text itself is not repeated: it may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(format!("it is no URI; {SUPPORTED}"));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "file" => file(text, rest),
            "s3" => s3(rest),
            other => Err(format!(
                "the scheme {other:?} is not supported; {SUPPORTED}"
            )),
        }
    }

    /// The URI of a file in this folder.
    #[must_use]
    pub fn join(&self, file: &str) -> Self {
        match self {
            Uri::File(folder) => Uri::File(folder.join(file)),
            Uri::S3 { bucket, key } => {
                let folder = key.trim_end_matches('/');
                let key = match folder {
                    "" => file.to_owned(),
                    folder => format!("{folder}/{file}"),
                };
                let bucket = bucket.clone();
                Uri::S3 { bucket, key }
            }
        }
    }
}

fn file(text: &str, rest: &str) -> Result<Uri, String> {
    const FORM: &str = "a file's URI is absolute and of this machine: file:///path/to/package/";
    if !rest.starts_with('/') {
        return Err(FORM.to_owned());
    }
    let url = Url::parse(text).map_err(|error| format!("{FORM} ({error})"))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a file's URI has ? as %3F and # as %23".to_owned());
    }
    let path = url.to_file_path().map_err(|()| FORM.to_owned())?;
    Ok(Uri::File(path))
}

fn s3(rest: &str) -> Result<Uri, String> {
    let rest = rest.strip_prefix("//").unwrap_or_default();
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if bucket.is_empty() || !bucket.chars().all(allowed) {
        return Err(
            "the bucket must be letters, digits, '.', '-' and '_': s3://bucket/key; keys to the store are environment variables"
                .to_owned(),
        );
    }
    // A URL would resolve these, and name another object.
    if key.split('/').any(|part| matches!(part, "." | "..")) || key.contains(char::is_control) {
        return Err("the key must have no part . or .. and no control characters".to_owned());
    }
    Ok(Uri::S3 {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
    })
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Uri::File(path) => match Url::from_file_path(path) {
                Ok(url) => url.fmt(f),
                Err(()) => path.display().fmt(f),
            },
            Uri::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_shown_as_it_is_written() {
        for text in [
            "file:///srv/a%20b/m",
            "s3://models/pima/1/a b+%20.bin",
            "s3://models/",
        ] {
            assert_eq!(
                Uri::parse(text).map(|uri| uri.to_string()),
                Ok(text.to_owned())
            );
        }
        let folder = Uri::parse("file:///srv/a%20b/").unwrap();
        assert_eq!(folder.join("m.bin"), Uri::File("/srv/a b/m.bin".into()));
        assert_eq!(Uri::parse("file:/srv"), Uri::parse("file://localhost/srv"));
    }

    #[test]
    fn a_file_of_a_folder_has_one_name_with_and_without_the_last_slash() {
        for (folder, file) in [
            ("s3://b", "s3://b/f"),
            ("s3://b/", "s3://b/f"),
            ("s3://b/p", "s3://b/p/f"),
            ("s3://b/p/", "s3://b/p/f"),
            ("file:///p", "file:///p/f"),
            ("file:///p/", "file:///p/f"),
        ] {
            assert_eq!(Uri::parse(folder).unwrap().join("f").to_string(), file);
        }
    }

    #[test]
    fn what_is_no_uri_of_ours_is_refused_with_what_is() {
        for (text, told) in [
            ("models/pima", "no URI"),
            ("gs://bucket/key", "\"gs\" is not supported"),
            ("https://host/key", "supported are file:///path and s3://"),
            ("file:models/pima", "absolute"),
            ("file://models/pima", "of this machine"),
            ("file:///a?b", "%3F"),
            ("file:///a#b", "%23"),
            ("s3:bucket/key", "bucket must be"),
            ("s3:///key", "bucket must be"),
            ("s3://bucket/a/../b", "no part"),
            ("s3://bucket/a\nb", "control"),
        ] {
            let error = Uri::parse(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        let error = Uri::parse("s3://id:secret@bucket/key").unwrap_err();
        assert!(
            error.contains("environment") && !error.contains("secret@"),
            "{error}"
        );
    }
}
