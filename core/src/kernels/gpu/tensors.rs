//! Launches the GPU kernels on tensors.

use std::any::{Any, TypeId};

use burn::backend::{BackendTypes, Cube, DispatchDevice};
use burn::tensor::{DType, Device, Int, Shape, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use cubecl::{calculate_cube_count_elemwise, client::Client};

use super::kernels;

/// Burn's representation of a float tensor on a GPU.
///
/// With Burn's fusion compiled in, as for CUDA, it is a place in a queue of ops. Burn builds
/// kernels from the queue itself.
type Held = <Cube as BackendTypes>::FloatTensorPrimitive;
type HeldInts = <Cube as BackendTypes>::IntTensorPrimitive;

/// Units that share a row of a norm.
pub(super) const ROW_UNITS: usize = 64;
/// Units that share a row of scores over a vocabulary; every device supports this many.
const SCORE_UNITS: usize = 256;
/// Queries per cube, which reads the keys once for all of them.
const ATTEND_QUERIES: usize = 4;
/// Maximum number of cubes along one axis; every device supports this many.
pub(super) const MAX_CUBES: usize = 32_768;

/// Whether a tensor is f32, without autodiff, on a GPU that Burn uses without fusion.
pub(crate) fn is_here<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && takes(&x.device())
}

/// Whether a device is a GPU that Burn uses without fusion, and without autodiff.
pub(crate) fn takes(device: &Device) -> bool {
    let is_plain = TypeId::of::<Held>() == TypeId::of::<CubeTensor>();
    is_plain && matches!(device.as_dispatch(), DispatchDevice::Cube(_))
}

/// Whether a head of this width fits into a cube of the attention kernel.
pub(crate) fn can_attend(head_dim: usize) -> bool {
    head_dim <= SCORE_UNITS
}

/// `x / sqrt(mean(x^2) + epsilon) * gamma`
pub(crate) fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let (x, gamma) = (rows_of(x), whole(gamma));
    let out = x.like();
    // SAFETY: each cube reads and writes only its own row, and `rows` is the tensor's number of
    // rows.
    unsafe {
        kernels::rms_norm::launch_unchecked::<f32>(
            &x.tensor.client,
            x.cubes(),
            units(ROW_UNITS),
            x.buffer(),
            gamma.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            epsilon as f32,
            x.rows,
            x.width,
            ROW_UNITS,
        );
    }
    wrap(out)
}

/// `(x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta`
pub(crate) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let (x, gamma, beta) = (rows_of(x), whole(gamma), whole(beta));
    let out = x.like();
    // SAFETY: as in `rms_norm`.
    unsafe {
        kernels::layer_norm::launch_unchecked::<f32>(
            &x.tensor.client,
            x.cubes(),
            units(ROW_UNITS),
            x.buffer(),
            gamma.into_buffer_arg(),
            beta.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            epsilon as f32,
            x.rows,
            x.width,
            ROW_UNITS,
        );
    }
    wrap(out)
}

/// Scales rows to unit length; rows shorter than `smallest` are divided by it.
pub(crate) fn unit_rows<const D: usize>(x: Tensor<D>, smallest: f32) -> Tensor<D> {
    let x = rows_of(x);
    let out = x.like();
    // SAFETY: as in `rms_norm`.
    unsafe {
        kernels::unit_rows::launch_unchecked::<f32>(
            &x.tensor.client,
            x.cubes(),
            units(ROW_UNITS),
            x.buffer(),
            out.clone().into_buffer_arg(),
            smallest,
            x.rows,
            x.width,
            ROW_UNITS,
        );
    }
    wrap(out)
}

/// `x * Phi(x)`
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let x = whole(x);
    let (out, each) = (like(&x), Each::of(&x));
    // SAFETY: a unit past the last of the `n` values does nothing.
    unsafe {
        kernels::gelu::launch_unchecked::<f32>(
            &out.client,
            each.cubes,
            each.units,
            x.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            each.n,
        );
    }
    wrap(out)
}

/// `x * sigmoid(1.702 x)`
pub(crate) fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let x = whole(x);
    let (out, each) = (like(&x), Each::of(&x));
    // SAFETY: as in `gelu`.
    unsafe {
        kernels::quick_gelu::launch_unchecked::<f32>(
            &out.client,
            each.cubes,
            each.units,
            x.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            each.n,
        );
    }
    wrap(out)
}

/// `gate * sigmoid(gate) * up`
pub(crate) fn silu_times<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims());
    let (gate, up) = (whole(gate), whole(up));
    let (out, each) = (like(&gate), Each::of(&gate));
    // SAFETY: as in `gelu`; `up` has the same number of values.
    unsafe {
        kernels::silu_times::launch_unchecked::<f32>(
            &out.client,
            each.cubes,
            each.units,
            gate.into_buffer_arg(),
            up.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            each.n,
        );
    }
    wrap(out)
}

/// Rotates the pairs `(x[i], x[i + head_dim / 2])` of every head.
///
/// `x` is `[batch, seq, heads * head_dim]`.
///
/// `cos` and `sin` hold `[seq, head_dim / 2]` values.
///
/// Returns `[batch, heads, seq, head_dim]`.
pub(crate) fn rotate(x: Tensor<3>, cos: Tensor<4>, sin: Tensor<4>, n_heads: usize) -> Tensor<4> {
    let [batch, seq, width] = x.dims();
    let [_, _, angles, half] = cos.dims();
    assert_eq!((width, angles), (n_heads * half * 2, seq));
    assert_eq!(sin.dims(), cos.dims());
    let (x, cos, sin) = (whole(x), whole(cos), whole(sin));
    let out = empty(&x, Shape::from([batch, n_heads, seq, half * 2]), DType::F32);
    let each = Each::new(&x.client, batch * seq * width / 2);
    // SAFETY: a unit past the last of the `n` pairs does nothing; the shapes were asserted above.
    unsafe {
        kernels::rotate::launch_unchecked::<f32>(
            &out.client,
            each.cubes,
            each.units,
            x.into_buffer_arg(),
            cos.into_buffer_arg(),
            sin.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            seq,
            each.n,
            n_heads,
            half,
        );
    }
    wrap(out)
}

/// Attention on views: `[batch, heads, seq, head_dim]` → `[batch, seq_q, heads * head_dim]`.
pub(crate) fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, is_causal: bool) -> Tensor<3> {
    let [q, k, v] = [q, k, v].map(Heads::of);
    attended(q, k, v, is_causal)
}

/// Attention on packed queries, keys and values: rows of `[batch, seq, 3 * heads * head_dim]`.
pub(crate) fn attend_packed(qkv: Tensor<3>, n_heads: usize, is_causal: bool) -> Tensor<3> {
    let [batch, seq, three_widths] = qkv.dims();
    let (qkv, width) = (whole(qkv), three_widths / 3);
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
    assert_eq!((k.shape, q.at, n_heads % n_kv_heads), (v.shape, 0, 0));
    assert!(
        can_attend(head_dim) && seq_k >= seq_q,
        "the caller checked `can_attend`; every query has its own key"
    );
    let out = empty(&q.tensor, Shape::from([batch, seq_q, n_heads * head_dim]), DType::F32);
    let n_units = head_dim.next_power_of_two().clamp(ROW_UNITS, SCORE_UNITS);
    let n_queries = if seq_q == 1 { 1 } else { ATTEND_QUERIES };
    let cubes = CubeCount::Static(seq_q.div_ceil(n_queries) as u32, n_heads as u32, batch as u32);
    // SAFETY: cubes, strides and offsets match the tensors, and no unit reads past `head_dim`,
    // `seq_q` or `seq_k`.
    unsafe {
        kernels::attend::launch_unchecked::<f32>(
            &out.client,
            cubes,
            units(n_units),
            n_queries,
            q.tensor.into_buffer_arg(),
            k.tensor.into_buffer_arg(),
            v.tensor.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            q.strides[0],
            q.strides[1],
            q.strides[2],
            k.strides[0],
            k.strides[1],
            k.strides[2],
            v.strides[0],
            v.strides[1],
            v.strides[2],
            k.at,
            v.at,
            seq_q,
            seq_k,
            1.0 / (head_dim as f32).sqrt(),
            n_heads / n_kv_heads,
            head_dim,
            is_causal && seq_q > 1,
            n_units,
        );
    }
    wrap(out)
}

/// The best token of each row of scores: its index, `[batch, 1]`, and its index and log probability
/// as floats, `[batch, 2]`.
pub(crate) fn most_probable(logits: Tensor<2>) -> (Tensor<2, Int>, Tensor<2>) {
    let [batch, n_scores] = logits.dims();
    let logits = whole(logits);
    let ids = empty(&logits, Shape::from([batch, 1]), DType::I32);
    let choices = empty(&logits, Shape::from([batch, 2]), DType::F32);
    // SAFETY: each cube reads its own row of scores and writes that row's place in both results.
    unsafe {
        kernels::most_probable::launch_unchecked::<f32>(
            &choices.client,
            CubeCount::Static(batch as u32, 1, 1),
            units(SCORE_UNITS),
            logits.into_buffer_arg(),
            ids.clone().into_buffer_arg(),
            choices.clone().into_buffer_arg(),
            n_scores,
            SCORE_UNITS,
        );
    }
    (Tensor::from_primitive::<Cube>(into::<CubeTensor, HeldInts>(ids)), wrap(choices))
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
        let tensor = held(x);
        let tensor = if tensor.meta.strides()[3] == 1 { tensor } else { into_contiguous(tensor) };
        let strides = [0, 1, 2].map(|axis| tensor.meta.strides()[axis]);
        Self { tensor, at: 0, shape, strides }
    }
}

/// A contiguous tensor, seen as rows of equal width.
struct Rows {
    tensor: CubeTensor,
    rows: usize,
    width: usize,
}

fn rows_of<const D: usize>(x: Tensor<D>) -> Rows {
    let width = x.dims()[D - 1];
    let tensor = whole(x);
    Rows { rows: tensor.meta.num_elements() / width.max(1), width, tensor }
}

impl Rows {
    fn cubes(&self) -> CubeCount {
        let along = self.rows.clamp(1, MAX_CUBES);
        CubeCount::Static(along as u32, self.rows.div_ceil(along) as u32, 1)
    }

    fn buffer(&self) -> BufferArg {
        self.tensor.clone().into_buffer_arg()
    }

    fn like(&self) -> CubeTensor {
        like(&self.tensor)
    }
}

/// Launch sizes for one unit per element.
pub(super) struct Each {
    pub n: usize,
    pub cubes: CubeCount,
    pub units: CubeDim,
}

impl Each {
    fn of(x: &CubeTensor) -> Self {
        Self::new(&x.client, x.meta.num_elements())
    }

    pub fn new(client: &Client, n: usize) -> Self {
        let units = CubeDim::new(client, n);
        Self { n, cubes: calculate_cube_count_elemwise(client, n, units), units }
    }
}

pub(super) fn units(n: usize) -> CubeDim {
    CubeDim::new_1d(n as u32)
}

fn like(x: &CubeTensor) -> CubeTensor {
    empty(x, x.meta.shape().clone(), x.dtype)
}

/// A contiguous tensor on the device of `x`, with uninitialised values.
pub(super) fn empty(x: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), shape, dtype)
}

/// The tensor in contiguous memory, row by row.
pub(super) fn whole<const D: usize>(x: Tensor<D>) -> CubeTensor {
    into_contiguous(held(x))
}

/// The primitive of an integer tensor, in its memory order.
pub(super) fn held_ints<const D: usize>(x: Tensor<D, Int>) -> CubeTensor {
    into(x.try_into_primitive::<Cube>().expect("the caller checked `takes`"))
}

pub(super) fn held<const D: usize>(x: Tensor<D>) -> CubeTensor {
    into(x.try_into_primitive::<Cube>().expect("the caller checked `is_here`"))
}

pub(super) fn wrap<const D: usize>(x: CubeTensor) -> Tensor<D> {
    Tensor::from_primitive::<Cube>(into::<CubeTensor, Held>(x))
}

/// Returns the same value if both types are equal, which `is_here` has checked.
fn into<From: 'static, To: 'static>(value: From) -> To {
    let mut value = Some(value);
    let value: &mut dyn Any = &mut value;
    value.downcast_mut::<Option<To>>().and_then(Option::take).expect("the caller checked `is_here`")
}
