//! Times: as flags take them, as messages carry them, as people and machines read them.

use jiff::{Timestamp, civil::Date, tz::TimeZone};

/// A time as flags take it.
///
/// # Errors
/// How it is written.
pub fn parse(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let day = text
        .parse::<Date>()
        .and_then(|day| day.to_zoned(TimeZone::UTC));
    match day {
        Ok(day) => Ok(day.timestamp()),
        Err(_) => Err("write 2026-01-31T12:00:00Z, or 2026-01-31".to_owned()),
    }
}

pub fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// RFC 3339 to the second; the number itself where it can be no time.
pub fn seconds(at_ms: i64) -> String {
    match Timestamp::from_millisecond(at_ms) {
        Ok(time) => format!("{time:.0}"),
        Err(_) => at_ms.to_string(),
    }
}

/// RFC 3339 in milliseconds; None where it can be no time.
pub fn millis(at_ms: i64) -> Option<String> {
    let time = Timestamp::from_millisecond(at_ms).ok()?;
    Some(format!("{time:.3}"))
}

pub fn to_proto(time: Timestamp) -> prost_types::Timestamp {
    // Protobuf counts nanoseconds forward from the second, jiff away from zero.
    let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
    match nanos < 0 {
        true => prost_types::Timestamp {
            seconds: seconds - 1,
            nanos: nanos + 1_000_000_000,
        },
        false => prost_types::Timestamp { seconds, nanos },
    }
}

/// RFC 3339 in milliseconds; empty where there is no time, or none that can be one.
pub fn rfc3339(time: Option<&prost_types::Timestamp>) -> String {
    let time = time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok());
    time.map_or(String::new(), |time| format!("{time:.3}"))
}

/// The version of a model that is given none: the present time, as in 20261122T160000Z.
pub fn as_version() -> String {
    Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rfc_3339_or_a_day() {
        let noon = parse("2026-01-31T13:00:00+01:00").unwrap();
        assert_eq!(noon.to_string(), "2026-01-31T12:00:00Z");
        assert_eq!(
            parse("2026-01-31").unwrap().to_string(),
            "2026-01-31T00:00:00Z"
        );
        assert!(parse("yesterday").is_err());
    }

    #[test]
    fn a_time_before_1970_survives_protobuf() {
        let time = parse("1969-12-31T23:59:59.250Z").unwrap();
        let proto = to_proto(time);
        assert_eq!((proto.seconds, proto.nanos), (-1, 250_000_000));
        assert_eq!(rfc3339(Some(&proto)), "1969-12-31T23:59:59.250Z");
        assert_eq!(rfc3339(None), "");
    }
}
