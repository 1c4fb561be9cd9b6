//! Who may call: checks of `Host`, `Origin` and `Sec-Fetch-Site`. Pure.
//!
//! A browser lets any page send requests to any address that the browser's machine reaches. It sends the page's site
//! (`Origin`) and the name that the page used for the address (`Host`): if the page points a name of its own at this service
//! (DNS rebinding), the browser takes both for the same site. No other client sends an `Origin`.
//!
//! Browsers send it with everything but a GET whose response the page cannot read: an image, a script. Whether that loads
//! still reveals something to the page; for those, browsers send their source in `Sec-Fetch-Site`.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::limits::HttpConfig;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Foreign {
    #[error(
        "the host {0:?} is not allowed; use localhost or an IP address, or list the name in QUADRILLE_ALLOWED_HOSTS"
    )]
    Host(String),
    #[error(
        "pages of {0:?} may not call this service; to allow it, list the origin in QUADRILLE_ALLOWED_ORIGINS"
    )]
    Origin(String),
    #[error(
        "pages of other sites may not embed resources of this service; to allow it, list * in QUADRILLE_ALLOWED_ORIGINS, or let them use fetch and list their origins"
    )]
    Page,
}

/// The names and origins that are allowed.
#[derive(Debug)]
pub(crate) struct Rules {
    hosts: Vec<String>,
    own_host: Option<String>,
    origins: Vec<String>,
}

impl Rules {
    pub fn new(config: &HttpConfig) -> Self {
        Rules {
            hosts: config.allowed_hosts.clone(),
            own_host: config.own_host.clone(),
            origins: config.allowed_origins.clone(),
        }
    }

    /// The allowed origin that the request came from; None if it did not come from another site's page.
    ///
    /// `authority`: the requested host and port; `loopback`: the connection is over the loopback interface.
    pub fn check<'a>(
        &self,
        authority: Option<&str>,
        headers: &'a HeaderMap,
        loopback: bool,
    ) -> Result<Option<&'a HeaderValue>, Foreign> {
        // Without a list, only on loopback: a service that is reachable from elsewhere has names it does not know.
        if let Some(authority) = authority
            && (loopback || !self.hosts.is_empty())
            && !self.is_ours(name_of(authority))
        {
            return Err(Foreign::Host(authority.to_owned()));
        }
        let Some(origin) = headers.get(header::ORIGIN) else {
            return match loads_for_other_site(headers) && self.origins.iter().all(|it| it != "*") {
                true => Err(Foreign::Page),
                false => Ok(None),
            };
        };
        let refused = || Foreign::Origin(String::from_utf8_lossy(origin.as_bytes()).into_owned());
        let text = origin.to_str().map_err(|_| refused())?;
        let site = text.split_once("://").map(|(_, site)| site);
        let same = site.zip(authority);
        if same.is_some_and(|(site, authority)| site.eq_ignore_ascii_case(authority)) {
            return Ok(None);
        }
        let mut allowed = self.origins.iter();
        match allowed.any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(text)) {
            true => Ok(Some(origin)),
            false => Err(refused()),
        }
    }

    /// An IP address cannot be rebound, and `localhost` is this machine by definition.
    fn is_ours(&self, name: &str) -> bool {
        let ends = |end: &str| {
            let at = name.len().checked_sub(end.len());
            let tail = at.and_then(|at| name.get(at..));
            tail.is_some_and(|tail| tail.eq_ignore_ascii_case(end))
        };
        let local = name.eq_ignore_ascii_case("localhost") || ends(".localhost");
        let is_address = || {
            let bare = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
            bare.unwrap_or(name).parse::<IpAddr>().is_ok()
        };
        let allowed = |pattern: &String| match pattern.strip_prefix('*') {
            Some(end) => ends(end),
            None => pattern.eq_ignore_ascii_case(name),
        };
        let mut names = self.hosts.iter().chain(&self.own_host);
        local || is_address() || names.any(allowed)
    }
}

/// The name in `name:port`.
fn name_of(authority: &str) -> &str {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether a page of another site embeds this as a resource. Following a link is not that.
fn loads_for_other_site(headers: &HeaderMap) -> bool {
    let Some(site) = headers.get(FETCH_SITE) else {
        return false;
    };
    let other = site == "cross-site" || site == "same-site";
    other
        && headers
            .get(FETCH_MODE)
            .is_none_or(|mode| mode != "navigate")
}

/// Whether this is a CORS preflight.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Lets the page of an allowed origin read the response.
pub(crate) fn share(headers: &mut HeaderMap, origin: &HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.append(header::VARY, HeaderValue::from_static("origin"));
}

/// What is wrong with a body's media type; None if it is fine.
///
/// A page may send bodies of these types, or without one, to any site without a preflight; sending JSON needs one.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    const FIX: &str = "say what the body is, for example Content-Type: application/json (curl: -H 'Content-Type: application/json')";
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        let browser = headers.contains_key(header::ORIGIN) || headers.contains_key(FETCH_MODE);
        return browser.then(|| format!("the body has no Content-Type; {FIX}"));
    };
    let kind = String::from_utf8_lossy(kind.as_bytes());
    let essence = kind.split(';').next().unwrap_or_default().trim();
    let simple = [
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "text/plain",
    ];
    let simple = simple.iter().any(|it| essence.eq_ignore_ascii_case(it));
    (simple || essence.is_empty()).then(|| format!("Content-Type {essence}: {FIX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(hosts: &[&str], origins: &[&str]) -> Rules {
        let owned = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect();
        Rules {
            hosts: owned(hosts),
            own_host: None,
            origins: owned(origins),
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter();
        let pairs = pairs.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        pairs.collect()
    }

    fn host(rules: &Rules, authority: &str, loopback: bool) -> bool {
        let headers = HeaderMap::new();
        rules.check(Some(authority), &headers, loopback).is_ok()
    }

    #[test]
    fn on_loopback_only_this_machines_own_names_are_answered() {
        let rules = rules(&[], &[]);
        for ours in [
            "localhost",
            "LocalHost:7001",
            "app.localhost:7001",
            "127.0.0.1:7001",
            "127.9.9.9",
            "[::1]:7001",
            "[::1]",
            "192.168.1.7:7001",
            "localhost.",
        ] {
            assert!(host(&rules, ours, true), "{ours}");
        }
        for theirs in [
            "evil.example",
            "evil.example:7001",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
        ] {
            assert!(!host(&rules, theirs, true), "{theirs}");
            assert!(host(&rules, theirs, false), "{theirs}: not on loopback");
        }
        // No browser leaves it out.
        assert_eq!(rules.check(None, &HeaderMap::new(), true), Ok(None));
    }

    #[test]
    fn listed_hosts_are_answered_and_then_no_others_anywhere() {
        let rules = rules(&["predict.example", "*.cluster.local"], &[]);
        for loopback in [true, false] {
            assert!(host(&rules, "predict.example:443", loopback));
            assert!(host(&rules, "ingest.ns.svc.cluster.local", loopback));
            assert!(host(&rules, "10.0.0.7:7001", loopback), "a probe");
            assert!(!host(&rules, "cluster.local", loopback));
            assert!(!host(&rules, "evil.example", loopback));
        }
        let named = Rules {
            own_host: Some("feature-0".to_owned()),
            ..self::rules(&[], &[])
        };
        assert!(host(&named, "feature-0:7002", true), "another replica");
        assert!(host(&named, "any.example", false), "it restricts nothing");
        assert!(!host(&named, "any.example", true));
        let every = self::rules(&["*"], &[]);
        assert!(host(&every, "anything", true));
    }

    #[test]
    fn pages_of_other_sites_are_refused_unless_their_origin_is_listed() {
        let rules = rules(&[], &["https://app.example"]);
        let ask = |origin| {
            let headers = headers(&[("origin", origin)]);
            let checked = rules.check(Some("127.0.0.1:7004"), &headers, true);
            checked.map(|origin| origin.cloned())
        };
        assert_eq!(ask("http://127.0.0.1:7004"), Ok(None), "our own page");
        assert_eq!(
            ask("https://app.example"),
            Ok(Some(HeaderValue::from_static("https://app.example")))
        );
        for other in [
            "http://evil.example",
            "null",
            "http://127.0.0.1:8000",
            "http://app.example",
        ] {
            assert_eq!(ask(other), Err(Foreign::Origin(other.to_owned())));
        }
    }

    #[test]
    fn what_a_page_of_another_site_loads_is_refused_and_a_link_is_followed() {
        let ask = |origins, site, mode| {
            let headers = headers(&[("sec-fetch-site", site), ("sec-fetch-mode", mode)]);
            let checked = rules(&[], origins).check(Some("127.0.0.1:7004"), &headers, true);
            checked.map(|origin| origin.cloned())
        };
        for site in ["cross-site", "same-site"] {
            assert_eq!(ask(&[], site, "no-cors"), Err(Foreign::Page), "{site}");
            assert_eq!(ask(&[], site, "navigate"), Ok(None), "{site}");
            assert_eq!(ask(&["*"], site, "no-cors"), Ok(None), "{site}");
        }
        assert_eq!(ask(&[], "same-origin", "cors"), Ok(None), "our own page");
        assert_eq!(ask(&[], "none", "navigate"), Ok(None), "typed in");
        let unsaid = headers(&[("sec-fetch-site", "cross-site")]);
        let checked = rules(&[], &[]).check(None, &unsaid, true);
        assert_eq!(checked, Err(Foreign::Page));
    }

    #[test]
    fn a_body_that_any_page_may_send_is_refused() {
        for simple in [
            "text/plain",
            "TEXT/PLAIN; charset=utf-8",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "",
        ] {
            assert!(
                media_type(&headers(&[("content-type", simple)])).is_some(),
                "{simple}"
            );
        }
        for meant in ["application/json", "application/octet-stream", "text/csv"] {
            assert_eq!(media_type(&headers(&[("content-type", meant)])), None);
        }
        // Triton's Python client sends none; a browser always says whose page it is.
        assert_eq!(media_type(&HeaderMap::new()), None);
        assert!(media_type(&headers(&[("origin", "http://127.0.0.1:7004")])).is_some());
    }
}
