//! The inverted residual block of MobileNetV2 (arXiv:1801.04381), without squeeze and excitation.

use burn::tensor::Tensor;

use super::linear::Linear;
use crate::kernels::convolution::{self, BlockParts, conv_same_relu6};

/// The parts of an inverted residual block.
pub(super) struct InvertedResidual<'a> {
    pub expand: Option<&'a Linear>,
    /// Weight, bias and stride of the depth-wise convolution.
    pub depthwise: (Tensor<4>, Tensor<1>, usize),
    pub project: &'a Linear,
    pub has_skip: bool,
}

/// `project(conv_same_relu6(relu6(expand(x))))`, with `x` added if the block has a skip connection.
///
/// On the CPU without a gradient, the expanded activations never leave a core's cache.
pub(super) fn inverted_residual(x: Tensor<4>, block: InvertedResidual) -> Tensor<4> {
    if let Some(y) = at_once(&x, &block) {
        return y;
    }
    let InvertedResidual { expand, depthwise: (weight, bias, stride), project, has_skip } = block;
    let expanded = match expand {
        Some(expand) => expand.forward_relu6(x.clone()),
        None => x.clone(),
    };
    let filtered = conv_same_relu6(expanded, weight, bias, stride);
    match has_skip {
        true => project.forward_onto(x, filtered),
        false => project.forward(filtered),
    }
}

/// The fused kernel. `None` if a layer is packed or no kernel supports the tensors.
fn at_once(x: &Tensor<4>, block: &InvertedResidual) -> Option<Tensor<4>> {
    let plain = |layer: &Linear| Some((layer.weight.as_ref()?.val(), layer.bias.as_ref()?.val()));
    let expand = match block.expand {
        Some(expand) => Some(plain(expand)?),
        None => None,
    };
    let parts = BlockParts {
        expand,
        depthwise: block.depthwise.clone(),
        project: plain(block.project)?,
        is_residual: block.has_skip,
    };
    convolution::inverted_residual(x, parts)
}

#[cfg(all(test, feature = "cpu", feature = "autodiff"))]
mod tests {
    use burn::module::{Module, Param};
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::kernels::convolution::{conv_by_burn, same_padding};
    use crate::kernels::quant::{Bits, Packed};

    /// Values such that the sums fall below 0, between 0 and 6, and above 6.
    fn numbers<const D: usize>(
        shape: [usize; D],
        seed: usize,
        scale: f32,
        device: &Device,
    ) -> Tensor<D> {
        let n: usize = shape.iter().product();
        let value = |i: usize| (((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0) * scale;
        Tensor::from_data(TensorData::new((0..n).map(value).collect(), shape), device)
    }

    fn close<const D: usize>(found: Tensor<D>, wanted: Tensor<D>, tolerance: f32, what: &str) {
        assert_eq!(found.dims(), wanted.dims(), "{what}");
        let scale = wanted.clone().abs().max().into_scalar::<f32>().max(1.0);
        let off = (found - wanted).abs().max().into_scalar::<f32>();
        assert!(off < tolerance * scale, "{what}: off by {off} of {scale}");
    }

    struct Block {
        x: Tensor<4>,
        expand: Option<Linear>,
        depthwise: (Tensor<4>, Tensor<1>, usize),
        project: Linear,
        has_skip: bool,
    }

    const SHAPES: [([usize; 4], usize, usize, usize); 5] = [
        ([1, 9, 9, 8], 3, 1, 8),
        ([2, 13, 10, 6], 5, 2, 12),
        ([1, 4, 3, 16], 5, 1, 16),
        ([2, 8, 8, 5], 3, 2, 7),
        ([1, 17, 17, 20], 3, 1, 20),
    ];

    impl Block {
        fn new(
            ([batch, height, width, channels], kernel, stride, out): (
                [usize; 4],
                usize,
                usize,
                usize,
            ),
            device: &Device,
        ) -> Self {
            let layer = |d_in: usize, d_out: usize, seed: usize| {
                let mut layer = Linear::new(d_in, d_out, true, device);
                layer.weight = Some(Param::from_tensor(numbers([d_in, d_out], seed, 0.8, device)));
                layer.bias =
                    Some(Param::from_tensor(numbers([d_out], seed + 1, 1.0, device) + 1.0));
                layer
            };
            let wide = 6 * channels;
            Self {
                x: numbers([batch, height, width, channels], 1, 2.0, device),
                expand: Some(layer(channels, wide, 2)),
                depthwise: (
                    numbers([wide, 1, kernel, kernel], 4, 1.0, device),
                    numbers([wide], 5, 1.0, device) + 1.0,
                    stride,
                ),
                project: layer(wide, out, 6),
                has_skip: stride == 1,
            }
        }

        fn run(&self) -> Tensor<4> {
            let block = InvertedResidual {
                expand: self.expand.as_ref(),
                depthwise: self.depthwise.clone(),
                project: &self.project,
                has_skip: self.has_skip,
            };
            inverted_residual(self.x.clone(), block)
        }

        fn run_by_burn(&self) -> Tensor<4> {
            let linear = |layer: &Linear, x: Tensor<4>| {
                let (weight, bias) = (layer.weight.as_ref(), layer.bias.as_ref());
                let weight = weight.expect("not packed").val();
                x.matmul(weight.unsqueeze()) + bias.expect("all have one").val().unsqueeze()
            };
            let expanded = match &self.expand {
                Some(expand) => linear(expand, self.x.clone()).clamp(0.0, 6.0),
                None => self.x.clone(),
            };
            let (weight, bias, stride) = self.depthwise.clone();
            let ([_, height, width, _], kernel) = (self.x.dims(), weight.dims()[2]);
            let [top, bottom] = same_padding(height, kernel, stride);
            let [left, right] = same_padding(width, kernel, stride);
            let y = conv_by_burn(expanded, weight, bias, stride, (left, right, top, bottom));
            let y = linear(&self.project, y);
            if self.has_skip { self.x.clone() + y } else { y }
        }
    }

    #[test]
    fn a_block_at_once_is_burns_operations() {
        for shape in SHAPES {
            let mut block = Block::new(shape, &Device::flex());
            close(block.run(), block.run_by_burn(), 1e-5, &format!("{shape:?}"));
            // The first block of a tower has no expansion.
            block.expand = None;
            let wide = block.depthwise.1.dims()[0];
            let [batch, height, width, _] = block.x.dims();
            block.x = numbers([batch, height, width, wide], 1, 2.0, &Device::flex());
            block.has_skip = false;
            close(block.run(), block.run_by_burn(), 1e-5, &format!("{shape:?}, not expanded"));
        }
    }

    #[test]
    fn a_stem_is_burns_convolution_of_the_same_pixels() {
        let device = Device::flex();
        let (weight, bias) =
            (numbers([8, 3, 3, 3], 1, 1.0, &device), numbers([8], 2, 1.0, &device));
        let pixels = numbers([2, 3, 21, 26], 3, 2.0, &device).permute([0, 2, 3, 1]);
        let found = conv_same_relu6(pixels.clone(), weight.clone(), bias.clone(), 2);
        close(found, conv_by_burn(pixels, weight, bias, 2, (0, 1, 1, 1)), 1e-5, "a stem");
    }

    #[test]
    fn gradients_of_a_block_are_burns() {
        for shape in SHAPES {
            let device = Device::flex().autodiff();
            let tracked = |block: &mut Block| {
                block.x = block.x.clone().require_grad();
                let (weight, bias, stride) = block.depthwise.clone();
                block.depthwise = (weight.require_grad(), bias.require_grad(), stride);
            };
            let gradients = |run: fn(&Block) -> Tensor<4>| {
                let mut block = Block::new(shape, &device);
                tracked(&mut block);
                let y = run(&block);
                let slopes = numbers(y.dims(), 9, 1.0, &device);
                let grads = (y * slopes).sum().backward();
                let of = |x: &Tensor<4>| x.grad(&grads).expect("the loss depends on it");
                let expand =
                    block.expand.as_ref().and_then(|expand| expand.weight.as_ref()).expect("plain");
                let project = block.project.weight.as_ref().expect("plain");
                (
                    [of(&block.x), of(&block.depthwise.0)],
                    block.depthwise.1.grad(&grads).expect("the loss depends on it"),
                    [expand, project]
                        .map(|weight| weight.val().grad(&grads).expect("the loss depends on it")),
                )
            };
            let (found, wanted) = (gradients(Block::run), gradients(Block::run_by_burn));
            for ((found, wanted), name) in
                found.0.into_iter().zip(wanted.0).zip(["input", "depthwise"])
            {
                close(found, wanted, 2e-5, &format!("{name} of {shape:?}"));
            }
            close(found.1, wanted.1, 2e-5, &format!("bias of {shape:?}"));
            for ((found, wanted), name) in
                found.2.into_iter().zip(wanted.2).zip(["expand", "project"])
            {
                close(found, wanted, 2e-5, &format!("{name} of {shape:?}"));
            }
        }
    }

    #[test]
    fn a_block_that_is_not_trained_is_in_no_graph() {
        for shape in SHAPES {
            let mut block = Block::new(shape, &Device::flex().autodiff());
            block.expand = block.expand.map(Module::no_grad);
            block.project = block.project.no_grad();
            let found = block.run();
            assert!(!found.is_tracked());
            let wanted = Block::new(shape, &Device::flex()).run();
            assert_eq!(found.into_data(), wanted.into_data(), "{shape:?}");
        }
    }

    #[test]
    fn a_block_with_packed_layers_is_near_the_one_without() {
        for shape in SHAPES {
            let mut block = Block::new(shape, &Device::flex());
            let wanted = block.run();
            for layer in block.expand.iter_mut().chain([&mut block.project]) {
                let weight = layer.weight.as_ref().expect("not packed yet").val();
                let values: Vec<f32> = weight.clone().transpose().into_data().iter().collect();
                layer.set_packed(Packed::pack(&values, weight.dims()[0], Bits::Eight));
            }
            close(block.run(), wanted, 2e-2, &format!("{shape:?}"));
        }
    }
}
