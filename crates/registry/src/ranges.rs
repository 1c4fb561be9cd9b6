//! Which keys each route gets, as ranges of a key's hash. The ranges are on a deployment's record; readers look keys up and compute
//! nothing, so all replicas agree.

/// One past the largest point: a key's point is the upper 32 bits of its hash.
pub const POINTS: u64 = 1 << 32;
/// The most ranges: bounds a record (some ten bytes per range) and what a reader keeps of it. Hundreds of arbitrary changes leave
/// a few dozen.
pub(crate) const RANGES_MAX: usize = 4_096;

/// From the end of the range before it up to its own end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRange {
    /// One past its last point.
    pub end: u64,
    /// The index of its route among the deployment's.
    pub route: usize,
}

/// The routes of all points, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRanges(Vec<KeyRange>);

impl KeyRanges {
    /// Unchecked; [`crate::Deployment::validate`] checks them.
    pub fn new(ranges: Vec<KeyRange>) -> Self {
        KeyRanges(ranges)
    }

    pub fn ranges(&self) -> &[KeyRange] {
        &self.0
    }

    /// The index of the route of a point (0 to 2^32 - 1); None if the ranges do not cover it.
    pub fn route(&self, point: u64) -> Option<usize> {
        let at = self.0.partition_point(|range| range.end <= point);
        self.0.get(at).map(|range| range.route)
    }

    /// The index of the route that has all points, if one has.
    pub fn only(&self) -> Option<usize> {
        let (first, rest) = self.0.split_first()?;
        let same = rest.iter().all(|range| range.route == first.route);
        same.then_some(first.route)
    }
}
