//! PyTorch's checkpoints (`torch.save`), as zip archives (since version 1.6) or as streams (before).
//!
//! Both are a pickle of what was saved and the numbers of its tensors.

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
    /// Steps between neighbours along each axis, in elements.
    pub strides: Vec<usize>,
    /// Bytes of the file from the tensor's first element to the end of its storage.
    pub bytes: Range<usize>,
}

/// First bytes of a stream: a pickle of the number 0x1950a86a20f9469cfc6c.
const STREAM: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const STREAM_VERSION: i64 = 1001;

/// Whether a file begins as one of PyTorch's.
pub(super) fn is_pytorch(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(STREAM)
}

/// The tensors of a file whose contents are `bytes`; dictionaries in dictionaries have dotted names.
///
/// # Errors
/// If the file is damaged or not a checkpoint; the text says what.
pub(super) fn tensors(path: &Path, bytes: &[u8]) -> Result<Vec<Placed>, String> {
    let placed =
        if bytes.starts_with(STREAM) { of_stream(bytes)? } else { of_archive(path, bytes)? };
    match placed.is_empty() {
        true => Err("it holds no tensors".into()),
        false => Ok(placed),
    }
}

fn of_archive(path: &Path, bytes: &[u8]) -> Result<Vec<Placed>, String> {
    let archive = ZipArchive::open(path)?;
    let pickle = archive.names().find(|name| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let pickle = pickle.ok_or("it is a zip archive without data.pkl")?;
    let root = pickle.strip_suffix("data.pkl").unwrap_or_default();
    if let Ok(order) = archive.read(&format!("{root}byteorder"))
        && order != b"little"
    {
        return Err("its numbers have the highest byte first".into());
    }
    let (machine, _) = Machine::run(&archive.read(pickle)?)?;
    let place = |(name, tensor): (String, Tensor)| {
        let storage = archive.stored_range(&format!("{root}data/{}", tensor.storage.key));
        let storage = storage.map_err(|cause| format!("{name}: {cause}"))?;
        place(name, tensor, storage.start as usize..storage.end as usize, bytes.len())
    };
    machine.tensors()?.into_iter().map(place).collect()
}

/// Magic number, version, what the system is like, what was saved, the keys of the storages, and then each of them: its
/// number of elements and these.
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
    let keys = next()?.texts().ok_or("the keys of its storages cannot be read")?;
    let dtypes: HashMap<&str, Dtype> = tensors
        .iter()
        .map(|(_, tensor)| (tensor.storage.key.as_str(), tensor.storage.dtype))
        .collect();
    let mut storages = HashMap::new();
    for key in &keys {
        let length =
            bytes.get(at..at + 8).and_then(|length| length.try_into().ok()).map(u64::from_le_bytes);
        let n_elements = length.and_then(|n| usize::try_from(n).ok()).ok_or("it ends too early")?;
        // A storage that no tensor looks at cannot be stepped over, because nothing says how wide its numbers are.
        let dtype =
            dtypes.get(key.as_str()).ok_or("it holds more than tensors of plain numbers")?;
        let start = at + 8;
        let end = n_bytes(n_elements, *dtype)
            .and_then(|n| start.checked_add(n))
            .ok_or("it ends too early")?;
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

/// The tensor in its storage, which must lie in the file and hold all of it.
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
    // Sizes whose product is beyond memory pass the test above with strides of zero.
    let n_elements = shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size));
    if !fits || n_elements.is_none_or(|n| n > file_bytes) {
        return Err(format!(
            "{name} reaches beyond its storage; was the download or copy cut short?"
        ));
    }
    let start = storage.start + n_bytes(offset, kind.dtype).expect("less than the end");
    Ok(Placed { name, dtype: kind.dtype, shape, strides, bytes: start..storage.end })
}
