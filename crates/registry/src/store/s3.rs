//! Presigned URLs of objects in an S3-compatible store.

use std::{env, time::Duration};

use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle, actions::GetObject};
use url::Url;

/// The default region.
const REGION_DEFAULT: &str = "us-east-1";
/// How long a presigned URL is valid: enough to begin a download at once, with some clock skew.
const VALID_FOR: Duration = Duration::from_secs(300);

/// Settings of the store, by AWS's names. Checked when an object is requested: variables that are meant for something else do not
/// stop those who keep packages on the log.
#[derive(Clone, Default)]
pub struct S3Settings {
    /// `AWS_ENDPOINT_URL_S3`, else `AWS_ENDPOINT_URL`; none is AWS itself.
    pub endpoint: Option<String>,
    /// `AWS_REGION`.
    pub region: Option<String>,
    /// `AWS_ACCESS_KEY_ID`; without it requests are not signed, for buckets that are public.
    pub access_key_id: Option<String>,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: Option<String>,
    /// `AWS_SESSION_TOKEN`.
    pub session_token: Option<String>,
}

impl S3Settings {
    /// From the environment; an empty variable counts as unset.
    pub fn from_env() -> Self {
        let var = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        S3Settings {
            endpoint: var("AWS_ENDPOINT_URL_S3").or_else(|| var("AWS_ENDPOINT_URL")),
            region: var("AWS_REGION"),
            access_key_id: var("AWS_ACCESS_KEY_ID"),
            secret_access_key: var("AWS_SECRET_ACCESS_KEY"),
            session_token: var("AWS_SESSION_TOKEN"),
        }
    }

    /// The presigned URL to GET an object. It holds a signature: do not show or log it.
    ///
    /// # Errors
    /// An invalid setting, by name and without its value.
    pub(super) fn address(&self, bucket: &str, key: &str) -> Result<Url, String> {
        if key.is_empty() {
            return Err("it names a bucket, not an object; add the key".to_owned());
        }
        let region = self.region.as_deref().unwrap_or(REGION_DEFAULT);
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if !region.chars().all(allowed) {
            return Err("AWS_REGION must be letters, digits and '-', as us-east-1".to_owned());
        }
        let aws = format!("https://s3.{region}.amazonaws.com");
        let endpoint = self.endpoint.as_deref().unwrap_or(&aws);
        let wrong = |error: &dyn std::fmt::Display| {
            format!(
                "AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL: {error}; it must be http(s)://host:port"
            )
        };
        let endpoint = Url::parse(endpoint).map_err(|error| wrong(&error))?;
        // No certificate is good for a bucket's name with a dot as part of the host, nor is every name one of a host.
        let of_host = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let style = match self.endpoint.is_none() && bucket.chars().all(of_host) {
            true => UrlStyle::VirtualHost,
            false => UrlStyle::Path,
        };
        let bucket = Bucket::new(endpoint, style, bucket.to_owned(), region.to_owned())
            .map_err(|error| wrong(&error))?;
        let credentials = self.credentials()?;
        Ok(GetObject::new(&bucket, credentials.as_ref(), key).sign(VALID_FOR))
    }

    fn credentials(&self) -> Result<Option<Credentials>, String> {
        let missing = |there: &str, missing: &str| {
            Err(format!(
                "{there} is set and {missing} is not; set both, or neither for a public bucket"
            ))
        };
        match (&self.access_key_id, &self.secret_access_key) {
            (None, None) => Ok(None),
            (Some(_), None) => missing("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
            (None, Some(_)) => missing("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
            (Some(id), Some(secret)) => Ok(Some(match &self.session_token {
                None => Credentials::new(id, secret),
                Some(token) => Credentials::new_with_token(id, secret, token),
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn aws_has_the_bucket_in_the_host_and_an_endpoint_in_the_path() {
        let public = S3Settings::default();
        let address = |settings: &S3Settings, bucket| {
            settings.address(bucket, "a b/m.bin").unwrap().to_string()
        };
        let host = "https://models.s3.us-east-1.amazonaws.com/a%20b/m.bin";
        assert_eq!(address(&public, "models"), host);
        let dotted = "https://s3.us-east-1.amazonaws.com/my.models/a%20b/m.bin";
        assert_eq!(address(&public, "my.models"), dotted);
        let minio = S3Settings {
            endpoint: some("http://minio:9000"),
            ..S3Settings::default()
        };
        assert_eq!(
            address(&minio, "models"),
            "http://minio:9000/models/a%20b/m.bin"
        );
    }

    #[test]
    fn with_keys_an_address_is_signed_for_its_region() {
        let settings = S3Settings {
            region: some("eu-west-1"),
            access_key_id: some("id"),
            secret_access_key: some("very secret"),
            session_token: some("token"),
            ..S3Settings::default()
        };
        let address = settings.address("models", "m").unwrap();
        let query: std::collections::BTreeMap<_, _> = address.query_pairs().collect();
        assert_eq!(query["X-Amz-Algorithm"], "AWS4-HMAC-SHA256");
        assert!(query["X-Amz-Credential"].starts_with("id/"));
        assert!(query["X-Amz-Credential"].ends_with("/eu-west-1/s3/aws4_request"));
        assert_eq!(query["X-Amz-Security-Token"], "token");
        assert_eq!(query["X-Amz-Signature"].len(), 64);
        assert!(!address.as_str().contains("secret"));
    }

    #[test]
    fn a_setting_that_cannot_be_is_named_and_not_shown() {
        let good = S3Settings {
            access_key_id: some("an id"),
            secret_access_key: some("hush"),
            ..S3Settings::default()
        };
        let half = |id: bool| {
            let mut half = good.clone();
            match id {
                true => half.secret_access_key = None,
                false => half.access_key_id = None,
            }
            half
        };
        let endpoint = |text: &str| S3Settings {
            endpoint: some(text),
            ..good.clone()
        };
        let region = S3Settings {
            region: some("a/b"),
            ..good.clone()
        };
        for (settings, named) in [
            (half(true), "AWS_SECRET_ACCESS_KEY is not"),
            (half(false), "AWS_ACCESS_KEY_ID is not"),
            (endpoint("minio:9000"), "AWS_ENDPOINT_URL_S3"),
            (endpoint("hush"), "AWS_ENDPOINT_URL_S3"),
            (region, "AWS_REGION"),
        ] {
            let error = settings.address("models", "m").unwrap_err();
            assert!(error.contains(named) && !error.contains("hush"), "{error}");
        }
        assert!(
            good.address("models", "")
                .unwrap_err()
                .contains("add the key")
        );
    }
}
