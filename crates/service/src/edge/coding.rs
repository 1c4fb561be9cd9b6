//! Compression of bodies, and its negotiation by headers. Pure.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

pub(crate) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(crate) const GRPC_ACCEPT: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// The codings that requests may use, in the terms of HTTP and of gRPC.
pub(crate) const CODINGS: HeaderValue = HeaderValue::from_static("gzip, deflate");
pub(crate) const GRPC_CODINGS: HeaderValue = HeaderValue::from_static("identity,gzip,deflate");

/// A compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    /// What HTTP and gRPC call `deflate` is the zlib format.
    Deflate,
}

impl Coding {
    pub fn name(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
        })
    }

    fn parse(name: &str) -> Option<Self> {
        let is = |it: &str| name.eq_ignore_ascii_case(it);
        match () {
            () if is("gzip") || is("x-gzip") => Some(Coding::Gzip),
            () if is("deflate") => Some(Coding::Deflate),
            () => None,
        }
    }
}

/// How a request's body, or its gRPC messages, are compressed; the error is the header's value if it is not supported. One
/// coding at a time: two would multiply what a small body expands to.
pub(crate) fn of_request(headers: &HeaderMap, grpc: bool) -> Result<Option<Coding>, String> {
    let name = match grpc {
        true => &GRPC_ENCODING,
        false => &header::CONTENT_ENCODING,
    };
    let mut given = headers.get_all(name).iter();
    let Some(first) = given.next() else {
        return Ok(None);
    };
    if given.next().is_some() {
        return Err("several".to_owned());
    }
    let text = String::from_utf8_lossy(first.as_bytes());
    let text = text.trim();
    match Coding::parse(text) {
        Some(coding) => Ok(Some(coding)),
        None if text.is_empty() || text.eq_ignore_ascii_case("identity") => Ok(None),
        None => Err(text.to_owned()),
    }
}

/// The coding for the response, if the client asks for one.
pub(crate) fn of_answer(headers: &HeaderMap, grpc: bool) -> Option<Coding> {
    match grpc {
        true => of_grpc_answer(headers),
        false => headers
            .contains_key(header::ACCEPT_ENCODING)
            .then(|| accepted(headers))?,
    }
}

/// gRPC clients list what they could read, whether it helps them or not. So a response is compressed as its request was,
/// which only a client does that was configured to compress.
fn of_grpc_answer(headers: &HeaderMap) -> Option<Coding> {
    let coding = of_request(headers, true).ok()??;
    let mut listed = headers.get_all(GRPC_ACCEPT).iter();
    let reads = listed.any(|list| {
        let mut names = list.to_str().unwrap_or_default().split(',');
        names.any(|name| Coding::parse(name.trim()) == Some(coding))
    });
    reads.then_some(coding)
}

/// The one that `Accept-Encoding` prefers; gzip of two that it takes alike.
fn accepted(headers: &HeaderMap) -> Option<Coding> {
    let (mut gzip, mut deflate, mut identity, mut any) = (None, None, None, None);
    for list in headers.get_all(header::ACCEPT_ENCODING) {
        for item in list.to_str().ok()?.split(',') {
            let (name, quality) = weighed(item)?;
            match Coding::parse(name) {
                Some(Coding::Gzip) => gzip = Some(quality),
                Some(Coding::Deflate) => deflate = Some(quality),
                None if name == "*" => any = Some(quality),
                None if name.eq_ignore_ascii_case("identity") => identity = Some(quality),
                None => {}
            }
        }
    }
    let of = |quality: Option<f32>| quality.or(any).unwrap_or(0.0);
    let (gzip, deflate, plain) = (of(gzip), of(deflate), identity.unwrap_or(0.0));
    let (coding, best) = match gzip >= deflate {
        true => (Coding::Gzip, gzip),
        false => (Coding::Deflate, deflate),
    };
    (best > 0.0 && best >= plain).then_some(coding)
}

/// Name and weight of an item such as `name;q=0.5`; None if it is malformed.
fn weighed(item: &str) -> Option<(&str, f32)> {
    let Some((name, weight)) = item.split_once(';') else {
        return Some((item.trim(), 1.0));
    };
    let weight = weight.trim();
    let weight = weight
        .strip_prefix("q=")
        .or_else(|| weight.strip_prefix("Q="))?;
    let weight: f32 = weight.parse().ok()?;
    (0.0..=1.0)
        .contains(&weight)
        .then_some((name.trim(), weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_body_has_one_coding_that_is_known_or_is_refused() {
        let of = |values: &[&'static str]| {
            let pairs: Vec<_> = values.iter().map(|it| ("content-encoding", *it)).collect();
            of_request(&headers(&pairs), false)
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["identity"]), Ok(None));
        assert_eq!(of(&["GZip"]), Ok(Some(Coding::Gzip)));
        assert_eq!(of(&["x-gzip"]), Ok(Some(Coding::Gzip)));
        assert_eq!(of(&[" deflate"]), Ok(Some(Coding::Deflate)));
        for refused in [&["br"][..], &["gzip, gzip"], &["gzip", "gzip"], &["zstd"]] {
            assert!(of(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn the_coding_of_an_answer_is_the_one_that_is_preferred() {
        let of = |list| of_answer(&headers(&[("accept-encoding", list)]), false);
        for (list, expected) in [
            ("gzip, deflate, br", Some(Coding::Gzip)),
            ("deflate", Some(Coding::Deflate)),
            ("gzip;q=0.5, deflate;q=0.8", Some(Coding::Deflate)),
            ("*", Some(Coding::Gzip)),
            ("gzip;q=0, *", Some(Coding::Deflate)),
            ("gzip;q=0", None),
            ("*;q=0", None),
            ("identity", None),
            ("identity, gzip;q=0.5", None),
            ("br, zstd", None),
            ("", None),
            ("gzip;level=9", None),
            ("gzip;q=NaN", None),
            ("gzip;q=7", None),
        ] {
            assert_eq!(of(list), expected, "{list}");
        }
        assert_eq!(of_answer(&HeaderMap::new(), false), None);
    }

    #[test]
    fn an_answer_by_grpc_is_compressed_as_its_request_is() {
        let of = |pairs: &[_]| of_answer(&headers(pairs), true);
        let reads = ("grpc-accept-encoding", "identity, deflate, gzip");
        assert_eq!(of(&[reads]), None, "what clients say anyway");
        assert_eq!(of(&[reads, ("grpc-encoding", "gzip")]), Some(Coding::Gzip));
        assert_eq!(of(&[("grpc-encoding", "gzip")]), None);
        assert_eq!(of(&[reads, ("grpc-encoding", "identity")]), None);
    }
}
