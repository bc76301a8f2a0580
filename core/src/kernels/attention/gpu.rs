//! Scaled dot-product attention on a GPU.
//!
//! One kernel computes the softmax on the fly, four queries at a time. It writes no score matrix.

use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{Grid, ROW_UNITS, launch};
use super::tensors::{contiguous, empty, is_plain_gpu_f32, primitive, wrap};

/// Maximum number of units of a cube; every device supports this many.
const MAX_UNITS: usize = 256;
/// Queries per cube, which reads the keys once for all of them.
const QUERIES: usize = 4;
/// A finite value below any score, because WGSL has no infinity.
const LOWEST: f32 = -1.0e30;

/// Whether the kernel supports the tensors. A cube must have room for a head.
pub fn supports(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>) -> bool {
    let [_, _, _, head_dim] = q.dims();
    head_dim <= MAX_UNITS && [q, k, v].into_iter().all(is_plain_gpu_f32)
}

pub fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, is_causal: bool) -> Tensor<3> {
    let [q, k, v] = [q, k, v].map(Heads::of);
    attended(q, k, v, is_causal)
}

/// [`supports`] for packed tensors.
pub fn supports_packed(qkv: &Tensor<3>, n_heads: usize) -> bool {
    let [_, _, three_widths] = qkv.dims();
    three_widths / 3 / n_heads <= MAX_UNITS && is_plain_gpu_f32(qkv)
}

pub fn attend_packed(qkv: Tensor<3>, n_heads: usize, is_causal: bool) -> Tensor<3> {
    let [batch, seq, three_widths] = qkv.dims();
    let (qkv, width) = (contiguous(qkv), three_widths / 3);
    let head_dim = width / n_heads;
    let part = |part: usize| Heads {
        tensor: qkv.clone(),
        at: part * width,
        shape: [batch, n_heads, seq, head_dim],
        strides: [seq * three_widths, head_dim, three_widths],
    };
    attended(part(0), part(1), part(2), is_causal)
}

fn attended(q: Heads, k: Heads, v: Heads, is_causal: bool) -> Tensor<3> {
    let [batch, n_heads, seq_q, head_dim] = q.shape;
    let [_, n_kv_heads, seq_k, _] = k.shape;
    assert_eq!((k.shape, n_heads % n_kv_heads), (v.shape, 0));
    assert!(
        head_dim <= MAX_UNITS && seq_k >= seq_q,
        "the caller checked `supports`; every query has its own key"
    );
    let out = empty(&q.tensor, Shape::from([batch, seq_q, n_heads * head_dim]), DType::F32);
    let form = Form {
        group: n_heads / n_kv_heads,
        head_dim,
        is_causal: is_causal && seq_q > 1,
        units: head_dim.next_power_of_two().clamp(ROW_UNITS, MAX_UNITS),
    };
    let n_queries = if seq_q == 1 { 1 } else { QUERIES };
    let cubes = [seq_q.div_ceil(n_queries), n_heads, batch];
    let [q_view, k_view, v_view] = [&q, &k, &v].map(Heads::view);
    launch!(attend_kernel<f32> on Grid::new(&out, cubes, form.units);
        n_queries,
        q.tensor.into_buffer_arg(),
        k.tensor.into_buffer_arg(),
        v.tensor.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        q_view,
        k_view,
        v_view,
        seq_q,
        seq_k,
        1.0 / (head_dim as f32).sqrt(),
        form,
    );
    wrap(out)
}

/// A view `[batch, heads, rows, head_dim]` of a buffer, with contiguous rows.
struct Heads {
    tensor: CubeTensor,
    /// Offset of the first row.
    at: usize,
    shape: [usize; 4],
    /// Strides of the first three axes.
    strides: [usize; 3],
}

impl Heads {
    fn of(x: Tensor<4>) -> Self {
        let shape = x.dims();
        let tensor = primitive(x);
        let tensor = if tensor.meta.strides()[3] == 1 { tensor } else { into_contiguous(tensor) };
        let strides = [0, 1, 2].map(|axis| tensor.meta.strides()[axis]);
        Self { tensor, at: 0, shape, strides }
    }

    fn view(&self) -> ViewLaunch {
        let [batch, head, row] = self.strides;
        ViewLaunch::new(self.at, batch, head, row)
    }
}

/// The place of `[batch, heads, rows, head_dim]` in a buffer. Rows are contiguous.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct View {
    /// Offset of the first row.
    at: usize,
    /// Strides of the first three axes.
    batch: usize,
    head: usize,
    row: usize,
}

/// Compile-time options of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Form {
    /// Query heads per key head.
    group: usize,
    head_dim: usize,
    is_causal: bool,
    units: usize,
}

/// `softmax(q k^T scale) v`: one cube for `N` neighbouring queries of each head.
///
/// The cube reads `units` keys at a time and keeps a running maximum, sum and result. It rescales
/// them when a larger score comes, so it never writes a matrix of scores. This is the online
/// softmax of Milakov and Gimelshein (arXiv:1805.02867).
///
/// # Shapes
/// - q, k, v: `[batch, heads, rows, head_dim]`, each with its [`View`]
/// - cubes: `[seq_q / N, heads, batch]`
/// - out: `[batch, seq_q, heads * head_dim]`
#[cube(launch_unchecked)]
fn attend_kernel<F: Float, N: Size>(
    q: &[F],
    k: &[F],
    v: &[F],
    out: &mut [F],
    q_view: View,
    k_view: View,
    v_view: View,
    seq_q: usize,
    seq_k: usize,
    scale: f32,
    #[comptime] form: Form,
) {
    let head_dim = comptime!(form.head_dim);
    let units = comptime!(form.units);
    let n_queries = N::value();
    let first_row = CUBE_POS_X as usize * n_queries;
    let head = CUBE_POS_Y as usize;
    let batch = CUBE_POS_Z as usize;
    let n_heads = CUBE_COUNT_Y as usize;
    let unit = UNIT_POS as usize;

    // From here on, the elements of each vector belong to the N queries.
    let mut queries = Shared::<[Vector<F, N>]>::new_slice(head_dim);
    let mut scores = Shared::<[Vector<F, N>]>::new_slice(units);
    let mut weights = Shared::<[Vector<F, N>]>::new_slice(units);
    if unit < head_dim {
        let mut query = Vector::<F, N>::new(F::new(0.0));
        #[unroll]
        for i in 0..n_queries {
            if first_row + i < seq_q {
                let at = q_view.at
                    + batch * q_view.batch
                    + head * q_view.head
                    + (first_row + i) * q_view.row
                    + unit;
                query.insert(i, q[at] * F::cast_from(scale));
            }
        }
        queries[unit] = query;
    }
    sync_cube();

    // Causal positions count from the end, so the last query of the cube sees the most keys.
    let mut n_keys = seq_k;
    if comptime!(form.is_causal) {
        n_keys = min(seq_k, seq_k - seq_q + first_row + n_queries);
    }
    let kv_head = head / comptime!(form.group);
    let keys = k_view.at + batch * k_view.batch + kv_head * k_view.head;
    let values = v_view.at + batch * v_view.batch + kv_head * v_view.head + unit;

    let mut largest = Vector::<F, N>::new(F::new(LOWEST));
    let mut sum = Vector::<F, N>::new(F::new(0.0));
    let mut result = Vector::<F, N>::new(F::new(0.0));
    let mut first = 0usize;
    while first < n_keys {
        let n = min(n_keys - first, units);
        let key = first + unit;
        let mut score = Vector::<F, N>::new(F::new(LOWEST));
        if unit < n {
            let at = keys + key * k_view.row;
            let mut dots = Vector::<F, N>::new(F::new(0.0));
            for i in 0..head_dim {
                dots += queries[i] * Vector::new(k[at + i]);
            }
            #[unroll]
            for i in 0..n_queries {
                if comptime!(form.is_causal) {
                    if key < seq_k - seq_q + first_row + i + 1 {
                        score.insert(i, dots.extract(i));
                    }
                } else {
                    score.insert(i, dots.extract(i));
                }
            }
        }
        scores[unit] = score;
        sync_cube();

        // Every query sees a key of the first block, so masked scores are far below its maximum.
        let mut now = largest;
        for i in 0..n {
            now = max(now, scores[i]);
        }
        weights[unit] = (score - now).exp();
        sync_cube();

        let shrink = (largest - now).exp();
        sum *= shrink;
        result *= shrink;
        for i in 0..n {
            let weight = weights[i];
            sum += weight;
            if unit < head_dim {
                result += weight * Vector::new(v[values + (first + i) * v_view.row]);
            }
        }
        largest = now;
        first += units;
    }
    if unit < head_dim {
        let found = result / sum;
        #[unroll]
        for i in 0..n_queries {
            let row = first_row + i;
            if row < seq_q {
                out[((batch * seq_q + row) * n_heads + head) * head_dim + unit] = found.extract(i);
            }
        }
    }
}
