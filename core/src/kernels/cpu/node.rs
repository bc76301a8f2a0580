//! Runs an operation of the CPU and, on an autodiff device, adds it to Burn's graph.
//!
//! An operation has one forward function over Burn's CPU tensors, and one backward function. Tensors
//! without autodiff only go through the forward function, and none of them is stored.

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::tape::{self, Node};
use super::tensors::{into_contiguous, wrap};

/// The backward function of an op: maps its output's gradient to the needed gradients of its
/// inputs.
pub type BackwardFn<const N: usize> =
    Arc<dyn Fn(FlexTensor, [bool; N]) -> [Option<FlexTensor>; N] + Send + Sync>;

/// An input of an op: its values, and on an autodiff device its node of the graph.
pub struct Input {
    values: FlexTensor,
    node: Option<Node>,
}

impl Input {
    /// The tensor as it lies in memory.
    pub fn view<const D: usize>(x: Tensor<D>) -> Self {
        let (values, node) = tape::into_parts(x);
        Self { values, node }
    }

    /// The tensor in contiguous memory, row by row.
    pub fn contiguous<const D: usize>(x: Tensor<D>) -> Self {
        Self::view(x).with(into_contiguous)
    }

    /// The same input in another memory layout.
    pub fn with(self, layout: impl FnOnce(FlexTensor) -> FlexTensor) -> Self {
        Self { values: layout(self.values), ..self }
    }
}

/// The values of a constant, which gets no gradient, in contiguous memory.
pub fn constant<const D: usize>(x: Tensor<D>) -> FlexTensor {
    Input::contiguous(x).values
}

/// Runs an op. Its backward function gets the inputs, which the graph stores.
pub fn run<const N: usize, const D: usize>(
    inputs: [Input; N],
    forward: impl FnOnce([FlexTensor; N]) -> FlexTensor,
    backward: impl Fn(&[FlexTensor; N], FlexTensor, [bool; N]) -> [Option<FlexTensor>; N]
    + Send
    + Sync
    + 'static,
) -> Tensor<D> {
    match split(inputs) {
        (values, None) => wrap(forward(values)),
        (saved, Some(nodes)) => {
            let output = forward(saved.clone());
            let backward = move |grad, wanted| backward(&saved, grad, wanted);
            tape::add_node(nodes, output, Arc::new(backward))
        }
    }
}

/// Runs an op that chooses what the graph stores: `tracked` also returns the backward function.
pub fn run_with<const N: usize, const D: usize>(
    inputs: [Input; N],
    plain: impl FnOnce([FlexTensor; N]) -> FlexTensor,
    tracked: impl FnOnce([FlexTensor; N]) -> (FlexTensor, BackwardFn<N>),
) -> Tensor<D> {
    match split(inputs) {
        (values, None) => wrap(plain(values)),
        (values, Some(nodes)) => {
            let (output, backward) = tracked(values);
            tape::add_node(nodes, output, backward)
        }
    }
}

/// Values and nodes. `None` without autodiff.
fn split<const N: usize>(inputs: [Input; N]) -> ([FlexTensor; N], Option<[Node; N]>) {
    let mut nodes = Vec::with_capacity(N);
    let values = inputs.map(|Input { values, node }| {
        nodes.extend(node);
        values
    });
    (values, nodes.try_into().ok())
}
