//! Listeners with TLS, and with SASL/SCRAM over TLS, beside the plaintext one; and what a client needs to connect to them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;
use crate::error::succeeded;

/// How clients reach a broker with [`super::Options::secured`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secured {
    /// host:port of the listener with TLS (`security.protocol=SSL`).
    pub tls: String,
    /// host:port of the one that also wants [`USER`] and [`PASSWORD`] (`SASL_SSL`, `SCRAM-SHA-512`).
    pub sasl: String,
    /// The certificate to trust, a PEM file. It is self-signed.
    pub certificate: PathBuf,
}

pub const USER: &str = "quadrille";
/// Of a broker on this machine's loopback that lives as long as a test.
pub const PASSWORD: &str = "loopback-only";

const MECHANISM: &str = "SCRAM-SHA-512";
const KEYSTORE: &str = "broker.p12";
const CERTIFICATE: &str = "broker.pem";
/// Of a file beside the broker's data, with the same permissions.
const KEYSTORE_PASSWORD: &str = "beside-the-data";
const ALIAS: &str = "broker";

/// Lines for `server.properties` besides the listeners.
pub(super) fn settings() -> String {
    let login = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let jaas = format!(
        "listener.name.sasl_ssl.{}.sasl.jaas.config={login}",
        MECHANISM.to_lowercase()
    );
    format!(
        "sasl.enabled.mechanisms={MECHANISM}
{jaas}
ssl.keystore.type=PKCS12
ssl.keystore.location={KEYSTORE}
ssl.keystore.password={KEYSTORE_PASSWORD}
ssl.key.password={KEYSTORE_PASSWORD}
"
    )
}

/// The option of Kafka's formatter that makes the user.
pub(super) fn credentials() -> [String; 2] {
    [
        "--add-scram".to_owned(),
        format!("{MECHANISM}=[name={USER},password={PASSWORD}]"),
    ]
}

/// Where the certificate of a broker in this folder is.
pub(super) fn certificate(folder: &Path) -> PathBuf {
    folder.join(CERTIFICATE)
}

/// Creates the broker's key and certificate, if they do not exist yet, with Java's `keytool`.
pub(super) fn make_certificate(java: &Path, folder: &Path) -> Result<(), Error> {
    if certificate(folder).is_file() {
        return Ok(());
    }
    let make = [
        "-genkeypair",
        "-keyalg",
        "EC",
        "-groupname",
        "secp256r1",
        "-validity",
        "3650",
        "-dname",
        "CN=quadrille-local",
        // Clients compare it with the address they connect to.
        "-ext",
        "san=ip:127.0.0.1,dns:localhost",
    ];
    let export = ["-exportcert", "-rfc", "-file", CERTIFICATE];
    keytool(java, folder, &make)?;
    keytool(java, folder, &export)
}

fn keytool(java: &Path, folder: &Path, args: &[&str]) -> Result<(), Error> {
    let ran = Command::new(java.with_file_name("keytool"))
        .args(args)
        .args(["-alias", ALIAS, "-keystore", KEYSTORE])
        .args(["-storetype", "PKCS12", "-storepass", KEYSTORE_PASSWORD])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .map_err(|_| Error::Missing {
            program: "keytool",
            hint: "it comes with Java: install Java 17 or newer or set JAVA_HOME",
        })?;
    succeeded("keytool", &ran)
}
