//! The manifest of a package: everything about a model but its numbers.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Number;
use sha2::{Digest as _, Sha256};

use super::{Error, MANIFEST_FILE, WarmUp};
use crate::preprocess::Preprocess;
use crate::scorer::Activation;
use crate::train::{Algorithm, Evaluation};
use crate::{Labels, Outputs};

/// The version of the package's form that this code writes. It reads this one and the one before.
pub const FORMAT: u32 = 2;

/// Names, versions and the like are no longer than this, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// `manifest.json`. Fields that are not known are refused: they may matter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`], or 1 of a package that was written before there were others.
    pub format: u32,
    pub name: String,
    pub version: String,
    pub backend: Backend,
    /// The inputs of a row, in order.
    pub inputs: Vec<String>,
    pub outputs: Outputs,
    /// None: rows reach the model as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocess: Option<Preprocess>,
    /// How an ONNX file is read; for the backend `onnx` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onnx: Option<Onnx>,
    /// None: the model was trained elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// Rows that are scored at every load, and the answers there must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<WarmUp>,
    pub artefact: Artefact,
    /// When the model was trained or imported: RFC 3339, as the caller says.
    pub created_at: String,
    /// What wrote the package: library and version.
    pub written_by: String,
}

/// What an artefact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// A forest of our own binary form: probabilities of one class.
    Forest,
    /// Coefficients of a logistic regression.
    Logistic,
    /// An ONNX file: trees are walked by our kernel, everything else is run by tract.
    Onnx,
}

impl Backend {
    /// The name, as in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Forest => "forest",
            Backend::Logistic => "logistic",
            Backend::Onnx => "onnx",
        }
    }
}

impl Algorithm {
    /// What reads such a model's artefact.
    pub fn backend(self) -> Backend {
        match self {
            Self::RandomForest => Backend::Forest,
            Self::LogisticRegression => Backend::Logistic,
        }
    }
}

/// How an ONNX file is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Onnx {
    /// The graph's output that holds the answers; none is the first one of floating-point numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    #[serde(default)]
    pub activation: Activation,
}

/// A manifest of format 1: a trained model of two classes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestV1 {
    format: u32,
    name: String,
    version: String,
    algorithm: Algorithm,
    inputs: Vec<String>,
    labels: Labels,
    preprocess: Preprocess,
    training: TrainingV1,
    artefact: Artefact,
    created_at: String,
    written_by: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrainingV1 {
    rows: u64,
    data_sha256: Digest,
    seed: u64,
    hyper_parameters: BTreeMap<String, Number>,
    evaluation: Evaluation,
}

impl From<ManifestV1> for Manifest {
    fn from(manifest: ManifestV1) -> Self {
        let TrainingV1 {
            rows,
            data_sha256,
            seed,
            hyper_parameters,
            evaluation,
        } = manifest.training;
        Manifest {
            format: manifest.format,
            name: manifest.name,
            version: manifest.version,
            backend: manifest.algorithm.backend(),
            inputs: manifest.inputs,
            outputs: Outputs::Binary(manifest.labels),
            preprocess: Some(manifest.preprocess),
            onnx: None,
            training: Some(Training {
                algorithm: manifest.algorithm,
                rows,
                data_sha256,
                seed,
                hyper_parameters,
                evaluation,
            }),
            warm_up: None,
            artefact: manifest.artefact,
            created_at: manifest.created_at,
            written_by: manifest.written_by,
        }
    }
}

/// How the model came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    pub algorithm: Algorithm,
    pub rows: u64,
    /// SHA-256 of the training data, as the caller says; usually of the file, so that `sha256sum` can check it.
    pub data_sha256: Digest,
    pub seed: u64,
    pub hyper_parameters: BTreeMap<String, Number>,
    /// Cross-validated.
    pub evaluation: Evaluation,
}

/// The file with the model's numbers, beside the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artefact {
    pub file: String,
    pub bytes: u64,
    pub sha256: Digest,
}

impl Artefact {
    /// Describes these bytes.
    pub(crate) fn of(file: &str, bytes: &[u8]) -> Self {
        Self {
            file: file.to_owned(),
            bytes: bytes.len() as u64,
            sha256: Digest::of(bytes),
        }
    }
}

/// A SHA-256, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const WRONG: &str = "a SHA-256 is 64 lower-case hexadecimal digits";
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(WRONG);
        }
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(WRONG),
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl Manifest {
    /// Reads a manifest; its format first, so that a later one is not blamed for its unknown fields.
    ///
    /// # Errors
    /// No manifest of this format, or a text in it that is not usable.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format } = serde_json::from_slice(bytes).map_err(Error::Manifest)?;
        let manifest: Self = match format {
            1 => serde_json::from_slice::<ManifestV1>(bytes).map(Self::from),
            FORMAT => serde_json::from_slice(bytes),
            other => return Err(Error::Format(other)),
        }
        .map_err(Error::Manifest)?;
        manifest.check_texts()?;
        if manifest.onnx.is_some() && manifest.backend != Backend::Onnx {
            return Err(Error::OnnxSettings(manifest.backend.name()));
        }
        Ok(manifest)
    }

    fn check_texts(&self) -> Result<(), Error> {
        let identifier = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let check = |field, value: &str, good: bool, must| {
            if good && !value.is_empty() && value.len() <= TEXT_BYTES_MAX {
                return Ok(());
            }
            let value = value.chars().take(80).collect();
            Err(Error::Text { field, value, must })
        };
        const IDENTIFIER: &str =
            "1 to 256 letters, digits, '.', '_' or '-', and not begin with '.'";
        for (field, value) in [
            ("name", &self.name),
            ("version", &self.version),
            ("artefact.file", &self.artefact.file),
        ] {
            let good = value.bytes().all(identifier) && !value.starts_with('.');
            check(field, value, good, IDENTIFIER)?;
        }
        let file = &self.artefact.file;
        check(
            "artefact.file",
            file,
            file != MANIFEST_FILE,
            "another file than the manifest",
        )?;
        const PLAIN: &str = "1 to 256 bytes of printable text";
        let printable = |value: &str| !value.chars().any(char::is_control);
        for name in self.outputs.names() {
            check("outputs", name, printable(name), PLAIN)?;
        }
        if let Outputs::Binary(Labels { negative, positive }) = &self.outputs {
            check("outputs.negative", negative, printable(negative), PLAIN)?;
            check(
                "outputs.positive",
                positive,
                positive != negative,
                "another word than outputs.negative",
            )?;
        }
        for input in &self.inputs {
            check("inputs", input, printable(input), PLAIN)?;
        }
        let date = is_rfc3339(&self.created_at);
        check(
            "created_at",
            &self.created_at,
            date,
            "RFC 3339, as 2026-01-31T23:59:59Z",
        )
    }
}

/// Whether `text` has the shape of an RFC 3339 date and time. Days of months are not counted.
fn is_rfc3339(text: &str) -> bool {
    let Some((front, rest)) = text.split_at_checked(19) else {
        return false;
    };
    let shape = |text: &str, form: &str| {
        text.len() == form.len()
            && text
                .bytes()
                .zip(form.bytes())
                .all(|(byte, form)| match form {
                    b'0' => byte.is_ascii_digit(),
                    other => byte.eq_ignore_ascii_case(&other),
                })
    };
    let zone = match rest.strip_prefix('.') {
        None => rest,
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|digit: char| digit.is_ascii_digit());
            if zone.len() == fraction.len() {
                return false;
            }
            zone
        }
    };
    shape(front, "0000-00-00T00:00:00")
        && (shape(zone, "Z") || shape(zone, "+00:00") || shape(zone, "-00:00"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_known_by_their_shape() {
        for good in [
            "2026-01-31T23:59:59Z",
            "2026-01-31t23:59:59.123z",
            "2026-01-31T23:59:59.5+05:30",
            "2026-01-31T23:59:59-08:00",
        ] {
            assert!(is_rfc3339(good), "{good}");
        }
        for bad in [
            "",
            "yesterday",
            "2026-01-31",
            "2026-01-31T23:59:59",
            "2026-01-31 23:59:59Z",
            "2026-01-31T23:59:59.Z",
            "2026-01-31T23:59:5é9Z",
        ] {
            assert!(!is_rfc3339(bad), "{bad}");
        }
    }

    #[test]
    fn a_digest_is_written_as_sha256sum_writes_it() {
        let digest = Digest::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text);
        assert_eq!(Digest::try_from(text.to_owned()), Ok(digest));
        assert!(Digest::try_from(text.to_uppercase()).is_err());
        assert!(Digest::try_from(text[1..].to_owned()).is_err());
        assert!(Digest::try_from("é".repeat(32)).is_err());
    }
}
