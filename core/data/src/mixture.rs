//! Mixes several sources into one endless sequence.

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

    /// A source's share of all places.
    pub fn share(&self, source: usize) -> f64 {
        self.shares[source] as f64 / self.pattern.len() as f64
    }
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
    fn one_source_has_every_place() {
        let mixture = Mixture::new(&[0.3], 1).expect("one");
        assert_eq!((mixture.at(0), mixture.at(12345)), ((0, 0), (0, 12345)));
    }

    #[test]
    fn a_source_without_a_place_is_noticed() {
        assert!(Mixture::new(&[1.0, 1e-6], 1).is_none());
    }
}
