//! Durations as people write them, and event times as records bring them.

use jiff::Timestamp;

use crate::invalid::{Invalid, InvalidKind};
use crate::quote::quote;

/// A duration such as `500ms`, `30s`, `5m`, `2h` or `1d`, in milliseconds.
pub(crate) fn duration_ms(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    text[..digits].parse::<i64>().ok()?.checked_mul(unit)
}

/// The largest round unit that says it: 300,000 is `5m`.
pub(crate) fn duration_text(ms: i64) -> String {
    for (unit, name) in [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
    ] {
        if ms != 0 && ms % unit == 0 {
            return format!("{}{name}", ms / unit);
        }
    }
    format!("{ms}ms")
}

/// Milliseconds since the epoch of an RFC 3339 text.
pub(crate) fn parse_rfc3339(field: &str, text: &str) -> Result<i64, Invalid> {
    match text.parse::<Timestamp>() {
        Ok(time) => Ok(time.as_millisecond()),
        Err(_) => Err(Invalid::new(
            InvalidKind::BadTime,
            field,
            format!("{} is not a time with an offset", quote(text)),
            "send RFC 3339, as in \"2026-01-31T12:00:00Z\", or milliseconds since 1970 as a number",
        )),
    }
}

/// Refuses times before 1970 and those further ahead than clocks differ.
pub(crate) fn check(
    field: &str,
    time_ms: i64,
    now_ms: i64,
    future_ms_max: i64,
) -> Result<i64, Invalid> {
    let bad = |reason, fix: String| Err(Invalid::new(InvalidKind::BadTime, field, reason, fix));
    if time_ms < 0 {
        let reason = format!("{} is before 1970", show(time_ms));
        return bad(
            reason,
            "send the time of the event, not a placeholder".into(),
        );
    }
    if time_ms > now_ms.saturating_add(future_ms_max) {
        let allowed = duration_text(future_ms_max);
        let reason = format!(
            "{} is more than {allowed} ahead of this machine's clock ({})",
            show(time_ms),
            show(now_ms)
        );
        let fix = "check the sender's clock and that numbers are milliseconds, or raise \
                   record.future_max in the pipeline file";
        return bad(reason, fix.into());
    }
    Ok(time_ms)
}

/// RFC 3339, or the number where no calendar reaches.
fn show(time_ms: i64) -> String {
    match Timestamp::from_millisecond(time_ms) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{time_ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_whole_number_and_a_unit() {
        for (text, ms) in [
            ("5m", 300_000),
            ("0s", 0),
            ("250ms", 250),
            ("2h", 7_200_000),
        ] {
            assert_eq!(duration_ms(text), Some(ms), "{text}");
            assert_eq!(duration_ms(&duration_text(ms)), Some(ms), "{text}");
        }
        for text in [
            "",
            "5",
            "m",
            "-5m",
            "5 m",
            "1.5h",
            "5min",
            "99999999999999999999d",
        ] {
            assert_eq!(duration_ms(text), None, "{text}");
        }
    }

    #[test]
    fn a_time_is_read_in_any_offset() {
        let utc = parse_rfc3339("t", "2026-01-31T12:00:00.250Z").unwrap();
        assert_eq!(
            utc,
            parse_rfc3339("t", "2026-01-31T13:00:00.250+01:00").unwrap()
        );
        for text in [
            "",
            "yesterday",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "1769860800000",
        ] {
            assert_eq!(
                parse_rfc3339("t", text).unwrap_err().class(),
                "bad_time",
                "{text}"
            );
        }
    }

    #[test]
    fn a_time_too_far_ahead_names_the_setting() {
        let now = 1_700_000_000_000;
        assert!(check("t", now + 300_000, now, 300_000).is_ok());
        let error = check("t", now + 300_001, now, 300_000).unwrap_err();
        assert!(error.to_string().contains("more than 5m ahead"), "{error}");
        assert!(error.fix.contains("record.future_max"));
        assert!(check("t", i64::MAX, now, 0).is_err());
        assert!(check("t", -1, now, 0).is_err());
        assert!(check("t", i64::MIN, now, 0).is_err());
        assert!(check("t", 5, i64::MAX, i64::MAX).is_ok());
    }
}
