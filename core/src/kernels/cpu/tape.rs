//! Burn's autodiff graph on the CPU.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, BackendTypes, DispatchDevice, Flex};
use burn::tensor::{DType, Tensor};

use super::node::BackwardFn;
use super::tensors::{is_cpu, primitive};

type TrackedTensor = <Autodiff<Flex> as BackendTypes>::FloatTensorPrimitive;

/// A tensor's place in the graph.
pub type Node = NodeGuard;

static BURN_OPS_ONLY: AtomicBool = AtomicBool::new(false);

/// Makes all later CPU graphs use Burn's operations, as on other devices. For comparisons with our
/// kernels.
pub fn use_burn_ops_on_cpu() {
    BURN_OPS_ONLY.store(true, Ordering::Relaxed);
}

/// Whether a tensor is on the CPU, f32, and on an autodiff device.
pub fn is_autodiff_cpu_f32<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && !BURN_OPS_ONLY.load(Ordering::Relaxed) && is_on_autodiff_cpu(x)
}

fn is_on_autodiff_cpu<const D: usize>(x: &Tensor<D>) -> bool {
    let device = x.device();
    matches!(device.as_dispatch(), DispatchDevice::Autodiff(_)) && is_cpu(&device.inner())
}

/// Whether a tensor needs a gradient.
pub fn needs_gradient<const D: usize>(x: &Tensor<D>) -> bool {
    x.is_tracked()
}

/// The tensor without autodiff.
pub fn inner<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.inner()
}

/// The tensor on the autodiff device, as a constant.
pub fn from_inner<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(x)
}

/// The values of a tensor, and its node if it is on an autodiff device.
pub fn into_parts<const D: usize>(x: Tensor<D>) -> (FlexTensor, Option<Node>) {
    if is_on_autodiff_cpu(&x) {
        let (values, node) = tracked(x).into_parts();
        (values, Some(node))
    } else {
        (primitive(x), None)
    }
}

fn tracked<const D: usize>(x: Tensor<D>) -> TrackedTensor {
    x.try_into_primitive::<Autodiff<Flex>>().expect("the caller checked the device")
}

/// Adds an op to the graph, and returns its output.
pub fn add_node<const N: usize, const D: usize>(
    nodes: [Node; N],
    output: FlexTensor,
    backward: BackwardFn<N>,
) -> Tensor<D> {
    let output = match Op.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(State(backward), output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(output)
}

/// An op with `N` inputs.
#[derive(Debug)]
struct Op;

#[derive(Clone)]
struct State<const N: usize>(BackwardFn<N>);

impl<const N: usize> fmt::Debug for State<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

impl<const N: usize> Backward<Flex, N> for Op {
    type State = State<N>;

    fn backward(self, ops: Ops<State<N>, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node);
        let is_wanted = ops.parents.each_ref().map(Option::is_some);
        let found = (ops.state.0)(grad, is_wanted);
        for (parent, found) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(found)) = (parent, found) {
                grads.register::<Flex>(parent.id, found);
            }
        }
    }
}
