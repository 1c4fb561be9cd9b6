//! Which ranges of keys each route gets: a change of shares moves no more keys than it must.
//!
//! The writer of a deployment computes the ranges from the previous ones, so restoring a revision restores the route of each key.

use std::collections::BTreeMap;

use crate::{
    Deployment, KeyRange, KeyRanges, Role, Route, SHARE_WHOLE,
    ranges::{POINTS, RANGES_MAX},
};

impl KeyRanges {
    /// The ranges in effect with a deployment: its own, or the result of the formula of the first version. None if that does not split
    /// keys by ranges: among several live routes it uses other bits of the hash.
    pub fn of(deployment: &Deployment) -> Option<Self> {
        match &deployment.ranges {
            Some(ranges) => Some(ranges.clone()),
            None => formula(&deployment.routes),
        }
    }

    /// The ranges of `routes`, given those of `current`. No more points change routes than the change of shares makes necessary, and only
    /// from routes that lose to routes that gain; routes are identified by name. None if the formula of the first version gives the same
    /// result, which readers older than ranges understand, or if `current` is split by that formula among several live routes: an
    /// upgrade reshuffles nobody.
    pub fn after(current: Option<&Deployment>, routes: &[Route]) -> Option<Self> {
        let quotas = quotas(routes);
        let ranges = match current.filter(|current| !current.routes.is_empty()) {
            None => afresh(routes, &quotas),
            Some(current) => Self::of(current)?.changed(&current.routes, routes, &quotas),
        };
        // More pieces than anybody makes by hand: start afresh rather than refuse.
        let ranges = match ranges.ranges().len() > RANGES_MAX {
            true => afresh(routes, &quotas),
            false => ranges,
        };
        (formula(routes).as_ref() != Some(&ranges)).then_some(ranges)
    }

    fn changed(&self, before: &[Route], routes: &[Route], quotas: &[u64]) -> Self {
        let mut pieces = Pieces::of(self, before, routes);
        let had = pieces.held(routes.len());
        let gains: Vec<bool> = had.iter().zip(quotas).map(|(had, now)| had < now).collect();
        for (route, (had, now)) in had.iter().zip(quotas).enumerate() {
            pieces.free(route, had.saturating_sub(*now), &gains);
        }
        let mut wanted: Vec<u64> = (had.iter().zip(quotas))
            .map(|(had, now)| now.saturating_sub(*had))
            .collect();
        // First pieces beside a route's own: that makes no new ones.
        for beside in [true, false] {
            for (route, wanted) in wanted.iter_mut().enumerate() {
                pieces.allot(route, wanted, beside);
            }
        }
        joined(pieces.0)
    }
}

/// A run of points while routes are reassigned.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: u64,
    end: u64,
    /// None: free.
    route: Option<usize>,
}

impl Piece {
    fn points(&self) -> u64 {
        self.end - self.start
    }
}

struct Pieces(Vec<Piece>);

impl Pieces {
    /// The ranges of `before`, by the indices of `routes`; those of removed routes are free.
    fn of(ranges: &KeyRanges, before: &[Route], routes: &[Route]) -> Self {
        let answers = |(_, route): &(usize, &Route)| route.role != Role::Shadow;
        let places: BTreeMap<&str, usize> = (routes.iter().enumerate().filter(answers))
            .map(|(place, route)| (route.name.as_str(), place))
            .collect();
        let mut start = 0;
        let piece = |range: &KeyRange| {
            let name = before.get(range.route).map(|route| route.name.as_str());
            let piece = Piece {
                start,
                end: range.end,
                route: name.and_then(|name| places.get(name).copied()),
            };
            start = range.end;
            piece
        };
        Pieces(ranges.ranges().iter().map(piece).collect())
    }

    fn held(&self, routes: usize) -> Vec<u64> {
        let mut held = vec![0; routes];
        for piece in &self.0 {
            if let Some(route) = piece.route {
                held[route] += piece.points();
            }
        }
        held
    }

    fn is(&self, at: Option<usize>, test: impl Fn(usize) -> bool) -> bool {
        let piece = at.and_then(|at| self.0.get(at));
        piece.and_then(|piece| piece.route).is_some_and(test)
    }

    /// Takes points from a route, smallest pieces first so that there are fewer; the last one is cut beside a route that gains.
    fn free(&mut self, route: usize, mut surplus: u64, gains: &[bool]) {
        while surplus > 0 {
            let own = |(_, piece): &(usize, &Piece)| piece.route == Some(route);
            let mut own = self.0.iter().enumerate().filter(own);
            let Some(first) = own.next() else { return };
            let least = own.fold(first, |least, next| {
                match next.1.points() < least.1.points() {
                    true => next,
                    false => least,
                }
            });
            let (at, piece) = (least.0, *least.1);
            let cut = surplus.min(piece.points());
            let on_the_right = self.is(Some(at + 1), |next| gains[next]);
            self.hand_over(at, cut, on_the_right, None);
            surplus -= cut;
        }
    }

    /// Gives a route the free points it still wants, as far as there are any: those beside its own, or any.
    fn allot(&mut self, route: usize, wanted: &mut u64, beside: bool) {
        while *wanted > 0 {
            let own = |at: Option<usize>| self.is(at, |it| it == route);
            let found = self.0.iter().enumerate().find_map(|(at, piece)| {
                let (left, right) = (own(at.checked_sub(1)), own(Some(at + 1)));
                let fits = piece.route.is_none() && (left || right || !beside);
                fits.then_some((at, piece.points(), right && !left))
            });
            let Some((at, points, on_the_right)) = found else {
                return;
            };
            let cut = points.min(*wanted);
            self.hand_over(at, cut, on_the_right, Some(route));
            *wanted -= cut;
        }
    }

    /// Gives points at one end of a piece to another route, or frees them.
    fn hand_over(&mut self, at: usize, points: u64, on_the_right: bool, to: Option<usize>) {
        let whole = self.0[at];
        let (mut given, mut kept) = (whole, whole);
        given.route = to;
        if points == whole.points() {
            self.0[at] = given;
        } else if on_the_right {
            kept.end -= points;
            given.start = kept.end;
            self.0.splice(at..=at, [kept, given]);
        } else {
            given.end = whole.start + points;
            kept.start = given.end;
            self.0.splice(at..=at, [given, kept]);
        }
    }
}

fn joined(pieces: impl IntoIterator<Item = Piece>) -> KeyRanges {
    let mut ranges: Vec<KeyRange> = Vec::new();
    for piece in pieces {
        // Shares of less than everything are refused before a deployment is written.
        let route = piece.route.unwrap_or_default();
        match ranges.last_mut() {
            _ if piece.points() == 0 => {}
            Some(last) if last.route == route => last.end = piece.end,
            _ => ranges.push(KeyRange {
                end: piece.end,
                route,
            }),
        }
    }
    KeyRanges::new(ranges)
}

/// Canaries from the bottom, then live routes.
fn afresh(routes: &[Route], quotas: &[u64]) -> KeyRanges {
    let is_canary = |place: &usize| matches!(routes[*place].role, Role::Canary { .. });
    let (canaries, others): (Vec<usize>, Vec<usize>) = (0..routes.len()).partition(is_canary);
    let mut start = 0;
    let places = canaries.into_iter().chain(others);
    let pieces = places.map(|place| {
        let end = start + quotas[place];
        let piece = Piece {
            start,
            end,
            route: Some(place),
        };
        start = end;
        piece
    });
    joined(pieces)
}

/// The points of a sum of shares, by the formula of the first version.
fn points(shares: u64) -> u64 {
    let whole = u64::from(SHARE_WHOLE);
    (shares.min(whole) * POINTS).div_ceil(whole)
}

/// The result of the formula of the first version, if it splits keys by ranges.
fn formula(routes: &[Route]) -> Option<KeyRanges> {
    let is_live = |route: &&Route| matches!(route.role, Role::Live { weight: 1.. });
    if routes.iter().filter(is_live).count() > 1 {
        return None;
    }
    let (mut shares, mut left) = (0, POINTS);
    let mut quotas: Vec<u64> = (routes.iter())
        .map(|route| match route.role {
            Role::Canary { share } => {
                let before = points(shares);
                shares += u64::from(share);
                points(shares) - before
            }
            Role::Live { .. } | Role::Shadow => 0,
        })
        .collect();
    left -= quotas.iter().sum::<u64>().min(left);
    if let Some(live) = routes.iter().position(|route| is_live(&route)) {
        quotas[live] = left;
    }
    Some(afresh(routes, &quotas))
}

/// The points of each route. A canary's depend on its own share alone, except for the last of canaries that have everything.
fn quotas(routes: &[Route]) -> Vec<u64> {
    let mut left = POINTS;
    let mut quotas: Vec<u64> = (routes.iter())
        .map(|route| match route.role {
            Role::Canary { share } => {
                let quota = points(u64::from(share)).min(left);
                left -= quota;
                quota
            }
            Role::Live { .. } | Role::Shadow => 0,
        })
        .collect();
    let weight = |route: &Route| match route.role {
        Role::Live { weight } => u64::from(weight),
        Role::Canary { .. } | Role::Shadow => 0,
    };
    let weights: u64 = routes.iter().map(weight).sum();
    let (mut so_far, mut given) = (0, 0);
    for (route, quota) in routes.iter().zip(&mut quotas) {
        let weight = weight(route);
        if weight > 0 {
            so_far += weight;
            let end = (u128::from(so_far) * u128::from(left) / u128::from(weights)) as u64;
            *quota = end - given;
            given = end;
        }
    }
    quotas
}

#[cfg(test)]
mod tests;
