//! Benchmarks single kernels at the widths of TinyLlama and ViT-L/14, in bytes of weights or
//! multiplications per second.
//!
//! Run `cargo bench --workspace --bench kernels [-- PART-OF-A-NAME]`. `mmgem bench` measures a
//! whole model. `MMGEM_VECTORS=8` limits vectors to 8 floats, as on processors with AVX2 only; 4
//! selects plain loops. Packed products have one benchmark per kernel, which ignores the limit.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it skips")]

use std::sync::OnceLock;

use burn::tensor::{DType, Device, Tensor, TensorData};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use mmgem_core::config::EfficientNetLiteConfig;
use mmgem_core::limit_vectors;
use mmgem_core::model::{EfficientNetLite, Linear};
use mmgem_core::quant::{Bits, Kernel, Packed};
use mmgem_core::readback::read_floats;
use pollster::block_on;

const WIDTH: usize = 2048;
const FFN: usize = 5632;
/// Tokens of a region's prompt: 49 of the region and 64 prompts.
const PROMPT: usize = 113;

fn main() {
    if let Ok(n_floats) = std::env::var("MMGEM_VECTORS") {
        limit_vectors(n_floats.parse().expect("MMGEM_VECTORS is a number of floats"));
    }
    divan::main();
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + 13) % 2003) as f32 / 1001.0 - 1.0).collect()
}

fn packed(bits: u32) -> Packed {
    let bits = if bits == 8 { Bits::Eight } else { Bits::Four };
    Packed::pack(&numbers(WIDTH * FFN), WIDTH, bits)
}

/// One token: bound by memory.
#[divan::bench(args = [8, 4])]
fn packed_one_row(bencher: Bencher, bits: u32) {
    let (packed, x) = (packed(bits), numbers(WIDTH));
    let bytes = packed.codes().len() + 2 * packed.scales().len();
    bencher.counter(BytesCount::new(bytes)).bench(|| packed.linear(&x, None));
}

/// A prompt: bound by arithmetic, so all kernels are compared.
#[divan::bench(args = Kernel::available().into_iter().flat_map(|kernel| [(kernel, 8), (kernel, 4)]))]
fn packed_prompt(bencher: Bencher, (kernel, bits): (Kernel, u32)) {
    let (packed, x) = (packed(bits), numbers(PROMPT * WIDTH));
    bencher
        .counter(ItemsCount::new(PROMPT * WIDTH * FFN))
        .bench(|| packed.linear_with(kernel, &x, None));
}

#[divan::bench]
fn linear_one_row_cpu(bencher: Bencher) {
    linear(bencher, &Device::flex(), DType::F32, 1);
}

#[divan::bench]
fn linear_prompt_cpu(bencher: Bencher) {
    linear(bencher, &Device::flex(), DType::F32, PROMPT);
}

#[divan::bench(args = [DType::F32, DType::F16])]
fn linear_one_row_gpu(bencher: Bencher, weights: DType) {
    on_gpu(bencher, weights, 1);
}

#[divan::bench(args = [DType::F32, DType::F16])]
fn linear_prompt_gpu(bencher: Bencher, weights: DType) {
    on_gpu(bencher, weights, PROMPT);
}

/// Runs the benchmark if a GPU or a software adapter exists whose shaders support the type.
fn on_gpu(bencher: Bencher, weights: DType, rows: usize) {
    static GPU: OnceLock<Option<Device>> = OnceLock::new();
    match GPU.get_or_init(|| Device::wgpu_options().init().ok()) {
        Some(gpu) if gpu.supports_dtype(weights) => linear(bencher, gpu, weights, rows),
        _ => println!("SKIPPED: no adapter, or none that knows {weights:?}"),
    }
}

/// EfficientNet-Lite2 at 260 pixels, in multiplications per second, for batches of `batch` images.
#[divan::bench(args = [1, 8])]
fn tower_cpu(bencher: Bencher, batch: usize) {
    tower(bencher, &Device::flex(), batch);
}

#[divan::bench]
fn tower_gpu(bencher: Bencher) {
    match Device::wgpu_options().init() {
        Ok(gpu) => tower(bencher, &gpu, 1),
        Err(_) => println!("SKIPPED: no adapter"),
    }
}

fn tower(bencher: Bencher, device: &Device, batch: usize) {
    const MULTIPLICATIONS: usize = 860_000_000;
    let config = EfficientNetLiteConfig {
        image_size: 260,
        width_coefficient: 1.1,
        depth_coefficient: 1.2,
        hidden_size: 1280,
    };
    let network = EfficientNetLite::new(&config, device);
    let values = numbers(batch * 3 * 260 * 260);
    let pixels = Tensor::<4>::from_data(TensorData::new(values, [batch, 3, 260, 260]), device);
    let run = || {
        let v = network.forward(pixels.clone()).slice([0..1, 0..1, 0..1]);
        block_on(read_floats(v)).expect("the device works")
    };
    run();
    bencher.counter(ItemsCount::new(batch * MULTIPLICATIONS)).bench_local(run);
}

fn linear(bencher: Bencher, device: &Device, weights: DType, rows: usize) {
    let tensor = |shape: [usize; 2]| {
        let values = numbers(shape[0] * shape[1]);
        Tensor::<2>::from_data(TensorData::new(values, shape), device)
    };
    let mut layer = Linear::new(WIDTH, FFN, false, device);
    layer.weight = layer.weight.map(|weight| weight.map(|_| tensor([WIDTH, FFN]).cast(weights)));
    let x = tensor([rows, WIDTH]);
    // Read one number back, or the GPU would still be running.
    let run = || {
        block_on(read_floats(layer.forward(x.clone()).slice([0..1, 0..1])))
            .expect("the device works")
    };
    run();
    match rows {
        1 => bencher.counter(BytesCount::new(WIDTH * FFN * weights.size())).bench_local(run),
        _ => bencher.counter(ItemsCount::new(rows * WIDTH * FFN)).bench_local(run),
    }
}
