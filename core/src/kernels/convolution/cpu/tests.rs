//! Compares the convolutions with plain loops in f64.

use super::*;

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0).collect()
}

fn relu6(x: f64) -> f64 {
    x.clamp(0.0, 6.0)
}

/// A plain convolution that skips pixels outside of the image instead of padding it.
///
/// `taps(dy, dx, out)` returns input channels with weights.
fn convolve(
    x: &[f64],
    [batch, height, width, channels]: Sizes,
    (kernel, stride): (usize, usize),
    bias: &[f32],
    taps: impl Fn(usize, usize, usize) -> Vec<(usize, f64)>,
) -> (Vec<f64>, Sizes) {
    let n_out = |n: usize| n.div_ceil(stride);
    let before = |n: usize| ((n_out(n) - 1) * stride + kernel).saturating_sub(n) / 2;
    let sizes = [batch, n_out(height), n_out(width), bias.len()];
    let mut out = Vec::new();
    for (b, y, x_out) in (0..batch)
        .flat_map(|b| (0..sizes[1]).flat_map(move |y| (0..sizes[2]).map(move |x| (b, y, x))))
    {
        for (o, bias) in bias.iter().enumerate() {
            let mut sum = f64::from(*bias);
            for dy in 0..kernel {
                for dx in 0..kernel {
                    let y = (y * stride + dy) as isize - before(height) as isize;
                    let at = (x_out * stride + dx) as isize - before(width) as isize;
                    if y < 0 || at < 0 || y >= height as isize || at >= width as isize {
                        continue;
                    }
                    let pixel = ((b * height + y as usize) * width + at as usize) * channels;
                    sum += taps(dy, dx, o).iter().map(|(i, w)| x[pixel + i] * w).sum::<f64>();
                }
            }
            out.push(sum);
        }
    }
    (out, sizes)
}

fn check(found: &[f32], wanted: &[f64], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let off = (f64::from(*found) - wanted).abs();
        assert!(off < 2e-5 * wanted.abs().max(1.0), "{what} at {at}: {found}, wanted {wanted}");
    }
}

/// Odd and even sides, sides smaller than the kernel, and channels that are not vector
/// multiples.
const SHAPES: [(Sizes, usize, usize); 11] = [
    ([1, 1, 1, 1], 3, 1),
    ([1, 2, 3, 3], 5, 1),
    ([2, 7, 5, 8], 3, 1),
    ([1, 8, 10, 24], 3, 2),
    ([1, 9, 13, 17], 3, 2),
    ([2, 12, 9, 16], 5, 2),
    ([1, 3, 4, 50], 5, 2),
    ([3, 11, 11, 5], 5, 1),
    ([1, 6, 7, 30], 7, 2),
    ([1, 5, 5, 33], 4, 3),
    ([1, 70, 66, 20], 5, 1),
];

#[test]
fn a_block_is_its_three_convolutions() {
    for (sizes, kernel, stride) in SHAPES {
        for (wide, out) in [(1, 1), (6, 4), (49, 24), (144, sizes[3])] {
            check_block(sizes, (kernel, stride), wide, out);
        }
    }
}

fn check_block(sizes: Sizes, (kernel, stride): (usize, usize), wide: usize, out: usize) {
    let [batch, height, width, channels] = sizes;
    let x = numbers(sizes.iter().product(), 1);
    let x64: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    let is_residual = stride == 1 && out == channels;
    let (w1, b1) = (numbers(channels * wide, 2), numbers(wide, 3));
    let (w2, b2) = (numbers(kernel * kernel * wide, 4), numbers(wide, 5));
    let (w3, b3) = (numbers(wide * out, 6), numbers(out, 7));
    let found = block(
        &x,
        sizes,
        &Block {
            expand: Some(Pointwise { weight: &w1, bias: &b1 }),
            depthwise: Taps { weight: &w2, bias: &b2, kernel, stride },
            project: Some(Pointwise { weight: &w3, bias: &b3 }),
            is_residual,
        },
    );

    let dense = |w: &[f32], n: usize, m: usize, o: usize| -> Vec<(usize, f64)> {
        (0..n).map(|i| (i, f64::from(w[i * m + o]))).collect()
    };
    let (mut y, _) = convolve(&x64, sizes, (1, 1), &b1, |_, _, o| dense(&w1, channels, wide, o));
    y.iter_mut().for_each(|y| *y = relu6(*y));
    let (mut y, middle) =
        convolve(&y, [batch, height, width, wide], (kernel, stride), &b2, |dy, dx, o| {
            vec![(o, f64::from(w2[(dy * kernel + dx) * wide + o]))]
        });
    y.iter_mut().for_each(|y| *y = relu6(*y));
    let (mut y, wanted) = convolve(&y, middle, (1, 1), &b3, |_, _, o| dense(&w3, wide, out, o));
    if is_residual {
        y.iter_mut().zip(&x64).for_each(|(y, x)| *y += x);
    }
    assert_eq!(found.1, wanted);
    check(&found.0, &y, &format!("{sizes:?}, kernel {kernel} by {stride}, {wide} to {out}"));
}

#[test]
fn a_convolution_by_channels_alone_is_one_with_a_clamp() {
    for (sizes, kernel, stride) in SHAPES {
        let wide = sizes[3];
        let x = numbers(sizes.iter().product(), 1);
        let x64: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let (weight, bias) = (numbers(kernel * kernel * wide, 4), numbers(wide, 5));
        let depthwise = Taps { weight: &weight, bias: &bias, kernel, stride };
        let found =
            block(&x, sizes, &Block { expand: None, depthwise, project: None, is_residual: false });
        let (mut y, wanted) = convolve(&x64, sizes, (kernel, stride), &bias, |dy, dx, o| {
            vec![(o, f64::from(weight[(dy * kernel + dx) * wide + o]))]
        });
        y.iter_mut().for_each(|y| *y = relu6(*y));
        assert_eq!(found.1, wanted);
        check(&found.0, &y, &format!("{sizes:?}, kernel {kernel} by {stride}"));
    }
}

#[test]
fn a_stem_sees_all_channels() {
    for (sizes, kernel, stride) in SHAPES {
        for out in [1, 7, 32, 40] {
            let n = sizes[3];
            let x = numbers(sizes.iter().product(), 1);
            let x64: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            let (weight, bias) = (numbers(kernel * kernel * n * out, 4), numbers(out, 5));
            let spec = Stem { weight: &weight, bias: &bias, kernel, stride };
            let [batch, height, width, _] = sizes;
            let found = stem(&x, (sizes, [height * width * n, width * n, n, 1]), &spec);
            let mut first = vec![0.0; x.len()];
            for (at, x) in x.iter().enumerate() {
                let (pixel, channel) = (at % (height * width * n) / n, at % n);
                first[(at / (height * width * n) * n + channel) * height * width + pixel] = *x;
            }
            let strides = [height * width * n, width, 1, height * width];
            assert!(
                stem(&first, (sizes, strides), &spec) == found,
                "channels first, {batch} images"
            );
            let (mut y, wanted) = convolve(&x64, sizes, (kernel, stride), &bias, |dy, dx, o| {
                let row = (dy * kernel + dx) * n;
                (0..n).map(|i| (i, f64::from(weight[(row + i) * out + o]))).collect()
            });
            y.iter_mut().for_each(|y| *y = relu6(*y));
            assert_eq!(found.1, wanted);
            check(&found.0, &y, &format!("{sizes:?}, kernel {kernel} by {stride}"));
        }
    }
}

#[test]
fn neither_cores_nor_batch_mates_change_a_number() {
    for ([height, width, channels], kernel, stride, out) in
        [([33, 33, 8], 5, 1, 8), ([9, 9, 40], 3, 1, 100), ([70, 65, 24], 3, 2, 16)]
    {
        let (batch, wide) = (3, 6 * channels);
        let x = numbers(batch * height * width * channels, 1);
        let (w1, b1) = (numbers(channels * wide, 2), numbers(wide, 3));
        let (w2, b2) = (numbers(kernel * kernel * wide, 4), numbers(wide, 5));
        let (w3, b3) = (numbers(wide * out, 6), numbers(out, 7));
        let parts = Block {
            expand: Some(Pointwise { weight: &w1, bias: &b1 }),
            depthwise: Taps { weight: &w2, bias: &b2, kernel, stride },
            project: Some(Pointwise { weight: &w3, bias: &b3 }),
            is_residual: stride == 1 && out == channels,
        };
        let on = |n_cores: usize, x: &[f32], batch: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_cores).build();
            let pool = pool.expect("threads can be started");
            pool.install(|| {
                let (y, sizes) = block(x, [batch, height, width, channels], &parts);
                let head = pointwise(&y, Pointwise { weight: &w3[..out * wide], bias: &b1 }, true);
                (y, sizes, head)
            })
        };
        let (together, _, _) = on(1, &x, batch);
        for (x, wanted) in x.chunks(x.len() / batch).zip(together.chunks(together.len() / batch)) {
            let (_, _, head) = on(1, x, 1);
            for n_cores in [1, 2, 3, 16] {
                let found = on(n_cores, x, 1);
                assert!(found.0 == wanted && found.2 == head, "{height}×{width}, {n_cores} cores");
            }
        }
    }
}
