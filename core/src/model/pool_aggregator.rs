//! PoolAggregator: multiplies a pooling matrix (bins × patches) with the patch tokens.
//!
//! Every view of a part of an image is such a matrix. MeanPool is one row of `1/n_patches`. The
//! rows of RoIAlign are bilinear weights; a mask scales them. The host builds the matrix from the
//! boxes and masks. So every backend pools by one matrix product, and autodiff provides the
//! gradient.

use burn::tensor::{Int, Tensor, TensorData};

use crate::config::MmGemConfig;
use crate::kernels::mean_dim;

/// A part of the model's input: a box, and a mask if the part is not the whole box.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// `[x0, y0, x1, y1]` in pixels of the model's input.
    pub box_input: [f32; 4],
    /// Share of each input pixel that belongs to the region, 0..=1, row by row.
    pub mask: Option<Vec<f32>>,
}

/// Pools patch tokens into regions. It holds only sizes, not weights.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolAggregator {
    /// Patches per side.
    pub grid: usize,
    /// Side of the model's input, in pixels.
    pub image_size: usize,
    /// Bins per side of a region's map.
    pub roi_output_size: usize,
    /// Samples per bin and axis.
    pub roi_sampling_ratio: usize,
}

impl PoolAggregator {
    /// The pooling for a model with these sizes.
    pub fn new(config: &MmGemConfig) -> Self {
        Self {
            grid: config.grid(),
            image_size: config.vision.image_size(),
            roi_output_size: config.roi_output_size,
            roi_sampling_ratio: config.roi_sampling_ratio,
        }
    }

    /// Mean over the patches: `[batch, n_patches, hidden]` → `[batch, hidden]`.
    pub fn mean_pool(&self, patches: Tensor<3>) -> Tensor<2> {
        mean_dim(patches, 1).squeeze_dim(1)
    }

    /// RoIAlign (Mask R-CNN, arXiv:1703.06870; torchvision's `roi_align` with `aligned=True`).
    ///
    /// # Shapes
    /// - patches: `[batch, n_patches, hidden]`
    /// - regions: each with the index of its image in the batch
    /// - returns: `[n_regions, bins, hidden]`, `bins = roi_output_size²`, row by row
    pub fn roi_align(&self, patches: Tensor<3>, regions: &[(usize, Region)]) -> Tensor<3> {
        let device = patches.device();
        let [batch, n_patches, _] = patches.dims();
        let bins = self.roi_output_size.pow(2);

        let weights = regions.iter().flat_map(|(_, region)| self.pooling_matrix(region)).collect();
        let weights: Vec<f32> = weights;
        let matrix = TensorData::new(weights, [regions.len(), bins, n_patches]);
        let image_idx: Vec<i32> = regions.iter().map(|(image, _)| *image as i32).collect();
        // One region per image in the order of the images is the common case and needs no copy.
        let in_order = batch == regions.len()
            && image_idx.iter().enumerate().all(|(i, image)| i as i32 == *image);
        let patches = if in_order {
            patches
        } else {
            let index = TensorData::new(image_idx, [regions.len()]);
            patches.select(0, Tensor::<1, Int>::from_data(index, &device))
        };
        Tensor::<3>::from_data(matrix, &device).cast(patches.dtype()).matmul(patches)
    }

    /// [`Self::roi_align`] with one region per image that covers the whole image:
    /// `[batch, n_patches, hidden]` → `[batch, bins, hidden]`.
    pub fn roi_whole(&self, patches: Tensor<3>) -> Tensor<3> {
        let [batch, ..] = patches.dims();
        let side = self.image_size as f32;
        let whole = Region { box_input: [0.0, 0.0, side, side], mask: None };
        self.roi_align(patches, &(0..batch).map(|image| (image, whole.clone())).collect::<Vec<_>>())
    }

    /// Mean over the bins of [`Self::roi_align`], for regions of one image.
    ///
    /// Averages the weights of the bins instead of their features. By linearity the result is the
    /// same, with `bins` times less work.
    ///
    /// # Shapes
    /// - patches: `[1, n_patches, hidden]`
    /// - returns: `[n_regions, hidden]`
    pub fn roi_mean(&self, patches: Tensor<3>, regions: &[Region]) -> Tensor<2> {
        let device = patches.device();
        let [_, n_patches, _] = patches.dims();
        let weights: Vec<f32> =
            regions.iter().flat_map(|region| self.mean_weights(region)).collect();
        let matrix = TensorData::new(weights, [regions.len(), n_patches]);
        Tensor::<2>::from_data(matrix, &device).cast(patches.dtype()).matmul(patches.squeeze_dim(0))
    }

    /// Mean over the rows of [`Self::pooling_matrix`], `[n_patches]`.
    fn mean_weights(&self, region: &Region) -> Vec<f32> {
        let matrix = self.pooling_matrix(region);
        let n_patches = self.grid.pow(2);
        let bins = self.roi_output_size.pow(2) as f32;
        let mut mean = vec![0.0; n_patches];
        for row in matrix.chunks(n_patches) {
            mean.iter_mut().zip(row).for_each(|(mean, weight)| *mean += weight / bins);
        }
        mean
    }

    /// Pooling weights of a region, `[bins, n_patches]` row by row.
    pub fn pooling_matrix(&self, region: &Region) -> Vec<f32> {
        let [x0, y0, x1, y1] = region.box_input;
        let (columns, rows) = (self.axis_weights(x0, x1), self.axis_weights(y0, y1));
        let shares = region.mask.as_ref().map(|mask| self.bin_shares(mask, region.box_input));

        let mut matrix = Vec::with_capacity(self.roi_output_size.pow(2) * self.grid.pow(2));
        for (bin_y, row) in rows.iter().enumerate() {
            for (bin_x, column) in columns.iter().enumerate() {
                let share =
                    shares.as_ref().map_or(1.0, |s| s[bin_y * self.roi_output_size + bin_x]);
                matrix.extend(row.iter().flat_map(|y| column.iter().map(move |x| share * y * x)));
            }
        }
        matrix
    }

    /// Bilinear weights of the bins along one axis.
    ///
    /// The samples of a bin form a grid, so its weights are the product of both axes' weights.
    fn axis_weights(&self, start_px: f32, end_px: f32) -> Vec<Vec<f32>> {
        let scale = self.grid as f32 / self.image_size as f32;
        let start = start_px * scale - 0.5;
        let bin = (end_px * scale - 0.5 - start) / self.roi_output_size as f32;
        let n_samples = self.roi_sampling_ratio;
        let last = self.grid - 1;

        (0..self.roi_output_size)
            .map(|bin_idx| {
                let mut weights = vec![0.0; self.grid];
                for sample in 0..n_samples {
                    let at = start
                        + bin_idx as f32 * bin
                        + (sample as f32 + 0.5) * bin / n_samples as f32;
                    // A sample more than one patch outside counts as zero. A nearer one counts as
                    // the border.
                    if at < -1.0 || at > self.grid as f32 {
                        continue;
                    }
                    let at = at.max(0.0);
                    let low = (at as usize).min(last);
                    let high = (low + 1).min(last);
                    let fraction = if low == last { 0.0 } else { at - low as f32 };
                    weights[low] += (1.0 - fraction) / n_samples as f32;
                    weights[high] += fraction / n_samples as f32;
                }
                weights
            })
            .collect()
    }

    /// Share of each bin that the mask covers, scaled to a mean of 1.
    ///
    /// So the mean over the bins is the mean over the mask. A mask that covers the whole box
    /// changes nothing.
    fn bin_shares(&self, mask: &[f32], box_input: [f32; 4]) -> Vec<f32> {
        let [x0, y0, x1, y1] = box_input;
        let (columns, rows) = (self.axis_overlaps(x0, x1), self.axis_overlaps(y0, y1));
        let share = |row: &[(usize, f32)], column: &[(usize, f32)]| -> f32 {
            row.iter()
                .map(|(y, oy)| {
                    column
                        .iter()
                        .map(|(x, ox)| oy * ox * mask[y * self.image_size + x])
                        .sum::<f32>()
                })
                .sum()
        };
        let shares: Vec<f32> = rows
            .iter()
            .flat_map(|row| columns.iter().map(|column| share(row, column)).collect::<Vec<_>>())
            .collect();
        let mean = shares.iter().sum::<f32>() / shares.len() as f32;
        if mean <= 0.0 {
            return vec![1.0; shares.len()];
        }
        shares.iter().map(|share| share / mean).collect()
    }

    /// The input pixels under each bin along one axis, each with the share of the bin that it
    /// fills.
    fn axis_overlaps(&self, start_px: f32, end_px: f32) -> Vec<Vec<(usize, f32)>> {
        let bin = (end_px - start_px) / self.roi_output_size as f32;
        (0..self.roi_output_size)
            .map(|bin_idx| {
                let (from, to) =
                    (start_px + bin_idx as f32 * bin, start_px + (bin_idx + 1) as f32 * bin);
                (from.max(0.0) as usize..(to.ceil().max(0.0) as usize).min(self.image_size))
                    .map(|pixel| {
                        let overlap = to.min(pixel as f32 + 1.0) - from.max(pixel as f32);
                        (pixel, (overlap / bin).max(0.0))
                    })
                    .collect()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: PoolAggregator =
        PoolAggregator { grid: 4, image_size: 32, roi_output_size: 2, roi_sampling_ratio: 2 };

    fn row_sums(region: &Region) -> Vec<f32> {
        POOL.pooling_matrix(region).chunks(16).map(|row| row.iter().sum()).collect()
    }

    fn close(found: &[f32], wanted: &[f32]) {
        assert_eq!(found.len(), wanted.len());
        for (f, w) in found.iter().zip(wanted) {
            assert!((f - w).abs() < 1e-6, "found {found:?}, wanted {wanted:?}");
        }
    }

    #[test]
    fn the_weights_of_a_bin_inside_the_image_sum_to_one() {
        close(&row_sums(&Region { box_input: [3.0, 5.0, 29.0, 20.0], mask: None }), &[1.0; 4]);
    }

    #[test]
    fn the_whole_image_pools_its_quarters() {
        let matrix = POOL.pooling_matrix(&Region { box_input: [0.0, 0.0, 32.0, 32.0], mask: None });
        // The first bin's samples lie at patch centres 0 and 1, on both axes.
        close(&matrix[..8], &[0.25, 0.25, 0.0, 0.0, 0.25, 0.25, 0.0, 0.0]);
    }

    #[test]
    fn a_box_far_outside_pools_nothing() {
        close(&row_sums(&Region { box_input: [90.0, 90.0, 99.0, 99.0], mask: None }), &[0.0; 4]);
    }

    #[test]
    fn a_mask_of_the_whole_box_is_the_box() {
        let box_input = [4.0, 4.0, 20.0, 28.0];
        let masked = Region { box_input, mask: Some(vec![1.0; 32 * 32]) };
        close(
            &POOL.pooling_matrix(&masked),
            &POOL.pooling_matrix(&Region { box_input, mask: None }),
        );
    }

    #[test]
    fn a_mask_of_the_left_half_leaves_the_right_bins_out() {
        let left = (0..32 * 32).map(|i| if i % 32 < 16 { 1.0 } else { 0.0 }).collect();
        let region = Region { box_input: [0.0, 0.0, 32.0, 32.0], mask: Some(left) };
        close(&row_sums(&region), &[2.0, 0.0, 2.0, 0.0]);
    }
}
