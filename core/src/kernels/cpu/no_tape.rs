//! Stands for `tape.rs` in builds without autodiff, where no tensor has a node.

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::node::BackwardFn;
use super::tensors::primitive;

pub enum Node {}

pub fn is_autodiff_cpu_f32<const D: usize>(_: &Tensor<D>) -> bool {
    false
}

pub fn needs_gradient<const D: usize>(_: &Tensor<D>) -> bool {
    false
}

pub fn inner<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x
}

pub fn from_inner<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x
}

pub fn into_parts<const D: usize>(x: Tensor<D>) -> (FlexTensor, Option<Node>) {
    (primitive(x), None)
}

pub fn add_node<const N: usize, const D: usize>(
    _: [Node; N],
    _: FlexTensor,
    _: BackwardFn<N>,
) -> Tensor<D> {
    unreachable!("no `Node` exists")
}
