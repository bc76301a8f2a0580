//! Burn's GPU tensors.

use std::any::{Any, TypeId};

use burn::backend::{BackendTypes, Cube, DispatchDevice};
use burn::tensor::{DType, Device, Int, Shape, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

/// Burn's representation of a float tensor on a GPU.
///
/// With Burn's fusion compiled in, as for CUDA, it is a place in a queue of ops. Burn builds
/// kernels from the queue itself.
type FloatPrimitive = <Cube as BackendTypes>::FloatTensorPrimitive;
type IntPrimitive = <Cube as BackendTypes>::IntTensorPrimitive;

/// Whether a tensor is f32, without autodiff, on a GPU that Burn uses without fusion.
pub fn is_plain_gpu_f32<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && supports(&x.device())
}

/// Whether a device is a GPU that Burn uses without fusion, and without autodiff.
pub fn supports(device: &Device) -> bool {
    let is_plain = TypeId::of::<FloatPrimitive>() == TypeId::of::<CubeTensor>();
    is_plain && matches!(device.as_dispatch(), DispatchDevice::Cube(_))
}

/// A contiguous tensor of the shape of `x`, with uninitialised values.
pub fn like(x: &CubeTensor) -> CubeTensor {
    empty(x, x.meta.shape().clone(), x.dtype)
}

/// A contiguous tensor on the device of `x`, with uninitialised values.
pub fn empty(x: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), shape, dtype)
}

/// The tensor in contiguous memory, row by row.
pub fn contiguous<const D: usize>(x: Tensor<D>) -> CubeTensor {
    into_contiguous(primitive(x))
}

/// The primitive of an integer tensor, in its memory order.
pub fn int_primitive<const D: usize>(x: Tensor<D, Int>) -> CubeTensor {
    into(x.try_into_primitive::<Cube>().expect("the caller checked `supports`"))
}

/// The primitive of a float tensor, in its memory order.
pub fn primitive<const D: usize>(x: Tensor<D>) -> CubeTensor {
    into(x.try_into_primitive::<Cube>().expect("the caller checked `is_plain_gpu_f32`"))
}

/// The tensor of a primitive.
pub fn wrap<const D: usize>(x: CubeTensor) -> Tensor<D> {
    Tensor::from_primitive::<Cube>(into::<CubeTensor, FloatPrimitive>(x))
}

/// The integer tensor of a primitive.
pub fn wrap_ints<const D: usize>(x: CubeTensor) -> Tensor<D, Int> {
    Tensor::from_primitive::<Cube>(into::<CubeTensor, IntPrimitive>(x))
}

/// Returns the same value if both types are equal, which `supports` has checked.
fn into<From: 'static, To: 'static>(value: From) -> To {
    let mut value = Some(value);
    let value: &mut dyn Any = &mut value;
    value
        .downcast_mut::<Option<To>>()
        .and_then(Option::take)
        .expect("the caller checked `supports`")
}
