//! Exchanges the values of many parameters between the ranks.

use burn::tensor::Tensor;
use mmgem_collective::CollectiveError;

/// Values per exchange. Small parameters are combined, because each call waits for the network.
pub const BUCKET: usize = 16 << 20;

/// Passes values through `exchange`, a bucket at a time, and each result to `take`. Every rank must
/// have the same paths and lengths.
pub fn in_buckets(
    values: impl IntoIterator<Item = (String, Tensor<1>)>,
    exchange: impl Fn(Tensor<1>) -> Result<Tensor<1>, CollectiveError>,
    mut take: impl FnMut(String, Tensor<1>),
) -> Result<(), CollectiveError> {
    let mut bucket = Vec::new();
    let mut held = 0;
    for (path, value) in values {
        let [n] = value.dims();
        if held > 0 && held + n > BUCKET {
            exchange_bucket(std::mem::take(&mut bucket), &exchange, &mut take)?;
            held = 0;
        }
        held += n;
        bucket.push((path, value));
    }
    exchange_bucket(bucket, &exchange, take)
}

/// Passes values through `exchange` together, and each result to `take`.
pub fn exchange_bucket(
    bucket: Vec<(String, Tensor<1>)>,
    exchange: &impl Fn(Tensor<1>) -> Result<Tensor<1>, CollectiveError>,
    mut take: impl FnMut(String, Tensor<1>),
) -> Result<(), CollectiveError> {
    if bucket.is_empty() {
        return Ok(());
    }
    let (paths, parts): (Vec<String>, Vec<Tensor<1>>) = bucket.into_iter().unzip();
    let lens: Vec<usize> = parts.iter().map(|part| part.dims()[0]).collect();
    let exchanged = exchange(Tensor::cat(parts, 0))?;
    let mut start = 0;
    for (path, n) in paths.into_iter().zip(lens) {
        take(path, exchanged.clone().narrow(0, start, n));
        start += n;
    }
    Ok(())
}
