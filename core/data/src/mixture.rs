//! Mixes several sources into one endless sequence.

use std::collections::HashSet;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Length of the repeating pattern. Shares are multiples of its inverse.
const PERIOD: usize = 1000;

/// A repeating pattern in which each source has its share of the places.
#[derive(Clone, Debug)]
pub struct Mixture {
    /// Source at each place of the pattern.
    pattern: Vec<u16>,
    /// For each place: the number of earlier places with the same source.
    before: Vec<u32>,
    /// Number of places of each source in the pattern.
    shares: Vec<usize>,
}

impl Mixture {
    /// Builds shares in proportion to the weights. `None` if a source would get no place.
    pub fn new(weights: &[f64], seed: u64) -> Option<Self> {
        if let [_] = weights {
            return Some(Self { pattern: vec![0], before: vec![0], shares: vec![1] });
        }
        let sum: f64 = weights.iter().sum();
        let exact: Vec<f64> = weights.iter().map(|weight| weight / sum * PERIOD as f64).collect();
        let mut shares: Vec<usize> = exact.iter().map(|share| *share as usize).collect();
        // Rounding down leaves places over. They go to the largest remainders.
        let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
        by_remainder.sort_by(|a, b| exact[*b].fract().total_cmp(&exact[*a].fract()));
        let left = PERIOD - shares.iter().sum::<usize>();
        by_remainder.iter().cycle().take(left).for_each(|source| shares[*source] += 1);
        if shares.contains(&0) {
            return None;
        }
        let mut pattern: Vec<u16> = shares
            .iter()
            .enumerate()
            .flat_map(|(source, n)| std::iter::repeat_n(source as u16, *n))
            .collect();
        pattern.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let mut counts = vec![0; weights.len()];
        let before = pattern
            .iter()
            .map(|source| {
                counts[usize::from(*source)] += 1;
                counts[usize::from(*source)] - 1
            })
            .collect();
        Some(Self { pattern, before, shares })
    }

    /// Returns the source of a place, and the index within that source.
    pub fn at(&self, place: usize) -> (usize, usize) {
        let (period, place) = (place / self.pattern.len(), place % self.pattern.len());
        let source = usize::from(self.pattern[place]);
        (source, period * self.shares[source] + self.before[place] as usize)
    }

    /// Number of places of a source before a place.
    pub fn count_before(&self, source: usize, place: usize) -> usize {
        let (period, rest) = (place / self.pattern.len(), place % self.pattern.len());
        let is_of = |of: &&u16| usize::from(**of) == source;
        period * self.shares[source] + self.pattern[..rest].iter().filter(is_of).count()
    }

    /// Most places of a source among `n` places that start at a multiple of `n`.
    pub fn most_of(&self, source: usize, n: usize) -> usize {
        // The pattern repeats after at most that many starts.
        let count =
            |start: usize| self.count_before(source, start + n) - self.count_before(source, start);
        (0..self.pattern.len()).map(|idx| count(idx * n)).max().unwrap_or(0)
    }

    /// Whether there is only one source.
    pub fn is_alone(&self) -> bool {
        self.shares.len() == 1
    }

    /// A source's share of all places.
    pub fn share(&self, source: usize) -> f64 {
        self.shares[source] as f64 / self.pattern.len() as f64
    }
}

/// Moves items that are in `tail` behind the first `head` items. Leaves the others in their order.
///
/// The end of the previous epoch is `tail`, and a batch holds it beside the `head` of this epoch.
/// Changes at most the first `head + tail` items.
pub fn keep_apart(order: &mut Vec<u32>, tail: &[u32], head: usize) {
    let tail: HashSet<u32> = tail.iter().copied().collect();
    let (mut first, mut rest) = (Vec::with_capacity(order.len()), Vec::new());
    for item in order.drain(..) {
        if first.len() < head && !tail.contains(&item) { first.push(item) } else { rest.push(item) }
    }
    first.extend(rest);
    *order = first;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_has_its_share_and_counts_without_a_gap() {
        let mixture = Mixture::new(&[3.0, 1.0, 0.01], 5).expect("each has a place");
        let mut next = [0; 3];
        for place in 0..3 * PERIOD {
            let (source, own) = mixture.at(place);
            assert_eq!(own, next[source]);
            next[source] += 1;
        }
        assert_eq!(next, [2244, 747, 9].map(|n| n as usize), "{:?}", mixture.shares);
    }

    #[test]
    fn places_of_a_source_are_counted() {
        let mixture = Mixture::new(&[3.0, 1.0], 5).expect("each has a place");
        for place in [0, 1, 7, 999, 1000, 2345] {
            let of_first = (0..place).filter(|at| mixture.at(*at).0 == 0).count();
            assert_eq!(mixture.count_before(0, place), of_first, "{place}");
        }
        let counts =
            (0..1000).map(|step| (0..8).filter(|at| mixture.at(8 * step + at).0 == 1).count());
        assert_eq!(mixture.most_of(1, 8), counts.max().expect("some"));
        assert_eq!(Mixture::new(&[1.0], 0).expect("one").most_of(0, 8), 8);
    }

    #[test]
    fn the_head_of_an_epoch_has_nothing_of_the_tail_before_it() {
        let mut order = vec![4, 2, 0, 1, 3, 5];
        keep_apart(&mut order, &[2, 4], 2);
        assert_eq!(order, [0, 1, 4, 2, 3, 5]);
        keep_apart(&mut order, &[], 2);
        assert_eq!(order, [0, 1, 4, 2, 3, 5]);
    }

    #[test]
    fn one_source_has_every_place() {
        let mixture = Mixture::new(&[0.3], 1).expect("one");
        assert_eq!((mixture.at(0), mixture.at(12345)), ((0, 0), (0, 12345)));
    }

    #[test]
    fn a_source_without_a_place_is_noticed() {
        assert!(Mixture::new(&[1.0, 1e-6], 1).is_none());
    }
}
