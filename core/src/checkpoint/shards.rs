//! The tensors of one checkpoint, in one file or many, before a model is built.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Device;
use half::f16;
use safetensors::{Dtype as FileDtype, SafeTensors};

use super::names::{is_linear, part_name, part_of, scale_name};
use super::read::CheckpointError;
use super::stored::Stored;
use crate::quant::{BLOCK, Bits, LAYOUT, Packed, keeps_f16, stays_packed};

/// The tensors of one checkpoint, in one file or many.
#[derive(Debug, Default)]
pub struct Shards<'a> {
    tensors: BTreeMap<String, Stored<'a>>,
}

impl<'a> Shards<'a> {
    /// Reads the headers of the files. `files` are names (for messages) and contents.
    pub fn new(files: &[(&str, &'a [u8])]) -> Result<Self, CheckpointError> {
        let mut tensors = BTreeMap::new();
        for (file, bytes) in files {
            let malformed = |e: safetensors::SafeTensorError| CheckpointError::Malformed {
                cause: e.to_string(),
                file: (*file).to_owned(),
            };
            let shard = SafeTensors::deserialize(bytes).map_err(malformed)?;
            let (_, header) = SafeTensors::read_metadata(bytes).map_err(malformed)?;
            let layout = header.metadata().as_ref().and_then(|metadata| metadata.get("layout"));
            for (name, view) in shard.tensors() {
                if bits_of(view.dtype()).is_some() && layout.is_none_or(|layout| layout != LAYOUT) {
                    let found = layout.cloned().unwrap_or_else(|| "none".into());
                    return Err(CheckpointError::Layout { name, found, file: (*file).to_owned() });
                }
                if tensors.insert(name.clone(), Stored::new(&name, view)).is_some() {
                    return Err(CheckpointError::Doubled { name, file: (*file).to_owned() });
                }
            }
        }
        Ok(Self { tensors: join_parts(tensors)? })
    }

    /// Adds a tensor whose neighbours along each axis lie `strides` elements apart in `bytes`.
    ///
    /// `bytes` must contain the whole tensor. `file` is for messages.
    pub fn add_strided(
        &mut self,
        name: &str,
        dtype: FileDtype,
        shape: &[usize],
        strides: &[usize],
        bytes: &'a [u8],
        file: &str,
    ) -> Result<(), CheckpointError> {
        let stored = Stored::strided(name, dtype, shape, strides, bytes);
        match self.tensors.insert(name.to_owned(), stored) {
            None => Ok(()),
            Some(_) => {
                Err(CheckpointError::Doubled { name: name.to_owned(), file: file.to_owned() })
            }
        }
    }

    /// Adds or replaces a tensor.
    pub(super) fn put(&mut self, name: impl Into<String>, stored: Stored<'a>) {
        self.tensors.insert(name.into(), stored);
    }

    /// Removes and returns a tensor, if it exists.
    pub(super) fn take(&mut self, name: &str) -> Option<Stored<'a>> {
        self.tensors.remove(name)
    }

    /// Removes and returns a tensor.
    ///
    /// # Errors
    /// If it is missing.
    pub(super) fn require(&mut self, name: &str) -> Result<Stored<'a>, CheckpointError> {
        self.take(name).ok_or_else(|| CheckpointError::Missing(vec![name.to_owned()]))
    }

    /// Removes and returns the tensors for which `is_wanted` returns true.
    pub fn split_off(&mut self, is_wanted: impl Fn(&str) -> bool) -> Self {
        let (wanted, rest) =
            std::mem::take(&mut self.tensors).into_iter().partition(|(name, _)| is_wanted(name));
        self.tensors = rest;
        Self { tensors: wanted }
    }

    /// Tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Names and sizes, sorted.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, stored)| (name.as_str(), stored.shape()))
    }

    /// Sizes of one tensor, if it exists.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(Stored::shape)
    }

    /// The tensor that takes the most memory on `device`, and its bytes there, when the model runs.
    pub fn largest(&self, device: &Device) -> Option<(&str, u64)> {
        let (stays_packed, keeps_f16) = (stays_packed(device), keeps_f16(device));
        let size_bytes = |name: &str, stored: &Stored| -> u64 {
            let n_floats = match stored.dtype().and_then(bits_of) {
                Some(_) if stays_packed => return stored.n_bytes() as u64,
                Some(bits) => stored.n_bytes() / bits.block_bytes() * BLOCK,
                None => stored.shape().iter().product(),
            };
            let is_narrow = keeps_f16
                && stored.dtype() == Some(FileDtype::F16)
                && is_linear(name, stored.shape().len());
            n_floats as u64 * if is_narrow { 2 } else { 4 }
        };
        let sizes =
            self.tensors.iter().map(|(name, stored)| (name.as_str(), size_bytes(name, stored)));
        sizes.max_by_key(|(_, size_bytes)| *size_bytes)
    }

    /// Renames the tensors. Drops those for which `rename` returns `None`.
    pub fn rename(self, rename: impl Fn(&str) -> Option<String>) -> Self {
        let tensors = self
            .tensors
            .into_iter()
            .filter_map(|(name, stored)| Some((rename(&name)?, stored)))
            .collect();
        Self { tensors }
    }

    /// Merges two checkpoints. On a name clash, the tensor of `self` wins.
    pub fn join(mut self, other: Self) -> Self {
        for (name, stored) in other.tensors {
            self.tensors.entry(name).or_insert(stored);
        }
        self
    }

    /// Values of one tensor as f32, if it exists.
    pub fn values(&self, name: &str) -> Option<Result<Vec<f32>, CheckpointError>> {
        self.tensors.get(name).map(|stored| stored.to_f32(name))
    }

    /// Whether a tensor of this name exists in f16.
    pub(super) fn is_f16(&self, name: &str) -> bool {
        self.tensors.get(name).is_some_and(|stored| stored.dtype() == Some(FileDtype::F16))
    }

    /// Bits of a packed matrix; `None` if the tensor is not packed or does not exist.
    pub(super) fn bits(&self, name: &str) -> Option<Bits> {
        self.tensors.get(name).and_then(Stored::dtype).and_then(bits_of)
    }

    /// Reads the packed matrix `[out, in]` of this name, for which [`Self::bits`] returned `bits`.
    pub(super) fn packed(
        &self,
        name: &str,
        shape: [usize; 2],
        bits: Bits,
    ) -> Result<Packed, CheckpointError> {
        let [n_rows, n_columns] = shape;
        let n_blocks = n_columns.div_ceil(BLOCK);
        let sized = |name: &str, wanted: &[usize]| {
            let stored = self
                .tensors
                .get(name)
                .ok_or_else(|| CheckpointError::Missing(vec![name.to_owned()]))?;
            match stored.shape() == wanted {
                true => Ok(stored),
                false => Err(CheckpointError::Shape {
                    name: name.to_owned(),
                    found: stored.shape().to_vec(),
                    wanted: wanted.to_vec(),
                }),
            }
        };
        let codes = sized(name, &[n_rows, n_blocks, bits.block_bytes()])?.bytes().into_owned();
        let scale_name = scale_name(name);
        let scales = sized(&scale_name, &[n_rows, n_blocks])?;
        if scales.dtype() != Some(FileDtype::F16) {
            return Err(CheckpointError::Dtype {
                name: scale_name,
                found: format!("{:?}", scales.dtype()),
            });
        }
        let scales =
            scales.bytes().chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect();
        Packed::new(bits, shape, codes, scales)
            .map_err(|cause| CheckpointError::Packed { name: name.to_owned(), cause })
    }

    /// Names of the tensors that are not among `used`.
    pub(super) fn names_without(&self, used: &BTreeSet<String>) -> Vec<String> {
        self.tensors.keys().filter(|name| !used.contains(*name)).cloned().collect()
    }

    /// Whether both tensors exist and have identical bytes.
    pub(super) fn same_bytes(&self, a: &str, b: &str) -> bool {
        match (self.tensors.get(a), self.tensors.get(b)) {
            (Some(a), Some(b)) => {
                a.dtype().is_some() && a.dtype() == b.dtype() && a.bytes() == b.bytes()
            }
            _ => false,
        }
    }
}

fn bits_of(dtype: FileDtype) -> Option<Bits> {
    match dtype {
        FileDtype::I8 => Some(Bits::Eight),
        FileDtype::U8 => Some(Bits::Four),
        _ => None,
    }
}

/// Joins the parts of split tensors.
fn join_parts(
    tensors: BTreeMap<String, Stored>,
) -> Result<BTreeMap<String, Stored>, CheckpointError> {
    let (mut cut, mut whole): (BTreeMap<_, _>, BTreeMap<_, _>) =
        tensors.into_iter().partition(|(name, _)| part_of(name).is_some());
    let bases: BTreeSet<(String, usize)> = cut
        .keys()
        .filter_map(|name| part_of(name))
        .map(|(base, _, n_parts)| (base.to_owned(), n_parts))
        .collect();
    for (base, n_parts) in bases {
        let mut joined: Option<Stored> = None;
        for part in 1..=n_parts {
            let name = part_name(&base, part, n_parts);
            let stored =
                cut.remove(&name).ok_or_else(|| CheckpointError::Missing(vec![name.clone()]))?;
            match &mut joined {
                None => joined = Some(stored),
                Some(joined) => {
                    if !joined.append(&stored) {
                        let (found, wanted) = (stored.shape().to_vec(), joined.shape().to_vec());
                        return Err(CheckpointError::Shape { name, found, wanted });
                    }
                }
            }
        }
        if let Some(joined) = joined {
            whole.insert(base, joined);
        }
    }
    match cut.into_keys().next() {
        None => Ok(whole),
        Some(name) => Err(CheckpointError::Unused(vec![name])),
    }
}
