//! Traces as safetensors files, in the reference program's format.

use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};

use super::{TraceTensor, Values};

/// Errors of a trace file.
#[derive(Debug, thiserror::Error)]
pub enum TraceFileError {
    /// The file is damaged, or not a safetensors file.
    #[error("this is not a safetensors file ({0})\n  hint: `mmgem_reference.py run` writes one")]
    Malformed(#[from] SafeTensorError),
    /// A tensor is neither f32 nor i64.
    #[error(
        "{name} holds {found:?}, wanted f32 or i64\n  hint: `mmgem_reference.py run` writes them so"
    )]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        found: Dtype,
    },
}

/// Encodes tensors as a safetensors file of f32 and i64.
pub fn to_safetensors(trace: &[TraceTensor]) -> Vec<u8> {
    let encode = |values: &Values| -> (Dtype, Vec<u8>) {
        match values {
            Values::Floats(values) => {
                (Dtype::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect())
            }
            Values::Ints(values) => {
                (Dtype::I64, values.iter().flat_map(|x| x.to_le_bytes()).collect())
            }
        }
    };
    let encoded: Vec<(Dtype, Vec<u8>)> =
        trace.iter().map(|tensor| encode(&tensor.values)).collect();
    let views = trace.iter().zip(&encoded).map(|(tensor, (dtype, bytes))| {
        let view = TensorView::new(*dtype, tensor.shape.clone(), bytes);
        (tensor.name.as_str(), view.expect("a traced tensor has as many values as its shape says"))
    });
    safetensors::serialize(views, None).expect("whole tensors can be written")
}

/// Decodes such a file; the tensors are in no particular order.
///
/// # Errors
/// If it is not a safetensors file, or has types other than f32 and i64.
pub fn from_safetensors(bytes: &[u8]) -> Result<Vec<TraceTensor>, TraceFileError> {
    let read = |(name, view): (String, TensorView)| {
        let bytes = view.data();
        let values = match view.dtype() {
            Dtype::F32 => {
                let value = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("four bytes"));
                Values::Floats(bytes.chunks_exact(4).map(value).collect())
            }
            Dtype::I64 => {
                let value = |b: &[u8]| i64::from_le_bytes(b.try_into().expect("eight bytes"));
                Values::Ints(bytes.chunks_exact(8).map(value).collect())
            }
            found => return Err(TraceFileError::Dtype { name, found }),
        };
        Ok(TraceTensor { shape: view.shape().to_vec(), values, name })
    };
    SafeTensors::deserialize(bytes)?.tensors().into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, shape: &[usize], values: Values) -> TraceTensor {
        TraceTensor { name: name.into(), shape: shape.into(), values }
    }

    #[test]
    fn a_trace_is_read_back_as_it_was_written() {
        let trace = vec![
            tensor("a", &[1, 2], Values::Floats(vec![1.5, -2.0])),
            tensor("b", &[1], Values::Ints(vec![7])),
        ];
        let mut back = from_safetensors(&to_safetensors(&trace)).expect("readable");
        back.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(back, trace);
    }

    #[test]
    fn a_file_that_is_not_a_trace_is_an_error() {
        assert!(matches!(from_safetensors(b"no"), Err(TraceFileError::Malformed(_))));
        let view = TensorView::new(Dtype::U8, vec![1], &[0]).expect("one byte");
        let bytes = safetensors::serialize([("x", view)], None).expect("writable");
        let message = from_safetensors(&bytes).expect_err("bytes are no stage").to_string();
        assert!(message.contains("x holds U8, wanted f32 or i64"), "{message}");
    }
}
