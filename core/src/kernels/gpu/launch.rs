//! Launches kernels.

use burn::tensor::Tensor;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use cubecl::{calculate_cube_count_elemwise, client::Client};

use super::tensors::{contiguous, like};

/// Units that share a row.
pub const ROW_UNITS: usize = 64;
/// Maximum number of cubes along one axis; every device supports this many.
pub const MAX_CUBES: usize = 32_768;

/// Launches a kernel: `launch!(KERNEL<TYPES> on GRID; ARGUMENTS)`.
///
/// The launch does not check bounds. A kernel must therefore compare its positions with the sizes
/// among its arguments, and the caller must pass the sizes of the buffers.
macro_rules! launch {
    ($kernel:ident<$($number:ty),+> on $grid:expr; $($argument:expr),+ $(,)?) => {{
        let $crate::kernels::gpu::launch::Grid { client, cubes, units } = $grid;
        // SAFETY: the kernel checks its positions against its sizes, and the sizes are the
        // buffers': see `launch`.
        unsafe { $kernel::launch_unchecked::<$($number),+>(&client, cubes, units, $($argument),+) }
    }};
}
pub(in crate::kernels) use launch;

/// Where a kernel runs: its device, its cubes and their units.
pub struct Grid {
    pub client: Client,
    pub cubes: CubeCount,
    pub units: CubeDim,
}

impl Grid {
    /// `[x, y, z]` cubes of `units` units each, on the device of a tensor.
    pub fn new(x: &CubeTensor, cubes: [usize; 3], units: usize) -> Self {
        let [across, down, deep] = cubes.map(|n| n as u32);
        Self {
            client: x.client.clone(),
            cubes: CubeCount::Static(across, down, deep),
            units: CubeDim::new_1d(units as u32),
        }
    }
}

/// `n` cubes as `[x, y]`, which each axis supports.
pub fn cubes(n: usize) -> [usize; 2] {
    let along = n.clamp(1, MAX_CUBES);
    [along, n.div_ceil(along)]
}

/// A launch of one unit per element.
pub struct ElementLaunch {
    /// Number of elements.
    pub n: usize,
    pub grid: Grid,
}

impl ElementLaunch {
    /// One unit for each of `n` elements, on the device of `x`.
    pub fn new(x: &CubeTensor, n: usize) -> Self {
        let (client, units) = (x.client.clone(), CubeDim::new(&x.client, n));
        let cubes = calculate_cube_count_elemwise(&client, n, units);
        Self { n, grid: Grid { client, cubes, units } }
    }

    /// One unit for each element of `x`.
    pub fn of(x: &CubeTensor) -> Self {
        Self::new(x, x.meta.num_elements())
    }
}

/// A contiguous tensor, seen as rows of equal width, with one cube per row.
pub struct RowView {
    tensor: CubeTensor,
    pub rows: usize,
    pub width: usize,
}

impl RowView {
    pub fn of<const D: usize>(x: Tensor<D>) -> Self {
        let width = x.dims()[D - 1];
        let tensor = contiguous(x);
        Self { rows: tensor.meta.num_elements() / width.max(1), width, tensor }
    }

    pub fn grid(&self) -> Grid {
        let [across, down] = cubes(self.rows);
        Grid::new(&self.tensor, [across, down, 1], ROW_UNITS)
    }

    pub fn buffer(&self) -> BufferArg {
        self.tensor.clone().into_buffer_arg()
    }

    /// A tensor of the same shape for the result.
    pub fn like(&self) -> CubeTensor {
        like(&self.tensor)
    }
}
