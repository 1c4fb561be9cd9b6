//! The available releases of Apache Kafka, and how they differ.

use std::str::FromStr;

use crate::Error;

const POM: &str = include_str!("pom.xml");

/// A release line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Release {
    /// The last line before 4.0; it logs by Log4j 1.
    V3_9,
    #[default]
    V4_1,
    V4_4,
}

/// How a release logs.
pub(super) struct Logging {
    /// Group, artifact and version of what binds SLF4J.
    binding: [&'static str; 3],
    /// The property that names the file of settings.
    pub property: &'static str,
    pub file: &'static str,
    /// To the console, which is a file of ours.
    pub settings: &'static str,
}

const RELOAD4J: Logging = Logging {
    binding: ["org.slf4j", "slf4j-reload4j", "1.7.36"],
    property: "log4j.configuration=file:",
    file: "log4j.properties",
    settings: "\
log4j.rootLogger=WARN, console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.target=System.err
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=[%d] %p %m (%c)%n
",
};

const LOG4J2: Logging = Logging {
    binding: ["org.apache.logging.log4j", "log4j-slf4j-impl", "2.24.3"],
    property: "log4j2.configurationFile=",
    file: "log4j2.properties",
    settings: "\
rootLogger.level=WARN
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.target=SYSTEM_ERR
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=[%d] %p %m (%c)%n
",
};

impl Release {
    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            Release::V3_9 => "3.9.2",
            Release::V4_1 => "4.1.1",
            Release::V4_4 => "4.4.0",
        }
    }

    pub(super) fn logging(self) -> &'static Logging {
        match self {
            Release::V3_9 => &RELOAD4J,
            Release::V4_1 | Release::V4_4 => &LOG4J2,
        }
    }

    /// What Maven is to fetch.
    pub(super) fn pom(self) -> String {
        let [group, artifact, version] = self.logging().binding;
        POM.replace("KAFKA_VERSION", self.version())
            .replace("LOGGING_GROUP", group)
            .replace("LOGGING_ARTIFACT", artifact)
            .replace("LOGGING_VERSION", version)
    }
}

impl FromStr for Release {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self, Error> {
        match line {
            "3.9" => Ok(Release::V3_9),
            "4.1" => Ok(Release::V4_1),
            "4.4" => Ok(Release::V4_4),
            _ => Err(Error::NoSuchRelease {
                given: line.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_chosen_by_its_line() {
        for line in ["3.9", "4.1", "4.4"] {
            let release: Release = line.parse().expect("it is known");
            assert!(release.version().starts_with(line));
            let pom = release.pom();
            assert!(pom.contains(&format!("<version>{}</version>", release.version())));
            assert!(!pom.contains("LOGGING_") && !pom.contains("KAFKA_VERSION"));
        }
        let unknown = "4.2".parse::<Release>().expect_err("it is not known");
        assert!(unknown.to_string().contains("4.2"), "{unknown}");
    }
}
