//! One tensor of a checkpoint before it enters a model: bytes of a file, or computed on demand from
//! other tensors.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};

use super::read::CheckpointError;

/// Computes the values of a tensor from the values of its source tensors.
type Compute = dyn Fn(&[Vec<f32>]) -> Vec<f32> + Send + Sync;

/// A tensor of a checkpoint.
#[derive(Clone)]
pub(super) struct Stored<'a> {
    /// Name in the file, for messages.
    name: String,
    shape: Vec<usize>,
    source: Source<'a>,
}

#[derive(Clone)]
enum Source<'a> {
    /// Slices of a file, joined along the first axis.
    Bytes {
        dtype: Dtype,
        parts: Vec<&'a [u8]>,
    },
    Computed {
        sources: Vec<Stored<'a>>,
        compute: Arc<Compute>,
    },
}

impl fmt::Debug for Stored<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.name, self.dtype(), self.shape)
    }
}

impl<'a> Stored<'a> {
    /// A tensor of a file in memory.
    pub fn new(name: &str, view: TensorView<'a>) -> Self {
        let source = Source::Bytes { dtype: view.dtype(), parts: vec![view.data()] };
        Self { name: name.to_owned(), shape: view.shape().to_vec(), source }
    }

    /// A tensor whose neighbours along each axis lie `strides` elements apart in `bytes`.
    ///
    /// `bytes` must contain the whole tensor.
    pub fn strided(
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        strides: &[usize],
        bytes: &'a [u8],
    ) -> Self {
        let n_bytes = |n_elements: usize| n_elements * dtype.bitsize() / 8;
        let n_elements: usize = shape.iter().product();
        let mut along = n_elements;
        let is_plain = shape.iter().zip(strides).all(|(size, stride)| {
            along /= (*size).max(1);
            *size == 1 || *stride == along
        });
        let raw = |shape: Vec<usize>, bytes| Self {
            name: name.to_owned(),
            shape,
            source: Source::Bytes { dtype, parts: vec![bytes] },
        };
        if is_plain || n_elements == 0 {
            return raw(shape.to_vec(), &bytes[..n_bytes(n_elements)]);
        }
        let last: usize = shape.iter().zip(strides).map(|(size, stride)| (size - 1) * stride).sum();
        let storage = raw(vec![last + 1], &bytes[..n_bytes(last + 1)]);
        let (sizes, strides) = (shape.to_vec(), strides.to_vec());
        Self::computed(vec![storage], shape.to_vec(), move |sources| {
            let mut indices = vec![0];
            for (size, stride) in sizes.iter().zip(&strides) {
                indices = indices
                    .iter()
                    .flat_map(|at| (0..*size).map(move |i| at + i * stride))
                    .collect();
            }
            indices.into_iter().map(|at| sources[0][at]).collect()
        })
    }

    /// A tensor that is computed from others on each request.
    ///
    /// `compute` takes the values of `sources` in row-major order and returns as many values as
    /// `shape` says.
    pub fn computed(
        sources: Vec<Self>,
        shape: Vec<usize>,
        compute: impl Fn(&[Vec<f32>]) -> Vec<f32> + Send + Sync + 'static,
    ) -> Self {
        let name = sources.first().map(|first| first.name.clone()).unwrap_or_default();
        Self { name, shape, source: Source::Computed { sources, compute: Arc::new(compute) } }
    }

    /// A tensor of zeros.
    pub fn zeros(shape: Vec<usize>) -> Self {
        let n = shape.iter().product();
        Self::computed(Vec::new(), shape, move |_| vec![0.0; n])
    }

    /// Name in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sizes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number format in the file; `None` if the tensor is computed.
    pub fn dtype(&self) -> Option<Dtype> {
        match &self.source {
            Source::Bytes { dtype, .. } => Some(*dtype),
            Source::Computed { .. } => None,
        }
    }

    /// Sizes of a tensor that must have `N` axes.
    pub fn dims<const N: usize>(&self) -> Result<[usize; N], CheckpointError> {
        self.shape.as_slice().try_into().map_err(|_| {
            let Self { name, shape, .. } = self;
            CheckpointError::Import(format!("{name} is {shape:?}, wanted {N} axes"))
        })
    }

    /// The same values with other sizes.
    pub fn reshape(mut self, shape: Vec<usize>) -> Result<Self, CheckpointError> {
        if shape.iter().product::<usize>() != self.shape.iter().product::<usize>() {
            return Err(self.misshapen(&shape));
        }
        self.shape = shape;
        Ok(self)
    }

    /// Returns the tensor if it has this shape.
    pub fn expect_shape(self, wanted: &[usize]) -> Result<Self, CheckpointError> {
        if self.shape == wanted { Ok(self) } else { Err(self.misshapen(wanted)) }
    }

    fn misshapen(&self, wanted: &[usize]) -> CheckpointError {
        let (name, found) = (self.name.clone(), self.shape.clone());
        CheckpointError::Shape { name, found, wanted: wanted.to_vec() }
    }

    /// Concatenates tensors along the first axis.
    pub fn rows(tensors: Vec<Self>) -> Result<Self, CheckpointError> {
        let rest = tensors.first().map(|first| first.shape.get(1..).unwrap_or_default().to_vec());
        let rest = rest.unwrap_or_default();
        let mut n_rows = 0;
        for tensor in &tensors {
            match tensor.shape.split_first() {
                Some((n, found)) if found == rest => n_rows += n,
                _ => {
                    return Err(tensor
                        .misshapen(&[&tensor.shape[..1.min(tensor.shape.len())], &rest].concat()));
                }
            }
        }
        let shape = [&[n_rows], rest.as_slice()].concat();
        Ok(Self::computed(tensors, shape, |parts| parts.concat()))
    }

    /// Appends the next part of a tensor that is split along its first axis. Returns false if the
    /// part does not fit.
    pub fn append(&mut self, next: &Self) -> bool {
        let fits = !self.shape.is_empty() && self.shape.get(1..) == next.shape.get(1..);
        match (&mut self.source, &next.source) {
            (
                Source::Bytes { dtype, parts },
                Source::Bytes { dtype: next_dtype, parts: next_parts },
            ) if fits && dtype == next_dtype => {
                parts.extend(next_parts);
                self.shape[0] += next.shape[0];
                true
            }
            _ => false,
        }
    }

    /// Bytes in the file; 0 if the tensor is computed.
    pub fn n_bytes(&self) -> usize {
        match &self.source {
            Source::Bytes { parts, .. } => parts.iter().map(|part| part.len()).sum(),
            Source::Computed { .. } => 0,
        }
    }

    /// The bytes in the file; empty if the tensor is computed.
    pub fn bytes(&self) -> Cow<'a, [u8]> {
        match &self.source {
            Source::Bytes { parts, .. } => match parts.as_slice() {
                [only] => Cow::Borrowed(only),
                parts => Cow::Owned(parts.concat()),
            },
            Source::Computed { .. } => Cow::Borrowed(&[]),
        }
    }

    /// The values, all of which must be finite. `name` is for messages.
    pub fn to_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let values = match &self.source {
            Source::Computed { sources, compute } => {
                let values = sources
                    .iter()
                    .map(|one| one.to_f32(&one.name))
                    .collect::<Result<Vec<_>, _>>()?;
                compute(&values)
            }
            Source::Bytes { dtype, .. } => decode(*dtype, &self.bytes()).ok_or_else(|| {
                CheckpointError::Dtype { name: name.to_owned(), found: format!("{dtype:?}") }
            })?,
        };
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(values),
            false => Err(CheckpointError::NotFinite { name: name.to_owned() }),
        }
    }
}

/// Decodes floats of at most 32 bits. Returns `None` for any other format.
fn decode(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    Some(match dtype {
        Dtype::F32 => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
        Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        _ => return None,
    })
}
