//! Conversion between protobuf messages and domain types. Unknown fields of a deployment are refused, not skipped: they may
//! decide which route gets which keys.

mod status;

use prost::{
    Message,
    bytes::Buf,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use quadrille_proto::v1::{
    CanaryRoute, DeploymentAction, DeploymentEvent, DeploymentRanges, DeploymentRoute, LiveRoute,
    ModelManifest, ShadowRoute, deployment_route,
};

pub(crate) use self::status::{decode_replica, encode_replica};
use crate::{
    Action, Deployment, KeyRange, KeyRanges, ModelId, Role, Route, Sha256Hex, Uri, key::PushKey,
};

/// The algorithm by which a deployment's record assigns keys to routes; without it the formula of the first version does.
const RANGES_VERSION: u32 = 2;

/// The known fields of a message, and of those nested in it.
struct Shape(&'static [(u32, Option<&'static Shape>)]);

const LIVE: Shape = Shape(&[(1, None)]);
const CANARY: Shape = Shape(&[(1, None)]);
const SHADOW: Shape = Shape(&[]);
const ROUTE: Shape = Shape(&[
    (1, None),
    (2, None),
    (3, None),
    (4, Some(&LIVE)),
    (5, Some(&CANARY)),
    (6, Some(&SHADOW)),
]);
const EVENT: Shape = Shape(&[
    (1, None),
    (2, None),
    (3, Some(&ROUTE)),
    (4, None),
    (5, None),
    (6, None),
    (7, None),
    (8, Some(&RANGES)),
]);
const RANGES: Shape = Shape(&[(1, None), (2, None), (3, None)]);

impl Shape {
    /// Checks a message that decodes.
    ///
    /// # Errors
    /// The first unknown field, in words.
    fn check(&self, mut bytes: &[u8], what: &str) -> Result<(), String> {
        let broken = |_| format!("{what} is not a message");
        while bytes.has_remaining() {
            let (number, wire) = decode_key(&mut bytes).map_err(broken)?;
            let Some((_, inner)) = self.0.iter().find(|(known, _)| *known == number) else {
                return Err(format!(
                    "{what} has a field {number} that this version does not know; upgrade it"
                ));
            };
            match (inner, wire) {
                (Some(shape), WireType::LengthDelimited) => {
                    let length = decode_varint(&mut bytes).map_err(broken)?;
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    let (inside, rest) = bytes
                        .split_at_checked(length)
                        .ok_or_else(|| format!("{what} is truncated"))?;
                    let name = match number {
                        8 => "the deployment's ranges",
                        _ => "a route",
                    };
                    shape.check(inside, name)?;
                    bytes = rest;
                }
                _ => skip_field(wire, number, &mut bytes, DecodeContext::default())
                    .map_err(broken)?,
            }
        }
        Ok(())
    }
}

pub(crate) fn encode_deployment(deployment: &Deployment) -> Vec<u8> {
    let route = |route: &Route| DeploymentRoute {
        name: route.name.clone(),
        model: route.model.name.clone(),
        version: route.model.version.clone(),
        role: Some(match route.role {
            Role::Live { weight } => deployment_route::Role::Live(LiveRoute { weight }),
            Role::Canary { share } => deployment_route::Role::Canary(CanaryRoute { share }),
            Role::Shadow => deployment_route::Role::Shadow(ShadowRoute {}),
        }),
    };
    let action = match deployment.action {
        Action::Set => DeploymentAction::Set,
        Action::Promote => DeploymentAction::Promote,
        Action::Rollback => DeploymentAction::Rollback,
        Action::Unset => DeploymentAction::Unset,
    };
    let event = DeploymentEvent {
        pipeline: deployment.pipeline.clone(),
        revision: deployment.revision,
        routes: deployment.routes.iter().map(route).collect(),
        action: action.into(),
        by: deployment.by.clone(),
        at_ms: deployment.at_ms,
        reason: deployment.reason.clone(),
        ranges: deployment.ranges.as_ref().map(encode_ranges),
    };
    event.encode_to_vec()
}

fn encode_ranges(ranges: &KeyRanges) -> DeploymentRanges {
    let ranges = ranges.ranges().iter();
    DeploymentRanges {
        version: RANGES_VERSION,
        ends: ranges.clone().map(|range| range.end).collect(),
        // At most 64 routes.
        routes: ranges.map(|range| range.route as u32).collect(),
    }
}

/// # Errors
/// An unknown algorithm: the deployment must not take effect on this version.
fn decode_ranges(ranges: DeploymentRanges) -> Result<KeyRanges, String> {
    if ranges.version != RANGES_VERSION {
        return Err(format!(
            "the deployment assigns keys by algorithm {}, which this version does not know; upgrade it",
            ranges.version
        ));
    }
    if ranges.ends.len() != ranges.routes.len() {
        return Err("the deployment's key ranges do not match its routes".to_owned());
    }
    let range = |(end, route): (u64, u32)| KeyRange {
        end,
        route: route as usize,
    };
    let ranges = ranges.ends.into_iter().zip(ranges.routes).map(range);
    Ok(KeyRanges::new(ranges.collect()))
}

/// # Errors
/// What in the value is invalid, or unknown to this version.
pub(crate) fn decode_deployment(value: &[u8]) -> Result<Deployment, String> {
    let event = DeploymentEvent::decode(value)
        .map_err(|error| format!("the value is not a deployment: {error}"))?;
    EVENT.check(value, "the deployment")?;
    let action = match DeploymentAction::try_from(event.action) {
        Ok(DeploymentAction::Set) => Action::Set,
        Ok(DeploymentAction::Promote) => Action::Promote,
        Ok(DeploymentAction::Rollback) => Action::Rollback,
        Ok(DeploymentAction::Unset) => Action::Unset,
        Ok(DeploymentAction::Unspecified) | Err(_) => {
            return Err(format!("the action {} is not known", event.action));
        }
    };
    let routes: Result<Vec<Route>, String> = event.routes.into_iter().map(decode_route).collect();
    Ok(Deployment {
        pipeline: event.pipeline,
        revision: event.revision,
        routes: routes?,
        ranges: event.ranges.map(decode_ranges).transpose()?,
        action,
        by: event.by,
        at_ms: event.at_ms,
        reason: event.reason,
    })
}

fn decode_route(route: DeploymentRoute) -> Result<Route, String> {
    let role = match route.role {
        Some(deployment_route::Role::Live(live)) => Role::Live {
            weight: live.weight,
        },
        Some(deployment_route::Role::Canary(canary)) => Role::Canary {
            share: canary.share,
        },
        Some(deployment_route::Role::Shadow(_)) => Role::Shadow,
        None => {
            return Err(format!(
                "route {} is neither live nor a canary nor a shadow",
                route.name
            ));
        }
    };
    Ok(Route {
        name: route.name,
        model: ModelId {
            name: route.model,
            version: route.version,
        },
        role,
    })
}

/// The record of a push without the package's own `manifest.json`, which may be large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pushed {
    pub bytes: u64,
    pub artefact_bytes: u64,
    pub chunks: u32,
    /// The artefact's URI, as written; None: in chunks beside the manifest.
    pub artefact_uri: Option<String>,
    pub by: String,
    pub at_ms: i64,
}

/// # Errors
/// The value is not the manifest of its key, or is inconsistent.
pub(crate) fn decode_manifest(key: &PushKey, value: &[u8]) -> Result<Pushed, String> {
    let manifest = ModelManifest::decode(value)
        .map_err(|error| format!("the value is not a manifest: {error}"))?;
    let said = (manifest.name.as_str(), manifest.version.as_str());
    if said != (&*key.id.name, &*key.id.version) || manifest.sha256 != key.sha256.0 {
        return Err("the manifest belongs to another package than its key".to_owned());
    }
    let (bytes, chunk) = (manifest.artefact_bytes, u64::from(manifest.chunk_bytes));
    // Not parsed: both versions that can fetch it and versions that cannot read the same log.
    let artefact_uri = Some(manifest.artefact_uri).filter(|uri| !uri.is_empty());
    let fits = match (chunk, &artefact_uri) {
        (0, None) => bytes == 0 && manifest.chunks == 0,
        (0, Some(_)) => manifest.chunks == 0,
        (chunk, None) => bytes.div_ceil(chunk) == u64::from(manifest.chunks),
        (_, Some(_)) => false,
    };
    if !fits {
        return Err(format!(
            "the manifest says {bytes} bytes in {} chunks of {chunk}",
            manifest.chunks
        ));
    }
    if bytes > crate::ARTEFACT_BYTES_MAX {
        return Err(format!(
            "the manifest says {bytes} bytes, an artefact has at most {}",
            crate::ARTEFACT_BYTES_MAX
        ));
    }
    Ok(Pushed {
        bytes: bytes.saturating_add(manifest.manifest_json.len() as u64),
        artefact_bytes: bytes,
        chunks: manifest.chunks,
        artefact_uri,
        by: manifest.pushed_by,
        at_ms: manifest.pushed_at_ms,
    })
}

/// The message of a push.
pub(crate) fn encode_manifest(manifest: ModelManifest) -> Vec<u8> {
    manifest.encode_to_vec()
}

/// The `manifest.json` of a record that was validated before.
///
/// # Errors
/// The value is not a manifest.
pub(crate) fn manifest_json(value: &[u8]) -> Result<Vec<u8>, String> {
    match ModelManifest::decode(value) {
        Ok(manifest) => Ok(manifest.manifest_json),
        Err(error) => Err(format!("the value is not a manifest: {error}")),
    }
}

/// The record of a package's manifest; without a URI, chunks follow.
pub(crate) fn manifest_message(
    key: &PushKey,
    package: &crate::PackageBytes,
    artefact_uri: Option<&Uri>,
    by: &str,
    at_ms: i64,
) -> ModelManifest {
    let Sha256Hex(sha256) = key.sha256;
    let (chunks, chunk_bytes) = match artefact_uri {
        None => (package.chunks().len() as u32, crate::CHUNK_BYTES as u32),
        Some(_) => (0, 0),
    };
    ModelManifest {
        name: key.id.name.clone(),
        version: key.id.version.clone(),
        sha256: sha256.to_vec(),
        manifest_json: package.manifest.clone(),
        artefact_bytes: package.artefact.len() as u64,
        chunks,
        chunk_bytes,
        pushed_by: by.to_owned(),
        pushed_at_ms: at_ms,
        artefact_uri: artefact_uri.map(Uri::to_string).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::tests::{deployment, id, route};

    fn whole() -> Deployment {
        let mut whole = deployment(
            3,
            vec![
                route("live", "1", Role::Live { weight: 0 }),
                route("canary", "2", Role::Canary { share: 10_000 }),
                route("shadow", "3", Role::Shadow),
            ],
        );
        whole.action = Action::Rollback;
        whole.reason = "because".to_owned();
        whole
    }

    #[test]
    fn a_deployment_is_read_as_it_was_written() {
        let mut ranged = whole();
        let range = |end, route| KeyRange { end, route };
        ranged.ranges = Some(KeyRanges::new(vec![range(1 << 31, 1), range(1 << 32, 0)]));
        let mut removed = deployment(4, Vec::new());
        removed.action = Action::Unset;
        for written in [whole(), ranged, removed] {
            assert_eq!(decode_deployment(&encode_deployment(&written)), Ok(written));
        }
    }

    #[test]
    fn ranges_of_a_version_that_is_not_known_take_no_effect() {
        let known = encode_deployment(&whole());
        // Field 8, a message with field 1 (the version) of 3.
        let newer = [&known[..], &[0x42, 2, 0x08, 3]].concat();
        let error = decode_deployment(&newer).unwrap_err();
        assert!(
            error.contains("algorithm 3") && error.contains("upgrade"),
            "{error}"
        );
        let field = [&known[..], &[0x42, 4, 0x08, 2, 0x48, 1]].concat();
        let error = decode_deployment(&field).unwrap_err();
        assert!(error.contains("ranges has a field 9"), "{error}");
        // One end and no route.
        let uneven = [&known[..], &[0x42, 5, 0x08, 2, 0x12, 1, 9]].concat();
        assert!(decode_deployment(&uneven).is_err());
    }

    #[test]
    fn fields_that_are_not_known_are_refused_at_every_depth() {
        let known = encode_deployment(&whole());
        // Field 9, a varint.
        let outside = [&known[..], &[0x48, 1]].concat();
        let error = decode_deployment(&outside).unwrap_err();
        assert!(error.contains("field 9"), "{error}");
        // A route (field 3) with a live role (4) that has a field 2.
        let inside = [&known[..], &[0x1a, 4, 0x22, 2, 0x10, 1]].concat();
        let error = decode_deployment(&inside).unwrap_err();
        assert!(error.contains("a route has a field 2"), "{error}");
    }

    #[test]
    fn what_is_no_deployment_is_refused_in_words() {
        for bytes in [&b"garbage"[..], &[0x1a, 200]] {
            assert!(decode_deployment(bytes).is_err());
        }
        let roleless = [&encode_deployment(&whole())[..], &[0x1a, 3, 0x0a, 1, b'x']].concat();
        let error = decode_deployment(&roleless).unwrap_err();
        assert!(error.contains("route x is neither"), "{error}");
        let error = decode_deployment(&[]).unwrap_err();
        assert!(error.contains("the action 0 is not known"), "{error}");
    }

    #[test]
    fn a_manifest_of_more_than_an_artefact_may_have_is_void() {
        let key = PushKey {
            id: id("m", "1"),
            sha256: Sha256Hex([7; 32]),
            push: "p".to_owned(),
        };
        let decode = |bytes: u64, uri: &str| {
            let chunk = if uri.is_empty() { 1 << 31 } else { 0 };
            let manifest = ModelManifest {
                name: "m".to_owned(),
                version: "1".to_owned(),
                sha256: vec![7; 32],
                manifest_json: b"{}".to_vec(),
                artefact_bytes: bytes,
                chunks: if chunk == 0 {
                    0
                } else {
                    bytes.div_ceil(chunk) as u32
                },
                chunk_bytes: chunk as u32,
                artefact_uri: uri.to_owned(),
                ..ModelManifest::default()
            };
            decode_manifest(&key, &encode_manifest(manifest)).map(|pushed| pushed.bytes)
        };
        for uri in ["", "s3://bucket/model.bin"] {
            assert_eq!(decode(256 << 20, uri), Ok((256 << 20) + 2), "{uri}");
            for bytes in [(256 << 20) + 1, 50 << 30] {
                let why = decode(bytes, uri).unwrap_err();
                assert!(why.contains("at most 268435456"), "{why}");
            }
        }
        assert!(decode(u64::MAX, "s3://bucket/model.bin").is_err());
    }
}
