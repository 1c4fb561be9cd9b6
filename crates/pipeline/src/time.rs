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
    rfc3339(field, text).map(Timestamp::as_millisecond)
}

/// The time of an RFC 3339 text, as precise as it is.
pub(crate) fn rfc3339(field: &str, text: &str) -> Result<Timestamp, Invalid> {
    text.parse().map_err(|_| {
        Invalid::new(
            InvalidKind::BadTime,
            field,
            format!("{} is not a time with an offset", quote(text)),
            "send RFC 3339, as in \"2026-01-31T12:00:00Z\", or milliseconds since 1970 as a number",
        )
    })
}

/// The times that a record may bring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub now_ms: i64,
    /// Whose time that is.
    pub clock: &'static str,
    pub future_ms_max: i64,
    pub past_ms_max: i64,
}

impl Bounds {
    /// Refuses times before 1970, those further ahead than clocks differ, and those so old that they are no times.
    pub fn check(self, field: &str, time_ms: i64) -> Result<i64, Invalid> {
        let bad = |reason, fix: String| Err(Invalid::new(InvalidKind::BadTime, field, reason, fix));
        let now = || show(self.now_ms);
        if time_ms < 0 {
            let reason = format!("{} is before 1970", show(time_ms));
            return bad(
                reason,
                "send the time of the event, not a placeholder".into(),
            );
        }
        if self.is_ahead(time_ms) {
            let allowed = duration_text(self.future_ms_max);
            let reason = format!(
                "{} is more than {allowed} ahead of {} ({})",
                show(time_ms),
                self.clock,
                now()
            );
            let fix = "check the sender's clock and that numbers are milliseconds, or raise \
                       record.future_max in the pipeline file";
            return bad(reason, fix.into());
        }
        if self.is_old(time_ms) {
            let allowed = duration_text(self.past_ms_max);
            let reason = format!(
                "{} is more than {allowed} before {} ({})",
                show(time_ms),
                self.clock,
                now()
            );
            let raise = "raise record.past_max in the pipeline file";
            // Of this century, if it counts seconds.
            let seconds = time_ms.saturating_mul(1_000);
            let fix = match self.is_ahead(seconds) || self.is_old(seconds) {
                true => format!("send the time of the event, or {raise}"),
                false => format!(
                    "{time_ms} looks like seconds since 1970: send milliseconds, {seconds}, or {raise}"
                ),
            };
            return bad(reason, fix);
        }
        Ok(time_ms)
    }

    fn is_ahead(self, time_ms: i64) -> bool {
        time_ms > self.now_ms.saturating_add(self.future_ms_max)
    }

    fn is_old(self, time_ms: i64) -> bool {
        time_ms < self.now_ms.saturating_sub(self.past_ms_max)
    }
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
        let check = |time_ms, now_ms, future_ms_max| {
            let bounds = Bounds {
                now_ms,
                clock: "the clock",
                future_ms_max,
                past_ms_max: i64::MAX,
            };
            bounds.check("t", time_ms)
        };
        assert!(check(now + 300_000, now, 300_000).is_ok());
        let error = check(now + 300_001, now, 300_000).unwrap_err();
        assert!(error.to_string().contains("more than 5m ahead"), "{error}");
        assert!(error.fix.contains("record.future_max"));
        assert!(check(i64::MAX, now, 0).is_err());
        assert!(check(-1, now, 0).is_err());
        assert!(check(i64::MIN, now, 0).is_err());
        assert!(check(5, i64::MAX, i64::MAX).is_ok());
    }

    #[test]
    fn a_time_in_seconds_is_refused_with_the_milliseconds() {
        let bounds = Bounds {
            now_ms: 1_763_600_000_000,
            clock: "the clock",
            future_ms_max: 300_000,
            past_ms_max: duration_ms("10000d").unwrap(),
        };
        let error = bounds.check("t", 1_763_596_800).unwrap_err();
        assert_eq!(error.class(), "bad_time");
        assert!(error.to_string().contains("1970-01-21"), "{error}");
        assert!(
            error.fix.contains("send milliseconds, 1763596800000"),
            "{error}"
        );
        assert!(error.fix.contains("record.past_max"), "{error}");
        let oldest = bounds.now_ms - bounds.past_ms_max;
        assert_eq!(bounds.check("t", oldest), Ok(oldest));
        let error = bounds.check("t", oldest - 1).unwrap_err();
        assert!(!error.fix.contains("seconds"), "{error}");
        assert!(bounds.check("t", 0).is_err(), "a placeholder");
    }
}
