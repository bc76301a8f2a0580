//! Matrices of linear layers with 8 or 4 bits per weight, and their layout in a file.
//!
//! A matrix `[out, in]` is split into blocks of [`BLOCK`] adjacent weights of a row. Each block has
//! one f16 scale, and an integer for each weight: `weight = scale * number`. There is no offset.
//! The scale of a 4-bit block may be negative. So the side with the larger values gets eight steps
//! instead of seven.
//!
//! | in `model.safetensors` | 8 bits (`q8`) | 4 bits (`q4`) |
//! |---|---|---|
//! | `NAME` | I8 `[out, blocks, 32]`, −127..=127 | U8 `[out, blocks, 16]`, two weights per byte |
//! | `NAME.scale` | F16 `[out, blocks]` | the same |
//! | bits per weight | 8.5 | 4.5 |
//!
//! In 4 bits, weight `i` of a block is the low half of byte `i`, and weight `16 + i` the high half.
//! A half byte 0..=15 stands for −8..=7.
//!
//! An export in 4 bits keeps the heads h1 to h4 and point-wise convolutions in 8 bits. They are
//! small, and their error is in every vector.
//!
//! `blocks` is `in / 32` rounded up. The last block is padded with zeros past the end of the row.
//! All other tensors (embeddings, positions, norms, biases, tokens) are F16 under their own names.
//! The header has `layout` = [`LAYOUT`].
//!
//! A file has at most 32 MiB, so that a web page can fetch and cache it. Larger models use several
//! files with Hugging Face's `model.safetensors.index.json`. A single tensor above that size is
//! split along its first axis into `NAME.part-00001-of-0000N`.
//!
//! # Products
//!
//! `mmgem export --dtype q8|q4` writes such files. To run a model, the weights stay packed in the
//! memory of the CPU and of GPUs that our kernels support. CUDA and training widen them when they
//! read the file.
//!
//! - On the CPU a product rounds the activations to 8 bits and multiplies integers (`product.rs`).
//!   For the single row of a token, which is bound by reading the weights, it has a kernel for AVX2
//!   (`avx2.rs`). For more rows it rearranges the weights of 16 rows at a time (`panel.rs`), with
//!   kernels for AVX2, AVX-VNNI and AVX-512. NEON, with and without Armv8.2's byte products, and
//!   wasm's SIMD have one for both. Plain loops are the
//!   reference in their tests.
//! - On GPUs (`gpu.rs`) up to eight rows of activations are multiplied with the packed numbers. For
//!   more rows the matrix is widened, for that product only.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod on_cpu;
mod pack;
#[cfg(target_arch = "x86_64")]
mod panel;
mod product;
mod scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod simd128;
pub(crate) mod weight;

use burn::tensor::{DType, Device};
use half::f16;

use super::dispatch::{is_on_cpu, is_on_gpu};

pub use product::Kernel;

/// Number of weights that share a scale.
pub const BLOCK: usize = 32;
/// Value of `layout` in the header of a file with packed matrices.
pub const LAYOUT: &str = "mmgem-packed-1";

/// Whether matrices stay packed in this device's memory for inference.
///
/// True on the CPU and on GPUs that our kernels support.
pub fn stays_packed(device: &Device) -> bool {
    is_on_cpu(device) || is_on_gpu(device)
}

/// Whether f16 matrices stay f16 in this device's memory for inference.
///
/// True on GPUs that our kernels support and whose shaders have f16 (`SHADER_F16`).
pub(crate) fn keeps_f16(device: &Device) -> bool {
    is_on_gpu(device) && device.supports_dtype(DType::F16)
}

/// Bits per packed weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// Integers in −127..=127.
    Eight,
    /// Integers in −8..=7.
    Four,
}

impl Bits {
    /// Size in bytes of the integers of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Eight => BLOCK,
            Self::Four => BLOCK / 2,
        }
    }
}

/// A packed matrix `[out, in]`, with the rows of PyTorch's `Linear`.
#[derive(Clone, PartialEq)]
pub struct Packed {
    bits: Bits,
    n_rows: usize,
    n_columns: usize,
    /// `[rows, blocks, block_bytes]`
    codes: Vec<u8>,
    /// `[rows, blocks]`
    scales: Vec<f16>,
}

/// Bytes that are not a packed matrix.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PackedError {
    /// A scale is NaN or infinite.
    #[error("a scale is not finite")]
    NotFinite,
    /// The padding past the end of a row is not zero.
    #[error("the last block of a row of {0} weights is not zero beyond them")]
    Padding(usize),
    /// The number of bytes does not match the sizes.
    #[error("there are {found} bytes, wanted {wanted}")]
    Length {
        /// Number of bytes in the data.
        found: usize,
        /// Number of bytes that the sizes imply.
        wanted: usize,
    },
}

impl Packed {
    /// Builds a matrix from the codes and scales of a file.
    pub fn new(
        bits: Bits,
        [n_rows, n_columns]: [usize; 2],
        codes: Vec<u8>,
        scales: Vec<f16>,
    ) -> Result<Self, PackedError> {
        let n_blocks = n_rows * n_columns.div_ceil(BLOCK);
        let length = |found: usize, wanted: usize| match found == wanted {
            true => Ok(()),
            false => Err(PackedError::Length { found, wanted }),
        };
        length(codes.len(), n_blocks * bits.block_bytes())?;
        length(2 * scales.len(), 2 * n_blocks)?;
        if !scales.iter().all(|scale| scale.is_finite()) {
            return Err(PackedError::NotFinite);
        }
        let packed = Self { bits, n_rows, n_columns, codes, scales };
        if packed.is_padded_with_zeros() {
            Ok(packed)
        } else {
            Err(PackedError::Padding(n_columns))
        }
    }

    /// Bits per weight.
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// Numbers of outputs and inputs of the layer, in this order.
    pub fn shape(&self) -> [usize; 2] {
        [self.n_rows, self.n_columns]
    }

    /// Number of blocks per row.
    pub fn blocks_per_row(&self) -> usize {
        self.n_columns.div_ceil(BLOCK)
    }

    /// The integers, `[out, blocks, bytes of a block]`.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The scales, `[out, blocks]`.
    pub fn scales(&self) -> &[f16] {
        &self.scales
    }

    /// The matrix in f32, `[out, in]`.
    pub fn widen(&self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.n_rows * self.n_columns);
        for row in 0..self.n_rows {
            let end = values.len() + self.n_columns;
            for block in row * self.blocks_per_row()..(row + 1) * self.blocks_per_row() {
                let scale = self.scales[block].to_f32();
                let numbers = self.numbers(block);
                values
                    .extend(numbers.iter().take(end - values.len()).map(|n| f32::from(*n) * scale));
            }
        }
        values
    }

    /// The integers of a block.
    fn numbers(&self, block: usize) -> [i8; BLOCK] {
        let bytes = &self.codes[block * self.bits.block_bytes()..][..self.bits.block_bytes()];
        std::array::from_fn(|i| match self.bits {
            Bits::Eight => bytes[i] as i8,
            Bits::Four if i < BLOCK / 2 => (bytes[i] & 15) as i8 - 8,
            Bits::Four => (bytes[i - BLOCK / 2] >> 4) as i8 - 8,
        })
    }

    fn is_padded_with_zeros(&self) -> bool {
        let (n_blocks, rest) = (self.blocks_per_row(), self.n_columns % BLOCK);
        let last_of = |row: usize| self.numbers((row + 1) * n_blocks - 1);
        rest == 0
            || (0..self.n_rows).all(|row| last_of(row)[rest..].iter().all(|number| *number == 0))
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed({:?} bits, {}x{})", self.bits, self.n_rows, self.n_columns)
    }
}
