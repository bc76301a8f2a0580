//! Shards the optimizer over the ranks: each parameter is updated by one rank, which alone has its
//! moments, and then sends the new weights to all (ZeRO stage 1, arXiv:1910.02054, by parameters).
//!
//! The gradients are summed as without it, so the weights are the same bit for bit. All ranks get
//! the same bits of a weight from its owner, even if their devices round differently.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use burn::tensor::Tensor;
use mmgem_collective::{Collective, CollectiveError};

use super::reduce::in_buckets;

/// The rank that updates each trained parameter, by module path.
#[derive(Clone, Debug, PartialEq)]
pub struct Ownership {
    owners: BTreeMap<String, usize>,
    rank: usize,
}

impl Ownership {
    /// Divides parameters of these sizes among `n_ranks` ranks, the same on all: each goes to the
    /// rank with the fewest values, largest first.
    pub fn new(sizes: &BTreeMap<String, usize>, rank: usize, n_ranks: usize) -> Self {
        let mut by_size: Vec<(&String, usize)> = sizes.iter().map(|(path, n)| (path, *n)).collect();
        by_size.sort_by_key(|(_, n)| Reverse(*n));
        let mut loads = vec![0; n_ranks];
        let mut owners = BTreeMap::new();
        for (path, n) in by_size {
            let owner = (0..n_ranks).min_by_key(|rank| loads[*rank]).expect("at least one rank");
            loads[owner] += n;
            owners.insert(path.clone(), owner);
        }
        Self { owners, rank }
    }

    /// Whether this rank updates the parameter.
    pub fn is_own(&self, path: &str) -> bool {
        self.owners.get(path) == Some(&self.rank)
    }

    /// Gets the values of parameters from their owners, and passes each to `take`.
    ///
    /// `values` returns this rank's values of a parameter. Of a parameter with another owner, only
    /// their number counts. Every rank must give the same `paths`.
    pub fn gather(
        &self,
        paths: &[String],
        values: impl Fn(&str) -> Tensor<1>,
        group: &dyn Collective,
        mut take: impl FnMut(String, Tensor<1>),
    ) -> Result<(), CollectiveError> {
        for owner in 0..group.size() {
            let own = paths.iter().filter(|path| self.owners.get(*path) == Some(&owner));
            let own = own.map(|path| (path.clone(), values(path)));
            in_buckets(own, |bucket| group.broadcast(bucket, owner), &mut take)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_has_one_owner_and_loads_are_even() {
        let sizes = [("a", 100), ("b", 60), ("c", 50), ("d", 7), ("e", 3)];
        let sizes = sizes.map(|(path, n)| (path.to_owned(), n)).into();
        let ranks: Vec<Ownership> = (0..2).map(|rank| Ownership::new(&sizes, rank, 2)).collect();
        let own = |rank: usize| -> Vec<&str> {
            sizes.keys().map(String::as_str).filter(|path| ranks[rank].is_own(path)).collect()
        };
        assert_eq!((own(0), own(1)), (vec!["a", "d", "e"], vec!["b", "c"]));
    }
}
