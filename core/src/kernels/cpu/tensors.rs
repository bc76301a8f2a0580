//! Burn's CPU tensors as slices, and slices as tensors.

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{DispatchDevice, Flex};
use burn::tensor::{Bytes, DType, Device, Shape, Tensor};

/// Whether a tensor is on the CPU, f32, and without autodiff.
pub fn is_plain_cpu_f32<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && is_cpu(&x.device())
}

/// Whether a device is the CPU without autodiff.
pub fn is_cpu(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// The values of a tensor from its first element on.
pub fn from_first(x: &FlexTensor) -> &[f32] {
    &x.storage::<f32>()[x.layout().start_offset()..]
}

/// The tensor in contiguous memory, row by row.
pub fn contiguous<const D: usize>(x: Tensor<D>) -> FlexTensor {
    into_contiguous(primitive(x))
}

/// The same values in contiguous memory.
pub fn into_contiguous(x: FlexTensor) -> FlexTensor {
    x.to_contiguous()
}

/// Runs `work` on the values in place, or on a copy if their buffer is shared.
pub fn in_place(x: FlexTensor, work: impl FnOnce(&mut [f32])) -> FlexTensor {
    let mut x = into_contiguous(x);
    work(x.storage_mut());
    x
}

/// Burn's own representation of a tensor.
pub fn primitive<const D: usize>(x: Tensor<D>) -> FlexTensor {
    x.try_into_primitive::<Flex>().expect("the caller checked `is_plain_cpu_f32`")
}

/// The tensor of a primitive.
pub fn wrap<const D: usize>(x: FlexTensor) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(x)
}

/// A tensor from values in row-major order.
pub fn from_values(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
}

/// A tensor from values with the given strides.
pub fn strided(values: Vec<f32>, shape: Shape, strides: Vec<isize>) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::new(shape, strides, 0), DType::F32)
}

/// Sizes of the first `N` axes.
pub fn sizes<const N: usize>(x: &FlexTensor) -> [usize; N] {
    std::array::from_fn(|axis| x.layout().shape()[axis])
}
