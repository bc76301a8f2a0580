//! Reads PyTorch's checkpoints (`torch.save`): zip archives (since version 1.6) or streams
//! (before).
//!
//! Both contain a pickle of the saved object and the numbers of its tensors.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use safetensors::Dtype;

use super::pickle::{Machine, Tensor};
use crate::zip::ZipArchive;

/// A tensor in a file.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Distances between neighbours along each axis, in elements.
    pub strides: Vec<usize>,
    /// Byte range of the file, from the tensor's first element to the end of its storage.
    pub bytes: Range<usize>,
}

/// First bytes of a stream: a pickle of the number 0x1950a86a20f9469cfc6c.
const STREAM: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const STREAM_VERSION: i64 = 1001;

/// Whether a file starts like a PyTorch file.
pub(super) fn is_pytorch(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(STREAM)
}

/// Lists the tensors of a file with the contents `bytes`. Tensors in nested dictionaries have
/// dotted names.
///
/// # Errors
/// If the file is damaged or is not a checkpoint. The text states the reason.
pub(super) fn tensors(path: &Path, bytes: &[u8]) -> Result<Vec<Placed>, String> {
    let placed =
        if bytes.starts_with(STREAM) { of_stream(bytes)? } else { of_archive(path, bytes)? };
    match placed.is_empty() {
        true => Err("the file has no tensors".into()),
        false => Ok(placed),
    }
}

fn of_archive(path: &Path, bytes: &[u8]) -> Result<Vec<Placed>, String> {
    let archive = ZipArchive::open(path)?;
    let pickle = archive.names().find(|name| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let pickle = pickle.ok_or("the file is a zip archive without data.pkl")?;
    let root = pickle.strip_suffix("data.pkl").unwrap_or_default();
    if let Ok(order) = archive.read(&format!("{root}byteorder"))
        && order != b"little"
    {
        return Err("the numbers are big-endian".into());
    }
    let (machine, _) = Machine::run(&archive.read(pickle)?)?;
    let place = |(name, tensor): (String, Tensor)| {
        let storage = archive.stored_range(&format!("{root}data/{}", tensor.storage.key));
        let storage = storage.map_err(|cause| format!("{name}: {cause}"))?;
        place(name, tensor, storage.start as usize..storage.end as usize, bytes.len())
    };
    machine.tensors()?.into_iter().map(place).collect()
}

/// Reads a stream: magic number, version, system information, the saved object, the keys of the
/// storages, then the storages. Each storage is its number of elements and the elements.
fn of_stream(bytes: &[u8]) -> Result<Vec<Placed>, String> {
    let mut at = STREAM.len();
    let mut next = || -> Result<Machine, String> {
        let (machine, n_bytes) = Machine::run(&bytes[at..])?;
        at += n_bytes;
        Ok(machine)
    };
    let version = next()?.int();
    if version != Some(STREAM_VERSION) {
        return Err(format!("its version is {version:?}, wanted {STREAM_VERSION}"));
    }
    next()?;
    let tensors = next()?.tensors()?;
    let keys = next()?.texts().ok_or("the keys of the storages cannot be read")?;
    let dtypes: HashMap<&str, Dtype> = tensors
        .iter()
        .map(|(_, tensor)| (tensor.storage.key.as_str(), tensor.storage.dtype))
        .collect();
    let mut storages = HashMap::new();
    for key in &keys {
        let length =
            bytes.get(at..at + 8).and_then(|length| length.try_into().ok()).map(u64::from_le_bytes);
        let n_elements =
            length.and_then(|n| usize::try_from(n).ok()).ok_or("the file is truncated")?;
        // An unused storage cannot be skipped, because the width of its numbers is unknown.
        let dtype =
            dtypes.get(key.as_str()).ok_or("the file has more than tensors of plain numbers")?;
        let start = at + 8;
        let end = n_bytes(n_elements, *dtype)
            .and_then(|n| start.checked_add(n))
            .ok_or("the file is truncated")?;
        storages.insert(key.clone(), start..end);
        at = end;
    }
    let place = |(name, tensor): (String, Tensor)| {
        let storage =
            storages.get(&tensor.storage.key).ok_or_else(|| format!("{name} has no storage"))?;
        place(name, tensor, storage.clone(), bytes.len())
    };
    tensors.into_iter().map(place).collect()
}

fn n_bytes(n_elements: usize, dtype: Dtype) -> Option<usize> {
    n_elements.checked_mul(dtype.bitsize() / 8)
}

/// Locates a tensor in its storage. The storage must lie within the file and contain the whole
/// tensor.
fn place(
    name: String,
    tensor: Tensor,
    storage: Range<usize>,
    file_bytes: usize,
) -> Result<Placed, String> {
    let Tensor { storage: kind, offset, shape, strides } = tensor;
    let last = shape.iter().zip(&strides).try_fold(offset, |last, (size, stride)| {
        last.checked_add(size.saturating_sub(1).checked_mul(*stride)?)
    });
    let is_empty = shape.contains(&0);
    let end = last.and_then(|last| n_bytes(last + usize::from(!is_empty), kind.dtype));
    let declared = n_bytes(kind.n_elements, kind.dtype);
    let fits = end.is_some_and(|end| {
        declared.is_some_and(|declared| end <= declared && declared <= storage.len())
    }) && storage.end <= file_bytes;
    // Strides of zero let any sizes pass the check above, so limit the product of the sizes too.
    let n_elements = shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size));
    if !fits || n_elements.is_none_or(|n| n > file_bytes) {
        return Err(format!(
            "{name} reaches beyond its storage; was the download or copy cut short?"
        ));
    }
    let start =
        storage.start + n_bytes(offset, kind.dtype).expect("the offset is less than the end");
    Ok(Placed { name, dtype: kind.dtype, shape, strides, bytes: start..storage.end })
}
