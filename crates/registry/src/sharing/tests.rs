//! Changes of shares, weights and routes: who moves.

use proptest::prelude::*;

use super::*;
use crate::{
    Action, Split,
    deployment::tests::{deployment, route},
};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn canary(share: u32) -> Role {
    Role::Canary { share }
}

fn live(weight: u32) -> Role {
    Role::Live { weight }
}

fn routes(roles: &[(&str, Role)]) -> Vec<Route> {
    roles
        .iter()
        .map(|(name, role)| route(name, "1", *role))
        .collect()
}

/// As the tool writes it.
fn next(current: Option<&Deployment>, routes: Vec<Route>) -> Deployment {
    let ranges = KeyRanges::after(current, &routes);
    let mut next = deployment(current.map_or(1, |it| it.revision + 1), routes);
    next.ranges = ranges;
    assert_eq!(next.validate(), Ok(()));
    next
}

/// Of each route by its name, in points.
type Shares = BTreeMap<String, u64>;
type Moves = BTreeMap<(String, String), u64>;

fn shares(deployment: &Deployment) -> Shares {
    let answering = (deployment.routes.iter()).zip(quotas(&deployment.routes));
    let answering = answering.filter(|(_, quota)| *quota > 0);
    answering
        .map(|(route, quota)| (route.name.clone(), quota))
        .collect()
}

/// How many points went from which route to which: counted on the ranges, exactly.
fn moves(before: &Deployment, after: &Deployment) -> Moves {
    let (old, new) = (
        KeyRanges::of(before).unwrap(),
        KeyRanges::of(after).unwrap(),
    );
    let mut ends: Vec<u64> = (old.ranges().iter().chain(new.ranges()))
        .map(|range| range.end)
        .collect();
    ends.sort_unstable();
    ends.dedup();
    let (mut moves, mut start) = (Moves::new(), 0);
    for end in ends {
        let name = |ranges: &KeyRanges, of: &Deployment| {
            of.routes[ranges.route(start).unwrap()].name.clone()
        };
        let (from, to) = (name(&old, before), name(&new, after));
        if from != to {
            *moves.entry((from, to)).or_default() += end - start;
        }
        start = end;
    }
    moves
}

/// The least that can move: what the routes that gain gain together.
fn least(before: &Shares, after: &Shares) -> u64 {
    let had = |name| before.get(name).copied().unwrap_or_default();
    let gained = (after.iter()).map(|(name, share)| share.saturating_sub(had(name)));
    gained.sum()
}

fn role() -> impl Strategy<Value = Option<Role>> {
    prop_oneof![
        2 => Just(None),
        3 => (0_u32..=4).prop_map(|weight| Some(live(weight))),
        1 => (1_u32..=1_000_000).prop_map(|weight| Some(live(weight))),
        3 => (0_u32..=2_500).prop_map(|share| Some(canary(share))),
        1 => Just(Some(Role::Shadow)),
    ]
}

/// Some of the six routes, that answer for all keys.
fn some_routes() -> impl Strategy<Value = Vec<Route>> {
    let roles = prop::collection::vec(role(), NAMES.len());
    let named = roles.prop_map(|roles| {
        let named = NAMES.into_iter().zip(roles);
        let named: Vec<_> = named
            .filter_map(|(name, role)| Some((name, role?)))
            .collect();
        routes(&named)
    });
    named.prop_filter("they answer for all keys", |routes| {
        deployment(1, routes.clone()).validate().is_ok()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_change_moves_as_many_keys_as_it_must_and_only_from_routes_that_lose_to_routes_that_gain(
        changes in prop::collection::vec(some_routes(), 2..40),
    ) {
        let mut current: Option<Deployment> = None;
        for routes in changes {
            let after = next(current.as_ref(), routes);
            let now = shares(&after);
            let mut held = Shares::new();
            let ranges = match KeyRanges::of(&after) {
                Some(ranges) => ranges,
                None => unreachable!("what the tool writes first has ranges"),
            };
            let mut start = 0;
            for range in ranges.ranges() {
                *held.entry(after.routes[range.route].name.clone()).or_default() += range.end - start;
                start = range.end;
            }
            // By a point for each route: where canaries have all, or the formula rounds otherwise.
            for (name, share) in now.iter().chain(&held) {
                let has = held.get(name).copied().unwrap_or_default();
                let wants = now.get(name).copied().unwrap_or_default();
                prop_assert!(has.abs_diff(wants) <= 6, "{name} has {share}");
            }
            if let Some(before) = &current {
                let was = shares(before);
                let moves = moves(before, &after);
                let moved: u64 = moves.values().sum();
                prop_assert!(moved <= least(&was, &now) + 12, "{moved} moved: {moves:?}");
                for (from, to) in moves.keys().filter(|it| moves[*it] > 12) {
                    let of = |shares: &Shares, name| shares.get(name).copied().unwrap_or_default();
                    prop_assert!(of(&now, from) < of(&was, from), "{from} lost to {to}");
                    prop_assert!(of(&now, to) > of(&was, to), "{to} gained from {from}");
                }
            }
            prop_assert!(ranges.ranges().len() <= 64, "{} ranges", ranges.ranges().len());
            current = Some(after);
        }
    }

    #[test]
    fn replicas_pick_what_the_ranges_say(changes in prop::collection::vec(some_routes(), 1..6)) {
        let mut current: Option<Deployment> = None;
        for routes in changes {
            let mut with = next(current.as_ref(), routes);
            let split = Split::of(&with).unwrap();
            let picks: Vec<_> = (0..200).map(|key| split.pick(&format!("patient-{key}"))).collect();
            // The same by their own ranges where the formula would do.
            with.ranges = KeyRanges::of(&with);
            let split = Split::of(&with).unwrap();
            for (key, pick) in picks.into_iter().enumerate() {
                prop_assert_eq!(split.pick(&format!("patient-{key}")), pick);
            }
            current = Some(with);
        }
    }
}

#[test]
fn one_canary_that_grows_leaves_another_alone_and_three_live_routes_exchange_nothing() {
    let with = |a, b| routes(&[("a", canary(a)), ("b", canary(b)), ("live", live(1))]);
    let small = next(None, with(1_000, 1_000));
    let large = next(Some(&small), with(2_000, 1_000));
    let moved = moves(&small, &large);
    let route = ("live".to_owned(), "a".to_owned());
    assert_eq!(moved.keys().collect::<Vec<_>>(), [&route]);
    assert_eq!(
        moves(&large, &next(Some(&large), with(1_000, 1_000))).len(),
        1
    );

    let three = |a| routes(&[("a", live(a)), ("b", live(1)), ("c", live(1))]);
    let even = next(None, three(1));
    let heavy = next(Some(&even), three(2));
    let moved = moves(&even, &heavy);
    assert!(moved.keys().all(|(_, to)| to == "a"), "{moved:?}");
    // From a third to a half.
    let share: u64 = moved.values().sum();
    assert!(share.abs_diff(POINTS / 6) < 4, "{share}");
}

#[test]
fn what_a_reader_without_ranges_understands_is_written_without_them() {
    let one = next(None, routes(&[("live", live(100))]));
    let small = next(
        Some(&one),
        routes(&[("live", live(100)), ("new", canary(1_000))]),
    );
    let large = next(
        Some(&small),
        routes(&[("live", live(100)), ("new", canary(2_575))]),
    );
    let back = next(
        Some(&large),
        routes(&[("live", live(100)), ("new", canary(500))]),
    );
    let alone = next(Some(&back), routes(&[("live", live(100))]));
    for (at, written) in [one, small, large, back, alone].iter().enumerate() {
        assert_eq!(written.ranges, None, "{at}");
    }
}

#[test]
fn an_upgrade_reshuffles_nobody() {
    // One live route: the ranges are those of the formula, and go on from there.
    let old = deployment(
        1,
        routes(&[("a", canary(1_000)), ("b", canary(500)), ("live", live(1))]),
    );
    let after = next(
        Some(&old),
        routes(&[("a", canary(1_200)), ("b", canary(500)), ("live", live(1))]),
    );
    let (was, is) = (Split::of(&old).unwrap(), Split::of(&after).unwrap());
    let mut gained = 0;
    for key in (0..20_000).map(|key| format!("patient-{key}")) {
        let (was, is) = (was.pick(&key).route, is.pick(&key).route);
        assert!(was == is || (was, is) == (2, 0), "{key} from {was} to {is}");
        gained += u32::from(was != is);
    }
    assert!((200..600).contains(&gained), "{gained}");
    // Several live routes were shared by other bits; that stays until one of them has everything.
    let several = deployment(1, routes(&[("a", live(1)), ("b", live(1)), ("c", live(2))]));
    assert_eq!(KeyRanges::after(Some(&several), &several.routes), None);
    let alone = next(Some(&several), routes(&[("a", live(1))]));
    assert!(next(Some(&alone), several.routes).ranges.is_some());
}

#[test]
fn a_restored_revision_gives_each_key_its_route_again() {
    let first = next(
        None,
        routes(&[("a", live(1)), ("b", live(1)), ("new", canary(1_000))]),
    );
    let second = next(Some(&first), routes(&[("a", live(3)), ("b", live(1))]));
    let mut third = first.clone();
    (third.revision, third.action) = (3, Action::Rollback);
    assert_ne!(moves(&first, &second), Moves::new());
    assert_eq!(moves(&first, &third), Moves::new());
    let there: u64 = moves(&first, &second).values().sum();
    let back: u64 = moves(&second, &third).values().sum();
    assert_eq!(there, back);
}

#[test]
fn ranges_that_leave_points_to_nobody_are_refused() {
    let routes = routes(&[("a", live(1)), ("watch", Role::Shadow)]);
    let said = |ranges: &[(u64, usize)]| {
        let ranges = ranges.iter().map(|(end, route)| KeyRange {
            end: *end,
            route: *route,
        });
        let mut deployment = deployment(1, routes.clone());
        deployment.ranges = Some(KeyRanges::new(ranges.collect()));
        let invalid = deployment.validate().err();
        invalid.map(|invalid| invalid.to_string())
    };
    assert_eq!(said(&[(POINTS, 0)]), None);
    for (ranges, why) in [
        (&[][..], "they end at 0"),
        (&[(POINTS - 1, 0)], "they end at"),
        (&[(POINTS + 1, 0)], "one ends at"),
        (&[(5, 0), (5, 0), (POINTS, 0)], "one ends at 5 after 5"),
        (&[(POINTS, 1)], "does not answer"),
        (&[(POINTS, 9)], "does not answer"),
    ] {
        let said = said(ranges).unwrap_or_default();
        assert!(said.contains(why), "{said}");
    }
    let many: Vec<(u64, usize)> = (1..=5_000).map(|end| (end, 0)).collect();
    assert!(said(&many).unwrap_or_default().contains("5000"));
}
