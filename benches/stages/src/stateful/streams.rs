//! The same features by Kafka Streams: `benches/kafka-streams`, a process of its own.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

use crate::{broker::Broker, report::Measured};

const JVM: [&str; 3] = ["-Xms1g", "-Xmx1g", "-XX:+UseParallelGC"];

/// An application to be run.
pub struct Streams<'a> {
    /// Of the Maven project.
    pub folder: &'a Path,
    /// Of Kafka Streams, `name=value`.
    pub settings: &'a [String],
    pub input: &'a str,
    pub output: &'a str,
    pub application: &'a str,
    pub records: u64,
}

/// What it says of itself.
pub struct Figures {
    pub all: Measured,
    /// The second half of the records, when most is compiled.
    pub second_half: Measured,
}

impl Streams<'_> {
    /// The topic that it keeps its state in.
    pub fn changelog(&self) -> String {
        format!("{}-events-changelog", self.application)
    }

    pub fn run(&self, broker: &Broker) -> anyhow::Result<Figures> {
        let target = self.folder.join("target");
        let jar = target.join("bench-kafka-streams.jar");
        ensure!(
            jar.is_file(),
            "{} is missing; run mvn -q package in {}",
            jar.display(),
            self.folder.display()
        );
        let mut classes = jar.into_os_string();
        classes.push(":");
        classes.push(target.join("libs/*"));
        let before = broker.cpu();
        let output = Command::new(java())
            .args(JVM)
            .arg("-cp")
            .arg(classes)
            .args(["Main", broker.servers(), self.input, self.output])
            .args([self.application, &self.records.to_string()])
            .args(self.settings)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("java")?;
        ensure!(
            output.status.success(),
            "Kafka Streams ended with {}",
            output.status
        );
        let text = String::from_utf8_lossy(&output.stdout);
        let mut all = figures(&text, "all")?;
        let broker_cpu = broker.cpu().zip(before);
        all.broker_per_million = broker_cpu.map(|(now, then)| {
            now.saturating_sub(then).as_secs_f64() / (self.records as f64 / 1e6)
        });
        Ok(Figures {
            all,
            second_half: figures(&text, "second-half")?,
        })
    }
}

fn java() -> PathBuf {
    match std::env::var_os("JAVA_HOME") {
        Some(home) => Path::new(&home).join("bin/java"),
        None => "java".into(),
    }
}

fn figures(text: &str, name: &str) -> anyhow::Result<Measured> {
    let line = text
        .lines()
        .find(|line| line.split(' ').next() == Some(name));
    let line = line.with_context(|| format!("Kafka Streams said nothing of {name}: {text}"))?;
    let figure = |key: &str| {
        let pair = line
            .split(' ')
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let value = pair.and_then(|value| value.parse::<f64>().ok());
        value.with_context(|| format!("no {key} in: {line}"))
    };
    Ok(Measured {
        per_second: figure("records/s")?,
        cpu_per_million: figure("cpu-s/M")?,
        broker_per_million: None,
    })
}
