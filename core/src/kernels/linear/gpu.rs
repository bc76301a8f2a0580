//! Products with a weight matrix on a GPU. The matrix is f32 or f16; activations and sums are f32.
//!
//! A product adds its bias and residual itself. One kernel computes tiles of many rows; another
//! computes the few rows of a token.
//!
//! Burn's own products need both operands in one type and add a bias in an extra pass. They took up
//! to eight times as long on SwiftShader, and between half and twice as long on lavapipe. They are
//! meant to be tuned, which needs Burn's `autotune`.

use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use half::f16;

use super::cube::relu6;
use super::launch::{Grid, cubes, launch};
use super::tensors::{contiguous, empty, is_plain_gpu_f32, primitive, supports, wrap};

/// Largest number of activation rows that each read the matrix separately.
const FEW_ROWS: usize = 4;

/// Units of a cube: `LANES` along the columns of the result, `BANDS` along its rows or the sum.
const LANES: usize = 16;
const BANDS: usize = 8;
/// Floats per read from shared memory; also the columns of a unit.
const FOUR: usize = 4;
/// Rows of a unit.
const ROWS: usize = 8;
const TILE_ROWS: usize = BANDS * ROWS;
const TILE_COLUMNS: usize = LANES * FOUR;
/// Terms of the sum that a cube holds in shared memory.
const DEPTH: usize = 16;

/// Whether [`linear`] supports these tensors.
pub fn supports_product<const D: usize>(x: &Tensor<D>, weight: &Tensor<2>) -> bool {
    is_plain_gpu_f32(x)
        && supports(&weight.device())
        && matches!(weight.dtype(), DType::F32 | DType::F16)
}

/// `residual + x @ weight + bias`: `[.., d_in]` → `[.., d_out]` by `[d_in, d_out]`.
///
/// `weight` may be a transposed view.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    residual: Option<Tensor<D>>,
) -> Tensor<D> {
    product(x, weight, bias, residual, false)
}

/// `relu6(x @ weight + bias)`, with the shapes of [`linear`].
pub fn linear_relu6<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<D> {
    product(x, weight, Some(bias), None, true)
}

fn product<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    residual: Option<Tensor<D>>,
    is_clamped: bool,
) -> Tensor<D> {
    let mut shape = x.dims();
    let [d_in, d_out] = weight.dims();
    assert_eq!(shape[D - 1], d_in);
    shape[D - 1] = d_out;
    assert!(bias.as_ref().is_none_or(|bias| bias.dims() == [d_out]));
    assert!(residual.as_ref().is_none_or(|residual| residual.dims() == shape));
    let x = contiguous(x);
    let product = Product {
        rows: x.meta.num_elements() / d_in,
        d_in,
        d_out,
        out: empty(&x, Shape::from(shape), DType::F32),
        x,
        weight: Weight::of(weight),
        bias: bias.map(contiguous),
        residual: residual.map(contiguous),
        is_clamped,
    };
    match product.weight.tensor.dtype {
        DType::F16 => product.launch::<f16>(),
        _ => product.launch::<f32>(),
    }
    wrap(product.out)
}

/// A matrix with contiguous rows, or with contiguous columns.
struct Weight {
    tensor: CubeTensor,
    is_transposed: bool,
}

impl Weight {
    fn of(weight: Tensor<2>) -> Self {
        let [d_in, d_out] = weight.dims();
        let tensor = primitive(weight);
        match tensor.meta.strides()[..] {
            [along, 1] if along == d_out => Self { tensor, is_transposed: false },
            [1, along] if along == d_in => Self { tensor, is_transposed: true },
            _ => Self { tensor: into_contiguous(tensor), is_transposed: false },
        }
    }
}

struct Product {
    rows: usize,
    d_in: usize,
    d_out: usize,
    x: CubeTensor,
    weight: Weight,
    bias: Option<CubeTensor>,
    residual: Option<CubeTensor>,
    /// Whether ReLU6 is applied before the residual is added.
    is_clamped: bool,
    out: CubeTensor,
}

impl Product {
    fn launch<W: Float + CubeElement>(&self) {
        // A kernel needs an argument for every buffer, even for unused ones.
        let part =
            |part: &Option<CubeTensor>| part.as_ref().unwrap_or(&self.x).clone().into_buffer_arg();
        let (bias, residual) = (part(&self.bias), part(&self.residual));
        let (x, weight) =
            (self.x.clone().into_buffer_arg(), self.weight.tensor.clone().into_buffer_arg());
        let out = self.out.clone().into_buffer_arg();
        let form = Form {
            is_transposed: self.weight.is_transposed,
            has_bias: self.bias.is_some(),
            has_residual: self.residual.is_some(),
            is_clamped: self.is_clamped,
        };
        let (rows, d_in, d_out) = (self.rows, self.d_in, self.d_out);
        let grid = |[across, down, deep]: [usize; 3]| Grid {
            client: self.out.client.clone(),
            cubes: CubeCount::Static(across as u32, down as u32, deep as u32),
            units: CubeDim::new_2d(LANES as u32, BANDS as u32),
        };
        if rows <= FEW_ROWS {
            let [across, down] =
                cubes(d_out.div_ceil(if form.is_transposed { BANDS } else { LANES }));
            launch!(row_product<f32, W> on grid([across, down, rows]);
                x, weight, bias, residual, out, d_in, d_out, form);
        } else {
            let [across, down] = [d_out.div_ceil(TILE_COLUMNS), rows.div_ceil(TILE_ROWS)];
            launch!(tile_product<f32, W> on grid([across, down, 1]);
                x, weight, bias, residual, out, rows, d_in, d_out, form);
        }
    }
}

/// Compile-time options of both kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Form {
    is_transposed: bool,
    has_bias: bool,
    has_residual: bool,
    is_clamped: bool,
}

/// A product of many rows: one cube per tile of the result, one unit per 8 x 4 elements of it.
///
/// The cube loads 16 terms of both operands at a time into shared memory. Units of one row read the
/// same activations there, and adjacent units read adjacent weights.
#[cube(launch_unchecked)]
fn tile_product<F: Float, W: Float>(
    x: &[F],
    weight: &[W],
    bias: &[F],
    residual: &[F],
    out: &mut [F],
    rows: usize,
    d_in: usize,
    d_out: usize,
    #[comptime] form: Form,
) {
    let lane = UNIT_POS_X as usize;
    let band = UNIT_POS_Y as usize;
    let unit = UNIT_POS as usize;
    let first_row = CUBE_POS_Y as usize * TILE_ROWS;
    let first_column = CUBE_POS_X as usize * TILE_COLUMNS;
    // Elements: four terms of a row, and four columns of a term.
    let mut x_tile = Shared::<[Vector<F, Const<FOUR>>]>::new_slice(TILE_ROWS * DEPTH / FOUR);
    let mut weight_tile = Shared::<[Vector<F, Const<FOUR>>]>::new_slice(DEPTH * LANES);
    let mut sums = Array::<Vector<F, Const<FOUR>>>::new(ROWS);
    #[unroll]
    for r in 0..ROWS {
        sums[r] = Vector::new(F::new(0.0));
    }

    let mut from = 0usize;
    while from < d_in {
        #[unroll]
        for i in 0..TILE_ROWS * DEPTH / FOUR / (LANES * BANDS) {
            let at = unit + comptime!(i * LANES * BANDS);
            let row = first_row + at / comptime!(DEPTH / FOUR);
            let term = from + at % comptime!(DEPTH / FOUR) * FOUR;
            let mut four = Vector::<F, Const<FOUR>>::new(F::new(0.0));
            if row < rows {
                #[unroll]
                for j in 0..FOUR {
                    if term + j < d_in {
                        four.insert(j, x[row * d_in + term + j]);
                    }
                }
            }
            x_tile[at] = four;
        }
        #[unroll]
        for i in 0..DEPTH / BANDS {
            let at = unit + comptime!(i * LANES * BANDS);
            let column = first_column + at % LANES * FOUR;
            let term = from + at / LANES;
            let mut four = Vector::<F, Const<FOUR>>::new(F::new(0.0));
            if term < d_in {
                #[unroll]
                for j in 0..FOUR {
                    if column + j < d_out {
                        let mut place = term * d_out + column + j;
                        if comptime!(form.is_transposed) {
                            place = (column + j) * d_in + term;
                        }
                        four.insert(j, F::cast_from(weight[place]));
                    }
                }
            }
            weight_tile[at] = four;
        }
        sync_cube();
        if first_row + band * ROWS < rows {
            for fourth in 0..comptime!(DEPTH / FOUR) {
                let mut columns = Array::<Vector<F, Const<FOUR>>>::new(FOUR);
                #[unroll]
                for j in 0..FOUR {
                    columns[j] = weight_tile[(fourth * FOUR + j) * LANES + lane];
                }
                #[unroll]
                for r in 0..ROWS {
                    let terms = x_tile[(band * ROWS + r) * comptime!(DEPTH / FOUR) + fourth];
                    #[unroll]
                    for j in 0..FOUR {
                        sums[r] += Vector::new(terms.extract(j)) * columns[j];
                    }
                }
            }
        }
        sync_cube();
        from += DEPTH;
    }

    #[unroll]
    for r in 0..ROWS {
        let row = first_row + band * ROWS + r;
        #[unroll]
        for c in 0..FOUR {
            let column = first_column + lane * FOUR + c;
            if row < rows && column < d_out {
                let sum = sums[r].extract(c);
                out[row * d_out + column] =
                    finished(sum, bias, residual, column, row * d_out + column, form);
            }
        }
    }
}

/// A product of few rows, with separate cubes for each row. The cubes are `[columns, .., rows]`.
///
/// Adjacent units read adjacent weights. Each unit computes a partial sum, and the first unit of
/// each column adds them up.
#[cube(launch_unchecked)]
fn row_product<F: Float, W: Float>(
    x: &[F],
    weight: &[W],
    bias: &[F],
    residual: &[F],
    out: &mut [F],
    d_in: usize,
    d_out: usize,
    #[comptime] form: Form,
) {
    let cube = CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize;
    let row = CUBE_POS_Z as usize;
    let mut column = cube * LANES + UNIT_POS_X as usize;
    let mut part = UNIT_POS_Y as usize;
    let n_parts = comptime!(if form.is_transposed { LANES } else { BANDS });
    if comptime!(form.is_transposed) {
        column = cube * BANDS + UNIT_POS_Y as usize;
        part = UNIT_POS_X as usize;
    }
    let mut sum = F::new(0.0);
    if column < d_out {
        let mut term = part;
        while term < d_in {
            let mut place = term * d_out + column;
            if comptime!(form.is_transposed) {
                place = column * d_in + term;
            }
            sum += x[row * d_in + term] * F::cast_from(weight[place]);
            term += n_parts;
        }
    }
    let mut sums = Shared::<[F]>::new_slice(LANES * BANDS);
    sums[UNIT_POS as usize] = sum;
    sync_cube();
    if part == 0 && column < d_out {
        // Units are numbered along the lanes first.
        let to_next = comptime!(if form.is_transposed { 1 } else { LANES });
        let mut value = F::new(0.0);
        for i in 0..n_parts {
            value += sums[UNIT_POS as usize + i * to_next];
        }
        out[row * d_out + column] =
            finished(value, bias, residual, column, row * d_out + column, form);
    }
}

/// An element of the result: the sum with bias, ReLU6 and residual, as far as `form` has them.
///
/// `column` is the element's place in the bias, and `at` its place in the residual.
#[cube]
fn finished<F: Float>(
    sum: F,
    bias: &[F],
    residual: &[F],
    column: usize,
    at: usize,
    #[comptime] form: Form,
) -> F {
    let mut value = sum;
    if comptime!(form.has_bias) {
        value += bias[column];
    }
    if comptime!(form.is_clamped) {
        value = relu6::<F>(value);
    }
    if comptime!(form.has_residual) {
        value += residual[at];
    }
    value
}
