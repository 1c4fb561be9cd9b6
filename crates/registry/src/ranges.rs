//! Which keys each route has, as ranges of a key's hash. They travel on the record of a deployment; readers look keys up and compute
//! nothing, so all replicas agree.

/// One past the largest point: a key's point is the upper 32 bits of its hash.
pub const POINTS: u64 = 1 << 32;
/// Bounds a record (some ten bytes a range) and what a reader keeps of it. Hundreds of arbitrary changes leave some tens.
pub(crate) const RANGES_MAX: usize = 4_096;

/// From the end of the range before it up to its own end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRange {
    /// One past its last point.
    pub end: u64,
    /// The place of its route among the deployment's.
    pub route: usize,
}

/// All points, in order, by the routes that have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRanges(Vec<KeyRange>);

impl KeyRanges {
    /// As they were read; [`crate::Deployment::validate`] says whether they can be.
    pub fn new(ranges: Vec<KeyRange>) -> Self {
        KeyRanges(ranges)
    }

    pub fn ranges(&self) -> &[KeyRange] {
        &self.0
    }

    /// The place of the route that has a point.
    pub fn route(&self, point: u64) -> Option<usize> {
        let at = self.0.partition_point(|range| range.end <= point);
        self.0.get(at).map(|range| range.route)
    }

    /// The route that has all points.
    pub fn only(&self) -> Option<usize> {
        let (first, rest) = self.0.split_first()?;
        let same = rest.iter().all(|range| range.route == first.route);
        same.then_some(first.route)
    }
}
