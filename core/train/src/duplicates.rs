//! Counts the photos that are in several sources of a run.
//!
//! A batch may hold such a photo twice, each as a negative of the other. The headers show the size
//! of each photo. Only photos whose size occurs in two sources are read, and their bytes are hashed.

use std::collections::{BTreeMap, HashMap};
use std::{fmt, fs};

use mmgem_core::checkpoint::{HASH_START, hash_bytes};
use rayon::prelude::*;

use super::sources::Source;

/// Most photos that are read. With more candidates, a part of the sizes stands for all.
const MOST_READ: usize = 200_000;

/// Most photos whose sizes are compared.
const MOST_LISTED: usize = 5_000_000;

/// Photos that two sources have in common.
#[derive(Debug, PartialEq, Eq)]
pub struct Duplicates {
    /// Indices of the sources, in ascending order.
    pub sources: [usize; 2],
    /// Photos of the first source that are in the second, estimated if `is_sampled`.
    pub n: usize,
    /// Whether only a part of the photos was read.
    pub is_sampled: bool,
}

impl fmt::Display for Duplicates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.sources;
        let about = if self.is_sampled { "about " } else { "" };
        write!(
            f,
            "{about}{} photos of source {first} are also in source {second}: a batch may hold such a photo twice, as a negative of itself; keep it in one source",
            self.n
        )
    }
}

/// Counts the photos that each pair of sources has in common. Leaves out sources that consist of
/// commands, and pairs without a common photo.
pub fn across(sources: &[Source]) -> Vec<Duplicates> {
    if sources.len() < 2 {
        return Vec::new();
    }
    // One size in `one_in` stands for all. Both photos of a pair have the same size.
    let n_photos: usize = sources.iter().filter_map(Source::len).sum();
    let mut one_in = n_photos.div_ceil(MOST_LISTED).max(1);
    let is_taken = |size: usize, one_in: usize| {
        hash_bytes(HASH_START, &size.to_le_bytes()).is_multiple_of(one_in as u64)
    };
    // Photos by size: source and index.
    let mut by_size: HashMap<usize, Vec<(usize, usize)>> = HashMap::new();
    for (source_idx, source) in sources.iter().enumerate() {
        for (idx, size) in source.photo_sizes(|size| is_taken(size, one_in)) {
            by_size.entry(size).or_default().push((source_idx, idx));
        }
    }
    by_size.retain(|_, photos| photos.iter().any(|photo| photo.0 != photos[0].0));
    let n_candidates: usize = by_size.values().map(Vec::len).sum();
    one_in *= n_candidates.div_ceil(MOST_READ).max(1);
    by_size.retain(|size, _| is_taken(*size, one_in));
    let candidates: Vec<(usize, usize)> = by_size.into_values().flatten().collect();
    let hashes: Vec<(u64, usize)> = candidates
        .par_iter()
        .filter_map(|(source, idx)| Some((sources[*source].photo_hash(*idx)?, *source)))
        .collect();
    // For each photo: how often each source has it.
    let mut photos: HashMap<u64, BTreeMap<usize, usize>> = HashMap::new();
    for (hash, source) in hashes {
        *photos.entry(hash).or_default().entry(source).or_default() += 1;
    }
    let mut pairs: BTreeMap<[usize; 2], usize> = BTreeMap::new();
    for counts in photos.values() {
        for (first, n) in counts {
            for (second, _) in counts.range(first + 1..) {
                *pairs.entry([*first, *second]).or_default() += n;
            }
        }
    }
    let found = pairs.into_iter().map(|(sources, n)| Duplicates {
        sources,
        n: n * one_in,
        is_sampled: one_in > 1,
    });
    found.collect()
}

impl Source {
    /// Index and size in bytes of each photo with a wanted size; empty for commands.
    fn photo_sizes(&self, is_wanted: impl Fn(usize) -> bool + Sync) -> Vec<(usize, usize)> {
        let of = |idx: usize, size: usize| is_wanted(size).then_some((idx, size));
        match self {
            Self::Shards { samples, .. } => {
                (0..samples.len()).filter_map(|idx| of(idx, samples.image_bytes(idx)?)).collect()
            }
            Self::Genome { photos, .. } => (0..photos.len())
                .into_par_iter()
                .filter_map(|idx| of(idx, fs::metadata(photos.path(idx)).ok()?.len() as usize))
                .collect(),
            Self::Streams { .. } => Vec::new(),
        }
    }

    /// Hash of a photo's bytes. `None` if it cannot be read.
    fn photo_hash(&self, idx: usize) -> Option<u64> {
        match self {
            Self::Shards { samples, .. } => {
                Some(hash_bytes(HASH_START, samples.read(idx).ok()?.image().ok()?))
            }
            Self::Genome { photos, .. } => {
                Some(hash_bytes(HASH_START, &fs::read(photos.path(idx)).ok()?))
            }
            Self::Streams { .. } => None,
        }
    }
}
