//! Assembles rows of pixels into the visible picture: optionally reduced, and with a background
//! behind transparent pixels.

use image::RgbImage;

use super::ImageError;
use super::decode::DecodeFailure;

/// Background of transparent pixels, unless the visible pixels are white.
const WHITE: u8 = 255;
/// Background of white pixels.
const GREY: u8 = 128;
/// A pixel counts as white if all its channels are at least this.
const LEAST_WHITE: u8 = 224;
/// Images of mostly white pixels get a grey background only if at least 1 / 8 of the picture is
/// transparent. So a screenshot of a white window with round corners stays on white.
const LEAST_TRANSPARENT: u64 = 8;

/// A picture whose rows arrive from top to bottom.
///
/// Stores means of squares of `by` × `by` pixels, so a large image need not be whole in memory.
/// Colours are premultiplied by alpha, because the background is known only after the last row.
#[derive(Debug)]
pub(super) struct Canvas {
    /// Columns of the image before reduction.
    width: usize,
    /// Rows of the image before reduction.
    height: usize,
    by: usize,
    /// Number of rows received.
    rows: usize,
    /// Premultiplied result, `[rows, columns, 3]`.
    pixels: Vec<u8>,
    /// Alpha of the result, `[rows, columns]`; `None` while every pixel is opaque.
    alpha: Option<Vec<u8>>,
    /// Sums over the squares of the current row: `[columns, 4]`.
    sums: Vec<u32>,
    visible: VisibleStats,
}

/// Statistics of the visible pixels, weighted by their alpha.
#[derive(Debug, Default)]
struct VisibleStats {
    sum: u64,
    white: u64,
    /// Sum of `255 - alpha`.
    transparent: u64,
}

/// Length of a side after squares of `by` pixels become one pixel.
pub(super) fn reduced(len: u32, by: u32) -> u32 {
    len.div_ceil(by)
}

impl Canvas {
    /// A canvas for an image of `width` × `height`. Squares of `by` × `by` pixels become one pixel.
    ///
    /// # Errors
    /// If the memory cannot be allocated.
    pub fn new(width: u32, height: u32, by: u32) -> Result<Self, ImageError> {
        let (columns, rows) = (reduced(width, by) as usize, reduced(height, by) as usize);
        let pixels = with_capacity(3 * columns * rows)?;
        let sums = if by > 1 { vec![0; 4 * columns] } else { Vec::new() };
        let (width, height, by) = (width as usize, height as usize, by as usize);
        Ok(Self {
            width,
            height,
            by,
            rows: 0,
            pixels,
            alpha: None,
            sums,
            visible: VisibleStats::default(),
        })
    }

    /// Adds the next row, three bytes per pixel.
    ///
    /// # Panics
    /// If the row has another width, or if there are more rows than `height`.
    pub fn push_rgb(&mut self, row: &[u8]) {
        assert!(row.len() == 3 * self.width && self.rows < self.height, "a row of the image");
        if self.by == 1 {
            self.pixels.extend_from_slice(row);
            if let Some(alpha) = &mut self.alpha {
                alpha.resize(alpha.len() + self.width, 255);
            }
        } else {
            for (sums, square) in self.sums.chunks_exact_mut(4).zip(row.chunks(3 * self.by)) {
                for pixel in square.chunks_exact(3) {
                    (0..3).for_each(|c| sums[c] += u32::from(pixel[c]));
                }
                sums[3] += 255 * (square.len() / 3) as u32;
            }
        }
        self.row_done();
    }

    /// Adds the next row, four bytes per pixel. The colours are not premultiplied.
    ///
    /// # Panics
    /// If the row has another width, or if there are more rows than `height`.
    pub fn push_rgba(&mut self, row: &[u8]) {
        assert!(row.len() == 4 * self.width && self.rows < self.height, "a row of the image");
        self.visible.add(row);
        if self.by == 1 {
            let is_opaque = row.chunks_exact(4).all(|pixel| pixel[3] == 255);
            if !(is_opaque && self.alpha.is_none()) {
                let n_before = self.pixels.len() / 3;
                let alpha = self.alpha.get_or_insert_with(|| vec![255; n_before]);
                alpha.extend(row.chunks_exact(4).map(|pixel| pixel[3]));
            }
            let pixels = row.as_chunks::<4>().0.iter();
            self.pixels.extend(pixels.flat_map(|&[r, g, b, a]| [r, g, b].map(|c| times(c, a))));
        } else {
            for (sums, square) in self.sums.chunks_exact_mut(4).zip(row.chunks(4 * self.by)) {
                for &[r, g, b, a] in square.as_chunks::<4>().0 {
                    [r, g, b]
                        .iter()
                        .zip(&mut *sums)
                        .for_each(|(c, sum)| *sum += u32::from(times(*c, a)));
                    sums[3] += u32::from(a);
                }
            }
        }
        self.row_done();
    }

    /// Fills the missing rows with grey.
    pub fn fill_up(&mut self) {
        let row = vec![GREY; 3 * self.width];
        while self.rows < self.height {
            self.push_rgb(&row);
        }
    }

    /// Number of rows received.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn row_done(&mut self) {
        self.rows += 1;
        if self.by == 1 || !(self.rows.is_multiple_of(self.by) || self.rows == self.height) {
            return;
        }
        let n_rows = (self.rows - 1) % self.by + 1;
        let n_before = self.pixels.len() / 3;
        for (column, sums) in self.sums.chunks_exact_mut(4).enumerate() {
            let n_columns = self.by.min(self.width - column * self.by);
            let n = (n_rows * n_columns) as u32;
            let mean = |sum: u32| ((sum + n / 2) / n) as u8;
            self.pixels.extend([mean(sums[0]), mean(sums[1]), mean(sums[2])]);
            let alpha = mean(sums[3]);
            if alpha < 255 || self.alpha.is_some() {
                self.alpha.get_or_insert_with(|| vec![255; n_before + column]).push(alpha);
            }
            sums.fill(0);
        }
    }

    /// Returns the picture on its background.
    ///
    /// # Errors
    /// If rows are missing.
    pub fn finish(self) -> Result<RgbImage, DecodeFailure> {
        if self.rows < self.height {
            return Err(DecodeFailure::Corrupt("fewer pixels than announced".into()));
        }
        let mut pixels = self.pixels;
        if let Some(alpha) = &self.alpha {
            let background = self.visible.background();
            for (pixel, &alpha) in pixels.chunks_exact_mut(3).zip(alpha) {
                // Both products are rounded, so the sum may be 256.
                pixel
                    .iter_mut()
                    .for_each(|c| *c = c.saturating_add(times(background, 255 - alpha)));
            }
        }
        let size = |len: usize| len.div_ceil(self.by) as u32;
        let image = RgbImage::from_raw(size(self.width), size(self.height), pixels);
        Ok(image.expect("every row has its pixels"))
    }
}

impl VisibleStats {
    fn add(&mut self, row: &[u8]) {
        for &[r, g, b, a] in row.as_chunks::<4>().0 {
            self.sum += u64::from(a);
            self.white += if r.min(g).min(b) >= LEAST_WHITE { u64::from(a) } else { 0 };
            self.transparent += u64::from(255 - a);
        }
    }

    /// Chooses the background: white as in viewers and printers, grey if mostly white pixels would
    /// be invisible.
    fn background(&self) -> u8 {
        let is_white = 2 * self.white > self.sum;
        let is_cut_out = LEAST_TRANSPARENT * self.transparent >= self.sum + self.transparent;
        if is_white && is_cut_out { GREY } else { WHITE }
    }
}

/// `a * b / 255`, rounded.
fn times(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    ((product + (product >> 8)) >> 8) as u8
}

/// Allocates an empty vector with room for `len` bytes.
///
/// # Errors
/// If the memory cannot be allocated. A file's header decides `len`, so a failure must not end the
/// program.
pub(super) fn with_capacity(len: usize) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| ImageError::NoMemory { bytes: len as u64 })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(width: u32, height: u32, by: u32, pixel: impl Fn(u32, u32) -> [u8; 4]) -> RgbImage {
        let mut canvas = Canvas::new(width, height, by).expect("little memory");
        for y in 0..height {
            canvas.push_rgba(&(0..width).flat_map(|x| pixel(x, y)).collect::<Vec<u8>>());
        }
        canvas.finish().unwrap_or_else(|_| panic!("every row is there"))
    }

    #[test]
    fn squares_become_their_means_at_the_edges_too() {
        let image = drawn(5, 3, 2, |x, y| [(10 * x) as u8, (10 * y) as u8, 7, 255]);
        assert_eq!(image.dimensions(), (3, 2));
        let wanted = [[5, 5, 7], [25, 5, 7], [40, 5, 7], [5, 20, 7], [25, 20, 7], [40, 20, 7]];
        assert_eq!(image.as_raw(), &wanted.concat());
    }

    #[test]
    fn rows_with_and_without_alpha_may_follow_each_other() {
        for by in [1, 2] {
            let mut canvas = Canvas::new(2, 2 * by, by).expect("little memory");
            (0..by).for_each(|_| canvas.push_rgb(&[10; 6]));
            (0..by).for_each(|_| canvas.push_rgba(&[0, 0, 0, 0, 0, 0, 0, 0]));
            let image = canvas.finish().unwrap_or_else(|_| panic!("every row is there"));
            let row = 3 * (2 / by) as usize;
            assert_eq!(image.as_raw()[..row], vec![10; row]);
            assert_eq!(image.as_raw()[row..], vec![255; row]);
        }
    }

    #[test]
    fn transparent_pixels_weigh_nothing_in_a_mean() {
        // Half of the square is black. The other half is transparent, so its colour does not count.
        let image = drawn(2, 2, 2, |x, _| if x == 0 { [0, 0, 0, 255] } else { [0, 255, 0, 0] });
        assert_eq!(image.as_raw(), &[127; 3]);
    }

    // Draws `color` where `is_visible` is true, else transparent pixels. Returns the background.
    fn background(color: [u8; 3], is_visible: impl Fn(u32) -> bool) -> [u8; 3] {
        let [r, g, b] = color;
        let image =
            drawn(32, 32, 1, |x, y| if is_visible(32 * y + x) { [r, g, b, 255] } else { [0; 4] });
        let at = (0..1024).find(|place| !is_visible(*place)).expect("a hole");
        image.get_pixel(at % 32, at / 32).0
    }

    #[test]
    fn mostly_white_pixels_get_a_grey_background() {
        let third = |place: u32| place.is_multiple_of(3);
        assert_eq!(background([255; 3], third), [128; 3]);
        assert_eq!(background([230, 240, 250], third), [128; 3]);
        assert_eq!(background([0; 3], third), [255; 3]);
        assert_eq!(background([255, 255, 0], third), [255; 3]);
    }

    #[test]
    fn a_white_page_with_round_corners_stays_on_white() {
        assert_eq!(background([255; 3], |place| place > 40), [255; 3]);
    }

    #[test]
    fn an_empty_picture_is_white() {
        assert_eq!(drawn(3, 1, 1, |_, _| [0; 4]).as_raw(), &[255; 9]);
    }
}
