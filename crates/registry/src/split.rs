//! Which route of a deployment answers for an entity: pure, the same on every replica and in every protocol.
//!
//! A deployment with ranges is split by them ([`KeyRanges`]).
//!
//! Others are split by the formula of the first version, for as long as they are on the log. Canaries own intervals of 0..10,000 from the
//! bottom, in the order of their routes: one whose share grows keeps its keys. Live routes share the rest by weight, by bits of the hash
//! that are independent of the canaries' intervals. A share that changes there also moves keys between the routes above it.

use crate::{Deployment, KeyRanges, Role, SHARE_WHOLE};

/// A deployment that leaves keys without an unambiguous route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("two routes are named {0:?}; give each route a name of its own")]
    Twice(String),
    #[error(
        "the canaries' shares sum to {} %; they may have 100 % together",
        *.0 as f64 / 100.0
    )]
    Overfull(u64),
    #[error(
        "no live route has a weight, and the canaries leave {} % of all keys; give a live route a weight of at least 1",
        f64::from(*.0) / 100.0
    )]
    Unserved(u32),
}

/// The route that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// Its index among the deployment's routes.
    pub route: usize,
}

#[derive(Debug, Clone, Copy)]
struct Share {
    /// One past its interval.
    end: u64,
    route: usize,
}

/// How one deployment splits its pipeline's keys.
///
/// ```
/// use quadrille_registry::{Action, Deployment, ModelId, Role, Route, Split};
///
/// let route = |name: &str, version: &str, role| Route {
///     name: name.to_owned(),
///     model: ModelId { name: "pima".to_owned(), version: version.to_owned() },
///     role,
/// };
/// let deployment = Deployment {
///     pipeline: "diabetes".to_owned(),
///     revision: 2,
///     routes: vec![
///         route("live", "1", Role::Live { weight: 100 }),
///         route("canary", "2", Role::Canary { share: 1_000 }), // 10 %
///     ],
///     ranges: None,
///     action: Action::Set,
///     by: "ann@ward".to_owned(),
///     at_ms: 0,
///     reason: String::new(),
/// };
/// let split = Split::of(&deployment)?;
/// // A key stays with its route.
/// assert_eq!(split.pick("patient-17"), split.pick("patient-17"));
/// let of_canary = (0..10_000).filter(|n| split.pick(&format!("patient-{n}")).route == 1);
/// assert!((800..1_200).contains(&of_canary.count()));
/// # Ok::<(), quadrille_registry::split::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Split {
    seed: u64,
    /// Instead of the two that follow.
    ranges: Option<KeyRanges>,
    canaries: Vec<Share>,
    lives: Vec<Share>,
    /// Routes that can be requested by name: all that answer, whatever their share.
    named: Vec<(String, usize)>,
    shadows: Vec<usize>,
}

impl Split {
    /// # Errors
    /// The routes contradict each other, or leave keys without an answer.
    pub fn of(deployment: &Deployment) -> Result<Self, Error> {
        let mut split = Split {
            seed: fold(FNV_OFFSET, deployment.pipeline.as_bytes()),
            ranges: deployment.ranges.clone(),
            canaries: Vec::new(),
            lives: Vec::new(),
            named: Vec::new(),
            shadows: Vec::new(),
        };
        let (mut shares, mut weights) = (0_u64, 0_u64);
        for (route, it) in deployment.routes.iter().enumerate() {
            let before = &deployment.routes[..route];
            if before.iter().any(|other| other.name == it.name) {
                return Err(Error::Twice(it.name.clone()));
            }
            let (total, intervals, size) = match it.role {
                Role::Live { weight } => (&mut weights, &mut split.lives, weight),
                Role::Canary { share } => (&mut shares, &mut split.canaries, share),
                Role::Shadow => {
                    split.shadows.push(route);
                    continue;
                }
            };
            *total += u64::from(size);
            if size > 0 {
                intervals.push(Share { end: *total, route });
            }
            split.named.push((it.name.clone(), route));
        }
        let left = u64::from(SHARE_WHOLE).checked_sub(shares);
        match left.ok_or(Error::Overfull(shares))? {
            left if left > 0 && weights == 0 => Err(Error::Unserved(left as u32)),
            _ => Ok(split),
        }
    }

    /// The route of an entity.
    pub fn pick(&self, key: &str) -> Pick {
        if let Some(only) = self.only() {
            return only;
        }
        self.at(mix(fold(fold(self.seed, &[0]), key.as_bytes())))
    }

    /// A route for a request without an entity; `turn` differs from request to request.
    pub fn pick_any(&self, turn: u64) -> Pick {
        self.at(mix(turn))
    }

    /// The index of the route that answers everything, if there is one.
    pub fn only(&self) -> Option<Pick> {
        if let Some(ranges) = &self.ranges {
            return ranges.only().map(|route| Pick { route });
        }
        match (&self.canaries[..], &self.lives[..]) {
            ([], [only]) => Some(Pick { route: only.route }),
            _ => None,
        }
    }

    /// The route with this name; None for shadows too, which never answer.
    pub fn named(&self, variant: &str) -> Option<Pick> {
        let (_, route) = self.named.iter().find(|(name, _)| name == variant)?;
        Some(Pick { route: *route })
    }

    /// The names that [`Split::named`] knows, in the order of the routes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.iter().map(|(name, _)| name.as_str())
    }

    /// The indices of shadows: they score everything and answer nothing.
    pub fn shadows(&self) -> &[usize] {
        &self.shadows
    }

    fn at(&self, hash: u64) -> Pick {
        let (high, low) = (hash >> 32, hash & 0xffff_ffff);
        if let Some(ranges) = &self.ranges {
            // Valid ones leave no point out.
            let route = ranges.route(high).unwrap_or_default();
            return Pick { route };
        }
        let slot = (high * u64::from(SHARE_WHOLE)) >> 32;
        let canary = self.canaries.iter().find(|share| slot < share.end);
        let share = canary.or_else(|| {
            // Weights sum to at most 2^32: the product needs more than 64 bits.
            let weights = u128::from(self.lives.last()?.end);
            let at = ((u128::from(low) * weights) >> 32) as u64;
            self.lives.iter().find(|share| at < share.end)
        });
        // A split without live routes has canaries that own all slots.
        Pick {
            route: share.map_or(0, |share| share.route),
        }
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bits: short keys cost a multiplication a byte, and nothing in it is murmur2, by which keys meet
/// their partitions.
fn fold(hash: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(hash, step)
}

/// SplitMix64's finish: every bit of FNV's, whose high bits are weak for short keys, reaches all others.
fn mix(hash: u64) -> u64 {
    let mut z = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Action, ModelId, Route};

    const LIVE: Role = Role::Live { weight: 1 };

    fn deployment(roles: &[(&str, Role)]) -> Deployment {
        let route = |(name, role): &(&str, Role)| Route {
            name: (*name).to_owned(),
            model: ModelId {
                name: "m".to_owned(),
                version: (*name).to_owned(),
            },
            role: *role,
        };
        Deployment {
            pipeline: "ward".to_owned(),
            revision: 1,
            routes: roles.iter().map(route).collect(),
            ranges: None,
            action: Action::Set,
            by: "test".to_owned(),
            at_ms: 0,
            reason: String::new(),
        }
    }

    fn split(roles: &[(&str, Role)]) -> Split {
        Split::of(&deployment(roles)).unwrap()
    }

    fn canary(share: u32) -> Role {
        Role::Canary { share }
    }

    fn live(weight: u32) -> Role {
        Role::Live { weight }
    }

    /// As keys are: counted, so that neighbours differ in a digit.
    fn keys(count: u32) -> impl Iterator<Item = String> {
        (0..count).map(|n| format!("patient-{n}"))
    }

    fn counts(split: &Split, routes: usize, keys: impl Iterator<Item = String>) -> Vec<u32> {
        let mut counts = vec![0; routes];
        keys.for_each(|key| counts[split.pick(&key).route] += 1);
        counts
    }

    /// Within five standard deviations of a binomial: wrong once in two million, and keys do not change.
    fn assert_share(count: u32, of: u32, share: f64) {
        let (of, count) = (f64::from(of), f64::from(count));
        let allowed = 5.0 * (of * share * (1.0 - share)).sqrt();
        let off = (count - of * share).abs();
        assert!(off <= allowed, "{count} of {of} for a share of {share}");
    }

    #[test]
    fn each_route_gets_its_share() {
        let split = split(&[
            ("a", live(3)),
            ("tenth", canary(1_000)),
            ("b", live(1)),
            ("rare", canary(1)),
            ("watch", Role::Shadow),
        ]);
        let counts = counts(&split, 5, keys(200_000));
        for (count, share) in counts
            .iter()
            .zip([0.8999 * 0.75, 0.1, 0.8999 * 0.25, 0.0001, 0.0])
        {
            assert_share(*count, 200_000, share);
        }
        assert_eq!(split.shadows(), [4]);
    }

    #[test]
    fn variants_do_not_follow_partitions() {
        let split = split(&[("a", LIVE), ("b", canary(2_500))]);
        for partitions in [2, 3, 8, 64] {
            let mut seen = vec![(0, 0); partitions as usize];
            for key in keys(200_000) {
                let hash = murmur2(key.as_bytes()) & 0x7fff_ffff;
                let (all, canary) = &mut seen[(hash % partitions) as usize];
                *all += 1;
                *canary += u32::from(split.pick(&key).route == 1);
            }
            for (all, canary) in seen {
                assert_share(canary, all, 0.25);
            }
        }
    }

    /// Kafka's, by which keys meet their partitions.
    fn murmur2(data: &[u8]) -> u32 {
        const M: u32 = 0x5bd1_e995;
        let mut h = 0x9747_b28c ^ data.len() as u32;
        let chunks = data.chunks_exact(4);
        let rest = chunks.remainder();
        for chunk in chunks {
            let k = u32::from_le_bytes(chunk.try_into().unwrap()).wrapping_mul(M);
            h = h.wrapping_mul(M) ^ (k ^ (k >> 24)).wrapping_mul(M);
        }
        for (i, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        if !rest.is_empty() {
            h = h.wrapping_mul(M);
        }
        h = (h ^ (h >> 13)).wrapping_mul(M);
        h ^ (h >> 15)
    }

    #[test]
    fn the_tests_murmur2_is_kafkas() {
        assert_eq!(murmur2(b"foobar") as i32, -790_332_482);
        assert_eq!(murmur2(b"21") as i32, -973_932_308);
        assert_eq!(murmur2(b"a-little-bit-long-string") as i32, -985_981_536);
    }

    #[test]
    fn pipelines_split_the_same_keys_differently() {
        let roles = [("a", LIVE), ("b", canary(5_000))];
        let mut other = deployment(&roles);
        other.pipeline = "clinic".to_owned();
        let (one, other) = (split(&roles), Split::of(&other).unwrap());
        let same = keys(100_000).filter(|key| one.pick(key) == other.pick(key));
        assert_share(same.count() as u32, 100_000, 0.5);
    }

    #[test]
    fn a_key_hashes_for_ever_to_the_same_place() {
        // Who answers a patient must not change with a release: a change here moves people between variants.
        let quarters = split(&[
            ("a", canary(2_500)),
            ("b", canary(2_500)),
            ("c", live(1)),
            ("d", live(1)),
        ]);
        let routes: Vec<usize> = keys(12).map(|key| quarters.pick(&key).route).collect();
        assert_eq!(routes, [3, 3, 3, 3, 2, 2, 1, 0, 3, 2, 2, 1]);
    }

    #[test]
    fn a_promoted_canary_keeps_its_keys_and_the_others_join_them() {
        let before = split(&[("old", LIVE), ("new", canary(1_000))]);
        let after = split(&[("new", LIVE)]);
        for key in keys(10_000).filter(|key| before.pick(key).route == 1) {
            assert_eq!(after.pick(&key).route, 0);
        }
        // Promoted beside a route that stays: its keys stay with it as long as it is the canary that it was.
        let beside = split(&[("old", live(0)), ("new", canary(SHARE_WHOLE))]);
        assert!(keys(10_000).all(|key| beside.pick(&key).route == 1));
    }

    #[test]
    fn a_name_reaches_routes_that_answer_and_no_shadow() {
        let split = split(&[
            ("a", LIVE),
            ("idle", live(0)),
            ("none", canary(0)),
            ("watch", Role::Shadow),
        ]);
        assert_eq!(split.named("idle"), Some(Pick { route: 1 }));
        assert_eq!(split.named("none"), Some(Pick { route: 2 }));
        assert_eq!(split.named("watch"), None);
        assert_eq!(split.named("b"), None);
        assert_eq!(split.names().collect::<Vec<_>>(), ["a", "idle", "none"]);
        assert_eq!(split.only(), Some(Pick { route: 0 }));
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_the_reason() {
        let refused = |roles: &[(&str, Role)]| Split::of(&deployment(roles)).unwrap_err();
        assert_eq!(
            refused(&[("a", LIVE), ("a", canary(1))]),
            Error::Twice("a".to_owned())
        );
        let overfull = refused(&[("a", LIVE), ("b", canary(u32::MAX)), ("c", canary(9_000))]);
        assert!(matches!(overfull, Error::Overfull(_)));
        assert!(
            refused(&[("a", LIVE), ("b", canary(10_001))])
                .to_string()
                .starts_with("the canaries' shares sum to 100.01 %")
        );
        for unserved in [
            vec![],
            vec![("a", live(0))],
            vec![("a", Role::Shadow)],
            vec![("a", canary(9_999))],
        ] {
            assert!(matches!(refused(&unserved), Error::Unserved(_)));
        }
    }

    #[test]
    fn requests_without_a_key_take_turns_by_the_same_shares() {
        let split = split(&[("a", LIVE), ("b", canary(2_000))]);
        let canaries = (0..50_000).filter(|turn| split.pick_any(*turn).route == 1);
        assert_share(canaries.count() as u32, 50_000, 0.2);
    }

    fn role() -> impl Strategy<Value = Role> {
        prop_oneof![
            (0_u32..=4).prop_map(live),
            Just(live(u32::MAX)),
            (0_u32..=2_500).prop_map(canary),
            Just(Role::Shadow),
        ]
    }

    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

    fn named(roles: &[Role]) -> Vec<(&'static str, Role)> {
        NAMES.into_iter().zip(roles.iter().copied()).collect()
    }

    proptest! {
        #[test]
        fn whatever_is_not_refused_answers_every_key_by_a_route_that_takes_some(
            roles in prop::collection::vec(role(), 0..=5),
            keys in prop::collection::vec(".{0,12}", 1..40),
        ) {
            let roles = named(&roles);
            let Ok(split) = Split::of(&deployment(&roles)) else {
                return Ok(());
            };
            for key in &keys {
                let pick = split.pick(key);
                prop_assert_eq!(pick, split.pick(key));
                match roles[pick.route].1 {
                    Role::Live { weight } => prop_assert!(weight > 0),
                    Role::Canary { share } => prop_assert!(share > 0),
                    Role::Shadow => prop_assert!(false, "a shadow answered"),
                }
            }
        }

        #[test]
        fn the_last_canary_grows_without_losing_a_key_and_moves_only_those_it_gains(
            before in 0_u32..=5_000,
            growth in 0_u32..=5_000,
            first in 0_u32..=1_000,
            weights in (1_u32..9, 1_u32..9),
        ) {
            let with = |share| split(&[
                ("first", canary(first.min(SHARE_WHOLE - before - growth))),
                ("a", live(weights.0)),
                ("new", canary(share)),
                ("b", live(weights.1)),
            ]);
            let (small, large) = (with(before), with(before + growth));
            for key in keys(2_000) {
                let (was, is) = (small.pick(&key).route, large.pick(&key).route);
                prop_assert!(is == was || is == 2, "{key} went from {was} to {is}");
            }
        }

        #[test]
        fn an_only_route_is_what_the_intervals_say_too(roles in prop::collection::vec(role(), 0..=3)) {
            let roles = named(&roles);
            if let Ok(split) = Split::of(&deployment(&roles))
                && let Some(only) = split.only()
            {
                for key in keys(50) {
                    prop_assert_eq!(split.at(mix(fold(fold(split.seed, &[0]), key.as_bytes()))), only);
                }
            }
        }
    }
}
