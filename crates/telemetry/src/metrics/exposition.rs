//! The text of `/metrics` read back, for those who push it: `prometheus-client` hands its samples out as text, or as protobuf
//! with three generators in everybody's build, 25 s of CPU.

/// One metric with all that was measured of it.
#[derive(Default)]
pub(crate) struct Family<'a> {
    /// With its unit, without what follows it in samples' names, like `_total`.
    pub name: &'a str,
    pub help: &'a str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'a str,
    pub unit: &'a str,
    pub samples: Vec<Sample<'a>>,
}

/// A line.
pub(crate) struct Sample<'a> {
    /// What follows the family's name: `_bucket`, or nothing.
    pub suffix: &'a str,
    pub labels: Labels<'a>,
    /// As it is written: counts do not fit into an `f64`.
    pub value: &'a str,
    pub exemplar: Option<Exemplar<'a>>,
}

/// Names and values.
pub(crate) type Labels<'a> = Vec<(&'a str, String)>;

/// One of the things that were measured.
pub(crate) struct Exemplar<'a> {
    pub labels: Labels<'a>,
    pub value: f64,
    /// Unix seconds.
    pub at: Option<f64>,
}

/// What `text` holds, as [`super::Registry::encode`] writes it.
pub(crate) fn families(text: &str) -> Vec<Family<'_>> {
    let mut families: Vec<Family<'_>> = Vec::new();
    for line in text.lines() {
        if let Some((name, help)) = described(line, "# HELP ") {
            families.push(Family {
                name,
                help,
                ..Family::default()
            });
        } else if let Some(family) = families.last_mut() {
            family.read(line);
        }
    }
    families
}

impl<'a> Family<'a> {
    fn read(&mut self, line: &'a str) {
        if let Some((_, kind)) = described(line, "# TYPE ") {
            self.kind = kind;
        } else if let Some((_, unit)) = described(line, "# UNIT ") {
            self.unit = unit;
        } else {
            self.samples.extend(self.sample(line));
        }
    }

    fn sample(&self, line: &'a str) -> Option<Sample<'a>> {
        let rest = line.strip_prefix(self.name)?;
        let (suffix, rest) = rest.split_at(rest.find(['{', ' '])?);
        let (labels, rest) = labels(rest)?;
        let (value, exemplar) = match rest.split_once(" # ") {
            Some((value, exemplar)) => (value, read_exemplar(exemplar)),
            None => (rest, None),
        };
        Some(Sample {
            suffix,
            labels,
            value: value.trim_start(),
            exemplar,
        })
    }
}

/// The name, and what is said of it.
fn described<'a>(line: &'a str, what: &str) -> Option<(&'a str, &'a str)> {
    line.strip_prefix(what)?.split_once(' ')
}

fn read_exemplar(text: &str) -> Option<Exemplar<'_>> {
    let (labels, rest) = labels(text)?;
    let mut numbers = rest.split_ascii_whitespace();
    Some(Exemplar {
        labels,
        value: numbers.next()?.parse().ok()?,
        at: numbers.next().and_then(|at| at.parse().ok()),
    })
}

/// The labels in braces that `text` may begin with, and what follows them.
fn labels(text: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Vec::new();
    let Some(mut rest) = text.strip_prefix('{') else {
        return Some((labels, text));
    };
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, value) = rest.split_once("=\"")?;
        let (value, after) = quoted(value)?;
        labels.push((name, value));
        rest = after.strip_prefix(',').unwrap_or(after);
    }
}

/// What stands before the closing quote, without its escapes, and what follows the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => match chars.next()? {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        metrics::{counter::Counter, exemplar::HistogramWithExemplars, family, gauge::Gauge},
        registry::Unit,
    };

    use super::*;
    use crate::Registry;

    const ODD: &str = "back\\slash, \"quoted\" # {line}\nbreak = 1";

    #[test]
    fn labels_come_back_as_they_were_whatever_they_hold() {
        let registry = Registry::default();
        let counter = family::Family::<Vec<(String, String)>, Counter>::default();
        let counter = registry.registered("odd.records", None, "Help with \"quotes\"", counter);
        let both = vec![
            ("first".to_owned(), ODD.to_owned()),
            ("second".to_owned(), String::new()),
        ];
        counter.get_or_create(&both).inc_by(u64::MAX);
        let text = registry.encode();
        let [family] = &families(&text)[..] else {
            panic!("one family in {text}");
        };
        assert_eq!(
            (family.name, family.kind, family.unit),
            ("odd_records", "counter", "")
        );
        assert_eq!(family.help, "Help with \"quotes\".");
        let [sample] = &family.samples[..] else {
            panic!("one sample in {text}");
        };
        assert_eq!(sample.suffix, "_total");
        assert_eq!(sample.value, u64::MAX.to_string());
        let labels: Vec<_> = sample.labels.iter().collect();
        assert_eq!(
            labels,
            [&("first", ODD.to_owned()), &("second", String::new())]
        );
    }

    #[test]
    fn a_gauge_without_labels_keeps_value_and_unit() {
        let registry = Registry::default();
        let gauge = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
        let gauge = registry.registered("odd.age", Some(Unit::Seconds), "Help", gauge);
        gauge.set(-1.5e-9);
        let text = registry.encode();
        let family = &families(&text)[0];
        assert_eq!(
            (family.name, family.kind, family.unit),
            ("odd_age_seconds", "gauge", "seconds")
        );
        let sample = &family.samples[0];
        assert_eq!((sample.suffix, sample.labels.len()), ("", 0));
        assert_eq!(sample.value.parse(), Ok(-1.5e-9));
    }

    #[test]
    fn buckets_bring_their_bounds_and_an_example() {
        let registry = Registry::default();
        let histogram = HistogramWithExemplars::new([0.5].into_iter());
        let histogram = registry.registered("odd.time", Some(Unit::Seconds), "Help", histogram);
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(1_700_000_000_250);
        histogram.observe(0.75, Some(vec![("trace_id", "ab")]), Some(at));
        let text = registry.encode();
        let samples = &families(&text)[0].samples;
        let lines: Vec<_> = samples.iter().map(|it| (it.suffix, it.value)).collect();
        assert_eq!(
            lines,
            [
                ("_sum", "0.75"),
                ("_count", "1"),
                ("_bucket", "0"),
                ("_bucket", "1")
            ]
        );
        let last = &samples[3];
        assert_eq!(last.labels, [("le", "+Inf".to_owned())]);
        let exemplar = last.exemplar.as_ref().expect("an exemplar");
        assert_eq!(exemplar.labels, [("trace_id", "ab".to_owned())]);
        assert_eq!(
            (exemplar.value, exemplar.at),
            (0.75, Some(1_700_000_000.25))
        );
    }
}
