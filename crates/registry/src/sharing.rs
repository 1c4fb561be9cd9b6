//! Which ranges of keys each route gets: a change of shares moves as many keys as it must and no more.
//!
//! The writer of a deployment computes the ranges from those in effect before it, so a revision that is restored is restored for each
//! key.

use std::collections::BTreeMap;

use crate::{
    Deployment, KeyRange, KeyRanges, Role, Route, SHARE_WHOLE,
    ranges::{POINTS, RANGES_MAX},
};

impl KeyRanges {
    /// The ranges in effect with a deployment: its own, or what the formula of the first version comes to. None where that does not share
    /// keys by ranges: among several live routes other bits of the hash decide.
    pub fn of(deployment: &Deployment) -> Option<Self> {
        match &deployment.ranges {
            Some(ranges) => Some(ranges.clone()),
            None => formula(&deployment.routes),
        }
    }

    /// The ranges of `routes` after those of `current`. No more points change routes than the shares' changes make necessary, and none but
    /// from a route that loses to one that gains; routes are the same by their names. None where the formula of the first version says the
    /// same, which readers from before there were ranges understand, or where it shares keys in its own way already: nobody is reshuffled
    /// by an upgrade.
    pub fn after(current: Option<&Deployment>, routes: &[Route]) -> Option<Self> {
        let quotas = quotas(routes);
        let ranges = match current.filter(|current| !current.routes.is_empty()) {
            None => afresh(routes, &quotas),
            Some(current) => Self::of(current)?.changed(&current.routes, routes, &quotas),
        };
        // More pieces than anybody makes by hand: everything is dealt anew rather than refused.
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
        // First what lies beside a route's own pieces: that makes no new ones.
        for beside in [true, false] {
            for (route, wanted) in wanted.iter_mut().enumerate() {
                pieces.allot(route, wanted, beside);
            }
        }
        joined(pieces.0)
    }
}

/// A run of points while they change hands.
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
    /// The ranges of `before`, by the places of `routes`; those of routes that are gone are free.
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

    /// Takes points from a route, its smallest pieces first so that pieces become fewer; the last one is cut beside a route that gains.
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

    /// Gives a route as many free points as it wants and there are; those that lie beside its own, or any.
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

    /// Gives points at an end of a piece to another holder.
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

/// Points of the shares before and with a canary's, as the first version's formula has them.
fn points(shares: u64) -> u64 {
    let whole = u64::from(SHARE_WHOLE);
    (shares.min(whole) * POINTS).div_ceil(whole)
}

/// What the formula of the first version comes to, where it shares keys by ranges.
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

/// The points of each route. A canary's are a matter of its own share alone, but for the last of canaries that have everything.
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
