//! The kernels.
//!
//! A cube is a group of units that share memory and can synchronise (WebGPU's workgroup). Sizes
//! that are the same at every call are compile-time constants.

use cubecl::prelude::*;

/// A finite value below any score, because WGSL has no infinity.
const LOWEST: f32 = -1.0e30;

/// Sum of `value` over the cube's units; their number `units` must be a power of two.
#[cube]
fn sum_of_cube<F: Float>(value: F, #[comptime] units: usize) -> F {
    let mut parts = Shared::<[F]>::new_slice(units);
    let unit = UNIT_POS as usize;
    parts[unit] = value;
    sync_cube();
    let mut half = comptime!(units / 2).runtime();
    while half > 0 {
        if unit < half {
            let other = parts[unit + half];
            parts[unit] += other;
        }
        sync_cube();
        half /= 2;
    }
    parts[0]
}

/// `x / sqrt(mean(x^2) + epsilon) * gamma`, one cube per row.
#[cube(launch_unchecked)]
pub(super) fn rms_norm<F: Float>(
    x: &[F],
    gamma: &[F],
    out: &mut [F],
    epsilon: f32,
    rows: usize,
    #[comptime] width: usize,
    #[comptime] units: usize,
) {
    if CUBE_POS < rows {
        let start = CUBE_POS * width;
        let mut square = F::new(0.0);
        let mut i = UNIT_POS as usize;
        while i < width {
            let value = x[start + i];
            square += value * value;
            i += units;
        }
        let mean = sum_of_cube::<F>(square, units) / F::new(comptime!(width as f32));
        let scale = F::new(1.0) / (mean + F::cast_from(epsilon)).sqrt();
        let mut i = UNIT_POS as usize;
        while i < width {
            out[start + i] = x[start + i] * scale * gamma[i];
            i += units;
        }
    }
}

/// `(x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta`, one cube per row.
#[cube(launch_unchecked)]
pub(super) fn layer_norm<F: Float>(
    x: &[F],
    gamma: &[F],
    beta: &[F],
    out: &mut [F],
    epsilon: f32,
    rows: usize,
    #[comptime] width: usize,
    #[comptime] units: usize,
) {
    if CUBE_POS < rows {
        let start = CUBE_POS * width;
        let mut sum = F::new(0.0);
        let mut i = UNIT_POS as usize;
        while i < width {
            sum += x[start + i];
            i += units;
        }
        let mean = sum_of_cube::<F>(sum, units) / F::new(comptime!(width as f32));
        let mut square = F::new(0.0);
        let mut i = UNIT_POS as usize;
        while i < width {
            let centred = x[start + i] - mean;
            square += centred * centred;
            i += units;
        }
        let variance = sum_of_cube::<F>(square, units) / F::new(comptime!(width as f32));
        let scale = F::new(1.0) / (variance + F::cast_from(epsilon)).sqrt();
        let mut i = UNIT_POS as usize;
        while i < width {
            out[start + i] = (x[start + i] - mean) * scale * gamma[i] + beta[i];
            i += units;
        }
    }
}

/// `x / max(|x|, smallest)`, one cube per row.
#[cube(launch_unchecked)]
pub(super) fn unit_rows<F: Float>(
    x: &[F],
    out: &mut [F],
    smallest: f32,
    rows: usize,
    #[comptime] width: usize,
    #[comptime] units: usize,
) {
    if CUBE_POS < rows {
        let start = CUBE_POS * width;
        let mut square = F::new(0.0);
        let mut i = UNIT_POS as usize;
        while i < width {
            let value = x[start + i];
            square += value * value;
            i += units;
        }
        let norm = max(sum_of_cube::<F>(square, units).sqrt(), F::cast_from(smallest));
        let mut i = UNIT_POS as usize;
        while i < width {
            out[start + i] = x[start + i] / norm;
            i += units;
        }
    }
}

/// `x * Phi(x)`
#[cube(launch_unchecked)]
pub(super) fn gelu<F: Float>(x: &[F], out: &mut [F], n: usize) {
    if ABSOLUTE_POS < n {
        let value = x[ABSOLUTE_POS];
        let erf = (value * F::new(core::f32::consts::FRAC_1_SQRT_2)).erf();
        out[ABSOLUTE_POS] = F::new(0.5) * value * (F::new(1.0) + erf);
    }
}

/// `x * sigmoid(1.702 x)`
#[cube(launch_unchecked)]
pub(super) fn quick_gelu<F: Float>(x: &[F], out: &mut [F], n: usize) {
    if ABSOLUTE_POS < n {
        let value = x[ABSOLUTE_POS];
        out[ABSOLUTE_POS] = value / (F::new(1.0) + (F::new(-1.702) * value).exp());
    }
}

/// `gate * sigmoid(gate) * up`
#[cube(launch_unchecked)]
pub(super) fn silu_times<F: Float>(gate: &[F], up: &[F], out: &mut [F], n: usize) {
    if ABSOLUTE_POS < n {
        let value = gate[ABSOLUTE_POS];
        out[ABSOLUTE_POS] = value / (F::new(1.0) + (F::new(0.0) - value).exp()) * up[ABSOLUTE_POS];
    }
}

/// Rotates the pairs `(x[i], x[i + half])` of every head by the angles of its position, one unit
/// per pair.
///
/// `[batch, seq, heads * 2 * half]` → `[batch, heads, seq, 2 * half]`; `cos` and `sin` are
/// `[seq, half]`.
#[cube(launch_unchecked)]
pub(super) fn rotate<F: Float>(
    x: &[F],
    cos: &[F],
    sin: &[F],
    out: &mut [F],
    seq: usize,
    n_pairs: usize,
    #[comptime] n_heads: usize,
    #[comptime] half: usize,
) {
    if ABSOLUTE_POS < n_pairs {
        let i = ABSOLUTE_POS % half;
        let rest = ABSOLUTE_POS / half;
        let head = rest % n_heads;
        let row = rest / n_heads;
        let position = row % seq;
        let batch = row / seq;
        let from = (row * n_heads + head) * half * 2 + i;
        let to = ((batch * n_heads + head) * seq + position) * half * 2 + i;
        let angle = position * half + i;
        let first = x[from];
        let second = x[from + half];
        out[to] = first * cos[angle] - second * sin[angle];
        out[to + half] = second * cos[angle] + first * sin[angle];
    }
}

/// `softmax(q k^T scale) v`: one cube for `N` neighbouring queries of each head.
///
/// The cube reads `units` keys at a time and keeps a running maximum, sum and result. It rescales
/// them when a larger score comes, so it never writes a matrix of scores. This is the online
/// softmax of Milakov and Gimelshein (arXiv:1805.02867).
///
/// # Shapes
/// - q, k, v: `[batch, heads, rows, head_dim]`, given by the strides of the first three axes; rows
///   are contiguous, and those of k and v begin at `k_at` and `v_at`
/// - cubes: `[seq_q / N, heads, batch]`
/// - out: `[batch, seq_q, heads * head_dim]`
#[cube(launch_unchecked)]
pub(super) fn attend<F: Float, N: Size>(
    q: &[F],
    k: &[F],
    v: &[F],
    out: &mut [F],
    q_batch: usize,
    q_head: usize,
    q_row: usize,
    k_batch: usize,
    k_head: usize,
    k_row: usize,
    v_batch: usize,
    v_head: usize,
    v_row: usize,
    k_at: usize,
    v_at: usize,
    seq_q: usize,
    seq_k: usize,
    scale: f32,
    #[comptime] group: usize,
    #[comptime] head_dim: usize,
    #[comptime] is_causal: bool,
    #[comptime] units: usize,
) {
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
                let at = batch * q_batch + head * q_head + (first_row + i) * q_row + unit;
                query.insert(i, q[at] * F::cast_from(scale));
            }
        }
        queries[unit] = query;
    }
    sync_cube();

    // Causal positions count from the end, so the last query of the cube sees the most keys.
    let mut n_keys = seq_k;
    if comptime!(is_causal) {
        n_keys = min(seq_k, seq_k - seq_q + first_row + n_queries);
    }
    let kv_head = head / group;
    let keys = k_at + batch * k_batch + kv_head * k_head;
    let values = v_at + batch * v_batch + kv_head * v_head + unit;

    let mut largest = Vector::<F, N>::new(F::new(LOWEST));
    let mut sum = Vector::<F, N>::new(F::new(0.0));
    let mut result = Vector::<F, N>::new(F::new(0.0));
    let mut first = 0usize;
    while first < n_keys {
        let n = min(n_keys - first, units);
        let key = first + unit;
        let mut score = Vector::<F, N>::new(F::new(LOWEST));
        if unit < n {
            let at = keys + key * k_row;
            let mut dots = Vector::<F, N>::new(F::new(0.0));
            for i in 0..head_dim {
                dots += queries[i] * Vector::new(k[at + i]);
            }
            #[unroll]
            for i in 0..n_queries {
                if comptime!(is_causal) {
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
                result += weight * Vector::new(v[values + (first + i) * v_row]);
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

/// Index and log probability of each row's largest score (the first of equal ones), one cube per
/// row.
///
/// `choices` receives both as floats: `[rows, 2]`.
#[cube(launch_unchecked)]
pub(super) fn most_probable<F: Float>(
    logits: &[F],
    ids: &mut [i32],
    choices: &mut [F],
    n_scores: usize,
    #[comptime] units: usize,
) {
    let unit = UNIT_POS as usize;
    let start = CUBE_POS * n_scores;
    let mut best = F::new(LOWEST);
    let mut place = n_scores as u32;
    let mut i = unit;
    while i < n_scores {
        let score = logits[start + i];
        if score > best {
            best = score;
            place = i as u32;
        }
        i += units;
    }
    let mut scores = Shared::<[F]>::new_slice(units);
    let mut places = Shared::<[u32]>::new_slice(units);
    scores[unit] = best;
    places[unit] = place;
    sync_cube();
    let mut half = comptime!(units / 2).runtime();
    while half > 0 {
        if unit < half {
            let other = scores[unit + half];
            let other_place = places[unit + half];
            let mine = scores[unit];
            if other > mine || (other == mine && other_place < places[unit]) {
                scores[unit] = other;
                places[unit] = other_place;
            }
        }
        sync_cube();
        half /= 2;
    }
    let largest = scores[0];

    let mut sum = F::new(0.0);
    let mut i = unit;
    while i < n_scores {
        sum += (logits[start + i] - largest).exp();
        i += units;
    }
    let total = sum_of_cube::<F>(sum, units);
    if unit == 0 {
        ids[CUBE_POS] = i32::cast_from(places[0]);
        choices[CUBE_POS * 2] = F::cast_from(places[0]);
        choices[CUBE_POS * 2 + 1] = F::new(0.0) - total.ln();
    }
}

/// A byte of a packed word as a signed integer.
#[cube]
fn signed_byte<F: Float>(word: u32, #[comptime] byte: u32) -> F {
    let number = (word >> comptime!(8 * byte)) & 255;
    F::cast_from(number) - F::cast_from(number >> 7) * F::new(256.0)
}

/// Four bits of a packed word as a signed integer.
#[cube]
fn signed_half_byte<F: Float>(word: u32, #[comptime] half_byte: u32) -> F {
    F::cast_from((word >> comptime!(4 * half_byte)) & 15) - F::new(8.0)
}

/// `x Wᵀ` for a packed W, one cube per output of each row. The cubes are `[outputs, .., rows]`.
///
/// `crate::kernels::quant` documents the layout. Here a word holds four of its bytes, so a block of 32
/// weights is `bits` words.
#[cube(launch_unchecked)]
pub(super) fn packed_product<F: Float>(
    x: &[F],
    codes: &[u32],
    scales: &[F],
    out: &mut [F],
    n_out: usize,
    #[comptime] width: usize,
    #[comptime] n_blocks: usize,
    #[comptime] bits: usize,
    #[comptime] units: usize,
) {
    let output = CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize;
    let row = CUBE_POS_Z as usize;
    if output < n_out {
        let words = comptime!(n_blocks * bits);
        let mut sum = F::new(0.0);
        let mut at = UNIT_POS as usize;
        while at < words {
            let block = at / bits;
            let first = block * 32 + at % bits * 4;
            let word = codes[output * words + at];
            let mut part = F::new(0.0);
            #[unroll]
            for i in 0..4u32 {
                let column = first + i as usize;
                if comptime!(bits == 8) {
                    if column < width {
                        part += signed_byte::<F>(word, i) * x[row * width + column];
                    }
                } else {
                    if column < width {
                        part +=
                            signed_half_byte::<F>(word, comptime!(2 * i)) * x[row * width + column];
                    }
                    if column + 16 < width {
                        let number = signed_half_byte::<F>(word, comptime!(2 * i + 1));
                        part += number * x[row * width + column + 16];
                    }
                }
            }
            sum += part * scales[output * n_blocks + block];
            at += units;
        }
        let total = sum_of_cube::<F>(sum, units);
        if UNIT_POS == 0 {
            out[row * n_out + output] = total;
        }
    }
}

/// Widens a packed matrix to `[out, in]`, one unit per word.
#[cube(launch_unchecked)]
pub(super) fn unpack<F: Float>(
    codes: &[u32],
    scales: &[F],
    out: &mut [F],
    n_words: usize,
    #[comptime] width: usize,
    #[comptime] n_blocks: usize,
    #[comptime] bits: usize,
) {
    if ABSOLUTE_POS < n_words {
        let words = comptime!(n_blocks * bits);
        let row = ABSOLUTE_POS / words;
        let at = ABSOLUTE_POS % words;
        let block = at / bits;
        let first = block * 32 + at % bits * 4;
        let word = codes[ABSOLUTE_POS];
        let scale = scales[row * n_blocks + block];
        #[unroll]
        for i in 0..4u32 {
            let column = first + i as usize;
            if comptime!(bits == 8) {
                if column < width {
                    out[row * width + column] = signed_byte::<F>(word, i) * scale;
                }
            } else {
                if column < width {
                    out[row * width + column] =
                        signed_half_byte::<F>(word, comptime!(2 * i)) * scale;
                }
                if column + 16 < width {
                    let number = signed_half_byte::<F>(word, comptime!(2 * i + 1));
                    out[row * width + column + 16] = number * scale;
                }
            }
        }
    }
}
