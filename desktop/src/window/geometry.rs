//! Layout on the screen: the cells of the grid, and a photo in its frame.

use std::ops::Range;

use mmgem_core::image::BoxPx;

/// Gap between cells and around them, in points.
const GAP: f32 = 10.0;
/// Height of the line below a thumbnail, in points.
pub const LINE: f32 = 20.0;

/// The cells of a grid. All have the same size, so 100,000 cells cost no more than the visible
/// ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    pub n_cells: usize,
    pub n_columns: usize,
    /// Width of a cell, and height of its picture, in points.
    pub side: f32,
}

impl Grid {
    /// Fills `width` with as many columns of cells of at least `least_side` points as fit.
    pub fn new(n_cells: usize, width: f32, least_side: f32) -> Self {
        let n_columns = (((width - GAP) / (least_side + GAP)) as usize).max(1);
        let side = ((width - GAP) / n_columns as f32 - GAP).floor().max(16.0);
        Self { n_cells, n_columns, side }
    }

    fn row_height(&self) -> f64 {
        f64::from(self.side + LINE + GAP)
    }

    pub fn n_rows(&self) -> usize {
        self.n_cells.div_ceil(self.n_columns)
    }

    /// Height of all rows, in points.
    pub fn height(&self) -> f64 {
        self.n_rows() as f64 * self.row_height() + f64::from(GAP)
    }

    /// Cells that are at least partly visible when the grid is scrolled down by `top` points.
    pub fn visible(&self, top: f64, height: f64) -> Range<usize> {
        let first = ((top - f64::from(GAP)).max(0.0) / self.row_height()) as usize;
        let last = (((top + height).max(0.0) / self.row_height()) as usize + 1).min(self.n_rows());
        (first * self.n_columns).min(self.n_cells)..(last * self.n_columns).min(self.n_cells)
    }

    /// Left and top edge of a cell, relative to the top left of the visible part.
    pub fn place(&self, cell: usize, top: f64) -> [f32; 2] {
        let (row, column) = (cell / self.n_columns, cell % self.n_columns);
        // In f64, because f32 cannot resolve half points far down the grid.
        let y = f64::from(GAP) + row as f64 * self.row_height() - top;
        [GAP + column as f32 * (self.side + GAP), y as f32]
    }

    /// The scroll position that makes a cell fully visible; `top` if it is visible already.
    pub fn scrolled_to(&self, cell: usize, top: f64, height: f64) -> f64 {
        let start = (cell / self.n_columns) as f64 * self.row_height();
        let end = start + self.row_height() + f64::from(GAP);
        if start < top || height < self.row_height() {
            start
        } else if end > top + height {
            end - height
        } else {
            top
        }
    }

    /// The cell that a step from `from` leads to.
    pub fn step(&self, from: usize, step: Step, page_height: f64) -> usize {
        let last = self.n_cells.saturating_sub(1);
        let page = ((page_height / self.row_height()) as usize).max(1) * self.n_columns;
        match step {
            Step::Left => from.saturating_sub(1),
            Step::Right => (from + 1).min(last),
            Step::Up => from.checked_sub(self.n_columns).unwrap_or(from),
            // From the second-last row, moves to the last cell if no cell is straight below.
            Step::Down if from / self.n_columns + 1 < self.n_rows() => {
                (from + self.n_columns).min(last)
            }
            Step::Down => from,
            Step::PageUp => from.saturating_sub(page).max(from % self.n_columns).min(last),
            Step::PageDown => (from + page).min(last),
            Step::First => 0,
            Step::Last => last,
        }
    }
}

/// A move of the selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Left,
    Right,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
}

/// The place of a photo on the screen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// Top left corner on the screen, in points.
    pub left_top: [f32; 2],
    /// Size on the screen, in points.
    pub size: [f32; 2],
    /// Size of the photo, in pixels.
    size_px: [f32; 2],
}

impl Fit {
    /// Centres a photo of `size_px` pixels in `[x, y, width, height]`, as large as it fits,
    /// enlarged at most `most` times.
    pub fn new(size_px: [u32; 2], [x, y, width, height]: [f32; 4], most: f32) -> Self {
        let size_px = size_px.map(|side| side.max(1) as f32);
        let scale = (width / size_px[0]).min(height / size_px[1]).clamp(0.0, most);
        let size = size_px.map(|side| side * scale);
        let left_top = [x + (width - size[0]) / 2.0, y + (height - size[1]) / 2.0];
        Self { left_top, size, size_px }
    }

    /// A box of the photo on the screen: `[x0, y0, x1, y1]` in points.
    pub fn on_screen(&self, box_px: BoxPx) -> [f32; 4] {
        let at =
            |i: usize| self.left_top[i % 2] + box_px[i] / self.size_px[i % 2] * self.size[i % 2];
        [at(0), at(1), at(2), at(3)]
    }

    /// The whole pixel of the photo at a point of the screen; `None` outside the photo.
    pub fn point_px(&self, at: [f32; 2]) -> Option<[f32; 2]> {
        let share = [0, 1].map(|i| (at[i] - self.left_top[i]) / self.size[i].max(1e-6));
        let is_on = share.iter().all(|share| (0.0..=1.0).contains(share));
        is_on.then(|| [0, 1].map(|i| (share[i] * self.size_px[i]).round()))
    }

    /// Converts a length on the screen from points to pixels of the photo.
    pub fn px(&self, points: f32) -> f32 {
        points * self.size_px[0] / self.size[0].max(1e-6)
    }

    /// The box dragged between two points of the screen, in whole pixels and clipped to the photo;
    /// `None` if it is too small.
    pub fn dragged(&self, from: [f32; 2], to: [f32; 2]) -> Option<BoxPx> {
        const LEAST_POINTS: f32 = 6.0;
        let edge = |i: usize, point: f32| {
            let share = (point - self.left_top[i]) / self.size[i].max(1e-6);
            (share.clamp(0.0, 1.0) * self.size_px[i]).round()
        };
        let enough = (0..2).all(|i| (from[i] - to[i]).abs() >= LEAST_POINTS);
        let (x, y) = ([edge(0, from[0]), edge(0, to[0])], [edge(1, from[1]), edge(1, to[1])]);
        let box_px = [x[0].min(x[1]), y[0].min(y[1]), x[0].max(x[1]), y[0].max(y[1])];
        (enough && box_px[2] > box_px[0] && box_px[3] > box_px[1]).then_some(box_px)
    }
}

/// Maximum zoom into a photo.
const MOST_ZOOM: f32 = 16.0;

/// Zoom of a photo beyond its fit into a room, `[x, y, width, height]` in points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Zoom {
    /// At least 1, which shows the whole photo.
    times: f32,
    /// The point of the photo in the middle of the room, as shares of the photo's sides.
    middle: [f32; 2],
}

impl Default for Zoom {
    fn default() -> Self {
        Self { times: 1.0, middle: [0.5; 2] }
    }
}

impl Zoom {
    /// The zoomed place of the photo, given its place without zoom.
    pub fn seen(&self, whole: &Fit, room: [f32; 4]) -> Fit {
        let size = whole.size.map(|side| side * self.times);
        let left_top = [0, 1].map(|i| room[i] + room[i + 2] / 2.0 - self.middle[i] * size[i]);
        Fit { left_top, size, ..*whole }
    }

    /// Zooms by `factor` more; the point of the photo at `at` on the screen stays there.
    pub fn enlarged(&self, factor: f32, at: [f32; 2], whole: &Fit, room: [f32; 4]) -> Self {
        let seen = self.seen(whole, room);
        let times = (self.times * factor).clamp(1.0, MOST_ZOOM);
        let middle = [0, 1].map(|i| {
            let share = (at[i] - seen.left_top[i]) / seen.size[i].max(1e-6);
            share + (room[i] + room[i + 2] / 2.0 - at[i]) / (whole.size[i] * times).max(1e-6)
        });
        Self { times, middle }.inside(whole, room)
    }

    /// Pans by some points of the screen.
    pub fn pulled(&self, by: [f32; 2], whole: &Fit, room: [f32; 4]) -> Self {
        let middle =
            [0, 1].map(|i| self.middle[i] - by[i] / (whole.size[i] * self.times).max(1e-6));
        Self { middle, ..*self }.inside(whole, room)
    }

    /// Keeps the photo's edges outside the room where it is larger than the room, and centres it
    /// elsewhere.
    fn inside(self, whole: &Fit, room: [f32; 4]) -> Self {
        let middle = [0, 1].map(|i| {
            let half = room[i + 2] / (2.0 * whole.size[i] * self.times).max(1e-6);
            if half >= 0.5 { 0.5 } else { self.middle[i].clamp(half, 1.0 - half) }
        });
        Self { middle, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fill_the_width() {
        let grid = Grid::new(100, 1000.0, 150.0);
        assert_eq!((grid.n_columns, grid.side, grid.n_rows()), (6, 155.0, 17));
        assert_eq!(Grid::new(5, 40.0, 150.0).n_columns, 1);
    }

    #[test]
    fn only_rows_that_are_seen_are_visible_wherever_one_is() {
        let grid = Grid::new(100_000, 1000.0, 150.0);
        let row = grid.row_height();
        assert_eq!(grid.visible(0.0, 3.0 * row), 0..24);
        let middle = 8_000.0 * row + 15.0;
        let seen = grid.visible(middle, 3.0 * row);
        assert_eq!(seen, 8_000 * 6..8_004 * 6);
        let [_, y] = grid.place(seen.start, middle);
        assert_eq!(y, GAP - 15.0, "to the point, also far down");
        assert_eq!(grid.visible(grid.height() - 2.0 * row, 2.0 * row).end, 100_000);
        assert_eq!(Grid::new(0, 1000.0, 150.0).visible(0.0, 500.0), 0..0);
    }

    #[test]
    fn scrolling_shows_a_cell_and_does_nothing_when_it_is_seen() {
        let grid = Grid::new(1000, 1000.0, 150.0);
        let row = grid.row_height();
        assert_eq!(grid.scrolled_to(0, 0.0, 3.0 * row), 0.0);
        assert_eq!(grid.scrolled_to(12, row, 3.0 * row), row);
        assert_eq!(grid.scrolled_to(6, 5.0 * row, 3.0 * row), row);
        let top = grid.scrolled_to(60, 0.0, 3.0 * row);
        assert_eq!(top, 8.0 * row + f64::from(GAP));
        assert!(grid.visible(top, 3.0 * row).contains(&60));
    }

    #[test]
    fn steps_stay_in_the_grid() {
        let grid = Grid::new(20, 1000.0, 150.0);
        let check = |from, step, to| {
            assert_eq!(grid.step(from, step, 2.0 * grid.row_height()), to, "{step:?}")
        };
        check(0, Step::Left, 0);
        check(19, Step::Right, 19);
        check(3, Step::Up, 3);
        check(7, Step::Up, 1);
        check(7, Step::Down, 13);
        check(17, Step::Down, 19);
        check(19, Step::Down, 19);
        check(1, Step::PageDown, 13);
        check(13, Step::PageUp, 1);
        check(5, Step::Last, 19);
        check(5, Step::First, 0);
        assert_eq!(Grid::new(0, 1000.0, 150.0).step(0, Step::Down, 100.0), 0);
    }

    #[test]
    fn a_photo_fits_whole_and_boxes_go_there_and_back() {
        let fit = Fit::new([400, 200], [100.0, 50.0, 200.0, 200.0], 8.0);
        assert_eq!((fit.left_top, fit.size), ([100.0, 100.0], [200.0, 100.0]));
        let box_px = [40.0, 20.0, 200.0, 180.0];
        let [x0, y0, x1, y1] = fit.on_screen(box_px);
        assert_eq!([x0, y0, x1, y1], [120.0, 110.0, 200.0, 190.0]);
        assert_eq!(fit.dragged([x1, y0], [x0, y1]), Some(box_px), "from any corner");
        assert_eq!(fit.dragged([0.0, 0.0], [999.0, 150.0]), Some([0.0, 0.0, 400.0, 100.0]));
        assert_eq!(fit.dragged([120.0, 120.0], [123.0, 180.0]), None);
        assert_eq!(fit.point_px([x1, y0]), Some([box_px[2], box_px[1]]));
        assert_eq!((fit.point_px([99.0, 120.0]), fit.px(6.0)), (None, 12.0));
        assert_eq!(fit.dragged([0.0, 0.0], [90.0, 90.0]), None, "beside the photo");
        assert_eq!(Fit::new([10, 10], [0.0, 0.0, 500.0, 500.0], 4.0).size, [40.0, 40.0]);
    }

    #[test]
    fn what_is_under_the_pointer_stays_there_while_one_zooms() {
        let room = [100.0, 50.0, 200.0, 200.0];
        let whole = Fit::new([400, 200], room, 8.0);
        assert_eq!(Zoom::default().seen(&whole, room), whole);
        let (pointer, box_px) = ([120.0, 160.0], [10.0, 0.0, 40.0, 120.0]);
        assert_eq!(whole.on_screen(box_px)[2..], pointer);
        let zoom = Zoom::default().enlarged(4.0, pointer, &whole, room);
        let seen = zoom.seen(&whole, room);
        assert_eq!((seen.size, seen.left_top[0] <= 100.0), ([800.0, 400.0], true));
        let corner = seen.on_screen(box_px);
        assert!(
            (corner[2] - pointer[0]).abs() < 1e-3 && (corner[3] - pointer[1]).abs() < 1e-3,
            "{corner:?}"
        );
        assert_eq!(zoom.enlarged(0.01, pointer, &whole, room), Zoom::default(), "all of it again");
        assert_eq!(
            zoom.enlarged(999.0, pointer, &whole, room).seen(&whole, room).size,
            [3200.0, 1600.0]
        );
    }

    #[test]
    fn a_photo_is_pulled_to_its_edges_and_no_further() {
        let room = [0.0, 0.0, 200.0, 200.0];
        let whole = Fit::new([400, 200], room, 8.0);
        let zoom = Zoom::default().enlarged(3.0, [100.0, 100.0], &whole, room);
        let left_top = |by| zoom.pulled(by, &whole, room).seen(&whole, room).left_top;
        let [x, y] = left_top([9999.0, 9999.0]);
        assert!(x.abs() < 1e-3 && y.abs() < 1e-3, "{x} {y}");
        let [x, y] = left_top([-9999.0, 0.0]);
        assert!((x + 400.0).abs() < 1e-3 && (y + 50.0).abs() < 1e-3, "{x} {y}");
        let little = Zoom::default().enlarged(1.5, [100.0, 100.0], &whole, room);
        assert_eq!(little.pulled([0.0, 30.0], &whole, room), little, "its height fits still");
    }
}
