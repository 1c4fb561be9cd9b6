//! One Apache Kafka broker, its own controller, for development and tests; or a [`Cluster`] of three.

mod cluster;
mod metadata;
mod release;
pub mod secured;
mod settings;

use std::ffi::OsString;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub use self::cluster::Cluster;
pub use self::release::Release;
use self::secured::Secured;
use crate::error::succeeded;
use crate::guarded::{Failure, Guarded, Launch, Signal};
use crate::scratch::{self, SeenBy};
use crate::{Error, cache, java, maven, port};

const NAME: &str = "Apache Kafka";
const JAVA: u32 = 17;

/// A cold start takes 3 s; a busy machine gets time.
const START_MAX: Duration = Duration::from_secs(60);
const STARTS_MAX: u32 = 5;

/// Measured on 2 cores: the serial collector starts as fast as G1, moves as much (450,000 records a
/// second of 256 bytes), and takes 100 MB less. A small heap shows in the tail: with 128 MB the broker halts four times a
/// second at 1,000 records/s.
const HEAP: [&str; 3] = ["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC"];
const JVM: [&str; 3] = [
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData", // leaves a file in /tmp when killed
    "-Djava.awt.headless=true",
];

#[derive(Debug, Clone, Default)]
pub struct Options {
    pub release: Release,
    pub data_dir: DataDir,
    /// `None`: a free port, kept for this broker's lifetime.
    pub port: Option<u16>,
    /// Partitions of topics created without a number (`num.partitions`); `None`: 1, Kafka's default.
    pub partitions_default: Option<u16>,
    /// Additional server properties. They override our defaults; addresses, identity and folders are refused.
    pub extra: Vec<(String, String)>,
    /// A proxy's port: a second listener advertises it to clients instead of its own. See [`crate::proxy`].
    pub proxy_port: Option<u16>,
    /// Two more listeners, with TLS and with a password: see [`Kafka::secured`].
    pub secured: bool,
    /// Heap and garbage collector of the JVM, instead of our small defaults.
    pub heap: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DataDir {
    /// Under the system's temporary folder; removed when dropped.
    #[default]
    Temporary,
    /// Created if missing, and kept. One broker at a time.
    Kept(PathBuf),
}

/// A broker, running or stopped. Dropping it stops it.
#[derive(Debug)]
pub struct Kafka {
    // Declared first: ends the broker and removes a temporary folder.
    process: Guarded,
    options: Options,
    java: PathBuf,
    libs: PathBuf,
    folder: PathBuf,
    ports: Ports,
    /// Of a cluster that is not there yet; one that is has its own.
    new_cluster_id: String,
    /// None: alone.
    member: Option<Member>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    broker: u16,
    controller: u16,
    /// Of the listener for a proxy, if there is one.
    proxied: u16,
    /// Of the secured listeners, if they are on.
    tls: u16,
    sasl: u16,
}

impl Ports {
    const COUNT: usize = 5;

    fn choose(wanted: Option<u16>) -> Result<Self, Error> {
        let mut ports = Self::of(&port::free(Self::COUNT)?);
        ports.broker = wanted.unwrap_or(ports.broker);
        Ok(ports)
    }

    /// Of [`Ports::COUNT`] free ones.
    fn of(free: &[u16]) -> Self {
        Self {
            broker: free[0],
            controller: free[1],
            proxied: free[2],
            tls: free[3],
            sasl: free[4],
        }
    }
}

/// Which of a cluster's brokers one is.
#[derive(Debug, Clone)]
struct Member {
    /// From 1 on.
    id: i32,
    /// Ports of all of them.
    controllers: Vec<u16>,
}

impl Member {
    fn voters(&self) -> String {
        let voters: Vec<String> = (1..)
            .zip(&self.controllers)
            .map(|(id, port)| format!("{id}@127.0.0.1:{port}"))
            .collect();
        voters.join(",")
    }
}

impl Options {
    /// Downloads Kafka if it is not in the cache yet, starts it and returns when it responds.
    pub fn start(self) -> Result<Kafka, Error> {
        if let Some(port) = self.port {
            port::check_free(port)?;
        }
        let ports = Ports::choose(self.port)?;
        let mut kafka = self.prepare(ports, &new_cluster_id(), None)?;
        kafka.start(Kafka::choose_ports_again)?;
        Ok(kafka)
    }

    /// Everything except starting it.
    fn prepare(
        self,
        ports: Ports,
        new_cluster_id: &str,
        member: Option<Member>,
    ) -> Result<Kafka, Error> {
        settings::check(&self.extra)?;
        let java = java::find(JAVA)?;
        let libs = install(self.release)?;
        let (folder, process) = match &self.data_dir {
            DataDir::Temporary => {
                let folder = scratch::create(&scratch::base(SeenBy::Owner), "kafka")?;
                let process = Guarded::new(Signal::Kill, Some(&folder))?;
                (folder, process)
            }
            DataDir::Kept(folder) => {
                fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
                let folder = folder
                    .canonicalize()
                    .map_err(Error::io("resolve", folder))?;
                (folder, Guarded::new(Signal::Terminate, None)?)
            }
        };
        Ok(Kafka {
            process,
            ports,
            options: self,
            java,
            libs,
            folder,
            new_cluster_id: new_cluster_id.to_owned(),
            member,
        })
    }
}

impl Kafka {
    #[must_use]
    pub fn options() -> Options {
        Options::default()
    }

    #[must_use]
    pub fn bootstrap_servers(&self) -> String {
        format!("127.0.0.1:{}", self.ports.broker)
    }

    /// Where a proxy reaches it; `None` without [`Options::proxy_port`].
    #[must_use]
    pub fn proxied_port(&self) -> Option<u16> {
        self.options.proxy_port.map(|_| self.ports.proxied)
    }

    /// Where clients reach its secured listeners, and with what; `None` without [`Options::secured`].
    #[must_use]
    pub fn secured(&self) -> Option<Secured> {
        self.options.secured.then(|| Secured {
            tls: format!("127.0.0.1:{}", self.ports.tls),
            sasl: format!("127.0.0.1:{}", self.ports.sasl),
            certificate: secured::certificate(&self.folder),
        })
    }

    /// The process id of the broker itself; `None` while it is stopped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// The folder of Kafka's jars, its command-line tools among them:
    /// `java -cp '<libs>/*' org.apache.kafka.tools.TopicCommand …`.
    #[must_use]
    pub fn libs(&self) -> &Path {
        &self.libs
    }

    /// The broker's log of warnings and errors.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("kafka.log")
    }

    /// Shuts down gracefully; the data stays for a `restart`.
    pub fn stop(&mut self) {
        self.process.end(Signal::Terminate);
    }

    /// `kill -9`; the data stays for a `restart`.
    pub fn kill(&mut self) {
        self.process.end(Signal::Kill);
    }

    /// Starts again with the same address and data, stopping first if it runs. After a `kill` it takes some seconds more: the
    /// controller waits for the dead broker's session to expire.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.stop();
        self.start(|_| Ok(()))
    }

    fn start(&mut self, on_clash: fn(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        let mut starts = 0;
        loop {
            starts += 1;
            match self.start_once() {
                Err(Failure::PortClash(_)) if starts < STARTS_MAX => on_clash(self)?,
                outcome => return outcome.map_err(Error::from),
            }
        }
    }

    fn choose_ports_again(&mut self) -> Result<(), Error> {
        self.ports = Ports::choose(self.options.port)?;
        Ok(())
    }

    fn start_once(&mut self) -> Result<(), Failure> {
        self.write_settings()?;
        if !self.is_formatted() {
            self.format()?;
        }
        let cluster_id = self.cluster_id()?;
        let launch = Launch {
            name: NAME,
            program: self.java.clone(),
            args: self.jvm("kafka.Kafka", &["server.properties"]),
            folder: self.folder.clone(),
            log: self.log(),
            user: None,
        };
        let port = self.ports.broker;
        let node = self.member.as_ref().map_or(1, |member| member.id);
        // A broker that responds on our port may be another process's: ours has our cluster id. One of several responds before it
        // has joined the quorum.
        self.process.start(&launch, START_MAX, |_| {
            metadata::of_broker(port)
                .is_ok_and(|found| found.cluster_id == cluster_id && found.live.contains(&node))
        })
    }

    fn write_settings(&self) -> Result<(), Error> {
        let write = |name: &str, content: String| {
            let path = self.folder.join(name);
            fs::write(&path, content).map_err(Error::io("write", &path))
        };
        write(
            "server.properties",
            settings::server(
                &self.options,
                self.ports,
                self.member.as_ref(),
                &self.data(),
            ),
        )?;
        if self.options.secured {
            secured::make_certificate(&self.java, &self.folder)?;
        }
        let logging = self.options.release.logging();
        write(logging.file, logging.settings.to_owned())?;
        // Native libraries unpacked by a broker that was killed stay behind: not in /tmp.
        let unpacked = self.folder.join("tmp");
        let _ = fs::remove_dir_all(&unpacked);
        fs::create_dir_all(&unpacked).map_err(Error::io("create", &unpacked))
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Kafka writes this file last when it formats.
    fn meta_properties(&self) -> PathBuf {
        self.data().join("meta.properties")
    }

    fn is_formatted(&self) -> bool {
        self.meta_properties().is_file()
    }

    fn format(&self) -> Result<(), Error> {
        let id = self.new_cluster_id.as_str();
        let mut args = vec!["format", "-t", id, "-c", "server.properties"];
        if self.member.is_none() {
            args.push("--standalone");
        }
        let credentials = secured::credentials();
        if self.options.secured {
            args.extend(credentials.iter().map(String::as_str));
        }
        let formatted = Command::new(&self.java)
            .arg("-XX:TieredStopAtLevel=1") // short-lived: 1 s instead of 1.5 s
            .args(self.jvm("kafka.tools.StorageTool", &args))
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .map_err(Error::io("run", &self.java))?;
        succeeded("kafka.tools.StorageTool", &formatted)
    }

    fn cluster_id(&self) -> Result<String, Error> {
        let path = self.meta_properties();
        let meta = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let id = meta
            .lines()
            .find_map(|line| line.strip_prefix("cluster.id="));
        Ok(id.unwrap_or_default().to_owned())
    }

    fn jvm(&self, class: &str, args: &[&str]) -> Vec<OsString> {
        let mut unpack_to = OsString::from("-Djava.io.tmpdir=");
        unpack_to.push(self.folder.join("tmp"));
        let mut line: Vec<OsString> = match &self.options.heap {
            Some(heap) => heap.iter().map(OsString::from).collect(),
            None => HEAP.iter().map(OsString::from).collect(),
        };
        line.extend(JVM.iter().map(OsString::from));
        let logging = self.options.release.logging();
        line.extend([
            format!("-D{}{}", logging.property, logging.file).into(),
            unpack_to,
            "-cp".into(),
            self.libs.join("*").into(),
            class.into(),
        ]);
        line.extend(args.iter().map(OsString::from));
        line
    }
}

fn install(release: Release) -> Result<PathBuf, Error> {
    let version = release.version();
    let folder = cache::install(&format!("kafka-{version}"), SeenBy::Owner, |folder| {
        tracing::info!(
            version,
            "fetching Apache Kafka from Maven Central (44 MB, once)"
        );
        maven::run(
            &format!("Apache Kafka {version}"),
            &release.pom(),
            "dependency:copy-dependencies",
            folder,
        )
    })?;
    Ok(folder.join("libs"))
}

/// 128 random bits as Kafka writes them, in 22 letters of URL-safe base64. Its own generator avoids a
/// leading dash, too.
fn new_cluster_id() -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let half = || u128::from(RandomState::new().hash_one("cluster id"));
    let bits = half() << 64 | half();
    // The first bit stays 0, so the first letter is one of the first 32; the last letter holds 2 bits.
    let bits = bits >> 1;
    let mut id = String::with_capacity(22);
    for letter in 0..21 {
        let six = (bits >> (122 - 6 * letter)) & 63;
        id.push(char::from(LETTERS[six as usize]));
    }
    id.push(char::from(LETTERS[((bits & 3) << 4) as usize]));
    id
}

#[cfg(test)]
mod tests {
    use super::new_cluster_id;

    #[test]
    fn cluster_ids_are_base64_and_differ() {
        let ids: Vec<String> = (0..100).map(|_| new_cluster_id()).collect();
        for id in &ids {
            assert_eq!(id.len(), 22);
            assert!(!id.starts_with('-'));
            assert!(id.ends_with(['A', 'Q', 'g', 'w']));
            assert_eq!(ids.iter().filter(|other| *other == id).count(), 1);
        }
    }
}
