//! The sum of the gradients over the ranks.

use burn::tensor::Tensor;
use mmgem_collective::{Collective, CollectiveError};

use super::optimizer::GradientMap;

/// Values per all-reduce. Small gradients are combined, because each call waits for the network.
const BUCKET: usize = 16 << 20;

/// Sums the gradients of all ranks, a bucket at a time. Every rank must have the same paths.
pub fn reduce_gradients(
    group: &dyn Collective,
    gradients: GradientMap,
) -> Result<GradientMap, CollectiveError> {
    if group.size() == 1 {
        return Ok(gradients);
    }
    let mut reduced = GradientMap::new();
    let mut bucket: Vec<(String, Tensor<1>)> = Vec::new();
    let mut held = 0;
    for (path, gradient) in gradients {
        let [n] = gradient.dims();
        if held > 0 && held + n > BUCKET {
            reduce_bucket(group, std::mem::take(&mut bucket), &mut reduced)?;
            held = 0;
        }
        held += n;
        bucket.push((path, gradient));
    }
    reduce_bucket(group, bucket, &mut reduced)?;
    Ok(reduced)
}

fn reduce_bucket(
    group: &dyn Collective,
    bucket: Vec<(String, Tensor<1>)>,
    reduced: &mut GradientMap,
) -> Result<(), CollectiveError> {
    if bucket.is_empty() {
        return Ok(());
    }
    let (paths, parts): (Vec<String>, Vec<Tensor<1>>) = bucket.into_iter().unzip();
    let lens: Vec<usize> = parts.iter().map(|part| part.dims()[0]).collect();
    let sum = group.all_reduce_sum(Tensor::cat(parts, 0))?;
    let mut start = 0;
    for (path, n) in paths.into_iter().zip(lens) {
        reduced.insert(path, sum.clone().narrow(0, start, n));
        start += n;
    }
    Ok(())
}
